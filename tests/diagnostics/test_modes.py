"""Posterior modes of draws whose modes are known."""

import numpy as np
import pytest
from made import fit_of, rotations, turned

import pm_gplvm as gplvm

CHAINS, DRAWS = 4, 250


@pytest.fixture(scope="module")
def small(Y):
    """A model of 12 rows in two dimensions."""
    return gplvm.build_model(Y)


def draws_about(rng, model, places, which, *, spread=0.1):
    """Draws about the places that ``which`` names, each in a frame of its own."""
    X = places[which] + spread * rng.standard_normal((*which.shape, 12, 2))
    X = turned(X, rotations(rng, which.shape, 2))
    log_likelihood = -10.0 - 5.0 * which + 0.1 * rng.standard_normal(which.shape)
    stats = {"lp": log_likelihood, "log_likelihood": log_likelihood}
    return fit_of(model, X, lengthscale=0.5, amplitude=1.0, sigma=0.3, stats=stats)


@pytest.fixture
def places(rng):
    """Two places of 12 rows, of which rows 3 and 7 change sides."""
    one = rng.standard_normal((12, 2))
    other = one.copy()
    other[[3, 7]] = -3.0 * one[[3, 7]] - 2.0
    return np.stack([one, other])


def test_two_embeddings_with_their_weights(small, places, rng):
    which = (rng.random((CHAINS, DRAWS)) < 0.3).astype(int)
    found = gplvm.diagnostics.posterior_modes(draws_about(rng, small, places, which))
    np.testing.assert_array_equal(found.members.to_numpy(), which)
    table = found.table
    assert table["weight"].to_list() == pytest.approx([1.0 - which.mean(), which.mean()])
    # Independent draws: the binomial error.
    expected = np.sqrt(0.3 * 0.7 / which.size)
    np.testing.assert_allclose(table["error"], expected, rtol=0.25)
    np.testing.assert_allclose(table["log_likelihood"], [-10.0, -15.0], atol=0.05)
    assert table["distance"].to_list()[0] == 0.0
    assert table["distance"][1] > 0.05
    names = small.coords["obs"]
    assert {names[3], names[7]} <= set(table["rows"][1])
    assert table["chains"].to_list() == [(0, 1, 2, 3)] * 2
    assert "2 embeddings." in str(found)
    assert "too seldom" not in str(found)
    assert "<table" in found._repr_html_()


def test_the_heaviest_comes_first_and_chains_that_do_not_move_are_said(small, places, rng):
    which = np.ones((CHAINS, DRAWS), dtype=int)
    which[0] = 0
    found = gplvm.diagnostics.posterior_modes(draws_about(rng, small, places, which))
    assert found.table["chains"].to_list() == [(1, 2, 3), (0,)]
    assert found.table["log_likelihood"][0] < found.table["log_likelihood"][1]
    assert "too seldom for their weights to be trusted" in str(found)


@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_draws_about_one_place_are_one_embedding(small, places, rng, spread):
    which = np.zeros((CHAINS, DRAWS), dtype=int)
    found = gplvm.diagnostics.posterior_modes(draws_about(rng, small, places, which, spread=spread))
    assert len(found) == 1
    assert found.table["weight"][0] == 1.0
    assert found.table["error"][0] == 0.0
    assert "one embedding" in str(found)


def test_positions_held_are_one_embedding(theta):
    assert len(gplvm.diagnostics.posterior_modes(theta)) == 1


def test_users_mistakes(small, places, rng):
    fit = draws_about(rng, small, places, np.zeros((2, 10), dtype=int))
    with pytest.raises(ValueError, match="needs 40 draws or more to sort, got 20"):
        gplvm.diagnostics.posterior_modes(fit)
    with pytest.raises(
        ValueError, match=r"min_weight must be a finite number above 0 and below 0\.5, got 0\.7"
    ):
        gplvm.diagnostics.posterior_modes(fit, min_weight=0.7)
    for n_pairs in (0, 2.5, True):
        with pytest.raises(ValueError, match="n_pairs must be a whole number of at least 1"):
            gplvm.diagnostics.posterior_modes(
                draws_about(rng, small, places, np.zeros((2, 20), int)), n_pairs=n_pairs
            )
    with pytest.raises(TypeError, match="posterior_modes needs a fit"):
        gplvm.diagnostics.posterior_modes(places)
