"""New rows placed together, as frames of a path: the mode of X under the prior over time, and a Gaussian about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import lower_factors
from pm_gplvm.core.interrupt import interruptible, safe_point
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.progress import Bar
from pm_gplvm.prediction.paths import Frames, Paths
from pm_gplvm.prediction.processes import for_each_draw
from pm_gplvm.prediction.row_posterior import Density, Rows, each_density
from pm_gplvm.prediction.uncollapsed import each_frame, uncollapsed_density

_STEP = 1e-4  # of the differences for the curvature, in lengthscales
_SMOOTH = 0.1  # in lengthscales: how far a start may lie from known positions
_MOST = 1000  # iterations of a climb
_FLATTEST = 0.1  # curvature, of the prior's: what is flatter, or no maximum, counts as that


@dataclass(frozen=True)
class Placed:
    """Draws (S, T, Q) of new frames, mean and sd (T, Q) of them, and of each frame (T,) how well it is explained."""

    X: Array
    mean: Array
    sd: Array
    shortfall: Array
    converged: bool


def placed_in_time(
    read: Fit,
    paths: Paths,
    new: Frames,
    rows: Rows,
    *,
    num_samples: int,
    draws: int,
    rng: np.random.Generator,
    progress: Bar,
) -> Placed:
    """Place new frames by p(X_new | X) ∏ p(y_t | x_t), in at most ``num_samples`` draws of the fit, which count the same.

    A frame's density is that of :func:`embed`, given the fit alone. About the mode in the coordinates of the
    prior's root stands a Gaussian with the curvature there.
    """
    chosen = read.evenly_spaced(num_samples)
    if read.has_one_process and not np.isin(new.sequence, paths.sequence).any():
        chosen = chosen[:1]  # nothing differs between the draws
    X, unit = read.values("X", raw=True)[chosen], read.values("X_lengthscale")[chosen]
    frames = read.frames(chosen)
    shares = np.array_split(np.arange(draws), len(chosen))
    found, means, variances, shortfalls, arrived = [], [], [], [], True
    with interruptible():
        for i, (density, share) in enumerate(
            zip(_densities(read, num_samples), shares, strict=False)
        ):
            mean, covariance = paths.conditional(new, X[i], float(unit[i]))
            path = _Path(
                density,
                density.prepared(rows),
                frames.inward(i, mean),
                lower_factors(covariance * float(frames.scale[i, 0]) ** 2),
            )
            z, converged = path.mode(new)
            root = path.spread(z)
            at = path.positions(z)
            drawn = path.positions(z + _unflat(root @ rng.standard_normal((z.size, len(share))), z))
            # Var x_tq = ‖row (t, q) of (L ⊗ I) R‖²
            whole = np.einsum("ts,sqk->tqk", path.root, root.reshape(*z.shape, -1))
            found.append(drawn)
            means.append(at)
            variances.append((whole**2).sum(axis=2))
            shortfalls.append(density.shortfall(at, path.rows))
            arrived &= converged
            progress.advance(len(new))
    sd = np.sqrt(np.mean(variances, axis=0) + np.var(means, axis=0))
    shortfall = np.median(shortfalls, axis=0)
    return Placed(np.concatenate(found), np.mean(means, axis=0), sd, shortfall, arrived)


def _densities(read: Fit, limit: int) -> Iterator[Density]:
    """Densities of new rows in each draw; the same again where there is one process for all."""
    found: Iterator[Density] = (
        map(uncollapsed_density, each_frame(read, limit))
        if read.has_likelihood
        else each_density([read], limit)
    )
    return for_each_draw(read, found)


def _unflat(columns: Array, z: Array) -> Array:
    """Columns (T Q, S) as (S, T, Q)."""
    return np.asarray(columns.T.reshape(-1, *z.shape))


@dataclass(frozen=True)
class _Path:
    """Frames whose columns are mean + L z, z ~ N(0, I), with the rows that were seen of them."""

    density: Density
    rows: Rows  # with the prior N(0, 1), which is taken out again
    mean: Array
    root: Array

    def positions(self, z: Array) -> Array:
        """X (..., T, Q)."""
        return np.asarray(self.mean + self.root @ z)

    def log_likelihood(self, x: Array) -> tuple[Array, Array]:
        """Return ln p(y_t | x_t) of each frame (T,), and the gradient (T, Q)."""
        value, slope = self.density.log_joint(x, self.rows)
        return value - self.rows.log_prior(x), slope - self.rows.prior_slope(x)

    def mode(self, new: Frames) -> tuple[Array, bool]:
        """Climb from the prior's mean and from ways through known positions; the highest end."""
        ends = []
        for start in self._starts(new):
            safe_point()
            settings = {"maxiter": _MOST}
            ends.append(
                minimize(self._minus, start.ravel(), jac=True, method="L-BFGS-B", options=settings)
            )
        best = min(ends, key=lambda end: float(end.fun))
        return best.x.reshape(self.mean.shape), bool(best.success)

    def _minus(self, flat: Array) -> tuple[float, Array]:
        z = flat.reshape(self.mean.shape)
        value, slope = self.log_likelihood(self.positions(z))
        return 0.5 * float(flat @ flat) - float(value.sum()), (z - self.root.T @ slope).ravel()

    def _starts(self, new: Frames) -> list[Array]:
        known = self.density.beginnings
        own = self.density.log_densities(known, self.rows)
        own = own - self.rows.log_prior(known[None])
        ways = [own.argmax(axis=1), self._likeliest_way(known, own, new)]
        inner = self.root.T @ self.root + _SMOOTH**2 * np.eye(len(self.root))
        smooth = [np.linalg.solve(inner, self.root.T @ (known[way] - self.mean)) for way in ways]
        return [np.zeros(self.mean.shape), *smooth]

    def _likeliest_way(self, known: Array, own: Array, new: Frames) -> NDArray[np.intp]:
        """Through known positions, one a frame, by what is seen of it and how far the path goes between frames."""
        order = np.lexsort((new.t, new.sequence))
        covariance, variance = self.root @ self.root.T, (self.root**2).sum(axis=1)
        value, back = own[order[0]], []
        for before, now in pairwise(order):
            moved = known[None] - known[:, None] - (self.mean[now] - self.mean[before])
            width = max(variance[now] + variance[before] - 2.0 * covariance[now, before], 1e-12)
            reached = value[:, None] - 0.5 * (moved**2).sum(axis=2) / width
            back.append(reached.argmax(axis=0))
            value = reached.max(axis=0) + own[now]
        way = [int(value.argmax())]
        for step in reversed(back):
            way.append(int(step[way[-1]]))
        found = np.empty(len(order), dtype=np.intp)
        found[order] = way[::-1]
        return found

    def spread(self, z: Array) -> Array:
        """Root (T Q, T Q) of the covariance of z, from the curvature at the mode by differences of the gradient."""
        x, (T, Q) = self.positions(z), z.shape
        unit = np.broadcast_to(self.density.unit, Q)
        curvature = np.empty((T, Q, Q))
        for q in range(Q):
            step = np.zeros(Q)
            step[q] = _STEP * unit[q]
            up, down = (self.log_likelihood(x + sign * step)[1] for sign in (1.0, -1.0))
            curvature[:, q] = -(up - down) / (2.0 * step[q])
        curvature = 0.5 * (curvature + curvature.transpose(0, 2, 1))
        seen = np.einsum("ts,tqr,tu->squr", self.root, curvature, self.root, optimize=True)
        values, axes = np.linalg.eigh(np.eye(T * Q) + seen.reshape(T * Q, T * Q))
        return np.asarray(axes / np.sqrt(np.maximum(values, _FLATTEST)))
