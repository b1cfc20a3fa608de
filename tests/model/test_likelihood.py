"""Lawrence's likelihood against SciPy, its gradient, and GPColumns inside models of one's own."""

import inspect

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from oracles import ALL_KERNELS, column_logps, kernel_matrix, likelihood_gradient
from pytensor.gradient import verify_grad

import pm_gplvm as gplvm
from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.model.ops import GaussianTerms, columns_logp, total_logp
from pm_gplvm.model.spec import tables_of


def positive_definite(rng, n):
    B = rng.normal(size=(n, n))
    return B @ B.T / n + np.eye(n)


@pytest.fixture(scope="module")
def of_numbers(mode):
    """Column by column log-density, and the gradient of its weighted sum in K, F and scale."""
    F, K, scale, weights = pt.dmatrix("F"), pt.dmatrix("K"), pt.dvector("scale"), pt.dvector("w")
    terms = columns_logp(F, K, scale)
    gradients = pt.grad((weights * terms).sum(), [F, K, scale])
    return pytensor.function([F, K, scale, weights], [terms, *gradients], mode=mode)


@pytest.mark.parametrize("kernel", ALL_KERNELS)
@pytest.mark.parametrize("bias", [0.0, 0.8], ids=["no bias", "bias"])
@pytest.mark.parametrize("scale", ["none", "global", "feature"])
def test_columns_equal_scipy(kernel, bias, scale, of_numbers, rng):
    K = kernel_matrix(kernel, rng.normal(size=(10, 2)), lengthscale=0.7, sigma=0.3, bias=bias)
    F = rng.normal(size=(10, 3))
    factors = {"none": np.ones(3), "global": np.full(3, 2.5), "feature": np.array([0.1, 1, 30])}
    terms, *_ = of_numbers(F, K, factors[scale], np.ones(3))
    expected = column_logps(factors[scale] * F, K, scale=factors[scale])
    np.testing.assert_allclose(terms, expected, rtol=1e-10)


def test_gradient_in_K_is_the_formula_with_its_half(of_numbers, rng):
    K, F = positive_definite(rng, 8), rng.normal(size=(8, 3))
    _, _, dK, _ = of_numbers(F, K, np.ones(3), np.ones(3))
    expected = likelihood_gradient(F, K)
    np.testing.assert_allclose(dK, expected, rtol=1e-9, atol=1e-12)
    # Lawrence's printed eq. (10) is twice as large.
    assert np.linalg.norm(dK - 2 * expected) > 0.9 * np.linalg.norm(expected)


def test_gradient_in_K_equals_differences_in_an_outside_likelihood(of_numbers, rng):
    """∂L/∂K of SciPy's own density along directions that keep K symmetric."""
    K, F = positive_definite(rng, 6), rng.normal(size=(6, 4))
    _, _, dK, _ = of_numbers(F, K, np.ones(4), np.ones(4))
    for _ in range(5):
        direction = rng.normal(size=(6, 6))
        direction += direction.T
        step = 1e-5
        up, down = (column_logps(F, K + s * step * direction).sum() for s in (1, -1))
        assert np.sum(dK * direction) == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_unequal_weights_of_the_columns(of_numbers, rng):
    K, F, weights = positive_definite(rng, 7), rng.normal(size=(7, 3)), np.array([0.2, -1.0, 3.0])
    _, dF, dK, dscale = of_numbers(F, K, np.array([1.0, 2.0, 0.5]), weights)
    inverse = np.linalg.inv(K)
    parts = [w * likelihood_gradient(F[:, [j]], K) for j, w in enumerate(weights)]
    np.testing.assert_allclose(dK, sum(parts), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dK, dK.T, rtol=1e-13)
    np.testing.assert_allclose(dF, -(inverse @ F) * weights, rtol=1e-9)
    np.testing.assert_allclose(dscale, -7 * weights / [1.0, 2.0, 0.5], rtol=1e-12)


