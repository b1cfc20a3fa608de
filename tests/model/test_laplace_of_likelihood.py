"""f integrated out by Laplace's approximation: against differences, the exact Gaussian, and integrals."""

import numpy as np
import pymc as pm
import pytest
from numpy.polynomial.hermite_e import hermegauss

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_log_density, optimiser_coordinates
from pm_gplvm.model.laplace import without_functions
from pm_gplvm.model.spec import ModelSpec

likelihoods = gplvm.likelihoods
N, D = 12, 4


def table():
    rng = np.random.default_rng(1)
    t = rng.uniform(-2.0, 2.0, (N, 1))
    counts = rng.poisson(np.exp(1.0 + np.sin(t + np.arange(D)))).astype(float)
    return t, counts


POSITIONS, COUNTS = table()
OFFSET = np.linspace(-0.3, 0.3, N)[:, None]
NORMAL = likelihoods.from_pymc(lambda f: pm.Normal.dist(f, 0.7))
CASES = {
    "poisson": (COUNTS, "poisson", OFFSET),
    "negative_binomial": (COUNTS, "negative_binomial", OFFSET),
    "negative_binomial-shared": (COUNTS, likelihoods.negative_binomial("shared"), None),
    "bernoulli": ((COUNTS > 2.0) * 1.0, "bernoulli", OFFSET),
    "binomial": (COUNTS, likelihoods.binomial(30), None),
    "ordinal": (np.minimum(COUNTS, 4.0), "ordinal", OFFSET),
    "lognormal": (COUNTS + 0.5, "lognormal", None),
    "lognormal-column": (COUNTS + 0.5, likelihoods.lognormal("column"), OFFSET),
    "gamma": (COUNTS + 0.5, "gamma", OFFSET),
    "gamma-shared": (COUNTS + 0.5, likelihoods.gamma("shared"), None),
    "gaussian-entries": (COUNTS, likelihoods.gaussian(noise_sd=np.full((N, D), 0.3)), None),
    "from_pymc": (COUNTS, NORMAL, OFFSET),
    "from_pymc-poisson": (
        COUNTS,
        likelihoods.from_pymc(lambda f: pm.Poisson.dist(pm.math.exp(f))),
        None,
    ),
    "mixed": (COUNTS, {(0, 1): "poisson", 2: "ordinal", 3: "negative_binomial"}, OFFSET),
}


def holes(Y):
    Y = Y.copy()
    Y[0, 1] = Y[3, 0] = Y[4, 0] = np.nan
    return Y


def built(case, *, missing=False, **settings):
    Y, likelihood, offset = CASES[case]
    Y = holes(Y) if missing else Y
    return gplvm.build_model(Y, 1, likelihood=likelihood, offset=offset, missing="mask", **settings)


def objective_of(model):
    spec = without_functions(ModelSpec.of(model, functions=True), "fit_map")
    return spec, compile_log_density(spec, coordinates=optimiser_coordinates)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_differences(case, missing):
    if missing and case.startswith("from_pymc"):
        pytest.skip("build_model wants such a table complete")
    spec, objective = objective_of(built(case, missing=missing))
    rng = np.random.default_rng(3)
    values = spec.model.initial_point()
    at = objective.inward(values | {"X": POSITIONS})
    at = at + 0.3 * rng.standard_normal(at.size)
    value, gradient = objective(at)
    assert np.isfinite(value)
    h, found = 1e-4, np.empty_like(at)
    for i in range(at.size):

        def along(s, i=i):
            moved = at.copy()
            moved[i] += s * h
            return objective(moved)[0]

        found[i] = (8.0 * (along(1) - along(-1)) - along(2) + along(-2)) / (12.0 * h)
    np.testing.assert_allclose(gradient, found, rtol=1e-5, atol=1e-6 * np.abs(found).max())


