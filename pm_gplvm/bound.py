"""The collapsed bound on the log-likelihood of sparse and Bayesian GP-LVMs, and its gradient.

With the statistics Ψ₀, Ψ₁, Ψ₂ of the whole kernel k = amplitude² κ + bias² (see
:mod:`pm_gplvm.psi`), K = k(W, W), β = sigma⁻² and F the standardised table (N, D),

    ⟨ln p(F|X)⟩ ≥ -½ N D ln 2π/β - ½ D ln|B| - ½ β tr FFᵀ + ½ β² tr(PᵀL⁻ᵀB⁻¹L⁻¹P)
                  - ½ β D Ψ₀ + ½ D tr A,
    A = β L⁻¹Ψ₂L⁻ᵀ,  B = I + A,  K = LLᵀ,  P = Ψ₁ᵀF

(Titsias 2009, eq. 9; Titsias & Lawrence 2010, eq. 14 and 15).
"""

from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, lapack

from pm_gplvm.checks import Array
from pm_gplvm.psi import correlation, psi_statistics
from pm_gplvm.rules import Rule

__all__ = ["JITTER", "InducingPosterior", "WholeKernel", "bound_and_gradient"]

JITTER = 1e-8
"""Share of amplitude² added to the diagonal of K: the inducing values are seen with that much
noise, under which the bound is still a bound."""


class InducingPosterior:
    """The optimal Gaussian over the values at the inducing inputs, and the bound that it gives.

    Parameters
    ----------
    K : ndarray, shape (M, M)
        Covariance of the inducing values.
    psi0 : float
    P : ndarray, shape (M, D)
        Ψ₁ᵀF.
    psi2 : ndarray, shape (M, M)
    sigma : float

    Raises
    ------
    LinAlgError
        If K or B is not positive definite.
    """

    def __init__(self, K: Array, psi0: float, P: Array, psi2: Array, sigma: float) -> None:
        self.psi0, self.psi2, self.sigma = psi0, psi2, sigma
        self.beta = 1.0 / sigma**2
        self.half = _inverse(_cholesky(K))  # L⁻¹
        self.A = self.beta * self.half @ psi2 @ self.half.T
        factor = _cholesky(np.eye(len(K)) + self.A)
        self.log_det = 2.0 * float(np.log(np.diagonal(factor)).sum())
        root = _inverse(factor)
        self.inverse = root.T @ root  # B⁻¹
        self.alpha = self.half @ P
        self.gamma = self.inverse @ self.alpha

    @property
    def weights(self) -> Array:
        """What k(x, W) is multiplied by to give the mean at x, shape (M, D)."""
        return self.beta * self.half.T @ self.gamma

    @property
    def reduction(self) -> Array:
        """R with variance k(x, x) - k(x, W) R k(W, x) at x, shape (M, M)."""
        return self.half.T @ (np.eye(len(self.A)) - self.inverse) @ self.half

    def bound(self, trace: float, n_rows: int, n_columns: int) -> float:
        """Return the bound for a table of tr FFᵀ = ``trace``."""
        fit = self.beta * float((self.alpha * self.gamma).sum())
        slack = self.beta * self.psi0 - float(np.trace(self.A))
        constant = n_rows * np.log(2.0 * np.pi / self.beta) + self.log_det + slack
        return -0.5 * (n_columns * constant + self.beta * (trace - fit))

    def pullback(
        self, trace: float, n_rows: int, n_columns: int
    ) -> tuple[Array, float, Array, Array, float]:
        """Differentiate the bound in K, Ψ₀, P, Ψ₂ and sigma; the matrices' are symmetric."""
        D, beta, A = n_columns, self.beta, self.A
        cross = beta**2 * self.gamma @ self.gamma.T
        dA = 0.5 * (D * (np.eye(len(A)) - self.inverse) - cross)
        # K in units of itself: L (I + ε) Lᵀ for a small symmetric ε changes A by -½ (εA + Aε).
        mixed = A @ dA + 0.5 * beta**2 * self.gamma @ self.alpha.T
        dK = -0.5 * self.half.T @ (mixed + mixed.T) @ self.half
        dpsi2 = beta * self.half.T @ dA @ self.half
        dP = beta**2 * self.half.T @ self.gamma
        fit = float((self.alpha * self.gamma).sum())
        dbeta = (0.5 * D * n_rows + float((dA * A).sum())) / beta
        dbeta += beta * fit - 0.5 * (trace + D * self.psi0)
        return dK, -0.5 * D * beta, dP, dpsi2, -2.0 * dbeta / self.sigma**3


def _cholesky(A: Array) -> Array:
    factor, info = lapack.dpotrf(A, lower=1, clean=1)
    if info:
        raise LinAlgError("not positive definite")
    return factor


