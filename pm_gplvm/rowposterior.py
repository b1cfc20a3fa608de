"""The posterior of the places of unseen rows: starts, modes, and weighted places about them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from pm_gplvm.batch_bfgs import maximise
from pm_gplvm.batch_least_squares import minimise
from pm_gplvm.checks import Array
from pm_gplvm.processes import data_of, each_draw
from pm_gplvm.progress import Bar
from pm_gplvm.proposals import Proposals
from pm_gplvm.rowdensity import RowDensity, Rows

__all__ = ["Modes", "Places", "places_of", "weighted_places"]

_ROWS = 1000  # at a time
_SCATTERED = 1000  # places beside those of the known rows, and as many from the prior
_BESIDE = 0.3  # in lengthscales
_APART = 0.2  # in lengthscales: nearer places climb the same peak
_ENDS = 4  # of least squares, so many are climbed from
_MODES = 8  # at most so many a row and draw
_SAME = 0.02  # in lengthscales: nearer tops are one
_STEP = 1e-4  # of the differences for a peak's curvature, in lengthscales
_PRIOR_SHARE = 0.1  # of the places, so that no weight exceeds ten times the likelihood's
_WIDE, _WIDE_SHARE = 3.0, 0.2  # a wider copy of each peak, for those that are no Gaussian
_ROUNDS, _PILOT = 2, 200  # of adapting the mixture, by so many places, not used again
_NEGLIGIBLE = 12.0  # by which a peak's log-mass may lie below the greatest


@dataclass(frozen=True)
class Modes:
    """Peaks of ln p(y, x) in x, up to C for each row, in no order.

    Parameters
    ----------
    at : ndarray, shape (M, C, Q)
    spread : ndarray, shape (M, C, Q, Q)
        Lower Cholesky factor of the inverse of the negative Hessian there.
    log_mass : ndarray, shape (M, C)
        Logarithm of the integral under the Gaussian at the peak; -inf where there is no peak.
    converged : ndarray of bool, shape (M,)
        Whether the highest was reached to tolerance.
    """

    at: Array
    spread: Array
    log_mass: Array
    converged: NDArray[np.bool_]


@dataclass(frozen=True)
class Places:
    """Weighted places of M rows, T of each, from all draws of a fit.

    Parameters
    ----------
    x : ndarray, shape (M, T, Q)
    log_ratio : ndarray, shape (M, T)
        ln p(y, x) less the logarithm of the density that x was drawn from.
    variance : ndarray, shape (M, T, G)
        Of a measurement at x, in units of the scale² of Y, in each pattern of columns.
    modes : Modes
        Of all draws.
    shortfalls : ndarray, shape (M, S)
        :meth:`RowDensity.shortfall` at the weightiest mode, in each of S draws of the fit.
    n_draws : int
        From how many draws of the fit: T / n_draws places of the first, as many of the next.
    """

    x: Array
    log_ratio: Array
    variance: Array
    modes: Modes
    shortfalls: Array
    n_draws: int

    @property
    def log_evidence(self) -> Array:
        """Estimate ln p(y) of each row, shape (M,)."""
        return np.asarray(logsumexp(self.log_ratio, axis=1) - np.log(self.log_ratio.shape[1]))

    @property
    def error(self) -> Array:
        """Standard error of ln p(y) from the choice of places, shape (M,)."""
        relative = np.exp(self.log_ratio - self.log_evidence[:, None])
        return np.asarray(relative.std(axis=1) / np.sqrt(relative.shape[1]))

    @property
    def shortfall(self) -> Array:
        """How much worse a row is explained than those of the table, shape (M,).

        The median over the draws: a row that few of them cannot place is not lost.
        """
        return np.asarray(np.median(self.shortfalls, axis=1))

    def smoothed(self) -> tuple[Array, Array]:
        """Pareto smoothed weights (M, T), a sum of 1 each row, and their Pareto k (M,)."""
        from arviz_stats.base import array_stats

        logs, k = array_stats.psislw(-self.log_ratio, axis=-1)
        return np.exp(logs), np.asarray(k)


def weighted_places(
    fit: xr.DataTree,
    by_draw: list[Rows],
    *,
    n_samples: int,
    n_starts: int,
    rng: np.random.Generator,
    progress: Bar | None = None,
) -> Places:
    """Draw places of each row from its mixtures, the same number from each draw of the fit.

    Parameters
    ----------
    fit : DataTree
    by_draw : list of Rows
        As :func:`pm_gplvm.newrows.rows_by_draw` gives them: one for each draw that is used.
    n_samples : int
        Places a row, over all draws, rounded up to a whole number of each.
    n_starts : int
    rng : numpy.random.Generator
    progress : Bar, optional
        Told of every row and draw.
    """
    F, _, _ = data_of(fit, caller="embed", missing=True)
    each = -(-n_samples // len(by_draw))
    draws = each_draw(fit, caller="embed", limit=len(by_draw))
    parts = []
    for draw, rows in zip(draws, by_draw, strict=True):
        density = RowDensity(draw, F)
        found = []
        for block in (rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)):
            found.append(places_of(density, block, each, n_starts, rng))
            if progress is not None:
                progress.advance(len(block))
        parts.append(_joined(found, axis=0))
    return _joined(parts, axis=1)


def places_of(
    density: RowDensity, rows: Rows, n: int, n_starts: int, rng: np.random.Generator
) -> Places:
    """Draw n places of each row given one draw of X and θ."""
    modes = _modes(density, rows, _starts(density, rows, n_starts, rng))
    proposals = _proposals(modes, rows)
    for _ in range(_ROUNDS):
        x = proposals.draw(_PILOT, rng)
        value, _ = density.log_joint_and_variance(x, rows)
        proposals = proposals.adapted(x, value - proposals.log_density(x), density.unit)
    x = proposals.draw(n, rng)
    value, variance = density.log_joint_and_variance(x, rows)
    best = modes.at[np.arange(len(rows)), modes.log_mass.argmax(axis=1)]
    shortfalls = density.shortfall(best, rows)[:, None]
    return Places(x, value - proposals.log_density(x), variance, modes, shortfalls, n_draws=1)


def _starts(density: RowDensity, rows: Rows, n: int, rng: np.random.Generator) -> Array:
    """Choose where to climb from, shape (M, n, Q).

    A quarter are the places of the known rows most alike in the entries seen; the others those
    where p(y, x) is highest among the places of all known rows, places beside them, and some of
    the prior. These are the same for all rows, so that many cost little.
    """
    M, Q = rows.mean.shape
    known = density.draw.X
    beside = known[rng.integers(len(known), size=_SCATTERED)]
    beside = beside + _BESIDE * density.unit * rng.standard_normal((_SCATTERED, Q))
    some = rows[rng.integers(M, size=_SCATTERED)]
    prior = some.mean + some.sd * rng.standard_normal((_SCATTERED, Q))
    places = np.vstack([known, beside, prior])
    points = np.broadcast_to(places / density.unit, (M, *places.shape))
    alike = min(n // 4, len(known))
    likely, _ = _distinct(points, density.heights(places, rows), n - alike, _APART)
    nearest = np.argsort(density.misfits(rows), axis=1)[:, :alike]
    return np.concatenate([places[likely], known[nearest]], axis=1)


def _distinct(
    points: Array, heights: Array, most: int, apart: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Pick the highest points of each row that do not lie beside one picked before.

    Parameters
    ----------
    points : ndarray, shape (M, P, Q)
    heights : ndarray, shape (M, P)
    most : int
    apart : float

    Returns
    -------
    index : ndarray of int, shape (M, most)
    found : ndarray of bool, shape (M, most)
        False where there was none left.
    """
    left, every = heights.copy(), np.arange(len(heights))
    index = np.zeros((len(heights), most), dtype=np.intp)
    found = np.zeros((len(heights), most), dtype=bool)
    for j in range(most):
        index[:, j] = best = left.argmax(axis=1)
        found[:, j] = np.isfinite(left[every, best])
        away = points - points[every, best][:, None]
        left[np.einsum("mpq,mpq->mp", away, away) <= apart**2] = -np.inf
    return index, found


