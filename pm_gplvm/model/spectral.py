"""The log-density of Gaussian columns that share a kernel matrix, not their amplitude and noise.

Column d of F is N(0, V_d), V_d = a_d² K + n_d I. One spectral decomposition K = U diag(λ) Uᵀ
serves all columns: with φ = Uᵀ f_d, v_i = a_d² λ_i + n_d, r the rank of K and ρ = ‖f_d‖² - ‖φ‖²,

    -2 ln p(f_d) = N ln 2π + Σ_i (ln v_i + φ_i² / v_i) + (N - r) ln n_d + ρ / n_d,
    ∂/∂a_d² = ½ Σ_i λ_i t_i,    ∂/∂n_d = ½ (Σ_i t_i + (ρ / n_d - (N - r)) / n_d),    t_i = (φ_i² / v_i - 1) / v_i,
    ∂/∂K = ½ (b bᵀ - a_d² V_d⁻¹),    b = a_d V_d⁻¹ f_d,    V_d⁻¹ = (I - U diag(a_d² λ_i / v_i) Uᵀ) / n_d.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.graph.basic import Apply, Variable
from scipy.linalg import blas, lapack

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import column_patterns, mirror
from pm_gplvm.model.gaussian_ops import factorised
from pm_gplvm.model.ops import GradientOp, TwinOp, reused

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


class ColumnTerms(TwinOp):
    """ln p(f_d) of each column of F, but for -½ N ln 2π.

    Inputs: ``K`` (N, N), without noise, of which the lower triangle is read; ``F`` (N, D);
    ``signal`` (D,), a_d²; ``noise`` (D,), n_d. Outputs: ``terms`` (D,); then eigenvalues (r,) and
    eigenvectors (N, r) of K, kept for the pullback alone. Where the noise is not positive or
    anything not finite the terms are -inf.
    """

    __props__ = ()

    def make_node(self, K: Any, F: Any, signal: Any, noise: Any) -> Apply:
        given = [
            pt.as_tensor_variable(v, dtype="float64", ndim=n)
            for v, n in zip((K, F, signal, noise), (2, 2, 1, 1), strict=True)
        ]
        return Apply(self, given, [pt.dvector(), pt.dvector(), pt.dmatrix()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        rank = node.outputs[1].shape[0]
        return [(shapes[1][1],), (rank,), (shapes[0][0], rank)]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F, signal, noise = inputs
        usable = (noise > 0.0).all() and all(np.isfinite(v).all() for v in inputs)
        if not usable:
            results = (np.full(F.shape[1], -np.inf), np.empty(0), np.empty((len(K), 0), order="F"))
        else:
            with np.errstate(divide="ignore"):
                least = float((noise / signal).min())
            values, vectors = spectrum(K, least)
            parts = ColumnParts(F, signal, noise, values, vectors)
            results = (parts.terms, values, vectors)
        for slot, value in zip(storage, results, strict=True):
            slot[0] = value

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, signal, noise = inputs
        _, solved, log_det = _each_column(K, F, signal, noise)
        terms = -0.5 * ((F.T * solved).sum(axis=1) + log_det)
        return [pt.switch(pt.isnan(terms), -np.inf, terms), *pt.linalg.eigh(K)]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True, False, False]] * 4

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        return list(_ColumnGradient()(*inputs, cotangents[0], *outputs[1:]))


class _ColumnGradient(GradientOp):
    """Σ_d c_d ∂ terms_d / ∂ (K, F, signal, noise).

    Inputs: those of :class:`ColumnTerms`, c (D,), and the eigenvalues and -vectors it has found.
    """

    __props__ = ()

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [v.type() for v in inputs[:4]])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return list(shapes[:4])

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F, signal, noise, weight, values, vectors = inputs
        if not vectors.size:
            for slot, value in zip(storage, inputs[:4], strict=True):
                slot[0] = np.full(value.shape, np.nan)
            return
        parts = ColumnParts(F, signal, noise, values, vectors)
        solved = parts.solved()
        G = storage[0][0] = reused(storage[0][0], K.shape)
        parts.slope(solved, weight, G)
        storage[1][0] = solved * -weight
        storage[2][0], storage[3][0] = weight * parts.by_signal, weight * parts.by_noise

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, signal, noise, weight, *_ = inputs
        inverse, solved, _ = _each_column(K, F, signal, noise)
        slopes = 0.5 * (solved[:, :, None] * solved[:, None, :] - inverse)  # ∂ terms / ∂ V
        dK = ((weight * signal)[:, None, None] * slopes).sum(axis=0)
        by_signal = weight * (slopes * K).sum(axis=(1, 2))
        by_noise = weight * pt.diagonal(slopes, axis1=-2, axis2=-1).sum(axis=-1)
        return [dK, -(weight[:, None] * solved).T, by_signal, by_noise]


def _each_column(
    K: Variable, F: Variable, signal: Variable, noise: Variable
) -> tuple[Variable, Variable, Variable]:
    """V_d⁻¹ (D, N, N), V_d⁻¹ f_d (D, N) and ln|V_d| (D,)."""
    lower = pt.tril(K) + pt.tril(K, k=-1).T
    V = signal[:, None, None] * lower + noise[:, None, None] * pt.eye(K.shape[0])
    log_det, solve = factorised(V)
    return solve(pt.eye(K.shape[0]) + pt.zeros_like(V)), solve(F.T[:, :, None])[:, :, 0], log_det


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
        return np.asarray(-0.5 * (self.logdet + self.quad))

    @property
    def by_signal(self) -> Array:
        return np.asarray(0.5 * (self.values * self._slopes()).sum(axis=0))

    @property
    def by_noise(self) -> Array:
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


def own_columns_logp(
    F: Any, K: Any, seen: NDArray[np.bool_] | None, *, amplitude: Any, noise: Any, scale: Any = 1.0
) -> Variable:
    """Log-density of what was observed of each column of ``scale`` · F under N(0, scale² V_d).

    F (N, D) is standardised, any number where missing, K without noise, ``amplitude`` a_d a standard
    deviation and ``noise`` n_d a variance (D,). Columns with the same rows ``seen`` (N, D; None if nothing
    is missing) share a decomposition.
    """
    F, K, amplitude, noise, scale = (
        pt.as_tensor_variable(v, dtype="float64") for v in (F, K, amplitude, noise, scale)
    )
    units = 0.5 * np.log(2.0 * np.pi) + pt.log(scale)
    if seen is None or seen.all():
        return ColumnTerms()(K, F, amplitude**2, noise)[0] - F.shape[0] * units
    terms, order = [], []
    for rows, columns in column_patterns(seen):
        part, table = K[np.ix_(rows, rows)], F[np.ix_(rows, columns)]
        terms.append(ColumnTerms()(part, table, amplitude[columns] ** 2, noise[columns])[0])
        order.append(columns)
    together = pt.concatenate(terms)[np.argsort(np.concatenate(order))]
    return together - seen.sum(axis=0) * units
