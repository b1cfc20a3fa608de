"""The Bayesian GP-LVM by minibatches, with any likelihood: :mod:`pm_gplvm.core.uncollapsed`, maximised.

Each step takes a batch of rows: natural-gradient steps of their q(x), damped row by row, then one of
q(u), and Adam's steps of the inducing inputs, θ, the level and the likelihood's parameters.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import xarray as xr

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count, number
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.interrupt import caught, interrupted, interruptible, safe_point
from pm_gplvm.core.kernels import kernel_named
from pm_gplvm.core.uncollapsed import ColumnPosterior
from pm_gplvm.data.arrays import numbers
from pm_gplvm.data.fit import FEATURE, LATENT, OBS, OF_VIEW, Fit, inducing_inputs, to_json, warn_of
from pm_gplvm.data.inputs import COLUMN, Inputs
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.rows import Rows
from pm_gplvm.data.table import Scale
from pm_gplvm.data.views import Tables, tables_of_fit
from pm_gplvm.fitting.chunk_folder import InChunks, is_state, start_named
from pm_gplvm.fitting.minibatch import Functions, HeldRows, Optimiser, Schedule, State
from pm_gplvm.fitting.minibatch_chunks import ChunkedRows, read_state, rows_for
from pm_gplvm.fitting.minibatch_tables import SAMPLE, Part, Views, read_views
from pm_gplvm.fitting.optimise import optima_positions
from pm_gplvm.fitting.stored_fits import FEW, store_for
from pm_gplvm.fitting.variational import spread_rows
from pm_gplvm.model.approximate import INDUCING
from pm_gplvm.model.arguments import arguments_of, refuse_beside_a_model
from pm_gplvm.model.likelihoods import noted
from pm_gplvm.model.results import attributes
from pm_gplvm.model.starts import (
    completed,
    least_squares_scores,
    turned_towards,
    with_angles,
)
from pm_gplvm.model.theta import ThetaPrior

_SPREAD, _TRUST = 0.2, 0.5  # sd of q(x) and damping of its steps at the start
# Found on oil flow (1000 rows, Q = 5), digits (1797) and draws of a GP (20 000 and 100 000 rows). Half of these rates
# end lower (oil -4.5 for -3.4 nats a row after 300 passes, digits -57.9 for -57.2 after 100), twice as high a rate of
# q(u) lower by 1.6 on digits.
_NATURAL, _ROW_RATE, _LOCAL = 0.2, 0.05, 20.0
_FEWEST_STEPS = 3000
_WINDOWS = 40
_RISING = 0.1
_EVALUATED = 50_000  # rows that the bound is reported on
_MOST_DRAWN = 4 * 10**6  # numbers in the draws of X
_MOST_PLACED = 10**6  # and in the places where all runs ended


@checked
def fit_svi(
    Y: Any,
    latent_dim: int = 2,
    *,
    likelihood: Any = "gaussian",
    kernel: Any = "rbf",
    ard: bool = True,
    priors: Mapping[str, Any] | None = None,
    scale: Scale = "global",
    offset: Any = None,
    noise_sd: Any = None,
    resolution: Any = "auto",
    inputs: Any = None,
    n_inducing: int = 50,
    batch_size: int | None = None,
    epochs: float | None = None,
    learning_rate: float = 0.05,
    start: Any = "pca",
    n_restarts: int = 0,
    draws: int = 100,
    client: Any = None,
    n_workers: int | None = None,
    store: Any = None,
    chunk_rows: int | None = None,
    out: Any = None,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Fit the Bayesian GP-LVM by minibatches: any likelihood, holes, up to millions of rows.

    Every row has a q(x) = N(μ, diag s²), every column a Gaussian over its values at M inducing inputs. The bound
    on the log marginal likelihood is a sum over the entries that were measured, so that a step reads a batch of rows
    only (Hensman et al. 2013, 2015; Lalchand, Ravuri & Lawrence 2022). Steps of q(x) and of the
    columns' Gaussians follow natural gradients, all others Adam (Kingma & Ba 2015).

    Parameters
    ----------
    Y : array_like, DataFrame, DataArray, AnnData, SciPy sparse, numpy.memmap, Zarr or dask array, or Path, shape (N, D), mapping of these, or pm.Model
        The table, rows are observations; NaN is an entry that was not measured. What is mapped, sparse, in
        Zarr, of Dask, a backed AnnData or a folder of Parquet files (its ``Path``) is read a batch at a time. Or a model of :func:`build_model`, which tells all from ``latent_dim`` to
        ``resolution``: they must be left out. A prior of its ``level`` is not looked at. A mapping from names to tables of the same
        rows, ``{"rna": Y1, "protein": Y2}``, is fitted as one, see Notes.
    latent_dim : int, default 2
        Q. With ``ard`` those not needed end with a long lengthscale.
    likelihood : str, object of ``pm_gplvm.likelihoods``, mapping from columns to these, or function, default "gaussian"
        What an entry is, given f(x) of its column: "gaussian", "student_t", "poisson",
        "negative_binomial", "bernoulli", "binomial", "ordinal", "lognormal", "gamma"; a function f -> pm.Distribution.dist(...)
        is one of PyMC's. Of several tables one for all, or by name, ``{"rna": "negative_binomial", "protein": "gaussian"}``, as
        ``kernel``, ``scale``, ``offset``, ``noise_sd`` and ``resolution``.
    kernel : str or object of ``gplvm.kernels``, default "rbf"
        As in :func:`build_model`.
    ard : bool, default True
        One lengthscale for each latent dimension, of each factor where there are several.
    priors : mapping, optional
        Of θ as in :func:`build_model`; of ``X`` N(0, 1), :func:`priors.informative` or :func:`priors.class_mixture`, whose
        centres (and spread, if it has a prior) are where the bound and their prior are highest.
    scale : {"global", "feature", "none"}, default "global"
        As in :func:`build_model`, for columns of a Gaussian or Student-t likelihood; others have f in units of
        their link.
    offset : array_like (N,), (N, 1) or (N, D), or "size", optional
        Added to f, the logarithm of an exposure for counts. "size": the logarithm of the row's sum
        over the median of all. A Series or DataFrame is joined by label.
    noise_sd : array_like (N,), (N, 1), (1, D) or (N, D), optional
        Known standard deviations of measurement in units of Y, added in square to the noise, joined by label as
        ``offset``. Of a Gaussian likelihood only.
    resolution : "auto", number or array_like (D,), default "auto"
        As in :func:`build_model`, the floor of a Gaussian likelihood's noise: "auto" is that of the grid that values lie on, of
        a column at most a third of its variance, or none where ``noise_sd`` is given.
    inputs : DataFrame, mapping from names to values, or Dataset, N rows, optional
        Of one table: what is known of each row, as in :func:`build_model`. Under another likelihood than a Gaussian they act on f.
    n_inducing : int, default 50
        M; more than N are N. The linear kernel takes as many as it has latent dimensions (and one for a bias).
    batch_size : int, optional
        Rows of a step; by default 100 up to 1500 rows, 200 up to 10 000, 500 beyond.
    epochs : float, optional
        How often each row is visited. Default: 300 for 1000 rows, 75 for 20 000, 15 for 100 000, 2 for a million: at
        least twice, and in at least 3000 steps.
    learning_rate : float, default 0.05
        Length of Adam's first steps of inducing inputs, ln θ, levels and the likelihood's parameters; from half of the
        run on all steps shrink linearly.
    start : {"pca", "random"}, array_like (N, Q), DataTree or path, default "pca"
        Where the means of q(x) begin: principal components of the table, of working residuals for counts and classes, of several
        tables side by side, each with the same weight;
        or another fit's X, of an earlier one by this verb all of its state. The path of a ``store``: its last state.
    n_restarts : int, default 0
        Further runs, from positions moved at random; the run of the highest bound is returned. Not in chunks.
    draws : int, default 100
        Of X from q; fewer where they were more than 4·10⁶ numbers.
    client : dask.distributed.Client, optional
        Rows, with their q(x), go in chunks to its workers, each of which should have one thread. A step takes a batch of
        some chunks, see Notes.
    n_workers : int, optional
        So many processes on this machine in place of a client.
    store : path, optional
        A new folder that all workers reach, in which the state is kept, 72 Q bytes a row and more: one that is kept after the fit.
        A temporary one by default, which workers of other machines do not reach.
    chunk_rows : int, optional
        Rows of a chunk. Given without a client, one process goes through the same batches.
    out : path, optional
        A new ``.zarr`` store in a folder that all workers can write to: rows go in chunks, each worker writes q(x) of its rows
        there, and the fit is opened from it, its rows not read, as by :func:`fit_variational`.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : int or None, default 1

    Returns
    -------
    DataTree
        ``posterior``: draws of X from q, with θ and the likelihood's parameters, the same in each.
        ``approximation``: ``X_mean`` and ``X_sd`` of q (obs, latent), ``X_inducing`` (inducing, latent), ``u_mean`` and
        ``u_precision`` (inducing, feature) of q(u) in the basis ``u_basis``, ``level`` (feature).
        ``sample_stats``: ``bound``, of the whole table in its units (beyond 50 000 rows from so many, drawn at
        random), and ``lp``, with ln p(θ). ``trace``
        (step): the mean estimate of the bound a row over the steps before, and seconds. ``optima``: one row a run.
        A table in memory stands in ``observed_data``.

    Warns
    -----
    RuntimeWarning
        If the bound rose by more than 0.1 nats a row in an epoch of the second half, or fell and an earlier state is
        returned, or Ctrl-C ended the fit.

    Raises
    ------
    TypeError, ValueError
        If the data are not what the likelihood describes (counts that are no integers), or an argument is out of range.
    FileExistsError
        If ``out`` exists, ``store`` is not empty, or another run is writing one of them or the folder ``start``.
    KeyboardInterrupt
        At Ctrl-C before the first step, and at the second Ctrl-C.

    Notes
    -----
    The expectation under q(x) is taken at 2 Q + 1 nodes while it runs, turned at random in each step, at more for the
    bound that is reported. The
    covariance of a column's q(u) is diagonal in a basis that all columns share: exact for
    a Gaussian likelihood and complete columns. In a step of q(u) no function moves by more than 2 at the rows where it goes through
    a link: Newton's step to a count far above its mean would end in exp(f) without bounds.

    In chunks a batch is of eight of them (of more where it has more than 512 rows), rows drawn at random, and another eight
    are taken when those are through. Each is moved by the worker that holds it: the numbers are those of one process with
    ``chunk_rows``, whatever the workers, one that dies among them. A step waits for all of them, so that
    workers pay the more the larger the batch.

    Several tables share q(x); each has a kernel, inducing inputs, q(u), level, likelihood and scale of its own (manifold relevance
    determination: Damianou, Ek, Titsias & Lawrence 2012), and with ``ard`` a lengthscale of its own along each dimension. The bound is

        Σ_v [ Σ_n E_q(x_n) E_q(f) ln p(y_vn | f_v(x_n)) - KL(q(u_v) ‖ p) ] - Σ_n KL(q(x_n) ‖ p).

    Rows are joined by label where every table has labels, else by position; a row that a table lacks counts in the others
    alone. Priors under a plain name are of all tables, ``priors={"lengthscale_rna": ...}`` of one. What is a table's own has its name,
    ``lengthscale_rna``, and :func:`data.view` makes an ordinary fit of one table.

    References
    ----------
    Hensman, J., Fusi, N., Lawrence, N. D. (2013). Gaussian processes for big data. UAI.
    Hensman, J., Matthews, A., Ghahramani, Z. (2015). Scalable variational Gaussian process
    classification. AISTATS, PMLR 38, 351-360.
    Lalchand, V., Ravuri, A., Lawrence, N. D. (2022). Generalised GPLVM with stochastic variational
    inference. AISTATS, PMLR 151, 7841-7864.

    Damianou, A., Ek, C. H., Titsias, M., Lawrence, N. (2012). Manifold relevance determination. ICML.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> rng = np.random.default_rng(1)
    >>> t = rng.uniform(-2.0, 2.0, (200, 1))
    >>> counts = rng.poisson(np.exp(np.sin(t + np.arange(6))))
    >>> fit = gplvm.fit_svi(
    ...     counts, 1, likelihood="poisson", epochs=20, random_seed=1, progressbar=False
    ... )
    >>> fit["approximation"]["X_mean"].shape
    (200, 1)

    Counts and numbers of the same rows:

    >>> numbers = np.cos(t + np.arange(4)) + 0.1 * rng.standard_normal((200, 4))
    >>> fit = gplvm.fit_svi(
    ...     {"rna": counts, "protein": numbers},
    ...     2,
    ...     likelihood={"rna": "poisson", "protein": "gaussian"},
    ...     epochs=20,
    ...     random_seed=1,
    ...     progressbar=False,
    ... )
    >>> filled = gplvm.impute(fit, {"rna": counts[:3]}, random_seed=1, progressbar=False)
    >>> dict(filled["mean_protein"].sizes)
    {'obs_new': 3, 'feature_protein': 4}
    """
    if isinstance(Y, pm.Model):
        given = {
            "latent_dim": latent_dim,
            "likelihood": likelihood,
            "kernel": kernel,
            "ard": ard,
            "priors": priors,
            "scale": scale,
            "offset": offset,
            "noise_sd": noise_sd,
            "resolution": resolution,
            "inputs": inputs,
        }
        refuse_beside_a_model(given, fit_svi)
        own: dict[str, Any] = arguments_of(Y)
        Y, latent_dim, likelihood, kernel = (
            own[n] for n in ("Y", "latent_dim", "likelihood", "kernel")
        )
        inputs = own["inputs"]
        ard, priors, scale = (own[n] for n in ("ard", "priors", "scale"))
        offset, resolution = own["offset"], own["resolution"]
    views = read_views(
        Y,
        latent_dim,
        priors,
        inputs,
        ard=ard,
        likelihood=likelihood,
        kernel=kernel,
        scale=scale,
        offset=offset,
        noise_sd=noise_sd,
        resolution=resolution,
    )
    schedule = _schedule(len(views), batch_size, epochs, learning_rate)
    rng = np.random.default_rng(random_seed)
    chunks = InChunks(client, n_workers, store, chunk_rows, out)
    if n_restarts and (chunks.asked or store is not None):
        raise ValueError(
            f"n_restarts must be 0 for a fit in chunks, got {n_restarts}. Fit again from start='random' with other seeds."
        )
    features = {part.own(FEATURE): part.table.features for part in views.parts}
    with (
        store_for(out, "fit_svi", views.labels | features) as target,
        interruptible(keeps=True),
        limit_threads(blas_threads),
        rows_for(views, latent_dim, chunks, start, target) as held_rows,
    ):
        first, goes_on = _start(views, latent_dim, n_inducing, start, rng)
        _check_names(views, first)
        schedule = replace(schedule, goes_on=goes_on)
        runs = _runs(views, first, schedule, n_restarts, rng, progressbar, held_rows)
        best = max(runs, key=lambda run: run.bound)
        settings = {
            "batch_size": schedule.batch_size,
            "epochs": schedule.epochs,
            "start": start_named(start),
            "n_restarts": n_restarts,
            "random_seed": random_seed,
        }
        draws = n_drawn(draws, len(views), latent_dim)
        shown = views if target is None else views.few(FEW)  # by which the store is laid out
        fit = uncollapsed_fit(shown, runs, best, draws, rng, settings, log_units=views.log_scale)
        for text in _problems(fit, best, runs, n_restarts):
            warn_of(fit, f"fit_svi {text}")
        if target is not None and isinstance(best.rows, ChunkedRows):
            fit = best.rows.write(fit, target, draws, rng)
    return fit


