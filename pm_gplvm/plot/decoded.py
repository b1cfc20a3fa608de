"""Plots of the function from X to Y: predicted rows, and how much it stretches the latent space."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import ScalarFormatter

from pm_gplvm.core.checks import Array, checked, count
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.colours import Key, draw_legend, draw_points, key_of, row_colours
from pm_gplvm.plot.elements import (
    Plane,
    check_axes,
    check_image_shape,
    draw_grid,
    mesh,
    plane_of,
)
from pm_gplvm.plot.frame import (
    Limits,
    check_limits,
    draw_notes,
    draw_outside,
    frame_of,
    keep_inside,
    set_limits,
    told_outside,
)
from pm_gplvm.plot.style import Style
from pm_gplvm.prediction.located import latent_alone
from pm_gplvm.prediction.magnification import magnification as magnification_at
from pm_gplvm.prediction.predict import check_positions, predict, relative_uncertainty

_GAP = 0.06  # between a cell's edge and what it shows, in units of the cell
_RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)


@checked
def reconstruction(
    fit: xr.DataTree,
    *,
    image_shape: tuple[int, int] | None = None,
    dims: tuple[int, int] | None = None,
    limits: Any = "robust",
    grid: int = 9,
    num_samples: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draw what the model decodes across the latent space.

    The plane is divided into cells. Each shows the mean of :func:`predict` at its centre: an image,
    or a curve over the features in their order with a band of ± 2 sd. The larger the standard
    deviation is, as a share of the prior's, the fainter is the cell.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal` or any with ``X`` and θ; after :func:`align` in the aligned frame.
    image_shape : (height, width), optional
        For rows of Y that are images, stored line by line. Curves are drawn without it.
    dims : pair of int, optional
        As in :func:`plot.latent`; further dimensions are held at their median. A model with one
        dimension has one line of cells.
    limits : {"robust", "all"} or ((left, right), (bottom, top)), default "robust"
        As in :func:`plot.latent`.
    grid : int, default 9
        Cells along each axis.
    num_samples : int, default 20
        Number of draws used at most, evenly spaced.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Warns
    -----
    RuntimeWarning
        If the draws of X are not aligned (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or an argument is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> ax = gplvm.plot.reconstruction(best, image_shape=(8, 8), grid=4)
    >>> ax.get_ylabel()
    'latent 1'
    """
    count("grid", grid, 2)
    check_axes("ax", ax)
    plane = plane_of(Fit.of(fit, "X", caller="plot.reconstruction"), dims)
    cells = (int(grid),) * len(plane.dims)
    limits, _ = frame_of(plane.X, check_limits(limits, len(cells)), 0.02)
    centres = mesh(limits, cells)
    alone = latent_alone(fit)
    rows = predict(fit, plane.lift(centres), num_samples=num_samples, **alone)
    share = relative_uncertainty(fit, plane.lift(centres), num_samples=num_samples)
    mean, sd = rows["mean"].to_numpy(), rows["sd"].to_numpy()
    shape = check_image_shape(image_shape, mean.shape[1])
    if ax is None:
        size = (6.0, 5.0) if len(cells) == 2 else (7.2, 1.7)
        # Images hold the shape of the axes; only then is "constrained" not enough for the labels.
        _, ax = plt.subplots(figsize=size, layout="compressed" if shape else "constrained")
    if len(cells) == 1:
        limits = np.column_stack([limits, [0.0, 1.0]])
        centres = np.column_stack([centres, np.full(len(centres), 0.5)])
    size_of = (limits[1] - limits[0]) / np.array([*cells, 1])[:2]
    corners = centres - 0.5 * size_of
    if shape is None:
        _draw_curves(ax, corners, size_of, mean, sd, share)
    else:
        _draw_images(ax, corners, size_of, mean.reshape(-1, *shape), share)
    ax.set(xlim=limits[:, 0], ylim=limits[:, 1], xlabel=f"latent {plane.dims[0]}", aspect="auto")
    if len(cells) == 1:
        ax.set_yticks([])
    else:
        ax.set_ylabel(f"latent {plane.dims[1]}")
    return ax


