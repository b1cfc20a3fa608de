"""From a table to a plain ``pm.Model``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from numpy.typing import NDArray
from pytensor.graph.basic import Constant, Variable, equal_computations
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.shape import SpecifyShape

from pm_gplvm.covariances import Covariance, covariance
from pm_gplvm.gaussian import column_patterns, warn_of_cost
from pm_gplvm.kernels import parse_kernel
from pm_gplvm.likelihood import GPColumns, GPColumnsRV, has_own_noise
from pm_gplvm.priors import DEFAULT_PRIORS, add_prior
from pm_gplvm.schema import FEATURE, LATENT, OBS
from pm_gplvm.table import (
    Scale,
    as_table,
    centre_and_scale,
    resolution_of,
    warn_of_odd_table,
)

__all__ = ["Description", "build_model", "describe", "floor_of", "noise_in"]


def build_model(
    Y: Any,
    latent_dim: int = 2,
    *,
    kernel: str = "rbf",
    ard: bool = False,
    priors: Mapping[str, Any] | None = None,
    scale: Scale = "global",
    missing: Literal["raise", "mask"] = "raise",
    resolution: Any = "auto",
    noise: Literal["shared", "column"] = "shared",
) -> pm.Model:
    """Build the Gaussian process latent variable model of a table.

    X ~ N(0, I), θ ~ their priors, and every column of Y an independent draw from
    N(mean, scale² K(X, θ)) (Lawrence 2005, JMLR 6, eq. 7 and section 3). The mean and the scale
    of the columns are data, so that everything that comes out of the model is in the units of Y,
    while θ is in units of the scale.

    Parameters
    ----------
    Y : array_like, DataFrame or DataArray, dims (obs, feature), shape (N, D)
        The table, rows are observations. Its labels become the model's coordinates.
    latent_dim : int, default 2
        Q, the number of latent dimensions, at most min(N, D).
    kernel : {"rbf", "matern32", "matern52", "linear"}, ``" + bias"`` behind it if wanted
        Covariance of the rows; white noise ``sigma`` is always added. "linear" is
        K = X Xᵀ + sigma² I, dual probabilistic PCA, and has no lengthscale or amplitude.
        "rbf + linear", "matern32 + linear" and "matern52 + linear" are the sum of
        amplitude² κ(‖x - x'‖ / lengthscale) and weight² x·x': PCA and what bends it.
    ard : bool, default False
        One lengthscale for each latent dimension instead of one for all.
    priors : mapping, optional
        Replaces the prior of ``X``, ``lengthscale``, ``amplitude``, ``weight``, ``sigma`` or
        ``bias``: a number (held fixed), ``"flat"``, a distribution such as
        ``pm.HalfNormal.dist(1)``, or a function of (name, dims) that makes the variable. Defaults:
        N(0, 1), InverseGamma(3, 2), LogNormal(0, 1), HalfNormal(1), LogNormal(-2, 1),
        HalfNormal(1). For X there are :func:`informed`, :func:`dynamics`, :func:`classes` and
        :func:`back_constrained`.
    scale : {"global", "feature", "none"}, default "global"
        What the centred columns are divided by: one number for all, each its own standard
        deviation, or nothing.
    missing : {"raise", "mask"}, default "raise"
        What NaN in Y means: an error, or an entry that was not measured. "mask" takes the exact
        likelihood of those that were; mean and scale are theirs too. An evaluation then takes one
        Cholesky factorisation for each pattern of columns with the same rows observed, instead of
        one for all: in a table with holes at random as many as there are columns.
    resolution : "auto" or number, default "auto"
        r, a floor of the noise, in units of the scale as ``sigma`` is: the noise variance is sigma² +
        r². "auto": r² = mean δ²/12 + 0.01², δ the step of the grid that a column's values lie on (answers
        1 to 5, counts, rounded readings), 0 if on none; by column with ``noise="column"``. Without it a
        fit may take a grid for signal without noise. 0: none.
    noise : {"shared", "column"}, default "shared"
        "column" gives every column d an amplitude and a noise of its own, y_d ~ N(mean, scale²
        (amplitude_d² K + sigma_d² I)), as factor analysis has them: for columns that are measured
        with different precision. K, of amplitude 1, has the other parameters of the kernel; the
        linear one gets amplitudes too. An evaluation takes one spectral decomposition of K.
        Columns of different spread are better put on a par by ``scale="feature"``. :func:`sample`,
        inducing inputs and what else knows one noise only say so.

    Returns
    -------
    pm.Model
        With ``X`` (obs, latent), ``lengthscale`` () or (latent,), ``amplitude``, ``weight``,
        ``sigma``, ``bias``, as the kernel has them, and the observed ``Y`` (feature, obs); amplitude and
        sigma have dims (feature,) with ``noise="column"``. Y is transposed, as PyMC puts batch
        dimensions first. With missing entries the data ``Y_seen`` (feature, obs) tell where Y has
        any; elsewhere ``Y_data`` holds the column's mean, which is not looked at.

    Warns
    -----
    RuntimeWarning
        If there are so many patterns of missing entries that a fit takes much longer; if Y looks
        transposed, or a column like labels, or a few columns hold nearly all of its variance.

    Raises
    ------
    TypeError
        If Y holds text, or a prior is of an unknown kind.
    ValueError
        If Y has the wrong shape, infinite or missing values, or with ``missing="mask"`` a row or
        column without any; if ``latent_dim``, ``kernel``, ``scale``, ``missing``, ``noise`` or the
        name of a prior is out of range.

    Notes
    -----
    With flat priors, ``kernel="rbf + bias"`` and ``scale="none"`` the model's log-density is
    Lawrence's objective. It has no maximum in (X, lengthscale) then: both shrink together for
    ever at a rising prior of X. The default prior of the lengthscale is bounded away from 0.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20), latent_dim=2)
    >>> [rv.name for rv in model.free_RVs]
    ['X', 'lengthscale', 'amplitude', 'sigma']

    Some rows lack a column:

    >>> Y = gplvm.load_digits(n=20)
    >>> holes = Y.where((Y["feature"] != "pixel_2_4") | (Y["label"] != "6"))
    >>> model = gplvm.build_model(holes, missing="mask")
    >>> int((~model["Y_seen"].get_value()).sum())
    5
    """
    table = as_table(Y, missing=missing)
    warn_of_odd_table(table, scale)
    _check_latent_dim(latent_dim, table.shape)
    entry, bias = parse_kernel(kernel)
    if ard and not entry.parameters:
        raise ValueError(
            f"ard=True needs a kernel with a lengthscale, got kernel={kernel!r}. The linear kernel "
            "already scales each latent dimension by itself."
        )
    by_column = _noise_by_column(noise)
    signal = ("amplitude",) if by_column and "amplitude" not in entry.parameters else ()
    names = ("X", *entry.parameters, *signal, "sigma", *(("bias",) if bias else ()))
    chosen = _chosen_priors(names, priors)
    mean, spread = centre_and_scale(table, scale)
    floor = _checked_resolution(resolution, table, spread, by_column=by_column)
    seen = ~np.isnan(table.to_numpy())
    if not seen.all():
        warn_of_cost(column_patterns(seen))

    coords = {
        OBS: table[OBS].to_numpy(),
        FEATURE: table[FEATURE].to_numpy(),
        LATENT: np.arange(latent_dim),
    }
    with pm.Model(coords=coords) as model:
        # The table comes first: a prior of X may be a function of it.
        table_of_model = {
            "mu": pm.Data("Y_mean", mean, dims=FEATURE),
            "scale": pm.Data("Y_scale", spread, dims=FEATURE),
            "observed": pm.Data("Y_data", np.where(seen, table, mean).T, dims=(FEATURE, OBS)),
        }
        if not seen.all():
            table_of_model["seen"] = pm.Data("Y_seen", seen.T, dims=(FEATURE, OBS))
        shapes: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "X": ((OBS, LATENT), (len(table), latent_dim))
        }
        if ard:
            shapes["lengthscale"] = ((LATENT,), (latent_dim,))
        if by_column:
            shapes |= dict.fromkeys(_OF_COLUMNS, ((FEATURE,), (table.shape[1],)))
        parameters = {}
        for name in names:
            dims, shape = shapes.get(name, ((), ()))
            parameters[name] = add_prior(
                name, chosen[name], dims=dims, shape=shape, positive=name != "X"
            )
        if floor.any():
            pm.Data("Y_resolution", floor, dims=FEATURE if floor.ndim else None)
            parameters["sigma"] = noise_in(model)
        if by_column:
            table_of_model |= {name: parameters.pop(name) for name in _OF_COLUMNS}
        GPColumns(
            "Y",
            covariance(entry.name, parameters.pop("X"), **parameters),
            dims=(FEATURE, OBS),
            **table_of_model,
        )
        # Coordinates along the rows that are no index (labels) ride along: a coordinate of the
        # model without a variable, which fits attach to obs again.
        for name, coord in table.coords.items():
            if name not in (OBS, FEATURE) and coord.dims == (OBS,):
                if str(name) in {"chain", "draw", "__sample__", LATENT, *model.named_vars}:
                    raise ValueError(
                        f"Y must not have a coordinate called {str(name)!r} on its rows, a name that the "
                        f"model uses. Rename it: Y.rename({name}=...)."
                    )
                model.add_coord(str(name), coord.to_numpy())
    return model


def _checked_resolution(
    resolution: Any, table: xr.DataArray, scale: NDArray[np.float64], *, by_column: bool
) -> NDArray[np.float64]:
    """Give the floor of the noise, a number or with noise="column" one for each column."""
    if isinstance(resolution, str) and resolution == "auto":
        return resolution_of(table, scale, by_column=by_column)
    try:
        floor = np.asarray(resolution, dtype=np.float64)
    except (TypeError, ValueError):
        floor = np.array(np.nan)
    shapes = [(), scale.shape] if by_column else [()]
    known = floor.shape in shapes and not isinstance(resolution, bool)
    if known and np.isfinite(floor).all() and (floor >= 0.0).all():
        return floor
    raise ValueError(
        "resolution must be 'auto', 0 or a positive number (with noise='column' one for each column if "
        f"wanted), in units of the scale as sigma is, got {resolution!r}."
    )


_OF_COLUMNS = ("amplitude", "sigma")  # what a column has of its own with noise="column"


def _noise_by_column(noise: str) -> bool:
    if noise not in ("shared", "column"):
        raise ValueError(f"noise must be 'shared' or 'column', got {noise!r}.")
    return noise == "column"


def _check_latent_dim(latent_dim: int, shape: tuple[int, ...]) -> None:
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int | np.integer):
        raise TypeError(f"latent_dim must be a whole number, got {latent_dim!r}.")
    if not 1 <= latent_dim <= min(shape):
        raise ValueError(
            f"latent_dim must lie between 1 and min(N, D) = {min(shape)}, got {latent_dim}."
        )


def _chosen_priors(names: tuple[str, ...], priors: Mapping[str, Any] | None) -> dict[str, Any]:
    unknown = [name for name in priors or {} if name not in names]
    if unknown:
        raise ValueError(
            f"priors must name parameters of this model ({', '.join(names)}), got {', '.join(unknown)}."
        )
    chosen = {name: DEFAULT_PRIORS[name]() for name in names if name not in (priors or {})}
    return chosen | dict(priors or {})


def noise_in(model: pm.Model) -> Variable:
    """Write down the standard deviation of all noise in a model, its floor included."""
    sigma, floor = model["sigma"], model.named_vars.get("Y_resolution")
    return sigma if floor is None else pt.sqrt(pt.square(sigma) + pt.square(floor))


def floor_of(model: pm.Model) -> float:
    """Read the floor of a model's noise, in units of the scale; 0 if it has none."""
    floor = model.named_vars.get("Y_resolution")
    return 0.0 if floor is None else float(np.max(floor.get_value()))