# Where it starts


def _schedule(
    n_rows: int, batch_size: int | None, epochs: float | None, learning_rate: float
) -> Schedule:
    usual = 100 if n_rows <= 1500 else 200 if n_rows <= 10_000 else 500
    size = min(usual, n_rows) if batch_size is None else count("batch_size", batch_size, 1, n_rows)
    if epochs is None:
        few = _FEWEST_STEPS * size / n_rows
        epochs = max(few, float(np.clip(300.0 * (1000.0 / n_rows) ** 0.9, 2.0, 300.0)))
    number("epochs", epochs, above=0.0)
    number("learning_rate", learning_rate, above=0.0)
    return Schedule(size, float(epochs), float(learning_rate), _NATURAL, _ROW_RATE, _LOCAL)


def _start(
    views: Views, Q: int, n_inducing: int, start: Any, rng: np.random.Generator
) -> tuple[State, bool]:
    """Where a fit begins, and whether it goes on from an earlier one."""
    if is_state(start):
        return read_state(Path(start), views, Q), True
    if isinstance(start, xr.DataTree):
        read = Fit.of(start, "X", caller="start", views=True)
        tables: Tables = {None: read}
        if read.views:
            tables = tables_of_fit(start, caller="start")
        if all(own.is_uncollapsed for own in tables.values()):
            return _continued(tables, views, Q), True
    X = _positions(views, start, Q, rng)
    unit = np.maximum(np.ptp(X, axis=0).mean(), 1e-300) / np.sqrt(5.0)
    functions = tuple(_functions(part, X, unit, n_inducing, rng) for part in views.parts)
    sd, trust = np.full(X.shape, _SPREAD), np.full(len(X), _TRUST)
    return State(X, sd, trust, functions, views.positions.start(X)), False


