"""Fits through inducing inputs: the mode of X and θ (sparse), and q(X) = ∏ N(μₙ, diag sₙ²) (variational).

``fit_sparse`` is ``fit_variational`` without q(X). Both start from X and θ of the exact model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from pymc.distributions.transforms import LogTransform

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count, number
from pm_gplvm.core.gaussian import Indices, Patterns, column_patterns
from pm_gplvm.core.inducing import InducingKernel, InducingPosterior
from pm_gplvm.core.inducing_patterns import by_patterns
from pm_gplvm.core.interrupt import caught, interruptible
from pm_gplvm.core.psi import CLOSED_FORM, Quadrature, quasi_monte_carlo
from pm_gplvm.core.row_chunks import LOG_SD_STEP
from pm_gplvm.data.fit import LATENT, OBS, THETA, Fit, in_each_view, in_view, warn_of
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.rows import is_elsewhere
from pm_gplvm.data.table import Scale
from pm_gplvm.fitting.chunk_folder import InChunks
from pm_gplvm.fitting.optimise import (
    CONVERGED,
    INTERRUPTED,
    LINE_SEARCH,
    Optimum,
    from_each,
    interruption,
    maximise,
    optima_positions,
    optima_table,
    rank,
    relatively,
    stopped,
)
from pm_gplvm.model.approximate import (
    INDUCING,
    Method,
    build_sparse,
    build_variational,
)
from pm_gplvm.model.arguments import arguments_of, refuse_beside_a_model
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.density import (
    Coordinates,
    LogDensity,
    compile_constrain,
    compile_log_density,
    movable,
)
from pm_gplvm.model.results import as_fit, warn_of_columns
from pm_gplvm.model.spec import ModelSpec, views_of
from pm_gplvm.model.starts import perturbed, start_values

SPREAD_AT_START, NOISE_AT_START = 0.2, 0.1  # of q, and of the noise, at the start
EXPLAINED = 0.01
FRESH = 3
ROUNDING = 1e-6  # of the objective: β tr K⁻¹Ψ₂ is large, and K's condition may be 1e6
STEP_THETA, STEP_INDUCING = 4.0, 2.0  # found on the oil flow data, and LOG_SD_STEP

Values = dict[str, Array]


@checked
def fit_sparse(
    model: Any,
    latent_dim: int = 2,
    *,
    kernel: Any = "rbf",
    ard: bool = False,
    priors: Mapping[str, Any] | None = None,
    scale: Scale = "global",
    resolution: Any = "auto",
    n_inducing: int = 100,
    method: Method = "vfe",
    start: Any = "pca",
    n_restarts: int = 0,
    hold: int = 0,
    max_iter: int = 5000,
    tol: float = 1e-8,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
    client: Any = None,
    n_workers: int | None = None,
    store: Any = None,
    chunk_rows: int | None = None,
    out: Any = None,
) -> xr.DataTree:
    """Find the mode of X and θ with inducing inputs, where N is too large for ``fit_map``.

    Maximises the log-density of :func:`model.build_sparse` by L-BFGS. Cost: N M² for an evaluation; no
    N × N matrix is formed. Missing entries (``missing="mask"``) cost N M² for each pattern of columns with the
    same rows observed; to fill them :func:`fit_variational` is better, as a joint mode takes what it saw for the truth.

    Parameters
    ----------
    model : pm.Model, or a complete table (N, D)
        From :func:`build_model`. Or a table that need not fit into memory, as :func:`fit_variational` takes it, whose rows
        are gone through in chunks: see Notes.
    latent_dim, kernel, ard, priors, scale, resolution
        As in :func:`build_model`, of a table; a model has them.
    n_inducing : int, default 100
        M, the number of inducing inputs; more than N are N, which ``attrs["n_inducing"]`` says.
    method : {"vfe", "fitc"}
        See :func:`model.build_sparse`.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        As in :func:`fit_map`; the inducing inputs begin at rows that lie apart (k-means++), or
        where an earlier sparse or variational fit has them.
    n_restarts : int, default 0
        Further starts, X and the inducing inputs moved at random.
    hold : int, default 0
        Iterations at first in which amplitude and sigma stay where they start.
    max_iter, tol, random_seed, progressbar, blas_threads
        As in :func:`fit_variational`.
    client, n_workers, store, chunk_rows, out
        As in :func:`fit_variational`: workers hold the chunks of the table, and the positions of its rows.

    Returns
    -------
    DataTree
        A posterior of one chain and one draw. ``approximation``: ``X_inducing`` (inducing,
        latent). ``sample_stats``: ``lp``, the objective, and ``log_likelihood``, the approximate
        one. ``optima`` and ``trace`` as :func:`fit_variational` gives them.

    Warns
    -----
    RuntimeWarning
        If the best start did not converge, X did not move, or Ctrl-C ended the search, as in :func:`fit_map`.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the model is not one of :func:`build_model`, or the
        objective is not finite at the start.
    FileExistsError
        As in :func:`fit_variational`.
    ImportError
        If ``client`` or ``n_workers`` is given and dask is not installed.
    KeyboardInterrupt
        As :func:`fit_map`.

    Notes
    -----
    *In chunks.* As of :func:`fit_variational`, by "vfe", whose sums over rows are of their own; "fitc" needs K before it. Such
    a fit keeps q(u) of each column in ``approximation``, as :func:`fit_svi` does, and needs no table to predict or
    embed from.

    References
    ----------
    Titsias, M. K. (2009). Variational learning of inducing variables in sparse Gaussian
    processes. AISTATS, PMLR 5, 567-574.
    Snelson, E., Ghahramani, Z. (2006). Sparse Gaussian processes using pseudo-inputs. NIPS 18.
    Lawrence, N. D. (2007). Learning for larger datasets with the Gaussian process latent variable
    model. AISTATS, PMLR 2, 243-250.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=30))
    >>> best = gplvm.fit_sparse(model, n_inducing=10, random_seed=1, progressbar=False)
    >>> dict(best.posterior.sizes)
    {'chain': 1, 'draw': 1, 'obs': 30, 'latent': 2}

    In chunks of 16 rows, one after the other, as workers of a ``client`` would hold them:

    >>> Y = gplvm.data.load_digits(n=30)
    >>> best = gplvm.fit_sparse(Y, n_inducing=10, chunk_rows=16, random_seed=1, progressbar=False)
    >>> best["approximation"]["u_mean"].dims
    ('inducing', 'feature')
    """
    of_table = {
        "latent_dim": latent_dim,
        "kernel": kernel,
        "ard": ard,
        "priors": priors,
        "scale": scale,
        "resolution": resolution,
    }
    chunks = InChunks(client, n_workers, store, chunk_rows, out)
    if _goes_in_chunks(model, of_table, chunks, fit_sparse):
        if method != "vfe":
            raise ValueError(f"method must be 'vfe' where rows go in chunks, got {method!r}.")
        return _by_chunks(
            model,
            of_table,
            n_restarts,
            method="sparse",
            n_inducing=n_inducing,
            start=start,
            hold=hold,
            draws=1,
            max_iter=max_iter,
            tol=tol,
            random_seed=random_seed,
            progressbar=progressbar,
            blas_threads=blas_threads,
            chunks=chunks,
        )
    exact = ModelSpec.of(model)
    approximation = build_sparse(exact, n_inducing=n_inducing, method=method)
    if "X" not in exact.free:
        raise ValueError("model must have a free variable 'X', got one that is held.")
    with interruptible(keeps=True):
        ranked = _maximised(
            exact,
            approximation,
            start,
            np.random.default_rng(random_seed),
            n_restarts,
            title="fit_sparse",
            hold=hold,
            max_iter=max_iter,
            tol=tol,
            progressbar=progressbar,
            blas_threads=blas_threads,
        )
        best, ends = ranked[0][1], _ends(exact, approximation, ranked)
        likelihood = _potential(approximation, "likelihood", best.values)
        fit = _as_fit(
            exact,
            ranked,
            ends,
            {"lp": best.objective, "log_likelihood": likelihood},
            method="sparse",
            settings={"approximation": method, "start": start, "random_seed": random_seed},
        )
    text = ""
    if fit.attrs["interrupted"]:
        text = interruption("fit_sparse", fit["optima"].to_dataset())
    elif not best.converged:
        text = f"fit_sparse {unconverged(best)}. Go on with fit_sparse(model, start=fit), or raise max_iter."
    if text:
        warn_of(fit, text)
    warn_of_columns(exact, fit, "fit_sparse")
    return fit


@checked
def fit_variational(
    model: Any,
    latent_dim: int = 2,
    *,
    kernel: Any = "rbf",
    ard: bool = True,
    priors: Mapping[str, Any] | None = None,
    scale: Scale = "global",
    resolution: Any = "auto",
    n_inducing: int = 50,
    start: Any = "pca",
    n_restarts: int = 0,
    hold: int = 200,
    draws: int = 100,
    max_iter: int = 5000,
    tol: float = 1e-8,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
    client: Any = None,
    n_workers: int | None = None,
    store: Any = None,
    chunk_rows: int | None = None,
    out: Any = None,
) -> xr.DataTree:
    """Fit the variational Bayesian GP-LVM (Titsias & Lawrence 2010).

    Maximises the bound of :func:`model.build_variational`, plus ln p(θ), in the means and standard
    deviations of q(X), the inducing inputs and θ together, by L-BFGS. With ``ard=True`` it finds
    the number of latent dimensions: those not needed end with a long lengthscale, and q there is
    the prior (:func:`diagnostics.active_dimensions`). Cost: N M² Q for an evaluation; no N × N matrix is formed. Missing
    entries (``missing="mask"``) cost M³ for each pattern of columns with the same rows observed.

    q(X) has independent rows and dimensions. Its standard deviations are too small where the
    posterior is not: they leave out that rows may move together. :func:`pm_gplvm.sample` does not.

    Parameters
    ----------
    model : pm.Model, or a complete table (N, D)
        From :func:`build_model`, of one table or several, best with ``ard=True`` and ``latent_dim`` larger than needed. Of
        priors of ``X`` it takes Normal ones, :func:`priors.informative`, :func:`priors.dynamics` (N³ then) and
        :func:`priors.class_mixture`. Or a table that need not fit into memory (a Zarr or dask array, the folder of Parquet
        files as a ``Path``, a backed AnnData, numpy.memmap), whose rows are gone through in chunks: see Notes. So is one
        in memory where ``client``, ``n_workers`` or ``chunk_rows`` is given.
    latent_dim, kernel, ard, priors, scale, resolution
        As in :func:`fit_svi`, of a table; a model has them.
    n_inducing : int, default 50
        M, the number of inducing inputs; more than N are N, which ``attrs["n_inducing"]`` says.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        Where the means of q begin, as in :func:`fit_map`, or an earlier variational fit. The
        standard deviations of q begin at a fifth of the rows' spread, the inducing inputs at
        rows that lie apart (k-means++), sigma at 0.1 and each lengthscale at the range of X over √5,
        unless given.
    n_restarts : int, default 0
        Further starts, means and inducing inputs moved at random.
    hold : int, default 200
        Iterations at first in which amplitude and sigma stay where they start. Free from the
        beginning, they may explain all as noise before q is in place, and never come back.
    draws : int, default 100
        Of X from q.
    max_iter : int, default 5000
        Iterations a start, after the first.
    tol : float, default 1e-8
        A start has converged when an iteration raises the objective by less than ``tol`` times
        its size; or where rounding ends the line search and, begun afresh from there, it raises
        the objective by no more than 1e-6 of its size.
    random_seed : int, optional
        Of the inducing inputs, of the restarts and of the draws.
    progressbar : bool, default True
    blas_threads : int or None, default 1
    client : dask.distributed.Client, optional
        Whose workers hold the chunks of the table, or of that of a model. Needs ``pm-gplvm[dask]``.
    n_workers : int, optional
        So many processes on this machine in place of a client.
    store : path, optional
        A new folder for what workers write down of their rows' q(x), by which others can take their place. It must be
        one that all of them reach; on one machine a temporary one by default. ``start`` may be the folder of an earlier fit
        of the same table in the same chunks.
    chunk_rows : int, optional
        Rows of a chunk, at least 2. By default as many as have statistics of about 8 MB, and so that there are 8 chunks if
        each takes as long as to ask a worker for it. A single chunk is worked on by this process.
    out : path, optional
        A new ``.zarr`` store, in a folder that all workers can write to: a table, or that of a model, is gone through in
        chunks, each worker writes q(x) of its rows there, and the fit is opened from it, its rows not read. Draws of X
        come from a stream for each chunk; the group ``optima_positions`` is left out.

    Returns
    -------
    DataTree
        ``posterior``: draws of X from q, with the θ that maximises the objective in each.
        ``approximation``: ``X_mean`` and ``X_sd`` of q (obs, latent), ``X_inducing`` (inducing,
        latent). ``sample_stats``: ``lp``, the objective, and ``bound``, without ln p(θ), the same
        in each draw. ``optima``: one row a start, the best first. ``trace``: the objective
        after each evaluation of the best start. Of several tables each has inducing inputs of its own
        (``X_inducing_rna``), and ``bound`` is the sum of theirs less the divergence of q(X), once.

    Warns
    -----
    RuntimeWarning
        If the best start did not converge, or the signal was switched off: the fit explains less
        than a hundredth of the table's variance. If the kernel's psi statistics are taken by a
        rule of nodes, and that rule misses the bound by more than 1. If Ctrl-C ended the search, as in
        :func:`fit_map`.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the model is not one that :func:`model.build_variational` takes,
        or the bound is not finite at the start.
    FileExistsError
        If ``out`` exists, ``store`` is not empty, or another run is writing one of them or the folder ``start``.
    ImportError
        If ``client`` or ``n_workers`` is given and dask is not installed.
    KeyboardInterrupt
        As :func:`fit_map`.

    Notes
    -----
    *In chunks.* Of the rows the bound needs sums of M × M and M × D numbers only (Gal, van der Wilk & Rasmussen 2014).
    Where a table is given, each chunk of rows gives its part of them and keeps q(x) of its rows; L-BFGS goes by inner
    products. Sums are taken in the order of the chunks, so that the result is the same for any number of workers, and if
    some of them die. Of priors of ``X`` it takes those that need only the row itself: N(0, 1), :func:`priors.informative`
    and :func:`priors.class_mixture`. Such a fit keeps q(u) of each column in ``approximation``, as :func:`fit_svi` does, and needs no table
    to predict or embed from. It has no restarts, and starts from "pca", "random", positions or a fit.

    References
    ----------
    Gal, Y., van der Wilk, M., Rasmussen, C. E. (2014). Distributed variational inference in sparse Gaussian process
    regression and latent variable models. NIPS 27.
    Titsias, M. K., Lawrence, N. D. (2010). Bayesian Gaussian process latent variable model.
    AISTATS, PMLR 9, 844-851.
    Titsias, M. K. (2009). Variational learning of inducing variables in sparse Gaussian
    processes. AISTATS, PMLR 5, 567-574.
    Damianou, A., Ek, C. H., Titsias, M., Lawrence, N. (2012). Manifold relevance determination. ICML.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=30), latent_dim=3, ard=True)
    >>> fit = gplvm.fit_variational(model, n_inducing=10, random_seed=1, progressbar=False)
    >>> fit["approximation"]["X_sd"].dims
    ('obs', 'latent')
    """
    of_table = {
        "latent_dim": latent_dim,
        "kernel": kernel,
        "ard": ard,
        "priors": priors,
        "scale": scale,
        "resolution": resolution,
    }
    chunks = InChunks(client, n_workers, store, chunk_rows, out)
    if _goes_in_chunks(model, of_table, chunks, fit_variational):
        return _by_chunks(
            model,
            of_table,
            n_restarts,
            method="variational",
            n_inducing=n_inducing,
            start=start,
            hold=hold,
            draws=draws,
            max_iter=max_iter,
            tol=tol,
            random_seed=random_seed,
            progressbar=progressbar,
            blas_threads=blas_threads,
            chunks=chunks,
        )
    exact = ModelSpec.of(model, views=True)
    approximation = build_variational(exact, n_inducing=n_inducing)
    rng = np.random.default_rng(random_seed)
    with interruptible(keeps=True):
        ranked = _maximised(
            exact,
            approximation,
            start,
            rng,
            n_restarts,
            title="fit_variational",
            hold=hold,
            max_iter=max_iter,
            tol=tol,
            progressbar=progressbar,
            blas_threads=blas_threads,
        )
        best, ends = ranked[0][1], _ends(exact, approximation, ranked)
        X = rng.standard_normal((draws, *ends[0]["X_mean"].shape))
        X *= ends[0]["X_sd"]
        X += ends[0]["X_mean"]
        found = {part.view: _findings(part, ends[0]) for part in exact.parts}
        settings = {"start": start, "hold": hold}
        for name, of in found.items():
            settings[in_view("explained", name)] = of.explained
            if of.quadrature_error is not None:
                settings[in_view("rule_error", name)] = of.quadrature_error
        minus_KL = _potential(approximation, "minus_KL", best.values)
        bound = sum(of.bound for of in found.values()) + minus_KL
        fit = _as_fit(
            exact,
            ranked,
            ends,
            {"lp": best.objective, "bound": bound},
            method="variational",
            settings=settings | {"random_seed": random_seed},
            X=X,
        )
    texts = [f"fit_variational: {text}." for text in _problems(best, found)]
    if fit.attrs["interrupted"]:
        texts = [interruption("fit_variational", fit["optima"].to_dataset())]
    for text in texts:
        warn_of(fit, text)
    warn_of_columns(exact, fit, "fit_variational")
    return fit


def _goes_in_chunks(
    given: Any,
    of_table: Mapping[str, Any],
    chunks: InChunks,
    verb: Callable[..., Any],
) -> bool:
    """Whether rows are gone through in chunks; raise where what is given does not fit together."""
    is_model = isinstance(given, pm.Model | ModelSpec)
    if is_model:
        refuse_beside_a_model(of_table, verb)
    if chunks.asked or (not is_model and is_elsewhere(given)):
        return True
    chunks.refuse_store()
    return False


def _by_chunks(
    given: Any, of_table: Mapping[str, Any], n_restarts: int, **settings: Any
) -> xr.DataTree:
    """Fit a table, or that of a model, a chunk of rows at a time."""
    from pm_gplvm.fitting.by_chunks import fit_by_chunks  # which builds on this module

    if n_restarts:
        raise ValueError(f"n_restarts must be 0 where rows go in chunks, got {n_restarts}.")
    if not isinstance(given, pm.Model | ModelSpec):
        return fit_by_chunks(given, **of_table, **settings)
    own = arguments_of(given.model if isinstance(given, ModelSpec) else given)
    if own.pop("inputs") is not None:
        raise ValueError(
            f"fit_{settings['method']} needs a model without inputs where rows go in chunks, got one with some. Take fit_svi."
        )
    likelihood = own.pop("likelihood")
    if likelihood != "gaussian" or own.pop("offset") is not None:
        raise ValueError(
            "client and n_workers need a model of Gaussian entries without offset, got another. Take fit_svi."
        )
    return fit_by_chunks(own.pop("Y"), **own, **settings)


def _maximised(
    exact: ModelSpec,
    approximation: pm.Model,
    start: Any,
    rng: np.random.Generator,
    n_restarts: int,
    **settings: Any,
) -> list[tuple[int, Optimum]]:
    """Search from X and θ of the exact model and its restarts, with inducing inputs beside them.

    Where the approximation has q(X), its means take the place of X.
    """
    count("hold", settings["hold"], 0)
    number("tol", settings["tol"], above=0.0, below=1.0)
    of_q = "X_mean" in approximation.named_vars
    first = start_values(exact, start, rng)
    if of_q and not isinstance(start, xr.DataTree):
        _set_theta(exact, start, first)
    starts = [first, *(perturbed(exact, first, start, rng) for _ in range(n_restarts))]
    named, n_inducing = _naming(exact), len(approximation.coords[INDUCING])
    for values in starts:
        X, theta = values["X"], named(values)
        for part in exact.parts:
            unit = theta.get(part.own("lengthscale"), 1.0)
            values[part.own("X_inducing")] = spread_rows(X / unit, n_inducing, rng) * unit
        if of_q:
            spread = SPREAD_AT_START * np.maximum(X.std(axis=0), 1e-300)
            values["X_sd_log__"] = np.log(np.broadcast_to(spread, X.shape))
            values["X_mean"] = values.pop("X")
    starts[0] |= _previous(start, starts[0])
    return search(approximation, starts, **settings)


def _set_theta(exact: ModelSpec, start: Any, values: Values) -> None:
    """Set little noise, and the lengthscales to the range of X over √5, where they are not given."""
    model, usual = exact.model, Values()
    for part in exact.parts:
        usual[part.own("sigma")] = np.array(NOISE_AT_START)
        usual[part.own("lengthscale")] = np.ptp(values["X"], axis=0) / np.sqrt(5.0)
    given = set(start) if isinstance(start, Mapping) else set()
    for rv in model.free_RVs:
        free = rv.name in usual and rv.name not in given
        if free and isinstance(model.rvs_to_transforms[rv], LogTransform):
            name, value = model.rvs_to_values[rv].name, np.log(usual[rv.name])
            values[name] = np.asarray(value if values[name].ndim == value.ndim else value.mean())


def spread_rows(X: Array, n_inducing: int, rng: np.random.Generator) -> Array:
    """Choose rows that lie apart, by the seeding of k-means++."""
    from sklearn.cluster import kmeans_plusplus

    seed = int(rng.integers(2**31))
    return np.asarray(kmeans_plusplus(X, n_inducing, random_state=seed)[0])


def _previous(start: Any, values: Values) -> Values:
    """Inducing inputs and q(X) of an earlier fit, where they have the shapes of these values."""
    if not isinstance(start, xr.DataTree) or not Fit(start).is_inducing:
        return {}
    known = Fit(start).group("approximation")
    found = {str(name): value.to_numpy() for name, value in known.data_vars.items()}
    if "X_sd" in known:
        found["X_sd_log__"] = np.log(known["X_sd"].to_numpy())
    return {n: v for n, v in found.items() if n in values and v.shape == values[n].shape}


def _naming(exact: ModelSpec, approximation: pm.Model | None = None) -> Callable[[Values], Values]:
    """Compile the way from value variables to named ones, with the fixed of θ and inducing inputs."""
    model = exact.model if approximation is None else approximation
    constrain = compile_constrain(model)
    names = [part.own(n) for part in exact.parts for n in (*THETA, "X_inducing")]
    fixed = [model.named_vars[n] for n in names if n in model.named_vars]
    held = {v.name: v.get_value() for v in fixed if hasattr(v, "get_value")}

    def named(values: Values) -> Values:
        known = constrain(*[values[v.name] for v in model.value_vars])
        return {name: np.asarray(value) for name, value in (known | held).items()}

    return named


def _ends(
    exact: ModelSpec, approximation: pm.Model, ranked: Sequence[tuple[int, Optimum]]
) -> list[Values]:
    named = _naming(exact, approximation)
    return [named(optimum.values) for _, optimum in ranked]


def _potential(model: pm.Model, name: str, values: Mapping[str, Array]) -> float:
    (written,) = model.replace_rvs_by_values([model[name]])
    inputs = model.value_vars
    value = pytensor.function(inputs, written, on_unused_input="ignore", mode=compile_mode())
    return float(value(*[values[v.name] for v in inputs]))


def _as_fit(
    exact: ModelSpec,
    ranked: list[tuple[int, Optimum]],
    ends: list[Values],
    stats: Mapping[str, Any],
    *,
    method: str,
    settings: Mapping[str, Any],
    X: Array | None = None,
) -> xr.DataTree:
    """Put the best optimum into a fit, once, or with each draw of X (draw, obs, latent)."""
    (_, best), named, draws = ranked[0], ends[0], 1 if X is None else len(X)
    names = {variable.name for variable in (*exact.model.free_RVs, *exact.model.deterministics)}
    posterior = {n: np.repeat(v[None, None], draws, 1) for n, v in named.items() if n in names}
    if X is not None:
        posterior["X"] = X[None]
    start = settings["start"]
    inducing = [part.own("X_inducing") for part in exact.parts]
    dims = dict.fromkeys(("X_mean", "X_sd"), (OBS, LATENT))
    dims |= dict.fromkeys(inducing, (INDUCING, LATENT))
    approximation = xr.Dataset({n: (d, named[n]) for n, d in dims.items() if n in named})
    fit = as_fit(
        exact,
        posterior,
        method=method,
        sample_stats={name: np.full((1, draws), value) for name, value in stats.items()},
        settings={
            **settings,
            "start": start if isinstance(start, str) else type(start).__name__,
            "n_inducing": len(named[inducing[0]]),
            "converged": int(best.converged),
        },
        groups={
            "approximation": approximation,
            "optima": optima_table(ranked),
            **optima_positions([i for i, _ in ranked], ends, exact.kernels[0]),
            "trace": xr.Dataset({"objective": ("evaluation", best.trace)}),
        },
    )
    coords = Fit(fit).posterior.coords
    shared = {OBS, LATENT} & set(approximation.dims)
    labels = {name: c for name, c in coords.items() if set(c.dims) <= shared}
    fit["approximation"] = xr.DataTree(approximation.assign_coords(labels))
    return fit


@dataclass(frozen=True)
class _Findings:
    """Its part of the bound, share of the table's variance explained, and error of the bound by quadrature, if any."""

    bound: float
    explained: float
    quadrature_error: float | None


