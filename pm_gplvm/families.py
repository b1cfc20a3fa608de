"""The embeddings among the draws of a posterior that has several, and the weight of each."""

from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import procrustes
from scipy.stats import gaussian_kde
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from pm_gplvm.checks import Array
from pm_gplvm.grouping import mean_embedding
from pm_gplvm.invariants import pair_distances, scale_free
from pm_gplvm.schema import draws_of, require_fit

__all__ = ["Embeddings", "embeddings"]

Labels = NDArray[np.integer[Any]]

_DRAWS = 2000  # that are sorted by density; the others follow their nearest
_INSIDE = 0.5  # share of the draws in clusters, below which there are none
_VALLEY = 0.5  # share of the lower peak's density to which it falls between two embeddings
_COMPONENTS = 5  # of the distances, in which draws are sorted
_ROWS = 5  # that are named


@dataclass(frozen=True, repr=False)
class Embeddings:
    """What :func:`embeddings` found.

    Parameters
    ----------
    table : DataFrame
        One row an embedding, the heaviest first. ``weight``: its share of the draws; ``error``: the
        standard error of that, from how often the chains change; ``chains``: which of them have been
        there; ``log_likelihood``: its mean, where the fit holds it; ``distance``: that of Procrustes
        between the mean X / lengthscale of each and the first (the share of the variance left after
        centring, scaling and turning); ``rows``: those whose distances to the others differ most
        from the first's, by their labels.
    members : DataArray, dims (chain, draw)
        The embedding of each draw: ``fit.posterior.isel(chain=0, draw=members[0] == 1)``.
    """

    table: pd.DataFrame
    members: xr.DataArray

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"{self._sentence}\n\n{self.table.to_string(float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._sentence)}</p>{self.table.to_html(float_format='{:.3g}'.format)}"

    @property
    def _sentence(self) -> str:
        if len(self) == 1:
            return "All draws lie about one embedding."
        text = f"The draws lie in {len(self)} embeddings."
        weak = self.table["error"] > 0.5 * self.table["weight"]
        if weak.any():
            text += " The chains change between them too seldom for their weights to be trusted."
        return text


def embeddings(
    fit: xr.DataTree, *, min_weight: float = 0.05, n_pairs: int | None = None, seed: int = 0
) -> Embeddings:
    """Sort the draws of a fit by embedding, and weigh each.

    Distances between rows, in lengthscales, are the same in any frame. Their first five principal
    components are clustered by density (HDBSCAN), draws between the clusters go to the nearest, and
    clusters are one embedding unless the density along the line between their means falls to half of
    the lower peak.

    Parameters
    ----------
    fit : DataTree
        From any sampler. Weights mean something only where chains change between the embeddings,
        as those of :func:`sample` with several replicas can.
    min_weight : float, default 0.05
        Share of the draws below which no embedding is looked for.
    n_pairs : int, optional
        Pairs of rows that are looked at. By default 4 N.
    seed : int, default 0
        Of the choice of pairs.

    Returns
    -------
    Embeddings
        Prints as a table; ``table`` and ``members``.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit with ``X``, has fewer than 40 draws, or an argument is out of range.

    References
    ----------
    Campello, R. J. G. B., Moulavi, D. and Sander, J. (2013). Density-based clustering based on
    hierarchical density estimates. PAKDD, LNCS 7819, 160-172.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=12))
    >>> full = gplvm.sample(
    ...     model, draws=30, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> gplvm.embeddings(full).members.sizes["draw"]
    30
    """
    X = draws_of(require_fit(fit, "X", caller="embeddings"), "X")
    if not 0.0 < min_weight < 0.5:
        raise ValueError(f"min_weight must lie between 0 and 0.5, got {min_weight!r}.")
    sizes = X.sizes
    if sizes["chain"] * sizes["draw"] < 40:
        raise ValueError(
            f"embeddings needs 40 draws or more to sort, got {sizes['chain'] * sizes['draw']}. "
            "Draw them with sample."
        )
    N = X.shape[2]
    distance = pair_distances(fit, n_pairs=4 * N if n_pairs is None else n_pairs, seed=seed)
    flat = distance.to_numpy().reshape(-1, distance.sizes["pair"])
    members = _by_weight(_dense(flat, min_weight))
    labels = members.reshape(sizes["chain"], sizes["draw"])
    return Embeddings(
        _table(fit, labels, distance),
        xr.DataArray(
            labels,
            dims=("chain", "draw"),
            coords={d: X[d] for d in ("chain", "draw")},
            name="embedding",
        ),
    )


