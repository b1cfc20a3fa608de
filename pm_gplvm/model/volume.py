"""The volume that the posterior of X takes, given θ, as a function of θ alone.

Laplace's approximation of the marginal likelihood with X integrated out is

    ln p(Y | θ) ≈ L(X̂, θ) + ln p(X̂) + ½ N Q ln 2π - ½ ln|P + H|,

P the precision of X's prior and H = -∂²L/∂X² at X̂. In it H is replaced by what the prior expects of
it. A function drawn from the kernel has in dimension q slopes of variance c amplitude² / lengthscale_q²
+ weight², c = -κ''(0), and each of the D_n entries of a row that were observed tells of the row's
position with the precision slope² / noise variance:

    h_nq = D_n (c amplitude² / lengthscale_q² + weight²) / (sigma² + resolution²).

Of a kernel of several factors the variance of the slopes is the sum over its terms and those of their factors
that look at the dimension, Σ_t amplitude_t² Σ_f c_f / lengthscale_f², c = 1 for periodic and rational
quadratic ones, and amplitude_t² of an inner product that stands alone. Terms of known inputs add nothing: their
functions do not change with x, and given them the entries tell of x what they tell without.

Where columns have an amplitude and a noise of their own, n_d, each amplitude would shrink for the sake
of this term, and the noise of one column go to 0 (a Heywood case). What a column's function varies by
is then taken from the column itself, its variance v_d less its noise, and the kernel only says how
steep a function is that varies by 1 over x ~ N(0, I):

    h_nq = Σ_d (v_d / n_d - 1)₊ (c / lengthscale_q² + weight²) / [(1 - E κ + Q weight²) mean x²],
    E κ = Π_q (1 + 2 c / lengthscale_q²)^-½,

which is exact for rbf and takes another kernel as the rbf of the same curvature. The mean of x² is in
it as nothing else holds the scale of X once no amplitude does; X is the mode given θ but for that scale.

Several tables of the same rows tell of a position each by itself: h is the sum of theirs.

With P diagonal the term is -½ Σ ln(P_nq + h_nq). Its opposite limits are the mode of (X, θ) jointly, which
leaves the volume out, and the density of X / lengthscale, which takes only its factor lengthscaleᴺᑫ.
"""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.graph.basic import Variable

from pm_gplvm.core.composite import Composite
from pm_gplvm.core.kernels import KERNELS, is_known, kernel_named, prior_slope_variance
from pm_gplvm.model.ops import GaussianTerms, length_of
from pm_gplvm.model.spec import ModelSpec

_LOG_2PI = float(np.log(2.0 * np.pi))


def why_no_volume(model: pm.Model | ModelSpec) -> str | None:
    """Tell in a sentence why X cannot be integrated out of a model, or None if it can."""
    spec = ModelSpec.of(model)
    if not all(map(is_known, spec.kernels)):
        return (
            "it needs the expected slope of the kernel, and knows that of "
            f"{', '.join(KERNELS)} in the model's own parameters, got a covariance of another kind"
        )
    for entry in map(kernel_named, spec.kernels):
        if isinstance(entry, Composite) and entry.why_no_slope is not None:
            return f"it needs the expected slope of the kernel, and {entry.why_no_slope}"
    if not spec.table.standardisable:
        return "the mean and scale of its table must be data"
    if spec.is_X_held:
        return "X is held fixed"
    if "X" in spec.free and not spec.prior.is_known:
        return (
            "it needs the precision of X's prior, and knows Normal, informative, dynamics, class_mixture, circular and "
            "back_constraint, got another one"
        )
    return None


def log_volume(model: pm.Model | ModelSpec, rows: NDArray[np.intp] | None = None) -> Variable:
    """Write down ½ n ln 2π - ½ ln|P + H|, n the number of positions, H as the prior expects it.

    A number of the random variables of a model of which :func:`why_no_volume` is None; with ``rows`` of
    their positions alone, where the prior has them independent.
    """
    spec = ModelSpec.of(model)
    (h, (N, Q)), *others = [_information(part) for part in spec.parts]
    for other, _ in others:
        h = h + other
    if spec.prior.says.mapped:
        # X = B w with w ~ N(0, I), and the columns of B are orthogonal.
        squares = pt.constant((spec.basis**2).sum(axis=0))
        volume = pt.log1p(squares[:, None] * h[0]).sum()
        return 0.5 * (squares.type.shape[0] * Q * _LOG_2PI - volume)
    rowcov = spec.prior.row_covariance
    if rowcov is not None:
        # ln|I + h_q^½ C h_q^½|, C the covariance of each column of X.
        roots = [pt.sqrt(h[:, q]) for q in range(Q)]
        inner = [_log_det(pt.eye(N) + root[:, None] * rowcov * root, N) for root in roots]
        return 0.5 * (N * Q * _LOG_2PI + Q * _log_det(rowcov, N) - sum(inner, pt.constant(0.0)))
    each = pt.log(pt.broadcast_to(1.0 / pt.square(spec.prior.spread), (N, Q)) + h)
    if rows is not None:
        N, each = len(rows), each[rows]
    return 0.5 * (N * Q * _LOG_2PI - each.sum())


def _information(spec: ModelSpec) -> tuple[Variable, tuple[int, int]]:
    """h_nq and its shape (N, Q)."""
    F, own, Q, theta = spec.table.F, spec.table.own is not None, spec.latent_dim, spec.theta
    seen = (~np.isnan(F)).astype(np.float64)
    kernel = kernel_named(spec.kernel)
    if isinstance(kernel, Composite):
        of_theta = {name: theta[name] for name in kernel.parameters}
        length = length_of(theta["lengthscale"]) if "lengthscale" in theta else 0
        slope = kernel.prior_slope_variance(Q, **of_theta, own=kernel.has_own(Q, length), xp=pt)
        precision = pt.constant(seen.sum(axis=1)) / pt.square(spec.noise)
        return precision[:, None] * slope, (len(seen), Q)
    amplitude, weight = theta.get("amplitude", 1.0), theta.get("weight", 1.0)
    signal = pt.constant(1.0) if own else pt.square(amplitude)  # of the stationary part
    linear = (pt.square(weight) if kernel.summed else 1.0) if kernel.linear else 0.0
    slope, rate = pt.constant(0.0) + linear, 0.0
    lengthscale = pt.broadcast_to(theta.get("lengthscale", 1.0), (Q,))
    if kernel.scaled is not None:
        rate = float(prior_slope_variance(kernel.name, 1, weight=0.0)[0])
        slope = slope + rate * signal / pt.square(lengthscale)
    noise = pt.broadcast_to(pt.square(spec.noise), (seen.shape[1],))
    each = 1.0 / noise
    if own:
        near = pt.exp(-0.5 * pt.log1p(2.0 * rate / pt.square(lengthscale)).sum())
        varies = (1.0 - near if rate else 0.0) + Q * linear
        variance = pt.constant(np.nanvar(F, axis=0))
        # The scale of X is free then; that at which X has its prior's spread is taken.
        each = pt.maximum(variance / noise - 1.0, 0.0) / (varies * pt.square(spec.X).mean())
    precision = pt.constant(seen) @ each
    return precision[:, None] * pt.broadcast_to(slope, (Q,)), (len(seen), Q)


def _log_det(A: Variable, N: int) -> Variable:
    return GaussianTerms()(A, pt.zeros((N, 1)))[1]
