"""A log-density to second order about its mode.

At a maximum û of ln p(u) the expansion to second order is the Gaussian N(û, P⁻¹),
P = -∂² ln p / ∂u². Where the density does not change under rotations of the latent positions, P is
zero along the Q(Q-1)/2 directions in which Z can be turned: these are not inverted but left out.
What remains is the *slice* on which Ẑᵀ(Z - Ẑ) is symmetric, which is to say that every Z on it
lies as Procrustes' rotation would turn it onto Ẑ. An integral over all u is one over the slice, in
which each point counts with the volume that the rotations sweep there (as the radius does in
polar coordinates), times the volume of the group.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.progress import track
from scipy.linalg import null_space, orth

from pm_gplvm.checks import Array
from pm_gplvm.density import Coordinates
from pm_gplvm.symmetries import invariant_planes, log_copies, tangents

__all__ = ["Expansion", "expand", "laplace_evidence"]

# In the optimiser's units, where the density changes over a length of about 1: balances the
# gradient's rounding against the third-order term (step²).
_STEP = 1e-5


@dataclass(frozen=True)
class Expansion:
    """A log-density to second order about a mode.

    Parameters
    ----------
    coordinates : Coordinates
    mode : ndarray, shape (n,)
    value : float
        Log-density there.
    planes : list of pairs of int
        In which a rotation leaves the density as it is.
    null : ndarray, shape (n, m)
        Orthonormal basis of the directions in which these rotations move the mode.
    root : ndarray, shape (n, r)
        The covariance is ``root @ root.T``, orthogonal to ``null``.
    log_det : float
        ln|P| within the r directions.
    decrement : float
        ½ gᵀP⁻¹g, what a Newton step would gain.
    """

    coordinates: Coordinates
    mode: Array
    value: float
    planes: list[tuple[int, int]]
    null: Array
    root: Array
    log_det: float
    decrement: float

    @property
    def n_flat(self) -> int:
        """Directions left out for want of curvature, those of rotations aside."""
        return len(self.mode) - self.null.shape[1] - self.root.shape[1]

    def log_sweep(self, vector: Array) -> float:
        """Logarithm of the volume that the rotations sweep at a point of the slice."""
        if self.null.shape[1] < len(self.planes):  # a dimension in which all rows are at 0
            return float("nan")
        sweep = self.null.T @ tangents(self.coordinates, vector, self.planes)
        return float(np.linalg.slogdet(sweep)[1])


def expand(coordinates: Coordinates, mode: Array, *, progressbar: bool) -> Expansion:
    """Take the Hessian at a mode by central differences of the gradient, and invert what can be.

    Parameters
    ----------
    coordinates : Coordinates
        With the log-density and its gradient.
    mode : ndarray, shape (n,)
        2 n gradients are taken about it.
    progressbar : bool

    Returns
    -------
    Expansion
    """
    value, gradient = coordinates(mode)
    planes = invariant_planes(coordinates, mode)
    null = orth(tangents(coordinates, mode, planes)) if planes else np.empty((len(mode), 0))
    rest = null_space(null.T) if planes else np.eye(len(mode))
    steps: Iterable[Array] = track(
        _STEP * np.eye(len(mode)), "Hessian", transient=True, disable=not progressbar
    )
    differences = [coordinates(mode + h)[1] - coordinates(mode - h)[1] for h in steps]
    hessian = np.stack(differences) / (2.0 * _STEP)
    # What is not symmetric in it is the error of the differences.
    error = 0.5 * float(np.linalg.norm(hessian - hessian.T, 2))
    curvature, axes = np.linalg.eigh(-0.5 * rest.T @ (hessian + hessian.T) @ rest)
    bent = curvature > error
    root = rest @ axes[:, bent] / np.sqrt(curvature[bent])
    return Expansion(
        coordinates=coordinates,
        mode=mode,
        value=value,
        planes=planes,
        null=null,
        root=root,
        log_det=float(np.log(curvature[bent]).sum()),
        decrement=0.5 * float(((root.T @ gradient) ** 2).sum()),
    )


def laplace_evidence(gaussian: Expansion) -> float | None:
    """Laplace's ln p(Y) = ln p(û) + (r/2) ln 2π - ½ ln|P| + ln of the sweep at û and of the group's volume.

    None where a direction is flat, or the symmetry is of a kind whose volume is not known here.
    """
    copies = log_copies(gaussian.coordinates, gaussian.mode, gaussian.planes)
    if copies is None or gaussian.n_flat:
        return None
    # Of each number but the positions the coordinate counts in a unit of its own.
    units = gaussian.coordinates.outward(np.ones_like(gaussian.mode))
    volume = sum(np.log(unit).sum() for n, unit in units.items() if n != gaussian.coordinates.X)
    half = 0.5 * (gaussian.root.shape[1] * np.log(2.0 * np.pi) - gaussian.log_det)
    return float(gaussian.value + half + gaussian.log_sweep(gaussian.mode) + copies + volume)
