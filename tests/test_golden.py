"""Every verb gives the numbers that it gave when they were frozen (golden/, freeze.py)."""

import inspect
import json

import numpy as np
import pytest
from golden import cases, files

import pm_gplvm as gplvm

# Public names whose numbers are not frozen: what makes and keeps models, tables and pictures, and
# what only calls the verbs that are.
WITHOUT = {
    "GPColumns",
    "GPLVM",
    "GPLVMClassifier",
    "GPLVMRegressor",
    "build_model",
    "covariance",
    "fit_svi",
    "load",
    "resume",
    "sample_prior",
    "save",
    "diagnostics.order",
    "priors.transitions",
    "summary",
    "data.load_digits",
    "data.load_table",
    "data.view",
    "diagnostics.cross_validate",
    "diagnostics.log_evidence",
    "diagnostics.neighbour_probabilities",
    "diagnostics.posterior_modes",
    "diagnostics.sbc",
    "diagnostics.sbc_test",
    "diagnostics.score_embedding",
    "diagnostics.score_entries",
    "diagnostics.summarise_theta",
    "model.build_sparse",
    "model.build_variational",
    "model.compile_mode",
    "model.rebuild",
    "plot.compare",
    "plot.explore",
    "plot.forecast",
    "plot.latent",
    "plot.magnification",
    "plot.optima",
    "plot.parts",
    "plot.prior",
    "plot.reconstruction",
    "plot.relevance",
    "priors.back_constraint",
    "priors.circular",
    "priors.class_mixture",
    "priors.dynamics",
    "priors.informative",
}
VERBS = {case.verb for case in cases.CASES.values()}


@pytest.mark.parametrize("name", cases.CASES)
def test_numbers_are_the_frozen_ones(name):
    case = cases.CASES[name]
    frozen = files.read(case.verb).get(name)
    assert frozen, f"{name} is not frozen: python tests/freeze.py --write {name}"
    lines = files.changes(case.make(), frozen, case.rtol)
    assert not lines, (
        f"{case.verb} gives other numbers than it did ({case.why}):\n  "
        + "\n  ".join(lines)
        + f"\nIf that is meant: python tests/freeze.py --write {name}"
    )


def test_every_public_name_is_frozen_or_named_here():
    spaces = {name for name in gplvm.__all__ if inspect.ismodule(getattr(gplvm, name))}
    names = set(gplvm.__all__) - spaces
    names |= {f"{space}.{name}" for space in spaces for name in getattr(gplvm, space).__all__}
    # What is an object, or takes many seconds, has its numbers in tests of its own.
    names = {name for name in names if not name.startswith(("likelihoods.", "kernels."))}
    assert names >= WITHOUT
    assert {name.rpartition(".")[2] for name in names - WITHOUT} == VERBS


def test_nothing_is_frozen_without_a_case():
    assert {path.stem for path in files.FOLDER.iterdir()} == VERBS
    assert {name for verb in VERBS for name in files.read(verb)} == set(cases.CASES)


def test_files_are_small():
    assert sum(path.stat().st_size for path in files.FOLDER.iterdir()) < 170_000


# That a change is seen


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_number_that_moves_is_seen(verb):
    for name, frozen in files.read(verb).items():
        rtol = cases.CASES[name].rtol
        assert not files.changes(frozen, frozen, rtol)
        for array, value in frozen.items():
            flat = value.ravel()
            seen = np.flatnonzero(np.isfinite(flat) & (flat != 0.0))
            largest = max(seen, key=lambda i: abs(flat[i]), default=None)
            if largest is None:
                continue
            moved = flat.copy()
            moved[largest] *= 1.0 + 2.0 * rtol
            (line,) = files.changes(frozen | {array: moved.reshape(value.shape)}, frozen, rtol)
            assert line.startswith(f"{array}: differs by ")


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({}, "x: is gone"),
        ({"x": [1.0, np.nan], "y": 1.0}, "y: is new"),
        ({"x": [[1.0, np.nan]]}, r"x: has shape (1, 2), frozen (2,)"),
        ({"x": [1.0, 2.0]}, "x: differs by inf of its size (rtol 1e-09)"),
        ({"x": [np.nan, np.nan]}, "x: differs by inf of its size (rtol 1e-09)"),
        ({"x": [1.0 + 1e-7, np.nan]}, "x: differs by 1e-07 of its size (rtol 1e-09)"),
    ],
)
def test_changes_are_told(found, line):
    assert files.changes(found, {"x": np.array([1.0, np.nan])}, 1e-9) == [line]


def test_small_numbers_are_held_to_a_thousandth_of_the_largest():
    assert files.difference([1000.0, 1e-9], [1000.0, 0.0]) == pytest.approx(1e-9)
    assert files.difference([0.0, 1e-300], [0.0, 0.0]) == np.inf
    assert files.difference([0.0, np.nan], [0.0, np.nan]) == 0.0


def test_a_file_comes_back_with_every_digit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    arrays = {"a": np.array([[0.1, 1 / 3], [np.nan, -1e-300]]), "b": np.float64(np.pi)}
    files.write("verb", {"case": arrays})
    again = files.read("verb")["case"]
    assert list(again) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
    assert "   [0.1,0.3333333333333333],\n" in (tmp_path / "verb.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "verb.json").read_text(encoding="utf-8"))
