"""Y at latent positions, new ones or those of the training rows, mixed over the draws of a fit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.core.gaussian import GP, Patterns, square_root
from pm_gplvm.core.uncollapsed import mixing_nodes
from pm_gplvm.data.arrays import finite, labels_along
from pm_gplvm.data.fit import FEATURE, OBS, Fit
from pm_gplvm.data.input_tables import require_one_unseen
from pm_gplvm.data.inputs import LATENT_PART, PART
from pm_gplvm.prediction.located import (
    at_own_rows,
    at_usual,
    checked_without,
    each_part,
    located,
    of_latent,
)
from pm_gplvm.prediction.processes import (
    Process,
    column_variances,
    conditional,
    conditional_variance,
    each_process,
    joint,
    patterns_of,
    smoothed,
    under,
)
from pm_gplvm.prediction.uncollapsed import Uncollapsed, each_frame, rows_under_q, with_known_rows


def check_positions(read: Fit, X_new: Any) -> Array:
    """Return ``X_new`` as an array (n, Q) of finite numbers, or say what is wrong with it."""
    latent_dim = read.latent_dim
    values = finite("X_new", X_new)
    if values.ndim != 2 or values.shape[1] != latent_dim:
        raise ValueError(
            f"X_new must have shape (n, latent_dim) = (n, {latent_dim}), got {values.shape}."
            f"{' For a single position pass [X_new].' if values.shape == (latent_dim,) else ''}"
        )
    if not len(values):
        raise ValueError("X_new must have at least one position, got none.")
    return values


@checked
def predict(
    fit: xr.DataTree,
    X_new: Any,
    *,
    X_sd: Any = None,
    noise: bool = False,
    cov: bool = False,
    inputs: Any = None,
    parts: bool = False,
    without: Any = None,
    num_samples: int = 100,
) -> xr.Dataset:
    """Predict Y at new latent positions.

    For each draw of (X, θ) the Gaussian conditional of a new row is formed (Rasmussen & Williams
    2006, eq. 2.25 and 2.26); the draws are mixed by the law of total variance. A sparse or
    variational fit predicts through its inducing inputs instead, X integrated over q. Where Y has
    missing entries, each column is conditioned on the rows that have it. A fit with another likelihood than a Gaussian
    predicts E[y | f], f through its inducing inputs (:func:`fit_svi`) or Gaussian about its mode (:func:`fit_map`; Rasmussen
    & Williams 2006, eq. 3.21 and 3.24).

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal`, :func:`sample_theta`, or any with ``X`` and θ.
    X_new : array_like, dims (obs_new, latent), shape (S, Q)
        In the frame of the fit's ``X``: the aligned one after :func:`align`.
    X_sd : number or array_like, shape (Q,) or (S, Q), optional
        Standard deviations of uncertain positions: x ~ N(X_new, X_sd²), each dimension by itself. Mean and variance
        are mixed over x by the law of total variance, at Gauss-Hermite nodes where up to three dimensions are
        uncertain (good up to two lengthscales, in three dimensions one), else at nodes that are exact for
        cubic functions (good up to half a lengthscale). 0 is a known coordinate.
    noise : bool, default False
        Whether ``sd`` includes the noise of a new measurement: ``sd`` is then that of Y, else that of its expectation
        given x and the function.
    cov : bool, default False
        Whether the covariance of the new positions is given too: S² D numbers. Not with ``X_sd``, nor of a fit with
        another likelihood than a Gaussian or Student-t.
    inputs : DataFrame, mapping from names to values, or Dataset, optional
        Of the new positions, where the model had inputs: one value for each, or one for all. A class that the table has
        not has offsets of its own, 0 with the standard deviation of the classes' amplitude.
    parts : bool, default False
        Whether the parts of the function are given too, of a model with inputs: "latent", what X does, and each input.
    without : str or list of str, optional
        Parts of the function that are left out, of a model with inputs: names of inputs (these need not be given), or
        "latent", what X does.
    num_samples : int, default 100
        At most so many draws are used, evenly spaced.

    Returns
    -------
    Dataset
        ``mean`` and ``sd``, dims (obs_new, feature), in the units of Y. With ``parts`` also ``part_mean`` and
        ``part_sd``, dims (part, obs_new, feature): the means of the parts sum to ``mean``, the columns' means being in
        "latent"; the variances do not sum to its square, as the parts depend on each other given Y. With ``cov`` also ``cov``, dims
        (obs_new, obs_new_to, feature), in their square: of the values of one column at two positions, with the
        square of ``sd`` on its diagonal.

    Warns
    -----
    RuntimeWarning
        If the draws of X stand in frames of their own (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or ``X_new`` has a wrong shape.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> dict(gplvm.predict(best, np.zeros((1, 2))).sizes)
    {'obs_new': 1, 'feature': 64}
    """
    read = readable(with_known_rows(fit), "predict")
    read.warn_unaligned()
    positions = check_positions(read, X_new)
    left_out = checked_without(read, without)
    read = located(read, inputs, _labels_of(X_new, len(positions)), without=left_out)
    of_parts = each_part(read, left_out) if parts else {}
    if cov and read.inputs is not None:
        require_one_unseen(read.inputs, inputs, caller="predict(cov=True)")
    spread = _check_spread(X_sd, positions.shape)
    if cov and X_sd is not None:
        raise ValueError(
            "predict has no cov with X_sd, whose positions vary each by itself. Leave one out, or draw positions and "
            "give each set of them to sample_predictive."
        )
    if read.has_likelihood:
        _check_link(read, parts=parts)
        uncollapsed = _predicted_uncollapsed(
            read, positions, spread, noise=noise, cov=cov, limit=num_samples
        )
        apart = {
            name: _predicted_uncollapsed(
                replace(read, counted=own),
                positions,
                spread,
                noise=False,
                cov=False,
                limit=num_samples,
            )
            for name, own in of_parts.items()
        }
        return with_parts(uncollapsed, apart)
    F, centre, scale = read.table()
    patterns = patterns_of(read, F)

    nodes = mixing_nodes(spread, _unit(read))

    def moments(draw: Process) -> tuple[Array, Array]:
        if X_sd is not None:
            return under(draw, F, patterns, (positions, spread), nodes)
        mean, variance = conditional(draw, F, patterns, positions)
        return mean, variance[:, patterns.group]

    found, by_part = [], []
    for draw in each_process(read, num_samples):
        mean, variance = moments(draw)
        found.append((mean, variance + draw.sigma**2 if noise else variance))
        if isinstance(draw, GP) and of_parts:
            each = [moments(draw.elsewhere(draw.at, own)) for own in of_parts.values()]
            by_part.append(_stacked(each))
    dims, (whole_mean, total) = ("obs_new", FEATURE), _over_draws(found)
    constant = 0.0 if LATENT_PART in left_out else centre
    known: dict[str, Any] = {
        "mean": (dims, constant + scale * whole_mean),
        "sd": (dims, scale * np.sqrt(total)),
    }
    if of_parts:
        known |= _parts_of(of_parts, by_part, dims, centre, scale)
    if cov:
        whole = _covariance(read, F, patterns, positions, num_samples)
        diagonal = np.arange(len(positions))
        whole[diagonal, diagonal] = total  # that of the function, and the noise if asked for
        known["cov"] = (("obs_new", "obs_new_to", FEATURE), scale**2 * whole)
    numbers = {dim: np.arange(len(positions)) for dim in ("obs_new", *(["obs_new_to"] * cov))}
    named = {PART: list(of_parts)} if of_parts else {}
    return xr.Dataset(known, coords={**named, **numbers, FEATURE: read.features})


def _labels_of(X_new: Any, n: int) -> NDArray[Any]:
    """Labels that new positions have, by which their inputs are joined, or their numbers."""
    labels = labels_along(X_new, 0) if len(getattr(X_new, "shape", ())) == 2 else None
    return np.arange(n) if labels is None else labels


def _stacked(each: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Stack the moments of all parts."""
    means, variances = zip(*each, strict=True)
    return np.stack(means), np.stack(variances)


def _over_draws(found: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Mean and variance of a mixture of these, by the law of total variance."""
    means, variances = zip(*found, strict=True)
    return np.mean(means, axis=0), np.mean(variances, axis=0) + np.var(means, axis=0)


def _parts_of(
    of_parts: Mapping[str, Any],
    by_part: list[tuple[Array, Array]],
    dims: tuple[str, str],
    centre: Array,
    scale: Array,
) -> dict[str, Any]:
    """Mean and sd of the parts in the units of Y, from those of each draw (part, row, column)."""
    mean, variance = _over_draws(by_part)
    constant = np.array([name == LATENT_PART for name in of_parts])[:, None, None] * centre
    return {
        "part_mean": ((PART, *dims), constant + scale * mean),
        "part_sd": ((PART, *dims), scale * np.sqrt(variance)),
    }


def _check_spread(X_sd: Any, shape: tuple[int, ...]) -> Array:
    """Return ``X_sd`` as an array (n, Q), zeros where there is none."""
    if X_sd is None:
        return np.zeros(shape)
    values = np.asarray(finite("X_sd", X_sd), dtype=np.float64)
    if values.shape not in ((), shape[1:], shape) or (values < 0.0).any():
        raise ValueError(
            f"X_sd must hold standard deviations of at least 0, a number or of the shape ({shape[1]},) or {shape}, "
            f"got {f'the shape {values.shape}' if (values >= 0.0).all() else values.min()}."
        )
    return np.broadcast_to(values, shape)


def _unit(read: Fit) -> Array:
    """Lengthscale along each latent dimension, the median of the draws; infinite where the kernel has none."""
    if (unit := read.unit_of_positions()) is None:
        return np.full(read.latent_dim, np.inf)
    return np.broadcast_to(np.median(unit, axis=0), read.latent_dim)


def readable(fit: Any, caller: str) -> Fit:
    """Read a fit with a table's units and a noise, or a likelihood."""
    read = Fit.of(fit, "X", "Y_mean", "Y_scale", caller=caller)
    if not read.has_likelihood:
        read.require("sigma")
    return read


def _predicted_uncollapsed(
    read: Fit, positions: Array, X_sd: Array, *, noise: bool, cov: bool, limit: int
) -> xr.Dataset:
    found, spread, nodes = [], [], mixing_nodes(X_sd, _unit(read))
    for process in each_frame(read, limit):
        found.append(process.around(positions, X_sd, nodes))
        if cov:
            spread.append(process.covariance_of_response(positions))
    means = [each.mean for each in found]
    total = np.mean([r.of_mean + (r.about if noise else 0.0) for r in found], axis=0)
    total += np.var(means, axis=0)
    dims = ("obs_new", FEATURE)
    known: dict[str, Any] = {
        "mean": (dims, np.mean(means, axis=0) - _absent(read)),
        "sd": (dims, np.sqrt(total)),
    }
    if cov:
        mean = np.mean(means, axis=0)
        between = np.mean([m[:, None] * m for m in means], axis=0) - mean[:, None] * mean
        whole = np.mean(spread, axis=0) + between
        diagonal = np.arange(len(positions))
        whole[diagonal, diagonal] = total
        known["cov"] = (("obs_new", "obs_new_to", FEATURE), whole)
    numbers = {dim: np.arange(len(positions)) for dim in ("obs_new", *(["obs_new_to"] * cov))}
    return xr.Dataset(known, coords={**numbers, FEATURE: read.features})


def _covariance(
    read: Fit, F: Array, patterns: Patterns, positions: Array, num_samples: int
) -> Array:
    """Covariance (S, S, D) of each column between the positions, by the law of total covariance."""
    S, D = len(positions), F.shape[1]
    within, first, second = np.zeros((S, S, D)), np.zeros((S, D)), np.zeros((S, S, D))
    draws = list(each_process(read, num_samples))
    for draw in draws:
        mean = np.empty((S, D))
        for columns, own, covariance in joint(draw, F, patterns, positions):
            mean[:, columns] = own
            within[:, :, columns] += covariance[:, :, None]
        first += mean
        second += mean[:, None] * mean
    first /= len(draws)
    return (within + second) / len(draws) - first[:, None] * first


@checked
def sample_predictive(
    fit: xr.DataTree,
    X_new: Any,
    *,
    noise: bool = False,
    inputs: Any = None,
    num_samples: int = 100,
    random_seed: int | None = None,
) -> xr.DataTree:
    """Draw tables at new latent positions, their rows jointly.

    Each draw takes one (X, θ) of the fit and, for each column, a function from the Gaussian
    conditional of all new positions together (Rasmussen & Williams 2006, eq. 2.25 and 2.26), so
    that neighbouring rows vary together; :func:`predict` has the mean and sd of each alone. A sparse or
    variational fit draws through its inducing inputs.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.
    X_new : array_like, dims (obs_new, latent), shape (S, Q)
        In the frame of the fit's ``X``: the aligned one after :func:`align`.
    noise : bool, default False
        Whether the white noise of new measurements is added.
    inputs : DataFrame, mapping from names to values, or Dataset, optional
        As in :func:`predict`.
    num_samples : int, default 100
        How many tables. The fit's draws are taken evenly spaced, each as often as the others where
        there are fewer of them.
    random_seed : int, optional

    Returns
    -------
    DataTree
        ``predictions``: the table's name, dims (chain, draw, obs_new, feature), one chain, in the
        units of Y.

    Warns
    -----
    RuntimeWarning
        If the draws of X stand in frames of their own (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, ``X_new`` has a wrong shape, or
        ``num_samples`` is out of range.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> path = np.linspace([-1.0, 0.0], [1.0, 0.0], 5)
    >>> gplvm.sample_predictive(best, path, num_samples=3, random_seed=1)["predictions"]["Y"].shape
    (1, 3, 5, 64)
    """
    read = readable(with_known_rows(fit), "sample_predictive")
    read.warn_unaligned()
    positions = check_positions(read, X_new)
    read = located(read, inputs, _labels_of(X_new, len(positions)))
    if read.inputs is not None:
        require_one_unseen(read.inputs, inputs, caller="sample_predictive")
    rng = np.random.default_rng(random_seed)
    if read.has_likelihood:
        frames = list(each_frame(read, num_samples))
        shares = np.array_split(np.arange(num_samples), len(frames))
        tables = [
            process.draw_response(positions, len(share), rng, noise=noise)
            for process, share in zip(frames, shares, strict=True)
        ]
        return _tables(read, np.concatenate(tables))
    F, centre, scale = read.table()
    patterns = patterns_of(read, F)
    chosen = list(each_process(read, num_samples))
    tables = []
    for draw, share in zip(
        chosen, np.array_split(np.arange(num_samples), len(chosen)), strict=True
    ):
        own, *_ = drawn_together(draw, F, patterns, positions, len(share), rng, noise=noise)
        tables.append(centre + scale * own)
    return _tables(read, np.concatenate(tables))


def drawn_together(
    process: Process,
    F: Array,
    patterns: Patterns,
    X: Array,
    n: int,
    rng: np.random.Generator,
    *,
    noise: bool,
) -> tuple[Array, Array, Array]:
    """Draw tables (n, S, D) at positions together, standardised; with the mean and variance (S, D) of an entry."""
    own = rng.standard_normal((n, len(X), F.shape[1]))
    expected, total = np.empty(own.shape[1:]), np.empty(own.shape[1:])
    for columns, mean, covariance in joint(process, F, patterns, X):
        own[..., columns] = mean + square_root(covariance) @ own[..., columns]
        expected[:, columns] = mean
        total[:, columns] = np.maximum(np.diagonal(covariance), 0.0)[:, None]
    if noise:
        own = own + process.sigma * rng.standard_normal(own.shape)
        total += process.sigma**2
    return own, expected, total


def _tables(read: Fit, values: Array) -> xr.DataTree:
    """Tables (n, S, D) drawn at new positions."""
    group = xr.Dataset(
        {read.observed: (("chain", "draw", "obs_new", FEATURE), values[None])},
        coords={
            "chain": [0],
            "draw": np.arange(len(values)),
            "obs_new": np.arange(values.shape[1]),
            FEATURE: read.features,
        },
    )
    return xr.DataTree.from_dict({"predictions": group})


@checked
def reconstruct(
    fit: xr.DataTree,
    *,
    noise: bool = False,
    parts: bool = False,
    without: Any = None,
    num_samples: int = 100,
) -> xr.Dataset:
    """Give the training rows as the model sees them: each at its own position, without noise.

    At the positions of a draw the function has mean F - σ²K⁻¹F and variance σ² - σ⁴[K⁻¹]_nn, K with
    its noise σ²: the Gaussian conditional at X_new = X. An entry that is missing is predicted at its
    row's position as in :func:`predict`, from the rows that have that column. The draws are mixed by the law of total
    variance. A sparse fit predicts at X; of a variational one mean and variance are those under q(x_n), in
    closed form where the bound is. With X fixed rows that lie apart are hardly smoothed; how a row would be predicted
    from the others is given by :func:`diagnostics.leave_one_out`.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.
    noise : bool, default False
        Whether ``sd`` includes the white noise of a new measurement.
    parts, without
        As in :func:`predict`: ``without=["batch"]`` gives the rows as if they had come from no batch.
    num_samples : int, default 100
        At most so many draws are used, evenly spaced.

    Returns
    -------
    Dataset, dims (obs, feature)
        ``mean`` and ``sd`` in the units of Y, with the labels of the rows; with ``parts`` also ``part_mean`` and
        ``part_sd`` (part, obs, feature), so that ``Y - part_mean.sel(part="batch")`` is Y without what batches add.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or ``num_samples`` is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> dict(gplvm.reconstruct(best).sizes)
    {'obs': 20, 'feature': 64}
    """
    read = readable(fit, "reconstruct")
    left_out = checked_without(read, without)
    of_parts = each_part(read, left_out) if parts else {}
    if read.has_likelihood:
        _check_link(read, parts=parts)
        asked = at_own_rows(read, left_out)
        apart = {n: _under_q(replace(asked, counted=own)) for n, own in of_parts.items()}
        return with_parts(_under_q(asked, noise=noise), apart)
    F, centre, scale = read.table()
    patterns = patterns_of(read, F)
    found, by_part = [], []
    for draw in each_process(at_own_rows(read, left_out), 1 if read.is_inducing else num_samples):

        def at_rows(process: GP) -> tuple[Array, Array]:
            mean, variance = conditional(process, F, patterns, process.X)
            return mean, variance[:, patterns.group]

        some = isinstance(draw, GP) and bool(left_out)
        mean, variance = at_rows(draw) if some else smoothed(draw, F, patterns)  # type: ignore[arg-type]
        found.append((mean, variance + draw.sigma**2 if noise else variance))
        if isinstance(draw, GP) and of_parts:
            each = [at_rows(draw.elsewhere(draw.at, own)) for own in of_parts.values()]
            by_part.append(_stacked(each))
    dims, (mean, total) = (OBS, FEATURE), _over_draws(found)
    constant = 0.0 if LATENT_PART in left_out else centre
    known: dict[str, Any] = {
        "mean": (dims, constant + scale * mean),
        "sd": (dims, scale * np.sqrt(total)),
    }
    if of_parts:
        known |= _parts_of(of_parts, by_part, dims, centre, scale)
    named = {PART: list(of_parts)} if of_parts else {}
    return xr.Dataset(known, coords={**named, **read.coords})


def _under_q(read: Fit, *, noise: bool = False) -> xr.Dataset:
    """Mean and sd of the table's own rows, of a fit with a likelihood."""
    rows = rows_under_q(read)
    spread = np.sqrt(rows.of_mean + (rows.about if noise else 0.0))
    whole = {
        "mean": ((OBS, FEATURE), rows.mean - _absent(read)),
        "sd": ((OBS, FEATURE), spread),
    }
    return xr.Dataset(whole, coords=read.coords)


def _absent(read: Fit) -> Any:
    """Return what of the columns' means a function without the latent part has not."""
    counts = read.counted is None or read.counted[-1]
    return 0.0 if counts else read.constants["Y_mean"].to_numpy()


def _check_link(read: Fit, *, parts: bool) -> None:
    """Raise where parts are asked for that are none of an expected measurement."""
    if parts and not Uncollapsed.of(read).in_units_of_Y:
        raise ValueError(
            f"{read.caller} with parts=True needs a Gaussian or Student-t likelihood, under which the parts of f add up in "
            "the units of Y. Take without=[...], which leaves parts of f out."
        )


def with_parts(whole: xr.Dataset, each: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put parts beside the whole."""
    if not each:
        return whole
    named = {
        f"part_{n}": xr.concat([part[n] for part in each.values()], dim=PART)
        for n in ("mean", "sd")
    }
    return whole.assign(named).assign_coords({PART: list(each)})


def relative_uncertainty(fit: xr.DataTree, X_new: Any, *, num_samples: int = 20) -> Array:
    """How much of the prior's standard deviation is left at new latent positions (S, Q), shape (S,).

    The standard deviation of the noise-free function over its prior one: near 0 beside many rows, 1
    where the data say nothing. Of a model with inputs that of Y at usual ones, over the prior of what X does: the level of
    that alone is not told from those of the inputs. The root mean square of all columns, over at most ``num_samples``
    draws.
    """
    whole = readable(fit, "relative_uncertainty")
    read, alone = at_usual(whole), of_latent(whole)
    positions = check_positions(read, X_new)
    if read.has_likelihood:
        left = [
            process.variance_share(positions, own)
            for process, own in zip(
                each_frame(read, num_samples), each_frame(alone, num_samples), strict=True
            )
        ]
        return np.asarray(np.sqrt(np.mean(left, axis=0)))
    table, patterns = _table(read)
    share = np.bincount(patterns.group) / len(patterns.group)
    posterior, prior = [], []
    for draw in each_process(read, num_samples):
        own = draw.elsewhere(draw.at, alone.counted) if isinstance(draw, GP) else draw
        prior.append(own.prior_variance(positions))
        unit = column_variances(draw)
        posterior.append((conditional_variance(draw, table, patterns, positions) / unit) @ share)
    ratio = np.mean(posterior, axis=0) / np.maximum(np.mean(prior, axis=0), 1e-300)
    return np.asarray(np.sqrt(ratio))


def _table(read: Fit) -> tuple[Array, Patterns]:
    """Y (N, D) and its columns by their observed rows; all alike in a fit that does not hold it."""
    if read.holds_table:
        table = read.Y.to_numpy()
    else:
        table = np.zeros((read.draws("X").shape[2], read.draws("sigma").sizes.get(FEATURE, 1)))
    return table, patterns_of(read, table)