def test_only_the_lower_triangle_of_K_is_read(of_numbers, rng):
    K, F = positive_definite(rng, 5), rng.normal(size=(5, 2))
    spoilt = K + np.triu(rng.normal(size=(5, 5)), 1)
    ones = np.ones(2)
    for whole, half in zip(
        of_numbers(F, K, ones, ones), of_numbers(F, spoilt, ones, ones), strict=True
    ):
        np.testing.assert_array_equal(whole, half)


@pytest.mark.parametrize("n", [127, 128, 129, 257])
def test_gradient_over_several_blocks_is_symmetric_and_right(n, of_numbers, rng):
    K, F = positive_definite(rng, n), rng.normal(size=(n, 2))
    _, _, dK, _ = of_numbers(F, K, np.ones(2), np.ones(2))
    np.testing.assert_array_equal(dK, dK.T)
    np.testing.assert_allclose(dK, likelihood_gradient(F, K), rtol=1e-7, atol=1e-10)


def test_inputs_are_left_alone(of_numbers, rng):
    K, F = positive_definite(rng, 5), rng.normal(size=(5, 2))
    before = K.copy(), F.copy()
    of_numbers(F, K, np.ones(2), np.ones(2))
    np.testing.assert_array_equal(K, before[0])
    np.testing.assert_array_equal(F, before[1])


@pytest.mark.parametrize("worst", [0.0, -1.0])
def test_K_that_is_not_positive_definite_gives_minus_infinity(worst, of_numbers, rng):
    K = np.diag([1.0, 1.0, worst, 1.0])
    terms, *gradients = of_numbers(rng.normal(size=(4, 2)), K, np.ones(2), np.ones(2))
    np.testing.assert_array_equal(terms, -np.inf)
    assert not np.isfinite(gradients[1]).all()  # nobody can take it for a stationary point


def test_K_with_nan_or_infinity_gives_no_exception(of_numbers, rng):
    for bad in (np.nan, np.inf):
        K = np.eye(4)
        K[2, 1] = K[1, 2] = bad
        terms, *_ = of_numbers(rng.normal(size=(4, 2)), K, np.ones(2), np.ones(2))
        assert not np.isfinite(terms).any()


# The Op by itself


def terms_of(B, F):
    """Both terms, K parametrised so that any change of B leaves it symmetric."""
    K = B @ B.T + pt.eye(B.shape[0])
    quad, logdet, *_ = GaussianTerms()(K, F)
    return quad, logdet


@pytest.mark.parametrize(
    "combine",
    [
        lambda quad, logdet: pt.concatenate([quad, logdet[None]]),
        lambda quad, logdet: quad,
        lambda quad, logdet: logdet,
    ],
    ids=["both", "quad", "logdet"],
)
def test_verify_grad(combine, rng, mode):
    at = [rng.normal(size=(4, 4)), rng.normal(size=(4, 2))]
    verify_grad(lambda B, F: combine(*terms_of(B, F)), at, rng=rng, mode=mode, rel_tol=1e-5)


def test_verify_grad_of_the_pullback(rng, mode):
    def pullback(B, F, weights, c):
        quad, logdet = terms_of(B, F)
        parts = pt.grad((weights * quad).sum() + c * logdet, [B, F])
        return pt.concatenate([part.ravel() for part in parts])

    at = [rng.normal(size=(4, 4)), rng.normal(size=(4, 2)), rng.normal(size=2), np.array(0.7)]
    verify_grad(pullback, at, rng=rng, mode=mode, rel_tol=1e-5)


def test_op_and_its_twin_agree(rng, mode):
    inputs = K, F = pt.dmatrix(), pt.dmatrix()
    op = GaussianTerms()
    compiled = pytensor.function(list(inputs), [*op(K, F), *op.symbolic(K, F)], mode=mode)
    values = compiled(positive_definite(rng, 6), rng.normal(size=(6, 3)))
    for ours, twin in zip(values[:4], values[4:], strict=True):
        if ours.shape == (6, 6):  # the inverse's lower triangle means nothing
            ours, twin = np.triu(ours), np.triu(twin)
        np.testing.assert_allclose(ours, twin, rtol=1e-10)
    broken = compiled(-np.eye(6), rng.normal(size=(6, 3)))
    for i in (0, 1, 4, 5):
        np.testing.assert_array_equal(broken[i], np.inf)


