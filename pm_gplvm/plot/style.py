"""Colours of a picture, taken from its axes: those of Matplotlib's style, on light or dark ground."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_hex, to_rgba

RGB = tuple[float, float, float]

# Both cycles are made for the colour-blind; with the shapes they are also told apart in black and white.
# Paul Tol's "muted" (Colour schemes, SRON/EPS/TN/09-002, 2021), and black.
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
# On dark ground: M. Okabe and K. Ito (Color universal design, 2008), their black made white.
COLOURS_ON_DARK = (
    "#56B4E9",
    "#E69F00",
    "#009E73",
    "#F0E442",
    "#CC79A7",
    "#D55E00",
    "#0072B2",
    "#FFFFFF",
)
SHADES = 256
_SCALE = colormaps["viridis"]
# Without the darkest third, which is lost on dark ground.
_SCALE_ON_DARK = ListedColormap(_SCALE(np.linspace(0.35, 1.0, SHADES)), "viridis_on_dark")


@dataclass(frozen=True)
class Style:
    """Ground and ink of a picture, and what follows from them."""

    paper: RGB = (1.0, 1.0, 1.0)
    ink: RGB = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, ax: Axes) -> "Style":
        """Read them off axes; behind a transparent ground stands what the ink is legible on."""
        ink = to_rgba(ax.xaxis.label.get_color())[:3]
        figure: Any = ax.get_figure(root=True)
        for ground in (ax.get_facecolor(), figure.get_facecolor()):
            red, green, blue, alpha = to_rgba(ground)
            if alpha > 0.5:
                return cls((red, green, blue), ink)
        return cls((1.0,) * 3 if _lightness(ink) < 0.5 else (0.0,) * 3, ink)

    @property
    def is_dark(self) -> bool:
        """Whether the ground is dark."""
        return _lightness(self.paper) < 0.5

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours of classes."""
        return COLOURS_ON_DARK if self.is_dark else COLOURS

    @property
    def scale(self) -> Colormap:
        """Colours of numbers."""
        return _SCALE_ON_DARK if self.is_dark else _SCALE

    @property
    def missing(self) -> str:
        """Colour of rows of which nothing is known."""
        return "#6b6b6b" if self.is_dark else "#b8b8b8"

    @property
    def edge(self) -> str:
        """Colour of the edges of points, dark on every ground: it parts points that overlap."""
        return "#000000" if self.is_dark else "#262626"

    @property
    def shades(self) -> Colormap:
        """Shades from the ground to the ink."""
        return LinearSegmentedColormap.from_list("shades", [self.paper, self.ink])

    def grey(self, level: float) -> str:
        """Mix ink (0) and ground (1), as Matplotlib's greys lie between black and white."""
        return to_hex(self.shades(1.0 - level))


LIGHT, DARK = Style(), Style((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _lightness(colour: RGB) -> float:
    """Luma of a colour, 0 to 1 (Rec. 601), as it looks and not as it is lit."""
    return float(np.dot(colour, (0.299, 0.587, 0.114)))
