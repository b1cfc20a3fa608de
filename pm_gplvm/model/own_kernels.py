"""Kernels of a user's own, written with ``pm.gp.cov``, with the interface of those of several factors.

    k(x, x') = amplitude² c(x, x'; lengthscale, alpha),

c being what a function (input_dim, lengthscale, alpha) returns, of which it need take the first alone, or a
covariance as it is. It is told by a text, "own:ExpQuad:1f0c9a3b": the function's name and a checksum of c at a few
positions. So the same function has the same text in every process, a fit holds the text alone, and nobody writes
code to a file: who reads the fit elsewhere hands the function in.

c and its derivatives are graphs of PyTensor, compiled once for each number of dimensions. What else is to be known of
c is found by trying: whether it changes as all positions are moved, turned, mirrored or scaled with the lengthscale,
and the curvature at 0 by differences extrapolated to 0, symbolically in the lengthscale.
"""

import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.gp.cov import BaseCovariance
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs

from pm_gplvm.core.blas import Product
from pm_gplvm.core.checks import Array
from pm_gplvm.core.composite import FACTOR, SHAPE, TERM, Composite
from pm_gplvm.core.kernels import OWN, of_each_dimension
from pm_gplvm.core.procrustes import Axes
from pm_gplvm.model.compile import compile_mode

_TAKEN = ("lengthscale", "alpha")
_STEPS = 0.04 / 2.0 ** np.arange(5)  # of the differences, in lengthscales
_FORM = (
    "a name such as 'rbf', a function such as lambda input_dim, lengthscale: pm.gp.cov.ExpQuad(input_dim, ls=lengthscale), or a covariance of "
    "pm.gp.cov without random variables"
)

_ALONE = threading.RLock()  # PyTensor's functions keep their arguments in one place for all threads


def name_of(kernel: Any) -> str:
    """Return the text of a user's kernel, by which it is known from now on.

    Raises
    ------
    TypeError, ValueError
        If it is no covariance of ``pm.gp.cov`` nor a function that returns one, or if it takes other parameters.
    """
    return str(OwnKernel.of(kernel).name)


def _made_known(source: Any) -> "OwnKernel":
    return OwnKernel.of(source)


