"""The kernels, as a table.

    k(x, x') = amplitude² κ(‖x - x'‖² / lengthscale²) + weight² x·x' + bias²,

of which a kernel has the first part, the second or both.

A stationary part is its profile, the correlation κ and its slope κ' as functions of the squared
distance r², written once and used by NumPy and PyTensor alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from pm_gplvm.checks import Array

__all__ = [
    "KERNELS",
    "Kernel",
    "cross_and_rate",
    "cross_covariance",
    "cross_pullback",
    "cross_slope",
    "parse_kernel",
    "prior_slope_variance",
    "prior_variance",
]

Profile = Callable[[Any, Any, Any], tuple[Any, Any]]


# Written once for NumPy and PyTensor: (s, ln amplitude², xp) -> (amplitude² κ, c amplitude² κ').
# Assignments such as ``u += 1`` spare NumPy an array; to PyTensor they are plain sums. The
# amplitude goes into the exponent and constants out of the slope, as each pass over N² numbers
# counts.


def _rbf(s: Any, log_variance: Any, xp: Any) -> tuple[Any, Any]:
    return xp.exp(log_variance - s), None  # s = r²/2; κ' = -κ/2 needs no array of its own


def _matern32(s: Any, log_variance: Any, xp: Any) -> tuple[Any, Any]:
    u = xp.sqrt(s)  # s = 3r²
    e = xp.exp(log_variance - u)
    u += 1.0
    u *= e
    return u, e  # (1 + u) exp(-u), and κ' = -3/2 exp(-u)


def _matern52(s: Any, log_variance: Any, xp: Any) -> tuple[Any, Any]:
    u = xp.sqrt(s)  # s = 5r²
    e = xp.exp(log_variance - u)
    u += 1.0
    u *= e
    e *= s
    e *= 1.0 / 3.0
    e += u
    return e, u  # (1 + u + u²/3) exp(-u), and κ' = -5/6 (1 + u) exp(-u)


@dataclass(frozen=True)
class Kernel:
    """One covariance function.

    Parameters
    ----------
    name : str
        What the user writes.
    scaled : callable or None
        The profile of the stationary part in s = unit · r², None for the inner product alone.
    unit : float
    rate : float
        c, by which the profile's second output must be multiplied to be κ'; where there is no
        second output, κ' = c κ.
    linear : bool
        Whether the kernel has the part weight² x·x'.
    """

    name: str
    scaled: Profile | None
    unit: float = 1.0
    rate: float = 1.0
    has_slope: bool = True
    linear: bool = False

    @property
    def stationary(self) -> bool:
        """Whether K depends on distances alone."""
        return not self.linear

    @property
    def summed(self) -> bool:
        """Whether it has a stationary part and a linear one."""
        return self.scaled is not None and self.linear

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the kernel's hyperparameters (noise and bias are added to any kernel)."""
        if self.scaled is None:
            return ()
        return ("lengthscale", "amplitude", *(("weight",) if self.linear else ()))

    def linear_variance(self, amplitude: Any, weight: Any) -> Any:
        """Return what x·x' is multiplied by: by itself the linear part has no weight of its own."""
        return (amplitude if self.scaled is None else weight) ** 2

    def profile(self, r2: Any, xp: Any, amplitude: Any = 1.0) -> tuple[Any, Any]:
        """Evaluate amplitude² κ and amplitude² κ' of the stationary part at squared distances r²."""
        if self.scaled is None:
            raise TypeError(f"kernel {self.name!r} is no function of distances.")
        value, slope = self.scaled(self.unit * r2, 2.0 * xp.log(abs(amplitude)), xp)
        return value, self.rate * (slope if self.has_slope else value)


