"""Slow, obvious versions of what the package computes, written apart from it."""

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.gaussian_process.kernels import RBF, DotProduct, Matern, RationalQuadratic
from sklearn.neighbors import NearestNeighbors

STATIONARY = ("rbf", "matern32", "matern52", "cauchy")
SUMS = tuple(f"{kernel} + linear" for kernel in STATIONARY)
ALL_KERNELS = (*STATIONARY, "linear", *SUMS)


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
