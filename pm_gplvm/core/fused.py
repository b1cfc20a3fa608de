"""The log-likelihood of a table and its gradient in one compiled pass, for small N.

The mathematics is that of :mod:`pm_gplvm.core.kernels` and :mod:`pm_gplvm.core.gaussian`, whose
profiles it takes; written out in loops it spares the dozens of NumPy calls and arrays of an evaluation,
which at N = 50 take longer than the arithmetic.

θ is an array (3 + Q,) here: amplitude, bias, sigma and what x·x' is multiplied by for each dimension of
Z, as a standard deviation; amplitude is 0 where there is no stationary part, and so v where there is no
linear one.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core import elementary
from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import column_patterns
from pm_gplvm.core.jit import compiled, fast
from pm_gplvm.core.kernels import KERNELS, Kernel
from pm_gplvm.core.lapack import factorise, invert

AMPLITUDE, BIAS, SIGMA, LINEAR = range(4)
"""Where they are in θ."""

STATIONARY = tuple(k for k in KERNELS.values() if k.scaled is not None and not k.linear)
"""The profiles, in the order of their number in compiled code."""


class Columns(NamedTuple):
    """A table as compiled code has it.

    The columns of a missingness pattern g stand together, shortened (:meth:`Patterns.shortened`), and 0
    where a row is not observed: F[:, first[g]:first[g + 1]] for counts[g] columns, of which the rows
    rows[g, :n_rows[g]] are observed. ``profile`` is the number of the stationary part, a function of
    ``unit`` · r², and -1 where there is none. ``constant`` is what the log-likelihood has beside its
    quadratic forms and determinants.
    """

    F: Array  # (N, M)
    seen: NDArray[np.bool_]  # (G, N)
    rows: NDArray[np.int64]  # (G, N)
    n_rows: NDArray[np.int64]  # (G,)
    first: NDArray[np.int64]  # (G + 1,)
    counts: NDArray[np.int64]  # (G,)
    complete: bool
    profile: int
    unit: float
    linear: bool
    constant: float

    @classmethod
    def of(cls, F: Array, kernel: str, log_scales: Array) -> "Columns":
        """Prepare a standardised table (N, D), NaN where missing, whose columns have these scales."""
        entry, seen = KERNELS[kernel], ~np.isnan(F)
        patterns = column_patterns(seen)
        short, shortened = patterns.shortened(F)
        order = np.array([np.flatnonzero(each) for each in patterns.seen], dtype=object)
        rows = np.zeros(patterns.seen.shape, dtype=np.int64)
        for own, found in zip(rows, order, strict=True):
            own[: len(found)] = found
        widths = np.bincount(shortened.group, minlength=len(patterns))
        constant = -0.5 * seen.sum() * np.log(2.0 * np.pi) - seen.sum(axis=0) @ log_scales
        return cls(
            np.ascontiguousarray(short),
            np.ascontiguousarray(patterns.seen),
            rows,
            patterns.seen.sum(axis=1).astype(np.int64),
            np.concatenate([[0], np.cumsum(widths)]).astype(np.int64),
            np.bincount(patterns.group, minlength=len(patterns)).astype(np.int64),
            bool(seen.all()),
            _number(entry),
            entry.unit,
            entry.linear,
            float(constant),
        )


def _number(entry: Kernel) -> int:
    return next((i for i, k in enumerate(STATIONARY) if k.scaled is entry.scaled), -1)


def _loop(kernel: Kernel) -> Any:
    """Compile amplitude² κ of each number of an array."""
    scaled: Any = kernel.scaled
    profile = compiled(scaled)

    @fast
    def loop(s, log_variance, value, slope):
        for i in range(s.size):
            value[i] = profile(s[i], log_variance, elementary)[0]

    return loop


def _loop_with_slope(kernel: Kernel) -> Any:
    """Compile amplitude² κ and amplitude² κ' of each number of an array."""
    scaled: Any = kernel.scaled
    profile, rate = compiled(scaled), kernel.rate

    if not kernel.has_slope:

        @fast
        def alone(s, log_variance, value, slope):
            for i in range(s.size):
                value[i] = profile(s[i], log_variance, elementary)[0]
                slope[i] = rate * value[i]

        return alone

    @fast
    def loop(s, log_variance, value, slope):
        for i in range(s.size):
            value[i], derivative = profile(s[i], log_variance, elementary)
            slope[i] = rate * derivative

    return loop


