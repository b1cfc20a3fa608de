"""The order of the rows along a latent dimension."""

import warnings

import numpy as np
import pandas as pd
import pytest
from made import fit_of

import pm_gplvm as gplvm

THETA = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.1}


@pytest.fixture
def told(Y):
    prior = gplvm.priors.informative(np.linspace(-1.0, 1.0, len(Y)), 0.3)
    return gplvm.build_model(Y, 2, priors={"X": prior})


def test_ranks_are_counted_in_each_draw(told, Y, rng):
    """By counting, for each row and draw, the rows before it."""
    X = rng.standard_normal((2, 20, len(Y), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # capture times tell which dimension is which
        table = gplvm.diagnostics.order(fit_of(told, X, **THETA), dim=1)
    x = X.reshape(40, len(Y), 2)[:, :, 1]
    ranks = 1 + (x[:, None, :] < x[:, :, None]).sum(axis=2)
    np.testing.assert_allclose(table["position"], x.mean(axis=0))
    np.testing.assert_allclose(table["sd"], x.std(axis=0))
    for names, values in ((["low", "high"], x), (["rank_low", "rank_high"], ranks)):
        np.testing.assert_allclose(table[names].T, np.quantile(values, [0.055, 0.945], axis=0))
    assert table["position"].to_numpy()[np.argsort(table["rank"])].tolist() == sorted(
        x.mean(axis=0)
    )


def test_rows_that_move_together_keep_their_order(told, Y, rng):
    """Intervals of position overlap, those of rank do not."""
    X = np.zeros((1, 50, len(Y), 2))
    X[0, :, :, 0] = np.arange(len(Y)) + 30.0 * rng.standard_normal((50, 1))
    table = gplvm.diagnostics.order(fit_of(told, X, **THETA))
    assert (table["sd"] > 10.0).all()
    assert (table["rank_low"] == table["rank"]).all()
    assert (table["rank_high"] == table["rank"]).all()


def test_an_estimate_has_no_intervals(told, Y):
    X = np.zeros((1, 1, len(Y), 2))
    X[0, 0, :, 0] = np.repeat(np.arange(len(Y) // 2), 2)
    table = gplvm.diagnostics.order(fit_of(told, X, **THETA))
    assert table[["sd", "low", "high", "rank_low", "rank_high"]].isna().all(axis=None)
    assert table["rank"].tolist()[:4] == [1.5, 1.5, 3.5, 3.5]


def test_rows_keep_their_names(Y, rng):
    names = [f"cell{i}" for i in range(len(Y))]
    model = gplvm.build_model(pd.DataFrame(np.asarray(Y), index=names), 2)
    table = gplvm.diagnostics.order(fit_of(model, rng.standard_normal((1, 1, len(Y), 2)), **THETA))
    assert table.index.tolist() == names
    assert table.index.name == "obs"


def test_draws_in_frames_of_their_own_have_no_order(Y, rng):
    X = rng.standard_normal((1, 9, len(Y), 2))
    fit = fit_of(gplvm.build_model(Y, 2), X, **THETA)
    fit.attrs["method"] = "replica_exchange"
    with pytest.warns(RuntimeWarning, match=r"order got draws of X each in a frame of its own"):
        gplvm.diagnostics.order(fit)
