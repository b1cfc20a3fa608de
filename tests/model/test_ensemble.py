"""Many states at once against PyMC's own log-density of one."""

import numpy as np
import pymc as pm
import pytest

import pm_gplvm as gplvm
from pm_gplvm.model.density import compile_ensemble, compile_row_prior


def hierarchical(name, dims):
    return pm.Normal(name, 0.0, pm.HalfNormal("spread", 1.0), dims=dims)


def walk(name, dims):
    """Rows that depend on each other."""
    steps = pm.Normal("steps", 0.0, 1.0, dims=dims)
    return pm.Deterministic(name, steps.cumsum(axis=0), dims=dims)


def chained(name, dims):
    X = pm.Normal(name, 0.0, 1.0, dims=dims)
    pm.Potential("smooth", -2.0 * ((X[1:] - X[:-1]) ** 2).sum())
    return X


MODELS = {
    "default": {},
    "ard": {"ard": True},
    "fixed lengthscale": {"priors": {"lengthscale": 0.7}},
    "linear": {"kernel": "linear"},
    "sum": {"kernel": "rbf + linear"},
    "sum, ard": {"kernel": "matern32 + linear", "ard": True},
    "sum, fixed lengthscale": {"kernel": "rbf + linear", "priors": {"lengthscale": 0.7}},
    "bias": {"kernel": "matern32 + bias"},
    "hierarchical": {"priors": {"X": hierarchical}},
    "deterministic X": {"priors": {"X": walk}},
}


@pytest.fixture(scope="module", params=MODELS)
def case(request, Y):
    model = gplvm.build_model(Y, **MODELS[request.param])
    ensemble = compile_ensemble(model)
    rng = np.random.default_rng(3)
    return model, ensemble, 0.5 * rng.normal(size=(3, ensemble.size))


def test_log_density_is_pymcs(case, mode):
    model, ensemble, states = case
    found, values = ensemble(states), ensemble.outward(states)
    jacobian = np.zeros(len(states)) + ensemble.log_jacobian(ensemble.unpack(states))
    logp = model.compile_logp(mode=mode)
    for r in range(len(states)):
        wanted = logp({name: value[r] for name, value in values.items()})
        total = found.log_likelihood[r] + found.log_prior[r] - jacobian[r]
        assert total == pytest.approx(wanted, rel=1e-10)


def test_gradients_against_differences(case):
    _, ensemble, states = case
    found, step = ensemble(states), 1e-5
    for i in np.random.default_rng(0).choice(ensemble.size, size=4, replace=False):
        moved = np.zeros(ensemble.size)
        moved[i] = step
        up, down = ensemble(states + moved), ensemble(states - moved)
        for part in ("likelihood", "prior"):
            difference = getattr(up, f"log_{part}") - getattr(down, f"log_{part}")
            gradient = getattr(found, f"{part}_gradient")[:, i]
            np.testing.assert_allclose(gradient, difference / (2 * step), rtol=1e-5, atol=1e-6)


def test_there_and_back(case):
    _, ensemble, states = case
    values = ensemble.outward(states)
    again = ensemble.inward({name: value[1] for name, value in values.items()})
    np.testing.assert_allclose(again, states[1], rtol=1e-12)


def test_z_is_x_in_lengthscales(Y):
    ensemble = compile_ensemble(gplvm.build_model(Y, ard=True))
    states = np.random.default_rng(1).normal(size=(2, ensemble.size))
    draws = ensemble.draws(states)
    np.testing.assert_allclose(
        ensemble.latent(states), draws["X"] / draws["lengthscale"][:, None, :], rtol=1e-12
    )


ROW_PRIORS = {
    "default": (None, True),
    "each row its own": (pm.Normal.dist(np.arange(24.0).reshape(12, 2), 0.5), True),
    "Student": (pm.StudentT.dist(nu=4, mu=0.0, sigma=np.array([1.0, 2.0]), shape=(12, 2)), True),
    "correlated dimensions": (
        pm.MvNormal.dist(np.zeros(2), cov=np.array([[1.0, 0.3], [0.3, 2.0]]), shape=(12, 2)),
        True,
    ),
    "hierarchical": (hierarchical, True),
    "chained": (chained, False),
}


@pytest.mark.parametrize("name", ROW_PRIORS)
def test_row_prior_differs_as_the_whole_prior_does(name, Y, mode, rng):
    prior, factorises = ROW_PRIORS[name]
    model = gplvm.build_model(Y, priors=None if prior is None else {"X": prior})
    row_prior = compile_row_prior(model)
    assert row_prior.factorises == factorises
    point = model.initial_point()
    names = [v.name for v in model.value_vars]
    values = [np.stack([point[n] + 0.1 * rng.normal(size=np.shape(point[n]))] * 2) for n in names]
    C = rng.normal(size=(2, 3, 2))
    found = row_prior(4, C, values)
    logp = model.compile_logp(vars=[*model.free_RVs, *model.potentials], mode=mode)
    for r in range(2):
        wanted = []
        for m in range(3):
            at = {n: v[r].copy() for n, v in zip(names, values, strict=True)}
            at["X"][4] = C[r, m]
            wanted.append(logp(at))
        np.testing.assert_allclose(np.diff(found[r]), np.diff(wanted), rtol=1e-9)
