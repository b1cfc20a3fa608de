"""Posterior modes: the embeddings among draws, and which chains and starts share one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.stats import gaussian_kde

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.core.procrustes import centred_mean, procrustes_distance
from pm_gplvm.data.fit import Fit, stacked
from pm_gplvm.diagnostics.invariants import pair_distances

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

VALLEY = 0.5
"""Two modes need a density between them below this share of the lower peak's."""

_MAX_CLUSTERED = 2000  # draws that are clustered; the others join the nearest
_MIN_CLUSTERED = 0.5  # share of the draws in clusters, below which all draws are one mode
_COMPONENTS = 5  # principal components of the distances in which draws are clustered
_ROWS = 5  # rows named a mode
# In standard deviations. Halves of chains in one mode come so far apart by chance only where their
# effective size is below 2.
_APART = 1.0


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Result of :func:`diagnostics.posterior_modes`.

    Parameters
    ----------
    table : DataFrame
        One row a posterior mode, the heaviest first. ``weight``: its share of the draws (of an ensemble by
        the weights of the chains); ``error``: the
        standard error of the weight, from how often the chains change mode; ``chains``: the chains with a
        draw in it; ``log_likelihood``: its mean, if the fit holds it; ``distance``: Procrustes
        distance of its mean X / lengthscale from the first's (the share of the variance left after
        centring, scaling and rotation); ``rows``: the labels of the rows whose distances to the others
        differ most from those in the first.
    members : DataArray, dims (chain, draw)
        The mode of each draw: ``fit.posterior.isel(chain=0, draw=members[0] == 1)``.
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


@checked
def posterior_modes(
    fit: xr.DataTree, *, min_weight: float = 0.05, n_pairs: int | None = None, random_seed: int = 0
) -> Embeddings:
    """Find the posterior modes of a fit, each an embedding of its own, and their weights.

    Distances between rows, in lengthscales, do not depend on the orientation of X. Their first five principal
    components are clustered by density (HDBSCAN). Draws outside the clusters go to the nearest one. Two
    clusters are merged unless the density along the line between their means falls to half of
    the lower peak.

    Parameters
    ----------
    fit : DataTree
        From any sampler. Weights are meaningful only if chains change between the modes,
        as those of :func:`sample` with several replicas can.
    min_weight : float, default 0.05
        Smallest share of the draws that can be a mode.
    n_pairs : int, optional
        Number of pairs of rows whose distances are taken. By default 4 N.
    random_seed : int, default 0
        Seed of the choice of pairs.

    Returns
    -------
    Embeddings
        Prints as a table; ``table`` and ``members``.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit with ``X``, has fewer than 40 draws, or an argument is out of range.

    References
    ----------
    Campello, R. J. G. B., Moulavi, D. and Sander, J. (2013). Density-based clustering based on
    hierarchical density estimates. PAKDD, LNCS 7819, 160-172.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=12))
    >>> full = gplvm.sample(
    ...     model, draws=30, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> gplvm.diagnostics.posterior_modes(full).members.sizes["draw"]
    30
    """
    read = Fit.of(fit, "X", caller="posterior_modes")
    X = read.draws("X")
    if read.n_draws < 40:
        raise ValueError(
            f"posterior_modes needs 40 draws or more to sort, got {read.n_draws}. Draw them with sample."
        )
    N = X.shape[2]
    distance = pair_distances(read, n_pairs=4 * N if n_pairs is None else n_pairs, seed=random_seed)
    labels = _by_weight(_clusters(stacked(distance), min_weight)).reshape(X.shape[:2])
    coords = {dim: X[dim] for dim in ("chain", "draw")}
    members = xr.DataArray(labels, dims=("chain", "draw"), coords=coords, name="embedding")
    return Embeddings(_table(read, labels, distance), members)


