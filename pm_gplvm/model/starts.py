"""Where an optimisation begins: latent positions by PCA, Isomap, chance, or from elsewhere."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pymc.distributions.transforms import LogTransform

from pm_gplvm.core.checks import Array
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.gaussian import GP
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.core.kernels import is_known, kernel_named, unit_of
from pm_gplvm.data.arrays import numbers
from pm_gplvm.data.fit import Fit
from pm_gplvm.model.compile import constants
from pm_gplvm.model.functions import variable_of
from pm_gplvm.model.spec import FunctionTable, ModelSpec

Values = dict[str, Array]

_NOISE = 0.01  # at least so much at a start, in units of the scale
_FILLINGS = 60
_LEAST = 1e-2  # of the widest dimension's spread, so that a dimension the data lack can grow
_FLAT = 0.05  # standard deviation of positions told by a regression below which it tells none apart


def _pca(F: Array, latent_dim: int, rng: np.random.Generator) -> Array:
    with interruptible():
        from sklearn.decomposition import PCA

    found = PCA(min(latent_dim, *F.shape), svd_solver="full").fit_transform(F)
    return _padded(np.asarray(found), latent_dim)


def _isomap(F: Array, latent_dim: int, rng: np.random.Generator) -> Array:
    with interruptible():
        from scipy.sparse.csgraph import connected_components
        from sklearn.manifold import Isomap
        from sklearn.neighbors import kneighbors_graph

    # As many neighbours as connect all rows; Isomap would otherwise join the parts by itself.
    N = len(F)
    for n_neighbors in range(min(10, N - 1), N):
        graph = kneighbors_graph(F, n_neighbors)
        if connected_components(graph, directed=False, return_labels=False) == 1:
            break
    X = Isomap(
        n_neighbors=n_neighbors, n_components=min(latent_dim, N), eigen_solver="dense"
    ).fit_transform(F)
    return _padded(np.asarray(X, dtype=np.float64), latent_dim)


def _random(F: Array, latent_dim: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((len(F), latent_dim))


def _padded(X: Array, latent_dim: int) -> Array:
    """Add latent dimensions that the table has no component for, at 0: :func:`_unit_columns` gives them a start."""
    return np.pad(X, [(0, 0), (0, latent_dim - X.shape[1])])


def completed(F: Array, rank: int) -> Array:
    """Fill what is missing (NaN) by the principal components of the filled table, in turns.

    From the columns' means, as EM for PCA does (Josse & Husson 2012, Journal de la Société Française
    de Statistique 153 (2), algorithm 1), first with one component, then two, up to ``rank``: with all of
    them at once the first rounds fit the means that stand for what is missing, and it takes a thousand.
    """
    missing = np.isnan(F)
    filled = np.where(missing, 0.0, F)
    if not missing.any():
        return filled
    for components in np.repeat(np.arange(1, rank + 1), -(-_FILLINGS // rank)):
        mean = filled.mean(axis=0)
        U, s, V = np.linalg.svd(filled - mean, full_matrices=False)
        low = mean + (U[:, :components] * s[:components]) @ V[:components]
        filled = np.where(missing, low, F)
    return filled


def least_squares_scores(F: Array, axes: Array) -> Array:
    """Scores (N, Q) of rows along given axes (Q, D), by least squares over the entries that are there."""
    seen = ~np.isnan(F)
    if seen.all():
        return np.asarray(F @ axes.T)
    Q, D = axes.shape
    squares = (axes[:, None] * axes[None]).reshape(Q * Q, D)
    normal = (seen @ squares.T).reshape(-1, Q, Q)
    # As if each axis had been seen once more at 0, in a share of what a complete row has.
    normal += 0.01 * (axes**2).sum(axis=1) * np.eye(Q)
    found = np.linalg.solve(normal, (np.where(seen, F, 0.0) @ axes.T)[:, :, None])
    return np.asarray(found[:, :, 0])


EMBEDDINGS = {"pca": _pca, "isomap": _isomap, "random": _random}

# For X of unit spread and data of unit scale: near Lawrence's (2005, section 7.1) 1, 1, e^-½, e^-½,
# with less noise, as a start that explains all by noise may stay there.
THETA_AT_START = {
    "lengthscale": 1.0,
    "amplitude": 1.0,
    "alpha": 1.0,
    "weight": 0.3,
    "sigma": 0.3,
    "bias": 0.6,
}


@dataclass(frozen=True)
class Form:
    """How curved the map from X to Y is at a start."""

    size: float  # root mean square of Z = X / lengthscale: the smaller, the flatter
    whitened: bool  # each latent dimension has the same spread, or that of its component
    straight: bool = False  # the linear part of the kernel explains the table, or the other part
    joint: bool = False  # it went on to the mode of X and θ together

    @property
    def name(self) -> str:
        """What the table of optima says of the spread."""
        return "joint mode" if self.joint else "whitened" if self.whitened else "own"


# No size is right for every table: low-noise ones need flat starts, folded ones a curved one.
_CURVED = (Form(0.5, True), Form(1.0, True), Form(2.0, True), Form(0.3, False))
_WITH_LINEAR = (
    Form(1.0, False, straight=True),
    Form(0.3, False, straight=True),
    Form(0.5, True),
    Form(1.0, False),
)
_LINEAR = (Form(1.0, False, straight=True),)


def forms(
    model: pm.Model | ModelSpec, start: Any, rng: np.random.Generator
) -> list[tuple[Form | None, Values]]:
    """Make the starts that a fit tries first: those of one way to place X, at several sizes.

    What is no way to place X by itself is one start, of no form.
    """
    spec = ModelSpec.of(model, views=True)
    model, free = spec.model, spec.free
    first = start_values(spec, start, rng)
    if not isinstance(start, str) or not all(map(is_known, spec.kernels)) or "X" not in free:
        return [(None, first)]
    kernels, F = [kernel_named(name) for name in spec.kernels], _table(spec, start)
    raw = {start: _embedded(spec, start, F, rng)}
    if angles_of(spec):
        raw["others first"] = _embedded(spec, start, F, rng, angles_first=False)
    noise = None
    if spec.table.own is not None:
        # What a noise of each column is for: factors rather than the widest directions.
        raw["factors"], noise = _factors(F, spec.latent_dim)
    linear = any("weight" in kernel.parameters for kernel in kernels)
    curved = any(kernel.stationary or isinstance(kernel, Composite) for kernel in kernels)
    chosen = _WITH_LINEAR if linear else _CURVED if curved else _LINEAR
    made: list[tuple[Form | None, Values]] = []
    for form, way in [(form, way) for way in raw for form in chosen]:
        X = _placed(spec, raw[way], rng, whitened=form.whitened)
        theta: dict[str, Any] = {
            "lengthscale": 1.0 / form.size,
            "amplitude": 1.0,
            "sigma": THETA_AT_START["sigma"],
        }
        if form.straight:
            theta |= {"amplitude": 0.3, "weight": 1.0, "sigma": _residual(F, X.shape[1])}
        elif linear:
            theta["weight"] = 0.1
        if noise is not None:
            theta["sigma"] = noise
        held = [part for part in spec.parts if "lengthscale" in part.fixed]
        if held:
            length = held[0].fixed["lengthscale"]
            X = X * form.size * unit_of(held[0].kernel, X.shape[1], length)
        values = dict(first)
        named: dict[str, Any] = {"X": X, **_of_each(spec, theta)} | _of_likelihood(spec)
        for name, value in named.items():
            if name not in free:
                continue
            target = spec.value_name(name)
            with suppress(ValueError):  # outside a prior of the user's
                values[target] = _transformed(
                    model, free[name], np.broadcast_to(value, values[target].shape)
                )
        made.append((form, {n: np.asarray(v, dtype=np.float64) for n, v in values.items()}))
    return made


def angles_of(spec: ModelSpec) -> list[int]:
    """List the latent dimensions that are angles."""
    if not is_known(spec.kernel):
        return []
    kernel = kernel_named(spec.kernel)
    return kernel.angles(spec.latent_dim) if isinstance(kernel, Composite) else []


def _embedded(
    spec: ModelSpec, way: str, F: Array, rng: np.random.Generator, *, angles_first: bool = True
) -> Array:
    """Place rows in a way by its name, (N, Q), each latent dimension that is an angle in a plane of its own.

    The planes are the first or the last of the components: which of both suits a table only a fit can tell.
    """
    Q, angles = spec.latent_dim, angles_of(spec)
    n = Q + len(angles)
    if not angles or n > min(F.shape):
        return EMBEDDINGS[way](F, Q, rng)
    first = 0 if angles_first else Q - len(angles)
    return with_angles(EMBEDDINGS[way](F, n, rng), angles, first)


def with_angles(components: Array, angles: list[int], first: int = 0) -> Array:
    """Place rows by components (N, Q + A), each of A dimensions by the angle in a plane, from component ``first`` on."""
    Q, last = components.shape[1] - len(angles), first + 2 * len(angles)
    planes = components[:, first:last]
    X = np.empty((len(components), Q))
    X[:, angles] = np.arctan2(planes[:, 1::2], planes[:, ::2])
    X[:, np.setdiff1d(np.arange(Q), angles)] = np.delete(components, np.s_[first:last], axis=1)
    return X


def _of_each(spec: ModelSpec, theta: Mapping[str, Any]) -> dict[str, Any]:
    """Give each table of a model the same θ, by the names in the model."""
    return {part.own(name): value for part in spec.parts for name, value in theta.items()}


def _factors(F: Array, latent_dim: int) -> tuple[Array, Array]:
    """Scores by factor analysis, and the standard deviation of each column's noise, not below 0.1."""
    with interruptible():
        from sklearn.decomposition import FactorAnalysis

    analysis = FactorAnalysis(min(latent_dim, *F.shape), random_state=0)
    X = _padded(np.asarray(analysis.fit_transform(F)), latent_dim)
    return X, np.sqrt(np.maximum(analysis.noise_variance_, _NOISE))


