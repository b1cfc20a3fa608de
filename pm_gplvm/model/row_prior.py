"""The prior density of one row's position, given all else."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace, vectorize_graph
from pytensor.tensor.random.op import RandomVariable

from pm_gplvm.core.checks import Array
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.density import likelihood_and_prior
from pm_gplvm.model.spec import ModelSpec


@dataclass(frozen=True)
class RowPrior:
    """ln p(xₙ given all else), up to a constant, of many candidates at many states.

    ``factorises`` where the rows are independent, so that a row's prior does not look at the others.
    """

    function: Any
    factorises: bool

    def __call__(self, n: int, X: Array, values: list[Array]) -> Array:
        """Log-density (R, M) of candidates (R, M, Q) of row n."""
        return np.asarray(self.function(np.asarray(n), X, *values))


def compile_row_prior(model: pm.Model | ModelSpec) -> RowPrior:
    """Compile the prior of one row of X, which is free and untransformed.

    Where X is a distribution whose rows are independent and nothing else depends on it but the
    table, that row's term alone is computed; else the whole prior, with the row replaced.
    """
    spec = ModelSpec.of(model)
    model, rv = spec.model, spec.X
    values = model.value_vars
    batch = [
        pt.tensor(v.name, shape=(None, *(None,) * v.type.ndim), dtype=v.type.dtype) for v in values
    ]
    row, candidates = pt.lscalar("row"), pt.dtensor3("candidates")
    parameters = None if spec.tied else row_parameters(rv, row)
    if parameters is None:
        density = _whole_prior(spec, row, candidates, batch)
    else:
        # A parameter is the same for all candidates of a state, and mostly for all states.
        each = vectorize_graph(
            model.replace_rvs_by_values(parameters), replace=dict(zip(values, batch, strict=True))
        )
        lifted = [
            pt.expand_dims(new, 1) if new.ndim > old.ndim else new
            for new, old in zip(each, parameters, strict=True)
        ]
        _, alike = rv.owner.op(*lifted, rng=rv.owner.inputs[0], return_next_rng=True)
        density = pm.logp(alike, candidates)
        if rv.owner.op.ndim_supp == 0:
            density = density.sum(axis=-1)
    function = pytensor.function(
        [row, candidates, *batch], density, on_unused_input="ignore", mode=compile_mode()
    )
    function.trust_input = True
    return RowPrior(function, factorises=parameters is not None)


def row_parameters(X: Variable, row: Variable) -> list[Variable] | None:
    """Parameters of a row of X, or of some rows, if its own distribution treats its rows apart."""
    op = X.owner.op
    if not isinstance(op, RandomVariable) or X.ndim != 2 or op.ndim_supp > 1:
        return None
    parameters = []
    for parameter, core in zip(op.dist_params(X.owner), op.ndims_params, strict=True):
        batch = parameter.ndim - core
        if batch + op.ndim_supp == 2:  # one entry a row, unless it is broadcast along them
            alone = parameter.type.shape[0] == 1
            parameter = parameter[0 if alone else pt.minimum(row, parameter.shape[0] - 1)]
        parameters.append(parameter)
    return parameters


def _whole_prior(
    spec: ModelSpec, row: Variable, candidates: Variable, batch: list[Variable]
) -> Variable:
    """Write down the whole prior with one row replaced, for each candidate (R, M)."""
    value = spec.model.rvs_to_values[spec.X]
    candidate = pt.dvector("candidate")
    _, prior = likelihood_and_prior(spec)
    (moved,) = graph_replace([prior], {value: pt.set_subtensor(value[row], candidate)})
    lifted = {v: pt.expand_dims(b, 1) for v, b in zip(spec.model.value_vars, batch, strict=True)}
    return vectorize_graph([moved], replace={candidate: candidates, **lifted})[0]
