"""Scores of what a fit has not seen: features by PSIS-LOO, entries in closed form, rows by K-fold."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import norm

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.checks import Array, checked, count, function_of, warn
from pm_gplvm.core.gaussian import Patterns
from pm_gplvm.core.importance import left_out_weights
from pm_gplvm.core.interrupt import caught, interrupted, interruptible, safe_point
from pm_gplvm.data.arrays import labels_along
from pm_gplvm.data.fit import FEATURE, OBS, Fit
from pm_gplvm.data.input_tables import columns_of
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.table import as_table
from pm_gplvm.fitting.map import fit_map, fit_marginal
from pm_gplvm.fitting.svi import fit_svi
from pm_gplvm.model.build import build_model, held_as, rebuild
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.priors import circular, kind_of_prior
from pm_gplvm.model.spec import FunctionTable, ModelSpec
from pm_gplvm.model.volume import why_no_volume
from pm_gplvm.prediction.embed import log_predictive
from pm_gplvm.prediction.processes import Process, by_pattern, each_with_rows, parts, patterns_of
from pm_gplvm.prediction.uncollapsed import left_out

_OTHER_PRIOR = (
    "cross_validate integrates over the place of a new row under X ~ N(0, 1), or priors.circular, got a model with "
    "another prior of X. Leave X's prior at its default."
)


def compute_log_likelihood(fit: xr.DataTree) -> xr.DataTree:
    """Add the log-likelihood of each feature, draw by draw, as ArviZ reads it.

    ln N(y_d given mean_d, scale_d² K), d = 1 … D, of the observed entries, as by
    ``pm.compute_log_likelihood`` but without compilation. ``az.loo`` and ``az.compare`` then leave out one
    *feature* at a time. ArviZ smooths the tail of the draws, and of an estimate, one draw, it says IndexError:
    that has :func:`leave_one_out`. Of a sparse or variational fit it is the approximate one
    (:func:`model.build_sparse`) at each draw of X; with ``method="vfe"`` a lower bound; of a mode with another
    likelihood Laplace's approximation.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.

    Returns
    -------
    DataTree
        The fit with the group ``log_likelihood``: the table's name, dims (chain, draw, feature),
        in the units of Y. The given tree does not change.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit of a model of :func:`build_model`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> gplvm.diagnostics.compute_log_likelihood(best)["log_likelihood"]["Y"].shape
    (1, 1, 64)
    """
    read = Fit.of(fit, caller="compute_log_likelihood")
    read.refuse_uncollapsed(
        "ln p(y_d | X, θ) integrates over the column's function, which it keeps as a q(u) that has seen the column. "
        "Compare such fits by their bound (compare), or by log_predictive of rows held out."
    )
    if read.has_function_modes:  # by Laplace's approximation, as it was found
        terms = read.group("laplace")["log_likelihood"].to_numpy()[None]
        return _with_log_likelihood(fit, read, terms)
    F, _, scale = read.table()
    patterns = patterns_of(read, F)
    units = patterns.seen.sum(axis=1)[patterns.group] * (0.5 * np.log(2.0 * np.pi) + np.log(scale))
    terms = np.tile(-units, (read.n_draws, 1))
    with blas_threads(1):
        for own_terms, draw in zip(terms, each_with_rows(read), strict=True):
            for _, columns, _, block, own in parts(draw, F, patterns):
                quad, logdet, _ = own.log_terms(block)
                own_terms[columns] -= 0.5 * (quad + logdet)
    return _with_log_likelihood(fit, read, terms)


def _with_log_likelihood(fit: xr.DataTree, read: Fit, terms: Array) -> xr.DataTree:
    """Add the group of terms of each draw and column (S, D)."""
    by_draw = read.posterior[["chain", "draw"]]
    shape = (by_draw.sizes["chain"], by_draw.sizes["draw"], terms.shape[1])
    group = xr.Dataset(
        {read.observed: (("chain", "draw", FEATURE), terms.reshape(shape))},
        coords={**by_draw.coords, FEATURE: read.features},
    )
    complete = fit.copy()
    complete["log_likelihood"] = xr.DataTree(group)
    return complete


def compute_log_prior(fit: xr.DataTree, *, model: pm.Model | None = None) -> xr.DataTree:
    """Add the log-density of each prior, draw by draw, as ArviZ reads it.

    ``az.psense_summary`` then tells how much θ depends on its prior, given the group of
    :func:`compute_log_likelihood` too (Kallioinen et al. 2024).

    Parameters
    ----------
    fit : DataTree
    model : pm.Model, optional
        The model of the fit; by default :func:`model.rebuild` makes it. To be given where that needs
        priors, or for a model of one's own.

    Returns
    -------
    DataTree
        The fit with the group ``log_prior``: the name of each free variable, dims (chain, draw) and those of
        the variable. What the fit held has no entry. The given tree does not change.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit, ``model`` has other variables, or the priors must be given.

    References
    ----------
    Kallioinen, N., Paananen, T., Bürkner, P.-C., Vehtari, A. (2024). Detecting and diagnosing prior and
    likelihood sensitivity with power-scaling. Statistics and Computing 34, 57.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> sorted(gplvm.diagnostics.compute_log_prior(best)["log_prior"])
    ['X', 'amplitude', 'lengthscale', 'sigma']
    """
    read = Fit.of(fit, "X", caller="compute_log_prior")
    read.refuse_function_modes(
        "its f has no draws of which a prior could be told, only a mode. Of ln p(X) + ln p(θ) it tells the sum: "
        "fit['sample_stats']['lp'] less 'log_likelihood'."
    )
    read.refuse_uncollapsed(
        "it has no pm.Model, whose priors PyMC could evaluate. Of ln p(θ) it tells the sum: "
        "fit['sample_stats']['lp'] less 'bound'."
    )
    if model is None:
        held = rebuild(fit, hold=True)
    elif isinstance(model, pm.Model):
        held = held_as(model, read)
    else:
        raise TypeError(f"model must be a pm.Model or None, got {type(model).__name__}.")
    if not held.free_RVs:
        raise ValueError("model must have a free variable, got none.")
    if other := [rv.name for rv in held.free_RVs if rv.name not in read.posterior]:
        raise ValueError(
            f"model must be that of the fit, got one with {', '.join(other)}, of which the fit has no draws."
        )
    complete = fit.copy()
    pm.stats.compute_log_prior(
        complete, model=held, progressbar=False, compile_kwargs={"mode": compile_mode()}
    )
    return complete


@checked
def leave_one_out(fit: xr.DataTree, *, num_samples: int = 200) -> xr.Dataset:
    """Predict each entry of the table from all others.

    Given X, θ and the rest of its column, an entry is Gaussian with mean
    f_nd - [K⁻¹f_d]_n / [K⁻¹]_nn and variance 1 / [K⁻¹]_nn (Rasmussen & Williams 2006, eq. 5.12).
    The draws of X and θ were made given the entry. They are weighted by one over its density, which
    turns the posterior given Y into that given Y without the entry, with Pareto smoothing (Bürkner,
    Gabry & Vehtari 2021).

    In a sparse or variational fit the same is said of the approximate model, u given X and the other rows of
    the column: what is taken out of q(u) is of rank one, and no N × N matrix is formed. Draws of a
    variational fit are those of q(X), and the weights correct no error of q.

    Of a mode with another likelihood (:func:`fit_map`) it is f that is Gaussian, about its mode: what an entry has told
    is taken out of that, and f put through the likelihood (Vehtari et al. 2016).

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.
    num_samples : int, default 200
        Largest number of draws used, evenly spaced.

    Returns
    -------
    Dataset, dims (obs, feature)
        ``mean`` and ``sd`` of the prediction, in the units of Y; ``log_score``, the logarithm of
        its density at the entry; ``pareto_k`` of the weights: above 0.7 the score is unreliable,
        because the posterior depends too much on the entry. One draw (an estimate) has no
        weights: its X and θ *have* seen the entry, and ``pareto_k`` is NaN. Below 25 draws the weights are
        not smoothed, and ``pareto_k`` is NaN too. All are NaN where the entry is missing.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit of a model of :func:`build_model`, or ``num_samples`` is out of range.

    References
    ----------
    Bürkner, P.-C., Gabry, J. and Vehtari, A. (2021). Efficient leave-one-out cross-validation for
    Bayesian non-factorized normal and Student-t models. Computational Statistics 36, 1243-1261.

    Vehtari, A., Mononen, T., Tolvanen, V., Sivula, T., Winther, O. (2016). Bayesian leave-one-out cross-validation
    approximations for Gaussian latent variable models. JMLR 17 (103), 1-38.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> dict(gplvm.diagnostics.leave_one_out(best).sizes)
    {'obs': 20, 'feature': 64}
    """
    read = Fit.of(fit, caller="leave_one_out")
    read.refuse_uncollapsed(
        "its q(x) and q(u) have seen every entry, and none can be taken out of them. Put NaN for some entries, fit "
        "again and see what impute says of them; or score rows held out with cross_validate."
    )
    if read.has_function_modes:
        return _left_out_of_modes(read)
    F, centre, scale = read.table()
    patterns = patterns_of(read, F)
    residuals, variances = _left_out(each_with_rows(read, int(num_samples)), F, patterns)
    mean, sd, score, k = np.full((4, *F.shape), np.nan)
    for d, g in enumerate(patterns.group):
        rows = patterns.seen[g]
        found = _mixed(F[rows, d], residuals[:, rows, d], variances[:, rows, g])
        mean[rows, d], sd[rows, d], score[rows, d], k[rows, d] = found
    known = {
        "mean": centre + scale * mean,
        "sd": scale * sd,
        "log_score": score - np.log(scale),
        "pareto_k": k,
    }
    return xr.Dataset({n: ((OBS, FEATURE), v) for n, v in known.items()}, coords=read.coords)


def _left_out_of_modes(read: Fit) -> xr.Dataset:
    """Take what an entry says out of the functions' Gaussians about their modes; one draw has no weights."""
    found, score = left_out(read)
    seen = ~np.isnan(score)
    known = {
        "mean": found.mean,
        "sd": np.sqrt(found.of_mean + found.about),
        "log_score": score,
        "pareto_k": np.full(score.shape, np.nan),
    }
    whole = {n: ((OBS, FEATURE), np.where(seen, v, np.nan)) for n, v in known.items()}
    return xr.Dataset(whole, coords=read.coords)


