"""Draws from the posterior of X and θ together."""

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pymc as pm
import xarray as xr

from pm_gplvm.chain_starts import begun, plain
from pm_gplvm.checks import count
from pm_gplvm.likelihood import mask_in
from pm_gplvm.progress import Steps
from pm_gplvm.recording import Record
from pm_gplvm.replicas import Posterior, Replicas, compile_posterior
from pm_gplvm.schema import require_fit
from pm_gplvm.store import check_writable, load, save
from pm_gplvm.threads import blas_threads as limit_threads
from pm_gplvm.tuning import iterations, tune_sampler

__all__ = ["sample", "sample_more"]

_CHECKPOINT = 60.0  # seconds between two writings of the store


def sample(
    model: pm.Model,
    start: Any = "pca",
    *,
    draws: int = 1000,
    tune: int = 500,
    chains: int = 4,
    thin: int = 1,
    replicas: int | Literal["auto"] = "auto",
    beta_min: float = 0.3,
    n_candidates: int = 64,
    random_seed: int | None = None,
    store: str | Path | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    r"""Draw from the posterior of the latent positions and the hyperparameters together.

    One iteration is, for each state, a short Hamiltonian trajectory in (Z = X / lengthscale,
    ln θ); then moves that take rows to other places (see :mod:`pm_gplvm.rowjumps`); then, if there
    are several replicas, swaps between powers β of the likelihood, 1 the posterior's own (see
    :mod:`pm_gplvm.exchange`). All of them leave the posterior of the stated model invariant.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, with any prior on X that has a density.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping, DataTree, or list of those
        Where the chains begin, each moved at random; a list is dealt out to the chains in turn,
        so that they can begin in different optima.
    draws, tune, chains : int
        Kept draws of each chain after ``tune`` iterations of adaptation, which are dropped.
    thin : int, default 1
        Iterations for each kept draw.
    replicas : int or "auto", default "auto"
        Replicas of each chain. "auto" tries one, and sets up a ladder if the chains then
        disagree, of as many replicas as let half of the swaps through; and leaves it again before
        the draws if the chains agree from there on.
    beta_min : float, default 0.3
        Power of the likelihood at the flattest replica. 0 is the prior, from which
        :func:`log_evidence` can be computed: the ladder is kept then; it takes more replicas.
    n_candidates : int, default 64
        Other places offered to a row at a time.
    random_seed : int, optional
    store : path, optional
        A new ``.nc`` or ``.zarr`` to which the draws so far are written every minute. What an
        interrupted run leaves there can be loaded, looked at and continued by
        :func:`sample_more`.
    progressbar : bool, default True
    blas_threads : int or None, default 1

    Returns
    -------
    DataTree
        ``posterior``: X and θ, raw: each draw in a frame of its own, see :func:`align`.
        ``sample_stats``: ``lp``, ``log_likelihood``, ``diverging``, ``acceptance_rate``,
        ``moved`` (share of rows that found another place), ``n_steps``. ``tempering``: the
        log-likelihood at every power ``beta``, and how often neighbours swapped. ``sampler``: what
        :func:`sample_more` needs. An interrupted run (Ctrl-C) returns what there is.

    Warns
    -----
    RuntimeWarning
        If it was interrupted, or trajectories diverged.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the covariance is not one of the table's or nothing is
        left to sample.
    FileExistsError
        If something stands at ``store``.

    Notes
    -----
    R-hat of X itself means nothing, as chains differ by rotations: see :func:`diagnose`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=12))
    >>> full = gplvm.sample(
    ...     model, draws=20, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> dict(full.posterior["X"].sizes)
    {'chain': 2, 'draw': 20, 'obs': 12, 'latent': 2}
    """
    counts = {"draws": draws, "tune": tune, "chains": chains, "thin": thin}
    counts["n_candidates"] = n_candidates
    if replicas != "auto":
        counts["replicas"] = replicas
    _check_counts(**counts)
    if not 0.0 <= beta_min < 1.0:
        raise ValueError(f"beta_min must lie in [0, 1), got {beta_min!r}.")
    if store is not None:
        check_writable(Path(store), overwrite=False)
    rng = np.random.default_rng(random_seed)
    model, starts = begun(model, start, chains, rng)
    posterior = compile_posterior(model)
    states = np.array([posterior.ensemble.state(values) for values in starts])
    settings = {"tune": tune, "thin": thin, "random_seed": random_seed}
    with limit_threads(blas_threads), Steps("sample", tune + draws * thin, progressbar) as steps:
        sampler = Replicas(
            posterior,
            states[:, None],
            np.ones(1),
            np.full(1, 0.01),
            n_candidates=n_candidates,
            rng=rng,
        )
        _check_start(sampler)
        sampler = tune_sampler(sampler, tune, replicas, beta_min, steps)
        record = _run(model, sampler, draws, thin, settings, store, steps)
    return _finished(model, sampler, record, settings, store)


def sample_more(
    model: pm.Model,
    fit: xr.DataTree | str | Path,
    *,
    draws: int = 1000,
    store: str | Path | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Go on with the chains of an earlier run, exactly as if it had not ended.

    Parameters
    ----------
    model : pm.Model
        The very model that was sampled; :func:`rebuild_model` makes it again from the fit.
    fit : DataTree or path
        From :func:`sample`, or the file to which it wrote.
    draws : int, default 1000
        Further draws of each chain.
    store, progressbar, blas_threads
        See :func:`sample`.

    Returns
    -------
    DataTree
        All draws, the earlier ones first.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` was not made by :func:`sample`, or of another model.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=12))
    >>> short = gplvm.sample(
    ...     model, draws=10, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> gplvm.sample_more(model, short, draws=10, progressbar=False).posterior.sizes["draw"]
    20
    """
    _check_counts(draws=draws)
    earlier = load(fit) if isinstance(fit, str | Path) else fit
    require_fit(earlier, "X", caller="sample_more")
    if "sampler" not in earlier.children:
        raise ValueError(
            "sample_more needs a fit made by sample, got one without the group 'sampler'."
        )
    if store is not None:
        check_writable(Path(store), overwrite=False)
    model = plain(model)
    posterior = compile_posterior(model)
    kept = earlier["sampler"].to_dataset()
    _check_same(model, posterior, earlier, kept)
    rng = np.random.default_rng()
    rng.bit_generator.state = json.loads(kept.attrs["generator"])
    settings = {n: json.loads(str(earlier.attrs[n])) for n in ("tune", "thin", "random_seed")}
    thin = int(settings["thin"])
    record = Record.of(earlier)
    with limit_threads(blas_threads), Steps("sample_more", draws * thin, progressbar) as steps:
        # Its densities are computed here, by as many threads as those of the run before.
        sampler = Replicas(
            posterior,
            kept["state"].to_numpy(),
            kept["beta"].to_numpy(),
            kept["step_size"].to_numpy(),
            n_candidates=int(kept.attrs["n_candidates"]),
            rng=rng,
        )
        record = _run(model, sampler, draws, thin, settings, store, steps, record)
    return _finished(model, sampler, record, settings, store)


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        count(name, value)


def _check_start(sampler: Replicas) -> None:
    value = sampler.known.log_likelihood + sampler.known.log_prior
    if not np.isfinite(value).all():
        raise ValueError(
            "start must have a finite density, got "
            f"{int((~np.isfinite(value)).sum())} chains outside the support or with a singular K. "
            "Start from a fit of fit_marginal."
        )


def _run(
    model: pm.Model,
    sampler: Replicas,
    draws: int,
    thin: int,
    settings: Mapping[str, Any],
    store: str | Path | None,
    steps: Steps,
    record: Record | None = None,
) -> Record:
    """Draw, and write what there is to the store now and then."""
    record = record or Record()
    written = time.monotonic()
    try:
        for _ in range(draws):
            record.add(sampler, list(iterations(sampler, thin, steps, tuning=False)))
            if store is not None and time.monotonic() - written > _CHECKPOINT:
                save(record.tree(model, sampler, settings), store, overwrite=True)
                written = time.monotonic()
    except KeyboardInterrupt:
        if not record.lp:
            raise
        record.interrupt()
    return record


def _finished(
    model: pm.Model,
    sampler: Replicas,
    record: Record,
    settings: Mapping[str, Any],
    store: str | Path | None,
) -> xr.DataTree:
    fit = record.tree(model, sampler, settings)
    if store is not None:
        save(fit, store, overwrite=True)
    found = []
    if record.interrupted:
        found.append(f"it was interrupted and has {len(record.lp)} draws a chain")
    divergences = int(fit["sample_stats"]["diverging"].sum())
    if divergences:
        found.append(f"{divergences} draws came after a divergence; give θ priors that bound it")
    if found:
        warnings.warn(f"sample: {'; '.join(found)}.", RuntimeWarning, stacklevel=3)
    return fit


def _check_same(model: pm.Model, posterior: Posterior, fit: xr.DataTree, kept: xr.Dataset) -> None:
    """Refuse to go on with another model or other data."""
    length = kept.sizes["coordinate"]
    observed = fit["observed_data"][fit.attrs["observed"]].to_numpy()
    rv = model.observed_RVs[0]
    data, seen = model.rvs_to_values[rv].eval(), mask_in(rv)
    data = data if seen is None else np.where(seen, data, np.nan)
    same = (
        length == posterior.ensemble.size
        and posterior.kernel == fit.attrs["kernel"]
        and observed.shape == data.shape
        and np.array_equal(observed, data, equal_nan=True)
    )
    if not same:
        raise ValueError(
            "model must be the one that was sampled, got one with other data, another kernel or "
            f"other variables ({posterior.ensemble.size} numbers a state, the fit has {length})."
        )
