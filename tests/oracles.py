"""Slow, obvious versions of what the package computes, written apart from it."""

import re

import numpy as np
import pymc as pm
from scipy.stats import multivariate_normal, norm
from sklearn.gaussian_process.kernels import (
    RBF,
    DotProduct,
    ExpSineSquared,
    Matern,
    RationalQuadratic,
)
from sklearn.neighbors import NearestNeighbors

STATIONARY = ("rbf", "matern32", "matern52", "cauchy")
SUMS = tuple(f"{kernel} + linear" for kernel in STATIONARY)
ALL_KERNELS = (*STATIONARY, "linear", *SUMS)
COMPOSITES = (
    "rbf[0,1]",
    "rational_quadratic",
    "periodic[0,2]",
    "rbf[0,1] + periodic[2]",
    "rbf[0] * periodic[1] + linear[0]",
    "rational_quadratic[0,1] * linear[1] + matern32[2] * rational_quadratic[0]",
    "matern12",
    "matern52[0] * cauchy[1] + matern12[2]",
    "linear[0] + linear[1,2]",
)
"""Kernels of several factors, of three latent dimensions."""


def kernel_matrix(kernel, X, *, lengthscale=1.0, amplitude=1.0, weight=1.0, sigma=0.0, bias=0.0):
    """K by scikit-learn's kernels."""
    if kernel in SUMS:
        part = kernel_matrix(
            kernel.split()[0],
            X,
            lengthscale=lengthscale,
            amplitude=amplitude,
            sigma=sigma,
            bias=bias,
        )
        return part + weight**2 * DotProduct(0.0, "fixed")(X)
    correlation = {
        "rbf": lambda: RBF(lengthscale)(X),
        "matern32": lambda: Matern(lengthscale, nu=1.5)(X),
        "matern52": lambda: Matern(lengthscale, nu=2.5)(X),
        "cauchy": lambda: RationalQuadratic(1.0, alpha=1.0)(X / lengthscale),
        "linear": lambda: DotProduct(0.0, "fixed")(X / lengthscale),
    }[kernel]()
    return amplitude**2 * correlation + bias**2 + sigma**2 * np.eye(len(X))


def _factors(text, Q, lengthscale, alpha):
    """Terms of a text: names, dimensions, and parameters of their factors."""
    lengths, alphas = list(lengthscale), list(alpha)
    words = [re.findall(r"(\w+?)(?:\[([\d,]+)\])?(?= |$)", term) for term in text.split(" + ")]
    dims = [[[*map(int, d.split(","))] if d else [*range(Q)] for _, d in term] for term in words]
    shared = sum(name != "linear" for term in words for name, _ in term) == len(lengths)
    for term, own in zip(words, dims, strict=True):
        factors = []
        for (name, _), chosen in zip(term, own, strict=True):
            size = 0 if name == "linear" else 1 if shared else len(chosen)
            given, lengths = lengths[:size], lengths[size:]
            a = alphas.pop(0) if name == "rational_quadratic" else None
            factors.append((name, chosen, np.broadcast_to(given or 1.0, len(chosen)), a))
        yield factors


def composite_matrix(text, X, *, amplitude, lengthscale=(), alpha=()):
    """K of several factors by scikit-learn's kernels."""
    total = 0.0
    for factors, scale in zip(
        _factors(text, X.shape[1], lengthscale, alpha), amplitude, strict=True
    ):
        product = scale**2
        for name, dims, length, a in factors:
            Z = X[:, dims] / length
            if name == "periodic":  # one dimension at a time: scikit-learn's is of a distance
                for q, own in zip(dims, length, strict=True):
                    product = product * ExpSineSquared(own, 2.0 * np.pi)(X[:, [q]])
                continue
            kernel = {
                "rbf": RBF(),
                "matern12": Matern(nu=0.5),
                "matern32": Matern(nu=1.5),
                "matern52": Matern(nu=2.5),
                "cauchy": RationalQuadratic(1.0, 1.0),
                "rational_quadratic": RationalQuadratic(1.0, a or 1.0),
                "linear": DotProduct(0.0, "fixed"),
            }[name]
            product = product * kernel(Z)
        total = total + product
    return total


def composite_by_pymc(text, X, *, amplitude, lengthscale=(), alpha=()):
    """K of several factors by PyMC's."""
    total, Q = 0.0, X.shape[1]
    for factors, scale in zip(_factors(text, Q, lengthscale, alpha), amplitude, strict=True):
        product = scale**2
        for name, dims, length, a in factors:
            product = product * _pymc_factor(name, a, np.asarray(length), Q, dims)(X).eval()
        total = total + product
    return total


def _pymc_factor(name, alpha, ls, Q, dims):
    cov, of = pm.gp.cov, {"input_dim": Q, "active_dims": dims}
    if name in ("cauchy", "rational_quadratic"):
        return cov.RatQuad(**of, ls=ls, alpha=1.0 if alpha is None else alpha)
    if name == "periodic":  # PyMC's has -½ sin², where the literature has -2 sin²
        return cov.Periodic(**of, period=2.0 * np.pi, ls=0.5 * ls)
    if name == "linear":
        return cov.Linear(**of, c=0.0)
    named = {"rbf": "ExpQuad", "matern12": "Matern12", "matern32": "Matern32"}
    return getattr(cov, named.get(name, "Matern52"))(**of, ls=ls)


