"""One table of any fits of the same data, and of an estimate of θ beside its posterior."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.checks import Array, checked, interval, warn
from pm_gplvm.core.importance import FEWEST_SMOOTHED
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.core.kernels import is_known
from pm_gplvm.data.arrays import by_row, numbers
from pm_gplvm.data.fit import THETA, Fit, fits_of_one_table, stacked
from pm_gplvm.diagnostics.agreement import agreement, check_counts
from pm_gplvm.diagnostics.invariants import invariants
from pm_gplvm.prediction.held_out import compute_log_likelihood, leave_one_out


@checked
def compare(
    fits: Mapping[str, xr.DataTree],
    *,
    reference: Any = None,
    labels: Any = None,
    n_neighbors: int = 10,
    num_samples: int = 200,
    kfold: Mapping[str, xr.Dataset] | None = None,
) -> pd.DataFrame:
    """Compare fits of the same table.

    Positions are compared in units of the lengthscale, Z = X / lengthscale, because X of a joint mode is
    far smaller than X of posterior draws at the same K. Every measure of an embedding is computed for each
    draw and then averaged. None is of a mean position, and none depends on the orientation.

    Parameters
    ----------
    fits : mapping
        Name to fit: of one model or of several, estimates or draws.
    reference : str, DataTree or array_like, shape (N, Q), optional
        Name of one of the fits, another fit, or positions; the first fit by default. Of a fit with
        many draws the draw of the highest likelihood is taken.
    labels : str or array_like, shape (N,), optional
        A coordinate along the rows, or a class for each.
    n_neighbors : int, default 10
        k of the neighbour measures; at most (N - 1) // 2 for the trustworthiness.
    num_samples : int, default 200
        Largest number of draws used of each fit, evenly spaced.
    kfold : mapping, optional
        Name to the result of :func:`diagnostics.cross_validate`, of any of the fits.

    Returns
    -------
    DataFrame
        One row a fit. Columns with ``_lb`` and ``_ub`` are the ends of the 89 % interval over the draws.
        They, and standard deviations, are NaN with one draw.

        ``method``, ``draws``
            The method of the fit, and the number of draws used.
        ``log_likelihood``, ``log_likelihood_sd``
            ln p(Y | X, θ), in the units of Y. NaN for fits by :func:`fit_svi`, whose q(u) has seen Y.
        ``bound``
            Bound on ln p(Y | θ) of a variational fit and one by :func:`fit_svi`, which compares numbers of latent
            dimensions, kernels and likelihoods of one table; NaN for others.
        ``lengthscale``, ``amplitude``, ``weight``, ``sigma``, ``bias``
            Means; with ARD the lengthscales of each draw are sorted, ``lengthscale[0]``
            the smallest.
        ``sd_X``, ``sd_Z``
            Standard deviation of the positions, root mean square over dimensions, as they are and
            in units of the lengthscale.
        ``procrustes``, ``distance_correlation``
            Of Z and the reference: SciPy's disparity, 0 for the same shape and 1 at most;
            Székely's distance correlation, 1 for the same shape.
        ``distance_correlation_Y``, ``trustworthiness``
            Of Z and the table: agreement of the large distances and of the neighbourhoods.
        ``neighbours``, ``neighbours_Y``
            Expected share of a row's k nearest rows in the reference, and in Y, that are among
            its k nearest in Z (:func:`diagnostics.neighbour_probabilities` has them row by row).
        ``nn_agreement``
            With labels: share of rows whose nearest row has the same label.
        ``elpd_feature``, ``elpd_feature_se``, ``elpd_feature_k``
            PSIS-LOO by feature (``az.loo``), and its largest Pareto k. NaN with fewer than 25
            draws; too high where X is held at an estimate; draws of an approximation are treated as
            draws of the posterior.
        ``elpd_entry``, ``elpd_entry_se``, ``elpd_entry_k``
            Leave-one-entry-out, summed over the table (:func:`diagnostics.leave_one_out`). NaN, as ``elpd_feature``, for
            fits by :func:`fit_svi`: compare them by ``bound`` or ``kfold``. For an estimate, and for X
            held at one, the positions have seen the entry: the number is too high.
        ``elpd_row``, ``elpd_row_se``
            From ``kfold``.

        Distances in Y are of the table of the first fit, centred and scaled. Measures that need them are
        NaN where entries are missing. Counts and classes are taken as they are. Measures that need K are NaN for
        a user's own covariance.

    Warns
    -----
    RuntimeWarning
        If a Pareto k says that ``elpd_feature`` is unreliable.

    Raises
    ------
    TypeError, ValueError
        If ``fits`` is not a mapping of fits, two of them are of different tables, or another argument
        is out of range.

    References
    ----------
    Székely, G. J., Rizzo, M. L. and Bakirov, N. K. (2007). Measuring and testing dependence by
    correlation of distances. Annals of Statistics 35, 2769-2794.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> rbf, linear = (gplvm.build_model(Y, kernel=k) for k in ("rbf", "linear"))
    >>> fits = {"RBF": gplvm.fit_marginal(rbf, progressbar=False)}
    >>> fits["PCA"] = gplvm.fit_marginal(linear, progressbar=False)
    >>> table = gplvm.compare(fits, labels="label")
    >>> table.index.tolist(), float(table.loc["RBF", "neighbours"])
    (['RBF', 'PCA'], 1.0)
    """
    read = fits_of_one_table(fits, caller="compare")
    first = next(iter(read.values()))
    F = first.table().F
    check_counts(len(F), n_neighbors, num_samples)
    unknown = [name for name in kfold or {} if name not in fits]
    if unknown:
        raise ValueError(
            f"kfold must name fits ({', '.join(fits)}), got {', '.join(map(str, unknown))}."
        )
    names = first.row_names(len(F))
    classes = first.labels(labels) if isinstance(labels, str) else labels
    if classes is not None:
        classes = by_row("labels", classes, names)
    target = _reference(read, reference, names)
    left = {name: _rows_left_out(scores, names) for name, scores in (kfold or {}).items()}
    rows = {}
    for name, fit in read.items():
        few = fit.thinned(num_samples)
        Z = stacked(few.positions_for_distances())
        with blas_threads(1):
            measured = agreement(Z, target, F, classes, n_neighbors=n_neighbors)
        rows[name] = (
            {"method": fit.method, "draws": len(Z)}
            | _of_K(few)
            | _bound(few)
            | _of_positions(few, Z)
            | _of_agreement(measured)
            | left_out(few.tree)
            | left.get(name, {})
        )
    table = pd.DataFrame.from_dict(rows, orient="index")
    _warn(table)
    return table


def summarise_theta(best: xr.DataTree, draws: xr.DataTree) -> pd.DataFrame:
    """Compare the hyperparameters of an estimate with their posterior.

    Parameters
    ----------
    best : DataTree
        A fit of one draw.
    draws : DataTree
        From :func:`sample_theta`.

    Returns
    -------
    DataFrame
        One row a hyperparameter (and dimension, if ARD), columns ``estimate``, ``mean``, ``sd``,
        ``ess_bulk``, ``r_hat``; in units of the scale of Y, the lengthscale in units of X.

    Raises
    ------
    TypeError, ValueError
        If one is no fit, ``best`` has more than one draw, or they differ in their table or parameters.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> theta = gplvm.sample_theta(model, best, draws=500, progressbar=False, random_seed=1)
    >>> gplvm.diagnostics.summarise_theta(best, theta).columns.tolist()
    ['estimate', 'mean', 'sd', 'ess_bulk', 'r_hat']
    """
    with interruptible():
        import arviz_stats

    fits = fits_of_one_table({"best": best, "draws": draws}, caller="summarise_theta")
    read, posterior = fits["best"], fits["draws"].posterior
    if read.n_draws != 1:
        raise ValueError(
            f"best must be a fit of one draw, got {read.n_draws}. Pass the estimate first, the draws second."
        )
    names = [name for name in THETA if name in posterior]
    shapes = {n: posterior[n].shape[2:] for n in names}
    other = [n for n in names if n not in read or read.draws(n).shape[2:] != shapes[n]]
    if other or not names:
        found = f"{', '.join(other)} of another shape or none" if other else "no hyperparameter"
        raise ValueError(f"draws must be of the model of best, got {found}. Fit one model twice.")
    statistics = {
        "estimate": xr.Dataset({name: read.draws(name)[0, 0] for name in names}),
        "mean": posterior[names].mean(("chain", "draw")),
        "sd": posterior[names].std(("chain", "draw"), ddof=1),
        "ess_bulk": arviz_stats.ess(posterior[names]),
        "r_hat": arviz_stats.rhat(posterior[names]),
    }
    rows: dict[str, list[float]] = {}
    for name in names:
        columns = [np.atleast_1d(table[name].to_numpy()) for table in statistics.values()]
        for i, row in enumerate(zip(*columns, strict=True)):
            rows[name if len(columns[0]) == 1 else f"{name}[{i}]"] = [float(v) for v in row]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(statistics))


def _reference(fits: Mapping[str, Fit], reference: Any, names: NDArray[Any]) -> Array:
    if reference is None:
        reference = next(iter(fits))
    if isinstance(reference, str):
        if reference not in fits:
            raise ValueError(f"reference must name a fit ({', '.join(fits)}), got {reference!r}.")
        reference = fits[reference].tree
    if isinstance(reference, xr.DataTree):
        fit = Fit.of(reference, "X", caller="reference")
        target = stacked(fit.positions_for_distances())[_log_likelihood(fit).argmax()]
    else:
        target = numbers("reference", by_row("reference", reference, names))
    if target.ndim != 2 or len(target) != len(names) or not np.isfinite(target).all():
        raise ValueError(
            f"reference must hold one finite position a row, ({len(names)}, Q), got shape {target.shape}."
        )
    return target


def _log_likelihood(fit: Fit) -> Array:
    """Log-likelihood of each draw, shape (S,), NaN where the fit does not tell."""
    known = invariants(fit.tree, n_pairs=1)
    if "log_likelihood" not in known:
        return np.full(fit.n_draws, np.nan)
    return np.asarray(known["log_likelihood"], dtype=np.float64).ravel()


def _mean_and_interval(name: str, values: Array) -> dict[str, float]:
    """Mean of the draws and the ends of their 89 % interval."""
    low, high = interval(values)
    return {name: float(values.mean()), f"{name}_lb": float(low), f"{name}_ub": float(high)}


def _of_K(fit: Fit) -> dict[str, float]:
    values = _log_likelihood(fit)
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    return {"log_likelihood": float(values.mean()), "log_likelihood_sd": float(spread)}


def _bound(fit: Fit) -> dict[str, float]:
    return {"bound": float(fit.stats["bound"].mean())} if "bound" in fit.stats else {}


def _of_positions(fit: Fit, Z: Array) -> dict[str, float]:
    known: dict[str, float] = {}
    for name in THETA:
        if name in fit:
            values = fit.values(name).reshape(len(Z), -1)
            for i, column in enumerate(np.sort(values, axis=1).T):
                known |= _mean_and_interval(f"{name}[{i}]" if values.shape[1] > 1 else name, column)
    for name, draws in (("sd_X", fit.values("X")), ("sd_Z", Z)):
        known[name] = float(np.sqrt(draws.var(axis=1).mean(axis=1)).mean())
    return known


def _of_agreement(measured: xr.Dataset) -> dict[str, float]:
    known: dict[str, float] = {}
    for name, values in measured.data_vars.items():
        if name in ("procrustes", "nn_agreement"):
            known |= _mean_and_interval(str(name), values.to_numpy())
        else:
            known[str(name)] = float(values.mean())
    return known


def left_out(fit: xr.DataTree) -> dict[str, float]:
    """Compute the sums of leave-one-out by feature and by entry, named as in :func:`compare`.

    They are NaN where there are too few draws, or K is not known.
    """
    known = {
        f"elpd_{of}{part}": np.nan for of in ("feature", "entry") for part in ("", "_se", "_k")
    }
    read = Fit(fit)
    if not is_known(read.kernel) or read.is_uncollapsed:
        return known
    if read.n_draws >= FEWEST_SMOOTHED:
        with interruptible():
            import arviz_stats

        with warnings.catch_warnings(), suppress(ValueError):  # equal weights cannot be smoothed
            warnings.simplefilter("ignore", UserWarning)  # compare warns of the largest k
            loo = arviz_stats.loo(compute_log_likelihood(fit), pointwise=True)
            known |= {
                "elpd_feature": float(loo.elpd),
                "elpd_feature_se": float(loo.se),
                "elpd_feature_k": float(loo.pareto_k.max()),
            }
    entries = leave_one_out(fit, num_samples=read.n_draws)
    scores = entries["log_score"].to_numpy()
    scores = scores[~np.isnan(scores)]
    return known | {
        "elpd_entry": float(scores.sum()),
        "elpd_entry_se": error_of_sum(scores),
        "elpd_entry_k": float(entries["pareto_k"].max()),
    }


def error_of_sum(values: Array) -> float:
    """Return the standard error of the sum of scores, taken as independent."""
    return float(np.sqrt(values.size * values.var()))


def _rows_left_out(scores: Any, names: NDArray[Any]) -> dict[str, float]:
    if not isinstance(scores, xr.Dataset) or "log_score" not in scores:
        raise TypeError(f"kfold must hold results of cross_validate, got {type(scores).__name__}.")
    if scores.attrs.get("interrupted"):
        raise ValueError(
            "kfold must have scores of all rows, got an interrupted run. Call cross_validate again."
        )
    score = by_row("kfold", scores["log_score"], names)
    if score.shape != names.shape:
        raise ValueError(
            f"kfold must hold the score of each of the {len(names)} rows of the fits, got shape "
            f"{score.shape}. Call cross_validate on the same table."
        )
    values = numbers("kfold", score)
    if np.isnan(values).any():
        raise ValueError("kfold must hold finite scores, got missing ones.")
    return {"elpd_row": float(values.sum()), "elpd_row_se": error_of_sum(values)}


def _warn(table: pd.DataFrame) -> None:
    bad = table.index[table["elpd_feature_k"] > 0.7]
    if len(bad):
        found = ", ".join(f"{name} ({table.loc[name, 'elpd_feature_k']:.2f})" for name in bad)
        warn(
            f"elpd_feature is unreliable for {found}: largest Pareto k, wanted 0.7 or less. One "
            "feature tells too much of X. Compare by elpd_entry, or by rows with cross_validate."
        )