def _check_names(views: Views, state: State) -> None:
    """Raise where the names of several tables lead to one variable."""
    owners: dict[str, Any] = {}
    for part, each in zip(views.parts, state.functions, strict=True):
        found = part.likelihood.constrained(each.parameters)
        for name in {part.own(n) for n in (*OF_VIEW, *found)}:
            if owners.setdefault(name, part.name) != part.name:
                raise ValueError(
                    f"Y must give its tables names that lead to variables of their own, got {owners[name]} and "
                    f"{part.name}, by which {name!r} would be two. Rename one."
                )


def _functions(
    part: Part, X: Array, unit: float, n_inducing: int, rng: np.random.Generator
) -> Functions:
    """Begin the functions of a table: q(u) at its prior, inducing inputs among the rows."""
    table, theta, Q = part.table, part.theta, X.shape[1]
    sample = part.rows(table.sample(SAMPLE, rng))
    parameters, level = part.likelihood.start(sample)
    usual = {"lengthscale": unit, "amplitude": 1.0, "alpha": 1.0, "weight": 0.3, "bias": 0.6}
    named = {
        name: theta.fixed.get(name, np.full(shape, usual[name]))
        for name, shape in theta.shapes.items()
    }
    if part.is_linear:  # determined by its values on the axes, and at the origin
        W = np.eye(Q + int("bias" in theta.dims), Q)
    else:
        count("n_inducing", n_inducing, 2)
        some = table.sample(SAMPLE, rng)
        chosen = part.whole(X[some], some)
        W = spread_rows(chosen, min(n_inducing, len(chosen)), rng)
    return Functions(
        W=W,
        log_theta={name: np.log(value) for name, value in named.items()},
        level=np.asarray(level, dtype=np.float64),
        parameters=parameters,
        posterior=ColumnPosterior.prior(len(W), table.shape[1]),
    )


