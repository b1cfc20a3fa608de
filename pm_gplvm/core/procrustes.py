"""Procrustes analysis of sets of positions, and how near two sets are in shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

from pm_gplvm.core.checks import Array

Axes = bool | Literal["signs"]


@dataclass(frozen=True)
class Symmetry:
    """The transforms of X that leave K unchanged.

    Rotations and reflections (``axes``: only signs and order of the axes, "signs": not the order either), with
    ``move`` also translations, with ``scale`` also a common scale of X and the lengthscale.
    """

    axes: Axes
    move: bool
    scale: bool
    angles: tuple[
        int, ...
    ] = ()  # dimensions of period 2π, each of which is shifted and mirrored by itself

    def lines(self, latent_dim: int) -> list[int]:
        """List the dimensions that are no angles."""
        return [q for q in range(latent_dim) if q not in self.angles]


def wrapped(angles: Any) -> Array:
    """Angles modulo 2π, from -π on."""
    return np.asarray((np.asarray(angles) + np.pi) % (2.0 * np.pi) - np.pi)


def circular_mean(angles: Array) -> Array:
    """Direction of the mean of cos and sin along the first axis."""
    return np.asarray(np.arctan2(np.sin(angles).mean(axis=0), np.cos(angles).mean(axis=0)))


def unrolled(draws: Array, angles: Sequence[int]) -> Array:
    """Write the angles among the dimensions of draws (S, N, Q) as they lie nearest to their circular mean."""
    if not len(angles):
        return draws
    draws, own = draws.copy(), list(angles)
    centre = circular_mean(draws[..., own])
    draws[..., own] = centre + wrapped(draws[..., own] - centre)
    return draws


def _turn(reference: Array, draws: Array) -> tuple[Array, Array]:
    """Find the sense and the shift, (S,) each, by which angles (S, N) lie nearest to others (N,), by chords."""
    along, back = (np.exp(1j * (s * draws - reference)).sum(axis=1) for s in (1.0, -1.0))
    mirrored = np.abs(back) > np.abs(along) * (1.0 + 1e-12)
    return np.where(mirrored, -1.0, 1.0), -np.angle(np.where(mirrored, back, along))


def circular_procrustes_mean(
    draws: Array, *, max_iter: int = 1000, tolerance: float = 1e-9
) -> tuple[Array, float]:
    """Mean (N,) of angles (S, N), each draw shifted and mirrored to it: about 0, the angle farthest off positive."""
    mean, change = draws[0], np.inf
    for _ in range(max_iter):
        sense, shift = _turn(mean, draws)
        previous, mean = mean, circular_mean(sense[:, None] * draws + shift[:, None])
        change = float(np.abs(wrapped(mean - previous)).max())
        if change <= tolerance:
            break
    mean = wrapped(mean - circular_mean(mean))
    return mean * (-1.0 if mean[np.abs(mean).argmax()] < 0.0 else 1.0), change


@dataclass(frozen=True)
class Transform:
    """x' = scale · rotation x + shift: (S, Q, Q), (S, Q) and (S,), one of each for a draw."""

    rotation: Array
    shift: Array
    scale: Array

    def lengthscale(self, values: Array) -> Array:
        """Lengthscales after the transform, shape (S,) or (S, Q)."""
        if values.ndim == 1:
            return self.scale * values
        return self.scale[:, None] * np.einsum("slf,sf->sl", np.abs(self.rotation), values)


def procrustes_mean(
    draws: Array, *, axes: Axes = False, max_iter: int = 1000, tolerance: float = 1e-9
) -> tuple[Array, float]:
    """Mean (N, Q) of draws (S, N, Q) by generalised Procrustes analysis (Gower 1975).

    Centre the draws first unless translation matters. The mean is in its principal axes, or with
    ``axes``, where only signs and order of the axes may change, in its axes in order of their spread. The
    second value is the relative change of the mean in the last iteration.
    """
    mean, change = draws[0], np.inf
    for _ in range(max_iter):
        previous, mean = mean, _rotated(draws, _rotations(mean, draws, axes)).mean(axis=0)
        change = float(np.linalg.norm(mean - previous) / max(np.linalg.norm(mean), 1e-300))
        if change <= tolerance:
            break
    if axes is True:
        mean = mean[:, np.argsort(-(mean**2).sum(axis=0), kind="stable")]
    elif not axes:
        # Of fewer rows than dimensions all the axes are wanted, those beyond the rank too.
        whole = len(mean) < mean.shape[1]
        mean = mean @ np.linalg.svd(mean, full_matrices=whole)[2].T
    farthest = mean[np.abs(mean).argmax(axis=0), np.arange(mean.shape[1])]
    return mean * np.where(farthest < 0.0, -1.0, 1.0), change