def _findings(exact: ModelSpec, ends: Values) -> _Findings:
    """Look at one table's part of the bound."""
    table, named = exact.table, _of_table(exact, ends)
    sigma = float(np.hypot(named["sigma"], exact.floor))
    F = np.nan_to_num(table.F)
    seen = np.ones(F.shape, dtype=bool) if table.seen is None else table.seen.T
    patterns, rest, likelihood = column_patterns(seen), F.copy(), 0.0
    whole = _inducing_kernel(exact, named, patterns)
    for rows, columns, posterior in _posteriors(whole, F, sigma, patterns):
        likelihood += _bound(posterior, F, rows, columns)
        rest[:, columns] -= whole.psi1 @ posterior.weights
    error = None
    if exact.kernel not in CLOSED_FORM:
        fine = _inducing_kernel(exact, named, patterns, quasi_monte_carlo(exact.latent_dim))
        error = likelihood - sum(
            _bound(posterior, F, rows, columns)
            for rows, columns, posterior in _posteriors(fine, F, sigma, patterns)
        )
    return _Findings(
        bound=likelihood - table.log_units,
        explained=1.0 - float((rest[seen] ** 2).sum()) / float((F**2).sum()),
        quadrature_error=error,
    )


def _of_table(exact: ModelSpec, ends: Values) -> Values:
    """Give what an end has of its table, and q, plain names."""
    names = {exact.own(name): name for name in (*THETA, "X_inducing")}
    names |= {name: name for name in ("X_mean", "X_sd")}
    return {names[name]: value for name, value in ends.items() if name in names}