@dataclass(frozen=True)
class OwnKernel(Composite):
    """A user's kernel: ``source`` is the function or the covariance, ``takes`` the parameters of the function."""

    source: Any = field(default=None, compare=False, repr=False)
    takes: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: Any) -> "OwnKernel":
        """Read one, and let it be known by its text."""
        takes, label = _signature(source)
        unnamed = cls("", (), {}, source, takes)
        text = f"own:{label}:{unnamed._checksum()}"
        if text not in OWN:
            OWN[text] = cls(text, (), {}, source, takes)
        return cast(OwnKernel, OWN[text])

    def __reduce__(self) -> Any:
        """Let it be known where it is unpickled, in a process of its own."""
        # No method: cloudpickle would send its code without its module.
        return _made_known, (self.source,)

    def _checksum(self) -> str:
        X = np.random.default_rng(0).normal(size=(4, self._some_dim))
        K = np.stack([self._values(X, *theta) for theta in ((1.0, 1.0), (1.7, 2.3))])
        digits = " ".join(f"{value:.5e}" for value in K.flat)
        return hashlib.sha256(digits.encode()).hexdigest()[:8]

    @cached_property
    def _some_dim(self) -> int:
        """As few dimensions as it can be evaluated in: there it is tried."""
        if hasattr(self.source, "input_dim"):
            return int(self.source.input_dim)
        failed: Exception | None = None
        for Q in range(1, 17):
            try:
                if self._deepest(Q) < Q:  # else PyTensor would log that it cannot compile it
                    self._values(np.zeros((1, Q)))
                    return Q
            except TypeError:
                raise
            except Exception as error:
                failed = failed or error
        raise ValueError(f"kernel cannot be evaluated in 1 to 16 dimensions: {failed}") from failed

    def _deepest(self, latent_dim: int) -> int:
        """Find the last dimension that a covariance looks at, as far as PyMC's kernels tell."""
        own = self.needs_ard(latent_dim)
        length, one = pt.constant(np.ones(latent_dim if own else 1)), pt.constant(np.ones(1))
        parts, last = [self.graph(latent_dim, length, one, own=own)], 0
        while parts:
            part = parts.pop()
            parts += [f for f in getattr(part, "_factor_list", []) if isinstance(f, BaseCovariance)]
            last = max([last, *np.ravel(getattr(part, "active_dims", []))])
        return int(last)

    # What it is

    @property
    def linear(self) -> bool:
        """Whether K changes when all positions are moved alike, as that of an inner product."""
        return not self._same(self._some_dim, lambda X: X + 0.7)

    @property
    def curved(self) -> bool:
        """Whether there is more to it than an inner product: taken to be so."""
        return True

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its hyperparameters."""
        own = {"lengthscale": "lengthscale" in self.takes, "amplitude": True}
        own["alpha"] = "alpha" in self.takes
        return tuple(name for name, present in own.items() if present)

    def angles(self, latent_dim: int) -> list[int]:
        """List the dimensions of period 2π: found by trying."""
        return [q for q in range(latent_dim) if self._is_angle(latent_dim, q)]

    def _is_angle(self, latent_dim: int, q: int) -> bool:
        """Whether K is the same where one row has gone around once, and not where it went halfway."""
        one_row = np.zeros((6, latent_dim))
        one_row[0, q] = np.pi
        around, halfway = (
            self._same(latent_dim, partial(np.add, times * one_row)) for times in (2.0, 1.0)
        )
        return around and not halfway

    def check(self, latent_dim: int) -> None:
        """Raise ValueError if it cannot be evaluated in so many dimensions."""
        wanted = getattr(self.source, "input_dim", latent_dim)
        if wanted != latent_dim:
            raise ValueError(
                f"kernel must be of latent_dim = {latent_dim} dimensions, got one of input_dim = {wanted}."
            )
        try:
            K = self._values(np.random.default_rng(0).normal(size=(3, latent_dim)))
        except Exception as error:
            raise ValueError(
                f"kernel cannot be evaluated at positions of latent_dim = {latent_dim} dimensions: {error}"
            ) from error
        if K.shape != (3, 3) or not np.isfinite(K).all():
            raise ValueError(
                f"kernel must give finite numbers, 3 x 3 of 3 rows, got {K.shape}: {K}."
            )
        X = np.random.default_rng(0).normal(size=(3, latent_dim))
        one, other = (np.diagonal(self._values(X, *theta)) for theta in ((1.0, 1.0), (1.7, 2.3)))
        if not np.allclose(one, other, rtol=1e-6, atol=1e-6):
            raise ValueError(
                f"kernel must have a variance k(x, x) that does not depend on its lengthscale or alpha, got {one} and, at "
                f"others, {other}. The amplitude is a parameter by itself."
            )

    def labels(self, latent_dim: int, *, ard: bool) -> dict[str, tuple[str, list[str]]]:
        """For each parameter the name of its axis, and of each of its entries."""
        label = self.name.split(":")[1]
        lengths = [f"{label}[{q}]" for q in range(latent_dim)] if ard else [label]
        axes = {"lengthscale": (FACTOR, lengths), "amplitude": (TERM, [label])}
        axes["alpha"] = (SHAPE, [label])
        return {name: axes[name] for name in self.parameters}

    def has_own(self, latent_dim: int, n_lengthscales: int) -> bool:
        """Whether so many lengthscales are one for each dimension."""
        return n_lengthscales > 1

    def symmetry(self, latent_dim: int, *, ard: bool) -> tuple[Axes | None, bool, bool]:
        """Which turns leave K unchanged, as ``procrustes.Symmetry`` names them, None if none; moves; scales."""
        Q = latent_dim
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(Q, Q)))[0]
        order = np.arange(Q)
        moves = not self.linear
        scales = "lengthscale" in self.takes and self._same(Q, lambda X: 1.7 * X, 1.7)
        if not ard and self._same(Q, lambda X: X @ turn):
            return False, moves, moves and scales
        mirrored = all(
            self._same(Q, partial(np.multiply, np.where(order == q, -1.0, 1.0))) for q in order
        )
        if ard and mirrored and self._same(Q, lambda X: np.roll(X, 1, axis=1)):
            return True, moves, moves and scales
        return "signs" if mirrored else None, moves, False

    def _same(
        self, latent_dim: int, change: Callable[[Array], Array], lengthscale: float = 1.0
    ) -> bool:
        """Whether K is the same at changed positions, with a lengthscale multiplied."""
        X = np.random.default_rng(2).normal(size=(6, latent_dim))
        return np.allclose(
            self._values(X), self._values(change(X), lengthscale), rtol=1e-6, atol=1e-8
        )

    # c as a graph

    def _given(self, lengthscale: Any, alpha: Any) -> dict[str, Any]:
        """Return what the function takes beside the number of dimensions."""
        given = {"lengthscale": lengthscale, "alpha": alpha}
        return {name: given[name] for name in self.takes}

    def _values(self, X: Array, lengthscale: float = 1.0, alpha: float = 1.0) -> Array:
        """Compute c at positions, at one lengthscale and one alpha."""
        Q = X.shape[1]
        own = self.needs_ard(Q)
        length = np.full(Q if own else 1, lengthscale)
        return np.asarray(_compiled(self._key, Q, own, "full")(X, length, np.full(1, alpha)))

    def needs_ard(self, latent_dim: int) -> bool:
        """Whether there must be a lengthscale for each dimension, as it takes them one by one."""
        if latent_dim == 1 or "lengthscale" not in self.takes:
            return False
        try:
            self.source(latent_dim, **self._given(pt.dscalar(), pt.dscalar()))
        except (IndexError, TypeError, ValueError):
            return True
        return False

    @cached_property
    def _key(self) -> "_Key":
        return _Key(self)

    def graph(self, latent_dim: int, lengthscale: Any, alpha: Any, *, own: bool) -> Any:
        """Make the covariance at θ (L,) and (A,), as PyMC has it."""
        if isinstance(self.source, BaseCovariance):
            return self.source
        length = lengthscale if own or "lengthscale" not in self.takes else lengthscale[0]
        given = self._given(length, alpha[0] if "alpha" in self.takes else None)
        try:
            made = self.source(latent_dim, **given)
        except IndexError:  # it takes lengthscales one by one, also where there is one
            made = self.source(latent_dim, **{**given, "lengthscale": lengthscale})
        if not isinstance(made, BaseCovariance):
            raise TypeError(
                f"kernel must be {_FORM}, got a function that returns {type(made).__name__}."
            )
        return made

    # K and its derivatives

    def matrix(self, X: Any, *inputs: Any, own: bool, latent_dim: int, xp: Any = np) -> Any:
        """K of rows with its noise; the inputs are lengthscale, amplitude, alpha, bias and sigma."""
        lengthscale, amplitude, alpha, bias, sigma = inputs
        if xp is np:
            K = _compiled(self._key, latent_dim, own, "full")(X, lengthscale, alpha)
        else:
            K = self.graph(latent_dim, lengthscale, alpha, own=own)(X)
        return amplitude[0] ** 2 * K + bias**2 + sigma**2 * xp.eye(X.shape[0])

    def pullback(self, X: Array, G: Array, *inputs: Any) -> list[Array]:
        """Gradients of L in the inputs of :meth:`matrix` from G = ∂L/∂K (N, N)."""
        lengthscale, amplitude, alpha, bias, sigma = inputs
        function = _compiled(self._key, X.shape[1], self._is_own(X, lengthscale), "full_pullback")
        K, by_X, by_length, by_alpha = function(X, lengthscale, alpha, amplitude[0] ** 2 * G)
        by_amplitude = np.full(1, 2.0 * amplitude[0] * np.vdot(G, K))
        noise, constant = np.asarray(2.0 * sigma * np.trace(G)), np.asarray(2.0 * bias * G.sum())
        return [by_X, by_length, by_amplitude, by_alpha, constant, noise]

    def _is_own(self, X: Array, lengthscale: Any) -> bool:
        return self.has_own(X.shape[-1], len(lengthscale))

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
        """k(X_new, X) without noise, (..., S, N)."""
        theta = self._theta(X.shape[-1], lengthscale, amplitude, alpha)
        lead = np.broadcast_shapes(
            X_new.shape[:-2], X.shape[:-2], *(v.shape[:-1] for v in theta.values())
        )
        if not lead:
            K = self._cross(X_new, X, theta)
        else:
            A, B = (np.broadcast_to(v, (*lead, *v.shape[-2:])) for v in (X_new, X))
            each = {n: np.broadcast_to(v, (*lead, v.shape[-1])) for n, v in theta.items()}
            K = np.empty((*lead, X_new.shape[-2], X.shape[-2]))
            for i in np.ndindex(lead):
                K[i] = self._cross(A[i], B[i], {n: v[i] for n, v in each.items()})
        return K + np.square(bias), None

    def _cross(self, A: Array, B: Array, theta: Mapping[str, Array]) -> Array:
        own = self._is_own(A, theta["lengthscale"])
        function = _compiled(self._key, A.shape[1], own, "cross")
        K = function(A, B, theta["lengthscale"], theta["alpha"])
        return np.asarray(theta["amplitude"][0] ** 2 * K)

    def _pulled(
        self, A: Array, B: Array, by_cross: Array, by_prior: Array, theta: Mapping[str, Array]
    ) -> list[Array]:
        """Gradient in A, lengthscale, ln amplitude and alpha."""
        own, variance = self._is_own(A, theta["lengthscale"]), theta["amplitude"][0] ** 2
        function = _compiled(self._key, A.shape[1], own, "cross_pullback")
        weights = variance * by_cross, variance * by_prior
        value, *gradient = function(A, B, theta["lengthscale"], theta["alpha"], *weights)
        return [gradient[0], gradient[1], np.full(1, 2.0 * value), gradient[2]]

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
        theta = self._theta(X.shape[1], lengthscale, amplitude, alpha)
        return self._pulled(X_new, X, by_cross, by_prior, theta)[0]

    def _by_parameters(
        self, A: Array, B: Array, by_cross: Array, by_prior: Array, theta: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Gradient in the parameters, as :meth:`cross_pullback`."""
        _, by_length, by_log, by_alpha = self._pulled(A, B, by_cross, by_prior, theta)
        by_amplitude = by_log / theta["amplitude"]
        return {"lengthscale": by_length, "amplitude": by_amplitude, "alpha": by_alpha}

    def _theta(
        self, latent_dim: int, lengthscale: Any, amplitude: Any, alpha: Any
    ) -> dict[str, Array]:
        """Return parameters as vectors, empty ones of those that it does not take."""
        given = {"lengthscale": lengthscale, "amplitude": amplitude, "alpha": alpha}
        return {
            name: np.atleast_1d(np.asarray(value, dtype=np.float64))
            if name in self.parameters
            else np.empty(0)
            for name, value in given.items()
        }

    def prior_variance(
        self,
        X: Array,
        *,
        amplitude: Any = 1.0,
        alpha: Any = 1.0,
        bias: Any = 0.0,
    ) -> Array:
        """Diagonal of k(X, X), without noise, (..., N); it is that of any lengthscale."""
        Q = X.shape[-1]
        own = self.needs_ard(Q)
        function = _compiled(self._key, Q, own, "diagonal")
        flat = np.asarray(function(X.reshape(-1, Q), np.ones(Q if own else 1), np.ones(1)))
        return np.atleast_1d(np.asarray(amplitude)) ** 2 * flat.reshape(X.shape[:-1]) + np.square(
            bias
        )

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
        theta = self._theta(X.shape[1], lengthscale, amplitude, alpha)
        ones, none = np.ones((len(X_new), 1)), np.zeros(len(X_new))
        slopes = [self._pulled(X_new, X[n : n + 1], ones, none, theta)[0] for n in range(len(X))]
        return np.stack(slopes, axis=2)

    # The curvature at 0

    @cached_property
    def why_no_slope(self) -> str | None:
        """Tell in a sentence why the prior's slopes have no variance that is the same everywhere, or None."""
        if self.linear:
            return f"of {self.name!r} the slopes depend on the place"
        Q = self._some_dim
        own = self.needs_ard(Q)
        each = self._differences(Q, np, np.ones(Q if own else 1), np.ones(1), own=own)
        first, second = (np.asarray(each[i]) for i in (-2, -1))
        if not np.allclose(first, second, rtol=0.05, atol=1e-6):
            return f"functions of {self.name!r} have no slopes"
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
        """Diagonal of ∂²k(x, x')/∂x∂x' at x' = x, shape (Q,), of a kernel that only looks at x - x'."""
        if self.why_no_slope is not None:
            raise ValueError(f"kernel {self.name!r} has no slope here: {self.why_no_slope}.")
        if xp is np:
            theta = self._theta(latent_dim, lengthscale, amplitude, alpha)
            lengthscale, amplitude, alpha = theta.values()
            own = self.has_own(latent_dim, len(lengthscale))
        table = self._differences(latent_dim, xp, lengthscale, alpha, own=bool(own))
        # Neville's scheme: the polynomial in the step through all of them, at 0.
        for level in range(1, len(table)):
            ratio = 2.0**level
            table = [(ratio * b - a) / (ratio - 1.0) for a, b in pairwise(table)]
        return amplitude[0] ** 2 * table[0]

    def _differences(
        self, latent_dim: int, xp: Any, lengthscale: Any, alpha: Any, *, own: bool
    ) -> list[Any]:
        """2 (k(0) - k(h)) / h² in each dimension at each of the steps, (Q,)."""
        Q = latent_dim
        unit = xp.ones(Q)
        if "lengthscale" in self.takes:
            unit = unit * (lengthscale if own else lengthscale[0])
        steps = np.repeat(_STEPS, Q)
        along = np.tile(np.eye(Q), (len(_STEPS), 1)) * steps[:, None]
        X = xp.concatenate([xp.zeros((1, Q)), along * unit])
        if xp is np:
            K = _compiled(self._key, Q, own, "full")(X, lengthscale, alpha)
        else:
            K = self.graph(Q, lengthscale, alpha, own=own)(X)
        each = 2.0 * (K[0, 0] - K[0, 1:]).reshape((len(_STEPS), Q))
        return [each[i] / (step * unit) ** 2 for i, step in enumerate(_STEPS)]

    def unit(self, latent_dim: int, lengthscale: Any) -> Array:
        """Length along each dimension (..., Q)."""
        return of_each_dimension(latent_dim, lengthscale)