def _is_noise(model: pm.Model, variable: Variable) -> bool:
    if "sigma" not in model.named_vars:
        return isinstance(variable, Constant) and bool(np.all(variable.data == 0.0))
    return equal_computations([variable], [noise_in(model)])


@dataclass(frozen=True)
class Description:
    """What a model's graph says about it.

    Parameters
    ----------
    kernel : str
        Name of the kernel, or "custom" for a covariance of the user's own or one whose parameters
        are not the model's variables of these names.
    observed : TensorVariable
        The table in the model.
    """

    kernel: str
    observed: Variable


def describe(model: pm.Model) -> Description:
    """Read the kernel and the name of the table off a model's graph.

    Parameters
    ----------
    model : pm.Model

    Returns
    -------
    Description

    Raises
    ------
    TypeError
        If ``model`` is no pm.Model.
    ValueError
        If it has no variable ``X``, or not exactly one observed :class:`GPColumns`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> describe(gplvm.build_model(gplvm.load_digits(n=20), kernel="matern52")).kernel
    'matern52'
    """
    if not isinstance(model, pm.Model):
        raise TypeError(f"model must be a pm.Model, got {type(model).__name__}. See build_model.")
    tables = [rv for rv in model.observed_RVs if isinstance(rv.owner.op, GPColumnsRV)]
    if len(tables) != 1:
        raise ValueError(
            f"model must have one observed GPColumns, got {len(tables)}. Build it with build_model "
            "or put gplvm.GPColumns into your own."
        )
    if "X" not in model.named_vars:
        raise ValueError(
            "model must have latent positions called 'X', got the variables "
            f"{', '.join(model.named_vars)}."
        )
    _, _, cov, *own = tables[0].owner.op.dist_params(tables[0].owner)
    own = own[:2] if has_own_noise(tables[0]) else []
    kernel = cov.owner.op.kernel if _in_named_parameters(model, cov, own) else "custom"
    return Description(kernel=kernel, observed=tables[0])


