"""The log-density of a few rows of a model, at a cost that does not depend on how many others there are.

Of N rows the R in a set 𝓡 have the log-density

    J(𝓡) = L(Y_𝓡 | X_𝓡, θ) + ln p(X_𝓡) + (R/N) ln p(θ),

L the model's own likelihood of these rows by themselves. Sums of J over sets that hold each row
once are a composite likelihood (Varin, Reid & Firth 2011, Statistica Sinica 21, 5-42) with the
priors of X and θ counted once: what rows of different sets tell about each other is left out. For
R = N it is the model's log-density itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.custom import CustomSymbolicDistRV
from pymc.distributions.shape_utils import change_dist_size
from pytensor.graph.basic import Variable
from pytensor.tensor.random.op import RandomVariable

from pm_gplvm.checks import Array
from pm_gplvm.compilation import Backend, resolve_mode
from pm_gplvm.covariances import covariance
from pm_gplvm.gaussian import gram_factor
from pm_gplvm.gaussian_ops import GaussianTerms, total_logp
from pm_gplvm.spec import ModelSpec

__all__ = ["FEW_ROWS", "Neighbourhood", "compile_neighbourhood"]

Rows = NDArray[np.intp]

FEW_ROWS = 2000
"""Up to here N × N arrays are small change, and the density of all rows is looked at too."""

_SAMPLE = 1000


@dataclass(frozen=True)
class Neighbourhood:
    """The compiled log-density of a few rows.

    Parameters
    ----------
    factor : ndarray, shape (N, M)
        The data, shortened (see :func:`pm_gplvm.gaussian.gram_factor`).
    X : str
        Name of the value variable of the positions.
    theta : tuple of str
        Names of all other value variables.
    slopes, terms : callable
        The rows' factor, their indices, positions and θ to J and its gradients; and to J, L and
        the leave-one-out density.
    """

    factor: Array
    X: str
    theta: tuple[str, ...]
    slopes: Any
    terms: Any

    def __call__(
        self, rows: Rows, X_rows: Array, theta: Sequence[Array]
    ) -> tuple[float, Array, list[Array]]:
        """J of the rows, and its gradients in their positions (R, Q) and in θ."""
        value, dX, *dtheta = self.slopes(self.factor[rows], rows, X_rows, *theta)
        return float(value), dX, dtheta

    def sample(self, rng: np.random.Generator) -> Rows:
        """All rows if they are few, else 1000 at random."""
        N = len(self.factor)
        return np.arange(N) if N <= FEW_ROWS else rng.choice(N, _SAMPLE, replace=False)

    def judge(
        self, rows: Rows, X_rows: Array, theta: Sequence[Array]
    ) -> tuple[float, float, float]:
        """J, L, and the mean of ln p(yₙ given the other rows among these, X, θ)."""
        values = self.terms(self.factor[rows], rows, X_rows, *theta)
        return tuple(float(value) for value in values)  # type: ignore[return-value]


def compile_neighbourhood(model: pm.Model, *, backend: Backend = "python") -> Neighbourhood:
    """Compile the log-density of any few rows of a model.

    Parameters
    ----------
    model : pm.Model
        With a kernel of the table, a free and untransformed ``X`` whose prior is independent from
        row to row, and nothing but the table that depends on it.
    backend : {"python", "numba", "jax"}

    Returns
    -------
    Neighbourhood

    Raises
    ------
    TypeError, ValueError
        If the model is of another kind.
    """
    spec = ModelSpec.of(model)
    spec.table.require_shared(caller="Learning by neighbourhoods")
    spec.table.require_complete(caller="Learning by neighbourhoods")
    if not spec.table.standardisable:
        raise ValueError(
            "model must have data for the mean and scale of its table, got random variables. "
            "Build it with build_model."
        )
    if spec.kernel == "custom":
        raise ValueError(
            "model must have a kernel of the table to be learnt by neighbourhoods, got a covariance "
            "of its own. Write it with gplvm.covariance, or use fit_map."
        )
    position, table = _checked_positions(spec), spec.table.variable
    value_of_X = model.rvs_to_values[position]
    F, scale = spec.table.F, spec.table.scale
    N, D = F.shape

    rows = pt.lvector("rows")
    X_rows = pt.tensor("X_rows", shape=(None, value_of_X.type.shape[1]), dtype="float64")
    factor = gram_factor(F) if N <= FEW_ROWS else F  # a factor may be an N × N array
    F_rows = pt.tensor("F_rows", shape=(None, factor.shape[1]), dtype="float64")
    theta = spec.theta
    noise = {"sigma": spec.noise} if "sigma" in theta else {}
    K = covariance(spec.kernel, X_rows, **{**theta, **noise})
    log_scale = float(np.log(scale).sum())
    likelihood, left_out, prior_of_X = model.replace_rvs_by_values(
        [
            total_logp(F_rows, K, n_columns=D, log_scale=log_scale),
            _left_out(K, F_rows, D, log_scale),
            _prior_of_rows(position, X_rows, rows),
        ]
    )
    others = [v for v in (*model.basic_RVs, *model.potentials) if v not in (position, table)]
    prior_of_theta = model.logp(vars=others, jacobian=False) if others else pt.constant(0.0)
    total = likelihood + prior_of_X + X_rows.shape[0] / N * prior_of_theta

    values = [value for value in model.value_vars if value is not value_of_X]
    inputs = [F_rows, rows, X_rows, *values]
    gradient = pt.grad(total, [X_rows, *values], disconnected_inputs="ignore")
    slopes, terms = (
        pytensor.function(inputs, outputs, on_unused_input="ignore", **resolve_mode(backend, None))
        for outputs in ([total, *gradient], [total, likelihood, left_out])
    )
    slopes.trust_input = True
    names = tuple(value.name for value in values)
    # In C order the rows of a neighbourhood are gathered in one piece each.
    return Neighbourhood(np.ascontiguousarray(factor), value_of_X.name, names, slopes, terms)


def _checked_positions(spec: ModelSpec) -> Variable:
    """Return the variable X if its rows can be learnt a few at a time."""
    X = spec.free.get("X")
    if X is None or not spec.is_X_plain:
        raise ValueError(
            "model must have a free X without a transform to be learnt by neighbourhoods, got an X "
            f"that is {'no free variable' if X is None else 'transformed'}. Use fit_map."
        )
    if X.ndim != 2 or X.owner.op.ndim_supp > 1:
        raise ValueError(
            "model must have a prior of X that is independent from row to row to be learnt by "
            f"neighbourhoods, got {X.owner.op}. Use fit_map."
        )
    if isinstance(X.owner.op, CustomSymbolicDistRV):  # no telling which parameters are a row's own
        raise ValueError(
            "model must have a prior of X that is a distribution of PyMC's to be learnt by "
            "neighbourhoods, got a CustomDist. Use fit_map."
        )
    if spec.tied:
        raise ValueError(
            "model must have nothing but its table that depends on X to be learnt by "
            f"neighbourhoods, got {', '.join(spec.tied)}. Use fit_map."
        )
    return X


def _prior_of_rows(X: Variable, X_rows: Variable, rows: Variable) -> Variable:
    """Write down ln p(X) of some rows, each with its own part of parameters that vary by row."""
    op = X.owner.op
    batch = 2 - op.ndim_supp  # dimensions of X over which the prior is independent
    size = tuple(X_rows.shape)[:batch]
    if not isinstance(op, RandomVariable):
        return pm.logp(change_dist_size(X, size), X_rows).sum()
    parameters = [
        p[rows] if p.ndim - core == batch and p.type.shape[0] != 1 else p
        for p, core in zip(op.dist_params(X.owner), op.ndims_params, strict=True)
    ]
    rng = op.rng_param(X.owner)
    _, few = op(*parameters, size=size, rng=rng, return_next_rng=True)
    return pm.logp(few, X_rows).sum()


def _left_out(K: Variable, F: Variable, n_columns: int, log_scale: float) -> Variable:
    """Write down the mean over the rows of the log-density of each given the others.

    Left out, row n has the mean yₙ - [K⁻¹Y]ₙ / [K⁻¹]ₙₙ and the variance 1 / [K⁻¹]ₙₙ (Rasmussen &
    Williams 2006, eq. 5.12).
    """
    _, _, inverse, weights = GaussianTerms()(K, F)
    precision = pt.diagonal(inverse)
    squares = (weights**2).sum(axis=1) / precision
    terms = n_columns * (pt.log(precision) - np.log(2.0 * np.pi)) - squares
    return 0.5 * terms.mean() - log_scale