def test_the_inverse_has_no_derivative(rng):
    K = pt.dmatrix()
    inverse = GaussianTerms()(K, np.ones((3, 1)))[2]
    with pytest.raises(NotImplementedError, match="use its first two outputs"):
        pt.grad(inverse.sum(), K)


# The shortened factor


@pytest.mark.parametrize("shape", [(5, 3), (5, 5), (5, 40)])
def test_gram_factor(shape, rng):
    F = rng.normal(size=shape)
    factor = gram_factor(F)
    assert factor.shape == (5, min(shape))
    np.testing.assert_allclose(factor @ factor.T, F @ F.T, rtol=1e-12, atol=1e-12)


def test_gram_factor_of_columns_that_depend_on_each_other(rng):
    F = rng.normal(size=(6, 1)) @ rng.normal(size=(1, 50))
    factor = gram_factor(F)
    np.testing.assert_allclose(factor @ factor.T, F @ F.T, rtol=1e-12, atol=1e-12)


def test_factor_gives_value_and_gradient_of_all_columns(rng, mode):
    n, d = 6, 25
    Y, scale, K = rng.normal(size=(n, d)), rng.uniform(0.5, 2.0, d), positive_definite(rng, n)
    cov = pt.dmatrix()
    short = total_logp(gram_factor(Y / scale), cov, n_columns=d, log_scale=np.log(scale).sum())
    long = columns_logp(Y / scale, cov, scale).sum()
    outputs = [short, long, pt.grad(short, cov), pt.grad(long, cov)]
    short, long, short_gradient, long_gradient = pytensor.function([cov], outputs, mode=mode)(K)
    assert short == pytest.approx(column_logps(Y, K, scale=scale).sum(), rel=1e-10)
    assert short == pytest.approx(long, rel=1e-12)
    np.testing.assert_allclose(short_gradient, long_gradient, rtol=1e-9, atol=1e-11)


# GPColumns by itself


def test_logp_of_a_table_and_of_one_column(rng, mode):
    K, Y = positive_definite(rng, 5), rng.normal(size=(5, 3))
    mu, scale = np.array([0.1, 2.0, -1.0]), np.array([0.5, 1.0, 3.0])
    table = pm.logp(gplvm.GPColumns.dist(K, mu=mu, scale=scale), Y.T)
    np.testing.assert_allclose(table.eval(mode=mode), column_logps(Y, K, mu, scale), rtol=1e-10)
    column = pm.logp(gplvm.GPColumns.dist(K, mu=2.0, scale=0.5), Y[:, 0])
    assert column.ndim == 0
    expected = column_logps(Y[:, [0]], K, 2.0, 0.5)[0]
    assert column.eval(mode=mode) == pytest.approx(expected, rel=1e-10)


def test_draws_have_the_mean_and_covariance_they_should(rng, mode):
    n_draws, d, n = 20_000, 2, 3
    K = positive_definite(rng, n)
    mu, scale = np.array([1.0, -4.0]), np.array([0.5, 3.0])
    variable = gplvm.GPColumns.dist(K, mu=mu, scale=scale)
    draws = pm.draw(variable, draws=n_draws, random_seed=1, mode=mode)
    assert draws.shape == (n_draws, d, n)
    flat = draws.reshape(n_draws, d * n)
    mean = np.repeat(mu, n)
    covariance = np.kron(np.diag(scale**2), K)  # columns independent
    # Five standard errors: var/S of a mean, (Cii Cjj + Cij²)/S of a covariance.
    assert (np.abs(flat.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(covariance) / n_draws)).all()
    variances = np.diag(covariance)
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / n_draws)
    assert (np.abs(np.cov(flat.T) - covariance) < 5 * error).all()


def test_draws_and_density_read_the_same_triangle(rng, mode):
    K = positive_definite(rng, 4)
    spoilt = K + np.triu(rng.normal(size=(4, 4)), 1)
    a, b = (
        pm.draw(gplvm.GPColumns.dist(c), draws=3, random_seed=5, mode=mode) for c in (K, spoilt)
    )
    np.testing.assert_array_equal(a, b)


