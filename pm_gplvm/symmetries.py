"""The rotations, reflections and exchanges of latent dimensions that leave a density as it is."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.special import gammaln

from pm_gplvm.checks import Array
from pm_gplvm.density import Coordinates

__all__ = ["invariant_planes", "log_copies", "tangents"]

Plane = tuple[int, int]


def _latent_dim(coordinates: Coordinates) -> int:
    shapes = dict(zip(coordinates.density.names, coordinates.density.shapes, strict=True))
    shape = shapes.get(coordinates.X or "", ())
    return shape[1] if len(shape) == 2 else 0


def _is_symmetry(coordinates: Coordinates, vector: Array, matrix: Array) -> bool:
    """Whether the density is the same at Z times an orthogonal matrix."""
    values = coordinates.density.unpack(vector)
    moved = dict(values)
    moved[str(coordinates.X)] = values[str(coordinates.X)] @ matrix
    scale = values.get(coordinates.lengthscale or "")
    if scale is not None and scale.ndim == 1:
        moved[str(coordinates.lengthscale)] = scale @ matrix**2  # an exchange takes them along
    before, _ = coordinates(vector)
    after, _ = coordinates(coordinates.density.pack(moved))
    return bool(abs(after - before) <= 1e-8 * (1.0 + abs(before)))


def invariant_planes(coordinates: Coordinates, vector: Array) -> list[Plane]:
    """Find the planes of latent dimensions in which Z can be turned at no change of the density.

    With one lengthscale for all and N(0, I) on X these are all Q(Q-1)/2; with ARD none.

    Parameters
    ----------
    coordinates : Coordinates
    vector : ndarray, shape (n,)
        A point at which to try.

    Returns
    -------
    list of pairs of int
    """
    Q = _latent_dim(coordinates)
    planes = []
    for a, b in combinations(range(Q), 2):
        turn = np.eye(Q)
        turn[np.ix_((a, b), (a, b))] = [[np.cos(1.0), np.sin(1.0)], [-np.sin(1.0), np.cos(1.0)]]
        if _is_symmetry(coordinates, vector, turn):
            planes.append((a, b))
    return planes


def tangents(coordinates: Coordinates, vector: Array, planes: Sequence[Plane]) -> Array:
    """Directions in which a point moves when Z is turned: d/dφ of Z exp(φA), A = e_a e_bᵀ - e_b e_aᵀ.

    Returns
    -------
    ndarray, shape (n, number of planes)
    """
    columns = np.zeros((len(vector), len(planes)))
    for column, (a, b) in zip(columns.T, planes, strict=True):
        zeros = coordinates.density.unpack(np.zeros_like(vector))
        Z = coordinates.density.unpack(vector)[str(coordinates.X)]
        turning = np.zeros_like(Z)
        turning[:, b], turning[:, a] = Z[:, a], -Z[:, b]
        column[:] = coordinates.density.pack({**zeros, str(coordinates.X): turning})
    return columns


def log_copies(coordinates: Coordinates, vector: Array, planes: Sequence[Plane]) -> float | None:
    """How often symmetry repeats a mode: the logarithm of the volume of its group.

    Returns
    -------
    float or None
        ln(2 vol SO(Q)) where all planes are invariant, vol SO(Q) = Π₂^Q 2 π^(k/2) / Γ(k/2), the
        unit being one radian; without invariant planes ln of the number of reflections and
        exchanges; None if some planes are invariant and some not.
    """
    Q = _latent_dim(coordinates)
    identity = np.eye(Q)
    signs = [identity - 2.0 * np.outer(e, e) for e in identity]
    reflections = sum(_is_symmetry(coordinates, vector, sign) for sign in signs)
    if len(planes) == Q * (Q - 1) // 2:
        k = np.arange(2, Q + 1)
        spheres = np.log(2.0) + 0.5 * k * np.log(np.pi) - gammaln(0.5 * k)
        return float(spheres.sum() + np.log(2.0) * min(reflections, 1))
    if planes:
        return None
    swaps = [identity[[*range(q), q + 1, q, *range(q + 2, Q)]] for q in range(Q - 1)]
    exchanged = [_is_symmetry(coordinates, vector, swap) for swap in swaps]
    if any(exchanged) and not all(exchanged):
        return None
    return float(np.log(2.0) * reflections + (gammaln(Q + 1) if any(exchanged) else 0.0))
