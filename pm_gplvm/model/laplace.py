"""Models with latent functions, these integrated out by Laplace's approximation.

Of a model of :mod:`pm_gplvm.model.functions` the objective is Σ_d ln p(y_d given K(X, θ), level_d, parameters), the
integral over f Laplace's (Rasmussen & Williams 2006, section 3.4), in place of the terms of f and of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import parse_kernel
from pm_gplvm.core.laplace_columns import Terms, laplace_columns
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.functions import Source, names_of_theta, variable_of
from pm_gplvm.model.likelihoods import Likelihood
from pm_gplvm.model.likelihoods import Rows as Observed
from pm_gplvm.model.ops import LaplaceTerms, covariance, with_columns
from pm_gplvm.model.spec import FunctionTable, ModelSpec


@dataclass(frozen=True, eq=False)
class TableEntries:
    """The entries of a table given f, as :class:`LaplaceTerms` asks for them; its parameters are unconstrained."""

    likelihood: Likelihood
    rows: Observed
    names: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> "TableEntries":
        """Take those of a model."""
        rows = source.rows_and_entries
        return cls(source.likelihood, rows, tuple(source.likelihood.start(rows)[0]))

    def terms(self, f: Array, parameters: Sequence[Array]) -> Terms:
        """See :class:`Entries`."""
        return self.likelihood.curved(self.rows, f, self._named(parameters))

    def slopes(
        self, f: Array, variance: Array, adjoint: Array, parameters: Sequence[Array]
    ) -> list[Array]:
        """See :class:`Entries`."""
        of = self.likelihood.slopes_of_parameters
        found = of(self.rows, f, variance, adjoint, self._named(parameters))
        return [found[name] for name in self.names]

    def _named(self, parameters: Sequence[Array]) -> dict[str, Array]:
        return dict(zip(self.names, parameters, strict=True))


def without_functions(spec: ModelSpec, caller: str) -> ModelSpec:
    """Read a model with latent functions as one of X, θ, the levels and the likelihood's parameters.

    Its f is held; :func:`functions_log_likelihood` stands for the terms of f and of the table.

    Raises
    ------
    ValueError
        If ln p of an entry is not concave in f, or not curved.
    """
    source = source_in(spec)
    why = source.likelihood.why_not_curved(source.rows_and_entries)
    if why is not None:
        raise ValueError(
            f"{caller} needs a likelihood whose ln p(y given f) is concave and curved in f, as it integrates over f by "
            f"Laplace's approximation, got {source.likelihood.text}: {why}. Take fit_svi(model)."
        )
    model = pm.do(spec.model, {"v": np.zeros(source.table.shape[::-1])})
    return ModelSpec(
        model, FunctionTable(model["f"], model["f"], source), parse_kernel(source.kernel)[0].name
    )


def source_in(spec: ModelSpec) -> Source:
    """Tell what a model with latent functions was built from."""
    if not isinstance(spec.table, FunctionTable):
        raise TypeError("the model has no latent functions")
    return spec.table.source


def _inputs(spec: ModelSpec) -> tuple[TableEntries, list[Variable]]:
    """Entries; K, the levels and the unconstrained parameters of the entries, in the model's random variables.

    Nothing is added to the diagonal of K, which need not be inverted.
    """
    source, model = source_in(spec), spec.model
    entries = TableEntries.of(source)
    theta = {name: model[name] for name in names_of_theta(source.kernel)}
    K = covariance(source.kernel, with_columns(model["X"], spec.latent_dim), **theta)
    parameters = [pt.log(model[variable_of(name)]) for name in entries.names]
    return entries, [K, pt.as_tensor_variable(model["level"]), *parameters]


def functions_log_likelihood(spec: ModelSpec) -> Variable:
    """Log-density of the table with f integrated out, in the model's random variables."""
    entries, given = _inputs(spec)
    return LaplaceTerms(entries)(*given)[0] - float(_log_units(spec, entries).sum())


def _log_units(spec: ModelSpec, entries: TableEntries) -> Array:
    """Tell what units take from the log-density of each column, (D,)."""
    return np.asarray(entries.rows.seen.sum(axis=0) * np.log(source_in(spec).spread))


@dataclass(frozen=True)
class FunctionMode:
    """f at its mode (N, D), and what predictions need there."""

    f: Array
    weights: Array  # K⁻¹(f - level)
    curvature: Array  # W
    log_likelihood: Array  # of the columns (D,), in the units of the table
    level: Array
    parameters: dict[str, Array]  # of the likelihood, unconstrained


def functions_at(spec: ModelSpec, values: Mapping[str, Array]) -> FunctionMode:
    """Find f at values of the model's value variables."""
    (entries, graphs), model = _inputs(spec), spec.model
    written = model.replace_rvs_by_values(graphs)
    function = pytensor.function(
        model.value_vars, written, on_unused_input="ignore", mode=compile_mode()
    )
    K, level, *given = function(*(values[v.name] for v in model.value_vars))
    with np.errstate(all="ignore"):
        found = laplace_columns(K, level, partial(entries.terms, parameters=given))
        _, _, W, _ = entries.terms(found.mode, given)
    value = found.value - _log_units(spec, entries)
    named = dict(zip(entries.names, given, strict=True))
    return FunctionMode(found.mode, found.weights, np.maximum(W, 0.0), value, level, named)