def _dense(distance: Array, min_weight: float) -> Labels:
    """Cluster of each draw (S, P) by density, all of them put to the nearest one, shape (S,)."""
    every = np.ascontiguousarray(distance[:: -(-len(distance) // _DRAWS)])
    components = PCA(min(_COMPONENTS, *every.shape), random_state=0).fit(every)
    points = components.transform(every)
    smallest = max(int(min_weight * len(every)), 5)
    found = HDBSCAN(
        min_cluster_size=smallest,
        min_samples=min(10, smallest),
        copy=True,
    ).fit_predict(points)
    inside = found >= 0
    if inside.mean() < _INSIDE:
        return np.zeros(len(distance), dtype=int)
    nearest = KNeighborsClassifier(n_neighbors=1).fit(points[inside], found[inside])
    every_point = components.transform(distance)
    return _parted(every_point, np.asarray(nearest.predict(every_point)))


def _parted(points: Array, labels: Labels) -> Labels:
    """Give one label to clusters with no valley between them."""
    clusters = [points[labels == k] for k in range(labels.max() + 1)]
    joined = np.eye(len(clusters), dtype=bool)
    for i, j in combinations(range(len(clusters)), 2):
        joined[i, j] = _valley(clusters[i], clusters[j]) > _VALLEY
    return np.asarray(connected_components(joined, directed=False)[1][labels])


def _valley(one: Array, other: Array) -> float:
    """Lowest density on the line between two means, in units of the lower one of their own."""
    along = other.mean(axis=0) - one.mean(axis=0)
    ends = one.mean(axis=0) @ along, other.mean(axis=0) @ along
    density = gaussian_kde(np.concatenate([one, other]) @ along)(np.linspace(*ends, 50))
    return float(density.min() / min(density[0], density[-1]))


def _by_weight(labels: Labels) -> Labels:
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.asarray(np.argsort(order)[labels])


def _table(fit: xr.DataTree, labels: Labels, distance: xr.DataArray) -> pd.DataFrame:
    stats: Any = fit["sample_stats"] if "sample_stats" in fit.children else {}
    Z = scale_free(fit)
    rows, first = [], mean_embedding(Z.to_numpy()[labels == 0])
    for k in range(labels.max() + 1):
        here = labels == k
        row: dict[str, Any] = {"weight": float(here.mean()), "error": _error(here)}
        row["chains"] = tuple(int(c) for c in Z["chain"].to_numpy()[here.any(axis=1)])
        if "log_likelihood" in stats:
            row["log_likelihood"] = float(stats["log_likelihood"].to_numpy()[here].mean())
        row["distance"] = (
            0.0 if k == 0 else float(procrustes(first, mean_embedding(Z.to_numpy()[here]))[2])
        )
        row["rows"] = _elsewhere(distance, labels, k, Z[Z.dims[2]].to_numpy()) if k else ()
        rows.append(row)
    return pd.DataFrame(rows).rename_axis("embedding")


def _error(here: NDArray[np.bool_]) -> float:
    """Compute the standard error of a share of the draws; NaN where it cannot be told."""
    import arviz_stats

    if here.all():
        return 0.0
    values = xr.DataArray(here.astype(np.float64), dims=("chain", "draw"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(arviz_stats.mcse(values))


def _elsewhere(distance: xr.DataArray, labels: Labels, k: int, names: Array) -> tuple[object, ...]:
    """Rows whose distances differ most from those in the first embedding."""
    values = distance.to_numpy()
    gap = (values[labels == k].mean(axis=0) - values[labels == 0].mean(axis=0)) ** 2
    total, count = np.zeros((2, len(names)))
    for side in ("first", "second"):
        np.add.at(total, distance[side].to_numpy(), gap)
        np.add.at(count, distance[side].to_numpy(), 1.0)
    most = np.argsort(-total / np.maximum(count, 1.0))[:_ROWS]
    return tuple(names[np.sort(most)].tolist())
