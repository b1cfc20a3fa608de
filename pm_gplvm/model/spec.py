"""What a ``pm.Model`` is: its table, kernel, parameters and the prior of X, read from its graph once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable, equal_computations
from pytensor.graph.traversal import ancestors
from pytensor.tensor.basic import Join
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.random.basic import NormalRV
from pytensor.tensor.shape import SpecifyShape

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.core.kernels import beside
from pm_gplvm.data.arrays import by_row, finite, row_order
from pm_gplvm.data.files import check_labels, check_name
from pm_gplvm.data.fit import FEATURE, OBS, THETA, Fit, in_view
from pm_gplvm.data.inputs import COLUMN, Inputs
from pm_gplvm.data.views import view as view_of
from pm_gplvm.model.compile import constants, is_random
from pm_gplvm.model.families import working_table
from pm_gplvm.model.functions import Source, source_of
from pm_gplvm.model.likelihood import GPColumnsRV, OwnColumnsRV, mask_in
from pm_gplvm.model.ops import CompositeCovariance, Covariance
from pm_gplvm.model.priors import LatentPrior, basis_of, distribution_text, kind_of_prior


@dataclass(frozen=True, eq=False)
class Table:
    """An observed :class:`GPColumns`, and its observed value (D, N)."""

    variable: Variable
    value: Variable

    @property
    def name(self) -> str:
        """Name of the variable."""
        return str(self.variable.name)

    @property
    def cov(self) -> Variable:
        """Covariance of the rows; with a noise of each column that of the signal alone."""
        return self._parameters[2]

    @property
    def own(self) -> tuple[Variable, Variable] | None:
        """Amplitude and noise of the columns, where each has its own."""
        if not isinstance(self.variable.owner.op, OwnColumnsRV):
            return None
        _, _, _, amplitude, sigma, *_ = self._parameters
        return amplitude, sigma

    @property
    def _parameters(self) -> list[Variable]:
        return list(self.variable.owner.op.dist_params(self.variable.owner))

    @cached_property
    def seen(self) -> NDArray[np.bool_] | None:
        """Which entries there are, (D, N); None if nothing is missing."""
        return mask_in(self.variable)

    @cached_property
    def standardisable(self) -> bool:
        """Whether the mean and scale of the columns are data."""
        return not is_random(*self._parameters[:2])

    @property
    def Y(self) -> Array:
        """The table as it was given, (N, D), NaN where an entry is missing."""
        Y = constants(self.value)[0]
        return (Y if self.seen is None else np.where(self.seen, Y, np.nan)).T

    @property
    def F(self) -> Array:
        """(Y - mean) / scale, (N, D), NaN where an entry is missing."""
        return self._standardised[0]

    @property
    def scale(self) -> Array:
        """What the columns are divided by, (D,)."""
        return self._standardised[1]

    @property
    def log_scale(self) -> float:
        """Sum of the logarithms of the columns' scales."""
        return float(np.log(self.scale).sum())

    @property
    def log_units(self) -> float:
        """Sum of the logarithms of the scales of all entries seen: what units take from a log-density."""
        if self.seen is None:
            return len(self.F) * self.log_scale
        return float(self.seen.sum(axis=1) @ np.log(self.scale))

    @cached_property
    def _standardised(self) -> tuple[Array, Array]:
        if not self.standardisable:
            raise ValueError("the mean and scale of the table must be data, got random variables.")
        Y, mean, scale = constants(self.value, *self._parameters[:2])
        mean, scale = (np.broadcast_to(v, len(Y)) for v in (mean, scale))
        F = ((Y - mean[:, None]) / scale[:, None]).T
        return F if self.seen is None else np.where(self.seen.T, F, np.nan), scale

    @cached_property
    def factor(self) -> SharedVariable:
        """F of a complete table, shortened to at most N columns, as data that may be exchanged."""
        return pytensor.shared(gram_factor(self.F), name=f"{self.name}_factor")

    def require_shared(self, *, caller: str) -> None:
        """Raise if the columns have a noise of their own."""
        if self.own is not None:
            raise ValueError(
                f"{caller} needs one noise for all columns, got a model with one for each. Use fit_map or "
                "sample_theta, or build the model with noise='shared'."
            )

    def require_complete(self, *, caller: str) -> None:
        """Raise if entries are missing."""
        if self.seen is not None:
            raise ValueError(
                f"{caller} needs a complete table, got one with {int((~self.seen).sum())} missing entries. "
                "Use fit_marginal, sample_theta or sample, or fill them: "
                "impute(fit_marginal(model))['mean'] is a complete table."
            )


