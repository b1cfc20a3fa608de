"""Simulation-based calibration of the sampler."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr
from scipy.stats import chisquare, kstest

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import INTERVAL, Array, checked, count, warn
from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.core.interrupt import caught, interrupted, interruptible, safe_point
from pm_gplvm.data.arrays import finite
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.diagnostics.invariants import Indices, row_pairs
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import start_values
from pm_gplvm.sampling.prior import sample_prior
from pm_gplvm.sampling.replicas import Posterior, Replicas, chosen_backend, compile_posterior


@checked
def sbc(
    model: pm.Model,
    *,
    n_replicates: int = 200,
    draws: int = 25,
    thin: int = 4,
    tune: int = 100,
    chains: int = 4,
    n_pairs: int = 3,
    backend: Literal["auto", "numba", "python"] = "auto",
    random_seed: int | None = None,
    progressbar: bool = True,
) -> xr.Dataset:
    """Rank true values among the sampler's draws, over simulated tables.

    θ, X and Y are drawn from the model's priors, and (θ, X) sampled given Y, from a random
    start. If the sampler draws from the posterior, the rank of the true
    value of any quantity among the draws is uniform (Talts, Betancourt, Simpson, Vehtari & Gelman
    2018, arXiv:1804.06788, theorem 1).

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, all priors proper. Only the size, mean and scale of its table are
        used.
    n_replicates : int, default 200
        Number of tables.
    draws, thin, tune, chains : int
        For each table: kept draws a chain, iterations a kept draw, tuning iterations,
        and chains, each from a random start.
    n_pairs : int, default 3
        Number of pairs of rows whose distance in lengthscales is ranked.
    backend : {"auto", "numba", "python"}, default "auto"
        As of :func:`sample`, for the iterations of all tables.
    random_seed : int, optional
    progressbar : bool, default True

    Returns
    -------
    Dataset, dims (replicate)
        Ranks of each θ, of ``log_likelihood`` and of ``distance_0`` and so on, from 0 to
        ``attrs["draws"]``, the number of draws of all chains.

    Warns
    -----
    RuntimeWarning
        If Ctrl-C ended it: the ranks of whole tables are returned, and ``attrs["interrupted"]`` is 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, a prior is flat or :func:`sample` does not support the model.
    KeyboardInterrupt
        At Ctrl-C before the first table has its ranks, and at the second Ctrl-C.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=6), latent_dim=1)
    >>> few = {"n_replicates": 2, "draws": 9, "tune": 5, "random_seed": 1, "progressbar": False}
    >>> ranks = gplvm.diagnostics.sbc(model, **few)
    >>> ranks["sigma"].sizes["replicate"]
    2
    """
    counts = {"n_replicates": n_replicates, "draws": draws, "thin": thin, "tune": tune}
    for name, value in {**counts, "chains": chains, "n_pairs": n_pairs}.items():
        count(name, value)
    made_of = chosen_backend(backend, n_replicates * (tune + draws * thin) * chains)
    ModelSpec.of(model).table.require_complete(caller="sbc")
    with (
        interruptible(keeps=True),
        limit_threads(1),
        progress_bar("sbc", n_replicates, "tables", show=progressbar) as progress,
    ):
        rng = np.random.default_rng(random_seed)
        posterior = compile_posterior(model, made_of)
        ensemble = posterior.ensemble
        if ensemble.X is None:
            raise ValueError("sbc needs a model with a free, unbounded X.")
        prior = sample_prior(model, draws=n_replicates, random_seed=int(rng.integers(2**31)))
        held = Fit(prior).constants
        centre, scale = held["Y_mean"].to_numpy(), held["Y_scale"].to_numpy()
        tables = prior["prior_predictive"]["Y"].transpose(..., "obs", "feature").to_numpy()[0]
        truths = _states(model, prior, ensemble)
        pairs = np.stack(row_pairs(tables.shape[1], n_pairs))
        ranks: list[dict[str, int]] = []
        try:
            for i in range(n_replicates):
                simulated = _with_data(posterior, (tables[i] - centre) / scale)
                starts = np.array(
                    [ensemble.inward(start_values(model, "random", rng)) for _ in range(chains)]
                )
                states = _sampled(simulated, starts, draws, thin, tune, rng)
                seen = _quantities(simulated, states, pairs)
                truth = _quantities(simulated, truths[i][None], pairs)
                # Ties, which occur only where a row never moved, are broken at random.
                ranks.append(
                    {
                        name: int((values < truth[name][0]).sum())
                        + int(rng.integers(0, (values == truth[name][0]).sum() + 1))
                        for name, values in seen.items()
                    }
                )
                progress.advance()
        except KeyboardInterrupt:
            if not ranks:
                raise
            caught()
        found = xr.Dataset(
            {name: ("replicate", [rank[name] for rank in ranks]) for name in ranks[0]},
            attrs={"draws": int(draws * chains), "interrupted": int(interrupted())},
        )
    if found.attrs["interrupted"]:
        warn(
            f"sbc was interrupted: the ranks of {len(ranks)} of {n_replicates} tables are kept. For more, "
            "call it again with another random_seed and join them by xarray.concat(..., 'replicate')."
        )
    return found


@checked
def sbc_test(ranks: xr.Dataset, *, n_bins: int = 10) -> pd.DataFrame:
    """Test whether ranks are uniform.

    Parameters
    ----------
    ranks : Dataset
        From :func:`diagnostics.sbc`.
    n_bins : int, default 10

    Returns
    -------
    DataFrame
        One row a quantity: p-values of Pearson's χ² test in ``n_bins`` bins and of Kolmogorov
        and Smirnov's, and the share of the truths inside the central 89 % interval of the draws.

    Raises
    ------
    TypeError, ValueError
        If ``ranks`` are not what :func:`diagnostics.sbc` returns, or ``n_bins`` is below 2.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> even = xr.Dataset({"sigma": ("replicate", np.arange(100))}, attrs={"draws": 99})
    >>> float(sbc_test(even).loc["sigma", "chi2_p"])
    1.0
    """
    count("n_bins", n_bins, 2)
    known, most = _checked_ranks(ranks)
    table = {}
    for name, values in known.items():
        share = (values + 0.5) / (most + 1)
        counts = np.histogram(share, bins=n_bins, range=(0.0, 1.0))[0]
        table[name] = {
            "chi2_p": chisquare(counts).pvalue,
            "ks_p": kstest(share, "uniform").pvalue,
            "coverage_89": ((share > INTERVAL[0]) & (share < INTERVAL[1])).mean(),
        }
    return pd.DataFrame(table).T


def _checked_ranks(ranks: Any) -> tuple[dict[str, Array], int]:
    """Ranks by name, and the largest that one can be."""
    if not isinstance(ranks, xr.Dataset):
        raise TypeError(f"ranks must be a Dataset of sbc, got {type(ranks).__name__}.")
    if not ranks.data_vars:
        raise ValueError("ranks must hold the ranks of a quantity or more, got none.")
    most = count("ranks.attrs['draws']", ranks.attrs.get("draws"))
    known = {str(n): finite(f"ranks[{n!r}]", values) for n, values in ranks.data_vars.items()}
    for name, values in known.items():
        if values.ndim != 1 or not values.size:
            raise ValueError(
                f"ranks[{name!r}] must have one rank a table, got shape {values.shape}."
            )
        if (values != np.round(values)).any() or values.min() < 0 or values.max() > most:
            raise ValueError(
                f"ranks[{name!r}] must be whole numbers from 0 to {most}, the number of draws, got others."
            )
    return known, most


def _states(model: pm.Model, prior: xr.DataTree, ensemble: Any) -> list[Array]:
    """Convert the prior draws to states of the ensemble."""
    drawn = prior["prior"].to_dataset()
    states = []
    for i in range(drawn.sizes["draw"]):
        named = {str(n): v.to_numpy()[0, i] for n, v in drawn.data_vars.items()}
        values = start_values(model, named, np.random.default_rng(0))
        states.append(ensemble.inward(values))
    return states


def _with_data(posterior: Posterior, F: Array) -> Posterior:
    """Give the model another table; the compiled functions are shared, and follow."""
    posterior.ensemble.table.factor.set_value(gram_factor(F))
    (table,) = posterior.tables
    return replace(posterior, F=F, tables=(replace(table, F=F),))


def _sampled(
    posterior: Posterior,
    starts: Array,
    draws: int,
    thin: int,
    tune: int,
    rng: np.random.Generator,
) -> Array:
    """Sample from each of the starts (C, P) without tempering: states, shape (draws · C, P)."""
    sampler = Replicas(
        posterior, starts[:, None], np.ones(1), np.full(1, 0.03), n_proposals=32, rng=rng
    )
    for _ in range(tune):
        safe_point()
        sampler.iterate(tuning=True)
    states = []
    for _ in range(draws):
        for _ in range(thin):
            safe_point()
            sampler.iterate()
        states.append(sampler.states.copy())
    return np.concatenate(states)


def _quantities(posterior: Posterior, states: Array, pairs: Indices) -> dict[str, Array]:
    """Compute the ranked quantities at each state, for these pairs of rows (2, P)."""
    ensemble = posterior.ensemble
    named = ensemble.draws(states)
    _, lengthscale = posterior.placed(named, len(states))
    Z = named["X"] / lengthscale
    found = {name: v for name, v in named.items() if v.ndim == 1}
    found["log_likelihood"] = ensemble(states).log_likelihood
    distances = np.linalg.norm(Z[:, pairs[0]] - Z[:, pairs[1]], axis=-1)
    return found | {f"distance_{k}": distances[:, k] for k in range(pairs.shape[1])}
