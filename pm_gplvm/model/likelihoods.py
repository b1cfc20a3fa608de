"""Likelihoods as users name them: families, mixed columns, and any distribution of PyMC's."""

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, function_of
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.families import (
    FAMILIES,
    FEW_POINTS,
    POINTS,
    Bernoulli,
    Binomial,
    Gamma,
    Gaussian,
    Labels,
    Likelihood,
    LogNormal,
    NegativeBinomial,
    Nodes,
    Ordinal,
    Parameters,
    Poisson,
    Rows,
    StudentT,
    hermite,
)

__all__ = [
    "FromPyMC",
    "Likelihood",
    "Mixed",
    "Parameters",
    "Rows",
    "bernoulli",
    "binomial",
    "from_dict",
    "from_pymc",
    "gamma",
    "gaussian",
    "lognormal",
    "mixed",
    "negative_binomial",
    "ordinal",
    "poisson",
    "resolve",
    "student_t",
]


_TRIED = np.linspace(
    -8.0, 8.0, 33
)  # f, from the level, where the curvature of a function is looked at
_FLAT = 1e-9  # of the largest curvature: rounding


class Mixed(Likelihood):
    """Blocks of columns, each with its likelihood; a parameter is named after its block.

    All columns share the kernel's amplitude. Links have scales of their own, so a block that is not standardised
    takes gain · f: of the standardised blocks, or else of the first, the gain is 1.
    """

    name: ClassVar[str] = "mixed"
    widths: ClassVar[dict[str, tuple[float, float]]] = {"log_gain": (0.0, 1.0)}

    def __init__(self, blocks: Iterable[tuple[Iterable[int], Likelihood]]) -> None:
        self.blocks = [(np.asarray(list(c), dtype=np.intp), each) for c, each in blocks]
        self.names: list[str] = []
        for _, each in self.blocks:
            again = sum(name.split("-")[0] == each.name for name in self.names)
            self.names.append(f"{each.name}-{again + 1}" if again else each.name)
        self.names = [name.replace("-", "_") for name in self.names]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixed) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.names))

    def __repr__(self) -> str:
        return f"Mixed({[(columns.tolist(), each) for columns, each in self.blocks]})"

    @property
    def text(self) -> str:
        """What it is, in words."""
        parts = [f"{each.text} for {len(c)} column{'s' * (len(c) != 1)}" for c, each in self.blocks]
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the blocks, which JSON can hold."""
        blocks = [
            {"columns": columns.tolist(), "likelihood": each.to_dict()}
            for columns, each in self.blocks
        ]
        return {"name": self.name, "blocks": blocks}

    def given(self, rows: Rows) -> Self:
        """Return each block with what it finds in its columns."""
        parts = zip(self.blocks, self._rows(rows), strict=True)
        return type(self)((columns, each.given(part)) for (columns, each), part in parts)

    def entries(self, n_rows: int, n_columns: int) -> Array | None:
        """Return what any block was told, NaN for the others."""
        told = [each.entries(n_rows, len(columns)) for columns, each in self.blocks]
        if all(part is None for part in told):
            return None
        height = max(len(part) for part in told if part is not None)
        table = np.full((height, n_columns), np.nan)
        for (columns, _), part in zip(self.blocks, told, strict=True):
            if part is not None:
                table[:, columns] = part
        return table

    def standardised(self, n_columns: int) -> NDArray[np.bool_]:
        """See :meth:`Likelihood.standardised`."""
        (table,) = self._gather(
            (1, n_columns), lambda i, each: each.standardised(len(self.blocks[i][0]))
        )
        return np.asarray(table[0] > 0.0)

    def _owner(self, parameter: str) -> int:
        """Return the number of the block of a parameter: the longest name, as "binomial" ends another."""
        names = [
            (len(name), i) for i, name in enumerate(self.names) if parameter.endswith(f"_{name}")
        ]
        return max(names)[1]

    def columns(self, parameter: str, n_columns: int) -> NDArray[np.intp]:
        """Return the columns that the entries of a parameter stand for."""
        return self.blocks[self._owner(parameter)][0]

    def _of(self, i: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a block by their own names."""
        end = f"_{self.names[i]}"
        own = {k.removesuffix(end): v for k, v in parameters.items() if self._owner(k) == i}
        return {name: value for name, value in own.items() if name not in ("log_gain", "gain")}

    def _named(self, i: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{name}_{self.names[i]}": value for name, value in parameters.items()}

    @cached_property
    def _with_gain(self) -> list[int]:
        plain = [
            i
            for i, (columns, each) in enumerate(self.blocks)
            if each.standardised(len(columns)).all()
        ]
        return [i for i in range(len(self.blocks)) if i not in (plain or [0])]

    def _gain(self, i: int, parameters: Mapping[str, Any]) -> Any:
        """Return what f of a block is multiplied by: 1 in fits that know of none."""
        return np.exp(parameters.get(f"log_gain_{self.names[i]}", 0.0))

    def _part(self, i: int, table: Any) -> Any:
        """Return the columns of a block; of what is known of entries None where it was told nothing."""
        return table if table is None or table.shape[1] == 1 else table[:, self.blocks[i][0]]

    def _entry(self, i: int, entry: Array | None) -> Array | None:
        part = self._part(i, entry)
        return None if part is None or np.isnan(part).all() else part

    def _rows(self, rows: Rows) -> list[Rows]:
        key = ("blocks", id(self))
        if key not in rows.kept:
            parts = [
                Rows(
                    np.ascontiguousarray(rows.Y[:, columns]),
                    self._part(i, rows.offset),
                    self._entry(i, rows.entry),
                )
                for i, (columns, _) in enumerate(self.blocks)
            ]
            rows.kept[key] = self, parts  # itself too, or another could come to have its id
        return rows.kept[key][1]

    def check(self, rows: Rows, labels: Labels | None = None, first_row: int = 0) -> None:
        """Check each block."""
        for (columns, each), part in zip(self.blocks, self._rows(rows), strict=True):
            names = [d if labels is None else labels[d] for d in columns.tolist()]
            each.check(part, names, first_row)

    def why_not_curved(self, rows: Rows) -> str | None:
        """See :meth:`Likelihood.why_not_curved`; of the first block where it is not."""
        for (_, each), part in zip(self.blocks, self._rows(rows), strict=True):
            if (why := each.why_not_curved(part)) is not None:
                return f"under {each.name} {why}"
        return None

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return where each block starts."""
        found: Parameters = {}
        level = np.zeros(rows.Y.shape[1])
        for i, ((columns, each), part) in enumerate(
            zip(self.blocks, self._rows(rows), strict=True)
        ):
            own, level[columns] = each.start(part)
            gain: Parameters = {"log_gain": np.zeros(())} if i in self._with_gain else {}
            found |= self._named(i, own | gain)
        return found, level

    def working(self, rows: Rows) -> Array:
        """Return the tables of the blocks, each column at unit spread as their units differ."""
        table = np.full_like(rows.Y, np.nan)
        for (columns, each), part in zip(self.blocks, self._rows(rows), strict=True):
            own, seen = each.working(part), part.seen
            n = np.maximum(seen.sum(axis=0), 1)
            centred = own - np.where(seen, own, 0.0).sum(axis=0) / n
            sd = np.sqrt(np.where(seen, centred**2, 0.0).sum(axis=0) / n)
            table[:, columns] = centred / np.where(sd > 0.0, sd, 1.0)
        return table

    def _expect(
        self, rows: Rows, f: Nodes, parameters: Parameters, slopes: bool
    ) -> tuple[Array, Parameters]:
        found: Parameters = {}
        total = np.zeros(len(rows.Y))
        for i, ((columns, each), part) in enumerate(
            zip(self.blocks, self._rows(rows), strict=True)
        ):
            gain = self._gain(i, parameters)
            mean = np.ascontiguousarray(gain * f.mean[:, :, columns])
            variance = np.ascontiguousarray(gain**2 * f.variance[:, :, columns])
            own = Nodes(mean, variance, f.weights)
            value, gradients = each._expect(part, own, self._of(i, parameters), slopes)
            mean *= gain  # now derivatives
            variance *= gain**2
            if slopes and i in self._with_gain:
                by_gain = (mean * f.mean[:, :, columns]).sum()
                by_gain += 2.0 * (variance * f.variance[:, :, columns]).sum()
                gradients = {**gradients, "log_gain": np.asarray(by_gain)}
            f.mean[:, :, columns], f.variance[:, :, columns] = mean, variance
            total += value
            found |= self._named(i, gradients)
        return total, found

    def curved(
        self, rows: Rows, f: Array, parameters: Parameters
    ) -> tuple[Array, Array, Array, Array]:
        """See :meth:`Likelihood.curved`."""
        parts = self._rows(rows)

        def of_block(i: int, each: Likelihood) -> tuple[Array, ...]:
            gain = self._gain(i, parameters)
            found = each.curved(parts[i], gain * self._part(i, f), self._of(i, parameters))
            return tuple(gain**k * derivative for k, derivative in enumerate(found))

        log_p, slope, W, of_W = self._gather(f.shape, of_block)
        return log_p, slope, W, of_W

    def slopes_of_parameters(
        self, rows: Rows, f: Array, variance: Array, adjoint: Array, parameters: Parameters
    ) -> Parameters:
        """See :meth:`Likelihood.slopes_of_parameters`."""
        found: Parameters = {}
        for i, ((_, each), part) in enumerate(zip(self.blocks, self._rows(rows), strict=True)):
            mode, v = self._functions(i, f, variance, parameters)
            u = self._gain(i, parameters) * self._part(i, adjoint)
            own = each.slopes_of_parameters(part, mode, v, u, self._of(i, parameters))
            if i in self._with_gain:
                _, slope, W, of_W = each.curved(part, mode, self._of(i, parameters))
                by_gain = mode * (slope - 0.5 * v * of_W - u * W) - v * W + u * slope
                own["log_gain"] = np.asarray(by_gain.sum())
            found |= self._named(i, own)
        return found

    def log_prior(self, parameters: Parameters) -> tuple[float, Parameters]:
        """Sum those of the blocks."""
        found: Parameters = {}
        total = 0.0
        for i, (_, each) in enumerate(self.blocks):
            value, slopes = each.log_prior(self._of(i, parameters))
            total += value
            found |= self._named(i, slopes)
        gains = {k: v for k, v in parameters.items() if k not in found}
        for name, log_gain in gains.items():
            value, slope = super().log_prior({"log_gain": log_gain})
            total += value
            found[name] = slope["log_gain"]
        return total, found

    def constrained(self, parameters: Parameters) -> Parameters:
        """Return the natural parameters of the blocks."""
        found: Parameters = {}
        for i, (_, each) in enumerate(self.blocks):
            gain: Parameters = (
                {"gain": np.asarray(self._gain(i, parameters))} if i in self._with_gain else {}
            )
            found |= self._named(i, each.constrained(self._of(i, parameters)) | gain)
        return found

    def _gather(self, shape: tuple[int, ...], of_block: Callable[[int, Likelihood], Any]) -> Any:
        """Return one or more tables, made of those of the blocks."""
        tables: list[Array] = []
        for i, (columns, each) in enumerate(self.blocks):
            parts = of_block(i, each)
            parts = parts if isinstance(parts, tuple) else (parts,)
            tables = tables or [np.empty(shape) for _ in parts]
            for table, part in zip(tables, parts, strict=True):
                table[:, columns] = part
        return tuple(tables)

    def _functions(
        self, i: int, mean: Array, variance: Array, parameters: Parameters
    ) -> tuple[Array, Array]:
        """Mean and variance of what a block sees, gain · f."""
        gain = self._gain(i, parameters)
        return gain * self._part(i, mean), gain**2 * self._part(i, variance)

    def _of_rows(
        self, verb: str, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> Any:
        """Return what a method of each block gives for its columns of rows."""
        parts = self._rows(rows)

        def of_block(i: int, each: Likelihood) -> Any:
            f = self._functions(i, mean, variance, parameters)
            return getattr(each, verb)(parts[i], *f, self._of(i, parameters))

        return self._gather(mean.shape, of_block)

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.moments`."""
        return self._gather(
            mean.shape,
            lambda i, each: each.moments(
                *self._functions(i, mean, variance, parameters),
                self._part(i, offset),
                self._entry(i, entry),
                self._of(i, parameters),
            ),
        )

    def log_predictive(
        self, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> Array:
        """See :meth:`Likelihood.log_predictive`."""
        (table,) = self._of_rows("log_predictive", rows, mean, variance, parameters)
        return table

    def marginal(
        self,
        rows: Rows,
        mean: Array,
        variance: Array,
        parameters: Parameters,
        points: int = FEW_POINTS,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.marginal`."""
        parts = self._rows(rows)

        def of_block(i: int, each: Likelihood) -> tuple[Array, ...]:
            gain = self._gain(i, parameters)
            f = self._functions(i, mean, variance, parameters)
            value, by_mean, by_variance = each.marginal(
                parts[i], *f, self._of(i, parameters), points
            )
            return value, gain * by_mean, gain**2 * by_variance

        value, by_mean, by_variance = self._gather(mean.shape, of_block)
        return value, by_mean, by_variance

    def cumulative(
        self, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> tuple[Array, Array]:
        """See :meth:`Likelihood.cumulative`."""
        return self._of_rows("cumulative", rows, mean, variance, parameters)

    def interval(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
        probability: float = 0.89,
    ) -> tuple[Array, Array]:
        """See :meth:`Likelihood.interval`."""
        return self._gather(
            mean.shape,
            lambda i, each: each.interval(
                *self._functions(i, mean, variance, parameters),
                self._part(i, offset),
                self._entry(i, entry),
                self._of(i, parameters),
                probability,
            ),
        )

    def draw(
        self,
        rng: np.random.Generator,
        f: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> Array:
        """See :meth:`Likelihood.draw`."""
        (table,) = self._gather(
            f.shape,
            lambda i, each: each.draw(
                rng,
                self._gain(i, parameters) * self._part(i, f),
                self._part(i, offset),
                self._entry(i, entry),
                self._of(i, parameters),
            ),
        )
        return table

    def distribution(
        self,
        name: str,
        f: Any,
        offset: Any = None,
        entry: Any = None,
        parameters: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Register a variable for each block, ``name_block``, and return them; no ``dims``."""
        observed, made = kwargs.pop("observed", None), []
        for i, (columns, each) in enumerate(self.blocks):
            own = kwargs if observed is None else kwargs | {"observed": observed[:, columns]}
            gain = (parameters or {}).get(f"gain_{self.names[i]}", 1.0)
            made.append(
                each.distribution(
                    f"{name}_{self.names[i]}",
                    gain * f[:, columns],
                    self._part(i, offset),
                    None if entry is None else self._entry(i, entry),
                    self._of(i, parameters or {}),
                    **own,
                )
            )
        return made


@dataclass(frozen=True)
class FromPyMC(Likelihood):
    """Any distribution of PyMC's given f: its log-density, and derivatives by PyTensor."""

    function: Callable[[Any], Any]
    name: ClassVar[str] = "from_pymc"

    def __post_init__(self) -> None:
        function_of("function", self.function, "f")
        dist = self.function(pt.dmatrix("f"))
        if not isinstance(dist, pt.TensorVariable) or dist.owner is None:
            raise TypeError(
                "function must return a distribution, such as lambda f: pm.Poisson.dist(pm.math.exp(f)), "
                f"got {type(dist).__name__}."
            )
        if dist.type.ndim != 2:
            raise ValueError(
                "function must return a distribution of each entry of f, which has 2 dimensions, got one of "
                f"{dist.type.ndim}. Write it elementwise in f."
            )

    @property
    def text(self) -> str:
        """What it is, in words."""
        return "a distribution of PyMC's"

    def to_dict(self) -> dict[str, Any]:
        """Raise an error: a function cannot be written down."""
        raise ValueError(
            "a likelihood made by from_pymc is a function and cannot be saved, got "
            f"{self.function!r}; use one of {', '.join(FAMILIES)}, or hand it in again."
        )

    @cached_property
    def _compiled(self) -> Any:
        """Ln p and its first two derivatives, of y and f (n, D)."""
        y, f = pt.dmatrix("y"), pt.dmatrix("f")
        log_p = pm.logp(self.function(f), y)
        first = pytensor.grad(log_p.sum(), f)
        second = pytensor.grad(first.sum(), f, disconnected_inputs="ignore")
        return pytensor.function([y, f], [log_p, first, second], mode=compile_mode())

    @cached_property
    def _third(self) -> Any:
        """Third derivative of ln p in f."""
        y, f = pt.dmatrix("y"), pt.dmatrix("f")
        found = pm.logp(self.function(f), y)
        for _ in range(3):
            found = pytensor.grad(found.sum(), f, disconnected_inputs="ignore")
        return pytensor.function([y, f], found, on_unused_input="ignore", mode=compile_mode())

    def _curved(
        self, y: Array, t: Array, entry: Array | None, q: Parameters
    ) -> tuple[Array, Array, Array, Array]:
        log_p, slope, second = self._terms(y, t)
        return log_p, slope, -second, -self._third(y, t)

    def _terms(self, y: Array, t: Array) -> tuple[Array, Array, Array]:
        log_p, first, second = self._compiled(y, t)
        return tuple(np.broadcast_to(each, t.shape) for each in (log_p, first, second))  # type: ignore[return-value]

    @cached_property
    def discrete(self) -> bool:  # type: ignore[override]
        """Whether it is one of whole numbers."""
        return bool(self.function(pt.dmatrix("f")).dtype.startswith(("int", "uint", "bool")))

    def _filled(self, rows: Rows) -> Array:
        """Return Y, with another entry of the column for a missing one."""
        if self not in rows.kept:
            first = np.argmax(rows.seen, axis=0)
            stand_in = rows.Y[first, np.arange(rows.Y.shape[1])]
            known = stand_in[~np.isnan(stand_in)]
            stand_in = np.where(np.isnan(stand_in), known[0] if len(known) else 0.0, stand_in)
            rows.kept[self] = np.where(rows.seen, rows.Y, stand_in)
        return rows.kept[self]

    def check(self, rows: Rows, labels: Labels | None = None, first_row: int = 0) -> None:
        """Raise an error where the density of an entry is 0 at f = 0."""
        self._finite(rows, labels, first_row)
        log_p = self._terms(self._filled(rows), np.zeros_like(rows.Y))[0]
        remedy = "see its support in PyMC's documentation"
        bad = ~np.isfinite(log_p)
        self._refuse(rows, bad, "what the distribution can have made", remedy, labels, first_row)

    def why_not_curved(self, rows: Rows) -> str | None:
        """See :meth:`Likelihood.why_not_curved`; tried at many f about where the columns start."""
        level, shape = self.start(rows)[1], rows.Y.shape
        tried = [self.curved(rows, np.broadcast_to(level + h, shape), {}) for h in _TRIED]
        _, slope, W, _ = (np.stack(each) for each in zip(*tried, strict=True))
        known = np.isfinite(W) & np.isfinite(slope)
        if (known & (-_FLAT * np.nanmax(np.abs(W), initial=0.0) > W)).any():
            return "ln p bends upwards in f in places"
        if (np.where(known, W, 0.0) <= 0.0).all(axis=0)[(slope != 0.0).any(axis=0)].any():
            return "ln p is not curved in f"
        return None

    def start(self, rows: Rows) -> tuple[Parameters, Array]:
        """Return no parameters, and the f of largest likelihood of each column."""
        y, level = self._filled(rows), np.zeros(rows.Y.shape[1])
        for _ in range(100):
            _, first, second = self._terms(y, level + rows.shift)
            g = np.where(rows.seen, first, 0.0).sum(axis=0) - 0.01 * level
            h = np.where(rows.seen, np.abs(second), 0.0).sum(axis=0) + 0.01
            step = np.clip(g / h, -1.0, 1.0)
            level = level + step
            if np.abs(step).max(initial=0.0) < 1e-6:
                break
        return {}, level

    def working(self, rows: Rows) -> Array:
        """Score residuals: the slope in f at the level of the column, over the root of its mean square."""
        _, first, _ = self._terms(self._filled(rows), self.start(rows)[1] + rows.shift)
        found = np.where(rows.seen, first, np.nan)
        square = np.where(rows.seen, first**2, 0.0).sum(axis=0) / np.maximum(
            rows.seen.sum(axis=0), 1
        )
        return found / np.sqrt(np.where(square > 0.0, square, 1.0))

    def _expect(
        self, rows: Rows, f: Nodes, parameters: Parameters, slopes: bool
    ) -> tuple[Array, Parameters]:
        B, K, D = f.mean.shape
        y = np.broadcast_to(self._filled(rows)[:, None], (B, K, D)).reshape(-1, D)
        centre = (f.mean + rows.shift[:, None]).reshape(-1, D)
        sd = np.sqrt(f.variance).reshape(-1, D)
        sums = np.zeros((3, B * K, D))
        for point, weight in zip(*hermite(POINTS), strict=True):
            for total, part in zip(sums, self._terms(y, centre + sd * point), strict=True):
                total += weight * part
        seen = np.broadcast_to(rows.seen[:, None], (B, K, D))
        value, first, second = np.where(seen, sums.reshape(3, B, K, D), 0.0)
        weights = f.weights[:, None]
        f.mean[:] = weights * first
        f.variance[:] = 0.5 * weights * second
        return np.einsum("bkd,k->b", value, f.weights), {}

    def _log_density(self, y: Array, t: Array, entry: Array | None, q: Parameters) -> Array:
        return self._terms(y, t)[0]

    def _slopes(
        self, y: Array, t: Array, entry: Array | None, q: Parameters
    ) -> tuple[Array, Array]:
        _, first, second = self._terms(y, t)
        return first, np.maximum(-second, 0.0)

    @cached_property
    def _log_cdf(self) -> Any:
        y, f = pt.dmatrix("y"), pt.dmatrix("f")
        return pytensor.function([y, f], pm.logcdf(self.function(f), y), mode=compile_mode())

    def _cdf(self, y: Array, t: Array, entry: Array | None, q: Parameters) -> Array:
        return np.exp(self._log_cdf(y, t))

    def cumulative(
        self, rows: Rows, mean: Array, variance: Array, parameters: Parameters
    ) -> tuple[Array, Array]:
        """See :meth:`Likelihood.cumulative`; by PyMC's distribution function, where it has one."""
        y, t, sd = self._filled(rows), mean + rows.shift, np.sqrt(variance)

        def average(at: Array) -> Array:
            points = zip(*hermite(32), strict=True)
            total = sum(weight * self._cdf(at, t + sd * x, None, {}) for x, weight in points)
            return np.where(rows.seen, total, np.nan)

        upper = average(y)
        return (average(y - 1.0) if self.discrete else upper), upper

    def _many(self, mean: Array, variance: Array, offset: Array | None) -> Array:
        """Return draws (400, S, D) of new measurements, always the same for the same arguments."""
        rng = np.random.default_rng(0)
        f = mean + np.sqrt(variance) * rng.standard_normal((400, *mean.shape))
        flat = f.reshape(-1, mean.shape[-1])
        shift = None if offset is None else np.tile(offset, (400, 1))
        return self.draw(rng, flat, shift, None, {}).reshape(f.shape)

    def moments(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Likelihood.moments`; by 400 draws at each of 7 points of f, always the same ones."""
        t, sd = mean if offset is None else mean + offset, np.sqrt(variance)
        rng = np.random.default_rng(0)
        sums = np.zeros((3, *t.shape))
        for point, weight in zip(*hermite(7), strict=True):
            at = np.tile(t + sd * point, (400, 1))
            drawn = self.draw(rng, at, None, None, {}).reshape(400, *t.shape)
            own = drawn.mean(axis=0)
            sums += weight * np.array([own, own**2, drawn.var(axis=0)])
        return sums[0], np.maximum(sums[1] - sums[0] ** 2, 0.0), sums[2]

    def interval(
        self,
        mean: Array,
        variance: Array,
        offset: Array | None,
        entry: Array | None,
        parameters: Parameters,
        probability: float = 0.89,
    ) -> tuple[Array, Array]:
        """See :meth:`Likelihood.interval`; by 400 draws, always the same ones."""
        tail = 0.5 - 0.5 * probability
        drawn = self._many(mean, variance, offset)
        ends = [tail, 1.0 - tail]
        if self.discrete:
            lower, upper = np.quantile(drawn, ends, axis=0, method="inverted_cdf")
        else:
            lower, upper = np.quantile(drawn, ends, axis=0)
        return lower, upper

    @cached_property
    def _random(self) -> Any:
        f = pt.dmatrix("f")
        dist = self.function(f)
        return pm.compile([f], dist, mode=compile_mode())

    def _draw(self, rng: np.random.Generator, t: Array, entry: Array | None, q: Parameters) -> Any:
        pm.pytensorf.reseed_rngs(
            [v for v in self._random.get_shared() if hasattr(v.get_value(borrow=True), "random")],
            int(rng.integers(2**31)),
        )
        return self._random(np.ascontiguousarray(t))

    def distribution(
        self,
        name: str,
        f: Any,
        offset: Any = None,
        entry: Any = None,
        parameters: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See :meth:`Likelihood.distribution`; from its log-density, as the distribution has no name."""
        t = f if offset is None else f + offset
        return pm.CustomDist(name, t, dist=lambda at, size: self.function(at), **kwargs)


def _names() -> str:
    return ", ".join(FAMILIES)


def resolve(value: Any, labels: Labels | None = None, Y: Any = None) -> Likelihood:
    """Return the likelihood that a user means: by name, as an object, or by column.

    ``labels`` are those of the columns; what the table ``Y`` tells, such as levels, is filled in.
    """
    if isinstance(value, Mapping):
        found: Likelihood = mixed(value) if labels is None else _by_column(value, labels)
    else:
        found = _one(value, "likelihood")
    if isinstance(found, ByLabel):
        if labels is None:
            raise ValueError("labels must be given for a likelihood by column, got None.")
        found = _by_column(found.parts, labels)
    return found if Y is None else found.given(Rows(np.asarray(Y, dtype=float)))


def _one(value: Any, what: str) -> Likelihood:
    """Return a likelihood by name, or as it is."""
    if isinstance(value, Likelihood):
        return value
    if isinstance(value, str) and value in FAMILIES:
        return FAMILIES[value]()
    if inspect.isfunction(value) and value.__module__ == __name__:
        raise TypeError(
            f"{what} must be an object made of {value.__name__}, got the function; "
            f"use likelihoods.{value.__name__}(...)."
        )
    raise ValueError(
        f"{what} must be one of {_names()}, an object of pm_gplvm.likelihoods, or a mapping from columns "
        f"to them, got {value!r}."
    )


@dataclass(frozen=True, eq=False)
class ByLabel(Likelihood):
    """Likelihoods by label, of columns not known yet."""

    parts: Mapping[Any, Any]
    name: ClassVar[str] = "mixed"

    @property
    def text(self) -> str:
        """What it is, in words."""
        return "; ".join(
            f"{_one(value, 'likelihood').text.split('(')[0]} for "
            + (", ".join(map(str, key)) if isinstance(key, tuple) else str(key))
            for key, value in self.parts.items()
        )


def _by_column(parts: Mapping[Any, Any], labels: Labels) -> Likelihood:
    """Return the likelihood of a table with such columns; equal ones become one block."""
    place = {label: d for d, label in enumerate(labels)}
    chosen: dict[int, Likelihood] = {}
    for key, value in parts.items():
        one = _one(value, f"likelihood of column {key!r}")
        group: Iterable[Hashable] = [key] if key in place or not isinstance(key, tuple) else key
        for label in group:
            if label not in place:
                raise ValueError(
                    f"likelihood must name columns of Y, got {label!r}; they are {_some(labels)}."
                )
            if place[label] in chosen:
                raise ValueError(f"likelihood must name a column once, got {label!r} again.")
            chosen[place[label]] = one
    missing = [label for d, label in enumerate(labels) if d not in chosen]
    if missing:
        raise ValueError(
            f"likelihood must name every column of Y, got none for {_some(missing)}; "
            "use a tuple of labels as a key to name many at once."
        )
    # Told of all rows, equal families may still differ in what they were told.
    blocks: list[tuple[list[int], Likelihood]] = []
    for d in range(len(labels)):
        for columns, each in blocks:
            same = each is chosen[d] or (
                each == chosen[d] and each.entries(1, 1) is None and chosen[d].entries(1, 1) is None
            )
            if same:
                columns.append(d)
                break
        else:
            blocks.append(([d], chosen[d]))
    return blocks[0][1] if len(blocks) == 1 else Mixed(blocks)


def _some(labels: Iterable[Any]) -> str:
    shown = [repr(label) for label in labels]
    return ", ".join(shown[:8]) + ", …" * (len(shown) > 8)


def from_dict(written: Mapping[str, Any]) -> Likelihood:
    """Return the likelihood of :meth:`Likelihood.to_dict`."""
    options = dict(written)
    name = options.pop("name", None)
    if name == FromPyMC.name:
        if (kept := _IN_MEMORY.get(str(options.get("key")))) is None:
            raise ValueError(
                "the likelihood of this fit is a function of another process, and stands in no file. Fit again, or "
                "with one of the likelihoods by name."
            )
        return kept
    if name == "mixed":
        return Mixed((b["columns"], from_dict(b["likelihood"])) for b in options["blocks"])
    if name not in FAMILIES:
        raise ValueError(
            f"the name of a likelihood must be one of {_names()}, mixed, got {name!r}."
        )
    return FAMILIES[name](**options)


_IN_MEMORY: dict[str, FromPyMC] = {}


def noted(likelihood: Likelihood) -> dict[str, Any]:
    """Say in plain values what :func:`from_dict` makes it of; of a function as long as this process lives."""
    if not isinstance(likelihood, FromPyMC):
        return likelihood.to_dict()
    key = f"{id(likelihood.function):x}"
    _IN_MEMORY[key] = likelihood
    return {"name": likelihood.name, "key": key}


def gaussian(noise: str = "shared", noise_sd: Any = None) -> Likelihood:
    """Tell of normal noise: y ~ N(f, sigma²), and noise_sd² more where it is given.

    Parameters
    ----------
    noise : {"shared", "column"}, default "shared"
        Whether all columns have one sigma, or each its own. Its prior is LogNormal(-2, 1).
    noise_sd : array_like, optional
        Standard deviations of measurements: a number, one for each column, or of the shape of Y.

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.gaussian(noise="column").text
    "gaussian(noise='column')"
    """
    return Gaussian(noise, noise_sd)


def student_t(df: Any = 4.0, noise: str = "shared") -> Likelihood:
    """Tell of noise with heavy tails, which outliers do not pull along: y ~ t(df, f, sigma).

    Parameters
    ----------
    df : float or "free", default 4
        Degrees of freedom; "free" ones are learned, of all columns together: df - 2 is LogNormal(ln 8, 1).
    noise : {"shared", "column"}, default "shared"
        Whether all columns have one sigma, or each its own. Its prior is LogNormal(-2, 1).

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.student_t(df=3).text
    "student_t(df=3.0, noise='shared')"
    """
    return StudentT(df, noise)


def poisson() -> Likelihood:
    """Tell of counts of mean and variance exp(f).

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.poisson().text
    'poisson'
    """
    return Poisson()


def negative_binomial(dispersion: str = "column") -> Likelihood:
    """Tell of counts of mean μ = exp(f) and variance μ + μ²/r: overdispersed, as those of RNA sequencing.

    Parameters
    ----------
    dispersion : {"column", "shared"}, default "column"
        Whether each column has an r, or all one. Its prior is LogNormal(1, 1.5).

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.negative_binomial("shared").text
    "negative_binomial(dispersion='shared')"
    """
    return NegativeBinomial(dispersion)


def bernoulli() -> Likelihood:
    """Tell of zeros and ones, 1 with probability 1 / (1 + exp(-f)).

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.bernoulli().text
    'bernoulli'
    """
    return Bernoulli()


def binomial(trials: Any) -> Likelihood:
    """Tell of successes among trials, of probability 1 / (1 + exp(-f)).

    Parameters
    ----------
    trials : int or array_like
        For all entries, for each column, or of the shape of Y.

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.binomial(10).text
    'binomial(trials=10.0)'
    """
    return Binomial(trials)


def ordinal(levels: Any = None) -> Likelihood:
    """Tell of ordered classes: P(at most the c-th) = 1 / (1 + exp(f - cut_c)).

    The cuts of a column rise and have the mean 0, as f has a level; the gaps between them are learned,
    each LogNormal(0, 1).

    Parameters
    ----------
    levels : sequence of float, optional
        Numbers that stand for the classes, from the lowest. By default those that are found in Y.

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.ordinal(range(1, 6)).text
    'ordinal(levels=(1.0, 2.0, 3.0, 4.0, 5.0))'
    """
    return Ordinal(levels)


def lognormal(noise: str = "shared") -> Likelihood:
    """Tell of positive numbers whose logarithm is f and normal noise.

    Parameters
    ----------
    noise : {"shared", "column"}, default "shared"
        Whether all columns have one sigma, or each its own. Its prior is LogNormal(-2, 1).

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.lognormal().text
    "lognormal(noise='shared')"
    """
    return LogNormal(noise)


def gamma(shape: str = "column") -> Likelihood:
    """Tell of positive numbers of mean μ = exp(f) and variance μ² / shape.

    Parameters
    ----------
    shape : {"column", "shared"}, default "column"
        Whether each column has a shape, or all one. Its prior is LogNormal(1, 1.5).

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> gplvm.likelihoods.gamma().text
    "gamma(shape='column')"
    """
    return Gamma(shape)


def mixed(parts: Mapping[Any, Any]) -> Likelihood:
    """Tell of columns of several kinds, each with its likelihood.

    Columns of equal likelihoods form a block, which shares what is ``"shared"``. Instead of this
    object the mapping itself may be handed in. All blocks share the kernel's amplitude, and links have scales of their
    own: a block that is not centred and scaled has a ``gain``, learned, that multiplies its f (where no block is,
    all but the first have one).

    Parameters
    ----------
    parts : mapping
        From labels of columns, or tuples of labels, to names or objects.

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> kinds = {("height", "weight"): "lognormal", "smokes": "bernoulli"}
    >>> gplvm.likelihoods.mixed(kinds).text
    'lognormal for height, weight; bernoulli for smokes'
    """
    if not isinstance(parts, Mapping) or not parts:
        raise TypeError(
            f"parts must be a mapping from columns to likelihoods, got {type(parts).__name__}."
        )
    for key, value in parts.items():
        _one(value, f"likelihood of column {key!r}")
    return ByLabel(dict(parts))


def from_pymc(function: Callable[[Any], Any]) -> Likelihood:
    """Take any distribution of PyMC's, given f.

    Its log-density is integrated over f by 5 points of Gauss-Hermite, and differentiated by PyTensor:
    one to ten times slower than the likelihoods of this package. What else the distribution takes is
    fixed. A fit with it cannot be saved.

    Parameters
    ----------
    function : callable
        Takes f, a PyTensor matrix (rows, columns), and returns ``pm.SomeDistribution.dist(...)`` of that shape.

    Returns
    -------
    Likelihood

    Examples
    --------
    >>> import pm_gplvm as gplvm, pymc as pm
    >>> laplace = gplvm.likelihoods.from_pymc(lambda f: pm.Laplace.dist(f, 0.3))
    >>> laplace.text
    "a distribution of PyMC's"
    """
    return FromPyMC(function)
