"""Plots of the latent positions of a fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, checked, count, interval
from pm_gplvm.core.kernels import KERNELS
from pm_gplvm.data.arrays import datelike, numbers
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.colours import (
    Key,
    date_ticks,
    days,
    draw_classes,
    draw_legend,
    draw_points,
    key_of,
    row_values,
)
from pm_gplvm.plot.elements import (
    Plane,
    check_axes,
    draw_ellipses,
    draw_grid,
    mesh,
    plane_of,
    set_limits,
)
from pm_gplvm.prediction.magnification import occupancy
from pm_gplvm.prediction.predict import relative_uncertainty


@overload
def latent(
    fit: xr.DataTree,
    color: Any = None,
    *,
    dims: tuple[int, int] | None = None,
    time: Any = None,
    background: Literal["uncertainty", "density"] | bool = True,
    spread: bool = True,
    grid: int = 80,
    ax: Axes | None = None,
) -> Axes: ...


@overload
def latent(
    fit: xr.DataTree,
    color: Any = None,
    *,
    dims: Literal["pairs"],
    time: Any = None,
    background: Literal["uncertainty", "density"] | bool = True,
    spread: bool = True,
    grid: int = 80,
    ax: Any = None,
) -> NDArray[Any]: ...


@checked
def latent(
    fit: xr.DataTree,
    color: Any = None,
    *,
    dims: tuple[int, int] | Literal["pairs"] | None = None,
    time: Any = None,
    background: Literal["uncertainty", "density"] | bool = True,
    spread: bool = True,
    grid: int = 80,
    ax: Any = None,
) -> Any:
    """Draw the latent positions over the model's uncertainty.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal`, :func:`sample_theta` or any with ``X``; after :func:`align` the
        aligned draws are shown.
    color : str or array_like, shape (N,), optional
        A coordinate along the rows (``"label"``) or one value a row, joined by label if it has an index.
        Text, bools and up to 20 whole numbers are classes, in the order of ordered categories or else
        sorted; other numbers, dates and durations are a scale. Rows without a class or number are grey.
    dims : pair of int or "pairs", optional
        Which latent dimensions to draw; by default the first two or, where each has a lengthscale
        of its own (ARD), the two most relevant (:func:`diagnostics.active_dimensions`). "pairs" draws each pair, one
        panel each. A model with one dimension is drawn against time or the order of the rows.
    time : str or array_like, shape (N,), optional
        A coordinate along the rows or one number or date a row. With one latent dimension the horizontal
        axis; with more a line joins the rows in its order.
    background : {"uncertainty", "density"} or bool, default True
        What the shades show. "uncertainty" is the standard deviation of the noise-free function, as
        a share of the prior's, mixed over the draws: dark is unknown. Further latent dimensions are
        held at their median. "density" is the posterior density of a row's position, averaged over
        the rows; it needs draws of X. True means "uncertainty", and no shades for a covariance of
        your own.
    spread : bool, default True
        Where X has more than one draw, draw an ellipse about each mean position that holds 68 % of
        the draws if they are Gaussian; with one latent dimension an 89 % interval.
    grid : int, default 80
        Points of the background along each axis.
    ax : matplotlib.axes.Axes, optional
        With ``dims="pairs"`` an array (Q - 1, Q - 1) of them.

    Returns
    -------
    matplotlib.axes.Axes
        With ``dims="pairs"`` an array (Q - 1, Q - 1): dimension j across and i + 1 upwards in
        panel (i, j), those with j > i left empty.

    Warns
    -----
    RuntimeWarning
        If the draws of X are not aligned (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, ``color`` or ``time`` has a wrong length or names no coordinate, or
        ``dims`` or ``background`` is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> ax = gplvm.plot.latent(best, color="label")
    >>> ax.get_xlabel()
    'latent 0'
    """
    pairs = isinstance(dims, str)
    if pairs and dims != "pairs":
        raise ValueError(f"dims must be two dimensions or 'pairs', got {dims!r}.")
    count("grid", grid, 2)
    if not pairs:
        check_axes("ax", ax)
    read = Fit.of(fit, "X", caller="plot.latent")
    plane = plane_of(read, None if pairs else dims)
    read.warn_unaligned()
    N, Q = plane.draws.shape[1:]
    order, are_dates = (None, False) if time is None else _times(read, time, N)
    rows = _Rows(
        key_of(read, color, N), order, are_dates, time if isinstance(time, str) else "time"
    )
    shading = _Shading(fit, _kind(background, plane, read.kernel in KERNELS), grid)
    if pairs:
        return _plot_pairs(plane.draws, rows, shading, spread, ax)
    if ax is None:
        width = 6.0 + (rows.key.breadth if rows.key else 0.0)
        _, ax = plt.subplots(figsize=(width, 4.8), layout="constrained")
    if Q == 1:
        scale = _plot_line(ax, plane.draws[:, :, 0], rows, spread)
    else:
        scale = _plot_plane(ax, plane, rows, shading, spread)
        shading.label([ax])
    draw_legend([ax], scale, rows.key, left=True)
    return ax


@dataclass
class _Rows:
    """What colours say of the rows, their times, and the name of these."""

    key: Key | None
    order: Array | None
    are_dates: bool
    time: str


def _times(read: Fit, time: Any, n_rows: int) -> tuple[Array, bool]:
    """Return the time of each row, and whether it is a date, in days as Matplotlib counts them."""
    given = row_values(read, time, n_rows, argument="time")
    at = datelike(given)
    if at is None:
        values = numbers("time", given)
    else:
        are_dates = at.dtype.kind == "M"
        values = days(at) if are_dates else at / np.timedelta64(1, "D")
    if unknown := int((~np.isfinite(values)).sum()):
        raise ValueError(f"time must be known in every row, got {unknown} missing or infinite.")
    return values, at is not None and at.dtype.kind == "M"


def _kind(background: Any, plane: Plane, known: bool) -> str:
    kind = background
    if isinstance(background, bool | np.bool_):
        kind = "uncertainty" if background and known else ""
    if not isinstance(kind, str) or kind not in ("uncertainty", "density", ""):
        raise ValueError(
            f"background must be 'uncertainty', 'density', True or False, got {background!r}."
        )
    if kind == "density" and (len(plane.draws) <= 2 or not plane.varies):
        raise ValueError(
            "background='density' needs draws of X, got a fit with one position a row. Take the draws of "
            "sample or fit_laplace, or background='uncertainty'."
        )
    return str(kind)


@dataclass
class _Shading:
    """The background of one plot: the quantity shown, and its colour scale."""

    fit: xr.DataTree
    kind: str
    grid: int
    picture: AxesImage | None = None

    def draw(self, ax: Axes, plane: Plane, limits: Array) -> None:
        if not self.kind:
            return
        positions = mesh(limits, (self.grid, self.grid))
        # The darkest shade used stays light enough for the points.
        if self.kind == "density":
            shades = occupancy(plane.draws[:, :, list(plane.dims)], positions)
            top = 1.6 * float(shades.max())
        else:
            shades, top = relative_uncertainty(self.fit, plane.lift(positions)), 1.6
        self.picture = draw_grid(ax, limits, shades, cmap="Greys", vmin=0.0, vmax=top)

    def label(self, axes: Sequence[Axes]) -> None:
        if self.picture is None:
            return
        top = 1.0 if self.kind == "uncertainty" else self.picture.get_clim()[1] / 1.6
        bar = axes[0].figure.colorbar(
            self.picture,
            ax=list(axes),
            fraction=0.045,
            pad=0.02,
            boundaries=np.linspace(0.0, top, 101),
        )
        if self.kind == "uncertainty":
            bar.set_ticks([0.0, 0.5, 1.0])
            bar.set_label("sd of the function,\nshare of the prior's")
        else:
            bar.locator = MaxNLocator(4)
            bar.update_ticks()
            bar.set_label("density of a row's place")


def _plot_plane(
    ax: Axes, plane: Plane, rows: _Rows, shading: _Shading, spread: bool
) -> PathCollection | None:
    X = plane.X
    shading.draw(ax, plane, set_limits(ax, X))
    if spread and plane.varies:
        draw_ellipses(ax, plane.draws[:, :, list(plane.dims)])
    if rows.order is not None:
        path = X[np.argsort(rows.order, kind="stable")]
        ax.plot(path[:, 0], path[:, 1], color="0.3", linewidth=0.7, zorder=1.4)
    ax.set(xlabel=f"latent {plane.dims[0]}", ylabel=f"latent {plane.dims[1]}")
    return draw_points(ax, X, rows.key)


def _plot_pairs(
    draws: Array, rows: _Rows, shading: _Shading, spread: bool, axes: Any
) -> NDArray[Any]:
    side = draws.shape[2] - 1
    if side < 2:
        raise ValueError(
            f"dims='pairs' needs at least three latent dimensions, got {side + 1}. Leave dims out."
        )
    if axes is None:
        size = (1.6 + 2.3 * side, 0.6 + 2.1 * side)
        _, axes = plt.subplots(side, side, figsize=size, squeeze=False, layout="constrained")
    panels: Any = np.asarray(axes, dtype=object)
    if panels.shape != (side, side):
        raise ValueError(f"ax must be an array ({side}, {side}) of axes, got {panels.shape}.")
    for panel in panels.ravel():
        check_axes("ax", panel)
    scale = None
    for i, j in np.ndindex(side, side):
        if j > i:
            panels[i, j].set_axis_off()
            continue
        scale = _plot_plane(panels[i, j], Plane(draws, (j, i + 1)), rows, shading, spread)
        panels[i, j].label_outer()
    shading.label(panels.ravel().tolist())
    if scale is not None:
        draw_legend(panels.ravel().tolist(), scale, rows.key)
    elif rows.key is not None:  # the empty corner has room for it
        legend = draw_classes(panels[0, side - 1], rows.key, loc="upper right")
        legend.set_in_layout(rows.key.are_many)
    return panels


def _plot_line(ax: Axes, draws: Array, rows: _Rows, spread: bool) -> PathCollection | None:
    """Plot one latent dimension against time, or across with one line per row."""
    X = draws.mean(axis=0)
    across = rows.order is not None
    order = rows.order if rows.order is not None else np.arange(len(X), dtype=np.float64)
    if spread and len(draws) > 1:
        low, high = interval(draws)
        lines = ax.vlines if across else ax.hlines
        lines(order, low, high, color="0.6", linewidth=0.8, zorder=1)
    ax.set(
        xlabel=rows.time if across else "latent 0",
        ylabel="latent 0" if across else "row",
    )
    if rows.are_dates:
        locator, formatter = date_ticks()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(formatter)
    positions = np.column_stack([order, X] if across else [X, order])
    return draw_points(ax, positions, rows.key)
