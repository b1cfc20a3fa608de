"""The draws of a fit, one after the other, as the Gaussian processes that they are."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack, solve_triangular

from pm_gplvm.checks import Array
from pm_gplvm.kernels import (
    KERNELS,
    cross_and_rate,
    cross_covariance,
    cross_pullback,
    cross_slope,
    prior_slope_variance,
    prior_variance,
)
from pm_gplvm.patterns import Patterns, column_patterns, single_columns
from pm_gplvm.schema import (
    FEATURE,
    THETA,
    draws_of,
    has_own_noise,
    noise_of,
    observed_of,
    require_fit,
)

__all__ = ["Draw", "data_of", "each_draw", "evenly_spaced", "patterns_of"]


@dataclass(frozen=True)
class Draw:
    """One draw's positions and hyperparameters.

    Parameters
    ----------
    kernel : str
    X : ndarray, shape (N, Q)
    theta : dict
        The kernel's hyperparameters and the bias, by name.
    sigma : float or ndarray, shape (D,)
        Standard deviation of the noise, its floor (``resolution`` of :func:`build_model`) included. An
        array where every column has a noise of its own, and so an amplitude. Of such a draw only what
        :meth:`given` makes of it for one column has a K.
    """

    kernel: str
    X: Array
    theta: dict[str, Any]
    sigma: Any

    @property
    def own_noise(self) -> bool:
        """Whether every column has an amplitude and a noise of its own."""
        return np.ndim(self.sigma) > 0

    @property
    def Z(self) -> Array:
        """Positions in units of the lengthscale, shape (N, Q)."""
        return self.X / self.theta.get("lengthscale", 1.0)

    @cached_property
    def K(self) -> Array:
        """Covariance of the rows, noise included, in units of the scale² of Y."""
        K = self.cross(self.X)
        K.flat[:: len(K) + 1] += self.sigma**2
        return K

    @cached_property
    def chol(self) -> Array:
        """Lower Cholesky factor of K (what stands above the diagonal is meaningless)."""
        return np.asarray(cho_factor(self.K, lower=True, check_finite=False)[0])

    @property
    def mean_covariance(self) -> Array:
        """Covariance of the rows, noise included, averaged over the columns."""
        if not self.own_noise:
            return self.K
        K = np.mean(self.theta["amplitude"] ** 2) * self.cross(self.X)
        K.flat[:: len(K) + 1] += np.mean(self.sigma**2)
        return np.asarray(K)

    def cross(self, X_new: Array) -> Array:
        """k(X_new, X), without noise, shape (S, N); of amplitude 1 where the columns have their own."""
        return cross_covariance(self.kernel, X_new, self.X, **self._common)

    def cross_and_rate(self, X_new: Array) -> tuple[Array, Array | None]:
        """As :meth:`cross`, and its derivative in the squared distance."""
        return cross_and_rate(self.kernel, X_new, self.X, **self._common)

    def cross_pullback(
        self, X_new: Array, rate: Array | None, by_cross: Array, by_prior: Array
    ) -> Array:
        """Gradient in X_new of what depends on it by :meth:`cross` and :meth:`prior_variance`."""
        between = (self.kernel, X_new, self.X, rate, by_cross, by_prior)
        return cross_pullback(*between, **self._common)

    def given(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> "Draw":
        """Return what is left of it, for these columns, if the other rows had not been observed."""
        draw = self.of_column(int(columns[0])) if self.own_noise else self
        return draw if len(rows) == len(self.X) else replace(draw, X=self.X[rows])

    def of_column(self, d: int) -> "Draw":
        """Return the process of one column of those that have a noise of their own."""
        amplitude = self.theta["amplitude"][d]
        # The kernel's other standard deviations are in units of the column's amplitude.
        theta = {n: v if n == "lengthscale" else v * amplitude for n, v in self.unit.items()}
        return replace(self, theta=theta | {"amplitude": amplitude}, sigma=float(self.sigma[d]))

    @property
    def _common(self) -> dict[str, Any]:
        return self.unit if self.own_noise else self.theta

    @property
    def unit(self) -> dict[str, Any]:
        """Hyperparameters of the kernel of amplitude 1."""
        return {name: value for name, value in self.theta.items() if name != "amplitude"}

    def solve(self, F: Array) -> Array:
        """K⁻¹ F."""
        return np.asarray(cho_solve((self.chol, True), F, check_finite=False))

    def left_out(self, F: Array) -> tuple[Array, Array]:
        """Residuals (N, D) and variance (N,) of each row of F given the others, where it lies.

        [K⁻¹F]_n / [K⁻¹]_nn and 1 / [K⁻¹]_nn (Rasmussen & Williams 2006, eq. 5.12).
        """
        inverse, _ = lapack.dpotri(self.chol, lower=1)
        variance = 1.0 / np.diagonal(inverse)
        return variance[:, None] * self.solve(F), variance

    def prior_variance(self, X_new: Array) -> Array:
        """Variance of the noise-free function before any data, shape (S,); amplitude as of cross."""
        theta = {name: value for name, value in self._common.items() if name != "lengthscale"}
        return prior_variance(self.kernel, X_new, **theta)

    def variance(self, cross: Array, prior: Array) -> Array:
        """Variance of the noise-free function, in units of the scale² of Y, shape (S,)."""
        half = solve_triangular(self.chol, cross.T, lower=True, check_finite=False)
        # Rounding can leave a variance below zero where a new position meets a noise-free row.
        return np.maximum(prior - np.einsum("ns,ns->s", half, half), 0.0)

    def slope(self, X_new: Array) -> Array:
        """∂k(X_new, X)/∂X_new, shape (S, Q, N)."""
        return cross_slope(self.kernel, X_new, self.X, **self._common)

    def slope_covariance(self, slope: Array) -> Array:
        """Covariance of the function's slopes, in units of scale² of Y / X², shape (S, Q, Q)."""
        S, Q, N = slope.shape
        half = solve_triangular(self.chol, slope.reshape(-1, N).T, lower=True, check_finite=False)
        known = np.einsum("nsi,nsj->sij", *[half.reshape(N, S, Q)] * 2, optimize=True)
        return np.diag(prior_slope_variance(self.kernel, Q, **self.theta)) - known


