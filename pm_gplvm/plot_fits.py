"""Pictures of several fits, and of what a model believes beforehand."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from numpy.typing import NDArray

from pm_gplvm.agreement import common_frame, outside
from pm_gplvm.checks import Array, count
from pm_gplvm.comparison import same_table
from pm_gplvm.marks import draw_ellipses, draw_key, draw_points, frame, row_values
from pm_gplvm.prior_draws import check_prior

__all__ = ["plot_compare", "plot_prior"]

_SHARE = 0.89
_SHADE = (0.0, 0.0, 0.0, 0.04)  # lets a wide ellipse lie over others
# Below the points, so that it is seen only where it lies elsewhere.
_DOT: dict[str, Any] = {"s": 6.0, "c": "black", "linewidths": 0.0, "zorder": 1.8}


def plot_compare(
    fits: Mapping[str, xr.DataTree],
    color: Any = None,
    *,
    dims: tuple[int, int] = (0, 1),
    draws: int = 500,
    axes: Any = None,
) -> NDArray[Any]:
    """Draw the positions of several fits in one frame, one panel a fit.

    In the units of the lengthscale, X / lengthscale, all turned onto the first fit (:func:`align`).
    Where a fit has draws, each row has its mean and the ellipse that holds 89 % of a Gaussian with
    the draws' covariance. In every panel but the first a line leads from a row's place to a black
    dot where the first fit has it. Put an estimate first: a dot outside its ellipse, drawn with a
    heavier line, is a place of which it was surer than the data are. Their number stands
    above the panel.

    Parameters
    ----------
    fits : mapping
        Name to fit, all of the same table and with the same number of latent dimensions.
    color : str or array_like, shape (N,), optional
        A coordinate along the rows or one value a row, see :func:`plot_latent`.
    dims : pair of int, default (0, 1)
        Which latent dimensions to draw, of the first fit's frame. A model with one is drawn against
        the rows in the order of the first fit, with 89 % intervals.
    draws : int, default 500
        At most so many draws of each fit are used, evenly spaced.
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
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> sketch = gplvm.fit_laplace(model, best, draws=100, progressbar=False, random_seed=1)
    >>> axes = gplvm.plot_compare({"estimate": best, "Laplace": sketch}, color="label")
    >>> axes[0].get_title()
    'estimate'
    """
    N = len(same_table(fits, caller="plot_compare"))
    count("draws", draws)
    first = next(iter(fits))
    values = None if color is None else row_values(fits[first], color, N)
    placed = common_frame(fits, draws=int(draws))
    Q = placed[first].shape[2]
    if Q > 1 and (len(set(dims)) != 2 or not all(0 <= d < Q for d in dims)):
        raise ValueError(f"dims must be two different dimensions below {Q}, got {dims}.")
    panels = _panels(len(fits), axes)
    name = color if isinstance(color, str) else ""
    if Q == 1:
        places, at = {n: Z[:, :, 0] for n, Z in placed.items()}, placed[first].mean(axis=0)[:, 0]
        for ax, (fit_name, Z) in zip(panels, places.items(), strict=True):
            scale = _line_panel(ax, Z, None if fit_name == first else at, at, values, fit_name)
        draw_key(panels.tolist(), scale, name)
        return panels
    pair = list(dims)
    at = placed[first][:, :, pair].mean(axis=0)
    for ax, (fit_name, Z) in zip(panels, placed.items(), strict=True):
        own = fit_name == first
        _panel(ax, Z[:, :, pair], None if own else at, fit_name)
        scale = draw_points(ax, Z[:, :, pair].mean(axis=0), values, size=14.0)
        ax.set(xlabel=f"latent {dims[0]} / lengthscale", aspect="equal")
    ends = [np.quantile(Z[:, :, pair], [0.055, 0.945], axis=0) for Z in placed.values()]
    everywhere = np.concatenate(ends).reshape(-1, 2)
    for ax in panels:
        frame(ax, everywhere)
    draw_key(panels.tolist(), scale, name)
    panels[0].set_ylabel(f"latent {dims[1]} / lengthscale")
    return panels


def _panels(n: int, axes: Any) -> NDArray[Any]:
    if axes is None:
        _, axes = plt.subplots(
            1, n, figsize=(0.8 + 3.2 * n, 3.6), sharex=True, sharey=True, layout="compressed"
        )
    panels = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(panels) != n:
        raise ValueError(f"axes must be one for each fit, {n}, got {len(panels)}.")
    return panels


def _panel(ax: Axes, draws: Array, at: Array | None, name: str) -> None:
    """Draw one fit's ellipses, and where the first fit has each row."""
    mean, spread = draws.mean(axis=0), _has_spread(draws)
    if spread:
        draw_ellipses(ax, draws, _SHARE, facecolors=_SHADE, edgecolors="0.45", linewidths=0.4)
    title = name
    if at is not None:
        far = outside(draws, at, _SHARE) if spread else np.zeros(len(mean), dtype=bool)
        lines = np.stack([mean, at], axis=1)
        widths = np.where(far, 1.1, 0.5)
        ax.add_collection(LineCollection(list(lines), linewidths=widths, colors="0.25", zorder=1.5))
        ax.scatter(at[:, 0], at[:, 1], **_DOT)
        if spread:
            title += f"\n{far.sum()} of {len(far)} dots outside 89 %"
    ax.set_title(title)


