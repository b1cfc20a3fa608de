"""The kernels: a table of them, and K of positions and its gradients, in NumPy.

    k(x, x') = amplitude² κ(‖x - x'‖² / lengthscale²) + weight² x·x' + bias²,

of which a kernel has the first part, the second or both.

A stationary part is its profile, the correlation κ and its slope κ' as functions of the squared
distance r², written once and used by NumPy and PyTensor alike (``xp``).

With G = ∂L/∂K the gradient of any scalar L is

    ∂L/∂zₙ = 2 Σⱼ (Wₙⱼ + Wⱼₙ)(zₙ - zⱼ),    W = G ∘ amplitude² κ'(r²),    z = x / lengthscale:

N × N arrays and a product with Z. No N × N × Q array is ever formed. The linear part
weight² x·x' is (v ∘ z)·(v ∘ z') with v = weight · lengthscale, and has

    ∂L/∂zₙ_q = v_q² [(G + Gᵀ) Z]ₙ_q,    ∂L/∂v_q = v_q Σₙ zₙ_q [(G + Gᵀ) Z]ₙ_q.

Z is not centred for it: the origin of X is part of the model.

K of the training rows and its gradient exist in two forms: by blocks of rows that stay in the cache
(:func:`fill`, :func:`contract`), which every evaluation takes, and as plain formulas
(:func:`matrix`, :func:`contract_whole`), which PyTensor can differentiate again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from pm_gplvm.core.blas import Product
from pm_gplvm.core.checks import Array
from pm_gplvm.core.composite import OTHER_FACTORS, Composite, KernelText
from pm_gplvm.core.distances import squared_distances

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


def _cauchy(s: Any, log_variance: Any, xp: Any) -> tuple[Any, Any]:
    u = s + 1.0  # s = r²/2
    e = xp.exp(log_variance - xp.log(u))
    return e, e / u  # 1/u, and κ' = -1/2 u⁻²


@dataclass(frozen=True)
class Kernel:
    """One covariance function, by the name that the user writes.

    ``scaled`` is the profile of the stationary part in s = unit · r², None for the inner product
    alone. Its second output times ``rate`` is κ'; where it has none, κ' = rate · κ. ``linear``: whether
    there is a part weight² x·x'.
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
    def curved(self) -> bool:
        """Whether there is more to it than an inner product."""
        return self.scaled is not None

    @property
    def keeps_slope(self) -> bool:
        """Whether the gradient needs an array beside K."""
        return self.has_slope or self.summed

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
    Kernel("cauchy", _cauchy, unit=0.5, rate=-0.5),
)
KERNELS = {
    kernel.name: kernel
    for kernel in (
        *_STATIONARY,
        Kernel("linear", None, has_slope=False, linear=True),
        *(replace(part, name=f"{part.name} + linear", linear=True) for part in _STATIONARY),
    )
}

OWN: dict[str, Composite] = {}
"""Kernels of the user's own that this process has seen, by their texts, which begin with "own:"."""


@cache
def kernel_named(name: str) -> Kernel | Composite:
    """Return the kernel of a name: of the table, of several factors or the user's own (ValueError if it is none)."""
    if name in KERNELS:
        return KERNELS[name]
    if name in OWN:
        return OWN[name]
    if is_own(name):
        raise ValueError(f"This process {why_unknown(name)}")
    return Composite.parse(name, {part.name: part.profile for part in _STATIONARY})


def composite_of(entry: Kernel | Composite) -> Composite:
    """Return a kernel as one of several factors, to which inputs may be added; a linear part then has an amplitude."""
    if is_own(entry.name):
        raise ValueError(
            f"inputs add terms to one of the kernels by name, got a covariance of your own, {entry.name!r}. Put the kernel "
            "together by gplvm.kernels, or leave inputs out."
        )
    if isinstance(entry, Composite):
        return entry
    return Composite.parse(entry.name, {part.name: part.profile for part in _STATIONARY})


def counted_theta(theta: Mapping[str, Any], counted: Any) -> dict[str, Any]:
    """Parameters of a kernel of several terms in which some count, and last whether the bias does."""
    *terms, bias = counted
    some = {**theta, "amplitude": theta["amplitude"] * np.array(terms)}
    return some | {"bias": theta["bias"] * bias} if "bias" in theta else some


def is_known(name: str) -> bool:
    """Whether this is the text of a kernel, as a fit or a model tells it ("custom" is none)."""
    try:
        kernel_named(name)
    except ValueError:
        return False
    return True


def is_own(name: str) -> bool:
    """Whether this is the text of a kernel of the user's own, known here or not."""
    return name.startswith("own:")


