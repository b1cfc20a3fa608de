"""How graphs are compiled: one policy, in one place.

What a user waits for is the compiler. A graph written out as one function of NumPy calls is
ready in half a second, and since the heavy steps are a few Ops on LAPACK it runs at LAPACK's
speed but for some 0.2 ms of interpreter an evaluation. Numba spares those, after a minute and a
half of compilation; a MAP or a usual run of NUTS never earns that back.
"""

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Literal

import numpy as np
import pytensor
from numpy.typing import NDArray
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.traversal import ancestors
from pytensor.link.basic import JITLinker
from pytensor.link.utils import fgraph_to_python
from pytensor.scalar.basic import Add, Mul, Neg, Sub, Switch, TrueDiv
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.random.op import RNGConsumerOp
from pytensor.tensor.utils import import_func_from_string

from pm_gplvm.model.ops import TwinOp

Backend = Literal["python", "numba", "jax"]


def compile_mode(backend: Backend = "python") -> Mode:
    """Return the PyTensor mode of a backend.

    It may be handed to PyMC's own functions too, which otherwise compile with numba:
    ``pm.sample_prior_predictive(model=model, compile_kwargs={"mode": gplvm.model.compile_mode()})``.

    Parameters
    ----------
    backend : {"python", "numba", "jax"}, default "python"

    Returns
    -------
    pytensor.compile.mode.Mode

    Raises
    ------
    ValueError
        If the backend is unknown.

    Examples
    --------
    >>> type(compile_mode()).__name__
    'Mode'
    """
    if backend == "python":
        return Mode(linker=NumpyLinker(), optimizer="fast_run")
    if backend in ("numba", "jax"):
        return get_mode(backend.upper())
    raise ValueError(f"backend must be 'python', 'numba' or 'jax', got {backend!r}.")


_OWN_ARGUMENTS = {"inputs", "outputs", "on_unused_input"}  # what the functions here give themselves


