"""Adaptation of the sampler: step sizes, and whether and which temperatures are needed."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.exchange import ladder
from pm_gplvm.progress import Steps
from pm_gplvm.replicas import Iteration, Replicas

__all__ = ["iterations", "tune_sampler"]

Array = NDArray[np.float64]

_FIRST_LADDER = 10  # replicas until the first swaps have told how many it takes
_HOTTEST_START = 0.05  # power of the likelihood from which the chains are cooled
_MIXED = 1.25  # R-hat between untempered chains above which a ladder is set up


def tune_sampler(
    sampler: Replicas, tune: int, replicas: int | str, beta_min: float, steps: Steps
) -> None:
    """Adapt step sizes, and temperatures where there are several.

    The chains are cooled to β = 1 at first, so that they leave the optima in which
    they began; then it is seen whether they agree.
    """
    pilot = tune // 2
    cooling = pilot // 2
    for beta in np.geomspace(_HOTTEST_START, 1.0, cooling):
        sampler.beta = np.array([beta])
        next(iterations(sampler, 1, steps, tuning=True))
    sampler.beta = np.ones(1)
    seen = [_watched(sampler) for _ in iterations(sampler, pilot - cooling, steps, tuning=True)]
    if replicas == "auto":
        wanted = None
        ladder_needed = len(seen) < 20 or _disagreement(np.array(seen[len(seen) // 3 :])) > _MIXED
    else:
        wanted = int(replicas)
        ladder_needed = wanted > 1
    if not ladder_needed:
        for _ in iterations(sampler, tune - pilot, steps, tuning=True):
            pass
        return
    sampler.spread(ladder(wanted or _FIRST_LADDER, beta_min))
    third = (tune - pilot) // 3
    for _ in range(2):
        swapped = [step.swapped for step in iterations(sampler, third, steps, tuning=True)]
        if swapped:
            sampler.respace(np.mean(swapped[len(swapped) // 4 :], axis=0), wanted)
    for _ in iterations(sampler, tune - pilot - 2 * third, steps, tuning=True):
        pass


def iterations(sampler: Replicas, n: int, steps: Steps, *, tuning: bool) -> Iterator[Iteration]:
    """Iterate, and show it."""
    for _ in range(n):
        iteration = sampler.iterate(tuning=tuning)
        steps.advance(
            log_likelihood=float(sampler.by_chain(sampler.known.log_likelihood)[:, 0].mean()),
            replicas=len(sampler.beta),
        )
        yield iteration


def _watched(sampler: Replicas) -> Array:
    """Invariants of each chain by which agreement is judged, shape (C, V)."""
    states = sampler.by_chain(sampler.states)[:, 0]
    log_likelihood = sampler.by_chain(sampler.known.log_likelihood)[:, 0]
    if sampler.posterior.ensemble.X is None:
        return log_likelihood[:, None]
    Z = sampler.posterior.ensemble.positions(states)
    pairs = np.random.default_rng(0).integers(Z.shape[1], size=(2, 60))
    distances = np.linalg.norm(Z[:, pairs[0]] - Z[:, pairs[1]], axis=-1)
    return np.column_stack([log_likelihood, distances[:, pairs[0] != pairs[1]]])


def _disagreement(seen: Array) -> float:
    """R-hat that all but one in twenty of the invariants stay below; (draw, chain, variable)."""
    import arviz_stats

    values = xr.DataArray(seen, dims=("draw", "chain", "variable")).transpose("chain", "draw", ...)
    rhat = arviz_stats.rhat(values.to_dataset(name="watched"))["watched"].to_numpy()
    return float(np.nanquantile(rhat, 0.95))  # a short run's largest is large by chance
