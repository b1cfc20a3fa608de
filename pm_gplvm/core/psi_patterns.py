"""Psi statistics by missingness patterns: ψ₀ and ψ₂ summed over the rows of each, of one kernel.

As :mod:`pm_gplvm.core.psi`, but a pattern g of ``seen`` (G, N) has

    ψ₀_g = Σ_{n ∈ g} ⟨κ(xₙ, xₙ)⟩,    ψ₂_g = Σ_{n ∈ g} ⟨κ(wₘ, xₙ) κ(xₙ, wₘ')⟩ (M, M).

Each exponential is taken once, however many patterns a row is in: the terms of a block of rows are summed by a
product with ``seen``, and in the gradient each row has the sum of what its patterns ask of its term.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pm_gplvm.core.checks import Array
from pm_gplvm.core.psi import Quadrature, correlation, cubature

_BLOCK_SIZE = (
    2**18
)  # numbers in a block of rows, of which the gradient has three: they stay in the cache


class PatternStatistics(Protocol):
    """ψ₀ (G,), ψ₁ (N, M) and ψ₂ (G, M, M), and the way back of their gradient."""

    psi0: Array
    psi1: Array
    psi2: Array

    def pullback(self, d0: Array, d1: Array, d2: Array) -> tuple[Array, ...]:
        """Turn ∂L/∂ψ₀ of each row (N,), ∂L/∂ψ₁ and ∂L/∂ψ₂, symmetric, into ∂L/∂(U, S, W), and ρ of a sum."""


def pattern_statistics(
    kernel: str,
    U: Array,
    S: Array,
    W: Array,
    seen: Array,
    *,
    quadrature: Quadrature | None = None,
    ratio: Array | None = None,
) -> PatternStatistics:
    """Psi statistics by patterns ``seen`` (G, N), 0 or 1; else as :func:`pm_gplvm.core.psi.psi_statistics`."""
    if kernel == "linear":
        return _Linear(U, S, W, seen)
    if kernel == "rbf" and quadrature is None:
        return _RBF(U, S, W, seen)
    return _Nodes(kernel, U, S, W, seen, quadrature or cubature(U.shape[1]), ratio)


def _row_blocks(N: int, columns: int) -> list[slice]:
    step = max(_BLOCK_SIZE // columns, 16)
    return [slice(start, min(start + step, N)) for start in range(0, N, step)]


class _Linear:
    """κ(x, w) = x·w."""

    def __init__(self, U: Array, S: Array, W: Array, seen: Array) -> None:
        self.U, self.S, self.W, self.seen = U, S, W, seen
        Q = U.shape[1]
        outer = (U[:, :, None] * U[:, None] + S[:, :, None] ** 2 * np.eye(Q)).reshape(len(U), -1)
        self.second = (seen @ outer).reshape(-1, Q, Q)
        self.psi0 = np.einsum("gqq->g", self.second)
        self.psi1 = U @ W.T
        self.psi2 = W @ self.second @ W.T

    def pullback(self, d0: Array, d1: Array, d2: Array) -> tuple[Array, ...]:
        N, Q = self.U.shape
        of_row = (self.seen.T @ (self.W.T @ d2 @ self.W).reshape(-1, Q * Q)).reshape(N, Q, Q)
        of_row += d0[:, None, None] * np.eye(Q)
        dU = d1 @ self.W + 2.0 * np.einsum("np,npq->nq", self.U, of_row)
        dW = d1.T @ self.U + 2.0 * (d2 @ self.W @ self.second).sum(axis=0)
        return dU, 2.0 * self.S * np.einsum("nqq->nq", of_row), dW


class _Nodes:
    """A kernel with a stationary part by quadrature, with nodes ε: x = u + s ε."""

    def __init__(
        self,
        kernel: str,
        U: Array,
        S: Array,
        W: Array,
        seen: Array,
        quadrature: Quadrature,
        ratio: Array | None,
    ) -> None:
        self.kernel, self.U, self.S, self.W, self.seen = kernel, U, S, W, seen
        self.quadrature, self.ratio = quadrature, ratio
        (N, M), own = (len(U), len(W)), np.ones(len(U))
        self.psi1, second = np.empty((N, M)), np.zeros((len(seen), M * M))
        weights = quadrature[1]
        for rows, X, value, _ in self._each():
            if ratio is not None:
                own[rows] += ((ratio * X) ** 2).sum(axis=2) @ weights
            weighted = weights[:, None] * value
            self.psi1[rows] = weighted.sum(axis=1)
            second += seen[:, rows] @ (weighted.mT @ value).reshape(-1, M * M)
        self.psi0 = seen @ own
        self.psi2 = second.reshape(-1, M, M)

    def _each(self) -> Iterator[tuple[slice, Array, Array, Array]]:
        """Blocks of n rows at all I nodes: rows, x (n, I, Q), κ(x, w) and its slope (n, I, M)."""
        nodes, M = self.quadrature[0], len(self.W)
        for rows in _row_blocks(len(self.U), M * max(M, len(nodes))):
            X = self.U[rows, None] + self.S[rows, None] * nodes
            flat = X.reshape(-1, X.shape[2])
            value, slope = correlation(self.kernel, flat, self.W, np, self.ratio)
            yield rows, X, value.reshape(*X.shape[:2], M), slope.reshape(*X.shape[:2], M)

    def pullback(self, d0: Array, d1: Array, d2: Array) -> tuple[Array, ...]:
        dU, dS, dW = (np.zeros_like(v) for v in (self.U, self.S, self.W))
        dratio, W, ratio = np.zeros(self.U.shape[1]), self.W, self.ratio
        (nodes, weights), (M, Q) = self.quadrature, W.shape
        for rows, X, value, slope in self._each():
            asked = (self.seen[:, rows].T @ d2.reshape(-1, M * M)).reshape(-1, M, M)
            by_value = weights[:, None] * (d1[rows, None] + 2.0 * value @ asked)
            G = 2.0 * slope * by_value
            dX = G.sum(axis=2)[:, :, None] * X - G @ W
            flat, X_flat = G.reshape(-1, M), X.reshape(-1, Q)
            dW += flat.sum(axis=0)[:, None] * W - flat.T @ X_flat
            if ratio is not None:
                inner = by_value @ W
                own = 2.0 * weights[:, None] * d0[rows, None, None] * X
                dX += ratio**2 * (inner + own)
                dW += ratio**2 * (by_value.reshape(-1, M).T @ X_flat)
                dratio += ratio * ((2.0 * inner + own) * X).sum(axis=(0, 1))
            dU[rows] = dX.sum(axis=1)
            dS[rows] = (dX * nodes).sum(axis=1)
        return (dU, dS, dW) if ratio is None else (dU, dS, dW, dratio)


class _RBF:
    """κ(x, w) = exp(-½ ‖x - w‖²); both expectations are Gaussians in a centre p, as in core/psi.py."""

    def __init__(self, U: Array, S: Array, W: Array, seen: Array) -> None:
        middle = W.mean(axis=0)  # squares of large numbers lose digits
        self.U, self.S, self.W, self.seen = U - middle, S, W - middle, seen
        M = len(W)
        self.first, self.second = np.tril_indices(M)
        gap = self.W[self.first] - self.W[self.second]
        self.near = np.exp(-0.25 * (gap**2).sum(axis=1))
        self.psi0 = seen.sum(axis=1)
        self.one = _Gaussians(self.U, S, self.W, 1)
        self.two = _Gaussians(self.U, S, 0.5 * (self.W[self.first] + self.W[self.second]), 2)
        self.psi1 = self.one.values(slice(None))
        self.blocks = _row_blocks(len(U), len(self.near))
        sums = np.zeros((len(seen), len(self.near)))
        for rows in self.blocks:
            sums += seen[:, rows] @ self.two.values(rows)
        self.psi2 = np.empty((len(seen), M, M))
        self.psi2[:, self.first, self.second] = sums * self.near
        self.psi2[:, self.second, self.first] = sums * self.near

    def pullback(self, d0: Array, d1: Array, d2: Array) -> tuple[Array, ...]:
        one, two, M = self.one, self.two, len(self.W)
        H = d1 * self.psi1
        dU, dS = one.back(H @ one.columns.T, slice(None))
        dW = one.back_to_centres(H.T @ one.weights)

        twice = np.where(self.first == self.second, 1.0, 2.0)
        asked = d2[:, self.first, self.second] * (twice * self.near)
        sums = np.zeros((len(self.near), two.weights.shape[1]))
        for rows in self.blocks:
            H = self.seen[:, rows].T @ asked
            H *= two.values(rows)
            own = two.back(H @ two.columns.T, rows)
            dU[rows] += own[0]
            dS[rows] += own[1]
            sums += H.T @ two.weights[rows]
        halves = 0.5 * two.back_to_centres(sums)
        for pairs in (self.first, self.second):
            dW += np.stack([np.bincount(pairs, half, M) for half in halves.T], axis=1)
        spring = np.zeros((M, M))
        spring[self.first, self.second] = 0.5 * sums[:, 0]
        spring += spring.T
        return dU, dS, dW + spring @ self.W - spring.sum(axis=1)[:, None] * self.W


class _Gaussians:
    """exp(½ Σ ln d - (c/2) Σ d (u - p)²) of rows u and centres p, d = 1 / (1 + c s²): exp(rows @ columns).

    In the gradient values are summed with ``columns``, (1, p, p²), and ``weights``, (1, d u, d).
    """

    def __init__(self, U: Array, S: Array, P: Array, c: int) -> None:
        self.U, self.S, self.P, self.c = U, S, P, c
        self.d = 1.0 / (1.0 + c * S**2)
        du, one = self.d * U, np.ones((len(U), 1))
        constant = 0.5 * (np.log(self.d) - c * du * U).sum(axis=1, keepdims=True)
        self.rows = np.hstack([constant, c * du, -0.5 * c * self.d])
        self.weights = np.hstack([one, du, self.d])
        self.columns = np.vstack([np.ones(len(P)), P.T, P.T**2])

    def values(self, rows: slice) -> Array:
        exponent = self.rows[rows] @ self.columns
        return np.exp(exponent, out=exponent)

    def back(self, sums: Array, rows: slice) -> tuple[Array, Array]:
        """∂L/∂(U, S) from Σ_p g ψ (1, p, p²), shape (n, 2 Q + 1)."""
        c, d, U, Q = self.c, self.d[rows], self.U[rows], self.U.shape[1]
        total, first, second = sums[:, :1], sums[:, 1 : Q + 1], sums[:, Q + 1 :]
        reach = total * U - first
        spread = U * (reach - first) + second  # Σ g ψ (u - p)²
        return -c * d * reach, c * self.S[rows] * d * (c * d * spread - total)

    def back_to_centres(self, sums: Array) -> Array:
        """∂L/∂P from Σₙ g ψ (1, d u, d), shape (P, 2 Q + 1)."""
        Q = self.P.shape[1]
        return self.c * (sums[:, 1 : Q + 1] - self.P * sums[:, Q + 1 :])
