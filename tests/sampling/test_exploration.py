"""What a sampler explores: ensembles and their weights, the neighbourhood of an embedding, and where chains begin."""

from functools import cache

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated
from oracles import kernel_matrix, row_log_density
from scipy.special import logsumexp
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit, stacked
from pm_gplvm.sampling.exploration import (
    chosen_exploration,
    neighbourhood_of,
    stacking_weights,
    within,
)
from pm_gplvm.sampling.joint import untransformed
from pm_gplvm.sampling.replicas import Replicas, compile_posterior, leave_rows_out
from pm_gplvm.sampling.transitions import first_schedule

N = 10
QUICK = {"draws": 12, "tune": 12, "random_seed": 3, "progressbar": False}


@cache
def model():
    return gplvm.build_model(simulated(N, 6, seed=5), latent_dim=2, kernel="rbf")


@cache
def best():
    return gplvm.fit_map(model(), random_seed=0, progressbar=False)


@cache
def ensemble():
    return gplvm.sample(model(), explore="ensemble", **QUICK)


@cache
def local():
    return gplvm.sample(model(), explore="local", start=best(), **QUICK | {"draws": 60})


def weighted(fit, weights):
    """The fit with other weights of its chains."""
    changed = fit.copy()
    group = changed["ensemble"].to_dataset()
    changed["ensemble"] = xr.DataTree(group.assign(weight=("chain", np.asarray(weights, float))))
    return changed


# scores of rows left out


@pytest.mark.parametrize(
    ("kernel", "backend"), [("rbf", "numba"), ("rbf", "python"), ("matern32 + linear", "python")]
)
def test_the_score_of_a_row_is_its_density_with_its_position_integrated_out(backend, kernel, rng):
    Y = simulated(N, 6, seed=5).copy()
    Y[2, 1] = np.nan
    build = gplvm.build_model(Y, latent_dim=1, kernel=kernel, missing="mask", scale="feature")
    posterior = compile_posterior(untransformed(build), backend)
    states = 0.5 * rng.standard_normal((2, posterior.ensemble.size))
    found = leave_rows_out(posterior, states, 20_000, np.random.default_rng(1))
    (table,), drawn = posterior.tables, posterior.ensemble.draws(states)
    F, scale = table.F, np.exp(table.log_scales)
    grid = np.linspace(-9.0, 9.0, 3001)
    for s, scores in enumerate(found):
        theta = {n: float(v[s]) for n, v in drawn.items() if n != "X"}
        noise = theta.pop("sigma") ** 2 + table.floor**2
        places = np.concatenate([drawn["X"][s], grid[:, None]])
        K = kernel_matrix(kernel, places, **theta)
        for n in (0, 2, N - 1):
            density = norm.logpdf(grid) + row_log_density(F, K, noise, n, N)
            density -= np.log(scale[~np.isnan(F[n])]).sum()
            wanted = logsumexp(density) + np.log(grid[1] - grid[0])
            assert scores[n] == pytest.approx(wanted, abs=0.05)


def test_states_without_a_covariance_have_no_score():
    exact = gplvm.build_model(simulated(N, 6, seed=5), kernel="rbf", resolution=0)
    posterior = compile_posterior(untransformed(exact))
    states = np.zeros((1, posterior.ensemble.size))  # all rows at one place
    states[:, -1] = -400.0  # and no noise
    assert np.isnan(leave_rows_out(posterior, states, 8, np.random.default_rng(0))).all()


# weights


def test_weights_are_those_of_the_best_mixture(rng):
    scores = rng.standard_normal((2, 40))
    found = stacking_weights(scores)
    grid = np.linspace(1e-4, 1.0 - 1e-4, 20_001)
    mixed = np.log(grid[:, None] * np.exp(scores[0]) + (1.0 - grid[:, None]) * np.exp(scores[1]))
    objective = mixed.sum(axis=1) + np.sqrt(20.0) * (np.log(grid) + np.log(1.0 - grid))
    assert found[0] == pytest.approx(grid[objective.argmax()], abs=1e-4)
    assert found.sum() == pytest.approx(1.0)


def test_a_chain_that_predicts_nothing_better_has_little_weight():
    scores = np.zeros((3, 200))
    scores[0] = 5.0
    weights = stacking_weights(scores)
    prior = np.sqrt(200 / 3)
    assert weights[0] == pytest.approx((200 + prior) / (200 + 3 * prior), abs=0.01)
    assert weights[1] == pytest.approx(weights[2])


