"""What the package's own PyTensor Ops share: a symbolic twin for every heavy step.

An Op here computes one heavy step with LAPACK and NumPy, and can also write the same step down
in ordinary PyTensor (``symbolic``). The twin serves twice: it is differentiated where a
derivative beyond the first is asked for, and it replaces the Op where a compiler needs to see
through it (the numba and JAX backends).
"""

from collections.abc import Sequence
from typing import Any

from pytensor import gradient
from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import in2out, node_rewriter

__all__ = ["TwinOp"]


class TwinOp(Op):  # type: ignore[misc]
    """An Op with a symbolic twin."""

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        """Write the Op's outputs down in ordinary PyTensor."""
        raise NotImplementedError

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        """Differentiate the twin; Ops with a formula of their own override this."""
        # Fresh inputs: the given ones may depend on each other, and only the Op's own
        # partial derivatives are wanted.
        fresh = [variable.type() for variable in inputs]
        known = {
            twin: bar
            for twin, bar in zip(self.symbolic(*fresh), cotangents, strict=True)
            if not isinstance(bar.type, gradient.DisconnectedType)
        }
        derivatives = gradient.grad(
            None,
            wrt=fresh,
            known_grads=known,
            disconnected_inputs="ignore",
            return_disconnected="zero",
        )
        return list(
            clone_replace(derivatives, replace=dict(zip(fresh, inputs, strict=True)))
        )


@node_rewriter([TwinOp])
def _write_out(fgraph: Any, node: Apply) -> list[Variable]:
    """Replace a twin Op by its symbolic form."""
    return node.op.symbolic(*node.inputs)  # type: ignore[no-any-return]


# Right at the start, so that every later rewrite of those backends sees the plain graph.
optdb.register("pm_gplvm_write_out", in2out(_write_out), "numba", "jax", position=0.5)
