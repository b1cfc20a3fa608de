"""A model's posterior at many states at once, in the coordinates in which samplers move.

The state is one flat vector: the values of the model's free variables, the latent positions in
units of the lengthscale, Z = X / lengthscale. The log-likelihood and all else (priors, Jacobians)
are kept apart, so that the likelihood can be raised to a power.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.transforms import LogTransform
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace, vectorize_graph

from pm_gplvm.checks import Array
from pm_gplvm.compilation import compile_mode
from pm_gplvm.objective import likelihood_and_prior
from pm_gplvm.spec import ModelSpec

__all__ = ["Ensemble", "Evaluation", "compile_ensemble"]


@dataclass
class Evaluation:
    """What is known at R states.

    Parameters
    ----------
    log_likelihood, log_prior : ndarray, shape (R,)
        ``log_prior`` holds all that is not the likelihood of the table, Jacobians included.
    likelihood_gradient, prior_gradient : ndarray, shape (R, P)
    """

    log_likelihood: Array
    log_prior: Array
    likelihood_gradient: Array
    prior_gradient: Array

    def tempered(self, beta: Array) -> tuple[Array, Array]:
        """Log-density prior · likelihood^β of each state, and its gradient."""
        value = beta * self.log_likelihood + self.log_prior
        # A state outside the support has no density at any temperature, not even at β = 0.
        value = np.where(np.isfinite(self.log_likelihood) & ~np.isnan(value), value, -np.inf)
        return value, beta[:, None] * self.likelihood_gradient + self.prior_gradient

    def take(self, rows: Any) -> "Evaluation":
        """Return the same at some of the states, in the order of ``rows``."""
        return Evaluation(*(part[rows] for part in vars(self).values()))

    def update(self, where: NDArray[np.bool_], other: "Evaluation") -> None:
        """Take over the states at which ``where`` is true from another evaluation."""
        for name, part in vars(self).items():
            part[where] = getattr(other, name)[where]


@dataclass(frozen=True)
class Ensemble:
    """A model compiled for many states at once.

    Parameters
    ----------
    names, shapes : sequence
        Of the value variables, in the order of the state.
    X : str, optional
        The value variable of the positions, if they are free.
    lengthscale : str, optional
        The value variable of the log lengthscale, if the state holds Z = X / lengthscale.
    function : callable
        Values to log-likelihood, log-prior, and the gradients of each.
    constrain : callable
        Values to the model's named variables.
    named : tuple of str
        Their names.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    X: str | None
    lengthscale: str | None
    function: Any
    constrain: Any
    named: tuple[str, ...]

    @cached_property
    def _spans(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        ends = list(accumulate((math.prod(shape) for shape in self.shapes), initial=0))
        slices = (slice(*pair) for pair in pairwise(ends))
        return dict(zip(self.names, zip(slices, self.shapes, strict=True), strict=True))

    @property
    def size(self) -> int:
        """Length of a state."""
        return max(span.stop for span, _ in self._spans.values())

    @cached_property
    def units(self) -> Array:
        """Length in which each coordinate is measured, shape (P,).

        Rows share the hyperparameters, whose curvature is of the order of N times that in one
        row's position.
        """
        if self.X is None:
            return np.ones(self.size)
        span, shape = self._spans[self.X]
        units = np.full(self.size, 2.0 / np.sqrt(shape[0]))
        units[span] = 1.0
        return units

    def parts(self, states: Array) -> dict[str, Array]:
        """Split states (R, P) into one view (R, ...) for each variable; X stands as Z."""
        return {
            name: states[:, span].reshape(len(states), *shape)
            for name, (span, shape) in self._spans.items()
        }

    def positions(self, states: Array) -> Array:
        """Latent positions Z of the states, a view, shape (R, N, Q)."""
        return self.parts(states)[str(self.X)]

    def values(self, states: Array) -> dict[str, Array]:
        """Values of the model's value variables, by name, X in its own units."""
        parts = self.parts(states)
        if self.X is not None and self.lengthscale is not None:
            parts[self.X] = parts[self.X] * _across(np.exp(parts[self.lengthscale]))
        return parts

    def state(self, values: Mapping[str, Array]) -> Array:
        """One state (P,) from values of the value variables."""
        parts = {name: np.asarray(values[name], dtype=np.float64) for name in self.names}
        if self.X is not None and self.lengthscale is not None:
            parts[self.X] = parts[self.X] / np.exp(parts[self.lengthscale])
        return np.concatenate([parts[name].ravel() for name in self.names])

    def draws(self, states: Array) -> dict[str, Array]:
        """Compute the model's named variables at the states, deterministics too, (R, ...) each."""
        return dict(zip(self.named, self.constrain(*self.values(states).values()), strict=True))

    def jacobian(self, states: Array) -> Array:
        """Compute ln |∂X/∂Z| of states (R, P), what p(Z) has and p(X) lacks."""
        if self.X is None or self.lengthscale is None:
            return np.zeros(len(states))
        log_lengthscale = self.parts(states)[self.lengthscale].reshape(len(states), -1)
        N, Q = dict(zip(self.names, self.shapes, strict=True))[self.X]
        return N * Q * log_lengthscale.mean(axis=1)

    def __call__(self, states: Array) -> Evaluation:
        """Evaluate at states (R, P)."""
        likelihood, prior, *gradients = self.function(*self.parts(states).values())
        flat = [part.reshape(len(states), -1) for part in gradients]
        n = len(self.names)
        return Evaluation(
            likelihood.copy(),
            prior.copy(),
            np.concatenate(flat[:n], axis=1),
            np.concatenate(flat[n:], axis=1),
        )


def _across(lengthscale: Array) -> Array:
    """Lengthscales (R,) or (R, Q) so that they multiply positions (R, N, Q)."""
    return lengthscale[:, None, None] if lengthscale.ndim == 1 else lengthscale[:, None, :]


def compile_ensemble(model: pm.Model | ModelSpec) -> Ensemble:
    """Compile a model for many states at once.

    Always as NumPy calls: many states share the interpreter's time for one.

    Parameters
    ----------
    model : pm.Model
        Its X, if free, without a transform.

    Returns
    -------
    Ensemble
    """
    likelihood, prior = likelihood_and_prior(model)
    model = model.model if isinstance(model, ModelSpec) else model
    values = model.value_vars
    X, lengthscale = _scaled_pair(model)
    if X is not None and lengthscale is not None:
        # From here on the graph's X is Z: the density is that of Z.
        scaled = {X: X * pt.exp(lengthscale)}
        n_rows = X.shape[0]
        per_row = lengthscale.sum() if lengthscale.ndim else lengthscale * X.shape[1]
        likelihood, prior = graph_replace([likelihood, prior + n_rows * per_row], scaled)
    gradients = [
        g
        for total in (likelihood, prior)
        for g in pt.grad(total, values, disconnected_inputs="ignore")
    ]
    function = _vectorised(values, [likelihood, prior, *gradients])
    named = [*model.free_RVs, *model.deterministics]
    constrain = _vectorised(values, model.replace_rvs_by_values(named))
    start = model.initial_point()
    return Ensemble(
        names=tuple(v.name for v in values),
        shapes=tuple(np.shape(start[v.name]) for v in values),
        X=None if X is None else X.name,
        lengthscale=None if lengthscale is None else lengthscale.name,
        function=function,
        constrain=constrain,
        named=tuple(v.name for v in named),
    )


def _scaled_pair(model: pm.Model) -> tuple[Variable | None, Variable | None]:
    """Value variables of X and of the log lengthscale by which it can be measured."""
    free = {rv.name: rv for rv in model.free_RVs}
    if "X" not in free or model.rvs_to_transforms[free["X"]] is not None:
        return None, None
    X = model.rvs_to_values[free["X"]]
    ell = free.get("lengthscale")
    if ell is None or not isinstance(model.rvs_to_transforms[ell], LogTransform):
        return X, None
    return X, model.rvs_to_values[ell]


def _vectorised(inputs: list[Variable], outputs: list[Variable]) -> Any:
    """Compile outputs for inputs that all have one leading dimension more."""
    batch = [
        pt.tensor(v.name, shape=(None, *(None,) * v.type.ndim), dtype=v.type.dtype) for v in inputs
    ]
    # An output that depends on no input must still have one value a state.
    first = inputs[0]
    anchored = [out + 0.0 * first.ravel()[0] for out in outputs]
    graphs = vectorize_graph(anchored, replace=dict(zip(inputs, batch, strict=True)))
    function = pytensor.function(batch, graphs, on_unused_input="ignore", mode=compile_mode())
    function.trust_input = True
    return function
