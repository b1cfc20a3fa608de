"""What chains have explored: all distances in few numbers, two arrangements, lineages, climbs, starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.stats import kurtosis, skew

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.checks import Array, counted
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.fit import Fit, evenly_spaced
from pm_gplvm.diagnostics.invariants import distances, row_pairs
from pm_gplvm.diagnostics.modes import VALLEY, Mask, moved_rows, valley

_PAIRS = 2000  # of rows whose distances are looked at: all those of 63 rows
_COMPONENTS = 5  # principal components of these distances
_FITTED = 1000  # draws that the components and the pair are chosen by
_BLOCK = 2**22  # distances held at a time
_ROUNDING = 1e-10  # variance of a component below which, relative to the first's, it is rounding
_SARLE = 5.0 / 9.0  # Sarle's coefficient of the uniform distribution
_RARE = 0.05  # share of the draws below which a second peak is none
_APART = 1.0  # standard deviations on both sides that a distance must differ by to be named
_TRIED = 50  # pairs whose second peak is weighed
_LINEAGES = 100  # wanted in all
_Z = 3.0  # standard errors by which a log density has risen
_FEW = 100  # draws of which a climb can be told


def explored(read: Fit, seed: int = 0) -> xr.Dataset:
    """All distances in few numbers, draw by draw; empty where no distance varies.

    Of dims (chain, draw, ...):

    - ``distance_components`` (component): the first five principal components of the distances between all
      rows in lengthscales, or of 2000 pairs where there are more;
    - ``bimodal_distance``: the distance with the clearest two peaks, by Sarle's coefficient, of the half
      that vary most; the rows are its attrs ``first`` and ``second``.

    They are chosen by all draws alike, without a look at the chains or at the order of the draws. So independent
    draws pass as easily by them as by distances that were chosen beforehand, however few they are.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=12))
    >>> full = gplvm.sample(
    ...     model, draws=20, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> dict(explored(Fit(full)).sizes)
    {'chain': 2, 'draw': 20, 'component': 5}
    """
    scaled = read.positions_for_distances()
    n_chains, n_draws, N, Q = scaled.shape
    Z = scaled.to_numpy().reshape(-1, N, Q)
    first, second = row_pairs(N, _PAIRS, seed)
    few = distances(Z[evenly_spaced(len(Z), _FITTED)], first, second)
    centre = few.mean(axis=0)
    few -= centre
    if not (np.abs(few).max(initial=0.0) > 1e-12 * centre.max(initial=0.0)):
        return xr.Dataset()
    with blas_threads(1):
        loadings = _loadings(few)
        step = max(_BLOCK // len(first), 1)
        components = np.concatenate(
            [
                (distances(Z[at : at + step], first, second) - centre) @ loadings
                for at in range(0, len(Z), step)
            ]
        )
    pair = _most_bimodal(few)
    bimodal = distances(Z, first[[pair]], second[[pair]])
    dims, shape = ("chain", "draw"), (n_chains, n_draws)
    rows = {"first": int(first[pair]), "second": int(second[pair])}
    return xr.Dataset(
        {
            "distance_components": ((*dims, "component"), components.reshape(*shape, -1)),
            "bimodal_distance": (dims, bimodal.reshape(shape), rows),
        },
        coords={dim: scaled[dim] for dim in dims},
    )


def _loadings(centred: Array) -> Array:
    """First right singular vectors (P, k) of draws × pairs, by the smaller of the two Gram matrices."""
    tall = len(centred) > centred.shape[1]
    gram = centred.T @ centred if tall else centred @ centred.T
    last = len(gram) - 1
    values, vectors = eigh(gram, subset_by_index=[max(last + 1 - _COMPONENTS, 0), last])
    kept = values[::-1] > _ROUNDING * values[-1]
    vectors = vectors[:, ::-1][:, kept]
    loadings = vectors if tall else centred.T @ vectors
    loadings /= np.linalg.norm(loadings, axis=0)
    largest = np.abs(loadings).argmax(axis=0)
    return np.asarray(loadings * np.sign(loadings[largest, np.arange(loadings.shape[1])]))


def sarle(values: Array) -> Array:
    """Sarle's bimodality coefficient of each column, 0 where nothing varies: 1 of two points, 1/3 of a Gaussian.

    (skewness² + 1) / kurtosis in its form for samples, as Pfister et al. (2013, Frontiers in Psychology 4, 700)
    give it. A uniform distribution has 5/9; heavy tails with skewness may have more, without a second peak.

    Examples
    --------
    >>> sides = np.repeat([0.0, 1.0], [70, 30])[:, None]
    >>> bell = np.random.default_rng(0).standard_normal((100, 1))
    >>> sarle(np.hstack([sides, bell, np.ones((100, 1))])).round(2).tolist()
    [0.96, 0.39, 0.0]
    """
    n = len(values)
    still = np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(axis=0)
    moving = np.where(still, np.arange(n)[:, None], values)
    g, k = skew(moving, bias=False), kurtosis(moving, bias=False)
    found = (g**2 + 1.0) / (k + 3.0 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    return np.where(still, 0.0, found)


def _most_bimodal(values: Array) -> int:
    """Column with the largest coefficient of those that vary much and whose second peak holds enough draws."""
    spread = values.std(axis=0)
    # Distances near zero are skewed without a second peak.
    wide = np.flatnonzero(spread >= np.median(spread))
    order = wide[np.argsort(-sarle(values[:, wide]), kind="stable")[:_TRIED]]
    shares = [_upper(values[:, i]).mean() for i in order]
    enough = [i for i, share in zip(order, shares, strict=True) if _RARE <= share <= 1.0 - _RARE]
    return int(enough[0] if enough else order[0])


def _upper(values: Array) -> Mask:
    """Which values are in the upper of the two groups with the least variance within (Otsu 1979)."""
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    total = ordered.sum()
    sums = np.cumsum(ordered)[:-1]
    apart = sums / below - (total - sums) / (len(ordered) - below)
    cut = int(np.argmax(below * (len(ordered) - below) * apart**2))
    return np.asarray(values > ordered[cut])


@dataclass(frozen=True)
class Arrangements:
    """Two arrangements of the rows that the draws fall into."""

    upper: Mask  # draws in the second, (chain, draw)
    words: str  # what tells them apart

    @property
    def shares(self) -> Array:
        """Share of each chain's draws in the second."""
        return self.upper.mean(axis=1)

    @property
    def changes(self) -> NDArray[np.intp]:
        """How often each chain went from one to the other."""
        return np.asarray(np.diff(self.upper.astype(int), axis=1) != 0).sum(axis=1)

    @property
    def settled(self) -> bool:
        """Whether each chain kept to one of them, and both have a chain."""
        sides = self.shares > 0.5
        near = np.minimum(self.shares, 1.0 - self.shares) < 0.5 * _RARE
        return bool(near.all() and sides.any() and not sides.all())

    def sentence(self, lead: str = "Two arrangements of the rows") -> str:
        """Tell the two, and how each chain divides its draws between them."""
        shares = ", ".join(f"{share:.2f}" for share in self.shares)
        changes = ", ".join(str(n) for n in self.changes)
        each = " by chain" if len(self.shares) > 1 else ""
        return (
            f"{lead}: {self.words}. Share of the draws in the second{each}: {shares}; changes "
            f"from one to the other: {changes}."
        )


def arrangements(read: Fit, known: xr.Dataset) -> Arrangements | None:
    """Two arrangements that the draws show, by the clearest of what :func:`explored` gives; None if they show one."""
    if "bimodal_distance" not in known:
        return None
    pair = known["bimodal_distance"]
    components = known["distance_components"]
    candidates = [pair.to_numpy(), *np.moveaxis(components.to_numpy(), -1, 0)]
    coefficients = sarle(np.stack([values.ravel() for values in candidates], axis=1))
    for i in np.argsort(-coefficients, kind="stable"):
        values = candidates[i]
        upper = _upper(values.ravel()).reshape(values.shape)
        if coefficients[i] <= _SARLE or not _RARE <= upper.mean() <= 1.0 - _RARE:
            continue
        low, high = values[~upper], values[upper]
        if valley(low[:, None], high[:, None]) > VALLEY:
            continue
        # The second is the one with the larger distance.
        if pair.to_numpy()[upper].mean() < pair.to_numpy()[~upper].mean():
            upper = ~upper
        return Arrangements(upper, _apart_by(read, known, upper, i - 1))
    return None


def _apart_by(read: Fit, known: xr.Dataset, upper: Mask, component: int) -> str:
    """Name what tells two arrangements apart: a distance if one does, else the component by which they were found."""
    X, pair = read.draws("X"), known["bimodal_distance"]
    names = X[X.dims[2]].to_numpy()
    low, high = (pair.to_numpy()[side] for side in (~upper, upper))
    if component < 0 or high.mean() - low.mean() > _APART * (low.std() + high.std()):
        one, other = (names[pair.attrs[side]] for side in ("first", "second"))
        return (
            f"rows {one} and {other} are {low.mean():.2g} or {high.mean():.2g} lengthscales apart"
        )
    moved = moved_rows(known["distance"], ~upper, upper, names)
    rows = ", ".join(str(name) for name in moved)
    return f"component {component} of all distances has two peaks, above all by rows {rows}"


def fresh_lineages(read: Fit) -> tuple[int, ...] | None:
    """Replicas that came down the temperatures, by chain; None where there are none, or nobody counted."""
    stats = read.stats
    if read.group("tempering").sizes.get("replica", 1) < 2 or "fresh_lineages" not in stats:
        return None
    lineages = stats["fresh_lineages"].transpose("chain", "draw").sum("draw")
    return tuple(int(n) for n in lineages.to_numpy())


def words_of_lineages(lineages: Sequence[int] | None, chains: Array) -> list[str]:
    """How many embeddings were looked for, and what it means if they are few."""
    if lineages is None:
        return []
    total = sum(lineages)
    each = f" ({', '.join(map(str, lineages))} by chain)" if len(lineages) > 1 else ""
    told = (
        f"{counted(total, 'fresh lineage')} came down the temperatures{each}: the number of "
        "embeddings that were looked for."
    )
    none = [str(chain) for chain, n in zip(chains, lineages, strict=True) if n == 0]
    if total >= _LINEAGES and not none:
        return [told]
    lack = f"fewer than {_LINEAGES}" if total < _LINEAGES else ""
    lack += " and " if lack and none else ""
    lack += f"none in chain {', '.join(none)}" if none else ""
    return [f"{told} With {lack} R-hat may pass though an embedding was never met: raise draws."]


def climbing(read: Fit) -> list[tuple[int, float, float]]:
    """Chains whose log density rises to the end: their names, and its means in the first and the last third.

    A chain climbs if the first mean is below nearly all of the last third, and either the two means differ, or a
    line through all draws rises, by more than three standard errors of an effective sample size of their own.
    The means are Geweke's (1992) test, with thirds for his first tenth and last half, in which few draws have no
    effective size that could be trusted. A step shows in them, a slope that levels off in the line.
    A rise in the last quarter alone is seldom found.
    """
    name = next((n for n in ("lp", "log_likelihood") if n in read.stats), None)
    if name is None:
        return []
    density = read.stats[name].transpose("chain", "draw")
    third = density.sizes["draw"] // 3
    if density.sizes["draw"] < _FEW:
        return []
    found = []
    for chain, values in zip(density["chain"].to_numpy(), density.to_numpy(), strict=True):
        if _stands(values):
            continue
        before, after = values[:third], values[-third:]
        rise = after.mean() - before.mean()
        beyond = rise > _Z * np.hypot(_error(before), _error(after)) or _slopes(values)
        if beyond and before.mean() < np.quantile(after, 0.05):
            found.append((int(chain), float(before.mean()), float(after.mean())))
    return found


def _stands(values: Array) -> bool:
    """Whether what varies is rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _slopes(values: Array) -> bool:
    """Whether a line through the draws rises by more than its error."""
    time = np.linspace(-1.0, 1.0, len(values))
    slope = float(time @ values / (time @ time))
    left = values - values.mean() - slope * time
    # Of a mean the error is sd / √ESS; that of a slope is larger by the inverse of the sd of time.
    return bool(slope > _Z * _error(left) / time.std())


def _error(values: Array) -> float:
    """Compute the standard error of the mean of draws of one chain."""
    with interruptible():
        import arviz_stats

    if _stands(values):
        return 0.0
    draws = xr.DataArray(values[None], dims=("chain", "draw"))
    ess = float(arviz_stats.ess(draws, method="mean"))
    return float(values.std(ddof=1) / np.sqrt(min(ess, len(values))))


def began_at_one_place(read: Fit) -> str | None:
    """Where all chains of :func:`sample` began, if they began at one place; None if not, or if nobody noted it."""
    start = read.tree.attrs.get("start")
    if read.method != "replica_exchange" or start not in ("pca", "isomap", "given"):
        return None
    return "one given state" if start == "given" else f"start={start!r}"