def _has_spread(draws: Array) -> bool:
    moves = np.ptp(draws, axis=0).max() > 1e-9 * np.ptp(draws)
    return len(draws) > draws.shape[-1] and bool(moves)


def _line_panel(
    ax: Axes, draws: Array, at: Array | None, order: Array, values: NDArray[Any] | None, name: str
) -> PathCollection | None:
    """Draw one latent dimension: a line of the picture a row, in the order of the first fit."""
    rows = np.argsort(np.argsort(order)).astype(np.float64)
    if _has_spread(draws[..., None]):
        low, high = np.quantile(draws, [0.5 - _SHARE / 2, 0.5 + _SHARE / 2], axis=0)
        ax.hlines(rows, low, high, color="0.6", linewidth=0.8, zorder=1)
        if at is not None:
            far = ((at < low) | (at > high)).sum()
            name += f"\n{far} of {len(at)} dots outside 89 %"
    places = np.column_stack([draws.mean(axis=0), rows])
    if at is not None:
        ax.scatter(at, rows, **_DOT)
    else:
        ax.set_ylabel("row, in the order of the first fit")
    ax.set(xlabel="latent 0 / lengthscale", title=name)
    return draw_points(ax, places, values, size=14.0)


def plot_prior(
    prior: xr.DataTree, fit: xr.DataTree | None = None, *, axes: Any = None
) -> NDArray[Any]:
    """Draw what a model believes of the embedding and of the table beside the table itself.

    Three panels. The distances between rows in units of the lengthscale: far below 1 the kernel
    sees no structure, far above 1 no neighbours. The entries of the table, centred and scaled.
    The share of the table's variance in each principal component, which is what the likelihood
    sees of Y. Grey is the prior: its median, and bands that hold 50 % and 89 % of the drawn tables.
    A black line is the table; where it leaves the bands the prior calls the data a surprise.

    Parameters
    ----------
    prior : DataTree
        From :func:`sample_prior`. At most 200 of its draws are looked at.
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
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> axes = gplvm.plot_prior(gplvm.sample_prior(model, draws=50, random_seed=1))
    >>> axes[2].get_xlabel()
    'principal component'
    """
    checks = check_prior(prior, fit)
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
    panels = np.asarray(axes, dtype=object).ravel()
    if len(panels) != 3:
        raise ValueError(f"axes must be three, got {len(panels)}.")
    share, component = checks["share"].to_numpy(), checks["component"].to_numpy()
    for ax, name in zip(panels[:2], ("distance", "value"), strict=True):
        _bands(ax, share, checks[name].to_numpy(), across=True)
    _bands(panels[2], component, checks["variance"].to_numpy(), across=False)
    black = {"color": "black", "linewidth": 1.4}
    if fit is not None:
        panels[0].plot(checks["distance_fit"], share, **black, linestyle="--", label="fit")
    panels[1].plot(checks["value_observed"], share, **black, label="table")
    panels[2].plot(
        component, checks["variance_observed"], **black, marker="o", markersize=3.0, label="table"
    )
    panels[0].set(xlabel="distance / lengthscale", ylabel="share of pairs below", xscale="log")
    panels[1].set(xlabel="entry, centred and scaled", ylabel="share of entries below")
    panels[2].set(xlabel="principal component", ylabel="share of variance", yscale="log")
    panels[0].set_xlim(left=np.median(checks["distance"][:, 1]) / 3.0)
    widest = 1.5 * np.abs(checks["value_observed"]).max()
    panels[1].set_xlim(-widest, widest)
    for ax in panels:
        ax.legend(fontsize="small", frameon=False)
    return panels


def _bands(ax: Axes, at: Array, draws: Array, *, across: bool) -> None:
    """Draw the median of curves and the bands that hold 89 % and 50 % of them, point by point."""
    low, lower, median, upper, high = np.quantile(draws, [0.055, 0.25, 0.5, 0.75, 0.945], axis=0)
    fill = ax.fill_betweenx if across else ax.fill_between
    fill(at, low, high, color="0.88", linewidth=0.0)
    fill(at, lower, upper, color="0.72", linewidth=0.0)
    line = (median, at) if across else (at, median)
    ax.plot(*line, color="0.4", linewidth=1.0, label="prior")
