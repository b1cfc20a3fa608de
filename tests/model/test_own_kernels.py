"""A user's own covariance of pm.gp.cov as the kernel: the same numbers as the kernels that have names."""

import pickle
from functools import partial

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.core.kernels import OWN, cross_slope, kernel_named
from pm_gplvm.diagnostics import leave_one_out, magnification
from pm_gplvm.model import compile_objective
from pm_gplvm.model.spec import ModelSpec

QUIET = {"random_seed": 1, "progressbar": False}


def squared(input_dim, lengthscale):
    """The RBF kernel, as PyMC has it."""
    return pm.gp.cov.ExpQuad(input_dim, ls=lengthscale)


def rational(input_dim, lengthscale, alpha):
    return pm.gp.cov.RatQuad(input_dim, ls=lengthscale, alpha=alpha)


def around(input_dim, lengthscale):
    """Matérn 1/2 of the first dimension and periodic in the second, with PyMC's unit of the lengthscale."""
    first = pm.gp.cov.Matern12(input_dim, ls=lengthscale[0], active_dims=[0])
    return first + pm.gp.cov.Periodic(input_dim, 2 * np.pi, ls=lengthscale[1] / 2, active_dims=[1])


@pytest.fixture(scope="module")
def Y():
    rng = np.random.default_rng(0)
    return np.sin(rng.normal(size=(16, 2)) @ rng.normal(size=(2, 5))) + 0.1 * rng.normal(
        size=(16, 5)
    )


ROUNDED = 2e-5  # PyMC adds 1e-12 to squared distances before it takes their root
SAME = {
    "rbf": ("rbf", squared, False, {"lengthscale": 0.8}, 1e-10),
    "rbf ard": ("rbf", squared, True, {}, 1e-10),
    "alpha": ("rational_quadratic", rational, False, {"lengthscale": 0.8, "alpha": 0.7}, 1e-10),
    "matern12 + periodic": ("matern12[0] + periodic[1]", around, True, {}, ROUNDED),
}


@pytest.mark.parametrize("name", SAME)
def test_log_density_and_gradient_are_those_of_the_named_kernel(name, Y):
    text, function, ard, changed, rtol = SAME[name]
    theta = {"lengthscale": [0.8, 1.3], "sigma": 0.3, **changed}
    X = np.random.default_rng(1).normal(size=(len(Y), 2))
    found = []
    for kernel in (text, function):
        model = gplvm.build_model(Y, 2, kernel=kernel, ard=ard, priors={"amplitude": 1.4})
        shapes = {rv.name: rv.type.shape for rv in model.free_RVs}
        point = {name: np.broadcast_to(v, shapes[name]) for name, v in theta.items()}
        value, gradient = compile_objective(model)({"X": X, **point})
        found.append([value, *(np.ravel(gradient[name]) for name in ("X", *theta))])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=100 * rtol, atol=100 * rtol)


@pytest.fixture(scope="module")
def fits(Y):
    """A mode under "rbf", and the same numbers as a fit under the user's kernel."""
    best = gplvm.fit_map(gplvm.build_model(Y, 2), n_restarts=1, **QUIET)
    model = gplvm.build_model(Y, 2, kernel=squared)
    with pytest.warns(RuntimeWarning, match="did not converge"):
        same = gplvm.fit_map(model, n_restarts=1, max_iter=1, relocate=False, **QUIET)
    group = same["posterior"].to_dataset()
    for name in group:
        group[name] = (
            group[name].dims,
            best["posterior"][name].to_numpy().reshape(group[name].shape),
        )
    same["posterior"] = xr.DataTree(group)
    return best, same


VERBS = {
    "predict": lambda fit, Y: gplvm.predict(fit, np.full((2, 2), 0.1)),
    "reconstruct": lambda fit, Y: gplvm.reconstruct(fit),
    "embed": lambda fit, Y: gplvm.embed(fit, Y[:2] + 0.1, random_seed=1)["posterior"].to_dataset(),
    "log_predictive": lambda fit, Y: gplvm.log_predictive(fit, Y[:2] + 0.1, random_seed=1),
    "impute": lambda fit, Y: gplvm.impute(
        fit, np.where([1, 0, 0, 0, 0], np.nan, Y[:2]), random_seed=1
    ),
    "leave_one_out": lambda fit, Y: leave_one_out(fit),
    "magnification": lambda fit, Y: magnification(fit, np.full((2, 2), 0.1)),
    "align": lambda fit, Y: gplvm.align(fit)["aligned"].to_dataset(),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_verbs_give_the_numbers_of_the_named_kernel(verb, fits, Y):
    one, other = (verb(fit, Y) for fit in fits)
    compared = 0
    for name in one if isinstance(one, xr.Dataset) else [None]:
        a, b = (np.asarray(each if name is None else each[name]) for each in (one, other))
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b.reshape(a.shape), a, rtol=1e-8, atol=1e-8)
            compared += 1
    assert compared


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # they are stopped early
def test_fits_of_it(Y):
    model = gplvm.build_model(Y, 2, kernel=squared)
    best = gplvm.fit_marginal(model, n_restarts=1, max_iter=3, **QUIET)
    assert np.isfinite(best["sample_stats"]["log_marginal"].item())
    draws = gplvm.sample(model, start=best, draws=4, tune=4, chains=2, **QUIET)
    assert np.isfinite(gplvm.align(draws)["aligned"]["X"]).all()
    theta = gplvm.sample_theta(model, best, draws=4, tune=4, chains=1, **QUIET)
    assert theta["posterior"]["lengthscale"].shape == (1, 4, 1)
    fit = gplvm.fit_svi(model, epochs=2, **QUIET)
    assert fit.attrs["kernel"] == best.attrs["kernel"]
    assert np.isfinite(gplvm.predict(fit, np.zeros((1, 2)))["mean"]).all()


