"""Gaussian processes through inducing inputs: q(u), the collapsed bound with its gradient, and FITC.

With the statistics Ψ₀, Ψ₁, Ψ₂ of the whole kernel k = amplitude² κ + bias² (see
:mod:`pm_gplvm.core.psi`), K = k(W, W), β = sigma⁻² and F the standardised table (N, D),

    ⟨ln p(F|X)⟩ ≥ -½ N D ln 2π/β - ½ D ln|B| - ½ β tr FFᵀ + ½ β² tr(PᵀL⁻ᵀB⁻¹L⁻¹P)
                  - ½ β D Ψ₀ + ½ D tr A,
    A = β L⁻¹Ψ₂L⁻ᵀ,  B = I + A,  K = LLᵀ,  P = Ψ₁ᵀF

(Titsias 2009, eq. 9; Titsias & Lawrence 2010, eq. 14 and 15). FITC (Snelson & Ghahramani 2006,
eq. 9) is the same for points whose rows are divided by the noise of each, less the last two terms.

Values are written over a namespace xp: NumPy, or PyTensor where a compiler needs the expression.
Gradients are in NumPy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, lapack

from pm_gplvm.core.blas import rowwise
from pm_gplvm.core.checks import Array
from pm_gplvm.core.gaussian import Indices
from pm_gplvm.core.kernels import KERNELS
from pm_gplvm.core.psi import (
    Quadrature,
    correlation,
    own_variance,
    psi_statistics,
    symbolic_statistics,
)

JITTER = 1e-8
"""Share of amplitude² added to the diagonal of K: the inducing values are seen with that much
noise, under which the bound is still a bound."""


class InducingPosterior:
    """The optimal Gaussian over the values at the inducing inputs, and the bound that it gives.

    Made of L⁻¹, A (M, M), L⁻¹P (M, D), Ψ₀ and sigma. Where B is not positive definite, it raises
    LinAlgError in NumPy and is not a number in PyTensor.
    """

    def __init__(self, half: Any, A: Any, alpha: Any, psi0: Any, sigma: Any, xp: Any = np) -> None:
        self.half, self.A, self.alpha, self.psi0, self.sigma = half, A, alpha, psi0, sigma
        self.xp, self.beta, self.identity = xp, 1.0 / sigma**2, xp.eye(half.shape[0])
        root, log_root = inverse_factor(self.identity + A, xp)
        self.log_det = 2.0 * log_root
        self.inverse = root.T @ root  # B⁻¹
        self.gamma = self.inverse @ alpha

    # With A = V diag(λ) Vᵀ and t = VᵀL⁻¹ k(W, x) the mean at x is tᵀ coefficients, and the variance
    # k(x, x) - Σ s t², s = λ / (1 + λ): no number here is large where K is nearly singular.

    @cached_property
    def _spectrum(self) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh(self.A)
        return np.maximum(values, 0.0), vectors

    @cached_property
    def directions(self) -> Array:
        """VᵀL⁻¹, which k(W, x) is multiplied by for t, shape (M, M)."""
        return np.asarray(self._spectrum[1].T @ self.half)

    @cached_property
    def shares(self) -> Array:
        """How much of the prior variance of each direction the data take away, shape (M,)."""
        values, _ = self._spectrum
        return np.asarray(values / (1.0 + values))

    @cached_property
    def coefficients(self) -> Array:
        """What t is multiplied by to give the mean, shape (M, D)."""
        values, vectors = self._spectrum
        return np.asarray(self.beta * (vectors.T @ self.alpha) / (1.0 + values)[:, None])

    @property
    def basis_and_precisions(self) -> tuple[Array, Array]:
        """V (M, M), and the precisions (M,) of L⁻¹u along its columns, 1 of the prior."""
        values, vectors = self._spectrum
        return vectors, 1.0 + values

    @property
    def weights(self) -> Array:
        """What k(x, W) is multiplied by to give the mean at x, shape (M, D)."""
        return self.directions.T @ self.coefficients

    @property
    def reduction(self) -> Array:
        """R with variance k(x, x) - k(x, W) R k(W, x) at x, shape (M, M)."""
        return (self.directions.T * self.shares) @ self.directions

    def row_terms(self, turned: Array, prior: Array, F: Array, noise: Array) -> "RowTerms":
        """Rows of the table F (N, D) that q(u) was made of, at positions that are known.

        ``turned`` (N, M) are their t, ``prior`` (N,) their k(x, x), ``noise`` (N,) the variance with
        which each was seen.
        """
        left = (turned**2 * (1.0 - self.shares)).sum(axis=1)
        return RowTerms(
            residual=F - turned @ self.coefficients,
            variance=np.maximum(prior - (turned**2).sum(axis=1), 0.0) + left,
            known=left,
            noise=noise,
        )

    def moments(self, turned: Array, second: Array, prior: Array) -> tuple[Array, Array]:
        """Mean and variance (n, D) at uncertain x, from E t (n, M), E ttᵀ (n, M, M) and E k(x, x) (n,)."""
        mean = turned @ self.coefficients
        known = np.einsum("nmm,m->n", second, self.shares)
        spread = np.stack(
            [((S @ self.coefficients) * self.coefficients).sum(axis=0) for S in second]
        )
        return mean, np.maximum((prior - known)[:, None] + spread - mean**2, 0.0)

    def column_terms(self, F: Array) -> tuple[Array, float]:
        """-2 times the bound of each column of F (N, D) is the first (D,) and the second, but for N ln 2π."""
        quad = self.beta * ((F**2).sum(axis=0) - self.beta * (self.alpha * self.gamma).sum(axis=0))
        slack = self.beta * self.psi0 - np.trace(self.A)
        return quad, float(self.log_det + slack - len(F) * np.log(self.beta))

    def bound(self, trace: Any, n_rows: Any, n_columns: int) -> Any:
        """Return the bound for a table of tr FFᵀ = ``trace``."""
        fit = self.beta * (self.alpha * self.gamma).sum()
        slack = self.beta * self.psi0 - self.xp.trace(self.A)
        constant = n_rows * self.xp.log(2.0 * np.pi / self.beta) + self.log_det + slack
        return -0.5 * (n_columns * constant + self.beta * (trace - fit))

    def pullback(
        self, trace: float, n_rows: int, n_columns: int
    ) -> tuple[Array, float, Array, Array, float]:
        """Differentiate the bound in K, Ψ₀, P, Ψ₂ and sigma; the matrices' are symmetric."""
        D, beta, A = n_columns, self.beta, self.A
        cross = beta**2 * self.gamma @ self.gamma.T
        dA = 0.5 * (D * (self.identity - self.inverse) - cross)
        # K in units of itself: L (I + ε) Lᵀ for a small symmetric ε changes A by -½ (εA + Aε).
        mixed = A @ dA + 0.5 * beta**2 * self.gamma @ self.alpha.T
        dK = -0.5 * self.half.T @ (mixed + mixed.T) @ self.half
        dpsi2 = beta * self.half.T @ dA @ self.half
        dP = beta**2 * self.half.T @ self.gamma
        fit = float((self.alpha * self.gamma).sum())
        dbeta = (0.5 * D * n_rows + float((dA * A).sum())) / beta
        dbeta += beta * fit - 0.5 * (trace + D * self.psi0)
        return dK, -0.5 * D * beta, dP, dpsi2, -2.0 * dbeta / self.sigma**3