def _residual(F: Array, latent_dim: int) -> float:
    """Give the standard deviation that the principal components leave, of all entries together."""
    values = np.linalg.svd(F - F.mean(axis=0), compute_uv=False)
    return float(max(np.sqrt((values[latent_dim:] ** 2).sum() / F.size), _NOISE))


def _unit_columns(X: Array, rng: np.random.Generator) -> Array:
    """Centre each latent dimension and give it the prior's standard deviation, 1."""
    X = X - X.mean(axis=0)
    spread = X.std(axis=0)
    # A dimension in which the data do not vary (Q above their rank) starts at random.
    empty = spread <= 1e-10 * max(spread.max(), 1e-300)
    X[:, empty] = rng.standard_normal((len(X), int(empty.sum())))
    return X / np.where(empty, 1.0, spread)


def start_values(
    model: pm.Model | ModelSpec, start: Any, rng: np.random.Generator
) -> dict[str, Array]:
    """Values of the model's value variables to start from, by name.

    ``start`` is a way to place X ("pca", "isomap", "random"); X itself; values by name; or another fit,
    of which the last draw is taken. What is not given starts at the model's own initial values.

    Raises
    ------
    TypeError, ValueError
        If the start is of an unknown kind, of a wrong shape, not finite, or has all latent
        positions equal: there the gradient in X is zero, and no optimiser would leave it.
    """
    spec = ModelSpec.of(model, functions=True, views=True)
    model, free = spec.model, spec.free
    values = model.initial_point(random_seed=int(rng.integers(2**31)))
    usual = {
        name: np.full_like(values[spec.value_name(name)], value)
        for name, value in _of_each(spec, THETA_AT_START).items()
        if name in free
    }
    usual |= {name: value for name, value in _of_likelihood(spec).items() if name in free}
    given = _given(spec, start, rng)
    if spec.prior.says.mapped and "X" in given and "X_weights" not in given:
        given["X_weights"] = spec.weights_of(_checked_positions(spec, given["X"]))
    for name in usual.keys() - given.keys():
        # Outside a prior of the user's the model's own initial value stays.
        with suppress(ValueError):
            values[spec.value_name(name)] = _transformed(model, free[name], usual[name])
    for name, value in given.items():
        if name not in free:
            continue
        rv = free[name]
        target = model.rvs_to_values[rv]
        wanted = np.shape(values[target.name])
        if value.shape != wanted:
            raise ValueError(f"start must give {name} the shape {wanted}, got {value.shape}.")
        if not np.isfinite(value).all():
            raise ValueError(f"start must be finite, got missing or infinite values in {name}.")
        values[target.name] = _transformed(model, rv, value)
    X = values[spec.value_name("X")] if "X" in free else None
    if X is not None and X.ndim == 2 and np.ptp(X, axis=0).max() == 0.0:
        raise ValueError(
            "start has all latent positions equal, got one point for all rows. The gradient in X "
            "is zero there: start from 'pca', 'isomap', 'random' or different positions."
        )
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def _given(spec: ModelSpec, start: Any, rng: np.random.Generator) -> dict[str, Array]:
    if isinstance(start, str):
        if start not in EMBEDDINGS:
            raise ValueError(
                f"start must be one of {', '.join(EMBEDDINGS)}, an array, a mapping or a fit, got {start!r}."
            )
        if spec.is_X_held:
            return {}
        X = _embedded(spec, start, _table(spec, start), rng)
        return {"X": _placed(spec, X, rng, whitened=True)}
    if isinstance(start, xr.DataTree):
        read = Fit.of(start, "X", caller="start", views=bool(spec.views))
        names = dict.fromkeys(["X", *map(str, read.posterior.data_vars)])
        return spec.last_draw(read, names, "start")
    if isinstance(start, Mapping):
        unknown = [name for name in start if name not in spec.model.named_vars]
        if unknown:
            raise ValueError(
                f"start must name variables of the model ({', '.join(spec.free)}), "
                f"got {', '.join(map(str, unknown))}."
            )
        return {
            str(name): numbers(
                f"start[{name!r}]", spec.by_row("start", value) if name == "X" else value
            )
            for name, value in start.items()
        }
    try:
        return {"X": numbers("start", spec.by_row("start", start))}
    except TypeError as error:
        raise TypeError(
            f"start must be one of {', '.join(EMBEDDINGS)}, an array, a mapping or a fit: {error}"
        ) from None


