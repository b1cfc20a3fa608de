"""Fits on disk: the same numbers back, nothing lost, nothing executed."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from conftest import ROOT, simulated

import pm_gplvm as gplvm
from pm_gplvm.data import files
from pm_gplvm.data.fit import Fit


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_fit_comes_back_as_it_was(best, theta, tmp_path, ending):
    for name, fit in {"best": best, "theta": theta}.items():
        again = gplvm.load(gplvm.save(fit, tmp_path / f"{name}{ending}"))
        assert set(again.children) == set(fit.children)
        for group in fit.children:
            xr.testing.assert_identical(
                again[group].to_dataset().drop_attrs(), fit[group].to_dataset().drop_attrs()
            )
        assert {k: str(v) for k, v in again.attrs.items()} == {
            k: str(v) for k, v in fit.attrs.items()
        }


def test_everything_goes_on_from_a_loaded_fit(model, best, tmp_path):
    again = gplvm.load(gplvm.save(best, tmp_path / "best.nc"))
    X_new = np.array([[0.1, -0.2], [0.0, 0.3]])
    xr.testing.assert_equal(gplvm.predict(again, X_new), gplvm.predict(best, X_new))
    further = gplvm.fit_map(model, start=again, progressbar=False)
    assert further.sample_stats["lp"] >= best.sample_stats["lp"] - 1e-6
    one, two = (
        gplvm.sample_theta(
            model, fit, draws=1000, tune=500, chains=2, random_seed=6, progressbar=False
        )
        for fit in (best, again)
    )
    np.testing.assert_array_equal(one.posterior["sigma"], two.posterior["sigma"])
    assert gplvm.plot.latent(again, color="label").get_xlabel() == "latent 0"


def test_nothing_is_overwritten_unless_asked(best, tmp_path):
    path = gplvm.save(
        best.map_over_datasets(lambda d: d + 1 if "sigma" in d else d), tmp_path / "fit.nc"
    )
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="Pass overwrite=True or choose another name"):
        gplvm.save(best, path)
    assert path.read_bytes() == before
    gplvm.save(best, path, overwrite=True)
    np.testing.assert_array_equal(gplvm.load(path).posterior["sigma"], best.posterior["sigma"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.nc"]


def foreign_text(path, best):
    path.write_text("mine")


def foreign_netcdf(path, best):
    best.to_netcdf(path, engine="h5netcdf")


def foreign_folder(path, best):
    (path / "raw").mkdir(parents=True)
    (path / "raw" / "counts.csv").write_text("mine")


def a_file_put_into_a_fit(path, best):
    gplvm.save(best, path)
    (path / "raw").mkdir()
    (path / "raw" / "counts.csv").write_text("mine")


def foreign_zarr(path, best):
    best.to_zarr(path, zarr_format=2, consolidated=True)


def pipe(path, best):
    os.mkfifo(path)


def folder(path, best):
    path.mkdir()


@pytest.mark.parametrize(
    ("ending", "make"),
    [
        (".nc", foreign_text),
        (".nc", foreign_netcdf),
        (".nc", pipe),
        (".nc", folder),
        (".zarr", foreign_text),
        (".zarr", foreign_folder),
        (".zarr", a_file_put_into_a_fit),
        (".zarr", foreign_zarr),
        (".zarr", pipe),
    ],
)
def test_only_a_fit_is_replaced(best, tmp_path, ending, make):
    path = tmp_path / f"results{ending}"
    make(path, best)

    def found():
        return {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}

    before = found()
    with pytest.raises(FileExistsError, match=r"no fit that save wrote.*Move or remove it"):
        gplvm.save(best, path, overwrite=True)
    assert found() == before


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_an_empty_place_is_taken(best, tmp_path, ending):
    path = tmp_path / f"fit{ending}"
    path.touch() if ending == ".nc" else path.mkdir()
    gplvm.save(best, path, overwrite=True)
    assert gplvm.load(path).attrs["method"] == "map"


def test_a_failed_write_leaves_the_old_file(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.nc")
    before = path.read_bytes()
    unwritable = best.copy()
    unwritable["posterior"] = best["posterior"].to_dataset().assign(W=("w", [1j]))
    with pytest.raises(
        ValueError, match=r"'W' of the fit's /posterior must be numbers, dates, or text"
    ):
        gplvm.save(unwritable, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fit.nc"]


def test_places_that_cannot_be_written_are_refused(best, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Make it first"):
        gplvm.save(best, tmp_path / "no" / "fit.nc")
    for name in ("fit.pkl", "best.png", "fit"):
        with pytest.raises(ValueError, match=rf"path must end in \.nc or \.zarr, got '{name}'"):
            gplvm.save(best, tmp_path / name)
    with pytest.raises(TypeError, match="save needs a fit"):
        gplvm.save({"a": 1}, tmp_path / "fit.nc")


@pytest.mark.parametrize("path", [None, 3, ["fit.nc"], b"fit.nc"], ids=str)
def test_what_is_no_path_is_refused_by_name(best, model, path):
    kind = type(path).__name__
    calls = [
        ("path", lambda: gplvm.load(path)),
        ("path", lambda: gplvm.save(best, path)),
        ("path", lambda: gplvm.data.load_table(path)),
    ]
    if path is not None:
        calls.append(("store", lambda: gplvm.sample(model, store=path, progressbar=False)))
    for name, call in calls:
        with pytest.raises(TypeError, match=rf"{name} must be a path or its text, got {kind}"):
            call()


def test_the_store_is_checked_before_anything_is_drawn(model, tmp_path):
    with pytest.raises(ValueError, match=r"store must end in \.nc or \.zarr, got 'x\.png'"):
        gplvm.sample(model, draws=10**6, store=tmp_path / "x.png", progressbar=False)
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(FileExistsError, match=r"x\.zarr exists"):
        gplvm.sample(model, draws=10**6, store=tmp_path / "x.zarr", progressbar=False)


IN_CHUNKS = {"n_inducing": 5, "chunk_rows": 10, "progressbar": False}
WRITERS = {
    "embed out": (
        lambda fit, Y, path: gplvm.embed(fit, Y, out=path, random_seed=1, progressbar=False),
        "new.zarr",
    ),
    "fit_variational out": (
        lambda fit, Y, path: gplvm.fit_variational(Y, 2, out=path, max_iter=5, **IN_CHUNKS),
        "new.zarr",
    ),
    "fit_sparse store": (
        lambda fit, Y, path: gplvm.fit_sparse(Y, 2, store=path, max_iter=5, **IN_CHUNKS),
        "state",
    ),
    "fit_svi store": (
        lambda fit, Y, path: gplvm.fit_svi(Y, 2, store=path, epochs=2, **IN_CHUNKS),
        "state",
    ),
    "sample store": (
        lambda fit, Y, path: gplvm.sample(
            gplvm.build_model(Y), store=path, draws=2, tune=2, chains=1, progressbar=False
        ),
        "draws.nc",
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_one_run_at_a_time_writes(name, best, tmp_path):
    write, at = WRITERS[name]
    path, Y = tmp_path / at, np.asarray(gplvm.data.load_digits(n=20))
    folder = path.suffix == ""
    if folder:
        path.mkdir()
    argument = name.split()[1]
    with files.written_alone(argument, path):
        before = sorted(tmp_path.rglob("*"))
        said = "new or an empty" if folder else "written by one run at a time"
        with pytest.raises(FileExistsError, match=f"{argument} must be .*{said}"):
            write(best, Y, path)
        assert sorted(tmp_path.rglob("*")) == before
    write(best, Y, path)
    assert not [left for left in tmp_path.rglob("*") if left.name.endswith((".lock", ".part"))]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_run_at_a_time_goes_on_from_a_folder(tmp_path):
    Y, state = simulated(30, 4), tmp_path / "state"
    gplvm.fit_sparse(Y, 2, store=state, max_iter=3, **IN_CHUNKS)
    with files.written_alone("store", state), pytest.raises(FileExistsError, match="start must be"):
        gplvm.fit_sparse(Y, 2, start=state, max_iter=3, **IN_CHUNKS)
    gplvm.fit_sparse(Y, 2, start=state, max_iter=3, **IN_CHUNKS)


def test_what_a_run_that_was_killed_was_writing_is_free(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from pm_gplvm.data.files import written_alone\n"
        "with written_alone('out', Path(sys.argv[1])): print('holds it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new.zarr")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "holds it\n"
        with pytest.raises(FileExistsError, match="one run at a time"):
            files.written_alone("out", tmp_path / "new.zarr").__enter__()
        run.kill()
    assert [left.name for left in tmp_path.iterdir()] == [".new.zarr.lock"]
    with files.written_alone("out", tmp_path / "new.zarr"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_any_more_ends_no_run(best, tmp_path):
    path = tmp_path / "fit.nc"
    path.write_text("mine")
    with pytest.warns(
        RuntimeWarning, match=r"could not be written to store .*no fit that save wrote"
    ):
        files.checkpoint(best, path, caller="sample")
    assert path.read_text() == "mine"


# Killed, and together with others


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed as POSIX does it")
@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_killed_before_any_step_of_a_save_the_fit_is_the_old_or_the_new(ending):
    command = [sys.executable, ROOT / "scripts" / "kill-saves", "-n", "1", ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    least = {".nc": 8, ".zarr": 12}[ending]
    steps = int(done.stdout.partition("lost; ")[2].partition(" before a step")[0])
    assert steps >= least
    assert f"{steps} before a step: 0 lost" in done.stdout
    assert "0 after a load" in done.stdout


def scratch_of(folder, machine, process):
    made = folder / f".pm_gplvm-{machine}-{process}-abcd1234"
    (made / "new").mkdir(parents=True)
    (made / "old").mkdir()
    return made


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_only_what_the_dead_have_left_is_removed(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.nc")
    here = files._machine()
    dead = scratch_of(tmp_path, here, dead_process())
    kept = {
        scratch_of(tmp_path, here, os.getpid()),
        scratch_of(tmp_path, "0123456789ab", 1),
        tmp_path / ".pm_gplvm-notes",
        tmp_path / ".fit-abcd1234",
    }
    of_old = scratch_of(tmp_path, "ba9876543210", 1)
    os.utime(of_old, (0, 0))
    for each in kept:
        each.mkdir(exist_ok=True)
    gplvm.load(path)
    assert not dead.exists()
    assert not of_old.exists()
    assert {*tmp_path.iterdir()} == {*kept, path}


@pytest.mark.parametrize("come", ["load", "save", "save another"])
def test_a_fit_set_aside_by_a_killed_save_comes_back(best, theta, tmp_path, come):
    scratch = scratch_of(tmp_path, files._machine(), dead_process())
    gplvm.save(best, scratch / "old" / "fit.zarr")
    gplvm.save(theta, scratch / "new" / "fit.zarr")
    path = tmp_path / "fit.zarr"
    if come == "save":
        with pytest.raises(FileExistsError):
            gplvm.save(theta, path)
    elif come == "save another":
        gplvm.save(theta, tmp_path / "other.zarr")
        assert path.exists()
    assert gplvm.load(path).attrs["method"] == "map"
    assert not scratch.exists()


def test_two_that_save_and_one_that_loads(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.zarr")
    failed = []

    def go_on():
        try:
            for _ in range(6):
                gplvm.save(best, path, overwrite=True)
        except Exception as error:
            failed.append(error)

    savers = [threading.Thread(target=go_on) for _ in range(2)]
    for saver in savers:
        saver.start()
    while any(saver.is_alive() for saver in savers):
        xr.testing.assert_equal(gplvm.load(path)["posterior"]["X"], best["posterior"]["X"])
    assert failed == []
    assert [p.name for p in tmp_path.iterdir()] == ["fit.zarr"]


def test_a_folder_that_stood_in_the_way_and_is_gone_is_no_reason_to_give_up(
    best, tmp_path, monkeypatch
):
    path = tmp_path / "fit.zarr"
    rename, overtaken = os.rename, []

    def overtaking(source, target):
        if Path(target) == path and not overtaken:
            overtaken.append(True)  # the other process had it there, and has just set it aside
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", overtaking)
    gplvm.save(best, path, overwrite=True)
    assert overtaken
    assert [p.name for p in tmp_path.iterdir()] == ["fit.zarr"]


# Attributes


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
@pytest.mark.parametrize("where", ["fit", "group", "variable"])
def test_attributes_come_back_as_they_were(best, tmp_path, ending, where):
    attrs = {
        "one": ["CD4"],
        "two": ["CD4", "CD8"],
        "none": [],
        "nothing": None,
        "yes": True,
        "about": {"a": [1, {"b": None}]},
        "large": 2**70,
        "empty": "",
        "nul": "a\0b",
        "surrogate": "\ud800",
        "like ours": 'json: "x"',
        "number": 1.5,
        "count": np.int64(3),
        "array": np.array([1.0]),
        "pair": (1, 2),
    }
    fit = best.copy(deep=True)
    of = {"fit": fit, "group": fit["posterior"], "variable": fit["posterior"]["X"]}[where]
    of.attrs = {**of.attrs, **attrs}
    again = gplvm.load(gplvm.save(fit, tmp_path / f"fit{ending}"))
    found = {"fit": again, "group": again["posterior"], "variable": again["posterior"]["X"]}[where]
    expected = {**attrs, "array": [1.0], "pair": [1, 2], "count": 3}
    assert {name: found.attrs[name] for name in attrs} == expected
    assert found.attrs["yes"] is True
    assert of.attrs["one"] == ["CD4"]  # the given fit has not changed


@pytest.mark.parametrize(
    "value", [object(), {1: "a"}, b"bytes", 1j, {1, 2}, [object()]], ids=lambda v: type(v).__name__
)
def test_an_attribute_that_no_file_holds_is_named(best, tmp_path, value):
    fit = best.copy(deep=True)
    fit["posterior"]["X"].attrs["odd"] = value
    with pytest.raises(
        TypeError, match=r"attrs\['odd'\] of the fit's /posterior's X must be a number"
    ):
        gplvm.save(fit, tmp_path / "fit.nc")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["a" * 300, "a/b", "", "a\0b", "\ud800"], ids=ascii)
def test_a_name_that_no_file_holds_is_shown(best, tmp_path, name):
    fit = best.copy(deep=True)
    fit.attrs[name] = 1
    with pytest.raises(
        ValueError, match="Names in attrs of the fit must be text of at most 200 bytes"
    ):
        gplvm.save(fit, tmp_path / "fit.zarr")


# What will be written is checked before the work


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["a", 1, None, 2.5, np.nan], ["a", "1", "", "2.5", ""]),
        ([True, False, True, None, True], ["True", "False", "True", "", "True"]),
        (np.array([b"a", b"b", b"c", b"d", b"e"]), list("abcde")),
        (np.arange(5, dtype=np.longdouble), [0.0, 1.0, 2.0, 3.0, 4.0]),
        (np.array([2**63] * 5, np.uint64), [2**63] * 5),
        (np.array([True, False, True, True, False]), [True, False, True, True, False]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_labels_of_every_kind_are_written(rng, tmp_path, ending, given, kept):
    labels = given if isinstance(given, np.ndarray) else np.array(given, dtype=object)
    Y = xr.DataArray(
        rng.standard_normal((5, 3)), dims=("obs", "feature"), coords={"label": ("obs", labels)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # stopped early
        best = gplvm.fit_map(gplvm.build_model(Y), max_iter=1, progressbar=False)
    again = gplvm.load(gplvm.save(best, tmp_path / f"fit{ending}"))
    assert again["observed_data"]["label"].to_numpy().tolist() == kept


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("label", ["a\0b", "b", "c"], r"text without NUL and surrogates.*at 0"),
        ("label", ["a", "\ud800", "c"], r"text without NUL and surrogates.*at 1"),
        ("a/b", ["a", "b", "c"], "Names in Y must be text .* got 'a/b'"),
        ("a" * 300, ["a", "b", "c"], r"Names in Y must be text .* \(300 letters\)"),
    ],
    ids=["NUL", "surrogate", "slash", "long"],
)
def test_labels_that_no_file_holds_are_refused_at_the_beginning(rng, name, labels, said):
    coords = {name: ("obs", np.array(labels))}
    Y = xr.DataArray(rng.standard_normal((3, 3)), dims=("obs", "feature"), coords=coords)
    with pytest.raises(ValueError, match=said):
        gplvm.build_model(Y)


def test_names_of_another_model_are_checked_when_it_is_read(Y):
    model = gplvm.build_model(Y)
    with model:
        pm.HalfNormal("m" * 300, 1.0)
    with pytest.raises(ValueError, match=r"Names in the model must be text .* \(300 letters\)"):
        gplvm.fit_map(model, progressbar=False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_of_numpy_are_settings_like_any_other(Y, tmp_path):
    model = gplvm.build_model(Y)
    three, seed = np.int32(3), np.int64(7)
    fits = {
        "map": gplvm.fit_map(model, max_iter=three, random_seed=seed, progressbar=False),
        "draws": gplvm.sample(
            model,
            draws=three,
            tune=three,
            chains=1,
            replicas=1,
            random_seed=seed,
            progressbar=False,
        ),
    }
    for name, fit in fits.items():
        again = gplvm.load(gplvm.save(fit, tmp_path / f"{name}.nc"))
        assert Fit(again).setting("random_seed") == 7
    assert gplvm.resume(model, again, draws=three, progressbar=False).posterior.sizes["draw"] == 6


# Damaged


def test_a_flipped_byte_is_noticed(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.nc")
    content = bytearray(path.read_bytes())
    place = content.find(best.posterior["X"].to_numpy().tobytes())
    assert place > 0
    content[place + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a fit; it is damaged"):
        gplvm.load(path)


@pytest.mark.parametrize("what", ["number", "count", "name", "setting"])
def test_a_changed_file_is_noticed(best, tmp_path, what):
    path = gplvm.save(best, tmp_path / "fit.nc")
    with h5py.File(path, "r+") as file:
        if what == "number":
            file["posterior/X"][0, 0, 3, 1] += 1e-12
        elif what == "count":
            file["optima/evaluations"][0] += 1
        elif what == "name":
            file["observed_data/label"][0] = "10"
        else:
            file.attrs["kernel"] = "matern52"
    with pytest.raises(ValueError, match="does not hold what was written"):
        gplvm.load(path)


def test_a_changed_folder_is_noticed(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.zarr")
    chunk = next(p for p in (path / "posterior" / "X").iterdir() if not p.name.startswith("."))
    other = gplvm.save(
        best.map_over_datasets(lambda d: d + 1 if "sigma" in d else d), tmp_path / "other.zarr"
    )
    chunk.write_bytes((other / "posterior" / "X" / chunk.name).read_bytes())
    with pytest.raises(ValueError, match="does not hold what was written"):
        gplvm.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_a_file_is_noticed(best, tmp_path, share):
    path = gplvm.save(best, tmp_path / "fit.nc")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match="cannot be read as a fit; it is damaged or of another kind"
    ):
        gplvm.load(path)


def test_rows_by_date_keep_their_checksum(tmp_path):
    frame = pd.DataFrame(simulated().to_numpy(), pd.date_range("2024-01-01", periods=12))
    best = gplvm.fit_map(gplvm.build_model(frame), progressbar=False)
    best["posterior"]["X"].values[0, 0, 0, 0] = -np.float64(np.nan)
    for ending in (".nc", ".zarr"):
        again = gplvm.load(gplvm.save(best, tmp_path / f"fit{ending}"))
        assert (again["posterior"]["obs"].to_index() == frame.index).all()


def test_files_hold_numbers_and_text_alone(best, theta, tmp_path):
    found = set()

    def look(name, item):
        # How HDF5 ties a variable to its dimensions is no data.
        attrs = {*item.attrs} - {"DIMENSION_LIST", "REFERENCE_LIST"}
        for dtype in (getattr(item, "dtype", None), *(item.attrs.get_id(a).dtype for a in attrs)):
            if dtype is not None:
                found.add("text" if h5py.check_string_dtype(dtype) else dtype.kind)

    for fit in (best, theta):
        with h5py.File(gplvm.save(fit, tmp_path / "fit.nc", overwrite=True)) as file:
            file.visititems(look)
    assert {"f", "i", "text"} <= found <= {"f", "i", "u", "b", "text"}


def test_a_folder_that_would_run_code_is_refused(best, tmp_path):
    """Zarr's second format may name a codec that unpickles."""
    path = gplvm.save(best, tmp_path / "fit.zarr")
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return Path.touch, (touched,)

    about = json.loads((path / ".zmetadata").read_text())
    about["metadata"]["posterior/X/.zarray"] |= {"compressor": None, "filters": [{"id": "pickle"}]}
    (path / ".zmetadata").write_text(json.dumps(about))
    (path / "posterior/X/0.0.0.0").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="cannot be read as a fit"):
        gplvm.load(path)
    assert not touched.exists()