@dataclass(frozen=True)
class RowTerms:
    """Rows of the table under q(u): residuals (N, D) of the mean at their positions, and variances (N,).

    ``variance`` is that of the noise-free function, ``known`` the part of it that u leaves, ``noise`` that
    with which the row was seen.
    """

    residual: Array
    variance: Array
    known: Array
    noise: Array

    def left_out(self, measured: float) -> tuple[Array, Array]:
        """Residuals (N, D) and variances (N,) of a measurement of each row given the others.

        Without row n its B is less by tₙtₙᵀ / noise, of rank one: with the leverage
        h = known / noise the residual is divided by 1 - h, and so is what u leaves of the variance
        (the matrix inversion lemma). ``measured`` is the noise of a new measurement.
        """
        kept = 1.0 - self.known / self.noise
        variance = self.variance - self.known + self.known / kept + measured
        return self.residual / kept[:, None], variance


def shortened(coefficients: Array, y: Array) -> tuple[Array, Array, Array]:
    """Rows y (n, d) and the coefficients (M, d) of their mean t coefficients, in at most M numbers each.

    With coefficientsᵀ = QR, ‖y - t coefficients‖² = ‖y - QQᵀy‖² + ‖Qᵀy - Rt‖². Returns Qᵀy (n, r), R (r, M)
    and the first term (n,). No square is taken before the difference is small.
    """
    Q, R = np.linalg.qr(coefficients.T)
    short = rowwise(y, Q)
    rest = ((y - rowwise(short, Q.T)) ** 2).sum(axis=1)
    return short, R, rest


