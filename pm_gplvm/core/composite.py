"""Kernels that are sums of products of factors over chosen latent dimensions, told by a text.

    k(x, x') = Σ_t amplitude_t² Π_f κ_f(x, x') + bias²,

"rbf[0,1] + periodic[2]", say: terms joined by "+", factors joined by "*", each with the dimensions that
it looks at (none: all). A factor is the inner product of these dimensions, or a profile κ(r²) of

    r² = ‖u(x) - u(x')‖² over lengthscale²,

u being the dimensions themselves or, of a periodic factor, cos and sin of each: with κ = exp(-r²/2) that
is exp(-2 Σ_q sin²((x_q - x'_q) / 2) / lengthscale²), of period 2π (MacKay 1998). So a formula for distances
serves both. The profiles of the named kernels are those of :mod:`pm_gplvm.core.kernels`, which hands
them in; the other two stand here.

The parameters have a trailing axis: ``amplitude`` (..., T) an entry a term, ``lengthscale`` (..., L) one a
factor that has any, or one for each of its dimensions, and ``alpha`` (..., A) one a rational quadratic.
Which of both a lengthscale is, its length tells. Leading axes are those of many states.

With G = ∂L/∂K and W = amplitude² G ∘ (the other factors of the term) ∘ κ'(r²), in NumPy alone:

    ∂L/∂uₙ = 2 Σⱼ Wₙⱼ (uₙ - u'ⱼ) / lengthscale²,    ∂L/∂xₙ = (∂u/∂x)ᵀ ∂L/∂uₙ.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from numbers import Integral
from operator import mul
from typing import Any

import numpy as np

from pm_gplvm.core.blas import Product
from pm_gplvm.core.checks import Array
from pm_gplvm.core.distances import squared_distances

Profile = Callable[[Any, Any], tuple[Any, Any]]
"""r² and ``xp`` to κ and its derivative in r²."""

TERM, FACTOR, SHAPE = "kernel_term", "kernel_factor", "kernel_shape"
"""Dimensions of the amplitude, the lengthscale and alpha."""

OTHER_FACTORS = ("matern12", "rational_quadratic", "periodic")
"""Factors besides the named kernels."""

_FACTOR = re.compile(r"([a-z0-9_]+)\s*(?:\[([^\[\]]*)\])?")


def _matern12(r2: Any, xp: Any) -> tuple[Any, Any]:
    """exp(-r): its derivative in r² is infinite at 0, where it always meets a difference of 0."""
    r = xp.sqrt(r2)
    value = xp.exp(-r)
    apart = r2 > 0.0
    return value, xp.where(apart, -0.5 * value / xp.where(apart, r, 1.0), 0.0)


def _rational_quadratic(r2: Any, alpha: Any, xp: Any) -> tuple[Any, Any, Any]:
    """(1 + r² / (2 alpha))^-alpha, and its derivatives in r² and alpha."""
    u = 1.0 + r2 / (2.0 * alpha)
    log = xp.log(u)
    value = xp.exp(-alpha * log)
    return value, -0.5 * value / u, value * (1.0 - 1.0 / u - log)


@dataclass(frozen=True)
class KernelText:
    """A kernel put together by + and *, as :mod:`pm_gplvm.kernels` makes its parts; str() is its text."""

    text: str

    def __str__(self) -> str:
        """Write it as build_model takes it."""
        return self.text

    def __add__(self, other: Any) -> "KernelText":
        """Return the sum: a function of each, added."""
        if not isinstance(other, KernelText):
            return NotImplemented
        return KernelText(f"{self.text} + {other.text}")

    def __mul__(self, other: Any) -> "KernelText":
        """Return the product: alike only where alike in both."""
        if not isinstance(other, KernelText):
            return NotImplemented
        for text in (self.text, other.text):
            if "+" in text or "bias" in text:
                raise ValueError(
                    f"a product must be of single factors, got {text!r} in one. Write it as a sum of products, each of "
                    "which has an amplitude of its own."
                )
        return KernelText(f"{self.text} * {other.text}")


def factor_text(name: str, dims: int | Sequence[int] | None) -> KernelText:
    """Write one factor down; TypeError or ValueError if the dimensions are none."""
    return KernelText(str(Factor(name, None if dims is None else checked_dims(dims))))


def checked_dims(dims: Any) -> tuple[int, ...]:
    """Return latent dimensions in order; TypeError or ValueError if they are none."""
    given = list(dims) if isinstance(dims, Iterable) and not isinstance(dims, str) else [dims]
    numbers = [q for q in given if isinstance(q, Integral) and not isinstance(q, bool)]
    if len(numbers) < len(given):
        raise TypeError(f"dims must be whole numbers, got {dims!r}.")
    if not given or min(numbers) < 0 or len(set(numbers)) < len(given):
        raise ValueError(f"dims must name latent dimensions from 0 on, each once, got {dims!r}.")
    return tuple(sorted(int(q) for q in numbers))


@dataclass(frozen=True)
class Factor:
    """One factor of a term: its name, and the latent dimensions that it looks at, None for all."""

    name: str
    dims: tuple[int, ...] | None

    def __str__(self) -> str:
        """Write it as it stands in the text of a kernel."""
        return self.name if self.dims is None else f"{self.name}[{','.join(map(str, self.dims))}]"

    @property
    def is_linear(self) -> bool:
        """Whether it is an inner product."""
        return self.name == "linear"

    @property
    def is_periodic(self) -> bool:
        """Whether its dimensions are angles."""
        return self.name == "periodic"

    @property
    def has_alpha(self) -> bool:
        """Whether it has a parameter alpha."""
        return self.name == "rational_quadratic"

    def chosen(self, latent_dim: int) -> list[int]:
        """List its dimensions."""
        return list(range(latent_dim) if self.dims is None else self.dims)

    def features(self, X: Any, xp: Any = np) -> Any:
        """u(x): its dimensions, those of a periodic factor as cos and then sin."""
        own = X[..., self.chosen(X.shape[-1])] if self.dims is not None else X
        if not self.is_periodic:
            return own
        return xp.concatenate([xp.cos(own), xp.sin(own)], axis=-1)

    def features_pullback(self, X: Array, by_features: Array) -> Array:
        """Gradient in its dimensions of X (S, Q) from that in u(x)."""
        if not self.is_periodic:
            return by_features
        own = X[:, self.chosen(X.shape[1])]
        by_cos, by_sin = np.split(by_features, 2, axis=1)
        return by_sin * np.cos(own) - by_cos * np.sin(own)


@dataclass(frozen=True)
class Evaluated:
    """A factor of term ``term`` at two sets of positions, with what its derivatives need."""

    factor: Factor
    term: int
    value: Any  # (..., S, N)
    slope: Any = None  # derivative in r²; None of an inner product
    by_alpha: Any = None
    lengthscale: Any = 1.0  # () or one a feature
    slots: slice = slice(0)  # of its lengthscales
    alpha: int = 0


@dataclass(frozen=True)
class Composite:
    """A kernel of several factors, with the interface of the named ones: see the module.

    ``name`` is its text, without a bias; ``profiles`` are those of the named stationary kernels.
    """

    name: str
    terms: tuple[tuple[Factor, ...], ...]
    profiles: Mapping[str, Profile] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, profiles: Mapping[str, Profile]) -> "Composite":
        """Read a text such as "rbf[0,1] * periodic[2] + linear[0]"; ValueError if it is none."""
        known = (*profiles, *OTHER_FACTORS, "linear")
        terms = tuple(
            tuple(_factor(word, text, known) for word in term.split("*"))
            for term in text.split("+")
        )
        name = " + ".join(" * ".join(map(str, term)) for term in terms)
        return cls(name, terms, profiles)

    @cached_property
    def factors(self) -> list[tuple[int, Factor]]:
        """All factors with the numbers of their terms, in order."""
        return [(t, factor) for t, term in enumerate(self.terms) for factor in term]

    @property
    def linear(self) -> bool:
        """Whether an inner product is among the factors."""
        return any(factor.is_linear for _, factor in self.factors)

    @property
    def stationary(self) -> bool:
        """Whether K does not change when all positions are moved alike."""
        return not self.linear

    @property
    def curved(self) -> bool:
        """Whether a term is more than one inner product."""
        return any(len(term) > 1 or not term[0].is_linear for term in self.terms)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its hyperparameters (noise and bias are added to any kernel)."""
        has = [("lengthscale", any(not f.is_linear for _, f in self.factors))]
        has += [("amplitude", True), ("alpha", any(f.has_alpha for _, f in self.factors))]
        return tuple(name for name, present in has if present)

    def angles(self, latent_dim: int) -> list[int]:
        """List the dimensions that only periodic factors look at."""
        plain = {q for _, f in self.factors if not f.is_periodic for q in f.chosen(latent_dim)}
        around = {q for _, f in self.factors if f.is_periodic for q in f.chosen(latent_dim)}
        return sorted(around - plain)

    def _width(self, latent_dim: int) -> int:
        """Columns of the positions that the factors look at: those of X, and of inputs behind it."""
        return max(latent_dim, *(q + 1 for _, factor in self.factors for q in factor.dims or (0,)))

    def check(self, latent_dim: int) -> None:
        """Raise ValueError if a factor looks at a dimension that there is not."""
        for _, factor in self.factors:
            beyond = [q for q in factor.dims or () if q >= latent_dim]
            if beyond:
                raise ValueError(
                    f"kernel must name latent dimensions from 0 to {latent_dim - 1}, got {factor} in "
                    f"{self.name!r}. Raise latent_dim, or choose other dimensions."
                )

    def needs_ard(self, latent_dim: int) -> bool:
        """Whether there must be a lengthscale for each dimension."""
        return False

    def labels(self, latent_dim: int, *, ard: bool) -> dict[str, tuple[str, list[str]]]:
        """For each parameter the name of its axis, and of each of its entries."""
        terms = [" * ".join(map(str, term)) for term in self.terms]
        lengths: list[str] = []
        for _, factor in self.factors:
            if factor.is_linear:
                continue
            if ard:
                lengths += [f"{factor.name}[{q}]" for q in factor.chosen(latent_dim)]
            else:
                lengths.append(str(factor))
        alphas = [str(factor) for _, factor in self.factors if factor.has_alpha]
        axes = {"lengthscale": (FACTOR, lengths), "amplitude": (TERM, terms)}
        axes["alpha"] = (SHAPE, alphas)
        return {
            name: (axis, _numbered(names))
            for name, (axis, names) in axes.items()
            if name in self.parameters
        }

    def has_own(self, latent_dim: int, n_lengthscales: int) -> bool:
        """Whether so many lengthscales are one for each dimension of each factor, not one a factor."""
        named = [self.labels(latent_dim, ard=ard).get("lengthscale") for ard in (False, True)]
        shared, own = (0 if each is None else len(each[1]) for each in named)
        if n_lengthscales not in (shared, own):
            raise ValueError(
                f"lengthscale must have one entry for each factor of {self.name!r} that has any ({shared}), or one "
                f"for each of their dimensions ({own}), got {n_lengthscales}."
            )
        return n_lengthscales > shared

    def _placed(self, latent_dim: int, *, own: bool) -> Iterator[tuple[int, Factor, slice]]:
        """Go through the factors: term, factor, and which lengthscales are its own, none of an inner product."""
        place = 0
        for term, factor in self.factors:
            size = 0 if factor.is_linear else len(factor.chosen(latent_dim)) if own else 1
            yield term, factor, slice(place, place + size)
            place += size

    # K and its derivatives

    def _evaluated(
        self,
        A: Any,
        B: Any,
        lengthscale: Any,
        alpha: Any,
        *,
        own: bool,
        latent_dim: int,
        xp: Any = np,
        product: Product | None = None,
    ) -> Iterator[Evaluated]:
        """Go through the factors at positions A (..., S, Q) and B (..., N, Q)."""
        shape = 0
        for term, factor, slots in self._placed(latent_dim, own=own):
            U = factor.features(A, xp)
            V = U if A is B else factor.features(B, xp)
            if factor.is_linear:
                turned = V.swapaxes(-1, -2)
                yield Evaluated(factor, term, product(U, turned) if product else U @ turned)
                continue
            length = lengthscale[..., slots]
            if own and factor.is_periodic:
                length = xp.concatenate([length, length], axis=-1)
            unit = length[..., None, :]
            Z = U / unit
            r2 = squared_distances(Z, Z if U is V else V / unit, xp)
            by_alpha: Any = None
            if factor.has_alpha:
                one = alpha[..., shape, None, None]
                value, slope, by_alpha = _rational_quadratic(r2, one, xp)
            elif factor.name == "matern12":
                value, slope = _matern12(r2, xp)
            else:
                value, slope = self.profiles["rbf" if factor.is_periodic else factor.name](r2, xp)
            yield Evaluated(factor, term, value, slope, by_alpha, length, slots, shape)
            shape += factor.has_alpha

    def _at(
        self, A: Array, B: Array, lengthscale: Any, alpha: Any, product: Product | None = None
    ) -> list[Evaluated]:
        """List the factors at positions, as arrays."""
        Q, theta = A.shape[-1], self._theta(A.shape[-1], lengthscale, 1.0, alpha)
        length, own = theta["lengthscale"], self.has_own(Q, theta["lengthscale"].shape[-1])
        known: dict[str, Any] = {"own": own, "latent_dim": Q, "product": product}
        return list(self._evaluated(A, B, length, theta["alpha"], **known))

    def _vector(self, lengthscale: Any, latent_dim: int) -> Array:
        """Return a lengthscale that is one number as one for each factor."""
        if np.ndim(lengthscale):
            return np.asarray(lengthscale)
        shared = self.labels(latent_dim, ard=False).get("lengthscale", ("", []))[1]
        return np.full(len(shared), lengthscale, dtype=np.float64)

    def _amplitude(self, amplitude: Any) -> Array:
        """Return an amplitude that is one number as one for each term."""
        if np.ndim(amplitude):
            return np.asarray(amplitude)
        return np.full(len(self.terms), amplitude, dtype=np.float64)

    def matrix(self, X: Any, *inputs: Any, own: bool, latent_dim: int, xp: Any = np) -> Any:
        """K of rows with its noise; the inputs are lengthscale, amplitude, alpha, bias and sigma."""
        lengthscale, amplitude, alpha, bias, sigma = inputs
        known = {"own": own, "latent_dim": latent_dim, "xp": xp}
        found = list(self._evaluated(X, X, lengthscale, alpha, **known))
        K = self._summed(found, amplitude) + bias**2
        return K + sigma**2 * xp.eye(X.shape[0])

    def _summed(self, found: list[Evaluated], amplitude: Any) -> Any:
        """Σ_t amplitude_t² Π_f κ_f."""
        terms = [
            amplitude[..., t, None, None] ** 2
            * reduce(mul, [each.value for each in found if each.term == t])
            for t in range(len(self.terms))
        ]
        return reduce(lambda one, other: one + other, terms)

    def cross_and_rate(
        self,
        X_new: Array,
        X: Array,
        *,
        lengthscale: Any = 1.0,
        amplitude: Any = 1.0,
        alpha: Any = 1.0,
        bias: Any = 0.0,
        product: Product | None = None,
    ) -> tuple[Array, None]:
        """k(X_new, X) without noise, (..., S, N); there is no one derivative in one r² beside it."""
        found = self._at(X_new, X, lengthscale, alpha, product)
        K = np.asarray(self._summed(found, self._amplitude(amplitude)))
        return K + np.square(bias), None

    def _gradients(
        self, found: list[Evaluated], amplitude: Array, by_cross: Array
    ) -> Iterator[tuple[Evaluated, Array]]:
        """Each factor with ∂L/∂κ_f."""
        for i, each in enumerate(found):
            by_factor = by_cross * amplitude[each.term] ** 2
            for j, other in enumerate(found):
                if j != i and other.term == each.term:
                    by_factor = by_factor * other.value
            yield each, by_factor

    def cross_pullback(
        self,
        X_new: Array,
        X: Array,
        rate: None,
        by_cross: Array,
        by_prior: Array,
        *,
        lengthscale: Any = 1.0,
        amplitude: Any = 1.0,
        alpha: Any = 1.0,
        bias: Any = 0.0,
        product: Product = np.matmul,
    ) -> Array:
        """Gradient (S, Q) in X_new, from derivatives in k(X_new, X) (S, N) and in k(x, x) (S,)."""
        found, by = self._at(X_new, X, lengthscale, alpha), (by_cross, by_prior)
        return self._by_positions(found, X_new, X, *by, self._amplitude(amplitude), product)

    def _by_positions(
        self,
        found: list[Evaluated],
        X_new: Array,
        X: Array,
        by_cross: Array,
        by_prior: Array,
        amplitude: Array,
        product: Product = np.matmul,
    ) -> Array:
        """Gradient (S, Q) in X_new."""
        gradient, Q = np.zeros_like(X_new), X_new.shape[1]
        squares = self._squares(X_new)
        for i, (each, by_factor) in enumerate(self._gradients(found, amplitude, by_cross)):
            dims, V = each.factor.chosen(Q), each.factor.features(X)
            if each.factor.is_linear:
                others = [s for j, s in enumerate(squares) if j != i and found[j].term == each.term]
                by_square = by_prior * amplitude[each.term] ** 2 * reduce(mul, others, 1.0)
                own = product(by_factor, V) + 2.0 * by_square[:, None] * X_new[:, dims]
            else:
                W, U = by_factor * each.slope, each.factor.features(X_new)
                along = U * W.sum(axis=1)[:, None] - product(W, V)
                own = each.factor.features_pullback(X_new, 2.0 * along / each.lengthscale**2)
            gradient[:, dims] += own
        return gradient

    def log_pullback(
        self,
        X_new: Array,
        X: Array,
        K: Array,
        rate: None,
        by_cross: Array,
        by_prior: Array,
        *,
        lengthscale: Any = 1.0,
        amplitude: Any = 1.0,
        alpha: Any = 1.0,
        bias: Any = 0.0,
    ) -> dict[str, Any]:
        """Gradient in the logarithms of the parameters, each of its shape, as :meth:`cross_pullback`."""
        theta = self._theta(X.shape[1], lengthscale, amplitude, alpha)
        natural = self._by_parameters(X_new, X, by_cross, by_prior, theta)
        gradient = {name: natural[name] * theta[name] for name in self.parameters}
        return {**gradient, "bias": 2.0 * bias**2 * float(by_cross.sum() + by_prior.sum())}

    def _by_parameters(
        self, A: Array, B: Array, by_cross: Array, by_prior: Array, theta: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Gradient in the parameters, as :meth:`cross_pullback`."""
        found = self._at(A, B, theta["lengthscale"], theta["alpha"])
        return self._by_theta(found, A, B, by_cross, by_prior, theta)

    def pullback(self, X: Array, G: Array, *inputs: Any) -> list[Array]:
        """Gradients of L in the inputs of :meth:`matrix` from G = ∂L/∂K (N, N)."""
        *of_theta, bias, sigma = inputs
        G, none = 0.5 * (G + G.T), np.zeros(len(X))
        theta = dict(zip(("lengthscale", "amplitude", "alpha"), of_theta, strict=True))
        found = self._at(X, X, theta["lengthscale"], theta["alpha"])
        by_X = 2.0 * self._by_positions(found, X, X, G, none, theta["amplitude"])
        by_theta = self._by_theta(found, X, X, G, none, theta)
        noise = np.asarray(2.0 * sigma * np.trace(G))
        return [by_X, *by_theta.values(), np.asarray(2.0 * bias * G.sum()), noise]

    def _by_theta(
        self,
        found: list[Evaluated],
        A: Array,
        B: Array,
        by_cross: Array,
        by_prior: Array,
        theta: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Gradient in lengthscale, amplitude and alpha."""
        amplitude, prior = theta["amplitude"], self._squares(A)
        by_length, by_amplitude, by_alpha = (np.zeros_like(v) for v in theta.values())
        for t in range(len(self.terms)):
            value, square = (
                reduce(mul, [e for e, known in zip(each, found, strict=True) if known.term == t])
                for each in ([known.value for known in found], prior)
            )
            total = np.vdot(by_cross, value) + np.vdot(by_prior, square)
            by_amplitude[t] = 2.0 * amplitude[t] * total
        for each, by_factor in self._gradients(found, amplitude, by_cross):
            if each.factor.is_linear:
                continue
            U, V = each.factor.features(A), each.factor.features(B)
            centre = V.mean(axis=0)  # squares lose digits when the origin is far away
            U, V, W = U - centre, V - centre, by_factor * each.slope
            squares = W.sum(axis=1) @ U**2 + W.sum(axis=0) @ V**2 - 2.0 * ((W @ V) * U).sum(axis=0)
            size = each.slots.stop - each.slots.start
            terms = -2.0 * squares / each.lengthscale**3
            # Cos and sin of a dimension share its lengthscale, and all dimensions may.
            by_length[each.slots] = terms.reshape(-1, size).sum(axis=0)
            if each.by_alpha is not None:
                by_alpha[each.alpha] = np.vdot(by_factor, each.by_alpha)
        return {"lengthscale": by_length, "amplitude": by_amplitude, "alpha": by_alpha}

    def _theta(
        self, latent_dim: int, lengthscale: Any, amplitude: Any, alpha: Any
    ) -> dict[str, Array]:
        """Return parameters, one number each by default, as vectors."""
        n = sum(factor.has_alpha for _, factor in self.factors)
        return {
            "lengthscale": self._vector(lengthscale, latent_dim),
            "amplitude": self._amplitude(amplitude),
            "alpha": np.asarray(alpha) if np.ndim(alpha) else np.full(n, alpha, dtype=np.float64),
        }

    def _squares(self, X: Array) -> list[Any]:
        """κ_f(x, x) of each factor, (..., N) or 1."""
        return [
            np.square(factor.features(X)).sum(axis=-1)
            if factor.is_linear
            else np.ones(X.shape[:-1])
            for _, factor in self.factors
        ]

    def prior_variance(
        self, X: Array, *, amplitude: Any = 1.0, alpha: Any = 1.0, bias: Any = 0.0
    ) -> Array:
        """Diagonal of k(X, X), without noise, (..., N)."""
        amplitude, squares = self._amplitude(amplitude), self._squares(X)
        variance = np.zeros(X.shape[:-1]) + np.square(bias)
        for t in range(len(self.terms)):
            own = [s for s, (term, _) in zip(squares, self.factors, strict=True) if term == t]
            variance = variance + amplitude[..., t, None] ** 2 * reduce(mul, own)
        return variance

    def cross_slope(
        self,
        X_new: Array,
        X: Array,
        *,
        lengthscale: Any = 1.0,
        amplitude: Any = 1.0,
        alpha: Any = 1.0,
        bias: Any = 0.0,
    ) -> Array:
        """∂k(x, X)/∂x at the rows x of X_new, shape (S, Q, N)."""
        found, Q = self._at(X_new, X, lengthscale, alpha), X_new.shape[1]
        slope, ones = np.zeros((len(X_new), Q, len(X))), np.ones((len(X_new), len(X)))
        for each, by_factor in self._gradients(found, self._amplitude(amplitude), ones):
            dims = each.factor.chosen(Q)
            other = X[:, dims].T
            if each.factor.is_linear:
                slope[:, dims] += by_factor[:, None] * other
                continue
            apart = X_new[:, dims, None] - other
            apart = np.sin(apart) if each.factor.is_periodic else apart
            length = each.lengthscale[: len(dims), None]
            slope[:, dims] += 2.0 * (by_factor * each.slope)[:, None] * apart / length**2
        return slope

    @cached_property
    def why_no_slope(self) -> str | None:
        """Tell in a sentence why the prior's slopes have no variance that is the same everywhere, or None."""
        if any(factor.name == "matern12" for _, factor in self.factors):
            return "functions of a matern12 factor have no slopes"
        if any(len(term) > 1 and any(f.is_linear for f in term) for term in self.terms):
            return "of a product with a linear factor the slopes depend on the place"
        return None

    def prior_slope_variance(
        self,
        latent_dim: int,
        *,
        lengthscale: Any = 1.0,
        amplitude: Any = 1.0,
        alpha: Any = 1.0,
        bias: Any = 0.0,
        own: bool | None = None,
        xp: Any = np,
    ) -> Any:
        """Diagonal of ∂²k(x, x')/∂x∂x' at x' = x, shape (Q,).

        Σ_t amplitude_t² Σ_f (-2 κ_f'(0) / lengthscale_f², or 1 of an inner product) over the factors that look at a
        dimension: terms of inputs, which lie behind those of X, are not among them. ``own``: whether each dimension of a factor has a lengthscale, where no length tells.
        """
        if self.why_no_slope is not None:
            raise ValueError(f"kernel {self.name!r} has no slope here: {self.why_no_slope}.")
        if xp is np:
            lengthscale = self._vector(lengthscale, latent_dim)
            amplitude = self._amplitude(amplitude)
            own = self.has_own(latent_dim, len(lengthscale))
        variance: list[Any] = [0.0] * self._width(latent_dim)
        for t, factor, slots in self._placed(latent_dim, own=bool(own)):
            rate = 1.0 if factor.is_linear else -2.0 * self._slope_at_0(factor)
            for i, q in enumerate(factor.chosen(latent_dim)):
                slot = slots.start + (i if own else 0)
                unit = 1.0 if factor.is_linear else lengthscale[slot] ** 2
                variance[q] = variance[q] + amplitude[t] ** 2 * rate / unit
        return xp.stack(variance[:latent_dim])

    def _slope_at_0(self, factor: Factor) -> float:
        """κ'(0) of a factor that is no inner product."""
        if factor.has_alpha:
            return -0.5  # whatever alpha is
        profile = self.profiles["rbf" if factor.is_periodic else factor.name]
        return float(profile(np.zeros(1), np)[1][0])

    def unit(self, latent_dim: int, lengthscale: Any) -> Array:
        """Length along each dimension (..., Q): the shortest of the factors that look at it, 1 if none has any."""
        lengthscale = self._vector(lengthscale, latent_dim)
        own = self.has_own(latent_dim, lengthscale.shape[-1])
        unit = np.full((*lengthscale.shape[:-1], self._width(latent_dim)), np.inf)
        for _, factor, slots in self._placed(latent_dim, own=own):
            if not factor.is_linear:
                dims = factor.chosen(latent_dim)
                unit[..., dims] = np.minimum(unit[..., dims], lengthscale[..., slots])
        unit = unit[..., :latent_dim]
        return np.where(np.isfinite(unit), unit, 1.0)


def _factor(word: str, text: str, known: tuple[str, ...]) -> Factor:
    """Read one factor of a text; ValueError if it is none."""
    found = _FACTOR.fullmatch(word.strip().lower())
    if found is None or found[1] not in known:
        got = repr(word.strip()) if word.strip() else "nothing"
        raise ValueError(
            f"kernel must be made of {', '.join(known)}, each with its latent dimensions behind it if wanted, such as "
            f"'rbf[0,1] + periodic[2]', with ' + bias' at the end if wanted, got {got} in {text!r}."
        )
    if found[2] is None:
        return Factor(found[1], None)
    numbers = [part.strip() for part in found[2].split(",")]
    if not all(part.isdecimal() for part in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise ValueError(
            f"kernel must name each latent dimension of a factor once, as whole numbers from 0 on, got {word.strip()!r} "
            f"in {text!r}. Write 'rbf[0,1]', or 'rbf' for all of them."
        )
    return Factor(found[1], tuple(sorted(map(int, numbers))))


def _numbered(names: list[str]) -> list[str]:
    """Tell equal names apart: the second "rbf[0]" is "rbf[0] (2)"."""
    return [
        name if names[:i].count(name) == 0 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]
