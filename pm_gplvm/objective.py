"""The log-density of a model and its gradient, as functions of numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.graph.basic import Variable

from pm_gplvm.checks import Array
from pm_gplvm.compilation import Backend, resolve_mode
from pm_gplvm.covariances import Covariance
from pm_gplvm.gaussian import gram_factor, total_logp
from pm_gplvm.incomplete import incomplete_total_logp
from pm_gplvm.likelihood import check_memory
from pm_gplvm.spec import ModelSpec, Table, tables_of
from pm_gplvm.spectral import own_columns_logp
from pm_gplvm.volume import log_volume


def log_density(
    model: pm.Model | ModelSpec,
    *,
    prior: bool = True,
    jacobian: bool = False,
    volume: bool = False,
    rows: NDArray[np.intp] | None = None,
) -> Variable:
    """Write down a model's log-density in its value variables, the data reduced once to their factor.

    Equal to ``model.logp(jacobian=...)``, but D columns cost no more than min(N, D). ``prior``: whether
    priors and potentials are added to the log-likelihood. ``jacobian``: whether it is the density of
    the transformed variables. ``volume``: whether the volume that X takes given θ is added, so that the
    maximum over X is ln p(Y, θ), approximately. ``rows``: of these rows of the table alone, and of the
    prior of X, if its rows are independent.
    """
    plain, likelihood, others = _split(model, rows)
    if volume:
        (term,) = plain.replace_rvs_by_values([log_volume(ModelSpec.of(model), rows)])
        likelihood = likelihood + term
    if rows is not None and prior:
        X = plain["X"]
        rest = np.setdiff1d(np.arange(X.type.shape[0]), rows)
        (each,) = plain.replace_rvs_by_values([pm.logp(X, plain.rvs_to_values[X])])
        likelihood = likelihood - each[rest].sum()
    if not prior:
        others = [rv for rv in others if rv in plain.observed_RVs]
    else:
        others = [*plain.free_RVs, *others, *plain.potentials]
    return likelihood + plain.logp(vars=others, jacobian=jacobian) if others else likelihood


def likelihood_and_prior(model: pm.Model | ModelSpec) -> tuple[Variable, Variable]:
    """Write down the log-density of the table, and that of all else, Jacobians and potentials too."""
    plain, likelihood, others = _split(model)
    rest = [*plain.free_RVs, *others, *plain.potentials]
    return likelihood, plain.logp(vars=rest, jacobian=True)


def _split(
    model: pm.Model | ModelSpec, rows: NDArray[np.intp] | None = None
) -> tuple[pm.Model, Variable, list[Variable]]:
    """Write down the tables' log-density by their factors; the other observed variables too."""
    if isinstance(model, ModelSpec):
        model, tables = model.model, [model.table]
    else:
        tables = tables_of(model)
    reduced = [table for table in tables if table.standardisable]
    known = [table.variable for table in reduced]
    others = [rv for rv in model.observed_RVs if rv not in known]
    terms = model.replace_rvs_by_values([table_log_likelihood(table, rows) for table in reduced])
    return model, pt.add(pt.constant(0.0), *terms), others


def table_log_likelihood(table: Table, rows: NDArray[np.intp] | None = None) -> Variable:
    """Log-density of a table through its shortened factor, in the model's random variables.

    Of some rows alone, if they are given.
    """
    F, scale, cov = table.F, table.scale, table.cov
    check_memory(len(F))
    if table.own is not None:
        amplitude, sigma = table.own
        seen, ones = ~np.isnan(F), np.ones(F.shape[1])
        data = pytensor.shared(
            np.asfortranarray(np.where(seen, F, 0.0)), name=f"{table.name}_table"
        )
        own = {"amplitude": amplitude * ones, "noise": sigma**2 * ones}
        return own_columns_logp(data, cov, seen, **own, scale=scale).sum()
    if rows is not None:
        F, cov = F[rows], _covariance_of(cov, rows)
    if np.isnan(F).any():
        return incomplete_total_logp(F, cov, scale=scale)
    factor = table.factor if rows is None else pytensor.shared(gram_factor(F))
    return total_logp(factor, cov, n_columns=F.shape[1], log_scale=float(np.log(scale).sum()))


def _covariance_of(cov: Variable, rows: NDArray[np.intp]) -> Variable:
    """Write down K of these rows alone, if it can be without the others'."""
    if cov.owner is not None and isinstance(cov.owner.op, Covariance):
        Z, *others = cov.owner.inputs
        return cov.owner.op(Z[rows], *others)[0]
    return cov[np.ix_(rows, rows)]


