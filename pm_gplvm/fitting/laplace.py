"""Laplace's approximation of the posterior of X and θ, as draws.

At a maximum û of ln p(u) the density is to second order the Gaussian N(û, P⁻¹), P = -∂² ln p / ∂u².
Where the density does not change under rotations of the latent positions Z, P is zero along the
Q(Q-1)/2 directions in which Z can be turned. These are not inverted but left out. What remains is
the *slice* on which Ẑᵀ(Z - Ẑ) is symmetric: every Z on it lies as Procrustes' rotation would turn it
onto Ẑ. An integral over all u is one over the slice, in which each point counts with the volume of
its orbit under the rotations (as the radius does in polar coordinates), times the volume of the group.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from scipy.linalg import null_space, orth
from scipy.special import gammaln

from pm_gplvm.core.blas import BlasThreads, threads_for
from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count
from pm_gplvm.core.interrupt import caught, interruptible, safe_point
from pm_gplvm.data.fit import warn_of
from pm_gplvm.data.progress import Bar, progress_bar
from pm_gplvm.fitting.optimise import maximise, tightly
from pm_gplvm.model.compile import Backend, compile_mode
from pm_gplvm.model.density import (
    LogDensity,
    compile_constrain,
    compile_log_density,
    optimiser_coordinates,
)
from pm_gplvm.model.results import as_fit
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import start_values
from pm_gplvm.model.volume import log_volume, why_no_volume

_TOL = 1e-7  # nats at which the optimiser ends
_CONVERGED = 1e-4  # nats still to be gained: the mode is then within 0.014 sd of where it should be
# Of the differences, in the optimiser's units, where the density changes over a length of about 1:
# balances the gradient's rounding against the third-order term (step²).
_STEP = 1e-5

Plane = tuple[int, int]


@checked
def fit_laplace(
    model: pm.Model,
    *,
    start: Any = "pca",
    draws: int = 1000,
    max_iter: int = 5000,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: BlasThreads = "auto",
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Draw X and θ from Gaussians: θ about its marginal estimate, X about its mode given θ.

    From ``start`` the estimate of :func:`fit_marginal` is climbed to, in the logarithms of θ. Its
    objective e(X, θ) is ln p(X, θ, Y) and a term of θ alone, so that its Hessian, taken by central
    differences of the gradient (2 (NQ + number of θ) of them), holds both Gaussians of Laplace's
    approximation: X given θ is N(X̂(θ), (P + H)⁻¹), P + H = -∂² ln p / ∂X², and θ has the curvature of
    the profile max_X e(X, θ). Where X cannot be integrated out (:func:`fit_marginal` says when), the
    Gaussian is that about the mode of X and ln θ together.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with latent positions ``X``.
    start : DataTree, array_like (N, Q), mapping or {"pca", "isomap", "random"}
        Where to climb from, best a fit of :func:`fit_marginal`; from one of :func:`fit_map` it goes on
        to the marginal estimate. The approximation knows of no other mode than the one it is led to.
    draws : int, default 1000
        Independent draws, in one chain.
    max_iter : int, default 5000
        Iterations of the climb.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : {"auto"}, int or None, default "auto"
        As in :func:`fit_map`.
    backend : {"python", "numba", "jax"}, default "python"
        What compiles the model. Numba takes minutes to, and spares some 0.2 ms an evaluation.
    compile_kwargs : mapping, optional
        Handed to ``pytensor.function``.

    Returns
    -------
    DataTree
        ``posterior``: draws of X and θ, all in the frame of the mode. ``sample_stats``: ``lp``,
        the model's log-density in its transformed variables (as NUTS notes it), and
        ``log_weight``, the logarithm of posterior over approximation, 0 at the mode: importance
        weights of the draws. The attrs say how good it is:

        ``null_directions``
            Rotations that leave the posterior as it is, Q(Q-1)/2 of them or none.
        ``flat_directions``
            Directions without curvature besides, along which nothing is drawn; 0 at a maximum.
        ``newton_decrement``
            By how much the objective could still rise, in nats; ``converged`` if below 1e-4.
        ``pareto_k``
            Of the importance weights, from 25 draws on. Above 0.7 the Gaussian is far from the
            posterior, which is the rule for N above a few tens; the draws are then a sketch of
            the uncertainty.
        ``log_evidence``
            ln p(Y) by Laplace's formula: of this mode and the copies of it that symmetry makes
            (rotations and reflections; signs and order with ARD), not of other modes. Left
            out where a direction is flat or the symmetry is of another kind.

    Warns
    -----
    RuntimeWarning
        If the climb did not converge, there are flat directions, or Ctrl-C came while the draws were weighed:
        those reached are returned, and ``attrs["interrupted"]`` is 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the density is not finite at the start.
    KeyboardInterrupt
        At Ctrl-C before that, as there is no Gaussian about an unfinished climb (:func:`fit_marginal` keeps
        one), and at the second Ctrl-C.

    References
    ----------
    Tierney, L. and Kadane, J. B. (1986). Accurate approximations for posterior moments and
    marginal densities. JASA 81, 82-86.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> sketch = gplvm.fit_laplace(model, start=best, draws=50, progressbar=False, random_seed=1)
    >>> sketch.posterior["X"].shape, sketch.attrs["null_directions"]
    ((1, 50, 20, 2), 1)
    """
    spec = ModelSpec.of(model, views=True)
    if not model.free_RVs:
        raise ValueError("model must have a free variable, got every one fixed by a number.")
    for name, number in (("draws", draws), ("max_iter", max_iter)):
        count(name, number)
    with interruptible(keeps=True):
        rng = np.random.default_rng(random_seed)
        volume = why_no_volume(spec) is None
        density = compile_log_density(
            spec,
            jacobian=True,
            volume=volume,
            coordinates=partial(optimiser_coordinates, relative=volume),
            backend=backend,
            compile_kwargs=compile_kwargs,
        )
        target = _Target(density, _compile_volume(spec) if volume else None)
        begin = start_values(model, start, rng)
        with (
            limit_threads(threads_for(blas_threads, density.n_rows)),
            progress_bar("fit_laplace", None, "climb", show=progressbar) as progress,
        ):
            optimum = maximise(density, begin, max_iter, tightly(_TOL), progress)
            safe_point()  # where an unfinished climb ends there is no Gaussian
            quadratic = _quadratic(density, density.inward(optimum.values), progress)
            noise = rng.standard_normal((draws, quadratic.root.shape[1]))
            vectors = quadratic.mode + noise @ quadratic.root.T
            _, value = target(quadratic.mode)
            progress.begin("draws", draws)
            densities = _until_interrupted(target, vectors, progress)
            noise, vectors = noise[: len(densities)], vectors[: len(densities)]
            lp, at_draws = np.array(densities).T
            # On the slice the posterior counts with the volume of the orbit, as r counts in polar coordinates.
            orbits = np.array([quadratic.log_orbit(vector) for vector in vectors])
            orbits -= quadratic.log_orbit(quadratic.mode)
            log_weight = at_draws - value + 0.5 * (noise**2).sum(axis=1) + orbits
            evidence = _log_evidence(quadratic, value)
        constrain = compile_constrain(model)
        points = [
            constrain(*(values[name] for name in density.names))
            for values in map(density.outward, vectors)
        ]
        fit = as_fit(
            model,
            {name: np.stack([point[name] for point in points])[None] for name in points[0]},
            method="laplace",
            sample_stats={"lp": lp[None], "log_weight": log_weight[None]},
            settings={
                "start": start if isinstance(start, str) else type(start).__name__,
                "converged": int(quadratic.decrement < _CONVERGED),
                "newton_decrement": quadratic.decrement,
                "null_directions": len(quadratic.planes),
                "flat_directions": quadratic.n_flat,
                "pareto_k": _pareto_k(log_weight),
                "random_seed": random_seed,
            }
            | ({} if evidence is None else {"log_evidence": evidence}),
        )
    _warn(fit, quadratic, max_iter, draws)
    return fit


