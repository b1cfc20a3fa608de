"""The updates of :mod:`pm_gplvm.core.row_moves` at one state, compiled."""

from typing import NamedTuple

import numpy as np

from pm_gplvm.core import elementary
from pm_gplvm.core.checks import Array
from pm_gplvm.core.fused import (
    AMPLITUDE,
    BIAS,
    LINEAR,
    SIGMA,
    Columns,
    add_linear,
    noisy_covariance,
    part_of,
    squared_distances,
    stationary,
)
from pm_gplvm.core.jit import compiled, fast
from pm_gplvm.core.lapack import call, invert

WIDTH = 0.3
"""Standard deviation, in lengthscales, of a proposal beside another row."""

WIDE = 0.5
"""Share of the wide component, and of a choice that ignores Y, in the proposal."""

TINY = 1e-300
"""Density of a proposal below which it is that of the wide component, in logarithms."""


class Rows(NamedTuple):
    """The rows of a table at one state, and what is known of them.

    Z (N, Q) is in lengthscales; in the state, from ``latent`` on, it stands times ``units`` (Q,). A
    (G, N, N) holds K_g⁻¹, 0 where a row is not seen or was removed, and W (N, M) K_g⁻¹F_g. ``prior`` is
    the address of ln p(z) of many proposals, ``beside`` (N, N) that of :class:`Proposal`.
    """

    columns: Columns
    theta: Array
    beta: float
    state: Array
    latent: int
    units: Array
    prior: int
    beside: Array
    Z: Array
    ZT: Array
    present: Array
    A: Array
    W: Array


class Work(NamedTuple):
    """Memory for M proposals of a row, the mean and spread of the wide component among it."""

    C: Array  # (M, Q)
    given: Array  # (M, Q)
    squares: Array  # (M, N)
    cross: Array  # (M, N)
    means: Array  # (M, columns)
    S: Array  # (G, M, N)
    variance: Array  # (G, M)
    log_weights: Array  # (M,)
    log_prior: Array  # (M,)
    near: Array  # (N,)
    centre: Array  # (Q,)
    spread: Array  # (Q,)


@compiled
def memory(rows, M):
    """Allocate the memory for M proposals."""
    (N, Q), G = rows.Z.shape, len(rows.A)
    return Work(
        np.empty((M, Q)),
        np.empty((M, Q)),
        np.empty((M, N)),
        np.empty((M, N)),
        np.empty((M, rows.W.shape[1])),
        np.empty((G, M, N)),
        np.empty((G, M)),
        np.empty(M),
        np.empty(M),
        np.empty(N),
        np.empty(Q),
        np.empty(Q),
    )


@fast
def factorised(rows):
    """Compute A and W; whether every K_g is positive definite."""
    columns, N = rows.columns, len(rows.Z)
    K, whole = np.empty((N, N)), np.empty(N * N)
    sizes, triangle = np.zeros(2, np.int32), np.zeros(1, np.uint8)
    noisy_covariance(columns, rows.theta, rows.Z, rows.ZT, K)
    for g in range(len(columns.counts)):
        n, seen = columns.n_rows[g], columns.rows[g]
        part = part_of(K, whole, seen, n)
        if np.isnan(invert(part, n, sizes, triangle)):
            return False
        own = rows.A[g]
        for i in range(N):
            for j in range(N):
                own[i, j] = 0.0
            for m in range(columns.first[g], columns.first[g + 1]):
                rows.W[i, m] = 0.0
        for i in range(n):
            for j in range(n):
                own[seen[i], seen[j]] = part[i, j]
                for m in range(columns.first[g], columns.first[g + 1]):
                    rows.W[seen[i], m] += part[i, j] * columns.F[seen[j], m]
    return True


@fast
def remove(rows, n):
    """Turn A and W into those of the other rows, in place."""
    columns, N = rows.columns, len(rows.Z)
    rows.present[n] = 0.0
    a, w = np.empty(N), np.empty(rows.W.shape[1])
    for g in range(len(columns.counts)):
        if not columns.seen[g, n]:
            continue
        own, start, end = rows.A[g], columns.first[g], columns.first[g + 1]
        scale = 1.0 / own[n, n]
        for i in range(N):
            a[i] = own[n, i]
        for m in range(start, end):
            w[m] = rows.W[n, m]
        for i in range(N):
            c = a[i] * scale
            for j in range(N):
                own[i, j] -= c * a[j]
            for m in range(start, end):
                rows.W[i, m] -= c * w[m]
        for i in range(N):
            own[n, i] = 0.0
            own[i, n] = 0.0
        for m in range(start, end):
            rows.W[n, m] = 0.0


