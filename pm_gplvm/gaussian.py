"""The log-density of independent Gaussian columns that share a covariance, and its gradient.

With F = (Y - mu) / scale, one row of Y a row of F,

    L = -½ D N ln 2π - ½ D ln|K| - ½ tr(K⁻¹ F Fᵀ)    (Lawrence 2005, JMLR 6, section 3),
    ∂L/∂K = ½ (K⁻¹ F Fᵀ K⁻¹ - D K⁻¹),

the second line being twice smaller than his printed eq. (10): the ½ is missing there. It is the
pullback of :class:`GaussianTerms` below, so that it is what PyTensor uses for any gradient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable
from scipy.linalg import blas, qr

from pm_gplvm.checks import Array
from pm_gplvm.inversion import invert
from pm_gplvm.ops import SymmetricGradient, TwinOp, reused, row_blocks

__all__ = ["GaussianTerms", "columns_logp", "gram_factor", "total_logp"]


def gram_factor(F: Array) -> Array:
    """Shorten F to a factor with the same F Fᵀ.

    Parameters
    ----------
    F : ndarray, shape (N, D)

    Returns
    -------
    ndarray, shape (N, min(N, D))
        F itself if it has no more columns than rows, else Rᵀ of Fᵀ = Q R.

    Examples
    --------
    >>> import numpy as np
    >>> gram_factor(np.array([[3.0, 0.0, 4.0]])) ** 2
    array([[25.]])
    """
    N, D = F.shape
    if D <= N:
        return np.asfortranarray(F)  # LAPACK takes it without a copy
    (R,) = qr(F.T, mode="r", check_finite=False)
    return np.asfortranarray(R[:N].T)


class GaussianTerms(TwinOp):
    """fₘᵀ K⁻¹ fₘ for each column of F, and ln|K|.

    Inputs: ``K`` (N, N), of which the lower triangle is read, and ``F`` (N, M). Outputs: ``quad``
    (M,), ``logdet`` (); then ``K⁻¹`` (N, N; lower triangle meaningless) and ``K⁻¹F`` (N, M), kept
    for the pullback alone. A K that is not positive definite gives
    infinite terms, thus a log-density of -inf.
    """

    __props__ = ()

    def make_node(self, K: Any, F: Any) -> Apply:
        K = pt.as_tensor_variable(K, dtype="float64", ndim=2)
        F = pt.as_tensor_variable(F, dtype="float64", ndim=2)
        outputs = [pt.dvector(), pt.dscalar(), K.type(), F.type()]
        return Apply(self, [K, F], outputs)

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        K, F = shapes
        return [(F[1],), (), K, F]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F = inputs
        inverse = reused(storage[2][0], K.shape, "F")
        # In Fortran order the upper triangle of the inverse is the lower one of its transpose.
        np.copyto(inverse, K.T)
        logdet = invert(inverse.T)
        if logdet is not None:
            weights = blas.dsymm(1.0, inverse, F, lower=0)
            quad = np.einsum("nm,nm->m", F, weights)
        else:
            inverse.fill(np.nan)
            weights = np.full(F.shape, np.nan)
            quad, logdet = np.full(F.shape[1], np.inf), np.inf
        for slot, value in zip(storage, (quad, np.asarray(logdet), inverse, weights), strict=True):
            slot[0] = value

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F = inputs
        chol = pt.linalg.cholesky(K, lower=True, on_error="nan")
        weights = pt.linalg.cho_solve((chol, True), F, b_ndim=2)
        logdet = 2.0 * pt.log(pt.diagonal(chol)).sum()
        failed = pt.isnan(logdet)
        quad = pt.switch(failed, np.inf, (F * weights).sum(axis=0))
        inverse = pt.linalg.cho_solve((chol, True), pt.eye(K.shape[0]), b_ndim=2)
        return [quad, pt.switch(failed, np.inf, logdet), inverse, weights]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        K, F = inputs
        inverse, weights = outputs[2:]
        connected = [not isinstance(bar.type, DisconnectedType) for bar in cotangents]
        if connected[3] and not connected[2]:  # asked for by a second derivative in F
            return super().pullback(inputs, outputs, cotangents)
        if connected[2]:
            raise NotImplementedError(
                "GaussianTerms has no derivative of its inverse: use its first two outputs."
            )
        quad_bar, logdet_bar = (
            out.zeros_like() if isinstance(bar.type, DisconnectedType) else bar
            for out, bar in zip(outputs[:2], cotangents[:2], strict=True)
        )
        dK = _LawrenceGradient()(K, F, quad_bar, logdet_bar, inverse, weights)
        return [dK, 2.0 * weights * quad_bar]


class _LawrenceGradient(SymmetricGradient):
    """∂L/∂K = ln|K|-bar K⁻¹ - K⁻¹F diag(quad-bar) FᵀK⁻¹, Lawrence's formula for quad-bar = -½.

    ``inverse`` and ``weights`` are what :class:`GaussianTerms` has computed at the same K and F.
    """

    __props__ = ()

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [shapes[0]]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        G = storage[0][0] = reused(storage[0][0], inputs[0].shape)
        for start, end in row_blocks(len(G)):
            G[start:end, :end] = self.lower_block(inputs, start, end)
            G[:start, start:end] = G[start:end, :start].T

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> Array:
        _, _, quad_bar, logdet_bar, inverse, weights = inputs
        block = inverse.T[start:end, :end].copy()
        rows = (weights[start:end] * -quad_bar).T
        # Seen in Fortran order, as BLAS does, the block is its own transpose.
        blas.dgemm(1.0, weights[:end], rows, beta=float(logdet_bar), c=block.T, overwrite_c=1)
        corner = block[:, start:]
        np.copyto(corner, corner.T, where=_ABOVE[: end - start, : end - start])
        return block

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, quad_bar, logdet_bar, *known = inputs
        # To be differentiated, the formula must stand in terms of K and F themselves.
        inverse = known[0] if known else pt.linalg.inv(K)
        weights = known[1] if known else inverse @ F
        return [logdet_bar * inverse - (weights * quad_bar) @ weights.T]


_ABOVE = ~np.tri(128, dtype=bool)


def columns_logp(F: Any, K: Any, scale: Any = 1.0) -> Variable:
    """Log-density of each column of ``scale`` · F under N(0, scale² K).

    Parameters
    ----------
    F : tensor_like, shape (N, D)
        Standardised data.
    K : tensor_like, shape (N, N)
    scale : tensor_like, shape () or (D,)

    Returns
    -------
    TensorVariable, shape (D,)
    """
    F = pt.as_tensor_variable(F)
    scale = pt.as_tensor_variable(scale, dtype="float64")
    quad, logdet, *_ = GaussianTerms()(K, F)
    return -0.5 * (quad + logdet) - F.shape[0] * (0.5 * np.log(2.0 * np.pi) + pt.log(scale))


def total_logp(factor: Any, K: Any, *, n_columns: int, log_scale: float = 0.0) -> Variable:
    """Log-density of all columns at once from a factor with the same F Fᵀ.

    Parameters
    ----------
    factor : tensor_like, shape (N, M)
        See :func:`gram_factor`.
    K : tensor_like, shape (N, N)
    n_columns : int
        D, the number of columns that the factor stands for.
    log_scale : float
        Sum over the columns of the logarithm of their scale.

    Returns
    -------
    TensorVariable, shape ()
    """
    factor = pt.as_tensor_variable(factor)
    quad, logdet, *_ = GaussianTerms()(K, factor)
    N = factor.shape[0]
    return -0.5 * (quad.sum() + n_columns * (logdet + N * np.log(2.0 * np.pi))) - N * log_scale
