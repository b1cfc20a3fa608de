"""The package's own PyTensor Ops, shells around core: K, Gaussian columns, the collapsed bound.

An Op here computes one heavy step with LAPACK and NumPy, and can also write the same step in
ordinary PyTensor (``symbolic``). The symbolic form is differentiated for derivatives beyond the
first, and replaces the Op for the numba and JAX backends, which must see the expression.

``perform`` may find in its output slots what it returned at the last call, and overwrite it: the
linker leaves it there only where nobody else can hold it. At N = 1000 fresh memory for every
N × N array would cost a fifth of the time.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import numpy as np
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor import gradient
from pytensor.compile.mode import optdb
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import in2out, node_rewriter

from pm_gplvm.core.checks import Array
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.gaussian import (
    Patterns,
    column_patterns,
    column_terms,
    lawrence_block,
    mirror,
    pattern_terms,
)
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.inducing_patterns import PatternKernel, points_and_gradient
from pm_gplvm.core.kernels import (
    KERNELS,
    contract,
    contract_whole,
    fill,
    kernel_named,
    matrix,
    parse_kernel,
    pullback,
    row_blocks,
)
from pm_gplvm.core.laplace_columns import NoMode, Terms, laplace_columns
from pm_gplvm.core.psi import CLOSED_FORM, ONE_NODE, Quadrature, cubature, workspace_shape
from pm_gplvm.core.spectral import ColumnParts, spectrum
from pm_gplvm.data.arrays import finite


def reused(
    array: NDArray[np.float64] | None, shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> NDArray[np.float64]:
    """Return the array of an earlier call if it fits, else a new one; its content is arbitrary."""
    if array is not None and array.shape == shape and array.flags[order]:
        return array
    return np.empty(shape, order=order)


class TwinOp(Op):
    """An Op with a symbolic form."""

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        """Write the Op's outputs down in ordinary PyTensor."""
        raise NotImplementedError

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        """Differentiate the symbolic form; Ops with a formula of their own override this."""
        return partial_derivatives(self.symbolic, inputs, cotangents)


def partial_derivatives(
    written: Callable[..., list[Variable]],
    inputs: Sequence[Variable],
    cotangents: Sequence[Variable],
) -> list[Variable]:
    """Pull cotangents back through an expression, as if its inputs did not depend on each other."""
    fresh = [variable.type() for variable in inputs]
    known = {
        output: bar
        for output, bar in zip(written(*fresh), cotangents, strict=True)
        if not isinstance(bar.type, DisconnectedType)
    }
    derivatives = gradient.grad(
        None,
        wrt=fresh,
        known_grads=known,
        disconnected_inputs="ignore",
        return_disconnected="zero",
    )
    return list(clone_replace(derivatives, replace=dict(zip(fresh, inputs, strict=True))))


class GradientOp(TwinOp):
    """An Op whose last inputs, ``n_repeated`` of them, repeat what earlier Ops have computed.

    They save computing it twice, and are not differentiated: the derivative is in the other inputs.
    """

    n_repeated = 2

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Mark the repeated inputs as not differentiated."""
        n = len(node.outputs)
        return [[i < len(node.inputs) - self.n_repeated] * n for i in range(len(node.inputs))]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        """Differentiate the symbolic form, which is written without the repeated inputs."""
        repeated = [DisconnectedType()() for _ in range(self.n_repeated)]
        own = inputs[: len(inputs) - self.n_repeated]
        return [*super().pullback(own, outputs, cotangents), *repeated]


class SymmetricGradient(GradientOp):
    """A gradient in a symmetric matrix that may be asked for block by block, so that it is never stored."""

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> NDArray[np.float64]:
        """Compute [start:end, :end] from the numbers of the Op's inputs, as a new array."""
        raise NotImplementedError


@node_rewriter([TwinOp])
def _write_out(fgraph: Any, node: Apply) -> list[Variable]:
    """Replace an Op by its symbolic form."""
    repeated = node.op.n_repeated if isinstance(node.op, GradientOp) else 0
    return node.op.symbolic(*node.inputs[: len(node.inputs) - repeated])


# Right at the start, so that every later rewrite of those backends sees the plain graph.
optdb.register("pm_gplvm_write_out", in2out(_write_out), "numba", "jax", position=0.5)


# K of the latent positions


def _safe_sqrt(r2: Variable) -> Variable:
    """Square root whose derivative at 0 is 0: it is always multiplied by zₙ - zₙ there."""
    positive = pt.gt(r2, 0.0)
    return pt.switch(positive, pt.sqrt(pt.switch(positive, r2, 1.0)), 0.0)


SYMBOLIC = SimpleNamespace(**{**vars(pt), "sqrt": _safe_sqrt})
"""PyTensor as the ``xp`` of kernels."""


