"""Interactive view of a fit: a widget in Jupyter, or an HTML page that needs only a browser."""

import base64
import html
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize, to_hex
from scipy.spatial.distance import pdist, squareform

from pm_gplvm.core.checks import as_path, check_target, checked, count
from pm_gplvm.data.fit import FEATURE, OBS, Fit, stacked
from pm_gplvm.diagnostics.agreement import neighbour_probabilities
from pm_gplvm.plot.colours import MISSING, Key, key_of
from pm_gplvm.plot.elements import Plane, check_image_shape, mesh, plane_of
from pm_gplvm.plot.frame import check_limits, frame_of
from pm_gplvm.plot.style import DARK, LIGHT, SHADES, Style
from pm_gplvm.prediction.located import latent_alone
from pm_gplvm.prediction.predict import predict, relative_uncertainty

_SCRIPT = Path(__file__).with_name("explorer.js")
_MOST_NUMBERS = 600_000  # decoded means in a page
_SHAPES = ("circle", "square", "triangle", "diamond", "down", "plus")
_KINDS = ("image", "curve", "bars")
_MOST_BARS = 40
_MOST_ELLIPSES = 1000


@checked
def explore(
    fit: xr.DataTree,
    color: Any = None,
    *,
    path: str | Path | None = None,
    image_shape: tuple[int, int] | None = None,
    kind: str | None = None,
    dims: tuple[int, int] | None = None,
    limits: Any = "robust",
    n_neighbors: int = 6,
    grid: int = 60,
    num_samples: int = 20,
    overwrite: bool = False,
) -> Any:
    """Explore the latent plane: see what the model decodes at each position, with its uncertainty.

    The pointer (or the arrow keys) moves a cross over the plane of :func:`plot.latent`. Beside it are
    the row that :func:`predict` gives there and its standard deviation. A click on a point (or Enter)
    shows the data of that row and its nearest rows in X / lengthscale, each with the probability that
    it is among them (:func:`diagnostics.neighbour_probabilities`). Ellipses show how sure positions are,
    as in :func:`plot.latent`, of tables of up to 1000 rows. Light or dark is what the theme of JupyterLab or
    of the documentation is, or else what the browser prefers.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal` or any with ``X`` and θ, of two or more latent dimensions; after
        :func:`align` in the aligned frame.
    color : str or array_like, shape (N,), optional
        As in :func:`plot.latent`.
    path : path, optional
        Write a self-contained page (``.html``) instead of making a widget. It needs no further
        package.
    image_shape : (height, width), optional
        For rows of Y that are images, stored line by line.
    kind : {"image", "curve", "bars"}, optional
        How a row is shown. By default an image where ``image_shape`` is given, else bars for up to
        40 features and a curve for more.
    dims : pair of int, optional
        As in :func:`plot.latent`; further dimensions are held at their median.
    limits : {"robust", "all"} or ((left, right), (bottom, top)), default "robust"
        As in :func:`plot.latent`; rows outside stand on the border.
    n_neighbors : int, default 6
        Rows that count as nearest, and how many are shown; of few rows all others at most.
    grid : int, default 60
        Positions along each axis at which rows are decoded, fewer for tables with many features.
        Between them rows are interpolated.
    num_samples : int, default 20
        Number of draws of the fit used at most, evenly spaced.
    overwrite : bool, default False
        Whether an existing file may be replaced.

    Returns
    -------
    anywidget.AnyWidget or Path
        The widget, whose traits ``position`` (of the cross) and ``row`` (number of the row chosen)
        can be read and observed; or the path of the page.

    Warns
    -----
    RuntimeWarning
        If the draws of X are not aligned (:func:`align`).

    Raises
    ------
    ImportError
        If a widget is asked for and anywidget is not installed.
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or an argument is out of range.
    FileExistsError, FileNotFoundError
        If ``path`` exists, or its folder does not.

    Examples
    --------
    >>> import pm_gplvm as gplvm, tempfile, pathlib
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = pathlib.Path(folder) / "digits.html"
    ...     gplvm.plot.explore(best, "label", path=page, image_shape=(8, 8), grid=10).name
    'digits.html'
    """
    count("grid", grid, 4)
    read = Fit.of(fit, "X", caller="plot.explore")
    plane = plane_of(read, dims)
    if len(plane.dims) < 2:
        raise ValueError(
            "plot.explore needs two latent dimensions or more, got one. Use plot.latent and "
            "plot.reconstruction, or fit a model with latent_dim=2."
        )
    target = None if path is None else _checked_target(path, overwrite)
    if target is None:
        widget = _widget_class()
    if kind not in (None, *_KINDS):
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}.")
    if kind == "image" and image_shape is None:
        raise ValueError("kind='image' needs image_shape, such as image_shape=(8, 8).")
    bounds, far = frame_of(plane.X, check_limits(limits, 2))
    table = read.Y.transpose(OBS, FEATURE)
    Y = table.to_numpy()
    side = int(min(grid, max(8, np.sqrt(_MOST_NUMBERS / Y.shape[1]))))
    cells = plane.lift(mesh(bounds, (side, side)))
    decoded = predict(fit, cells, num_samples=num_samples, **latent_alone(fit))
    shape = check_image_shape(image_shape, Y.shape[1])
    about = {
        "dims": [f"latent {d}" for d in plane.dims],
        "limits": bounds.tolist(),
        "outside": int(far.sum()),
        "grid": side,
        "points": plane.X.tolist(),
        "ellipses": _ellipses(plane),
        "names": [str(name) for name in table[OBS].to_numpy()],
        "features": [str(name) for name in table[FEATURE].to_numpy()],
        "kind": kind or ("image" if shape else "bars" if Y.shape[1] <= _MOST_BARS else "curve"),
        "shape": shape,
        "low": float(np.nanmin(Y)),
        "high": float(np.nanmax(Y)),
        "sd_high": float(decoded["sd"].max()),
        **_point_styles(read, color, len(Y)),
        **_neighbours(read, n_neighbors),
    }
    numbers = {
        "mean": decoded["mean"].to_numpy(),
        "sd": decoded["sd"].to_numpy(),
        "uncertainty": np.minimum(relative_uncertainty(fit, cells, num_samples=num_samples), 1.0),
        "table": Y,
    }
    encoded = {name: values.astype("<f4").tobytes() for name, values in numbers.items()}
    if target is None:
        return widget(about=about, **encoded, position=about["points"][0], row=0)
    return _write_page(target, about, encoded)