def _until_interrupted(
    target: "_Target", vectors: Array, progress: Bar
) -> list[tuple[float, float]]:
    """Densities at the draws, or at those that were reached."""
    densities: list[tuple[float, float]] = []
    try:
        for vector in vectors:
            safe_point()
            densities.append(target(vector))
            progress.advance()
    except KeyboardInterrupt:
        if not densities:
            raise
        caught()
    return densities


def _compile_volume(spec: ModelSpec) -> Callable[..., Any]:
    """Compile the term of θ alone, a function of the values of the model's value variables."""
    model = spec.model
    term = model.replace_rvs_by_values([log_volume(spec)])
    return pytensor.function(model.value_vars, term, on_unused_input="ignore", mode=compile_mode())


@dataclass(frozen=True)
class _Target:
    """The posterior's log-density, by the objective that is maximised and the term of θ that this has besides."""

    density: LogDensity
    volume: Callable[..., Any] | None

    def __call__(self, vector: Array) -> tuple[float, float]:
        """Log-density of the model's transformed variables, and of the coordinates."""
        value, values = self.density(vector)[0], self.density.outward(vector)
        if self.volume is not None:
            (term,) = self.volume(*(values[name] for name in self.density.names))
            value -= float(term)
        return value, value + float(self.density.log_jacobian(values))


