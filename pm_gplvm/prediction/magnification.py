"""Magnification of the map from x to Y, and the density of X in the latent plane."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.core.checks import Array, checked, interval
from pm_gplvm.core.gaussian import GP
from pm_gplvm.data.fit import LATENT, Fit
from pm_gplvm.prediction.located import of_latent
from pm_gplvm.prediction.predict import check_positions, readable
from pm_gplvm.prediction.processes import Induced, each_process, given, patterns_of
from pm_gplvm.prediction.uncollapsed import each_frame

_BLOCK = 4_000_000  # entries of ∂k/∂x in memory at once


@checked
def magnification(fit: xr.DataTree, X_new: Any, *, num_samples: int = 50) -> xr.Dataset:
    """Measure how much the map from x to Y stretches the latent space.

    Given a draw of (X, θ) the slopes J = ∂y/∂x (D, Q) of the noise-free function are Gaussian. Their means are
    those of :func:`predict`, and all columns share their covariance Σ up to scale. The
    metric has the expectation (Tosi et al. 2014, eq. 11)

        G = E JᵀJ = E Jᵀ E J + Σ_d scale_d² · Σ,

    and √det G is the volume in Y that a unit of volume in X covers. The first term is large where
    neighbouring positions decode to different rows, as between clusters; the second where there are no
    data. G is averaged over the draws. Where Y has missing entries, each column has the Σ of the rows
    in which it is observed. A fit by minibatches has slopes of each column's own covariance; with another likelihood than
    a Gaussian or Student-t they are those of f, in units of its link.

    Parameters
    ----------
    fit : DataTree
        From :func:`fit_marginal`, :func:`sample_theta`, or any with ``X`` and θ. Draws of X
        (:func:`sample`) must be aligned by :func:`align` first.
    X_new : array_like, dims (obs_new, latent), shape (S, Q)
        In the orientation of the fit's ``X``.
    num_samples : int, default 50
        Largest number of draws used, evenly spaced.

    Returns
    -------
    Dataset
        ``metric`` (obs_new, latent, latent_to): G, in units of Y² / X². ``magnification`` (obs_new):
        √det G, in units of (Y / X)^Q. ``low``, ``high`` (obs_new): the 89 % interval of √det G over
        the draws, NaN with one draw. ``from_mean`` (obs_new): √det of the first term's mean over
        the draws, 0 where Q > D.

    Warns
    -----
    RuntimeWarning
        If the draws of X are not aligned (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit of a model of :func:`build_model`, ``X_new`` has a wrong shape, or
        ``num_samples`` is out of range.

    References
    ----------
    Tosi, A., Hauberg, S., Vellido, A., Lawrence, N. D. (2014). Metrics for probabilistic geometries.
    UAI 30, 800-808.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> gplvm.diagnostics.magnification(best, np.zeros((3, 2)))["magnification"].shape
    (3,)
    """
    read = of_latent(readable(fit, "magnification"))
    read.warn_unaligned()
    positions = check_positions(read, X_new)
    parts = _uncollapsed if read.has_likelihood else _of_each
    first, second = [], []
    for of_mean, of_rest in parts(read, positions, num_samples):
        first.append(of_mean)
        second.append(of_mean + of_rest)
    volumes = _volume(np.stack(second))
    metric = np.mean(second, axis=0)
    low, high = interval(volumes)
    known = {
        "metric": (("obs_new", LATENT, f"{LATENT}_to"), metric),
        "magnification": ("obs_new", _volume(metric)),
        "low": ("obs_new", low),
        "high": ("obs_new", high),
        "from_mean": ("obs_new", _volume(np.mean(first, axis=0))),
    }
    return xr.Dataset(known, coords={"obs_new": np.arange(len(positions))})


def _uncollapsed(read: Fit, positions: Array, limit: int) -> Iterator[tuple[Array, Array]]:
    return (process.metric(positions) for process in each_frame(read, limit))


def _of_each(read: Fit, positions: Array, limit: int) -> Iterator[tuple[Array, Array]]:
    """E Jᵀ E J and Σ_d scale_d² Σ of each process, both (S, Q, Q)."""
    F, _, scale = read.table()
    patterns = patterns_of(read, F)
    for process in each_process(read, limit):
        of_mean = of_rest = np.zeros((len(positions), positions.shape[1], positions.shape[1]))
        for rows, columns, block in patterns.blocks(F):
            own = given(process, rows, columns)
            mean, rest = _metric(own, own.weights(block) * scale[columns], positions)
            of_mean, of_rest = of_mean + mean, of_rest + np.square(scale[columns]).sum() * rest
        yield of_mean, of_rest


def _metric(process: GP | Induced, weights: Array, positions: Array) -> tuple[Array, Array]:
    """E Jᵀ E J (S, Q, Q), and the covariance of the slopes (S, Q, Q) in units of scale² of Y."""
    first, second = [], []
    for block in np.array_split(positions, -(-positions.size * len(weights) // _BLOCK)):
        slope = process.slope(block)
        mean = slope @ weights
        first.append(mean @ mean.transpose(0, 2, 1))
        second.append(process.slope_covariance(slope))
    return np.concatenate(first), np.concatenate(second)


def _volume(metric: Array) -> Array:
    # Rounding can bring the determinant of a flat metric below zero.
    return np.asarray(np.sqrt(np.maximum(np.linalg.det(metric), 0.0)))


def occupancy(draws: Array, at: Array) -> Array:
    """Density of X at positions (M, 2), averaged over the rows, in units of 1 / X².

    The density of a row is the Gaussian with the mean and covariance of its draws (S, N, 2).

    Examples
    --------
    >>> draws = np.random.default_rng(0).standard_normal((4000, 1, 2))
    >>> round(2 * np.pi * float(occupancy(draws, np.zeros((1, 2)))[0]), 1)
    1.0
    """
    centred = draws - draws.mean(axis=0)
    covariance = np.einsum("sni,snj->nij", centred, centred) / (len(draws) - 1)
    apart = at[:, None] - draws.mean(axis=0)
    distance2 = np.einsum("mni,nij,mnj->mn", apart, np.linalg.inv(covariance), apart, optimize=True)
    peaks = 1.0 / (2.0 * np.pi * np.sqrt(np.linalg.det(covariance)))
    return np.asarray((np.exp(-0.5 * distance2) * peaks).mean(axis=1))
