"""Draws from the posterior of X and θ together."""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.graph.basic import Variable

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count
from pm_gplvm.core.interrupt import caught, interrupted, interruptible
from pm_gplvm.data.arrays import finite
from pm_gplvm.data.files import checkpoint, kept_in, load
from pm_gplvm.data.fit import OBS, Fit, warn_of
from pm_gplvm.data.progress import Bar, progress_bar
from pm_gplvm.data.views import view
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import perturbed, start_values
from pm_gplvm.sampling.adaptation import adapt, anneal, iterations
from pm_gplvm.sampling.exploration import (
    CHAINS,
    Exploration,
    chosen_exploration,
    ensemble_of,
    neighbourhood_of,
    within,
)
from pm_gplvm.sampling.record import Record, r_hat_so_far
from pm_gplvm.sampling.replicas import (
    BACKENDS,
    Posterior,
    Replicas,
    chosen_backend,
    compile_posterior,
    threads_of,
)

_CHECKPOINT = 60.0  # seconds between two writings of the store


@checked
def sample(
    model: pm.Model,
    *,
    start: Any = "pca",
    draws: int = 1000,
    tune: int = 500,
    chains: int | None = None,
    thin: int = 1,
    explore: Literal["auto", "global", "ensemble", "local"] = "auto",
    replicas: int | Literal["auto"] = "auto",
    beta_min: float | Literal["auto"] = "auto",
    n_proposals: int = 64,
    backend: Literal["auto", "numba", "python"] = "auto",
    random_seed: int | None = None,
    store: str | Path | None = None,
    cores: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    r"""Draw from the posterior of the latent positions and the hyperparameters together.

    One iteration has three kinds of transition, which all leave the posterior of the stated model
    invariant: a short Hamiltonian trajectory in (Z = X / lengthscale, ln θ); Gibbs updates of single
    rows and of blocks of them (see :mod:`pm_gplvm.core.row_moves`); and, with several replicas, swaps
    between powers β of the likelihood, 1 the posterior's own (see :mod:`pm_gplvm.sampling.transitions`).

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, with any prior on X that has a density.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping, DataTree, or list of those
        Where the chains begin, each perturbed at random. The elements of a list go to the chains in
        turn, so that they can begin in different optima. From what a word places the chains are annealed,
        from positions and fits they go on.
    draws, tune : int
        Kept draws of each chain after ``tune`` iterations of adaptation, which are dropped.
    chains : int, optional
        4, or 8 of an ensemble.
    thin : int, default 1
        Iterations for each kept draw.
    explore : {"auto", "global", "ensemble", "local"}
        "global": the posterior of X with all its embeddings, by temperatures where the chains need them.
        Beyond about 100 rows no budget was seen to reach it.
        "ensemble": chains from starts of their own, each at β = 1 in the embedding that it found, and weights by
        how well their mixture predicts rows left out (stacking, Yao et al. 2022). The weights say what
        predicts, not how probable an embedding is. :func:`predict`, :func:`embed`, :func:`log_predictive`,
        :func:`align`, :func:`compare` and plots take the chains in these proportions.
        "local": the posterior within the neighbourhoods of ``start``, a fit. A row may lie in a ball about the mean
        of its 8 nearest rows there, 0.7 lengthscales wider than its distance from it. What is sampled is the
        posterior times exp(-½ (d / 0.1 lengthscales)²) of each row, d how far it lies outside. It says how
        sure rows are within that picture, and nothing of other pictures; all chains begin in it.
        "auto" is "ensemble" of more than 60 rows if no temperatures are asked for, else "global".
    replicas : int or "auto", default "auto"
        Replicas of each chain. "auto" tries one. If the chains then disagree it adds temperatures, as
        many as let half of the swaps through, and drops them again before the draws if the chains
        agree from there on.
    beta_min : float or "auto", default "auto"
        Power of the likelihood at the flattest replica. "auto" finds the lowest, not below 0.2, at which
        the chains still hold most of the structure: under it they hold none, and cost as much. 0 is
        the prior, from which :func:`diagnostics.log_evidence` can be computed: the temperatures are kept then,
        and more are needed.
    n_proposals : int, default 64
        Positions proposed to a row at a time.
    backend : {"auto", "numba", "python"}, default "auto"
        What an iteration is made of: one function compiled by numba, which takes some seconds for each
        model and some more the first time on a machine, or NumPy calls. "auto" compiles for 2000
        iterations or more, all chains together. A prior that numba cannot compile has NumPy calls with
        any; ``attrs["backend"]`` tells. Both draw from the same posterior, from one seed other numbers.
    random_seed : int, optional
    store : path, optional
        A new ``.nc`` or ``.zarr`` to which the draws so far are written every minute. After an
        interruption it can be loaded, and continued by :func:`resume`.
    cores : int, optional
        Threads in which compiled iterations of the chains run, all that this process may use by default. The
        draws do not depend on it. NumPy's calls run in one.
    progressbar : bool, default True
    blas_threads : int or None, default 1

    Returns
    -------
    DataTree
        ``posterior``: X and θ, raw: each draw in a frame of its own, see :func:`align`.
        ``sample_stats``: ``lp``, ``log_likelihood``, ``diverging``, ``acceptance_rate``,
        ``moved`` (share of the updated rows that found another position), ``n_steps``, and
        ``fresh_lineages``: replicas that came down to β = 1 and had been at the flattest since they were
        last there. Added up, they are the number of embeddings that were looked for.
        ``tempering``: the log-likelihood at every power ``beta``, and the acceptance of the swaps.
        ``ensemble`` (if it is one and was not interrupted): the ``weight`` of each chain, and ``score`` (chain, obs), ln p of
        each row given the others. ``neighbourhood`` (if local): the reference, ``neighbours`` and ``radius``.
        ``sampler``: the state from which :func:`resume` goes on. ``attrs["start"]``: where the chains began, the
        words, or "given" for each state that was handed in. After Ctrl-C these are the
        whole draws so far, ``attrs["interrupted"]`` is 1, and :func:`resume` goes on as if it had not come.

    Warns
    -----
    RuntimeWarning
        If it was interrupted, trajectories diverged, ``explore="global"`` is asked of more than 100 rows, or all
        chains of an ensemble begin at one fit.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the covariance is not one of the table's or nothing is
        left to sample.
    FileExistsError
        If something stands at ``store``, or another run is writing it.
    KeyboardInterrupt
        At Ctrl-C before the first draw, and at the second Ctrl-C.

    Notes
    -----
    R-hat of X itself means nothing, as chains differ by rotations: see :func:`diagnose`.

    References
    ----------
    Yao, Y., Vehtari, A. and Gelman, A. (2022). Stacking for non-mixing Bayesian computations: the curse
    and blessing of multimodal posteriors. Journal of Machine Learning Research 23 (79), 1-45.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=12))
    >>> full = gplvm.sample(
    ...     model, draws=20, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> dict(full.posterior["X"].sizes)
    {'chain': 2, 'draw': 20, 'obs': 12, 'latent': 2}
    """
    counts = {"draws": draws, "tune": tune, "thin": thin, "n_proposals": n_proposals}
    if replicas != "auto":
        counts["replicas"] = replicas
    if chains is not None:
        counts["chains"] = chains
    for name, value in counts.items():
        count(name, value)
    explored = _exploration(model, explore, start, replicas != "auto" or beta_min != "auto")
    chains = CHAINS[explored] if chains is None else chains
    made_of = chosen_backend(backend, (tune + draws * thin) * chains)
    with kept_in("store", store), interruptible(keeps=True):
        rng = np.random.default_rng(random_seed)
        model, starts = chain_starts(model, start, chains, rng)
        groups = {}
        if explored == "local":
            groups["neighbourhood"] = neighbourhood_of(
                model, start_values(model, _several(start)[0], rng)
            )
        posterior = compile_posterior(_explored(model, groups), made_of)
        states = np.array([posterior.ensemble.inward(values) for values in starts])
        settings = {
            "tune": tune,
            "thin": thin,
            "random_seed": random_seed,
            "backend": posterior.backend,
            "explore": explored,
            "start": _places(start, chains),
        }
        cooled = all(isinstance(each, str) for each in _several(start))
        with (
            limit_threads(blas_threads),
            progress_bar("sample", tune, "tune", show=progressbar) as steps,
        ):
            sampler = Replicas(
                posterior,
                states[:, None],
                np.ones(1),
                np.full(1, 0.01),
                n_proposals=n_proposals,
                rng=rng,
                cores=threads_of(cores, len(states)),
            )
            _check_start(sampler)
            steps.begin("tune", tune, later=draws * thin)
            if explored == "global":
                dispersed = cooled or len(_several(start)) > 1
                sampler = adapt(
                    *(sampler, tune, replicas, beta_min, steps), cooled=cooled, dispersed=dispersed
                )
            else:
                sampler = anneal(sampler, tune, steps, cooled=cooled)
            steps.begin("draws", draws * thin)
            record = _run(
                model, sampler, draws, thin, settings, store, steps, Record(groups=groups)
            )
            whole = _finished(model, sampler, record, settings, store, steps)
    _warn(whole, record, store)
    return whole


@checked
def resume(
    model: pm.Model,
    fit: xr.DataTree | str | Path,
    *,
    draws: int = 1000,
    store: str | Path | None = None,
    cores: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Continue the chains of a previous run, with the same draws as one longer run.

    Parameters
    ----------
    model : pm.Model
        The model that was sampled; :func:`model.rebuild` makes it again from the fit.
    fit : DataTree or path
        From :func:`sample`, or the file to which it wrote.
    draws : int, default 1000
        Further draws of each chain.
    store, cores, progressbar, blas_threads
        See :func:`sample`.

    Returns
    -------
    DataTree
        All draws, those of ``fit`` first. Ctrl-C is taken as in :func:`sample`.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` was not made by :func:`sample`, or of another model.
    FileExistsError
        As in :func:`sample`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=12))
    >>> short = gplvm.sample(
    ...     model, draws=10, tune=20, chains=2, replicas=1, random_seed=1, progressbar=False
    ... )
    >>> gplvm.resume(model, short, draws=10, progressbar=False).posterior.sizes["draw"]
    20
    """
    earlier = load(fit) if isinstance(fit, str | Path) else fit
    read = Fit.of(earlier, "X", caller="resume", views=True)
    kept = read.group("sampler")
    if not kept:
        raise ValueError("resume needs a fit made by sample, got one without the group 'sampler'.")
    state, rng = _state_of(read)
    n_proposals = count("n_proposals in the group 'sampler' of fit", kept.attrs.get("n_proposals"))
    settings = {n: read.setting(n) for n in ("tune", "thin", "random_seed")}
    settings["explore"] = earlier.attrs.get("explore", "global")
    backend = settings["backend"] = earlier.attrs.get("backend", "python")
    if backend not in BACKENDS[1:]:
        wanted = " or ".join(BACKENDS[1:])
        raise ValueError(f"backend in the attrs of fit must be {wanted}, got {backend!r}.")
    for name, least in (("tune", 0), ("thin", 1)):
        count(f"{name} in the attrs of fit", settings[name], least)
    if "start" in earlier.attrs:  # fits of earlier versions do not know
        settings["start"] = earlier.attrs["start"]
    thin = int(settings["thin"])
    with kept_in("store", store), interruptible(keeps=True):
        model = untransformed(model)
        record = Record.of(read)
        posterior = compile_posterior(_explored(model, record.groups), backend)
        _check_same(model, posterior, read, kept)
        with (
            limit_threads(blas_threads),
            progress_bar("resume", draws * thin, "draws", show=progressbar) as steps,
        ):
            # Its densities are computed here, by as many threads as those of the run before.
            sampler = Replicas(
                posterior,
                state["state"],
                state["beta"],
                state["step_size"],
                n_proposals=n_proposals,
                rng=rng,
                cores=threads_of(cores, len(state["state"])),
            )
            sampler.from_hot = state["from_hot"].astype(bool).ravel()
            record = _run(model, sampler, draws, thin, settings, store, steps, record)
            longer = _finished(model, sampler, record, settings, store, steps)
    _warn(longer, record, store)
    return longer


def _state_of(read: Fit) -> tuple[dict[str, Array], np.random.Generator]:
    """Read where a sampler was, and its generator; ValueError if it could not have been there."""
    wanted = {
        "sampler": ("state", "beta", "step_size"),
        "tempering": ("log_likelihood", "swap_rate"),
        "sample_stats": ("lp",),
    }
    lost = [f"{g}/{n}" for g, names in wanted.items() for n in names if n not in read.group(g)]
    if lost:
        raise ValueError(
            f"resume needs a fit as sample made it, got one without {', '.join(lost)}."
        )
    kept, sizes = read.group("sampler"), read.posterior.sizes
    known = {n: finite(f"sampler/{n} of fit", kept[n]) for n in wanted["sampler"]}
    state, beta, step = known.values()
    # Fits of earlier versions do not know.
    known["from_hot"] = np.asarray(kept.get("from_hot", np.zeros(state.shape[:2])))
    draws = [read.group(g).sizes.get("draw") for g in ("tempering", "sample_stats")]
    right = {
        "a state of each chain at each temperature": state.ndim == 3
        and state.shape[:2] == (sizes["chain"], beta.size)
        and known["from_hot"].shape == state.shape[:2]
        and step.shape == beta.shape,
        "temperatures from 0 to 1": bool(((beta >= 0.0) & (beta <= 1.0)).all()),
        "step sizes above 0": bool((step > 0.0).all()),
        f"{sizes['draw']} draws in tempering and sample_stats": draws == 2 * [sizes["draw"]],
    }
    if wrong := [text for text, as_it_is in right.items() if not as_it_is]:
        raise ValueError(
            f"resume needs a fit as sample made it, with {', '.join(wrong)}, got other ones."
        )
    rng = np.random.default_rng()
    try:
        rng.bit_generator.state = json.loads(kept.attrs["generator"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            "resume needs a fit as sample made it, got one without the state of its generator."
        ) from None
    return known, rng


def _bounded(model: pm.Model) -> Variable | None:
    """X, if it is a free variable with a transform: rows are updated in its own units."""
    if not isinstance(model, pm.Model):
        raise TypeError(f"model must be a pm.Model, got {type(model).__name__}. See build_model.")
    if not model.free_RVs:
        raise ValueError("model must have a free variable, got every one fixed by a number.")
    X = next((rv for rv in model.free_RVs if rv.name == "X"), None)
    return X if X is not None and model.rvs_to_transforms[X] is not None else None


def untransformed(model: pm.Model) -> pm.Model:
    """Bring X into its own units, if it has a transform."""
    X = _bounded(model)
    return model if X is None else remove_value_transforms(model, [X])


def chain_starts(
    model: pm.Model, start: Any, chains: int, rng: np.random.Generator
) -> tuple[pm.Model, list[dict[str, Array]]]:
    """Bring X into its own units, and choose the values where each chain starts."""
    X = _bounded(model)
    starts = _starts(model, start, chains, rng)
    if X is None:
        return model, starts
    transformed, transform = model.rvs_to_values[X].name, model.rvs_to_transforms[X]
    for values in starts:
        inner = pt.constant(values.pop(transformed))
        values["X"] = transform.backward(inner, *X.owner.inputs).eval()
    return remove_value_transforms(model, [X]), starts


def _exploration(model: Any, explore: str, start: Any, tempered: bool) -> Exploration:
    """Choose what to explore, before any work."""
    if not isinstance(model, pm.Model):
        raise TypeError(f"model must be a pm.Model, got {type(model).__name__}. See build_model.")
    spec = ModelSpec.of(model, views=True)
    n_rows, moves = spec.X_shape[0], "X" in spec.free
    return chosen_exploration(explore, n_rows, _several(start), tempered=tempered, moves=moves)


def _explored(model: pm.Model, groups: Mapping[str, xr.Dataset]) -> pm.Model:
    """Give the model whose density is sampled."""
    near = groups.get("neighbourhood")
    return model if near is None else within(model, near)


def _several(start: Any) -> Sequence[Any]:
    """Put the starts of the chains into a list; a list of numbers is positions."""
    several = start if isinstance(start, Sequence) and not isinstance(start, str) else [start]
    if any(isinstance(each, int | float) for each in several):
        several = [start]
    if not several:
        raise ValueError("start must name at least one place to begin, got an empty list.")
    return several


def _starts(
    model: pm.Model, start: Any, chains: int, rng: np.random.Generator
) -> list[dict[str, Array]]:
    """Values for each chain, those of a list in turn, all perturbed."""
    several = _several(start)
    values = [start_values(model, each, rng) for each in several]
    chosen = [(values[c % len(values)], several[c % len(values)]) for c in range(chains)]
    return [
        perturbed(model, value, each, rng)
        if isinstance(each, str)
        else {name: v + 0.05 * rng.standard_normal(v.shape) for name, v in value.items()}
        for value, each in chosen
    ]


def _places(start: Any, chains: int) -> str:
    """Where the chains begin, each place once: the words, and "given" for what was handed in."""
    places = {
        each if isinstance(each, str) else id(each): each for each in _several(start)[:chains]
    }
    return ", ".join(each if isinstance(each, str) else "given" for each in places.values())


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
    steps: Bar,
    record: Record,
) -> Record:
    """Draw, and write the draws so far to the store every minute."""
    written = time.monotonic()
    # By the number of draws: whatever is done when Ctrl-C comes, the state is that of the last whole one.
    kept = deque([(len(record.lp), sampler.snapshot())], maxlen=2)
    try:
        for _ in range(draws):
            done = list(iterations(sampler, thin, steps, tuning=False))
            kept.append((len(record.lp) + 1, sampler.snapshot()))
            record.add(sampler, done)
            if steps.is_due():
                steps.advance(0, r_hat=r_hat_so_far(np.stack(record.lp, axis=1)[..., None]))
            if store is not None and time.monotonic() - written > _CHECKPOINT:
                checkpoint(record.tree(model, sampler, settings), store, caller="sample")
                written = time.monotonic()
    except KeyboardInterrupt:
        if not record.stats:
            raise
        caught()
        record.interrupt()
        sampler.restore(dict(kept)[len(record.stats)])
    return record


def _finished(
    model: pm.Model,
    sampler: Replicas,
    record: Record,
    settings: Mapping[str, Any],
    store: str | Path | None,
    steps: Bar,
) -> xr.DataTree:
    # Also if it came after the last iteration.
    record.interrupted = interrupted()
    if settings["explore"] == "ensemble" and record.states and not record.interrupted:
        states, seed = np.stack(record.states, axis=1), settings["random_seed"] or 0
        steps.begin("weights", len(states))
        try:
            record.groups["ensemble"] = ensemble_of(
                model, sampler.posterior, states, seed, sampler.cores, steps
            )
        except KeyboardInterrupt:  # all chains weigh the same then
            caught()
            record.interrupted = True
    fit = record.tree(model, sampler, settings)
    if store is not None:
        checkpoint(fit, store, caller="sample")
    return fit


def _warn(fit: xr.DataTree, record: Record, store: str | Path | None) -> None:
    divergences = int(np.sum([stats["diverging"] for stats in record.stats]))
    if record.interrupted:
        where = "fit" if store is None else repr(str(store))
        found = (
            f"it was interrupted and has {len(record.lp)} draws a chain. resume(model, {where}, draws=...) "
            "goes on as if it had not been"
        )
    elif divergences:
        found = f"{divergences} draws came after a divergence; give θ priors that bound it"
    else:
        return
    warn_of(fit, f"sample: {found}.")


def _check_same(model: pm.Model, posterior: Posterior, read: Fit, kept: xr.Dataset) -> None:
    """Raise if the model or its data differ from those of the fit, rows and priors included."""
    spec = ModelSpec.of(model, views=True)
    n, size = kept.sizes["coordinate"], posterior.ensemble.size
    differ = {
        f"other variables ({size} numbers a state, the fit has {n})": n != size,
        "other tables": read.views != [part.view for part in spec.views],
        "other priors": read.priors != spec.priors,
    }
    if not differ["other tables"]:
        for part in spec.parts:
            one = read if part.view is None else Fit(view(read.tree, part.view))
            for text, other in _differences(part, one).items():
                differ[text] = differ.get(text, False) or other
    if found := [text for text, other in differ.items() if other]:
        raise ValueError(
            f"model must be the one that was sampled, got one with {', '.join(found)}. gplvm.model.rebuild "
            "makes it of the fit."
        )


def _differences(spec: ModelSpec, read: Fit) -> dict[str, bool]:
    """Compare a table of the model with that of the fit."""
    labels = np.asarray(spec.model.coords.get(OBS, ()))
    return {
        "another kernel": spec.kernel != read.kernel,
        "other data": not np.array_equal(read.Y, spec.table.Y, equal_nan=True),
        "other rows": OBS in read.Y.coords and not np.array_equal(read.Y[OBS], labels),
        "another mean or scale": "Y_mean" in read.constants
        and spec.table.standardisable
        and not np.array_equal(read.table().F, spec.table.F, equal_nan=True),
        "another resolution": not np.array_equal(read.resolution, spec.floors),
    }