def _inverse(lower: Array) -> Array:
    return lapack.dtrtri(lower, lower=1)[0]


class WholeKernel:
    """Statistics of amplitude² κ + bias², and its covariance K of the inducing values.

    Parameters
    ----------
    kernel : str
    places : (U, S, W)
        As in :func:`pm_gplvm.psi.psi_statistics`.
    amplitude, bias : float
    rule : (nodes, weights), optional
    kept : ndarray, optional
        Memory to work in.
    """

    def __init__(
        self,
        kernel: str,
        places: tuple[Array, Array, Array],
        amplitude: float,
        bias: float,
        *,
        rule: Rule | None = None,
        kept: Array | None = None,
    ) -> None:
        U, S, W = places
        self.W, self.kernel, self.amplitude, self.bias = W, kernel, amplitude, bias
        self.n_rows = len(U)
        a2, b2 = amplitude**2, bias**2
        self.own = psi_statistics(kernel, U, S, W, rule=rule, kept=kept)
        self.correlation, self.slope = correlation(kernel, W, W)
        self.correlation.flat[:: len(W) + 1] += JITTER
        self.column_sums = self.own.psi1.sum(axis=0)
        self.K = a2 * self.correlation + b2
        self.psi0 = a2 * self.own.psi0 + self.n_rows * b2
        outer = self.column_sums[:, None] + self.column_sums
        self.psi2 = a2**2 * self.own.psi2 + a2 * b2 * outer + self.n_rows * b2**2

    @property
    def psi1(self) -> Array:
        """Ψ₁, shape (N, M)."""
        return self.amplitude**2 * self.own.psi1 + self.bias**2

    def posterior(self, F: Array, sigma: float) -> InducingPosterior:
        """Return the posterior of the inducing values given a table F (N, D)."""
        P = self.amplitude**2 * (self.own.psi1.T @ F) + self.bias**2 * F.sum(axis=0)
        return InducingPosterior(self.K, self.psi0, P, self.psi2, sigma)

    def fitc_posterior(self, F: Array, sigma: float, prior: Array) -> InducingPosterior:
        """Return it under FITC, where each row has noise of its own; of points alone.

        Parameters
        ----------
        F : ndarray, shape (N, D)
        sigma : float
        prior : ndarray, shape (N,)
            k(x, x) of each row.
        """
        half = _inverse(_cholesky(self.K)) @ self.psi1.T
        root = np.sqrt(prior - np.einsum("mn,mn->n", half, half) + sigma**2)[:, None]
        scaled = self.psi1 / root
        return InducingPosterior(self.K, 0.0, scaled.T @ (F / root), scaled.T @ scaled, 1.0)

    def pullback(
        self, F: Array, dK: Array, dpsi0: float, dP: Array, dpsi2: Array
    ) -> tuple[Array, Array, Array, float, float]:
        """∂L/∂(U, S, W, amplitude, bias)."""
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
        dU, dS, dW = own.pullback(a2 * dpsi0, d1, a2**2 * dpsi2)
        G = 2.0 * a2 * dK * self.slope
        dW += G @ self.W if self.kernel == "linear" else _springs(G, self.W)
        return dU, dS, dW, 2.0 * self.amplitude * da2, 2.0 * self.bias * db2


def _springs(G: Array, W: Array) -> Array:
    """∂L/∂W for symmetric 2 ∂L/∂r²."""
    return 2.0 * (G.sum(axis=1)[:, None] * W - G @ W)


def bound_and_gradient(
    kernel: str,
    places: tuple[Array, Array, Array],
    F: Array,
    *,
    amplitude: float,
    bias: float,
    sigma: float,
    n_columns: int,
    rule: Rule | None = None,
    kept: Array | None = None,
) -> tuple[float, tuple[Any, ...]]:
    """Compute the bound and its gradient.

    Parameters
    ----------
    kernel, places, amplitude, bias, rule, kept
        As in :class:`WholeKernel`.
    F : ndarray, shape (N, R)
        A factor with the FFᵀ of the table.
    sigma : float
    n_columns : int
        D, the columns that it stands for.

    Returns
    -------
    bound : float
    gradient : (dU, dS, dW, damplitude, dbias, dsigma)
        Infinite and not a number where a matrix is not positive definite.
    """
    whole = WholeKernel(kernel, places, amplitude, bias, rule=rule, kept=kept)
    size = float(np.vdot(F, F)), len(F), n_columns
    try:
        found = whole.posterior(F, sigma)
    except LinAlgError:
        return -np.inf, (*(np.full_like(v, np.nan) for v in places), np.nan, np.nan, np.nan)
    dK, dpsi0, dP, dpsi2, dsigma = found.pullback(*size)
    return found.bound(*size), (*whole.pullback(F, dK, dpsi0, dP, dpsi2), dsigma)
