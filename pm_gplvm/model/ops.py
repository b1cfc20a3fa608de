"""What the package's own PyTensor Ops share: a symbolic form of every heavy step.

An Op here computes one heavy step with LAPACK and NumPy, and can also write the same step in
ordinary PyTensor (``symbolic``). The symbolic form is differentiated for derivatives beyond the
first, and replaces the Op for the numba and JAX backends, which must see the expression.

``perform`` may find in its output slots what it returned at the last call, and overwrite it: the
linker leaves it there only where nobody else can hold it. At N = 1000 fresh memory for every
N × N array would cost a fifth of the time.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pytensor import gradient
from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import in2out, node_rewriter

__all__ = ["GradientOp", "SymmetricGradient", "TwinOp", "reused"]


def reused(
    array: NDArray[np.float64] | None, shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> NDArray[np.float64]:
    """Return the array of an earlier call if it fits, else a new one; its content is arbitrary."""
    if array is not None and array.shape == shape and array.flags[order]:
        return array
    return np.empty(shape, order=order)


class TwinOp(Op):
    """An Op with a symbolic form."""

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        """Write the Op's outputs down in ordinary PyTensor."""
        raise NotImplementedError

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        """Differentiate the symbolic form; Ops with a formula of their own override this."""
        return partial_derivatives(self.symbolic, inputs, cotangents)


def partial_derivatives(
    written: Callable[..., list[Variable]],
    inputs: Sequence[Variable],
    cotangents: Sequence[Variable],
) -> list[Variable]:
    """Pull cotangents back through an expression, as if its inputs did not depend on each other."""
    fresh = [variable.type() for variable in inputs]
    known = {
        output: bar
        for output, bar in zip(written(*fresh), cotangents, strict=True)
        if not isinstance(bar.type, gradient.DisconnectedType)
    }
    derivatives = gradient.grad(
        None,
        wrt=fresh,
        known_grads=known,
        disconnected_inputs="ignore",
        return_disconnected="zero",
    )
    return list(clone_replace(derivatives, replace=dict(zip(fresh, inputs, strict=True))))


class GradientOp(TwinOp):
    """An Op whose last inputs, ``n_repeated`` of them, repeat what earlier Ops have computed.

    They save computing it twice, and are not differentiated: the derivative is in the other inputs.
    """

    n_repeated = 2

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Mark the repeated inputs as not differentiated."""
        n = len(node.outputs)
        return [[i < len(node.inputs) - self.n_repeated] * n for i in range(len(node.inputs))]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        """Differentiate the symbolic form, which is written without the repeated inputs."""
        repeated = [gradient.DisconnectedType()() for _ in range(self.n_repeated)]
        own = inputs[: len(inputs) - self.n_repeated]
        return [*super().pullback(own, outputs, cotangents), *repeated]


class SymmetricGradient(GradientOp):
    """A gradient in a symmetric matrix that may be asked for block by block, so that it is never stored."""

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> NDArray[np.float64]:
        """Compute [start:end, :end] from the numbers of the Op's inputs, as a new array."""
        raise NotImplementedError


@node_rewriter([TwinOp])
def _write_out(fgraph: Any, node: Apply) -> list[Variable]:
    """Replace an Op by its symbolic form."""
    return node.op.symbolic(*node.inputs)


# Right at the start, so that every later rewrite of those backends sees the plain graph.
optdb.register("pm_gplvm_write_out", in2out(_write_out), "numba", "jax", position=0.5)
