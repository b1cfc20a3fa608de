"""A model's priors, and its kernel's parameters, as machine code that compiled loops call by address.

PyTensor writes it for any model. The likelihood is not in it: :mod:`pm_gplvm.core.fused` has that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numba
import numpy as np
import pytensor
import pytensor.tensor as pt
from numba import carray  # type: ignore[attr-defined]
from numba.core import types
from pytensor.compile.mode import get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from pm_gplvm.core.checks import Array
from pm_gplvm.core.jit import compiled
from pm_gplvm.core.kernels import KERNELS
from pm_gplvm.core.trajectories import Addresses
from pm_gplvm.model.density import (
    in_states,
    likelihood_and_prior,
    row_prior_graph,
    state_coordinates,
)
from pm_gplvm.model.spec import ModelSpec

Shapes = Sequence[tuple[int, ...]]

_NUMBERS = types.CPointer(types.float64)  # type: ignore[no-untyped-call]
_SIGNATURE = types.void(_NUMBERS, _NUMBERS, types.int64, types.int64, _NUMBERS)


@dataclass(frozen=True)
class Native:
    """A compiled model: functions void f(state (P,), given, n, m, out) by their addresses.

    ``forward`` writes, one after the other, the log-prior, θ (3 + Q,) as :mod:`pm_gplvm.core.fused` has
    it, the units (Q,) by which Z is multiplied to be the state's positions, and Z (N, Q). ``pullback``
    takes derivatives in all of these to the gradient in the state. ``row_prior`` writes ln p(z) of row n at
    m proposals z (m, Q), in the units of Z, up to a constant; it is 0 where X is no free variable.
    The positions begin in the state at ``latent``.
    """

    addresses: Addresses
    factorises: bool  # whether a row's prior does not look at the other rows
    units: Array  # (P,): length in which each coordinate is measured
    code: tuple[Any, ...]  # lives as long as the addresses


def compile_native(spec: ModelSpec) -> Native:
    """Compile a model with a kernel of the table; whatever PyTensor cannot translate is raised."""
    model, (coordinates, units) = spec.model, state_coordinates(spec.model)
    N, Q = spec.X_shape
    state = [pt.tensor(n, shape=s, dtype="float64") for n, (_, s) in coordinates.spans.items()]
    values = dict(zip(model.value_vars, state, strict=True))

    def at_state(variables: Sequence[Variable]) -> list[Variable]:
        inner = coordinates.within(model.replace_rvs_by_values(variables), model.value_vars)
        return _with(inner, values)

    positions, amplitude, bias, sigma, *linear = at_state(spec.table.cov.owner.inputs)
    entry, one, zero = KERNELS[spec.kernel], pt.constant(1.0), pt.constant(0.0)
    if entry.linear and not linear:  # by itself the linear part takes its weight for amplitude
        amplitude, linear = zero, [amplitude]
    lengthscale = one
    if entry.scaled and "lengthscale" in spec.theta:
        (lengthscale,) = at_state([spec.theta["lengthscale"]])
    (prior,) = _with(in_states(spec, coordinates, likelihood_and_prior(spec))[1:], values)
    unit = lengthscale if coordinates.lengthscale is None else one
    linear = linear or [zero]
    outputs = [
        prior,
        amplitude,
        bias,
        sigma,
        *(v + pt.zeros(Q) for v in (*linear, unit)),
        positions,
    ]
    given = [v.type() for v in outputs]
    total = pt.add(*((v * bar).sum() for v, bar in zip(outputs, given, strict=True)))
    gradient = pt.grad(total, state, disconnected_inputs="ignore")
    written = ((), (), (), (), (Q,), (Q,), (N, Q))
    shapes = coordinates.shapes
    code = [
        _compiled(state, outputs, shapes, (), written),
        _compiled([*state, *given], gradient, shapes, written, shapes),
    ]
    factorises, latent = False, 0
    if coordinates.X is not None:
        latent = coordinates.spans[coordinates.X][0].start
        row = pt.lscalar("row")
        proposals = pt.tensor("proposals", shape=(None, Q), dtype="float64")
        inner = at_state(model.free_RVs)
        density, factorises = row_prior_graph(spec, row, proposals * lengthscale, inner)
        (density,) = _with([density], values)
        code.append(_compiled_rows([*state, proposals, row], density, shapes, Q))
    forward, pullback, row_prior = [each.address for each, _ in code] + [0] * (3 - len(code))
    addresses = Addresses(forward, pullback, row_prior, latent, N, Q, 4 + 2 * Q + N * Q)
    return Native(addresses, factorises, units, tuple(code))


def _with(graphs: Sequence[Variable], values: dict[Variable, Variable]) -> list[Variable]:
    """Put the state and the data, as they are now, into graphs."""
    found = graph_replace(graphs, values, strict=False)
    shared = (v for v in ancestors(found) if isinstance(v, SharedVariable))
    return list(graph_replace(found, {v: pt.constant(v.get_value()) for v in shared}, strict=False))


def _function(inputs: Sequence[Variable], outputs: Sequence[Variable]) -> tuple[Any, Any]:
    """Compile by numba: the function, and what compiled code can call."""
    function = pytensor.function(
        list(inputs),
        list(outputs),
        mode=get_mode("NUMBA"),
        on_unused_input="ignore",
        trust_input=True,
    )
    return function, function.vm.jit_fn


# The vectors are cut and joined by functions of functions: PyTensor's own Ops for it take long to compile.


def _reader(shapes: Shapes) -> Any:
    """Compile what takes a vector to its parts, views of these shapes one after the other."""

    @compiled
    def nothing(vector):  # type: ignore[no-untyped-def]
        return ()

    def before(start: int, shape: tuple[int, ...], rest: Any) -> Any:
        end = start + math.prod(shape)

        @compiled
        def read(vector):  # type: ignore[no-untyped-def]
            return (carray(vector, (end,))[start:end].reshape(shape), *rest(vector))

        return read

    read = nothing
    for start, shape in reversed(list(zip(_starts(shapes), shapes, strict=True))):
        read = before(start, shape, read)
    return read


def _writer(shapes: Shapes) -> Any:
    """Compile what puts values of these shapes into a vector, one after the other."""

    @compiled
    def nothing(vector, values):  # type: ignore[no-untyped-def]
        pass

    def after(i: int, start: int, shape: tuple[int, ...], rest: Any) -> Any:
        end = start + math.prod(shape)

        @compiled
        def write(vector, values):  # type: ignore[no-untyped-def]
            rest(vector, values)
            carray(vector, (end,))[start:end].reshape(shape)[...] = values[i]

        return write

    write = nothing
    for i, (start, shape) in enumerate(zip(_starts(shapes), shapes, strict=True)):
        write = after(i, start, shape, write)
    return write


def _starts(shapes: Shapes) -> list[int]:
    return list(accumulate((math.prod(shape) for shape in shapes), initial=0))[:-1]


def _compiled(
    inputs: Sequence[Variable],
    outputs: Sequence[Variable],
    state: Shapes,
    given: Shapes,
    out: Shapes,
) -> tuple[Any, Any]:
    """Compile a function of the parts of two vectors for its address; what it is made of too."""
    function, jitted = _function(inputs, outputs)
    read, read_given, write = _reader(state), _reader(given), _writer(out)

    @numba.cfunc(_SIGNATURE)
    def native(state, given, n, m, out):  # type: ignore[no-untyped-def]
        write(out, jitted(*read(state), *read_given(given)))

    return native, function


def _compiled_rows(
    inputs: Sequence[Variable], density: Variable, state: Shapes, Q: int
) -> tuple[Any, Any]:
    """As :func:`_compiled`, of a state, proposals and the number of a row."""
    function, jitted = _function(inputs, [density])
    read = _reader(state)

    @numba.cfunc(_SIGNATURE)
    def native(state, given, n, m, out):  # type: ignore[no-untyped-def]
        values = jitted(*read(state), carray(given, (m, Q)), np.asarray(n))
        carray(out, (m,))[:] = values[0]

    return native, function
