"""The log-density of Gaussian columns that share a kernel matrix, not their amplitude and noise.

Column d of F is N(0, V_d), V_d = a_d² K + n_d I. One spectral decomposition K = U diag(λ) Uᵀ
serves all columns: with φ = Uᵀ f_d, v_i = a_d² λ_i + n_d, r the rank of K and ρ = ‖f_d‖² - ‖φ‖²,

    -2 ln p(f_d) = N ln 2π + Σ_i (ln v_i + φ_i² / v_i) + (N - r) ln n_d + ρ / n_d,
    ∂/∂a_d² = ½ Σ_i λ_i t_i,    ∂/∂n_d = ½ (Σ_i t_i + (ρ / n_d - (N - r)) / n_d),    t_i = (φ_i² / v_i - 1) / v_i,
    ∂/∂K = ½ (b bᵀ - a_d² V_d⁻¹),    b = a_d V_d⁻¹ f_d,    V_d⁻¹ = (I - U diag(a_d² λ_i / v_i) Uᵀ) / n_d.
"""

import numpy as np
from scipy.linalg import blas, lapack

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import mirror

Spectrum = tuple[Array, Array]
"""Eigenvalues (r,) above 0 and their eigenvectors (N, r)."""

_FEW = 32  # rows below which nothing is gained by a low rank
_GUESS = 0.95  # of every second row, the rank up to which that of all is taken to be low
_WORTH = 0.8  # of all rows, the rank up to which its way costs less
_TOLERANCE = 1e-11  # of what is left of K's diagonal, in units of the noise


def spectrum(K: Array, noise: float = 1.0) -> Spectrum:
    """Decompose a positive semi-definite matrix, by as many eigenvalues as it has to rounding.

    The pivoted Cholesky factorisation K ≈ C Cᵀ, and the eigenvalues of CᵀC, take N r² operations
    in place of some 10 N³. As LAPACK cannot be told to give it up where r gets too large, every
    second row is factorised first, an eighth of the work at most: where their rank is high, so is
    that of all. A wrong guess costs time only.

    Of a C-ordered K (N, N) the lower triangle is read. ``noise`` is the smallest variance that will be
    added to the diagonal: what is left out of K is at most 1e-11 of it in every diagonal entry, or
    rounding. The eigenvectors are in Fortran order.

    Examples
    --------
    >>> values, vectors = spectrum(np.ones((50, 50)))
    >>> values.round(9), vectors.shape
    (array([50.]), (50, 1))
    """
    # Seen in Fortran order, as LAPACK does, the lower triangle of a C-ordered K is the upper one.
    N, size = len(K), float(np.diagonal(K).max(initial=0.0))
    tolerance = max(_TOLERANCE * min(noise, size), 4.0 * np.finfo(float).eps * size)
    if N >= _FEW and tolerance > 0.0:
        some = np.ascontiguousarray(K[::2, ::2])
        *_, rank, _ = lapack.dpstrf(some.T, tol=tolerance, lower=0, overwrite_a=1)
        if rank <= _GUESS * len(some):
            low = _low_rank(K, tolerance)
            if low is not None:
                return low
    values, vectors, info = lapack.dsyevd(K.T, lower=0)
    if info:
        raise np.linalg.LinAlgError(f"the eigenvalues of K did not converge (LAPACK: {info}).")
    return np.maximum(values, 0.0), vectors


def _low_rank(K: Array, tolerance: float) -> Spectrum | None:
    """Go by pivoted Cholesky, None if it finds no low rank after all."""
    factor, pivots, rank, _ = lapack.dpstrf(K.T, tol=tolerance, lower=0)
    if rank > _WORTH * len(K):
        return None
    root = np.empty((len(K), rank), order="F")
    root[pivots - 1] = np.triu(factor[:rank]).T
    gram = blas.dsyrk(1.0, root, trans=1, lower=1)
    values, rotation, info = lapack.dsyevd(gram, lower=1)
    if info:
        return None
    # Below these an eigenvector is all rounding, and its eigenvalue smaller than that of K's own.
    kept = values > 1e-15 * values[-1]
    values, rotation = values[kept], rotation[:, kept]
    vectors = blas.dgemm(1.0, root, rotation)
    vectors /= np.sqrt(values)
    return values, vectors


class ColumnParts:
    """The formulas above, one array an evaluation."""

    def __init__(self, F: Array, signal: Array, noise: Array, values: Array, vectors: Array):
        self.F, self.signal, self.noise, self.vectors = F, signal, noise, vectors
        self.values = values[:, None]
        self.null = vectors.shape[0] - vectors.shape[1]
        self.rotated = blas.dgemm(1.0, vectors, F, trans_a=1)  # (r, D)
        self.variance = self.values * signal + noise
        squares = self.rotated**2
        self.rest = np.zeros(F.shape[1])
        if self.null:
            self.rest = np.maximum((F**2).sum(axis=0) - squares.sum(axis=0), 0.0)
        self.scaled_squares = squares / self.variance

    @property
    def quad(self) -> Array:
        """f_dᵀ V_d⁻¹ f_d, shape (D,)."""
        return np.asarray(self.scaled_squares.sum(axis=0) + self.rest / self.noise)

    @property
    def logdet(self) -> Array:
        """ln|V_d|, shape (D,)."""
        return np.asarray(np.log(self.variance).sum(axis=0) + self.null * np.log(self.noise))

    @property
    def terms(self) -> Array:
        """Log-density of each column (D,), but for -½ N ln 2π."""
        return np.asarray(-0.5 * (self.logdet + self.quad))

    @property
    def by_signal(self) -> Array:
        """Derivatives of the terms in a_d² (D,)."""
        return np.asarray(0.5 * (self.values * self._slopes()).sum(axis=0))

    @property
    def by_noise(self) -> Array:
        """Derivatives of the terms in n_d (D,)."""
        rest = (self.rest / self.noise - self.null) / self.noise
        return np.asarray(0.5 * (self._slopes().sum(axis=0) + rest))

    def _slopes(self) -> Array:
        return np.asarray((self.scaled_squares - 1.0) / self.variance)

    def solved(self) -> Array:
        """V_d⁻¹ f_d, shape (N, D)."""
        if not self.null:
            return np.asarray(blas.dgemm(1.0, self.vectors, self.rotated / self.variance))
        share = self.rotated * (1.0 / self.variance - 1.0 / self.noise)
        known = blas.dgemm(1.0, self.vectors, share)
        known += self.F / self.noise
        return np.asarray(known)

    def slope(self, solved: Array, weight: Array, G: Array) -> None:
        """Write Σ_d ½ c_d a_d² (V_d⁻¹ f_d f_dᵀ V_d⁻¹ - V_d⁻¹) into a C-ordered G."""
        scaled = weight * self.signal
        # The U diag Uᵀ that V⁻¹ lacks to I / n_d, without cancellation; then what is left of I.
        shares = (self.values * self.signal / (self.noise * self.variance)) @ scaled
        left = np.empty((len(G), len(scaled) + len(shares)), order="F")
        np.multiply(solved, np.sqrt(np.abs(scaled)), out=left[:, : len(scaled)])
        np.multiply(self.vectors, np.sqrt(np.abs(shares)), out=left[:, len(scaled) :])
        signs = np.sign(np.concatenate([scaled, shares]))
        if (signs >= 0.0).all():
            blas.dsyrk(0.5, left, c=G.T, lower=0, overwrite_c=1)
            mirror(G)
        else:
            np.matmul(left * (0.5 * signs), left.T, out=G)
        G.flat[:: len(G) + 1] -= 0.5 * (scaled / self.noise).sum()