class Covariance(TwinOp):
    """K and its slope from the scaled positions.

    Inputs: ``Z`` (N, Q), the positions in units of the lengthscale; ``amplitude``, ``bias`` and
    ``sigma``, three scalars, all standard deviations; for a sum of a stationary and a linear part
    also ``v`` () or (Q,), the standard deviation of the linear part's weights per unit of Z (of
    the linear kernel alone that is ``amplitude``). Outputs: ``K`` (N, N), symmetric, and
    ``slope`` (N, N), proportional to amplitude² κ'(r²), which the gradient needs: its lower
    blocks (see :func:`pm_gplvm.core.kernels.row_blocks`), and nothing where K itself suffices (linear
    kernel, RBF alone).
    """

    __props__ = ("kernel",)

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.entry = KERNELS[kernel]

    def make_node(self, Z: Any, amplitude: Any, bias: Any, sigma: Any, *linear: Any) -> Apply:
        Z = pt.as_tensor_variable(Z, dtype="float64", ndim=2)
        scalars = [
            pt.as_tensor_variable(v, dtype="float64", ndim=0) for v in (amplitude, bias, sigma)
        ]
        if len(linear) != self.entry.summed:
            raise TypeError(f"kernel {self.kernel!r} takes {4 + self.entry.summed} inputs.")
        N = Z.type.shape[0]
        M = N if self.entry.keeps_slope else 0
        return Apply(
            self,
            [Z, *scalars, *(pt.as_tensor_variable(v, dtype="float64") for v in linear)],
            [pt.tensor(shape=(N, N), dtype="float64"), pt.tensor(shape=(M, M), dtype="float64")],
        )

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        N = shapes[0][0]
        M = N if self.entry.keeps_slope else pt.as_tensor_variable(0)
        return [(N, N), (M, M)]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        N = len(inputs[0])
        M = N if self.entry.keeps_slope else 0
        K = storage[0][0] = reused(storage[0][0], (N, N))
        slope = storage[1][0] = reused(storage[1][0], (M, M))
        fill(self.entry, *inputs, K=K, slope=slope)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        return matrix(self.entry, *inputs, xp=SYMBOLIC)

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        K, slope = outputs
        G, G_slope = cotangents
        if not isinstance(G_slope.type, DisconnectedType):
            return super().pullback(inputs, outputs, cotangents)
        source, parts = None, [G]
        if G.owner is not None and isinstance(G.owner.op, SymmetricGradient):
            # The likelihood's own gradient is read block by block and never written as a whole.
            source, parts = G.owner.op, G.owner.inputs
        return list(_CovariancePullback(self.kernel, source)(*inputs, *parts, K, slope))


class _Written:
    """A matrix that is there already, read as a :class:`SymmetricGradient` is."""

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> Array:
        (G,) = inputs
        return np.asarray(0.5 * (G[start:end, :end] + G[:end, start:end].T))


class _CovariancePullback(GradientOp):
    """∂L/∂(Z, amplitude, bias, sigma, ...) from G = ∂L/∂K.

    Inputs: those of :class:`Covariance`, then G or, with a ``source``, the inputs of the Op that
    makes it; last ``K`` and ``slope``, what :class:`Covariance` has computed at the same inputs,
    so that no exponential is taken twice.
    """

    __props__ = ("kernel", "source")

    def __init__(self, kernel: str, source: SymmetricGradient | None = None) -> None:
        self.kernel = kernel
        self.source = source
        self.entry = KERNELS[kernel]
        self.n_own = 4 + self.entry.summed
        self.n_repeated = 2 + (source.n_repeated if source else 0)

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [v.type() for v in inputs[: self.n_own]])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return list(shapes[: self.n_own])

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        own, (*parts, K, slope) = inputs[: self.n_own], inputs[self.n_own :]
        lower_block = partial((self.source or _Written()).lower_block, parts)
        contraction = contract(self.entry, own[0], lower_block, K, slope, own[2])
        for slot, value in zip(storage, pullback(self.entry, own, contraction), strict=True):
            slot[0] = np.asarray(value, dtype=np.float64)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        own, parts = inputs[: self.n_own], inputs[self.n_own :]
        (G,) = self.source.symbolic(*parts) if self.source else parts
        K, slope = matrix(self.entry, *own, xp=SYMBOLIC)
        whole = contract_whole(self.entry, own[0], G, K, slope, own[2], xp=SYMBOLIC)
        return pullback(self.entry, own, whole)


class CompositeCovariance(TwinOp):
    """K of a kernel of several factors (:mod:`pm_gplvm.core.composite`).

    Inputs: ``X`` (N, Q), ``lengthscale`` (L,), ``amplitude`` (T,), ``alpha`` (A,), ``bias`` and ``sigma``, of
    which the first three may be empty. ``own``: whether each dimension of a factor has a lengthscale.
    """

    __props__ = ("kernel", "latent_dim", "own")

    def __init__(self, kernel: str, latent_dim: int, own: bool) -> None:
        self.kernel, self.latent_dim, self.own = kernel, latent_dim, own
        self.entry = composite_named(kernel)

    def make_node(self, *inputs: Any) -> Apply:
        ndims = (2, 1, 1, 1, 0, 0)
        variables = [
            pt.as_tensor_variable(v, dtype="float64", ndim=n)
            for v, n in zip(inputs, ndims, strict=True)
        ]
        N = variables[0].type.shape[0]
        return Apply(self, variables, [pt.tensor(shape=(N, N), dtype="float64")])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [(shapes[0][0], shapes[0][0])]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        storage[0][0] = self._matrix(*inputs)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        return [self._matrix(*inputs, xp=SYMBOLIC)]

    def _matrix(self, *inputs: Any, xp: Any = np) -> Any:
        return self.entry.matrix(*inputs, own=self.own, latent_dim=self.latent_dim, xp=xp)

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        return list(_CompositePullback(self)(*inputs, *cotangents))


