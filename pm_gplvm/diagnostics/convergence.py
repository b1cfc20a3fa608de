"""Convergence of the draws of a fit, judged in words by invariants."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from pm_gplvm.core.checks import Array, checked, counted
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.fit import Fit
from pm_gplvm.diagnostics.explored import (
    Arrangements,
    arrangements,
    began_at_one_place,
    climbing,
    explored,
    fresh_lineages,
    words_of_lineages,
)
from pm_gplvm.diagnostics.invariants import invariants, row_pairs
from pm_gplvm.diagnostics.modes import group_halves, mode_table

Verdict = Literal[
    "converged",
    "differ by symmetry",
    "different embeddings",
    "not converged",
    "still climbing",
    "one chain",
    "too few draws",
]

_AGREED = ("converged", "differ by symmetry")
_R_HAT, _ESS_A_CHAIN = 1.01, 100  # Vehtari et al. (2021), section 4
_NO_VARIANCE = 1e6  # R-hat of chains whose variance is rounding
_PAIRS = 60
_FEWEST = 8  # draws a chain: ArviZ needs four in each half
_COLUMNS = ["entries", "r_hat", "r_hat_median", "ess_bulk", "ess_tail"]


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Result of :func:`diagnose`; prints as words and tables.

    Parameters
    ----------
    verdict : str
        "converged", "differ by symmetry", "different embeddings", "not converged", "still climbing",
        "one chain" or "too few draws".
    sentences : sequence of str
        The verdict in words, its reasons, and advice.
    table : DataFrame
        One row an invariant that varies: its number of ``entries``, the largest ``r_hat`` of
        them and ``r_hat_median``, the smallest ``ess_bulk`` and ``ess_tail``.
    embeddings : DataFrame
        One row a posterior mode, the best first: ``chains``, the means of ``log_likelihood`` and
        ``log_posterior``, where known, and ``distance``, the Procrustes distance from the first: the
        share of the variance of X / lengthscale left after centring, scaling and rotation.
    divergences, saturated : int or None
        Divergent transitions, and draws whose tree reached the largest depth; None if the sampler
        did not record them.
    lineages : tuple of int or None
        Replicas that came down the temperatures to β = 1, by chain: the number of embeddings that
        were looked for. None without temperatures.
    """

    verdict: Verdict
    sentences: Sequence[str]
    table: pd.DataFrame
    embeddings: pd.DataFrame
    divergences: int | None
    saturated: int | None
    lineages: tuple[int, ...] | None = None

    @property
    def converged(self) -> bool:
        """Whether the chains agree, if only up to symmetry."""
        return self.verdict in _AGREED

    def __repr__(self) -> str:
        tables = [table.to_string(float_format="{:.4g}".format) for table in self._tables()]
        return "\n".join([*self.sentences, *(f"\n{table}" for table in tables)])

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences)
        return words + "".join(t.to_html(float_format="{:.4g}".format) for t in self._tables())

    def _tables(self) -> list[pd.DataFrame]:
        several = [self.embeddings] if len(self.embeddings) > 1 else []
        return [*([self.table] if len(self.table) else []), *several]


