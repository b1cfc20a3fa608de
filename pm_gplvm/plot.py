"""Pictures of a fit: Matplotlib axes in, Matplotlib axes out."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from numpy.typing import NDArray

from pm_gplvm.prediction import relative_uncertainty
from pm_gplvm.schema import LATENT, OBS, draws_of, require_fit
from pm_gplvm.scores import classes_of

__all__ = ["plot_latent"]

Array = NDArray[np.float64]

# Paul Tol's "muted" colours, told apart by the colour-blind; with the shapes also in black and white.
_COLOURS = (
    "#332288",
    "#DDCC77",
    "#117733",
    "#CC6677",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#000000",
)
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_MOST_CLASSES = 20
_SPREAD = 1.5095921854516636  # radius that holds 68 % of a two-dimensional Gaussian


def plot_latent(
    fit: xr.DataTree,
    color: Any = None,
    *,
    dims: tuple[int, int] = (0, 1),
    background: bool = True,
    spread: bool = True,
    grid: int = 80,
    ax: Axes | None = None,
) -> Axes:
    """Draw the latent positions over the model's uncertainty.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_map`, :func:`sample_theta` or any with ``X``.
    color : str or array_like, shape (N,), optional
        A coordinate along the rows (``"label"``) or one value a row: text and whole numbers are
        classes, other numbers a scale.
    dims : pair of int, default (0, 1)
        Which latent dimensions to draw. A model with one is drawn against the order of the rows.
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
    values = None if color is None else _values(fit, color, N)
    if ax is None:
        _, ax = plt.subplots(figsize=(6.0, 4.8), layout="constrained")
    if Q == 1:
        _plot_line(ax, draws[:, :, 0], values, spread)
        return ax
    if len(set(dims)) != 2 or not all(0 <= d < Q for d in dims):
        raise ValueError(f"dims must be two different dimensions below {Q}, got {dims}.")
    X = draws.mean(axis=0)
    pair = list(dims)
    _frame(ax, X[:, pair])
    if background:
        _shade(ax, fit, X, pair, grid)
    if spread and len(draws) > 1 and np.ptp(draws, axis=0).max() > 0.0:
        _ellipses(ax, draws[:, :, pair])
    _points(ax, X[:, pair], values, color if isinstance(color, str) else "")
    ax.set(xlabel=f"latent {dims[0]}", ylabel=f"latent {dims[1]}")
    return ax


def _values(fit: xr.DataTree, color: Any, N: int) -> NDArray[Any]:
    values = classes_of(fit, color) if isinstance(color, str) else np.asarray(color)
    if values.shape != (N,):
        raise ValueError(f"color must have one value a row, {N}, got shape {values.shape}.")
    return values


def _frame(ax: Axes, X: Array) -> None:
    low, high = X.min(axis=0), X.max(axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-12)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


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


def _ellipses(ax: Axes, draws: Array) -> None:
    centred = draws - draws.mean(axis=0)
    covariances = np.einsum("sni,snj->nij", centred, centred) / (len(draws) - 1)
    variances, axes = np.linalg.eigh(covariances)
    widths = 2.0 * _SPREAD * np.sqrt(np.maximum(variances, 0.0))
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    ax.add_collection(
        EllipseCollection(
            widths[:, 1],
            widths[:, 0],
            angles,
            units="xy",
            offsets=draws.mean(axis=0),
            offset_transform=ax.transData,
            facecolors="none",
            edgecolors="0.35",
            linewidths=0.5,
            zorder=1,
        )
    )


def _are_classes(values: NDArray[Any]) -> bool:
    return not np.issubdtype(values.dtype, np.floating) and len(np.unique(values)) <= _MOST_CLASSES


def _points(ax: Axes, X: Array, values: NDArray[Any] | None, name: str) -> None:
    style: dict[str, Any] = {"s": 24.0, "edgecolors": "0.15", "linewidths": 0.4, "zorder": 2}
    if values is None:
        ax.scatter(X[:, 0], X[:, 1], c=_COLOURS[0], **style)
    elif _are_classes(values):
        for i, value in enumerate(np.unique(values)):
            rows = values == value
            colour, shape = _COLOURS[i % len(_COLOURS)], _SHAPES[i % len(_SHAPES)]
            ax.scatter(X[rows, 0], X[rows, 1], c=colour, marker=shape, label=str(value), **style)
        _legend(ax, name)
    elif np.issubdtype(values.dtype, np.number):
        points = ax.scatter(X[:, 0], X[:, 1], c=values, cmap="viridis", **style)
        ax.figure.colorbar(points, ax=ax, fraction=0.045, pad=0.02, label=name)
    else:
        raise ValueError(
            f"color must have at most {_MOST_CLASSES} classes, got {len(np.unique(values))} different texts."
        )


def _legend(ax: Axes, name: str) -> None:
    ax.legend(
        title=name or None,
        loc="upper right",
        bbox_to_anchor=(-0.17, 1.0),
        fontsize="small",
        handletextpad=0.3,
        borderpad=0.3,
        frameon=False,
    )


def _plot_line(ax: Axes, draws: Array, values: NDArray[Any] | None, spread: bool) -> None:
    """One latent dimension: each row's position, one line of the picture a row."""
    X = draws.mean(axis=0)
    order = np.arange(len(X), dtype=np.float64)
    if spread and len(draws) > 1:
        low, high = np.quantile(draws, [0.055, 0.945], axis=0)
        ax.hlines(order, low, high, color="0.6", linewidth=0.8, zorder=1)
    _points(ax, np.column_stack([X, order]), values, "")
    ax.set(xlabel="latent 0", ylabel="row")
