"""What every verb gives on two small tables, as flat numbers, to be compared with frozen ones.

`scripts/freeze` writes them to `tests/golden.json`. A fit that others read is made by hand, so that
what is frozen of a verb depends on that verb alone. Optimisers and samplers are chaotic: of them the
first steps are frozen.
"""

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr
from conftest import simulated
from made import fit_of

import pm_gplvm as gplvm
from pm_gplvm.objective import compile_log_density

N, D, Q = 14, 5, 2
TABLES = ("complete", "holes")
THETA = {"lengthscale": 0.9, "amplitude": 1.1, "sigma": 0.3}
QUIET = {"random_seed": 3, "progressbar": False}
# Rounding grows along a path: a few steps of an optimiser or a sampler keep fewer digits.
# R-hat goes by ranks: two draws of one log-likelihood to rounding may change places.
EXACT, PATH, RANKS = 1e-9, 1e-5, 1e-4
_TIMES, _GIVEN = ("seconds",), ("constant_data", "observed_data")


def table(kind: str) -> xr.DataArray:
    Y = simulated(N, D)
    if kind == "holes":
        Y = Y.copy()
        Y[1, 0] = Y[4, 2] = Y[7, 2] = Y[7, 4] = np.nan
    return Y


@cache
def model(kind: str, kernel: str = "rbf"):
    return gplvm.build_model(table(kind), Q, kernel=kernel, resolution=0.05, missing=_missing(kind))


def _missing(kind: str) -> str:
    return "mask" if kind == "holes" else "raise"


def draws_of_X(chains: int = 2, draws: int = 4) -> np.ndarray:
    rng = np.random.default_rng(11)
    return rng.standard_normal((N, Q)) + 0.1 * rng.standard_normal((chains, draws, N, Q))


@cache
def made(kind: str) -> xr.DataTree:
    """A fit of a few draws near each other."""
    return fit_of(model(kind), draws_of_X(), **THETA)


@cache
def made_one(kind: str) -> xr.DataTree:
    """A fit of one draw."""
    return fit_of(model(kind), draws_of_X(1, 1), **THETA)


def new_rows(kind: str) -> np.ndarray:
    Y = simulated(N + 3, D).to_numpy()[N:].copy()
    if kind == "holes":
        Y[0, 1] = Y[2, 3] = np.nan
    return Y


def numbers(result) -> dict[str, np.ndarray]:
    """All numbers of a tree, a set, a table or an array, by the path to them."""
    if isinstance(result, xr.DataTree):
        parts = {
            f"{node.path}/{name}": value.to_numpy()
            for node in result.subtree
            if node.name not in _GIVEN
            for name, value in node.data_vars.items()
        }
    elif isinstance(result, xr.Dataset):
        parts = {str(name): value.to_numpy() for name, value in result.data_vars.items()}
    elif isinstance(result, xr.DataArray):
        parts = {"value": result.to_numpy()}
    elif isinstance(result, pd.DataFrame):
        parts = {str(name): column.to_numpy() for name, column in result.items()}
    else:
        parts = {name: np.asarray(value) for name, value in result.items()}
    return {
        name: np.asarray(value, dtype=np.float64)
        for name, value in parts.items()
        if np.asarray(value).dtype.kind in "fiub" and not name.endswith(_TIMES)
    }


def _objective(kind):
    point = {"X": draws_of_X()[0, 0], **THETA}
    value, gradient = gplvm.compile_objective(model(kind))(point)
    return {"value": value, **gradient}


def _marginal(kind):
    given = model(kind, "rbf + linear")
    values = {"X": draws_of_X()[0, 0], "weight_log__": np.log(0.4)}
    values |= {f"{name}_log__": np.log(value) for name, value in THETA.items()}
    density = compile_log_density(given, volume=True)
    value, gradient = density(density.pack(values))
    return {"value": value, "gradient": gradient}


def _gradients(kind):
    return gplvm.gradients(model(kind), {"X": draws_of_X()[0, 0], **THETA})


def _places(kind):
    return draws_of_X()[0, 0][:3] + 0.2