def each_draw(fit: xr.DataTree, *, caller: str, limit: int | None = None) -> Iterator[Draw]:
    """Go through the draws of all chains, in order.

    Parameters
    ----------
    fit : DataTree
    caller : str
        Named in the message of an error.
    limit : int, optional
        At most so many draws, evenly spaced over all chains.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` lacks X or sigma, or its kernel is not one of the table's.
    """
    require_fit(fit, "X", "sigma", caller=caller)
    kernel = fit.attrs.get("kernel", "custom")
    if kernel not in KERNELS:
        raise ValueError(
            f"{caller} knows the kernels {', '.join(KERNELS)}, got a fit with {kernel!r}. For a covariance "
            "of your own condition with PyMC (pm.gp)."
        )
    present = [n for n in THETA if n in fit["posterior"] or n in fit["constant_data"]]
    present.remove("sigma")
    noise = noise_of(fit).to_numpy()
    noise = noise.reshape(-1, *noise.shape[2:])
    stacked = {}
    for name in ("X", *present):
        draws = draws_of(fit, name).to_numpy()
        stacked[name] = draws.reshape(-1, *draws.shape[2:])
    for i in evenly_spaced(len(stacked["X"]), limit):
        theta = {name: stacked[name][i] for name in present}
        sigma = noise[i]
        yield Draw(kernel, stacked["X"][i], theta, sigma if sigma.ndim else float(sigma))


def patterns_of(fit: xr.DataTree, F: Array) -> Patterns:
    """Group the columns that have one K: the same rows observed, and the same noise.

    Parameters
    ----------
    fit : DataTree
    F : ndarray, shape (N, D)
        NaN where an entry is missing.
    """
    return (single_columns if has_own_noise(fit) else column_patterns)(~np.isnan(F))


def evenly_spaced(total: int, limit: int | None) -> NDArray[np.intp]:
    """Choose at most ``limit`` of ``total`` draws, the first and the last among them."""
    chosen = np.linspace(0, total - 1, min(limit or total, total)).round()
    return np.unique(chosen).astype(np.intp)


def data_of(fit: xr.DataTree, *, caller: str, missing: bool = False) -> tuple[Array, Array, Array]:
    """Read the table that a fit was made from.

    Parameters
    ----------
    fit : DataTree
    caller : str
        Named in the message of an error.
    missing : bool, default False
        Whether the caller can do with missing entries.

    Returns
    -------
    F : ndarray, shape (N, D)
        (Y - mean) / scale, NaN where an entry is missing.
    mean, scale : ndarray, shape (D,)

    Raises
    ------
    TypeError, ValueError
        If ``fit`` lacks the table, its mean or its scale, or an entry that the caller needs.
    """
    require_fit(fit, "Y_mean", "Y_scale", caller=caller)
    constant = fit["constant_data"].to_dataset()
    observed = observed_of(fit, caller=caller).transpose(..., FEATURE)
    mean, scale = constant["Y_mean"].to_numpy(), constant["Y_scale"].to_numpy()
    F = (observed.to_numpy() - mean) / scale
    if not missing and (n := int(np.isnan(F).sum())):
        raise ValueError(
            f"{caller} needs a fit of a complete table, got one with {n} missing entries. Fill them and "
            "fit again: build_model(impute(fit)['mean'])."
        )
    return F, mean, scale
