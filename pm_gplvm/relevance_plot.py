"""Relevance of the latent dimensions as bars: Matplotlib axes in, Matplotlib axes out."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pm_gplvm.relevance import dimensions

__all__ = ["plot_relevance"]


def plot_relevance(fit: xr.DataTree, *, threshold: float = 0.05, ax: Axes | None = None) -> Axes:
    """Draw how much each latent dimension matters (ARD).

    Bars are the spread of X along each dimension in units of its lengthscale, the most relevant
    first, with the 89 % interval over the draws where there is more than one value. Dimensions in
    use are filled, those switched off are not; see :func:`dimensions` for the rule.

    Parameters
    ----------
    fit : DataTree
        Best of a model with ``ard=True``.
    threshold : float, default 0.05
        As in :func:`dimensions`; the dotted line.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        As :func:`dimensions`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=30), latent_dim=3, ard=True)
    >>> ax = gplvm.plot_relevance(gplvm.fit_marginal(model, progressbar=False))
    >>> ax.get_xlabel()
    'latent dimension'
    """
    table = dimensions(fit, threshold=threshold)
    if ax is None:
        _, ax = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    place = np.arange(len(table))
    height = table["relevance"].to_numpy()
    colours = ["#332288" if used else "white" for used in table["in_use"]]
    ax.bar(place, height, color=colours, edgecolor="#332288")
    if table["low"].notna().all():
        reach = np.abs(table[["low", "high"]].to_numpy().T - height)
        ax.errorbar(place, height, yerr=reach, fmt="none", ecolor="0.4", capsize=3)
    ax.axhline(threshold * height.max(), color="0.5", linestyle=":", linewidth=1.0)
    ax.set_xticks(place, [str(name) for name in table.index])
    ax.set(xlabel="latent dimension", ylabel="spread of X / lengthscale")
    return ax