def column_logps(Y, K, mean=0.0, scale=1.0):
    """Log-density of every column of Y under N(mean, scale² K), by SciPy, one at a time."""
    n, d = Y.shape
    mean, scale = np.broadcast_to(mean, d), np.broadcast_to(scale, d)
    return np.array(
        [
            multivariate_normal(np.full(n, mean[j]), scale[j] ** 2 * K).logpdf(Y[:, j])
            for j in range(d)
        ]
    )


def centre_and_spread(Y, scale):
    """The mean and the scale of each column, as the README words them."""
    mean = Y.sum(axis=0) / len(Y)
    if scale == "none":
        return mean, np.ones(Y.shape[1])
    if scale == "global":
        return mean, np.full(Y.shape[1], np.sqrt(((Y - mean) ** 2).mean()))
    return mean, np.sqrt(((Y - mean) ** 2).mean(axis=0))


def likelihood_gradient(Y, K):
    """∂L/∂K = ½ (K⁻¹YYᵀK⁻¹ - D K⁻¹) with plain inverses."""
    inverse = np.linalg.inv(K)
    return 0.5 * (inverse @ Y @ Y.T @ inverse - Y.shape[1] * inverse)


def lawrence(X, Y, *, rbf, gamma, white, bias):
    """Lawrence's (2005) objective and its gradient in X and his four variances, by loops.

    L - ½ Σ x² - (NQ/2) ln 2π with K = rbf exp(-½ gamma ‖x - x'‖²) + bias + white δ.
    """
    (n, q), d = X.shape, Y.shape[1]
    r2 = ((X[:, None, :] - X[None, :, :]) ** 2).sum(axis=2)
    correlation = np.exp(-0.5 * gamma * r2)
    K = rbf * correlation + bias + white * np.eye(n)
    inverse = np.linalg.inv(K)
    value = -0.5 * d * n * np.log(2 * np.pi)
    value -= 0.5 * d * np.linalg.slogdet(K)[1] + 0.5 * np.trace(inverse @ Y @ Y.T)
    value -= 0.5 * (X**2).sum() + 0.5 * n * q * np.log(2 * np.pi)
    G = likelihood_gradient(Y, K)
    gradient = {
        "rbf": np.sum(G * correlation),
        "gamma": np.sum(G * rbf * correlation * -0.5 * r2),
        "bias": np.sum(G),
        "white": np.trace(G),
        "X": np.empty_like(X),
    }
    for row in range(n):
        for column in range(q):
            dK = np.zeros((n, n))
            slope = rbf * correlation[row] * -gamma * (X[row, column] - X[:, column])
            dK[row] += slope
            dK[:, row] += slope
            gradient["X"][row, column] = np.sum(G * dK) - X[row, column]
    return value, gradient


def ppca(Y, q):
    """Probabilistic PCA, closed form (Tipping & Bishop 1999, in its dual form).

    X Xᵀ and σ² that maximise the likelihood of centred Y under K = X Xᵀ + σ² I.
    """
    values, vectors = np.linalg.eigh(Y @ Y.T / Y.shape[1])
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[q:].mean()
    X = vectors[:, :q] * np.sqrt(values[:q] - noise)
    return X @ X.T, noise


def ppca_with_prior(Y, q, noise):
    """X Xᵀ that maximises likelihood times N(0, 1) prior of X, σ² = noise held.

    Each eigenvalue k of K solves k² + D k - D λ = 0, λ an eigenvalue of YYᵀ / D.
    """
    d = Y.shape[1]
    values, vectors = np.linalg.eigh(Y @ Y.T / d)
    values, vectors = values[::-1][:q], vectors[:, ::-1][:, :q]
    k = np.array([np.roots([1.0, d, -d * value]).real.max() for value in values])
    X = vectors * np.sqrt(np.maximum(k - noise, 0.0))
    return X @ X.T


def central_differences(function, point, step=1e-5):
    """Gradient of a function of named arrays, two evaluations a number."""
    gradient = {}
    for name, value in point.items():
        value = np.asarray(value, dtype=float)
        slope = np.empty_like(value)
        for index in np.ndindex(value.shape):
            up, down = value.copy(), value.copy()
            up[index] += step
            down[index] -= step
            difference = function({**point, name: up}) - function({**point, name: down})
            slope[index] = difference / (2 * step)
        gradient[name] = slope
    return gradient


def neighbour_errors(X, labels):
    """Rows whose nearest other row has another label."""
    _, nearest = NearestNeighbors(n_neighbors=2).fit(X).kneighbors(X)
    other = np.where(nearest[:, 0] == np.arange(len(X)), nearest[:, 1], nearest[:, 0])
    return int((np.asarray(labels)[other] != np.asarray(labels)).sum())


def row_log_density(F, K, noise, n, n_rows):
    """Log-density of row n of a table at places K[n_rows:], column by column, given the other rows.

    ``noise`` is a variance, F is NaN where an entry is missing.
    """
    total = np.zeros(len(K) - n_rows)
    for y in F.T:
        if np.isnan(y[n]):
            continue
        rows = np.flatnonzero(~np.isnan(y) & (np.arange(n_rows) != n))
        cross = K[n_rows:, rows]
        gain = np.linalg.solve(K[np.ix_(rows, rows)] + noise * np.eye(len(rows)), cross.T).T
        variance = np.diag(K)[n_rows:] + noise - (gain * cross).sum(axis=1)
        total += norm.logpdf(y[n], gain @ y[rows], np.sqrt(variance))
    return total
