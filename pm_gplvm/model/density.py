"""A model's log-density and its gradient, compiled: as the model has it, and in the coordinates to move in.

Optimisers and samplers move in Z = X / lengthscale, on which the likelihood depends, and in the
logarithms of θ. The map is written once (:class:`Coordinates`), the density compiled as a function of
them: at one state (:class:`LogDensity`), or at many at once (:class:`Ensemble`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.transforms import LogTransform
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace, vectorize_graph
from pytensor.tensor.random.op import RandomVariable

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.core.composite import FACTOR
from pm_gplvm.core.gaussian import gram_factor, lower_factors, solve_lower
from pm_gplvm.data.arrays import numbers
from pm_gplvm.data.fit import in_each_view
from pm_gplvm.model.compile import Backend, compile_mode, resolve_mode
from pm_gplvm.model.laplace import functions_log_likelihood
from pm_gplvm.model.likelihood import check_memory
from pm_gplvm.model.ops import (
    CompositeCovariance,
    Covariance,
    incomplete_total_logp,
    own_columns_logp,
    total_logp,
)
from pm_gplvm.model.spec import FunctionTable, ModelSpec, Table, tables_of, views_of
from pm_gplvm.model.volume import log_volume

_STEP = 1e-4  # by which a gradient is differenced
_FEW = 20  # entries of a variable for which that is done


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
        if isinstance(model.table, FunctionTable):
            terms = model.model.replace_rvs_by_values([functions_log_likelihood(model)])
            return model.model, terms[0], []
        model, tables = model.model, [part.table for part in model.parts]
    else:
        tables = tables_of(model)
    theirs = [table.variable for table in tables]
    several = tables_of(model) if views_of(model) else []
    left = [t.variable for t in several if t.variable not in theirs]  # of other views
    discrete = [f"{rv.name} ({rv.dtype})" for rv in model.free_RVs if "float" not in str(rv.dtype)]
    if discrete:
        raise ValueError(
            f"model must have continuous free variables, got {', '.join(discrete)}. Sum over a discrete "
            "one, or hold it by pm.do."
        )
    reduced = [table for table in tables if table.standardisable]
    known = [table.variable for table in reduced]
    others = [rv for rv in model.observed_RVs if rv not in (*known, *left)]
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
    return total_logp(factor, cov, n_columns=F.shape[1], log_scale=table.log_scale)


def _covariance_of(cov: Variable, rows: NDArray[np.intp]) -> Variable:
    """Write down K of these rows alone, if it can be without the others'."""
    if cov.owner is not None and isinstance(cov.owner.op, Covariance | CompositeCovariance):
        Z, *others = cov.owner.inputs
        return cov.owner.op(Z[rows], *others)[0]
    return cov[np.ix_(rows, rows)]


