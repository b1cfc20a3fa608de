"""What colours and shapes say of the rows: classes or numbers, their points and their legend."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.data.arrays import MOST_CLASSES, by_row, classes, datelike, numbers
from pm_gplvm.data.fit import FEATURE, Fit
from pm_gplvm.plot.frame import keep_inside
from pm_gplvm.plot.style import COLOURS, Style

_DATES: Any = dates  # has no annotations

SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
MISSING = "missing"

_MOST_LISTED = 40  # classes in a legend
_LENGTHS = (28, 60, 10**6)  # letters of a class in a legend: the fewest that tell all apart
_LENGTHS_OF_MANY = (16, *_LENGTHS)
_LETTER = 0.075  # inches
# Rows up to which points have their full size, an edge, and are vectors in a PDF.
_LARGE_UP_TO, _EDGES_UP_TO, _VECTORS_UP_TO = 500, 5000, 5000
_SMALLEST = 1.5  # points²
_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


@dataclass(frozen=True)
class Key:
    """Class of each row, or its number on a scale."""

    name: str
    codes: NDArray[np.intp]  # -1 where the row has none; without classes 0 where it has a number
    classes: tuple[str, ...] = ()
    values: Array | None = None  # (N,), NaN where missing; dates in days as Matplotlib counts them
    are_dates: bool = False

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Rows without a class or number."""
        return np.asarray(self.codes < 0)

    def look(
        self, i: int, colours: Sequence[str] = COLOURS, shapes: Sequence[str] = SHAPES
    ) -> tuple[str, str]:
        """Colour and shape of a class; where the colours begin again, they have other shapes."""
        return colours[i % len(colours)], shapes[(i + i // len(COLOURS)) % len(shapes)]

    @property
    def are_many(self) -> bool:
        """Whether a legend has two columns."""
        return len(self.classes) > MOST_CLASSES

    @property
    def listed(self) -> list[tuple[int, str]]:
        """Classes that a legend names, by number, with long names shortened."""
        most = _MOST_LISTED - (len(self.classes) > _MOST_LISTED)
        names = self.classes[:most]
        return list(enumerate(shortened(names, _LENGTHS_OF_MANY if self.are_many else _LENGTHS)))

    @property
    def unlisted(self) -> str:
        """What a legend says of the classes that it does not name."""
        more = len(self.classes) - len(self.listed)
        return f"… and {more} more" if more else ""

    @property
    def breadth(self) -> float:
        """Inches that a legend beside the axes needs beyond one of short names."""
        letters = max((len(name) for _, name in self.listed), default=0)
        return max(0.0, _LETTER * (2 * (letters + 3) if self.are_many else letters - 8))

    @property
    def title(self) -> str:
        """The name, and how many classes share colours where they are many."""
        if not self.are_many:
            return self.name
        note = f"{len(self.classes)} classes: colours\nrepeat with other shapes"
        return f"{self.name}\n{note}" if self.name else note

    def texts(self) -> Iterator[str]:
        """Class or number of each row in words."""
        for row, code in enumerate(self.codes):
            if code < 0:
                yield MISSING
            elif self.values is None:
                yield self.classes[code]
            else:
                yield self.text(float(self.values[row]))

    def text(self, value: float) -> str:
        """Write a number of the scale."""
        if self.are_dates:
            at = _DATES.num2date(value).replace(tzinfo=None)
            return at.isoformat(" ", "minutes").removesuffix(" 00:00")
        return f"{value:.3g}"


def row_values(read: Fit, given: Any, n_rows: int, *, argument: str) -> Any:
    """Return one value per row: a coordinate or column of the fit by its name, or values, joined by label."""
    if isinstance(given, str):
        return read.by_name(argument, given)
    values = by_row(argument, given, read.row_names(n_rows))
    if isinstance(values, pd.DataFrame | xr.DataArray):
        values = values.squeeze(axis=1) if values.shape[1:] == (1,) else values
    try:
        shape = np.shape(values)
    except ValueError:  # lists of unequal length
        shape = (len(values), -1)
    if shape != (n_rows,):
        hint = "Pass a coordinate's name, or an entry for each row of the table, in their order."
        if shape == (read.group("observed_data").sizes.get(FEATURE),):
            hint = "That is one a feature: if Y was meant the other way round, fit Y.T."
        found = f"shape {shape}" if shape and shape[-1] >= 0 else type(given).__name__
        raise ValueError(f"{argument} must have one value a row, {n_rows}, got {found}. {hint}")
    return values


def key_of(read: Fit, color: Any, n_rows: int) -> Key | None:
    """Return what colours say: categories, text, bools and few whole numbers are classes."""
    if color is None:
        return None
    given = row_values(read, color, n_rows, argument="color")
    name = color if isinstance(color, str) else getattr(given, "name", None)
    name = name if isinstance(name, str) else ""
    if isinstance(getattr(given, "dtype", None), pd.CategoricalDtype):
        return _classes(name, given)
    if (at := datelike(given)) is not None:
        return _dates(name, at)
    column = pd.Series(given)
    if np.ma.isMaskedArray(given):
        column = pd.Series(given.data).astype(object).mask(np.ma.getmaskarray(given))
    known = column[column.notna()].tolist()
    kinds = {type(value) for value in known}
    plain = all(issubclass(kind, Real) and not issubclass(kind, bool | np.bool_) for kind in kinds)
    if known and plain:
        few = len(set(known)) <= MOST_CLASSES
        if not (few and all(issubclass(kind, Integral) for kind in kinds)):
            values = numbers("color", given)
            return _scale(name, np.where(np.isfinite(values), values, np.nan))
    return _classes(name, column.astype(object).to_numpy())


def _classes(name: str, given: Any) -> Key:
    found = classes("color", given).remove_unused_categories()
    names = [str(value) for value in found.categories]
    if len(set(names)) < len(names):  # 1 and "1"
        names = [repr(value) for value in found.categories]
    return Key(name, np.asarray(found.codes, dtype=np.intp), tuple(names))


def _scale(name: str, values: Array, *, are_dates: bool = False) -> Key:
    codes = np.where(np.isnan(values), -1, 0)
    if (codes < 0).all():
        return Key(name, codes)
    return Key(name, codes, values=values, are_dates=are_dates)


def _dates(name: str, at: NDArray[Any]) -> Key:
    """Dates as Matplotlib counts them; durations in the largest unit of which there is one."""
    if at.dtype.kind == "M":
        values = np.full(len(at), np.nan)
        known = ~np.isnat(at)
        values[known] = days(at[known])
        return _scale(name, values, are_dates=True)
    seconds = at / np.timedelta64(1, "s")
    longest = np.nanmax(np.abs(seconds), initial=0.0)
    unit, length = next((u for u in _UNITS if longest >= u[1]), _UNITS[-1])
    return _scale(f"{name} ({unit})" if name else unit, seconds / length)


def days(at: NDArray[Any]) -> Array:
    """Return dates in days as Matplotlib counts them."""
    return np.asarray(_DATES.date2num(at), dtype=np.float64)


def date_ticks() -> tuple[Any, Any]:
    """Return a locator and a formatter of dates."""
    locator = _DATES.AutoDateLocator(maxticks=8)
    return locator, _DATES.ConciseDateFormatter(locator)


def shortened(names: Sequence[str], lengths: Sequence[int] = _LENGTHS) -> list[str]:
    """Return long names without their middle or, where they would be alike then, the words that differ."""
    split = [name.split() for name in names]
    plain = [" ".join(name) for name in split]
    head = _shared(split)
    tail = _shared([name[head:][::-1] for name in split])
    words = [f"…{' '.join(name[head : len(name) - tail])}…" for name in split]
    for length in lengths:
        short = [
            name
            if len(name) <= length
            else f"{name[: 2 * length // 3].rstrip()}…{name[-length // 3 :].lstrip()}"
            for name in plain
        ]
        for tried in (short, words):
            if len(set(tried)) == len(set(plain)) and max(map(len, tried), default=0) <= length + 1:
                return tried
    return plain


def _shared(split: Sequence[Sequence[str]]) -> int:
    """Count the words that all begin with."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*split, strict=False)))


def as_text(name: str) -> str:
    """Return text that Matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


def draw_points(
    ax: Axes, X: Array, key: Key | None, *, size: float = 24.0
) -> PathCollection | None:
    """Draw positions (N, 2): classes by colour and shape, numbers by a colour scale, others grey.

    Returns the points that :func:`draw_legend` needs for a scale; None for classes. The size is an area
    in points²; of many rows they are smaller. Rows lie over each other in an order that is random and
    always the same, whatever their classes, those of which nothing is known below.
    """
    N, style = len(X), Style.of(ax)
    look: dict[str, Any] = {
        "s": max(_SMALLEST, size * min(1.0, (_LARGE_UP_TO / N) ** 0.5)),
        "edgecolors": style.edge,
        "linewidths": 0.4 * (N <= _EDGES_UP_TO),
        "rasterized": N > _VECTORS_UP_TO,
        "zorder": 2,
    }
    order = np.random.default_rng(0).permutation(N)

    def draw(rows: NDArray[Any], **more: Any) -> PathCollection:
        return ax.scatter(X[rows, 0], X[rows, 1], **look | more)

    if key is None:
        draw(order, c=style.colours[0])
        return None
    if (rows := key.missing).any():
        draw(rows, c=style.missing, label=MISSING, zorder=1.95)
    order = order[~key.missing[order]]
    if key.values is not None:
        return draw(order, c=key.values[order], cmap=style.scale)
    points = draw(order, c=row_colours(ax, key, N)[order])
    outlines = [_outline(key.look(i)[1]) for i in range(len(key.classes))]
    points.set_paths([outlines[code] for code in key.codes[order]])
    return None


def row_colours(ax: Axes, key: Key | None, n_rows: int) -> Array:
    """Colour of each row's point, as :func:`draw_points` draws it, shape (N, 4)."""
    style = Style.of(ax)
    if key is None:
        return to_rgba_array([style.colours[0]] * n_rows)
    if key.values is not None:
        shades = style.scale(Normalize()(np.ma.masked_invalid(key.values)))
        return np.where(key.missing[:, None], to_rgba_array(style.missing), shades)
    looks = [key.look(i, style.colours)[0] for i in range(len(key.classes))]
    return to_rgba_array([*looks, style.missing])[key.codes]


def _outline(shape: str) -> Path:
    """Path of a marker of area 1."""
    marker = MarkerStyle(shape)
    return marker.get_path().transformed(marker.get_transform())


def draw_legend(
    axes: Sequence[Axes],
    scale: PathCollection | None,
    key: Key | None,
    *,
    left: bool = False,
    bars: Sequence[Axes] = (),
) -> None:
    """Add a colour bar beside all axes for numbers, or a legend beside the last axes for classes.

    With ``left`` the legend stands on the left, beyond the labels of the axis. In a figure without a
    layout engine the axes, and the colour bars that they have, make room.
    """
    if key is not None and scale is not None:
        bars = [*bars, _draw_bar(axes, scale, key)]
    elif key is not None:
        _draw_legend(axes, key, left=left)
    keep_inside([*axes, *bars])


def _draw_legend(axes: Sequence[Axes], key: Key, *, left: bool) -> None:
    ax, figure = axes[-1], axes[-1].get_figure(root=True)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)}
    if left:  # in points, so that it clears the labels at any size
        shift = offset_copy(ax.transAxes, figure, -58.0, units="points")
        place = {"loc": "upper right", "bbox_to_anchor": (0.0, 1.0), "bbox_transform": shift}
    draw_classes(ax, key, **place)