class _CompositePullback(TwinOp):
    """∂L/∂(X, θ) from the inputs of :class:`CompositeCovariance` and G = ∂L/∂K."""

    __props__ = ("source",)

    def __init__(self, source: CompositeCovariance) -> None:
        self.source = source

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [v.type() for v in inputs[:-1]])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return list(shapes[:-1])

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        X, *theta, G = inputs
        for slot, value in zip(storage, self.source.entry.pullback(X, G, *theta), strict=True):
            slot[0] = np.asarray(value, dtype=np.float64)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        *own, G = inputs
        return partial_derivatives(self.source.symbolic, own, [G])


def composite_named(kernel: str) -> Composite:
    """Return the kernel of several factors of a name."""
    entry = kernel_named(kernel)
    if not isinstance(entry, Composite):
        raise TypeError(f"kernel {kernel!r} is one of the table.")
    return entry


def as_parameter(
    name: str,
    value: Any,
    *,
    ndim: tuple[int, ...] = (0,),
    least: float = -np.inf,
    positive: bool = False,
) -> Variable:
    """Return a variable of so many dimensions; what is none must be finite numbers, positive if asked."""
    if not isinstance(value, Variable):
        if isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be a number or a variable, got {value!r}.")
        given = finite(name, value)
        if (given < least).any() or (positive and (given <= 0.0).any()):
            wanted = "positive" if positive else f"at least {least:g}"
            raise ValueError(f"{name} must be {wanted}, got {given.min():g}.")
        value = pt.as_tensor_variable(given)
    variable = pt.as_tensor_variable(value)
    single = all(size == 1 for size in variable.type.shape)
    if variable.ndim not in ndim and not (single and 0 in ndim):
        wanted = " or ".join(map(str, ndim))
        raise ValueError(f"{name} must have {wanted} dimensions, got {variable.ndim}.")
    return variable


def covariance(
    kernel: Any,
    X: Any,
    *,
    lengthscale: Any = 1.0,
    amplitude: Any = 1.0,
    alpha: Any = 1.0,
    weight: Any = 1.0,
    sigma: Any = 0.0,
    bias: Any = 0.0,
) -> Variable:
    """Write down K for latent positions X.

    Parameters
    ----------
    kernel : {"rbf", "matern32", "matern52", "cauchy", "linear"}, or one of the first four ``+ linear``
        Covariance function: exp(-r²/2), (1 + √3 r) exp(-√3 r), (1 + √5 r + 5r²/3) exp(-√5 r),
        1 / (1 + r²/2) with r = ‖x - x'‖ / lengthscale (Rasmussen & Williams 2006, eq. 4.9, 4.17 and
        4.19 with α = 1), or x·x'.
        "rbf + linear" is amplitude² exp(-r²/2) + weight² x·x'.
        Or a sum of products of factors over chosen dimensions, such as "rbf[0,1] + periodic[2]": see
        ``gplvm.kernels``.
    X : tensor_like, dims (obs, latent), shape (N, Q)
        Latent positions.
    lengthscale : tensor_like, shape () or (Q,)
        In units of X; one number a latent dimension makes it ARD. Of several factors () for all, or one for each
        that has any, in the order of the text, or one for each of their dimensions.
    amplitude, sigma, bias : tensor_like, shape ()
        Standard deviations of the signal, the white noise and a constant common to all rows. The amplitude of
        several terms is () for all or one for each.
    alpha : tensor_like, shape () or (A,)
        Of the rational quadratic factors, () for all or one for each.
    weight : tensor_like, shape ()
        Standard deviation of the slopes of a linear part beside a stationary one, per unit of X.

    Returns
    -------
    TensorVariable, shape (N, N)

    Raises
    ------
    TypeError, ValueError
        If ``kernel`` is none of the table, a parameter has another shape, or one that is a number is not
        finite, or negative.

    Examples
    --------
    >>> import numpy as np
    >>> covariance("rbf", np.zeros((2, 1)), sigma=1.0).eval().tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    entry = parse_kernel(kernel)[0]
    if isinstance(entry, Composite):
        theta = {"lengthscale": lengthscale, "amplitude": amplitude, "alpha": alpha}
        return _composite_covariance(entry, X, theta, bias, sigma)
    lengthscale = as_parameter("lengthscale", lengthscale, ndim=(0, 1), positive=True)
    scales = {"amplitude": amplitude, "bias": bias, "sigma": sigma, "weight": weight}
    amplitude, bias, sigma, weight = (as_parameter(n, v, least=0.0) for n, v in scales.items())
    X = as_parameter("X", X, ndim=(2,))
    Q, given = X.type.shape[1], lengthscale.type.shape
    if Q is not None and given not in ((), (None,), (1,), (Q,)):
        raise ValueError(
            f"lengthscale must be one number, or one for each of the {Q} latent dimensions, got shape {given}."
        )
    Z = pt.as_tensor_variable(X, dtype="float64") / lengthscale
    # As the graph's own product even of two numbers: ModelSpec reads it.
    linear = [weight * lengthscale] if entry.summed else []
    return Covariance(entry.name)(Z, amplitude, bias, sigma, *linear)[0]


def length_of(vector: Variable) -> int:
    """Count the entries of a vector, whose type may not know it: that of data."""
    size = vector.type.shape[0]
    return int(vector.shape[0].eval()) if size is None else int(size)


def with_columns(X: Variable, latent_dim: int) -> Variable:
    """Tell positions' number of columns, which their type may not know."""
    return X if X.type.shape[1] is not None else pt.specify_shape(X, (None, latent_dim))