def resolve_mode(backend: Backend, compile_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments for ``pytensor.function``: the user's own, the backend's mode otherwise."""
    known = inspect.signature(pytensor.function).parameters.keys() - _OWN_ARGUMENTS
    if unknown := [str(name) for name in compile_kwargs or {} if name not in known]:
        raise ValueError(
            f"compile_kwargs must name arguments of pytensor.function ({', '.join(sorted(known))}), got "
            f"{', '.join(unknown)}."
        )
    return {"mode": compile_mode(backend), **(compile_kwargs or {})}


def is_random(*variables: Variable) -> bool:
    """Whether one of them depends on a random variable."""
    return any(v.owner and isinstance(v.owner.op, RNGConsumerOp) for v in ancestors(variables))


def constants(*variables: Variable) -> list[NDArray[Any]]:
    """Values of variables that depend on nothing but data."""
    return [np.asarray(v) for v in pytensor.function([], list(variables), mode="FAST_COMPILE")()]


# The linker: a graph as one Python function of NumPy calls. PyTensor's own Python linker spends some
# 13 µs on every node, which for the few dozen scalars of a model (priors, transforms) is more than a
# Cholesky at N = 100 takes. Here an elementwise node is a bare ufunc and costs below 1 µs. At N = 100,
# 8 columns and kernel "rbf + linear" a value and gradient take 0.7 ms so, and 1.8 by
# ``Mode("py").excluding("fusion")``.


def _choose(condition: Any, first: Any, second: Any) -> np.float64:
    return np.float64(first if condition else second)


# On single numbers Python's operators take a tenth of a ufunc's time.
_OPERATORS: dict[type, Callable[..., Any]] = {
    Add: lambda first, *others: reduce(operator.add, others, first),
    Mul: lambda first, *others: reduce(operator.mul, others, first),
    Neg: operator.neg,
    Sub: operator.sub,
    TrueDiv: operator.truediv,
}


def _numpy_function(node: Apply) -> Callable[..., Any] | None:
    """NumPy's own function for a sum or an elementwise node, where it gives the very same type."""
    op = node.op
    if isinstance(op, Sum) and node.inputs[0].type.dtype == op.acc_dtype == "float64":
        return partial(np.add.reduce, axis=op.axis)
    if not isinstance(op, Elemwise) or len(node.outputs) != 1:
        return None
    wanted = node.outputs[0].type.dtype
    given = [variable.type.dtype for variable in node.inputs]
    # With a float64 among the inputs NumPy's promotion cannot end elsewhere.
    if not (wanted == "bool" or (wanted == "float64" and "float64" in given)):
        return None
    scalar = wanted == "float64" and all(v.type.ndim == 0 for v in node.inputs)
    if isinstance(op.scalar_op, Switch):
        return _choose if scalar else np.where
    if scalar and type(op.scalar_op) in _OPERATORS:
        return _OPERATORS[type(op.scalar_op)]
    spec = op.nfunc_spec
    if spec is None:
        return None
    function = import_func_from_string(spec[0])
    if not isinstance(function, np.ufunc):
        return None
    if len(given) == spec[1]:
        return function
    if isinstance(op.scalar_op, Add | Mul) and len(given) > 2:
        return lambda *inputs: reduce(function, inputs)
    return None


def _keeps_to_itself(fgraph: FunctionGraph, node: Apply) -> list[bool]:
    """Whether nobody but the graph's own passing computations ever holds each of the outputs.

    True where all that read it are Ops that return new arrays, never views of their inputs.
    """
    return [
        isinstance(node.op, TwinOp)
        and all(isinstance(reader.op, TwinOp | Elemwise) for reader, _ in fgraph.clients[out])
        for out in node.outputs
    ]


def _perform(fgraph: FunctionGraph, node: Apply) -> Callable[..., Any]:
    """Any other node, by the Op's own Python implementation."""
    storage: dict[Any, list[Any]] = {v: [None] for v in (*node.inputs, *node.outputs)}
    computed = {v: [v in node.inputs] for v in storage}
    slots = [storage[v] for v in node.inputs]
    results = [storage[v] for v in node.outputs]
    arrays = [hasattr(v.type, "broadcastable") for v in node.inputs]
    op, keep, single = node.op, _keeps_to_itself(fgraph, node), len(results) == 1
    # An Op that makes a thunk of its own (a loop, a branch) may have no ``perform``.
    plain = type(op).make_thunk is Op.make_thunk and type(op).make_py_thunk is Op.make_py_thunk
    if plain:
        op.prepare_node(node, storage, computed, "py")
        run = None
    else:
        run = op.make_thunk(node, storage, computed, [], impl="py")

    def call(*inputs: Any) -> Any:
        values = [
            np.asarray(value) if is_array and type(value) is not np.ndarray else value
            for value, is_array in zip(inputs, arrays, strict=True)
        ]
        if run is None:
            op.perform(node, values, results)
        else:
            for slot, value in zip(slots, values, strict=True):
                slot[0] = value
            run()
        answer = results[0][0] if single else tuple([slot[0] for slot in results])
        for slot, own in zip(results, keep, strict=True):
            if not own:
                slot[0] = None  # or the Op might overwrite what was returned
        return answer

    return call


class NumpyLinker(JITLinker):
    """Write a graph out as one Python function."""

    required_rewrites = ("minimum_compile", "py_only")
    incompatible_rewrites = ("cxx_only", "fusion", "inplace", "BlasOpt")

    def fgraph_convert(
        self,
        fgraph: FunctionGraph,
        order: Sequence[Apply],
        input_storage: Any,
        output_storage: Any,
        storage_map: Any,
        **kwargs: Any,
    ) -> Callable[..., Any]:
        return fgraph_to_python(
            fgraph,
            lambda op, node, **_: _numpy_function(node) or _perform(fgraph, node),
            order=order,
            storage_map=storage_map,
        )

    def create_thunk_inputs(self, storage_map: Mapping[Any, list[Any]]) -> list[Any]:
        return [storage_map[variable] for variable in self.fgraph.inputs]

    def jit_compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        arrays = [hasattr(v.type, "broadcastable") for v in self.fgraph.outputs]

        def run(*inputs: Any) -> list[Any]:
            with np.errstate(all="ignore"):
                outputs = fn(*inputs)
            return [
                np.asarray(value) if is_array else value
                for value, is_array in zip(outputs, arrays, strict=True)
            ]

        return run