def why_unknown(name: str) -> str:
    """Tell in a sentence why the kernel of a fit cannot be evaluated, and what to do."""
    if is_own(name):
        label = name.split(":")[1]
        return (
            f"needs the kernel of the fit, a function of its author's, {label!r}, which no file holds. Hand it in: "
            f"gplvm.load(path, kernel={label}), or call build_model with it first."
        )
    return (
        f"knows the kernels {', '.join(KERNELS)} and those of gplvm.kernels, got a fit with {name!r}. For a "
        "covariance of your own condition with PyMC (pm.gp)."
    )


def is_composite(name: str) -> bool:
    """Whether this is the text of a kernel of several factors."""
    return name not in KERNELS and is_known(name)


def parse_kernel(text: Any) -> tuple[Kernel | Composite, bool]:
    """Read a kernel's text: terms joined by "+", in any order, and whether "bias" is among them.

    >>> kernel, bias = parse_kernel("bias + linear + rbf")
    >>> kernel.name, bias
    ('rbf + linear', True)
    >>> parse_kernel("rbf[1,0]*periodic[2] + bias")[0].name
    'rbf[0,1] * periodic[2]'
    """
    if isinstance(text, KernelText):
        text = str(text)
    if callable(text):  # as the covariances of PyMC are, which this room does not know
        text = import_module("pm_gplvm.model.own_kernels").name_of(text)
    if not isinstance(text, str):
        raise TypeError(
            f"kernel must be a name such as 'rbf' or 'rbf + bias', made of gplvm.kernels, or a function that returns a "
            f"covariance of pm.gp.cov, got {type(text).__name__}."
        )
    if is_own(text):
        return kernel_named(text), False
    words = [word.strip().lower() for word in text.split("+")]
    parts = [word for word in words if word != "bias"]
    # The table's sums have the linear part last.
    name = " + ".join(sorted(parts, key="linear".__eq__))
    if name in KERNELS and len(words) <= len(parts) + 1:
        return KERNELS[name], "bias" in words
    if not any(mark in name for mark in "[]*") and not set(parts) & set(OTHER_FACTORS):
        raise ValueError(
            f"kernel must be one of {', '.join(KERNELS)}, with ' + bias' behind it if wanted, or of "
            f"factors such as 'rbf[0,1] + periodic[2]' (see gplvm.kernels), got {text!r}."
        )
    if len(words) > len(parts) + 1:
        raise ValueError(f"kernel must have 'bias' once at most, got {text!r}.")
    return kernel_named(kernel_named(" + ".join(parts)).name), "bias" in words


def check_rank(
    entry: Kernel | Composite, latent_dim: int, shape: tuple[int, ...], name: str = "latent_dim"
) -> None:
    """Raise ValueError if inner products alone cannot use so many latent dimensions of a table (N, D)."""
    if latent_dim > min(shape) and not (entry.stationary or entry.curved):
        raise ValueError(
            f"{name} must be at most min(N, D) = {min(shape)} with kernel={entry.name!r}, got {latent_dim}: a linear "
            "map has no more components than the table has rank. Lower it, or take a curved kernel such as 'rbf'."
        )