def test_a_fit_that_save_did_not_write_is_taken(best, tmp_path):
    path = tmp_path / "plain.nc"
    best.to_netcdf(path, engine="h5netcdf")
    xr.testing.assert_equal(gplvm.load(path)["posterior"]["X"], best["posterior"]["X"])


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_lost_checksum_is_noticed(best, tmp_path, ending):
    path = gplvm.save(best, tmp_path / f"fit{ending}")
    if ending == ".nc":
        with h5py.File(path, "r+") as file:
            del file.attrs["sha256"]
    else:
        for name in (".zattrs", ".zmetadata"):
            text = (path / name).read_text()
            (path / name).write_text(re.sub(r'"sha256": "\w+"', '"x": 1', text))
    with pytest.raises(ValueError, match="its checksum is missing"):
        gplvm.load(path)


def deleted_scale(file):
    del file["posterior/draw"]


def external_link(file):
    file["posterior/W"] = h5py.ExternalLink("elsewhere.nc", "W")


def broken_link(file):
    del file["posterior/X"]
    file["posterior/X"] = h5py.SoftLink("nowhere")


def data_in_another_file(file):
    file.create_dataset("posterior/W", (3,), "f8", external=[("elsewhere.bin", 0, 24)])


def six_terabytes(file):
    del file["posterior/X"]
    file.create_dataset("posterior/X", (800, 10**9), "f8", chunks=(1, 1000))