@dataclass(frozen=True, eq=False)
class FunctionTable(Table):
    """The table of a model with latent functions, ``variable`` and ``value`` being these."""

    source: Source

    @property
    def name(self) -> str:
        """Name of the table in a fit."""
        return "Y"

    @cached_property
    def seen(self) -> NDArray[np.bool_] | None:
        """Which entries there are, (D, N); None if nothing is missing."""
        seen = ~np.isnan(self.Y.T)
        return None if seen.all() else seen

    @cached_property
    def standardisable(self) -> bool:
        """Never: its entries are not Gaussian."""
        return False

    @property
    def Y(self) -> Array:
        """The table as it was given, (N, D), NaN where an entry is missing."""
        return np.asarray(self.source.table)

    @property
    def working(self) -> Array:
        """The table whose PCA starts a fit, (N, D), NaN where an entry is missing."""
        return working_table(self.source.likelihood, self.source.rows_and_entries)


@dataclass(frozen=True, eq=False)
class JoinedTables(Table):
    """Several tables of the same rows side by side; ``variable`` and ``value`` are those of the first."""

    parts: tuple[Table, ...]

    @property
    def own(self) -> None:
        """None: a table with a noise of each column is by itself."""
        return

    @cached_property
    def seen(self) -> NDArray[np.bool_] | None:
        """Which entries there are, (D, N); None if nothing is missing."""
        F = self.F
        return ~np.isnan(F.T) if np.isnan(F).any() else None

    @cached_property
    def standardisable(self) -> bool:
        """Whether the mean and scale of all columns are data."""
        return all(part.standardisable for part in self.parts)

    @property
    def Y(self) -> Array:
        """The tables as they were given, (N, D), NaN where an entry is missing."""
        return np.hstack([part.Y for part in self.parts])

    @property
    def F(self) -> Array:
        """All of (Y - mean) / scale, (N, D), where every table has the same sum of squares if its entries have."""
        most = max(part.F.shape[1] for part in self.parts)
        return np.hstack([part.F * np.sqrt(most / part.F.shape[1]) for part in self.parts])


VIEW = "view"
"""The coordinate of a model that names its tables, where it was built of several."""


def views_of(model: pm.Model) -> list[str]:
    """Names of the tables of a model that was built of several, or of its approximation, in their order."""
    names = [str(name) for name in model.coords.get(VIEW) or ()]
    return names if all(in_view("sigma", name) in model.named_vars for name in names) else []


def tables_of(model: pm.Model) -> list[Table]:
    """Every observed :class:`GPColumns` of a model."""
    return [
        Table(rv, model.rvs_to_values[rv])
        for rv in model.observed_RVs
        if isinstance(rv.owner.op, GPColumnsRV)
    ]