@dataclass(frozen=True)
class _Quadratic:
    """A log-density to second order about a mode."""

    density: LogDensity
    mode: Array  # (n,)
    planes: list[Plane]  # in which a rotation leaves the density as it is
    null: (
        Array  # (n, m), orthonormal basis of the directions in which these rotations move the mode
    )
    root: Array  # (n, r), the covariance is root @ root.T, orthogonal to null
    log_det: float  # ln|P| within the r directions
    decrement: float  # ½ gᵀP⁻¹g, what a Newton step would gain

    @property
    def n_flat(self) -> int:
        """Directions left out for want of curvature, those of rotations aside."""
        return len(self.mode) - self.null.shape[1] - self.root.shape[1]

    def log_orbit(self, vector: Array) -> float:
        """Logarithm of the volume of the orbit of a point of the slice under the rotations."""
        if self.null.shape[1] < len(self.planes):  # a dimension in which all rows are at 0
            return float("nan")
        orbit = self.null.T @ _tangents(self.density, vector, self.planes)
        return float(np.linalg.slogdet(orbit)[1])


def _quadratic(density: LogDensity, mode: Array, progress: Bar) -> _Quadratic:
    """Take the Hessian at a mode by central differences of the gradient, and invert what can be."""
    _, gradient = density(mode)
    planes = invariant_planes(density, mode)
    null = orth(_tangents(density, mode, planes)) if planes else np.empty((len(mode), 0))
    rest = null_space(null.T) if planes else np.eye(len(mode))
    progress.begin("Hessian", len(mode))
    differences = []
    for h in _STEP * np.eye(len(mode)):
        safe_point()
        differences.append(density(mode + h)[1] - density(mode - h)[1])
        progress.advance()
    hessian = np.stack(differences) / (2.0 * _STEP)
    # What is not symmetric in it is the error of the differences.
    error = 0.5 * float(np.linalg.norm(hessian - hessian.T, 2))
    curvature, axes = np.linalg.eigh(-0.5 * rest.T @ (hessian + hessian.T) @ rest)
    curved = curvature > error
    root = rest @ axes[:, curved] / np.sqrt(curvature[curved])
    return _Quadratic(
        density=density,
        mode=mode,
        planes=planes,
        null=null,
        root=root,
        log_det=float(np.log(curvature[curved]).sum()),
        decrement=0.5 * float(((root.T @ gradient) ** 2).sum()),
    )


def _log_evidence(quadratic: _Quadratic, value: float) -> float | None:
    """Laplace's ln p(Y) = ln p(û) + (r/2) ln 2π - ½ ln|P| + ln of the volumes of the orbit of û and of the group.

    None where a direction is flat, or the symmetry is of a kind whose volume is not known here.
    """
    density, mode = quadratic.density, quadratic.mode
    group = log_group_volume(density, mode, quadratic.planes)
    if group is None or quadratic.n_flat:
        return None
    # Of each number but the positions the coordinate counts in a unit of its own.
    steps = density.steps
    volume = sum(math.prod(density.spans[n][1]) * np.log(step) for n, step in steps.items())
    half = 0.5 * (quadratic.root.shape[1] * np.log(2.0 * np.pi) - quadratic.log_det)
    return float(value + half + quadratic.log_orbit(mode) + group + volume)


def _latent_dim(density: LogDensity) -> int:
    shape = density.spans[density.X][1] if density.X is not None else ()
    return shape[1] if len(shape) == 2 else 0


def _is_symmetry(density: LogDensity, vector: Array, matrix: Array) -> bool:
    """Whether the density is the same at Z times an orthogonal matrix."""
    moved = density.unpack(vector)
    X = str(density.X)
    moved[X] = moved[X] @ matrix
    for name in density.lengthscales:
        if moved[name].ndim == 1:
            moved[name] = moved[name] @ matrix**2  # an exchange takes them along
    before, _ = density(vector)
    after, _ = density(density.pack(moved))
    return bool(abs(after - before) <= 1e-8 * (1.0 + abs(before)))