def _of_any_kernel[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of a kernel's name, one of the table, take kernels of several factors too.

    These have a method of its name.
    """

    @wraps(function)
    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        name = cast(str, args[0])
        if name in KERNELS:
            return function(*args, **kwargs)
        method = getattr(kernel_named(name), function.__name__)
        return cast(R, method(*args[1:], **kwargs))

    return chosen


# k of any positions, of any kernel


def cross_covariance(kernel: str, X_new: Array, X: Array, **theta: Any) -> Array:
    """k(X_new, X) without noise, shape (S, N): see :func:`cross_and_rate`."""
    return cross_and_rate(kernel, X_new, X, **theta)[0]


def unit_of(kernel: str, latent_dim: int, lengthscale: Any) -> Array:
    """Length along each latent dimension over which functions vary, (..., Q).

    That of a kernel of several factors is the shortest of those that look at the dimension; 1 where there is none.
    """
    if is_composite(kernel):
        return cast(Composite, kernel_named(kernel)).unit(latent_dim, lengthscale)
    return of_each_dimension(latent_dim, lengthscale)


def beside(X: Array, inputs: Array) -> Array:
    """Put known inputs (..., C) behind positions (..., N, Q), as a kernel of both takes them."""
    known = np.broadcast_to(inputs, (*X.shape[:-1], inputs.shape[-1]))
    return np.concatenate([X, known], axis=-1)


def of_each_dimension(latent_dim: int, lengthscale: Any) -> Array:
    """Give a lengthscale, shared or of each latent dimension, (..., Q)."""
    given = np.asarray(lengthscale, dtype=np.float64)
    return np.broadcast_to(given if given.ndim else given[None], (*given.shape[:-1], latent_dim))


@_of_any_kernel
def cross_and_rate(
    kernel: str,
    X_new: Array,
    X: Array,
    *,
    lengthscale: Any = 1.0,
    amplitude: Any = 1.0,
    weight: Any = 1.0,
    bias: Any = 0.0,
    product: Product = np.matmul,
) -> tuple[Array, Array | None]:
    """k(X_new, X) without noise, and its derivative in r², amplitude² κ', both (S, N).

    The inner product has no such derivative: None. All may have leading axes, (..., S, Q) and (..., N, Q)
    to (..., S, N): bias and the stationary part's amplitude then broadcast against K, lengthscale and
    what x·x' is multiplied by against X_new. ``product`` multiplies matrices (``Runs``).
    """
    entry = KERNELS[kernel]
    if entry.scaled is None:
        K, rate = np.zeros((*X_new.shape[:-1], X.shape[-2])), None
    else:
        r2 = squared_distances(X_new / lengthscale, X / lengthscale)
        K, rate = entry.profile(r2, np, amplitude)
    if entry.linear:
        K += product(entry.linear_variance(amplitude, weight) * X_new, X.swapaxes(-1, -2))
    if np.any(bias):
        K += bias**2
    return K, rate


@_of_any_kernel
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
    product: Product = np.matmul,
) -> Array:
    """Gradient (S, Q) in X_new, from derivatives in k(X_new, X) (S, N) and in k(x, x) (S,).

    ``rate`` is the second output of :func:`cross_and_rate`, ``product`` as there.
    """
    entry = KERNELS[kernel]
    gradient = np.zeros_like(X_new)
    if rate is not None:
        by_r2 = by_cross * rate
        along = X_new * by_r2.sum(axis=1)[:, None] - product(by_r2, X)
        gradient += 2.0 * along / np.square(lengthscale)
    if entry.linear:
        variance = entry.linear_variance(amplitude, weight)
        gradient += variance * (product(by_cross, X) + 2.0 * by_prior[:, None] * X_new)
    return gradient


@_of_any_kernel
def log_pullback(
    kernel: str,
    X_new: Array,
    X: Array,
    K: Array,
    rate: Array | None,
    by_cross: Array,
    by_prior: Array,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    weight: float = 1.0,
    bias: float = 0.0,
) -> dict[str, Any]:
    """Gradient in the logarithms of the kernel's parameters, the lengthscale's (Q,), as :func:`cross_pullback`.

    ``K`` and ``rate`` are what :func:`cross_and_rate` gives.
    """
    entry = KERNELS[kernel]
    found: dict[str, Any] = {}
    total, prior = float(by_cross.sum()), float(by_prior.sum())
    inner = float(((by_cross @ X) * X_new).sum()) if entry.linear else 0.0
    if rate is not None:
        by_r2 = by_cross * rate
        squares = by_r2.sum(axis=1) @ X_new**2 + by_r2.sum(axis=0) @ X**2
        squares -= 2.0 * ((by_r2 @ X) * X_new).sum(axis=0)
        found["lengthscale"] = -2.0 * squares / np.square(lengthscale)
        rest = bias**2 * total + (weight**2 * inner if entry.linear else 0.0)
        overlap = float(np.vdot(by_cross, K)) - rest
        found["amplitude"] = 2.0 * (overlap + amplitude**2 * prior)
    if entry.summed:
        found["weight"] = 2.0 * weight**2 * (inner + float((by_prior @ X_new**2).sum()))
    found["bias"] = 2.0 * bias**2 * (total + prior)
    return found


@_of_any_kernel
def prior_variance(
    kernel: str, X: Array, *, amplitude: Any = 1.0, weight: Any = 1.0, bias: Any = 0.0
) -> Array:
    """Diagonal of k(X, X), without noise: X (..., N, Q) to (..., N), as in :func:`cross_and_rate`."""
    entry = KERNELS[kernel]
    variance = np.zeros(X.shape[:-1]) + bias**2
    if entry.scaled is not None:
        variance += amplitude**2
    if entry.linear:
        variance += (entry.linear_variance(amplitude, weight) * X**2).sum(axis=-1)
    return variance


@_of_any_kernel
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
    """∂k(x, X)/∂x at the rows x of X_new, shape (S, Q, N).

    2 amplitude² κ'(r²) (x - X) / lengthscale² + weight² X.
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


@_of_any_kernel
def prior_slope_variance(
    kernel: str,
    latent_dim: int,
    *,
    lengthscale: Any = 1.0,
    amplitude: float = 1.0,
    weight: float = 1.0,
    bias: float = 0.0,
) -> Array:
    """Diagonal of ∂²k(x, x')/∂x∂x' at x' = x, shape (Q,).

    -2 amplitude² κ'(0) / lengthscale² + weight².
    """
    entry = KERNELS[kernel]
    variance = np.zeros(latent_dim)
    if entry.scaled is not None:
        slope = float(entry.profile(np.zeros(1), np)[1][0])
        variance += -2.0 * amplitude**2 * slope / np.square(lengthscale)
    if entry.linear:
        variance += entry.linear_variance(amplitude, weight)
    return variance


# K of the training rows, as plain formulas. ``inputs`` are Z (N, Q), amplitude, bias and sigma, and
# of a sum of a stationary and a linear part also v. ``slope`` is proportional to amplitude² κ', and
# empty where K itself suffices.


def matrix(entry: Kernel, *inputs: Any, xp: Any = np) -> list[Any]:
    """K with its noise, and its slope, (N, N) each."""
    Z, amplitude, bias, sigma, *linear = inputs
    noise = sigma**2 * xp.eye(Z.shape[0])
    if entry.scaled is None:
        return [amplitude**2 * Z @ Z.T + bias**2 + noise, xp.zeros((0, 0))]
    r2 = squared_distances(Z, Z, xp)
    # Not with the amplitude in the exponent: neither output may be computed from the other.
    correlation, derivative = entry.scaled(entry.unit * r2, 0.0, xp)
    K = amplitude**2 * correlation + bias**2 + noise
    if linear:
        factor = Z * linear[0]
        K = K + factor @ factor.T
    if not entry.keeps_slope:
        return [K, xp.zeros((0, 0))]
    return [K, amplitude**2 * (derivative if entry.has_slope else correlation)]


def contract_whole(
    entry: Kernel, Z: Any, G: Any, K: Any, slope: Any, bias: Any, xp: Any = np
) -> tuple[Any, Any, Any, Any]:
    """As :func:`contract`, of a G that is there as a whole and need not be symmetric."""
    Z1 = xp.concatenate([Z, xp.ones_like(Z[:, :1])], axis=1)
    G = 0.5 * (G + G.T)
    GZ1, overlap = G @ Z1, (G * K).sum()
    if entry.scaled is None:
        return GZ1, xp.zeros_like(GZ1), overlap, xp.trace(G)
    WZ1 = (G * (slope if entry.keeps_slope else K)) @ Z1
    if not entry.has_slope and entry.summed:
        overlap = WZ1[:, -1].sum()
    elif not entry.has_slope:
        WZ1 = WZ1 - bias**2 * GZ1
    return GZ1, entry.rate * WZ1, overlap, xp.trace(G)


def pullback(entry: Kernel, inputs: Sequence[Any], contraction: Sequence[Any]) -> list[Any]:
    """Gradients of L in the inputs of :func:`matrix`, from what :func:`contract` gives."""
    Z, amplitude, bias, sigma, *linear = inputs
    GZ1, WZ1, overlap, trace = contraction
    total = GZ1[:, -1].sum()
    dZ: Any = 0.0
    if entry.linear:
        v = linear[0] if linear else amplitude
        GZ = 2.0 * GZ1[:, :-1]
        dZ, dv = v**2 * GZ, v * ((Z * GZ).sum(axis=0) if v.ndim else (Z * GZ).sum())
    if entry.scaled is None:
        damplitude = dv
    else:
        if entry.has_slope or not linear:
            # amplitude² κ is K less its other parts, so that κ is not needed. The linear part is
            # not taken from dv: as an output of its own, it would lose part of its cotangent.
            overlap = overlap - (bias**2 * total + sigma**2 * trace + 0.5 * (Z * dZ).sum())
        dZ = dZ + 4.0 * (WZ1[:, -1:] * Z - WZ1[:, :-1])
        damplitude = 2.0 * overlap / amplitude
    gradients = [dZ, damplitude, 2.0 * bias * total, 2.0 * sigma * trace]
    return [*gradients, dv] if linear else gradients


# The same by blocks of rows, in memory that is used again.

_BLOCK_SIZE = 2**16  # numbers in a block of rows: half a megabyte stays in the second-level cache


def row_blocks(n_rows: int) -> list[tuple[int, int]]:
    """Split the rows of an N × N array into blocks that stay in the cache.

    Where an array is symmetric its *lower blocks* are ``[start:end, :end]`` for each block: the
    lower triangle, and the squares along the diagonal whole.

    >>> row_blocks(100)
    [(0, 100)]
    """
    step = min(max(_BLOCK_SIZE // n_rows, 32), 128)
    return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


# The exponent is a profile's own array, so that it may be overwritten.
_NUMPY = SimpleNamespace(exp=lambda x: np.exp(x, out=x), sqrt=np.sqrt, log=np.log)


def fill(entry: Kernel, *inputs: Any, K: Array, slope: Array) -> None:
    """Write K as :func:`matrix` has it, and the lower blocks of its slope where it is kept."""
    Z, amplitude, bias, sigma, *linear = inputs
    if entry.scaled is None:
        np.dot(Z, (amplitude**2 * Z).T, out=K)
    else:
        # The linear part joins each block while it is in the cache.
        _fill_stationary(entry, Z, amplitude, K, slope, Z * linear[0] if linear else None)
    if bias != 0.0:
        K += bias**2
    K.flat[:: len(K) + 1] += sigma**2


def _fill_stationary(
    entry: Kernel, Z: Array, amplitude: Any, K: Array, slope: Array, factor: Array | None
) -> None:
    """Write amplitude² κ + factor factorᵀ, mirrored, and the lower blocks of the slope if kept."""
    if entry.scaled is None:
        raise TypeError(f"kernel {entry.name!r} is no function of distances.")
    N, Q = Z.shape
    Z = Z - Z.mean(axis=0)  # distances by norms lose digits when the origin is far away
    # One product gives unit (‖z‖² + ‖z'‖² - 2 z·z') at once.
    left, right = np.ones((N, Q + 2)), np.ones((Q + 2, N))
    left[:, :Q], right[:Q] = -2.0 * entry.unit * Z, Z.T
    left[:, Q] = right[Q + 1] = entry.unit * np.einsum("nq,nq->n", Z, Z)
    log_variance = 2.0 * np.log(np.abs(amplitude))
    for start, end in row_blocks(N):
        s = left[start:end] @ right[:, :end]
        np.maximum(s, 0.0, out=s)
        s[:, start:].flat[:: end - start + 1] = 0.0
        block, derivative = entry.scaled(s, log_variance, _NUMPY)
        if factor is not None:
            derivative = block if derivative is None else derivative
            block = block + factor[start:end] @ factor[:end].T
        K[start:end, :end] = block
        K[:start, start:end] = block[:, :start].T
        if derivative is not None:
            slope[start:end, :end] = derivative


def contract(
    entry: Kernel,
    Z: Array,
    lower_block: Callable[[int, int], Array],
    K: Array,
    slope: Array,
    bias: Any,
) -> tuple[Array, Array, Any, Any]:
    """G [Z, 1] if a part needs it, W [Z, 1], Σ G ∘ K and tr G; all by lower blocks.

    W is G ∘ amplitude² κ'. Of a sum of the RBF and a linear part the third is Σ G ∘ amplitude² κ.
    """
    N = len(Z)
    Z1 = np.ones((N, Z.shape[1] + 1))  # the column of ones sums W's rows
    Z1[:, :-1] = Z
    GZ1, WZ1 = np.zeros_like(Z1), np.zeros_like(Z1)
    overlap = trace = 0.0
    profile = slope if entry.keeps_slope else K
    needs_G = bias != 0.0 or entry.linear
    for start, end in row_blocks(N):
        G = lower_block(start, end)
        trace += G[:, start:].trace()
        if needs_G:
            _add_symmetric(GZ1, G, Z1, start, end)
        if entry.has_slope:
            GK = G * K[start:end, :end]
            overlap += 2.0 * GK.sum() - GK[:, start:].sum()
        if entry.scaled is not None:
            W = np.multiply(G, profile[start:end, :end])
            _add_symmetric(WZ1, W, Z1, start, end)
    if not entry.has_slope:
        # κ' = c κ; alone W = c G ∘ (K - bias²), whose diagonal does not matter, as zₙ - zₙ = 0.
        overlap = WZ1[:, -1].sum()
        if bias != 0.0 and not entry.summed:
            WZ1 -= bias**2 * GZ1
    return GZ1, entry.rate * WZ1, overlap, trace


def _add_symmetric(product: Array, block: Array, Z1: Array, start: int, end: int) -> None:
    """Add to A Z1 what one lower block of a symmetric A contributes, its mirror image included."""
    product[start:end] += block @ Z1[:end]
    product[:start] += block[:, :start].T @ Z1[start:end]
