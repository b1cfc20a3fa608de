"""From a table, or from a fit, to a plain ``pm.Model``."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from numpy.typing import NDArray
from pytensor.graph.basic import Variable

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.core.composite import FACTOR, SHAPE, TERM, Composite
from pm_gplvm.core.gaussian import column_patterns, warn_of_cost
from pm_gplvm.core.kernels import (
    KERNELS,
    Kernel,
    check_rank,
    composite_of,
    is_known,
    is_own,
    parse_kernel,
    why_unknown,
)
from pm_gplvm.data.arrays import labels_along, listed
from pm_gplvm.data.files import check_labels
from pm_gplvm.data.fit import FEATURE, LATENT, OBS, THETA, Fit, in_view
from pm_gplvm.data.input_tables import inputs_of_rows
from pm_gplvm.data.inputs import COLUMN, Inputs
from pm_gplvm.data.rows import RowTable, offset_along_rows
from pm_gplvm.data.table import (
    Scale,
    as_table,
    centre_and_scale,
    noise_floor,
    warn_of_odd_table,
)
from pm_gplvm.data.views import are_views, as_views
from pm_gplvm.model.families import Gaussian
from pm_gplvm.model.functions import Source, add_functions, names_of_theta
from pm_gplvm.model.likelihood import GPColumns
from pm_gplvm.model.likelihoods import Likelihood, Rows, resolve
from pm_gplvm.model.ops import covariance, with_columns
from pm_gplvm.model.priors import DEFAULT_PRIORS, LatentPrior, add_prior, back_constraint
from pm_gplvm.model.spec import VIEW, ModelSpec, noise_in
from pm_gplvm.model.theta import Axes


@checked
def build_model(
    Y: Any,
    latent_dim: int = 2,
    *,
    kernel: Any = "rbf",
    ard: bool = False,
    priors: Mapping[str, Any] | None = None,
    scale: Scale | Mapping[str, Scale] = "global",
    missing: Literal["raise", "mask"] = "raise",
    resolution: Any = "auto",
    noise: Literal["shared", "column"] = "shared",
    likelihood: Any = "gaussian",
    offset: Any = None,
    inputs: Any = None,
) -> pm.Model:
    """Build the Gaussian process latent variable model of a table.

    X ~ N(0, I), θ ~ their priors, and every column of Y an independent draw from
    N(mean, scale² K(X, θ)) (Lawrence 2005, JMLR 6, eq. 7 and section 3). The mean and the scale
    of the columns are data, so that everything that comes out of the model is in the units of Y,
    while θ is in units of the scale.

    Parameters
    ----------
    Y : array_like, DataFrame or DataArray, dims (obs, feature), shape (N, D), or mapping of these
        The table, rows are observations. Its labels become the model's coordinates. A mapping from names to
        tables of the same rows, ``{"rna": Y1, "protein": Y2}``, makes a model of several, see Notes.
    latent_dim : int, default 2
        Q, the number of latent dimensions. With a linear kernel alone at most min(N, D), D the number of all columns.
    kernel : {"rbf", "matern32", "matern52", "cauchy", "linear"}, ``" + bias"`` behind it if wanted
        Covariance of the rows; white noise ``sigma`` is always added. "linear" is
        K = X Xᵀ + sigma² I, dual probabilistic PCA, and has no lengthscale or amplitude.
        "rbf + linear", and so with the other three, is the sum of
        amplitude² κ(‖x - x'‖ / lengthscale) and weight² x·x': PCA and what bends it.
        Or a sum of products of factors over chosen latent dimensions, as a text, "rbf[0,1] + periodic[2]", or made
        of ``gplvm.kernels``: ``kernels.rbf(dims=[0, 1]) + kernels.periodic(dims=2)``. Or a covariance of PyMC's, as a
        function such as ``lambda input_dim, lengthscale: pm.gp.cov.ExpQuad(input_dim, ls=lengthscale)``, which takes
        ``lengthscale`` or ``alpha`` too if it has any, multiplied by amplitude².
    ard : bool, default False
        One lengthscale for each latent dimension instead of one for all; of each factor, where there are several.
    priors : mapping, optional
        Replaces the prior of ``X``, ``lengthscale``, ``amplitude``, ``alpha``, ``weight``, ``sigma`` or
        ``bias``: a number (held fixed), ``"flat"``, a distribution such as
        ``pm.HalfNormal.dist(1)``, or a function of (name, dims) that makes the variable. Defaults:
        N(0, 1), InverseGamma(3, 2), LogNormal(0, 1), LogNormal(0, 1), HalfNormal(1), LogNormal(-2, 1),
        HalfNormal(1). For X there are :func:`priors.informative`, :func:`priors.dynamics`, :func:`priors.class_mixture`,
        :func:`priors.back_constraint` and, of angles, :func:`priors.circular`.
    scale : {"global", "feature", "none"}, default "global"
        What the centred columns are divided by: one number for all, each its own standard
        deviation, or nothing. Of several tables also by name, ``{"rna": "feature", "protein": "global"}``, as
        ``resolution`` and ``kernel``.
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
    likelihood : str, object of ``gplvm.likelihoods``, mapping from columns to these, or function
        What an entry is given f(x) of its column, as in :func:`fit_svi`. All but normal noise alone make a model
        whose functions f are written out: N D values more, for tables of a few hundred entries up to some
        thousands. See Notes.
    offset : array_like (N,), (N, 1) or (N, D), or "size", optional
        Added to f, as in :func:`fit_svi`; of other likelihoods than a Gaussian.
    inputs : DataFrame, mapping from names to values, or Dataset, N rows, optional
        What is known of each row and acts on Y beside X: ``DataFrame({"dose": ..., "batch": ...})``, joined by label
        where both it and Y have labels. Each column adds a term to K. Numbers, standardised, add
        amplitude² exp(-r²/2) with a lengthscale of their own; text, categories and bools add amplitude² where two rows
        have the same class: every column of Y gets an offset of each class. See Notes.

    Returns
    -------
    pm.Model
        With ``X`` (obs, latent), ``lengthscale`` () or (latent,), ``amplitude``, ``weight``,
        ``sigma``, ``bias``, as the kernel has them (of several factors ``lengthscale`` (kernel_factor,), ``amplitude``
        (kernel_term,) and ``alpha`` (kernel_shape,)), and the observed ``Y`` (feature, obs); amplitude and
        sigma have dims (feature,) with ``noise="column"``. Y is transposed, as PyMC puts batch
        dimensions first. With missing entries the data ``Y_seen`` (feature, obs) tell where Y has
        any; elsewhere ``Y_data`` holds the column's mean, which is not looked at.

    Warns
    -----
    RuntimeWarning
        If there are so many patterns of missing entries that a fit takes much longer; if Y looks
        transposed, or a column like labels, or a few columns hold nearly all of its variance, or
        numbers such as -999 seem to stand for missing entries.

    Raises
    ------
    TypeError
        If Y holds text, or a prior is of an unknown kind.
    ValueError
        If Y has the wrong shape, infinite or missing values, or with ``missing="mask"`` a row or
        column without any; if ``latent_dim``, ``kernel``, ``scale``, ``missing``, ``noise`` or the
        name of a prior is out of range; if a label or a coordinate's name could not be saved.

    Notes
    -----
    With flat priors, ``kernel="rbf + bias"`` and ``scale="none"`` the model's log-density is
    Lawrence's objective. It has no maximum in (X, lengthscale) then: both shrink together for
    ever at a rising prior of X. The default prior of the lengthscale is bounded away from 0.

    With another likelihood than a Gaussian the functions cannot be integrated out. The model then has ``v`` (feature,
    obs) ~ N(0, 1), ``level`` (feature) and the functions ``f`` (obs, feature), f = level_d + L v_d, L Lᵀ = K + 1e-6
    amplitude² I (with a linear part or a bias also their squares); the prior of ``level`` is N(what the likelihood
    finds in Y, 1), replaced by ``priors["level"]``. The likelihood's parameters (``sigma``, ``dispersion``, ``shape``,
    ``gaps``, ``df``) are free, lognormal as in :func:`fit_svi`. Only entries that were measured are
    observed, as ``Y`` (obs, feature), with holes as one vector, and in a mixed table as one variable for each
    likelihood, ``Y_poisson``. ``scale``
    is of columns of Student-t noise, ``resolution`` of none. PyMC's functions take such a model,
    :func:`sample_theta` draws θ and f given X, :func:`fit_svi` and :func:`fit_map` (its ``f`` integrated out by
    Laplace's approximation, without the 1e-6) fit it; all other fits refuse it.

    Several tables share X, and each has θ, a noise, a mean and a scale of its own: ``lengthscale_rna``, ``sigma_rna``,
    the observed ``Y_rna`` (feature_rna, obs) and so on (manifold relevance determination: Damianou, Ek, Titsias &
    Lawrence 2012). With ``ard=True`` a dimension of X may matter to one table and not to another. ``priors`` under a
    plain name are of all tables, under a name of its own of one. Rows are joined by label where every table has labels,
    else by position; with ``missing="mask"`` a table may lack rows, which then count in the others alone.
    :func:`fit_map`, :func:`fit_marginal`, :func:`fit_laplace`, :func:`fit_variational` and :func:`sample` take such a model, and
    :func:`data.view` makes of their fit an ordinary one of each table. ``noise``, ``likelihood`` and ``offset`` are of a
    single table; :func:`fit_svi` takes several with a likelihood of each.

    With ``inputs`` K = K_X(X) + Σ_j K_j(c_j, c_j) + noise: Y is a function of X, plus one of each input, plus noise. The
    kernel is then one of several terms: ``amplitude`` (kernel_term,) has an entry for each term of ``kernel``, and one
    for each input under its name, ``lengthscale`` (kernel_factor,) one for each input that is a number; their priors
    are those of ``kernel``. The data ``inputs`` (obs, input_column) are the columns that the kernel
    takes. :func:`predict` with ``parts=True`` takes the terms apart, and :func:`reconstruct` with ``without=["batch"]`` takes one out.
    :func:`fit_map`, :func:`fit_marginal`, :func:`fit_laplace`, :func:`fit_stochastic`, :func:`fit_svi` and :func:`sample_theta`
    take such a model.

    References
    ----------
    Lawrence, N. D. (2005). Probabilistic non-linear principal component analysis with Gaussian process latent
    variable models. JMLR 6, 1783-1816.

    Damianou, A., Ek, C. H., Titsias, M., Lawrence, N. (2012). Manifold relevance determination. ICML.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20), latent_dim=2)
    >>> [rv.name for rv in model.free_RVs]
    ['X', 'lengthscale', 'amplitude', 'sigma']

    Some rows lack a column:

    >>> Y = gplvm.data.load_digits(n=20)
    >>> holes = Y.where((Y["feature"] != "pixel_2_4") | (Y["label"] != "6"))
    >>> model = gplvm.build_model(holes, missing="mask")
    >>> int((~model["Y_seen"].get_value()).sum())
    5

    Counts, with their functions:

    >>> counts = gplvm.data.load_digits(n=20)[:, 18:22]
    >>> model = gplvm.build_model(counts, likelihood="poisson")
    >>> [rv.name for rv in model.free_RVs]
    ['X', 'lengthscale', 'amplitude', 'level', 'v']

    Two tables of the same rows:

    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model({"upper": Y[:, :32], "lower": Y[:, 32:]}, 4, ard=True)
    >>> [rv.name for rv in model.observed_RVs]
    ['Y_upper', 'Y_lower']

    Rows from two batches:

    >>> Y = gplvm.data.load_digits(n=20)
    >>> batch = ["first"] * 10 + ["second"] * 10
    >>> model = gplvm.build_model(Y, inputs={"batch": batch})
    >>> model.coords["kernel_term"]
    ('rbf', 'batch')
    """
    if are_views(Y):
        _refuse_of_views(noise=noise, likelihood=likelihood, offset=offset, inputs=inputs)
        views = as_views(Y, missing=missing)
        labelled = any(labels_along(each, 0) is not None for each in Y.values())
        return _exact(
            views, labelled, latent_dim, kernel, ard, priors, scale, resolution, by_column=False
        )
    table = as_table(Y, missing=missing)
    _check_coords(table)
    given = resolve(likelihood, table[FEATURE].to_numpy().tolist(), table)
    if not isinstance(given, Gaussian) or given.noise_sd is not None:
        if inputs is not None:
            raise ValueError(
                f"inputs are of likelihood='gaussian', got them with {given.text}. Leave them out, or fit by "
                "minibatches: fit_svi(Y, likelihood=..., inputs=...)."
            )
        _refuse_of_gaussian(given, resolution=resolution, noise=noise)
        return _with_functions(table, Y, given, latent_dim, kernel, ard, priors, scale, offset)
    if offset is not None:
        raise ValueError(
            "offset is of other likelihoods than a Gaussian, got it with 'gaussian'. Subtract it from Y."
        )
    by_column = _noise_by_column("column" if given.noise == "column" else noise)
    labelled = labels_along(Y, 0) is not None
    known = None
    if inputs is not None:
        if by_column:
            raise ValueError(
                "noise='column' gives each column the amplitude that the terms of inputs have, so that both cannot be. Take "
                "noise='shared', with scale='feature' where columns differ in spread."
            )
        known = inputs
        if not isinstance(inputs, Inputs):
            known = inputs_of_rows(inputs, table[OBS].to_numpy(), labelled=labelled)
    return _exact(
        {None: table},
        labelled,
        latent_dim,
        kernel,
        ard,
        priors,
        scale,
        resolution,
        by_column=by_column,
        inputs=known,
    )


def _check_coords(table: xr.DataArray) -> None:
    check_labels({name: coord.to_numpy() for name, coord in table.coords.items()}, "Y")


def _refuse_of_views(*, noise: str, likelihood: Any, offset: Any, inputs: Any) -> None:
    """Raise where an option is given that is of a single table."""
    if inputs is not None:
        raise ValueError(
            "inputs are of a model of one table, got them with several. Build a model of one table."
        )
    given = {
        "noise": (noise, "shared"),
        "likelihood": (likelihood, "gaussian"),
        "offset": (offset, None),
    }
    for name, (value, usual) in given.items():
        if not (value is usual or (isinstance(value, str) and value == usual)):
            raise ValueError(
                f"{name} is of a model of one table, got {name}={value!r} with several. Leave it out: each table has a "
                "noise of its own. Other likelihoods of several tables, and a noise of each column, are fitted by "
                "fit_svi(Y, likelihood={name: ...})."
            )


def of_each(name: str, given: Any, views: Sequence[Any]) -> dict[Any, Any]:
    """Give what an option is of each table: the same of all, or what is said of each by its name."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(views, given)
    if set(given) != set(views):
        wanted = "one value" if None in views else f"one value, or one for each of {listed(views)}"
        raise ValueError(f"{name} must be {wanted}, got one for {listed(list(given)) or 'none'}.")
    return dict(given)


