"""Plots about fits: several compared, the prior, the starts of an optimiser, relevances."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pm_gplvm.core.checks import INTERVAL, Array, checked, interval
from pm_gplvm.data.fit import LATENT, Fit, fits_of_one_table
from pm_gplvm.data.views import tables_of_fit
from pm_gplvm.diagnostics.agreement import common_frame, outside, row_covariances
from pm_gplvm.diagnostics.modes import group_optima
from pm_gplvm.diagnostics.relevance import active_dimensions
from pm_gplvm.plot.colours import (
    SHAPES,
    Key,
    draw_legend,
    draw_points,
    key_of,
    row_colours,
)
from pm_gplvm.plot.elements import check_axes, check_pair, draw_ellipses
from pm_gplvm.plot.frame import (
    Limits,
    check_limits,
    draw_notes,
    draw_outside,
    frame_of,
    limits_of,
    set_limits,
    told_outside,
)
from pm_gplvm.plot.style import Style
from pm_gplvm.sampling.prior import check_prior

_SHARE = 0.89
_SHADE = 0.04  # of the ink: lets a wide ellipse lie over others
# Below the points, so that it is seen only where it lies elsewhere.
_DOT: dict[str, Any] = {"s": 6.0, "linewidths": 0.0, "zorder": 1.8}


@checked
def compare(
    fits: Mapping[str, xr.DataTree],
    color: Any = None,
    *,
    dims: tuple[int, int] = (0, 1),
    limits: Any = "robust",
    num_samples: int = 500,
    axes: Any = None,
) -> NDArray[Any]:
    """Draw the positions of several fits in one orientation, one panel per fit.

    Positions are in units of the lengthscale, X / lengthscale, and rotated onto the first fit
    (:func:`align`). If a fit has draws, each row has its mean and the ellipse that holds 89 % of a
    Gaussian with the covariance of the draws. In every panel but the first, a line leads from each
    position to a dot at the row's position in the first fit. Put an estimate first: a dot outside
    its ellipse, with a heavier line, is a position of which the estimate was too sure. The title
    gives the number of such dots.

    Parameters
    ----------
    fits : mapping
        Name to fit, all of the same table and with the same number of latent dimensions.
    color : str or array_like, shape (N,), optional
        A coordinate or column by its name, or one value a row, see :func:`plot.latent`.
    dims : pair of int, default (0, 1)
        Which latent dimensions of the first fit to draw. A model with one dimension is drawn against
        the rows in the order of the first fit, with 89 % intervals.
    limits : {"robust", "all"} or ((left, right), (bottom, top)), default "robust"
        As in :func:`plot.latent`, for all panels together. With one dimension (low, high).
    num_samples : int, default 500
        Number of draws of each fit used at most, evenly spaced.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each fit.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (number of fits,)

    Raises
    ------
    TypeError, ValueError
        If the fits are of different tables or latent dimensions, or an argument is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> sketch = gplvm.fit_laplace(model, start=best, draws=100, progressbar=False, random_seed=1)
    >>> axes = gplvm.plot.compare({"estimate": best, "Laplace": sketch}, color="label")
    >>> axes[0].get_title()
    'estimate'
    """
    read = fits_of_one_table(fits, caller="plot.compare")
    first = next(iter(fits))
    N = len(read[first].table().F)
    key = key_of(read[first], color, N)
    _check_panels(axes, len(fits), f"one for each fit, {len(fits)}")
    positions = common_frame(read, draws=int(num_samples))
    Q = positions[first].shape[2]
    pair = list(check_pair(dims, Q)) if Q > 1 else [0]
    frame = check_limits(limits, len(pair))
    panels = _panels(
        axes,
        len(fits),
        f"one for each fit, {len(fits)}",
        figsize=(0.8 + 3.2 * len(fits) + (key.breadth if key else 0.0), 3.6),
        sharex=True,
        sharey=True,
        layout="compressed",
    )
    shown = {name: Z[:, :, pair] for name, Z in positions.items()}
    reference = shown[first].mean(axis=0)
    draw_panel = _draw_plane if Q > 1 else _draw_line
    for ax, (name, Z) in zip(panels, shown.items(), strict=True):
        scale = draw_panel(ax, Z, reference, key, name, is_first=name == first)
        ax.set(xlabel=f"latent {pair[0]} / lengthscale")
    low, high = _limits(list(shown.values()), frame)
    if Q > 1:
        for ax in panels:
            ax.set_aspect("equal")
            set_limits(ax, np.stack([low, high]))
        panels[0].set_ylabel(f"latent {pair[1]} / lengthscale")
    else:
        panels[0].set_xlim(float(low[0]), float(high[0]))
        panels[0].set_ylabel("row, in the order of the first fit")
    for ax, Z in zip(panels, shown.values(), strict=True):
        X = Z.mean(axis=0)
        far = ((low > X) | (high < X)).any(axis=1)
        at = X if Q > 1 else np.column_stack([X, _ranks(reference)])
        draw_outside(ax, at, far, row_colours(ax, key, N))
        draw_notes(ax, at, lines=told_outside(far))
    draw_legend(panels.tolist(), scale, key)
    return panels


def _limits(shown: list[Array], limits: Limits) -> Array:
    """Limits (2, Q) for the 89 % intervals of all fits, but for rows far off."""
    if not isinstance(limits, str):
        return limits
    near = [Z[:, ~frame_of(Z.mean(axis=0), limits)[1]] for Z in shown]
    ends = [np.quantile(Z, INTERVAL, axis=0).reshape(-1, Z.shape[2]) for Z in near]
    return limits_of(np.concatenate(ends))


def _panels(axes: Any, n: int, wanted: str, **layout: Any) -> NDArray[Any]:
    """Return n axes, those given or new ones side by side."""
    _check_panels(axes, n, wanted)
    if axes is None:
        _, axes = plt.subplots(1, n, **{"layout": "constrained", **layout})
    return np.asarray(axes, dtype=object).ravel()


def _check_panels(axes: Any, n: int, wanted: str) -> None:
    """Raise unless these are n axes, or None for new ones."""
    if axes is None:
        return
    panels = np.asarray(axes, dtype=object).ravel()
    for panel in panels:
        check_axes("axes", panel)
    if len(panels) != n:
        raise ValueError(f"axes must be {wanted}, got {len(panels)}.")


def _draw_plane(
    ax: Axes,
    draws: Array,
    reference: Array,
    key: Key | None,
    name: str,
    *,
    is_first: bool,
) -> PathCollection | None:
    """Draw one fit's points and ellipses, and the position of each row in the first fit."""
    mean, spread, style = draws.mean(axis=0), _has_spread(draws), Style.of(ax)
    if spread:
        rings: dict[str, Any] = {"facecolors": (*style.ink, _SHADE), "edgecolors": style.grey(0.45)}
        draw_ellipses(ax, mean, row_covariances(draws), _SHARE, linewidths=0.4, **rings)
    if not is_first:
        far = outside(draws, reference, _SHARE) if spread else np.zeros(len(mean), dtype=bool)
        lines = np.stack([mean, reference], axis=1)
        widths = np.where(far, 1.1, 0.5)
        look: dict[str, Any] = {"linewidths": widths, "colors": style.grey(0.25), "zorder": 1.5}
        ax.add_collection(LineCollection(list(lines), **look), autolim=False)
        ax.scatter(reference[:, 0], reference[:, 1], color=style.ink, **_DOT)
        if spread:
            name += _outside(far)
    ax.set_title(name)
    return draw_points(ax, mean, key, size=14.0)


