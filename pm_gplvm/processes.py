"""The draws of a fit as processes to predict from: exact ones, or through inducing inputs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.columns import OwnColumns
from pm_gplvm.draws import Draw, data_of, each_draw
from pm_gplvm.inducing_inputs import InducingKernel, InducingPosterior
from pm_gplvm.kernels import cross_covariance, cross_slope, prior_slope_variance, prior_variance
from pm_gplvm.patterns import Patterns
from pm_gplvm.psi import ONE_NODE
from pm_gplvm.schema import THETA, draws_of, noise_of, require_fit

__all__ = ["Induced", "conditional", "conditional_variance", "each_process", "given"]


@dataclass(frozen=True)
class Induced:
    """The process of a sparse or variational fit, with the interface of a :class:`Draw`.

    Its rows are the inducing inputs. X being integrated over in a variational fit, there is one of
    it, whatever the draws of X.

    Parameters
    ----------
    kernel : str
    W : ndarray, shape (M, Q)
        Inducing inputs, in units of X.
    theta : dict
        The kernel's hyperparameters and the bias, by name.
    sigma : float
    posterior : InducingPosterior
        Of the values at the inducing inputs, given the table.
    frame : (rotation, shift, scale), optional
        By which :func:`align` brought positions into the frame in which they are now given.
    """

    kernel: str
    W: Array
    theta: dict[str, Any]
    sigma: float
    posterior: InducingPosterior
    frame: tuple[Array, Array, Any] | None = None

    def _raw(self, X_new: Array) -> Array:
        if self.frame is None:
            return X_new
        rotation, shift, scale = self.frame
        return (X_new - shift) @ rotation / scale

    def cross(self, X_new: Array) -> Array:
        """k(X_new, W), without noise, shape (S, M)."""
        return cross_covariance(self.kernel, self._raw(X_new), self.W, **self.theta)

    def solve(self, F: Array) -> Array:
        """Return what k(x, W) is multiplied by for the mean; F is the table of the fit."""
        return self.posterior.weights

    def prior_variance(self, X_new: Array) -> Array:
        """Variance of the noise-free function before any data, shape (S,)."""
        theta = {name: value for name, value in self.theta.items() if name != "lengthscale"}
        return prior_variance(self.kernel, self._raw(X_new), **theta)

    def variance(self, cross: Array, prior: Array) -> Array:
        """Variance of the noise-free function, in units of the scale² of Y, shape (S,)."""
        known = np.einsum("sm,sm->s", cross @ self.posterior.reduction, cross)
        return np.maximum(prior - known, 0.0)

    @property
    def _turn(self) -> Array:
        """∂x/∂x' of raw positions x, and x' in the frame, shape (Q, Q)."""
        if self.frame is None:
            return np.eye(self.W.shape[1])
        return np.asarray(self.frame[0] / self.frame[2])

    def slope(self, X_new: Array) -> Array:
        """∂k(X_new, W)/∂X_new, shape (S, Q, M)."""
        raw = cross_slope(self.kernel, self._raw(X_new), self.W, **self.theta)
        return np.asarray(self._turn @ raw)

    def slope_covariance(self, slope: Array) -> Array:
        """Covariance of the function's slopes, in units of scale² of Y / X², shape (S, Q, Q)."""
        Q, turn = slope.shape[1], self._turn
        prior = turn * prior_slope_variance(self.kernel, Q, **self.theta) @ turn.T
        return prior - slope @ self.posterior.reduction @ slope.transpose(0, 2, 1)


def each_process(
    fit: xr.DataTree, *, caller: str, limit: int | None = None
) -> Iterator[Draw | Induced]:
    """Go through what a fit's predictions are mixed from.

    Parameters
    ----------
    fit : DataTree
    caller : str
        Named in the message of an error.
    limit : int, optional
        At most so many, evenly spaced over all draws.

    Raises
    ------
    TypeError, ValueError
        As :func:`pm_gplvm.draws.each_draw` and :func:`pm_gplvm.draws.data_of`.
    """
    require_fit(fit, "X", "sigma", caller=caller)
    if "approximation" not in fit.children:
        yield from each_draw(fit, caller=caller, limit=limit)
        return
    induced = _induced(fit, caller)
    if "aligned" not in fit.children:
        yield induced
        return
    for frame in _frames(fit["aligned"].to_dataset(), limit):
        yield replace(induced, frame=frame)