def refuse_composite(entry: Kernel | Composite, view: str | None) -> None:
    """Raise where one of several tables has a kernel of several factors."""
    if view is not None and isinstance(entry, Composite):
        raise ValueError(
            f"kernel must be a named one with several tables, one of {', '.join(KERNELS)}, got {entry.name!r}."
        )


def _exact(
    tables: Mapping[Any, xr.DataArray],
    labelled: bool,
    latent_dim: int,
    kernel: str,
    ard: bool,
    priors: Mapping[str, Any] | None,
    scale: Any,
    resolution: Any,
    *,
    by_column: bool,
    inputs: Inputs | None = None,
) -> pm.Model:
    """Build the model of a table, whose name is None, or of several by name, in which the functions are integrated out."""
    views = [view for view in tables if view is not None]
    scales = of_each("scale", scale, list(tables))
    resolutions = of_each("resolution", resolution, list(tables))
    for view, table in tables.items():
        _check_coords(table)
        warn_of_odd_table(table, scales[view])
    first = next(iter(tables.values()))
    shape = (len(first), sum(table.shape[1] for table in tables.values()))
    kernels = {
        view: _OfKernel.of(
            each, latent_dim, shape, ard=ard, inputs=inputs, by_column=by_column, view=view
        )
        for view, each in of_each("kernel", kernel, list(tables)).items()
    }
    names = tuple(dict.fromkeys(name for each in kernels.values() for name in each.names))
    of_views = {view: kernels[view].names for view in views}
    chosen = _chosen_priors(("X", *names), priors, of_views=of_views)
    if views and isinstance(chosen["X"], back_constraint):
        raise ValueError(
            "priors['X'] must not be a back_constraint with several tables: its map takes one. Leave it out."
        )
    parts = {
        view: _Standard.of(table, scales[view], resolutions[view], by_column)
        for view, table in tables.items()
    }
    coords = _coords(first, latent_dim, columns=not views)
    for each in kernels.values():
        coords |= each.axes.coords
    if inputs is not None:
        coords[COLUMN] = np.array(inputs.columns)
    with pm.Model(coords=coords) as model:
        if views:
            model.add_coord(VIEW, views)
        # The table comes first: a prior of X may be a function of it.
        data = {view: _add_data(part, view) for view, part in parts.items()}
        chosen["X"] = _joined(chosen["X"], first, labelled)
        X = add_prior(
            "X", chosen["X"], dims=(OBS, LATENT), shape=(len(first), latent_dim), positive=False
        )
        X = with_columns(X, latent_dim)
        if inputs is not None:
            X = _beside(X, inputs)
        of_columns = _OF_COLUMNS if by_column else ()
        for view, part in parts.items():
            own_kernel = kernels[view]
            parameters = _add_theta(
                *(own_kernel.names, chosen, part.table, latent_dim, own_kernel.axes, of_columns),
                view=view,
            )
            dims = (in_view(FEATURE, view), OBS)
            if part.floor.any():
                pm.Data(
                    in_view("Y_resolution", view),
                    part.floor,
                    dims=dims[:1] if part.floor.ndim else None,
                )
                parameters["sigma"] = noise_in(model, view)
            own = {name: parameters.pop(name) for name in of_columns}
            K = covariance(own_kernel.name, X, **parameters)
            GPColumns(in_view("Y", view), K, dims=dims, **data[view], **own)
        _add_labels(model, first)
    return model