def _has_spread(draws: Array) -> bool:
    moves = np.ptp(draws, axis=0).max() > 1e-9 * np.ptp(draws)
    return len(draws) > draws.shape[-1] and bool(moves)


def _outside(far: NDArray[np.bool_]) -> str:
    return f"\n{far.sum()} of {len(far)} dots outside 89 %"


def _draw_line(
    ax: Axes,
    draws: Array,
    reference: Array,
    key: Key | None,
    name: str,
    *,
    is_first: bool,
) -> PathCollection | None:
    """Draw one latent dimension, a line per row, in the order of the first fit."""
    at = reference[:, 0]
    rows = _ranks(reference)
    if _has_spread(draws):
        low, high = interval(draws[..., 0])
        ax.hlines(rows, low, high, color=Style.of(ax).grey(0.6), linewidth=0.8, zorder=1)
        if not is_first:
            name += _outside((at < low) | (at > high))
    if not is_first:
        ax.scatter(at, rows, color=Style.of(ax).ink, **_DOT)
    ax.set_title(name)
    return draw_points(ax, np.column_stack([draws.mean(axis=0), rows]), key, size=14.0)


def _ranks(reference: Array) -> Array:
    """Place of each row (N, 1) in their order."""
    return np.argsort(np.argsort(reference[:, 0])).astype(np.float64)