def _composite_covariance(
    entry: Composite, X: Any, theta: Mapping[str, Any], bias: Any, sigma: Any
) -> Variable:
    """Write down K of a kernel of several factors; a parameter that is one number is that of all."""
    X = as_parameter("X", X, ndim=(2,))
    Q = X.type.shape[1]
    if Q is None:
        raise ValueError(
            f"X must have a number of columns that the graph tells, with kernel {entry.name!r}, got one that it does "
            "not. Write X = pytensor.tensor.specify_shape(X, (None, Q))."
        )
    entry.check(Q)
    vectors, own = [], False
    for name, value in theta.items():
        signs: dict[str, Any] = {"least": 0.0} if name == "amplitude" else {"positive": True}
        given = as_parameter(name, value, ndim=(0, 1), **signs)
        either = [
            len(entry.labels(Q, ard=ard)[name][1]) if name in entry.parameters else 0
            for ard in (False, True)
        ]
        if given.ndim == 0 or name not in entry.parameters:
            given = pt.broadcast_to(given.reshape(()), (either[0],))
        size = length_of(given)
        if size not in either:
            wanted = " or ".join(map(str, dict.fromkeys(either)))
            raise ValueError(
                f"{name} must be one number, or have {wanted} entries with kernel {entry.name!r}, got {size}."
            )
        own = own or (name == "lengthscale" and either[0] < size)
        vectors.append(given)
    # As they are, where they are numbers: ModelSpec reads the graph.
    scalars = [as_parameter(n, v, least=0.0) for n, v in (("bias", bias), ("sigma", sigma))]
    return CompositeCovariance(entry.name, Q, own)(X, *vectors, *scalars)


# The log-density of Gaussian columns


def lower_factor(K: Variable) -> Variable:
    """Cholesky factor of K, with which draws are made: an error if K is not positive definite."""
    return pt.linalg.cholesky(K, lower=True)


def _lower_and_logdet(K: Variable) -> tuple[Variable, Variable]:
    """Cholesky factors and ln|K| of matrices (..., N, N); NaN if not positive definite."""
    chol = pt.linalg.cholesky(K, lower=True, on_error="nan")
    return chol, 2.0 * pt.log(pt.diagonal(chol, axis1=-2, axis2=-1)).sum(axis=-1)


def whitened(K: Variable, F: Variable) -> tuple[Variable, Variable]:
    """ln|K| and L⁻¹F, K = LLᵀ; NaN if K is not positive definite."""
    chol, logdet = _lower_and_logdet(K)
    return logdet, pt.linalg.solve_triangular(chol, F, lower=True, b_ndim=2)


def factorised(K: Variable) -> tuple[Variable, Callable[[Any], Variable]]:
    """ln|K| of matrices (..., N, N), and what solves with them; NaN if not positive definite."""
    chol, logdet = _lower_and_logdet(K)
    return logdet, lambda F: pt.linalg.cho_solve((chol, True), F, b_ndim=2)


class GaussianTerms(TwinOp):
    """fₘᵀ K⁻¹ fₘ for each column of F, and ln|K|.

    Inputs: ``K`` (N, N), of which the lower triangle is read, and ``F`` (N, M). Outputs: ``quad``
    (M,), ``logdet`` (); then ``K⁻¹`` (N, N; lower triangle meaningless) and ``K⁻¹F`` (N, M), kept
    for the pullback alone. A K that is not positive definite gives
    infinite terms, thus a log-density of -inf.
    """

    __props__ = ()

    def make_node(self, K: Any, F: Any) -> Apply:
        K = pt.as_tensor_variable(K, dtype="float64", ndim=2)
        F = pt.as_tensor_variable(F, dtype="float64", ndim=2)
        outputs = [pt.dvector(), pt.dscalar(), K.type(), F.type()]
        return Apply(self, [K, F], outputs)

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        K, F = shapes
        return [(F[1],), (), K, F]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F = inputs
        inverse = reused(storage[2][0], K.shape, "F")
        quad, logdet, weights = column_terms(K, F, inverse)
        for slot, value in zip(storage, (quad, np.asarray(logdet), inverse, weights), strict=True):
            slot[0] = value

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F = inputs
        logdet, solve = factorised(K)
        weights, failed = solve(F), pt.isnan(logdet)
        quad = pt.switch(failed, np.inf, (F * weights).sum(axis=0))
        return [quad, pt.switch(failed, np.inf, logdet), solve(pt.eye(K.shape[0])), weights]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        K, F = inputs
        inverse, weights = outputs[2:]
        connected = [not isinstance(bar.type, DisconnectedType) for bar in cotangents]
        if connected[3] and not connected[2]:  # asked for by a second derivative in F
            return super().pullback(inputs, outputs, cotangents)
        if connected[2]:
            raise NotImplementedError(
                "GaussianTerms has no derivative of its inverse: use its first two outputs."
            )
        quad_bar, logdet_bar = (
            out.zeros_like() if isinstance(bar.type, DisconnectedType) else bar
            for out, bar in zip(outputs[:2], cotangents[:2], strict=True)
        )
        dK = _LawrenceGradient()(K, F, quad_bar, logdet_bar, inverse, weights)
        return [dK, 2.0 * weights * quad_bar]