@dataclass(frozen=True, eq=False)
class PositionPrior:
    """The prior of X, and what the formulas need to know of it."""

    model: pm.Model

    @cached_property
    def says(self) -> type[LatentPrior]:
        """What it says beside its density, told by the data that :mod:`pm_gplvm.model.priors` registers."""
        return kind_of_prior(self.model.named_vars)

    @property
    def is_normal(self) -> bool:
        """Whether X is free and Normal."""
        X = self.model["X"]
        free = X in self.model.free_RVs
        return free and isinstance(X.owner.op, NormalRV) and X.type.ndim == 2

    @property
    def is_known(self) -> bool:
        """Whether it is Normal, or one of :mod:`pm_gplvm.model.priors`."""
        return self.is_normal or (self.says is not LatentPrior and self.says.closed)

    @property
    def parameters(self) -> tuple[Variable, ...]:
        """Of the distribution of X; of a Normal its mean and standard deviation."""
        X = self.model["X"]
        return tuple(X.owner.op.dist_params(X.owner))

    @property
    def spread(self) -> Variable:
        """Standard deviation of X about its mean, or about the centre of its class."""
        name = self.says.spread
        return self.parameters[1] if name is None else self.model[name]

    @property
    def row_covariance(self) -> Variable | None:
        """Covariance (N, N) of each column of X, where the rows depend on each other."""
        return self.parameters[0] if self.says.correlated else None

    @property
    def anchors(self) -> tuple[Array, Array] | None:
        """Mean and standard deviation of the positions, where starts are turned towards them."""
        return self.moments if self.says.anchored else None

    @property
    def independent(self) -> bool:
        """Whether the rows are independent and alike."""
        alone = self.is_normal and self.says is LatentPrior
        return alone and all(p.type.ndim < 2 or p.type.shape[0] == 1 for p in self.parameters)

    @property
    def moments(self) -> tuple[Array, Array] | None:
        """Mean and standard deviation of a Normal prior, where they are data."""
        if not self.is_normal or is_random(*self.parameters):
            return None
        mean, sd = constants(*self.parameters)
        return mean, sd

    @property
    def is_standard_normal(self) -> bool:
        """Whether every entry is N(0, 1)."""
        moments = self.moments
        return moments is not None and bool(np.all(moments[0] == 0.0) and np.all(moments[1] == 1.0))

    @property
    def sd(self) -> float | None:
        """The standard deviation of an independent prior, where it is one known number."""
        if not self.independent or is_random(self.spread):
            return None
        (values,) = constants(self.spread)
        return float(values.flat[0]) if values.size and (values == values.flat[0]).all() else None


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """What a model is: its table, and the kernel, "custom" if it is none in the model's own X and θ.

    Of a model of several tables ``views`` are what each is by itself, with the name ``view``.
    """

    model: pm.Model
    table: Table
    kernel: str
    view: str | None = None
    views: "tuple[ModelSpec, ...]" = ()

    @classmethod
    def of(
        cls, model: "pm.Model | ModelSpec", *, functions: bool = False, views: bool = False
    ) -> "ModelSpec":
        """Read a model; what has been read is returned as it is.

        ``functions``: whether it may be one with latent functions and another likelihood; ``views``: whether
        it may be one of several tables.

        Raises
        ------
        TypeError
            If ``model`` is no pm.Model.
        ValueError
            If it has no variable ``X``, or not exactly one observed :class:`GPColumns`, or if no file
            could hold its names and labels.
        """
        if isinstance(model, ModelSpec):
            return model
        if not isinstance(model, pm.Model):
            raise TypeError(
                f"model must be a pm.Model, got {type(model).__name__}. See build_model."
            )
        tables = tables_of(model)
        if not tables and (source := source_of(model)) is not None:
            if not functions:
                raise ValueError(
                    f"model must have a Gaussian likelihood here, got {source.likelihood.text}, whose functions f "
                    "cannot be integrated out exactly. Fit it by fit_svi(model), or fit_map(model), which does so by "
                    "Laplace's approximation; sample_theta(model, X) and PyMC's own functions, such as pm.sample, draw "
                    "from it."
                )
            return cls(model, FunctionTable(model["f"], model["f"], source), "custom")
        if (names := views_of(model)) and not views:
            raise ValueError(
                f"model must be one of a single table here, got one of several, {', '.join(names)}. Fit it by fit_map, "
                "fit_marginal, fit_laplace, fit_variational or sample, and go on with "
                f"gplvm.data.view(fit, {names[0]!r}); or build a model of one table."
            )
        if len(tables) != 1 and not names:
            raise ValueError(
                f"model must have one observed GPColumns, got {len(tables)}. Build it with build_model "
                "or put gplvm.GPColumns into your own."
            )
        if "X" not in model.named_vars:
            raise ValueError(
                "model must have latent positions called 'X', got the variables "
                f"{', '.join(model.named_vars)}."
            )
        for name in model.named_vars:
            check_name(name, "the model")
        check_labels({k: v for k, v in model.coords.items() if v is not None}, "the model")
        if names:
            by_name = {
                table.name: table for table in tables
            }  # a copy of a model may order them anew
            tables = [by_name[in_view("Y", name)] for name in names]
            parts = tuple(
                cls(model, table, _kernel_of(model, table, name), name)
                for table, name in zip(tables, names, strict=True)
            )
            kernels = {part.kernel for part in parts}
            joined = JoinedTables(tables[0].variable, tables[0].value, tuple(tables))
            return cls(model, joined, kernels.pop() if len(kernels) == 1 else "custom", None, parts)
        (table,) = tables
        return cls(model, table, _kernel_of(model, table, None))

    @cached_property
    def inputs(self) -> Inputs | None:
        """Known inputs of the rows, of which the kernel has terms beside those of X."""
        named = self.model.named_vars
        if not all(name in named for name in ("inputs", "inputs_mean", "inputs_scale")):
            return None
        values, mean, scale = (
            named[n].get_value() for n in ("inputs", "inputs_mean", "inputs_scale")
        )
        return Inputs.stored(values, self.model.coords[COLUMN], mean, scale)

    def refuse_inputs(self, reason: str, *, caller: str) -> None:
        """Raise ValueError with the reason, and the remedy, if the kernel has terms of known inputs."""
        if self.inputs is not None:
            raise ValueError(
                f"{caller} needs a model without inputs, got one with {', '.join(self.inputs.names)}: {reason}"
            )

    def positions(self, X: Array, rows: Any = slice(None)) -> Array:
        """Positions (..., n, Q) of some rows as the kernel takes them, with their inputs."""
        return X if self.inputs is None else beside(X, self.inputs.values[rows])

    @property
    def parts(self) -> "tuple[ModelSpec, ...]":
        """What each table is by itself, one or several."""
        return self.views or (self,)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Kernels of the tables, each once."""
        return tuple(dict.fromkeys(part.kernel for part in self.parts))

    def own(self, name: str) -> str:
        """Name in the model of what the table has of its own, such as "sigma"."""
        return in_view(name, self.view)

    @cached_property
    def free(self) -> dict[str, Variable]:
        """The free variables by name."""
        return {rv.name: rv for rv in self.model.free_RVs}

    def value_name(self, name: str) -> str:
        """Name of the value variable of a free variable."""
        return str(self.model.rvs_to_values[self.free[name]].name)

    @property
    def X(self) -> Variable:
        """The positions, free, held or a function of others."""
        return self.model["X"]

    @property
    def is_X_plain(self) -> bool:
        """Whether X is free, and its value variable is X itself."""
        return "X" in self.free and self.model.rvs_to_transforms[self.free["X"]] is None

    @property
    def is_X_held(self) -> bool:
        """Whether X is data: neither free nor a function of free weights."""
        return "X" not in self.free and not self.prior.says.mapped

    @cached_property
    def X_shape(self) -> tuple[int, ...]:
        """Shape of X, (N, Q)."""
        return tuple(map(int, constants(self.X.shape)[0]))

    @property
    def latent_dim(self) -> int:
        """Q."""
        return self.X_shape[1]

    def by_row(self, name: str, given: Any) -> Any:
        """Return what carries row labels in the order of the table's rows, all else as it is."""
        rows = self.model.coords.get(OBS)
        return given if rows is None else by_row(name, given, np.asarray(rows))

    def rows_in(self, fit: Fit, name: str) -> NDArray[np.intp]:
        """Find each row of the table in a fit, or raise if that is of another table; by label where there is one."""
        order = np.arange(self.X_shape[0])
        if self.views and fit.views == [part.view for part in self.views]:
            taken = [Fit(view_of(fit.tree, view), fit.caller) for view in fit.views]
            orders = [p.rows_in(of, name) for p, of in zip(self.views, taken, strict=True)]
            return orders[0]
        name_of_table = "Y" if self.view else self.table.name
        if not fit.holds_table or fit.observed != name_of_table or FEATURE not in fit.coords:
            return order
        Y, rows = fit.Y, self.model.coords.get(OBS)
        if rows is not None and OBS in Y.coords:
            order = row_order(name, Y[OBS].to_numpy(), np.asarray(rows))
        values, wanted = Y.to_numpy(), self.table.Y
        if values.shape[1:] != wanted.shape[1:] or len(values) < len(order):
            found = f"{values.shape} entries where the model has {wanted.shape}"
        elif other := int(
            (~np.isclose(values[order], wanted, rtol=1e-9, atol=0.0, equal_nan=True)).sum()
        ):
            found = f"{other} entries that differ"
        else:
            return order
        raise ValueError(
            f"{name} must be a fit of the model's table, got one of another: {found}. To use its positions "
            f"all the same pass them as an array: {name}=fit['posterior']['X'].to_numpy()[0, -1]."
        )

    def last_draw(self, fit: Fit, names: Iterable[str], argument: str) -> dict[str, Array]:
        """Values of a fit of the table in its last draw, rows in the order of the table's."""
        order = self.rows_in(fit, argument)
        last = {name: fit.draws(name)[0, -1] for name in names}
        return {
            name: finite(argument, values.isel({OBS: order}) if OBS in values.dims else values)
            for name, values in last.items()
        }

    @cached_property
    def prior(self) -> PositionPrior:
        """The prior of X."""
        return PositionPrior(self.model)

    @cached_property
    def basis(self) -> Array:
        """B (N, M) of a back-constrained model, X = B w; its columns are orthogonal."""
        lengthscale = float(self.model["X_back_lengthscale"].get_value())
        return basis_of(np.ascontiguousarray(self.table.F), lengthscale)

    def weights_of(self, X: Array) -> Array:
        """Find the weights w (M, Q) of which B w is nearest to given positions."""
        return np.asarray(np.linalg.lstsq(self.basis, X, rcond=None)[0])

    @cached_property
    def tied(self) -> list[str]:
        """What depends on X besides the table: priors, potentials and other observed variables."""
        others = [*self.model.basic_RVs, *self.model.potentials]
        of_X = (self.X, *(part.table.variable for part in self.parts))
        return [v.name for v in others if v not in of_X and self.X in ancestors([v])]

    @property
    def theta(self) -> dict[str, Variable]:
        """The kernel's parameters that the model has, by name."""
        if self.views:
            return {part.own(n): v for part in self.views for n, v in part.theta.items()}
        named = self.model.named_vars
        return {name: named[self.own(name)] for name in THETA if self.own(name) in named}

    @cached_property
    def fixed(self) -> dict[str, Array]:
        """Values of the kernel's parameters that are held."""
        moving = {v.name for v in (*self.model.free_RVs, *self.model.deterministics)}
        return {n: constants(v)[0] for n, v in self.theta.items() if self.own(n) not in moving}

    @property
    def noise(self) -> Variable:
        """Standard deviation of all noise, its floor included."""
        return noise_in(self.model, self.view)

    @cached_property
    def floors(self) -> Array:
        """Floor of the noise, () or (D,), in units of the scale; 0 if there is none."""
        floor = self.model.named_vars.get(self.own("Y_resolution"))
        return np.zeros(()) if floor is None else np.asarray(floor.get_value())

    @property
    def floor(self) -> float:
        """The largest floor of the noise."""
        return float(np.max(self.floors))

    @cached_property
    def priors(self) -> dict[str, str]:
        """The prior of every free variable, in a text that no other prior has.

        "InverseGamma(3.0, 2.0)"; arrays of numbers by shape and SHA-256; variables of the model by name,
        and other distributions, such as the parts of a mixture, in such a text.
        """
        named = {*self.model.basic_RVs, *self.model.deterministics}
        return {name: distribution_text(rv, named) for name, rv in self.free.items()}


