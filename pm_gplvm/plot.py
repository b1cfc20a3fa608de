"""Pictures of a fit: Matplotlib axes in, Matplotlib axes out."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pm_gplvm.marks import draw_ellipses, draw_key, draw_points, frame, row_values
from pm_gplvm.prediction import relative_uncertainty
from pm_gplvm.relevance import dominant
from pm_gplvm.schema import LATENT, OBS, draws_of, require_fit

__all__ = ["plot_latent"]

Array = NDArray[np.float64]

_LEFT: dict[str, Any] = {"loc": "upper right", "bbox_to_anchor": (-0.17, 1.0)}


def plot_latent(
    fit: xr.DataTree,
    color: Any = None,
    *,
    dims: tuple[int, int] | None = None,
    background: bool = True,
    spread: bool = True,
    grid: int = 80,
    ax: Axes | None = None,
) -> Axes:
    """Draw the latent positions over the model's uncertainty.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_map`, :func:`sample_theta` or any with ``X``; after :func:`align` the
        aligned draws are shown.
    color : str or array_like, shape (N,), optional
        A coordinate along the rows (``"label"``) or one value a row: text and whole numbers are
        classes, other numbers a scale.
    dims : pair of int, optional
        Which latent dimensions to draw; by default the first two or, where each has a lengthscale
        of its own (ARD), the two most relevant (:func:`dimensions`). A model with one is drawn against the order of the rows.
    background : bool, default True
        Shade the plane by the standard deviation that is left of the prior's, for the
        noise-free function, mixed over the draws: dark is unknown. Further latent
        dimensions are held at their median.
    spread : bool, default True
        Where X has more than one draw: an ellipse about each mean position that holds 68 % of
        the draws if they are Gaussian.
    grid : int, default 80
        Points of the background along each axis.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, ``color`` has a wrong length or names no coordinate, or ``dims`` are
        out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_map(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> ax = gplvm.plot_latent(best, color="label")
    >>> ax.get_xlabel()
    'latent 0'
    """
    require_fit(fit, "X", caller="plot_latent")
    draws = draws_of(fit, "X").transpose("chain", "draw", OBS, LATENT).to_numpy()
    draws = draws.reshape(-1, *draws.shape[2:])
    N, Q = draws.shape[1:]
    values = None if color is None else row_values(fit, color, N)
    if ax is None:
        _, ax = plt.subplots(figsize=(6.0, 4.8), layout="constrained")
    if Q == 1:
        _plot_line(ax, draws[:, :, 0], values, spread)
        return ax
    if dims is None:
        dims = dominant(fit)
    if len(set(dims)) != 2 or not all(0 <= d < Q for d in dims):
        raise ValueError(f"dims must be two different dimensions below {Q}, got {dims}.")
    X = draws.mean(axis=0)
    pair = list(dims)
    frame(ax, X[:, pair])
    if background:
        _shade(ax, fit, X, pair, grid)
    if spread and len(draws) > 1 and np.ptp(draws, axis=0).max() > 0.0:
        draw_ellipses(ax, draws[:, :, pair])
    scale = draw_points(ax, X[:, pair], values)
    draw_key([ax], scale, color if isinstance(color, str) else "", **_LEFT)
    ax.set(xlabel=f"latent {dims[0]}", ylabel=f"latent {dims[1]}")
    return ax


def _shade(ax: Axes, fit: xr.DataTree, X: Array, pair: list[int], grid: int) -> None:
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across, up = np.meshgrid(np.linspace(left, right, grid), np.linspace(bottom, top, grid))
    positions = np.tile(np.median(X, axis=0), (grid * grid, 1))
    positions[:, pair[0]], positions[:, pair[1]] = across.ravel(), up.ravel()
    shades = relative_uncertainty(fit, positions).reshape(grid, grid)
    picture = ax.imshow(
        shades,
        extent=(left, right, bottom, top),
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=0.0,
        vmax=1.6,  # the darkest shade used stays light enough for the points
        interpolation="bilinear",
        zorder=0,
    )
    bar = ax.figure.colorbar(
        picture, ax=ax, fraction=0.045, pad=0.02, boundaries=np.linspace(0, 1, 101)
    )
    bar.set_ticks([0.0, 0.5, 1.0])
    bar.set_label("sd of the function left of the prior's")


def _plot_line(ax: Axes, draws: Array, values: NDArray[Any] | None, spread: bool) -> None:
    """One latent dimension: each row's position, one line of the picture a row."""
    X = draws.mean(axis=0)
    order = np.arange(len(X), dtype=np.float64)
    if spread and len(draws) > 1:
        low, high = np.quantile(draws, [0.055, 0.945], axis=0)
        ax.hlines(order, low, high, color="0.6", linewidth=0.8, zorder=1)
    draw_key([ax], draw_points(ax, np.column_stack([X, order]), values), "", **_LEFT)
    ax.set(xlabel="latent 0", ylabel="row")
