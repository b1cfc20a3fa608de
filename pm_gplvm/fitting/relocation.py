"""Local search over single rows at a mode.

A row that L-BFGS left on the wrong side of the others stays there. Here other positions z are
proposed to each row, and it takes the one of the highest p(z) p(yₙ given z and the other rows) if
that is higher than at its own. Alternating with L-BFGS, this finds higher modes than restarts do.
Of several tables a row's densities are multiplied; z is in units of their smallest lengthscales.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import Patterns, column_patterns
from pm_gplvm.core.interrupt import safe_point
from pm_gplvm.core.kernels import cross_slope, is_known, prior_slope_variance
from pm_gplvm.core.row_moves import Part, Proposal, TableAt, Theta
from pm_gplvm.data.fit import THETA
from pm_gplvm.model.density import compile_constrain, compile_row_prior
from pm_gplvm.model.spec import ModelSpec

_EXACT = 4  # proposals of the smallest residuals, for which the variance is computed
_GAIN = 0.5  # nats by which another position must be better


class Relocation:
    """Local search over the rows of a model, and what their expected curvature tells.

    The model must be one that :meth:`serves`. With ``rows`` the others count as not observed.
    """

    def __init__(
        self,
        model: pm.Model | ModelSpec,
        rng: np.random.Generator,
        rows: NDArray[np.intp] | None = None,
        n_proposals: int = 64,
    ) -> None:
        spec = ModelSpec.of(model, views=True)
        F = spec.table.F
        self._rows = np.arange(len(F)) if rows is None else rows
        self._tables = [_Rows.of(part, self._rows) for part in spec.parts]
        self._names = [v.name for v in spec.model.value_vars]
        self._constrain = compile_constrain(spec.model)
        self._prior = compile_row_prior(spec)
        self._proposal, self._n_proposals, self._rng = Proposal(F[self._rows]), n_proposals, rng

    @staticmethod
    def serves(spec: ModelSpec) -> bool:
        """Whether single rows of a model can be moved, and its kernel is in the table."""
        table = spec.table
        known = all(map(is_known, spec.kernels)) and table.own is None and table.standardisable
        return spec.is_X_plain and known

    def __call__(self, values: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Move rows to better positions: the values of the value variables, and how many moved."""
        at = self._at(values)
        unit = reduce(np.minimum, [each.lengthscale for each in at])
        Z = values["X"][self._rows][None] / unit
        n_moved = 0
        batch = [np.asarray(values[name])[None] for name in self._names]
        for n in self._rng.permutation(_ill_explained([p for each in at for p in each.parts])):
            safe_point()
            better = self._better(n, Z, at, unit, batch)
            if better is None:
                continue
            Z[:, n], inserts = better
            for part, insert in inserts:
                part.remove(n)
                part.insert(n, *insert)
            n_moved += 1
        X = values["X"].copy()
        X[self._rows] = (Z * unit)[0]
        return {**values, "X": X}, n_moved

    def log_volume(self, values: Mapping[str, Array], sd: float) -> float:
        """Log volume of the rows' positions, each given the others: -½ Σ_n ln|I + sd² B_n|.

        B_n = (m' m'ᵀ + D S) / V is the expected information of row n's entries on its position: m' is
        the slope of its conditional mean, S the covariance of its slopes and V its variance, all given
        the other rows; sd is the prior standard deviation of X. Laplace's determinant has the terms
        between rows too, but is not bounded.
        """
        X = values["X"][self._rows]
        N, Q = X.shape
        information = np.zeros((N, Q, Q))
        for each in self._at(values):
            slope = each.slopes(X, self._rows)
            slope[np.arange(N), :, np.arange(N)] = 0.0  # given the others
            own = np.diag(prior_slope_variance(each.kernel, Q, **each.parameters))
            for part in each.parts:
                rows, A, W = np.flatnonzero(part.seen), part.inverse[0], part.weights[0]
                some, nn = slope[rows], A[rows, rows]
                explained = some @ A
                share = explained[np.arange(len(rows)), :, rows] / nn[:, None]
                mean = some @ W - share[:, :, None] * W[rows, None]
                known = explained @ some.transpose(0, 2, 1)
                left = own - known + nn[:, None, None] * share[:, :, None] * share[:, None]
                entries = mean @ mean.transpose(0, 2, 1) + part.F.shape[1] * left
                information[rows] += nn[:, None, None] * entries
        return float(-0.5 * np.linalg.slogdet(np.eye(Q) + sd**2 * information)[1].sum())

    def information(self, values: Mapping[str, Array]) -> Array:
        """Fisher's information of each dimension of X by itself, (Q, N, N), 0 for rows not in ``rows``.

        With J_nm = ∂k(x_n, x_m)/∂x_nq and A = K⁻¹ it is D (A ∘ J A Jᵀ + J A ∘ (J A)ᵀ), summed over the
        missingness patterns.
        """
        X = values["X"]
        information = np.zeros((X.shape[1], len(X), len(X)))
        for each in self._at(values):
            slope = each.slopes(X[self._rows], self._rows)
            for q, whole in enumerate(information):
                J = np.ascontiguousarray(slope[:, q])
                for part in each.parts:
                    A = part.inverse[0]
                    JA = J @ A
                    added = part.F.shape[1] * (A * (JA @ J.T) + JA * JA.T)
                    whole[np.ix_(self._rows, self._rows)] += added
        return information

    def _at(self, values: Mapping[str, Array]) -> "list[_AtPlace]":
        named = self._constrain(*(values[name] for name in self._names))
        X = values["X"][self._rows]
        return [table.at(X, named) for table in self._tables]

    def _better(
        self, n: int, Z: Array, at: "list[_AtPlace]", unit: Array, batch: list[Array]
    ) -> tuple[Array, list[tuple[Part, tuple[Array, Array]]]] | None:
        """Find a better position of row n, with K₋ₙ⁻¹ k and the conditional variance in each part."""
        present = np.ones(Z.shape[1])
        present[n] = 0.0
        C, *_ = self._proposal.draw(n, self._n_proposals, Z, present, self._rng)
        having, squares, crosses = [], [], []
        tables = [each.table(unit) for each in at]
        for each, table in zip(at, tables, strict=True):
            cross = each.theta.cross(table.own(C, n), table.own(Z))
            parts = [part for part in each.parts if part.inverse[0, n, n] > 0.0]
            having.append(parts)
            crosses.append(cross)
            squares.append([_squared_residual(part, n, cross) for part in parts])
        best = np.argsort(sum(square[0] for of in squares for square in of))[:_EXACT]
        positions = np.concatenate([Z[:, n, None], C[:, best]], axis=1)
        log_density = self._prior(int(self._rows[n]), positions * unit, batch)
        squares = [[square[:, best] for square in of] for of in squares]
        # What no variance could bring above the present position needs none.
        bound = log_density.copy()
        for each, parts, own_squares in zip(at, having, squares, strict=True):
            for part, square in zip(parts, own_squares, strict=True):
                most = np.maximum(square / part.F.shape[1], each.noise)
                bound += _with_present(part, n, square, most)
        if not bound[0, 1:].max() > bound[0, 0] + _GAIN:
            return None
        inserts = []
        together = zip(at, tables, having, squares, crosses, strict=True)
        for each, table, parts, own_squares, cross in together:
            prior = each.theta.variance(table.own(C, n))[:, best]
            for part, square in zip(parts, own_squares, strict=True):
                part.leave_out(n, cross[:, best])
                S, variance = part.conditional(cross[:, best], prior, each.noise)
                log_density += _with_present(part, n, square, variance)
                inserts.append((part, S[0], variance[0]))
        m = int(log_density[0].argmax())
        if not log_density[0, m] > log_density[0, 0] + _GAIN:
            return None
        chosen = [(p, (S[None, m - 1], variance[None, m - 1])) for p, S, variance in inserts]
        return positions[:, m], chosen