class _Key:
    """A kernel by identity, under which what was compiled of it is kept."""

    def __init__(self, kernel: OwnKernel) -> None:
        self.kernel = kernel


@cache
def _compiled(key: _Key, latent_dim: int, own: bool, what: str) -> Any:
    """Compile c, or c and its derivatives."""
    kernel = key.kernel
    A, B = (pt.tensor(name, shape=(None, latent_dim), dtype="float64") for name in ("A", "B"))
    lengthscale, alpha, g = (pt.dvector(name) for name in ("lengthscale", "alpha", "g"))
    G = pt.dmatrix("G")
    cov = kernel.graph(latent_dim, lengthscale, alpha, own=own)
    theta = [lengthscale, alpha]

    def gradient(cost: Variable, wrt: list[Variable]) -> list[Variable]:
        return list(pytensor.grad(cost, wrt, disconnected_inputs="ignore"))

    if what == "full":
        inputs, outputs = [A, *theta], cov(A)
    elif what == "full_pullback":
        K = cov(A)
        inputs, outputs = [A, *theta, G], [K, *gradient((G * K).sum(), [A, *theta])]
    elif what == "cross":
        inputs, outputs = [A, B, *theta], cov(A, B)
    elif what == "cross_pullback":
        cost = (G * cov(A, B)).sum() + (g * cov(A, diag=True)).sum()
        inputs, outputs = [A, B, *theta, G, g], [cost, *gradient(cost, [A, *theta])]
    else:
        inputs, outputs = [A, *theta], cov(A, diag=True)
    _refuse_random(outputs if isinstance(outputs, list) else [outputs], inputs)
    with _ALONE:
        function = pytensor.function(inputs, outputs, on_unused_input="ignore", mode=compile_mode())

    def one_at_a_time(*given: Any) -> Any:
        with _ALONE:
            return function(*given)

    return one_at_a_time


