"""From a table to a plain ``pm.Model``."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from numpy.typing import NDArray
from pymc.distributions.shape_utils import change_dist_size
from pytensor.graph.basic import Variable

from pm_gplvm.core.gaussian import column_patterns, warn_of_cost
from pm_gplvm.core.kernels import parse_kernel
from pm_gplvm.data.fit import FEATURE, LATENT, OBS
from pm_gplvm.data.table import (
    Scale,
    as_table,
    centre_and_scale,
    resolution_of,
    warn_of_odd_table,
)
from pm_gplvm.model.likelihood import GPColumns
from pm_gplvm.model.ops import covariance


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


Prior = Any
"""A number (held fixed), ``"flat"``, a ``pm.Distribution.dist(...)`` or ``f(name, dims)``."""

DEFAULT_PRIORS: Mapping[str, Callable[[], Variable]] = {
    "X": lambda: pm.Normal.dist(0.0, 1.0),
    # Bounded away from 0: with N(0, 1) on X the pair (X, lengthscale) may shrink together at no
    # cost in likelihood, and a density that does not vanish at 0 leaves the mode without a place.
    "lengthscale": lambda: pm.InverseGamma.dist(3.0, 2.0),
    "amplitude": lambda: pm.LogNormal.dist(0.0, 1.0),
    "weight": lambda: pm.HalfNormal.dist(1.0),  # finite at 0: the linear part may vanish
    "sigma": lambda: pm.LogNormal.dist(-2.0, 1.0),
    "bias": lambda: pm.HalfNormal.dist(1.0),
}
"""The default of each parameter; amplitude, weight (per unit of X), sigma and bias in units
of the data's scale."""


def add_prior(
    name: str, prior: Prior, *, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    """Add one parameter to the model on the context stack.

    ``prior`` as in :func:`build_model`: a number is held and stands in ``constant_data``, "flat" is the
    improper constant density, a distribution is brought to the parameter's shape, and a callable
    registers the variable itself.
    """
    if isinstance(prior, str):
        if prior != "flat":
            raise ValueError(f"priors[{name!r}] must be 'flat' where it is a text, got {prior!r}.")
        return (pm.HalfFlat if positive else pm.Flat)(name, dims=dims)
    if isinstance(prior, Variable):
        return _registered(name, prior, dims, shape)
    if callable(prior):
        variable = prior(name, dims)
        if not isinstance(variable, Variable):
            raise TypeError(
                f"priors[{name!r}] was called and must return the variable it made, "
                f"got {type(variable).__name__}."
            )
        return variable
    return _fixed(name, prior, dims, shape, positive)


def _registered(
    name: str, prior: Variable, dims: tuple[str, ...], shape: tuple[int, ...]
) -> Variable:
    if prior.owner is None or not hasattr(prior.owner.op, "ndim_supp"):
        raise TypeError(
            f"priors[{name!r}] must be a distribution made by .dist(), such as pm.HalfNormal.dist(1), "
            f"got the variable {prior}."
        )
    given = tuple(prior.type.shape)
    fits = len(given) == len(shape) and all(
        a in (None, b) for a, b in zip(given, shape, strict=True)
    )
    if given and not fits:
        raise ValueError(f"priors[{name!r}] must have shape () or {shape}, got {given}.")
    # A variable of its own, so that one distribution may serve several parameters and models.
    prior = change_dist_size(prior, shape[: len(shape) - prior.owner.op.ndim_supp])
    return pm.modelcontext(None).register_rv(prior, name, dims=dims)


def _fixed(
    name: str, prior: Any, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    try:
        value = np.asarray(prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"priors[{name!r}] must be a number, 'flat', a distribution made by .dist() or a "
            f"function of (name, dims), got {type(prior).__name__}."
        ) from None
    if value.shape not in ((), shape):
        raise ValueError(f"priors[{name!r}] must have shape () or {shape}, got {value.shape}.")
    if not np.isfinite(value).all() or (positive and (value <= 0).any()):
        wanted = "positive and finite" if positive else "finite"
        raise ValueError(f"priors[{name!r}] must be {wanted} where it is a number, got {prior}.")
    return pm.Data(name, np.broadcast_to(value, shape).copy(), dims=dims or None)