@checked
def diagnose(fit: xr.DataTree, *, n_pairs: int | None = None, random_seed: int = 0) -> Diagnosis:
    """Judge whether the chains of a fit have converged.

    Rank-normalised R-hat and effective sample sizes (Vehtari et al. 2021, by ArviZ) are taken of
    the likelihood, distances between rows in lengthscales, entries of K, the reconstruction and θ.
    No rotation of X changes these. R-hat of X itself only shows whether chains that agree
    differ in their orientation.

    Of all distances between rows (2000 pairs where there are more) two further kinds are taken: the first five
    principal components (``distance_components``), and the distance with the clearest two peaks by
    Sarle's coefficient (``bimodal_distance``). If it or a component has two peaks indeed, with a valley between them, the
    draws fall into two arrangements of the rows; in which each is (``arrangement``), is an invariant too. Random pairs may all
    agree where an arrangement of some rows has another weight in each chain; these do not.

    If they do not agree, the halves of all chains are sorted into posterior modes: two halves share a mode
    if their mean distances differ by less than one standard deviation within the halves,
    or if others link them. If there are several modes and no chain changes its mode, the chains
    found different embeddings. So they did if the clearest distance or component has two peaks and
    each chain kept to one. A chain whose log density rises from its first to its last
    third (Geweke 1992), or along a line, by more than three standard errors has not arrived: that is burn-in, and the
    verdict "still climbing".

    What no chain has met, agreement cannot show. It is said, where the fit tells, how many embeddings were looked for
    (``fresh_lineages`` of :func:`sample`: with fewer than 100 in all, or none in a chain, R-hat may pass
    falsely), and if all chains began at one place.

    Parameters
    ----------
    fit : DataTree
        From any sampler.
    n_pairs : int, optional
        Number of pairs of rows of which distances and K are taken. By default N, and at least 60, so that
        every row is in two.
    random_seed : int, default 0
        Seed of the choice of pairs.

    Returns
    -------
    Diagnosis
        Prints as words and tables; ``verdict``, ``converged``, ``table``, ``embeddings``,
        ``divergences``, ``saturated``, ``lineages``.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit with ``X``, or ``n_pairs`` is not a positive whole number.

    References
    ----------
    Vehtari, A., Gelman, A., Simpson, D., Carpenter, B. and Bürkner, P.-C. (2021). Rank-normalization,
    folding, and localization: an improved R-hat for assessing convergence of MCMC. Bayesian
    Analysis 16, 667-718.

    Pfister, R., Schwarz, K. A., Janczyk, M., Dale, R. and Freeman, J. B. (2013). Good things peak in pairs: a
    note on the bimodality coefficient. Frontiers in Psychology 4, 700.

    Geweke, J. (1992). Evaluating the accuracy of sampling-based approaches to the calculation of posterior
    moments. Bayesian Statistics 4, 169-193.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> gplvm.diagnose(best)
    One draw: a point, which has nothing to say about uncertainty.
    """
    read = Fit.of(fit, "X", caller="diagnose")
    N = read.draws("X").shape[2]
    known = invariants(
        fit, n_pairs=max(_PAIRS, N) if n_pairs is None else n_pairs, seed=random_seed
    )
    chains, draws = known["chain"].to_numpy(), known.sizes["draw"]
    together = [[int(c) for c in chains]]
    divergences, saturated = (_count(read, n) for n in ("diverging", "reached_max_treedepth"))
    lineages = fresh_lineages(read)
    words: list[str] = []
    if draws < _FEWEST:
        verdict: Verdict = "too few draws"
        table, sentences = pd.DataFrame(columns=_COLUMNS), [_few(len(chains), draws)]
    else:
        known = known.merge(explored(read, random_seed))
        if sides := arrangements(read, known):
            known = known.assign(arrangement=(("chain", "draw"), sides.upper.astype(np.float64)))
        table = _table(known)
        words = [_numbers(table, len(chains)), *_trees(divergences, saturated, len(chains) * draws)]
        if _agree(table, len(chains)):
            verdict, sentence = _judge_agreeing(read, len(chains), draws)
            sentences = [sentence, *_one_place(read, lineages)]
        else:
            verdict, together, sentence = _judge_disagreeing(known, sides)
            sentences = [sentence]
            if risen := climbing(read):
                verdict, sentences = "still climbing", [_climbing(risen), sentence]
        if sides and len(together) > 1:
            sentences.append(sides.sentence("What tells them apart most"))
        elif sides:
            sentences.append(sides.sentence())
        sentences += _of_exploration(read, agree=verdict in _AGREED)
        sentences += words_of_lineages(lineages, chains)
    embeddings = mode_table(read, known, together)
    if len(together) > 1:
        words = [*_described(embeddings), *words]
    return Diagnosis(
        verdict, (*sentences, *words), table, embeddings, divergences, saturated, lineages
    )


def words_of_agreement(read: Fit) -> tuple[bool, str]:
    """Whether the chains agree on distances, θ and the log-density, which cost little, and in a sentence."""
    known = invariants(read.tree, n_pairs=_PAIRS, covariance=False)
    chains, draws = known.sizes["chain"], known.sizes["draw"]
    if draws < _FEWEST:
        return False, _few(chains, draws)
    table = _table(known.merge(explored(read)))
    size = f"{counted(chains, 'chain')} of {draws} draws"
    if table.empty:
        return True, f"{size}: nothing varies between them."
    agree = _agree(table, chains) and chains > 1
    ess = table[["ess_bulk", "ess_tail"]].to_numpy().min()
    verdict = "agree" if agree else "do not agree" if chains > 1 else "cannot be judged by others"
    return agree, (
        f"{size} {verdict}: largest R-hat {table['r_hat'].max():.3f} ({table['r_hat'].idxmax()}), smallest "
        f"ESS {ess:.0f}; divergences {_count(read, 'diverging') or 0}."
    )


def _agree(table: pd.DataFrame, chains: int) -> bool:
    ess = table[["ess_bulk", "ess_tail"]].to_numpy().min(initial=np.inf)
    return bool(table["r_hat"].max() <= _R_HAT and ess >= _ESS_A_CHAIN * chains)


def _judge_agreeing(read: Fit, chains: int, draws: int) -> tuple[Verdict, str]:
    if chains == 1:
        return "one chain", _one_chain(read, draws)
    agreed = f"{chains} chains of {draws} draws agree on all that the data can tell"
    frames = _r_hat_of_X(read)
    if frames <= _R_HAT:
        return "converged", f"Converged: {agreed}, and on X as it stands."
    return (
        "differ by symmetry",
        f"The chains differ only by symmetry: {agreed}, each in a frame of its own (R-hat of X "
        f"{frames:.2f}). Align them before X is read: align(fit).",
    )