def test_an_ensemble_has_eight_chains_and_a_weight_of_each():
    fit = ensemble()
    assert fit.attrs["explore"] == "ensemble"
    assert dict(fit["posterior"].sizes)["chain"] == 8
    group = fit["ensemble"].to_dataset()
    assert group["score"].dims == ("chain", "obs")
    assert group["weight"].to_numpy() == pytest.approx(stacking_weights(group["score"].to_numpy()))
    # Draws of one posterior: no chain predicts much better than the others.
    assert group["weight"].max() < 0.5
    again = gplvm.sample(model(), explore="ensemble", **QUICK)
    xr.testing.assert_identical(again["ensemble"].to_dataset(), group)


def test_ctrl_c_while_chains_are_weighed_keeps_the_draws(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pm_gplvm.sampling.exploration.safe_point", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted and has 12 draws a chain"):
        fit = gplvm.sample(model(), explore="ensemble", **QUICK)
    assert "ensemble" not in fit.children
    np.testing.assert_array_equal(fit["posterior"]["X"], ensemble()["posterior"]["X"])


def test_draws_are_taken_in_the_proportions_of_the_weights():
    weights = np.array([0.5, 0.25, 0.125, 0.125, 0.0, 0.0, 0.0, 0.0])
    read = Fit.of(weighted(ensemble(), weights), "X", caller="test")
    assert read.n_mixed == 24
    for limit in (8, 16, 24, 500):
        chosen = read.evenly_spaced(limit)
        assert len(chosen) == min(limit, 24)
        shares = np.bincount(chosen // 12, minlength=8) / len(chosen)
        assert shares == pytest.approx(weights, abs=0.5 / min(limit, 24))
        np.testing.assert_array_equal(read.evenly_spaced(len(chosen)), chosen)
    assert len(read.evenly_spaced(None)) == 96  # all of them, as what goes draw by draw wants
    pooled = read.pooled()
    assert pooled.draws("X").shape == (1, 24, N, 2)
    every = stacked(read.draws("X"))
    np.testing.assert_array_equal(pooled.values("X"), every[read.evenly_spaced(24)])
    assert read.thinned(8).draws("X").shape == (1, 8, N, 2)


@pytest.mark.parametrize(
    "verb",
    [
        lambda fit: gplvm.predict(fit, np.zeros((1, 2)))["mean"],
        lambda fit: (
            gplvm.embed(fit, simulated(N, 6, seed=5)[:2], random_seed=0, progressbar=False)
            .posterior["X"]
            .mean(("chain", "draw"))
        ),
        lambda fit: gplvm.log_predictive(
            fit, simulated(N, 6, seed=5)[:2], random_seed=0, progressbar=False
        )["log_score"],
        lambda fit: gplvm.align(fit)["aligned"]["reference"],
    ],
    ids=["predict", "embed", "log_predictive", "align"],
)
def test_a_verb_of_an_ensemble_with_one_chain_of_weight_is_that_of_the_chain(verb):
    # In one frame, so that positions of the draws mean the same.
    fit = gplvm.align(ensemble(), to=best())
    one = fit.isel(chain=[2]).copy()
    del one["ensemble"]
    alone = weighted(fit, np.eye(8)[2])
    np.testing.assert_allclose(verb(alone), verb(one), rtol=1e-10, atol=1e-12)
    assert not np.allclose(verb(weighted(fit, np.eye(8)[3])), verb(one))


def test_what_compares_and_draws_takes_the_weights():
    alone = weighted(ensemble(), np.eye(8)[2])
    one = ensemble().isel(chain=[2]).copy()
    del one["ensemble"]
    table = gplvm.compare({"weighted": alone, "chain": one}, n_neighbors=3)
    for column in ("correlation", "sd_Z", "neighbours"):
        if column in table:
            assert table.loc["weighted", column] == pytest.approx(table.loc["chain", column])
    assert table.loc["weighted", "draws"] == table.loc["chain", "draws"]
    axes = [gplvm.plot.latent(gplvm.align(fit)) for fit in (alone, one)]
    points = [np.sort(ax.collections[0].get_offsets(), axis=0) for ax in axes]
    np.testing.assert_allclose(points[0], points[1])


def test_an_ensemble_comes_back_from_its_file_and_goes_on(tmp_path):
    path = tmp_path / "fit.nc"
    gplvm.save(ensemble(), path)
    fit = gplvm.load(path)
    xr.testing.assert_identical(fit["ensemble"].to_dataset(), ensemble()["ensemble"].to_dataset())
    longer = gplvm.resume(model(), fit, draws=5, progressbar=False)
    assert longer["posterior"].sizes["draw"] == 17
    assert longer.attrs["explore"] == "ensemble"
    assert float(longer["ensemble"]["weight"].sum()) == pytest.approx(1.0)


def test_some_chains_of_an_ensemble_are_one_too():
    few = gplvm.align(ensemble()).isel(chain=[1, 5])
    weights = few["ensemble"]["weight"].to_numpy()
    assert Fit.of(few, "X", caller="test").chain_weights == pytest.approx(weights / weights.sum())
    assert np.isfinite(gplvm.predict(few, np.zeros((1, 2)))["mean"]).all()


def test_weights_that_are_none_are_an_error():
    with pytest.raises(ValueError, match="weight of each of the 8 chains"):
        gplvm.predict(weighted(gplvm.align(ensemble()), -np.eye(8)[0]), np.zeros((1, 2)))


# the neighbourhood of an embedding


def test_the_wall_is_nought_inside_and_gaussian_outside(rng, mode):
    plain = untransformed(model())
    values = plain.initial_point(random_seed=1)
    X = rng.standard_normal((N, 2))
    values["X"] = X
    near = neighbourhood_of(plain, values)
    walled = within(plain, near)
    ratio = walled.compile_logp(mode=mode), plain.compile_logp(mode=mode)
    assert ratio[0](values) == pytest.approx(ratio[1](values), rel=1e-12)
    turn = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    far = X.copy()
    far[3] += 4.0
    nearest, radius, wall = near["neighbours"], near["radius"].to_numpy(), near.attrs["wall"]
    lengthscale = np.exp(values["lengthscale_log__"])
    assert wall == pytest.approx(0.1 * lengthscale)
    off = np.linalg.norm(X - X[nearest].mean(axis=1), axis=1)
    assert radius == pytest.approx(off + 0.7 * lengthscale)
    outside = np.maximum(np.linalg.norm(far - far[nearest].mean(axis=1), axis=1) - radius, 0.0)
    assert (outside > 0.0).any()
    for place in (far, far @ turn):
        moved = values | {"X": place}
        wanted = -0.5 * ((outside / wall) ** 2).sum()
        assert ratio[0](moved) - ratio[1](moved) == pytest.approx(wanted, rel=1e-8)
    assert not plain.potentials  # the model itself is as it was


def test_rows_stay_within_their_neighbourhoods():
    fit = local()
    near = fit["neighbourhood"].to_dataset()
    X = stacked(fit["posterior"]["X"])
    off = np.linalg.norm(X - X[:, near["neighbours"].to_numpy()].mean(axis=2), axis=-1)
    outside = (off - near["radius"].to_numpy()) / near.attrs["wall"]
    assert outside.max() < 6.0  # standard deviations of the wall
    assert (outside < 0.0).mean() > 0.8
    assert fit.attrs["explore"] == "local"
    assert X.std(axis=0).max() > 0.01


def test_a_local_fit_goes_on_within_its_neighbourhoods():
    short = gplvm.sample(model(), explore="local", start=best(), **QUICK | {"draws": 40})
    longer = gplvm.resume(model(), short, draws=20, progressbar=False)
    np.testing.assert_array_equal(longer["posterior"]["X"], local()["posterior"]["X"])
    xr.testing.assert_identical(
        longer["neighbourhood"].to_dataset(), local()["neighbourhood"].to_dataset()
    )


# choices and where chains begin


@pytest.mark.parametrize(
    ("rows", "options", "wanted"),
    [
        (60, {}, "global"),
        (61, {}, "ensemble"),
        (500, {"tempered": True}, "global"),
        (500, {"moves": False}, "global"),
    ],
)
def test_what_is_explored_by_default(rows, options, wanted):
    given = {"tempered": False, "moves": True} | options
    assert chosen_exploration("auto", rows, ["pca"], **given) == wanted


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"explore": "all"}, "explore must be one of auto, global, ensemble, local, got 'all'"),
        ({"explore": "local"}, "neighbourhoods are kept, got start='pca'.*start=fit_marginal"),
        ({"explore": "ensemble", "replicas": 4}, "no temperatures.*explore='global'"),
        ({"explore": "local", "start": best, "beta_min": 0.5}, "no temperatures"),
    ],
)
def test_what_cannot_be_explored_is_told_before_any_work(options, what):
    given = {n: v() if callable(v) else v for n, v in options.items()}
    with pytest.raises(ValueError, match=what):
        gplvm.sample(model(), **QUICK | given)