def _any_of(loops: list[Any]) -> Any:
    """Compile the choice of a loop by its number; another number makes 0."""

    @compiled
    def none(number, s, log_variance, value, slope):
        for i in range(value.size):
            value[i] = 0.0

    def or_else(i: int, loop: Any, others: Any) -> Any:
        @compiled
        def chosen(number, s, log_variance, value, slope):
            if number == i:
                loop(s, log_variance, value, slope)
            else:
                others(number, s, log_variance, value, slope)

        return chosen

    choice = none
    for i, loop in enumerate(loops):
        choice = or_else(i, loop, choice)
    return choice


_values = _any_of([_loop(kernel) for kernel in STATIONARY])
_slopes = _any_of([_loop_with_slope(kernel) for kernel in STATIONARY])


@compiled
def stationary(columns, theta, squares, out):
    """Write the stationary part of K at squared distances times the columns' unit, all (M, N)."""
    value = out.reshape(-1)
    log_variance = 2.0 * np.log(theta[AMPLITUDE])
    _values(columns.profile, squares.reshape(-1), log_variance, value, value)


@fast
def squared_distances(C, ZT, scale, out):
    """Write ``scale`` ‖c - z‖² of positions C (M, Q) and Z, transposed (Q, N), into (M, N)."""
    M, Q = C.shape
    N = ZT.shape[1]
    for i in range(M):
        own, c = out[i], C[i, 0]
        for j in range(N):
            apart = c - ZT[0, j]
            own[j] = scale * apart * apart
        for q in range(1, Q):
            c = C[i, q]
            for j in range(N):
                apart = c - ZT[q, j]
                own[j] += scale * apart * apart


@fast
def add_linear(C, ZT, theta, out):
    """Add the linear part and the bias of k(C, Z) to ``out`` (M, N)."""
    M, Q = C.shape
    N = ZT.shape[1]
    for i in range(M):
        own = out[i]
        for q in range(Q):
            c = C[i, q] * theta[LINEAR + q] ** 2
            for j in range(N):
                own[j] += c * ZT[q, j]
    if theta[BIAS] != 0.0:
        for i in range(M):
            for j in range(N):
                out[i, j] += theta[BIAS] ** 2


@compiled
def transposed(Z):
    """Copy Z (N, Q) as (Q, N)."""
    N, Q = Z.shape
    ZT = np.empty((Q, N))
    for n in range(N):
        for q in range(Q):
            ZT[q, n] = Z[n, q]
    return ZT


@fast
def noisy_covariance(columns, theta, Z, ZT, K):
    """Write K of the rows with its noise into (N, N)."""
    N = len(Z)
    squares = np.empty((N, N))
    squared_distances(Z, ZT, columns.unit, squares)
    stationary(columns, theta, squares, K)
    if columns.linear or theta[BIAS] != 0.0:
        add_linear(Z, ZT, theta, K)
    for i in range(N):
        K[i, i] += theta[SIGMA] ** 2


@compiled
def part_of(K, whole, rows, n):
    """Copy K of the first n of the rows into the memory ``whole``."""
    A = whole[: n * n].reshape(n, n)
    for i in range(n):
        for j in range(n):
            A[i, j] = K[rows[i], rows[j]]
    return A


@compiled
def log_likelihood(columns, theta, Z):
    """Log-likelihood at positions Z (N, Q) in lengthscales; NaN where K is not positive definite."""
    N = len(Z)
    K, whole = np.empty((N, N)), np.empty(N * N)
    sizes, triangle = np.zeros(2, np.int32), np.zeros(1, np.uint8)
    noisy_covariance(columns, theta, Z, transposed(Z), K)
    value = columns.constant
    for g in range(len(columns.counts)):
        n, rows = columns.n_rows[g], columns.rows[g]
        A = part_of(K, whole, rows, n)
        log_det = factorise(A, n, sizes, triangle)
        if np.isnan(log_det):
            return log_det
        value -= 0.5 * columns.counts[g] * log_det
        value -= 0.5 * _solved_square(A, n, rows, columns.F, columns.first[g], columns.first[g + 1])
    return value


