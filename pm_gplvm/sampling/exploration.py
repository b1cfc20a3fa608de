"""What a sampler explores: the whole posterior, several embeddings, or the neighbourhood of one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pymc.model.fgraph import clone_model
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from pm_gplvm.core.checks import Array, warn
from pm_gplvm.core.importance import left_out_weights
from pm_gplvm.core.interrupt import safe_point
from pm_gplvm.core.kernels import unit_of
from pm_gplvm.data.fit import OBS, evenly_spaced
from pm_gplvm.data.progress import Bar
from pm_gplvm.model.density import compile_constrain
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.sampling.replicas import Posterior, leave_rows_out

Exploration = Literal["global", "ensemble", "local"]

EXPLORE = ("auto", "global", "ensemble", "local")
CHAINS = {"global": 4, "ensemble": 8, "local": 4}

_LADDER = 60  # rows up to which a ladder of temperatures finds one embedding after another
_HOPELESS = 100  # rows from which nobody has seen it do so

_SCORED = 40  # draws a chain by which the chains of an ensemble are weighed
_INTEGRAL = 256  # positions of a row by which its own is integrated out
_ROUNDS, _SETTLED = 5000, 1e-10

_NEIGHBOURS = 8
_SLACK, _WALL = 0.7, 0.1  # in lengthscales of the reference


def chosen_exploration(
    explore: str, n_rows: int, start: Sequence[Any], *, tempered: bool, moves: bool
) -> Exploration:
    """Choose what to explore, and say beforehand what cannot be hoped for.

    ``start`` lists where the chains begin. ``tempered``: whether the caller asked for temperatures.
    ``moves``: whether X is a free variable.
    """
    if explore not in EXPLORE:
        raise ValueError(f"explore must be one of {', '.join(EXPLORE)}, got {explore!r}.")
    chosen = explore
    if explore == "auto":
        many = moves and not tempered and n_rows > _LADDER
        chosen = "ensemble" if many else "global"
    if chosen != "global" and not moves:
        raise ValueError(f"explore={explore!r} needs a free X, got one that is held fixed.")
    if chosen != "global" and tempered:
        raise ValueError(
            f"explore={explore!r} has no temperatures, got replicas or beta_min. Leave them out, or take "
            "explore='global'."
        )
    one_fit = len(start) == 1 and not isinstance(start[0], str)
    if chosen == "local" and not one_fit:
        found = f"{len(start)} starts" if len(start) > 1 else f"start={start[0]!r}"
        raise ValueError(
            f"explore='local' needs the embedding whose neighbourhoods are kept, got {found}. Pass "
            "start=fit_marginal(model)."
        )
    if chosen == "ensemble" and one_fit:
        warn(
            "sample: all chains of the ensemble begin at one fit, and will tell of that embedding alone. Leave "
            "start out, pass a list of fits, or take explore='local'."
        )
    if explore == "global" and n_rows > _HOPELESS:
        warn(
            f"sample: the whole posterior of {n_rows} rows is out of reach of explore='global': of 100 rows "
            "22 temperatures found not one embedding as good as the best of single chains in 360 CPU "
            "seconds. explore='ensemble' predicts by several embeddings."
        )
    return cast(Exploration, chosen)


# Ensembles


def stacking_weights(scores: Array) -> Array:
    r"""Weigh chains (C,) by how well their mixture predicts rows left out.

    They maximise :math:`\sum_n \ln \sum_c w_c e^{s_{cn}} + \alpha \sum_c \ln w_c` by EM, for log scores s (C, N)
    (Yao, Vehtari & Gelman 2022, Journal of Machine Learning Research 23, section 2.2). The second term
    is a prior towards equal weights, :math:`\alpha = \sqrt{N / C}`: so much does the number of rows vary
    that one of C equal chains predicts best.

    Examples
    --------
    >>> stacking_weights(np.zeros((4, 50))).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    C, N = scores.shape
    weights, prior = np.full(C, 1.0 / C), np.sqrt(N / C)
    for _ in range(_ROUNDS):
        logs = scores + np.log(weights)[:, None]
        new = np.exp(logs - logsumexp(logs, axis=0)).sum(axis=1) + prior
        new /= new.sum()
        if np.abs(new - weights).max() < _SETTLED:
            break
        weights = new
    return new