def test_shape_may_be_given(rng, mode):
    variable = gplvm.GPColumns.dist(np.eye(4), shape=(3, 4))
    assert pm.draw(variable, random_seed=1, mode=mode).shape == (3, 4)


def test_cov_must_be_one_matrix():
    with pytest.raises(
        ValueError, match=r"one N × N matrix shared by all columns, got 3 dimensions"
    ):
        gplvm.GPColumns.dist(np.ones((2, 3, 3)))


def test_logp_of_many_tables_is_refused(rng):
    with pytest.raises(NotImplementedError, match=r"one table \(feature, obs\), got 3 dimensions"):
        pm.logp(gplvm.GPColumns.dist(np.eye(3)), np.zeros((2, 2, 3)))


# GPColumns in a model of one's own


@pytest.fixture(scope="module")
def table(Y):
    return Y.to_numpy()[:8] - Y.to_numpy()[:8].mean(axis=0)


@pytest.fixture(scope="module")
def own(table):
    """PyMC's ExpQuad, a Laplace prior on X, other names for the rest."""
    with pm.Model(coords={"gene": list("abcd"), "cell": np.arange(8)}) as model:
        X = pm.Laplace("X", 0.0, 0.7, shape=(8, 2))
        length = pm.Gamma("length", 4.0, 4.0)
        noise = pm.HalfNormal("noise", 1.0)
        K = 4.0 * pm.gp.cov.ExpQuad(2, ls=length)(X) + (noise**2 + 1e-6) * pt.eye(8)
        gplvm.GPColumns("expression", K, observed=table.T, dims=("gene", "cell"))
    return model


def own_covariance(X, length, noise):
    return kernel_matrix("rbf", X, lengthscale=length, amplitude=2.0) + (noise**2 + 1e-6) * np.eye(
        8
    )


@pytest.fixture(scope="module")
def own_best(own):
    return gplvm.fit_map(own, random_seed=2, progressbar=False)


def test_own_model_has_scipys_density(own, table, rng, mode):
    X = rng.normal(size=(8, 2))
    point = {"X": X, "length_log__": np.log(0.9), "noise_log__": np.log(0.4)}
    value = own.compile_fn(own.observedlogp, inputs=own.value_vars, mode=mode)(point)
    assert value == pytest.approx(column_logps(table, own_covariance(X, 0.9, 0.4)).sum(), rel=1e-9)


def test_own_model_debug_finds_nothing(own, capsys):
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        own.debug()
    assert "No problems found" in capsys.readouterr().out


def test_own_model_graph_names_the_distribution(own):
    pytest.importorskip("graphviz", reason="python-graphviz is not installed")
    source = pm.model_to_graphviz(own).source
    assert "GPColumns" in source
    assert "expression" in source


def test_prior_predictive(own, mode):
    prior = pm.sample_prior_predictive(
        draws=20, model=own, random_seed=3, compile_kwargs={"mode": mode}
    )
    drawn = prior["prior_predictive"]["expression"]
    assert drawn.dims == ("chain", "draw", "gene", "cell")
    assert drawn.shape == (1, 20, 4, 8)
    assert np.isfinite(drawn).all()
    # Given X and θ of each draw, 32 values of variance K_nn: 4 + noise², within five errors of
    # their mean square over all draws, even if all 8 cells of a column moved as one.
    variance = 4.0 + prior["prior"]["noise"].to_numpy().ravel() ** 2
    ratio = (drawn.to_numpy()[0] ** 2).mean(axis=(1, 2)) / variance
    assert abs(ratio.mean() - 1.0) < 5 * np.sqrt(2.0 / (20 * 4))


def test_posterior_predictive(own, own_best, mode):
    replicated = pm.sample_posterior_predictive(
        own_best, model=own, random_seed=4, progressbar=False, compile_kwargs={"mode": mode}
    )
    drawn = replicated["posterior_predictive"]["expression"]
    assert drawn.dims == ("chain", "draw", "gene", "cell")
    assert np.isfinite(drawn).all()


