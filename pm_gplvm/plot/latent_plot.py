"""Plots of the latent positions of a fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, checked, count
from pm_gplvm.core.kernels import is_known
from pm_gplvm.data.arrays import datelike, numbers
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.colours import (
    Key,
    as_text,
    date_ticks,
    days,
    draw_classes,
    draw_legend,
    draw_points,
    key_of,
    row_colours,
    row_values,
)
from pm_gplvm.plot.elements import (
    Plane,
    check_axes,
    draw_ellipses,
    draw_grid,
    label_angles,
    mesh,
    plane_of,
    spread_rows,
)
from pm_gplvm.plot.frame import (
    Limits,
    check_limits,
    draw_notes,
    draw_outside,
    frame_of,
    lengthscales,
    limits_of,
    set_limits,
    told_outside,
)
from pm_gplvm.plot.style import Style
from pm_gplvm.prediction.magnification import occupancy
from pm_gplvm.prediction.predict import relative_uncertainty

# Up to so many rows the background is told from all, with inducing inputs up to five thousand; of more rows from
# a few that cover the positions.
_MOST_ROWS, _FEW_ROWS = 2000, 600
_MOST_INDUCED = 5000
_MOST_ELLIPSES, _FEW_ELLIPSES = 1000, 150


@overload
def latent(
    fit: xr.DataTree,
    color: Any = None,
    *,
    dims: tuple[int, int] | None = None,
    time: Any = None,
    background: Literal["uncertainty", "density"] | bool = True,
    spread: bool = True,
    limits: Any = "robust",
    scale_bar: bool = True,
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
    limits: Any = "robust",
    scale_bar: bool = True,
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
    limits: Any = "robust",
    scale_bar: bool = True,
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
        The name of a coordinate along the rows (``"label"``) or of a column of Y (``"GAPDH"``), or one
        value a row, joined by label if it has an index. A coordinate comes first where both have that
        name; the column is then ``Y.sel(feature=name)``. Text, bools and up to 20 whole numbers are classes, in the order of ordered categories or else
        sorted; other numbers, dates and durations are a scale. Rows without a class or number are grey.
    dims : pair of int or "pairs", optional
        Which latent dimensions to draw; by default the first two or, where each has a lengthscale
        of its own (ARD), the two most relevant (:func:`diagnostics.active_dimensions`). "pairs" draws each pair, one
        panel each. A model with one dimension is drawn against time or the order of the rows. A dimension that is an angle,
        as only periodic factors look at it, has an axis of one period, by itself it is drawn as a ring.
    time : str or array_like, shape (N,), optional
        A coordinate or column by its name, as in ``color``, or one number or date a row. With one latent dimension the horizontal
        axis; with more a line joins the rows in its order.
    background : {"uncertainty", "density"} or bool, default True
        What the shades show. "uncertainty" is the standard deviation of the noise-free function, as
        a share of the prior's, mixed over the draws: dark is unknown. Further latent dimensions are
        held at their median. "density" is the posterior density of a row's position, averaged over
        the rows; it needs draws of X. True means "uncertainty", and no shades for a covariance of
        your own. Of more than 2000 rows it is told from 600, of more than 5000 from 5000 where the fit
        has inducing inputs: rows that cover all positions, and leave at least as much unknown as all
        rows do. The text at its scale says so.
    spread : bool, default True
        Where the fit knows how sure a position is, draw an ellipse about it that holds 68 % of a
        Gaussian with the covariance of the draws, or of q(X) of :func:`fit_variational`; with one latent
        dimension an 89 % interval. Of more than 1000 rows 150 have one, and the axes say so. A
        fit with one position a row has none.
    limits : {"robust", "all"} or ((left, right), (bottom, top)), default "robust"
        What the axes show. "robust" leaves out a few rows that lie so far off that the others would have
        less than a third of an axis: at most a fiftieth of the rows at each end. Rows outside are
        marked by triangles on the border and counted. With one latent dimension (low, high).
    scale_bar : bool, default True
        Whether a bar along each axis shows how long one lengthscale is, or so many as the text beside
        it says. Within one the function hardly changes (under rbf a correlation of 0.61), beyond
        three the rows say nothing about each other. A kernel without a lengthscale has no bar.
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
        If ``fit`` has no X, ``color`` or ``time`` has a wrong length or names neither a coordinate nor a
        column, or ``dims``, ``background`` or ``limits`` is out of range.

    Notes
    -----
    Colours follow the style of the axes (``plt.style.context("dark_background")``). Rows lie over each
    other in an order that is random and always the same. Of more than 500 rows the points are smaller, of more than
    5000 they have no edges and are pixels in a PDF or SVG.

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
    N, Q = plane.draws.shape[1:]
    frame = check_limits(limits, 0 if pairs else len(plane.dims))
    read.warn_unaligned()
    order, are_dates = (None, False) if time is None else _times(read, time, N)
    rows = _Rows(
        key_of(read, color, N),
        order,
        are_dates,
        time if isinstance(time, str) else "time",
        spread,
        frame,
        lengthscales(read) if scale_bar else None,
    )
    shading = _Shading(read, _kind(background, plane, is_known(read.kernel)), grid)
    if pairs:
        return _plot_pairs(plane, rows, shading, ax)
    if ax is None:
        width = 6.0 + (rows.key.breadth if rows.key else 0.0)
        _, ax = plt.subplots(figsize=(width, 4.8), layout="constrained")
    scale = _plot_line(ax, plane, rows) if Q == 1 else _plot_plane(ax, plane, rows, shading)
    draw_legend([ax], scale, rows.key, left=True, bars=shading.label([ax]))
    return ax


@dataclass
class _Rows:
    """What colours say of the rows, their times and the name of these, and how rows are shown."""

    key: Key | None
    order: Array | None
    are_dates: bool
    time: str
    spread: bool
    limits: Limits
    lengthscales: Array | None

    def unit(self, dim: int) -> float | None:
        """Lengthscale of a latent dimension, None if it is not shown."""
        return None if self.lengthscales is None else float(self.lengthscales[dim])


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

    read: Fit
    kind: str
    grid: int
    picture: AxesImage | None = None
    rows: str = ""

    def draw(self, ax: Axes, plane: Plane, limits: Array) -> None:
        if not self.kind:
            return
        positions = mesh(limits, (self.grid, self.grid))
        N = plane.draws.shape[1]
        most, few = (_MOST_INDUCED,) * 2 if self.read.is_inducing else (_MOST_ROWS, _FEW_ROWS)
        few = N if most >= N else few
        if few < N:
            self.rows = f",\n{few} of {N} rows"
        # The darkest shade used stays light enough for the points.
        if self.kind == "density":
            draws = plane.draws[:, np.random.default_rng(0).permutation(N)[:few]]
            shades = occupancy(draws[:, :, list(plane.dims)], positions)
            top = 1.6 * float(shades.max())
        else:
            unit = lengthscales(self.read)
            chosen = spread_rows(plane.means / (1.0 if unit is None else unit), few)
            some = self.read if few == N else self.read.with_rows(chosen)
            shades, top = relative_uncertainty(some.tree, plane.lift(positions)), 1.6
        style = Style.of(ax)
        self.picture = draw_grid(ax, limits, shades, cmap=style.shades, vmin=0.0, vmax=top)

    def label(self, axes: Sequence[Axes]) -> list[Axes]:
        if self.picture is None:
            return []
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
            bar.set_label(f"sd of the function,\nshare of the prior's{self.rows}")
        else:
            bar.locator = MaxNLocator(4)
            bar.update_ticks()
            bar.set_label(f"density of a row's place{self.rows}")
        return [bar.ax]


def _plot_plane(ax: Axes, plane: Plane, rows: _Rows, shading: _Shading) -> PathCollection | None:
    X = plane.X
    limits, far = frame_of(X, rows.limits)
    if isinstance(rows.limits, str) and plane.turning:  # an angle's axis is a whole period
        far = frame_of(np.delete(X, plane.turning, axis=1), rows.limits)[1]
        limits = limits_of(X[~far])
        limits[:, plane.turning] = [[-np.pi], [np.pi]]
    shading.draw(ax, plane, set_limits(ax, limits))
    notes = told_outside(far)
    if rows.spread and plane.varies:
        chosen = spread_rows(X, len(X) if len(X) <= _MOST_ELLIPSES else _FEW_ELLIPSES)
        draw_ellipses(
            ax,
            X[chosen],
            plane.covariances(chosen),
            zorder=1 if len(chosen) == len(X) else 3,
        )
        notes += [f"ellipses of {len(chosen)} rows"] * (len(chosen) < len(X))
    if rows.order is not None:
        path = X[np.argsort(rows.order, kind="stable")]
        grey = Style.of(ax).grey(0.3)
        ax.plot(path[:, 0], path[:, 1], color=grey, linewidth=0.7, zorder=1.4)
    ax.set(xlabel=f"latent {plane.dims[0]}", ylabel=f"latent {plane.dims[1]}")
    label_angles(ax, plane.turning)
    points = draw_points(ax, X, rows.key)
    draw_outside(ax, X, far, row_colours(ax, rows.key, len(X)))
    draw_notes(ax, X, [rows.unit(dim) for dim in plane.dims], notes)
    return points


def _plot_pairs(plane: Plane, rows: _Rows, shading: _Shading, axes: Any) -> NDArray[Any]:
    side = plane.draws.shape[2] - 1
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
        scale = _plot_plane(panels[i, j], replace(plane, dims=(j, i + 1)), rows, shading)
        panels[i, j].label_outer()
    bars = shading.label(panels.ravel().tolist())
    if scale is not None:
        draw_legend(panels.ravel().tolist(), scale, rows.key, bars=bars)
    elif rows.key is not None:  # the empty corner has room for it
        legend = draw_classes(panels[0, side - 1], rows.key, loc="upper right")
        legend.set_in_layout(rows.key.are_many)
    return panels


def _plot_line(ax: Axes, plane: Plane, rows: _Rows) -> PathCollection | None:
    """Plot one latent dimension against time, or across with one line per row."""
    X = plane.X[:, 0]
    if plane.turning and rows.order is None and isinstance(rows.limits, str):
        return _plot_ring(ax, plane, rows)
    across = rows.order is not None
    order = rows.order if rows.order is not None else np.arange(len(X), dtype=np.float64)
    (low, high), far = frame_of(plane.X, rows.limits)
    if rows.spread and plane.varies:
        lines = ax.vlines if across else ax.hlines
        grey = Style.of(ax).grey(0.6)
        lines(order, *plane.interval(), color=grey, linewidth=0.8, zorder=1)
    ax.set(
        xlabel=as_text(rows.time) if across else "latent 0",
        ylabel="latent 0" if across else "row",
    )
    if rows.are_dates:
        locator, formatter = date_ticks()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(formatter)
    positions = np.column_stack([order, X] if across else [X, order])
    points = draw_points(ax, positions, rows.key)
    if far.any() or not isinstance(rows.limits, str):
        (ax.set_ylim if across else ax.set_xlim)(float(low[0]), float(high[0]))
    draw_outside(ax, positions, far, row_colours(ax, rows.key, len(X)))
    if plane.turning:
        label_angles(ax, [int(across)])
    units = [None, rows.unit(0)] if across else [rows.unit(0), None]
    draw_notes(ax, positions, units, told_outside(far))
    return points


def _plot_ring(ax: Axes, plane: Plane, rows: _Rows) -> PathCollection | None:
    """Plot the only latent dimension, an angle, around its circle."""
    angle = plane.X[:, 0]
    grey = Style.of(ax).grey
    whole = np.linspace(-np.pi, np.pi, 200)
    ax.plot(np.cos(whole), np.sin(whole), color=grey(0.2), linewidth=0.7, zorder=0.5)
    if rows.spread and plane.varies:
        low, high = plane.interval()
        arcs = np.linspace(low, high, 30)  # (30, N)
        radius = 1.06 + 0.12 * np.random.default_rng(0).random(
            len(angle)
        )  # so that they can be told apart
        lines = radius[:, None, None] * np.stack([np.cos(arcs.T), np.sin(arcs.T)], axis=2)
        ax.add_collection(LineCollection(list(lines), colors=[grey(0.6)], linewidths=0.6, zorder=1))
    ends = [(1.3, 0.0, "0"), (0.0, 1.3, "π/2"), (-1.3, 0.0, "π"), (0.0, -1.3, "-π/2")]
    for x, y, text in ends:
        ax.text(x, y, text, ha="center", va="center", color=grey(0.6))
    ax.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal", xticks=[], yticks=[])
    ax.set_xlabel("latent 0, an angle")
    return draw_points(ax, np.column_stack([np.cos(angle), np.sin(angle)]), rows.key)
