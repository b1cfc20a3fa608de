"""The command line, run as a user runs it: in a process of its own where exit codes and streams matter."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import import_module

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
from conftest import ROOT, simulated

import pm_gplvm as gplvm
from pm_gplvm.__main__ import run
from pm_gplvm.commands.arguments import FITS, HOME, LIKELIHOODS
from pm_gplvm.fitting import map as fitting
from pm_gplvm.fitting import optimise, svi
from pm_gplvm.fitting.choose import NAMES
from pm_gplvm.model.families import FAMILIES
from pm_gplvm.sampling import joint, nuts

FAST = ["--draws", "800", "--tune", "400", "--chains", "2", "--quiet"]
FEW = ["--draws", "20", "--tune", "20", "--chains", "2", "--quiet"]


@pytest.fixture(scope="module")
def frame():
    """40 rows with names, 10 columns, and a column of classes first."""
    table = simulated(n=40, d=10, seed=4)
    frame = pd.DataFrame(table.to_numpy(), index=table["obs"], columns=table["feature"])
    frame.insert(0, "stage", table["label"].to_numpy())
    return frame


@pytest.fixture(scope="module")
def cells(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "cells.csv"
    frame.to_csv(path, index_label="id")
    return path


def call(*arguments, cwd, answer=None):
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "pm_gplvm", *map(str, arguments)],
        cwd=cwd,
        input=answer,
        capture_output=True,
        text=True,
        env={key: v for key, v in os.environ.items() if key != "MPLBACKEND"},
        check=False,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def done(cells, tmp_path_factory):
    """A fit and θ of the table, by a process of its own."""
    folder = tmp_path_factory.mktemp("out")
    options = ("--label", "stage", "--scale", "feature", *FAST)
    return folder, call("sample", cells, *options, cwd=folder)


# Fits


def test_sample_of_a_table_writes_two_fits_positions_and_a_picture(done):
    folder, result = done
    assert result.returncode == 0, result.stderr
    files = ["cells.png", "cells_fit.nc", "cells_positions.csv", "cells_theta.nc"]
    assert names(folder) == files
    assert result.stderr == ""
    words = ("objective", "nn_agreement", "trustworthiness", "PCA", "GP-LVM", "ess_bulk", "r_hat")
    for word in words:
        assert word in result.stdout
    best = gplvm.load(folder / "cells_fit.nc")
    assert best.attrs["method"] == "marginal"
    assert best.posterior["obs"].to_numpy()[0] == "row0"
    assert set(best.posterior["label"].to_numpy()) == {"left", "right"}
    assert gplvm.load(folder / "cells_theta.nc").posterior.sizes["draw"] == 800
    assert (folder / "cells.png").read_bytes().startswith(b"\x89PNG")


def test_the_positions_are_those_of_the_fit(done):
    folder, _ = done
    best = gplvm.load(folder / "cells_fit.nc")
    positions = pd.read_csv(folder / "cells_positions.csv", index_col="id")
    np.testing.assert_allclose(
        positions[["latent_0", "latent_1"]], best.posterior["X"][0, 0], rtol=1e-12
    )
    assert positions.index.tolist() == best.posterior["obs"].to_numpy().tolist()
    assert positions["label"].tolist() == best.posterior["label"].to_numpy().tolist()
    assert not any(column.startswith("sd") for column in positions)


def test_the_printed_numbers_are_those_of_the_files(done):
    folder, result = done
    best, theta = (gplvm.load(folder / f"cells_{kind}.nc") for kind in ("fit", "theta"))
    table = gplvm.diagnostics.summarise_theta(best, theta)
    for name in table.index:
        assert f"{table.loc[name, 'mean']:.4g}" in result.stdout


def test_columns_are_divided_by_what_was_asked_for(done, frame):
    folder, _ = done
    scale = gplvm.load(folder / "cells_fit.nc").constant_data["Y_scale"]
    np.testing.assert_allclose(scale, frame.drop(columns="stage").std(ddof=0), rtol=1e-6)


def test_the_demo_writes_what_it_has_always_written(tmp_path):
    result = call("demo", "--draws", "500", "--tune", "300", "--chains", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    files = ["digits.png", "digits_fit.nc", "digits_positions.csv", "digits_theta.nc"]
    assert names(tmp_path) == files
    assert "trustworthiness" in result.stdout
    assert "evaluations 0:" not in result.stdout


def test_progress_goes_to_stderr_and_positions_to_stdout(cells, tmp_path):
    result = call("fit", cells, "--label", "stage", "--out", "-", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "id,label,latent_0,latent_1"
    assert len(lines) == 41
    assert result.stderr == ""  # a log is not filled with progress
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_shows_progress_on_stderr_alone(cells, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pm_gplvm", "fit", str(cells), "--label", "stage"]
    with subprocess.Popen(
        [*command, "--out", "-"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={"TERM": "xterm", "COLUMNS": "120"} | os.environ,
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how the other end says that it is closed
            while part := os.read(ours, 4096):
                shown += part
        written = process.communicate()[0]
    os.close(ours)
    assert process.returncode == 0
    assert b"evaluations" in shown
    assert written.splitlines()[0] == "id,label,latent_0,latent_1"
    assert len(written.splitlines()) == 41


@pytest.mark.parametrize(
    "kind", ["map", "laplace", "sparse", "variational", "stochastic", "linear", "svi"]
)
def test_every_kind_of_fit(kind, cells, here, capsys):
    inducing = ["--n-inducing", "8"] if kind in ("sparse", "variational", "svi") else []
    options = ["--label", "stage", "--quiet", "--fit", kind, *inducing, "--format", "none"]
    assert run(["fit", str(cells), *options]) == 0
    fit = gplvm.load("cells_fit.nc")
    positions = pd.read_csv("cells_positions.csv")
    assert ("sd_0" in positions) == (kind in ("laplace", "variational", "svi"))
    if kind in ("variational", "svi"):
        np.testing.assert_allclose(
            positions["sd_0"], fit["approximation"]["X_sd"][:, 0], rtol=1e-12
        )
    assert f"fitted by {kind}" in capsys.readouterr().out
    assert names(here) == ["cells_fit.nc", "cells_positions.csv"]


@pytest.fixture(scope="module")
def counts():
    """Counts in six columns of 40 rows, and answers in two."""
    rng = np.random.default_rng(1)
    X = rng.uniform(-2.0, 2.0, (40, 1))
    counts = rng.poisson(np.exp(2.0 + np.sin(X + np.arange(6))))
    frame = pd.DataFrame(counts, columns=[f"gene{i}" for i in range(6)])
    return frame.assign(ill=(X[:, 0] > 0.0).astype(int), grade=np.clip(counts[:, 0] // 3, 1, 5))


SHORT = ["--epochs", "20", "--batch-size", "20", "--n-inducing", "8", "--quiet"]


@pytest.mark.filterwarnings("ignore:fit_svi:RuntimeWarning")
def test_counts_by_minibatches(counts, here, capsys):
    counts.iloc[:, :6].to_csv("counts.csv", index_label="id")
    options = ["--likelihood", "negative_binomial", "--offset", "size", "--kernel", "rbf", *SHORT]
    assert run(["fit", "counts.csv", *options]) == 0
    told = capsys.readouterr().out
    assert "fitted by svi (asked for)" in told
    assert "Embedding:" not in told  # distances between counts are no measure
    assert names(here) == ["counts.csv", "counts.png", "counts_fit.nc", "counts_positions.csv"]
    fit = gplvm.load("counts_fit.nc")
    table = gplvm.data.load_table("counts.csv")
    again = gplvm.fit_svi(
        table,
        likelihood="negative_binomial",
        offset="size",
        ard=False,
        n_inducing=8,
        epochs=20,
        batch_size=20,
        random_seed=1,
        progressbar=False,
    )
    np.testing.assert_array_equal(fit["approximation"]["X_mean"], again["approximation"]["X_mean"])
    positions = pd.read_csv("counts_positions.csv")
    np.testing.assert_allclose(positions["sd_1"], fit["approximation"]["X_sd"][:, 1], rtol=1e-12)
    assert run(["info", "counts_fit.nc"]) == 0
    assert re.search(r"^likelihood: +negative_binomial$", capsys.readouterr().out, re.M)
    assert run(["embed", "counts_fit.nc", "counts.csv", "--out", "new.csv", "--quiet"]) == 0
    assert run(["plot", "counts_fit.nc", "--color", "gene2", "--out", "a.png"]) == 0


@pytest.mark.filterwarnings("ignore:fit_svi:RuntimeWarning")
def test_columns_of_several_kinds(counts, here, capsys):
    counts.assign(grade=counts["grade"].where(counts.index != 3)).to_csv("mixed.csv")
    kinds = ["--likelihood", "poisson", "--likelihood-of", "ill=bernoulli"]
    kinds += ["--likelihood-of", "grade=ordinal", "--missing", "mask", "--format", "none"]
    assert run(["fit", "mixed.csv", *kinds, *SHORT]) == 0
    capsys.readouterr()
    assert run(["info", "mixed_fit.nc"]) == 0
    told = "poisson for 6 columns, bernoulli for 1 column, ordinal for 1 column"
    assert told in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:fit_svi:RuntimeWarning")
def test_successes_among_trials(counts, here, capsys):
    rng = np.random.default_rng(2)
    share = 1.0 / (1.0 + np.exp(-np.sin(rng.uniform(-2.0, 2.0, (40, 1)) + np.arange(4))))
    frame = pd.DataFrame(rng.binomial(12, share), columns=list("abcd"))
    frame.to_csv("right.csv", index_label="id")
    given = ["--likelihood", "binomial", "--trials", "12", "--kernel", "rbf", "--format", "none"]
    assert run(["fit", "right.csv", *given, *SHORT]) == 0
    again = gplvm.fit_svi(
        gplvm.data.load_table("right.csv"),
        likelihood=gplvm.likelihoods.binomial(12),
        ard=False,
        n_inducing=8,
        epochs=20,
        batch_size=20,
        random_seed=1,
        progressbar=False,
    )
    found = gplvm.load("right_fit.nc")["approximation"]["X_mean"]
    np.testing.assert_array_equal(found, again["approximation"]["X_mean"])
    assert run(["embed", "right_fit.nc", "right.csv", "--out", "new.csv", "--quiet"]) == 0
    frame.assign(gene=counts["gene0"]).to_csv("both.csv", index_label="id")
    kinds = [*("--likelihood", "poisson"), *("--likelihood-of", "a=binomial:20")]
    kinds += [*("--likelihood-of", "b=binomial"), *("--trials", "12"), "--format", "none"]
    assert run(["fit", "both.csv", *kinds, *SHORT]) == 0
    blocks = json.loads(gplvm.load("both_fit.nc").attrs["likelihood"])["blocks"]
    trials = {tuple(b["columns"]): b["likelihood"].get("trials") for b in blocks}
    assert trials == {(0,): 20.0, (1,): 12.0, (2, 3, 4): None}


@pytest.mark.filterwarnings("ignore:fit_svi:RuntimeWarning")
def test_classes_of_counts(counts, here, capsys):
    counts.assign(grade=[f"g{g}" for g in counts["grade"]]).to_csv("counts.csv", index_label="id")
    given = ["--label", "grade", "--drop", "ill", "--likelihood", "poisson", "--prior", "classes"]
    assert run(["fit", "counts.csv", *given, "--format", "none", *SHORT]) == 0
    assert "X_centre" in gplvm.load("counts_fit.nc")["posterior"]


@pytest.mark.filterwarnings("ignore:.*interrupted:RuntimeWarning")
def test_ctrl_c_in_minibatches_keeps_what_there_is(counts, here, ctrl_c, capsys):
    counts.iloc[:, :6].to_csv("counts.csv", index_label="id")
    ctrl_c(svi.Optimiser, "step", 5)
    assert run(["fit", "counts.csv", "--likelihood", "poisson", *SHORT]) == 130
    assert "Interrupted. Written: counts_fit.nc" in capsys.readouterr().err
    assert gplvm.load("counts_fit.nc").attrs["interrupted"] == 1


def test_zarr_svg_and_a_name_of_ones_own(cells, here):
    options = ["--label", "stage", "--quiet", "--format", "svg"]
    assert run(["fit", str(cells), *options, "--to", "zarr"]) == 0
    assert run(["fit", str(cells), *options, "--out", "other.zarr"]) == 0
    files = ["cells.svg", "cells_fit.zarr", "cells_positions.csv"]
    assert names(here) == sorted([*files, "other.svg", "other.zarr", "other_positions.csv"])
    X = (gplvm.load(name).posterior["X"] for name in ("cells_fit.zarr", "other.zarr"))
    np.testing.assert_array_equal(*X)
    assert (here / "cells.svg").read_text().startswith("<?xml")
    assert run(["sample", "other.zarr", *FAST]) == 0
    assert gplvm.load("other_theta.zarr").attrs["method"] == "nuts_theta"


def test_options_reach_the_model(cells, here, frame):
    holes = frame.copy()
    holes.iloc[2, 3] = -999.0
    holes.to_csv("holes.csv", index_label="id")
    options = ["--missing-code", "-999", "--missing", "mask", "--kernel", "matern32", "--ard"]
    options += ["--latent-dim", "3", "--noise", "column", "--scale", "none", "--max-iter", "5"]
    with pytest.warns(RuntimeWarning, match="fit_marginal"):
        assert run(["fit", "holes.csv", "--label", "stage", "--quiet", *options]) == 0
    fit = gplvm.load("holes_fit.nc")
    assert fit.attrs["kernel"] == "matern32"
    assert fit.posterior["lengthscale"].sizes["latent"] == 3
    assert fit.posterior["sigma"].sizes["feature"] == 10
    assert int(np.isnan(fit.observed_data["Y"]).sum()) == 1
    assert (fit.constant_data["Y_scale"] == 1.0).all()


def test_a_kernel_of_several_factors_reaches_the_fit(cells, here):
    options = ["--kernel", "rbf[0] + rbf[1]", "--max-iter", "5", "--quiet", "--format", "none"]
    with pytest.warns(RuntimeWarning, match="fit_marginal"):
        assert run(["fit", str(cells), "--label", "stage", "--out", "sum", *options]) == 0
    assert gplvm.load("sum_fit.nc").attrs["kernel"] == "rbf[0] + rbf[1]"


def test_restarts_and_the_seed_reach_the_fit(cells, here, monkeypatch):
    """And the cores, by which the numbers are not others."""
    asked, workers = [], fitting.workers

    def noted(thing, n, threads):
        asked.append(n)
        return workers(thing, n, threads)

    monkeypatch.setattr(fitting, "workers", noted)
    options = ["--label", "stage", "--quiet", "--format", "none"]
    search = ["--restarts", "2", "--seed", "7", "--cores", "2"]
    assert run(["fit", str(cells), *options, *search]) == 0
    assert asked == [2]
    fit = gplvm.load("cells_fit.nc")
    model = gplvm.build_model(gplvm.data.load_table(cells, label="stage"), kernel="rbf + linear")
    again = gplvm.fit_marginal(model, n_restarts=2, random_seed=7, progressbar=False)
    np.testing.assert_array_equal(fit.posterior["X"], again.posterior["X"])


# Tables of users


@pytest.fixture(scope="module")
def numbers(frame):
    return frame.drop(columns="stage")


DATES = pd.date_range("2020-01-30", periods=40, name="t")


def test_a_named_index_of_dates_is_names_and_times(numbers, here, capsys):
    numbers.set_axis(DATES).to_csv("sensors.csv")
    assert run(["fit", "sensors.csv", "--quiet"]) == 0
    fit = gplvm.load("sensors_fit.nc")
    assert fit.posterior["obs"].to_numpy()[0] == "2020-01-30"
    assert (fit.posterior["time"].to_numpy() == DATES.to_numpy()).all()
    assert pd.read_csv("sensors_positions.csv")["time"].iloc[-1] == "2020-03-09"
    assert run(["fit", "sensors.csv", "--label", "t", "--quiet", "--out", "by_label"]) == 0
    assert gplvm.load("by_label_fit.nc").posterior["label"].dtype.kind == "M"
    assert "nn_agreement" not in capsys.readouterr().out


def test_times_as_a_prior(numbers, here):
    numbers.assign(when=DATES).to_csv("sensors.csv")
    assert run(["fit", "sensors.csv", "--time", "when", "--prior", "dynamics", "--quiet"]) == 0
    days = gplvm.load("sensors_fit.nc").constant_data["X_time"]
    np.testing.assert_array_equal(days, np.arange(40.0))
    with pytest.raises(ValueError, match="rebuild must have the priors of the fit"):
        run(["sample", "sensors_fit.nc", *FAST])
    assert run(["sample", "sensors_fit.nc", "--prior", "dynamics", *FAST]) == 0


def test_classes_as_a_prior(cells, here):
    assert run(["fit", str(cells), "--label", "stage", "--prior", "classes", "--quiet"]) == 0
    assert "X_class" in gplvm.load("cells_fit.nc").constant_data


def test_many_tables(frame, numbers, here):
    """What pandas, R, Excel, AnnData, Parquet and xarray write."""
    numbers.to_csv("semicolons.csv", sep=";", decimal=",")
    levels = pd.MultiIndex.from_product([list("abcd"), range(10)], names=["patient", "visit"])
    numbers.set_axis(levels).to_csv("levels.csv")
    numbers.to_csv("bare.csv", header=False, index=False)
    numbers.set_axis(range(1, 41)).to_csv("R.tsv", sep="\t", index_label=None, quoting=2)
    text = (here / "R.tsv").read_text()
    (here / "R.tsv").write_text(re.sub(r"^[^\t]*\t", "", text, count=1))  # as write.table does
    frame.set_axis(DATES).to_parquet("index.parquet")
    adata = anndata.AnnData(numbers.to_numpy(), obs=frame[["stage"]].astype("category"))
    adata.write_h5ad("cells.h5ad")
    xr.DataArray(
        numbers.to_numpy(), dims=("time", "wave"), coords={"time": DATES.to_numpy()}, name="y"
    ).to_netcdf("spectra.nc", engine="h5netcdf")
    asked = {
        "semicolons.csv": [],
        "levels.csv": ["--index", "patient", "--index", "visit"],
        "bare.csv": ["--header", "no", "--delimiter", ",", "--decimal", "."],
        "R.tsv": [],
        "index.parquet": ["--label", "stage"],
        "cells.h5ad": ["--label", "stage"],
        "spectra.nc": [],
    }
    found = {}
    for name, options in asked.items():
        options = [
            *options,
            "--quiet",
            "--format",
            "none",
            "--out",
            name.replace(".", "_"),
            "--max-iter",
            "50",
        ]
        assert run(["fit", name, *options]) == 0
        fit = gplvm.load(f"{name.replace('.', '_')}_fit.nc")
        np.testing.assert_allclose(fit.observed_data["Y"].T, numbers, rtol=1e-6)
        found[name] = str(fit.posterior["obs"].to_numpy()[1])
    rows = ["row1", "a 1", "1", "2", "2020-01-31T00:00:00.000000000", "row1"]
    assert [found[name][:29] for name in list(asked)[:-1]] == rows


# Mistakes, before the work


def test_it_does_not_overwrite_without_being_told(done, cells):
    folder, _ = done
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    result = call("sample", cells, "--label", "stage", *FAST, cwd=folder)
    assert result.returncode == 2
    assert "cells_fit.nc" in result.stderr
    assert "--overwrite" in result.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_at_a_terminal_it_asks(done, cells, monkeypatch, capsys):
    folder, _ = done
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "n")
    assert run(["fit", str(cells), "--label", "stage"]) == 1
    captured = capsys.readouterr()
    assert "Replace?" in captured.err
    assert "Nothing was changed" in captured.out
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_what_is_no_fit_is_not_replaced_even_if_told(cells, here):
    (here / "cells_fit.nc").write_text("my notes")
    with pytest.raises(FileExistsError, match="is no fit that save wrote"):
        run(["fit", str(cells), "--label", "stage", "--overwrite"])
    (here / "x.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"x\.png is a folder"):
        run(["fit", str(cells), "--label", "stage", "--out", "x"])
    assert names(here) == ["cells_fit.nc", "x.png"]


MISTAKES = {
    "no file": (["fit", "nowhere.csv"], "There is no file nowhere.csv"),
    "no folder": (["demo", "--out", "no/where"], "The folder no does not exist"),
    "too many dimensions": (
        ["demo", "--latent-dim", "100", "--kernel", "linear"],
        "--latent-dim must be at most min(N, D) = 64 with --kernel linear, got 100",
    ),
    "no kernel": (["demo", "--kernel", "cubic"], "kernel must be one of rbf"),
    "no such dimension": (["demo", "--kernel", "rbf[5]"], "latent dimensions from 0 to 1, got rbf"),
    "no picture": (["fit", "cells.csv", "--format", "pdf"], "invalid choice: 'pdf'"),
    "no label": (["fit", "cells.csv", "--label", "kind"], "label must name a column of cells.csv"),
    "names as label": (
        ["fit", "named.csv", "--label", "name"],
        "--label must name a column of classes, got 'name' with another text in each of the 40 rows",
    ),
    "no time": (
        ["fit", "cells.csv", "--time", "stage"],
        "time must name a column of cells.csv with",
    ),
    "prior without times": (
        ["fit", "cells.csv", "--label", "stage", "--prior", "dynamics"],
        "Pass --time COLUMN",
    ),
    "no color": (
        ["fit", "cells.csv", "--label", "stage", "--color", "GAPDH"],
        "--color must be one of label, or a column of the table",
    ),
    "kernel of another fit": (
        ["fit", "cells.csv", "--label", "stage", "--fit", "linear", "--kernel", "rbf"],
        "kernel",
    ),
    "option of another fit": (
        ["fit", "cells.csv", "--label", "stage", "--fit", "map", "--n-inducing", "5"],
        "--n-inducing says nothing about",
    ),
    "minibatches of another fit": (
        ["fit", "cells.csv", "--label", "stage", "--fit", "map", "--epochs", "5"],
        "--epochs says nothing about --fit map",
    ),
    "no epochs": (["demo", "--epochs", "0"], "--epochs must be a finite number above 0, got 0"),
    "no batch": (
        ["demo", "--batch-size", "0"],
        "--batch-size must be a whole number of at least 1",
    ),
    "two lengths": (
        ["fit", "cells.csv", "--label", "stage", "--epochs", "5", "--max-iter", "5"],
        "--max-iter and --epochs both tell",
    ),
    "a likelihood that is none": (["demo", "--likelihood", "posson"], "invalid choice: 'posson'"),
    "another fit of counts": (
        ["fit", "cells.csv", "--label", "stage", "--likelihood", "poisson", "--fit", "laplace"],
        "--fit must be 'auto', 'svi' or 'map' with likelihood 'poisson'",
    ),
    "no counts": (
        ["fit", "cells.csv", "--label", "stage", "--likelihood", "poisson"],
        "The table must hold counts (whole numbers of at least 0) under the likelihood 'poisson', got",
    ),
    "draws of counts": (
        ["sample", "cells.csv", "--label", "stage", "--likelihood", "poisson", "--full"],
        "sample and sample_theta draw from models of normal noise, got likelihood 'poisson'",
    ),
    "no column of a likelihood": (
        ["fit", "cells.csv", "--label", "stage", "--likelihood-of", "GAPDH=poisson"],
        "--likelihood-of must name a column of the table (column0, ",
    ),
    "no likelihood of a column": (
        ["fit", "cells.csv", "--label", "stage", "--likelihood-of", "column0=posson"],
        "--likelihood-of must be COLUMN=NAME, NAME one of gaussian, ",
    ),
    "no trials": (
        ["fit", "cells.csv", "--label", "stage", "--likelihood", "binomial"],
        "--likelihood binomial needs the number of trials of each entry, got none. Pass --trials N.",
    ),
    "no trials of a column": (
        ["fit", "cells.csv", "--label", "stage", "--likelihood-of", "column0=binomial"],
        "--likelihood-of column0=binomial needs the number of trials",
    ),
    "trials of none": (
        ["fit", "cells.csv", "--trials", "5", "--likelihood", "poisson"],
        "--trials says nothing about likelihoods other than binomial.",
    ),
    "zero trials": (
        ["fit", "cells.csv", "--trials", "0", "--likelihood", "binomial"],
        "--trials must be a whole number of at least 1",
    ),
    "half a trial of a column": (
        ["fit", "cells.csv", "--likelihood-of", "column0=binomial:0.5"],
        "--likelihood-of must be COLUMN=binomial:N, N a whole number of at least 1",
    ),
    "trials of counts": (
        ["fit", "cells.csv", "--likelihood-of", "column0=poisson:3"],
        "--likelihood-of must be COLUMN=NAME, NAME one of gaussian, ",
    ),
    "θ of many positions": (
        ["sample", "cells.csv", "--label", "stage", "--fit", "variational"],
        "Pass --fit marginal, or --full",
    ),
    "a fit as a table": (["fit", "fit.nc"], "It holds a fit"),
    "a table as a fit": (["embed", "cells.csv", "cells.csv"], "cells.csv is no fit that was saved"),
    "two endings": (["demo", "--out", "a.nc", "--to", "zarr"], "--out and --to must agree"),
    "a picture's ending": (["demo", "--out", "a.png"], "--out must be the beginning of names"),
    "plot's ending": (["plot", "fit.nc", "--out", "a.pdf"], "--out must end in .png or .svg"),
    "plot's option": (
        ["plot", "fit.nc", "--kind", "optima", "--color", "label"],
        "--color says nothing about --kind optima",
    ),
    "dims": (["plot", "fit.nc", "--dims", "one"], "--dims must be two whole numbers such as 0,1"),
    "embed's ending": (["embed", "fit.nc", "cells.csv", "--out", "a.nc"], "--out must end in .csv"),
    "other columns": (
        ["embed", "fit.nc", "named.csv", "--index", "name", "--out", "-"],
        "The table of new rows must have the 10 columns",
    ),
    "no page": (["explore", "fit.nc", "--out", "a.png"], "--out must end in .html"),
    "resume a table": (["sample", "cells.csv", "--resume"], "--resume needs a fit"),
    "resume an estimate": (["sample", "fit.nc", "--resume"], "resume needs a fit made by sample"),
    "thin draws of θ": (
        ["sample", "fit.nc", "--thin", "2"],
        "--thin says nothing about draws of θ",
    ),
    "replicas of draws that are there": (
        ["sample", "fit.nc", "--resume", "--replicas", "2"],
        "--replicas says nothing about --resume",
    ),
    "no thinning": (
        ["sample", "fit.nc", "--full", "--thin", "0"],
        "--thin must be a whole number of at least 1, got 0",
    ),
    "many replicas": (
        ["sample", "fit.nc", "--full", "--replicas", "many"],
        "--replicas must be auto or a whole number of at least 1, got 'many'",
    ),
    "no command": (["cells.csv"], "invalid choice: 'cells.csv'"),
}


@pytest.fixture(scope="module")
def folder(done, cells, frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "cells.csv").write_bytes(cells.read_bytes())
    frame.iloc[:, 1:4].rename_axis("name").reset_index()[["column0", "name", "column1"]].to_csv(
        folder / "named.csv", index=False
    )
    (folder / "fit.nc").write_bytes((done[0] / "cells_fit.nc").read_bytes())
    return folder


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_before_the_work(folder, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = names(folder)
    for owner, verb in ((optimise, "minimize"), (nuts, "_run"), (joint, "_run")):
        monkeypatch.setattr(owner, verb, lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises((OSError, TypeError, ValueError, SystemExit)) as caught:
        run(arguments)
    told = capsys.readouterr().err if caught.type is SystemExit else str(caught.value)
    assert message in told
    assert caught.type is not SystemExit or caught.value.code == 2
    assert names(folder) == before


@pytest.mark.parametrize("arguments", [MISTAKES["no file"][0], MISTAKES["no picture"][0]])
def test_mistakes_end_with_2_and_a_sentence(tmp_path, arguments):
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(cells, here):
    (here / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="closed cannot be written to"):
        run(["fit", str(cells), "--label", "stage", "--out", "closed/cells"])


def test_a_file_of_text_is_read_as_asked_for(cells, here):
    rows = cells.read_text().split("\n", 1)[1]
    (here / "bare.csv").write_text(rows.replace(",", ";").replace(".", ","))
    with pytest.raises(ValueError, match=r"--header no"):
        run(["fit", "bare.csv", "--label", "1"])
    asked = ["--sep", ";", "--decimal", ",", "--header", "no", "--index", "0", "--label", "1"]
    with pytest.raises(ValueError, match=r"min\(N, D\) = 10 .*got 100"):  # its columns of numbers
        run(["fit", "bare.csv", *asked, "--latent-dim", "100", "--kernel", "linear"])


def test_a_column_of_text_is_told_with_the_way_out(cells, here):
    with pytest.raises(TypeError, match=r"--label stage"):
        run(["fit", str(cells)])


def test_holes_in_a_file_are_told(frame, here):
    holes = frame.copy()
    holes.iloc[2, 3] = np.nan
    holes.to_csv("holes.csv")
    with pytest.raises(
        ValueError, match=r"1 missing \(NaN\) and 0 infinite values.* pass --missing mask,"
    ):
        run(["fit", "holes.csv", "--label", "stage"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("draws", 0), ("tune", -1), ("chains", 0), ("restarts", -1), ("seed", -1)),
        *(("cores", 0), ("n-inducing", 0), ("max-iter", 0)),
    ],
)
def test_numbers_are_checked_before_the_work(here, option, value):
    with pytest.raises(ValueError, match=f"^--{option} must be a whole number"):
        run(["demo", f"--{option}", str(value)])
    assert not list(here.iterdir())


@pytest.mark.filterwarnings("ignore:sample:RuntimeWarning", "ignore:align:RuntimeWarning")
def test_thinning_and_replicas_reach_the_sampler(done, here):
    fit, few = str(done[0] / "cells_fit.nc"), ["--draws", "3", "--tune", "4", "--chains", "2"]
    options = ["--full", *few, "--quiet", "--format", "none", "--seed", "7"]
    assert run(["sample", fit, *options, "--thin", "2", "--replicas", "2", "--out", "cells"]) == 0
    drawn = gplvm.load("cells_sample.nc")
    best = gplvm.load(fit)
    model = gplvm.model.rebuild(best)
    settings = {"draws": 3, "tune": 4, "chains": 2, "random_seed": 7, "progressbar": False}
    again = gplvm.sample(model, thin=2, replicas=2, **settings)
    np.testing.assert_array_equal(drawn.posterior["X"], again.posterior["X"])
    # The neighbourhoods are those of the fit; an ensemble looks for embeddings of its own.
    for explore, start in (("local", {"start": best}), ("ensemble", {})):
        again = gplvm.sample(model, explore=explore, **start, **settings)
        words = ["--explore", explore, "--cores", "1", "--out", explore]
        assert run(["sample", fit, *options, *words]) == 0
        drawn = gplvm.load(f"{explore}_sample.nc")
        np.testing.assert_array_equal(drawn.posterior["X"], again.posterior["X"])
        assert drawn.attrs["explore"] == explore


# Ctrl-C


@pytest.mark.parametrize(
    ("module", "work", "n", "written", "partial"),
    [
        (optimise, "minimize", 3, ["cells_fit.nc"], True),
        (gplvm, "save", 1, ["cells_fit.nc"], False),
        (nuts, "_waited_for", 1, ["cells_fit.nc"], False),
        (nuts, "whole_chains", 1, ["cells_fit.nc", "cells_theta.nc"], True),
        (gplvm, "save", 2, ["cells_fit.nc", "cells_theta.nc"], False),
    ],
)
@pytest.mark.filterwarnings("ignore:.* was interrupted:RuntimeWarning")
def test_ctrl_c_writes_what_there_is(
    module, work, n, written, partial, cells, here, ctrl_c, capsys
):
    ctrl_c(module, work, n)
    assert run(["sample", str(cells), "--label", "stage", *FAST]) == 130
    assert names(here) == written
    assert "Interrupted. Written: " + ", ".join(written) in capsys.readouterr().err
    assert gplvm.load(written[-1]).attrs["interrupted"] == int(partial)


def test_ctrl_c_before_anything_is_written(cells, here, ctrl_c, capsys):
    ctrl_c(optimise, "minimize", 1)
    assert run(["fit", str(cells), "--label", "stage"]) == 130
    assert list(here.iterdir()) == []
    assert "Interrupted. Written: nothing" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:sample:RuntimeWarning", "ignore:align:RuntimeWarning")
def test_sampling_goes_on_after_ctrl_c_as_if_it_had_not_come(done, here, ctrl_c, monkeypatch):
    fit = str(done[0] / "cells_fit.nc")
    options = ["--full", "--tune", "10", "--chains", "2", "--quiet", "--draws", "12"]
    assert run(["sample", fit, *options, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        ctrl_c(joint.Record, "add", 5)
        assert run(["sample", fit, *options, "--out", "part"]) == 130
        patch.undo()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    had = gplvm.load("part_sample.nc").posterior.sizes["draw"]
    assert 0 < had < 12
    further = str(12 - had)
    assert run(["sample", "part_sample.nc", "--resume", "--draws", further, "--quiet"]) == 0
    whole, part = (gplvm.load(f"{name}_sample.nc").posterior["X"] for name in ("whole", "part"))
    np.testing.assert_array_equal(whole, part)
    positions = pd.read_csv("part_sample_positions.csv", index_col="id")
    aligned = gplvm.align(gplvm.load("part_sample.nc"))["aligned"]["X"]
    np.testing.assert_allclose(
        positions["latent_0"], aligned.mean(("chain", "draw"))[:, 0], rtol=1e-9
    )
    spread = aligned.std(("chain", "draw"), ddof=1)[:, 0]
    np.testing.assert_allclose(positions["sd_0"], spread, rtol=1e-9)


# What is done with a fit


def test_embed(done, frame, here):
    fit = str(done[0] / "cells_fit.nc")
    new = frame.iloc[:4, ::-1].copy()  # columns by name
    new.iloc[1, 2] = np.nan
    new.to_csv("new.csv", index_label="id")
    assert run(["embed", fit, "new.csv", "--label", "stage", "--quiet"]) == 0
    found = pd.read_csv("new_positions.csv", index_col="id")
    table = gplvm.data.load_table("new.csv", label="stage")
    placed = gplvm.embed(gplvm.load(fit), table, random_seed=1, progressbar=False)
    modes, rows = placed["modes"], placed["rows"]
    np.testing.assert_allclose(found[["latent_0", "latent_1"]], modes["X"][:, 0], rtol=1e-12)
    np.testing.assert_allclose(found[["sd_0", "sd_1"]], modes["sd"][:, 0], rtol=1e-12)
    np.testing.assert_allclose(found["shortfall"], rows["shortfall"], rtol=1e-12)
    assert found["n_modes"].tolist() == rows["n_modes"].to_numpy().tolist()
    assert found.index.tolist() == ["row0", "row1", "row2", "row3"]
    assert found["label"].tolist() == frame["stage"].iloc[:4].tolist()


def test_embed_to_stdout(done, frame, tmp_path):
    frame.iloc[:3].to_csv(tmp_path / "new.csv", index_label="id")
    arguments = (done[0] / "cells_fit.nc", "new.csv", "--label", "stage", "--out", "-")
    result = call("embed", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith("id,label,latent_0,latent_1,sd_0,sd_1,weight")
    assert len(result.stdout.splitlines()) == 4
    assert names(tmp_path) == ["new.csv"]


def test_diagnose_ends_with_0_if_passed_and_3_if_not(done, tmp_path):
    folder, _ = done
    passed = call("diagnose", folder / "cells_theta.nc", cwd=tmp_path)
    assert (passed.returncode, passed.stderr) == (0, "")
    assert passed.stdout.startswith("Converged: 2 chains of 800 draws agree")
    estimate = call("diagnose", folder / "cells_fit.nc", cwd=tmp_path)
    assert estimate.returncode == 3
    assert estimate.stdout.startswith("One draw: a point")


@pytest.mark.parametrize(
    "kind", ["latent", "reconstruction", "magnification", "relevance", "optima"]
)
def test_plot(kind, done, here):
    fit = str(done[0] / "cells_fit.nc")
    assert run(["plot", fit, "--kind", kind, "--out", f"{kind}.png"]) == 0
    assert (here / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError, match="--overwrite"):
        run(["plot", fit, "--kind", kind, "--out", f"{kind}.png"])


def test_plot_is_coloured_by_a_column(done, here):
    fit = str(done[0] / "cells_fit.nc")
    assert run(["plot", fit, "--color", "column3", "--format", "svg"]) == 0
    assert "column3" in (here / "cells.svg").read_text()


def test_explore(done, here):
    fit = str(done[0] / "cells_fit.nc")
    assert run(["explore", fit, "--kind", "curve"]) == 0
    assert "column3" in (here / "cells.html").read_text()


# What files hold


def test_info_on_a_table(cells, frame, here, capsys):
    holes = frame.copy()
    holes.iloc[2, 3] = np.nan
    holes.insert(2, "when", DATES.astype(str))
    holes.to_csv("holes.csv", index_label="id")
    assert run(["info", "holes.csv"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^rows: +40$", told, re.M)
    assert re.search(r"^columns of numbers: +10 \(column0, ", told, re.M)
    assert re.search(r"^missing: +1 of 400 entries", told, re.M)
    assert re.search(r"^names of rows: +id$", told, re.M)
    assert re.search(r"^labels, it seems: +stage \(2 values\)$", told, re.M)
    assert re.search(r"^times: +when$", told, re.M)
    advice = re.search(r"^Embed it: pm-gplvm (.*)$", told, re.M)[1]
    assert advice == "fit holes.csv --label stage --time when --missing mask"
    assert run([*advice.split(), "--quiet", "--max-iter", "30"]) == 0  # the advice works


def test_info_on_other_tables(frame, here, capsys):
    frame.to_parquet("cells.parquet")
    adata = anndata.AnnData(frame.iloc[:, 1:].to_numpy(), obs=frame[["stage"]].astype("category"))
    adata.write_h5ad("cells.h5ad")
    array = xr.DataArray(np.eye(4), dims=("time", "wave"), coords={"time": DATES[:4].to_numpy()})
    array.rename("y").to_netcdf("y.nc", engine="h5netcdf")
    told = {}
    for name in ("cells.parquet", "cells.h5ad", "y.nc"):
        assert run(["info", name]) == 0
        told[name] = capsys.readouterr().out
    for name in ("cells.parquet", "cells.h5ad"):
        assert f"Embed it: pm-gplvm fit {name} --label stage" in told[name]
    assert "4 time × 4 wave" in told["y.nc"]


def test_info_asks_whether_few_whole_numbers_are_classes(frame, here, capsys):
    frame.assign(stage=np.arange(40) % 3).rename(columns={"stage": "my class"}).to_csv("a.csv")
    assert run(["info", "a.csv"]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "Embed it: pm-gplvm fit a.csv"
    assert second == "If my class holds classes, not measurements, add --label 'my class'"


def test_info_suggests_a_likelihood(counts, here, capsys):
    tables = {
        "counts": counts.iloc[:, :6],
        "answers": counts[["grade", "ill"]].assign(again=counts["grade"], more=counts["grade"]),
        "yes": counts[["ill"]].assign(**{f"q{i}": counts["ill"] for i in range(6)}),
        "other": counts.iloc[:, :6] + 0.5,
        "negative": counts.iloc[:, :6] - 50,
    }
    told = {}
    for name, table in tables.items():
        table.to_csv(f"{name}.csv", index_label="id")
        table.to_parquet(f"{name}.parquet")
        assert run(["info", f"{name}.csv"]) == 0
        told[name] = capsys.readouterr().out.splitlines()[-1]
        assert run(["info", f"{name}.parquet"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split(",")[0] == told[name].split(",")[
            0
        ].replace(".csv", ".parquet")
    assert told["counts"].startswith("If these are counts, add --likelihood negative_binomial, and")
    assert "add --likelihood ordinal --likelihood-of ill=bernoulli; if counts" in told["answers"]
    assert told["yes"] == "If 0 and 1 are answers, no and yes, add --likelihood bernoulli"
    for name in ("other", "negative"):
        assert told[name] == f"Embed it: pm-gplvm fit {name}.csv"
    adata = anndata.AnnData(scipy.sparse.csr_array(counts.iloc[:, :6].to_numpy(float)))
    adata.write_h5ad("counts.h5ad")
    assert run(["info", "counts.h5ad"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == told["counts"]


def test_info_on_a_fit(done, capsys):
    for name in ("fit", "theta"):
        assert run(["info", str(done[0] / f"cells_{name}.nc")]) == 0
    estimate, drawn = capsys.readouterr().out.split("file:")[1:]
    best = gplvm.load(done[0] / "cells_fit.nc")
    assert "a fit by marginal" in estimate
    assert "40 rows × 10 features" in estimate
    assert f"pm_gplvm {gplvm.__version__}" in estimate
    assert f"lengthscale {float(best.posterior['lengthscale'][0, 0]):.3g}" in estimate
    assert "converged at an objective of" in estimate
    assert "2 chains of 800" in drawn
    assert "±" in drawn


# The program itself


def test_help_needs_no_pymc_and_has_examples():
    code = (
        "import sys\nfrom pm_gplvm.__main__ import main\nsys.argv = ['pm-gplvm', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    found = {'pymc', 'numpy', 'matplotlib', 'xarray'} & set(sys.modules)\n"
        "    sys.exit(f'{found} {end.code}' if found or end.code else 0)\n"
    )
    for arguments in ([], ["--help"], *([name, "--help"] for name in HOME)):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert "examples:\n  pm-gplvm" in result.stdout
        assert "exit codes:" in result.stdout


def test_the_names_are_those_of_the_library():
    """They stand in the help, for which nothing heavy is imported."""
    assert FITS == NAMES
    assert {*LIKELIHOODS, "binomial"} == set(FAMILIES)


def test_every_subcommand_has_a_function():
    for name, module in HOME.items():
        assert callable(getattr(import_module(f"pm_gplvm.commands.{module}"), name))


def test_the_console_script_is_the_same_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["pm-gplvm"].split(":")
    assert getattr(import_module(module), function) is import_module("pm_gplvm.__main__").main


def test_version(tmp_path):
    assert call("--version", cwd=tmp_path).stdout == f"pm_gplvm {gplvm.__version__}\n"


def test_a_reader_that_has_enough_ends_it_quietly(cells, tmp_path):
    """As head does: it closes the pipe."""
    command = [sys.executable, "-m", "pm_gplvm", "info", str(cells)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert errors == ""


PAGE = (ROOT / "docs" / "guide" / "command_line.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:(sample|align|embed|fit_variational|fit_svi)")
def test_the_commands_of_the_page_run(here, capsys):
    blocks = re.findall(r"^```(python|console)\n(.*?)^```$", PAGE, re.M | re.S)
    (_, tables), *consoles = blocks
    exec(tables, {})
    commands = [line for _, block in consoles for line in block.splitlines()]
    assert len(commands) > 10
    for command in commands:
        program, *arguments = shlex.split(command.removeprefix("$ "), comments=True)
        wanted = int(found[1]) if (found := re.search(r"# exit code (\d+)", command)) else 0
        assert program == "pm-gplvm"
        quiet = (
            [] if arguments[0] in ("info", "diagnose") or "--quiet" in arguments else ["--quiet"]
        )
        assert run([*arguments, *quiet]) == wanted, command
    written = "cells_fit.nc cells_positions.csv cells.png new_positions.csv smooth.svg bayes.zarr cells.html"
    assert set(written.split()) <= set(names(here))
    assert {f"`{name}" for name in HOME} <= set(re.findall(r"`\w+", PAGE))
    capsys.readouterr()
