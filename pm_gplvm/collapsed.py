"""The collapsed bound as a PyTensor Op."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.replace import clone_replace

from pm_gplvm.bound import JITTER, bound_and_gradient
from pm_gplvm.ops import TwinOp, reused
from pm_gplvm.psi import kept_shape
from pm_gplvm.rules import point_rule
from pm_gplvm.twin import symbolic_bound, symbolic_cross, symbolic_statistics

__all__ = ["CollapsedBound"]


class CollapsedBound(TwinOp):
    """The bound as an Op that computes its gradient along with it.

    Inputs: ``U``, ``S`` (N, Q) and ``W`` (M, Q), in units of the lengthscale, three scalars
    ``amplitude``, ``bias`` and ``sigma``, and a factor ``F`` (N, R) with the FFᵀ of the table, of
    which no derivative is taken. Outputs: the bound, its gradient in the first six, and memory
    that the next evaluation works in.
    """

    __props__ = ("kernel", "n_columns", "points")

    def __init__(self, kernel: str, n_columns: int, points: bool = False) -> None:
        self.kernel, self.n_columns, self.points = kernel, n_columns, points

    def make_node(self, *inputs: Any) -> Apply:
        ndims = (2, 2, 2, 0, 0, 0, 2)
        given = [
            pt.as_tensor_variable(v, dtype="float64", ndim=n)
            for v, n in zip(inputs, ndims, strict=True)
        ]
        return Apply(self, given, [pt.dscalar(), *(v.type() for v in given[:6]), pt.dmatrix()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [(), *shapes[:6], (node.outputs[-1].shape[0], node.outputs[-1].shape[1])]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        U, S, W, amplitude, bias, sigma, F = inputs
        shape = kept_shape(len(U), len(W)) if self.kernel == "rbf" and not self.points else (0, 0)
        kept = storage[-1][0] = reused(storage[-1][0], shape)
        value, gradient = bound_and_gradient(
            self.kernel,
            (U, S, W),
            F,
            amplitude=float(amplitude),
            bias=float(bias),
            sigma=float(sigma),
            n_columns=self.n_columns,
            rule=point_rule(U.shape[1]) if self.points else None,
            kept=kept,
        )
        for slot, result in zip(storage, (value, *gradient), strict=False):
            slot[0] = np.asarray(result, dtype=np.float64)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        # Fresh inputs: only the bound's own partial derivatives are wanted.
        fresh = [variable.type() for variable in inputs]
        value = self._written_out(*fresh)
        gradient = pt.grad(
            value, fresh[:6], disconnected_inputs="ignore", return_disconnected="zero"
        )
        known = dict(zip(fresh, inputs, strict=True))
        return [*clone_replace([value, *gradient], replace=known), pt.zeros((0, 0))]

    def _written_out(self, *inputs: Variable) -> Variable:
        U, S, W, amplitude, bias, sigma, F = inputs
        a2, b2, N = amplitude**2, bias**2, U.shape[0]
        psi0, psi1, psi2 = symbolic_statistics(self.kernel, U, S, W, points=self.points)
        sums = psi1.sum(axis=0)
        whole = (
            a2 * psi0 + N * b2,
            a2 * psi1 + b2,
            a2**2 * psi2 + a2 * b2 * (sums[:, None] + sums) + N * b2**2,
        )
        K = a2 * (symbolic_cross(self.kernel, W, W) + JITTER * pt.eye(W.shape[0])) + b2
        return symbolic_bound(K, whole, F, sigma=sigma, n_columns=self.n_columns)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [*([[True] * 7 + [False]] * 6), [False] * 8]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        bar, *others = cotangents
        if not all(isinstance(other.type, DisconnectedType) for other in others):
            raise NotImplementedError("CollapsedBound has no second derivative.")
        return [*(bar * gradient for gradient in outputs[1:7]), DisconnectedType()()]
