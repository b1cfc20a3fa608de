"""Elements that the plots share: checks of arguments, the plane of two latent dimensions, ellipses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.image import AxesImage

from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.agreement import row_covariances
from pm_gplvm.diagnostics.relevance import dominant

# Arguments of the plots


def check_axes(name: str, given: Any) -> None:
    """Raise TypeError unless ``given`` is axes of Matplotlib, or None for new ones."""
    if given is not None and not isinstance(given, Axes):
        raise TypeError(
            f"{name} must be axes of Matplotlib, such as plt.subplots()[1], or left out for new ones, got "
            f"{type(given).__name__}."
        )


def check_image_shape(image_shape: Any, n_features: int) -> tuple[int, int] | None:
    """Return ``image_shape`` as two integers whose product is the number of features, or None."""
    if image_shape is None:
        return None
    given = np.atleast_1d(np.asarray(image_shape, dtype=object)).tolist()
    shape = tuple(n for n in given if isinstance(n, int | np.integer) and not isinstance(n, bool))
    if len(given) != 2 or len(shape) != 2 or shape[0] * shape[1] != n_features or min(shape) < 1:
        raise ValueError(
            f"image_shape must be (height, width) with height · width = {n_features}, the number of "
            f"features, got {image_shape}."
        )
    return int(shape[0]), int(shape[1])


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
    return Plane(draws, dominant(read) if dims is None else check_pair(dims, Q))


def check_pair(given: Any, Q: int) -> tuple[int, int]:
    """Return two different dimensions of Q."""
    pair: list[Any] = [given] if isinstance(given, str) else np.atleast_1d(given).ravel().tolist()
    whole = all(isinstance(d, int) and not isinstance(d, bool) and 0 <= d < Q for d in pair)
    if not whole or len(pair) != 2 or pair[0] == pair[1]:
        raise ValueError(f"dims must be two different dimensions below {Q}, got {given!r}.")
    return pair[0], pair[1]


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
