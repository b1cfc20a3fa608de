"""How well a fit predicts single entries of its own rows: their log-densities and quantile residuals."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr
from scipy.stats import norm

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.data.fit import FEATURE, OBS, Fit
from pm_gplvm.data.table import table_like
from pm_gplvm.model.likelihoods import Rows
from pm_gplvm.prediction.predict import readable
from pm_gplvm.prediction.processes import each_process, patterns_of, smoothed
from pm_gplvm.prediction.uncollapsed import AtNodes, Uncollapsed

_LEAST_TAIL = 1e-15  # of a quantile residual: 8 standard deviations


@checked
def score_entries(
    fit: xr.DataTree, Y: Any, *, num_samples: int = 100, random_seed: int | None = None
) -> xr.Dataset:
    """Score single entries of the fit's own rows: how probable they were, and whether intervals hold what they say.

    Hide some entries, fit the rest, and score the table that has them: of an entry that the fit has not seen
    the two numbers are

        ln p(y_nd | seen entries) = ln E p(y_nd | x_n),    u = P(y < y_nd) + v P(y = y_nd),  v ~ U(0, 1),

    the expectation over the draws of the fit, and over q(x_n) where it has one. If the model is right, u is even from
    0 to 1 (Dunn & Smyth 1996, randomised quantile residuals), and an interval of 89 % holds the entries with
    .055 < u < .945. Entries that the fit has seen are predicted better than new ones: compare by hidden entries.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`, or of :func:`fit_svi`.
    Y : array_like, DataFrame or DataArray, shape (N, D)
        The rows and columns of the fit's table, by label where both have labels, with the entries to score; NaN
        elsewhere.
    num_samples : int, default 100
        At most so many draws of a sampled fit are used, evenly spaced.
    random_seed : int, optional
        Of v. Only discrete likelihoods use it.

    Returns
    -------
    Dataset, dims (obs, feature)
        ``log_density``, of a density in the units of Y, or of a probability where values are discrete. ``quantile``, u.
        ``residual``, the Normal quantile of u. NaN where Y is.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no such fit, or Y has other rows or columns, or values that its likelihood cannot give.

    References
    ----------
    Dunn, P. K., Smyth, G. K. (1996). Randomized quantile residuals. J. Computational and Graphical Statistics 5.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=30)
    >>> seen = Y.copy()
    >>> seen[:5, 20] = np.nan
    >>> model = gplvm.build_model(seen, missing="mask")
    >>> fit = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    >>> scores = gplvm.diagnostics.score_entries(fit, Y.where(seen.isnull()))
    >>> int(scores["log_density"].count())
    5
    """
    read = readable(fit, "score_entries")
    table = table_like(read, Y)
    if read.has_likelihood:
        log_density, below, upto = _of_likelihood(read, table)
    else:
        log_density, below, upto = _mixed(_of_gaussian(read, table, num_samples))
    v = np.random.default_rng(random_seed).random(table.shape)
    u = below + v * (upto - below)
    found = {
        "log_density": log_density,
        "quantile": u,
        "residual": norm.ppf(np.clip(u, _LEAST_TAIL, 1.0 - _LEAST_TAIL)),
    }
    return xr.Dataset({n: ((OBS, FEATURE), v) for n, v in found.items()}, coords=read.coords)


Scored = Iterator[tuple[float, Array, Array, Array]]


def _of_gaussian(read: Fit, table: Array, num_samples: int) -> Scored:
    """By draws: weight, log-density and P(y < Y), the latter twice, as P(y ≤ Y) is the same."""
    F, centre, scale = read.table()
    patterns, known = patterns_of(read, F), (table - centre) / scale
    draws = list(each_process(read, 1 if read.is_inducing else num_samples))
    for draw in draws:
        mean, variance = smoothed(draw, F, patterns)
        sd = np.sqrt(variance + draw.sigma**2)
        z = (known - mean) / sd
        logs = -0.5 * z**2 - np.log(sd * scale) - 0.5 * np.log(2.0 * np.pi)
        below = ndtr(z)
        yield 1.0 / len(draws), logs, below, below


def _of_likelihood(read: Fit, table: Array) -> tuple[Array, Array, Array]:
    process = Uncollapsed.of(read)
    blocks = []
    for rows, nodes, offset, entry in process.each_row():
        seen = process.observed(table[rows], offset, entry)
        process.likelihood.check(seen, [str(f) for f in read.features], rows.start)
        blocks.append(_mixed(_at_nodes(process, seen, nodes)))
    log_density, below, upto = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return log_density - np.log(process.scale), below, upto


def _at_nodes(process: Uncollapsed, seen: Rows, nodes: AtNodes) -> Scored:
    """By nodes of q(x): weight, log-density, P(y < Y) and P(y ≤ Y)."""
    for weight, f in nodes:
        logs = process.likelihood.log_predictive(seen, *f, process.parameters)
        yield weight, logs, *process.likelihood.cumulative(seen, *f, process.parameters)


def _mixed(each: Scored) -> tuple[Array, Array, Array]:
    """Mix log-density, P(y < Y) and P(y ≤ Y) over weights of sum 1."""
    log_density: Any = -np.inf
    below: Any = 0.0
    upto: Any = 0.0
    for weight, logs, lower, upper in each:
        with np.errstate(invalid="ignore"):  # NaN where Y is
            log_density = np.logaddexp(log_density, np.log(weight) + logs)
        below, upto = below + weight * lower, upto + weight * upper
    return log_density, below, upto