def _beside(X: Variable, inputs: Inputs) -> Variable:
    """Add inputs to the model on the context stack, and put them beside X."""
    known = pm.Data("inputs", inputs.values, dims=(OBS, COLUMN))
    pm.Data("inputs_mean", inputs.mean, dims=(COLUMN,))
    pm.Data("inputs_scale", inputs.scale, dims=(COLUMN,))
    return pt.concatenate([X, with_columns(known, len(inputs.columns))], axis=1)


@dataclass(frozen=True)
class _OfKernel:
    """What the kernel of a table needs of the model: its name there, its parameters and their axes."""

    name: str
    names: tuple[str, ...]
    axes: Axes

    @classmethod
    def of(
        cls,
        kernel: Any,
        latent_dim: int,
        shape: tuple[int, ...],
        *,
        ard: bool,
        inputs: Inputs | None,
        by_column: bool,
        view: str | None,
    ) -> Self:
        """Read a kernel as a user gives it; ValueError if it does not suit the other arguments."""
        entry, bias = _checked_kernel(kernel, latent_dim, shape, ard=ard)
        if inputs is not None:
            entry = composite_of(entry)
        if by_column and isinstance(entry, Composite):
            raise ValueError(
                f"noise='column' gives each column the amplitude that the terms of kernel={entry.name!r} have, so that both "
                "cannot be. Take noise='shared', with scale='feature' where columns differ in spread."
            )
        refuse_composite(entry, view)
        axes = Axes.of_kernel(entry, latent_dim, ard=ard, inputs=inputs)
        if inputs is not None and isinstance(entry, Composite):
            entry = inputs.joined_kernel(entry, latent_dim)
        signal = ("amplitude",) if by_column and "amplitude" not in entry.parameters else ()
        names = (*entry.parameters, *signal, "sigma", *(("bias",) if bias else ()))
        return cls(entry.name, names, axes)


