"""Draws of models of several tables or with known inputs, and Laplace's approximation of the former."""

from functools import cache

import numpy as np
import pytest
from conftest import simulated
from oracles import kernel_matrix, row_log_density
from scipy.special import logsumexp
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.sampling.joint import untransformed
from pm_gplvm.sampling.replicas import compile_posterior, leave_rows_out, row_updates

N = 10
QUICK = {"tune": 12, "chains": 2, "replicas": 1, "random_seed": 3, "progressbar": False}


def tables(**options):
    """Two tables of the same rows, of which the second lacks one."""
    first, second = simulated(N, 6, seed=5), simulated(N, 4, seed=6)
    second = second.drop_isel(obs=3)
    return gplvm.build_model(
        {"a": first, "b": second}, missing="mask", scale="feature", resolution=0, **options
    )


@cache
def drawn():
    return gplvm.sample(tables(latent_dim=2), draws=30, **QUICK)


def test_a_single_view_is_drawn_as_its_table():
    Y = simulated(N, 6, seed=5)
    one = gplvm.sample(gplvm.build_model({"a": Y}, latent_dim=2), draws=20, **QUICK)
    plain = gplvm.sample(gplvm.build_model(Y, latent_dim=2), draws=20, **QUICK)
    np.testing.assert_allclose(one["posterior"]["X"], plain["posterior"]["X"], rtol=1e-10)
    np.testing.assert_allclose(one["posterior"]["sigma_a"], plain["posterior"]["sigma"], rtol=1e-10)


@pytest.mark.parametrize("held", [{}, {"lengthscale_b": 1.3}, {"lengthscale": 0.8}])
def test_rows_are_weighed_by_all_tables_each_in_its_own_lengthscale(held, rng):
    posterior = compile_posterior(untransformed(tables(latent_dim=1, priors=held)))
    states = 0.5 * rng.standard_normal((2, posterior.ensemble.size))
    scores = leave_rows_out(posterior, states, 20_000, np.random.default_rng(1))
    named = posterior.ensemble.draws(states)
    grid = np.linspace(-9.0, 9.0, 3001)
    for s in range(2):
        places = np.concatenate([named["X"][s], grid[:, None]])
        for n in (0, 3):
            density, units = norm.logpdf(grid), 0.0
            for view, table in zip("ab", posterior.tables, strict=True):
                theta = {
                    name: float(named[own][s] if own in named else table.fixed[name])
                    for name, own in table.names.items()
                }
                noise = theta.pop("sigma") ** 2
                K = kernel_matrix("rbf", places, **theta)
                density += row_log_density(table.F, K, noise, n, N)
                if not (view == "b" and n == 3):
                    units += table.log_scales.sum()
            wanted = logsumexp(density) + np.log(grid[1] - grid[0]) - units
            assert scores[s, n] == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("held", [{}, {"lengthscale_b": 1.3}, {"lengthscale": 0.8}])
def test_a_row_that_stays_where_it_is_leaves_the_state_as_it_is(held, rng):
    """The states have positions in a unit of their own, whatever is held."""
    posterior = compile_posterior(untransformed(tables(latent_dim=2, priors=held)))
    states = 0.5 * rng.standard_normal((3, posterior.ensemble.size))
    updates, unit = row_updates(posterior, states, np.ones(3), rng)
    np.testing.assert_allclose(updates.Z * unit, posterior.ensemble.latent(states), rtol=1e-12)


def test_resume_goes_on_as_one_run():
    model = tables(latent_dim=2)
    short = gplvm.sample(model, draws=12, **QUICK)
    longer = gplvm.resume(model, short, draws=18, progressbar=False)
    np.testing.assert_array_equal(longer["posterior"]["X"], drawn()["posterior"]["X"])
    other = gplvm.build_model(
        {"a": simulated(N, 6, seed=5), "c": simulated(N, 4, seed=6)}, latent_dim=2
    )
    with pytest.raises(ValueError, match="other tables"):
        gplvm.resume(other, short, draws=2, progressbar=False)
    with pytest.raises(ValueError, match="other data"):
        gplvm.resume(
            gplvm.build_model(
                {"a": simulated(N, 6, seed=5), "b": simulated(N, 4, seed=7)},
                missing="mask",
                scale="feature",
                resolution=0,
            ),
            short,
            draws=2,
            progressbar=False,
        )


def test_the_draws_serve_every_table(tmp_path):
    fit = drawn()
    gplvm.save(fit, tmp_path / "fit.nc")
    again = gplvm.load(tmp_path / "fit.nc")
    for name, columns in (("a", 6), ("b", 4)):
        one = gplvm.align(gplvm.data.view(again, name))
        assert gplvm.predict(one, np.zeros((2, 2)))["mean"].shape[-1] == columns
        assert "30 draws" in str(gplvm.diagnose(one))
    filled = gplvm.impute(again, {"a": simulated(N, 6, seed=5)[:2]}, progressbar=False)
    assert filled["mean_b"].shape == (2, 4)
    assert np.isfinite(filled["sd_b"]).all()


