"""Leave-one-out: by feature through the ``log_likelihood`` group, by entry in closed form from K⁻¹."""

import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from pm_gplvm.checks import Array, count
from pm_gplvm.gaussian import GP
from pm_gplvm.kernels import KERNELS
from pm_gplvm.processes import OwnColumns, data_of, each_draw, patterns_of
from pm_gplvm.schema import FEATURE, OBS
from pm_gplvm.threads import blas_threads

__all__ = ["compute_log_likelihood", "error_of_sum", "leave_one_out", "left_out"]

_FEWEST = 25  # below these Pareto smoothing has no tail to look at


def compute_log_likelihood(fit: xr.DataTree) -> xr.DataTree:
    """Add the log-likelihood of each feature, draw by draw, as ArviZ reads it.

    ln N(y_d given mean_d, scale_d² K), d = 1 … D, of the entries that were observed: what
    ``pm.compute_log_likelihood`` gives, without its compiler. ``az.loo`` and ``az.compare`` then leave out one *feature* at a time.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.

    Returns
    -------
    DataTree
        The fit with the group ``log_likelihood``: the table's name, dims (chain, draw, feature),
        in the units of Y. The given tree is left as it is.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> gplvm.compute_log_likelihood(best)["log_likelihood"]["Y"].shape
    (1, 1, 64)
    """
    F, _, scale = data_of(fit, caller="compute_log_likelihood", missing=True)
    patterns = patterns_of(fit, F)
    units = patterns.seen.sum(axis=1)[patterns.group] * (0.5 * np.log(2.0 * np.pi) + np.log(scale))
    terms = []
    with blas_threads(1):
        for draw in each_draw(fit, caller="compute_log_likelihood"):
            if draw.own_noise and patterns.seen.all():
                terms.append(OwnColumns(draw).logp(F) - len(F) * np.log(scale))
                continue
            terms.append(-units)
            for rows, columns, block in patterns.blocks(F):
                own = draw.given(rows, columns)
                half_logdet = np.log(np.diagonal(own.chol)).sum()
                quad = np.einsum("nd,nd->d", block, own.solve(block))
                terms[-1][columns] -= 0.5 * quad + half_logdet
    posterior, name = fit["posterior"].to_dataset(), fit.attrs["observed"]
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    coords = {dim: posterior[dim] for dim in ("chain", "draw")}
    group = xr.Dataset(
        {name: (("chain", "draw", FEATURE), np.reshape(terms, (chains, draws, len(scale))))},
        coords={**coords, FEATURE: fit["observed_data"][FEATURE].to_numpy()},
    )
    complete = fit.copy()
    complete["log_likelihood"] = xr.DataTree(group)
    return complete


def leave_one_out(fit: xr.DataTree, *, draws: int = 200) -> xr.Dataset:
    """Predict each entry of the table from all others.

    Given X and θ an entry has, given the rest of its column, the Gaussian with mean
    f_nd - [K⁻¹f_d]_n / [K⁻¹]_nn and variance 1 / [K⁻¹]_nn (Rasmussen & Williams 2006, eq. 5.12).
    The draws of X and θ have seen the entry; they are weighted by one over its density, which
    turns the posterior given Y into that given Y without it, with Pareto smoothing (Bürkner,
    Gabry & Vehtari 2021).

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`.
    draws : int, default 200
        At most so many draws are used, evenly spaced.

    Returns
    -------
    Dataset, dims (obs, feature)
        ``mean`` and ``sd`` of the prediction, in the units of Y; ``log_score``, the logarithm of
        its density at the entry; ``pareto_k`` of the weights: above 0.7 the entry sways the
        posterior so much that its score is unreliable. With one draw (an estimate) there is nothing to
        weight: the score is that of an X and θ that *have* seen the entry, and ``pareto_k`` is
        NaN, as below 25 draws, which are weighted without smoothing. All are NaN where there is no
        entry to leave out.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, or ``draws`` is out of range.

    References
    ----------
    Bürkner, P.-C., Gabry, J. and Vehtari, A. (2021). Efficient leave-one-out cross-validation for
    Bayesian non-factorized normal and Student-t models. Computational Statistics 36, 1243-1261.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> dict(gplvm.leave_one_out(best).sizes)
    {'obs': 20, 'feature': 64}
    """
    count("draws", draws)
    F, centre, scale = data_of(fit, caller="leave_one_out", missing=True)
    patterns = patterns_of(fit, F)
    chosen = list(each_draw(fit, caller="leave_one_out", limit=int(draws)))
    mean, sd, score, k = np.full((4, *F.shape), np.nan)
    if chosen[0].own_noise and patterns.seen.all():
        residuals, variances = _left_out_of_own(chosen, F)
        for d in range(F.shape[1]):
            parts = _mixed(F[:, d], residuals[:, :, d], variances[:, :, d])
            mean[:, d], sd[:, d], score[:, d], k[:, d] = parts
    else:
        for rows, columns, block in patterns.blocks(F):
            given = [draw.given(rows, columns) for draw in chosen]
            residuals, variances = _left_out_of(given, block)
            for i, d in enumerate(columns):
                parts = _mixed(block[:, i], residuals[:, :, i], variances)
                mean[rows, d], sd[rows, d], score[rows, d], k[rows, d] = parts
    known = {
        "mean": centre + scale * mean,
        "sd": scale * sd,
        "log_score": score - np.log(scale),
        "pareto_k": k,
    }
    observed = fit["observed_data"].to_dataset()
    coords = {
        name: coord for name, coord in observed.coords.items() if coord.dims in ((OBS,), (FEATURE,))
    }
    return xr.Dataset({n: ((OBS, FEATURE), v) for n, v in known.items()}, coords=coords)


