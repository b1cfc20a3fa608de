"""The log-density of Gaussian columns of which entries are missing, and its gradient.

Columns that have the same rows o observed share K_oo, a part of K, and its factorisation:

    L = -½ Σ_g [ D_g n_g ln 2π + D_g ln|K_g| + tr(K_g⁻¹ F_g F_gᵀ) ],    K_g = K[o_g, o_g],
    ∂L/∂K_g = ½ (K_g⁻¹ F_g F_gᵀ K_g⁻¹ - D_g K_g⁻¹),

Lawrence's formula (see :mod:`pm_gplvm.gaussian`) for each pattern g of D_g columns, added up at the
rows it has. One evaluation takes Σ_g n_g³ operations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable
from scipy.linalg import blas

from pm_gplvm.checks import Array
from pm_gplvm.gaussian import GaussianTerms, gram_factor
from pm_gplvm.inversion import invert, mirror
from pm_gplvm.ops import TwinOp, reused
from pm_gplvm.patterns import Patterns, column_patterns

__all__ = ["PatternTerms", "incomplete_columns_logp", "incomplete_total_logp"]


class PatternTerms(TwinOp):
    """-½ Σ_g (tr(K_g⁻¹ F_g F_gᵀ) + D_g ln|K_g|), and what its gradient needs.

    Inputs: ``K`` (N, N), of which the lower triangle is read, and ``F`` (N, M), 0 where nothing was
    observed. Outputs: ``value`` (); ``slope`` (N, N), its derivative in K; ``weights`` (N, M), K_g⁻¹F_g
    in the rows of each pattern: both kept for the pullback. A K_g that is not positive definite gives
    a value of -inf.

    Parameters
    ----------
    patterns : Patterns
        Of the columns of F.
    counts : ndarray, shape (G,)
        D_g, the number of columns that those of F stand for.
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
        slope.fill(0.0)
        weights.fill(0.0)
        value = 0.0
        for (rows, columns), count in zip(self.patterns, self.counts, strict=True):
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
        storage[0][0] = np.asarray(value)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F = inputs
        seen = self.patterns.seen.astype(np.float64)
        member = (self.patterns.group == np.arange(len(seen))[:, None]).astype(np.float64)
        counts = np.array(self.counts, dtype=np.float64)
        both = seen[:, :, None] * seen[:, None, :]
        # Rows that are not seen are put in as independent and of variance 1: they add nothing.
        alone = np.eye(seen.shape[1]) * (1.0 - seen)[:, None, :]
        chol = pt.linalg.cholesky(K[None] * both + alone, lower=True, on_error="nan")
        logdet = 2.0 * pt.log(pt.diagonal(chol, axis1=-2, axis2=-1)).sum(axis=-1)
        identity = pt.constant(np.broadcast_to(np.eye(seen.shape[1]), both.shape))
        inverse = pt.linalg.cho_solve((chol, True), identity, b_ndim=2)
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
    """Log-density of all that was observed of ``scale`` · F under N(0, scale² K).

    Parameters
    ----------
    F : ndarray, shape (N, D)
        Standardised, NaN where missing.
    K : tensor_like, shape (N, N)
    scale : ndarray, shape (D,)

    Returns
    -------
    TensorVariable, shape ()
    """
    seen = ~np.isnan(F)
    patterns = column_patterns(seen)
    factors, group, counts = [], [], []
    for g, (rows, columns) in enumerate(patterns):
        short = gram_factor(F[np.ix_(rows, columns)])
        factors.append(np.zeros((len(F), short.shape[1])))
        factors[-1][rows] = short
        group += [g] * short.shape[1]
        counts.append(len(columns))
    terms = PatternTerms(Patterns(patterns.seen, np.array(group)), tuple(counts))
    value, *_ = terms(K, pytensor.shared(np.concatenate(factors, axis=1), name="factors"))
    units = 0.5 * seen.sum() * np.log(2.0 * np.pi) + seen.sum(axis=0) @ np.log(scale)
    return value - float(units)


def incomplete_columns_logp(F: Any, K: Any, seen: NDArray[np.bool_], scale: Any = 1.0) -> Variable:
    """Log-density of what was observed of each column of ``scale`` · F under N(0, scale² K).

    Parameters
    ----------
    F : tensor_like, shape (N, D)
        Standardised data, any number where missing.
    K : tensor_like, shape (N, N)
    seen : ndarray of bool, shape (N, D)
    scale : tensor_like, shape () or (D,)

    Returns
    -------
    TensorVariable, shape (D,)
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
