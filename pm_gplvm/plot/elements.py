"""Elements that the plots share: checks of arguments, the plane of two latent dimensions, ellipses."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from scipy.special import ndtri

from pm_gplvm.core.checks import INTERVAL, Array, interval
from pm_gplvm.core.procrustes import unrolled, wrapped
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.agreement import row_covariances
from pm_gplvm.diagnostics.relevance import dominant
from pm_gplvm.plot.style import Style

_FINEST = 1e4  # cells along an axis

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


@dataclass(frozen=True)
class Plane:
    """Two latent dimensions, or the only one; all others are held at the median of the mean positions."""

    draws: Array  # of X, all chains behind each other, (S, N, Q)
    dims: tuple[int, ...]  # horizontal and vertical; one alone where Q = 1
    q: tuple[Array, Array] | None = None  # mean and sd of q(X), each (N, Q), where that is known
    angles: tuple[int, ...] = ()  # dimensions of period 2π

    @cached_property
    def means(self) -> Array:
        """Mean positions in all dimensions, shape (N, Q)."""
        means = self.draws.mean(axis=0) if self.q is None else self.q[0].copy()
        own = list(self.angles)
        means[:, own] = wrapped(means[:, own])
        return means

    @property
    def X(self) -> Array:
        """Mean positions in the plane, shape (N, 2), or (N, 1) where Q = 1."""
        return np.asarray(self.means[:, list(self.dims)])

    @property
    def turning(self) -> list[int]:
        """Which axes of the plane are angles."""
        return [i for i, dim in enumerate(self.dims) if dim in self.angles]

    @cached_property
    def varies(self) -> bool:
        """Whether the posterior of X is more than one position a row."""
        spread = len(self.draws) > 1 and bool(np.ptp(self.draws, axis=0).max() > 0.0)
        return self.q is not None or spread

    def covariances(self, rows: NDArray[np.intp]) -> Array:
        """Posterior covariance of the positions of some rows in the plane, (rows, 2, 2)."""
        dims = list(self.dims)
        if self.q is not None:
            return np.asarray(self.q[1][rows][:, dims, None] ** 2 * np.eye(len(dims)))
        return row_covariances(self.draws[:, rows][:, :, dims])

    def interval(self) -> Array:
        """Compute the ends (2, N) of the 89 % interval of the only dimension."""
        if self.q is None:
            return interval(self.draws[:, :, 0])
        mean, sd = (part[:, 0] for part in self.q)
        return mean + ndtri(INTERVAL)[:, None] * sd

    def lift(self, positions: Array) -> Array:
        """Extend positions in the plane to all Q dimensions, shape (M, Q)."""
        whole = np.tile(np.median(self.means, axis=0), (len(positions), 1))
        whole[:, list(self.dims)] = positions
        return whole


def plane_of(read: Fit, dims: Any) -> Plane:
    """Return the plane of ``dims``; by default the first two dimensions, with ARD the most relevant."""
    angles = tuple(read.angles)
    draws = unrolled(read.pooled().values("X"), angles)
    Q = draws.shape[2]
    if Q == 1:
        if dims is not None:
            raise ValueError(f"dims must be left out where latent_dim is 1, got {dims}.")
        return Plane(draws, (0,), q_of(read), angles)
    chosen = dominant(read) if dims is None else check_pair(dims, Q)
    return Plane(draws, chosen, q_of(read), angles)


def q_of(read: Fit) -> tuple[Array, Array] | None:
    """Mean and sd of q(X) of a variational fit, in whose frame its draws stand, each (N, Q)."""
    known = read.group("approximation")
    if "X_sd" not in known or read.is_aligned:
        return None
    return known["X_mean"].to_numpy(), known["X_sd"].to_numpy()


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


def label_angles(ax: Axes, axes: Sequence[int]) -> None:
    """Tick axes (0: horizontal, 1: vertical) that are angles in quarters of the period."""
    ticks = np.pi * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    for i in axes:
        axis = (ax.xaxis, ax.yaxis)[i]
        axis.set_ticks(ticks, ["-π", "-π/2", "0", "π/2", "π"])


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


def draw_ellipses(
    ax: Axes, mean: Array, covariances: Array, share: float = 0.68, **style: Any
) -> None:
    """Draw about each mean (N, 2) an ellipse that holds this share of a Gaussian with a covariance (N, 2, 2)."""
    variances, axes = np.linalg.eigh(covariances)
    radius = np.sqrt(-2.0 * np.log(1.0 - share))
    widths = 2.0 * radius * np.sqrt(np.maximum(variances, 0.0))
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    look = {
        "facecolors": "none",
        "edgecolors": Style.of(ax).grey(0.35),
        "linewidths": 0.5,
        "zorder": 1,
    }
    ellipses = EllipseCollection(
        widths[:, 1],
        widths[:, 0],
        angles,
        units="xy",
        offsets=mean,
        offset_transform=ax.transData,
        **look | style,
    )
    ax.add_collection(ellipses, autolim=False)


def spread_rows(X: Array, n: int) -> NDArray[np.intp]:
    """Choose at most n rows that cover the positions X (N, Q): one of each cell of a lattice.

    All where there are no more. Cells are as small as the number allows.
    """
    if len(X) <= n:
        return np.arange(len(X))
    order = np.random.default_rng(0).permutation(len(X))
    unit = (X - X.min(axis=0)) / max(float(np.ptp(X, axis=0).max()), 1e-300)
    chosen = order[:1]
    side = 1.0
    while True:
        side *= 1.4
        cells = np.floor(unit[order] * side).astype(np.int64)
        mixed = cells @ (int(side) + 2) ** np.arange(X.shape[1])
        _, first = np.unique(mixed, return_index=True)
        if len(first) > n or side > _FINEST:
            break
        chosen = order[first]
    more = np.setdiff1d(order, chosen, assume_unique=True)[: n - len(chosen)]
    return np.sort(np.concatenate([chosen, more]))


_FIRST = 3  # columns by default


def columns_named(read: Fit, features: Any) -> list[int]:
    """Positions of the columns with these labels; by default the first three."""
    labels = [str(label) for label in read.features]
    if features is None:
        return list(range(min(_FIRST, len(labels))))
    wanted = [features] if isinstance(features, str) or np.ndim(features) == 0 else list(features)
    if unknown := [label for label in wanted if str(label) not in labels]:
        raise ValueError(
            f"features must name columns of the table, got {unknown[0]!r}. It has {', '.join(labels[:5])}"
            f"{', …' if len(labels) > 5 else ''}."
        )
    return [labels.index(str(label)) for label in wanted]
