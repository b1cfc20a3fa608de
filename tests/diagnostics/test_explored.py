"""False passes: what agreement of random distances does not show, and diagnose must."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from made import fit_of, rotations, turned
from scipy.signal import lfilter
from scipy.spatial.distance import pdist
from scipy.stats import kstat
from sklearn.decomposition import PCA

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics import explored as module
from pm_gplvm.diagnostics.explored import arrangements, climbing, explored, sarle
from pm_gplvm.diagnostics.invariants import invariants, row_pairs

CHAINS, DRAWS = 4, 1000
NEW = ["distance_components", "bimodal_distance", "arrangement"]
QUIET = {"random_seed": 1, "progressbar": False}


@pytest.fixture(scope="module")
def small(Y):
    """A model of 12 rows in two dimensions."""
    return gplvm.build_model(Y)


@pytest.fixture(scope="module")
def own():
    """A model of 30 rows with a covariance of its own: what diagnose has of it are distances."""
    with pm.Model() as model:
        X = pm.Normal("X", shape=(30, 2))
        K = pm.gp.cov.RatQuad(2, alpha=1.0, ls=1.0)(X) + 0.1 * np.eye(30)
        gplvm.GPColumns("Y", K, observed=np.random.default_rng(0).standard_normal((3, 30)))
    return model


def two_sides(rng, shares):
    """In which of two arrangements each draw is, independent draws."""
    return rng.random((CHAINS, DRAWS)) < np.asarray(shares)[:, None]


def flipped(rng, model, side, *, spread=0.1, stats=None):
    """Twelve rows, of which the last three lie on one side of the others or, mirrored, on the other."""
    place = np.random.default_rng(3).standard_normal((12, 2))
    place[9:] = [3.0, 0.0] + 0.2 * place[9:]
    other = place.copy()
    other[9:, 0] *= -1.0
    X = np.where(side[..., None, None], other, place)
    X = turned(X + spread * rng.standard_normal(X.shape), rotations(rng, side.shape, 2))
    stats = {"lp": rng.standard_normal(side.shape)} | (stats or {})
    return fit_of(model, X, lengthscale=1.0, amplitude=1.0, sigma=0.3, stats=stats)


def passes(table):
    """Whether a table passes, by the thresholds of Vehtari et al. (2021)."""
    ess = table[["ess_bulk", "ess_tail"]].to_numpy().min()
    return table["r_hat"].max() <= 1.01 and ess >= 100 * CHAINS


# The numbers


def test_components_are_those_of_all_distances(small, rng):
    fit = flipped(rng, small, two_sides(rng, [0.3] * CHAINS))
    found = explored(Fit(fit))
    Z = fit.posterior["X"].to_numpy().reshape(-1, 12, 2)
    every = np.stack([pdist(z) for z in Z])
    few = np.unique(np.linspace(0, len(Z) - 1, 1000).round()).astype(int)
    scores = PCA(5, svd_solver="full").fit(every[few]).transform(every)
    ours = found["distance_components"].to_numpy().reshape(-1, 5)
    signs = np.sign((ours * scores).sum(axis=0))
    np.testing.assert_allclose(ours, signs * scores, atol=1e-6)
    # The clearest pair, by a loop over all.
    first, second = (found["bimodal_distance"].attrs[side] for side in ("first", "second"))
    apart = np.linalg.norm(Z[:, first] - Z[:, second], axis=1)
    np.testing.assert_allclose(found["bimodal_distance"].to_numpy().ravel(), apart)
    assert (first >= 9) != (second >= 9)
    wide = every[few].std(axis=0) >= np.median(every[few].std(axis=0))
    assert sarle(apart[few, None])[0] == pytest.approx(sarle(every[few][:, wide]).max())


def test_in_blocks_and_of_more_draws_than_pairs_they_are_the_same(small, rng, monkeypatch):
    fit = flipped(rng, small, two_sides(rng, [0.3] * CHAINS))
    whole = explored(Fit(fit))
    monkeypatch.setattr(module, "_BLOCK", 1000)
    for name, values in explored(Fit(fit)).data_vars.items():
        np.testing.assert_allclose(values, whole[name], atol=1e-10)
    few = explored(Fit(fit.isel(draw=slice(10))))  # fewer draws than pairs
    Z = fit.isel(draw=slice(10)).posterior["X"].to_numpy().reshape(-1, 12, 2)
    scores = PCA(5, svd_solver="full").fit_transform(np.stack([pdist(z) for z in Z]))
    ours = few["distance_components"].to_numpy().reshape(-1, 5)
    np.testing.assert_allclose(abs(ours), abs(scores), atol=1e-9)


def test_sarles_coefficient_by_k_statistics(rng):
    values = np.column_stack([rng.standard_normal(50), rng.exponential(size=50), np.ones(50)])
    n = len(values)
    for column, found in zip(values.T[:2], sarle(values), strict=False):
        k2, k3, k4 = (kstat(column, order) for order in (2, 3, 4))
        expected = ((k3 / k2**1.5) ** 2 + 1.0) / (
            k4 / k2**2 + 3.0 * (n - 1) ** 2 / ((n - 2) * (n - 3))
        )
        assert found == pytest.approx(expected)
    assert sarle(values)[2] == 0.0
    many = np.column_stack([rng.standard_normal(10**5), rng.random(10**5)])
    np.testing.assert_allclose(sarle(many), [1 / 3, 5 / 9], atol=0.01)
    for share in (0.1, 0.5):
        sides = (rng.random(10**5) < share)[:, None].astype(float)
        assert sarle(sides)[0] == pytest.approx(1.0, abs=1e-3)


def test_a_rare_second_place_does_not_hide_one_that_counts(small, rng):
    side = two_sides(rng, [0.3] * CHAINS)
    fit = flipped(rng, small, side)
    X = fit.posterior["X"].to_numpy().copy()
    X[0, ::500, 0] += 50.0  # two draws of 4000, far away: the larger coefficient
    fit["posterior"]["X"][:] = X
    found = arrangements(Fit(fit), invariants(fit).merge(explored(Fit(fit))))
    np.testing.assert_allclose(np.abs(found.shares - 0.5), 0.2, atol=0.05)


def test_estimates_held_positions_and_draws_that_do_not_move(best, theta, small):
    assert not explored(Fit(best)).data_vars
    X = np.repeat(np.random.default_rng(0).standard_normal((1, 1, 12, 2)), 20, axis=1)
    assert not explored(Fit(fit_of(small, X, lengthscale=1.0, amplitude=1.0, sigma=0.3))).data_vars
    # Where only the lengthscale moves, all distances are one number.
    assert explored(Fit(theta)).sizes["component"] == 1


# False passes, of draws whose truth is known


def test_many_small_shifts_that_no_single_distance_shows(own, rng):
    """Thirty rows that all move a little: 60 random distances pass at any seed, the components do not."""
    place, push = 2.0 * rng.standard_normal((30, 2)), rng.standard_normal((30, 2))
    push *= 0.35 / np.linalg.norm(push, axis=1, keepdims=True)

    def drawn(shares):
        side = two_sides(rng, shares)[..., None, None] - 0.5
        X = place + side * push + 0.5 * rng.standard_normal((CHAINS, DRAWS, 30, 2))
        return fit_of(own, X, stats={"lp": rng.standard_normal((CHAINS, DRAWS))})

    found = gplvm.diagnose(drawn([0.15, 0.45, 0.45, 0.45]))
    assert passes(found.table.drop(index=NEW, errors="ignore"))
    assert found.verdict == "not converged"
    assert found.table["r_hat"].idxmax() == "distance_components"
    assert found.table["r_hat"].max() > 1.015
    assert gplvm.diagnose(drawn([0.4] * CHAINS)).verdict == "converged"


@pytest.fixture(scope="module")
def untouched():
    """Options of diagnose by which no pair has a row of the island."""
    seed = next(s for s in range(100) if max(map(max, row_pairs(12, 2, s))) < 9)
    return {"n_pairs": 2, "random_seed": seed}


def test_shares_that_differ_in_pairs_that_were_not_looked_at(small, rng, untouched):
    shares = [0.21, 0.02, 0.02, 0.11]
    found = gplvm.diagnose(flipped(rng, small, two_sides(rng, shares)), **untouched)
    assert passes(found.table.loc[["distance", "covariance"]])
    assert not found.converged
    # The side itself is sharper than the distance by which it is known.
    assert found.table.loc["bimodal_distance", "r_hat"] > 1.01
    assert found.table["r_hat"].idxmax() == "arrangement"
    assert found.table["r_hat"].max() > 1.03
    assert found.sentences[0].startswith("Not converged: 4 chains of 1000 draws; two arrangements")
    assert "the chains give them different weights" in found.sentences[0]
    assert "posterior_modes" in found.sentences[0]
    told = found.sentences[1]
    assert told.startswith("Two arrangements of the rows: ")
    by_chain = [float(n) for n in told.split("by chain: ")[1].split(";")[0].split(", ")]
    distance = np.abs(np.array(by_chain) - shares), np.abs(1.0 - np.array(by_chain) - shares)
    assert min(d.max() for d in distance) < 0.05
    near, far = told.split(" are ")[1].split(" lengthscales")[0].split(" or ")
    assert float(near) < float(far)


def test_chains_that_keep_to_one_side_found_two_embeddings(small, rng, untouched):
    side = two_sides(rng, [0.0, 1.0, 0.0, 0.0])
    found = gplvm.diagnose(flipped(rng, small, side), **untouched)
    assert passes(found.table.loc[["distance", "covariance"]])
    assert found.verdict == "different embeddings"
    assert sorted(found.embeddings["chains"]) == [(0, 2, 3), (1,)]
    assert "The chains found 2 different embeddings: 4 chains of 1000 draws, 2 arr" in str(found)
    assert found.sentences[1].startswith("What tells them apart most: rows ")
    within, between = found.sentences[0].split("R-hat of their distances is ")[1].split(" at most ")
    assert float(within) <= 1.01
    assert float(between.split("arrangement, ")[1].split(" ")[0]) > 1.5


def test_draws_that_change_sides_rightly_pass_and_the_two_are_told(small, rng, untouched):
    found = gplvm.diagnose(flipped(rng, small, two_sides(rng, [0.3] * CHAINS)), **untouched)
    assert found.verdict == "converged", found
    assert "Two arrangements of the rows: rows" in found.sentences[1]
    one = gplvm.diagnose(flipped(rng, small, np.zeros((CHAINS, DRAWS), dtype=bool)))
    assert one.verdict == "converged", one
    assert "arrangements" not in str(one)


def test_few_independent_draws_are_as_good_for_the_components(small, rng):
    """Chosen by all draws alike, components of noise pass as any number does."""
    high = []
    for _ in range(20):
        fit = flipped(rng, small, np.zeros((CHAINS, DRAWS), dtype=bool)).isel(draw=slice(40))
        table = gplvm.diagnose(fit, n_pairs=1).table
        high.append(table.loc[["distance", *NEW[:2]], "r_hat_median"])
    one, components, bimodal = np.mean(high, axis=0)
    assert components < one + 0.02
    assert bimodal < one + 0.02


def islands(n, far, *, seed=0, noise=0.1):
    """Model of two stretches of a line that no covariance joins, and its positions on either side."""
    rng = np.random.default_rng(seed)
    parts = np.linspace(-0.8, 0.8, n), np.linspace(-0.3, 0.3, far)
    F = []
    for x in parts:
        K = np.exp(-0.5 * (x[:, None] - x) ** 2) + 1e-9 * np.eye(len(x))
        F.append(np.linalg.cholesky(K) @ rng.standard_normal((len(x), 6)))
    Y = np.vstack(F) + noise * rng.standard_normal((n + far, 6))
    theta = {"lengthscale": 0.4, "amplitude": 1.0, "sigma": noise}
    model = gplvm.build_model(Y, latent_dim=1, priors=theta, scale="none", resolution=0)
    right = np.r_[parts[0], parts[1] + 2.8]
    left = np.where(np.arange(n + far) < n, right, -right)
    return model, [0.4 * (x - x.mean())[:, None] for x in (right, left)]


def right_side(fit, n):
    """Whether the far rows lie beyond the last of the others, seen from the first."""
    X = fit.posterior["X"].to_numpy()[..., 0]
    along = np.sign(X[..., n - 1] - X[..., 0])
    return along * (X[..., n:].mean(axis=-1) - X[..., :n].mean(axis=-1)) > 0.0


SAMPLED = {"draws": 700, "tune": 50, "thin": 2, "chains": CHAINS, "replicas": 1, **QUIET}


@pytest.mark.slow
def test_a_false_pass_of_real_draws():
    """Seven rows that have to go over to the other side together, three chains begun on one: one pair passes."""
    model, (right, left) = islands(5, 7)
    fit = gplvm.sample(model, start=[right, right, right, left], **SAMPLED)
    side = right_side(fit, 5)
    assert 0.05 < side.mean() < 0.95
    seed = next(s for s in range(999) if {*np.ravel(row_pairs(12, 1, s))} == {0, 4})
    found = gplvm.diagnose(fit, n_pairs=1, random_seed=seed)
    table = found.table
    old = table.loc[["distance", "covariance"]]
    assert old["r_hat"].max() < 1.02
    assert old[["ess_bulk", "ess_tail"]].to_numpy().min() > 100 * CHAINS
    assert table.loc["log_likelihood", "r_hat"] < 1.05
    assert found.verdict in ("not converged", "different embeddings")
    # Chains that changed sides a few dozen times.
    assert table.loc["distance_components", "r_hat"] > 1.05
    assert table.loc["distance_components", "ess_bulk"] < 100


@pytest.mark.slow
def test_real_draws_that_go_over_pass():
    """One row goes over by itself: the same question, and a right answer."""
    model, (right, left) = islands(6, 1)
    fit = gplvm.sample(model, start=[right, right, right, left], **SAMPLED | {"draws": 1500})
    assert np.ptp(right_side(fit, 6).mean(axis=1)) < 0.3
    found = gplvm.diagnose(fit)
    assert found.table["r_hat"].max() < 1.02  # below 1.01 at most seeds, and then it has converged
    assert found.converged == (found.table["r_hat"].max() <= 1.01)
    assert found.table[["ess_bulk", "ess_tail"]].to_numpy().min() > 100 * CHAINS


# Lineages


def tempered(fit, lineages, beta=(1.0, 0.5)):
    """A fit with temperatures, and this number of fresh lineages a chain."""
    counted = np.zeros((CHAINS, fit["posterior"].sizes["draw"]), dtype=int)
    for chain, n in enumerate(lineages):
        counted[chain, :n] = 1
    stats = fit["sample_stats"].to_dataset()
    fit["sample_stats"] = xr.DataTree(stats.assign(fresh_lineages=(("chain", "draw"), counted)))
    fit["tempering"] = xr.DataTree(xr.Dataset({"beta": ("replica", list(beta))}))
    return fit


def test_lineages_are_counted_and_few_of_them_named(small, rng):
    fit = flipped(rng, small, two_sides(rng, [0.3] * CHAINS))
    assert gplvm.diagnose(fit).lineages is None
    found = gplvm.diagnose(tempered(fit, [20, 1, 0, 20]))
    assert found.lineages == (20, 1, 0, 20)
    told = "41 fresh lineages came down the temperatures (20, 1, 0, 20 by chain)"
    assert told in str(found)
    lack = "With fewer than 100 and none in chain 2 R-hat may pass though"
    assert lack in str(found)
    assert found.converged
    summary = " ".join(gplvm.summary(fit).ended)
    assert told in summary
    assert lack in summary
    assert "With none in chain 1 R-hat" in str(gplvm.diagnose(tempered(fit, [200, 0, 50, 50])))
    assert "With fewer than 100 R-hat" in str(gplvm.diagnose(tempered(fit, [20, 20, 20, 20])))
    many = str(gplvm.diagnose(tempered(fit, [30, 30, 30, 30])))
    assert "120 fresh lineages" in many
    assert "R-hat may pass" not in many


def test_nothing_is_said_of_lineages_without_temperatures(small, rng):
    fit = tempered(flipped(rng, small, two_sides(rng, [0.3] * CHAINS)), [0] * CHAINS, beta=[1.0])
    found = gplvm.diagnose(fit)
    assert found.lineages is None
    assert "lineage" not in str(found)
    assert "lineage" not in str(gplvm.summary(fit))


# Climbing


def ar(rng, phi, shape):
    noise = np.sqrt(1.0 - phi**2) * rng.standard_normal((*shape[:-1], shape[-1] + 200))
    return lfilter([1.0], [1.0, -phi], noise)[..., 200:]


@pytest.mark.parametrize("kind", ["steady", "levels off", "steps", "one step"])
def test_a_chain_that_climbs_is_named(small, rng, kind):
    t = np.linspace(0.0, 1.0, DRAWS)
    ways = {"steady": t, "steps": np.floor(3.99 * t) / 3.0, "one step": t > 0.5}
    way = (ways | {"levels off": 1.0 - np.exp(-3.0 * t)})[kind]
    lp = -130.0 + 4.0 * ar(rng, 0.8, (CHAINS, DRAWS))
    lp[2] += 28.0 * (way - 1.0)
    fit = flipped(rng, small, two_sides(rng, [0.0, 0.0, 1.0, 0.0]), stats={"lp": lp})
    found = gplvm.diagnose(fit)
    ((chain, before, after),) = climbing(Fit(fit))
    assert (chain, before, after) == (
        2,
        pytest.approx(lp[2, :333].mean()),
        pytest.approx(lp[2, -333:].mean()),
    )
    assert found.verdict == "still climbing"
    assert not found.converged
    rise = f"rises in chain 2 ({before:.1f} to {after:.1f})"
    assert rise in found.sentences[0]
    assert "raise tune" in found.sentences[0]
    assert "different embeddings" in found.sentences[1]
    # The log-likelihood serves where there is no lp.
    stats = fit["sample_stats"].to_dataset().rename(lp="log_likelihood")
    fit["sample_stats"] = xr.DataTree(stats)
    assert climbing(Fit(fit)) == [(chain, before, after)]
    fit["sample_stats"] = xr.DataTree(stats.drop_vars("log_likelihood"))
    assert climbing(Fit(fit)) == []


@pytest.mark.parametrize(("phi", "most"), [(0.0, 0.01), (0.9, 0.03), (0.97, 0.08)])
def test_chains_that_only_wander_are_seldom_said_to_climb(small, rng, phi, most):
    named = 0
    for _ in range(25):
        X = rng.standard_normal((CHAINS, 300, 12, 2))
        stats = {"lp": ar(rng, phi, (CHAINS, 300))}
        fit = fit_of(small, X, lengthscale=1.0, amplitude=1.0, sigma=0.3, stats=stats)
        named += len(climbing(Fit(fit)))
    assert named / (25 * CHAINS) <= most


def test_a_chain_that_falls_stands_still_or_is_short_does_not_climb(small, rng):
    lp = np.stack(
        [-np.arange(150.0), np.zeros(150), np.full(150, -132.7), rng.standard_normal(150)]
    )
    X = rng.standard_normal((CHAINS, 150, 12, 2))
    fit = fit_of(small, X, lengthscale=1.0, amplitude=1.0, sigma=0.3, stats={"lp": lp})
    assert climbing(Fit(fit)) == []
    up = fit_of(small, X, lengthscale=1.0, amplitude=1.0, sigma=0.3, stats={"lp": -lp})
    assert [chain for chain, *_ in climbing(Fit(up))] == [0]
    assert climbing(Fit(up.isel(draw=slice(90)))) == []


# Where the chains began


def begun(fit, start):
    fit = fit.copy()
    fit.attrs |= {"method": "replica_exchange"} | ({} if start is None else {"start": start})
    return fit


def test_one_place_to_begin_is_said_where_it_is_known(small, rng):
    fit = flipped(rng, small, np.zeros((CHAINS, DRAWS), dtype=bool)).isel(draw=slice(300))
    for start, words in (("pca", "(start='pca')"), ("given", "(one given state)")):
        told = gplvm.diagnose(begun(fit, start)).sentences[1]
        assert told.startswith(f"All chains began at one place {words}")
    for start in (None, "random", "given, given", "pca, random", 3):
        assert "one place" not in str(gplvm.diagnose(begun(fit, start)))
    assert "one place" not in str(gplvm.diagnose(fit))  # of another sampler
    apart = flipped(rng, small, two_sides(rng, [0.0, 1.0, 0.0, 0.0])).isel(draw=slice(300))
    assert "one place" not in str(gplvm.diagnose(begun(apart, "pca")))
    hot = tempered(begun(fit, "pca"), [50] * CHAINS)
    assert gplvm.diagnose(hot).converged
    assert "one place" not in str(gplvm.diagnose(hot))


def test_sample_notes_where_it_began(small, tmp_path):
    X = np.random.default_rng(0).standard_normal((12, 2))
    settings = {"draws": 2, "tune": 2, "chains": 2, "replicas": 1, **QUIET}
    starts = {
        "pca": "pca",
        "given": X,
        "given, given": [X, X + 0.1],
        "pca, random": ["pca", "random", X],
        "random": ["random", "random"],
    }
    for noted, start in starts.items():
        fit = gplvm.sample(small, start=start, **settings)
        assert fit.attrs["start"] == noted
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert gplvm.resume(small, read, draws=1, progressbar=False).attrs["start"] == "random"
    del read.attrs["start"]  # as earlier versions wrote it
    assert "start" not in gplvm.resume(small, read, draws=1, progressbar=False).attrs
    one = gplvm.sample(small, start=[X, X], **settings)
    assert one.attrs["start"] == "given"
