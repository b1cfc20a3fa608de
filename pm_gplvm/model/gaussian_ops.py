"""The log-density of Gaussian columns as PyTensor Ops, shells around :mod:`pm_gplvm.core.gaussian`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import (
    Patterns,
    column_patterns,
    column_terms,
    lawrence_block,
    mirror,
    pattern_terms,
)
from pm_gplvm.core.kernels import row_blocks
from pm_gplvm.model.ops import SymmetricGradient, TwinOp, reused


def factorised(K: Variable) -> tuple[Variable, Callable[[Any], Variable]]:
    """ln|K| of matrices (..., N, N), and what solves with them; NaN if not positive definite."""
    chol = pt.linalg.cholesky(K, lower=True, on_error="nan")
    logdet = 2.0 * pt.log(pt.diagonal(chol, axis1=-2, axis2=-1)).sum(axis=-1)
    return logdet, lambda F: pt.linalg.cho_solve((chol, True), F, b_ndim=2)


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
        quad, logdet, weights = column_terms(K, F, inverse)
        for slot, value in zip(storage, (quad, np.asarray(logdet), inverse, weights), strict=True):
            slot[0] = value

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F = inputs
        logdet, solve = factorised(K)
        weights, failed = solve(F), pt.isnan(logdet)
        quad = pt.switch(failed, np.inf, (F * weights).sum(axis=0))
        return [quad, pt.switch(failed, np.inf, logdet), solve(pt.eye(K.shape[0])), weights]

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
        mirror(G)

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> Array:
        _, _, quad_bar, logdet_bar, inverse, weights = inputs
        return lawrence_block(quad_bar, logdet_bar, inverse, weights, start, end)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, quad_bar, logdet_bar, *known = inputs
        # To be differentiated, the formula must stand in terms of K and F themselves.
        inverse = known[0] if known else factorised(K)[1](pt.eye(K.shape[0]))
        weights = known[1] if known else inverse @ F
        return [logdet_bar * inverse - (weights * quad_bar) @ weights.T]


class PatternTerms(TwinOp):
    """-½ Σ_g (tr(K_g⁻¹ F_g F_gᵀ) + D_g ln|K_g|), and what its gradient needs.

    Inputs: ``K`` (N, N), of which the lower triangle is read, and ``F`` (N, M), 0 where nothing was
    observed. Outputs: ``value`` (); ``slope`` (N, N), its derivative in K; ``weights`` (N, M), K_g⁻¹F_g
    in the rows of each pattern: both kept for the pullback. A K_g that is not positive definite gives
    a value of -inf. ``patterns`` are those of the columns of F, which stand for ``counts`` columns of
    each.
    """

    __props__ = ("patterns", "counts")

    def __init__(self, patterns: Patterns, counts: tuple[int, ...]) -> None:
        self.patterns, self.counts = patterns, counts

    def make_node(self, K: Any, F: Any) -> Apply:
        K = pt.as_tensor_variable(K, dtype="float64", ndim=2)
        F = pt.as_tensor_variable(F, dtype="float64", ndim=2)
        return Apply(self, [K, F], [pt.dscalar(), K.type(), F.type()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [(), *shapes]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F = inputs
        slope = storage[1][0] = reused(storage[1][0], K.shape)
        weights = storage[2][0] = reused(storage[2][0], F.shape)
        value = pattern_terms(K, F, self.patterns, self.counts, slope, weights)
        storage[0][0] = np.asarray(value)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F = inputs
        seen = self.patterns.seen.astype(np.float64)
        member = (self.patterns.group == np.arange(len(seen))[:, None]).astype(np.float64)
        counts = np.array(self.counts, dtype=np.float64)
        both = seen[:, :, None] * seen[:, None, :]
        # Rows that are not seen are put in as independent and of variance 1: they add nothing.
        alone = np.eye(seen.shape[1]) * (1.0 - seen)[:, None, :]
        logdet, solve = factorised(K[None] * both + alone)
        inverse = solve(pt.constant(np.broadcast_to(np.eye(seen.shape[1]), both.shape)))
        weights = ((inverse @ F) * member[:, None, :]).sum(axis=0)
        value = -0.5 * ((F * weights).sum() + (counts * logdet).sum())
        slope = weights @ weights.T - (counts[:, None, None] * both * inverse).sum(axis=0)
        return [pt.switch(pt.isnan(value), -np.inf, value), 0.5 * slope, weights]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        _, slope, weights = outputs
        if any(not isinstance(bar.type, DisconnectedType) for bar in cotangents[1:]):
            return super().pullback(inputs, outputs, cotangents)  # a second derivative
        return [cotangents[0] * slope, -cotangents[0] * weights]


def incomplete_total_logp(F: Array, K: Any, *, scale: Array) -> Variable:
    """Log-density of all that was observed of ``scale`` · F (N, D) under N(0, scale² K).

    F is NaN where an entry is missing.
    """
    seen = ~np.isnan(F)
    patterns = column_patterns(seen)
    factors, short = patterns.shortened(F)
    terms = PatternTerms(short, tuple(np.bincount(patterns.group).tolist()))
    value, *_ = terms(K, pytensor.shared(factors, name="factors"))
    units = 0.5 * seen.sum() * np.log(2.0 * np.pi) + seen.sum(axis=0) @ np.log(scale)
    return value - float(units)


def incomplete_columns_logp(F: Any, K: Any, seen: NDArray[np.bool_], scale: Any = 1.0) -> Variable:
    """Log-density (D,) of what was observed of each column of ``scale`` · F under N(0, scale² K).

    F (N, D) may hold any number where nothing was seen.
    """
    F, K = pt.as_tensor_variable(F), pt.as_tensor_variable(K)
    terms, order = [], []
    for rows, columns in column_patterns(seen):
        quad, logdet, *_ = GaussianTerms()(K[np.ix_(rows, rows)], F[np.ix_(rows, columns)])
        terms.append(quad + logdet)
        order.append(columns)
    counts = seen.sum(axis=0)
    together = pt.concatenate(terms)[np.argsort(np.concatenate(order))]
    scale = pt.as_tensor_variable(scale, dtype="float64")
    return -0.5 * together - counts * (0.5 * np.log(2.0 * np.pi) + pt.log(scale))


def columns_logp(F: Any, K: Any, scale: Any = 1.0) -> Variable:
    """Log-density (D,) of each column of ``scale`` · F (N, D) under N(0, scale² K)."""
    F = pt.as_tensor_variable(F)
    scale = pt.as_tensor_variable(scale, dtype="float64")
    quad, logdet, *_ = GaussianTerms()(K, F)
    return -0.5 * (quad + logdet) - F.shape[0] * (0.5 * np.log(2.0 * np.pi) + pt.log(scale))


def total_logp(factor: Any, K: Any, *, n_columns: int, log_scale: float = 0.0) -> Variable:
    """Log-density of ``n_columns`` at once from a factor (N, M) with the same F Fᵀ.

    ``log_scale`` is the sum over the columns of the logarithm of their scale.
    """
    factor = pt.as_tensor_variable(factor)
    quad, logdet, *_ = GaussianTerms()(K, factor)
    N = factor.shape[0]
    return -0.5 * (quad.sum() + n_columns * (logdet + N * np.log(2.0 * np.pi))) - N * log_scale