def ensemble_of(
    model: pm.Model, posterior: Posterior, states: Array, seed: int, cores: int, steps: Bar
) -> xr.Dataset:
    """Weigh chains by their draws (chain, draw, P): the group ``ensemble`` of a fit.

    ``score`` (chain, obs) is ln p(row given the others), its position integrated out, by the chain's draws
    with Pareto-smoothed weights for that they have seen the row. Ctrl-C ends it between two chains.
    """
    some = states[:, evenly_spaced(states.shape[1], _SCORED)]
    streams = np.random.default_rng(seed).integers(2**63, size=len(states))

    def of_chain(own: Array, stream: int) -> Array:
        logs = leave_rows_out(posterior, own, _INTEGRAL, np.random.default_rng(stream))
        logs = logs[np.isfinite(logs).all(axis=1)]
        if not len(logs):
            return np.full(logs.shape[1], np.nan)
        return np.asarray(logsumexp(left_out_weights(logs)[0] + logs, axis=0))

    found = []
    with ThreadPoolExecutor(cores if posterior.native is not None else 1) as pool:
        tasks = [pool.submit(of_chain, *each) for each in zip(some, streams, strict=True)]
        try:
            for task in tasks:
                safe_point()
                found.append(task.result())
                steps.advance()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    scores = np.array(found)
    least = np.nanmin(scores, axis=0) if np.isfinite(scores).any() else 0.0
    weights = stacking_weights(np.where(np.isnan(scores), least, scores))
    obs = np.asarray(model.coords.get(OBS, np.arange(scores.shape[1])))
    return xr.Dataset(
        {"weight": ("chain", weights), "score": (("chain", OBS), scores)},
        coords={"chain": np.arange(len(weights)), OBS: obs},
    )


# The neighbourhoods of an embedding


def neighbourhood_of(model: pm.Model, values: dict[str, Array]) -> xr.Dataset:
    """Describe the neighbourhoods of an embedding: the group ``neighbourhood`` of a fit.

    ``neighbours`` (obs, neighbour) of each row in ``X`` (obs, latent), ``radius`` (obs,) of the ball about
    their mean in which the row may lie, and the width of the ball's wall.
    """
    X = np.asarray(values["X"])
    free = compile_constrain(model)(*[values[v.name] for v in model.value_vars])
    each = [
        unit_of(
            part.kernel,
            X.shape[1],
            free.get(part.own("lengthscale"), part.fixed.get("lengthscale", 1.0)),
        )
        for part in ModelSpec.of(model, views=True).parts
    ]
    lengthscale = float(np.mean(each))
    distance = cdist(X, X)
    np.fill_diagonal(distance, np.inf)
    k = min(_NEIGHBOURS, len(X) - 1)
    nearest = np.argsort(distance, axis=1)[:, :k]
    off = np.linalg.norm(X - X[nearest].mean(axis=1), axis=1)
    return xr.Dataset(
        {
            "X": ((OBS, "latent"), X),
            "neighbours": ((OBS, "neighbour"), nearest),
            "radius": (OBS, off + _SLACK * lengthscale),
        },
        coords={OBS: np.asarray(model.coords.get(OBS, np.arange(len(X))))},
        attrs={"wall": _WALL * lengthscale},
    )


def within(model: pm.Model, neighbourhood: xr.Dataset) -> pm.Model:
    """Keep every row within its ball: a copy of the model with a potential, 0 inside, Gaussian outside."""
    walled = clone_model(model)
    nearest = neighbourhood["neighbours"].to_numpy().astype(int)
    radius, wall = neighbourhood["radius"].to_numpy(), float(neighbourhood.attrs["wall"])
    with walled:
        X = walled["X"]
        off = X - X[nearest].mean(axis=1)
        # The root is smooth at 0 too.
        outside = pt.maximum(pt.sqrt((off**2).sum(axis=1) + 1e-12) - radius, 0.0)
        pm.Potential("neighbourhood", -0.5 * ((outside / wall) ** 2).sum())
    return walled
