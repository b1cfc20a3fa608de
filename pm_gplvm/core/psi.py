"""Expectations of a kernel under q(X) = ∏ N(uₙ, diag sₙ²): the psi statistics.

    ψ₀ = Σₙ ⟨κ(xₙ, xₙ)⟩,    ψ₁ = ⟨κ(xₙ, wₘ)⟩ (N, M),    ψ₂ = Σₙ ⟨κ(wₘ, xₙ) κ(xₙ, wₘ')⟩ (M, M)

(Titsias & Lawrence 2010, section 3.2) of a kernel of amplitude 1, all positions in units of the
lengthscale. Amplitude and bias come on top in :mod:`pm_gplvm.core.inducing`. A kernel with a linear
part beside another has the term (ρ ∘ x)·(ρ ∘ w), ρ (Q,) = weight · lengthscale / amplitude.

For the RBF kernel both are Gaussians, written out in :mod:`pm_gplvm.core.psi_loops`.
:func:`symbolic_statistics` is the same by whole arrays, for PyTensor.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import KERNELS, cross_and_rate
from pm_gplvm.core.psi_loops import ROWS, rbf_gradient, rbf_values

Quadrature = tuple[Array, Array]  # nodes (I, Q) and weights (I,) for expectations under N(0, I)

_BLOCK_SIZE = 40 * 2**10  # numbers in a block of rows: a third of a megabyte stays in the cache
_KEPT_SIZE = 2**22  # exponentials kept for the gradient, 32 MB; those of further rows are redone

CLOSED_FORM = ("rbf", "linear")
"""Kernels whose statistics need no quadrature."""


@lru_cache(maxsize=8)
def cubature(Q: int) -> Quadrature:
    """64 nodes at equal distances in one dimension, 256 points of a Sobol sequence in more.

    A rule for narrow q alone (Gauss-Hermite, unscented points) would have fewer nodes, and no bound where q is as wide as
    the prior and the lengthscale short: ψ₁ of the Matérn kernels was off by 0.06 of 1 there. The rule does not depend on
    q, as the bound would jump where it changes.

    Measured for the Matérn and the Cauchy kernel, the error of an entry of ψ₁ or ψ₂ (amplitude 1), standard
    deviations s of q in units of the lengthscale: below 0.0005 for s = 0.1; for s up to 2 below 0.001 in one
    dimension, 0.006 in two, 0.01 in more.
    """
    if Q > 1:
        return quasi_monte_carlo(Q, 128, seed=0)
    nodes = np.linspace(-5.5, 5.5, 64)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    nodes /= np.sqrt(weights @ nodes**2)
    return nodes[:, None], weights


ONE_NODE: Quadrature = (np.zeros((1, 1)), np.ones(1))
"""The quadrature of a point, whose one node is the mean in any number of dimensions."""


def quasi_monte_carlo(Q: int, half: int = 512, seed: int = 1) -> Quadrature:
    """Points of a scrambled Sobol sequence and their mirror, with the moments of N(0, I) up to the third."""
    from scipy.stats.qmc import MultivariateNormalQMC

    points = MultivariateNormalQMC(np.zeros(Q), rng=seed).random(half)
    points = np.linalg.solve(np.linalg.cholesky(points.T @ points / half), points.T).T
    return np.concatenate([points, -points]), np.full(2 * half, 0.5 / half)


class Statistics(Protocol):
    """The psi statistics of one kernel, and the way back of their gradient."""

    psi0: float
    psi1: Array
    psi2: Array

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, ...]:
        """Turn ∂L/∂(ψ₀, ψ₁, ψ₂), the last symmetric, into ∂L/∂(U, S, W), and ρ of a sum."""

    def second_moments(self) -> Iterator[tuple[slice, Array]]:
        """Blocks of rows, and the terms ⟨κ(wₘ, xₙ) κ(xₙ, wₘ')⟩ (n, M, M) of ψ₂."""


def psi_statistics(
    kernel: str,
    U: Array,
    S: Array,
    W: Array,
    *,
    quadrature: Quadrature | None = None,
    workspace: Array | None = None,
    ratio: Array | None = None,
) -> Statistics:
    """Psi statistics of means U and standard deviations S (N, Q) and inducing inputs W (M, Q).

    In closed form for the RBF and the linear kernel, unless a quadrature is given; by
    :func:`cubature` for the others. The workspace has the shape :func:`workspace_shape`, ``ratio`` is
    the ρ of a sum.
    """
    if kernel == "linear":
        return _Linear(U, S, W)
    if kernel == "rbf" and quadrature is None:
        return _RBF(U, S, W, workspace)
    return _Nodes(kernel, U, S, W, quadrature or cubature(U.shape[1]), ratio)


class SymbolicStatistics(NamedTuple):
    """ψ₀, ψ₁ and ψ₂ as expressions."""

    psi0: Any
    psi1: Any
    psi2: Any


def symbolic_statistics(
    kernel: str,
    U: Any,
    S: Any,
    W: Any,
    *,
    quadrature: Quadrature | None,
    ratio: Any = None,
    xp: Any,
) -> Any:
    """Write down :func:`psi_statistics` in a namespace xp, by N × M × M numbers under the RBF kernel.

    The quadrature must be given where there is no closed form.
    """
    if kernel == "linear":
        return _Linear(U, S, W, xp)
    if quadrature is not None:
        nodes, weights = quadrature[0], quadrature[1][:, None, None]
        X = U + S * nodes[:, None, :]
        values = correlation(kernel, X, W, xp, ratio)[0]  # (I, N, M)
        psi2 = (weights * values.mT @ values).sum(axis=0)
        psi0: Any = U.shape[0]
        if ratio is not None:
            psi0 = psi0 + (weights * (ratio * X) ** 2).sum()
        return SymbolicStatistics(psi0, (weights * values).sum(axis=0), psi2)
    centre = W.mean(axis=0)
    U, W = U - centre, W - centre

    def exponent(c: int) -> tuple[Any, Any]:
        """Return d, and the exponent's terms in one inducing input, (N, M)."""
        d = 1.0 / (1.0 + c * S**2)
        constant = 0.5 * (xp.log(d) - c * d * U**2).sum(axis=1)
        return d, constant[:, None] / c + (d * U) @ W.T - 0.5 / c * d @ (W**2).T

    _, one = exponent(1)
    d, two = exponent(2)
    gaps = ((W[:, None] - W) ** 2).sum(axis=2)
    both = two[:, :, None] + two[:, None, :] - 0.5 * (d[:, None, :] * W) @ W.T
    return SymbolicStatistics(U.shape[0], xp.exp(one), xp.exp(both - 0.25 * gaps).sum(axis=0))


def workspace_shape(N: int, M: int) -> tuple[int, int]:
    """Shape of the memory that the RBF kernel's statistics work in: the terms of ψ₂ of whole blocks of rows."""
    pairs = M * (M + 1) // 2
    return pairs * min(-(-N // ROWS), _KEPT_SIZE // (pairs * ROWS)), ROWS


def correlation(kernel: str, A: Any, B: Any, xp: Any = np, ratio: Any = None) -> tuple[Any, Any]:
    """κ(A, B) and its derivative in the squared distance, or 1 for the inner product.

    Symbolically A may have leading axes.
    """
    if xp is np:
        value, rate = cross_and_rate(kernel, A, B, weight=1.0 if ratio is None else ratio)
        return value, np.ones_like(value) if rate is None else rate
    if KERNELS[kernel].scaled is None:
        return A @ B.T, 1.0
    linear = 0.0 if ratio is None else (ratio**2 * A) @ B.T
    centre = B.mean(axis=0)
    A, B = A - centre, B - centre
    r2 = (A**2).sum(axis=-1)[..., None] + (B**2).sum(axis=-1) - 2.0 * A @ B.T
    value, rate = KERNELS[kernel].profile(xp.maximum(r2, 0.0), xp)
    return value + linear, rate


def own_variance(kernel: str, X: Any, ratio: Any = None) -> Any:
    """κ(x, x) of positions (N, Q), shape (N,), or 1 where it is that everywhere."""
    if KERNELS[kernel].scaled is None:
        return (X**2).sum(axis=1)
    return 1.0 if ratio is None else 1.0 + ((ratio * X) ** 2).sum(axis=1)


class _Linear:
    """κ(x, w) = x·w."""

    def __init__(self, U: Any, S: Any, W: Any, xp: Any = np) -> None:
        self.U, self.S, self.W = U, S, W
        self.second = U.T @ U + xp.diag((S**2).sum(axis=0))
        self.psi0 = xp.trace(self.second)
        self.psi1 = U @ W.T
        self.psi2 = W @ self.second @ W.T

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
        G = self.W.T @ d2 @ self.W + d0 * np.eye(self.U.shape[1])
        dU = d1 @ self.W + 2.0 * self.U @ G
        dW = d1.T @ self.U + 2.0 * d2 @ self.W @ self.second
        return dU, 2.0 * self.S * np.diagonal(G), dW

    def second_moments(self) -> Iterator[tuple[slice, Array]]:
        for start, end in _row_blocks(len(self.U), len(self.W) ** 2):
            rows = slice(start, end)
            spread = (self.W * self.S[rows, None] ** 2) @ self.W.T
            yield rows, self.psi1[rows, :, None] * self.psi1[rows, None] + spread


class _Nodes:
    """A kernel with a stationary part by quadrature, with nodes ε: x = u + s ε."""

    def __init__(
        self,
        kernel: str,
        U: Array,
        S: Array,
        W: Array,
        quadrature: Quadrature,
        ratio: Array | None = None,
    ) -> None:
        self.kernel, self.U, self.S, self.W = kernel, U, S, W
        self.quadrature, self.ratio = quadrature, ratio
        N, M = len(U), len(W)
        self.psi0, self.psi1, self.psi2 = float(N), np.zeros((N, M)), np.zeros((M, M))
        for rows, _, weight, X, value, _ in self._each():
            if ratio is not None:
                self.psi0 += weight * float(((ratio * X) ** 2).sum())
            self.psi1[rows] += weight * value
            self.psi2 += weight * value.T @ value

    def _each(self) -> Iterator[tuple[slice, Array, float, Array, Array, Array]]:
        """Blocks of rows at one node each: rows, node, weight, x, κ(x, w) and its slope."""
        for start, end in _row_blocks(len(self.U), len(self.W)):
            rows = slice(start, end)
            for node, weight in zip(*self.quadrature, strict=True):
                X = self.U[rows] + self.S[rows] * node
                yield rows, node, weight, X, *correlation(self.kernel, X, self.W, np, self.ratio)

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, ...]:
        dU, dS, dW = (np.zeros_like(v) for v in (self.U, self.S, self.W))
        dratio, W, ratio = np.zeros(self.U.shape[1]), self.W, self.ratio
        for rows, node, weight, X, value, slope in self._each():
            by_value = weight * (d1[rows] + 2.0 * value @ d2)
            G = 2.0 * slope * by_value
            dX = G.sum(axis=1)[:, None] * X - G @ W
            dW += G.sum(axis=0)[:, None] * W - G.T @ X
            if ratio is not None:
                inner, own = by_value @ W, 2.0 * weight * d0 * X
                dX += ratio**2 * (inner + own)
                dW += ratio**2 * (by_value.T @ X)
                dratio += ratio * ((2.0 * inner + own) * X).sum(axis=0)
            dU[rows] += dX
            dS[rows] += dX * node
        return (dU, dS, dW) if ratio is None else (dU, dS, dW, dratio)

    def second_moments(self) -> Iterator[tuple[slice, Array]]:
        for start, end in _row_blocks(len(self.U), len(self.W) ** 2):
            rows, total = slice(start, end), 0.0
            for node, weight in zip(*self.quadrature, strict=True):
                X = self.U[rows] + self.S[rows] * node
                value = correlation(self.kernel, X, self.W, np, self.ratio)[0]
                total = total + weight * value[:, :, None] * value[:, None]
            yield rows, np.asarray(total)


class _RBF:
    """κ(x, w) = exp(-½ ‖x - w‖²)."""

    def __init__(self, U: Array, S: Array, W: Array, workspace: Array | None) -> None:
        centre = W.mean(axis=0)  # squares of large numbers lose digits
        # Of one kind in memory: the loops are compiled for it alone.
        U, S, W = (np.array(v, np.float64, order="C") for v in (U - centre, S, W - centre))
        N, M = len(U), len(W)
        first, second = self.pairs = np.tril_indices(M)
        gap, self.products = W[first] - W[second], -0.5 * W[first] * W[second]
        self.near = np.exp(-0.25 * np.einsum("pq,pq->p", gap, gap))
        space = np.empty(workspace_shape(N, M)) if workspace is None else workspace
        self.kept = space.reshape(-1, len(first), ROWS)
        self.psi0, self.psi1, self.psi2 = float(N), np.empty((N, M)), np.empty((M, M))
        self.W = W
        one, two = (np.hstack([np.ones((M, 1)), W, -0.5 / c * W**2]) for c in (1, 2))
        self.places = U, S, one, two, self.products
        self.sums = rbf_values(*self.places, self.kept, self.psi1)
        self.psi2[first, second] = self.psi2[second, first] = self.near * self.sums[:, 0]

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
        first, second = self.pairs
        weights = np.where(first == second, 1.0, 2.0) * d2[first, second] * self.near
        dU, dS, dW = rbf_gradient(
            *self.places,
            self.kept,
            self.psi1,
            self.sums,
            np.array(d1, np.float64, order="C"),
            weights,
            weights[:, None] * self.products,
        )
        spring = d2 * self.psi2
        return dU, dS, dW + spring @ self.W - spring.sum(axis=1)[:, None] * self.W

    def second_moments(self) -> Iterator[tuple[slice, Array]]:
        (U, S, *inducing), (first, second) = self.places, self.pairs
        kept = np.empty((1, len(first), ROWS))
        for start in range(0, len(U), ROWS):
            rows = slice(start, min(start + ROWS, len(U)))
            own = np.empty((rows.stop - start, *self.psi2.shape))
            rbf_values(U[rows], S[rows], *inducing, kept, np.empty((len(own), len(self.W))))
            values = (kept[0].T * self.near)[: len(own)]
            own[:, first, second] = own[:, second, first] = values
            yield rows, own


def _row_blocks(N: int, columns: int) -> list[tuple[int, int]]:
    step = max(_BLOCK_SIZE // columns, 16)
    return [(start, min(start + step, N)) for start in range(0, N, step)]