def test_posterior_predictive_draws_have_the_fits_covariance(own, own_best, mode):
    n_draws = 4000
    K = own_covariance(
        *(own_best["posterior"][n].to_numpy()[0, 0] for n in ("X", "length", "noise"))
    )
    repeated = own_best["posterior"].to_dataset().isel(draw=np.zeros(n_draws, int))
    repeated = repeated.assign_coords(draw=np.arange(n_draws))
    drawn = pm.sample_posterior_predictive(
        repeated, model=own, random_seed=5, progressbar=False, compile_kwargs={"mode": mode}
    )["posterior_predictive"]["expression"].to_numpy()[0]
    assert drawn.shape == (n_draws, 4, 8)
    covariance = np.einsum("sgi,sgj->ij", drawn, drawn) / (4 * n_draws)
    error = np.sqrt((np.outer(np.diag(K), np.diag(K)) + K**2) / (4 * n_draws))
    assert (np.abs(covariance - K) < 5 * error).all()


def test_do_holds_a_variable(own, table, rng, mode):
    X = rng.normal(size=(8, 2))
    held = pm.do(own, {"X": X})
    assert {rv.name for rv in held.free_RVs} == {"length", "noise"}
    value = held.compile_fn(held.observedlogp, inputs=held.value_vars, mode=mode)(
        {"length_log__": 0.0, "noise_log__": np.log(0.3)}
    )
    assert value == pytest.approx(column_logps(table, own_covariance(X, 1.0, 0.3)).sum(), rel=1e-9)


def test_fit_map_climbs_an_own_model(own_best):
    assert own_best.attrs["kernel"] == "custom"
    assert own_best.attrs["converged"] == 1
    optima = own_best["optima"]
    assert (optima["objective"] > optima["objective_at_start"] + 1.0).all()
    assert own_best["posterior"]["X"].shape == (1, 1, 8, 2)


def test_sample_theta_runs_on_an_own_model(own, own_best):
    fit = gplvm.sample_theta(
        own, own_best, draws=1000, tune=500, chains=2, random_seed=6, progressbar=False
    )
    assert set(fit["posterior"].data_vars) == {"length", "noise"}
    np.testing.assert_array_equal(fit["constant_data"]["X"], own_best["posterior"]["X"][0, 0])


def test_one_observed_column(rng, mode):
    y = rng.normal(size=6)
    with pm.Model() as model:
        noise = pm.HalfNormal("noise", 1.0)
        K = gplvm.covariance("rbf", np.arange(6.0)[:, None], sigma=noise)
        gplvm.GPColumns("y", K, observed=y)
    value = model.compile_fn(model.observedlogp, inputs=model.value_vars, mode=mode)(
        {"noise_log__": 0.0}
    )
    K = kernel_matrix("rbf", np.arange(6.0)[:, None], sigma=1.0)
    assert value == pytest.approx(column_logps(y[:, None], K)[0], rel=1e-10)


def test_mean_that_is_estimated_leaves_nothing_to_shorten(table, mode):
    with pm.Model() as model:
        X = pm.Normal("X", shape=(8, 1))
        mu = pm.Normal("mu", shape=4)
        gplvm.GPColumns("Y", gplvm.covariance("rbf", X, sigma=0.5), mu=mu, observed=table.T)
    (read,) = tables_of(model)
    assert not read.standardisable
    with pytest.raises(ValueError, match="must be data, got random variables"):
        read.F  # noqa: B018
    objective = gplvm.model.compile_objective(model, prior=False)
    positions, mean = np.arange(8.0)[:, None], np.array([0.1, 0.2, 0.3, 0.4])
    value, gradient = objective({"X": positions, "mu": mean})
    K = kernel_matrix("rbf", positions, sigma=0.5)
    assert value == pytest.approx(column_logps(table, K, mean).sum(), rel=1e-10)
    expected = (np.linalg.inv(K) @ (table - mean)).sum(axis=0)
    np.testing.assert_allclose(gradient["mu"], expected, rtol=1e-9)
    with pytest.raises(ValueError, match="start this model from an array of latent positions"):
        gplvm.fit_map(model, progressbar=False)


def test_public_names_of_the_distribution_are_documented():
    assert "observed=Y.T" in inspect.getdoc(gplvm.GPColumns)
