"""Gaussian process latent variable models in PyMC.

A table Y goes in, a low-dimensional picture X of it comes out, with uncertainty:

>>> import pm_gplvm as gplvm
>>> Y = gplvm.load_digits(n=30)
>>> model = gplvm.build_model(Y, latent_dim=2)
>>> best = gplvm.fit_map(model, random_seed=1, progressbar=False)
>>> best.posterior["X"].dims
('chain', 'draw', 'obs', 'latent')

Importing the package is cheap: PyMC is loaded when a name that needs it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pm_gplvm.compilation import compile_mode
    from pm_gplvm.covariances import covariance
    from pm_gplvm.datasets import load_digits, load_table
    from pm_gplvm.likelihood import GPColumns
    from pm_gplvm.model import build_model
    from pm_gplvm.nuts import sample_theta
    from pm_gplvm.objective import compile_objective
    from pm_gplvm.optimise import fit_map
    from pm_gplvm.plot import plot_latent
    from pm_gplvm.prediction import predict
    from pm_gplvm.scores import score_embedding, summarise_theta
    from pm_gplvm.store import load, save

_HOME = {
    "GPColumns": "likelihood",
    "build_model": "model",
    "compile_mode": "compilation",
    "compile_objective": "objective",
    "covariance": "covariances",
    "fit_map": "optimise",
    "load": "store",
    "load_digits": "datasets",
    "load_table": "datasets",
    "plot_latent": "plot",
    "predict": "prediction",
    "sample_theta": "nuts",
    "save": "store",
    "score_embedding": "scores",
    "summarise_theta": "scores",
}

__all__ = [
    "GPColumns",
    "build_model",
    "compile_mode",
    "compile_objective",
    "covariance",
    "fit_map",
    "load",
    "load_digits",
    "load_table",
    "plot_latent",
    "predict",
    "sample_theta",
    "save",
    "score_embedding",
    "summarise_theta",
]

__version__ = version("pm_gplvm")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"pm_gplvm has no attribute {name!r}.")
    value = getattr(import_module(f"pm_gplvm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