@dataclass(frozen=True)
class Layout:
    """How variables lie in one flat vector, one after the other, or in each of many."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def spans(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        """Where each variable lies, and its shape."""
        ends = accumulate((math.prod(shape) for shape in self.shapes), initial=0)
        slices = (slice(*pair) for pair in pairwise(ends))
        return dict(zip(self.names, zip(slices, self.shapes, strict=True), strict=True))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def unpack(self, vectors: Array) -> dict[str, Array]:
        """Split vectors (..., P) into one view (..., shape) for each variable."""
        before = vectors.shape[:-1]
        return {
            name: vectors[..., span].reshape(before + shape)
            for name, (span, shape) in self.spans.items()
        }

    def pack(self, values: Mapping[str, Any]) -> Array:
        """Join variables into one vector."""
        return np.concatenate([np.ravel(values[name]) for name in self.names]).astype(np.float64)


def movable(model: pm.Model) -> dict[str, tuple[str, ...]]:
    """Value variables of X, and of the logarithms of lengthscales and weights of all tables, where they are free.

    Not of the lengthscales of a kernel of several factors: a dimension may have several.
    """
    kinds: dict[str, tuple[type, list[str]]] = {"X": (type(None), ["X"])}
    for name in ("lengthscale", "weight"):
        kinds[name] = (LogTransform, in_each_view(name, views_of(model)))
    if FACTOR in model.named_vars_to_dims.get("lengthscale", ()):
        kinds["lengthscale"] = (LogTransform, [])
    return {
        name: tuple(
            str(model.rvs_to_values[rv].name)
            for rv in model.free_RVs
            if rv.name in names and isinstance(model.rvs_to_transforms[rv], kind)
        )
        for name, (kind, names) in kinds.items()
    }


@dataclass(frozen=True)
class Coordinates(Layout):
    """A change of a model's variables that leaves the maximum where it is and makes it easy to reach.

    Two things make plain L-BFGS crawl. The likelihood depends on X / lengthscale alone, so that X
    and the lengthscale can shrink together along a ridge: in Z = X / lengthscale the ridge is one
    axis. And the curvature in a hyperparameter, which all N rows share, is of the order of N
    times that in one row's position: each variable is measured in a unit (``steps``) of its own. (In a
    model where K depends on X in another way the map is still one to one.)

    The names are those of value variables: ``positions`` are divided by the lengthscale; from
    ``spreads``, logarithms of standard deviations of positions, its logarithm is taken, and with the
    linear part's ``weight``, a logarithm too, the optimiser moves weight · lengthscale, on which the
    likelihood depends at given Z. ``lengthscales``, logarithms, are none where they or the positions do not
    move; of several tables the positions are divided by their geometric mean. A variable may have leading axes,
    one entry a state, but for the weight.
    """

    steps: Mapping[str, float] = field(default_factory=dict)
    positions: tuple[str, ...] = ()
    lengthscales: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    spreads: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: pm.Model) -> "Coordinates":
        """Take a model's value variables as they are, in the model's order."""
        names, shapes = [v.name for v in model.value_vars], [v.type.shape for v in model.value_vars]
        if any(None in shape for shape in shapes):
            start = model.initial_point()
            shapes = [np.shape(start[name]) for name in names]
        return cls(tuple(names), tuple(shapes))

    @property
    def X(self) -> str | None:
        """Name of the rows' positions, None where they do not move."""
        return next(iter(self.positions), None)

    @property
    def lengthscale(self) -> str | None:
        """Name of the lengthscale of a single table, None where it does not move."""
        return next(iter(self.lengthscales), None)

    def log_unit(self, parts: Mapping[str, Any]) -> Any:
        """Logarithm of what positions are divided by."""
        logs = [parts[name] for name in self.lengthscales]
        return logs[0] if len(logs) == 1 else sum(logs[1:], logs[0]) / len(logs)

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into a vector."""
        inner = self._times_lengthscale(values, -1.0)
        return self.pack(inner | {n: inner[n] / step for n, step in self.steps.items()})

    def outward(self, vectors: Array) -> dict[str, Array]:
        """Bring vectors (..., P) back to values of the model's variables."""
        return self._outer(self.unpack(vectors))

    def within(self, graphs: Sequence[Variable], variables: Sequence[Variable]) -> list[Variable]:
        """Make of functions of the model's value variables functions of the coordinates."""
        outer = self._outer({v.name: v for v in variables}, pt)
        return graph_replace(graphs, {v: outer[v.name] for v in variables}, strict=False)

    def log_jacobian(self, parts: Mapping[str, Any]) -> Any:
        """Ln |∂X/∂Z|, what the density of Z has and that of X lacks."""
        if self.X is None or not self.lengthscales:
            return 0.0
        shape, log = parts[self.X].shape, self.log_unit(parts)
        own = log.ndim == parts[self.X].ndim - 1
        return shape[-2] * (log.sum(-1) if own else log * shape[-1])

    def _outer(self, parts: Mapping[str, Any], xp: Any = np) -> dict[str, Any]:
        stepped = {n: parts[n] * step for n, step in self.steps.items()}
        return self._times_lengthscale({**parts, **stepped}, 1.0, xp)

    def _times_lengthscale(
        self, parts: Mapping[str, Any], power: float, xp: Any = np
    ) -> dict[str, Any]:
        """Take positions times the lengthscale to a power, arrays or symbols (xp=pt), and so on."""
        moved = dict(parts)
        if self.lengthscales:
            log = power * self.log_unit(parts)
            unit = xp.exp(log)
            moved |= {n: parts[n] * _along(parts[n], unit) for n in self.positions}
            moved |= {n: parts[n] + _along(parts[n], log) for n in self.spreads}
            moved |= {n: parts[n] - log.mean() for n in self.weights}
        return moved


