"""The verdict on draws of which it is known what they are."""

import arviz_stats
import numpy as np
import pytest
import xarray as xr
from made import fit_of, rotations, turned
from scipy.spatial import procrustes

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.convergence import Diagnosis
from pm_gplvm.diagnostics.explored import explored
from pm_gplvm.diagnostics.invariants import invariants

CHAINS, DRAWS = 4, 300


@pytest.fixture(scope="module")
def small(Y):
    """A model of 12 rows in two dimensions."""
    return gplvm.build_model(Y)


@pytest.fixture
def places(rng):
    """Two places of 12 rows that no rotation brings together."""
    return rng.standard_normal((2, 12, 2))


def draws_about(rng, model, centres, *, spread=0.1, stats=None, turn=None, noise=None):
    """Independent draws about the centres, shape (chain, 1 or draw, N, Q)."""
    if noise is None:
        noise = rng.standard_normal((CHAINS, DRAWS, 12, 2))
    X = centres + spread * noise
    if turn is not None:
        X = turned(X, turn)
    theta = {
        n: np.exp(0.1 * rng.standard_normal(X.shape[:2])) for n in ("lengthscale", "amplitude")
    }
    sigma = 0.3 * np.exp(0.1 * rng.standard_normal(X.shape[:2]))
    stats = {"lp": rng.standard_normal(X.shape[:2])} | (stats or {})
    return fit_of(model, X, **theta, sigma=sigma, stats=stats)


def test_independent_draws_in_one_frame_have_converged(small, rng, places):
    fit = draws_about(rng, small, places[0])
    found = gplvm.diagnose(fit)
    assert found.verdict == "converged"
    assert found.converged
    assert (
        "4 chains of 300 draws agree on all that the data can tell, and on X as it stands"
        in str(found)
    )
    # The table by hand.
    known = invariants(fit).merge(explored(Fit(fit)))
    r_hat, tail = arviz_stats.rhat(known), arviz_stats.ess(known, method="tail")
    assert list(found.table.index) == list(known.data_vars)
    for name, row in found.table.iterrows():
        assert row["r_hat"] == pytest.approx(r_hat[name].max().item())
        assert row["r_hat_median"] == pytest.approx(r_hat[name].median().item())
        assert row["ess_tail"] == pytest.approx(tail[name].min().item())
        assert row["entries"] == r_hat[name].size
    assert found.embeddings["chains"].tolist() == [(0, 1, 2, 3)]


def test_a_frame_for_each_chain_is_symmetry_and_alignment_ends_it(small, rng, places):
    W = rotations(rng, (CHAINS, 1), 2)
    fit = draws_about(rng, small, places[0], turn=np.broadcast_to(W, (CHAINS, DRAWS, 2, 2)))
    found = gplvm.diagnose(fit)
    assert found.verdict == "differ by symmetry"
    assert found.converged
    assert "Align them before X is read" in str(found)
    assert gplvm.diagnose(gplvm.align(fit)).verdict == "converged"


def test_two_embeddings_are_told_apart_whatever_frame_they_came_in(small, rng, places):
    W = rotations(rng, (CHAINS, DRAWS), 2)
    which = [0, 1, 0, 0]
    stats = {"lp": np.where(np.arange(CHAINS)[:, None] == 1, 7.0, 3.0) + np.zeros((CHAINS, DRAWS))}
    fit = draws_about(rng, small, places[which][:, None], turn=W, stats=stats)
    found = gplvm.diagnose(fit)
    assert found.verdict == "different embeddings"
    assert not found.converged
    assert found.embeddings["chains"].tolist() == [(1,), (0, 2, 3)]
    assert found.embeddings["log_posterior"].tolist() == [7.0, 3.0]
    likelihood = invariants(fit)["log_likelihood"]
    assert found.embeddings["log_likelihood"][1] == pytest.approx(
        likelihood.sel(chain=[0, 2, 3]).mean().item()
    )
    apart = procrustes(*places)[2]
    assert found.embeddings["distance"].tolist() == [0.0, pytest.approx(apart, abs=0.02)]
    text = str(found)
    assert "The chains found 2 different embeddings" in text
    assert "Embedding 0: chain 1, log-likelihood" in text
    assert f"Procrustes distance {found.embeddings['distance'][1]:.2f} from embedding 0" in text