class _AtPlace(NamedTuple):
    """A table at one X and θ."""

    of: "_Rows"
    theta: Theta
    lengthscale: Array  # (1, 1, 1) or (1, 1, Q)
    parameters: dict[str, Any]  # of the kernel, without noise
    parts: list[Part]

    @property
    def kernel(self) -> str:
        """Its text."""
        return self.of.spec.kernel

    def table(self, unit: Array) -> TableAt:
        """Give the table where positions stand in a unit."""
        known = self.of.spec.inputs
        inputs = None if known is None else known.values[self.of.rows]
        return TableAt(self.theta, self.of.F, unit / self.lengthscale, inputs)

    @property
    def noise(self) -> Array:
        """Its variance, (1, 1)."""
        return (self.theta.sigma**2)[:, None]

    def slopes(self, X: Array, rows: NDArray[np.intp]) -> Array:
        """Slopes ∂k(x, X)/∂x at each of these rows, shape (N, Q, N)."""
        whole = self.of.spec.positions(X, rows)
        return cross_slope(self.kernel, whole, whole, **self.parameters)[:, : X.shape[1]]


@dataclass(frozen=True)
class _Rows:
    """A table's rows that are moved, and what of its θ is held."""

    spec: ModelSpec
    F: Array
    patterns: Patterns
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, spec: ModelSpec, rows: NDArray[np.intp]) -> "_Rows":
        """Take them out of a table."""
        F = spec.table.F[rows]
        return cls(spec, F, column_patterns(~np.isnan(F)), rows)

    def at(self, X: Array, named: Mapping[str, Any]) -> _AtPlace:
        """Set up the table at positions and the model's variables by name."""
        spec = self.spec
        known = spec.fixed | {n: named[spec.own(n)] for n in THETA if spec.own(n) in named}
        each = {n: np.asarray(value)[None] for n, value in known.items()}
        theta, lengthscale = Theta.of(spec.kernel, each, 1, spec.floor)
        Z = spec.positions(X[None] / lengthscale, self.rows)
        parts = [Part.of(theta, Z, rows, F) for rows, _, F in self.patterns.blocks(self.F)]
        without_noise = {n: v for n, v in known.items() if n != "sigma"}
        return _AtPlace(self, theta, lengthscale, without_noise, parts)


def _squared_residual(part: Part, n: int, cross: Array) -> Array:
    part.leave_out(n, cross)
    return part.squared_residual(n, cross)


def _with_present(part: Part, n: int, squared: Array, variance: Array) -> Array:
    """Log-density of row n where it lies (Rasmussen & Williams 2006, eq. 5.12), and at proposals."""
    here = 1.0 / part.inverse[:, n, n, None]
    square = (part.weights[:, n] ** 2).sum(axis=-1, keepdims=True) * here**2
    return part.log_density(
        np.concatenate([square, squared], axis=1), np.concatenate([here, variance], axis=1)
    )


def _ill_explained(parts: list[Part]) -> NDArray[np.intp]:
    """Rows whose squared distance from what the others predict, in its own variance, is above median.

    Better positions are found for these, and proposals to the others would be wasted.
    """
    diagonals = [np.diagonal(part.inverse[0]) for part in parts]
    squares = sum(
        (part.weights[0] ** 2).sum(axis=1) / np.where(d > 0.0, d, 1.0)
        for part, d in zip(parts, diagonals, strict=True)
    )
    counts = sum((d > 0.0) * part.F.shape[1] for part, d in zip(parts, diagonals, strict=True))
    each = np.asarray(squares / counts)
    return np.flatnonzero(each >= np.median(each))