def _diagnosis(kind):
    rng = np.random.default_rng(5)
    X = draws_of_X()[0, 0] + 0.3 * rng.standard_normal((4, 50, N, Q))
    return gplvm.diagnose(fit_of(model(kind), X, **THETA)).table


def _comparison(kind):
    others = fit_of(model(kind), draws_of_X() * 1.2, **(THETA | {"sigma": 0.4}))
    return gplvm.compare({"first": made(kind), "second": others}, n_neighbors=3)


CASES: dict[str, tuple[Callable[[str], object], float]] = {
    "objective": (_objective, EXACT),
    "marginal objective": (_marginal, EXACT),
    "gradients": (_gradients, EXACT),
    "predict": (lambda k: gplvm.predict(made(k), _places(k), noise=True), EXACT),
    "sample_predictive": (
        lambda k: gplvm.sample_predictive(made(k), _places(k), draws=3, random_seed=3),
        EXACT,
    ),
    "reconstruct": (lambda k: gplvm.reconstruct(made(k)), EXACT),
    "align": (lambda k: gplvm.align(made(k))["aligned"], EXACT),
    "diagnose": (_diagnosis, RANKS),
    "compare": (_comparison, EXACT),
    "leave_one_out": (lambda k: gplvm.leave_one_out(made(k)), EXACT),
    "compute_log_likelihood": (
        lambda k: gplvm.compute_log_likelihood(made(k))["log_likelihood"],
        EXACT,
    ),
    "magnification": (lambda k: gplvm.magnification(made(k), _places(k)), EXACT),
    "neighbour_probabilities": (lambda k: gplvm.neighbour_probabilities(made(k), 3), EXACT),
    "sample_prior": (lambda k: gplvm.sample_prior(model(k), draws=2, random_seed=3), EXACT),
    # Each new row is climbed to its end, so that places are known to the stopping rule.
    "embed": (
        lambda k: gplvm.embed(made(k), new_rows(k), draws=2, n_samples=100, n_starts=4, **QUIET),
        PATH,
    ),
    "impute": (
        lambda k: gplvm.impute(
            made(k), new_rows("holes"), draws=2, n_samples=100, n_starts=4, **QUIET
        ),
        PATH,
    ),
    "log_predictive": (
        lambda k: gplvm.log_predictive(
            made(k), new_rows(k), draws=2, n_samples=100, n_starts=4, **QUIET
        ),
        PATH,
    ),
    "update": (lambda k: gplvm.update(made_one(k), new_rows("complete"), steps=30, **QUIET), PATH),
    "fit_map": (lambda k: gplvm.fit_map(model(k), relocate=False, maxiter=2, **QUIET), PATH),
    "fit_marginal": (
        lambda k: gplvm.fit_marginal(model(k), relocate=False, maxiter=2, **QUIET),
        PATH,
    ),
    "fit_laplace": (
        lambda k: gplvm.fit_laplace(model(k), start=made(k), draws=3, maxiter=3, **QUIET),
        PATH,
    ),
    "fit_linear": (lambda k: gplvm.fit_linear(model(k, "linear")), EXACT),
    "fit_sparse": (lambda k: gplvm.fit_sparse(model(k), n_inducing=6, maxiter=3, **QUIET), PATH),
    "fit_variational": (
        lambda k: gplvm.fit_variational(
            model(k), n_inducing=6, hold=2, draws=3, maxiter=3, **QUIET
        ),
        PATH,
    ),
    "fit_stochastic": (
        lambda k: gplvm.fit_stochastic(model(k), steps=20, n_neighbors=8, **QUIET),
        PATH,
    ),
    "sample": (
        lambda k: gplvm.sample(model(k), made(k), draws=3, tune=4, chains=2, replicas=2, **QUIET),
        PATH,
    ),
    "sample_theta": (
        lambda k: gplvm.sample_theta(
            model(k), draws_of_X()[0, 0], draws=3, tune=4, chains=1, **QUIET
        ),
        PATH,
    ),
}


def run(name: str, kind: str) -> dict[str, np.ndarray] | str:
    """Give the numbers of a case, or the refusal where a table is not served."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return numbers(CASES[name][0](kind))
        except (TypeError, ValueError, NotImplementedError) as error:
            return f"refused: {type(error).__name__}"
