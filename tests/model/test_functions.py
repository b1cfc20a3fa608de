"""Models whose functions are written out, for any likelihood."""

import numpy as np
import pymc as pm
import pytensor
import pytest
from scipy import stats

import pm_gplvm as gplvm
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.likelihoods import Rows
from pm_gplvm.model.spec import ModelSpec

likelihoods = gplvm.likelihoods
N, D = 12, 4
MODE = {"mode": compile_mode()}


def table():
    rng = np.random.default_rng(1)
    t = rng.uniform(-2.0, 2.0, (N, 1))
    counts = rng.poisson(np.exp(1.0 + np.sin(t + np.arange(D)))).astype(float)
    return t, counts


def holes(Y):
    Y = Y.copy()
    Y[0, 1] = Y[3, 0] = Y[4, 0] = np.nan
    return Y


POSITIONS, COUNTS = table()
OFFSET = np.linspace(-0.3, 0.3, N)[:, None]
CASES = {
    "poisson": (COUNTS, "poisson", OFFSET),
    "negative_binomial": (COUNTS, "negative_binomial", None),
    "bernoulli": ((COUNTS > 2.0) * 1.0, "bernoulli", OFFSET),
    "binomial": (COUNTS, likelihoods.binomial(30), None),
    "ordinal": (np.minimum(COUNTS, 3.0), "ordinal", None),
    "student_t": (COUNTS, "student_t", OFFSET),
    "student_t-free": (COUNTS, likelihoods.student_t("free", "column"), None),
    "lognormal": (COUNTS + 0.5, "lognormal", None),
    "gamma": (COUNTS + 0.5, "gamma", None),
    "gaussian-entries": (COUNTS, likelihoods.gaussian(noise_sd=np.full((N, D), 0.3)), None),
    "mixed": (COUNTS, {(0, 1): "poisson", 2: "student_t", 3: "negative_binomial"}, OFFSET),
}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_density_is_that_of_the_family_and_its_priors(case, missing):
    Y, likelihood, offset = CASES[case]
    Y = holes(Y) if missing else Y
    model = gplvm.build_model(Y, 1, likelihood=likelihood, missing="mask", offset=offset)
    source = ModelSpec.of(model, functions=True).table.source
    rng = np.random.default_rng(2)
    start, level = source.likelihood.start(source.rows)
    values = {name: np.asarray(v) + 0.3 * rng.normal(size=np.shape(v)) for name, v in start.items()}
    point = {"X": POSITIONS, "lengthscale": 1.2, "amplitude": 0.8}
    point |= {"v": rng.normal(size=(D, N)), "level": level + 0.1}
    point |= {
        name.replace("log_df", "log_df_beyond_2").removeprefix("log_"): np.exp(value)
        for name, value in values.items()
    }
    plain = pm.model.transform.conditioning.remove_value_transforms(model)
    found = plain.compile_logp(mode=compile_mode())(point)

    d2 = (POSITIONS - POSITIONS.T) ** 2 / 1.2**2
    L = np.linalg.cholesky(0.64 * (np.exp(-0.5 * d2) + 1e-6 * np.eye(N)))
    f = level + 0.1 + (L @ point["v"].T)
    entry = source.likelihood.entries(N, D)
    if entry is not None and source.likelihood.name == "gaussian":
        entry = entry / source.spread
    rows = Rows(source.rows.Y, offset, entry)
    each, _ = source.likelihood.expect(
        rows, f[:, None].copy(), np.zeros((N, 1, D)), np.ones(1), values
    )
    wanted = each.sum() - (rows.seen @ np.log(source.spread)).sum()
    wanted += stats.norm.logpdf(POSITIONS).sum() + stats.norm.logpdf(point["v"]).sum()
    wanted += stats.norm.logpdf(0.1) * D
    wanted += stats.invgamma.logpdf(1.2, 3.0, scale=2.0) + stats.lognorm.logpdf(0.8, 1.0)
    # The prior of ln x, by the density of x
    wanted += source.likelihood.log_prior(values)[0] - sum(v.sum() for v in values.values())
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_what_was_not_measured_is_no_variable(case):
    Y, likelihood, offset = CASES[case]
    model = gplvm.build_model(holes(Y), 1, likelihood=likelihood, missing="mask", offset=offset)
    assert not [rv.name for rv in model.basic_RVs if "unobserved" in rv.name]
    n = sum(
        int(np.prod(pytensor.function([], rv.shape, mode="FAST_COMPILE")()))
        for rv in model.observed_RVs
    )
    assert n == N * D - 3


