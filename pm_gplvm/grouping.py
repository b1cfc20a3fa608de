"""Which chains found the same embedding, and how far apart the embeddings are."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import procrustes

from pm_gplvm.alignment import procrustes_mean
from pm_gplvm.invariants import scale_free

__all__ = ["embedding_table", "group_halves"]

Array = NDArray[np.float64]

# In standard deviations. Stretches of one embedding come so far apart by chance only where their
# effective size is below 2.
_APART = 1.0


def group_halves(distance: Array) -> NDArray[np.integer[Any]]:
    """Sort the halves of all chains by embedding.

    Two halves belong together if their mean distances differ by less than one standard deviation
    within the halves, in the root mean square over the pairs; or if others link them.

    Parameters
    ----------
    distance : ndarray, dims (chain, draw, pair)

    Returns
    -------
    ndarray of int, shape (2, chain)
        The group of each chain's first and second half. A chain whose halves are in different
        groups still moves.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> places = np.array([0.0, 0.0, 5.0])[:, None, None]
    >>> group_halves(places + rng.standard_normal((3, 100, 7))).tolist()
    [[0, 0, 1], [0, 0, 1]]
    """
    chains, half = distance.shape[0], distance.shape[1] // 2
    halves = np.concatenate([distance[:, :half], distance[:, -half:]])
    mean, variance = halves.mean(axis=1), halves.var(axis=1, ddof=1)
    gap = (mean[:, None] - mean) ** 2
    # Rounding is no difference where nothing moves.
    rounding = (1e-9 * (mean[:, None] + mean)) ** 2 + 1e-300
    ratio = gap / np.maximum(0.5 * (variance[:, None] + variance), rounding)
    near = np.sqrt(ratio.mean(axis=2)) <= _APART
    return np.asarray(connected_components(near, directed=False)[1].reshape(2, chains))


def embedding_table(fit: xr.DataTree, known: xr.Dataset, together: list[list[int]]) -> pd.DataFrame:
    """Describe embeddings, the one with the highest log-posterior (or log-likelihood) first.

    Parameters
    ----------
    fit : DataTree
    known : Dataset
        Its invariants.
    together : list of list of int
        Chains of each embedding.

    Returns
    -------
    DataFrame
        ``chains``; means of ``log_likelihood`` and ``log_posterior``, where known; ``distance``,
        that of Procrustes (SciPy's disparity) between the mean X / lengthscale of each and the
        first: the share of the variance that is left after centring, scaling and turning.
    """
    levels = [name for name in ("log_likelihood", "log_posterior") if name in known]
    rows: list[dict[str, Any]] = [
        {"chains": tuple(chains)} | {n: known[n].sel(chain=chains).mean().item() for n in levels}
        for chains in together
    ]
    if levels:
        rows.sort(key=lambda row: -row[levels[-1]])
    rows[0]["distance"] = 0.0
    if len(rows) > 1:
        first = _mean(fit, rows[0]["chains"])
        for row in rows[1:]:
            row["distance"] = float(procrustes(first, _mean(fit, row["chains"]))[2])
    return pd.DataFrame(rows).rename_axis("embedding")


def _mean(fit: xr.DataTree, chains: tuple[int, ...]) -> Array:
    Z = scale_free(fit).sel(chain=list(chains)).to_numpy()
    draws = Z.reshape(-1, *Z.shape[2:])
    return procrustes_mean(draws - draws.mean(axis=1, keepdims=True))[0]
