"""Functions of the draws of a fit that no rotation, reflection or permutation of X changes."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads
from pm_gplvm.core.checks import Array, count
from pm_gplvm.core.kernels import is_known
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction.processes import each_with_rows, parts, patterns_of

Indices = NDArray[np.intp]


def row_pairs(n_rows: int, n_pairs: int, seed: int = 0) -> tuple[Indices, Indices]:
    """Choose pairs of different rows, each row about equally often, at most N(N - 1)/2 pairs.

    The rows are put on a circle in random order. First come the pairs of neighbours, then those two
    apart, and so on, so that N pairs hold every row twice. The same seed gives the same pairs.

    Examples
    --------
    >>> first, second = row_pairs(3, 60)
    >>> sorted(zip(np.minimum(first, second).tolist(), np.maximum(first, second).tolist()))
    [(0, 1), (0, 2), (1, 2)]
    """
    circle = np.random.default_rng(seed).permutation(n_rows)
    start = np.arange(min(n_pairs, n_rows * (n_rows - 1) // 2))
    step = 1 + start // n_rows
    return circle[start % n_rows], circle[(start + step) % n_rows]


def invariants(
    fit: xr.DataTree, *, n_pairs: int = 60, seed: int = 0, covariance: bool = True
) -> xr.Dataset:
    """Evaluate functions of K and θ, draw by draw; an estimate has one number each.

    Of dims (chain, draw, ...):

    - ``log_likelihood``: ln N(Y given 0, K) of the observed entries, in the units of Y;
    - ``log_posterior``: ``lp`` of ``sample_stats``, the sampler's density in its own variables;
    - ``distance`` (pair): ‖zₙ - zₘ‖, z = x / lengthscale, of the pairs of :func:`row_pairs`;
    - ``covariance`` (pair): Kₙₘ, in units of the scale² of Y;
    - ``reconstruction``: root mean square of F minus its conditional mean at its own rows,
      σ² K⁻¹F, in units of the scale of Y;
    - every free hyperparameter; one with an entry a latent dimension is sorted (dim ``rank``).

    The coordinates ``first`` and ``second`` are the rows of each pair, from 0. Left out are
    ``log_posterior`` without ``lp``, and, of a fit by minibatches or where the covariance is not one of :func:`build_model`'s, ``covariance`` and
    ``reconstruction``; ``log_likelihood`` is then that of ``sample_stats``, if there. So it is without
    ``covariance``, which costs N³ for each draw.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit with ``X``, or ``n_pairs`` is not a positive whole number.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> invariants(best)["distance"].shape
    (1, 1, 60)
    """
    read = Fit.of(fit, "X", caller="invariants")
    X = read.draws("X")
    distance = pair_distances(read, n_pairs=n_pairs, seed=seed)
    first, second = (distance[side].to_numpy() for side in ("first", "second"))

    stats = read.stats
    recorded = {"log_likelihood": "log_likelihood", "log_posterior": "lp"}
    known: dict[str, Any] = {ours: stats[its] for ours, its in recorded.items() if its in stats}
    known |= {"distance": distance}
    if covariance:
        known |= _of_covariance(read, X.shape[:2], first, second)
    known |= _of_theta(read)
    return xr.Dataset(known, coords={dim: X[dim] for dim in ("chain", "draw")})


def pair_distances(read: Fit, *, n_pairs: int, seed: int = 0) -> xr.DataArray:
    """Distances between rows in lengthscales (chain, draw, pair), with the rows as coordinates."""
    count("n_pairs", n_pairs)
    Z = read.positions_for_distances().to_numpy()
    first, second = row_pairs(Z.shape[2], int(n_pairs), seed)
    pairs = {"first": ("pair", first), "second": ("pair", second)}
    return xr.DataArray(
        distances(Z, first, second), dims=("chain", "draw", "pair"), coords=pairs, name="distance"
    )


def distances(Z: Array, first: Indices, second: Indices) -> Array:
    """Distances (..., pair) between the rows first and second of positions (..., N, Q)."""
    squares = np.zeros((*Z.shape[:-2], len(first)))
    for q in range(Z.shape[-1]):  # one dimension at a time: all at once take Q times the memory
        squares += (Z[..., q].take(first, axis=-1) - Z[..., q].take(second, axis=-1)) ** 2
    return np.sqrt(squares)


def _of_covariance(
    read: Fit, shape: tuple[int, ...], first: Indices, second: Indices
) -> dict[str, Any]:
    """Compute the invariants that need K, draw by draw; none where K cannot be evaluated."""
    if read.has_likelihood:  # u stands for K there, or K alone for no measurement
        return {}
    if not is_known(read.kernel) or not all(n in read for n in ("sigma", "Y_mean", "Y_scale")):
        return {}
    F, _, scale = read.table()
    seen = ~np.isnan(F)
    patterns = patterns_of(read, F)
    short, short_patterns = patterns.shortened(F)
    counts = np.bincount(patterns.group)
    units = 0.5 * seen.sum() * np.log(2.0 * np.pi) + seen.sum(axis=0) @ np.log(scale)
    entries, likelihoods, residuals = [], [], []
    with blas_threads(1):
        for draw in each_with_rows(read):
            likelihood = squares = 0.0
            for _, _, which, block, own in parts(draw, short, short_patterns):
                quad, logdet, solved = own.log_terms(block)
                likelihood -= 0.5 * float(quad.sum() + (counts[which] * logdet).sum())
                squares += float(((own.noise * solved) ** 2).sum())
            likelihoods.append(likelihood - units)
            residuals.append(np.sqrt(squares / seen.sum()))
            entries.append(draw.covariance_of_pairs(first, second))
    dims = ("chain", "draw")
    return {
        "log_likelihood": (dims, np.reshape(likelihoods, shape)),
        "covariance": ((*dims, "pair"), np.reshape(entries, (*shape, -1))),
        "reconstruction": (dims, np.reshape(residuals, shape)),
    }


def _of_theta(read: Fit) -> dict[str, Any]:
    """Free hyperparameters; those with one entry a latent dimension in ascending order."""
    theta: dict[str, Any] = {}
    for name, variable in read.posterior.data_vars.items():
        values = variable.transpose("chain", "draw", ...).to_numpy()
        if values.ndim == 2:
            theta[str(name)] = (("chain", "draw"), values)
        elif name != "X" and values.shape[2:] == read.draws("X").shape[3:]:
            theta[str(name)] = (("chain", "draw", "rank"), np.sort(values, axis=-1))
    return theta
