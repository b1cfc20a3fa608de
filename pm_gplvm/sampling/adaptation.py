"""Adaptation of the sampler: step sizes, and the schedule of temperatures where one is needed."""

from collections.abc import Iterator
from copy import copy

import numpy as np
import xarray as xr

from pm_gplvm.core.checks import Array
from pm_gplvm.core.interrupt import safe_point
from pm_gplvm.data.progress import Bar
from pm_gplvm.sampling.replicas import Iteration, Replicas
from pm_gplvm.sampling.transitions import first_schedule, melting_power

_FIRST_REPLICAS = 10  # replicas until the first swaps have told how many it takes
_HOTTEST_START = 0.05  # power of the likelihood from which the chains are cooled
_ANNEALED = 200  # iterations in which the chains of an ensemble are, half of the adaptation at most
_FLATTEST = 0.2  # power of the likelihood at which it is looked for where structure melts
_MIXED = 1.25  # R-hat between chains above which they disagree
_TOO_FEW = 20  # iterations that tell nothing


def anneal(sampler: Replicas, tune: int, steps: Bar, *, cooled: bool) -> Replicas:
    """Adapt step sizes at β = 1, after the chains were cooled to it, slowly, unless they begin at fits."""
    done = _cool(sampler, max(min(_ANNEALED, tune // 2), 1), steps) if cooled and tune else 0
    return _learn(sampler, tune - done, steps)


def adapt(
    sampler: Replicas,
    tune: int,
    replicas: int | str,
    beta_min: float | str,
    steps: Bar,
    *,
    cooled: bool = True,
    dispersed: bool = True,
) -> Replicas:
    """Adapt step sizes, and temperatures where there are several.

    The chains are first cooled to β = 1, so that they leave the optima in which they began, unless these
    were given. With "auto", temperatures are added if the chains then disagree: they bring them to where the
    posterior has its weight. They are dropped again if the chains agree without them from there on. Chains
    that begin at one place agree for that alone: they are not asked. Returns the sampler to go on with.
    """
    wanted = None if replicas == "auto" else int(replicas)
    judged = wanted is None and beta_min != 0.0 and dispersed
    first = _FLATTEST if isinstance(beta_min, str) else beta_min
    eighth = max(tune // 8, 1)
    left = tune - (_cool(sampler, eighth, steps) if cooled else 0)
    if judged:
        left -= eighth
        if _agrees(sampler, eighth, steps):
            return _learn(sampler, left, steps)
    if wanted == 1:
        return _learn(sampler, left, steps)
    sampler.temper(first_schedule(wanted or _FIRST_REPLICAS, first))
    for part in (eighth, 2 * eighth):
        left -= part
        swapped, seen = [], []
        for step in iterations(sampler, part, steps, tuning=True):
            swapped.append(step.swapped)
            seen.append(sampler.by_chain(sampler.known.log_likelihood).mean(axis=0))
        kept = len(swapped) // 4
        lowest = None
        if isinstance(beta_min, str) and kept:
            level = np.mean(seen[-2 * kept :], axis=0)
            lowest = melting_power(sampler.beta, level, sampler.posterior.unexplained)
        sampler.adapt_schedule(np.mean(swapped[kept:], axis=0), wanted, lowest)
    if judged:
        untempered = copy(sampler)
        untempered.temper(np.ones(1))
        left -= 2 * eighth
        if _agrees(untempered, 2 * eighth, steps):
            sampler = untempered
    return _learn(sampler, left, steps)


def iterations(sampler: Replicas, n: int, steps: Bar, *, tuning: bool) -> Iterator[Iteration]:
    """Iterate, and show the progress; Ctrl-C ends it between two iterations."""
    for _ in range(n):
        safe_point()
        iteration = sampler.iterate(tuning=tuning)
        steps.advance(
            log_likelihood=float(sampler.by_chain(sampler.known.log_likelihood)[:, 0].mean()),
            replicas=len(sampler.beta),
        )
        yield iteration


def _learn(sampler: Replicas, n: int, steps: Bar) -> Replicas:
    """Iterate, adapting the step sizes."""
    for _ in iterations(sampler, n, steps, tuning=True):
        pass
    return sampler


def _cool(sampler: Replicas, n: int, steps: Bar) -> int:
    """Raise β to 1 in n iterations."""
    for beta in np.geomspace(_HOTTEST_START, 1.0, n):
        sampler.beta = np.array([beta])
        _learn(sampler, 1, steps)
    sampler.beta = np.ones(1)
    return n


def _agrees(sampler: Replicas, n: int, steps: Bar) -> bool:
    """Iterate; whether the chains agree in the latter two thirds."""
    seen = [_invariants(sampler) for _ in iterations(sampler, n, steps, tuning=True)]
    return n >= _TOO_FEW and _disagreement(np.array(seen[n // 3 :])) <= _MIXED


def _invariants(sampler: Replicas) -> Array:
    """Invariants of each chain by which agreement is judged, shape (C, V)."""
    states = sampler.by_chain(sampler.states)[:, 0]
    log_likelihood = sampler.by_chain(sampler.known.log_likelihood)[:, 0]
    if sampler.posterior.ensemble.X is None:
        return log_likelihood[:, None]
    Z = sampler.posterior.ensemble.latent(states)
    pairs = np.random.default_rng(0).integers(Z.shape[1], size=(2, 60))
    distances = np.linalg.norm(Z[:, pairs[0]] - Z[:, pairs[1]], axis=-1)
    return np.column_stack([log_likelihood, distances[:, pairs[0] != pairs[1]]])


def _disagreement(seen: Array) -> float:
    """R-hat that all but one in twenty of the invariants stay below; (draw, chain, variable)."""
    import arviz_stats

    values = xr.DataArray(seen, dims=("draw", "chain", "variable")).transpose("chain", "draw", ...)
    rhat = arviz_stats.rhat(values.to_dataset(name="invariants"))["invariants"].to_numpy()
    return float(np.nanquantile(rhat, 0.95))  # a short run's largest is large by chance