def _refuse_random(outputs: list[Variable], inputs: list[Variable]) -> None:
    """Raise where a covariance hangs on random variables of some model: θ is a model's own."""
    known = (Constant, SharedVariable)
    loose = [v for v in graph_inputs(outputs) if v not in inputs and not isinstance(v, known)]
    nodes = [v.owner.op for v in pytensor.graph.traversal.ancestors(outputs) if v.owner is not None]
    if loose or any(isinstance(op, pt.random.op.RandomVariable) for op in nodes):
        raise ValueError(
            "kernel must not hold random variables, got a covariance with some. Write a function of its parameters, "
            "whose priors build_model takes: lambda input_dim, lengthscale: pm.gp.cov.ExpQuad(input_dim, ls=lengthscale)."
        )


def _signature(source: Any) -> tuple[tuple[str, ...], str]:
    """Read which parameters a function takes, and a name for it."""
    if isinstance(source, BaseCovariance):
        return (), type(source).__name__
    if not callable(source) or isinstance(source, type):
        raise TypeError(f"kernel must be {_FORM}, got {source!r}.")
    try:
        names = list(inspect.signature(source).parameters)
    except (TypeError, ValueError):
        raise TypeError(f"kernel must be {_FORM}, got {source!r}.") from None
    unknown = [name for name in names[1:] if name not in _TAKEN]
    if not names or unknown:
        raise ValueError(
            "kernel must be a function of (input_dim), (input_dim, lengthscale) or (input_dim, lengthscale, alpha), by "
            f"these names, got one of ({', '.join(names)})."
        )
    label = str(getattr(source, "__name__", type(source).__name__))
    return tuple(names[1:]), label if label.isidentifier() else "function"
