"""The modes of a model: of X and θ together, or of θ with X integrated out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import BlasThreads, threads_for
from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked
from pm_gplvm.core.interrupt import interrupted, interruptible
from pm_gplvm.core.workers import workers
from pm_gplvm.data.fit import OBS, THETA, Fit, in_each_view, warn_of
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.table import grid_steps
from pm_gplvm.data.views import view
from pm_gplvm.fitting.optimise import (
    COLLAPSED,
    DID_NOT_MOVE,
    LIMIT,
    TOL,
    Measure,
    Optimum,
    best_first,
    from_joint_mode,
    interruption,
    optima_positions,
    optima_table,
    start_columns,
    starts_of,
)
from pm_gplvm.fitting.relocation import Relocation
from pm_gplvm.model.compile import Backend, compile_mode
from pm_gplvm.model.density import (
    LogDensity,
    Measured,
    compile_constrain,
    compile_log_density,
    measured,
    optimiser_coordinates,
)
from pm_gplvm.model.laplace import functions_at, without_functions
from pm_gplvm.model.results import as_fit, mode_of_functions, warn_of_columns
from pm_gplvm.model.spec import FunctionTable, ModelSpec
from pm_gplvm.model.volume import log_volume, why_no_volume

__all__ = ["fit_map", "fit_marginal"]

_FEW_ROWS = 200  # of a table that is fitted from its joint mode too: it costs one fit more
_NOTHING = 0.05  # of the prior's standard deviation: X then says nothing of the table
_RUN_AWAY = 1e4  # a hyperparameter beyond it, or below its inverse, has no maximum
_AT_FLOOR = 0.3  # of the floor: sigma below it adds less than 5 % to the noise
_FEWEST = 3  # distinct rows among which copies are looked for
_GRIDDED = 0.5  # share of gridded columns from which equal rows are no copies
NO_STRUCTURE = "no structure found at this latent_dim"


@checked
def fit_map(
    model: pm.Model,
    *,
    start: Any = "pca",
    n_restarts: int = 0,
    relocate: bool = True,
    max_iter: int = 5000,
    tol: float = TOL,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: BlasThreads = "auto",
    cores: int | None = None,
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Find the mode of the posterior of X and θ together.

    The objective is L(X, θ) + ln p(X) + ln p(θ), densities of the variables themselves (no
    Jacobian of a transform): Lawrence's (2005) where the priors of θ are flat. L-BFGS maximises
    it in Z = X / lengthscale and the logarithms of θ, which changes its path, not its maximum (see
    :class:`pm_gplvm.model.density.Coordinates`).

    The mode overfits: it leaves out the volume that X may take, so that its noise is too small and
    sd(X) far below 1. For an estimate to go on with (new rows, missing entries, the number of
    dimensions) take :func:`fit_marginal`.

    Of a model with another likelihood, ``build_model(Y, likelihood="poisson")``, L is Σ_d ln p(y_d | X, θ,
    level_d, parameters), the column's function f_d integrated out by Laplace's approximation: the mode of f is found
    by Newton's method at every evaluation, and the gradient follows it as it moves (Rasmussen & Williams 2006,
    algorithms 3.1 and 5.1). It takes D Cholesky factorisations of N × N for each of some three Newton steps: for small
    tables, a few hundred rows. ln p(y | f) must be concave and curved in f, as all of these are but Student-t
    noise. Levels and the likelihood's parameters are found with X and θ.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, with any likelihood that is concave in f, of one table or several, or your own with
        latent positions ``X`` and a :class:`GPColumns`.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        Where to begin. A way to place X is tried in several forms: with the spread of the components
        or whitened, at several ratios of X to the lengthscale; after short runs the best goes on.
        Positions, values by name, or another fit are one start.
    n_restarts : int, default 0
        Further starts, moved at random from the first ones by half their spread, and run to their
        ends. The objective has many maxima: each start's is listed in the group ``optima``.
    relocate : bool, default True
        Offer single rows better places between runs, for as long as that raises the objective
        (:mod:`pm_gplvm.fitting.relocation`). It finds better modes than restarts do. With another likelihood
        than a Gaussian there is none of it; restarts help there.
    max_iter : int, default 5000
        Iterations of a run of L-BFGS.
    tol : float, default 0.01
        In nats. A fit has converged when the last 10 iterations together gained less than 10 ``tol``,
        and the next step is expected to gain less than ``tol``: ½ gᵀHg, H the optimiser's own
        approximation of the inverse Hessian.
    random_seed : int, optional
        Of the random start and of the restarts; also of the places offered, which are the same
        each time where it is None.
    progressbar : bool, default True
    blas_threads : {"auto"}, int or None, default "auto"
        Threads of the linear algebra while it runs: 1, or from 800 rows on as many as there are cores, up
        to 4. None leaves the machine's setting. Another number may lead to another mode, by rounding.
    cores : int, optional
        Processes that run from so many starts at once; by default all runs are made in this one. With the same
        ``blas_threads`` the numbers are the same (below 800 rows they are so by default): a process has one
        thread, or as many as ``blas_threads`` says. (With another likelihood than a Gaussian they are the same but for
        rounding, as a search for the mode of f begins at the last one.) They take some 2 seconds to begin, and wait two minutes
        for the next fit. It gains something with restarts, from about 300 rows on; moving rows and the
        last run, from the best start, are done in this process.
    backend : {"python", "numba", "jax"}, default "python"
        What compiles the model. Numba takes minutes to, and spares some 0.2 ms an evaluation. "python" alone with
        another likelihood than a Gaussian.
    compile_kwargs : mapping, optional
        Handed to ``pytensor.function``.

    Returns
    -------
    DataTree
        A posterior of one chain and one draw. ``sample_stats``: ``lp``, the objective, and
        ``log_likelihood``. ``optima``: one row a start, the best first, with its ``size`` (root mean
        square of X / lengthscale) and ``spread``; ``optima_positions``: ``Z`` (start, obs, latent),
        X / lengthscale where it ended (:func:`plot.optima`).

        With another likelihood the posterior has ``f`` (obs, feature) at its mode, ``level`` and the likelihood's
        parameters too, and the group ``laplace`` what predictions are made from: ``weights`` = K⁻¹(f - level), the slope of
        ln p(y | f); ``curvature``, minus its second derivative; ``log_likelihood`` of each column.

    Warns
    -----
    RuntimeWarning
        If the best start did not converge, X did not move, the noise ended at its floor, or Ctrl-C ended
        the search: the best so far is returned, and ``attrs["interrupted"]`` is 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the objective is not finite at the start, the model cannot be
        sent to another process and ``cores`` is not 1, or ln p(y | f) is not concave in f.
    RuntimeError
        If a process of ``cores`` ended by itself.
    KeyboardInterrupt
        At Ctrl-C before a start has been evaluated, and at the second Ctrl-C.

    References
    ----------
    Lawrence, N. D. (2005). Probabilistic non-linear principal component analysis with Gaussian
    process latent variable models. JMLR 6, 1783-1816.

    Rasmussen, C. E., Williams, C. K. I. (2006). Gaussian processes for machine learning. MIT Press. Algorithms 3.1
    and 5.1.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_map(model, progressbar=False)
    >>> dict(best.posterior.sizes)
    {'chain': 1, 'draw': 1, 'obs': 20, 'latent': 2}

    Counts:

    >>> counts = gplvm.data.load_digits(n=20)[:, 18:22]
    >>> model = gplvm.build_model(counts, likelihood="poisson")
    >>> gplvm.fit_map(model, random_seed=1, progressbar=False).posterior["f"].shape
    (1, 1, 20, 4)
    """
    spec = ModelSpec.of(model, functions=True, views=True)
    settings = _Settings("fit_map", start, n_restarts, relocate, max_iter, tol, random_seed)
    return _warned(spec, settings, False, progressbar, blas_threads, cores, backend, compile_kwargs)


