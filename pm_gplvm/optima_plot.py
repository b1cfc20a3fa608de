"""Where the starts of an optimiser ended: Matplotlib axes in, Matplotlib axes out."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pm_gplvm.marks import COLOURS, SHAPES
from pm_gplvm.modes import group_optima
from pm_gplvm.schema import require_fit

__all__ = ["plot_optima"]


def plot_optima(fit: xr.DataTree, *, same: float = 0.01, axes: Any = None) -> NDArray[Any]:
    """Draw where the starts of a fit ended, and which of them found the same embedding.

    On the left the objective of each start, the best first, as its distance below the best; starts
    of one embedding share a shape and a letter, and those that did not converge are hollow. On
    the right how far the embeddings of any two starts are apart: the share of the variance that is
    left after centring, scaling and turning one onto the other, in units of the lengthscale.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal` or :func:`fit_map`, or another fit by an optimiser.
    same : float, default 0.01
        Two starts found the same embedding if at most this share is left.
    axes : sequence of two matplotlib.axes.Axes, optional

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (2,)

    Raises
    ------
    TypeError, ValueError
        If ``fit`` does not hold where its starts ended, or an argument is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, n_restarts=2, random_seed=1, progressbar=False)
    >>> axes = gplvm.plot_optima(best)
    >>> axes[0].get_ylabel()
    'objective below the best'
    """
    ends = group_optima(require_fit(fit, caller="plot_optima"), same)
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
    panels = np.asarray(axes, dtype=object).ravel()
    if len(panels) != 2:
        raise ValueError(f"axes must be two, got {len(panels)}.")
    objective, group = ends["objective"].to_numpy(), ends["embedding"].to_numpy()
    place, below = np.arange(len(objective)), objective[0] - objective
    for i in np.unique(group):
        colour, shape = COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]
        of = (group == i) & ends["converged"].to_numpy()
        open_ = (group == i) & ~ends["converged"].to_numpy()
        style: dict[str, Any] = {"marker": shape, "edgecolors": colour, "s": 42.0, "zorder": 2}
        panels[0].scatter(place[of], below[of], facecolors=colour, label=_letter(i), **style)
        panels[0].scatter(place[open_], below[open_], facecolors="none", **style)
    for at, height, i in zip(place, below, group, strict=True):
        panels[0].annotate(
            _letter(i), (at, height), (5, 3), textcoords="offset points", fontsize="small"
        )
    panels[0].set(xlabel="start, the best first", ylabel="objective below the best")
    panels[0].set_title(f"objective of the best: {objective[0]:.6g}", fontsize="medium")
    panels[0].set_xticks(place, [str(i) for i in ends["start"].to_numpy()])
    panels[0].invert_yaxis()
    panels[0].margins(0.12)
    if not ends["converged"].all():
        panels[0].plot([], [], "o", color="none", markeredgecolor="0.2", label="not converged")
        panels[0].legend(handles=panels[0].lines, fontsize="small", frameon=False)
    _matrix(panels[1], ends, group)
    return panels


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else str(i)


def _matrix(ax: Any, ends: xr.Dataset, group: NDArray[Any]) -> None:
    distance = ends["distance"].to_numpy()
    top = max(float(distance.max()), 1e-3)
    picture = ax.imshow(distance, cmap="cividis", vmin=0.0, vmax=top)
    names = [f"{i} {_letter(g)}" for i, g in zip(ends["start"].to_numpy(), group, strict=True)]
    ax.set_xticks(np.arange(len(names)), names, rotation=90)
    ax.set_yticks(np.arange(len(names)), names)
    if len(names) <= 8:
        for i, j in np.ndindex(*distance.shape):
            shade = "white" if distance[i, j] < 0.5 * top else "black"
            ax.text(j, i, f"{distance[i, j]:.2g}", ha="center", va="center", color=shade, size=7)
    ax.set(xlabel="start, embedding")
    bar = ax.figure.colorbar(picture, ax=ax, fraction=0.05, pad=0.03)
    bar.set_label("share of variance\nleft after turning")
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
