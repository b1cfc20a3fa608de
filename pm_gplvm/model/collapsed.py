"""The collapsed bound as a PyTensor Op."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.psi import CLOSED_FORM, ONE_NODE, Quadrature, cubature, workspace_shape
from pm_gplvm.model.covariances import SYMBOLIC
from pm_gplvm.model.ops import TwinOp, partial_derivatives, reused


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

    def quadrature(self, Q: int) -> Quadrature | None:
        """Return that of points or of q in Q dimensions, None where there is a closed form."""
        if self.points:
            return ONE_NODE
        return None if self.kernel in CLOSED_FORM else cubature(Q)

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        U, S, W, amplitude, bias, sigma, F = inputs
        quadrature = self.quadrature(U.shape[1])
        by_blocks = self.kernel == "rbf" and quadrature is None
        shape = workspace_shape(len(U), len(W)) if by_blocks else (0, 0)
        workspace = storage[-1][0] = reused(storage[-1][0], shape)
        whole = InducingKernel(
            self.kernel,
            (U, S, W),
            float(amplitude),
            float(bias),
            quadrature=quadrature,
            workspace=workspace,
        )
        value, gradient = whole.bound_and_gradient(F, float(sigma), self.n_columns)
        for slot, result in zip(storage, (value, *gradient), strict=False):
            slot[0] = np.asarray(result, dtype=np.float64)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        def written(*inputs: Variable) -> list[Variable]:
            U, S, W, amplitude, bias, sigma, F = inputs
            quadrature = self.quadrature(U.type.shape[1])
            whole = InducingKernel(
                self.kernel, (U, S, W), amplitude, bias, quadrature=quadrature, xp=SYMBOLIC
            )
            return [whole.bound(F, sigma, self.n_columns)]

        gradient = partial_derivatives(written, inputs, [pt.constant(1.0)])[:6]
        return [*written(*inputs), *gradient, pt.zeros((0, 0))]

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
