"""Models with their latent functions written out, for entries of any likelihood, and what such a model is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from numpy.typing import NDArray
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import parse_kernel
from pm_gplvm.data.fit import FEATURE, OBS
from pm_gplvm.data.table import Scale, centre_and_scale
from pm_gplvm.model.likelihoods import FromPyMC, Likelihood, Mixed
from pm_gplvm.model.likelihoods import Rows as Observed
from pm_gplvm.model.ops import TwinOp, covariance, lower_factor
from pm_gplvm.model.priors import add_prior

JITTER = 1e-6
"""Of the functions' variance, added to the diagonal of K: as if each value had been moved by a thousandth."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a model with latent functions was built from, beside its priors."""

    table: xr.DataArray  # (obs, feature), NaN where an entry is missing
    likelihood: Likelihood
    kernel: str
    scale: Scale
    offset: Array | None  # (N, 1) or (N, D)
    size: Mapping[str, float]  # what new rows need to find their offset

    @property
    def rows(self) -> Observed:
        """The table in the units of f."""
        return Observed((self.table.to_numpy() - self.centre) / self.spread, self.offset)

    @cached_property
    def rows_and_entries(self) -> Observed:
        """The same, with what the likelihood was told of each entry, in those units too."""
        rows = self.rows
        told = self.likelihood.entries(*rows.Y.shape)
        return Observed(rows.Y, rows.offset, None if told is None else told / self.spread)

    @property
    def centre(self) -> Array:
        """What columns are centred by, (D,): 0 where a link gives f its units."""
        return self._units[0]

    @property
    def spread(self) -> Array:
        """What columns are divided by, (D,)."""
        return self._units[1]

    @cached_property
    def _units(self) -> tuple[Array, Array]:
        D = self.table.shape[1]
        centre, spread = np.zeros(D), np.ones(D)
        chosen = self.likelihood.standardised(D)
        if chosen.any():
            centre[chosen], spread[chosen] = centre_and_scale(self.table[:, chosen], self.scale)
        return centre, np.where(spread > 0.0, spread, 1.0)

    def blocks(self) -> Iterator[tuple[str, NDArray[np.intp], Likelihood]]:
        """Columns of one likelihood each, and what their names end in."""
        if isinstance(self.likelihood, Mixed):
            named = zip(self.likelihood.names, self.likelihood.blocks, strict=True)
            yield from ((f"_{name}", columns, each) for name, (columns, each) in named)
        else:
            yield "", np.arange(self.table.shape[1]), self.likelihood


