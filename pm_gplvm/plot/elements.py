"""Elements that the plots share: the plane of two latent dimensions, points, ellipses, legends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.image import AxesImage
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import FEATURE, Fit
from pm_gplvm.diagnostics.agreement import row_covariances
from pm_gplvm.diagnostics.relevance import dominant

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


# Arguments of the plots


def row_values(read: Fit, color: Any, n_rows: int, *, argument: str = "color") -> NDArray[Any]:
    """Return one value per row: a coordinate of the fit by its name, or the values given."""
    values = read.labels(color) if isinstance(color, str) else np.asarray(color)
    if values.dtype == object and (missing := sum(v is None or v != v for v in values.ravel())):
        raise ValueError(
            f"{argument} must not be missing, got {missing} rows without a value. Give them a class of "
            "their own, such as 'unknown'."
        )
    if values.shape != (n_rows,):
        hint = ""
        if values.shape == (read.group("observed_data").sizes.get(FEATURE),):
            hint = " That is one a feature: if Y was meant the other way round, fit Y.T."
        raise ValueError(
            f"{argument} must have one value a row, {n_rows}, got shape {values.shape}.{hint}"
        )
    return values


def check_image_shape(image_shape: Any, n_features: int) -> tuple[int, int] | None:
    """Return ``image_shape`` as two integers whose product is the number of features, or None."""
    if image_shape is None:
        return None
    shape = tuple(int(n) for n in np.atleast_1d(image_shape))
    if len(shape) != 2 or shape[0] * shape[1] != n_features:
        raise ValueError(
            f"image_shape must be (height, width) with height · width = {n_features}, the number of "
            f"features, got {image_shape}."
        )
    return shape[0], shape[1]


def are_classes(values: NDArray[Any]) -> bool:
    """Whether values are classes (text, or few whole numbers) rather than numbers on a scale."""
    if np.issubdtype(values.dtype, np.floating):
        return False
    n_classes = len(np.unique(values))
    if n_classes > _MOST_CLASSES and not np.issubdtype(values.dtype, np.number):
        raise ValueError(
            f"color must have at most {_MOST_CLASSES} classes, got {n_classes} different texts. Give "
            "numbers, or merge classes."
        )
    return n_classes <= _MOST_CLASSES


# The plane


def limits_of(X: Array, margin: float = 0.08) -> Array:
    """Lower and upper limits, shape (2, Q), that hold all positions X (N, Q) with a margin."""
    low, high = X.min(axis=0), X.max(axis=0)
    reach = margin * np.maximum(high - low, 1e-12)
    return np.stack([low - reach, high + reach])


@dataclass(frozen=True)
class Plane:
    """Two latent dimensions, or the only one; all others are held at the median of the mean positions."""

    draws: Array  # of X, all chains behind each other, (S, N, Q)
    dims: tuple[int, ...]  # horizontal and vertical; one alone where Q = 1

    @property
    def X(self) -> Array:
        """Mean positions in the plane, shape (N, 2), or (N, 1) where Q = 1."""
        return np.asarray(self.draws[:, :, list(self.dims)].mean(axis=0))

    @property
    def varies(self) -> bool:
        """Whether the draws differ."""
        return len(self.draws) > 1 and bool(np.ptp(self.draws, axis=0).max() > 0.0)

    def lift(self, positions: Array) -> Array:
        """Extend positions in the plane to all Q dimensions, shape (M, Q)."""
        whole = np.tile(np.median(self.draws.mean(axis=0), axis=0), (len(positions), 1))
        whole[:, list(self.dims)] = positions
        return whole


def plane_of(read: Fit, dims: Any) -> Plane:
    """Return the plane of ``dims``; by default the first two dimensions, with ARD the most relevant."""
    draws = read.values("X")
    Q = draws.shape[2]
    if Q == 1:
        if dims is not None:
            raise ValueError(f"dims must be left out where latent_dim is 1, got {dims}.")
        return Plane(draws, (0,))
    pair = dominant(read) if dims is None else tuple(dims)
    check_pair(pair, Q, dims)
    return Plane(draws, pair)


def check_pair(pair: Sequence[int], Q: int, given: Any) -> None:
    """Raise unless ``pair`` is two different dimensions of Q."""
    if len(set(pair)) != 2 or not all(0 <= d < Q for d in pair):
        raise ValueError(f"dims must be two different dimensions below {Q}, got {given}.")


def mesh(limits: Array, shape: tuple[int, ...]) -> Array:
    """Centres of a grid of cells within the limits, shape (cells, 1 or 2), the first dimension fastest."""
    axes = [
        low + (np.arange(n) + 0.5) / n * (high - low)
        for low, high, n in zip(*limits, shape, strict=True)
    ]
    return np.stack([a.ravel() for a in np.meshgrid(*axes)], axis=1)


# Artists


def set_limits(ax: Axes, X: Array) -> Array:
    """Set the limits so that all positions (N, 2) lie inside, and return them, shape (2, 2)."""
    limits = limits_of(X)
    ax.set(xlim=limits[:, 0], ylim=limits[:, 1])
    return np.array([ax.get_xlim(), ax.get_ylim()]).T  # wider where all positions are equal


def draw_grid(ax: Axes, limits: Array, values: Array, **style: Any) -> AxesImage:
    """Shade the plane by values at the centres of a square grid of cells, as :func:`mesh` orders them."""
    side = round(np.sqrt(len(values)))
    return ax.imshow(
        values.reshape(side, side),
        extent=(*limits[:, 0], *limits[:, 1]),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        zorder=0,
        **style,
    )


def draw_ellipses(ax: Axes, draws: Array, share: float = 0.68, **style: Any) -> None:
    """Draw about each mean of the draws (S, N, 2) an ellipse that holds this share of a Gaussian."""
    variances, axes = np.linalg.eigh(row_covariances(draws))
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


def draw_points(
    ax: Axes, X: Array, values: NDArray[Any] | None, *, size: float = 24.0
) -> PathCollection | None:
    """Draw positions (N, 2): classes by colour and shape, numbers by a colour scale.

    Returns the points that :func:`draw_legend` needs for a scale; None for classes. The size is an area
    in points².
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
        # Rows without a number stay in the plot, in white.
        scale = colormaps["viridis"].with_extremes(bad="white")
        return ax.scatter(X[:, 0], X[:, 1], c=values, cmap=scale, plotnonfinite=True, **style)
    return None


def draw_legend(
    axes: Sequence[Axes], scale: PathCollection | None, name: str, *, left: bool = False
) -> None:
    """Add a colour bar beside all axes for numbers, or a legend beside the last axes for classes.

    With ``left`` the legend stands on the left, beyond the labels of the axis.
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