def _posteriors(
    whole: InducingKernel, F: Array, sigma: float, patterns: Patterns
) -> Iterator[tuple[Indices, Indices, InducingPosterior]]:
    """Rows and columns of each pattern of F, 0 where nothing was seen, and the posterior given them."""
    for (rows, _), (columns, posterior) in zip(patterns, whole.posteriors(F, sigma), strict=True):
        yield rows, columns, posterior


def _bound(posterior: InducingPosterior, F: Array, rows: Indices, columns: Indices) -> float:
    return float(posterior.bound(float((F[:, columns] ** 2).sum()), len(rows), len(columns)))


def _inducing_kernel(
    exact: ModelSpec, named: Values, patterns: Patterns, quadrature: Quadrature | None = None
) -> InducingKernel:
    positions = named["X_mean"], named["X_sd"], named["X_inducing"]
    # There will be no gradient: nothing need be kept for it.
    settings = {"quadrature": quadrature, "workspace": np.empty((0, 0))}
    return by_patterns(exact.kernel, positions, named, patterns, **settings)


def unconverged(best: Optimum) -> str:
    """Say that a run did not converge, and where it is."""
    return (
        f"did not converge: {best.message} (objective {best.objective:.6g} after "
        f"{best.evaluations} evaluations, largest gradient {best.gradient:.3g})"
    )