def _left_out(draws: Iterable[Process], F: Array, patterns: Patterns) -> tuple[Array, Array]:
    """Residuals (S, N, D) of each entry given the others of its column, and variances (S, N, G)."""
    residuals, variances = [], []
    with blas_threads(1):
        for draw in draws:
            residuals.append(np.full_like(F, np.nan))
            variances.append(np.full((len(F), len(patterns)), np.nan))
            for rows, columns, which, block, own in parts(draw, F, patterns):
                residuals[-1][np.ix_(rows, columns)], variance = own.left_out(block)
                variances[-1][rows, which] = by_pattern(variance)
    return np.stack(residuals), np.stack(variances)


def _mixed(f: Array, residuals: Array, variances: Array) -> tuple[Array, Array, Array, Array]:
    """Mean, sd, log-density and Pareto k of the entries f (N,) of one column, each shape (N,).

    Residuals, f minus the mean, and variances (S, N) are those of each draw.
    """
    logs = -0.5 * (residuals**2 / variances + np.log(2.0 * np.pi * variances))
    log_weights, k = left_out_weights(logs)
    score = logsumexp(log_weights + logs, axis=0)
    weights, means = np.exp(log_weights), f - residuals
    mean = (weights * means).sum(axis=0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(axis=0)
    return mean, np.sqrt(variance), score, k


@checked
def cross_validate(
    Y: Any,
    build: Callable[..., pm.Model | xr.DataTree] = build_model,
    *,
    fit: Callable[[pm.Model], xr.DataTree] | None = None,
    n_folds: int = 5,
    inputs: Any = None,
    num_samples: int = 20,
    draws: int = 1000,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> xr.Dataset:
    """Score a model by K-fold cross-validation over rows.

    The rows are split into folds at random. For each fold the model is built from, and fitted to,
    the other rows. The score of a row y of the fold is ln p(y), its position x integrated out:

        p(y) = E ∫ N(y; m(x), v(x) I) N(x; 0, I) dx,

    with the expectation over the draws of the fit, and m and v as in :func:`predict`
    (:func:`log_predictive`).

    Parameters
    ----------
    Y : array_like, DataFrame or DataArray, dims (obs, feature), shape (N, D)
    build : callable, default build_model
        Makes a model of the table of some rows, such as ``partial(build_model, latent_dim=3)``; or a fit of
        them, such as ``lambda rows: fit_svi(rows, likelihood="poisson")``. X must have the prior N(0, 1).
    fit : callable, optional
        Fits the model; :func:`fit_marginal` by default (:func:`fit_map` where X cannot be integrated
        out, :func:`fit_svi` where it has a likelihood). A sampler gives draws of X and θ. Not called where ``build`` gives a fit.
    n_folds : int, default 5
        Between 2 and N.
    inputs : DataFrame, mapping from names to values, or Dataset, optional
        Of all rows, as in :func:`build_model`: ``build`` is called with those of its rows, ``build(rows, inputs=...)``,
        and the scores are given those of theirs. A class that the other folds lack is a new one.
    num_samples : int, default 20
        Largest number of draws used of each fit, evenly spaced.
    draws : int, default 1000
        Points of the integral over x, for each row, at least 100.
    random_seed : int, optional
        Seed of the folds and the points.
    progressbar : bool, default True
        Shows the folds; not with a ``fit`` of your own.

    Returns
    -------
    Dataset, dims (obs,)
        ``log_score``: ln p(y), the density in the units of Y; ``error``: the standard error
        of the integral in it; ``pareto_k`` of the weights of the points; ``fold``. The sum of
        ``log_score`` compares models (number of latent dimensions, kernels, priors) on the same Y and
        ``random_seed``; :func:`compare` takes the Dataset as ``kfold``.

    Warns
    -----
    RuntimeWarning
        If Ctrl-C ended it: the Dataset has the rows of whole folds only, and ``attrs["interrupted"]`` is 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, X has another prior, or the covariance is not one of
        :func:`build_model`'s.
    KeyboardInterrupt
        At Ctrl-C before the first fold is scored, and at the second Ctrl-C.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> scores = gplvm.diagnostics.cross_validate(
    ...     gplvm.data.load_digits(n=20), n_folds=2, random_seed=1, progressbar=False
    ... )
    >>> scores["log_score"].dims
    ('obs',)
    """
    table = as_table(Y, missing="mask")
    N = len(table)
    least = {"n_folds": (n_folds, 2), "num_samples": (num_samples, 1), "draws": (draws, 100)}
    for name, (value, low) in least.items():
        count(name, value, low)
    if n_folds > N:
        raise ValueError(f"n_folds must be at most the number of rows, {N}, got {n_folds}.")
    function_of("build", build, "table")
    if fit is not None:
        function_of("fit", fit, "model")
    show = progressbar and fit is None  # a fit of the user's shows its own progress
    fit = fit or _mode
    rng = np.random.default_rng(random_seed)
    fold = rng.permutation(np.arange(N) % n_folds)
    labels = labels_along(Y, 0)
    known_inputs = None
    if inputs is not None:
        known_inputs = columns_of(inputs, table[OBS].to_numpy(), labelled=labels is not None)
    known = {name: np.empty(N) for name in ("log_score", "error", "pareto_k")}
    done = 0
    with (
        interruptible(keeps=True),
        progress_bar("cross_validate", n_folds, "folds", show=show) as progress,
    ):
        try:
            for k in range(n_folds):
                safe_point()
                held = fold == k
                some, own = (_inputs_of(known_inputs, rows) for rows in (~held, held))
                scores = log_predictive(
                    _fitted(fit, _built(build, table[~held], some), table[~held]),
                    table.to_numpy()[held],
                    **own,
                    num_samples=num_samples,
                    draws=draws,
                    random_seed=int(rng.integers(2**31)),
                    progressbar=False,
                )
                for name, values in known.items():
                    values[held] = scores[name]
                done = k + 1
                progress.advance()
        except KeyboardInterrupt:
            if not done:
                raise
            caught()
        attrs = {"interrupted": int(interrupted())}
    if attrs["interrupted"]:
        warn(
            f"cross_validate was interrupted: the rows of {done} of {n_folds} folds are scored, the others "
            "left out. The same call with the same random_seed begins anew."
        )
    coords = {name: coord for name, coord in table.coords.items() if coord.dims == (OBS,)}
    columns = {name: (OBS, values) for name, values in {**known, "fold": fold}.items()}
    return xr.Dataset(columns, coords=coords, attrs=attrs).isel({OBS: fold < done})


def _inputs_of(known: dict[str, Any] | None, rows: Any) -> dict[str, Any]:
    """Take the inputs of some rows, as an argument; nothing where there are none."""
    return {} if known is None else {"inputs": {name: v[rows] for name, v in known.items()}}


def _mode(model: pm.Model) -> xr.DataTree:
    """Fit at the scale of the prior: relative to a joint mode the prior of a new row is far too wide."""
    if isinstance(ModelSpec.of(model, functions=True).table, FunctionTable):
        return fit_svi(model, random_seed=0, progressbar=False)
    fit = fit_marginal if why_no_volume(model) is None else fit_map
    return fit(model, progressbar=False)


def _built(
    build: Callable[..., pm.Model | xr.DataTree], table: xr.DataArray, inputs: dict[str, Any]
) -> pm.Model | xr.DataTree:
    """Build a model, or a fit, of these rows, or raise: other rows would be scored by what was fitted to them."""
    model = build(table, **inputs)
    if isinstance(model, xr.DataTree):
        read = Fit.of(model, "X", caller="cross_validate")
        text = (read.priors or {}).get("X")
        if text != "Normal(0.0, 1.0)" and kind_of_prior(read.constants) is not circular:
            raise ValueError(_OTHER_PRIOR)
        return model
    if not isinstance(model, pm.Model):
        raise TypeError(
            f"build must return the model of the table it is given, got {type(model).__name__}. A fit of it will do too."
        )
    if not np.array_equal(
        ModelSpec.of(model, functions=True).table.Y, table.to_numpy(), equal_nan=True
    ):
        raise ValueError(
            "build must return the model of the table it is given, got one of another table. Write "
            "lambda table: build_model(table, ...)."
        )
    _check_prior(model)
    return model


def _fitted(
    fit: Callable[[pm.Model], xr.DataTree], model: pm.Model | xr.DataTree, table: xr.DataArray
) -> xr.DataTree:
    """Fit the model of a table, or raise if what comes is no fit of it."""
    found = model if isinstance(model, xr.DataTree) else fit(model)
    Y = Fit.of(found, "X", caller="cross_validate").Y
    if not np.array_equal(Y, table, equal_nan=True):
        if found is model:
            raise ValueError(
                "build must return the model of the table it is given, or a fit of it, got a fit of another table. "
                "Write lambda rows: fit_svi(rows, ...)."
            )
        raise ValueError(
            "fit must return a fit of the model it is given, got one of another table. Write lambda "
            "model: fit_map(model, ...); a fit that takes the table is a build: lambda rows: fit_svi(rows, ...)."
        )
    return found


def _check_prior(model: pm.Model) -> None:
    """Raise unless the prior of X is N(0, 1), as seen from its density at one random point, or circular."""
    if kind_of_prior(model.named_vars) is circular:
        return
    X = next((rv for rv in model.free_RVs if rv.name == "X"), None)
    if X is not None:
        at = np.random.default_rng(0).standard_normal(model.initial_point()["X"].shape)
        density = pytensor.function([], pm.logp(X, at).sum(), mode=compile_mode())()
        if np.isclose(density, norm.logpdf(at).sum()):
            return
    raise ValueError(_OTHER_PRIOR)