def _positions(views: Views, start: Any, Q: int, rng: np.random.Generator) -> Array:
    """Means of q(x) at the start, of unit spread where they are found here and are no angles."""
    N = len(views)
    if isinstance(start, str):
        if start == "random":
            X = rng.standard_normal((N, Q))
        elif start == "pca":
            entry = kernel_named(views.parts[0].kernel)
            angles = entry.angles(Q) if isinstance(entry, Composite) else []
            X = with_angles(_components(views, Q + len(angles), rng), angles)
            around, spread = X[:, angles], X.std(axis=0)
            empty = spread <= 1e-10 * max(spread.max(), 1e-300)
            X[:, empty] = rng.standard_normal((N, int(empty.sum())))
            X = (X - X.mean(axis=0)) / np.where(empty, 1.0, spread)
            X[:, angles] = around
        else:
            raise ValueError(f"start must be 'pca', 'random', positions or a fit, got {start!r}.")
        anchors = views.positions.anchors
        return X if anchors is None else turned_towards(X, *anchors, rng)
    if isinstance(start, xr.DataTree):
        read = Fit.of(start, "X", caller="start", views=True)
        X = np.asarray(read.values("X").mean(axis=0))
    else:
        X = numbers("start", start)
    if X.shape != (N, Q) or not np.isfinite(X).all():
        raise ValueError(f"start must give X finite values in the shape {(N, Q)}, got {X.shape}.")
    return X.copy()