def invariant_planes(density: LogDensity, vector: Array) -> list[Plane]:
    """Find the planes of latent dimensions in which Z can be turned at no change of the density.

    With one lengthscale for all and N(0, I) on X these are all Q(Q-1)/2; with ARD none.
    """
    Q = _latent_dim(density)
    planes = []
    for a, b in combinations(range(Q), 2):
        turn = np.eye(Q)
        turn[np.ix_((a, b), (a, b))] = [[np.cos(1.0), np.sin(1.0)], [-np.sin(1.0), np.cos(1.0)]]
        if _is_symmetry(density, vector, turn):
            planes.append((a, b))
    return planes


def _tangents(density: LogDensity, vector: Array, planes: Sequence[Plane]) -> Array:
    """Directions (n, planes) in which a point moves when Z is turned: d/dφ of Z exp(φA), A = e_a e_bᵀ - e_b e_aᵀ."""
    columns = np.zeros((len(vector), len(planes)))
    for column, (a, b) in zip(columns.T, planes, strict=True):
        zeros = density.unpack(np.zeros_like(vector))
        Z = density.unpack(vector)[str(density.X)]
        turning = np.zeros_like(Z)
        turning[:, b], turning[:, a] = Z[:, a], -Z[:, b]
        column[:] = density.pack({**zeros, str(density.X): turning})
    return columns


def log_group_volume(density: LogDensity, vector: Array, planes: Sequence[Plane]) -> float | None:
    """How often symmetry repeats a mode: the logarithm of the volume of the group.

    ln(2 vol SO(Q)) where all planes are invariant, vol SO(Q) = Π₂^Q 2 π^(k/2) / Γ(k/2), the unit being
    one radian; without invariant planes ln of the number of reflections and exchanges; None if some
    planes are invariant and some not.
    """
    Q = _latent_dim(density)
    identity = np.eye(Q)
    signs = [identity - 2.0 * np.outer(e, e) for e in identity]
    reflections = sum(_is_symmetry(density, vector, sign) for sign in signs)
    if len(planes) == Q * (Q - 1) // 2:
        k = np.arange(2, Q + 1)
        spheres = np.log(2.0) + 0.5 * k * np.log(np.pi) - gammaln(0.5 * k)
        return float(spheres.sum() + np.log(2.0) * min(reflections, 1))
    if planes:
        return None
    swaps = [identity[[*range(q), q + 1, q, *range(q + 2, Q)]] for q in range(Q - 1)]
    exchanged = [_is_symmetry(density, vector, swap) for swap in swaps]
    if any(exchanged) and not all(exchanged):
        return None
    return float(np.log(2.0) * reflections + (gammaln(Q + 1) if any(exchanged) else 0.0))


def _pareto_k(log_weight: Array) -> float:
    from arviz_stats.base import array_stats

    if len(log_weight) < 25:
        return float("nan")
    try:
        return float(array_stats.psislw(-log_weight)[1])
    except ValueError:  # all weights are the same
        return float("nan")


def _warn(fit: xr.DataTree, quadratic: _Quadratic, max_iter: int, draws: int) -> None:
    if fit.attrs["interrupted"]:
        warn_of(
            fit,
            f"fit_laplace was interrupted: {fit['posterior'].sizes['draw']} of {draws} draws are kept. For "
            "others, call it again with start=fit and another random_seed.",
        )
        return
    if quadratic.decrement >= _CONVERGED:
        warn_of(
            fit,
            f"fit_laplace did not reach the mode: a Newton step would still raise the objective by "
            f"{quadratic.decrement:.3g} (wanted below {_CONVERGED:g}). Raise max_iter = {max_iter}, or start "
            "from a fit of fit_marginal that has converged.",
        )
    if quadratic.n_flat:
        warn_of(
            fit,
            f"fit_laplace found no curvature in {quadratic.n_flat} of {len(quadratic.mode)} directions "
            "(those of rotations aside) and draws nothing along them: the start is no maximum, or "
            "the priors leave these directions free. Start from fit_marginal(model, n_restarts=...), or "
            "give X and θ proper priors.",
        )
