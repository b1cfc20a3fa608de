"""Gaussian columns that share a covariance: densities, gradients and conditionals, in NumPy.

With F = (Y - mu) / scale, one row of Y a row of F,

    L = -½ D N ln 2π - ½ D ln|K| - ½ tr(K⁻¹ F Fᵀ)    (Lawrence 2005, JMLR 6, section 3),
    ∂L/∂K = ½ (K⁻¹ F Fᵀ K⁻¹ - D K⁻¹),

the second line being twice smaller than his printed eq. (10): the ½ is missing there.

Where entries are missing, columns that have the same rows observed share K_oo, a part of K, and its
factorisation. Both lines then hold for each pattern g of D_g columns and are added up, the second
at the rows it has: Σ_g n_g³ operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, cho_factor, cho_solve, lapack, qr, solve_triangular

from pm_gplvm.core.blas import Product, Runs
from pm_gplvm.core.checks import Array, warn
from pm_gplvm.core.kernels import (
    beside,
    counted_theta,
    cross_and_rate,
    cross_covariance,
    cross_pullback,
    cross_slope,
    prior_slope_variance,
    prior_variance,
    row_blocks,
    unit_of,
)
from pm_gplvm.core.triangles import invert_upper

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

_MANY = 10  # missingness patterns above which a fit is slow enough for a warning


@dataclass(frozen=True, eq=False)
class Patterns:
    """Missingness patterns: which rows are observed in which columns.

    ``seen`` (G, N) has one row a pattern: the rows of the table that are observed in its columns.
    ``group`` (D,) is the pattern of each column.
    """

    seen: Mask
    group: Indices

    def __len__(self) -> int:
        return len(self.seen)

    def __iter__(self) -> Iterator[tuple[Indices, Indices]]:
        """Go through the patterns: the rows observed, and the columns."""
        for g, rows in enumerate(self.seen):
            yield np.flatnonzero(rows), np.flatnonzero(self.group == g)

    def shortened(self, F: Array) -> tuple[Array, "Patterns"]:
        """Shorten the columns of each pattern (:func:`gram_factor`), 0 where nothing was seen.

        Gives a table (N, M) that has the same density, and the patterns of its columns.
        """
        factors, group = [], []
        for g, (rows, _, block) in enumerate(self.blocks(F)):
            short = gram_factor(block)
            factors.append(np.zeros((len(F), short.shape[1])))
            factors[-1][rows] = short
            group += [g] * short.shape[1]
        return np.concatenate(factors, axis=1), Patterns(self.seen, np.array(group))

    def blocks(self, F: Array) -> Iterator[tuple[Indices, Indices, Array]]:
        """Split a table (N, D) into complete blocks: rows, columns, and the entries there."""
        for rows, columns in self:
            yield (
                rows,
                columns,
                F if len(self) == 1 and self.seen.all() else F[np.ix_(rows, columns)],
            )


def column_patterns(seen: Mask) -> Patterns:
    """Group columns that have the same rows observed: one pattern where nothing is missing.

    ``seen`` (N, D) is without an empty row or column.

    >>> seen = np.array([[True, False, True], [True, True, True]])
    >>> [(rows.tolist(), columns.tolist()) for rows, columns in column_patterns(seen)]
    [([1], [1]), ([0, 1], [0, 2])]
    """
    if seen.all():
        return Patterns(np.ones((1, len(seen)), dtype=bool), np.zeros(seen.shape[1], dtype=np.intp))
    patterns, group = np.unique(seen.T, axis=0, return_inverse=True)
    return Patterns(patterns, group.ravel().astype(np.intp))


def single_columns(seen: Mask) -> Patterns:
    """Give each column a pattern of its own, also where others have the same rows observed."""
    return Patterns(np.ascontiguousarray(seen.T), np.arange(seen.shape[1]))


def relative_cost(patterns: Patterns) -> float:
    """Arithmetic of an evaluation over that of a complete table.

    >>> relative_cost(column_patterns(np.array([[True, False], [True, True]])))
    1.125
    """
    counts = patterns.seen.sum(axis=1, dtype=np.float64)
    return float((counts**3).sum()) / patterns.seen.shape[1] ** 3


def warn_of_cost(patterns: Patterns) -> None:
    """Warn of more than 10 patterns, and of how much one evaluation takes."""
    if len(patterns) <= _MANY:
        return
    times = relative_cost(patterns)
    warn(
        f"Y has {len(patterns)} patterns of missing entries among its {len(patterns.group)} columns: every "
        f"evaluation takes as many Cholesky factorisations, about {times:.0f} times the arithmetic "
        "of a complete table. Fewer patterns cost less: drop rows or columns of which little was "
        "seen. fit_sparse and fit_variational take far less for each."
    )


# The inverse of K in position, and what the density of the columns needs of it

_BY_HALVES = 192  # rows from which a triangle is inverted so


def invert(A: Array) -> float | None:
    """Overwrite the lower triangle of a C-ordered positive definite matrix by its inverse's.

    Returns ln|A|, or None if A is not positive definite. What stands above the diagonal stays.

    >>> A = np.array([[2.0, 0.0], [1.0, 1.0]])
    >>> round(invert(A), 12), mirror(A).round(12).tolist()
    (0.0, [[1.0, -1.0], [-1.0, 2.0]])
    """
    # Seen in Fortran order, as LAPACK does, the lower triangle of a C-ordered matrix is the upper one.
    _, failed = lapack.dpotrf(A.T, lower=0, overwrite_a=1, clean=0)
    if failed:
        return None
    log_det = 2.0 * np.log(np.diagonal(A)).sum()
    if len(A) < _BY_HALVES:
        lapack.dpotri(A.T, lower=0, overwrite_c=1)
    else:  # the same two steps, U⁻¹ and U⁻¹U⁻ᵀ, the first of them faster
        invert_upper(A.T)
        lapack.dlauum(A.T, lower=0, overwrite_c=1)
    return float(log_det)


def mirror(A: Array) -> Array:
    """Copy the lower triangle of A to above it, in position."""
    for start, end in row_blocks(len(A)):
        corner = A[start:end, start:end]
        np.copyto(corner, corner.T, where=~np.tri(end - start, dtype=bool))
        A[:start, start:end] = A[start:end, :start].T
    return A


def lower_factors(A: Array) -> Array:
    """Cholesky factors of positive definite matrices (..., N, N); LinAlgError if one is not."""
    return np.asarray(np.linalg.cholesky(A))


def solve_lower(factor: Array, vector: Array, *, transposed: bool = False) -> Array:
    """L⁻¹v of a C-ordered lower factor L, or L⁻ᵀv."""
    # Seen in Fortran order the lower triangle is the upper one of the transpose.
    return np.asarray(blas.dtrsv(factor.T, vector, lower=0, trans=int(not transposed)))


def gram_factor(F: Array) -> Array:
    """Shorten F (N, D) to a factor (N, min(N, D)) with the same F Fᵀ.

    >>> gram_factor(np.array([[3.0, 0.0, 4.0]])) ** 2
    array([[25.]])
    """
    N, D = F.shape
    if D <= N:
        return np.asfortranarray(F)  # LAPACK takes it without a copy
    (R,) = qr(F.T, mode="r", check_finite=False)
    return np.asfortranarray(R[:N].T)


def column_terms(K: Array, F: Array, inverse: Array) -> tuple[Array, Any, Array]:
    """fₘᵀ K⁻¹ fₘ of each column (M,), ln|K| and K⁻¹F (N, M); writes K⁻¹ into a Fortran-ordered array.

    The lower triangle of K is read, and the upper one of ``inverse`` is right. A K that is not positive
    definite gives infinite terms.
    """
    # In Fortran order the upper triangle of the inverse is the lower one of its transpose.
    np.copyto(inverse, K.T)
    logdet = invert(inverse.T)
    if logdet is None:
        inverse.fill(np.nan)
        return np.full(F.shape[1], np.inf), np.inf, np.full(F.shape, np.nan)
    weights = blas.dsymm(1.0, inverse, F, lower=0)
    return np.einsum("nm,nm->m", F, weights), logdet, weights


_ABOVE = ~np.tri(128, dtype=bool)


def lawrence_block(
    by_quad: Array, by_logdet: Any, inverse: Array, weights: Array, start: int, end: int
) -> Array:
    """[start:end, :end] of ∂L/∂K, from derivatives in the terms of :func:`column_terms`.

    ∂L/∂K = ∂L/∂ln|K| K⁻¹ - K⁻¹F diag(∂L/∂quad) FᵀK⁻¹, Lawrence's formula for ∂L/∂quad = -½.
    """
    block = inverse.T[start:end, :end].copy()
    rows = (weights[start:end] * -by_quad).T
    # Seen in Fortran order, as BLAS does, the block is its own transpose.
    blas.dgemm(1.0, weights[:end], rows, beta=float(by_logdet), c=block.T, overwrite_c=1)
    corner = block[:, start:]
    np.copyto(corner, corner.T, where=_ABOVE[: end - start, : end - start])
    return block


def pattern_terms(
    K: Array,
    F: Array,
    patterns: Patterns,
    counts: tuple[int, ...],
    slope: Array,
    weights: Array,
) -> float:
    """-½ Σ_g (tr(K_g⁻¹ F_g F_gᵀ) + D_g ln|K_g|); writes its slope in K (N, N), and K_g⁻¹F_g (N, M).

    F (N, M) is 0 where nothing was observed, and its columns of pattern g stand for D_g, the counts.
    The lower triangle of K is read. A K_g that is not positive definite gives -inf.
    """
    slope.fill(0.0)
    weights.fill(0.0)
    value = 0.0
    for (rows, columns), count in zip(patterns, counts, strict=True):
        where: Any = np.ix_(rows, rows) if len(rows) < len(K) else ...
        part = np.array(K[where], order="C")
        log_det = invert(part)
        if log_det is None:
            value = -np.inf
            slope.fill(np.nan)
            weights.fill(np.nan)
            break
        value -= 0.5 * count * log_det
        own = F[np.ix_(rows, columns)]
        weights[np.ix_(rows, columns)] = solved = blas.dsymm(1.0, part.T, own, lower=0)
        value -= 0.5 * np.vdot(own, solved)
        part *= 0.5 * count
        slope[where] -= part
    # What lies below the diagonal is right so far, what lies above it is not.
    blas.dsyrk(0.5, weights.T, beta=1.0, c=slope.T, trans=1, lower=0, overwrite_c=1)
    mirror(slope)
    return value


def square_root(covariance: Array) -> Array:
    """R (S, S) with RRᵀ a covariance that may be singular."""
    # Positions side by side make it so: by eigenvalues it needs no jitter.
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


_OF_ROWS = ("K", "chol", "precision", "_root_inverse")  # known once, wherever a process is asked


# One process and its conditionals (Rasmussen & Williams 2006, eq. 2.25, 2.26 and 5.12)


@dataclass(frozen=True)
class GP:
    """A Gaussian process observed at positions X (N, Q), and its conditionals elsewhere.

    ``theta`` holds the kernel's hyperparameters and the bias by name. ``sigma`` is the standard
    deviation of the noise, its floor (``resolution`` of :func:`build_model`) included: an array (D,)
    where every column has a noise of its own, and so an amplitude. Of such a process only what
    :meth:`given` makes of it for one column has a K.

    The kernel may have terms of known ``inputs`` (N, C) of the rows too: its positions are then [X, inputs].
    New positions are whole ones, or of X alone and then completed by ``at``, (C,) or (S, C). ``counted`` says which
    terms, and last whether the bias, the function has whose conditional is asked for; all of them if None.
    """

    kernel: str
    X: Array
    theta: dict[str, Any]
    sigma: Any
    inputs: Array | None = None
    at: Array | None = None
    counted: NDArray[np.bool_] | None = None

    @property
    def own_noise(self) -> bool:
        """Whether every column has an amplitude and a noise of its own."""
        return np.ndim(self.sigma) > 0

    @property
    def signal(self) -> Array:
        """Variance by which the prior's is multiplied, one for all columns."""
        return np.ones(1)

    @property
    def noise(self) -> Any:
        """Variance of the noise."""
        return self.sigma**2

    @property
    def unit_of_positions(self) -> Array:
        """Lengthscale along each latent dimension, shape (Q,)."""
        return unit_of(self.kernel, self.X.shape[1], self.theta.get("lengthscale", 1.0))

    @property
    def rows(self) -> Array:
        """Positions of the rows as the kernel takes them, with their inputs."""
        return self.X if self.inputs is None else beside(self.X, self.inputs)

    def whole(self, X_new: Array) -> Array:
        """Return new positions as the kernel takes them, with their inputs."""
        if self.inputs is None or X_new.shape[1] == self.X.shape[1] + self.inputs.shape[1]:
            return X_new
        if self.at is None:
            raise ValueError(
                "positions must come with their inputs, of which the kernel has terms."
            )
        return beside(X_new, self.at)

    def elsewhere(self, at: Array | None, counted: NDArray[np.bool_] | None = None) -> "GP":
        """Return the same process for other inputs of new positions, or other terms; K is not factorised again."""
        other = replace(self, at=at, counted=counted)
        vars(other).update({name: v for name, v in vars(self).items() if name in _OF_ROWS})
        return other

    def factorised(self) -> "GP":
        """Return it with all that :meth:`elsewhere` hands on."""
        for name in _OF_ROWS:
            getattr(self, name)
        return self

    @property
    def Z(self) -> Array:
        """Positions in units of the lengthscale, shape (N, Q)."""
        return self.X / self.unit_of_positions

    @cached_property
    def K(self) -> Array:
        """Covariance of the rows, noise included, in units of the scale² of Y."""
        K = cross_covariance(self.kernel, self.rows, self.rows, **self._common)
        K.flat[:: len(K) + 1] += self.sigma**2
        return K

    @cached_property
    def chol(self) -> Array:
        """Lower Cholesky factor of K (what stands above the diagonal is meaningless)."""
        return np.asarray(cho_factor(self.K, lower=True, check_finite=False)[0])

    @property
    def mean_covariance(self) -> Array:
        """Covariance of the rows, noise included, averaged over the columns."""
        if not self.own_noise:
            return self.K
        K = np.mean(self.theta["amplitude"] ** 2) * self.cross(self.X)
        K.flat[:: len(K) + 1] += np.mean(self.sigma**2)
        return np.asarray(K)

    def cross(self, X_new: Array, product: Product = np.matmul) -> Array:
        """k(X_new, X), without noise, shape (S, N); of amplitude 1 where the columns have their own."""
        return self.cross_and_rate(X_new, product)[0]

    def cross_and_rate(
        self, X_new: Array, product: Product = np.matmul
    ) -> tuple[Array, Array | None]:
        """As :meth:`cross`, and its derivative in the squared distance."""
        between = (self.kernel, self.whole(X_new), self.rows)
        return cross_and_rate(*between, product=product, **self._own)

    def cross_pullback(
        self,
        X_new: Array,
        rate: Array | None,
        by_cross: Array,
        by_prior: Array,
        product: Product = np.matmul,
    ) -> Array:
        """Gradient in X_new of what depends on it by :meth:`cross` and :meth:`prior_variance`."""
        between = (self.kernel, self.whole(X_new), self.rows, rate, by_cross, by_prior)
        gradient = cross_pullback(*between, product=product, **self._own)
        return gradient[:, : self.X.shape[1]]

    def given(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> "GP":
        """Condition on these rows only, for these columns."""
        draw = self.of_column(int(columns[0])) if self.own_noise else self
        if len(rows) == len(self.X):
            return draw
        inputs = None if self.inputs is None else self.inputs[rows]
        return replace(draw, X=self.X[rows], inputs=inputs)

    def of_column(self, d: int) -> "GP":
        """Give the process of one column, where every column has a noise of its own."""
        amplitude = self.theta["amplitude"][d]
        # The kernel's other standard deviations are in units of the column's amplitude.
        theta = {n: v if n == "lengthscale" else v * amplitude for n, v in self.unit.items()}
        return replace(self, theta=theta | {"amplitude": amplitude}, sigma=float(self.sigma[d]))

    @property
    def _common(self) -> dict[str, Any]:
        return self.unit if self.own_noise else self.theta

    @property
    def _own(self) -> dict[str, Any]:
        """Hyperparameters of the terms that count at new positions."""
        if self.counted is None:
            return self._common
        return counted_theta(self.theta, self.counted)

    @property
    def unit(self) -> dict[str, Any]:
        """Hyperparameters of the kernel of amplitude 1."""
        return {name: value for name, value in self.theta.items() if name != "amplitude"}

    def solve(self, F: Array) -> Array:
        """K⁻¹ F."""
        return np.asarray(cho_solve((self.chol, True), F, check_finite=False))

    def weights(self, F: Array) -> Array:
        """Weights w of the conditional mean k(x, X) w, shape (N, D)."""
        return self.solve(F)

    def log_terms(self, F: Array) -> tuple[Array, Any, Array]:
        """f_dᵀ K⁻¹ f_d of each column (D,), ln|K| and K⁻¹F; minus half their sum is ln p(f_d)."""
        solved = self.solve(F)
        return np.einsum("nd,nd->d", F, solved), 2.0 * np.log(np.diagonal(self.chol)).sum(), solved

    @cached_property
    def precision(self) -> Array:
        """Diagonal of K⁻¹, shape (N,)."""
        return np.diagonal(lapack.dpotri(self.chol, lower=1)[0]).copy()

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """Residuals (N, D) and variance (N,) of each row of F given the others, where it lies.

        [K⁻¹F]_n / [K⁻¹]_nn and 1 / [K⁻¹]_nn (Rasmussen & Williams 2006, eq. 5.12).
        """
        variance = 1.0 / self.precision
        return variance[:, None] * self.solve(F), variance

    def smoothed(self, F: Array) -> tuple[Array, Array]:
        """Mean (N, D) and variance (N,) of the noise-free function at the rows' own positions."""
        known = self.noise - self.noise**2 * self.precision
        return F - self.noise * self.solve(F), np.maximum(known, 0.0)

    def joint(self, F: Array, X_new: Array) -> tuple[Array, Array]:
        """Mean (S, D) and covariance (S, S) of the noise-free function at all positions."""
        cross = self.cross(X_new)
        whole = self.whole(X_new)
        prior = cross_covariance(self.kernel, whole, whole, **self._own)
        covariance = prior - cross @ self.solve(cross.T)
        return cross @ self.solve(F), 0.5 * (covariance + covariance.T)

    def covariance_of_pairs(self, first: Indices, second: Indices) -> Array:
        """Covariance of some pairs of rows, noise included, averaged over the columns, shape (P,)."""
        return np.asarray(self.mean_covariance[first, second])

    def prior_variance(self, X_new: Array) -> Array:
        """Variance of the noise-free function before any data, shape (S,); amplitude as of cross."""
        theta = {name: value for name, value in self._own.items() if name != "lengthscale"}
        return prior_variance(self.kernel, self.whole(X_new), **theta)

    def variance(self, cross: Array, prior: Array) -> Array:
        """Variance of the noise-free function, in units of the scale² of Y, shape (S,)."""
        half = solve_triangular(self.chol, cross.T, lower=True, check_finite=False)
        # Rounding can leave a variance below zero where a new position meets a noise-free row.
        return np.maximum(prior - np.einsum("ns,ns->s", half, half), 0.0)

    @cached_property
    def _root_inverse(self) -> Array:
        """L⁻¹: products with it are faster than that many small systems solved."""
        return np.asfortranarray(solve_triangular(self.chol, np.eye(len(self.X)), lower=True))

    def explained(self, cross: Array, runs: Runs) -> tuple[Array, Array]:
        """k(x)ᵀ K⁻¹ k(x), shape (S, 1), and L⁻¹ k(x) (S, N), for many small sets of positions."""
        half = runs.map(self._times_root_inverse, cross, cross.shape[1])
        return (half**2).sum(axis=1, keepdims=True), half

    def explained_pullback(self, half: Array, by_explained: Array, runs: Runs) -> Array:
        """Gradient in k(x) (S, N), from the derivatives in :meth:`explained` (S, 1)."""
        solved = runs.map(partial(self._times_root_inverse, transposed=1), half, half.shape[1])
        return 2.0 * by_explained * solved

    def _times_root_inverse(self, rows: Array, transposed: int = 0) -> Array:
        product = blas.dtrmm(1.0, self._root_inverse, rows.T, lower=1, trans_a=transposed)
        return np.asarray(product.T)

    def slope(self, X_new: Array) -> Array:
        """∂k(X_new, X)/∂X_new, shape (S, Q, N)."""
        slope = cross_slope(self.kernel, self.whole(X_new), self.rows, **self._own)
        return slope[:, : self.X.shape[1]]

    def slope_covariance(self, slope: Array) -> Array:
        """Covariance of the function's slopes, in units of scale² of Y / X², shape (S, Q, Q)."""
        S, Q, N = slope.shape
        half = solve_triangular(self.chol, slope.reshape(-1, N).T, lower=True, check_finite=False)
        known = np.einsum("nsi,nsj->sij", *[half.reshape(N, S, Q)] * 2, optimize=True)
        return np.diag(prior_slope_variance(self.kernel, Q, **self._own)) - known