class Functions(TwinOp):
    """The functions as they are; the graph tells by it where they come from, in copies of a model too."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def make_node(self, f: Any) -> Apply:
        """Take f (obs, feature)."""
        f = pt.as_tensor_variable(f, dtype="float64", ndim=2)
        return Apply(self, [f], [f.type()])

    def infer_shape(self, node: Apply, shapes: Any) -> Any:
        """Return the shape of f."""
        return shapes

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        """Copy f."""
        storage[0][0] = inputs[0].copy()

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        """Return the functions."""
        return list(inputs)

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        """Pass the cotangent on."""
        return list(cotangents)


def source_of(model: pm.Model) -> Source | None:
    """Find what a model was built from, if it has latent functions of :func:`add_functions`."""
    for variable in ancestors(model.observed_RVs):
        if variable.owner is not None and isinstance(variable.owner.op, Functions):
            return variable.owner.op.source
    return None


def add_functions(source: Source, parameters: Mapping[str, Any], level: Any) -> None:
    """Add f, the likelihood's parameters and the table to the model on the context stack.

    ``parameters`` are X and those of the kernel; ``level`` is the prior of the columns' levels, None for
    N(start, 1), the start being what the likelihood finds in the table.
    """
    table, (N, D) = source.table, source.table.shape
    starts, at = source.likelihood.start(source.rows)
    centre = pm.Data("Y_mean", source.centre, dims=FEATURE)
    spread = pm.Data("Y_scale", source.spread, dims=FEATURE)
    if level is None:
        level = pm.Normal.dist(pm.Data("Y_level", at, dims=FEATURE), 1.0)
    level = add_prior("level", level, dims=(FEATURE,), shape=(D,), positive=False)
    f = level + whitened_functions(source.kernel, parameters, (D, N)).T
    f = pm.Deterministic("f", Functions(source)(f), dims=(OBS, FEATURE))
    offset, by_entry = None, False
    if source.offset is not None:
        by_entry = source.offset.shape == (N, D)
        dims = (OBS, FEATURE) if by_entry else None
        offset = pm.Data("Y_offset", source.offset, dims=dims)
    seen = ~np.isnan(table.to_numpy())
    for end, columns, each in source.blocks():
        own = {
            name: start
            for name, start in starts.items()
            if not end or (name.endswith(end) and source.likelihood.columns(name, D) is columns)
        }
        natural = _add_parameters(each, own, end, columns, whole=len(columns) == D)
        if "sigma" in natural:  # in units of the scale, as f is
            natural["sigma"] = natural["sigma"] * spread[columns]
        gain = natural.pop("gain", None)
        some = (..., slice(None) if len(columns) == D else columns)
        t = f[some] if gain is None else gain * f[some]
        if offset is not None:
            t = t + (offset[some] if by_entry else offset)
        t = centre[some] + spread[some] * t
        _observe(source, each, end, columns, t, natural, seen[:, columns])


def whitened_functions(
    kernel: str, parameters: Mapping[str, Any], shape: tuple[int, int]
) -> Variable:
    """Write down draws (D, N) of N(0, K + jitter) as L v, v ~ N(0, I) a free variable."""
    v = pm.Normal("v", 0.0, 1.0, shape=shape, dims=(FEATURE, OBS))
    given = dict(parameters)
    scales = [given[name] for name in ("amplitude", "weight", "bias") if name in given]
    size = pt.sqrt(sum(pt.square(s).sum() for s in scales)) if scales else 1.0
    K = covariance(kernel, given.pop("X"), **given, sigma=JITTER**0.5 * size)
    return v @ lower_factor(K).T


def _add_parameters(
    likelihood: Likelihood,
    starts: Mapping[str, Array],
    end: str,
    columns: NDArray[np.intp],
    *,
    whole: bool,
) -> dict[str, Any]:
    """Add free variables whose logarithms have the priors of :meth:`Likelihood.log_prior`; the natural ones by name."""
    natural: dict[str, Any] = {}
    widths = {**Mixed.widths, **likelihood.widths}
    for full, start in starts.items():
        name = full.removesuffix(end).removeprefix("log_")
        mean, sd = widths[f"log_{name}"]
        shape = np.shape(start)
        dims = FEATURE if whole and shape == (len(columns),) else None
        own = f"df_beyond_2{end}" if name == "df" else f"{name}{end}"
        value = pm.LogNormal(own, mean, sd, shape=shape, dims=dims)
        if name == "df":
            value = pm.Deterministic(f"df{end}", 2.0 + value)
        elif name == "gaps":
            name = "cuts"
            below = pt.zeros((shape[0], 1))
            cuts = pt.concatenate([below, pt.cumsum(value, axis=1)], axis=1)
            value = pm.Deterministic(f"cuts{end}", cuts - cuts.mean(axis=1, keepdims=True))
        natural[name] = value
    return natural


def _observe(
    source: Source,
    likelihood: Likelihood,
    end: str,
    columns: NDArray[np.intp],
    t: Variable,
    natural: dict[str, Any],
    seen: NDArray[np.bool_],
) -> None:
    """Observe the entries of some columns that were measured, and no others."""
    Y, (N, D) = source.table.to_numpy()[:, columns], source.table.shape
    told = likelihood.entries(N, len(columns))
    entry = None if told is None else np.broadcast_to(told, Y.shape)
    dims: dict[str, Any] = {"dims": (OBS, FEATURE)} if len(columns) == D else {}
    if not seen.all():
        if isinstance(likelihood, FromPyMC):
            raise ValueError(
                "Y must be complete in columns of a likelihood by from_pymc here, got "
                f"{int((~seen).sum())} missing entries. Use fit_svi(Y, likelihood=...), or leave those rows out."
            )
        rows, cols = np.nonzero(seen)
        Y, t, dims = Y[rows, cols], t[rows, cols], {}
        entry = None if entry is None else entry[rows, cols]
        natural = {name: value[cols] if value.ndim else value for name, value in natural.items()}
    if not seen.any():
        return
    likelihood.distribution(f"Y{end}", t, None, entry, natural, observed=Y, **dims)


def variable_of(parameter: str) -> str:
    """Name of the free variable of an unconstrained parameter of a likelihood."""
    return parameter.removeprefix("log_").replace("df", "df_beyond_2", 1)


def names_of_theta(kernel: str) -> tuple[str, ...]:
    """Names of the kernel's parameters; there is no noise."""
    entry, bias = parse_kernel(kernel)
    return (*entry.parameters, *(("bias",) if bias else ()))
