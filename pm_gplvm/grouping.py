"""Which chains, or starts, found the same embedding, and how far apart the embeddings are."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import procrustes

from pm_gplvm.checks import Array
from pm_gplvm.invariants import scale_free
from pm_gplvm.procrustes import procrustes_mean

__all__ = ["embedding_table", "group_halves", "group_optima", "mean_embedding"]

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
    return mean_embedding(Z.reshape(-1, *Z.shape[2:]))


def mean_embedding(draws: Array) -> Array:
    """Mean of draws (S, N, Q) of X / lengthscale, each centred and turned, shape (N, Q)."""
    return procrustes_mean(draws - draws.mean(axis=1, keepdims=True))[0]


def group_optima(fit: xr.DataTree, same: float = 0.01) -> xr.Dataset:
    """Sort the ends of an optimiser's starts by embedding.

    Parameters
    ----------
    fit : DataTree
        With the groups ``optima`` and ``optima_positions``.
    same : float, default 0.01
        Two ends are of one embedding if at most this share of the variance of X / lengthscale is left
        after centring, scaling and turning one onto the other; or if others link them.

    Returns
    -------
    Dataset, dims (start, ...), the best start first
        ``objective``, ``converged``; ``distance`` (start, start_to): that share, SciPy's disparity;
        ``embedding``: 0 for that of the best start, then 1, 2, ... in the order of the starts.

    Raises
    ------
    ValueError
        If the fit does not hold where its starts ended, or ``same`` does not lie between 0 and 1.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, n_restarts=1, random_seed=1, progressbar=False)
    >>> group_optima(best)["embedding"].shape
    (6,)
    """
    if not 0.0 < same < 1.0:
        raise ValueError(f"same must lie between 0 and 1, got {same!r}.")
    if not {"optima", "optima_positions"} <= set(fit.children):
        raise ValueError(
            "fit must hold where its starts ended (optima, optima_positions), got the groups "
            f"{', '.join(fit.children)}. Take what fit_marginal or fit_map returns."
        )
    Z = fit["optima_positions"]["Z"].to_numpy()
    distance = np.zeros((len(Z), len(Z)))
    for i, j in zip(*np.triu_indices(len(Z), 1), strict=True):
        distance[i, j] = distance[j, i] = procrustes(Z[i], Z[j])[2]
    # Components are numbered in the order in which they are met.
    _, embedding = connected_components(distance <= same, directed=False)
    table = fit["optima"].to_dataset()[["objective", "converged"]]
    return table.assign(embedding=("start", embedding), distance=(("start", "start_to"), distance))