def test_held_positions_have_no_other_embedding():
    held = gplvm.build_model(
        simulated(N, 6, seed=5), latent_dim=2, priors={"X": np.zeros((N, 2)) + np.eye(N)[:, :2]}
    )
    with pytest.raises(ValueError, match="explore='ensemble' needs a free X"):
        gplvm.sample(held, explore="ensemble", **QUICK)


def test_one_fit_is_told_to_be_no_ensemble():
    for explore in ("ensemble", "auto"):
        with pytest.warns(RuntimeWarning, match="all chains of the ensemble begin at one fit"):
            chosen_exploration(explore, 120, [best()], tempered=False, moves=True)


def test_many_rows_are_told_to_be_out_of_reach():
    with pytest.warns(RuntimeWarning, match="120 rows is out of reach of explore='global'"):
        chosen_exploration("global", 120, ["pca"], tempered=False, moves=True)


@pytest.mark.parametrize("cooled", [True, False])
def test_chains_go_on_from_a_fit_and_are_annealed_from_a_word(cooled, monkeypatch):
    """The powers of the likelihood in the iterations of the adaptation."""
    start = "pca" if cooled else [best(), best()]
    seen = []
    iterate = Replicas.iterate

    def watched(self, **options):
        seen.append(float(self.beta[0]))
        return iterate(self, **options)

    monkeypatch.setattr(Replicas, "iterate", watched)
    gplvm.sample(
        model(), explore="ensemble", start=start, **QUICK | {"chains": 2, "draws": 1, "tune": 20}
    )
    assert len(seen) == 21
    assert seen[10:] == [1.0] * 11
    if cooled:
        assert seen[:10] == pytest.approx(np.geomspace(0.05, 1.0, 10))
    else:
        assert seen[:10] == [1.0] * 10