@dataclass(frozen=True)
class LogDensity:
    """A compiled log-density of one flat vector, the values of the free variables in order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    function: Callable[..., Any]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate((math.prod(shape) for shape in self.shapes), initial=0))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self._ends[-1]

    @property
    def n_rows(self) -> int:
        """Length of the longest variable: N, where X is free."""
        return max((shape[0] for shape in self.shapes if shape), default=1)

    def _parts(self, vector: Array) -> list[Array]:
        spans = zip(self._ends, self._ends[1:], self.shapes, strict=False)
        return [vector[start:end].reshape(shape) for start, end, shape in spans]

    def unpack(self, vector: Array) -> dict[str, Array]:
        """Split a vector into the variables it holds."""
        return dict(zip(self.names, self._parts(np.asarray(vector, np.float64)), strict=True))

    def pack(self, values: Mapping[str, Any]) -> Array:
        """Join variables into one vector."""
        return np.concatenate([np.ravel(values[name]) for name in self.names]).astype(np.float64)

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Log-density and gradient at a vector."""
        value, *gradient = self.function(*self._parts(vector))
        return float(value), np.concatenate([part.ravel() for part in gradient])

    def copy(self) -> "LogDensity":
        """Return a copy with memory of its own, for another thread."""
        return LogDensity(self.names, self.shapes, self.function.copy(share_memory=False))  # type: ignore[attr-defined]


def compile_log_density(
    model: pm.Model | ModelSpec,
    *,
    prior: bool = True,
    jacobian: bool = False,
    volume: bool = False,
    rows: NDArray[np.intp] | None = None,
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> LogDensity:
    """Compile :func:`log_density` with its gradient.

    Of the model's value variables, which may be transformed (``lengthscale_log__``).
    """
    total = log_density(model, prior=prior, jacobian=jacobian, volume=volume, rows=rows)
    plain = model.model if isinstance(model, ModelSpec) else model
    values = plain.value_vars
    gradients = pt.grad(total, values, disconnected_inputs="ignore")
    function = pytensor.function(
        values,
        [total, *gradients],
        on_unused_input="ignore",
        **resolve_mode(backend, compile_kwargs),
    )
    function.trust_input = True
    shapes = [value.type.shape for value in values]
    if any(None in shape for shape in shapes):
        start = plain.initial_point()
        shapes = [np.shape(start[value.name]) for value in values]
    return LogDensity(tuple(value.name for value in values), tuple(shapes), function)


def compile_objective(
    model: pm.Model,
    *,
    prior: bool = True,
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> Callable[[Mapping[str, Any]], tuple[float, dict[str, Array]]]:
    """Compile the function that ``fit_map`` maximises, in the untransformed variables.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with a :class:`GPColumns`.
    prior : bool, default True
        Whether the priors are added; False gives the log-likelihood alone.
    backend : {"python", "numba", "jax"}, default "python"
    compile_kwargs : mapping, optional
        Handed to ``pytensor.function``.

    Returns
    -------
    callable
        ``value, gradient = objective(point)``: ``point`` and ``gradient`` map the name of every
        free variable to an array of its shape; ``value`` is the log-density
        L(X, θ) + ln p(X) + ln p(θ), to be maximised.

    Raises
    ------
    ValueError
        If a point lacks a variable, names an unknown one or has a wrong shape.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> objective = gplvm.compile_objective(model, prior=False)
    >>> theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
    >>> value, gradient = objective({"X": np.zeros((20, 2)), **theta})
    >>> gradient["X"].shape
    (20, 2)
    """
    ModelSpec.of(model)
    plain = remove_value_transforms(model)
    density = compile_log_density(
        plain, prior=prior, backend=backend, compile_kwargs=compile_kwargs
    )
    names = [rv.name for rv in plain.free_RVs]
    shapes = dict(zip(names, density.shapes, strict=True))

    def objective(point: Mapping[str, Any]) -> tuple[float, dict[str, Array]]:
        values = _checked_point(point, names, shapes)
        value, *gradient = density.function(*values)
        parts = {name: np.asarray(part) for name, part in zip(names, gradient, strict=True)}
        return float(value), parts

    return objective


def _checked_point(
    point: Mapping[str, Any], names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[Array]:
    if set(point) != set(names):
        raise ValueError(
            f"point must give a value to {', '.join(names)}, got {', '.join(map(str, point)) or 'nothing'}."
        )
    values = [np.asarray(point[name], dtype=np.float64) for name in names]
    for name, value in zip(names, values, strict=True):
        if value.shape != shapes[name]:
            raise ValueError(f"point[{name!r}] must have shape {shapes[name]}, got {value.shape}.")
    return values