def _along(part: Any, theta: Any) -> Any:
    """Shape what is one, or one for each dimension, like positions (..., N, Q)."""
    return theta[..., None, :] if theta.ndim == part.ndim - 1 else theta[..., None, None]


def optimiser_coordinates(model: pm.Model, *, relative: bool = True) -> Coordinates:
    """Choose what an optimiser moves, X in lengthscales only if ``relative``."""
    plain = Coordinates.of(model)
    names = movable(model)
    if not names["X"]:
        return plain
    # N rows share θ, so that it is known √N times as well as a row.
    (X,) = names["X"]
    unit_of_theta = float(2.0 / np.sqrt(plain.spans[X][1][0]))
    return replace(
        plain,
        steps=dict.fromkeys(plain.names, unit_of_theta) | {X: 1.0},
        positions=(X,),
        lengthscales=names["lengthscale"] if relative else (),
        weights=names["weight"],
    )


@dataclass(frozen=True, kw_only=True)
class LogDensity(Coordinates):
    """A compiled log-density of one flat vector, the coordinates of the free variables in order."""

    function: Callable[..., Any]

    @property
    def n_rows(self) -> int:
        """Length of the longest variable: N, where X is free."""
        return max((shape[0] for shape in self.shapes if shape), default=1)

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Log-density and gradient at a vector."""
        value, *gradient = self.function(*self.unpack(vector).values())
        return float(value), np.concatenate([part.ravel() for part in gradient])

    def copy(self) -> "LogDensity":
        """Return a copy with memory of its own, for another thread."""
        return replace(self, function=self.function.copy(share_memory=False))  # type: ignore[attr-defined]


def compile_log_density(
    model: pm.Model | ModelSpec,
    *,
    prior: bool = True,
    jacobian: bool = False,
    volume: bool = False,
    rows: NDArray[np.intp] | None = None,
    coordinates: Callable[[pm.Model], Coordinates] = Coordinates.of,
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> LogDensity:
    """Compile :func:`log_density` with its gradient.

    Of coordinates that are chosen for the model; else of its value variables, which may be transformed
    (``lengthscale_log__``).
    """
    total = log_density(model, prior=prior, jacobian=jacobian, volume=volume, rows=rows)
    plain = model.model if isinstance(model, ModelSpec) else model
    values, chosen = plain.value_vars, coordinates(plain)
    (total,) = chosen.within([total], values)
    gradients = pt.grad(total, values, disconnected_inputs="ignore")
    function = pytensor.function(
        values,
        [total, *gradients],
        on_unused_input="ignore",
        **resolve_mode(backend, compile_kwargs),
    )
    function.trust_input = True
    return LogDensity(**_fields(chosen), function=function)


def _fields(of: Coordinates) -> dict[str, Any]:
    return {each.name: getattr(of, each.name) for each in fields(of)}


@checked
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
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> objective = gplvm.model.compile_objective(model, prior=False)
    >>> theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
    >>> value, gradient = objective({"X": np.zeros((20, 2)), **theta})
    >>> gradient["X"].shape
    (20, 2)
    """
    ModelSpec.of(model, views=True)
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
    if not isinstance(point, Mapping):
        raise TypeError(
            f"point must be a mapping of {', '.join(names)} to values, got {type(point).__name__}."
        )
    if set(point) != set(names):
        raise ValueError(
            f"point must give a value to {', '.join(names)}, got {', '.join(map(str, point)) or 'nothing'}."
        )
    values = [numbers(f"point[{name!r}]", point[name]) for name in names]
    for name, value in zip(names, values, strict=True):
        if value.shape != shapes[name]:
            raise ValueError(f"point[{name!r}] must have shape {shapes[name]}, got {value.shape}.")
    return values


