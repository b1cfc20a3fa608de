"""K of the latent positions as a PyTensor Op, and its gradient by contraction.

With G = ∂L/∂K the gradient of any scalar L is

    ∂L/∂zₙ = 2 Σⱼ (Wₙⱼ + Wⱼₙ)(zₙ - zⱼ),    W = G ∘ amplitude² κ'(r²),    z = x / lengthscale:

N × N arrays and a product with Z. No N × N × Q array is ever formed. The linear part
weight² x·x' is (v ∘ z)·(v ∘ z') with v = weight · lengthscale, and has

    ∂L/∂zₙ_q = v_q² [(G + Gᵀ) Z]ₙ_q,    ∂L/∂v_q = v_q Σₙ zₙ_q [(G + Gᵀ) Z]ₙ_q.

Z is not centred for it: the origin of X is part of the model.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from pm_gplvm.checks import Array
from pm_gplvm.kernels import KERNELS, Kernel, parse_kernel
from pm_gplvm.ops import GradientOp, SymmetricGradient, TwinOp, reused, row_blocks

__all__ = ["SYMBOLIC", "Covariance", "covariance"]


def _safe_sqrt(r2: Variable) -> Variable:
    """Square root whose derivative at 0 is 0: it is always multiplied by zₙ - zₙ there."""
    positive = pt.gt(r2, 0.0)
    return pt.switch(positive, pt.sqrt(pt.switch(positive, r2, 1.0)), 0.0)


SYMBOLIC = SimpleNamespace(**{**vars(pt), "sqrt": _safe_sqrt})


def _zero_diagonal(A: Variable) -> Variable:
    return A * (1.0 - pt.eye(A.shape[0]))


class Covariance(TwinOp):
    """K and its slope from the scaled positions.

    Inputs: ``Z`` (N, Q), the positions in units of the lengthscale; ``amplitude``, ``bias`` and
    ``sigma``, three scalars, all standard deviations; for a sum of a stationary and a linear part
    also ``v`` () or (Q,), the standard deviation of the linear part's weights per unit of Z (of
    the linear kernel alone that is ``amplitude``). Outputs: ``K`` (N, N), symmetric, and
    ``slope`` (N, N), proportional to amplitude² κ'(r²), which the gradient needs: its lower
    blocks (see :func:`pm_gplvm.ops.row_blocks`), and nothing where K itself tells it (linear
    kernel, RBF alone).
    """

    __props__ = ("kernel",)

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.entry = KERNELS[kernel]
        self.keeps_slope = self.entry.has_slope or self.entry.summed

    def make_node(self, Z: Any, amplitude: Any, bias: Any, sigma: Any, *linear: Any) -> Apply:
        Z = pt.as_tensor_variable(Z, dtype="float64", ndim=2)
        scalars = [
            pt.as_tensor_variable(v, dtype="float64", ndim=0) for v in (amplitude, bias, sigma)
        ]
        if len(linear) != self.entry.summed:
            raise TypeError(f"kernel {self.kernel!r} takes {4 + self.entry.summed} inputs.")
        N = Z.type.shape[0]
        M = N if self.keeps_slope else 0
        return Apply(
            self,
            [Z, *scalars, *(pt.as_tensor_variable(v, dtype="float64") for v in linear)],
            [pt.tensor(shape=(N, N), dtype="float64"), pt.tensor(shape=(M, M), dtype="float64")],
        )

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        N = shapes[0][0]
        M = N if self.keeps_slope else pt.as_tensor_variable(0)
        return [(N, N), (M, M)]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        Z, amplitude, bias, sigma, *linear = inputs
        N = len(Z)
        K = storage[0][0] = reused(storage[0][0], (N, N))
        M = N if self.keeps_slope else 0
        slope = storage[1][0] = reused(storage[1][0], (M, M))
        if self.entry.scaled is None:
            np.dot(Z, (amplitude**2 * Z).T, out=K)
        else:
            # The linear part joins each block while it is in the cache.
            factor = Z * linear[0] if linear else None
            _fill(self.entry, Z, amplitude, K, slope, factor)
        if bias != 0.0:
            K += bias**2
        K.flat[:: N + 1] += sigma**2

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        Z, amplitude, bias, sigma, *linear = inputs
        noise = sigma**2 * pt.eye(Z.shape[0])
        if self.entry.scaled is None:
            return [amplitude**2 * Z @ Z.T + bias**2 + noise, pt.zeros((0, 0))]
        Zc = Z - Z.mean(axis=0)
        norms = (Zc**2).sum(axis=1)
        r2 = _zero_diagonal(pt.maximum(norms[:, None] + norms[None, :] - 2.0 * Zc @ Zc.T, 0.0))
        correlation, derivative = self.entry.scaled(self.entry.unit * r2, 0.0, SYMBOLIC)
        K = amplitude**2 * correlation + bias**2 + noise
        if linear:
            factor = Z * linear[0]
            K = K + factor @ factor.T
        if not self.keeps_slope:
            return [K, pt.zeros((0, 0))]
        return [K, amplitude**2 * (derivative if self.entry.has_slope else correlation)]

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
        pullback = _CovariancePullback(self.kernel, source)
        return list(pullback(*inputs, *parts, K, slope))


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
        Z, amplitude, bias, sigma, *linear = inputs[: self.n_own]
        *parts, K, slope = inputs[self.n_own :]
        lower_block = partial((self.source or _Written()).lower_block, parts)
        GZ1, WZ1, overlap, trace = self._contract(Z, lower_block, K, slope, bias)
        total = GZ1[:, -1].sum()
        dZ, dv = 0.0, 0.0
        if self.entry.linear:
            v = linear[0] if linear else amplitude
            dZ, dv = _linear_gradient(Z, 2.0 * GZ1[:, :-1], v)
        share = np.sum(Z * dZ)  # twice the linear part's of Σ G ∘ K
        if self.entry.scaled is None:
            damplitude = dv
        else:
            dZ = dZ + 4.0 * (WZ1[:, -1:] * Z - WZ1[:, :-1])
            if self.entry.has_slope or not linear:
                # amplitude² κ is K less its other parts, so K's own derivative needs no κ.
                overlap -= bias**2 * total + sigma**2 * trace + 0.5 * share
            damplitude = 2.0 * overlap / amplitude
        results = [dZ, damplitude, 2.0 * bias * total, 2.0 * sigma * trace]
        results += [dv] if linear else []
        for slot, value in zip(storage, results, strict=True):
            slot[0] = np.asarray(value, dtype=np.float64)

    def _contract(
        self, Z: Array, lower_block: Callable[[int, int], Array], K: Array, slope: Array, bias: Any
    ) -> tuple[Array, Array, Any, Any]:
        """G [Z, 1] if a part needs it, W [Z, 1], Σ G ∘ K and tr G; all by lower blocks.

        W is G ∘ amplitude² κ'. Of a sum of the RBF and a linear part the third is Σ G ∘ amplitude² κ.
        """
        N = len(Z)
        Z1 = np.ones((N, Z.shape[1] + 1))  # the column of ones sums W's rows
        Z1[:, :-1] = Z
        GZ1, WZ1 = np.zeros_like(Z1), np.zeros_like(Z1)
        overlap = trace = 0.0
        has_slope = self.entry.has_slope
        profile = slope if has_slope or self.entry.summed else K
        needs_G = bias != 0.0 or self.entry.linear
        for start, end in row_blocks(N):
            G = lower_block(start, end)
            trace += G[:, start:].trace()
            if needs_G:
                _add_symmetric(GZ1, G, Z1, start, end)
            if has_slope:
                GK = G * K[start:end, :end]
                overlap += 2.0 * GK.sum() - GK[:, start:].sum()
            if self.entry.scaled is not None:
                W = np.multiply(G, profile[start:end, :end])
                _add_symmetric(WZ1, W, Z1, start, end)
        if not has_slope:
            # κ' = c κ; alone W = c G ∘ (K - bias²), whose diagonal does not matter, as zₙ - zₙ = 0.
            overlap = WZ1[:, -1].sum()
            if bias != 0.0 and not self.entry.summed:
                WZ1 -= bias**2 * GZ1
        return GZ1, self.entry.rate * WZ1, overlap, trace

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        Z, amplitude, bias, sigma, *linear = inputs[: self.n_own]
        parts = inputs[self.n_own :]
        if self.source is None:
            (G,) = parts
        else:
            (G,) = self.source.symbolic(*parts)
        K, slope = Covariance(self.kernel).symbolic(Z, amplitude, bias, sigma, *linear)
        total, trace = G.sum(), pt.trace(G)
        dZ: Any = 0.0
        if self.entry.linear:
            v = linear[0] if linear else amplitude
            dZ, dv = _linear_gradient(Z, G @ Z + G.T @ Z, v)
        if self.entry.scaled is None:
            damplitude = dv
        else:
            signal = (G * K).sum() - bias**2 * total - sigma**2 * trace
            if linear:
                # Not by dv, itself an output: then not all of its own cotangent would be counted.
                signal = signal - 0.5 * (Z * dZ).sum()
            elif not self.entry.has_slope:
                slope = K - bias**2  # the diagonal does not matter
            W = self.entry.rate * G * slope
            weights = W.sum(axis=0) + W.sum(axis=1)
            dZ = dZ + 2.0 * (weights[:, None] * Z - W @ Z - W.T @ Z)
            damplitude = 2.0 * signal / amplitude
        gradients = [dZ, damplitude, 2.0 * bias * total, 2.0 * sigma * trace]
        return [*gradients, dv] if linear else gradients


def _linear_gradient(Z: Any, GZ: Any, v: Any) -> tuple[Any, Any]:
    """Gradients of the linear part in Z and v, from (G + Gᵀ) Z."""
    along = (Z * GZ).sum(axis=0) if v.ndim else (Z * GZ).sum()
    return v**2 * GZ, v * along


def _add_symmetric(product: Array, block: Array, Z1: Array, start: int, end: int) -> None:
    """Add to A Z1 what one lower block of a symmetric A contributes, its mirror image included."""
    product[start:end] += block @ Z1[:end]
    product[:start] += block[:, :start].T @ Z1[start:end]


# The exponent is a profile's own array, so that it may be overwritten.
_NUMPY = SimpleNamespace(exp=lambda x: np.exp(x, out=x), sqrt=np.sqrt, log=np.log)


def _fill(
    entry: Kernel, Z: Array, amplitude: Any, K: Array, slope: Array, factor: Array | None
) -> None:
    """Write amplitude² κ + factor factorᵀ, mirrored, and the lower blocks of the slope if kept."""
    if entry.scaled is None:
        raise TypeError(f"kernel {entry.name!r} is no function of distances.")
    N, Q = Z.shape
    Z = Z - Z.mean(axis=0)  # distances by norms lose digits when the origin is far away
    # One product gives unit (‖z‖² + ‖z'‖² - 2 z·z') at once.
    left, right = np.ones((N, Q + 2)), np.ones((Q + 2, N))
    left[:, :Q], right[:Q] = -2.0 * entry.unit * Z, Z.T
    left[:, Q] = right[Q + 1] = entry.unit * np.einsum("nq,nq->n", Z, Z)
    log_variance = 2.0 * np.log(np.abs(amplitude))
    for start, end in row_blocks(N):
        s = left[start:end] @ right[:, :end]
        np.maximum(s, 0.0, out=s)
        s[:, start:].flat[:: end - start + 1] = 0.0
        block, derivative = entry.scaled(s, log_variance, _NUMPY)
        if factor is not None:
            derivative = block if derivative is None else derivative
            block = block + factor[start:end] @ factor[:end].T
        K[start:end, :end] = block
        K[:start, start:end] = block[:, :start].T
        if derivative is not None:
            slope[start:end, :end] = derivative


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
    kernel : {"rbf", "matern32", "matern52", "linear"}, or one of the first three ``+ linear``
        Covariance function: exp(-r²/2), (1 + √3 r) exp(-√3 r), (1 + √5 r + 5r²/3) exp(-√5 r) with
        r = ‖x - x'‖ / lengthscale (Rasmussen & Williams 2006, eq. 4.9 and 4.17), or x·x'.
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
