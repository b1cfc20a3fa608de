"""Squared distances of positions."""

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from pm_gplvm.core.checks import Array


def squared_distances(A: Any, B: Any, xp: Any = np) -> Any:
    """Squared distances of the rows of A (..., S, Q) and B (N, Q) or (..., N, Q), shape (..., S, N)."""
    if B.ndim > 2:
        return distances_from_products(A, B, A @ B.swapaxes(-1, -2))
    if xp is np and A.ndim == 2:
        return cdist(A, B, "sqeuclidean")
    centre = B.mean(axis=0)  # distances by norms lose digits when the origin is far away
    same, A, B = A is B, A - centre, B - centre
    r2 = (A**2).sum(axis=-1)[..., None] + (B**2).sum(axis=-1) - 2.0 * A @ B.T
    r2 = xp.maximum(r2, 0.0)
    return r2 * (1.0 - xp.eye(B.shape[0])) if same else r2


def distances_from_products(A: Array, B: Array, inner: Array) -> Array:
    """Compute ‖a - b‖² from the inner products (..., M, N), which are overwritten."""
    inner *= -2.0
    inner += (A**2).sum(axis=-1)[..., :, None]
    inner += (B**2).sum(axis=-1)[..., None, :]
    return np.maximum(inner, 0.0, out=inner)
