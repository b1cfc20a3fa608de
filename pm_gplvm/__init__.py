"""Gaussian process latent variable models in PyMC.

A table Y goes in, a low-dimensional picture X of it comes out, with uncertainty:

>>> import pm_gplvm as gplvm
>>> Y = gplvm.load_digits(n=30)
>>> model = gplvm.build_model(Y, latent_dim=2)
>>> best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
>>> best.posterior["X"].dims
('chain', 'draw', 'obs', 'latent')

Importing the package is cheap: PyMC is loaded when a name that needs it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pm_gplvm.agreement import neighbour_probabilities
    from pm_gplvm.alignment import align
    from pm_gplvm.approximations import build_sparse, build_variational
    from pm_gplvm.calibration import calibrate, uniformity
    from pm_gplvm.comparison import compare
    from pm_gplvm.compilation import compile_mode
    from pm_gplvm.covariances import covariance
    from pm_gplvm.crossvalidation import cross_validate
    from pm_gplvm.datasets import load_digits, load_table
    from pm_gplvm.density import compile_objective
    from pm_gplvm.diagnosis import diagnose
    from pm_gplvm.embedding import embed, log_predictive
    from pm_gplvm.estimator import GPLVM
    from pm_gplvm.evidence import log_evidence
    from pm_gplvm.explorer import explore
    from pm_gplvm.families import embeddings
    from pm_gplvm.geometry import magnification
    from pm_gplvm.gradient_parts import gradients
    from pm_gplvm.imputation import impute
    from pm_gplvm.joint import sample, sample_more
    from pm_gplvm.laplace import fit_laplace
    from pm_gplvm.latent_priors import back_constrained, classes, dynamics, informed
    from pm_gplvm.likelihood import GPColumns
    from pm_gplvm.linear import fit_linear
    from pm_gplvm.loo import compute_log_likelihood, leave_one_out
    from pm_gplvm.map import fit_map, fit_marginal
    from pm_gplvm.map_plots import plot_magnification, plot_reconstruction
    from pm_gplvm.model import build_model
    from pm_gplvm.nuts import sample_theta
    from pm_gplvm.online import update
    from pm_gplvm.optima_plot import plot_optima
    from pm_gplvm.plot import plot_latent
    from pm_gplvm.plot_fits import plot_compare, plot_prior
    from pm_gplvm.prediction import predict
    from pm_gplvm.predictive import reconstruct, sample_predictive
    from pm_gplvm.prior_draws import sample_prior
    from pm_gplvm.relevance import dimensions
    from pm_gplvm.relevance_plot import plot_relevance
    from pm_gplvm.scores import score_embedding, summarise_theta
    from pm_gplvm.sparse import fit_sparse
    from pm_gplvm.spec import rebuild_model
    from pm_gplvm.stochastic import fit_stochastic
    from pm_gplvm.store import load, save
    from pm_gplvm.variational import fit_variational

_HOME = {
    "GPLVM": "estimator",
    "GPColumns": "likelihood",
    "align": "alignment",
    "back_constrained": "latent_priors",
    "build_model": "model",
    "build_sparse": "approximations",
    "build_variational": "approximations",
    "calibrate": "calibration",
    "classes": "latent_priors",
    "compare": "comparison",
    "compile_mode": "compilation",
    "compile_objective": "density",
    "compute_log_likelihood": "loo",
    "covariance": "covariances",
    "cross_validate": "crossvalidation",
    "diagnose": "diagnosis",
    "dimensions": "relevance",
    "dynamics": "latent_priors",
    "embed": "embedding",
    "embeddings": "families",
    "explore": "explorer",
    "fit_laplace": "laplace",
    "fit_linear": "linear",
    "fit_map": "map",
    "fit_marginal": "map",
    "fit_sparse": "sparse",
    "fit_stochastic": "stochastic",
    "fit_variational": "variational",
    "gradients": "gradient_parts",
    "impute": "imputation",
    "informed": "latent_priors",
    "leave_one_out": "loo",
    "load": "store",
    "load_digits": "datasets",
    "load_table": "datasets",
    "log_evidence": "evidence",
    "log_predictive": "embedding",
    "magnification": "geometry",
    "neighbour_probabilities": "agreement",
    "plot_compare": "plot_fits",
    "plot_latent": "plot",
    "plot_magnification": "map_plots",
    "plot_optima": "optima_plot",
    "plot_prior": "plot_fits",
    "plot_reconstruction": "map_plots",
    "plot_relevance": "relevance_plot",
    "predict": "prediction",
    "rebuild_model": "spec",
    "reconstruct": "predictive",
    "sample": "joint",
    "sample_more": "joint",
    "sample_predictive": "predictive",
    "sample_prior": "prior_draws",
    "sample_theta": "nuts",
    "save": "store",
    "score_embedding": "scores",
    "summarise_theta": "scores",
    "uniformity": "calibration",
    "update": "online",
}

__all__ = [
    "GPLVM",
    "GPColumns",
    "align",
    "back_constrained",
    "build_model",
    "build_sparse",
    "build_variational",
    "calibrate",
    "classes",
    "compare",
    "compile_mode",
    "compile_objective",
    "compute_log_likelihood",
    "covariance",
    "cross_validate",
    "diagnose",
    "dimensions",
    "dynamics",
    "embed",
    "embeddings",
    "explore",
    "fit_laplace",
    "fit_linear",
    "fit_map",
    "fit_marginal",
    "fit_sparse",
    "fit_stochastic",
    "fit_variational",
    "gradients",
    "impute",
    "informed",
    "leave_one_out",
    "load",
    "load_digits",
    "load_table",
    "log_evidence",
    "log_predictive",
    "magnification",
    "neighbour_probabilities",
    "plot_compare",
    "plot_latent",
    "plot_magnification",
    "plot_optima",
    "plot_prior",
    "plot_reconstruction",
    "plot_relevance",
    "predict",
    "rebuild_model",
    "reconstruct",
    "sample",
    "sample_more",
    "sample_predictive",
    "sample_prior",
    "sample_theta",
    "save",
    "score_embedding",
    "summarise_theta",
    "uniformity",
    "update",
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