@fast
def _solved_square(A, n, rows, F, start, end):
    """Sum of fᵀ(AᵀA)⁻¹f over columns of F, A the upper triangle."""
    M = end - start
    total, solved = 0.0, np.empty((n, M))
    for i in range(n):
        own = solved[i]
        for m in range(M):
            own[m] = F[rows[i], start + m]
        for j in range(i):
            c = A[j, i]
            for m in range(M):
                own[m] -= c * solved[j, m]
        c = 1.0 / A[i, i]
        for m in range(M):
            own[m] *= c
            total += own[m] * own[m]
    return total


@fast
def _slope_in_K(A, F, count, sizes, triangle):
    """∂L/∂K (n, n) of columns F (n, M) that stand for ``count``, and their part of L; A, K before, is K⁻¹ then."""
    n, M = F.shape
    value = -0.5 * count * invert(A, n, sizes, triangle)
    weights = np.dot(A, F)
    square = 0.0
    for i in range(n):
        for m in range(M):
            square += weights[i, m] * F[i, m]
    G = np.dot(weights, weights.T)
    for i in range(n):
        for j in range(n):
            G[i, j] = 0.5 * (G[i, j] - count * A[i, j])
    return G, value - 0.5 * square


@fast
def value_and_gradient(columns, theta, Z, by_theta, by_Z):
    """As :func:`log_likelihood`; its gradient is written into ``by_theta`` (3 + Q,) and ``by_Z`` (N, Q)."""
    N, Q = Z.shape
    ZT = transposed(Z)
    squares, signal, slope = np.empty((N, N)), np.empty((N, N)), np.empty((N, N))
    sizes, triangle = np.zeros(2, np.int32), np.zeros(1, np.uint8)
    alone = columns.profile < 0
    K = squares  # not needed once the profile is known
    squared_distances(Z, ZT, columns.unit, squares)
    log_variance = 2.0 * np.log(theta[AMPLITUDE])
    _slopes(
        columns.profile,
        squares.reshape(-1),
        log_variance,
        signal.reshape(-1),
        slope.reshape(-1),
    )
    for i in range(N):
        for j in range(N):
            K[i, j] = 0.0 if alone else signal[i, j]
        K[i, i] += theta[SIGMA] ** 2
    if columns.linear or theta[BIAS] != 0.0:
        add_linear(Z, ZT, theta, K)
    value = columns.constant
    if columns.complete:
        G, gain = _slope_in_K(K, columns.F, columns.counts[0], sizes, triangle)
        value += gain
    else:
        G, whole = np.zeros((N, N)), np.empty(N * N)
        for g in range(len(columns.counts)):
            n, rows = columns.n_rows[g], columns.rows[g]
            start, end = columns.first[g], columns.first[g + 1]
            F = np.empty((n, end - start))
            for i in range(n):
                for m in range(end - start):
                    F[i, m] = columns.F[rows[i], start + m]
            A = part_of(K, whole, rows, n)
            part, gain = _slope_in_K(A, F, columns.counts[g], sizes, triangle)
            value += gain
            for i in range(n):
                for j in range(n):
                    G[rows[i], rows[j]] += part[i, j]
    for q in range(Q):
        by_theta[LINEAR + q] = 0.0
        for i in range(N):
            by_Z[i, q] = 0.0
    overlap, total, trace = 0.0, 0.0, 0.0
    along = np.empty(N)
    for i in range(N):
        own = G[i]
        trace += own[i]
        if columns.linear or theta[BIAS] != 0.0:
            for j in range(N):
                total += own[j]
            for q in range(Q):
                product = 0.0
                for j in range(N):
                    product += own[j] * ZT[q, j]
                v = theta[LINEAR + q]
                by_Z[i, q] += 2.0 * v * v * product
                by_theta[LINEAR + q] += 2.0 * v * Z[i, q] * product
        if not alone:
            row = 0.0
            # A loop that sums and writes is summed in another order where arrays lie close to each other.
            for j in range(N):
                along[j] = own[j] * slope[i, j]
            for j in range(N):
                overlap += own[j] * signal[i, j]
            for j in range(N):
                row += along[j]
            for q in range(Q):
                product = 0.0
                for j in range(N):
                    product += along[j] * ZT[q, j]
                by_Z[i, q] += 4.0 * (row * Z[i, q] - product)
    by_theta[AMPLITUDE] = 0.0
    if not alone:
        by_theta[AMPLITUDE] = 2.0 * overlap / theta[AMPLITUDE]
    by_theta[BIAS] = 2.0 * theta[BIAS] * total
    by_theta[SIGMA] = 2.0 * theta[SIGMA] * trace
    return value
