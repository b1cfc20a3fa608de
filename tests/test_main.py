"""The main job, run as a user runs it: in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import simulated

import pm_gplvm as gplvm
from pm_gplvm.__main__ import run
from pm_gplvm.fitting import optimise
from pm_gplvm.sampling import nuts

FAST = ["--draws", "800", "--tune", "400", "--chains", "2", "--quiet"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A CSV file with names of rows and a column of classes."""
    table = simulated(n=40, d=10, seed=4)
    frame = pd.DataFrame(table.to_numpy(), index=table["obs"], columns=table["feature"])
    frame.insert(0, "stage", table["label"].to_numpy())
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
        env={**os.environ, "MPLBACKEND": "Agg"},
        check=False,
    )


@pytest.fixture(scope="module")
def done(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    return folder, call(cells, "--label", "stage", "--scale", "feature", *FAST, cwd=folder)


def test_it_writes_two_fits_and_a_picture_and_prints_a_table(done):
    folder, result = done
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in folder.iterdir()) == [
        "cells.png",
        "cells_fit.nc",
        "cells_theta.nc",
    ]
    words = ("objective", "nn_agreement", "trustworthiness", "PCA", "GP-LVM", "ess_bulk", "r_hat")
    for word in words:
        assert word in result.stdout
    best = gplvm.load(folder / "cells_fit.nc")
    assert best.attrs["method"] == "marginal"
    assert best.posterior["obs"].to_numpy()[0] == "row0"
    assert set(best.posterior["label"].to_numpy()) == {"left", "right"}
    assert gplvm.load(folder / "cells_theta.nc").posterior.sizes["draw"] == 800
    assert (folder / "cells.png").read_bytes().startswith(b"\x89PNG")


def test_the_printed_numbers_are_those_of_the_files(done):
    folder, result = done
    best, theta = (gplvm.load(folder / f"cells_{kind}.nc") for kind in ("fit", "theta"))
    table = gplvm.diagnostics.summarise_theta(best, theta)
    for name in table.index:
        assert f"{table.loc[name, 'mean']:.4g}" in result.stdout


def test_columns_are_divided_by_what_was_asked_for(done, cells):
    folder, _ = done
    columns = pd.read_csv(cells, index_col="id").drop(columns="stage")
    scale = gplvm.load(folder / "cells_fit.nc").constant_data["Y_scale"]
    np.testing.assert_allclose(scale, columns.std(ddof=0), rtol=1e-6)


def test_it_does_not_overwrite_without_being_told(done, cells):
    folder, _ = done
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    result = call(cells, "--label", "stage", *FAST, cwd=folder)
    assert result.returncode == 2
    assert "cells_fit.nc" in result.stderr
    assert "--overwrite" in result.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_at_a_terminal_it_asks(done, cells, monkeypatch, capsys):
    folder, _ = done
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert run([str(cells), "--label", "stage", *FAST]) == 1
    assert "Replace?" in asked[0]
    assert "Nothing was changed" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "There is no file nowhere.csv"),
        (["--out", "no/where"], "The folder no does not exist"),
        (["--latent-dim", "100"], "latent_dim must lie between 1 and min(N, D) = 64, got 100"),
        (["--kernel", "cubic"], "kernel must be one of rbf"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, arguments, message):
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_text_is_read_as_asked_for(cells, tmp_path):
    rows = cells.read_text().split("\n", 1)[1]
    (tmp_path / "bare.csv").write_text(rows.replace(",", ";").replace(".", ","))
    result = call("bare.csv", "--label", "1", cwd=tmp_path)
    assert result.returncode == 2
    assert "--header no" in result.stderr
    asked = ("--sep", ";", "--decimal", ",", "--header", "no", "--index", "0", "--label", "1")
    result = call("bare.csv", *asked, "--latent-dim", "100", cwd=tmp_path)
    assert (
        "min(N, D) = 10, got 100" in result.stderr
    )  # the table was read, its 10 columns of numbers


def test_a_column_of_text_is_told_with_the_way_out(cells, tmp_path):
    result = call(cells, cwd=tmp_path)
    assert result.returncode == 2
    assert "--label stage" in result.stderr


def test_holes_in_a_file_are_told(cells, tmp_path):
    frame = pd.read_csv(cells)
    frame.iloc[2, 3] = np.nan
    frame.to_csv(tmp_path / "holes.csv", index=False)
    result = call("holes.csv", "--label", "stage", cwd=tmp_path)
    assert result.returncode == 2
    assert "1 missing (NaN) and 0 infinite values" in result.stderr


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
    module, work, n, written, partial, cells, tmp_path, ctrl_c, monkeypatch, capsys
):
    ctrl_c(module, work, n)
    monkeypatch.chdir(tmp_path)
    assert run([str(cells), "--label", "stage", *FAST]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert "Interrupted. Written: " + ", ".join(written) in capsys.readouterr().err
    assert gplvm.load(written[-1]).attrs["interrupted"] == int(partial)


def test_ctrl_c_before_anything_is_written(cells, tmp_path, ctrl_c, monkeypatch, capsys):
    ctrl_c(optimise, "minimize", 1)
    monkeypatch.chdir(tmp_path)
    assert run([str(cells), "--label", "stage", *FAST]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "Interrupted. Written: nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("draws", 0), ("tune", -1), ("chains", 0), ("restarts", -1), ("seed", -1)],
)
def test_numbers_are_checked_before_the_work(tmp_path, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^--{option} must be a whole number"):
        run([f"--{option}", str(value)])
    assert not list(tmp_path.iterdir())