def test_an_ensemble_and_the_neighbourhood_of_a_fit():
    model = tables(latent_dim=2)
    options = {"tune": 8, "chains": 2, "draws": 6, "random_seed": 1, "progressbar": False}
    pooled = gplvm.sample(model, explore="ensemble", **options)
    assert pooled["ensemble"]["weight"].sum() == pytest.approx(1.0)
    best = gplvm.fit_map(model, random_seed=0, progressbar=False)
    near = gplvm.sample(model, explore="local", start=best, **options)
    assert np.isfinite(near["sample_stats"]["lp"]).all()


@pytest.mark.parametrize("ard", [False, True])
def test_laplace_of_a_single_view_is_that_of_its_table(ard):
    Y = simulated(20, 12, seed=5)
    options = {"draws": 30, "random_seed": 1, "progressbar": False}
    found = []
    for given in (Y, {"a": Y}):
        model = gplvm.build_model(given, latent_dim=2, ard=ard)
        best = gplvm.fit_marginal(model, random_seed=0, progressbar=False)
        found.append(gplvm.fit_laplace(model, start=best, **options))
    plain, one = found
    assert one.attrs["null_directions"] == plain.attrs["null_directions"] == (0 if ard else 1)
    assert one.attrs["log_evidence"] == pytest.approx(plain.attrs["log_evidence"], abs=1e-5)


def test_laplace_of_two_tables_turns_with_both():
    model = gplvm.build_model(
        {"a": simulated(20, 12, seed=5), "b": simulated(20, 10, seed=5)}, latent_dim=2
    )
    best = gplvm.fit_marginal(model, random_seed=0, progressbar=False)
    sketch = gplvm.fit_laplace(model, start=best, draws=30, random_seed=1, progressbar=False)
    assert sketch.attrs["null_directions"] == 1
    assert np.isfinite(sketch.attrs["log_evidence"])
    assert gplvm.data.view(sketch, "b")["posterior"]["sigma"].shape == (1, 30)


def with_inputs():
    """A table with a number and a class known of each row, one entry missing."""
    Y = simulated(N, 5, seed=5).copy()
    Y[2, 1] = np.nan
    known = {"dose": np.linspace(0.0, 1.0, N), "batch": ["a", "b"] * (N // 2)}
    return gplvm.build_model(Y, 1, inputs=known, missing="mask", scale="feature", resolution=0)


def test_rows_are_weighed_with_their_inputs(rng):
    posterior = compile_posterior(untransformed(with_inputs()))
    states = 0.5 * rng.standard_normal((2, posterior.ensemble.size))
    scores = leave_rows_out(posterior, states, 20_000, np.random.default_rng(1))
    named = posterior.ensemble.draws(states)
    grid, dose = np.linspace(-9.0, 9.0, 3001), np.linspace(0.0, 1.0, N)
    dose = (dose - dose.mean()) / dose.std()
    batch = np.arange(N) % 2
    (table,) = posterior.tables
    for s in range(2):
        amplitude, length = named["amplitude"][s], named["lengthscale"][s]
        places = np.concatenate([named["X"][s][:, 0], grid])
        for n in (0, 2):
            doses, batches = (np.concatenate([v, np.full(len(grid), v[n])]) for v in (dose, batch))
            K = amplitude[0] ** 2 * np.exp(
                -0.5 * np.subtract.outer(places, places) ** 2 / length[0] ** 2
            )
            K += amplitude[1] ** 2 * np.exp(
                -0.5 * np.subtract.outer(doses, doses) ** 2 / length[1] ** 2
            )
            K += amplitude[2] ** 2 * np.equal.outer(batches, batches)
            density = norm.logpdf(grid) + row_log_density(table.F, K, named["sigma"][s] ** 2, n, N)
            wanted = logsumexp(density) + np.log(grid[1] - grid[0]) - table.log_units[n]
            assert scores[s, n] == pytest.approx(wanted, abs=0.05)


@pytest.mark.filterwarnings("ignore:sample. [0-9]+ draws came after a divergence")  # a short run
def test_draws_with_inputs_serve_predictions():
    fit = gplvm.sample(with_inputs(), draws=20, **QUICK)
    assert set(fit["posterior"]["amplitude"]["kernel_term"].to_numpy()) >= {"dose", "batch"}
    told = gplvm.align(fit)
    found = gplvm.predict(told, np.zeros((2, 1)), inputs={"dose": 0.5, "batch": "b"}, parts=True)
    np.testing.assert_allclose(found["part_mean"].sum("part"), found["mean"], rtol=1e-10)
    near = gplvm.sample(
        with_inputs(),
        explore="local",
        start=gplvm.fit_map(with_inputs(), random_seed=0, progressbar=False),
        draws=4,
        tune=4,
        chains=2,
        random_seed=1,
        progressbar=False,
    )
    assert np.isfinite(near["sample_stats"]["lp"]).all()