def conditional(
    process: Draw | Induced, F: Array, patterns: Patterns, X_new: Array
) -> tuple[Array, Array]:
    """Form the Gaussian conditional of the noise-free function at new positions.

    Parameters
    ----------
    process : Draw or Induced
    F : ndarray, shape (N, D)
        Standardised, NaN where an entry is missing.
    patterns : Patterns
        Of its columns.
    X_new : ndarray, shape (S, Q)

    Returns
    -------
    mean : ndarray, shape (S, D)
    variance : ndarray, shape (S, G)
        The same in all columns of a pattern; in units of the scale² of Y.
    """
    if isinstance(process, Draw) and process.own_noise and patterns.seen.all():
        columns_of = OwnColumns(process)
        cross, prior = process.cross(X_new), process.prior_variance(X_new)
        return cross @ columns_of.weights(F), columns_of.variance(cross, prior)
    mean, variance = np.empty((len(X_new), F.shape[1])), np.empty((len(X_new), len(patterns)))
    for g, (rows, columns, block) in enumerate(patterns.blocks(F)):
        own = given(process, rows, columns)
        cross = own.cross(X_new)
        mean[:, columns] = cross @ own.solve(block)
        variance[:, g] = own.variance(cross, own.prior_variance(X_new))
    return mean, variance


def conditional_variance(process: Draw | Induced, patterns: Patterns, X_new: Array) -> Array:
    """Form the variance of :func:`conditional` alone, shape (S, G)."""
    if isinstance(process, Draw) and process.own_noise and patterns.seen.all():
        cross, prior = process.cross(X_new), process.prior_variance(X_new)
        return OwnColumns(process).variance(cross, prior)
    each = [given(process, rows, columns) for rows, columns in patterns]
    variances = [own.variance(own.cross(X_new), own.prior_variance(X_new)) for own in each]
    return np.stack(variances, axis=1)


def given(
    process: Draw | Induced, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Draw | Induced:
    """Return a process for these columns if only these rows had been observed; Induced knows no others."""
    return process.given(rows, columns) if isinstance(process, Draw) else process


def _induced(fit: xr.DataTree, caller: str) -> Induced:
    F, _, _ = data_of(fit, caller=caller)
    kernel, known = fit.attrs["kernel"], fit["approximation"].to_dataset()
    present = [n for n in THETA if n in fit["posterior"] or n in fit["constant_data"]]
    theta = {n: draws_of(fit, n, raw=True)[0, 0].to_numpy() for n in present}
    del theta["sigma"]
    sigma = float(noise_of(fit)[0, 0])
    W = known["X_inducing"].to_numpy()
    if "X_mean" in known:
        mean, sd, quadrature = known["X_mean"].to_numpy(), known["X_sd"].to_numpy(), None
    else:
        mean = draws_of(fit, "X", raw=True)[0, 0].to_numpy()
        sd, quadrature = np.zeros_like(mean), ONE_NODE
    unit = theta.get("lengthscale", 1.0)
    whole = InducingKernel(
        kernel,
        (mean / unit, sd / unit, W / unit),
        float(theta.get("amplitude", 1.0)),
        float(theta.get("bias", 0.0)),
        quadrature=quadrature,
    )
    if fit.attrs.get("approximation") == "fitc":
        posterior, _, _ = whole.fitc_posterior(F, sigma)
    else:
        posterior = whole.posterior(F, sigma)
    return Induced(kernel, W, theta, sigma, posterior)


def _frames(aligned: xr.Dataset, limit: int | None) -> Iterator[tuple[Array, Array, Any]]:
    flat = aligned.stack(every=("chain", "draw")).transpose("every", ...)
    total = flat.sizes["every"]
    for i in np.unique(np.linspace(0, total - 1, min(limit or total, total)).round().astype(int)):
        one = flat.isel(every=int(i))
        scale = float(one["scale"]) if "scale" in one else 1.0
        yield one["rotation"].to_numpy(), one["shift"].to_numpy(), scale