@fast
def insert(rows, n, work, chosen):
    """Insert row n at a proposal that :func:`weigh` has looked at, in place."""
    columns, (N, Q) = rows.columns, rows.Z.shape
    for q in range(Q):
        rows.Z[n, q] = rows.ZT[q, n] = work.C[chosen, q]
        rows.state[rows.latent + n * Q + q] = rows.Z[n, q] * rows.units[q]
    rows.present[n] = 1.0
    product, u = np.empty(rows.W.shape[1]), np.empty(N)
    for g in range(len(columns.counts)):
        if not columns.seen[g, n]:
            continue
        own, start, end = rows.A[g], columns.first[g], columns.first[g + 1]
        scale = 1.0 / work.variance[g, chosen]
        for m in range(start, end):
            product[m] = 0.0
        for i in range(N):
            u[i] = -1.0 if i == n else work.S[g, chosen, i]
            for m in range(start, end):
                product[m] += u[i] * columns.F[i, m]
        for i in range(N):
            c = u[i] * scale
            for j in range(N):
                own[i, j] += c * u[j]
            for m in range(start, end):
                rows.W[i, m] += c * product[m]


@compiled
def _index(rng, sums):
    """Draw an index with probabilities of which the cumulative sums are given."""
    level, low, high = rng.random() * sums[-1], 0, len(sums) - 1
    while low < high:
        middle = (low + high) // 2
        if sums[middle] > level:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def propose(rows, n, work, rng):
    """Draw the proposals of a removed row."""
    N, Q = rows.Z.shape
    total = 0.0
    for j in range(N):
        total += rows.present[j]
    for q in range(Q):
        mean, square = 0.0, 0.0
        for j in range(N):
            mean += rows.present[j] * rows.Z[j, q]
        mean /= total
        for j in range(N):
            square += rows.present[j] * (rows.Z[j, q] - mean) ** 2
        work.centre[q], work.spread[q] = mean, np.sqrt(2.0 * square / total + 0.25)
    so_far = 0.0
    for j in range(N):
        so_far += rows.beside[n, j] * rows.present[j]
        work.near[j] = so_far
    for m in range(len(work.C)):
        if rng.random() < WIDE:
            for q in range(Q):
                work.C[m, q] = work.centre[q] + work.spread[q] * rng.standard_normal()
        else:
            j = _index(rng, work.near)
            for q in range(Q):
                work.C[m, q] = rows.Z[j, q] + WIDTH * rng.standard_normal()


@fast
def _log_proposal(rows, n, work, unit):
    """Write minus the log-density of the proposals, up to a constant; ``squares`` are squared distances times a unit."""
    M, N = work.squares.shape
    total, scale = 0.0, 0.5 / (unit * WIDTH**2)
    for j in range(N):
        work.near[j] = rows.beside[n, j] * rows.present[j]
        total += work.near[j]
    Q = rows.Z.shape[1]
    share = (1.0 - WIDE) / (total * WIDTH**Q)
    for m in range(M):
        density, square, wide = 0.0, 0.0, WIDE
        for j in range(N):
            density += elementary.exp(-scale * work.squares[m, j]) * work.near[j]
        for q in range(Q):
            square += ((work.C[m, q] - work.centre[q]) / work.spread[q]) ** 2
            wide /= work.spread[q]
        density = density * share + wide * elementary.exp(-0.5 * square)
        # Far from all other rows both underflow; the wide component falls more slowly.
        work.log_weights[m] = 0.5 * square - np.log(wide) if density < TINY else -np.log(density)


@fast
def _add_log_likelihood(rows, n, work):
    """Add β ln p(yₙ at each proposal, given the other rows), up to a constant; keep S and the variances."""
    columns, theta = rows.columns, rows.theta
    M, N = work.cross.shape
    Q, noise = rows.Z.shape[1], theta[SIGMA] ** 2
    np.dot(work.cross, rows.W, work.means)
    for g in range(len(columns.counts)):
        if not columns.seen[g, n]:
            continue
        np.dot(work.cross, rows.A[g], work.S[g])
        for m in range(M):
            prior, known, square = theta[AMPLITUDE] ** 2 + theta[BIAS] ** 2 + noise, 0.0, 0.0
            if columns.linear:
                for q in range(Q):
                    prior += (theta[LINEAR + q] * work.C[m, q]) ** 2
            for j in range(N):
                known += work.S[g, m, j] * work.cross[m, j]
            v = max(prior - known, noise)  # at least the noise, which rounding may hide
            for i in range(columns.first[g], columns.first[g + 1]):
                square += (columns.F[n, i] - work.means[m, i]) ** 2
            work.variance[g, m] = v
            work.log_weights[m] -= 0.5 * rows.beta * (square / v + columns.counts[g] * np.log(v))


@compiled
def weigh(rows, n, work):
    """Compute the log-weights of the proposals of a removed row; NaN becomes -inf."""
    (M, N), (_, Q) = work.cross.shape, rows.Z.shape
    unit = rows.columns.unit
    squared_distances(work.C, rows.ZT, unit, work.squares)
    _log_proposal(rows, n, work, unit)
    stationary(rows.columns, rows.theta, work.squares, work.cross)
    if rows.columns.linear or rows.theta[BIAS] != 0.0:
        add_linear(work.C, rows.ZT, rows.theta, work.cross)
    for m in range(M):
        for j in range(N):
            work.cross[m, j] *= rows.present[j]
        for q in range(Q):
            work.given[m, q] = work.C[m, q]
    _add_log_likelihood(rows, n, work)
    call(rows.prior, rows.state, work.given, n, M, work.log_prior)
    for m in range(M):
        weight = work.log_weights[m] + work.log_prior[m]
        work.log_weights[m] = -np.inf if np.isnan(weight) else weight