def _one_place(read: Fit, lineages: Sequence[int] | None) -> list[str]:
    """Warn of chains that agree and began at one place, where no temperatures brought others."""
    place = None if _exploration(read) == "local" else began_at_one_place(read)
    chains = read.posterior.sizes["chain"]
    if (
        place is None
        or chains == 1
        or lineages is not None
        or not _varies(read.draws("X").to_numpy())
    ):
        return []
    return [
        f"All chains began at one place ({place}), and left it only by the heat of the first iterations: what "
        "they agree on may be one embedding of several. Chains from several places would tell: start=[...] "
        "of several fits, or start='random'."
    ]


def _exploration(read: Fit) -> str:
    return str(read.tree.attrs.get("explore", ""))


def _of_exploration(read: Fit, *, agree: bool) -> list[str]:
    """Say what the draws are of, where it is not the whole posterior."""
    if _exploration(read) == "local":
        return [
            "All draws lie in the neighbourhoods of one embedding (fit['neighbourhood']): of others they say nothing."
        ]
    weights = read.chain_weights
    if weights is None or agree:
        return []
    chains = read.posterior["chain"].to_numpy()
    level = read.stats["log_likelihood"].mean("draw").to_numpy()
    top, low, heavy = level.argmax(), level.argmin(), weights.argmax()
    return [
        f"They are an ensemble: {len(chains)} chains, each in embeddings that it found, weighed by what they predict "
        f"(fit['ensemble']; most, {weights[heavy]:.2f}, in chain {chains[heavy]}). The mean log-likelihood goes "
        f"from {level[low]:.1f} (chain {chains[low]}) to {level[top]:.1f} (chain {chains[top]}). Predict by all of them; "
        f"for a picture take chain {chains[top]}: fit.isel(chain=[{top}])."
    ]


def _judge_disagreeing(
    known: xr.Dataset, sides: Arrangements | None
) -> tuple[Verdict, list[list[int]], str]:
    """Verdict on chains that do not agree, the chains of each mode, and a sentence."""
    chains, draws = known["chain"].to_numpy(), known.sizes["draw"]
    size = f"{counted(len(chains), 'chain')} of {draws} draws"
    first, second = group_halves(known["distance"].to_numpy())
    if sides and sides.settled and len(np.unique(np.append(first, second))) == 1:
        first = second = (sides.shares > 0.5).astype(int)
    groups = [[int(c) for c in chains[first == group]] for group in np.unique(first)]
    moving = ", ".join(str(c) for c in chains[first != second])
    if not moving and len(groups) > 1:
        return (
            "different embeddings",
            groups,
            f"The chains found {len(groups)} different embeddings: {size}, {len(groups)} arrangements of the rows"
            f"{_within_and_between(known, groups)}. They are no draws from one posterior, as each embedding has the "
            "weight of the chains that fell into it. Sample with tempering, or read each by itself "
            "(diagnostics.posterior_modes(fit)).",
        )
    if moving:
        reason = (
            f"the two halves of chain {moving} lie in different embeddings: see diagnostics.posterior_modes(fit). "
            "Raise tune and draws."
        )
    elif sides and not _agree(_table(known[["arrangement"]]), len(chains)):
        weights = (
            " for their weights to be known"
            if len(chains) == 1
            else ": the chains give them different weights"
        )
        reason = (
            f"two arrangements of the rows, between which the draws change too seldom{weights}. Raise draws, or "
            "sample with tempering; diagnostics.posterior_modes(fit) shows the two."
        )
    else:
        reason = (
            "all have been to the same places and have not mixed enough. Raise draws; diagnostics.posterior_modes(fit) "
            "tells whether they trade several embeddings."
        )
    return "not converged", [[int(c) for c in chains]], f"Not converged: {size}; {reason}"


def _within_and_between(known: xr.Dataset, groups: Sequence[Sequence[int]]) -> str:
    """R-hat of the distances among chains of one arrangement, and among all."""
    names = ("distance", "distance_components", "bimodal_distance")
    values = known[[name for name in names if name in known]]
    between = _table(values)["r_hat"].max()
    several = [list(group) for group in groups if len(group) > 1]
    if not several:
        return f". R-hat of their distances is {between:.2f}"
    within = max(
        _table(values.sel(chain=group))["r_hat"].to_numpy().max(initial=1.0) for group in several
    )
    return f". R-hat of their distances is {within:.2f} at most within an arrangement, {between:.2f} between them"