def _ellipses(plane: Plane, share: float = 0.68) -> list[list[float]]:
    """Matrices that make of a unit circle the ellipse of each row, column by column; none where nothing varies."""
    N = len(plane.X)
    if not plane.varies or N > _MOST_ELLIPSES:
        return []
    variances, axes = np.linalg.eigh(plane.covariances(np.arange(N)))
    radii = np.sqrt(-2.0 * np.log(1.0 - share) * np.maximum(variances, 0.0))
    return (axes * radii[:, None]).transpose(0, 2, 1).reshape(N, 4).tolist()


def _point_styles(read: Fit, color: Any, n_rows: int) -> dict[str, Any]:
    """Shape, value and colour of each row's point, and the legend; colours are numbers in two palettes."""
    key = key_of(read, color, n_rows)
    plain: dict[str, Any] = {
        "palettes": _palettes(key),
        "colours": [0] * n_rows,
        "shapes": [_SHAPES[0]] * n_rows,
        "values": None,
        "legend": [],
        "scale": None,
        "color": "",
    }
    if key is None:
        return plain
    last = len(plain["palettes"]["light"]) - 1
    styles = plain | {"values": list(key.texts()), "color": key.title.replace("\n", ", ")}
    unknown = [{"name": MISSING, "colour": last, "shape": _SHAPES[0]}] if key.missing.any() else []
    if key.values is not None:
        low, high = float(np.nanmin(key.values)), float(np.nanmax(key.values))
        shares = Normalize(low, high)(np.nan_to_num(key.values, nan=low))
        shades = np.asarray(np.minimum(shares * SHADES, SHADES - 1), dtype=int)
        return styles | {
            "colours": np.where(key.missing, last, shades).tolist(),
            "legend": unknown,
            "scale": {"low": low, "high": high, "ends": [key.text(low), key.text(high)]},
        }
    shapes = [key.look(i, shapes=_SHAPES)[1] for i in range(len(key.classes))] + [_SHAPES[0]]
    more = [{"name": key.unlisted, "colour": last, "shape": ""}] if key.unlisted else []
    return styles | {
        "colours": [code if code >= 0 else last for code in key.codes.tolist()],
        "shapes": [shapes[code] for code in key.codes],
        "legend": [{"name": name, "colour": i, "shape": shapes[i]} for i, name in key.listed]
        + more
        + unknown,
    }