def centred_mean(draws: Array) -> Array:
    """Procrustes mean (N, Q) of draws (S, N, Q), each of them centred."""
    return procrustes_mean(draws - draws.mean(axis=1, keepdims=True))[0]


def superimpose(
    reference: Array, draws: Array, symmetry: Symmetry, *, scale: bool = False
) -> tuple[Array, Transform]:
    """Transform each of the draws (S, N, Q) to lie nearest to the reference (N, Q)."""
    if symmetry.angles:
        return _superimpose_angles(reference, draws, symmetry)
    origin = np.zeros((1, draws.shape[2]))
    here = draws.mean(axis=1) if symmetry.move else np.repeat(origin, len(draws), axis=0)
    there = reference.mean(axis=0) if symmetry.move else origin[0]
    centred, target = draws - here[:, None], reference - there
    W = _rotations(target, centred, symmetry.axes)
    rotated, factor = _rotated(centred, W), np.ones(len(draws))
    if scale:
        inner, size = np.einsum("snq,nq->s", rotated, target), (rotated**2).sum(axis=(1, 2))
        # A draw that has nothing in common with the reference keeps its size.
        np.divide(inner, size, out=factor, where=inner > 0.0)
    shift = there - factor[:, None] * np.einsum("slf,sf->sl", W, here)
    return factor[:, None, None] * rotated + there, Transform(W, shift, factor)


def _superimpose_angles(
    reference: Array, draws: Array, symmetry: Symmetry
) -> tuple[Array, Transform]:
    """Do so with each angle by itself, modulo 2π, and with the other dimensions together."""
    (S, _, Q), lines = draws.shape, symmetry.lines(draws.shape[2])
    W, shift, found = np.zeros((S, Q, Q)), np.zeros((S, Q)), np.empty_like(draws)
    if lines:
        alone = replace(symmetry, angles=())
        found[..., lines], own = superimpose(reference[:, lines], draws[..., lines], alone)
        W[np.ix_(np.arange(S), lines, lines)], shift[:, lines] = own.rotation, own.shift
    for q in symmetry.angles:
        W[:, q, q], shift[:, q] = _turn(reference[:, q], draws[..., q])
        turned = W[:, q, q, None] * draws[..., q] + shift[:, q, None]
        found[..., q] = reference[:, q] + wrapped(turned - reference[:, q])
    return found, Transform(W, shift, np.ones(S))


def _rotations(reference: Array, draws: Array, axes: Axes) -> Array:
    """Find the W of each draw that minimises ‖draw Wᵀ - reference‖, shape (S, Q, Q)."""
    overlap = np.einsum("nl,snf->slf", reference, draws, optimize=True)
    if not axes:
        U, _, Vt = np.linalg.svd(overlap)
        return np.asarray(U @ Vt)
    W = np.zeros_like(overlap)
    if axes == "signs":
        own = np.arange(overlap.shape[1])
        W[:, own, own] = np.where(overlap[:, own, own] < 0.0, -1.0, 1.0)
        return W
    for rotation, inner in zip(W, overlap, strict=True):
        matched = linear_sum_assignment(np.abs(inner), maximize=True)
        rotation[matched] = np.where(inner[matched] < 0.0, -1.0, 1.0)
    return W


def _rotated(draws: Array, rotations: Array) -> Array:
    return np.asarray(draws @ rotations.transpose(0, 2, 1))


def procrustes_distance(X: Array, reference: Array) -> float:
    """Share of the variance left after centring, scaling and rotating X onto the reference.

    SciPy's disparity: 0 for the same shape, at most 1. Missing dimensions count as 0.

    Examples
    --------
    >>> X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> round(procrustes_distance(X, 3.0 * X[:, ::-1] + 1.0), 12)
    0.0
    """
    Q = max(X.shape[1], reference.shape[1])
    padded = [np.pad(A, ((0, 0), (0, Q - A.shape[1]))) for A in (reference, X)]
    return float(procrustes(*padded)[2])


def distance_correlation(X: Any, Y: Any) -> float:
    """Distance correlation of two tables with the same rows (Székely, Rizzo & Bakirov 2007, def. 3).

    Between 0 and 1, which it is if a rotation, translation and scaling turns one into the other.

    Examples
    --------
    >>> x = np.arange(4.0)[:, None]
    >>> round(distance_correlation(x, -2.0 * x), 12)
    1.0
    """
    A, B = _centred_distances(X), _centred_distances(Y)
    scale = np.sqrt((A**2).mean() * (B**2).mean())
    return float(np.sqrt(max((A * B).mean(), 0.0) / scale)) if scale > 0.0 else 0.0


def _centred_distances(X: Any) -> Array:
    D = squareform(pdist(np.asarray(X, dtype=np.float64)))
    means = D.mean(axis=0)
    return np.asarray(D - means - means[:, None] + means.mean())
