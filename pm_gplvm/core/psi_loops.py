"""Psi statistics of the RBF kernel and their gradient, in compiled loops.

With d = 1 / (1 + c s²) and a centre p, which is w for c = 1 and (w + w') / 2 for c = 2,

    ψ₁ₙ or ψ₂ₙ = exp(½ Σ ln d - (c/2) Σ d (u - p)²),    ψ₂ₙ also times exp(-¼ ‖w - w'‖²),

sums over the latent dimensions. With the terms t of a row and an inducing input

    t = (½ Σ ln d - (c/2) Σ d u²) / c + Σ d u w - Σ d w² / (2 c)

the exponents are t for c = 1 and t + t' - ½ Σ d w w' for c = 2. Pairs (m, k ≤ m) of inducing inputs have the place
m (m + 1) / 2 + k.

``ROWS`` rows stand side by side, in arrays (inducing inputs or pairs, ROWS): every inner loop is as long as a
block, past the last row the weights are 0. Products go through BLAS: exponents, sums and gradient take Q
multiplications for each term of ψ₂. No sum is taken in a loop that writes, which would be
summed in another order where arrays lie close to each other.
"""

import math

import numpy as np

from pm_gplvm.core.elementary import exp
from pm_gplvm.core.jit import compiled, fast, stored

ROWS = 64
_TILE = 512  # pairs that are worked on at once: a quarter of a megabyte stays in the cache


@compiled
def _read(U, S, start, c, factors):
    """Write the factors of t of a block of rows, 0 past the last one, into (2 Q + 1, ROWS)."""
    N, Q = U.shape
    for i in range(ROWS):
        n = start + i
        if n >= N:
            for f in range(2 * Q + 1):
                factors[f, i] = 0.0
            continue
        product, square = 1.0, 0.0
        for q in range(Q):
            u, d = U[n, q], 1.0 / (1.0 + c * S[n, q] * S[n, q])
            product *= d
            square += d * u * u
            factors[1 + q, i] = d * u
            factors[1 + Q + q, i] = d
        factors[0, i] = 0.5 / c * math.log(product) - 0.5 * square


@fast
def _raise(row):
    for i in range(row.size):
        row[i] = exp(row[i])


@fast
def _raise_pair(terms, m, k, block, p):
    for i in range(ROWS):
        block[p, i] = exp(block[p, i] + terms[m, i] + terms[k, i])


@compiled
def _fill(terms, d, products, first, end, block):
    """Write ψ₂ₙ of the pairs of the inducing inputs ``first`` to ``end`` into (pairs, ROWS)."""
    at, p = first * (first + 1) // 2, 0
    np.dot(products[at : at + len(block)], d, block)
    for m in range(first, end):
        for k in range(m + 1):
            _raise_pair(terms, m, k, block, p)
            p += 1


@compiled
def _tile_end(first, M):
    """Tell where the tile ends that begins at an inducing input."""
    end = first + 1
    while end < M and (end + 1) * (end + 2) // 2 - first * (first + 1) // 2 <= _TILE:
        end += 1
    return end


@fast
def _add(part, whole):
    for i in range(part.size):
        whole[i] += part[i]