def test_tables_are_drawn_from_the_prior_in_their_own_units():
    model = gplvm.build_model(1000.0 + 50.0 * COUNTS, 1, likelihood="student_t")
    drawn = pm.sample_prior_predictive(200, model=model, random_seed=1, compile_kwargs=MODE)
    Y = drawn.prior_predictive["Y"]
    assert Y.dims[2:] == ("obs", "feature")
    np.testing.assert_allclose(np.median(Y), 1000.0 + 50.0 * COUNTS.mean(), rtol=0.1)


def test_pymc_samples_it():
    model = gplvm.build_model(COUNTS[:5], 1, likelihood="poisson", priors={"X": POSITIONS[:5]})
    fit = pm.sample(
        20,
        tune=20,
        chains=1,
        model=model,
        random_seed=1,
        progressbar=False,
        compile_kwargs=MODE,
        compute_convergence_checks=False,
    )
    assert fit["posterior"]["f"].dims == ("chain", "draw", "obs", "feature")
    assert {"lengthscale", "amplitude", "level", "v"} <= set(fit["posterior"].data_vars)


def test_a_gaussian_by_any_name_is_the_model_with_its_functions_integrated_out():
    usual = gplvm.build_model(COUNTS, 1)
    for value in ("gaussian", likelihoods.gaussian(), {tuple(range(D)): "gaussian"}):
        model = gplvm.build_model(COUNTS, 1, likelihood=value)
        assert [rv.name for rv in model.basic_RVs] == [rv.name for rv in usual.basic_RVs]
        assert ModelSpec.of(model).kernel == "rbf"
    own = gplvm.build_model(COUNTS, 1, likelihood=likelihoods.gaussian("column"))
    assert ModelSpec.of(own).table.own is not None


def test_the_level_takes_a_prior():
    model = gplvm.build_model(COUNTS, 1, likelihood="poisson", priors={"level": np.zeros(D)})
    assert "level" not in [rv.name for rv in model.free_RVs]
    model = gplvm.build_model(COUNTS, 1, likelihood="poisson", priors={"level": pm.Normal.dist()})
    assert ModelSpec.of(model, functions=True).priors["level"] == "Normal(0.0, 1.0)"


def test_a_copy_of_the_model_is_known_too():
    model = gplvm.build_model(COUNTS, 1, likelihood="poisson")
    copied = pm.do(model, {"X": POSITIONS})
    assert ModelSpec.of(copied, functions=True).table.source.likelihood.name == "poisson"


@pytest.mark.parametrize(
    "verb",
    [
        gplvm.fit_marginal,
        gplvm.fit_laplace,
        gplvm.fit_linear,
        gplvm.fit_variational,
        gplvm.sample,
        gplvm.model.compile_objective,
    ],
)
def test_what_needs_a_gaussian_says_what_to_call(verb):
    model = gplvm.build_model(COUNTS, 1, likelihood="poisson")
    with pytest.raises(
        ValueError, match=r"Gaussian likelihood here, got poisson.*fit_svi\(model\)"
    ):
        verb(model)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="resolution is of likelihood='gaussian'"):
        gplvm.build_model(COUNTS, 1, likelihood="poisson", resolution=0.1)
    with pytest.raises(ValueError, match="noise is of likelihood='gaussian'"):
        gplvm.build_model(COUNTS, 1, likelihood="poisson", noise="column")
    with pytest.raises(ValueError, match="offset is of other likelihoods"):
        gplvm.build_model(COUNTS, 1, offset=OFFSET)
    with pytest.raises(ValueError, match="must hold"):
        gplvm.build_model(COUNTS - 0.5, 1, likelihood="poisson")
    with pytest.raises(ValueError, match="priors must name"):
        gplvm.build_model(COUNTS, 1, likelihood="poisson", priors={"sigma": 1.0})
    prior = gplvm.priors.back_constraint()
    with pytest.raises(ValueError, match="back_constraint"):
        gplvm.build_model(COUNTS, 1, likelihood="poisson", priors={"X": prior})
    laplace = likelihoods.from_pymc(lambda f: pm.Laplace.dist(f, 0.3))
    with pytest.raises(ValueError, match="complete"):
        gplvm.build_model(holes(COUNTS), 1, likelihood=laplace, missing="mask")
