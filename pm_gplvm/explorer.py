"""A fit to move about in: a widget in Jupyter, or a page that needs nothing but a browser."""

import base64
import html
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex
from scipy.spatial.distance import pdist, squareform

from pm_gplvm.agreement import neighbour_probabilities, positions
from pm_gplvm.checks import count
from pm_gplvm.marks import COLOURS, are_classes, check_image_shape, row_values
from pm_gplvm.plane import plane_of
from pm_gplvm.prediction import predict, relative_uncertainty
from pm_gplvm.processes import evenly_spaced
from pm_gplvm.schema import FEATURE, OBS

__all__ = ["explore"]

_SCRIPT = Path(__file__).with_name("explorer.js")
_MOST_NUMBERS = 600_000  # of the decoded means that a page holds
_SHAPES = ("circle", "square", "triangle", "diamond", "down", "plus")
_KINDS = ("image", "curve", "bars")
_MOST_BARS = 40


def explore(
    fit: xr.DataTree,
    color: Any = None,
    *,
    path: str | Path | None = None,
    image_shape: tuple[int, int] | None = None,
    kind: str | None = None,
    dims: tuple[int, int] | None = None,
    n_neighbors: int = 6,
    grid: int = 60,
    draws: int = 20,
    overwrite: bool = False,
) -> Any:
    """Move over the latent plane and see what the model decodes there, with its uncertainty.

    The pointer (or the arrow keys) leads a cross over the plane of :func:`plot_latent`; beside it
    stands the row that :func:`predict` gives there, and its standard deviation. A click on a point
    (or Enter) shows the data of that row and its nearest rows in X / lengthscale, each with the
    probability that it is among them (:func:`neighbour_probabilities`).

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal` or any with ``X`` and θ, of two or more latent dimensions; after
        :func:`align` in the aligned frame.
    color : str or array_like, shape (N,), optional
        As in :func:`plot_latent`.
    path : path, optional
        Write a page (``.html``) that holds all it needs, instead of a widget. It asks for no
        further package.
    image_shape : (height, width), optional
        For rows of Y that are images, stored line by line.
    kind : {"image", "curve", "bars"}, optional
        How a row is shown: by default an image where ``image_shape`` is given, else bars for up to 40
        features and a curve over more.
    dims : pair of int, optional
        As in :func:`plot_latent`; further dimensions are held at their median.
    n_neighbors : int, default 6
        Rows that count as nearest, and how many are shown.
    grid : int, default 60
        Places along each axis at which the rows are decoded, fewer for tables with many features;
        between them they are interpolated.
    draws : int, default 20
        At most so many draws of the fit are used, evenly spaced.
    overwrite : bool, default False
        Whether what stands at ``path`` may be replaced.

    Returns
    -------
    anywidget.AnyWidget or Path
        The widget, whose traits ``position`` (place of the cross) and ``row`` (number of the row
        chosen) can be read and observed; or the path of the page.

    Warns
    -----
    RuntimeWarning
        If the draws of X stand in frames of their own (:func:`align`).

    Raises
    ------
    ImportError
        If a widget is asked for and anywidget is not installed.
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or an argument is out of range.
    FileExistsError, FileNotFoundError
        If something stands at ``path``, or its folder does not exist.

    Examples
    --------
    >>> import pm_gplvm as gplvm, tempfile, pathlib
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = pathlib.Path(folder) / "digits.html"
    ...     gplvm.explore(best, "label", path=page, image_shape=(8, 8), grid=10).name
    'digits.html'
    """
    plane = plane_of(fit, dims, caller="explore")
    if len(plane.dims) < 2:
        raise ValueError(
            "explore needs two latent dimensions or more, got one. Use plot_latent and "
            "plot_reconstruction, or fit a model with latent_dim=2."
        )
    target = None if path is None else _target(Path(path), overwrite)
    if target is None:
        widget = _widget_class()
    _check(grid, kind, image_shape)
    limits = plane.limits()
    table = fit["observed_data"][fit.attrs["observed"]].transpose(OBS, FEATURE)
    Y = table.to_numpy()
    side = int(min(grid, max(8, np.sqrt(_MOST_NUMBERS / Y.shape[1]))))
    cells = plane.lift(plane.mesh(limits, (side, side)))
    decoded = predict(fit, cells, draws=draws)
    shape = check_image_shape(image_shape, Y.shape[1])
    chosen = kind or ("image" if shape else "bars" if Y.shape[1] <= _MOST_BARS else "curve")
    about = {
        "dims": [f"latent {d}" for d in plane.dims],
        "limits": limits.tolist(),
        "grid": side,
        "points": plane.X.tolist(),
        "names": [str(name) for name in table[OBS].to_numpy()],
        "features": [str(name) for name in table[FEATURE].to_numpy()],
        "kind": chosen,
        "shape": shape,
        "low": float(np.nanmin(Y)),
        "high": float(np.nanmax(Y)),
        "sd_high": float(decoded["sd"].max()),
        **_looks(fit, color, len(Y)),
        **_neighbours(fit, n_neighbors),
    }
    numbers = {
        "mean": decoded["mean"].to_numpy(),
        "sd": decoded["sd"].to_numpy(),
        "uncertainty": np.minimum(relative_uncertainty(fit, cells, draws=draws), 1.0),
        "table": Y,
    }
    content = _Content(about, {n: v.astype("<f4").tobytes() for n, v in numbers.items()})
    if target is None:
        return widget(about=content.about, **content.numbers, position=about["points"][0], row=0)
    return content.write(target)