def _left_out_of(draws: Sequence[GP], F: Array) -> tuple[Array, Array]:
    """Residuals (S, N, D) and variances (S, N) of each entry given the others, draw by draw."""
    with blas_threads(1):
        residuals, variances = zip(*(draw.left_out(F) for draw in draws), strict=True)
    return np.stack(residuals), np.stack(variances)


def _left_out_of_own(draws: Sequence[GP], F: Array) -> tuple[Array, Array]:
    """Residuals and variances (S, N, D) where every column has a noise of its own."""
    residuals, variances = [], []
    with blas_threads(1):
        for draw in draws:
            residual, variance = OwnColumns(draw).left_out(F)
            residuals.append(residual)
            variances.append(variance)
    return np.stack(residuals), np.stack(variances)


def _mixed(f: Array, residuals: Array, variances: Array) -> tuple[Array, Array, Array, Array]:
    """Mean, sd, log-density and Pareto k of the entries of one column, each shape (N,).

    Parameters
    ----------
    f : ndarray, shape (N,)
    residuals, variances : ndarray, shape (S, N)
        Of each draw: f minus its mean, and its variance.
    """
    logs = -0.5 * (residuals**2 / variances + np.log(2.0 * np.pi * variances))
    log_weights, k = _weights(logs)
    score = logsumexp(log_weights + logs, axis=0)
    weights, means = np.exp(log_weights), f - residuals
    mean = (weights * means).sum(axis=0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(axis=0)
    return mean, np.sqrt(variance), score, k


def _weights(logs: Array) -> tuple[Array, Array]:
    """Normalised logarithms of smoothed weights proportional to exp(-logs), and their Pareto k."""
    from arviz_stats.base import array_stats

    if len(logs) >= _FEWEST:
        with suppress(ValueError):  # the largest weights are all the same: nothing to smooth
            log_weights, k = array_stats.psislw(logs, axis=0)
            return np.asarray(log_weights).T, np.asarray(k)
    return -logs - logsumexp(-logs, axis=0), np.full(logs.shape[1], np.nan)


def left_out(fit: xr.DataTree) -> dict[str, float]:
    """Sum up leave-one-out by feature and by entry, as :func:`pm_gplvm.compare` tells it.

    Returns
    -------
    dict
        ``elpd_feature`` and ``elpd_entry`` with their standard errors (``_se``) and largest Pareto k
        (``_k``); NaN where there are too few draws, or K is not known.
    """
    known = {
        f"elpd_{of}{part}": np.nan for of in ("feature", "entry") for part in ("", "_se", "_k")
    }
    if fit.attrs.get("kernel") not in KERNELS:
        return known
    sizes = fit["posterior"].sizes
    n_draws = sizes["chain"] * sizes["draw"]
    if n_draws >= _FEWEST:
        import arviz_stats

        with warnings.catch_warnings(), suppress(ValueError):  # all weights the same
            warnings.simplefilter("ignore", UserWarning)  # the largest k is told
            loo = arviz_stats.loo(compute_log_likelihood(fit), pointwise=True)
            known |= {
                "elpd_feature": float(loo.elpd),
                "elpd_feature_se": float(loo.se),
                "elpd_feature_k": float(loo.pareto_k.max()),
            }
    entries = leave_one_out(fit, draws=n_draws)
    scores = entries["log_score"].to_numpy()
    scores = scores[~np.isnan(scores)]
    return known | {
        "elpd_entry": float(scores.sum()),
        "elpd_entry_se": error_of_sum(scores),
        "elpd_entry_k": float(entries["pareto_k"].max()),
    }


def error_of_sum(values: Array) -> float:
    """Give the standard error of the sum of scores that are taken for independent."""
    return float(np.sqrt(values.size * values.var()))