def _checked_positions(spec: ModelSpec, X: Array) -> Array:
    wanted = spec.X_shape
    if X.shape != wanted or not np.isfinite(X).all():
        raise ValueError(f"start must give X finite values in the shape {wanted}, got {X.shape}.")
    return X


def _of_likelihood(spec: ModelSpec) -> dict[str, Array]:
    """Levels, and parameters of a likelihood of latent functions, where it starts."""
    if not isinstance(spec.table, FunctionTable):
        return {}
    source = spec.table.source
    parameters, level = source.likelihood.start(source.rows_and_entries)
    return {"level": level} | {variable_of(n): np.exp(v) for n, v in parameters.items()}


def _table(spec: ModelSpec, start: Any) -> Array:
    if isinstance(spec.table, FunctionTable):
        F = spec.table.working
        return completed(F - np.nan_to_num(np.nanmean(F, axis=0)), spec.latent_dim)
    if not spec.table.standardisable:
        raise ValueError(
            f"start={start!r} needs the mean and scale of the table to be data; start this model from "
            "an array of latent positions."
        )
    F = completed(spec.table.F, spec.latent_dim)
    return F if spec.inputs is None else _without_inputs(spec, F)


def _without_inputs(spec: ModelSpec, F: Array) -> Array:
    """Take out of a table what its inputs explain by themselves, with amplitudes and lengthscales of 1."""
    if (inputs := spec.inputs) is None:
        return F
    counted = inputs.counted(spec.kernel, inputs.names)[:-1]
    theta = {"amplitude": counted.astype(np.float64)}
    nowhere = np.zeros((len(F), spec.latent_dim))
    process = GP(spec.kernel, nowhere, theta, THETA_AT_START["sigma"], inputs.values)
    return F - process.smoothed(F)[0]