_STATIONARY = (
    Kernel("rbf", _rbf, unit=0.5, rate=-0.5, has_slope=False),
    Kernel("matern32", _matern32, unit=3.0, rate=-1.5),
    Kernel("matern52", _matern52, unit=5.0, rate=-5.0 / 6.0),
)
KERNELS = {
    kernel.name: kernel
    for kernel in (
        *_STATIONARY,
        Kernel("linear", None, has_slope=False, linear=True),
        *(replace(part, name=f"{part.name} + linear", linear=True) for part in _STATIONARY),
    )
}


def parse_kernel(text: str) -> tuple[Kernel, bool]:
    """Read a kernel's name: parts joined by "+", in any order, "bias" among them if wanted.

    Parameters
    ----------
    text : str
        For example ``"rbf"``, ``"rbf + bias"`` or ``"rbf + linear"``.

    Returns
    -------
    kernel : Kernel
    bias : bool

    Raises
    ------
    ValueError
        If the text names no kernel, one that is unknown, or a sum that is not in the table.

    Examples
    --------
    >>> kernel, bias = parse_kernel("bias + linear + rbf")
    >>> kernel.name, bias
    ('rbf + linear', True)
    """
    if not isinstance(text, str):
        raise TypeError(
            f"kernel must be a name such as 'rbf' or 'rbf + bias', got {type(text).__name__}. For a "
            "covariance of your own put gplvm.GPColumns into a pm.Model."
        )
    words = [word.strip().lower() for word in text.split("+")]
    # The table's sums have the linear part last.
    parts = sorted((word for word in words if word != "bias"), key="linear".__eq__)
    name = " + ".join(parts)
    if name not in KERNELS or len(words) > len(parts) + 1:
        raise ValueError(
            f"kernel must be one of {', '.join(KERNELS)}, with ' + bias' behind it if wanted, "
            f"got {text!r}."
        )
    return KERNELS[name], "bias" in words


def cross_covariance(kernel: str, X_new: Array, X: Array, **theta: Any) -> Array:
    """Evaluate k(X_new, X), without noise, in NumPy, shape (S, N): see :func:`cross_and_rate`."""
    return cross_and_rate(kernel, X_new, X, **theta)[0]


def cross_and_rate(
    kernel: str,
    X_new: Array,
    X: Array,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    weight: float = 1.0,
    bias: float = 0.0,
) -> tuple[Array, Array | None]:
    """Evaluate k(X_new, X) and its derivative in r² = Σ_q (x - x')² / lengthscale², without noise.

    Parameters
    ----------
    kernel : str
    X_new, X : ndarray, shape (S, Q) and (N, Q)
    lengthscale, amplitude, weight, bias
        As in :func:`covariance`, numbers.

    Returns
    -------
    K : ndarray, shape (S, N)
    rate : ndarray, shape (S, N), or None
        amplitude² κ'(r²); None for the inner product, which has no such part.
    """
    entry = KERNELS[kernel]
    if entry.scaled is None:
        K, rate = np.zeros((len(X_new), len(X))), None
    else:
        r2 = cdist(X_new / lengthscale, X / lengthscale, "sqeuclidean")
        K, rate = entry.profile(r2, np, amplitude)
    if entry.linear:
        K += entry.linear_variance(amplitude, weight) * X_new @ X.T
    if bias:
        K += bias**2
    return K, rate


def cross_pullback(
    kernel: str,
    X_new: Array,
    X: Array,
    rate: Array | None,
    by_cross: Array,
    by_prior: Array,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    weight: float = 1.0,
    bias: float = 0.0,
) -> Array:
    """Gradient in X_new of what depends on it by k(X_new, X) and k(x, x).

    Parameters
    ----------
    kernel, X_new, X, lengthscale, amplitude, weight, bias
        As in :func:`cross_and_rate`.
    rate : ndarray, shape (S, N), or None
        From :func:`cross_and_rate`.
    by_cross : ndarray, shape (S, N)
        Derivatives in k(X_new, X).
    by_prior : ndarray, shape (S,)
        Derivatives in k(x, x).

    Returns
    -------
    ndarray, shape (S, Q)
    """
    entry = KERNELS[kernel]
    gradient = np.zeros_like(X_new)
    if rate is not None:
        by_r2 = by_cross * rate
        along = X_new * by_r2.sum(axis=1)[:, None] - by_r2 @ X
        gradient += 2.0 * along / np.square(lengthscale)
    if entry.linear:
        variance = entry.linear_variance(amplitude, weight)
        gradient += variance * (by_cross @ X + 2.0 * by_prior[:, None] * X_new)
    return gradient