@dataclass(frozen=True)
class _Standard:
    """A table, and by which numbers it is standardised."""

    table: xr.DataArray
    mean: Array
    spread: Array
    floor: Array
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, table: xr.DataArray, scale: Scale, resolution: Any, by_column: bool) -> Self:
        """Find them, and warn if missing entries cost much."""
        values = table.to_numpy()
        mean, spread = centre_and_scale(table, scale)
        floor = noise_floor(resolution, values, spread, by_column=by_column)
        seen = ~np.isnan(values)
        if not seen.all():
            warn_of_cost(column_patterns(seen))
        return cls(table, mean, spread, floor, seen)


def _add_data(of: _Standard, view: str | None) -> dict[str, Variable]:
    """Add a table and its units to the model on the context stack."""
    columns = in_view(FEATURE, view)
    if view is not None:
        pm.modelcontext(None).add_coord(columns, of.table[FEATURE].to_numpy())

    def data(name: str, values: Any, *dims: str) -> Variable:
        return pm.Data(in_view(name, view), values, dims=dims)

    filled = np.where(of.seen, of.table, of.mean).T
    added = {
        "mu": data("Y_mean", of.mean, columns),
        "scale": data("Y_scale", of.spread, columns),
        "observed": data("Y_data", filled, columns, OBS),
    }
    return added if of.seen.all() else added | {"seen": data("Y_seen", of.seen.T, columns, OBS)}