def prior(prior: xr.DataTree, fit: xr.DataTree | None = None, *, axes: Any = None) -> NDArray[Any]:
    """Draw a model's prior of the embedding and of the table beside the table itself.

    The three panels show: the distances between rows in units of the lengthscale (far below 1 the
    kernel sees no structure, far above 1 no neighbours); the entries of the table, centred and scaled;
    and the share of the table's variance in each principal component, which is what the likelihood
    sees of Y. Grey is the prior: its median, and bands that hold 50 % and 89 % of the drawn tables.
    The line in the colour of the text is the table. Where it leaves the bands, the data are unlikely under the prior.

    Parameters
    ----------
    prior : DataTree
        From :func:`sample_prior`. At most 200 of its draws are used.
    fit : DataTree, optional
        A fit of the same model, whose distances are shown in the first panel.
    axes : sequence of three matplotlib.axes.Axes, optional

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (3,)

    Raises
    ------
    TypeError, ValueError
        If ``prior`` is not what :func:`sample_prior` returns, or ``axes`` are not three.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> axes = gplvm.plot.prior(gplvm.sample_prior(model, draws=50, random_seed=1))
    >>> axes[2].get_xlabel()
    'principal component'
    """
    _check_panels(axes, 3, "three")
    checks = check_prior(prior, fit)
    panels = _panels(axes, 3, "three", figsize=(9.6, 3.2))
    share, component = checks["share"].to_numpy(), checks["component"].to_numpy()
    for ax, name in zip(panels[:2], ("distance", "value"), strict=True):
        _draw_bands(ax, share, checks[name].to_numpy(), across=True)
    _draw_bands(panels[2], component, checks["variance"].to_numpy(), across=False)
    ink, wide = [{"color": Style.of(ax).ink} for ax in panels], {"linewidth": 1.4}
    if fit is not None:
        panels[0].plot(checks["distance_fit"], share, **ink[0], **wide, linestyle="--", label="fit")
    panels[1].plot(checks["value_observed"], share, **ink[1], **wide, label="table")
    marks: dict[str, Any] = {"marker": "o", "markersize": 3.0, "label": "table"}
    panels[2].plot(component, checks["variance_observed"], **ink[2], **wide, **marks)
    panels[0].set(xlabel="distance / lengthscale", ylabel="share of pairs below", xscale="log")
    panels[1].set(xlabel="entry, centred and scaled", ylabel="share of entries below")
    panels[2].set(xlabel="principal component", ylabel="share of variance", yscale="log")
    panels[0].set_xlim(left=np.median(checks["distance"][:, 1]) / 3.0)
    widest = 1.5 * np.abs(checks["value_observed"]).max()
    panels[1].set_xlim(-widest, widest)
    for ax in panels:
        ax.legend(fontsize="small", frameon=False, labelcolor=Style.of(ax).ink)
    return panels


def _draw_bands(ax: Axes, at: Array, draws: Array, *, across: bool) -> None:
    """Draw the pointwise median of curves and the bands that hold 89 % and 50 % of them."""
    lower, median, upper = np.quantile(draws, [0.25, 0.5, 0.75], axis=0)
    low, high = np.quantile(draws, INTERVAL, axis=0)
    fill = ax.fill_betweenx if across else ax.fill_between
    grey = Style.of(ax).grey
    fill(at, low, high, color=grey(0.88), linewidth=0.0)
    fill(at, lower, upper, color=grey(0.72), linewidth=0.0)
    line = (median, at) if across else (at, median)
    ax.plot(*line, color=grey(0.4), linewidth=1.0, label="prior")


@checked
def optima(fit: xr.DataTree, *, same: float = 0.01, axes: Any = None) -> NDArray[Any]:
    """Draw where the starts of a fit ended, and which of them found the same embedding.

    The left panel shows the objective of each start, the best first, as its distance below the best.
    Starts with the same embedding share a shape and a letter; those that did not converge are hollow.
    The right panel shows the distance between the embeddings of any two starts: the share of the
    variance, in units of the lengthscale, that is left after centring, scaling and rotating one onto
    the other.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal` or :func:`fit_map`, or another fit by an optimiser.
    same : float, default 0.01
        Two starts found the same embedding if at most this share is left.
    axes : sequence of two matplotlib.axes.Axes, optional

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (2,)

    Raises
    ------
    TypeError, ValueError
        If ``fit`` does not hold where its starts ended, or an argument is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, n_restarts=2, random_seed=1, progressbar=False)
    >>> axes = gplvm.plot.optima(best)
    >>> axes[0].get_ylabel()
    'objective below the best'
    """
    _check_panels(axes, 2, "two")
    ends = group_optima(Fit.of(fit, caller="plot.optima"), same)
    panels = _panels(axes, 2, "two", figsize=(7.4, 3.2))
    objective, group = ends["objective"].to_numpy(), ends["embedding"].to_numpy()
    rank, below = np.arange(len(objective)), objective[0] - objective
    colours, ink = Style.of(panels[0]).colours, Style.of(panels[0]).ink
    for i in np.unique(group):
        colour, shape = colours[i % len(colours)], SHAPES[i % len(SHAPES)]
        filled = (group == i) & ends["converged"].to_numpy()
        hollow = (group == i) & ~ends["converged"].to_numpy()
        style: dict[str, Any] = {"marker": shape, "edgecolors": colour, "s": 42.0, "zorder": 2}
        panels[0].scatter(rank[filled], below[filled], facecolors=colour, label=_letter(i), **style)
        panels[0].scatter(rank[hollow], below[hollow], facecolors="none", **style)
    for at, height, i in zip(rank, below, group, strict=True):
        panels[0].annotate(
            _letter(i),
            (at, height),
            (5, 3),
            textcoords="offset points",
            fontsize="small",
            color=ink,
        )
    panels[0].set(xlabel="start, the best first", ylabel="objective below the best")
    panels[0].set_title(f"objective of the best: {objective[0]:.6g}", fontsize="medium")
    panels[0].set_xticks(rank, [str(i) for i in ends["start"].to_numpy()])
    panels[0].invert_yaxis()
    panels[0].margins(0.12)
    if not ends["converged"].all():
        panels[0].plot([], [], "o", color="none", markeredgecolor=ink, label="not converged")
        panels[0].legend(handles=panels[0].lines, fontsize="small", frameon=False, labelcolor=ink)
    _draw_distances(panels[1], ends, group)
    return panels


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else str(i)


