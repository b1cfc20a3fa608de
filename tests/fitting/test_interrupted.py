"""Ctrl-C in the fits that climb: what is kept is what the uninterrupted fit had then, and it is said once."""

from functools import partial

import numpy as np
import pytest
from conftest import simulated

import pm_gplvm as gplvm
from pm_gplvm.fitting import laplace, optimise
from pm_gplvm.fitting.relocation import Relocation

QUIET = {"random_seed": 1, "progressbar": False}
FITS = {
    "fit_map": partial(gplvm.fit_map, n_restarts=2, **QUIET),
    "fit_marginal": partial(gplvm.fit_marginal, n_restarts=2, **QUIET),
    "fit_sparse": partial(gplvm.fit_sparse, n_inducing=6, n_restarts=2, **QUIET),
    "fit_variational": partial(gplvm.fit_variational, n_inducing=6, n_restarts=2, hold=20, **QUIET),
}
one_of_each = pytest.mark.parametrize("name", FITS)


@pytest.fixture(scope="module")
def table():
    """20 x 10, which no fit complains of."""
    return simulated(20, 10, seed=4)


@pytest.fixture
def evaluated(monkeypatch):
    """Objectives at all evaluations of a run."""
    values, negative = [], optimise._Run.negative

    def noted(self, vector):
        try:
            return negative(self, vector)
        finally:
            values.append(self.trace[-1])

    monkeypatch.setattr(optimise._Run, "negative", noted)
    return values


@one_of_each
def test_the_best_so_far_is_returned_and_no_further_start_is_run_from(
    name, table, ctrl_c, evaluated
):
    model = gplvm.build_model(table)
    whole = FITS[name](model)
    assert whole.attrs["interrupted"] == 0
    before, at = list(evaluated), len(evaluated) // 2
    evaluated.clear()
    ctrl_c(optimise._Run, "negative", at)
    with pytest.warns(RuntimeWarning, match=f"{name} was interrupted: .* kept") as said:
        fit = FITS[name](model)
    assert [warning.filename for warning in said] == [__file__]
    assert evaluated == before[:at]
    assert fit.attrs["interrupted"] == 1
    optima = fit["optima"]
    assert "interrupted" in optima["message"].to_numpy()
    assert optima["objective"].to_numpy().max() == optima["objective"].to_numpy()[0]
    assert float(optima["objective"][0]) in before[:at]
    if "trace" in fit:
        trace = fit["trace"]["objective"].to_numpy()
        assert trace[-1] == float(optima["objective"][0])


@one_of_each
def test_before_the_first_evaluation_there_is_nothing(name, table, ctrl_c):
    ctrl_c(optimise._Run, "begin", 1)
    with pytest.raises(KeyboardInterrupt):
        FITS[name](gplvm.build_model(table))


@one_of_each
def test_the_second_ends_it_at_once(name, table, ctrl_c):
    ctrl_c(optimise._Run, "negative", 20, 20)
    with pytest.raises(KeyboardInterrupt):
        FITS[name](gplvm.build_model(table))


@pytest.mark.parametrize("name", ["fit_map", "fit_sparse", "fit_variational"])
def test_as_a_run_begins(name, table, ctrl_c, monkeypatch):
    """Nothing has moved yet; this start is the last one."""
    runs, minimize = [], optimise.minimize

    def counted(*args, **kwargs):
        runs.append(args)
        return minimize(*args, **kwargs)

    monkeypatch.setattr(optimise, "minimize", counted)
    ctrl_c(optimise, "minimize", 1)
    with pytest.warns(RuntimeWarning, match="its only start so far is kept"):
        fit = FITS[name](gplvm.build_model(table))
    assert len(runs) == 1
    assert fit["optima"]["message"].to_numpy().tolist() == ["interrupted"]


def test_a_later_start_though_the_first_had_converged(table, ctrl_c):
    """The first is kept as it is, with what it says of itself; that there are others is said."""
    model = gplvm.build_model(table)
    search = partial(gplvm.fit_sparse, n_inducing=6, n_restarts=30, **QUIET)
    whole = gplvm.fit_sparse(model, n_inducing=6, **QUIET)
    assert whole.attrs["converged"] == 1
    ctrl_c(optimise, "minimize", 2)
    with pytest.warns(RuntimeWarning, match="the best of 2 starts .* has converged; .* left"):
        fit = search(model)
    assert (fit.attrs["converged"], fit.attrs["interrupted"]) == (1, 1)
    assert fit["optima"]["message"].to_numpy().tolist() == ["converged", "interrupted"]


def test_while_rows_are_offered_other_places(table, ctrl_c, monkeypatch):
    offered, better = [], Relocation._better

    def counted(*args):
        offered.append(args)
        return better(*args)

    monkeypatch.setattr(Relocation, "_better", counted)
    whole = gplvm.fit_map(gplvm.build_model(table), **QUIET)
    assert len(offered) > 3
    offered.clear()
    ctrl_c(Relocation, "_better", 3)
    with pytest.warns(RuntimeWarning, match="the best of 4 starts is kept"):
        fit = gplvm.fit_map(gplvm.build_model(table), **QUIET)
    assert len(offered) == 3
    assert (fit.attrs["converged"], fit.attrs["interrupted"]) == (0, 1)
    assert fit["sample_stats"]["lp"] < whole["sample_stats"]["lp"]


def test_it_goes_on_from_what_was_kept(table, ctrl_c, monkeypatch):
    model = gplvm.build_model(table)
    ctrl_c(optimise._Run, "negative", 30)
    with pytest.warns(RuntimeWarning, match="Go on from here with fit_map"):
        fit = gplvm.fit_map(model, **QUIET)
    monkeypatch.undo()
    further = gplvm.fit_map(model, start=fit, **QUIET)
    assert (further.attrs["converged"], further.attrs["interrupted"]) == (1, 0)
    lp = [float(f["sample_stats"]["lp"][0, 0]) for f in (fit, further)]
    assert lp[1] > lp[0]


# fit_laplace: its draws can be fewer, its mode cannot be half of one


@pytest.fixture(scope="module")
def mode(table):
    model = gplvm.build_model(table)
    return model, gplvm.fit_marginal(model, **QUIET)


def test_the_draws_that_were_reached(mode, ctrl_c):
    model, start = mode
    settings = {"start": start, "draws": 30, **QUIET}
    whole = gplvm.fit_laplace(model, **settings)
    ctrl_c(laplace._Target, "__call__", 1 + 12)  # the mode is the first
    with pytest.warns(RuntimeWarning, match="12 of 30 draws are kept") as said:
        fit = gplvm.fit_laplace(model, **settings)
    assert [warning.filename for warning in said] == [__file__]
    assert fit.attrs["interrupted"] == 1
    for group in ("posterior", "sample_stats"):
        for name, values in whole[group].data_vars.items():
            np.testing.assert_array_equal(fit[group][name], values[:, :12])


@pytest.mark.parametrize(
    ("module", "work"),
    [(laplace, "maximise"), (optimise, "minimize"), (laplace, "invariant_planes")],
)
def test_no_gaussian_about_half_a_climb(module, work, mode, ctrl_c):
    ctrl_c(module, work, 1)
    with pytest.raises(KeyboardInterrupt):
        gplvm.fit_laplace(mode[0], start=mode[1], draws=5, **QUIET)