def _coords(
    table: xr.DataArray, latent_dim: int, *, columns: bool = True
) -> dict[str, NDArray[Any]]:
    of_columns = {FEATURE: table[FEATURE].to_numpy()} if columns else {}
    return {OBS: table[OBS].to_numpy(), **of_columns, LATENT: np.arange(latent_dim)}


def _joined(prior: Any, table: xr.DataArray, labelled: bool) -> Any:
    """Bring what a prior of X knows of rows into the order of the table's."""
    if not isinstance(prior, LatentPrior):
        return prior
    return prior.joined(table[OBS].to_numpy(), labelled=labelled)


def _add_theta(
    names: tuple[str, ...],
    chosen: Mapping[str, Any],
    table: xr.DataArray,
    latent_dim: int,
    axes: Axes,
    of_columns: tuple[str, ...] = (),
    *,
    view: str | None = None,
) -> dict[str, Any]:
    """Add θ of a table to the model on the context stack; by plain names."""
    shapes = {name: (axes.dims(name), axes.shape(name)) for name in axes.of}
    shapes |= dict.fromkeys(of_columns, ((FEATURE,), (table.shape[1],)))
    parameters = {}
    for name in names:
        (dims, shape), own = shapes.get(name, ((), ())), in_view(name, view)
        parameters[name] = add_prior(own, chosen[own], dims=dims, shape=shape, positive=True)
    return parameters