class _LawrenceGradient(SymmetricGradient):
    """∂L/∂K = ln|K|-bar K⁻¹ - K⁻¹F diag(quad-bar) FᵀK⁻¹, Lawrence's formula for quad-bar = -½.

    ``inverse`` and ``weights`` are what :class:`GaussianTerms` has computed at the same K and F.
    """

    __props__ = ()

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [shapes[0]]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        G = storage[0][0] = reused(storage[0][0], inputs[0].shape)
        for start, end in row_blocks(len(G)):
            G[start:end, :end] = self.lower_block(inputs, start, end)
        mirror(G)

    def lower_block(self, inputs: Sequence[Any], start: int, end: int) -> Array:
        _, _, quad_bar, logdet_bar, inverse, weights = inputs
        return lawrence_block(quad_bar, logdet_bar, inverse, weights, start, end)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, quad_bar, logdet_bar, *known = inputs
        # To be differentiated, the formula must stand in terms of K and F themselves.
        inverse = known[0] if known else factorised(K)[1](pt.eye(K.shape[0]))
        weights = known[1] if known else inverse @ F
        return [logdet_bar * inverse - (weights * quad_bar) @ weights.T]


class PatternTerms(TwinOp):
    """-½ Σ_g (tr(K_g⁻¹ F_g F_gᵀ) + D_g ln|K_g|), and what its gradient needs.

    Inputs: ``K`` (N, N), of which the lower triangle is read, and ``F`` (N, M), 0 where nothing was
    observed. Outputs: ``value`` (); ``slope`` (N, N), its derivative in K; ``weights`` (N, M), K_g⁻¹F_g
    in the rows of each pattern: both kept for the pullback. A K_g that is not positive definite gives
    a value of -inf. ``patterns`` are those of the columns of F, which stand for ``counts`` columns of
    each.
    """

    __props__ = ("patterns", "counts")

    def __init__(self, patterns: Patterns, counts: tuple[int, ...]) -> None:
        self.patterns, self.counts = patterns, counts

    def make_node(self, K: Any, F: Any) -> Apply:
        K = pt.as_tensor_variable(K, dtype="float64", ndim=2)
        F = pt.as_tensor_variable(F, dtype="float64", ndim=2)
        return Apply(self, [K, F], [pt.dscalar(), K.type(), F.type()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return [(), *shapes]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F = inputs
        slope = storage[1][0] = reused(storage[1][0], K.shape)
        weights = storage[2][0] = reused(storage[2][0], F.shape)
        value = pattern_terms(K, F, self.patterns, self.counts, slope, weights)
        storage[0][0] = np.asarray(value)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F = inputs
        seen = self.patterns.seen.astype(np.float64)
        member = (self.patterns.group == np.arange(len(seen))[:, None]).astype(np.float64)
        counts = np.array(self.counts, dtype=np.float64)
        both = seen[:, :, None] * seen[:, None, :]
        # Rows that are not seen are put in as independent and of variance 1: they add nothing.
        alone = np.eye(seen.shape[1]) * (1.0 - seen)[:, None, :]
        logdet, solve = factorised(K[None] * both + alone)
        inverse = solve(pt.constant(np.broadcast_to(np.eye(seen.shape[1]), both.shape)))
        weights = ((inverse @ F) * member[:, None, :]).sum(axis=0)
        value = -0.5 * ((F * weights).sum() + (counts * logdet).sum())
        slope = weights @ weights.T - (counts[:, None, None] * both * inverse).sum(axis=0)
        return [pt.switch(pt.isnan(value), -np.inf, value), 0.5 * slope, weights]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        _, slope, weights = outputs
        if any(not isinstance(bar.type, DisconnectedType) for bar in cotangents[1:]):
            return super().pullback(inputs, outputs, cotangents)  # a second derivative
        return [cotangents[0] * slope, -cotangents[0] * weights]


def incomplete_total_logp(F: Array, K: Any, *, scale: Array) -> Variable:
    """Log-density of all that was observed of ``scale`` · F (N, D) under N(0, scale² K).

    F is NaN where an entry is missing.
    """
    seen = ~np.isnan(F)
    patterns = column_patterns(seen)
    factors, short = patterns.shortened(F)
    terms = PatternTerms(short, tuple(np.bincount(patterns.group).tolist()))
    value, *_ = terms(K, pytensor.shared(factors, name="factors"))
    units = 0.5 * seen.sum() * np.log(2.0 * np.pi) + seen.sum(axis=0) @ np.log(scale)
    return value - float(units)


def incomplete_columns_logp(F: Any, K: Any, seen: NDArray[np.bool_], scale: Any = 1.0) -> Variable:
    """Log-density (D,) of what was observed of each column of ``scale`` · F under N(0, scale² K).

    F (N, D) may hold any number where nothing was seen.
    """
    F, K = pt.as_tensor_variable(F), pt.as_tensor_variable(K)
    terms, order = [], []
    for rows, columns in column_patterns(seen):
        quad, logdet, *_ = GaussianTerms()(K[np.ix_(rows, rows)], F[np.ix_(rows, columns)])
        terms.append(quad + logdet)
        order.append(columns)
    counts = seen.sum(axis=0)
    together = pt.concatenate(terms)[np.argsort(np.concatenate(order))]
    scale = pt.as_tensor_variable(scale, dtype="float64")
    return -0.5 * together - counts * (0.5 * np.log(2.0 * np.pi) + pt.log(scale))


def columns_logp(F: Any, K: Any, scale: Any = 1.0) -> Variable:
    """Log-density (D,) of each column of ``scale`` · F (N, D) under N(0, scale² K)."""
    F = pt.as_tensor_variable(F)
    scale = pt.as_tensor_variable(scale, dtype="float64")
    quad, logdet, *_ = GaussianTerms()(K, F)
    return -0.5 * (quad + logdet) - F.shape[0] * (0.5 * np.log(2.0 * np.pi) + pt.log(scale))


def total_logp(factor: Any, K: Any, *, n_columns: int, log_scale: float = 0.0) -> Variable:
    """Log-density of ``n_columns`` at once from a factor (N, M) with the same F Fᵀ.

    ``log_scale`` is the sum over the columns of the logarithm of their scale.
    """
    factor = pt.as_tensor_variable(factor)
    quad, logdet, *_ = GaussianTerms()(K, factor)
    N = factor.shape[0]
    return -0.5 * (quad.sum() + n_columns * (logdet + N * np.log(2.0 * np.pi))) - N * log_scale


# Columns that share a kernel matrix, not their amplitude and noise


class ColumnTerms(TwinOp):
    """ln p(f_d) of each column of F, but for -½ N ln 2π.

    Inputs: ``K`` (N, N), without noise, of which the lower triangle is read; ``F`` (N, D);
    ``signal`` (D,), a_d²; ``noise`` (D,), n_d. Outputs: ``terms`` (D,); then eigenvalues (r,) and
    eigenvectors (N, r) of K, kept for the pullback alone. Where the noise is not positive or
    anything not finite the terms are -inf.
    """

    __props__ = ()

    def make_node(self, K: Any, F: Any, signal: Any, noise: Any) -> Apply:
        given = [
            pt.as_tensor_variable(v, dtype="float64", ndim=n)
            for v, n in zip((K, F, signal, noise), (2, 2, 1, 1), strict=True)
        ]
        return Apply(self, given, [pt.dvector(), pt.dvector(), pt.dmatrix()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        rank = node.outputs[1].shape[0]
        return [(shapes[1][1],), (rank,), (shapes[0][0], rank)]

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F, signal, noise = inputs
        usable = (noise > 0.0).all() and all(np.isfinite(v).all() for v in inputs)
        if not usable:
            results = (np.full(F.shape[1], -np.inf), np.empty(0), np.empty((len(K), 0), order="F"))
        else:
            with np.errstate(divide="ignore"):
                least = float((noise / signal).min())
            values, vectors = spectrum(K, least)
            parts = ColumnParts(F, signal, noise, values, vectors)
            results = (parts.terms, values, vectors)
        for slot, value in zip(storage, results, strict=True):
            slot[0] = value

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, signal, noise = inputs
        _, solved, log_det = _each_column(K, F, signal, noise)
        terms = -0.5 * ((F.T * solved).sum(axis=1) + log_det)
        return [pt.switch(pt.isnan(terms), -np.inf, terms), *pt.linalg.eigh(K)]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True, False, False]] * 4

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        return list(_ColumnGradient()(*inputs, cotangents[0], *outputs[1:]))


class _ColumnGradient(GradientOp):
    """Σ_d c_d ∂ terms_d / ∂ (K, F, signal, noise).

    Inputs: those of :class:`ColumnTerms`, c (D,), and the eigenvalues and -vectors it has found.
    """

    __props__ = ()

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [v.type() for v in inputs[:4]])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        return list(shapes[:4])

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, F, signal, noise, weight, values, vectors = inputs
        if not vectors.size:
            for slot, value in zip(storage, inputs[:4], strict=True):
                slot[0] = np.full(value.shape, np.nan)
            return
        parts = ColumnParts(F, signal, noise, values, vectors)
        solved = parts.solved()
        G = storage[0][0] = reused(storage[0][0], K.shape)
        parts.slope(solved, weight, G)
        storage[1][0] = solved * -weight
        storage[2][0], storage[3][0] = weight * parts.by_signal, weight * parts.by_noise

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        K, F, signal, noise, weight, *_ = inputs
        inverse, solved, _ = _each_column(K, F, signal, noise)
        slopes = 0.5 * (solved[:, :, None] * solved[:, None, :] - inverse)  # ∂ terms / ∂ V
        dK = ((weight * signal)[:, None, None] * slopes).sum(axis=0)
        by_signal = weight * (slopes * K).sum(axis=(1, 2))
        by_noise = weight * pt.diagonal(slopes, axis1=-2, axis2=-1).sum(axis=-1)
        return [dK, -(weight[:, None] * solved).T, by_signal, by_noise]


def _each_column(
    K: Variable, F: Variable, signal: Variable, noise: Variable
) -> tuple[Variable, Variable, Variable]:
    """V_d⁻¹ (D, N, N), V_d⁻¹ f_d (D, N) and ln|V_d| (D,)."""
    lower = pt.tril(K) + pt.tril(K, k=-1).T
    V = signal[:, None, None] * lower + noise[:, None, None] * pt.eye(K.shape[0])
    log_det, solve = factorised(V)
    return solve(pt.eye(K.shape[0]) + pt.zeros_like(V)), solve(F.T[:, :, None])[:, :, 0], log_det


def own_columns_logp(
    F: Any, K: Any, seen: NDArray[np.bool_] | None, *, amplitude: Any, noise: Any, scale: Any = 1.0
) -> Variable:
    """Log-density of what was observed of each column of ``scale`` · F under N(0, scale² V_d).

    F (N, D) is standardised, any number where missing, K without noise, ``amplitude`` a_d a standard
    deviation and ``noise`` n_d a variance (D,). Columns with the same rows ``seen`` (N, D; None if nothing
    is missing) share a decomposition.
    """
    F, K, amplitude, noise, scale = (
        pt.as_tensor_variable(v, dtype="float64") for v in (F, K, amplitude, noise, scale)
    )
    units = 0.5 * np.log(2.0 * np.pi) + pt.log(scale)
    if seen is None or seen.all():
        return ColumnTerms()(K, F, amplitude**2, noise)[0] - F.shape[0] * units
    terms, order = [], []
    for rows, columns in column_patterns(seen):
        part, table = K[np.ix_(rows, rows)], F[np.ix_(rows, columns)]
        terms.append(ColumnTerms()(part, table, amplitude[columns] ** 2, noise[columns])[0])
        order.append(columns)
    together = pt.concatenate(terms)[np.argsort(np.concatenate(order))]
    return together - seen.sum(axis=0) * units


# Columns of entries that are not Gaussian


class Entries(Protocol):
    """What :class:`LaplaceTerms` asks of a table and its likelihood."""

    def terms(self, f: Array, parameters: Sequence[Array]) -> Terms:
        """Ln p(y given f) of each entry (N, D), and its derivatives as :func:`laplace_columns` takes them."""
        ...

    def slopes(
        self, f: Array, variance: Array, adjoint: Array, parameters: Sequence[Array]
    ) -> list[Array]:
        """Return the derivatives in the parameters of Σ [ln p + ½ variance (ln p)'' + adjoint (ln p)']."""
        ...


class LaplaceTerms(Op):
    """Σ_d ln p(y_d given K, level_d, parameters) by Laplace's approximation, with its gradient.

    Inputs: ``K`` (N, N) without noise; ``level`` (D,); the parameters of the entries. Outputs: the sum; its
    gradient in all inputs; ``weights`` (N, D), K⁻¹(f - level) at the mode of f, from which the next search for
    the mode begins. Where there is none, as K is not finite, the sum is -inf.
    """

    __props__ = ()

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self._weights: Array | None = None

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def make_node(self, K: Any, level: Any, *parameters: Any) -> Apply:
        given = [
            pt.as_tensor_variable(K, dtype="float64", ndim=2),
            pt.as_tensor_variable(level, dtype="float64", ndim=1),
            *(pt.as_tensor_variable(p, dtype="float64") for p in parameters),
        ]
        return Apply(self, given, [pt.dscalar(), *(v.type() for v in given), pt.dmatrix()])

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        K, level, *parameters = inputs
        start = self._weights
        if start is not None and start.shape != (len(K), len(level)):
            start = None
        results = [np.asarray(-np.inf), *(np.full_like(v, np.nan) for v in inputs)]
        results.append(np.full((len(K), len(level)), np.nan))
        if all(np.isfinite(v).all() for v in inputs):
            with np.errstate(all="ignore"), suppress(np.linalg.LinAlgError, NoMode):
                found = laplace_columns(
                    K, level, partial(self.entries.terms, parameters=parameters), start
                )
                moved = found.mode, found.variance, found.adjoint
                slopes = self.entries.slopes(*moved, parameters)
                total = np.asarray(found.value.sum())
                results = [total, found.by_K, found.by_level, *slopes, found.weights]
                if np.isfinite(found.weights).all():
                    self._weights = found.weights
        for slot, result in zip(storage, results, strict=True):
            slot[0] = np.asarray(result, dtype=np.float64)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True, *[False] * (len(node.outputs) - 1)]] * len(node.inputs)

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        return [cotangents[0] * slope for slope in outputs[1:-1]]