def _placed(spec: ModelSpec, X: Array, rng: np.random.Generator, *, whitened: bool) -> Array:
    """Centre positions, give them root mean square 1, and turn them to what is known of some."""
    unit, angles = _unit_columns(X, rng), angles_of(spec)
    # An angle that the data do not vary in starts at random too: at one place it could not leave it.
    given = np.where(np.ptp(X[:, angles], axis=0) > 0.0, X[:, angles], unit[:, angles])
    if not whitened:
        spread = (X - X.mean(axis=0)).std(axis=0)
        X = unit * np.maximum(spread, _LEAST * spread.max())
        unit = X / np.sqrt((X**2).mean())
    unit[:, angles] = given
    anchors = spec.prior.anchors
    return unit if anchors is None else turned_towards(unit, *anchors, rng)


def turned_towards(X: Array, mean: Array, sd: Array, rng: np.random.Generator) -> Array:
    """Turn positions so that they agree with what is known of some.

    In a dimension of which something is known, known places are predicted from X by least squares,
    and then weighed against what the prior says; the other dimensions hold what those leave of X.
    Where all known rows lie at about one place, as roots do, least squares would put all rows there:
    the dimension of X is then kept, with those rows on their side.
    """
    known = (sd != 1.0) | (mean != 0.0)
    informed = known.any(axis=0)
    design = np.column_stack([np.ones(len(X)), X])
    turned = np.empty_like(X)
    for q in np.flatnonzero(informed):
        rows = known[:, q]
        slopes = np.linalg.lstsq(design[rows], mean[rows, q], rcond=None)[0]
        guess = design @ slopes
        if guess.std() < _FLAT:
            guess = X[:, q] - X[:, q].mean()
            guess *= np.copysign(1.0, guess[rows].mean() * mean[rows, q].mean())
        doubt = np.mean((guess - mean[:, q])[rows] ** 2) + np.min(sd[rows, q]) ** 2
        weight = np.where(rows, doubt / (doubt + sd[:, q] ** 2), 0.0)
        turned[:, q] = weight * mean[:, q] + (1.0 - weight) * guess
    if not informed.all():
        along = np.column_stack([np.ones(len(X)), turned[:, informed]])
        rest = X - along @ np.linalg.lstsq(along, X, rcond=None)[0]
        U, s, _ = np.linalg.svd(rest, full_matrices=False)
        others = int((~informed).sum())
        turned[:, ~informed] = _unit_columns(U[:, :others] * s[:others], rng)
    return turned


def _transformed(model: pm.Model, rv: Any, value: Array) -> Array:
    transform = model.rvs_to_transforms[rv]
    if transform is None:
        return value
    if isinstance(transform, LogTransform) and (np.asarray(value) > 0.0).all():
        return np.log(value)  # needs no compiled function
    (result,) = constants(transform.forward(pt.constant(value), *rv.owner.inputs))
    if not np.isfinite(result).all():
        raise ValueError(f"start must lie inside the range of {rv.name}, got {value}.")
    return result


def perturbed(
    model: pm.Model | ModelSpec, values: Mapping[str, Array], start: Any, rng: np.random.Generator
) -> dict[str, Array]:
    """Make a further start: X drawn anew if it was random, else moved by half its spread; θ too.

    ``values`` are those of :func:`start_values` for this ``start``.
    """
    if isinstance(start, str) and start == "random":
        values = start_values(model, start, rng)
    moved = {}
    for name, value in values.items():
        spread = 0.5 * value.std(axis=0) if name == "X" and value.ndim == 2 else 0.3
        keep = name == "X" and isinstance(start, str) and start == "random"
        moved[name] = value if keep else value + spread * rng.standard_normal(value.shape)
    return moved