def _clusters(distance: Array, min_weight: float) -> Labels:
    """Cluster of each draw, shape (S,), from its distances (S, P) between rows."""
    with interruptible():
        from sklearn.cluster import HDBSCAN
        from sklearn.decomposition import PCA
        from sklearn.neighbors import KNeighborsClassifier

    every = np.ascontiguousarray(distance[:: -(-len(distance) // _MAX_CLUSTERED)])
    components = PCA(min(_COMPONENTS, *every.shape), random_state=0).fit(every)
    points = components.transform(every)
    smallest = max(int(min_weight * len(every)), 5)
    clustering = HDBSCAN(min_cluster_size=smallest, min_samples=min(10, smallest), copy=True)
    found = clustering.fit_predict(points)
    inside = found >= 0
    if inside.mean() < _MIN_CLUSTERED:
        return np.zeros(len(distance), dtype=int)
    nearest = KNeighborsClassifier(n_neighbors=1).fit(points[inside], found[inside])
    every_point = components.transform(distance)
    return _merged(every_point, np.asarray(nearest.predict(every_point)))


def _merged(points: Array, labels: Labels) -> Labels:
    """Give one label to clusters without a valley of the density between them."""
    clusters = [points[labels == k] for k in range(labels.max() + 1)]
    joined = np.eye(len(clusters), dtype=bool)
    for i, j in combinations(range(len(clusters)), 2):
        joined[i, j] = valley(clusters[i], clusters[j]) > VALLEY
    return np.asarray(connected_components(joined, directed=False)[1][labels])


def valley(one: Array, other: Array) -> float:
    """Lowest density on the line between two clusters' means, relative to the lower of those at the means."""
    along = other.mean(axis=0) - one.mean(axis=0)
    ends = one.mean(axis=0) @ along, other.mean(axis=0) @ along
    density = gaussian_kde(np.concatenate([one, other]) @ along)(np.linspace(*ends, 50))
    return float(density.min() / min(density[0], density[-1]))


def _by_weight(labels: Labels) -> Labels:
    """Relabel the clusters by size, the largest 0."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.asarray(np.argsort(order)[labels])


def _table(read: Fit, labels: Labels, distance: xr.DataArray) -> pd.DataFrame:
    levels = {n: read.stats[n].to_numpy() for n in ("log_likelihood",) if n in read.stats}
    Z = read.positions_for_distances()
    names = Z[Z.dims[2]].to_numpy()
    modes = [labels == k for k in range(labels.max() + 1)]
    shares = read.chain_weights
    rows = [
        {"weight": float(np.average(here.mean(axis=1), weights=shares)), "error": _error(here)}
        | row
        | {"rows": moved_rows(distance, modes[0], here, names) if k else ()}
        for k, (here, row) in enumerate(zip(modes, _described(Z, levels, modes), strict=True))
    ]
    return pd.DataFrame(rows).rename_axis("embedding")


def _described(
    Z: xr.DataArray, levels: Mapping[str, Array], modes: Sequence[Mask]
) -> list[dict[str, Any]]:
    """Chains, means of ``levels`` and distance from the first mode; a mode is a mask (chain, draw)."""
    positions, chains = Z.to_numpy(), Z["chain"].to_numpy()
    rows: list[dict[str, Any]] = []
    for here in modes:
        rows.append({"chains": tuple(int(c) for c in chains[here.any(axis=1)])})
        rows[-1] |= {name: float(values[here].mean()) for name, values in levels.items()}
        rows[-1]["distance"] = 0.0
    if len(modes) > 1:
        first, *others = (centred_mean(positions[here]) for here in modes)
        for row, mean in zip(rows[1:], others, strict=True):
            row["distance"] = procrustes_distance(mean, first)
    return rows


def _error(here: Mask) -> float:
    """Compute the standard error of a share of the draws, NaN where there is none."""
    with interruptible():
        import arviz_stats

    if here.all():
        return 0.0
    values = xr.DataArray(here.astype(np.float64), dims=("chain", "draw"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(arviz_stats.mcse(values))


def moved_rows(distance: xr.DataArray, first: Mask, here: Mask, names: Array) -> tuple[object, ...]:
    """Names of the rows whose mean distances differ most between two modes."""
    values = distance.to_numpy()
    gap = (values[here].mean(axis=0) - values[first].mean(axis=0)) ** 2
    total, count = np.zeros((2, len(names)))
    for side in ("first", "second"):
        np.add.at(total, distance[side].to_numpy(), gap)
        np.add.at(count, distance[side].to_numpy(), 1.0)
    most = np.argsort(-total / np.maximum(count, 1.0))[:_ROWS]
    return tuple(names[np.sort(most)].tolist())


def group_halves(distance: Array) -> Labels:
    """Mode of the first and second half of each chain, shape (2, chain), from (chain, draw, pair).

    Two halves share a mode if their mean distances differ by less than one standard deviation
    within the halves, in the root mean square over the pairs, or if other halves link them. A chain
    whose halves differ in mode still moves.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> centres = np.array([0.0, 0.0, 5.0])[:, None, None]
    >>> group_halves(centres + rng.standard_normal((3, 100, 7))).tolist()
    [[0, 0, 1], [0, 0, 1]]
    """
    chains, half = distance.shape[0], distance.shape[1] // 2
    halves = np.concatenate([distance[:, :half], distance[:, -half:]])
    mean, variance = halves.mean(axis=1), halves.var(axis=1, ddof=1)
    gap = (mean[:, None] - mean) ** 2
    # Rounding is not a difference where nothing moves.
    rounding = (1e-9 * (mean[:, None] + mean)) ** 2 + 1e-300
    ratio = gap / np.maximum(0.5 * (variance[:, None] + variance), rounding)
    near = np.sqrt(ratio.mean(axis=2)) <= _APART
    return np.asarray(connected_components(near, directed=False)[1].reshape(2, chains))


def mode_table(read: Fit, known: xr.Dataset, groups: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Describe groups of chains, each in one mode, the highest log-posterior (or log-likelihood) first.

    ``known`` holds the invariants of the fit. The columns are those of ``Diagnosis.embeddings``.
    """
    Z = read.positions_for_distances()
    levels = {n: known[n].to_numpy() for n in ("log_likelihood", "log_posterior") if n in known}
    sizes = (Z.sizes["chain"], Z.sizes["draw"])
    modes = [
        np.broadcast_to(np.isin(Z["chain"].to_numpy(), list(group))[:, None], sizes)
        for group in groups
    ]
    if levels:
        decisive = list(levels.values())[-1]
        modes.sort(key=lambda here: -decisive[here].mean())
    return pd.DataFrame(_described(Z, levels, modes)).rename_axis("embedding")


def group_optima(read: Fit, same: float = 0.01) -> xr.Dataset:
    """Mode of each of an optimiser's starts: ``embedding``, 0 for that of the best start.

    The starts, the best first, are those of the groups ``optima`` and ``optima_positions``. Two are in
    one mode if their ``distance`` (Procrustes, of X / lengthscale) is at most ``same``, or if others
    link them. The modes are numbered in the order of the starts.

    Raises
    ------
    ValueError
        If the fit does not hold where its starts ended.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, n_restarts=1, random_seed=1, progressbar=False)
    >>> group_optima(Fit(best))["embedding"].shape
    (6,)
    """
    optima, positions = read.group("optima"), read.group("optima_positions")
    if not optima or not positions:
        raise ValueError(
            "fit must hold where its starts ended (optima, optima_positions), got the groups "
            f"{', '.join(read.tree.children)}. Take what fit_marginal or fit_map returns."
        )
    Z = positions["Z"].to_numpy()
    distance = np.zeros((len(Z), len(Z)))
    for i, j in combinations(range(len(Z)), 2):
        distance[i, j] = distance[j, i] = procrustes_distance(Z[j], Z[i])
    # Components are numbered in the order in which they are met.
    _, embedding = connected_components(distance <= same, directed=False)
    table = optima[["objective", "converged"]]
    return table.assign(embedding=("start", embedding), distance=(("start", "start_to"), distance))