def test_positions_are_found_through_the_estimator(Y):
    estimator = gplvm.GPLVM(kernel=squared, inference="map", max_iter=30, random_state=1)
    assert estimator.fit(Y).transform(Y[:2]).shape == (2, 2)


@pytest.mark.parametrize("profile", ["rbf", "matern32", "matern52"])
def test_the_slope_at_0_is_found_by_differences(profile):
    cov = {"rbf": pm.gp.cov.ExpQuad, "matern32": pm.gp.cov.Matern32, "matern52": pm.gp.cov.Matern52}
    function = lambda input_dim, lengthscale: cov[profile](input_dim, ls=lengthscale)  # noqa: E731
    own = gplvm.build_model(
        np.random.default_rng(0).normal(size=(5, 4)), 2, kernel=function, ard=True
    )
    name = ModelSpec.of(own).kernel
    theta = {"lengthscale": np.array([0.3, 2.0]), "amplitude": 1.5}
    named = kernel_named(f"{profile}[0,1]").prior_slope_variance(2, **theta)
    found = kernel_named(name).prior_slope_variance(2, **theta)
    np.testing.assert_allclose(found, named, rtol=3e-5 if profile == "matern32" else 1e-6)
    X = np.random.default_rng(0).normal(size=(4, 2))
    slopes = [cross_slope(each, X[:2], X, **theta) for each in (f"{profile}[0,1]", name)]
    np.testing.assert_allclose(slopes[1], slopes[0], atol=1e-5)


def test_a_file_holds_no_code_and_asks_for_the_function(fits, tmp_path):
    path = gplvm.save(fits[1], tmp_path / "fit.nc")
    name = fits[1].attrs["kernel"]
    known = OWN.pop(name)
    kernel_named.cache_clear()
    try:
        read = gplvm.load(path)
        gplvm.plot.latent(read)
        for verb in (
            lambda: gplvm.predict(read, np.zeros((1, 2))),
            lambda: gplvm.model.rebuild(read),
        ):
            with pytest.raises(
                ValueError,
                match=r"needs the kernel of the fit, a function of its author's, 'squared'",
            ):
                verb()
        with pytest.raises(ValueError, match="kernel must be that of the fit, 'own:squared"):
            gplvm.load(
                path,
                kernel=lambda input_dim, lengthscale: pm.gp.cov.Matern52(input_dim, ls=lengthscale),
            )
        read = gplvm.load(
            path, kernel=lambda input_dim, lengthscale: squared(input_dim, lengthscale)
        )
        np.testing.assert_array_equal(
            gplvm.predict(read, np.zeros((1, 2)))["mean"],
            gplvm.predict(fits[1], np.zeros((1, 2)))["mean"],
        )
        assert gplvm.model.rebuild(read)
    finally:
        OWN[name] = known
        kernel_named.cache_clear()


def test_it_is_known_where_it_is_unpickled(fits):
    name = fits[1].attrs["kernel"]
    kernel = pickle.loads(pickle.dumps(kernel_named(name)))
    assert kernel.name == name


def _random_variable():
    with pm.Model():
        return pm.gp.cov.ExpQuad(2, ls=pm.HalfNormal("l"))


REFUSED = {
    "a class": (
        pm.gp.cov.ExpQuad,
        TypeError,
        "kernel must be a name such as 'rbf', a function such as",
    ),
    "a number": (3, TypeError, "or a function that returns a covariance of pm.gp.cov, got int"),
    "no covariance": (lambda input_dim: 3, TypeError, "got a function that returns int"),
    "other names": (lambda input_dim, ls: squared(input_dim, ls), ValueError, "by these names"),
    "an error": (lambda input_dim: 1 / 0, ValueError, "cannot be evaluated .* division by zero"),
    "other dimensions": (pm.gp.cov.ExpQuad(3, ls=1.0), ValueError, "got one of input_dim = 3"),
    "random variables": (_random_variable(), ValueError, "must not hold random variables"),
    "no ard": (around, ValueError, "ard must be True"),
    "an amplitude": (
        lambda input_dim, lengthscale: lengthscale**2 * squared(input_dim, lengthscale),
        ValueError,
        "that does not depend on",
    ),
}


@pytest.mark.parametrize(("kernel", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_kernel_is_told(kernel, error, message, Y):
    with pytest.raises(error, match=message):
        gplvm.build_model(Y, 2, kernel=kernel)


def test_what_does_not_take_it_says_so(Y):
    model = gplvm.build_model(Y, 2, kernel=squared)
    for fit in (gplvm.fit_sparse, gplvm.fit_variational):
        with pytest.raises(ValueError, match="expectations under q"):
            fit(model, progressbar=False)
    rough = gplvm.build_model(Y, 2, kernel=partial(_rough))
    with pytest.raises(ValueError, match="have no slopes"):
        gplvm.fit_marginal(rough, progressbar=False)
    straight = gplvm.build_model(Y, 2, kernel=pm.gp.cov.Linear(2, c=0.0))
    with pytest.raises(ValueError, match="the slopes depend on the place"):
        gplvm.fit_marginal(straight, progressbar=False)


def _rough(input_dim, lengthscale):
    return pm.gp.cov.Matern12(input_dim, ls=lengthscale)