def test_three_embeddings_of_one_chain_each_and_names_of_chains_are_kept(small, rng):
    places = rng.standard_normal((4, 12, 2))
    fit = draws_about(rng, small, places[[0, 1, 2, 2]][:, None])
    for name in ("posterior", "sample_stats"):
        group = fit[name].to_dataset().isel(chain=[3, 0, 1, 2])
        fit[name] = xr.DataTree(group.assign_coords(chain=[10, 11, 12, 13]))
    found = gplvm.diagnose(fit)
    assert sorted(found.embeddings["chains"]) == [(10, 13), (11,), (12,)]


def test_one_row_that_has_several_places_is_an_embedding_of_its_own(small, rng, places):
    centres = np.repeat(places[:1], CHAINS, axis=0)
    centres[2, 5] += 3.0
    found = gplvm.diagnose(draws_about(rng, small, centres[:, None]))
    assert sorted(found.embeddings["chains"]) == [(0, 1, 3), (2,)]
    assert 0.0 < found.embeddings["distance"].max() < procrustes(*places)[2]


def test_a_chain_that_moves_from_one_embedding_to_the_other_has_not_converged(small, rng, places):
    along = np.linspace(0.0, 1.0, DRAWS)[:, None, None]
    centres = np.repeat(places[:1, None], CHAINS, axis=0).repeat(DRAWS, axis=1)
    centres[3] = (1.0 - along) * places[0] + along * places[1]
    found = gplvm.diagnose(draws_about(rng, small, centres))
    assert found.verdict == "not converged"
    assert "the two halves of chain 3 lie in different embeddings" in str(found)
    assert len(found.embeddings) == 1


def test_slow_draws_of_one_embedding_have_not_mixed(small, rng, places):
    steps = rng.standard_normal((CHAINS, DRAWS, 12, 2))
    noise = np.empty_like(steps)
    noise[:, 0] = steps[:, 0]
    for i in range(1, DRAWS):
        noise[:, i] = 0.9 * noise[:, i - 1] + np.sqrt(1 - 0.9**2) * steps[:, i]
    found = gplvm.diagnose(draws_about(rng, small, places[0], noise=noise))
    assert found.verdict == "not converged"
    assert "all have been to the same places and have not mixed enough" in str(found)
    assert found.table.loc["distance", "ess_bulk"] < 400


def test_chains_that_stand_still_are_as_many_embeddings(small, rng, places):
    # Each chain is one point, repeated: no variance within, and nothing may be divided by it.
    centres = rng.standard_normal((CHAINS, 1, 12, 2))
    X = np.repeat(centres, DRAWS, axis=1)
    found = gplvm.diagnose(fit_of(small, X, lengthscale=1.0, amplitude=1.0, sigma=0.3))
    assert found.verdict == "different embeddings"
    assert len(found.embeddings) == CHAINS
    assert found.table.loc["distance", "r_hat"] > 1e6


def test_divergences_and_cut_off_trees_are_said(small, rng, places):
    flags = np.zeros((2, CHAINS, DRAWS), dtype=bool)
    flags[0, 1, :7], flags[1, :, :2] = True, True
    stats = {"diverging": flags[0], "reached_max_treedepth": flags[1]}
    found = gplvm.diagnose(draws_about(rng, small, places[0], stats=stats))
    assert (found.divergences, found.saturated) == (7, 8)
    assert "7 of 1200 transitions diverged" in str(found)
    assert "8 of 1200 trees were cut off at the largest depth" in str(found)
    none = {name: np.zeros_like(flags[0]) for name in stats}
    found = gplvm.diagnose(draws_about(rng, small, places[0], stats=none))
    assert "No transition diverged, no tree was cut off." in str(found)
    unsaid = gplvm.diagnose(draws_about(rng, small, places[0]))
    assert (unsaid.divergences, unsaid.saturated) == (None, None)
    assert "diverged" not in str(unsaid)


def test_one_chain_is_compared_with_itself(small, rng, places):
    noise = rng.standard_normal((1, 2000, 12, 2))
    found = gplvm.diagnose(draws_about(rng, small, places[0], noise=noise))
    assert found.verdict == "one chain"
    assert not found.converged
    assert "Whether another would find another embedding it cannot tell" in str(found)
    moved = places[np.repeat([0, 1], 1000)]
    found = gplvm.diagnose(draws_about(rng, small, moved[None], noise=noise))
    assert found.verdict == "not converged"
    assert "1 chain of 2000 draws; the two halves of chain 0 lie" in str(found)


def test_draws_from_an_approximation_are_not_asked_whether_they_have_converged(small, rng, places):
    fit = draws_about(rng, small, places[0], noise=rng.standard_normal((1, 2000, 12, 2)))
    fit.attrs["method"] = "laplace"
    assert "2000 independent draws from an approximation" in str(gplvm.diagnose(fit))


