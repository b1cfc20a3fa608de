"""The record of a sampler's draws, and the fit that is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.data.fit import Fit, to_json
from pm_gplvm.model.results import as_fit
from pm_gplvm.sampling.replicas import Iteration, Replicas

_FEWEST = 20  # draws a chain of which R-hat says something


def r_hat_so_far(chains: Sequence[Any] | Array) -> float:
    """Largest R-hat of chains, each (draw, number), cut to the shortest; NaN where they are too short."""
    import arviz_stats

    length = min(map(len, chains), default=0)
    if length < _FEWEST:
        return float("nan")
    values = np.stack([np.asarray(chain[:length]) for chain in chains])
    whole = xr.DataArray(values, dims=("chain", "draw", "number")).to_dataset(name="r_hat")
    with np.errstate(divide="ignore", invalid="ignore"):  # where a chain stood still
        return float(arviz_stats.rhat(whole)["r_hat"].max())


@dataclass
class Record:
    """The draws so far, one entry each."""

    states: list[Array] = field(default_factory=list)  # those not yet in ``named``
    log_likelihood: list[Array] = field(default_factory=list)
    lp: list[Array] = field(default_factory=list)
    stats: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    swapped: list[Array] = field(default_factory=list)
    named: dict[str, Array] = field(default_factory=dict)
    groups: dict[str, xr.Dataset] = field(default_factory=dict)  # what else the fit is to hold
    interrupted: bool = False

    @classmethod
    def of(cls, read: Fit) -> "Record":
        """Read the draws of a previous fit."""
        groups = {name: read.group(name) for name in ("neighbourhood",) if read.group(name)}
        record, stats = cls(groups=groups), read.stats
        names = [str(n) for n in stats.data_vars if n not in ("lp", "log_likelihood")]
        tempering = read.group("tempering")
        for i in range(stats.sizes["draw"]):
            record.lp.append(stats["lp"].to_numpy()[:, i])
            record.stats.append({name: stats[name].to_numpy()[:, i] for name in names})
            record.log_likelihood.append(tempering["log_likelihood"].to_numpy()[:, i])
            record.swapped.append(tempering["swap_rate"].to_numpy())
        record.named = {
            str(name): value.to_numpy() for name, value in read.posterior.data_vars.items()
        }
        return record

    def add(self, sampler: Replicas, iterations: list[Iteration]) -> None:
        """Record the present states as a draw."""
        first = sampler.by_chain(sampler.states)[:, 0].copy()
        log_likelihood = sampler.by_chain(sampler.known.log_likelihood).copy()
        prior = sampler.by_chain(sampler.known.log_prior)[:, 0]
        self.states.append(first)
        self.log_likelihood.append(log_likelihood)
        ensemble = sampler.posterior.ensemble
        jacobian = ensemble.log_jacobian(ensemble.unpack(first))
        self.lp.append(log_likelihood[:, 0] + prior - jacobian)
        self.swapped.append(np.mean([step.swapped for step in iterations], axis=0))
        self.stats.append(
            {
                "acceptance_rate": np.mean([s.acceptance[:, 0] for s in iterations], axis=0),
                "diverging": np.any([s.diverged[:, 0] for s in iterations], axis=0),
                "moved": np.mean([s.moved[:, 0] for s in iterations], axis=0),
                "fresh_lineages": np.sum([s.fresh for s in iterations], axis=0),
                "n_steps": np.full(
                    sampler.chains, sum(step.n_steps for step in iterations), dtype=np.int64
                ),
            }
        )

    def interrupt(self) -> None:
        """Mark the run as interrupted, and drop an incomplete draw."""
        self.interrupted = True
        whole = len(self.stats)
        written = next(iter(self.named.values())).shape[1] if self.named else 0
        del self.states[whole - written :]
        for kept in (self.log_likelihood, self.lp, self.swapped):
            del kept[whole:]

    def tree(self, model: pm.Model, sampler: Replicas, settings: Mapping[str, Any]) -> xr.DataTree:
        """Make a fit of the draws so far."""
        if self.states:
            states = np.stack(self.states, axis=1)
            chains, new = states.shape[:2]
            draws = sampler.posterior.ensemble.draws(states.reshape(chains * new, -1))
            for name, value in draws.items():
                value = value.reshape(chains, new, *value.shape[1:])
                before = self.named.get(name)
                self.named[name] = value if before is None else np.concatenate([before, value], 1)
            self.states.clear()
        temperatures = ("chain", "draw", "replica")
        log_likelihood = np.stack(self.log_likelihood, axis=1)
        tempering = xr.Dataset(
            {
                "log_likelihood": (temperatures, log_likelihood),
                "beta": ("replica", sampler.beta),
                "swap_rate": ("pair", np.mean(self.swapped, axis=0)),
            }
        )
        state = xr.Dataset(
            {
                "state": (("chain", "replica", "coordinate"), sampler.by_chain(sampler.states)),
                "beta": ("replica", sampler.beta),
                "step_size": ("replica", sampler.steps.values),
                "from_hot": (("chain", "replica"), sampler.by_chain(sampler.from_hot).astype(int)),
            },
            attrs={
                "generator": to_json(sampler.rng.bit_generator.state),
                "n_proposals": int(sampler.n_proposals),
            },
        )
        stats = {name: np.stack([s[name] for s in self.stats], axis=1) for name in self.stats[0]}
        return as_fit(
            model,
            self.named,
            method="replica_exchange",
            sample_stats={
                "lp": np.stack(self.lp, axis=1),
                "log_likelihood": log_likelihood[:, :, 0],
                **stats,
            },
            settings={
                **settings,
                "draws": len(self.lp),
                "replicas": len(sampler.beta),
                "interrupted": int(self.interrupted),
            },
            groups={"tempering": tempering, "sampler": state, **self.groups},
        )
