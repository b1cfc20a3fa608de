"""The marginal likelihood: every column of Y an independent draw from N(mu, scale² K).

With F = (Y - mu) / scale, one row of Y a row of F,

    L = -½ D N ln 2π - ½ D ln|K| - ½ tr(K⁻¹ F Fᵀ)    (Lawrence 2005, JMLR 6, section 3),
    ∂L/∂K = ½ (K⁻¹ F Fᵀ K⁻¹ - D K⁻¹),

the second line being twice smaller than his printed eq. (10): the ½ is missing there. It is the
pullback of :class:`GaussianTerms` below, so that it is what PyTensor uses for any gradient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.distribution import Continuous, SymbolicRandomVariable
from pymc.distributions.shape_utils import implicit_size_from_params, rv_size_is_none
from pymc.pytensorf import normalize_rng_param
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RNGConsumerOp
from pytensor.tensor.random.utils import normalize_size_param
from scipy.linalg import blas, lapack, qr

from pm_gplvm.memory import check_memory
from pm_gplvm.ops import TwinOp, reused

__all__ = [
    "GPColumns",
    "GaussianTerms",
    "columns_logp",
    "data_term",
    "gram_factor",
    "standardised",
    "total_logp",
]

Array = NDArray[np.float64]


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
        # Seen in Fortran order, as LAPACK does, the lower triangle of a C-ordered K is the upper one.
        inverse = reused(storage[2][0], K.shape, "F")
        np.copyto(inverse, K.T)
        _, info = lapack.dpotrf(inverse, lower=0, overwrite_a=1, clean=0)
        if info == 0:
            logdet = 2.0 * np.log(np.diagonal(inverse)).sum()
            lapack.dpotri(inverse, lower=0, overwrite_c=1)
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


class _LawrenceGradient(TwinOp):
    """∂L/∂K = ln|K|-bar K⁻¹ - K⁻¹F diag(quad-bar) FᵀK⁻¹, Lawrence's formula for quad-bar = -½.

    ``inverse`` and ``weights`` are what :class:`GaussianTerms` has computed at the same K and F;
    they carry no derivative of their own.
    """

    __props__ = ()
    symmetric_output = True

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [shapes[0]]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True]] * 4 + [[False]] * 2

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        _, _, quad_bar, logdet_bar, inverse, weights = inputs
        previous = storage[0][0]
        G = reused(None if previous is None else previous.T, inverse.shape, "F")
        np.copyto(G, inverse)
        first = quad_bar[0] if len(quad_bar) else 0.0
        if np.all(quad_bar == first):
            G = blas.dsyrk(-first, weights, beta=logdet_bar, c=G, lower=0, overwrite_c=1)
        else:
            G = blas.dsyr2k(
                -0.5,
                weights,
                weights * quad_bar,
                beta=logdet_bar,
                c=G,
                lower=0,
                overwrite_c=1,
            )
        storage[0][0] = _mirrored(G.T)  # in C order, as K is

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, quad_bar, logdet_bar, *known = inputs
        # To be differentiated, the formula must stand in terms of K and F themselves.
        inverse = known[0] if known else pt.linalg.inv(K)
        weights = known[1] if known else inverse @ F
        return [logdet_bar * inverse - (weights * quad_bar) @ weights.T]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        return [
            *super().pullback(inputs[:4], outputs, cotangents),
            DisconnectedType()(),
            DisconnectedType()(),
        ]


_BLOCK = 128  # rows at a time, so that a transposed copy stays in the cache
_ABOVE = ~np.tri(_BLOCK, dtype=bool)


def _mirrored(G: Array) -> Array:
    """Copy the lower triangle of G onto its upper one, in place."""
    N = len(G)
    for i in range(0, N, _BLOCK):
        j = min(i + _BLOCK, N)
        G[:i, i:j] = G[i:j, :i].T
        corner = G[i:j, i:j]
        np.copyto(corner, corner.T, where=_ABOVE[: j - i, : j - i])
    return G


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


class GPColumnsRV(SymbolicRandomVariable):
    """Random draws of :class:`GPColumns`."""

    name = "GPColumns"
    extended_signature = "[rng],[size],(),(),(n,n)->[rng],(n)"
    _print_name = ("GPColumns", "\\operatorname{GPColumns}")

    @classmethod
    def rv_op(cls, mu: Any, scale: Any, cov: Any, *, size: Any = None, rng: Any = None) -> Variable:
        mu, scale, cov = (pt.as_tensor_variable(v) for v in (mu, scale, cov))
        rng = normalize_rng_param(rng)
        size = normalize_size_param(size)
        if rv_size_is_none(size):
            size = implicit_size_from_params(mu, scale, cov, ndims_params=cls.ndims_params)
        next_rng, z = pt.random.normal(
            size=pt.concatenate([size, cov.shape[-1:]]), rng=rng, return_next_rng=True
        )
        # The lower triangle decides, as it does in the log-density.
        f = z @ pt.linalg.cholesky(cov, lower=True).mT
        draws = mu[..., None] + scale[..., None] * f
        return cls(inputs=[rng, size, mu, scale, cov], outputs=[next_rng, draws])(
            rng, size, mu, scale, cov
        )


class GPColumns(Continuous):
    r"""One Gaussian N(mu, scale² K) for each column of a table, the columns independent.

    As PyMC puts batch dimensions first, the variable is the *transposed* table: pass
    ``observed=Y.T`` and ``dims=("feature", "obs")``. Its log-density has one term a feature.

    Parameters
    ----------
    cov : tensor_like, shape (N, N)
        Covariance of the rows, noise included: :func:`pm_gplvm.covariance`, or anything made
        with ``pm.gp.cov``.
    mu : tensor_like, shape () or (D,), default 0
        Mean of each column.
    scale : tensor_like, shape () or (D,), default 1
        Standard deviation that multiplies each column: the units of the data.

    Notes
    -----
    The gradient in ``cov`` is ½ scale-free (K⁻¹FFᵀK⁻¹ - DK⁻¹), F = (Y - mu) / scale (Lawrence
    2005, eq. 10, with the missing ½). Where K is not positive definite the log-density is -inf.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_gplvm as gplvm
    >>> Y = np.random.default_rng(0).normal(size=(6, 3))
    >>> with pm.Model() as model:
    ...     X = pm.Normal("X", shape=(6, 1))
    ...     K = pm.gp.cov.ExpQuad(1, ls=1.0)(X) + 0.1 * np.eye(6)
    ...     Y_ = gplvm.GPColumns("Y", K, observed=Y.T)
    >>> Y_.ndim
    2
    """

    rv_type = GPColumnsRV
    rv_op = GPColumnsRV.rv_op

    @classmethod
    def dist(cls, cov: Any, mu: Any = 0.0, scale: Any = 1.0, **kwargs: Any) -> Variable:
        mu, scale, cov = (pt.as_tensor_variable(v, dtype="float64") for v in (mu, scale, cov))
        if cov.ndim != 2:
            raise ValueError(
                f"cov must be one N × N matrix shared by all columns, got {cov.ndim} dimensions."
            )
        return super().dist([mu, scale, cov], **kwargs)

    def support_point(rv: Variable, size: Any, mu: Any, scale: Any, cov: Any) -> Variable:
        return pt.zeros_like(rv) + mu[..., None]

    def logp(value: Variable, mu: Any, scale: Any, cov: Any) -> Variable:
        if value.ndim > 2:
            raise NotImplementedError(
                f"GPColumns has a log-density for one table (feature, obs), got {value.ndim} dimensions."
            )
        F = (pt.atleast_2d(value) - mu[..., None]) / scale[..., None]
        terms = columns_logp(F.T, cov, scale)
        return terms if value.ndim == 2 else terms[0]


def standardised(rv: Variable, value: Variable) -> tuple[Array, Array] | None:
    """Read the data of an observed :class:`GPColumns`, centred and scaled, off the graph.

    Parameters
    ----------
    rv : TensorVariable
        An observed variable of a model.
    value : TensorVariable
        Its observed value, shape (D, N): a constant or shared data.

    Returns
    -------
    F : ndarray, shape (N, D)
        (Y - mu) / scale.
    scale : ndarray, shape (D,)
        Or None for both, if the variable is of another kind or its ``mu`` or ``scale`` are not
        data but depend on random variables.
    """
    if not isinstance(rv.owner.op, GPColumnsRV):
        return None
    mu, scale, _ = rv.owner.op.dist_params(rv.owner)
    if any(v.owner and isinstance(v.owner.op, RNGConsumerOp) for v in ancestors([mu, scale])):
        return None
    Y, mu, scale = pytensor.function([], [value, mu, scale], mode="FAST_COMPILE")()
    mu, scale = (np.broadcast_to(v, len(Y)) for v in (mu, scale))
    return ((Y - mu[:, None]) / scale[:, None]).T, scale


def data_term(rv: Variable, value: Variable) -> Variable | None:
    """Log-density of one observed :class:`GPColumns` through the shortened factor of its data.

    Parameters
    ----------
    rv, value : TensorVariable
        As in :func:`standardised`.

    Returns
    -------
    TensorVariable, shape (), or None
        In terms of the model's random variables; None where there are no data to reduce once
        and for all.

    Raises
    ------
    MemoryError
        If N × N matrices would not fit.
    """
    data = standardised(rv, value)
    if data is None:
        return None
    F, scale = data
    check_memory(len(F))
    factor = pytensor.shared(gram_factor(F), name=f"{rv.name}_factor")
    cov = rv.owner.op.dist_params(rv.owner)[2]
    return total_logp(factor, cov, n_columns=F.shape[1], log_scale=float(np.log(scale).sum()))