def compile_constrain(model: pm.Model) -> Any:
    """Compile the way from value variables, in order, to the named ones, deterministics too."""
    named = [*model.free_RVs, *model.deterministics]
    outputs = model.replace_rvs_by_values(named)
    function = pytensor.function(
        model.value_vars, outputs, on_unused_input="ignore", mode=compile_mode()
    )
    names = [variable.name for variable in named]
    return lambda *values: dict(zip(names, function(*values), strict=True))


@dataclass(frozen=True)
class Measured:
    """Coordinates by the Fisher information at one place: there the curvature is about 1 in every direction.

    Near a maximum L-BFGS needs about half of the evaluations in them: rows near each other move together,
    so that their curvature is far from diagonal. Dimensions are taken one by one, which costs
    little of that and takes Q matrices of N rows.
    """

    plain: LogDensity
    roots: Array  # (Q, N, N): Cholesky factors of the curvature in Z, a dimension each
    units: Mapping[str, Array]  # of the other variables: 1 over the root of their curvature

    def inward(self, values: Mapping[str, Array]) -> Array:
        """Bring values of the model's variables into the optimiser's vector."""
        parts = self.plain.unpack(self.plain.inward(values))
        return self._packed(parts, lambda root, z: root.T @ z, lambda theta, unit: theta / unit)

    def outward(self, vector: Array) -> dict[str, Array]:
        """Bring the optimiser's vector back to values of the model's variables."""
        return self.plain.outward(self._within(vector))

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Log-density and gradient at the optimiser's vector."""
        value, flat = self.plain(self._within(vector))
        parts = self.plain.unpack(flat)
        return value, self._packed(parts, solve_lower, lambda slope, unit: slope * unit)

    def _within(self, vector: Array) -> Array:
        parts = self.plain.unpack(vector)
        backward = partial(solve_lower, transposed=True)
        return self._packed(parts, backward, lambda theta, unit: theta * unit)

    def _packed(
        self,
        parts: dict[str, Array],
        of_positions: Callable[[Array, Array], Array],
        of_theta: Callable[[Array, Array], Array],
    ) -> Array:
        for name, part in parts.items():
            if name == self.plain.X:
                columns = [of_positions(*pair) for pair in zip(self.roots, part.T, strict=True)]
                parts[name] = np.stack(columns, axis=1)
            else:
                parts[name] = of_theta(part, self.units[name])
        return self.plain.pack(parts)


def measured(plain: LogDensity, values: Mapping[str, Array], information: Array) -> Measured | None:
    """Choose the coordinates by the information (Q, N, N) about X at a place, that of the prior included.

    None if it has no Cholesky factor.
    """
    scale = np.exp(plain.log_unit(values)) if plain.lengthscales else 1.0
    curvature = information * np.square(np.broadcast_to(scale, len(information)))[:, None, None]
    try:
        roots = lower_factors(curvature)
    except np.linalg.LinAlgError:
        return None
    at = plain.inward(values)
    slope = plain(at)[1]
    within, units = plain.unpack(np.arange(at.size, dtype=np.float64)), {}
    for name, places in within.items():
        if name == plain.X:
            continue
        each = np.ones(places.shape)
        for index in np.ndindex(places.shape) if places.size <= _FEW else ():
            i, moved = int(places[index]), at.copy()
            moved[i] += _STEP
            known = abs(plain(moved)[1][i] - slope[i]) / _STEP
            if np.isfinite(known):
                each[index] = 1.0 / np.sqrt(max(known, 1.0))
        units[name] = each
    return Measured(plain, roots, units)