def test_a_mode_and_a_handful_of_draws_are_met_with_words(best, small, rng, places):
    found = gplvm.diagnose(best)
    assert found.verdict == "too few draws"
    assert str(found) == "One draw: a point, which has nothing to say about uncertainty."
    assert found.embeddings["log_likelihood"].item() == pytest.approx(
        best.sample_stats["log_likelihood"].item()
    )
    few = gplvm.diagnose(draws_about(rng, small, places[0]).isel(draw=slice(5)))
    assert str(few) == "Too few draws to judge: 5 a chain, wanted 8 or more."


def test_a_real_posterior_of_theta_has_converged_in_the_one_frame_it_was_given(theta):
    found = gplvm.diagnose(theta)
    assert found.verdict == "converged"
    assert found.divergences == 0
    ess = arviz_stats.ess(theta.posterior["sigma"].to_dataset()).sigma.item()
    assert found.table.loc["sigma", "ess_bulk"] == pytest.approx(ess)


def log_density(X, Y, sigma):
    """ln p(Y, X) of a stack of X, lengthscale and amplitude 1."""
    K = np.exp(-0.5 * (X - X.swapaxes(1, 2)) ** 2) + sigma**2 * np.eye(len(Y))
    quad = np.einsum("nd,cnd->c", Y, np.linalg.solve(K, np.broadcast_to(Y, (len(X), *Y.shape))))
    prior = -0.5 * (X**2).sum(axis=(1, 2)) - 0.5 * len(Y) * np.log(2.0 * np.pi)
    constant = Y.shape[1] * (np.linalg.slogdet(K)[1] + len(Y) * np.log(2.0 * np.pi))
    return prior - 0.5 * (quad + constant)


def metropolis(log_p, X, rng, *, draws, thin, step):
    """Random-walk Metropolis of several chains at once: slow and obvious."""
    level, kept = log_p(X), []
    for i in range(draws * thin):
        proposed = X + step * rng.standard_normal(X.shape)
        value = log_p(proposed)
        accepted = np.log(rng.uniform(size=len(X))) < value - level
        X = np.where(accepted[:, None, None], proposed, X)
        level = np.where(accepted, value, level)
        if i % thin == thin - 1:
            kept.append((X, level))
    return (np.stack(part, axis=1) for part in zip(*kept, strict=True))


def test_a_real_posterior_of_x_from_mirrored_starts_differs_by_symmetry(rng):
    # Five rows on a line, θ known: the mirror image is too far away for small steps.
    x = np.array([-1.5, -0.7, 0.1, 0.8, 1.5])[:, None]
    K = np.exp(-0.5 * (x - x.T) ** 2) + 0.01 * np.eye(5)
    Y = np.linalg.cholesky(K) @ rng.standard_normal((5, 8))
    Y -= Y.mean(axis=0)
    theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.1}
    model = gplvm.build_model(Y, latent_dim=1, priors=theta, scale="none", resolution=0)
    X, levels = metropolis(
        lambda X: log_density(X, Y, 0.1),
        np.stack([x, -x, x, -x]),
        rng,
        draws=1000,
        thin=40,
        step=0.12,
    )
    fit = fit_of(model, X, stats={"lp": levels})
    found = gplvm.diagnose(fit)
    assert found.verdict == "differ by symmetry", found
    assert gplvm.diagnose(gplvm.align(fit)).verdict == "converged"
    # Two routes to the level.
    prior = -0.5 * (X**2).sum(axis=(2, 3)) - 2.5 * np.log(2.0 * np.pi)
    np.testing.assert_allclose(invariants(fit)["log_likelihood"], levels - prior, rtol=1e-9)


def test_it_is_printed_and_shown_in_notebooks(small, rng, places):
    found = gplvm.diagnose(draws_about(rng, small, places[[0, 1, 0, 0]][:, None]))
    assert isinstance(found, Diagnosis)
    for word in ("distance", "r_hat", "ess_bulk", "chains"):
        assert word in repr(found)
        assert word in found._repr_html_()
    html = found._repr_html_()
    assert html.count("<table") == 2
    assert html.count("<p>") == len(found.sentences)


def test_wrong_input_is_refused(best):
    with pytest.raises(TypeError, match="diagnose needs a fit"):
        gplvm.diagnose([1.0])
    with pytest.raises(ValueError, match="n_pairs must be a whole number of at least 1"):
        gplvm.diagnose(best, n_pairs=0)
