"""X as a smooth function of Y, so that rows alike in Y lie near each other, and new rows are placed at once."""

from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pytensor.graph.basic import Variable
from scipy.spatial.distance import pdist

from pm_gplvm.checks import Array
from pm_gplvm.kernels import cross_covariance
from pm_gplvm.latent_priors import LatentPrior
from pm_gplvm.schema import LATENT

__all__ = ["back_constrained", "basis_of", "is_back_constrained", "mapped", "weights_of"]

_ROUNDING = 1e-8  # of the largest eigenvalue: what is below is taken for 0


def back_constrained(
    kernel: Literal["rbf", "linear"] = "rbf", *, lengthscale: float | None = None
) -> LatentPrior:
    """Make X a function of Y: X = g(Y), each column of g a Gaussian process over the rows of Y.

    x_q = B w_q with w_q ~ N(0, I) and B Bᵀ = Φ, Φ_nm = φ(f_n, f_m) and f the rows of (Y - mean) / scale:
    in the span of φ(f, f_m), as the kernel mapping of Lawrence & Quiñonero-Candela (2006, section 3)
    is, the prior N(0, Φ) in place of none. "rbf": φ = exp(-½ ‖f - f'‖² / lengthscale²); "linear":
    φ = f·f' / c, c the mean of ‖f_n‖². A new row y lies at φ(f, F) Φ⁺ X, which is what :func:`embed`
    gives for such a fit.

    Parameters
    ----------
    kernel : {"rbf", "linear"}, default "rbf"
        φ.
    lengthscale : float, optional
        Of "rbf", in units of the data's scale; by default the median distance between rows of F.

    Returns
    -------
    callable
        For ``build_model(Y, priors={"X": ...})``. The model has the variables ``X_weights`` (basis,
        latent), the deterministic ``X`` (obs, latent) and the data ``X_back_lengthscale``, infinite
        for "linear".

    Raises
    ------
    ValueError
        If ``kernel`` or ``lengthscale`` is out of range. When the model is built: if Y has missing
        entries.

    Notes
    -----
    As X is no free variable, ``fit_map`` and ``fit_marginal`` find the mode of the weights and move no
    single rows, nor does ``sample``.

    References
    ----------
    Lawrence, N. D., Quiñonero-Candela, J. (2006). Local distance preservation in the GP-LVM through
    back constraints. ICML 23, 513-520.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.load_digits(n=32)
    >>> model = gplvm.build_model(Y[:30], priors={"X": gplvm.back_constrained()})
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> gplvm.embed(best, Y[30:], progressbar=False)["posterior"]["X"].dims
    ('chain', 'draw', 'obs_new', 'latent')
    """
    if kernel not in ("rbf", "linear"):
        raise ValueError(f"kernel must be 'rbf' or 'linear', got {kernel!r}.")
    if lengthscale is not None and (kernel == "linear" or not 0.0 < lengthscale < np.inf):
        raise ValueError(
            f"lengthscale must be positive and finite, and goes with 'rbf' alone, got {lengthscale!r} "
            f"and kernel={kernel!r}."
        )

    def prior(name: str, dims: tuple[str, ...]) -> Variable:
        model = pm.modelcontext(None)
        F = _table(model)
        unit = np.inf if kernel == "linear" else (lengthscale or float(np.median(pdist(F))))
        basis = _basis(F, unit)
        model.add_coord("basis", np.arange(basis.shape[1]))
        pm.Data(f"{name}_back_lengthscale", unit)
        weights = pm.Normal(f"{name}_weights", 0.0, 1.0, dims=("basis", LATENT))
        return pm.Deterministic(name, pt.constant(basis) @ weights, dims=dims)

    return prior


def is_back_constrained(known: Any) -> bool:
    """Whether a model, or a fit, has X = g(Y)."""
    if isinstance(known, xr.DataTree):
        held = known.children.get("constant_data")
        return held is not None and "X_back_lengthscale" in held
    return "X_back_lengthscale" in known.named_vars


def _table(model: pm.Model) -> Array:
    """Read the standardised table off a model."""
    if "Y_seen" in model.named_vars:
        raise ValueError(
            "back_constrained needs a complete Y, got missing entries: a row's place is a function of "
            "all of it. Impute them first, or take another prior of X."
        )
    mean, scale, data = (model[f"Y_{part}"].get_value() for part in ("mean", "scale", "data"))
    return np.ascontiguousarray(((data - mean[:, None]) / scale[:, None]).T)


def _similarity(F_new: Array, F: Array, lengthscale: float) -> Array:
    """φ of new rows and the known ones, shape (M, N)."""
    if np.isinf(lengthscale):
        return cross_covariance("linear", F_new, F) / (F**2).sum(axis=1).mean()
    return cross_covariance("rbf", F_new, F, lengthscale=lengthscale)


def _eigen(F: Array, lengthscale: float) -> tuple[Array, Array]:
    """Eigenvalues of Φ above rounding, the largest first, and their vectors."""
    values, vectors = np.linalg.eigh(_similarity(F, F, lengthscale))
    kept = values > _ROUNDING * values[-1]
    return values[kept][::-1], vectors[:, kept][:, ::-1]


def _basis(F: Array, lengthscale: float) -> Array:
    values, vectors = _eigen(F, lengthscale)
    return vectors * np.sqrt(values)


def basis_of(model: pm.Model) -> Array:
    """B (N, M) of a back-constrained model, X = B w; its columns are orthogonal."""
    return _basis(_table(model), float(model["X_back_lengthscale"].get_value()))


def weights_of(model: pm.Model, X: Array) -> Array:
    """Find the weights w of which B w is nearest to given positions, shape (basis, latent)."""
    return np.asarray(np.linalg.lstsq(basis_of(model), X, rcond=None)[0])


def mapped(fit: xr.DataTree, F: Array, F_new: Array, X: Array) -> Array:
    """Place new rows by the map of a fit: φ(f, F) Φ⁺ X, which does not ask how Φ was taken apart.

    Parameters
    ----------
    fit : DataTree
    F, F_new : ndarray, shape (N, D) and (M, D)
        Standardised.
    X : ndarray, shape (..., N, Q)
        Positions as they were drawn, before :func:`align`.

    Returns
    -------
    ndarray, shape (..., M, Q)
    """
    unit = float(fit["constant_data"]["X_back_lengthscale"])
    values, vectors = _eigen(F, unit)
    gain = (_similarity(F_new, F, unit) @ vectors / values) @ vectors.T
    return np.asarray(gain @ X)