# The collapsed bound


class CollapsedBound(TwinOp):
    """The bound as an Op that computes its gradient along with it.

    Inputs: ``U``, ``S`` (N, Q) and ``W`` (M, Q), in units of the lengthscale, three scalars
    ``amplitude``, ``bias`` and ``sigma``, and a factor ``F`` (N, R) with the FFᵀ of the table, of
    which no derivative is taken; of a kernel with a linear part beside another also its ``ratio`` (Q,)
    to it. Outputs: the bound, its gradient in all but F, the ratio last, and memory that the next
    evaluation works in.
    """

    __props__: tuple[str, ...] = ("kernel", "n_columns", "points")

    def __init__(self, kernel: str, n_columns: int, points: bool = False) -> None:
        self.kernel, self.n_columns, self.points = kernel, n_columns, points

    def make_node(self, *inputs: Any) -> Apply:
        ndims = (2, 2, 2, 0, 0, 0, 2, *([1] if KERNELS[self.kernel].summed else []))
        given = [
            pt.as_tensor_variable(v, dtype="float64", ndim=n)
            for v, n in zip(inputs, ndims, strict=True)
        ]
        moved = [v.type() for v in (*given[:6], *given[7:])]
        return Apply(self, given, [pt.dscalar(), *moved, pt.dmatrix()])

    def infer_shape(self, node: Apply, shapes: Any) -> list[Any]:
        memory = node.outputs[-1]
        return [(), *shapes[:6], *shapes[7:], (memory.shape[0], memory.shape[1])]

    def quadrature(self, Q: int) -> Quadrature | None:
        """Return that of points or of q in Q dimensions, None where there is a closed form."""
        if self.points:
            return ONE_NODE
        return None if self.kernel in CLOSED_FORM else cubature(Q)

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        U, S, W, amplitude, bias, sigma, F, *ratio = inputs
        quadrature = self.quadrature(U.shape[1])
        by_blocks = self.kernel == "rbf" and quadrature is None
        shape = workspace_shape(len(U), len(W)) if by_blocks else (0, 0)
        workspace = storage[-1][0] = reused(storage[-1][0], shape)
        whole = InducingKernel(
            self.kernel,
            (U, S, W),
            float(amplitude),
            float(bias),
            quadrature=quadrature,
            workspace=workspace,
            ratio=ratio[0] if ratio else None,
        )
        value, gradient = whole.bound_and_gradient(F, float(sigma), self.n_columns)
        for slot, result in zip(storage, (value, *gradient), strict=False):
            slot[0] = np.asarray(result, dtype=np.float64)

    def symbolic(self, *inputs: Variable) -> list[Variable]:
        def written(*inputs: Variable) -> list[Variable]:
            U, S, W, amplitude, bias, sigma, F, *ratio = inputs
            settings = {"ratio": ratio[0] if ratio else None, "xp": SYMBOLIC}
            return [self._written((U, S, W), (amplitude, bias), F, sigma, settings)]

        gradient = partial_derivatives(written, inputs, [pt.constant(1.0)])
        return [*written(*inputs), *gradient[:6], *gradient[7:], pt.zeros((0, 0))]

    def _written(
        self,
        positions: tuple[Variable, ...],
        scales: tuple[Variable, Variable],
        F: Variable,
        sigma: Variable,
        settings: dict[str, Any],
    ) -> Variable:
        """Write down the bound."""
        settings["quadrature"] = self.quadrature(positions[0].type.shape[1])
        whole = InducingKernel(self.kernel, positions, *scales, **settings)
        return whole.bound(F, sigma, self.n_columns)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        n = len(node.inputs)
        return [[i != 6] * n + [False] for i in range(n)]

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        bar, *others = cotangents
        if not all(isinstance(other.type, DisconnectedType) for other in others):
            raise NotImplementedError("CollapsedBound has no second derivative.")
        moved = [bar * gradient for gradient in outputs[1:-1]]
        return [*moved[:6], DisconnectedType()(), *moved[6:]]


