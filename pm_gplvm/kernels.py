"""The kernels: k(x, x') = amplitude² κ(‖x - x'‖² / lengthscale²) + bias², as a table.

A stationary kernel is its profile, the correlation κ and its slope κ' as functions of the squared
distance r², written once and used by NumPy and PyTensor alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ["KERNELS", "Kernel", "cross_covariance", "parse_kernel", "prior_variance"]

Array = NDArray[np.float64]
Profile = Callable[[Any, Any], tuple[Any, Any]]


# Assignments such as ``u += 1`` spare NumPy an array; to PyTensor they are plain sums.


def _rbf(r2: Any, xp: Any) -> tuple[Any, Any]:
    return xp.exp(-0.5 * r2), None


def _matern32(r2: Any, xp: Any) -> tuple[Any, Any]:
    u = xp.sqrt(3.0 * r2)
    e = xp.exp(-u)
    u += 1.0
    u *= e
    e *= -1.5
    return u, e  # (1 + u) exp(-u), -3/2 exp(-u)


def _matern52(r2: Any, xp: Any) -> tuple[Any, Any]:
    u = xp.sqrt(5.0 * r2)
    e = xp.exp(-u)
    u += 1.0
    u *= e
    e *= r2
    e *= 5.0 / 3.0
    e += u
    return e, -5.0 / 6.0 * u  # (1 + u + u²/3) exp(-u), -5/6 (1 + u) exp(-u)


@dataclass(frozen=True)
class Kernel:
    """One covariance function.

    Parameters
    ----------
    name : str
        What the user writes.
    profile : callable or None
        ``(r2, xp) -> (κ, κ')`` for a stationary kernel, None for the inner product x·x'.
    rate : float, optional
        c where κ' = c κ: the profile then leaves out the slope, which need not be stored.
    """

    name: str
    profile: Profile | None
    rate: float | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the kernel's hyperparameters (noise and bias are added to any kernel)."""
        return ("lengthscale", "amplitude") if self.profile else ()


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("rbf", _rbf, rate=-0.5),
        Kernel("matern32", _matern32),
        Kernel("matern52", _matern52),
        Kernel("linear", None),
    )
}


def parse_kernel(text: str) -> tuple[Kernel, bool]:
    """Read a kernel's name, with ``"+ bias"`` behind it if a bias is wanted.

    Parameters
    ----------
    text : str
        For example ``"rbf"`` or ``"rbf + bias"``.

    Returns
    -------
    kernel : Kernel
    bias : bool

    Raises
    ------
    ValueError
        If the text names no kernel, two kernels, or one that is unknown.

    Examples
    --------
    >>> kernel, bias = parse_kernel("rbf + bias")
    >>> kernel.name, bias
    ('rbf', True)
    """
    if not isinstance(text, str):
        raise TypeError(
            f"kernel must be a name such as 'rbf' or 'rbf + bias', got {type(text).__name__}. For a "
            "covariance of your own put gplvm.GPColumns into a pm.Model."
        )
    words = [word.strip().lower() for word in text.split("+")]
    names = [word for word in words if word != "bias"]
    if len(names) != 1 or names[0] not in KERNELS or len(words) > len(names) + 1:
        raise ValueError(
            f"kernel must be one of {', '.join(KERNELS)}, with ' + bias' behind it if wanted, "
            f"got {text!r}."
        )
    return KERNELS[names[0]], "bias" in words


def cross_covariance(
    kernel: str,
    X_new: Array,
    X: Array,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    bias: float = 0.0,
) -> Array:
    """Evaluate k(X_new, X), without noise, in NumPy.

    Parameters
    ----------
    kernel : str
    X_new, X : ndarray, shape (S, Q) and (N, Q)
    lengthscale, amplitude, bias
        As in :func:`covariance`, numbers.

    Returns
    -------
    ndarray, shape (S, N)
    """
    profile = KERNELS[kernel].profile
    if profile is None:
        return np.asarray(amplitude**2 * X_new @ X.T + bias**2)
    r2 = cdist(X_new / lengthscale, X / lengthscale, "sqeuclidean")
    return np.asarray(amplitude**2 * profile(r2, np)[0] + bias**2)


def prior_variance(kernel: str, X: Array, *, amplitude: float = 1.0, bias: float = 0.0) -> Array:
    """Evaluate the diagonal of k(X, X), without noise, in NumPy.

    Returns
    -------
    ndarray, shape (N,)
    """
    signal = np.ones(len(X)) if KERNELS[kernel].profile else (X**2).sum(axis=1)
    return amplitude**2 * signal + bias**2
