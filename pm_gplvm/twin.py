"""The psi statistics and the bound written down in ordinary PyTensor.

The same mathematics as :mod:`pm_gplvm.psi` and :mod:`pm_gplvm.bound`, without blocks: an array of
N × M × M numbers under the RBF kernel. It is what the numba and JAX backends see.
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_gplvm.covariances import SYMBOLIC
from pm_gplvm.kernels import KERNELS
from pm_gplvm.rules import cubature

__all__ = ["symbolic_bound", "symbolic_cross", "symbolic_statistics"]

Statistics = tuple[Variable, Variable, Variable]


def symbolic_cross(kernel: str, X: Variable, W: Variable) -> Variable:
    """κ(X, W), positions in units of the lengthscale; X may have leading dimensions."""
    entry = KERNELS[kernel]
    if not entry.stationary:
        return X @ W.T
    centre = W.mean(axis=0)
    X, W = X - centre, W - centre
    r2 = (X**2).sum(axis=-1)[..., None] + (W**2).sum(axis=-1) - 2.0 * X @ W.T
    return entry.profile(pt.maximum(r2, 0.0), SYMBOLIC)[0]


def symbolic_statistics(
    kernel: str, U: Variable, S: Variable, W: Variable, *, points: bool
) -> Statistics:
    """ψ₀, ψ₁ and ψ₂ of a kernel of amplitude 1; see :func:`pm_gplvm.psi.psi_statistics`.

    A rule of nodes needs the latent dimensions of U known to the graph.
    """
    if kernel == "linear":
        second = U.T @ U + pt.diag((S**2).sum(axis=0))
        return pt.trace(second), U @ W.T, W @ second @ W.T
    psi0 = pt.cast(U.shape[0], "float64")
    if kernel == "rbf" and not points:
        return psi0, *_rbf_statistics(U, S, W)
    if points:
        value = symbolic_cross(kernel, U, W)
        return psi0, value, value.T @ value
    nodes, weights = cubature(U.type.shape[1])
    values = symbolic_cross(kernel, U + S * nodes[:, None, :], W)  # (node, N, M)
    weights = weights[:, None, None]
    return psi0, (weights * values).sum(axis=0), (weights * values.mT @ values).sum(axis=0)


def _rbf_statistics(U: Variable, S: Variable, W: Variable) -> tuple[Variable, Variable]:
    centre = W.mean(axis=0)
    U, W = U - centre, W - centre

    def half(c: int) -> tuple[Variable, Variable]:
        """d, and what the exponent has of one inducing input, (N, M)."""
        d = 1.0 / (1.0 + c * S**2)
        constant = 0.5 * (pt.log(d) - c * d * U**2).sum(axis=1)
        return d, constant[:, None] / c + (d * U) @ W.T - 0.5 / c * d @ (W**2).T

    _, one = half(1)
    d, two = half(2)
    gaps = ((W[:, None] - W) ** 2).sum(axis=2)
    both = two[:, :, None] + two[:, None, :] - 0.5 * (d[:, None, :] * W) @ W.T
    return pt.exp(one), pt.exp(both - 0.25 * gaps).sum(axis=0)


def symbolic_bound(
    K: Variable,
    statistics: Statistics,
    F: Variable,
    *,
    sigma: Variable,
    n_columns: int,
) -> Variable:
    """Write down the bound from the covariance K of the inducing values and the whole kernel's statistics."""
    psi0, psi1, psi2 = statistics
    beta = sigma**-2
    chol = pt.linalg.cholesky(K, lower=True, on_error="nan")

    def solve(factor: Variable, right: Variable) -> Variable:
        return pt.linalg.solve_triangular(factor, right, lower=True, b_ndim=2)

    A = beta * solve(chol, solve(chol, psi2).T)
    inner = pt.linalg.cholesky(pt.eye(K.shape[0]) + A, lower=True, on_error="nan")
    gamma = beta * solve(inner, solve(chol, psi1.T @ F))
    log_det = 2.0 * pt.log(pt.diagonal(inner)).sum()
    constant = F.shape[0] * pt.log(2.0 * np.pi / beta) + log_det + beta * psi0 - pt.trace(A)
    value = -0.5 * (n_columns * constant + beta * (F**2).sum() - (gamma**2).sum())
    return pt.switch(pt.isnan(value), -np.inf, value)