@stored
def rbf_values(U, S, one, two, products, kept, psi1):
    """Write ψ₁ (N, M), and return Σₙ ψ₂ₙ (1, d) of each pair but for exp(-¼ ‖w - w'‖²), (pairs, Q + 1).

    Beside means and standard deviations stand (1, w, -w² / (2 c)) for c = 1 and 2, (M, 2 Q + 1), and -½ w w' of the pairs.
    ψ₂ₙ of the first blocks of rows fill ``kept`` (blocks, pairs, ROWS).
    """
    (N, Q), M = U.shape, len(one)
    factors, terms, seen = np.empty((2 * Q + 1, ROWS)), np.empty((M, ROWS)), np.empty((ROWS, Q + 1))
    scratch, part = np.empty((max(_TILE, M), ROWS)), np.empty((max(_TILE, M), Q + 1))
    sums = np.zeros((len(products), Q + 1))
    for b in range((N + ROWS - 1) // ROWS):
        start, size = b * ROWS, min(ROWS, N - b * ROWS)
        _read(U, S, start, 1, factors)
        np.dot(one, factors, terms)
        _raise(terms.reshape(-1))
        for i in range(size):
            for m in range(M):
                psi1[start + i, m] = terms[m, i]
        _read(U, S, start, 2, factors)
        np.dot(two, factors, terms)
        for i in range(ROWS):
            seen[i, 0] = 1.0 if i < size else 0.0
            for q in range(Q):
                seen[i, 1 + q] = factors[1 + Q + q, i]
        first = 0
        while first < M:
            end = _tile_end(first, M)
            at, to = first * (first + 1) // 2, end * (end + 1) // 2
            block = kept[b, at:to] if b < len(kept) else scratch[: to - at]
            _fill(terms, factors[1 + Q :], products, first, end, block)
            np.dot(block, seen, part[: to - at])
            _add(part[: to - at].reshape(-1), sums[at:to].reshape(-1))
            first = end
    return sums


@fast
def _add_pair(weight, block, p, reached, m):
    for i in range(ROWS):
        reached[m, i] += weight * block[p, i]


@compiled
def _back(U, S, start, c, sums, dU, dS):
    """Add to ∂L/∂(U, S) of a block, from Σ g ψ (1, p, p²) over the centres, (2 Q + 1, ROWS)."""
    N, Q = U.shape
    for i in range(min(ROWS, N - start)):
        n, total = start + i, sums[0, i]
        for q in range(Q):
            u, s = U[n, q], S[n, q]
            d = 1.0 / (1.0 + c * s * s)
            reach = total * u - sums[1 + q, i]
            spread = u * (reach - sums[1 + q, i]) + sums[1 + Q + q, i]  # Σ g ψ (u - p)²
            dU[n, q] -= c * d * reach
            dS[n, q] += c * s * d * (c * d * spread - total)


@compiled
def _clear(x):
    for i in range(x.size):
        x[i] = 0.0


@fast
def _scale(x, factor):
    for i in range(x.size):
        x[i] *= factor


@compiled
def _pull(reached, factors, part, out):
    """Add Σₙ g ψ (d u, d) of each inducing input to (M, 2 Q)."""
    np.dot(reached, factors[1:].T, part)
    _add(part.reshape(-1), out.reshape(-1))


@stored
def rbf_gradient(U, S, one, two, products, kept, psi1, sums, by_psi1, weights, weighted):
    """Differentiate Σ by_psi1 ψ₁ + Σ weights ψ₂ₙ in U, S and W, but for exp(-¼ ‖w - w'‖²).

    The first arguments are those of :func:`rbf_values`, ``sums`` what it returns. The weights are those of the
    pairs, ``weighted`` their products with -½ w w'.
    """
    (N, Q), M = U.shape, len(one)
    dU, dS, dW = np.zeros((N, Q)), np.zeros((N, Q)), np.zeros((M, Q))
    factors, terms = np.empty((2 * Q + 1, ROWS)), np.empty((M, ROWS))
    reached, part, crossed = np.empty((M, ROWS)), np.empty((Q, ROWS)), np.empty((Q, ROWS))
    scratch, summed = np.empty((max(_TILE, M), ROWS)), np.empty((2 * Q + 1, ROWS))
    pulled, of_one, of_two = np.empty((M, 2 * Q)), np.zeros((M, 2 * Q)), np.zeros((M, 2 * Q))
    for b in range((N + ROWS - 1) // ROWS):
        start = b * ROWS
        _read(U, S, start, 1, factors)
        _clear(reached.reshape(-1))
        for i in range(min(ROWS, N - start)):
            for m in range(M):
                reached[m, i] = by_psi1[start + i, m] * psi1[start + i, m]
        np.dot(one.T, reached, summed)
        _scale(summed[1 + Q :].reshape(-1), -2.0)
        _back(U, S, start, 1, summed, dU, dS)
        _pull(reached, factors, pulled, of_one)

        _read(U, S, start, 2, factors)
        if b >= len(kept):
            np.dot(two, factors, terms)
        _clear(reached.reshape(-1))
        _clear(crossed.reshape(-1))
        first = 0
        while first < M:
            end = _tile_end(first, M)
            at, to = first * (first + 1) // 2, end * (end + 1) // 2
            block = kept[b, at:to] if b < len(kept) else scratch[: to - at]
            if b >= len(kept):
                _fill(terms, factors[1 + Q :], products, first, end, block)
            np.dot(weighted[at:to].T, block, part)
            _add(part.reshape(-1), crossed.reshape(-1))
            p = 0
            for m in range(first, end):
                for k in range(m + 1):
                    _add_pair(weights[at + p], block, p, reached, m)
                    _add_pair(weights[at + p], block, p, reached, k)
                    p += 1
            first = end
        # p = (w + w') / 2 and p² = (w² + w'²) / 4 + w w' / 2, each pair in two rows of ``reached``
        np.dot(two.T, reached, summed)
        _scale(summed[: 1 + Q].reshape(-1), 0.5)
        _add(crossed.reshape(-1), summed[1 + Q :].reshape(-1))
        _scale(summed[1 + Q :].reshape(-1), -1.0)
        _back(U, S, start, 2, summed, dU, dS)
        _pull(reached, factors, pulled, of_two)
    p = 0
    for m in range(M):
        for q in range(Q):
            w = one[m, 1 + q]
            dW[m, q] += of_one[m, q] - w * of_one[m, Q + q] + of_two[m, q]
        for k in range(m + 1):
            for q in range(Q):
                pull = 0.5 * weights[p] * sums[p, 1 + q] * (one[m, 1 + q] + one[k, 1 + q])
                dW[m, q] -= pull
                dW[k, q] -= pull
            p += 1
    return dU, dS, dW