def _draw_images(ax: Axes, corners: Array, size: Array, images: Array, shares: Array) -> None:
    scale, style = Normalize(images.min(), images.max()), Style.of(ax)
    for (left, bottom), image, share in zip(corners, images, shares, strict=True):
        ax.imshow(
            image,
            extent=(
                left + _GAP * size[0],
                left + (1.0 - _GAP) * size[0],
                bottom + _GAP * size[1],
                bottom + (1.0 - _GAP) * size[1],
            ),
            cmap=style.shades,
            norm=scale,
            alpha=1.0 - 0.9 * min(share, 1.0),
            interpolation="nearest",
        )
    _draw_edges(ax, corners, style.grey(0.8))
    across, up = (len(np.unique(edges)) for edges in corners.T)
    ax.set_box_aspect(up * images.shape[1] / (across * images.shape[2]))  # as images are stored
    bar = ax.figure.colorbar(ScalarMappable(scale, style.shades), ax=ax, fraction=0.045, pad=0.02)
    bar.set_label("mean of Y,\nfainter: less known")
    keep_inside([ax, bar.ax])


def _draw_edges(ax: Axes, corners: Array, color: str) -> None:
    for edges, draw_line in ((corners[:, 0], ax.axvline), (corners[:, 1], ax.axhline)):
        for edge in np.unique(edges):
            draw_line(edge, color=color, linewidth=0.5)


def _draw_curves(
    ax: Axes, corners: Array, size: Array, mean: Array, sd: Array, shares: Array
) -> None:
    """Draw one curve per cell, all on one scale from the lowest to the highest mean."""
    low, high, style = mean.min(), mean.max(), Style.of(ax)
    inner = (1.0 - 2.0 * _GAP) * size
    along = np.linspace(0.0, inner[0], mean.shape[1])

    def scaled(values: Array) -> Array:
        return np.clip((values - low) / max(high - low, 1e-300), 0.0, 1.0) * inner[1]

    for corner, curve, width, share in zip(corners, mean, sd, shares, strict=True):
        left, bottom = corner + _GAP * size
        alpha = 1.0 - 0.85 * min(share, 1.0)
        band = (bottom + scaled(curve - 2.0 * width), bottom + scaled(curve + 2.0 * width))
        ax.fill_between(
            left + along, *band, color=style.grey(0.6), alpha=0.5 * alpha, linewidth=0.0
        )
        ax.plot(
            left + along, bottom + scaled(curve), color=style.colours[0], linewidth=0.9, alpha=alpha
        )
    _draw_edges(ax, corners, style.grey(0.85))
    ax.set_title(
        f"each cell: the features in order, from {low:.3g} to {high:.3g}; band ± 2 sd",
        fontsize="small",
    )


