"""K of the latent positions as a PyTensor Op, a shell around :mod:`pm_gplvm.core.kernels`."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import (
    KERNELS,
    contract,
    contract_whole,
    fill,
    matrix,
    parse_kernel,
    pullback,
)
from pm_gplvm.model.ops import GradientOp, SymmetricGradient, TwinOp, reused


def _safe_sqrt(r2: Variable) -> Variable:
    """Square root whose derivative at 0 is 0: it is always multiplied by zₙ - zₙ there."""
    positive = pt.gt(r2, 0.0)
    return pt.switch(positive, pt.sqrt(pt.switch(positive, r2, 1.0)), 0.0)


SYMBOLIC = SimpleNamespace(**{**vars(pt), "sqrt": _safe_sqrt})
"""PyTensor as the ``xp`` of kernels."""


class Covariance(TwinOp):
    """K and its slope from the scaled positions.

    Inputs: ``Z`` (N, Q), the positions in units of the lengthscale; ``amplitude``, ``bias`` and
    ``sigma``, three scalars, all standard deviations; for a sum of a stationary and a linear part
    also ``v`` () or (Q,), the standard deviation of the linear part's weights per unit of Z (of
    the linear kernel alone that is ``amplitude``). Outputs: ``K`` (N, N), symmetric, and
    ``slope`` (N, N), proportional to amplitude² κ'(r²), which the gradient needs: its lower
    blocks (see :func:`pm_gplvm.core.kernels.row_blocks`), and nothing where K itself suffices (linear
    kernel, RBF alone).
    """

    __props__ = ("kernel",)

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.entry = KERNELS[kernel]

    def make_node(self, Z: Any, amplitude: Any, bias: Any, sigma: Any, *linear: Any) -> Apply:
        Z = pt.as_tensor_variable(Z, dtype="float64", ndim=2)
        scalars = [
            pt.as_tensor_variable(v, dtype="float64", ndim=0) for v in (amplitude, bias, sigma)
        ]
        if len(linear) != self.entry.summed:
            raise TypeError(f"kernel {self.kernel!r} takes {4 + self.entry.summed} inputs.")
        N = Z.type.shape[0]
        M = N if self.entry.keeps_slope else 0
        return Apply(
            self,
            [Z, *scalars, *(pt.as_tensor_variable(v, dtype="float64") for v in linear)],
            [pt.tensor(shape=(N, N), dtype="float64"), pt.tensor(shape=(M, M), dtype="float64")],
        )

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        N = shapes[0][0]
        M = N if self.entry.keeps_slope else pt.as_tensor_variable(0)
        return [(N, N), (M, M)]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        N = len(inputs[0])
        M = N if self.entry.keeps_slope else 0
        K = storage[0][0] = reused(storage[0][0], (N, N))
        slope = storage[1][0] = reused(storage[1][0], (M, M))
        fill(self.entry, *inputs, K=K, slope=slope)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        return matrix(self.entry, *inputs, xp=SYMBOLIC)

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        K, slope = outputs
        G, G_slope = cotangents
        if not isinstance(G_slope.type, DisconnectedType):
            return super().pullback(inputs, outputs, cotangents)
        source, parts = None, [G]
        if G.owner is not None and isinstance(G.owner.op, SymmetricGradient):
            # The likelihood's own gradient is read block by block and never written as a whole.
            source, parts = G.owner.op, G.owner.inputs
        return list(_CovariancePullback(self.kernel, source)(*inputs, *parts, K, slope))


class _Written:
    """A matrix that is there already, read as a :class:`SymmetricGradient` is."""

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> Array:
        (G,) = inputs
        return np.asarray(0.5 * (G[start:end, :end] + G[:end, start:end].T))


class _CovariancePullback(GradientOp):
    """∂L/∂(Z, amplitude, bias, sigma, ...) from G = ∂L/∂K.

    Inputs: those of :class:`Covariance`, then G or, with a ``source``, the inputs of the Op that
    makes it; last ``K`` and ``slope``, what :class:`Covariance` has computed at the same inputs,
    so that no exponential is taken twice.
    """

    __props__ = ("kernel", "source")

    def __init__(self, kernel: str, source: SymmetricGradient | None = None) -> None:
        self.kernel = kernel
        self.source = source
        self.entry = KERNELS[kernel]
        self.n_own = 4 + self.entry.summed
        self.n_repeated = 2 + (source.n_repeated if source else 0)

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [v.type() for v in inputs[: self.n_own]])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return list(shapes[: self.n_own])

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        own, (*parts, K, slope) = inputs[: self.n_own], inputs[self.n_own :]
        lower_block = partial((self.source or _Written()).lower_block, parts)
        contraction = contract(self.entry, own[0], lower_block, K, slope, own[2])
        for slot, value in zip(storage, pullback(self.entry, own, contraction), strict=True):
            slot[0] = np.asarray(value, dtype=np.float64)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        own, parts = inputs[: self.n_own], inputs[self.n_own :]
        (G,) = self.source.symbolic(*parts) if self.source else parts
        K, slope = matrix(self.entry, *own, xp=SYMBOLIC)
        whole = contract_whole(self.entry, own[0], G, K, slope, own[2], xp=SYMBOLIC)
        return pullback(self.entry, own, whole)


def covariance(
    kernel: str,
    X: Any,
    *,
    lengthscale: Any = 1.0,
    amplitude: Any = 1.0,
    weight: Any = 1.0,
    sigma: Any = 0.0,
    bias: Any = 0.0,
) -> Variable:
    """Write down K for latent positions X.

    Parameters
    ----------
    kernel : {"rbf", "matern32", "matern52", "cauchy", "linear"}, or one of the first four ``+ linear``
        Covariance function: exp(-r²/2), (1 + √3 r) exp(-√3 r), (1 + √5 r + 5r²/3) exp(-√5 r),
        1 / (1 + r²/2) with r = ‖x - x'‖ / lengthscale (Rasmussen & Williams 2006, eq. 4.9, 4.17 and
        4.19 with α = 1), or x·x'.
        "rbf + linear" is amplitude² exp(-r²/2) + weight² x·x'.
    X : tensor_like, dims (obs, latent), shape (N, Q)
        Latent positions.
    lengthscale : tensor_like, shape () or (Q,)
        In units of X; one number a latent dimension makes it ARD.
    amplitude, sigma, bias : tensor_like, shape ()
        Standard deviations of the signal, the white noise and a constant common to all rows.
    weight : tensor_like, shape ()
        Standard deviation of the slopes of a linear part beside a stationary one, per unit of X.

    Returns
    -------
    TensorVariable, shape (N, N)

    Examples
    --------
    >>> import numpy as np
    >>> covariance("rbf", np.zeros((2, 1)), sigma=1.0).eval().tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    Z = pt.as_tensor_variable(X, dtype="float64") / lengthscale
    entry = parse_kernel(kernel)[0]
    # As the graph's own product even of two numbers: describe reads it.
    linear = [pt.as_tensor_variable(weight) * lengthscale] if entry.summed else []
    return Covariance(entry.name)(Z, amplitude, bias, sigma, *linear)[0]