class PatternBound(CollapsedBound):
    """The bound, or FITC's log-likelihood, of a table with missing entries, as :class:`CollapsedBound`.

    ``patterns`` are those of the columns of F, 0 where nothing was observed, which stand for ``widths``
    columns of each.
    """

    __props__ = ("kernel", "points", "fitc", "patterns", "widths")

    def __init__(
        self,
        kernel: str,
        patterns: Patterns,
        widths: tuple[int, ...],
        points: bool = False,
        *,
        fitc: bool = False,
    ) -> None:
        super().__init__(kernel, sum(widths), points)
        self.patterns, self.widths, self.fitc = patterns, widths, fitc

    def perform(self, node: Apply, inputs: Sequence[Any], storage: Any) -> None:
        U, S, W, amplitude, bias, sigma, F, *ratio = inputs
        scales, by = (float(amplitude), float(bias)), (F, float(sigma))
        settings: dict[str, Any] = {"quadrature": self.quadrature(U.shape[1])}
        settings["ratio"] = ratio[0] if ratio else None
        if self.points:
            whole = InducingKernel(self.kernel, (U, S, W), *scales, **settings)
            each = self.patterns, self.widths
            value, gradient = points_and_gradient(whole, *by, *each, own_noise=self.fitc)
        else:
            settings["patterns"] = self.patterns
            split = PatternKernel(self.kernel, (U, S, W), *scales, **settings)
            value, gradient = split.bounds_and_gradient(*by, self.widths)
        for slot, result in zip(storage, (value, *gradient, np.empty((0, 0))), strict=True):
            slot[0] = np.asarray(result, dtype=np.float64)

    def _written(
        self,
        positions: tuple[Variable, ...],
        scales: tuple[Variable, Variable],
        F: Variable,
        sigma: Variable,
        settings: dict[str, Any],
    ) -> Variable:
        """Write down the sum over the patterns, each the complete table of its rows and columns."""
        (U, S, W), total = positions, 0.0
        settings["quadrature"] = self.quadrature(U.type.shape[1])
        for (rows, columns), width in zip(self.patterns, self.widths, strict=True):
            own = InducingKernel(self.kernel, (U[rows], S[rows], W), *scales, **settings)
            value = own.fitc_log_likelihood if self.fitc else own.bound
            total = total + value(F[rows][:, columns], sigma, width)
        return total