@compiled
def choose(work, rng):
    """Choose a proposal with probabilities proportional to the weights, 0 if all are 0; and ln of their sum."""
    top = -np.inf
    for each in work.log_weights:
        top = max(top, each)
    if not np.isfinite(top):
        return 0, -np.inf
    total = 0.0
    for m in range(len(work.log_weights)):
        total += np.exp(work.log_weights[m] - top)
        work.log_prior[m] = total
    return _index(rng, work.log_prior), top + np.log(total)


@compiled
def sweep(rows, order, n_proposals, rng):
    """Update rows one after the other, in place: how many of them moved."""
    work, moved = memory(rows, n_proposals + 1), 0
    for n in order:
        remove(rows, n)
        propose(rows, n, work, rng)
        for q in range(rows.Z.shape[1]):
            work.C[0, q] = rows.Z[n, q]
        weigh(rows, n, work)
        chosen, _ = choose(work, rng)
        moved += chosen > 0
        insert(rows, n, work, chosen)
    return moved


@compiled
def _log_sum(log_weights, first):
    """Compute ln of the sum of the weights from ``first`` on."""
    top, total = -np.inf, 0.0
    for m in range(first, len(log_weights)):
        top = max(top, log_weights[m])
    if not np.isfinite(top):
        return top
    for m in range(first, len(log_weights)):
        total += np.exp(log_weights[m] - top)
    return top + np.log(total)


@compiled
def row_scores(rows, n_proposals, rng, scores):
    """Write ln p(yₙ given the other rows) of every row (N,), its position averaged over its prior."""
    work, columns = memory(rows, n_proposals + 1), rows.columns
    for n in range(len(rows.Z)):
        remove(rows, n)
        propose(rows, n, work, rng)
        for q in range(rows.Z.shape[1]):  # it comes back to where it was, which is no proposal
            work.C[0, q] = rows.Z[n, q]
        weigh(rows, n, work)
        scores[n] = _log_sum(work.log_weights, 1)
        _log_proposal(rows, n, work, columns.unit)
        for m in range(len(work.log_weights)):
            work.log_weights[m] += work.log_prior[m]
        scores[n] -= _log_sum(work.log_weights, 1)
        for g in range(len(columns.counts)):
            if columns.seen[g, n]:
                scores[n] -= 0.5 * columns.counts[g] * np.log(2.0 * np.pi)
        insert(rows, n, work, 0)


@compiled
def _copied(rows, source):
    """Make the rows what they are in another copy."""
    for target, new in ((rows.Z, source.Z), (rows.ZT, source.ZT), (rows.W, source.W)):
        for i in range(target.shape[0]):
            for j in range(target.shape[1]):
                target[i, j] = new[i, j]
    for g in range(len(rows.A)):
        for i in range(rows.A.shape[1]):
            for j in range(rows.A.shape[2]):
                rows.A[g, i, j] = source.A[g, i, j]
    for i in range(len(rows.state)):
        rows.state[i] = source.state[i]
    for i in range(len(rows.present)):
        rows.present[i] = source.present[i]


@compiled
def _copy(rows):
    """Copy what updates change."""
    return Rows(
        rows.columns,
        rows.theta,
        rows.beta,
        rows.state.copy(),
        rows.latent,
        rows.units,
        rows.prior,
        rows.beside,
        rows.Z.copy(),
        rows.ZT.copy(),
        rows.present.copy(),
        rows.A.copy(),
        rows.W.copy(),
    )


@compiled
def _grow(rows, block, kept, keep, work, rng):
    """Insert removed rows at chosen proposals, or where they were: the log mean weights' sum, up to a constant."""
    total = 0.0
    for n in block:
        if n < 0:
            continue
        propose(rows, n, work, rng)
        if keep:
            for q in range(kept.shape[1]):
                work.C[0, q] = kept[n, q]
        weigh(rows, n, work)
        chosen, sum_of_weights = choose(work, rng)
        total += sum_of_weights
        insert(rows, n, work, 0 if keep else chosen)
    return total


@compiled
def block_updates(rows, blocks, n_proposals, rng):
    """Remove blocks of rows and insert each again as one move; how many moves were accepted.

    ``blocks`` (B, most) has -1 where a block has fewer rows. The prior must treat the rows apart.
    """
    accepted = 0
    if len(blocks) == 0:
        return accepted
    work, there, back = memory(rows, n_proposals), _copy(rows), _copy(rows)
    for block in blocks:
        _copied(back, rows)
        for n in block:
            if n >= 0:
                remove(back, n)
        _copied(there, back)
        change, sides = 0.0, (1.0, -1.0)
        for sign in sides:
            forth = sign > 0.0
            change += sign * _grow(there if forth else back, block, rows.Z, not forth, work, rng)
        if np.isfinite(change) and np.log(rng.random()) < change:
            _copied(rows, there)
            accepted += 1
    return accepted