def _components(views: Views, Q: int, rng: np.random.Generator) -> Array:
    """Principal components of what the likelihoods make of the tables, found on some rows, of all rows."""
    table, inputs = views.table, views.parts[0].inputs
    some = table.sample(SAMPLE, rng)
    working = views.side_by_side(some)
    sample = working.rows(some)
    mean = np.nan_to_num(np.nanmean(sample, axis=0))
    slopes = _of_inputs(inputs, some, completed(sample - mean, Q))
    filled = completed(sample - mean - _explained(inputs, some, slopes), Q)
    _, _, V = np.linalg.svd(filled - filled.mean(axis=0), full_matrices=False)
    axes = V[:Q]
    X = np.empty((len(table), len(axes)))
    whole = [table.sample(len(table), rng)] if len(table) <= SAMPLE else table.blocks()
    for rows in whole:
        values = working.rows(rows) - mean
        values = values - _explained(inputs, rows, slopes)
        X[rows] = least_squares_scores(values, axes)
    return np.column_stack([X, np.zeros((len(X), Q - X.shape[1]))])


def _design(inputs: Inputs | None, rows: Rows) -> Array:
    """Return what inputs of rows may act by at a start: a line of each, and a parabola of numbers."""
    if inputs is None:
        return np.zeros((len(rows), 0))
    known = inputs.values[rows]
    return np.hstack([known, known**2])


def _of_inputs(inputs: Inputs | None, rows: Rows, F: Array) -> Array:
    """Slopes of a table in what its inputs do, by least squares with a little held back."""
    A = _design(inputs, rows)
    return np.asarray(np.linalg.solve(A.T @ A + 0.1 * np.eye(A.shape[1]), A.T @ F))


def _explained(inputs: Inputs | None, rows: Rows, slopes: Array) -> Any:
    """Return what inputs do to some rows at a start."""
    return 0.0 if inputs is None else _design(inputs, rows) @ slopes


def _continued(tables: Tables, views: Views, Q: int) -> State:
    """Take up the state of an earlier fit of these tables."""
    read = next(iter(tables.values()))
    mean, sd = read.positions_and_sds
    found = [
        _known_functions(tables[part.name], part) if part.name in tables else None
        for part in views.parts
    ]
    functions = tuple(each for each in found if each is not None)
    if mean.shape != (len(views), Q) or len(functions) != len(found) or len(tables) != len(found):
        raise ValueError(
            "start must be a fit of this table, kernel and likelihood with the same latent_dim, got another. "
            "Start from its positions: start=fit['approximation']['X_mean']."
        )
    own = views.positions.stored(read)
    return State(
        mean.copy(),
        sd.copy() if read.has_q else np.full_like(mean, _SPREAD),
        np.full(len(mean), _TRUST),
        functions,
        views.positions.start(mean) if own is None else own,
    )