def _add_labels(model: pm.Model, table: xr.DataArray) -> None:
    """Let coordinates along the rows that are no index (labels) ride along.

    They are coordinates of the model without a variable, which fits attach to obs again.
    """
    for name, coord in table.coords.items():
        if name not in (OBS, FEATURE) and coord.dims == (OBS,):
            taken = {"chain", "draw", "__sample__", *_OWN_AXES, *model.named_vars, *model.coords}
            if str(name) in taken:
                raise ValueError(
                    f"Y must not have a coordinate called {str(name)!r} on its rows, a name that the "
                    f"model uses. Rename it: Y.rename({name}=...)."
                )
            model.add_coord(str(name), coord.to_numpy())


def _with_functions(
    table: xr.DataArray,
    Y: Any,
    likelihood: Likelihood,
    latent_dim: int,
    kernel: str,
    ard: bool,
    priors: Mapping[str, Any] | None,
    scale: Any,
    offset: Any,
) -> pm.Model:
    """Build the model in which f is written out."""
    entry, bias = _checked_kernel(kernel, latent_dim, table.shape, ard=ard)
    kernel = f"{entry.name} + bias" if bias else entry.name
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {scale!r}.")
    shift, size = offset_along_rows(offset, RowTable.of(table))
    rows = Rows(table.to_numpy(), shift, likelihood.entries(*table.shape))
    likelihood.check(rows, labels=table[FEATURE].to_numpy().tolist())
    source = Source(table, likelihood, kernel, scale, shift, size)
    names = ("X", *names_of_theta(kernel))
    given = dict(priors or {})
    level = given.pop("level", None)
    chosen = _chosen_priors(names, given, "level")
    if isinstance(chosen["X"], back_constraint):
        raise ValueError(
            "priors['X'] must not be a back_constraint with another likelihood than a Gaussian: its map takes the "
            "table itself. Leave it out."
        )
    chosen["X"] = _joined(chosen["X"], table, labels_along(Y, 0) is not None)
    axes = Axes.of_kernel(entry, latent_dim, ard=ard)
    with pm.Model(coords=_coords(table, latent_dim) | axes.coords) as model:
        shape = (len(table), latent_dim)
        X = add_prior("X", chosen["X"], dims=(OBS, LATENT), shape=shape, positive=False)
        theta = _add_theta(names[1:], chosen, table, latent_dim, axes)
        parameters = {"X": with_columns(X, latent_dim), **theta}
        add_functions(source, parameters, level)
        _add_labels(model, table)
    return model