def test_chains_from_one_fit_are_tempered_whether_they_agree_or_not():
    fit = gplvm.sample(model(), start=best(), **QUICK | {"tune": 64})
    assert fit.attrs["explore"] == "global"
    assert fit["tempering"].sizes["replica"] > 1


# threads and lengths of trajectories


def test_draws_do_not_depend_on_the_number_of_cores():
    some = QUICK | {"backend": "numba", "chains": 3, "replicas": 3}
    one, two = (gplvm.sample(model(), cores=n, **some) for n in (1, 2))
    for name, value in one["posterior"].data_vars.items():
        np.testing.assert_array_equal(value, two["posterior"][name])


def test_flat_replicas_have_longer_trajectories():
    posterior = compile_posterior(untransformed(model()))
    start = np.zeros((2, 1, posterior.ensemble.size))
    beta = first_schedule(4, 0.3)
    sampler = Replicas(
        posterior, start, np.ones(1), np.full(1, 0.01), n_proposals=8, rng=np.random.default_rng(0)
    )
    assert len(np.unique(sampler._trajectory_lengths())) == 1
    sampler.temper(beta)
    lengths = np.array([sampler._trajectory_lengths() for _ in range(50)]).reshape(50, 2, 4)
    assert (lengths[..., beta >= 0.6].max(), lengths[..., beta < 0.6].min()) <= (30, 20)
    assert lengths[..., beta < 0.6].max() > 45


def test_the_model_of_the_user_is_as_it_was():
    assert not model().potentials
    assert isinstance(model(), pm.Model)


# what is said of it


def test_diagnose_tells_an_ensemble_and_a_neighbourhood():
    apart = ensemble().copy()
    posterior = apart["posterior"].to_dataset()
    shift = xr.zeros_like(posterior["X"])
    shift[:4, :, 0] = 9.0  # one row far off in half of the chains
    apart["posterior"] = xr.DataTree(posterior.assign(X=posterior["X"] + shift))
    told = gplvm.diagnose(apart)
    assert not told.converged
    weights = apart["ensemble"]["weight"].to_numpy()
    (sentence,) = [s for s in told.sentences if "an ensemble: 8 chains" in s]
    assert f"{weights.max():.2f}, in chain {weights.argmax()}" in sentence
    level = apart["sample_stats"]["log_likelihood"].mean("draw").to_numpy()
    assert f"{level.max():.1f} (chain {level.argmax()})" in sentence
    near = gplvm.diagnose(local())
    assert any("neighbourhoods of one embedding" in s for s in near.sentences)
    assert "neighbourhoods of one embedding" in " ".join(gplvm.summary(local()).fitted)


def test_modes_of_an_ensemble_weigh_what_their_chains_do():
    modes = gplvm.diagnostics.posterior_modes(weighted(ensemble(), np.eye(8)[1]))
    whole = gplvm.diagnostics.posterior_modes(ensemble())
    np.testing.assert_array_equal(modes.members, whole.members)
    here = modes.members.to_numpy() == 0
    assert modes.table["weight"][0] == pytest.approx(here[1].mean())
    assert modes.table["weight"].sum() == pytest.approx(1.0)
