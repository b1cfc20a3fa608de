"""The frame of a plane: its limits, what lies outside of them, and the bar that says how long a lengthscale is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D, Bbox
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, counted
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.style import Style

Limits = str | Array

MARGIN = 0.08  # of the length of an axis, at each end

_FEWEST = 10  # rows of which one can be said to lie far off
_MULTIPLES = (1.0, 2.0, 5.0)
_LONGEST = 0.3  # share of an axis that the bar may take
_BESIDE = 0.01  # share of a figure left at its sides
_LEAST_SHARE = 0.3  # of their width, that is left to axes
_TIP = Path([(0.75, 0.0), (-0.45, 0.5), (-0.45, -0.5), (0.75, 0.0)], closed=True)


# Limits


def check_limits(limits: Any, n_dims: int) -> Limits:
    """Return "robust", "all", or the limits given, shape (2, n_dims)."""
    if isinstance(limits, str) and limits in ("robust", "all"):
        return limits
    try:
        given = np.asarray(limits, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        given = np.empty((0, 2))
    if len(given) != n_dims or not (np.isfinite(given).all() and (given[:, 0] < given[:, 1]).all()):
        wanted = {1: ", or (low, high)", 2: ", or ((left, right), (bottom, top))"}.get(n_dims, "")
        raise ValueError(f"limits must be 'robust' or 'all'{wanted}, got {limits!r}.")
    return np.asarray(given.T)


def limits_of(X: Array, margin: float = MARGIN) -> Array:
    """Lower and upper limits, shape (2, Q), that hold all positions X (N, Q) with a margin."""
    low, high = X.min(axis=0), X.max(axis=0)
    reach = margin * np.maximum(high - low, 1e-12)
    return np.stack([low - reach, high + reach])


def frame_of(X: Array, limits: Limits, margin: float = MARGIN) -> tuple[Array, NDArray[np.bool_]]:
    """Limits (2, Q) for positions X (N, Q), and which rows lie outside (N,)."""
    if isinstance(limits, str):
        far = _far(X) if limits == "robust" else np.zeros(len(X), dtype=bool)
        return limits_of(X[~far], margin), far
    return limits, ((limits[0] > X) | (limits[1] < X)).any(axis=1)


def _far(X: Array) -> NDArray[np.bool_]:
    """Which rows (N, Q) lie so far off that the others would have less than a third of an axis.

    At most a fiftieth of the rows at each end of an axis, and one of ten or more: those further from
    the middle ones than twice the length over which these lie.
    """
    N = len(X)
    if N < _FEWEST:
        return np.zeros(N, dtype=bool)
    few = max(1, N // 50)
    low, high = np.partition(X, (few, N - 1 - few), axis=0)[[few, N - 1 - few]]
    reach = 2.0 * (high - low)
    outside = (low - reach > X) | (high + reach < X)
    return np.asarray((outside & (high > low)).any(axis=1))


def set_limits(ax: Axes, limits: Array) -> Array:
    """Set the limits (2, 2) of the axes, and return them."""
    ax.set(xlim=limits[:, 0], ylim=limits[:, 1])
    return np.array([ax.get_xlim(), ax.get_ylim()]).T  # wider where all positions are equal


def draw_outside(ax: Axes, X: Array, far: NDArray[np.bool_], colours: Any) -> None:
    """Mark rows (N, 2) that lie outside the limits by triangles on the border that point to them."""
    if not far.any():
        return
    limits = np.array([ax.get_xlim(), ax.get_ylim()]).T
    centre, half = limits.mean(axis=0), 0.5 * np.ptp(limits, axis=0)
    offset = (X[far] - centre) / half
    across = np.abs(offset[:, 0]) > np.abs(offset[:, 1])
    angles = np.where(
        across, 90.0 - 90.0 * np.sign(offset[:, 0]), 180.0 - 90.0 * np.sign(offset[:, 1])
    )
    at = centre + half * np.clip(offset, -1.0, 1.0)
    marks = ax.scatter(
        at[:, 0],
        at[:, 1],
        c=colours[far],
        s=42.0,
        edgecolors=Style.of(ax).ink,
        linewidths=0.6,
        zorder=5,
        clip_on=False,
    )
    marks.set_paths([_TIP.transformed(Affine2D().rotate_deg(angle)) for angle in angles])


def told_outside(far: NDArray[np.bool_]) -> list[str]:
    """Say how many rows lie outside, in no line or one."""
    n = int(far.sum())
    return [f"▸ {counted(n, 'row')} outside"] if n else []


# The figure


def keep_inside(axes: Sequence[Axes]) -> None:
    """Narrow axes so that they, their labels and legends lie within a figure that has no layout engine."""
    figure: Any = axes[0].get_figure(root=True)
    if figure.get_layout_engine() is not None:
        return
    boxes = [ax.get_tightbbox() for ax in axes]
    taken = Bbox.union([box for box in boxes if box is not None])
    taken = taken.transformed(figure.transFigure.inverted())
    over_left, over_right = max(0.0, _BESIDE - taken.x0), max(0.0, taken.x1 - 1.0 + _BESIDE)
    places = [ax.get_position() for ax in axes]
    first, last = min(place.x0 for place in places), max(place.x1 for place in places)
    share = 1.0 - (over_left + over_right) / (last - first)
    if share == 1.0 or share < _LEAST_SHARE:
        return
    for ax, place in zip(axes, places, strict=True):
        x0 = first + over_left + share * (place.x0 - first)
        ax.set_position((x0, place.y0, share * place.width, place.height))


# Lengthscales


def lengthscales(read: Fit) -> Array | None:
    """Median over the draws of the lengthscale of each latent dimension (Q,); None where there is none."""
    if (unit := read.unit_of_positions()) is None:
        return None
    return np.broadcast_to(np.median(unit, axis=0), read.latent_dim)


def draw_notes(
    ax: Axes, X: Array, units: Sequence[float | None] = (None, None), lines: Sequence[str] = ()
) -> None:
    """Add bars as long as lengthscales along the axes, and lines of text, in the emptiest corner.

    ``units`` are the lengthscales across and upwards, None where there is no bar.
    """
    style = Style.of(ax)
    limits = np.array([ax.get_xlim(), ax.get_ylim()]).T
    lengths = np.ptp(limits, axis=0)
    shares = [None if u is None else float(u / d) for u, d in zip(units, lengths, strict=True)]
    bars = _multiples(shares)
    text = "\n".join([*lines, *_told(bars)])
    if not text:
        return
    right, top = _emptiest((X - limits[0]) / lengths)
    corner = np.array([0.965 if right else 0.035, 0.955 if top else 0.045])
    inward = np.array([-1.0 if right else 1.0, -1.0 if top else 1.0])
    reach = [m * share if m and share else 0.0 for m, share in zip(bars, shares, strict=True)]
    ends = corner + inward * reach
    halo = [withStroke(linewidth=2.4, foreground=style.paper, alpha=0.8)]
    ax.plot(
        [ends[0], corner[0], corner[0]],
        [corner[1], corner[1], ends[1]],
        transform=ax.transAxes,
        color=style.ink,
        linewidth=1.2,
        solid_joinstyle="miter",
        path_effects=halo,
        zorder=4,
        label="_lengthscale",
    )
    shift = 4.0 * inward
    note = ax.annotate(
        text,
        tuple(corner),
        tuple(shift),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if top else "bottom",
        fontsize="x-small",
        color=style.ink,
        path_effects=halo,
        zorder=4,
    )
    note.set_in_layout(False)


def _multiples(shares: Sequence[float | None]) -> list[float | None]:
    """How many lengthscales each bar is long, the same number where that leaves the shorter one visible."""
    found = [None if share is None else _multiple(share) for share in shares]
    known = [m for m in found if m is not None]
    both = min(known, default=1.0)
    if all(share is None or share * both >= _LONGEST / 10.0 for share in shares):
        return [None if m is None else both for m in found]
    return found


def _multiple(share: float) -> float:
    """How many lengthscales a bar is long: one, or a round number that brings it to a visible length."""
    if _LONGEST / 10.0 <= share <= _LONGEST:
        return 1.0
    most = _LONGEST / share
    tens = 10.0 ** np.floor(np.log10(most))
    return float(max(m * tens for m in _MULTIPLES if m * tens <= most))


def _told(bars: Sequence[float | None]) -> list[str]:
    known = [m for m in bars if m is not None]
    if not known:
        return []
    if len(set(known)) == 1:
        return [f"{known[0]:g} lengthscale{'s' * (known[0] != 1.0)}"]
    return [f"{known[0]:g} lengthscales across, {known[1]:g} upwards"]


def _emptiest(places: Array) -> tuple[bool, bool]:
    """Which corner has the fewest of the positions (N, 2), in shares of the axes: right, top."""
    across, up = places.T

    def rows_near(corner: tuple[bool, bool]) -> int:
        right, top = corner
        near = (across > 0.65) if right else (across < 0.35)
        near &= (up > 0.8) if top else (up < 0.2)
        return int(near.sum())

    return min(((True, False), (False, False), (True, True), (False, True)), key=rows_near)