def noise_in(model: pm.Model, view: str | None = None) -> Variable:
    """Write down the standard deviation of all noise of a model's table, its floor included."""
    sigma, floor = (
        model[in_view("sigma", view)],
        model.named_vars.get(in_view("Y_resolution", view)),
    )
    return sigma if floor is None else pt.sqrt(pt.square(sigma) + pt.square(floor))


def _kernel_of(model: pm.Model, table: Table, view: str | None) -> str:
    named = _in_named_parameters(model, table, view)
    return str(table.cov.owner.op.kernel) if named else "custom"


def _in_named_parameters(model: pm.Model, table: Table, view: str | None) -> bool:
    """Whether K is one of the kernels, of the model's own X and θ by their names.

    Only then can it be evaluated from the draws of a fit.
    """
    cov = table.cov
    if cov.owner is None or not isinstance(cov.owner.op, Covariance | CompositeCovariance):
        return False
    named = model.named_vars
    if isinstance(cov.owner.op, CompositeCovariance):
        return _are_named(model, cov.owner.op, cov.owner.inputs) and table.own is None
    Z, amplitude, bias, sigma, *linear = cov.owner.inputs
    if table.own is not None:  # then K leaves the amplitude and the noise out
        if not all(isinstance(v, Constant) for v in (amplitude, sigma)):
            return False
        if amplitude.data != 1.0 or sigma.data != 0.0:
            return False
        amplitude, sigma = table.own

    def is_named(variable: Variable, name: str, default: float | None) -> bool:
        variable = _bare(variable)
        name = name if name == "X" else in_view(name, view)
        if isinstance(variable, Constant):
            return name not in named and bool(np.all(variable.data == default))
        return variable is named.get(name)

    if Z.owner is None or len(Z.owner.inputs) != 2:
        return False
    X, lengthscale = Z.owner.inputs
    return (
        is_named(X, "X", None)
        and is_named(lengthscale, "lengthscale", 1.0)
        and is_named(amplitude, "amplitude", 1.0)
        and is_named(bias, "bias", 0.0)
        and _is_noise(model, sigma, view)
        and all(_is_product(v, is_named) for v in linear)
    )


