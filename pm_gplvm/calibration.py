"""Simulation-based calibration: whether the sampler's uncertainty is what it says it is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import chisquare, kstest

from pm_gplvm.checks import Array, count
from pm_gplvm.gaussian import gram_factor
from pm_gplvm.prior_draws import sample_prior
from pm_gplvm.replicas import Posterior, Replicas, compile_posterior
from pm_gplvm.spec import ModelSpec
from pm_gplvm.starts import start_values
from pm_gplvm.threads import blas_threads as limit_threads

__all__ = ["calibrate", "uniformity"]


def calibrate(
    model: pm.Model,
    *,
    n_replicates: int = 200,
    draws: int = 25,
    thin: int = 4,
    tune: int = 100,
    chains: int = 4,
    n_pairs: int = 3,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> xr.Dataset:
    """Draw tables from a model, sample each, and rank the truth among the draws.

    θ, X and Y are drawn from the model's priors, and (θ, X) sampled again given Y, from a start
    that does not know the truth. If the sampler draws from the posterior, the rank of the true
    value of any quantity among the draws is uniform (Talts, Betancourt, Simpson, Vehtari & Gelman
    2018, arXiv:1804.06788, theorem 1).

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, all priors proper. Its table gives the size, the mean and the
        scale, nothing else.
    n_replicates : int, default 200
        Tables.
    draws, thin, tune, chains : int
        Kept draws of each chain of each table, iterations for each of them, iterations before,
        and chains, each from a start of its own.
    n_pairs : int, default 3
        Pairs of rows whose distance in lengthscales is ranked.
    random_seed : int, optional
    progressbar : bool, default True

    Returns
    -------
    Dataset, dims (replicate)
        Ranks from 0 to ``attrs["draws"]``, the draws of all chains, of each θ, of ``log_likelihood`` and of
        ``distance_0`` and so on.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, a prior is flat or the model is one that :func:`sample`
        does not know.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=6), latent_dim=1)
    >>> ranks = gplvm.calibrate(model, n_replicates=2, draws=9, tune=5, progressbar=False)
    >>> ranks["sigma"].sizes["replicate"]
    2
    """
    counts = {"n_replicates": n_replicates, "draws": draws, "thin": thin, "tune": tune}
    for name, value in {**counts, "chains": chains, "n_pairs": n_pairs}.items():
        count(name, value)
    ModelSpec.of(model).table.require_complete(caller="calibrate")
    rng = np.random.default_rng(random_seed)
    posterior = compile_posterior(model)
    ensemble = posterior.ensemble
    if ensemble.X is None:
        raise ValueError("calibrate needs a model with a free, unbounded X.")
    prior = sample_prior(model, draws=n_replicates, random_seed=int(rng.integers(2**31)))
    centre, scale = (prior["constant_data"][f"Y_{n}"].to_numpy() for n in ("mean", "scale"))
    tables = prior["prior_predictive"]["Y"].transpose(..., "obs", "feature").to_numpy()[0]
    truths = _states(model, prior, ensemble)
    pairs = _pairs(tables.shape[1], n_pairs)
    ranks: list[dict[str, int]] = []
    with limit_threads(1):
        for i in track(range(n_replicates), "calibrate", disable=not progressbar):
            mine = _with_data(posterior, (tables[i] - centre) / scale)
            starts = np.array([_start(model, ensemble, rng) for _ in range(chains)])
            seen = _sampled(mine, starts, draws, thin, tune, pairs, rng)
            truth = _quantities(mine, truths[i][None], pairs)
            # Ties only occur where a row never moved; they are broken at random.
            ranks.append(
                {
                    name: int((values < truth[name][0]).sum())
                    + int(rng.integers(0, (values == truth[name][0]).sum() + 1))
                    for name, values in seen.items()
                }
            )
    return xr.Dataset(
        {name: ("replicate", [rank[name] for rank in ranks]) for name in ranks[0]},
        attrs={"draws": int(draws * chains)},
    )


def uniformity(ranks: xr.Dataset, *, n_bins: int = 10) -> pd.DataFrame:
    """Test whether ranks are uniform.

    Parameters
    ----------
    ranks : Dataset
        From :func:`calibrate`.
    n_bins : int, default 10

    Returns
    -------
    DataFrame
        One row a quantity: p-values of Pearson's χ² test in ``n_bins`` bins and of Kolmogorov
        and Smirnov's, and the share of the truths inside the central 89 % interval of the draws.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> even = xr.Dataset({"sigma": ("replicate", np.arange(100))}, attrs={"draws": 99})
    >>> float(uniformity(even).loc["sigma", "chi2_p"])
    1.0
    """
    top = ranks.attrs["draws"] + 1
    table = {}
    for name, values in ranks.data_vars.items():
        share = (values.to_numpy() + 0.5) / top
        counts = np.histogram(share, bins=n_bins, range=(0.0, 1.0))[0]
        table[name] = {
            "chi2_p": chisquare(counts).pvalue,
            "ks_p": kstest(share, "uniform").pvalue,
            "coverage_89": ((share > 0.055) & (share < 0.945)).mean(),
        }
    return pd.DataFrame(table).T


def _pairs(n_rows: int, n_pairs: int) -> NDArray[np.int64]:
    chosen = [(i, j) for i in range(n_rows) for j in range(i)]
    picked = np.linspace(0, len(chosen) - 1, min(n_pairs, len(chosen))).astype(int)
    return np.array(chosen)[picked].T


def _states(model: pm.Model, prior: xr.DataTree, ensemble: Any) -> list[Array]:
    """Bring the drawn truths into states of the ensemble."""
    drawn = prior["prior"].to_dataset()
    states = []
    for i in range(drawn.sizes["draw"]):
        named = {str(n): v.to_numpy()[0, i] for n, v in drawn.data_vars.items()}
        values = start_values(model, named, np.random.default_rng(0))
        states.append(ensemble.state(values))
    return states


def _start(model: pm.Model, ensemble: Any, rng: np.random.Generator) -> Array:
    values: Mapping[str, Array] = start_values(model, "random", rng)
    return np.asarray(ensemble.state(values))


def _with_data(posterior: Posterior, F: Array) -> Posterior:
    """Give the model another table; the compiled functions are shared, and follow."""
    posterior.ensemble.table.factor.set_value(gram_factor(F))
    return replace(posterior, F=F)


def _sampled(
    posterior: Posterior,
    starts: Array,
    draws: int,
    thin: int,
    tune: int,
    pairs: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, Array]:
    sampler = Replicas(
        posterior, starts[:, None], np.ones(1), np.full(1, 0.03), n_candidates=32, rng=rng
    )
    for _ in range(tune):
        sampler.iterate(tuning=True)
    states = []
    for _ in range(draws):
        for _ in range(thin):
            sampler.iterate()
        states.append(sampler.states.copy())
    return _quantities(posterior, np.concatenate(states), pairs)


def _quantities(posterior: Posterior, states: Array, pairs: NDArray[np.int64]) -> dict[str, Array]:
    """Compute what is ranked, at each state."""
    ensemble = posterior.ensemble
    named = ensemble.draws(states)
    _, lengthscale = posterior.theta(named, len(states))
    Z = named["X"] / lengthscale
    found = {name: v for name, v in named.items() if v.ndim == 1}
    found["log_likelihood"] = ensemble(states).log_likelihood
    distances = np.linalg.norm(Z[:, pairs[0]] - Z[:, pairs[1]], axis=-1)
    return found | {f"distance_{k}": distances[:, k] for k in range(pairs.shape[1])}