def inverse_factor(A: Any, xp: Any) -> tuple[Any, Any]:
    """L⁻¹ and ln|L| of A = LLᵀ."""
    if xp is not np:
        factor = xp.linalg.cholesky(A, lower=True, on_error="nan")
        inverse = xp.linalg.solve_triangular(factor, xp.eye(A.shape[0]), lower=True, b_ndim=2)
    else:
        factor, info = lapack.dpotrf(A, lower=1, clean=1)
        if info:
            raise LinAlgError("not positive definite")
        inverse = lapack.dtrtri(factor, lower=1)[0]
    return inverse, xp.log(xp.diagonal(factor)).sum()


class InducingKernel:
    """Statistics of amplitude² κ + bias², and the covariance K of the inducing values.

    Positions are U, S and W of :func:`pm_gplvm.core.psi.psi_statistics`.
    """

    def __init__(
        self,
        kernel: str,
        positions: tuple[Any, Any, Any],
        amplitude: Any,
        bias: Any,
        *,
        quadrature: Quadrature | None = None,
        workspace: Array | None = None,
        ratio: Any = None,
        xp: Any = np,
    ) -> None:
        self.positions = positions
        U, _, W = positions
        self.kernel, self.amplitude, self.bias, self.xp = kernel, amplitude, bias, xp
        self.ratio = ratio
        self.n_rows = U.shape[0]
        a2, b2 = amplitude**2, bias**2
        self.own = self._statistics(quadrature, workspace)
        self.correlation, self.slope = correlation(kernel, W, W, xp, ratio)
        # Beside a linear part the amplitude may be small: the jitter is a share of both.
        share = JITTER if ratio is None else JITTER * (1.0 + (ratio**2).sum())
        self.correlation = self.correlation + share * xp.eye(W.shape[0])
        self.K = a2 * self.correlation + b2
        self._sum_up(a2, b2)

    def _statistics(self, quadrature: Quadrature | None, workspace: Array | None) -> Any:
        """Psi statistics of the kernel less amplitude and bias."""
        settings: dict[str, Any] = {"quadrature": quadrature, "ratio": self.ratio}
        if self.xp is not np:
            return symbolic_statistics(self.kernel, *self.positions, xp=self.xp, **settings)
        return psi_statistics(self.kernel, *self.positions, workspace=workspace, **settings)

    def _sum_up(self, a2: Any, b2: Any) -> None:
        """Ψ₀ and Ψ₂ of the whole kernel."""
        self.column_sums = self.own.psi1.sum(axis=0)
        self.psi0 = a2 * self.own.psi0 + self.n_rows * b2
        outer = self.column_sums[:, None] + self.column_sums
        self.psi2 = a2**2 * self.own.psi2 + a2 * b2 * outer + self.n_rows * b2**2

    @classmethod
    def of(
        cls,
        kernel: str,
        positions: tuple[Array, Array, Array],
        theta: Mapping[str, Any],
        **settings: Any,
    ) -> "InducingKernel":
        """Set it up at means and standard deviations of X and inducing inputs in units of X."""
        mean, sd, W = (p / theta.get("lengthscale", 1.0) for p in positions)
        amplitude, bias = (float(theta.get(n, d)) for n, d in (("amplitude", 1.0), ("bias", 0.0)))
        ratio = None
        if KERNELS[kernel].summed:
            unit = np.broadcast_to(theta["lengthscale"], W.shape[1])
            ratio = theta["weight"] * unit / amplitude
        return cls(kernel, (mean, sd, W), amplitude, bias, ratio=ratio, **settings)

    @property
    def psi1(self) -> Any:
        """Ψ₁, shape (N, M)."""
        return self.amplitude**2 * self.own.psi1 + self.bias**2

    def posterior(self, F: Any, sigma: Any) -> InducingPosterior:
        """Return the posterior of the inducing values given a table F (N, D)."""
        return self.posterior_of(self.cross_sums(F), self.psi0, self.psi2, sigma)

    def cross_sums(self, F: Any) -> Any:
        """P = Ψ₁ᵀF, shape (M, D)."""
        return self.amplitude**2 * (self.own.psi1.T @ F) + self.bias**2 * F.sum(axis=0)

    def posterior_of(self, P: Any, psi0: Any, psi2: Any, sigma: Any) -> InducingPosterior:
        """Return that of any rows, of which these are the sums."""
        half, _ = inverse_factor(self.K, self.xp)
        A = 1.0 / sigma**2 * half @ psi2 @ half.T
        return InducingPosterior(half, A, half @ P, psi0, sigma, self.xp)

    def posteriors(self, F: Array, sigma: float) -> Iterator[tuple[Indices, InducingPosterior]]:
        """Columns of F (N, D) that have the same rows observed, and the posterior of u given these: all."""
        yield np.arange(F.shape[1]), self.posterior(F, sigma)

    def bound(self, F: Any, sigma: Any, n_columns: int) -> Any:
        """Write down the bound of :meth:`bound_and_gradient` for PyTensor."""
        value = self.posterior(F, sigma).bound((F**2).sum(), F.shape[0], n_columns)
        return self.xp.switch(self.xp.isnan(value), -np.inf, value)

    def bound_and_gradient(
        self, F: Array, sigma: float, n_columns: int
    ) -> tuple[float, tuple[Any, ...]]:
        """Compute the bound and its gradient in U, S, W, amplitude, bias, sigma and ρ of a sum.

        F (N, R) is a factor with the FFᵀ of the table, which has ``n_columns``. Infinite and not a
        number where a matrix is not positive definite.
        """
        size = float(np.vdot(F, F)), len(F), n_columns
        try:
            found = self.posterior(F, sigma)
        except LinAlgError:
            return self.failed()
        dK, dpsi0, dP, dpsi2, dsigma = found.pullback(*size)
        *gradient, along = self.pullback(F, dK, dpsi0, dP, dpsi2)
        return found.bound(*size), (*gradient, dsigma, *along)

    def failed(self) -> tuple[float, tuple[Any, ...]]:
        """Value and gradient where a matrix is not positive definite."""
        nothing = (np.full_like(v, np.nan) for v in self.positions)
        of_ratio = () if self.ratio is None else (np.full_like(self.ratio, np.nan),)
        return -np.inf, (*nothing, np.nan, np.nan, np.nan, *of_ratio)

    def row_moments(self, posterior: InducingPosterior) -> tuple[Array, Array]:
        """Mean and variance (N, D) of the noise-free function at the rows' own uncertain positions."""
        a2, b2, T = self.amplitude**2, self.bias**2, posterior.directions
        mean, variance = [], []
        for rows, own in self.own.second_moments():
            first = self.own.psi1[rows]
            crossed = a2 * b2 * (first[:, :, None] + first[:, None]) + b2**2
            second = T @ (a2**2 * own + crossed) @ T.T
            prior = a2 * self.own_variance[rows] + b2
            found = posterior.moments(self.psi1[rows] @ T.T, second, prior)
            mean.append(found[0])
            variance.append(found[1])
        return np.concatenate(mean), np.concatenate(variance)

    @property
    def own_variance(self) -> Array:
        """⟨κ(xₙ, xₙ)⟩ of each row, shape (N,)."""
        U, S, _ = self.positions
        spread = own_variance(self.kernel, U, self.ratio)
        if KERNELS[self.kernel].linear:
            unit = 1.0 if self.ratio is None else self.ratio
            spread = spread + ((unit * S) ** 2).sum(axis=1)
        return np.broadcast_to(spread, len(U))

    def fitc_log_likelihood(self, F: Any, sigma: Any, n_columns: int) -> Any:
        """Log-density ln N(F | 0, Q + diag(K - Q) + sigma² I) of all columns."""
        found, scaled, noise = self.point_posterior(F, sigma, own_noise=True)
        value = found.bound((scaled**2).sum(), F.shape[0], n_columns)
        return value - n_columns * self.xp.log(noise).sum()

    def point_posterior(
        self, F: Any, sigma: Any, *, own_noise: bool
    ) -> tuple[InducingPosterior, Any, Any]:
        """Posterior at positions that are known; F divided by the noise of each row, and that noise (N,).

        ``own_noise``: FITC, in which what u leaves of a row's variance is noise of its own. Else every row
        has sigma, and the bound counts what is left.
        """
        prior = self.amplitude**2 * own_variance(self.kernel, self.positions[0], self.ratio)
        prior = prior + self.bias**2
        half, _ = inverse_factor(self.K, self.xp)
        scaled = half @ self.psi1.T
        left = prior - (scaled**2).sum(axis=0)
        noise = self.xp.sqrt((left if own_noise else 0.0 * left) + sigma**2)
        scaled, F = scaled / noise, F / noise[:, None]
        A = scaled @ scaled.T
        slack = 0.0 if own_noise else (left / noise**2).sum()
        psi0 = self.xp.trace(A) + slack
        found = InducingPosterior(half, A, scaled @ F, psi0, 1.0, self.xp)
        return found, F, noise

    def pullback(
        self, F: Array, dK: Array, dpsi0: float, dP: Array, dpsi2: Array
    ) -> tuple[Array, Array, Array, float, float, tuple[Array, ...]]:
        """∂L/∂(U, S, W, amplitude, bias), and in ρ if there is one."""
        a2, b2, own, sums = self.amplitude**2, self.bias**2, self.own, F.sum(axis=0)
        d1 = F @ (a2 * dP).T
        rows = dpsi2.sum(axis=1)
        crossed = 2.0 * float(rows @ self.column_sums)
        da2 = float((dK * self.correlation).sum()) + dpsi0 * own.psi0
        da2 += float((d1 * own.psi1).sum() / a2 + 2.0 * a2 * (dpsi2 * own.psi2).sum())
        da2 += b2 * crossed
        db2 = float(dK.sum()) + self.n_rows * dpsi0 + float((dP @ sums).sum())
        db2 += a2 * crossed + 2.0 * self.n_rows * b2 * float(rows.sum())

        if b2:
            d1 += 2.0 * a2 * b2 * rows
        moved = own.pullback(a2 * dpsi0, d1, a2**2 * dpsi2)
        return self.pulled_back(dK, moved, da2, db2)

    def pulled_back(
        self, dK: Array, moved: tuple[Array, ...], da2: float, db2: float
    ) -> tuple[Array, Array, Array, float, float, tuple[Array, ...]]:
        """Add what K gives to the gradient in U, S, W and ρ that the statistics give."""
        a2, (dU, dS, dW, *dratio) = self.amplitude**2, moved
        G, W = 2.0 * a2 * dK * self.slope, self.positions[2]
        dW += G @ W if self.kernel == "linear" else 2.0 * (G.sum(axis=1)[:, None] * W - G @ W)
        if dratio:
            inner = 2.0 * a2 * dK @ W
            dW += self.ratio**2 * inner
            jitter = 2.0 * a2 * JITTER * float(np.trace(dK))
            dratio = [dratio[0] + self.ratio * ((inner * W).sum(axis=0) + jitter)]
        return dU, dS, dW, 2.0 * self.amplitude * da2, 2.0 * self.bias * db2, tuple(dratio)