@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_entries_by_differences(case):
    source = ModelSpec.of(built(case, missing="pymc" not in case), functions=True).table.source
    likelihood, rows = source.likelihood, source.rows_and_entries
    rng = np.random.default_rng(2)
    start, level = likelihood.start(rows)
    q = {n: np.array(v + 0.3 * rng.normal(size=np.shape(v))) for n, v in start.items()}
    f = level + rng.normal(size=rows.Y.shape)
    h = 1e-4
    log_p, slope, W, of_W = likelihood.curved(rows, f, q)
    assert not log_p[~rows.seen].any()
    up, down = (likelihood.curved(rows, f + s, q) for s in (h, -h))
    for derivative, i in ((slope, 0), (-W, 1), (of_W, 2)):
        change = (up[i] - down[i]) / (2.0 * h)
        np.testing.assert_allclose(derivative, change, rtol=1e-6, atol=1e-6)
    v, u = rng.random(f.shape), rng.normal(size=f.shape)

    def total(q):
        log_p, slope, W, _ = likelihood.curved(rows, f, q)
        return (log_p - 0.5 * v * W + u * slope).sum()

    found = likelihood.slopes_of_parameters(rows, f, v, u, q)
    assert found.keys() == q.keys()
    for name, value in q.items():
        change = np.empty(value.shape)
        for index in np.ndindex(value.shape):
            moved = {s: {**q, name: value.copy()} for s in (h, -h)}
            for s, each in moved.items():
                each[name][index] += s
            change[index] = (total(moved[h]) - total(moved[-h])) / (2.0 * h)
        np.testing.assert_allclose(found[name], change, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("far", [-300.0, -40.0, 40.0, 300.0])
@pytest.mark.parametrize("case", [c for c in CASES if "pymc" not in c])
def test_far_from_the_table_nothing_is_lost_to_rounding(case, far):
    source = ModelSpec.of(built(case), functions=True).table.source
    rows = source.rows_and_entries
    start, level = source.likelihood.start(rows)
    found = source.likelihood.curved(rows, np.broadcast_to(level + far, rows.Y.shape), start)
    assert all(np.isfinite(part).all() for part in found)
    assert (found[2] >= 0.0).all()


def test_of_a_gaussian_it_is_the_exact_model():
    """Y around known levels with known noise, by from_pymc and by build_model."""
    Y = np.random.default_rng(5).normal(size=(N, D))
    level = Y.mean(axis=0)
    model = gplvm.build_model(Y, 1, likelihood=NORMAL, priors={"level": level})
    _, objective = objective_of(model)
    usual = gplvm.build_model(Y, 1, scale="none", priors={"sigma": 0.7}, resolution=0)
    exact = compile_log_density(usual, coordinates=optimiser_coordinates)
    values = {"X": POSITIONS, "lengthscale_log__": np.log(1.3), "amplitude_log__": np.log(0.8)}
    found, wanted = (each(each.inward(values)) for each in (objective, exact))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-8)
    slopes = exact.unpack(wanted[1])
    for name, slope in objective.unpack(found[1]).items():
        np.testing.assert_allclose(slope, slopes[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", ["poisson", "negative_binomial", "bernoulli", "ordinal", "gamma"])
def test_it_is_near_the_integral_over_three_rows(case):
    Y, likelihood, _ = CASES[case]
    Y = Y[[1, 4, 6], :2]
    if case == "ordinal":
        Y, likelihood = np.minimum(Y, 2.0), likelihoods.ordinal(levels=[0, 1, 2])
    model = gplvm.build_model(Y, 1, likelihood=likelihood, priors={"amplitude": 0.5})
    spec = without_functions(ModelSpec.of(model, functions=True), "fit_map")
    likelihood, rows = spec.table.source.likelihood, spec.table.source.rows_and_entries
    X = np.array([[0.0], [0.7], [1.1]])
    values = spec.model.initial_point() | {"X": X}
    density = compile_log_density(spec, prior=False)
    found = density(density.pack(values))[0]
    q = {
        name: np.asarray(values[f"{name.removeprefix('log_')}_log__"])
        for name in likelihood.start(rows)[0]
    }
    K = 0.25 * np.exp(-0.5 * (X - X.T) ** 2 / np.exp(values["lengthscale_log__"]) ** 2)
    x, w = hermegauss(20)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    weights = np.einsum("i,j,k->ijk", w, w, w).ravel() / w.sum() ** 3
    f = np.linalg.cholesky(K) @ points
    logs = [likelihood.curved(rows, values["level"] + at[:, None], q)[0].sum(axis=0) for at in f.T]
    exact = np.log(weights @ np.exp(logs)).sum()
    assert abs(found - exact) < 0.03


def test_missing_entries_are_as_if_their_rows_were_not_there():
    """Column by column: the functions of columns are independent given X and θ."""
    Y, levels = holes(COUNTS), np.array([1.0, 0.5, 1.2, 0.8])
    theta = {"lengthscale": 1.1, "amplitude": 0.9}

    def log_likelihood(rows, columns):
        priors = {**theta, "level": levels[columns]}
        model = gplvm.build_model(
            Y[np.ix_(rows, columns)],
            1,
            likelihood="poisson",
            offset=OFFSET[rows],
            priors=priors,
            missing="mask",
        )
        spec = without_functions(ModelSpec.of(model, functions=True), "fit_map")
        density = compile_log_density(spec, prior=False)
        return density(density.pack({"X": POSITIONS[rows]}))[0]

    each = [log_likelihood(np.flatnonzero(~np.isnan(Y[:, d])), [d]) for d in range(D)]
    np.testing.assert_allclose(log_likelihood(np.arange(N), range(D)), sum(each), rtol=1e-10)


@pytest.mark.parametrize(
    ("likelihood", "why"),
    [
        ("student_t", "student_t.*an outlier's ln p bends upwards"),
        ({(0, 1): "gaussian", (2, 3): "student_t"}, "under student_t an outlier"),
        (likelihoods.from_pymc(lambda f: pm.Cauchy.dist(f, 1.0)), "bends upwards in f in places"),
        (likelihoods.from_pymc(lambda f: pm.Laplace.dist(f, 1.0)), "is not curved in f"),
    ],
)
def test_what_is_not_log_concave_is_refused(likelihood, why):
    model = gplvm.build_model(COUNTS, 1, likelihood=likelihood)
    with pytest.raises(ValueError, match=f"fit_map needs a likelihood.*{why}.*Take fit_svi"):
        gplvm.fit_map(model, progressbar=False)
