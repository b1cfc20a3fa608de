"""Models in which inducing inputs stand for many rows: sparse, and variational in X as well."""

from typing import Literal

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_gplvm.bound import JITTER
from pm_gplvm.collapsed import CollapsedBound
from pm_gplvm.covariances import covariance
from pm_gplvm.inducing import Exact, add_inducing_inputs, read_exact, theta_of, without
from pm_gplvm.kernels import KERNELS
from pm_gplvm.spec import PositionPrior
from pm_gplvm.twin import symbolic_cross

__all__ = ["Method", "build_sparse", "build_variational"]

Method = Literal["vfe", "fitc"]


def build_variational(model: pm.Model, n_inducing: int = 50) -> pm.Model:
    r"""Write down the variational approximation to a model's posterior as a ``pm.Model``.

    q(X) = ∏ₙ N(μₙ, diag sₙ²) and M inducing inputs take the place of X and of the table
    (Titsias & Lawrence 2010). The log-density of the result, θ's priors apart, is the bound

        ⟨ln p(Y | X, θ)⟩ bounded below as by Titsias (2009), minus KL(q(X) ‖ N(0, I))
        ≤ ln p(Y | θ).

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`; the prior of ``X`` must be N(0, 1).
    n_inducing : int, default 50
        M, at most N. The linear kernel takes as many as it has latent dimensions (and one for a
        bias), which lose nothing.

    Returns
    -------
    pm.Model
        θ with the priors that it has in ``model``; ``X_mean`` and ``X_sd`` (obs, latent), of q;
        ``X_inducing`` (inducing, latent); the potentials ``likelihood_bound``, in units of the
        table as the model's log-likelihood is, and ``minus_KL``.

    Raises
    ------
    TypeError, ValueError
        If the model is not one of :func:`build_model`, X has another prior, a variable beside
        the table depends on X, or ``n_inducing`` is out of range.

    Notes
    -----
    The psi statistics are in closed form for ``rbf`` and ``linear``, with or without a bias. For
    the other kernels they are taken by a rule of nodes (:func:`pm_gplvm.psi.cubature`), and the
    bound may then be missed by the error of that rule, which :func:`fit_variational` tells.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20), ard=True)
    >>> [rv.name for rv in gplvm.build_variational(model, 8).free_RVs][-3:]
    ['X_mean', 'X_sd', 'X_inducing']
    """
    exact, n_inducing = read_exact(model, n_inducing)
    if not PositionPrior.of(model).is_standard_normal:
        raise ValueError(
            "model must have the prior N(0, 1) on X, from which the bound takes its distance, got another. "
            "Leave priors['X'] out."
        )
    approximation = without(model, exact.observed, "X")
    shape = (len(exact.F), exact.latent_dim)
    dims = model.named_vars_to_dims.get("X")
    with approximation:
        mean = pm.Flat("X_mean", shape=shape, dims=dims)
        sd = pm.HalfFlat("X_sd", shape=shape, dims=dims)
        W = add_inducing_inputs(exact, n_inducing)
        theta = theta_of(approximation)
        unit = theta["lengthscale"]
        likelihood = CollapsedBound(exact.kernel, exact.F.shape[1])(
            mean / unit,
            sd / unit,
            W / unit,
            *(theta[name] for name in ("amplitude", "bias", "sigma")),
            pytensor.shared(exact.factor, name="factor"),
        )[0]
        pm.Potential("likelihood_bound", likelihood - len(exact.F) * exact.log_scale)
        pm.Potential("minus_KL", -0.5 * (mean**2 + sd**2 - 1.0 - 2.0 * pt.log(sd)).sum())
    return approximation