def _bare(variable: Variable) -> Variable:
    """Return the same numbers as they were before they got another shape."""
    while variable.owner is not None and isinstance(variable.owner.op, DimShuffle | SpecifyShape):
        variable = variable.owner.inputs[0]
    return variable


def _are_named(model: pm.Model, op: CompositeCovariance, inputs: Sequence[Variable]) -> bool:
    """Whether the inputs of K of a kernel of several factors are the model's variables of those names."""
    X, lengthscale, amplitude, alpha, bias, sigma = inputs
    theta = {"X": X, "lengthscale": lengthscale, "amplitude": amplitude, "alpha": alpha}
    named, used = model.named_vars, ("X", *op.entry.parameters)
    given = {"bias": bias} if "bias" in named else {}
    given |= {name: theta[name] for name in used}
    if "bias" not in named and not (isinstance(bias, Constant) and bias.data == 0.0):
        return False
    if X.owner is not None and isinstance(X.owner.op, Join) and "inputs" in named:
        columns = [v for v in X.owner.inputs if v.type.ndim == 2]  # older PyTensor: the axis too
        if len(columns) != 2 or _bare(columns[1]) is not named["inputs"]:
            return False
        given["X"] = columns[0]
    return _is_noise(model, sigma, None) and all(_bare(v) is named.get(n) for n, v in given.items())


def _is_noise(model: pm.Model, variable: Variable, view: str | None) -> bool:
    if in_view("sigma", view) not in model.named_vars:
        return isinstance(variable, Constant) and bool(np.all(variable.data == 0.0))
    return equal_computations([variable], [noise_in(model, view)])


def _is_product(v: Variable, is_named: Callable[[Variable, str, float | None], bool]) -> bool:
    """Whether it is weight · lengthscale, as :func:`covariance` writes it."""
    if v.owner is None or v.owner.op != pt.mul or len(v.owner.inputs) != 2:
        return False
    weight, lengthscale = v.owner.inputs
    return is_named(weight, "weight", 1.0) and is_named(lengthscale, "lengthscale", 1.0)