def switched_off(explained: float, where: str = "") -> str:
    """Say that a fit explains nothing, and the first remedy."""
    return (
        f"the signal was switched off{where}: it explains {100 * explained:.2g} % of the table's variance; "
        "hold amplitude and sigma longer (hold=1000)"
    )


def _problems(best: Optimum, found: Mapping[str | None, _Findings]) -> list[str]:
    texts = []
    if not best.converged:
        go_on = "go on with fit_variational(model, start=fit) or raise max_iter"
        texts.append(f"it {unconverged(best)}; {go_on}")
    for name, of in found.items():
        where, error = "" if name is None else f" in the table {name!r}", of.quadrature_error
        if of.explained < EXPLAINED:
            texts.append(
                f"{switched_off(of.explained, where)}, start with less noise "
                "(start={'X': ..., 'sigma': 0.05}) or from 'isomap'. If all starts end so, the table may be noise"
            )
        if error is not None and abs(error) > 1.0:
            texts.append(
                f"the rule of nodes misses the bound{where} by {error:+.3g}, so that it may not be a bound; take "
                "kernel='rbf' where the bound itself is compared"
            )
    return texts


def induced_coordinates(model: pm.Model) -> Coordinates:
    """Choose the coordinates for a model with inducing inputs.

    The units follow the curvature: N rows share θ, and about N / M of them an inducing input.
    """
    free = {rv.name: model.rvs_to_values[rv].name for rv in model.free_RVs}
    plain = Coordinates.of(model)
    sizes = {name: shape[0] for name, (_, shape) in plain.spans.items() if shape}
    n_rows = sizes[free["X_mean"] if "X_mean" in free else free["X"]]
    names = in_each_view("X_inducing", views_of(model))
    inducing = [name for name in names if name in free]
    own = {"X": 1.0, "X_mean": 1.0, "X_sd": LOG_SD_STEP}
    own |= {name: STEP_INDUCING * np.sqrt(sizes[free[name]] / n_rows) for name in inducing}
    return replace(
        plain,
        steps=dict.fromkeys(plain.names, STEP_THETA / np.sqrt(n_rows))
        | {free[name]: step for name, step in own.items() if name in free},
        positions=tuple(free[n] for n in ("X", "X_mean", *inducing) if n in free),
        lengthscales=movable(model)["lengthscale"],
        spreads=(free["X_sd"],) if "X_sd" in free else (),
    )