def _known_functions(read: Fit, part: Part) -> Functions | None:
    """Take up the functions of a table; None where they are of another table, kernel or likelihood."""
    known = read.group("approximation")
    level, theta = known["level"].to_numpy(), part.theta
    parameters, _ = part.likelihood.start(part.rows(np.arange(min(len(part.table), 1000))))
    stored = {
        n: known[f"likelihood_{n}"].to_numpy() for n in parameters if f"likelihood_{n}" in known
    }
    fits = (
        level.shape == (part.table.shape[1],)
        and {name for name in theta.dims if name in read} == set(theta.dims)
        and all(np.shape(read.values(n)[0]) in ((), theta.shapes[n]) for n in theta.dims)
        and {n: v.shape for n, v in stored.items()}
        == {n: np.shape(v) for n, v in parameters.items()}
    )
    if not fits:
        return None
    basis = known["u_basis"].to_numpy()
    precisions = known["u_precision"].to_numpy()
    common = (basis * precisions.mean(axis=1)) @ basis.T
    q = ColumnPosterior(known["u_mean"].to_numpy(), precisions, basis, common)
    log_theta = {
        name: np.broadcast_to(np.log(read.values(name)[0]), shape).copy()
        for name, shape in theta.shapes.items()
    }
    return Functions(inducing_inputs(known), log_theta, level, stored, q)


# The runs


@dataclass(frozen=True)
class Run:
    """Where one start ended."""

    state: State
    bound: float  # of all rows, before units
    rise: float  # of the bound a row in an epoch, at the end
    fell: bool  # an earlier state was taken
    trace: list[tuple[int, float, float]]
    taken: int
    number: int
    cut: bool  # by Ctrl-C
    rows: HeldRows | None = None  # what still holds the rows


def _runs(
    views: Views,
    first: State,
    schedule: Schedule,
    n_restarts: int,
    rng: np.random.Generator,
    show: bool,
    held_rows: Callable[[State], HeldRows],
) -> list[Run]:
    total = schedule.steps(len(views))
    starts = [first, *(_restarted(first, rng) for _ in range(n_restarts))]
    runs: list[Run] = []
    with progress_bar("fit_svi", total * len(starts), "steps", show=show) as bar:
        for i, state in enumerate(starts):
            optimiser = Optimiser(views, state, schedule, held_rows(state), rng=rng)
            try:
                runs.append(_run(optimiser, rng, i, bar))
            except KeyboardInterrupt:
                if not runs:
                    raise
                caught()
            if interrupted():
                break
    return runs


def _restarted(state: State, rng: np.random.Generator) -> State:
    """Another start: positions moved by half their spread."""
    mean = state.mean + 0.5 * state.mean.std(axis=0) * rng.standard_normal(state.mean.shape)
    return replace(state, mean=mean, sd=state.sd.copy(), trust=state.trust.copy())