@dataclass(frozen=True)
class _Content:
    """What the page shows: labels and small numbers, and the large ones as 32-bit floats."""

    about: dict[str, Any]
    numbers: dict[str, bytes]

    def write(self, target: Path) -> Path:
        encoded = {name: base64.b64encode(v).decode() for name, v in self.numbers.items()}
        text = _PAGE.format(
            title=html.escape(target.stem),
            # "</" would end the script, in whatever text it stands.
            about=json.dumps(self.about).replace("</", "<\\/"),
            numbers=json.dumps(encoded),
            script=_SCRIPT.read_text(encoding="utf-8").replace(
                "export default", "const explorer ="
            ),
        )
        # Written beside its place and moved there when whole.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".explore-") as scratch:
            whole = Path(scratch) / target.name
            whole.write_text(text, encoding="utf-8")
            os.replace(whole, target)
        return target


# A stand-in for anywidget's model: what is set is kept, and nobody else is told.
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<script type="module">
const about = {about};
const encoded = {numbers};
{script}
const values = {{ about }};
for (const [name, text] of Object.entries(encoded)) {{
  values[name] = new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}}
const model = {{
  get: (name) => values[name],
  set: (name, value) => {{ values[name] = value; }},
  save_changes: () => {{}},
}};
explorer.render({{ model, el: document.body }});
</script>
</body>
</html>
"""


def _widget_class() -> Any:
    try:
        from pm_gplvm.explorer_widget import Explorer
    except ModuleNotFoundError as error:
        raise ImportError(
            "explore shows a widget by means of anywidget, which is not installed. Call python -m pip install "
            "'pm-gplvm[explore]', or write a page with explore(fit, path='fit.html')."
        ) from error
    return Explorer


def _target(path: Path, overwrite: bool) -> Path:
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {path.name!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist. Make it first.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True or choose another name.")
    return path


def _check(grid: Any, kind: Any, image_shape: Any) -> None:
    count("grid", grid, 4)
    if kind not in (None, *_KINDS):
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}.")
    if kind == "image" and image_shape is None:
        raise ValueError("kind='image' needs image_shape, such as image_shape=(8, 8).")


def _looks(fit: xr.DataTree, color: Any, n_rows: int) -> dict[str, Any]:
    """Colour and shape of every row's point, and what they mean."""
    name = color if isinstance(color, str) else ""
    if color is None:
        plain = {"colours": [COLOURS[0]] * n_rows, "shapes": [_SHAPES[0]] * n_rows}
        return {**plain, "values": None, "legend": [], "scale": None, "color": name}
    values = row_values(fit, color, n_rows)
    classes = are_classes(values)
    shown = [str(v) if classes else f"{v:.3g}" for v in values]
    if not classes:
        scale = colormaps["viridis"].with_extremes(bad="white")
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        colours = [to_hex(c) for c in scale(Normalize(low, high)(np.ma.masked_invalid(values)))]
        stops = ",".join(to_hex(scale(s)) for s in np.linspace(0.0, 1.0, 9))
        key = {"legend": [], "scale": {"low": low, "high": high, "stops": stops}}
        return {
            "colours": colours,
            "shapes": [_SHAPES[0]] * n_rows,
            "values": shown,
            "color": name,
            **key,
        }
    names = [str(c) for c in np.unique(values)]
    looks = {
        c: {"name": c, "fill": COLOURS[i % len(COLOURS)], "shape": _SHAPES[i % len(_SHAPES)]}
        for i, c in enumerate(names)
    }
    return {
        "colours": [looks[v]["fill"] for v in shown],
        "shapes": [looks[v]["shape"] for v in shown],
        "values": shown,
        "legend": list(looks.values()),
        "scale": None,
        "color": name,
    }


def _neighbours(fit: xr.DataTree, n_neighbors: int) -> dict[str, Any]:
    """Each row's nearest rows, the most probable first, equal ones by their mean distance."""
    shares = neighbour_probabilities(fit, n_neighbors).to_numpy()
    Z = positions(fit)
    apart = np.mean([pdist(Z[i]) for i in evenly_spaced(len(Z), 100)], axis=0)
    order = np.lexsort((squareform(apart), -shares), axis=1)[:, :n_neighbors]
    listed = [[[int(j), round(float(shares[i, j]), 3)] for j in row] for i, row in enumerate(order)]
    note = f"probability of being among its {n_neighbors} nearest rows in X / lengthscale:"
    return {"neighbours": listed, "neighbour_note": note}