def _modes(density: RowDensity, rows: Rows, starts: Array) -> Modes:
    M, _, Q = starts.shape
    unit = density.unit
    tops, heights, converged = _climbed(density, rows, starts)
    index, found = _distinct(tops / unit, heights, _MODES, _SAME)
    every = np.arange(M)[:, None]
    at, height = tops[every, index], heights[every, index]
    spread = np.broadcast_to(np.eye(Q), (*at.shape, Q)).copy()
    row = np.nonzero(found)[0]
    spread[found] = _spread(density, rows[row], at[found])
    log_mass = height + 0.5 * Q * np.log(2.0 * np.pi)
    log_mass += np.log(np.diagonal(spread, axis1=2, axis2=3)).sum(axis=2)
    highest = converged[np.arange(M), index[:, 0]]
    return Modes(at, spread, np.where(found, log_mass, -np.inf), highest)


def _climbed(
    density: RowDensity, rows: Rows, starts: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Climb ln p(y, x) from the starts, and from where the mean comes nearest to the row.

    With hardly any noise the density is so steep that the first step of a climb can end where v(x)
    is large and forgives any residual, a maximum of its own. Least squares know no v, and from
    their ends a climb begins with the step of their curvature, which is short where it is steep.

    Returns
    -------
    tops : ndarray, shape (M, T, Q)
    heights, converged : ndarray, shape (M, T)
        A height of -inf where there is no climb.
    """
    M, n, Q = starts.shape
    unit, flat, row = density.unit, starts.reshape(-1, Q), np.repeat(np.arange(M), n)
    ends, _, curvature = minimise(lambda x, which: density.squares(x, rows[row[which]]), flat, unit)
    height = density.log_joint(ends, rows[row])[0].reshape(M, n)
    index, found = _distinct((ends / unit).reshape(M, n, Q), height, min(n, _ENDS), _SAME)
    own, slot = np.nonzero(found)
    chosen = n * own + index[own, slot]
    inverse = np.linalg.inv(curvature[chosen])

    tops, heights = np.zeros((M, n + _ENDS, Q)), np.full((M, n + _ENDS), -np.inf)
    converged = np.zeros((M, n + _ENDS), dtype=bool)

    def climb(x: Array, own: NDArray[np.intp], slot: Any, inverse: Array | None = None) -> None:
        tops[own, slot], heights[own, slot], converged[own, slot] = maximise(
            lambda x, which: density.log_joint(x, rows[own[which]]), x, unit, inverse=inverse
        )

    climb(flat, row, np.tile(np.arange(n), M))
    climb(ends[chosen], own, n + slot, inverse)
    return tops, heights, converged


def _spread(density: RowDensity, rows: Rows, at: Array) -> Array:
    """Cholesky factor of the covariance at peaks, of the Hessian by differences of the gradient."""
    unit, Q = density.unit, at.shape[1]
    hessian = np.empty((len(at), Q, Q))
    for q in range(Q):
        step = np.zeros(Q)
        step[q] = _STEP * unit[q]
        up, down = (density.log_joint(at + sign * step, rows)[1] for sign in (1.0, -1.0))
        hessian[:, q] = (up - down) * unit / (2.0 * _STEP)
    curvature, axes = np.linalg.eigh(-0.5 * (hessian + hessian.transpose(0, 2, 1)))
    # Nowhere wider than the prior; where it is no peak, as wide.
    least = ((unit / rows.sd) ** 2).min(axis=1)
    curvature = np.maximum(curvature, least[:, None])
    covariance = (axes / curvature[:, None]) @ axes.transpose(0, 2, 1)
    return np.asarray(unit[:, None] * np.linalg.cholesky(covariance))


def _proposals(modes: Modes, rows: Rows) -> Proposals:
    below = modes.log_mass - modes.log_mass.max(axis=1, keepdims=True)
    kept = below > -_NEGLIGIBLE
    mass = np.where(kept, np.exp(below), 0.0)
    share = mass / mass.sum(axis=1, keepdims=True)
    share += kept / kept.sum(axis=1, keepdims=True)  # none is left to chance
    share *= 0.5 * (1.0 - _PRIOR_SHARE)
    at = np.concatenate([modes.at, modes.at], axis=1)
    spread = np.concatenate([modes.spread, _WIDE * modes.spread], axis=1)
    parts = (
        (1.0 - _WIDE_SHARE) * share,
        _WIDE_SHARE * share,
        np.full((len(rows), 1), _PRIOR_SHARE),
    )
    return Proposals(at, spread, np.concatenate(parts, axis=1), rows.mean, rows.sd)


def _joined(parts: list[Places], axis: int) -> Places:
    """Put rows (axis 0) or draws (axis 1) together."""
    names = ("at", "spread", "log_mass")
    at, spread, log_mass = (
        np.concatenate([getattr(p.modes, name) for p in parts], axis) for name in names
    )
    reached = [p.modes.converged for p in parts]
    converged = np.concatenate(reached) if axis == 0 else np.all(reached, axis=0)
    x, ratio, variance, shortfalls = (
        np.concatenate([getattr(p, name) for p in parts], axis)
        for name in ("x", "log_ratio", "variance", "shortfalls")
    )
    n_draws = 1 if axis == 0 else len(parts)
    modes = Modes(at, spread, log_mass, converged)
    return Places(x, ratio, variance, modes, shortfalls, n_draws)