def holding(free: LogDensity, names: Sequence[str]) -> LogDensity:
    """Make of a log-density one whose gradient along some variables is 0: an optimiser leaves them."""

    def function(*parts: Array) -> list[Array]:
        value, *gradient = free.function(*parts)
        pairs = zip(free.names, gradient, strict=True)
        return [value, *(np.zeros_like(g) if name in names else g for name, g in pairs)]

    return replace(free, function=function)


def search(
    model: pm.Model,
    starts: Sequence[Mapping[str, Array]],
    *,
    title: str,
    hold: int,
    max_iter: int,
    tol: float,
    progressbar: bool,
    blas_threads: int | None,
) -> list[tuple[int, Optimum]]:
    """Maximise from each start, amplitude and sigma held for the first ``hold`` iterations.

    Returns the number of each start and where it ended, the best first.
    """
    free = compile_log_density(model, coordinates=induced_coordinates)
    of_tables = [n for of in ("amplitude", "sigma") for n in in_each_view(of, views_of(model))]
    names = [rv.name for rv in model.free_RVs if rv.name in of_tables]
    keep = [model.rvs_to_values[model[name]].name for name in names] if hold else []

    def climb(within: LogDensity, values: Mapping[str, Array], most: int) -> Optimum:
        return maximise(within, values, most, relatively(tol), counter)

    def run(values: Mapping[str, Array]) -> Optimum:
        ended = climb(holding(free, keep), values, hold if keep else max_iter)
        try:
            if keep and ended.message != INTERRUPTED:
                ended = ended.after(climb(free, ended.values, max_iter))
            for _ in range(FRESH):
                # The line search gave up: for a poor memory of the curvature, which a fresh beginning has
                # not, or because rounding is all that is left, and then a fresh one gains nothing.
                if ended.message != LINE_SEARCH:
                    break
                fresh = climb(free, ended.values, max_iter)
                gain = fresh.objective - ended.objective
                little = gain <= max(tol, ROUNDING) * max(1.0, abs(ended.objective))
                ended = ended.after(fresh)
                if little:
                    ended = replace(ended, converged=True, message=CONVERGED)
        except KeyboardInterrupt:  # as a further run began
            caught()
            return stopped(ended)
        return ended

    with (
        limit_threads(blas_threads),
        progress_bar(title, len(starts), "starts", show=progressbar) as counter,
    ):
        ended, interrupted = from_each(starts, run, counter)
    return rank(ended, interrupted=interrupted)
