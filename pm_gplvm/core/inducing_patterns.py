"""The collapsed bound, FITC and q(u) where entries are missing: by patterns of columns with the same rows seen.

The columns of a pattern g depend on the rows observed in them alone. Their bound is that of
:mod:`pm_gplvm.core.inducing` with the statistics Ψ₀, Ψ₁ᵀF and Ψ₂ summed over these rows, and the bound of the
table is the sum over the patterns. K = LLᵀ is factorised once, B_g once a pattern: M³.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError

from pm_gplvm.core.checks import Array, warn
from pm_gplvm.core.gaussian import Indices, Patterns
from pm_gplvm.core.inducing import InducingKernel, InducingPosterior, inverse_factor
from pm_gplvm.core.kernels import KERNELS
from pm_gplvm.core.psi import Quadrature
from pm_gplvm.core.psi_patterns import pattern_statistics

_SHARES = {"points": 0.25, "q": 0.08}  # of a complete evaluation, that a pattern of all rows adds
_DEAR = 10.0  # times an evaluation of a complete table


def warn_of_inducing_cost(patterns: Patterns, *, points: bool) -> None:
    """Warn where an evaluation takes more than ten times that of a complete table."""
    rows = float(patterns.seen.sum()) / patterns.seen.shape[1]
    times = 1.0 + _SHARES["points" if points else "q"] * rows
    if times > _DEAR:
        warn(
            f"Y has {len(patterns)} patterns of missing entries among its {len(patterns.group)} columns: with "
            f"inducing inputs an evaluation takes about {times:.0f} times that of a complete table. Fewer "
            "patterns cost less: drop rows or columns of which little was seen."
        )


def by_patterns(
    kernel: str,
    positions: tuple[Array, Array, Array],
    theta: Mapping[str, Any],
    patterns: Patterns,
    **settings: Any,
) -> InducingKernel:
    """:meth:`InducingKernel.of`, by patterns where there are several."""
    if len(patterns) == 1:
        return InducingKernel.of(kernel, positions, theta, **settings)
    return PatternKernel.of(kernel, positions, theta, patterns=patterns, **settings)


class PatternKernel(InducingKernel):
    """As :class:`InducingKernel`, Ψ₀ (G,) and Ψ₂ (G, M, M) by pattern. In NumPy alone."""

    def __init__(
        self,
        kernel: str,
        positions: tuple[Array, Array, Array],
        amplitude: float,
        bias: float,
        *,
        patterns: Patterns,
        **settings: Any,
    ) -> None:
        self.patterns, self.seen = patterns, patterns.seen.astype(np.float64)
        super().__init__(kernel, positions, amplitude, bias, **settings)

    def _statistics(self, quadrature: Quadrature | None, workspace: Array | None) -> Any:
        return pattern_statistics(
            self.kernel, *self.positions, self.seen, quadrature=quadrature, ratio=self.ratio
        )

    def _sum_up(self, a2: float, b2: float) -> None:
        self.counts = self.seen.sum(axis=1)
        self.column_sums = self.seen @ self.own.psi1
        self.psi0 = a2 * self.own.psi0 + b2 * self.counts
        outer = self.column_sums[:, :, None] + self.column_sums[:, None]
        self.psi2 = a2**2 * self.own.psi2 + a2 * b2 * outer
        self.psi2 += b2**2 * self.counts[:, None, None]

    def posteriors(self, F: Array, sigma: float) -> Iterator[tuple[Indices, InducingPosterior]]:
        """Columns of each pattern, and the posterior of u given its rows; F (N, D) is 0 where nothing was seen."""
        P = self.amplitude**2 * (self.own.psi1.T @ F) + self.bias**2 * F.sum(axis=0)
        half, _ = inverse_factor(self.K, np)
        alpha = half @ P
        for g, psi2 in enumerate(self.psi2):
            columns = np.flatnonzero(self.patterns.group == g)
            A = 1.0 / sigma**2 * half @ psi2 @ half.T
            yield columns, InducingPosterior(half, A, alpha[:, columns], self.psi0[g], sigma)

    def bounds_and_gradient(
        self, F: Array, sigma: float, widths: tuple[int, ...]
    ) -> tuple[float, tuple[Any, ...]]:
        """As :meth:`InducingKernel.bound_and_gradient`; the columns of F of pattern g stand for ``widths[g]``."""
        M = len(self.K)
        value, dsigma, dK = 0.0, 0.0, np.zeros((M, M))
        dpsi0, dpsi2, dP = (
            np.empty(len(self.seen)),
            np.empty_like(self.psi2),
            np.empty((M, F.shape[1])),
        )
        try:
            for g, (columns, found) in enumerate(self.posteriors(F, sigma)):
                size = float((F[:, columns] ** 2).sum()), self.counts[g], widths[g]
                value += found.bound(*size)
                own_dK, dpsi0[g], dP[:, columns], dpsi2[g], own_dsigma = found.pullback(*size)
                dK += own_dK
                dsigma += own_dsigma
        except LinAlgError:
            return self.failed()
        *gradient, along = self.pullback_by_pattern(F, dK, dpsi0, dP, dpsi2)
        return value, (*gradient, dsigma, *along)

    def pullback_by_pattern(
        self, F: Array, dK: Array, dpsi0: Array, dP: Array, dpsi2: Array
    ) -> tuple[Array, Array, Array, float, float, tuple[Array, ...]]:
        """As :meth:`InducingKernel.pullback`, with ∂L/∂Ψ₀ (G,) and ∂L/∂Ψ₂ (G, M, M)."""
        a2, b2, own, n = self.amplitude**2, self.bias**2, self.own, self.counts
        d1 = F @ (a2 * dP).T
        rows = dpsi2.sum(axis=2)
        crossed = 2.0 * float((rows * self.column_sums).sum())
        da2 = float((dK * self.correlation).sum() + dpsi0 @ own.psi0 + (d1 * own.psi1).sum() / a2)
        da2 += 2.0 * a2 * float((dpsi2 * own.psi2).sum()) + b2 * crossed
        db2 = float(dK.sum() + n @ dpsi0 + (dP @ F.sum(axis=0)).sum()) + a2 * crossed
        db2 += 2.0 * b2 * float(n @ rows.sum(axis=1))
        if b2:
            d1 += 2.0 * a2 * b2 * self.seen.T @ rows
        moved = own.pullback(a2 * (self.seen.T @ dpsi0), d1, a2**2 * dpsi2)
        return self.pulled_back(dK, moved, da2, db2)


def points_and_gradient(
    whole: InducingKernel,
    F: Array,
    sigma: float,
    patterns: Patterns,
    widths: tuple[int, ...],
    *,
    own_noise: bool,
) -> tuple[float, tuple[Any, ...]]:
    """As :meth:`PatternKernel.bounds_and_gradient` of positions that are known; with ``own_noise`` FITC.

    What u leaves of a row's variance is the same in all patterns, and so is the noise of the row.
    """
    U, own_variance = whole.positions[0], whole.own_variance
    a2 = whole.amplitude**2
    prior = a2 * own_variance + whole.bias**2
    count = patterns.seen.T @ np.array(widths, dtype=np.float64)  # observed entries of each row
    try:
        half, _ = inverse_factor(whole.K, np)
        V = whole.psi1 @ half.T
        left = prior - (V**2).sum(axis=1)
        noise = (left if own_noise else 0.0) + np.full(len(U), sigma**2)
        P = (V / noise[:, None]).T @ F
        squares, solved = (F**2).sum(axis=1), np.empty_like(P)
        value = -0.5 * float(count @ np.log(2.0 * np.pi * noise) + (squares / noise).sum())
        dV, dnoise = np.zeros_like(V), 0.5 * (squares / noise - count) / noise
        for width, (rows, columns) in zip(widths, patterns, strict=True):
            own, by = V[rows], noise[rows]
            scaled = own / by[:, None]
            found = InducingPosterior(half, scaled.T @ own, P[:, columns], 0.0, 1.0)
            solved[:, columns] = found.gamma
            value -= 0.5 * (width * found.log_det - float((found.alpha * found.gamma).sum()))
            asked = scaled @ (-0.5 * (width * found.inverse + found.gamma @ found.gamma.T))
            dV[rows] += 2.0 * asked
            dnoise[rows] -= np.einsum("nm,nm->n", scaled, asked)
    except LinAlgError:
        return whole.failed()
    along_F = (F @ solved.T) / noise[:, None]
    dnoise -= (V * along_F).sum(axis=1) / noise
    dleft = dnoise
    if not own_noise:
        value -= 0.5 * float((count * left / noise).sum())
        dnoise += 0.5 * count * left / noise**2
        dleft = -0.5 * count / noise
    dV += along_F - 2.0 * V * dleft[:, None]
    crossed = dV.T @ V
    dK = -0.25 * half.T @ (crossed + crossed.T) @ half
    d1 = dV @ half
    da2 = float((dK * whole.correlation).sum() + (d1 * whole.own.psi1).sum() + dleft @ own_variance)
    db2 = float(dK.sum() + d1.sum() + dleft.sum())
    dU, *others = whole.own.pullback(0.0, a2 * d1, np.zeros_like(whole.K))
    if KERNELS[whole.kernel].linear:  # κ(x, x) is not the same everywhere
        unit = 1.0 if whole.ratio is None else whole.ratio
        dU = dU + 2.0 * a2 * unit**2 * dleft[:, None] * U
        if whole.ratio is not None:
            others[2] = others[2] + 2.0 * a2 * whole.ratio * (dleft @ U**2)
    *gradient, along = whole.pulled_back(dK, (dU, *others), da2, db2)
    return value, (*gradient, 2.0 * sigma * float(dnoise.sum()), *along)