def _refuse_of_gaussian(likelihood: Likelihood, *, resolution: Any, noise: str) -> None:
    """Raise where an option of the Gaussian model is given with another likelihood."""
    for name, value, usual in (("resolution", resolution, "auto"), ("noise", noise, "shared")):
        if not (isinstance(value, str) and value == usual):
            raise ValueError(
                f"{name} is of likelihood='gaussian', got {name}={value!r} with {likelihood.text}. Leave it out; "
                "likelihoods have options of their own."
            )


def _checked_kernel(
    kernel: Any, latent_dim: int, shape: tuple[int, ...], *, ard: bool
) -> tuple[Kernel | Composite, bool]:
    """Read a kernel, and whether it has a bias; ValueError if it does not suit the other arguments."""
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int | np.integer):
        raise TypeError(f"latent_dim must be a whole number, got {latent_dim!r}.")
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    entry, bias = parse_kernel(kernel)
    if ard and "lengthscale" not in entry.parameters:
        raise ValueError(
            f"ard=True needs a kernel with a lengthscale, got kernel={entry.name!r}. The linear kernel "
            "already scales each latent dimension by itself."
        )
    if isinstance(entry, Composite):
        entry.check(latent_dim)
        if not ard and entry.needs_ard(latent_dim):
            raise ValueError(
                f"ard must be True with kernel={entry.name!r}, which takes a lengthscale for each latent dimension, got "
                "False."
            )
    check_rank(entry, latent_dim, shape)
    return entry, bias


_OWN_AXES = (LATENT, TERM, FACTOR, SHAPE, COLUMN)


_OF_COLUMNS = ("amplitude", "sigma")  # what a column has of its own with noise="column"


def _noise_by_column(noise: str) -> bool:
    if noise not in ("shared", "column"):
        raise ValueError(f"noise must be 'shared' or 'column', got {noise!r}.")
    return noise == "column"


