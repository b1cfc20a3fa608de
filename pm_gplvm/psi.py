"""Expectations of a kernel under q(X) = ∏ N(uₙ, diag sₙ²): the psi statistics.

    ψ₀ = Σₙ ⟨κ(xₙ, xₙ)⟩,    ψ₁ = ⟨κ(xₙ, wₘ)⟩ (N, M),    ψ₂ = Σₙ ⟨κ(wₘ, xₙ) κ(xₙ, wₘ')⟩ (M, M)

(Titsias & Lawrence 2010, section 3.2) of a kernel of amplitude 1, all positions in units of the
lengthscale. Amplitude and bias come on top in :mod:`pm_gplvm.bound`.

For the RBF kernel both are Gaussians. With d = 1 / (1 + c s²) and a place p, which is w for c = 1
and (w + w') / 2 for c = 2,

    ψ₁ₙ or ψ₂ₙ = exp(½ Σ ln d - (c/2) Σ d (u - p)²),    ψ₂ₙ also times exp(-¼ ‖w - w'‖²),

sums over the latent dimensions. The exponent is linear in (1, p, p²) for each row: a matrix product.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
from scipy.linalg import blas
from scipy.sparse import csr_array

from pm_gplvm.checks import Array
from pm_gplvm.kernels import cross_and_rate
from pm_gplvm.rules import Rule, cubature

__all__ = [
    "CLOSED_FORM",
    "Statistics",
    "correlation",
    "kept_shape",
    "psi_statistics",
]

_BLOCK_SIZE = 40 * 2**10  # numbers in a block of rows: a third of a megabyte stays in the cache
_KEPT_SIZE = 2**22  # exponentials kept for the gradient, 32 MB; those of further rows are redone

CLOSED_FORM = ("rbf", "linear")
"""Kernels whose statistics need no rule of nodes."""


class Statistics(Protocol):
    """The psi statistics of one kernel, and the way back of their gradient."""

    psi0: float
    psi1: Array
    psi2: Array

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
        """Turn ∂L/∂(ψ₀, ψ₁, ψ₂), the last symmetric, into ∂L/∂(U, S, W)."""


def psi_statistics(
    kernel: str,
    U: Array,
    S: Array,
    W: Array,
    *,
    rule: Rule | None = None,
    kept: Array | None = None,
) -> Statistics:
    """Compute the psi statistics of a kernel of the table.

    In closed form for the RBF and the linear kernel, by :func:`pm_gplvm.rules.cubature` for the others, unless a
    rule is given.

    Parameters
    ----------
    kernel : str
    U, S : ndarray, shape (N, Q)
        Means and standard deviations of q, in units of the lengthscale.
    W : ndarray, shape (M, Q)
        Inducing inputs, in the same units.
    rule : (nodes, weights), optional
        For expectations under N(0, I), as :func:`pm_gplvm.rules.cubature` gives it.
    kept : ndarray, optional
        Memory of :func:`kept_shape` to work in.

    Returns
    -------
    Statistics

    Examples
    --------
    >>> import numpy as np
    >>> q = np.zeros((3, 1)), np.ones((3, 1))
    >>> psi_statistics("rbf", *q, np.zeros((2, 1))).psi1[0].round(4).tolist()
    [0.7071, 0.7071]
    """
    if kernel == "linear":
        return _Linear(U, S, W)
    if kernel == "rbf" and rule is None:
        return _RBF(U, S, W, kept)
    return _Nodes(kernel, U, S, W, rule or cubature(U.shape[1]))


def kept_shape(N: int, M: int) -> tuple[int, int]:
    """Shape of the memory that the RBF kernel's statistics work in."""
    pairs = M * (M + 1) // 2
    return min(N, _KEPT_SIZE // pairs), pairs


def correlation(kernel: str, A: Array, B: Array) -> tuple[Array, Array]:
    """κ(A, B) and its derivative in the squared distance, or 1 for the inner product."""
    value, rate = cross_and_rate(kernel, A, B)
    return value, np.ones_like(value) if rate is None else rate


class _Linear:
    """κ(x, w) = x·w."""

    def __init__(self, U: Array, S: Array, W: Array) -> None:
        self.U, self.S, self.W = U, S, W
        self.second = U.T @ U + np.diag((S**2).sum(axis=0))
        self.psi0 = float(np.trace(self.second))
        self.psi1 = U @ W.T
        self.psi2 = W @ self.second @ W.T

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
        G = self.W.T @ d2 @ self.W + d0 * np.eye(self.U.shape[1])
        dU = d1 @ self.W + 2.0 * self.U @ G
        dW = d1.T @ self.U + 2.0 * d2 @ self.W @ self.second
        return dU, 2.0 * self.S * np.diagonal(G), dW


class _Nodes:
    """A stationary kernel by a rule of nodes ε: x = u + s ε."""

    def __init__(self, kernel: str, U: Array, S: Array, W: Array, rule: Rule) -> None:
        self.kernel, self.U, self.S, self.W, self.rule = kernel, U, S, W, rule
        N, M = len(U), len(W)
        self.psi0 = float(N)
        self.psi1, self.psi2 = np.zeros((N, M)), np.zeros((M, M))
        for rows, _, weight, _, value, _ in self._each():
            self.psi1[rows] += weight * value
            self.psi2 += weight * value.T @ value

    def _each(self) -> Iterator[tuple[slice, Array, float, Array, Array, Array]]:
        """Blocks of rows at one node each: rows, node, weight, x, κ(x, w) and its slope."""
        for start, end in _row_blocks(len(self.U), len(self.W)):
            rows = slice(start, end)
            for node, weight in zip(*self.rule, strict=True):
                X = self.U[rows] + self.S[rows] * node
                yield rows, node, weight, X, *correlation(self.kernel, X, self.W)

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
        dU, dS, dW = (np.zeros_like(v) for v in (self.U, self.S, self.W))
        for rows, node, weight, X, value, slope in self._each():
            G = 2.0 * weight * slope * (d1[rows] + 2.0 * value @ d2)
            dX = G.sum(axis=1)[:, None] * X - G @ self.W
            dU[rows] += dX
            dS[rows] += dX * node
            dW += G.sum(axis=0)[:, None] * self.W - G.T @ X
        return dU, dS, dW


class _RBF:
    """κ(x, w) = exp(-½ ‖x - w‖²)."""

    def __init__(self, U: Array, S: Array, W: Array, kept: Array | None) -> None:
        centre = W.mean(axis=0)  # squares of large numbers lose digits
        self.U, self.S, self.W = U - centre, S, W - centre
        N, M = len(U), len(W)
        self.psi0 = float(N)
        self.one = _Bumps(self.U, S, self.W, 1)
        self.psi1 = np.exp(self.one.rows @ self.one.columns)

        first, second = np.tril_indices(M)
        self.pairs = first, second
        gap = self.W[first] - self.W[second]
        self.near = np.exp(-0.25 * np.einsum("pq,pq->p", gap, gap))
        self.two = _Bumps(self.U, S, 0.5 * (self.W[first] + self.W[second]), 2)
        self.blocks = _row_blocks(N, len(first))
        self.kept = np.empty(kept_shape(N, M)) if kept is None else kept
        self.scratch = np.empty((self.blocks[0][1], len(first)))
        # Σₙ ψ₂ₙ (1, d u, d): the value, and all that the gradient in W needs.
        self.sums = np.zeros((len(self.two.columns), len(first)))
        for start, end in self.blocks:
            block, weights = self._fill(start, end), self.two.weights[start:end]
            blas.dgemm(1.0, block.T, weights.T, 1.0, self.sums.T, trans_b=1, overwrite_c=1)
        self.psi2 = np.empty((M, M))
        self.psi2[first, second] = self.psi2[second, first] = self.near * self.sums[0]

    def _block(self, start: int, end: int) -> Array:
        return self.kept[start:end] if end <= len(self.kept) else self.scratch[: end - start]

    def _fill(self, start: int, end: int) -> Array:
        block = np.dot(self.two.rows[start:end], self.two.columns, out=self._block(start, end))
        return np.exp(block, out=block)

    def pullback(self, d0: float, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
        H = d1 * self.psi1
        dU, dS = self.one.back(H @ self.one.columns.T)
        dW = self.one.back_to_places(H.T @ self.one.weights)

        first, second = self.pairs
        G = np.where(first == second, 1.0, 2.0) * d2[first, second] * self.near
        weighted = np.ascontiguousarray((G * self.two.columns).T)
        sums = np.empty((len(self.U), weighted.shape[1]))
        for start, end in self.blocks:
            kept = end <= len(self.kept)
            block = self._block(start, end) if kept else self._fill(start, end)
            np.dot(block, weighted, out=sums[start:end])
        dU2, dS2 = self.two.back(sums)
        dmiddle = self.two.back_to_places((G * self.sums).T)
        dW += 0.5 * _incidence(len(self.W)) @ dmiddle
        spring = d2 * self.psi2
        dW += spring @ self.W - spring.sum(axis=1)[:, None] * self.W
        return dU + dU2, dS + dS2, dW


class _Bumps:
    """exp(½ Σ ln d - (c/2) Σ d (u - p)²) for all rows and places, d = 1 / (1 + c s²).

    ``rows`` @ ``columns`` is the exponent. ``columns`` are (1, p, p²) and ``weights`` (1, d u, d):
    what the bumps must be summed with for the gradient.
    """

    def __init__(self, U: Array, S: Array, P: Array, c: int) -> None:
        N, Q = U.shape
        self.U, self.S, self.P, self.c = U, S, P, c
        self.d = 1.0 / (1.0 + c * S**2)
        self.weights = np.ones((N, 2 * Q + 1))
        du = np.multiply(self.d, U, out=self.weights[:, 1 : Q + 1])
        self.weights[:, Q + 1 :] = self.d
        self.rows = np.empty((N, 2 * Q + 1))
        self.rows[:, 0] = 0.5 * (np.log(np.prod(self.d, axis=1)) - c * np.einsum("nq,nq->n", du, U))
        self.rows[:, 1 : Q + 1] = c * du
        self.rows[:, Q + 1 :] = -0.5 * c * self.d
        self.columns = np.ones((2 * Q + 1, len(P)))
        self.columns[1 : Q + 1] = P.T
        self.columns[Q + 1 :] = P.T**2

    def back(self, sums: Array) -> tuple[Array, Array]:
        """∂L/∂(U, S) from Σ_p g ψ (1, p, p²), shape (N, 2 Q + 1)."""
        Q, c, d, U = self.U.shape[1], self.c, self.d, self.U
        total, first, second = sums[:, :1], sums[:, 1 : Q + 1], sums[:, Q + 1 :]
        reach = total * U - first
        spread = U * (reach - first) + second  # Σ g ψ (u - p)²
        return -c * d * reach, c * self.S * d * (c * d * spread - total)

    def back_to_places(self, sums: Array) -> Array:
        """∂L/∂P from Σₙ g ψ (1, d u, d), shape (P, 2 Q + 1)."""
        Q = self.U.shape[1]
        return self.c * (sums[:, 1 : Q + 1] - self.P * sums[:, Q + 1 :])


def _row_blocks(N: int, columns: int) -> list[tuple[int, int]]:
    step = max(_BLOCK_SIZE // columns, 16)
    return [(start, min(start + step, N)) for start in range(0, N, step)]


@lru_cache(maxsize=4)
def _incidence(M: int) -> csr_array:
    """Which pair of the lower triangle holds which inducing input: (M, pairs)."""
    first, second = np.tril_indices(M)
    pairs = np.arange(len(first))
    rows, columns = np.concatenate([first, second]), np.concatenate([pairs, pairs])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(M, len(pairs)))