def _palettes(key: Key | None) -> dict[str, list[str]]:
    """Colours of what a key tells apart, on light and on dark ground; the last is that of missing rows."""

    def colours(style: Style) -> list[str]:
        if key is None:
            return [style.colours[0], style.missing]
        if key.values is not None:
            return [*(to_hex(style.scale(i / (SHADES - 1))) for i in range(SHADES)), style.missing]
        looks = [key.look(i, style.colours)[0] for i in range(len(key.classes))]
        return [*looks, style.missing]

    return {"light": colours(LIGHT), "dark": colours(DARK)}


def _neighbours(read: Fit, n_neighbors: int) -> dict[str, Any]:
    """Return each row's nearest rows, the most probable first, ties by their mean distance."""
    Z = stacked(read.positions_for_distances())
    n_neighbors = min(n_neighbors, Z.shape[1] - 1)
    shares = neighbour_probabilities(read.tree, n_neighbors=n_neighbors).to_numpy()
    distance = np.mean([pdist(Z[i]) for i in read.evenly_spaced(100)], axis=0)
    order = np.lexsort((squareform(distance), -shares), axis=1)[:, :n_neighbors]
    listed = [[[int(j), round(float(shares[i, j]), 3)] for j in row] for i, row in enumerate(order)]
    note = f"probability of being among its {n_neighbors} nearest rows in X / lengthscale:"
    return {"neighbours": listed, "neighbour_note": note}


@cache
def _widget_class() -> Any:
    """Define the widget here, as anywidget is an optional dependency."""
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise ImportError(
            "explore shows a widget by means of anywidget, which is not installed. Call python -m pip install "
            "'pm-gplvm[explore]', or write a page with explore(fit, path='fit.html')."
        ) from error

    class Explorer(anywidget.AnyWidget):
        """A fit to explore: ``position`` of the cross, and the ``row`` chosen last."""

        _esm = _SCRIPT
        about: Any = traitlets.Dict().tag(sync=True)
        mean: Any = traitlets.Bytes().tag(sync=True)
        sd: Any = traitlets.Bytes().tag(sync=True)
        uncertainty: Any = traitlets.Bytes().tag(sync=True)
        table: Any = traitlets.Bytes().tag(sync=True)
        position: Any = traitlets.List(traitlets.Float()).tag(sync=True)
        row: Any = traitlets.Int().tag(sync=True)

    return Explorer


def _checked_target(path: Any, overwrite: bool) -> Path:
    target = as_path("path", path, (".html", ".htm"))
    check_target(target, overwrite=overwrite)
    return target


def _write_page(target: Path, about: dict[str, Any], numbers: dict[str, bytes]) -> Path:
    script = _SCRIPT.read_text(encoding="utf-8").replace("export default", "const explorer =")
    text = _PAGE.format(
        title=html.escape(target.stem),
        about=json.dumps(about).replace("</", "<\\/"),  # "</" in a label would end the script
        numbers=json.dumps({name: base64.b64encode(v).decode() for name, v in numbers.items()}),
        script=script,
    )
    # Written in a folder beside the target and moved when complete.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".explore-") as scratch:
        complete = Path(scratch) / target.name
        complete.write_text(text, encoding="utf-8")
        os.replace(complete, target)
    return target


# The page has a stand-in for anywidget's model, which keeps what is set and tells nobody.
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>{title}</title></head>
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