def _chosen_priors(
    names: tuple[str, ...],
    priors: Mapping[str, Any] | None,
    *others: str,
    of_views: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Give every parameter its prior; of several tables a plain name is of all that have none by their own.

    ``of_views`` are the names of what each of several tables has.
    """
    own_names = {
        in_view(name, view): name for view, theirs in (of_views or {}).items() for name in theirs
    }
    known = (*names, *others, *own_names)
    unknown = [name for name in priors or {} if name not in known]
    if unknown:
        raise ValueError(
            f"priors must name parameters of this model ({', '.join(known)}), got {', '.join(map(str, unknown))}."
        )
    chosen = {name: DEFAULT_PRIORS[name]() for name in names if name not in (priors or {})}
    chosen |= dict(priors or {})
    return {own: chosen[name] for own, name in own_names.items()} | chosen


_FLAT = {"Flat()", "HalfFlat()"}


@checked
def rebuild(
    fit: xr.DataTree, *, priors: Mapping[str, Any] | None = None, hold: bool = False
) -> pm.Model:
    """Build the model of a fit again, without the table that it was first built from.

    The table, its labels, mean and scale, the kernel and what was held fixed stand in the fit. Of
    the priors it only tells what they were: those that :func:`build_model` does not have by
    default must be given again, and are compared.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`, for instance from :func:`load`.
    priors : mapping, optional
        As in :func:`build_model`, for those that were neither the default nor a number nor "flat".
    hold : bool, default False
        Whether to hold what the fit held though it has a prior: X in one by :func:`sample_theta`. PyMC's
        functions of a fit need it: ``pm.sample_posterior_predictive`` draws anew whatever is free in the
        model and not in ``posterior``.

    Returns
    -------
    pm.Model
        On which :func:`fit_marginal`, :func:`sample`, :func:`resume` and the others go on.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is none of a model of :func:`build_model`, or had other priors.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> model = gplvm.model.rebuild(best)
    >>> better = gplvm.fit_marginal(
    ...     model, start=best, n_restarts=1, random_seed=1, progressbar=False
    ... )
    """
    read = Fit.of(fit, "X", "Y_mean", "Y_scale", caller="rebuild")
    read.refuse_function_modes(
        "what was said of entries and priors of the likelihood stands in no fit. Build the model as it was first "
        "built: build_model(Y, likelihood=...)."
    )
    read.refuse_uncollapsed(
        "it has no pm.Model. Go on with fit_svi(Y, start=fit), or from its positions with another fit: "
        "fit_marginal(build_model(Y), start={'X': fit['approximation']['X_mean']})."
    )
    read.require("sigma")
    kernel, noted = read.kernel, read.priors
    if is_own(kernel) and not is_known(kernel):
        raise ValueError(f"rebuild {why_unknown(kernel)}")
    if not is_known(kernel) or noted is None:
        raise ValueError(
            "rebuild needs a fit of a model of build_model, got one with a covariance of its own "
            "or without a note of its priors. Build the model as it was first built."
        )
    had, constant = noted, read.constants
    flat = {name: "flat" for name, text in had.items() if text in _FLAT}
    held = {n: constant[n].to_numpy() for n in ("X", *THETA) if n in constant and n not in had}
    scale = scale_rule(read.Y, constant["Y_scale"].to_numpy())
    model = build_like(read, read.Y, priors={**flat, **held, **(priors or {})}, scale=scale)
    _compare(had, ModelSpec.of(model).priors)
    return held_as(model, read) if hold else model


def build_like(
    read: Fit,
    Y: xr.DataArray,
    *,
    priors: Mapping[str, Any],
    scale: Scale = "global",
    new_inputs: Array | None = None,
) -> pm.Model:
    """Build a model like that of a fit, of any table in the very units of the fit's.

    ``new_inputs`` are those of rows behind the fit's own.
    """
    inputs = read.inputs
    if inputs is not None and new_inputs is not None:
        inputs = replace(inputs, values=np.vstack([inputs.values, new_inputs]))
    model = build_model(
        Y,
        read.latent_dim,
        kernel=read.kernel_and_bias,
        ard=read.has_ard,
        priors=priors,
        scale=scale,
        missing="mask",
        resolution=read.resolution,
        noise="column" if read.own_noise else "shared",
        inputs=inputs,
    )
    for name in ("Y_mean", "Y_scale"):
        model[name].set_value(read.constants[name].to_numpy())
    return model


def held_as(model: pm.Model, read: Fit) -> pm.Model:
    """Hold the variables that a fit held."""
    moving = {v.name for v in (*model.free_RVs, *model.deterministics)}
    held = {name: read.constants[name].to_numpy() for name in read.constants if name in moving}
    return pm.do(model, held) if held else model


def scale_rule(table: xr.DataArray, spread: NDArray[np.float64]) -> Scale:
    """Find the rule that gives these scales of the columns."""
    rules: tuple[Scale, ...] = ("global", "feature", "none")
    for rule in rules:
        with suppress(ValueError):  # "feature" refuses constant columns
            if np.array_equal(centre_and_scale(as_table(table, missing="mask"), rule)[1], spread):
                return rule
    return "none"


def _compare(had: Mapping[str, str], has: Mapping[str, str]) -> None:
    other = [name for name in {**had, **has} if had.get(name) != has.get(name)]
    if other:
        found = "; ".join(
            f"{name} had {had.get(name, 'none')}, now {has.get(name, 'none')}" for name in other
        )
        raise ValueError(
            f"rebuild must have the priors of the fit, got others: {found}. Give them as they "
            f"were given to build_model: priors={{'{other[0]}': ...}}."
        )