def build_sparse(model: pm.Model, n_inducing: int = 100, *, method: Method = "vfe") -> pm.Model:
    """Write down a model with its table's likelihood approximated by inducing inputs.

    With Q = K_nm K_mm⁻¹ K_mn, which has rank M:

    - "vfe": ln N(Y | 0, Q + sigma² I) - tr(K - Q) / (2 sigma²) a column (Titsias 2009, eq. 9), a
      lower bound on the exact log-likelihood, whatever the inducing inputs.
    - "fitc": ln N(Y | 0, Q + diag(K - Q) + sigma² I) a column (Snelson & Ghahramani 2006; Lawrence
      2007 for GP-LVMs), another model, whose likelihood may exceed the exact one.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`.
    n_inducing : int, default 100
        M, at most N. The linear kernel takes as many as it has latent dimensions (and one for a
        bias), which lose nothing.
    method : {"vfe", "fitc"}

    Returns
    -------
    pm.Model
        ``X`` and θ with the priors that they have in ``model``; ``X_inducing`` (inducing,
        latent); the potential ``likelihood``, in units of the table.

    Raises
    ------
    TypeError, ValueError
        If the model is not one of :func:`build_model`, or ``n_inducing`` or ``method`` is out of
        range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> [rv.name for rv in gplvm.build_sparse(model, 8).free_RVs][-1]
    'X_inducing'
    """
    if method not in ("vfe", "fitc"):
        raise ValueError(f"method must be 'vfe' or 'fitc', got {method!r}.")
    exact, n_inducing = read_exact(model, n_inducing)
    approximation = without(model, exact.observed)
    with approximation:
        W = add_inducing_inputs(exact, n_inducing)
        likelihood = _vfe if method == "vfe" else _fitc
        value = likelihood(exact, approximation["X"], W, theta_of(approximation))
        pm.Potential("likelihood", value - len(exact.F) * exact.log_scale)
    return approximation


def _vfe(exact: Exact, X: Variable, W: Variable, theta: dict[str, Variable]) -> Variable:
    unit = theta["lengthscale"]
    return CollapsedBound(exact.kernel, exact.F.shape[1], points=True)(
        X / unit,
        pt.zeros_like(X),
        W / unit,
        *(theta[name] for name in ("amplitude", "bias", "sigma")),
        pytensor.shared(exact.factor, name="factor"),
    )[0]


def _fitc(exact: Exact, X: Variable, W: Variable, theta: dict[str, Variable]) -> Variable:
    """Through the inverse of Q + Λ (Snelson & Ghahramani 2006, eq. 9), Λ diagonal."""
    factor, (N, D) = pytensor.shared(exact.factor, name="factor"), exact.F.shape
    unit, amplitude, bias, sigma = (
        theta[name] for name in ("lengthscale", "amplitude", "bias", "sigma")
    )
    Z, W = X / unit, W / unit
    K = covariance(exact.kernel, W, amplitude=amplitude, bias=bias, sigma=_jitter(amplitude))
    cross = amplitude**2 * symbolic_cross(exact.kernel, Z, W) + bias**2
    own = 1.0 if KERNELS[exact.kernel].stationary else (Z**2).sum(axis=1)
    prior = amplitude**2 * own + bias**2

    def solve(chol: Variable, right: Variable) -> Variable:
        return pt.linalg.solve_triangular(chol, right, lower=True, b_ndim=2)

    half = solve(pt.linalg.cholesky(K, lower=True, on_error="nan"), cross.T)
    noise = prior - (half**2).sum(axis=0) + sigma**2
    scaled = half / pt.sqrt(noise)
    table = factor / pt.sqrt(noise)[:, None]
    inner = pt.linalg.cholesky(pt.eye(K.shape[0]) + scaled @ scaled.T, lower=True, on_error="nan")
    fit = solve(inner, scaled @ table)
    log_det = pt.log(noise).sum() + 2.0 * pt.log(pt.diagonal(inner)).sum()
    constant = N * np.log(2.0 * np.pi) + log_det
    return -0.5 * (D * constant + (table**2).sum() - (fit**2).sum())


def _jitter(amplitude: Variable) -> Variable:
    return np.sqrt(JITTER) * amplitude
