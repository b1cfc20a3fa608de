"""The widget behind ``explore``: anywidget, and what Python and the browser share."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["Explorer"]


class Explorer(anywidget.AnyWidget):
    """A fit to move about in; made by :func:`pm_gplvm.explore`.

    Attributes
    ----------
    position : list of float
        Place of the cross in the latent plane.
    row : int
        Number of the row chosen last.
    """

    _esm = Path(__file__).with_name("explorer.js")

    about: Any = traitlets.Dict().tag(sync=True)
    mean: Any = traitlets.Bytes().tag(sync=True)
    sd: Any = traitlets.Bytes().tag(sync=True)
    uncertainty: Any = traitlets.Bytes().tag(sync=True)
    table: Any = traitlets.Bytes().tag(sync=True)
    position: Any = traitlets.List(traitlets.Float()).tag(sync=True)
    row: Any = traitlets.Int().tag(sync=True)