@checked
def magnification(
    fit: xr.DataTree,
    color: Any = None,
    *,
    path: Any = None,
    dims: tuple[int, int] | None = None,
    limits: Any = "robust",
    grid: int = 50,
    num_samples: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much the function from x to Y stretches the latent space: √det of :func:`diagnostics.magnification`.

    Over the plane it is drawn as a map. Bright means stretched: what looks near is far apart in Y. If
    the fit has draws, contours give the ratio of the upper end of the 89 % interval to the lower. Along
    a path, or with one latent dimension, it is drawn as a curve with that interval as its band.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal` or any with ``X`` and θ; after :func:`align` in the aligned frame.
    color : str or array_like, shape (N,), optional
        As in :func:`plot.latent`, for the positions of the rows on the map.
    path : array_like, shape (S, Q), optional
        Positions along which a curve is drawn instead of the map; the axis is the length covered.
    dims : pair of int, optional
        As in :func:`plot.latent`; further dimensions are held at their median.
    limits : {"robust", "all"} or ((left, right), (bottom, top)), default "robust"
        As in :func:`plot.latent`.
    grid : int, default 50
        Points along each axis of the map, or along the one dimension times 4.
    num_samples : int, default 20
        Number of draws used at most, evenly spaced.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Warns
    -----
    RuntimeWarning
        If the draws of X are not aligned (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or an argument is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> ax = gplvm.plot.magnification(best, "label", grid=10)
    >>> ax.get_xlabel()
    'latent 0'
    """
    count("grid", grid, 2)
    check_axes("ax", ax)
    read = Fit.of(fit, "X", caller="plot.magnification")
    plane = plane_of(read, dims)
    N, Q = plane.draws.shape[1:]
    key = key_of(read, color, N)
    frame = check_limits(limits, len(plane.dims))
    if ax is None:
        width = 6.0 + (key.breadth if key else 0.0)
        _, ax = plt.subplots(figsize=(width, 4.6), layout="constrained")
    if path is None and Q > 1:
        return _draw_map(ax, fit, plane, key, frame, grid, num_samples)
    style = Style.of(ax)
    if path is None:
        way = mesh(frame_of(plane.X, frame)[0], (4 * grid,))
        along, name = way[:, 0], "latent 0"
        ax.plot(
            plane.X[:, 0],
            np.zeros(N),
            "|",
            color=style.grey(0.3),
            transform=ax.get_xaxis_transform(),
        )
    else:
        way = check_positions(read, path)
        along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1)))
        name = "way along the path, in units of X"
    found = magnification_at(fit, way, num_samples=num_samples)
    if found["low"].notnull().all():
        grey = style.grey(0.8)
        ax.fill_between(along, found["low"], found["high"], color=grey, linewidth=0, label="89 %")
        ax.legend(fontsize="small", frameon=False, labelcolor=style.ink)
    ax.plot(along, found["magnification"], color=style.colours[0], linewidth=1.4)
    ax.set(xlabel=name, ylabel=_unit(Q), ylim=(0.0, None))
    return ax


def _draw_map(
    ax: Axes,
    fit: xr.DataTree,
    plane: Plane,
    key: Key | None,
    frame: Limits,
    grid: int,
    draws: int,
) -> Axes:
    limits, far = frame_of(plane.X, frame)
    limits = set_limits(ax, limits)
    centres = mesh(limits, (grid, grid))
    found = magnification_at(fit, plane.lift(centres), num_samples=draws)
    factor = found["magnification"].to_numpy()
    low, high = max(factor.min(), 1e-12 * factor.max()), factor.max()
    norm = LogNorm(low, high) if high > 20.0 * low else Normalize(low, high)
    picture = draw_grid(ax, limits, factor, cmap="cividis", norm=norm)
    if found["low"].notnull().all():
        ratio = (found["high"] / found["low"]).to_numpy().reshape(grid, grid)
        x, y = centres.reshape(grid, grid, 2).transpose(2, 0, 1)
        lines = ax.contour(x, y, ratio, levels=_RATIOS, colors="white", linewidths=0.8)
        ax.clabel(lines, fmt="×%g", fontsize=7)
    scale = draw_points(ax, plane.X, key, size=16.0)
    draw_outside(ax, plane.X, far, row_colours(ax, key, len(far)))
    draw_notes(ax, plane.X, lines=told_outside(far))
    ticks = ScalarFormatter()
    ticks.set_powerlimits((-2, 3))
    form = None if isinstance(norm, LogNorm) else ticks
    bar = ax.figure.colorbar(picture, ax=ax, fraction=0.045, pad=0.02, format=form)
    bar.set_label(_unit(plane.draws.shape[2]))
    draw_legend([ax], scale, key, left=True, bars=[bar.ax])
    ax.set(xlabel=f"latent {plane.dims[0]}", ylabel=f"latent {plane.dims[1]}")
    return ax


def _unit(Q: int) -> str:
    return f"√det E JᵀJ, in units of (Y / X)$^{{{Q}}}$" if Q > 1 else "√(E JᵀJ), in units of Y / X"
