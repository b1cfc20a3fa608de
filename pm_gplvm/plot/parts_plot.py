"""A plot of what known inputs do to the columns."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pm_gplvm.core.checks import checked
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.inputs import Input
from pm_gplvm.plot.elements import columns_named
from pm_gplvm.plot.style import Style
from pm_gplvm.prediction.predict import predict

_WIDTH = 1.6  # standard deviations of 89 %
_POINTS = 60  # of a curve


@checked
def parts(
    fit: xr.DataTree, features: Any = None, *, num_samples: int = 100, axes: Any = None
) -> Any:
    """Draw what each input does to some columns, with 89 % intervals: a curve of a number, offsets of classes.

    Each is a part of the function by itself, as :func:`predict` gives it with ``parts=True``, in the units of Y.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model` with ``inputs``.
    features : label or list of labels, optional
        Columns; by default the first three.
    num_samples : int, default 100
        At most so many draws are used, evenly spaced.
    axes : array_like of matplotlib.axes.Axes, optional
        One for each input.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes, one for each input

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is of a model without inputs, or a column or the axes are none of its own.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model(Y, inputs={"batch": ["first", "second"] * 10})
    >>> best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    >>> [ax.get_xlabel() for ax in gplvm.plot.parts(best, ["pixel_2_4"])]
    ['batch']
    """
    read = Fit.of(fit, "X", "Y_mean", "Y_scale", caller="plot.parts")
    if (known := read.inputs) is None:
        raise ValueError(
            "plot.parts needs a fit of a model with inputs, got one without. Build it by build_model(Y, inputs=...)."
        )
    chosen = columns_named(read, features)
    n = len(known.each)
    if axes is None:
        _, axes = plt.subplots(1, n, figsize=(3.6 * n, 3.2), layout="constrained", squeeze=False)
    flat = np.ravel(np.asarray(axes, dtype=object))
    if len(flat) != n or not all(isinstance(ax, Axes) for ax in flat):
        raise ValueError(
            f"axes must be {n} of Matplotlib's Axes, one for each input, got {axes!r}."
        )
    for each, ax in zip(known.each, flat, strict=True):
        others = [name for name in known.parts if name != each.name]
        values = _values(read, each)
        at = np.zeros((len(values), read.latent_dim))
        found = predict(
            fit, at, inputs={each.name: values}, without=others, num_samples=num_samples
        )
        mean, sd = (found[name].to_numpy()[:, chosen] for name in ("mean", "sd"))
        _draw(ax, each, values, mean, _WIDTH * sd, [str(read.features[d]) for d in chosen])
        ax.set(xlabel=each.name)
    flat[0].set_ylabel(f"part of {read.observed}, 89 % intervals")
    style = Style.of(flat[0])
    flat[0].legend(fontsize="small", frameon=False, labelcolor=style.ink)
    return flat


def _values(read: Fit, each: Input) -> Any:
    """Values of an input at which its part is drawn: over the range of the rows, or all classes."""
    if each.classes is not None:
        return list(each.classes)
    known = read.inputs
    if known is None:
        raise ValueError("no inputs")
    own = known.values[:, each.columns] * known.scale[each.columns] + known.mean[each.columns]
    return np.linspace(own.min(), own.max(), _POINTS)


def _draw(ax: Axes, each: Input, values: Any, mean: Any, half: Any, names: list[str]) -> None:
    style, D = Style.of(ax), len(names)
    for d, name in enumerate(names):
        color = style.colours[d % len(style.colours)]
        if each.classes is None:
            low, high = mean[:, d] - half[:, d], mean[:, d] + half[:, d]
            ax.fill_between(values, low, high, color=color, alpha=0.25, linewidth=0.0)
            ax.plot(values, mean[:, d], color=color, linewidth=1.4, label=name)
            continue
        at = np.arange(len(values)) + 0.5 * (d - 0.5 * (D - 1)) / max(D, 2)
        ax.errorbar(at, mean[:, d], half[:, d], fmt="o", color=color, markersize=4.0, label=name)
    if each.classes is not None:
        ax.set_xticks(np.arange(len(values)), values)
        ax.axhline(0.0, color=style.ink, linewidth=0.5)
