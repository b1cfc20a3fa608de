"""Fits on disk: the same numbers back, nothing lost, nothing executed."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import simulated

import pm_gplvm as gplvm


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
            model, fit, draws=600, tune=400, chains=2, random_seed=5, progressbar=False
        )
        for fit in (best, again)
    )
    np.testing.assert_array_equal(one.posterior["sigma"], two.posterior["sigma"])
    assert gplvm.plot.latent(again, color="label").get_xlabel() == "latent 0"


def test_nothing_is_overwritten_unless_asked(best, tmp_path):
    path = tmp_path / "fit.nc"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="Pass overwrite=True or choose another name"):
        gplvm.save(best, path)
    assert path.read_text() == "mine"
    gplvm.save(best, path, overwrite=True)
    assert gplvm.load(path).attrs["method"] == "map"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.nc"]


def test_a_failed_write_leaves_the_old_file(best, tmp_path):
    path = gplvm.save(best, tmp_path / "fit.nc")
    before = path.read_bytes()
    unwritable = best.copy()
    unwritable.attrs = {**best.attrs, "odd": {"a": object()}}
    with pytest.raises((TypeError, ValueError)):
        gplvm.save(unwritable, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fit.nc"]


def test_places_that_cannot_be_written_are_refused(best, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Make it first"):
        gplvm.save(best, tmp_path / "no" / "fit.nc")
    with pytest.raises(ValueError, match=r"saved as \.nc or \.zarr, got 'fit\.pkl'"):
        gplvm.save(best, tmp_path / "fit.pkl")
    with pytest.raises(TypeError, match="save needs a fit"):
        gplvm.save({"a": 1}, tmp_path / "fit.nc")


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


def test_what_is_no_fit_is_refused(best, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        gplvm.load(tmp_path / "none.nc")
    with pytest.raises(ValueError, match=r"ending in \.nc or \.zarr"):
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
