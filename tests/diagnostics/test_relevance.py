"""Which latent dimensions are in use."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made import fit_of

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.relevance import dominant, relevance


@pytest.fixture
def ard(Y):
    return gplvm.build_model(Y, 3, ard=True)


@pytest.fixture
def made(ard, rng):
    """40 draws: the second dimension widest, the third in use in a quarter of them."""
    X = rng.standard_normal((2, 20, 12, 3))
    X /= X.std(axis=2, keepdims=True)
    lengthscale = np.tile([2.0, 0.5, 500.0], (2, 20, 1))
    lengthscale[:, :5, 2] = 5.0
    return fit_of(ard, X, lengthscale=lengthscale, amplitude=1.0, sigma=0.1)


def test_relevance_is_the_spread_in_lengthscales(made):
    found = relevance(Fit(made))
    assert found.dims == ("draw", "latent")
    np.testing.assert_allclose(found[:, :2], np.tile([0.5, 2.0], (40, 1)), rtol=1e-12)


def test_the_rule(made):
    table = gplvm.diagnostics.active_dimensions(made)
    assert table.index.tolist() == [1, 0, 2]
    assert table["in_use"].tolist() == [True, True, False]
    np.testing.assert_allclose(table["probability"], [1.0, 1.0, 0.25])
    np.testing.assert_allclose(table["relevance"], [2.0, 0.5, 0.002])
    assert table.loc[2, "low"] < table.loc[2, "relevance"] < table.loc[2, "high"]
    assert gplvm.diagnostics.active_dimensions(made, threshold=0.3)["in_use"].tolist() == [
        True,
        False,
        False,
    ]
    assert gplvm.diagnostics.active_dimensions(made, threshold=0.0005)["in_use"].all()


def test_the_scale_of_x_does_not_matter(made):
    larger = made.copy()
    posterior = larger["posterior"].to_dataset()
    for name in ("X", "lengthscale"):
        posterior[name] = 7.0 * posterior[name]
    larger["posterior"] = posterior
    np.testing.assert_allclose(relevance(Fit(larger)), relevance(Fit(made)), rtol=1e-12)


def test_one_draw_has_no_interval(best):
    table = gplvm.diagnostics.active_dimensions(best)
    assert table[["low", "high"]].isna().all(axis=None)
    assert set(table["probability"]) <= {0.0, 1.0}


def test_kernels_without_a_lengthscale(Y, rng):
    X = rng.standard_normal((1, 3, 12, 2)) * np.array([1.0, 4.0])
    fit = fit_of(gplvm.build_model(Y, 2, kernel="linear"), X, sigma=0.3)
    np.testing.assert_allclose(relevance(Fit(fit)), X[0].std(axis=1), rtol=1e-12)


def test_aligned_draws_keep_their_relevance_in_an_order_of_their_own(made):
    aligned = gplvm.align(made)
    here, there = (np.sort(relevance(Fit(fit)).to_numpy(), axis=1) for fit in (made, aligned))
    np.testing.assert_allclose(here, there, rtol=1e-9)


def test_a_lengthscale_that_is_held_counts(Y, rng):
    model = gplvm.build_model(Y, 2, ard=True, priors={"lengthscale": [1.0, 100.0]})
    X = rng.standard_normal((1, 4, 12, 2))
    table = gplvm.diagnostics.active_dimensions(fit_of(model, X, amplitude=1.0, sigma=0.1))
    assert table["in_use"].to_dict() == {0: True, 1: False}


def test_plot_latent_shows_the_two_most_relevant(made, best):
    assert dominant(Fit(made)) == (1, 0)
    ax = gplvm.plot.latent(made, background=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 1", "latent 0")
    ax = gplvm.plot.latent(made, dims=(0, 2), background=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 0", "latent 2")
    assert dominant(Fit(best)) == (0, 1)  # one lengthscale for both
    plt.close("all")


def test_lengthscales_that_are_held_count_as_drawn_ones(Y, rng):
    X = rng.standard_normal((1, 1, 12, 3))
    X /= X.std(axis=2, keepdims=True)
    for lengthscale, wanted in (([5.0, 0.5, 1.0], (1, 2)), (1.3, (0, 1))):
        priors = {"lengthscale": lengthscale}
        of = gplvm.build_model(Y, 3, ard=np.ndim(lengthscale) == 1, priors=priors)
        held = fit_of(of, X, amplitude=1.0, sigma=0.1)
        assert dominant(Fit(held)) == wanted


def test_plot_relevance_draws_the_table(made, best):
    table = gplvm.diagnostics.active_dimensions(made)
    ax = gplvm.plot.relevance(made)
    assert [bar.get_height() for bar in ax.patches] == table["relevance"].tolist()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "0", "2"]
    filled = [bar.get_facecolor()[:3] != (1.0, 1.0, 1.0) for bar in ax.patches]
    assert filled == table["in_use"].tolist()
    assert len(ax.collections) == 1  # the intervals
    own = plt.figure().subplots()
    assert gplvm.plot.relevance(best, ax=own) is own
    assert len(own.collections) == 0
    plt.close("all")


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1])
def test_thresholds_out_of_range(made, threshold):
    with pytest.raises(ValueError, match="threshold must be a finite number above 0 and below 1"):
        gplvm.diagnostics.active_dimensions(made, threshold=threshold)


def test_what_is_no_fit(made):
    with pytest.raises(TypeError, match="active_dimensions needs a fit"):
        gplvm.diagnostics.active_dimensions(made["posterior"].to_dataset())
