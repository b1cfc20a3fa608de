"""A model's priors, and its kernel's parameters, as machine code that compiled loops call by address.

PyTensor writes it for any model. The likelihood is not in it: :mod:`pm_gplvm.core.fused` has that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numba
import numpy as np
import pytensor
import pytensor.tensor as pt
from numba.core import types
from pytensor.compile.mode import get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import KERNELS
from pm_gplvm.core.trajectories import Addresses
from pm_gplvm.model.density import (
    in_states,
    likelihood_and_prior,
    row_prior_graph,
    state_coordinates,
)
from pm_gplvm.model.spec import ModelSpec

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
    written = [*[()] * 4, (Q,), (Q,), (N, Q)]
    into, out = _cut("state", coordinates.shapes), _cut("out", written)
    bars = _cut("given", written)
    code = [
        _compiled(state, outputs, into, out),
        _compiled([*state, *given], gradient, [*into, *bars], _cut("out", coordinates.shapes)),
    ]
    factorises, latent = False, 0
    if coordinates.X is not None:
        latent = coordinates.spans[coordinates.X][0].start
        row = pt.lscalar("row")
        proposals = pt.tensor("proposals", shape=(None, Q), dtype="float64")
        inner = at_state(model.free_RVs)
        density, factorises = row_prior_graph(spec, row, proposals * lengthscale, inner)
        (density,) = _with([density], values)
        given_row = [*into, f"carray(given, (m, {Q}))", "np.asarray(n)"]
        code.append(
            _compiled([*state, proposals, row], [density], given_row, ["carray(out, (m,))"])
        )
    forward, pullback, row_prior = [each.address for each, _ in code] + [0] * (3 - len(code))
    addresses = Addresses(forward, pullback, row_prior, latent, N, Q, 4 + 2 * Q + N * Q)
    return Native(addresses, factorises, units, tuple(code))


def _with(graphs: Sequence[Variable], values: dict[Variable, Variable]) -> list[Variable]:
    """Put the state and the data, as they are now, into graphs."""
    found = graph_replace(graphs, values, strict=False)
    shared = (v for v in ancestors(found) if isinstance(v, SharedVariable))
    return list(graph_replace(found, {v: pt.constant(v.get_value()) for v in shared}, strict=False))


def _compiled(
    inputs: Sequence[Variable], outputs: Sequence[Variable], read: list[str], write: list[str]
) -> tuple[Any, Any]:
    """Compile a function for its address; what it is made of too.

    ``read`` and ``write`` say in code where the inputs and outputs stand in the vectors: PyTensor's own
    Ops that cut and join take long to compile.
    """
    function = pytensor.function(
        list(inputs),
        list(outputs),
        mode=get_mode("NUMBA"),
        on_unused_input="ignore",
        trust_input=True,
    )
    lines = [f"results = jitted({', '.join(read)})"]
    lines += [f"{place}[...] = results[{i}]" for i, place in enumerate(write)]
    names = {"jitted": function.vm.jit_fn, "carray": numba.carray, "np": np}  # type: ignore[attr-defined]
    exec("def native(state, given, n, m, out):\n    " + "\n    ".join(lines), names)
    return numba.cfunc(_SIGNATURE)(names["native"]), function


def _cut(name: str, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """Write down the parts of a vector, one after the other."""
    ends = list(accumulate((math.prod(shape) for shape in shapes), initial=0))
    return [
        f"carray({name}, ({end},))[{start}:{end}].reshape({shape})"
        for (start, end), shape in zip(pairwise(ends), shapes, strict=True)
    ]
