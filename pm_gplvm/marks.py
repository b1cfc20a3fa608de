"""What the pictures of positions share: points by class or number, ellipses, legends."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.schema import FEATURE, classes_of

__all__ = [
    "COLOURS",
    "SHAPES",
    "are_classes",
    "check_image_shape",
    "draw_ellipses",
    "draw_key",
    "draw_points",
    "frame",
    "row_values",
]

# Paul Tol's "muted" colours, told apart by the colour-blind; with the shapes also in black and white.
COLOURS = (
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
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_MOST_CLASSES = 20


def row_values(
    fit: xr.DataTree, color: Any, n_rows: int, *, argument: str = "color"
) -> NDArray[Any]:
    """One value a row: a coordinate of the fit by its name, or what was given.

    Raises
    ------
    ValueError
        If there is no such coordinate, or the length is wrong.
    """
    values = classes_of(fit, color) if isinstance(color, str) else np.asarray(color)
    if values.dtype == object and (missing := sum(v is None or v != v for v in values.ravel())):
        raise ValueError(
            f"{argument} must not be missing, got {missing} rows without a value. Give them a class of "
            "their own, such as 'unknown'."
        )
    if values.shape != (n_rows,):
        hint = ""
        if values.shape == (fit["observed_data"].sizes.get(FEATURE),):
            hint = " That is one a feature: if Y was meant the other way round, fit Y.T."
        raise ValueError(
            f"{argument} must have one value a row, {n_rows}, got shape {values.shape}.{hint}"
        )
    return values


def check_image_shape(image_shape: Any, n_features: int) -> tuple[int, int] | None:
    """Return ``image_shape`` as two whole numbers whose product is the number of features, or None.

    Raises
    ------
    ValueError
        If it is not that.
    """
    if image_shape is None:
        return None
    shape = tuple(int(n) for n in np.atleast_1d(image_shape))
    if len(shape) != 2 or shape[0] * shape[1] != n_features:
        raise ValueError(
            f"image_shape must be (height, width) with height · width = {n_features}, the number of "
            f"features, got {image_shape}."
        )
    return shape[0], shape[1]


def frame(ax: Axes, X: Array) -> None:
    """Set the limits so that all positions, shape (N, 2), lie inside with a margin."""
    low, high = X.min(axis=0), X.max(axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-12)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


def draw_ellipses(ax: Axes, draws: Array, share: float = 0.68, **style: Any) -> None:
    """Draw about each mean position an ellipse that holds so much of a Gaussian.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    draws : ndarray, shape (S, N, 2)
    share : float, default 0.68
    **style
        Of the ellipses, handed to Matplotlib.
    """
    centred = draws - draws.mean(axis=0)
    covariances = np.einsum("sni,snj->nij", centred, centred) / (len(draws) - 1)
    variances, axes = np.linalg.eigh(covariances)
    radius = np.sqrt(-2.0 * np.log(1.0 - share))
    widths = 2.0 * radius * np.sqrt(np.maximum(variances, 0.0))
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    ax.add_collection(
        EllipseCollection(
            widths[:, 1],
            widths[:, 0],
            angles,
            units="xy",
            offsets=draws.mean(axis=0),
            offset_transform=ax.transData,
            **{"facecolors": "none", "edgecolors": "0.35", "linewidths": 0.5, "zorder": 1} | style,
        )
    )


def are_classes(values: NDArray[Any]) -> bool:
    """Whether values are texts or few whole numbers, to be told apart rather than ordered.

    Raises
    ------
    ValueError
        If they are texts with too many classes.
    """
    if np.issubdtype(values.dtype, np.floating):
        return False
    n_classes = len(np.unique(values))
    if n_classes > _MOST_CLASSES and not np.issubdtype(values.dtype, np.number):
        raise ValueError(
            f"color must have at most {_MOST_CLASSES} classes, got {n_classes} different texts. Give "
            "numbers, or merge classes."
        )
    return n_classes <= _MOST_CLASSES


def draw_points(
    ax: Axes, X: Array, values: NDArray[Any] | None, *, size: float = 24.0
) -> PathCollection | None:
    """Draw positions (N, 2), classes by colour and shape, numbers by a scale.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    X : ndarray, shape (N, 2)
    values : ndarray, shape (N,), or None
    size : float, default 24
        Area of a point, in points².

    Returns
    -------
    PathCollection or None
        The points that :func:`draw_key` needs for a scale of numbers.

    Raises
    ------
    ValueError
        If the values are texts with too many classes.
    """
    style: dict[str, Any] = {"s": size, "edgecolors": "0.15", "linewidths": 0.4, "zorder": 2}
    if values is None:
        ax.scatter(X[:, 0], X[:, 1], c=COLOURS[0], **style)
    elif are_classes(values):
        for i, value in enumerate(np.unique(values)):
            rows = values == value
            colour, shape = COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]
            ax.scatter(X[rows, 0], X[rows, 1], c=colour, marker=shape, label=str(value), **style)
    else:
        # Rows without a number stay in the picture, in white.
        scale = colormaps["viridis"].with_extremes(bad="white")
        return ax.scatter(X[:, 0], X[:, 1], c=values, cmap=scale, plotnonfinite=True, **style)
    return None


def draw_key(
    axes: Sequence[Axes], scale: PathCollection | None, name: str, *, left: bool = False
) -> None:
    """Say what the colours mean: beside all axes for numbers, beside the last of them for classes.

    Parameters
    ----------
    axes : sequence of matplotlib.axes.Axes
    scale : PathCollection or None
        From :func:`draw_points`.
    name : str
        Of the values, may be empty.
    left : bool, default False
        Whether classes are told on the left, beyond the labels of the axis.
    """
    if scale is not None:
        axes[-1].figure.colorbar(scale, ax=axes, fraction=0.045, pad=0.02, label=name)
    elif axes[-1].get_legend_handles_labels()[1]:
        style: dict[str, Any] = {
            "fontsize": "small",
            "handletextpad": 0.3,
            "borderpad": 0.3,
            "frameon": False,
        }
        ax = axes[-1]
        if left:  # in points, so that it clears the labels at any size
            style |= {"loc": "upper right", "bbox_to_anchor": (0.0, 1.0)}
            style["bbox_transform"] = offset_copy(
                ax.transAxes, ax.get_figure(root=True), -58.0, units="points"
            )
        else:
            style |= {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)}
        ax.legend(title=name or None, **style)