def prior_variance(
    kernel: str, X: Array, *, amplitude: float = 1.0, weight: float = 1.0, bias: float = 0.0
) -> Array:
    """Evaluate the diagonal of k(X, X), without noise, in NumPy.

    Returns
    -------
    ndarray, shape (N,)
    """
    entry = KERNELS[kernel]
    variance = np.full(len(X), bias**2)
    if entry.scaled is not None:
        variance += amplitude**2
    if entry.linear:
        variance += entry.linear_variance(amplitude, weight) * (X**2).sum(axis=1)
    return variance


def cross_slope(
    kernel: str,
    X_new: Array,
    X: Array,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    weight: float = 1.0,
    bias: float = 0.0,
) -> Array:
    """Evaluate ∂k(x, X)/∂x at the rows x of X_new.

    2 amplitude² κ'(r²) (x - X) / lengthscale² + weight² X.

    Returns
    -------
    ndarray, shape (S, Q, N)
    """
    entry = KERNELS[kernel]
    _, rate = cross_and_rate(kernel, X_new, X, lengthscale=lengthscale, amplitude=amplitude)
    slope = np.zeros((len(X_new), *X.T.shape))
    if rate is not None:
        apart = (X_new[:, None] - X) / np.square(lengthscale)
        slope += 2.0 * rate[:, None] * apart.transpose(0, 2, 1)
    if entry.linear:
        slope += entry.linear_variance(amplitude, weight) * X.T
    return slope


def prior_slope_variance(
    kernel: str,
    latent_dim: int,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    weight: float = 1.0,
    bias: float = 0.0,
) -> Array:
    """Evaluate ∂²k(x, x')/∂x∂x' at x' = x, its diagonal.

    -2 amplitude² κ'(0) / lengthscale² + weight².

    Returns
    -------
    ndarray, shape (Q,)
    """
    entry = KERNELS[kernel]
    variance = np.zeros(latent_dim)
    if entry.scaled is not None:
        slope = float(entry.profile(np.zeros(1), np)[1][0])
        variance += -2.0 * amplitude**2 * slope / np.square(lengthscale)
    if entry.linear:
        variance += entry.linear_variance(amplitude, weight)
    return variance


def batch_cross_covariance(
    kernel: str, A: Array, B: Array, amplitude: Array, weight: Array, bias: Array
) -> Array:
    """Evaluate k(A, B), without noise, at R states: (R, M, Q) and (R, N, Q) to (R, M, N).

    A and B are in lengthscales. amplitude and bias are (R,); weight, of the linear part and in the
    same units, is (R, 1, 1) or (R, 1, Q).
    """
    entry = KERNELS[kernel]
    across = B.transpose(0, 2, 1)
    if entry.scaled is None:
        K = np.zeros((len(A), A.shape[1], B.shape[1]))
    else:
        s = squared_distances(A, B, A @ across)
        s *= entry.unit
        K = entry.scaled(s, np.log(amplitude**2)[:, None, None], np)[0]
    if entry.linear:
        K += (A * weight**2) @ across
    if bias.any():
        K += (bias**2)[:, None, None]
    return K


def squared_distances(A: Array, B: Array, inner: Array) -> Array:
    """Compute ‖a - b‖² from the inner products (R, M, N), which are overwritten."""
    inner *= -2.0
    inner += (A**2).sum(axis=-1)[:, :, None]
    inner += (B**2).sum(axis=-1)[:, None, :]
    return np.maximum(inner, 0.0, out=inner)
