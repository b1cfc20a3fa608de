"""A plot of columns over time: the rows of a fit, and what is said of other times."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pm_gplvm.core.checks import checked, interval
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.elements import check_axes, columns_named
from pm_gplvm.plot.style import Style
from pm_gplvm.prediction.steps import continued


@checked
def forecast(
    fit: xr.DataTree,
    ahead: xr.Dataset,
    features: Any = None,
    *,
    sequence: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw columns over time: the rows as points, and of other times the mean with an 89 % band.

    Where a row lies between two of the other times, line and band are broken there.

    Parameters
    ----------
    fit : DataTree
        With :func:`priors.dynamics`, or :func:`priors.transitions`: steps then, the last row of the sequence at 0.
    ahead : Dataset
        What :func:`forecast` says of other times of that fit.
    features : label or list of labels, optional
        Columns; by default the first three.
    sequence : label, optional
        Of the sequence to draw, where ``ahead`` has several.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has another prior of X, ``ahead`` is none of :func:`forecast` of this fit, a column is
        none of its own, or several sequences are to be drawn in one.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> t, rng = np.arange(30) / 5.0, np.random.default_rng(0)
    >>> Y = np.sin(t[:, None] + np.arange(4.0)) + 0.05 * rng.standard_normal((30, 4))
    >>> model = gplvm.build_model(Y, priors={"X": gplvm.priors.dynamics(t)})
    >>> best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    >>> ahead = gplvm.forecast(best, np.arange(30, 36) / 5.0, random_seed=1)
    >>> gplvm.plot.forecast(best, ahead, [0, 1]).get_xlabel()
    'time'
    """
    read = Fit.of(fit, "X", "Y_mean", "Y_scale", caller="plot.forecast")
    paths = continued(read)
    check_axes("ax", ax)
    if not isinstance(ahead, xr.Dataset) or not {"X_mean", "mean", read.observed} <= set(ahead):
        raise TypeError(
            f"ahead must be what forecast(fit, times) returns, got {type(ahead).__name__}. Call it first."
        )
    chosen = columns_named(read, features)
    name = _sequence(ahead, sequence)
    ahead = ahead.isel(obs_new=ahead["sequence"].to_numpy() == name).sortby("time")
    rows = np.array([n == name for n in paths.names])[paths.sequence]
    known, new = paths.moments(paths.t[rows]), ahead["time"].to_numpy()
    unit = ""
    if known.dtype.kind == "m":  # Matplotlib knows no durations
        one = np.timedelta64(1, "s")
        known, new, unit = known / one, new / one, ", s"
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 3.4), layout="constrained")
    style, Y = Style.of(ax), read.Y.to_numpy()
    runs = np.split(
        np.arange(len(new)), np.flatnonzero(np.diff(np.searchsorted(np.sort(known), new))) + 1
    )
    for d, column in enumerate(chosen):
        color = style.colours[d % len(style.colours)]
        low, high = interval(ahead[read.observed].to_numpy()[:, :, column])
        mean = ahead["mean"].to_numpy()[:, column]
        for i, run in enumerate(runs):
            mark = "." if len(run) == 1 else ""
            ax.fill_between(new[run], low[run], high[run], color=color, alpha=0.25, linewidth=0.0)
            label = str(read.features[column]) if i == 0 else None
            ax.plot(new[run], mean[run], marker=mark, color=color, linewidth=1.4, label=label)
        ax.plot(known, Y[rows, column], ".", color=color, markersize=4.0)
    ax.set(xlabel=f"time{unit}", ylabel=f"{read.observed}, 89 % bands")
    if name:
        ax.set_title(name, fontsize="medium")
    ax.legend(
        fontsize="small",
        frameon=False,
        ncols=min(len(chosen), 4),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        labelcolor=style.ink,
    )
    return ax


def _sequence(ahead: xr.Dataset, sequence: Any) -> str:
    """Return the name of the sequence that is drawn."""
    names = list(dict.fromkeys(ahead["sequence"].to_numpy().tolist()))
    name = names[0] if sequence is None else str(sequence)
    if name not in names or (sequence is None and len(names) > 1):
        raise ValueError(
            f"sequence must be one of those in ahead ({', '.join(names)}), got {sequence!r}."
        )
    return str(name)