def _draw_distances(ax: Axes, ends: xr.Dataset, group: NDArray[Any]) -> None:
    distance = ends["distance"].to_numpy()
    top = max(float(distance.max()), 1e-3)
    image = ax.imshow(distance, cmap="cividis", vmin=0.0, vmax=top)
    names = [f"{i} {_letter(g)}" for i, g in zip(ends["start"].to_numpy(), group, strict=True)]
    ax.set_xticks(np.arange(len(names)), names, rotation=90)
    ax.set_yticks(np.arange(len(names)), names)
    if len(names) <= 8:
        for i, j in np.ndindex(*distance.shape):
            shade = "white" if distance[i, j] < 0.5 * top else "black"
            ax.text(j, i, f"{distance[i, j]:.2g}", ha="center", va="center", color=shade, size=7)
    ax.set(xlabel="start, embedding")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03)
    bar.set_label("share of variance\nleft after turning")
    bar.locator = MaxNLocator(4)
    bar.update_ticks()


@checked
def relevance(fit: xr.DataTree, *, threshold: float = 0.05, ax: Axes | None = None) -> Axes:
    """Draw how much each latent dimension matters (ARD).

    The bars show the spread of X along each dimension in units of its lengthscale, the most relevant
    first, with the 89 % interval over the draws where there is more than one value. Bars of
    dimensions in use are filled; see :func:`diagnostics.active_dimensions` for the rule. Of a fit of several tables
    there is a bar of each: dimensions that all use come first, then those of some alone.

    Parameters
    ----------
    fit : DataTree
        Best of a model with ``ard=True``.
    threshold : float, default 0.05
        As in :func:`diagnostics.active_dimensions`; the dotted line, where there is one table.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        As :func:`diagnostics.active_dimensions`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=30), latent_dim=3, ard=True)
    >>> ax = gplvm.plot.relevance(gplvm.fit_marginal(model, progressbar=False))
    >>> ax.get_xlabel()
    'latent dimension'
    """
    check_axes("ax", ax)
    tables = {
        name: active_dimensions(read.tree, threshold=threshold)
        for name, read in tables_of_fit(fit, caller="plot.relevance").items()
    }
    if ax is None:
        _, ax = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    style, n = Style.of(ax), len(tables)
    every = pd.concat(list(tables.values()), keys=range(n)).groupby(LATENT)
    # Of several tables the dimensions that most of them use come first; of one the most relevant.
    order = pd.DataFrame(
        {"use": every["in_use"].sum() if n > 1 else 0, "most": every["relevance"].max()}
    )
    order = order.sort_values(["use", "most"], ascending=False, kind="stable")
    width = 0.8 / n
    for i, (name, found) in enumerate(tables.items()):
        table, colour = found.loc[order.index], style.colours[i % len(style.colours)]
        at = np.arange(len(table)) + (i - 0.5 * (n - 1)) * width
        height = table["relevance"].to_numpy()
        colours = [colour if used else style.paper for used in table["in_use"]]
        ax.bar(at, height, width, color=colours, edgecolor=colour)
        if table["low"].notna().all():
            reach = np.abs(table[["low", "high"]].to_numpy().T - height)
            ax.errorbar(at, height, yerr=reach, fmt="none", ecolor=style.grey(0.4), capsize=3)
        if name is None:
            ax.axhline(
                threshold * height.max(), color=style.grey(0.5), linestyle=":", linewidth=1.0
            )
    if None not in tables:
        handles = [Patch(color=style.colours[i % len(style.colours)]) for i in range(n)]
        ax.legend(handles, [str(name) for name in tables], frameon=False)
    ax.set_xticks(np.arange(len(order)), [str(name) for name in order.index])
    ax.set(xlabel="latent dimension", ylabel="spread of X / lengthscale")
    return ax
