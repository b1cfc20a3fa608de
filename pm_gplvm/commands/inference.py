"""Which fit is made: a stand-in.

The lead replaces this file by what ``fitting`` says of ``inference="auto"``: functions of the same names and
arguments, ``fit_by`` and ``choose_inference``.
"""

import inspect
from typing import Any

import xarray as xr

import pm_gplvm as gplvm

_VERBS = {
    "marginal": "fit_marginal",
    "map": "fit_map",
    "laplace": "fit_laplace",
    "sparse": "fit_sparse",
    "variational": "fit_variational",
    "stochastic": "fit_stochastic",
    "linear": "fit_linear",
}


def choose_inference(model: Any) -> tuple[str, str]:
    """Choose a fit for a model, and say why in one line."""
    return "marginal", "the exact estimate, with X integrated out of θ"


def fit_by(
    model: Any,
    inference: str = "auto",
    *,
    n_inducing: int | None = None,
    n_restarts: int = 0,
    max_iter: int | None = None,
    random_seed: int | None = None,
    progressbar: bool = True,
    start: Any = "pca",
) -> xr.DataTree:
    """Make one kind of fit; ValueError if an option says nothing about it."""
    name = choose_inference(model)[0] if inference == "auto" else inference
    verb = getattr(gplvm, _VERBS[name])
    taken = inspect.signature(verb).parameters
    given = {
        "n_inducing": n_inducing,
        "n_restarts": n_restarts or None,
        "max_iter": max_iter,
        "start": None if start == "pca" else start,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if other := [key for key in options if key not in taken]:
        raise ValueError(f"{other[0]} says nothing about inference={name!r}. Leave it out.")
    options |= {"random_seed": random_seed, "progressbar": progressbar}
    return verb(model, **{key: value for key, value in options.items() if key in taken})