def six_terabytes_of_a_coordinate(file):
    del file["posterior/draw"]
    made = file.create_dataset("posterior/draw", (8 * 10**11,), "f8", chunks=(1000,))
    made.make_scale("draw")


@pytest.mark.parametrize(
    "damage",
    [
        deleted_scale,
        external_link,
        broken_link,
        data_in_another_file,
        six_terabytes,
        six_terabytes_of_a_coordinate,
    ],
)
def test_damaged_structure_is_one_clear_error(best, tmp_path, damage):
    path = gplvm.save(best, tmp_path / "fit.nc")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(ValueError, match="cannot be read as a fit; it is damaged"):
        gplvm.load(path)


def test_a_folder_that_declares_more_than_there_is_memory(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.zarr")
    about = json.loads((path / ".zmetadata").read_text())
    about["metadata"]["posterior/X/.zarray"]["shape"] = [1, 10**9, 30, 2]
    (path / ".zmetadata").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="cannot be read as a fit; it is damaged"):
        gplvm.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("name", ["fit.nc", "fit.zarr"])
def test_a_pipe_is_not_waited_for(best, tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(ValueError, match="cannot be read as a fit"):
        gplvm.load(path)
    folder = gplvm.save(best, tmp_path / "whole.zarr")
    (folder / "posterior" / "X" / "0.0.0.0").unlink()
    os.mkfifo(folder / "posterior" / "X" / "0.0.0.0")
    with pytest.raises(ValueError, match="no ordinary file"):
        gplvm.load(folder)


def test_what_is_no_fit_is_refused(best, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        gplvm.load(tmp_path / "none.nc")
    with pytest.raises(ValueError, match=r"path must end in \.nc or \.zarr"):
        gplvm.load(tmp_path / "fit.csv")
    garbage = tmp_path / "garbage.nc"
    garbage.write_bytes(b"not a file of numbers")
    with pytest.raises(ValueError, match="cannot be read as a fit"):
        gplvm.load(garbage)
    other = tmp_path / "other.nc"
    xr.DataTree(xr.Dataset({"a": ("x", [1.0])})).to_netcdf(other, engine="h5netcdf")
    with pytest.raises(ValueError, match="does not say which version"):
        gplvm.load(other)
    newer = best.copy()
    newer.attrs = {**best.attrs, "pm_gplvm_version": "99.0"}
    with pytest.raises(ValueError, match=r"written by pm_gplvm 99\.0.*Upgrade"):
        gplvm.load(gplvm.save(newer, tmp_path / "newer.nc"))