def _climbing(risen: Sequence[tuple[int, float, float]]) -> str:
    each = ", ".join(f"chain {chain} ({low:.1f} to {high:.1f})" for chain, low, high in risen)
    ends = "its end" if len(risen) == 1 else "their ends"
    return (
        f"Still climbing: from its first third to its last the log density rises in {each}. The draws before {ends} "
        "are burn-in, and what lies there nobody has seen: raise tune."
    )


def _r_hat(values: xr.DataArray) -> Array:
    """R-hat of every entry; of one chain, between its halves."""
    with interruptible():
        import arviz_stats

    if values.sizes["chain"] == 1:
        half = values.sizes["draw"] // 2
        halves = [values[:, :half], values[:, half : 2 * half]]
        values = xr.concat([h.assign_coords(draw=np.arange(half)) for h in halves], dim="chain")
    # Constant chains divide by zero, or by rounding; an R-hat that cannot be computed counts as infinite.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.nan_to_num(arviz_stats.rhat(values).to_numpy(), nan=np.inf, posinf=np.inf)
    return np.where(found > _NO_VARIANCE, np.inf, found)


def _ess(values: xr.DataArray, method: str) -> float:
    with interruptible():
        import arviz_stats

    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num(arviz_stats.ess(values, method=method).to_numpy()).min())


def _table(known: xr.Dataset) -> pd.DataFrame:
    rows: dict[str, list[float]] = {}
    for name, variable in known.drop_vars(["first", "second"], errors="ignore").data_vars.items():
        values = variable.transpose("chain", "draw", ...)
        if _varies(values.to_numpy()):
            r_hat = _r_hat(values)
            ess = [_ess(values, method) for method in ("bulk", "tail")]
            rows[str(name)] = [r_hat.size, float(r_hat.max()), float(np.median(r_hat)), *ess]
    return pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)


def _varies(values: Array) -> bool:
    return bool(np.ptp(values, axis=(0, 1)).max() > 1e-12 * np.abs(values).max())


def _r_hat_of_X(read: Fit) -> float:
    """R-hat of X, aligned if it is: the median over rows, the largest over dimensions."""
    X = read.draws("X")
    if not _varies(X.to_numpy()):
        return 1.0
    rows, _ = row_pairs(X.shape[2], min(_PAIRS, X.shape[2]))
    return float(np.median(_r_hat(X[:, :, rows]), axis=0).max())


def _described(embeddings: pd.DataFrame) -> list[str]:
    words = []
    for i, row in enumerate(embeddings.to_dict("records")):
        parts = ["chain " + ", ".join(map(str, row["chains"]))]
        for name in ("log_likelihood", "log_posterior"):
            parts += [f"{name.replace('_', '-')} {row[name]:.1f}"] if name in row else []
        parts += [f"Procrustes distance {row['distance']:.2f} from embedding 0"] if i else []
        words.append(f"Embedding {i}: {', '.join(parts)}.")
    return words


def _numbers(table: pd.DataFrame, chains: int) -> str:
    if table.empty:
        return "Nothing varies between the draws."
    parts = " between its parts" if chains == 1 else ""
    bulk, tail = table["ess_bulk"], table["ess_tail"]
    return (
        f"Largest R-hat{parts} {table['r_hat'].max():.3f} ({table['r_hat'].idxmax()}), wanted {_R_HAT} or "
        f"less; smallest ESS {bulk.min():.0f} in the bulk ({bulk.idxmin()}) and {tail.min():.0f} in the "
        f"tails ({tail.idxmin()}), wanted {_ESS_A_CHAIN * chains} or more."
    )


def _count(read: Fit, name: str) -> int | None:
    return int(read.stats[name].sum()) if name in read.stats else None


def _trees(divergences: int | None, saturated: int | None, total: int) -> list[str]:
    words = []
    if divergences:
        words.append(
            f"{divergences} of {total} transitions diverged: the draws may miss a part of the posterior. "
            "Take smaller steps, or priors that keep θ off its bounds."
        )
    if saturated:
        words.append(
            f"{saturated} of {total} trees were cut off at the largest depth: the draws are not wrong, "
            "but dear. Allow deeper trees, or take other moves besides."
        )
    if divergences == 0 and saturated in (0, None):
        words.append(
            "No transition diverged" + (", no tree was cut off." if saturated == 0 else ".")
        )
    return words


def _few(chains: int, draws: int) -> str:
    if chains * draws == 1:
        return "One draw: a point, which has nothing to say about uncertainty."
    return f"Too few draws to judge: {draws} a chain, wanted {_FEWEST} or more."


def _one_chain(read: Fit, draws: int) -> str:
    if read.method == "laplace":
        return (
            f"{draws} independent draws from an approximation: there is nothing to converge. How near "
            "it comes to the posterior, its attrs say (pareto_k)."
        )
    return (
        f"One chain of {draws} draws, whose parts agree. Whether another would find another embedding "
        "it cannot tell: run several, from different optima."
    )