def _run(optimiser: Optimiser, rng: np.random.Generator, i: int, bar: Any) -> Run:
    """Take all steps, looking at the mean of their estimates a window at a time."""
    table, schedule = optimiser.views.table, optimiser.schedule
    total = schedule.steps(len(table))
    window = max(total // _WINDOWS, 1)
    began = time.perf_counter()
    trace: list[tuple[int, float, float]] = []
    estimates: list[float] = []
    best = -np.inf

    def look() -> None:
        nonlocal best
        value = float(np.mean(estimates))
        estimates.clear()
        trace.append((optimiser.taken, value, time.perf_counter() - began))
        if (recent := _recent(trace)[0]) > best:
            optimiser.keep()
            best = recent

    try:
        while optimiser.taken < total:
            for rows in optimiser.rows.batches(schedule.batch_size, rng):
                safe_point()
                estimate = optimiser.step(rows)
                if not np.isfinite(estimate):
                    raise FloatingPointError
                estimates.append(estimate)
                if len(estimates) == window or optimiser.taken == total:
                    look()
                bar.advance(bound=estimate)
                if optimiser.taken >= total:
                    break
    except KeyboardInterrupt:
        if not optimiser.taken:
            raise
        caught()
    except (FloatingPointError, np.linalg.LinAlgError):
        if not trace:
            raise ValueError(
                "fit_svi found a bound that is not finite in its first steps. Lower learning_rate, or look at the "
                "table's largest entries."
            ) from None
    recent, noise = _recent(trace)
    fell = recent < best - max(3.0 * noise, 0.5)
    stopped_early = optimiser.taken < total and not interrupted()
    if fell or stopped_early:
        optimiser.restore()
    few = None if len(table) <= _EVALUATED else table.sample(_EVALUATED, rng)
    return Run(
        optimiser.state(),
        optimiser.bound(few) * len(table),
        _rise(trace, schedule, len(table)),
        fell or stopped_early,
        trace,
        optimiser.taken,
        i,
        interrupted() and optimiser.taken < total,
        optimiser.rows,
    )


def _recent(trace: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean of the last five windows and their spread, as one differs from the next by chance."""
    values = [value for _, value, _ in trace[-5:]]
    return (float(np.mean(values)), float(np.std(values))) if values else (-np.inf, 0.0)


def _rise(trace: list[tuple[int, float, float]], schedule: Schedule, n_rows: int) -> float:
    """By how much the bound a row rose in an epoch of the second half of the run."""
    if len(trace) < 4:
        return 0.0
    (first, early, _), (last, late, _) = trace[len(trace) // 2], trace[-1]
    return (late - early) / ((last - first) * schedule.batch_size / n_rows)


# The fit


def n_drawn(draws: int, n_rows: int, latent_dim: int) -> int:
    """Return the number of draws of X, fewer where they would take much memory."""
    return max(1, min(draws, _MOST_DRAWN // (n_rows * latent_dim)))


def uncollapsed_fit(
    views: Views,
    runs: list[Run],
    best: Run,
    draws: int,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
    *,
    log_units: float,
    method: str = "svi",
) -> xr.DataTree:
    """Write a run down as a tree: what other verbs read of it stands in ``approximation``.

    ``log_units``: Σ ln scale over the entries of all rows.
    """
    state, positions = best.state, views.positions
    N, Q = state.mean.shape
    X = rng.standard_normal((draws, N, Q))
    X *= state.sd
    X += state.mean
    numbered = np.array_equal(views.obs, np.arange(N))
    obs = pd.RangeIndex(N) if numbered else views.obs  # which takes no memory
    of_rows: dict[str, Any] = {name: ((OBS,), c) for name, c in views.coords.items()}
    coords: dict[str, Any] = {OBS: obs, LATENT: np.arange(Q)}
    drawn: dict[str, Any] = {"X": (("chain", "draw", OBS, LATENT), X[None])}
    for name, (dims, value) in positions.natural(state.prior).items():
        of_draws = np.broadcast_to(value, (1, draws, *np.shape(value)))
        drawn[name] = (("chain", "draw", *dims), of_draws)
    ends = {"chain": [0], "draw": np.arange(draws)}
    lp = positions.log_prior(state.prior)[0]
    for part, each in zip(views.parts, state.functions, strict=True):
        lp += part.theta.log_density(each.log_theta)[0]
        lp += part.likelihood.log_prior(each.parameters)[0]
    bound = best.bound - log_units
    own_coords = coords | dict(positions.names)
    groups = {
        "posterior": xr.Dataset(drawn, coords=ends | own_coords | of_rows),
        "sample_stats": xr.Dataset(
            {
                n: (("chain", "draw"), np.full((1, draws), v))
                for n, v in (("bound", bound), ("lp", bound + lp))
            },
            coords=ends,
        ),
        "observed_data": xr.Dataset({}, coords={OBS: obs} | of_rows),
        "constant_data": xr.Dataset(positions.constants, coords=own_coords),
        "approximation": xr.Dataset(
            {"X_mean": ((OBS, LATENT), state.mean), "X_sd": ((OBS, LATENT), state.sd)},
            coords=coords,
        ),
    }
    own_names: dict[str, None] = {}
    for part, each in zip(views.parts, state.functions, strict=True):
        for group, found in _of_table(part, each, (draws, N, Q)).items():
            shared = {OBS, LATENT, COLUMN, "chain", "draw"}
            mine = [str(n) for n in (*found.variables, *found.dims) if n not in shared]
            own_names |= dict.fromkeys(mine)
            renamed = found.rename({n: part.own(n) for n in dict.fromkeys(mine)})
            groups[group] = groups[group].merge(renamed, join="exact")
    step, estimate, seconds = (
        np.array(c) for c in zip(*(best.trace or [(0, np.nan, 0.0)]), strict=True)
    )
    order = sorted(runs, key=lambda run: -run.bound)
    groups |= {
        "trace": xr.Dataset(
            {"bound": ("step", estimate), "seconds": ("step", seconds)}, coords={"step": step}
        ),
        "optima": xr.Dataset(
            {
                "objective": ("start", [r.bound - log_units for r in order]),
                "evaluations": ("start", [r.taken for r in order]),
                "converged": ("start", [not ended for ended in map(_why_not, order)]),
                "message": ("start", [_why_not(r) or "the bound stands" for r in order]),
            },
            coords={"start": [r.number for r in order]},
        ),
    }
    first = views.parts[0]
    if len(order) * N * Q <= _MOST_PLACED:
        named = [{"X": r.state.mean, **_natural(r.state.functions[0], first.theta)} for r in order]
        groups |= optima_positions([r.number for r in order], named, first.kernel)
    fit = xr.DataTree.from_dict(groups)
    texts: dict[str, str] = {}
    of_each: dict[str, Any] = {}
    for part, each in zip(views.parts, state.functions, strict=True):
        texts |= {part.own(name): text for name, text in part.theta.texts.items()}
        known = {"likelihood": noted(part.likelihood), "n_inducing": len(each.W), **part.size}
        of_each |= {part.own(name): value for name, value in known.items()}
        own_names |= dict.fromkeys(known)
    kernels = {str(part.name): part.kernel for part in views.parts}
    fit.attrs = attributes(
        method=method,
        kernel=first.kernel if len(set(kernels.values())) == 1 else "custom",
        observed="Y",
        priors={**texts, **positions.texts},
        settings={**of_each, **settings},
    )
    if first.name is not None:
        told = {"views": list(kernels), "kernels": kernels, "own_names": list(own_names)}
        fit.attrs |= {name: to_json(value) for name, value in told.items()}
        del fit.attrs["observed"]
    return fit


def _of_table(
    part: Part, functions: Functions, shape: tuple[int, int, int]
) -> dict[str, xr.Dataset]:
    """Tell what a fit holds of one table, by group, under plain names; ``shape`` (S, N, Q) that of the draws of X."""
    (S, N, Q), table, theta, D = shape, part.table, part.theta, part.table.shape[1]
    coords = {LATENT: np.arange(Q), FEATURE: table.features}
    own_coords = {FEATURE: table.features} | theta.coords
    natural = _natural(functions, theta)
    natural |= {
        n: np.asarray(v) for n, v in part.likelihood.constrained(functions.parameters).items()
    }
    drawn = {}
    for name, value in natural.items():
        dims = theta.dims[name] if name in theta.dims else _dims_of(name, value, D)
        drawn[name] = (("chain", "draw", *dims), np.broadcast_to(value, (1, S, *value.shape)))
    constants: dict[str, Any] = {
        "Y_mean": (FEATURE, part.centre),
        "Y_scale": (FEATURE, part.scale),
        **{name: (theta.dims[name], value) for name, value in theta.fixed.items()},
    }
    for name, known in (("Y_offset", part.offset), ("Y_entry", part.entry)):
        if known is not None:
            first = OBS if len(known) == N else f"{name}_rows"
            last = FEATURE if known.shape[1] == D else f"{name}_columns"
            constants[name] = ((first, last), known)
    approximation: dict[str, Any] = {
        "X_inducing": ((INDUCING, LATENT), functions.W[:, :Q]),
        "u_mean": ((INDUCING, FEATURE), functions.posterior.means),
        "u_precision": ((INDUCING, FEATURE), functions.posterior.precisions),
        "u_basis": ((INDUCING, f"{INDUCING}_to"), functions.posterior.basis),
        "level": (FEATURE, functions.level),
        **{
            f"likelihood_{n}": (_dims_of(n, np.asarray(v), D), v)
            for n, v in functions.parameters.items()
        },
    }
    if (known_inputs := part.inputs) is not None:
        of_inputs = {COLUMN: np.array(known_inputs.columns)}
        coords, own_coords = coords | of_inputs, own_coords | of_inputs
        constants["inputs"] = ((OBS, COLUMN), known_inputs.values)
        constants["inputs_mean"] = (COLUMN, known_inputs.mean)
        constants["inputs_scale"] = (COLUMN, known_inputs.scale)
        approximation["inputs_inducing"] = ((INDUCING, COLUMN), functions.W[:, Q:])
    whole = table.whole()
    return {
        "posterior": xr.Dataset(drawn, coords=own_coords),
        "observed_data": xr.Dataset(
            {} if whole is None else {"Y": ((OBS, FEATURE), whole)},
            coords={FEATURE: table.features},
        ),
        "constant_data": xr.Dataset(constants, coords=own_coords),
        "approximation": xr.Dataset(
            approximation, coords={**coords, INDUCING: np.arange(len(functions.W))}
        ),
    }


def _natural(functions: Functions, theta: ThetaPrior) -> dict[str, Array]:
    """Free hyperparameters of the kernel."""
    return {name: np.exp(functions.log_theta[name]) for name in theta.free}


def _why_not(run: Run) -> str:
    """Say why a run is not taken for one that has arrived, "" if it is."""
    if run.cut:
        return "interrupted"
    if run.fell:
        return "the bound fell, and the state before is returned"
    return f"the bound rose by {run.rise:.2g} nats a row in an epoch" if run.rise > _RISING else ""


def _dims_of(name: str, value: Array, n_columns: int) -> tuple[str, ...]:
    """Name the axes of a parameter of the likelihood: a number, one for each column, or several for each."""
    if value.ndim == 0:
        return ()
    first = FEATURE if len(value) == n_columns else f"{name}_dim_0"
    return (first, *(f"{name}_dim_{i}" for i in range(1, value.ndim)))


def _problems(fit: xr.DataTree, best: Run, runs: list[Run], n_restarts: int) -> Iterator[str]:
    if fit.attrs["interrupted"]:
        yield (
            f"was interrupted in run {len(runs)} of {n_restarts + 1}, after {best.taken} steps of the one that is returned. "
            "Go on from here with start=fit."
        )
    elif best.fell:
        yield (
            "saw its bound fall, and returns the state before. Lower learning_rate, or raise batch_size or n_inducing."
        )
    elif best.rise > _RISING:
        yield (
            f"ended while its bound still rose, by {best.rise:.2g} nats a row in an epoch. Go on with start=fit, or raise epochs."
        )