def draw_classes(ax: Axes, key: Key, **place: Any) -> Legend:
    """Add a legend of classes: marks and texts of its own, so that names such as "_x" are shown too."""
    style = Style.of(ax)
    look: dict[str, Any] = {
        "linestyle": "",
        "markersize": 4.6,
        "markeredgewidth": 0.4,
        "markeredgecolor": style.edge,
    }
    entries = []
    for i, name in key.listed:
        colour, shape = key.look(i, style.colours)
        entries.append((Line2D([], [], marker=shape, color=colour, **look), name))
    if key.unlisted:
        entries.append((Line2D([], [], linestyle=""), key.unlisted))
    if key.missing.any():
        entries.append((Line2D([], [], marker="o", color=style.missing, **look), MISSING))
    legend = ax.legend(
        [mark for mark, _ in entries],
        [str(i) for i in range(len(entries))],
        title=as_text(key.title) or None,
        title_fontsize="small" if key.are_many else None,
        fontsize="x-small" if key.are_many else "small",
        labelcolor=style.ink,
        handletextpad=0.3,
        borderpad=0.3,
        frameon=False,
        alignment="left",
        **{"ncols": 1 + key.are_many, "columnspacing": 0.8} | place,
    )
    legend.get_title().set(multialignment="left", color=style.ink)
    for text, (_, name) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(as_text(name))
    return legend


def _draw_bar(axes: Sequence[Axes], scale: PathCollection, key: Key) -> Axes:
    bar = axes[-1].figure.colorbar(scale, ax=axes, fraction=0.045, pad=0.02)
    if key.are_dates:
        bar.locator, bar.formatter = date_ticks()
        bar.update_ticks()
    (name,) = shortened([key.name])
    lines = [as_text(name)] if name else []
    bar.set_label("\n".join([*lines, *([f"grey: {MISSING}"] if key.missing.any() else [])]))
    return bar.ax