@checked
def fit_marginal(
    model: pm.Model,
    *,
    start: Any = "pca",
    n_restarts: int = 0,
    relocate: bool = True,
    max_iter: int = 5000,
    tol: float = TOL,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: BlasThreads = "auto",
    cores: int | None = None,
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Estimate θ with X integrated out, and X given that θ: empirical Bayes.

    θ is where the marginal likelihood times the prior, p(Y | θ) p(θ), is highest; X is the mode of
    p(X | Y, θ) there. The integral over X is Laplace's, in which the curvature of the likelihood
    stands as the prior expects it:

        ln p(Y | θ) ≈ max_X [ L(X, θ) + ln p(X) ] + ½ N Q ln 2π - ½ Σ_nq ln(1/v_nq + h_nq),
        h_nq = D_n (c amplitude² / lengthscale_q² + weight²) / (sigma² + resolution²),

    v the prior variance of x_nq, D_n the number of entries seen of row n, c = -κ''(0): 1 for rbf, 3 for
    matern32, 5/3 for matern52, 1 for cauchy; of several factors the sum over the terms that look at q. The last term depends on θ alone, so that X is the mode
    that the model says, and both are found by one run; with ``noise="column"`` h is another one
    (:mod:`pm_gplvm.model.volume`). Against :func:`fit_map`: the noise is the posterior's
    rather than half of it, X keeps the scale of its prior N(0, 1), and where a table says nothing,
    that is the result.

    Parameters
    ----------
    model : pm.Model
        As in :func:`fit_map`, with one of the kernels of :func:`build_model` and X free, its prior a
        Normal, :func:`priors.informative`, :func:`priors.dynamics`, :func:`priors.class_mixture` or :func:`priors.back_constraint`.
    start, n_restarts, relocate, max_iter, tol, random_seed, progressbar, blas_threads, cores, backend, compile_kwargs
        As in :func:`fit_map`.

    Returns
    -------
    DataTree
        As from :func:`fit_map`; ``lp`` is the log-density of the model at (X, θ), and ``sample_stats``
        has ``log_marginal`` besides: ln p(Y | θ) + ln p(θ) by the formula above, in the units of Y. It
        may be compared between numbers of latent dimensions and kernels.

    Warns
    -----
    RuntimeWarning
        As :func:`fit_map`; also if all positions are 0: the table holds no structure that the
        model could find with so many latent dimensions.

    Raises
    ------
    TypeError, ValueError
        As :func:`fit_map`; also if X cannot be integrated out of the model.
    KeyboardInterrupt
        As :func:`fit_map`.

    Notes
    -----
    The curvature that the prior expects is right on average over tables that the model draws. Where
    the positions of rows are known better than that, the term is too strong, and the noise comes out
    too large: .49 for .42 on 40 rows of 12 sines of two factors. Where they are known less well,
    it is too weak.

    References
    ----------
    Lawrence, N. D. (2005). Probabilistic non-linear principal component analysis with Gaussian
    process latent variable models. JMLR 6, 1783-1816.

    MacKay, D. J. C. (1999). Comparison of approximate methods for handling hyperparameters. Neural
    Computation 11, 1035-1068.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> fit = gplvm.fit_marginal(model, progressbar=False)
    >>> float(fit.posterior["X"].std()) > 0.3
    True
    """
    spec = ModelSpec.of(model, views=True)
    if (why := why_no_volume(spec)) is not None:
        raise ValueError(
            f"fit_marginal cannot integrate X out of this model: {why}. Take fit_map, or sample."
        )
    settings = _Settings("fit_marginal", start, n_restarts, relocate, max_iter, tol, random_seed)
    return _warned(spec, settings, True, progressbar, blas_threads, cores, backend, compile_kwargs)


@dataclass(frozen=True)
class _Settings:
    """What the user asked of a fit."""

    caller: str
    start: Any
    n_restarts: int
    relocate: bool
    max_iter: int
    tol: float
    random_seed: int | None


def _warned(spec: ModelSpec, settings: _Settings, *others: Any) -> xr.DataTree:
    """Fit, or as far as that came before Ctrl-C, and say what went wrong."""
    with interruptible(keeps=True):
        fit = _fit(spec, settings, *others)
    _warn(spec, fit, settings)
    return fit


def _fit(
    spec: ModelSpec,
    settings: _Settings,
    volume: bool,
    progressbar: bool,
    blas_threads: BlasThreads,
    cores: int | None,
    backend: Backend,
    compile_kwargs: Mapping[str, Any] | None,
) -> xr.DataTree:
    given = spec
    if isinstance(spec.table, FunctionTable):
        if backend != "python":
            raise ValueError(
                f"backend must be 'python' for a model with a likelihood, got {backend!r}: Laplace's approximation "
                "is no graph that another backend could compile. Leave it out."
            )
        spec = without_functions(spec, settings.caller)
    model = spec.model
    if not model.free_RVs:
        raise ValueError("model must have a free variable, got every one fixed by a number.")
    seed = settings.random_seed
    first = _copies(spec)
    rows = None if first is None else np.unique(first)
    threads = threads_for(blas_threads, spec.X_shape[0])
    with limit_threads(threads):
        starts = starts_of(spec, settings.start, settings.n_restarts, np.random.default_rng(seed))
    density = compile_log_density(
        spec,
        volume=volume,
        rows=rows,
        coordinates=optimiser_coordinates,
        backend=backend,
        compile_kwargs=compile_kwargs,
    )
    relocation = None
    if Relocation.serves(spec):
        # Without a seed a fit from PCA is the same each time; so are the places it offers.
        offers = np.random.default_rng(0 if seed is None else seed)
        relocation = Relocation(spec, offers, rows)
    if volume and len(starts) > 1 and len(model.coords.get(OBS, ())) <= _FEW_ROWS:
        joint = compile_log_density(spec, rows=rows, coordinates=optimiser_coordinates)
        with limit_threads(threads):
            starts = [*starts, from_joint_mode(joint, starts, settings.max_iter)]
    terms = _Terms.of(spec, density, volume, rows)
    sd = None if relocation is None else spec.prior.sd
    judge = None
    if volume and sd is not None and relocation is not None:
        judge = partial(_by_rows, terms=terms, relocation=relocation, sd=sd)
    measure: Measure | None = None
    if relocation is not None:
        measure = partial(_coordinates_at, plain=density, relocation=relocation, sd=sd)
    with ExitStack() as stack:
        counter = stack.enter_context(
            progress_bar(settings.caller, len(starts), "starts", show=progressbar)
        )
        others = None
        if (n := min(cores or 1, len(starts))) > 1:
            alone = blas_threads if isinstance(blas_threads, int) else 1
            others = stack.enter_context(workers((density, measure), n, alone))
        stack.enter_context(limit_threads(threads))
        ranked = best_first(
            density,
            starts,
            relocation if settings.relocate else None,
            judge=judge,
            measure=measure,
            max_iter=settings.max_iter,
            tol=settings.tol,
            counter=counter,
            workers=others,
        )
    if first is not None:
        ranked = [(i, replace(o, values=o.values | {"X": o.values["X"][first]})) for i, o in ranked]
    constrain = compile_constrain(model)
    ends = [constrain(*[o.values[name] for name in density.names]) for _, o in ranked]
    if volume and not interrupted() and _says_nothing(spec, ends[0]):
        end = ranked[0][1]  # X = 0 to rounding is no failure here: it is what was found
        arrived = end.converged or (end.message == COLLAPSED and end.remaining < settings.tol)
        ranked[0] = (ranked[0][0], replace(end, converged=arrived, message=NO_STRUCTURE))
    best = ranked[0][1]
    prior, term = terms(best)
    if rows is None:
        likelihood = best.objective - prior - term
    else:
        whole = compile_log_density(spec, prior=False)
        likelihood = whole(whole.pack(best.values))[0]
    stats = {"lp": likelihood + prior, "log_likelihood": likelihood}
    for part in spec.views:
        own = compile_log_density(part, prior=False)
        stats[part.own("log_likelihood")] = own(own.pack(best.values))[0]
    if volume:
        stats["log_marginal"] = best.objective
    start, more = settings.start, {}
    if isinstance(spec.table, FunctionTable):
        mode = functions_at(spec, best.values)
        ends[0]["f"] = mode.f
        more = mode_of_functions(spec, mode)
        spec = replace(spec, model=given.model)
    fit = as_fit(
        spec,
        {name: np.asarray(v)[None, None] for name, v in ends[0].items()},
        method="marginal" if volume else "map",
        sample_stats={name: np.array([[value]]) for name, value in stats.items()},
        settings={
            "start": start if isinstance(start, str) else type(start).__name__,
            "converged": int(best.converged),
            "random_seed": seed,
        },
        groups={
            "optima": optima_table(ranked).merge(start_columns(starts, ranked)),
            **optima_positions([i for i, _ in ranked], ends, spec.kernels[0]),
            **more,
        },
    )
    if first is not None and rows is not None:
        warn_of(
            fit,
            f"Y has {len(first) - len(rows)} rows that are exact copies of others: each is fitted once, and "
            "its copies are placed at it. Were they measured more than once, add what differs; were they "
            "entered twice, drop them.",
        )
    return fit


@dataclass(frozen=True)
class _Terms:
    """What an objective has besides the likelihood: the priors, and the volume of X.

    The likelihood is what they leave of it, so that its graph is compiled once only.
    """

    function: Callable[..., Any]
    names: Sequence[str]

    @classmethod
    def of(
        cls, spec: ModelSpec, density: LogDensity, volume: bool, rows: NDArray[np.intp] | None
    ) -> Self:
        """Compile them."""
        model = spec.model
        prior = model.logp(vars=[*model.free_RVs, *model.potentials], jacobian=False)
        term: list[Any] = [pt.constant(0.0)]
        if volume:
            term = model.replace_rvs_by_values([log_volume(spec, rows)])
        function = pytensor.function(
            model.value_vars, [prior, *term], on_unused_input="ignore", mode=compile_mode()
        )
        return cls(function, density.names)

    def __call__(self, optimum: Optimum) -> tuple[float, float]:
        """Evaluate them where a run ended."""
        prior, volume = self.function(*(optimum.values[name] for name in self.names))
        return float(prior), float(volume)


def _by_rows(optimum: Optimum, terms: _Terms, relocation: Relocation, sd: float) -> float:
    """Put what the rows are known to, each given the others, in place of what the prior expects.

    It costs a few evaluations. It is the better one to choose by, not to maximise.
    """
    return optimum.objective - terms(optimum)[1] + relocation.log_volume(optimum.values, sd)


def _coordinates_at(
    values: Mapping[str, Array], plain: LogDensity, relocation: Relocation, sd: float | None
) -> LogDensity | Measured:
    """Choose the coordinates by the curvature that is expected at a place."""
    information = relocation.information(values)
    N = information.shape[1]
    information[:, np.arange(N), np.arange(N)] += 1.0 if sd is None else sd**-2
    return measured(plain, values, information) or plain


def _copies(spec: ModelSpec) -> NDArray[np.intp] | None:
    """For each row the first that is equal to it, if there are copies that nothing else tells apart."""
    if "X" not in spec.free or spec.model.potentials or not spec.table.standardisable:
        return None
    if spec.inputs is not None:
        return None  # equal entries of rows with other inputs are no copies
    if len(spec.model.observed_RVs) > 1 or not spec.prior.independent:
        return None
    return equal_rows(spec.table.F)


def equal_rows(values: Array) -> NDArray[np.intp] | None:
    """Return for each row the first that equals it, (N,); None without copies, or on a grid.

    Measured on a continuous scale, two rows are equal because one was entered twice. On a grid (answers,
    counts) rows may well be equal, and each says something.
    """
    firsts: dict[bytes, int] = {}
    # 0.0 is added as -0.0, equal to 0.0, has other bytes.
    rows = np.ascontiguousarray(values) + 0.0
    first = np.array([firsts.setdefault(row.tobytes(), n) for n, row in enumerate(rows)])
    if len(firsts) == len(values) or len(firsts) < _FEWEST:
        return None
    gridded = (grid_steps(values[list(firsts.values())]) > 0.0).mean()
    return first if gridded < _GRIDDED else None


def _says_nothing(spec: ModelSpec, end: Mapping[str, Array]) -> bool:
    """Whether X is 0, or with a noise of each column the noise is all that the columns vary by."""
    X = end.get("X")
    if X is None:
        return False
    if spec.table.own is None:
        return float(X.std(axis=0).max()) < _NOTHING
    if not spec.table.standardisable:
        return False
    sigma = end["sigma"] if "sigma" in end else spec.fixed["sigma"]
    noise = np.square(sigma) + np.square(spec.floors)
    left = 1.0 - noise / np.nanvar(spec.table.F, axis=0)
    return float(np.max(left)) < _NOTHING


def _warn(spec: ModelSpec, fit: xr.DataTree, settings: _Settings) -> None:
    """Say what went wrong, and what helps against that."""
    read = Fit(fit)
    optima, posterior = read.group("optima").isel(start=0), read.posterior
    message, caller = str(optima["message"].values), settings.caller
    again = f"Go on from here with {caller}(model, start=fit)"
    if read.setting("interrupted"):
        warn_of(fit, interruption(caller, read.group("optima")))
        return
    if message == NO_STRUCTURE:
        warn_of(
            fit,
            f"{caller}: {NO_STRUCTURE} = {posterior.sizes['latent']}: all positions are 0, and the noise "
            "explains the table. Fewer latent dimensions, scale='feature' where a few columns "
            "dominate, or a kernel with a linear part ('rbf + linear') may find some; else there is none.",
        )
    elif not read.setting("converged"):
        far = [
            name
            for name in (n for of in THETA for n in in_each_view(of, read.views))
            if name in posterior
            and not (posterior[name].min() > 1.0 / _RUN_AWAY and posterior[name].max() < _RUN_AWAY)
        ]
        remedy = {
            DID_NOT_MOVE: "Start from 'pca' or 'random', or scale the data.",
            COLLAPSED: "The data may hold noise alone for this kernel; start from 'isomap', or take "
            f"{'fit_svi' if read.has_function_modes else 'fit_marginal, which says so'}.",
            LIMIT: f"{again}, or raise max_iter = {settings.max_iter}.",
        }.get(message, f"{again}; if that gains nothing either, raise tol = {settings.tol:g}.")
        if far:
            remedy = (
                f"{', '.join(far)} ran away: there is no maximum. Give a proper prior, "
                f"build_model(..., priors={{{far[0]!r}: pm.LogNormal.dist(0, 1)}}), or hold it."
            )
        warn_of(
            fit,
            f"{caller} did not converge: {message} (objective {float(optima['objective']):.6g} after "
            f"{int(optima['evaluations'])} evaluations; the next step may gain "
            f"{float(optima['remaining_gain']):.2g} nats). {remedy}",
        )
    if message != NO_STRUCTURE:
        tables = {f" in the table {name!r}": Fit(view(fit, name)) for name in read.views}
        for where, table in (tables or {"": read}).items():
            _warn_of_floor(fit, table, caller, where)
        warn_of_columns(spec, fit, caller)


def _warn_of_floor(fit: xr.DataTree, read: Fit, caller: str, where: str) -> None:
    """Warn where the noise of a table ended at its floor."""
    if "sigma" not in read.posterior:
        return
    sigma, floor = np.broadcast_arrays(read.posterior["sigma"][0, 0], read.resolution)
    if (low := sigma < _AT_FLOOR * floor).any():
        of = f" in {int(low.sum())} of {low.size} columns" if low.size > 1 else ""
        warn_of(
            fit,
            f"{caller}: the noise ended at its floor{of}{where}, resolution = {floor[low].max():.3g} (sigma = "
            f"{sigma[low].min():.2g}, in units of the scale). The table is explained as well as it is written down: take fewer "
            "latent dimensions, or, if it is known better than that, resolution=0; if less well, a "
            "greater resolution.",
        )