@dataclass
class Evaluation:
    """What is known at R states."""

    log_likelihood: Array  # (R,)
    log_prior: Array  # (R,): all that is not the likelihood of the table, Jacobians included
    likelihood_gradient: Array  # (R, P)
    prior_gradient: Array  # (R, P)

    def tempered(self, beta: Array) -> tuple[Array, Array]:
        """Log-density prior · likelihood^β of each state, and its gradient."""
        value = beta * self.log_likelihood + self.log_prior
        # A state outside the support has no density at any temperature, not even at β = 0.
        value = np.where(np.isfinite(self.log_likelihood) & ~np.isnan(value), value, -np.inf)
        return value, beta[:, None] * self.likelihood_gradient + self.prior_gradient

    def take(self, rows: Any) -> "Evaluation":
        """Return the same at some of the states, in the order of ``rows``."""
        return Evaluation(*(part[rows] for part in vars(self).values()))

    def put(self, rows: NDArray[Any], other: "Evaluation") -> None:
        """Take over what is known at the states ``rows``, in the order of another evaluation."""
        for name, part in vars(self).items():
            part[rows] = getattr(other, name)

    def update(self, where: NDArray[np.bool_], other: "Evaluation") -> None:
        """Take over the states at which ``where`` is true from another evaluation."""
        self.put(where, other.take(where))


@dataclass(frozen=True, kw_only=True)
class Ensemble(Coordinates):
    """A model's posterior at many states at once.

    A state is one flat vector (P,): the values of the model's value variables, X as Z = X / lengthscale where
    both are free. The log-likelihood and all else (priors, Jacobians) are kept apart, so that the
    likelihood can be raised to a power.
    """

    units: Array  # (P,): length in which each coordinate is measured
    function: Any  # values to log-likelihood, log-prior, and the gradients of each
    constrain: Any  # values to the model's named variables
    named: tuple[str, ...]
    table: Table

    def latent(self, states: Array) -> Array:
        """Latent positions Z of the states, a view, shape (R, N, Q)."""
        return self.unpack(states)[str(self.X)]

    def draws(self, states: Array) -> dict[str, Array]:
        """Compute the model's named variables at the states, deterministics too, (R, ...) each."""
        return dict(zip(self.named, self.constrain(*self.outward(states).values()), strict=True))

    def __call__(self, states: Array) -> Evaluation:
        """Evaluate at states (R, P)."""
        likelihood, prior, *gradients = self.function(*self.unpack(states).values())
        flat = [part.reshape(len(states), -1) for part in gradients]
        n = len(self.names)
        return Evaluation(
            likelihood.copy(),
            prior.copy(),
            np.concatenate(flat[:n], axis=1),
            np.concatenate(flat[n:], axis=1),
        )


def state_coordinates(model: pm.Model) -> tuple[Coordinates, Array]:
    """Choose what a sampler moves, and the length in which each of it is measured (P,)."""
    chosen = optimiser_coordinates(model)
    units = {n: np.full(shape, chosen.steps.get(n, 1.0)) for n, (_, shape) in chosen.spans.items()}
    return replace(chosen, steps={}, weights=()), chosen.pack(units)


def in_states(
    spec: ModelSpec, coordinates: Coordinates, graphs: Sequence[Variable]
) -> list[Variable]:
    """Write down functions of the model's value variables, the last its log-prior, at a state.

    The graph's X is Z then where the coordinates have Z, and the density is that of Z.
    """
    values = spec.model.value_vars
    *others, prior = coordinates.within(graphs, values)
    return [*others, prior + coordinates.log_jacobian({v.name: v for v in values})]


def compile_ensemble(model: pm.Model | ModelSpec) -> Ensemble:
    """Compile a model, its X without a transform, for many states at once.

    Always as NumPy calls: many states share the interpreter's time for one.
    """
    spec = ModelSpec.of(model, views=True)
    model, values = spec.model, spec.model.value_vars
    chosen, units = state_coordinates(model)
    likelihood, prior = in_states(spec, chosen, likelihood_and_prior(spec))
    gradients = [
        g
        for total in (likelihood, prior)
        for g in pt.grad(total, values, disconnected_inputs="ignore")
    ]
    function = _vectorised(values, [likelihood, prior, *gradients])
    named = [*model.free_RVs, *model.deterministics]
    constrain = _vectorised(values, model.replace_rvs_by_values(named))
    return Ensemble(
        **_fields(chosen),
        units=units,
        function=function,
        constrain=constrain,
        named=tuple(v.name for v in named),
        table=spec.table,
    )


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


# The prior of one row's position, given all else


