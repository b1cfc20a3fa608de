"""The columns of one draw, each with an amplitude and a noise of its own, all at once.

With K = U diag(λ) Uᵀ of amplitude 1, V_d = a_d² K + n_d I and k the vector of k(x, X), column d has at x

    mean_d = a_d² kᵀ V_d⁻¹ f_d,    variance_d = a_d² k(x, x) - Σ_i s_di (U_iᵀ k)²,    s_di = a_d⁴ / (a_d² λ_i + n_d):

the Gaussian conditional (Rasmussen & Williams 2006, eq. 2.25 and 2.26) without a factorisation of
every V_d.
"""

from typing import Any

import numpy as np

from pm_gplvm.checks import Array
from pm_gplvm.draws import Draw
from pm_gplvm.spectral import ColumnParts, spectrum

__all__ = ["OwnColumns", "column_variances"]


class OwnColumns:
    """What a draw whose columns have a noise of their own says of them, given a complete table.

    Parameters
    ----------
    draw : Draw
    """

    def __init__(self, draw: Draw) -> None:
        self.signal = np.asarray(draw.theta["amplitude"]) ** 2
        self.noise = np.asarray(draw.sigma) ** 2
        K = draw.cross(draw.X)
        self.values, self.vectors = spectrum(K, float((self.noise / self.signal).min()))
        variances = self.values[:, None] * self.signal + self.noise
        self.shares = self.signal**2 / variances
        """s (r, D)."""

    def _parts(self, F: Array) -> ColumnParts:
        return ColumnParts(F, self.signal, self.noise, self.values, self.vectors)

    def logp(self, F: Array) -> Array:
        """Log-density of each column, shape (D,)."""
        return np.asarray(self._parts(F).terms - 0.5 * len(F) * np.log(2.0 * np.pi))

    def solve(self, F: Array) -> Array:
        """V_d⁻¹ f_d, shape (N, D)."""
        return self._parts(F).solved()

    def weights(self, F: Array) -> Array:
        """Return what k(x, X) is multiplied by for the mean, shape (N, D)."""
        return self.signal * self.solve(F)

    @property
    def precision(self) -> Array:
        """Diagonal of V_d⁻¹, shape (N, D)."""
        if self.vectors.shape[0] == self.vectors.shape[1]:
            return np.asarray(self.vectors**2 @ (self.shares / self.signal**2))
        known = self.vectors**2 @ (self.shares * self.values[:, None] / self.signal)
        return np.asarray((1.0 - known) / self.noise)

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """Residuals and variances (N, D) of each entry given the others of its column."""
        variance = 1.0 / self.precision
        return variance * self.solve(F), variance

    def variance(self, cross: Array, prior: Array) -> Array:
        """Variance of the noise-free functions, from k(x, X) (S, N) and k(x, x) (S,), shape (S, D)."""
        known = (cross @ self.vectors) ** 2 @ self.shares
        return np.maximum(prior[:, None] * self.signal - known, 0.0)


def column_variances(process: Any) -> Any:
    """Amplitude² of the columns of a draw that has its kernel of amplitude 1, shape (D,), else 1."""
    if isinstance(process, Draw) and process.own_noise:
        return np.asarray(process.theta["amplitude"]) ** 2
    return 1.0