def _in_named_parameters(model: pm.Model, cov: Variable, own: list[Variable]) -> bool:
    """Whether K is one of the table's, of the model's own X and θ by their names.

    ``own`` are the amplitude and noise of the columns, which K then leaves out. Only then can it be evaluated from the draws of a fit.
    """
    if cov.owner is None or not isinstance(cov.owner.op, Covariance):
        return False
    Z, amplitude, bias, sigma, *linear = cov.owner.inputs
    named = model.named_vars
    if own:
        if not all(isinstance(v, Constant) for v in (amplitude, sigma)):
            return False
        if amplitude.data != 1.0 or sigma.data != 0.0:
            return False
        amplitude, sigma = own

    def is_named(variable: Variable, name: str, default: float | None) -> bool:
        while variable.owner is not None and isinstance(
            variable.owner.op, DimShuffle | SpecifyShape
        ):
            variable = variable.owner.inputs[0]  # the same numbers in another shape
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
        and _is_noise(model, sigma)
        and all(_is_product(v, is_named) for v in linear)
    )


def _is_product(v: Variable, is_named: Callable[[Variable, str, float | None], bool]) -> bool:
    """Whether it is weight · lengthscale, as :func:`covariance` writes it."""
    if v.owner is None or v.owner.op != pt.mul or len(v.owner.inputs) != 2:
        return False
    weight, lengthscale = v.owner.inputs
    return is_named(weight, "weight", 1.0) and is_named(lengthscale, "lengthscale", 1.0)