@dataclass(frozen=True)
class RowPrior:
    """ln p(xₙ given all else), up to a constant, of many candidates at many states.

    ``factorises`` where the rows are independent, so that a row's prior does not look at the others.
    """

    function: Any
    factorises: bool

    def __call__(self, n: int, X: Array, values: list[Array]) -> Array:
        """Log-density (R, M) of candidates (R, M, Q) of row n."""
        return np.asarray(self.function(np.asarray(n), X, *values))


def compile_row_prior(model: pm.Model | ModelSpec) -> RowPrior:
    """Compile the prior of one row of X, which is free and untransformed.

    Where X is a distribution whose rows are independent and nothing else depends on it but the
    table, that row's term alone is computed; else the whole prior, with the row replaced.
    """
    spec = ModelSpec.of(model, views=True)
    batch = [
        pt.tensor(v.name, shape=(None, *(None,) * v.type.ndim), dtype=v.type.dtype)
        for v in spec.model.value_vars
    ]
    row, candidates = pt.lscalar("row"), pt.dtensor3("candidates")
    density, factorises = row_prior_graph(spec, row, candidates, batch)
    function = pytensor.function(
        [row, candidates, *batch], density, on_unused_input="ignore", mode=compile_mode()
    )
    function.trust_input = True
    return RowPrior(function, factorises)


def row_prior_graph(
    spec: ModelSpec, row: Variable, candidates: Variable, batch: Sequence[Variable]
) -> tuple[Variable, bool]:
    """Write down the log-density (R, M) of candidates (R, M, Q) of a row at R states; whether it factorises.

    ``batch`` are the model's value variables with a leading dimension. Without one, for one state, the
    candidates are (M, Q) and their density (M,).
    """
    model, rv, values = spec.model, spec.X, spec.model.value_vars
    alone = candidates.ndim == 2
    new = dict(zip(values, batch, strict=True))
    parameters = None if spec.tied else row_parameters(rv, row)
    if parameters is None:
        moved, candidate = _moved_prior(spec, row)
        if alone:
            (moved,) = graph_replace([moved], new, strict=False)
            return vectorize_graph([moved], replace={candidate: candidates})[0], False
        lifted = {v: pt.expand_dims(b, 1) for v, b in new.items()}
        return vectorize_graph([moved], replace={candidate: candidates, **lifted})[0], False
    # A parameter is the same for all candidates of a state, and mostly for all states.
    written = model.replace_rvs_by_values(parameters)
    if alone:
        lifted_parameters = graph_replace(written, new, strict=False)
    else:
        lifted_parameters = [
            pt.expand_dims(each, 1) if each.ndim > old.ndim else each
            for each, old in zip(vectorize_graph(written, replace=new), parameters, strict=True)
        ]
    _, alike = rv.owner.op(*lifted_parameters, rng=rv.owner.inputs[0], return_next_rng=True)
    density = pm.logp(alike, candidates)
    return density.sum(axis=-1) if rv.owner.op.ndim_supp == 0 else density, True


def row_parameters(X: Variable, row: Variable) -> list[Variable] | None:
    """Parameters of a row of X, or of some rows, if its own distribution treats its rows apart."""
    op = X.owner.op
    if not isinstance(op, RandomVariable) or X.ndim != 2 or op.ndim_supp > 1:
        return None
    parameters = []
    for parameter, core in zip(op.dist_params(X.owner), op.ndims_params, strict=True):
        batch = parameter.ndim - core
        if batch + op.ndim_supp == 2:  # one entry a row, unless it is broadcast along them
            alone = parameter.type.shape[0] == 1
            parameter = parameter[0 if alone else pt.minimum(row, parameter.shape[0] - 1)]
        parameters.append(parameter)
    return parameters


def _moved_prior(spec: ModelSpec, row: Variable) -> tuple[Variable, Variable]:
    """Write down the whole prior with one row replaced, and what replaces it (Q,)."""
    value = spec.model.rvs_to_values[spec.X]
    candidate = pt.dvector("candidate")
    _, prior = likelihood_and_prior(spec)
    (moved,) = graph_replace([prior], {value: pt.set_subtensor(value[row], candidate)})
    return moved, candidate
