"""The bound of Titsias & Lawrence (2010) by plain loops and inverses, written apart from the package.

Nothing here takes a modulus or compares, so that it holds for complex numbers too and its derivatives
are exact to rounding by complex steps.
"""

import numpy as np

JITTER = 1e-8


def statistics(kernel, U, S, W):
    """ψ₀, ψ₁, ψ₂ by the formulas of the paper's supplement, one number at a time."""
    (N, Q), M = U.shape, len(W)
    dtype = np.result_type(U, S, W)
    psi1, psi2 = np.zeros((N, M), dtype), np.zeros((M, M), dtype)
    psi0 = 0.0
    for n in range(N):
        if kernel == "linear":
            second = np.outer(U[n], U[n]) + np.diag(S[n] ** 2)
            psi0 += np.trace(second)
            psi1[n] = W @ U[n]
            psi2 += W @ second @ W.T
            continue
        psi0 += 1.0
        for m in range(M):
            value = 1.0
            for q in range(Q):
                spread = S[n, q] ** 2 + 1.0
                value *= np.exp(-0.5 * (U[n, q] - W[m, q]) ** 2 / spread) / np.sqrt(spread)
            psi1[n, m] = value
            for k in range(M):
                value = 1.0
                for q in range(Q):
                    spread = 2.0 * S[n, q] ** 2 + 1.0
                    middle = (W[m, q] + W[k, q]) / 2.0
                    value *= np.exp(
                        -((W[m, q] - W[k, q]) ** 2) / 4.0 - (U[n, q] - middle) ** 2 / spread
                    ) / np.sqrt(spread)
                psi2[m, k] += value
    return psi0, psi1, psi2


def bound(kernel, U, S, W, amplitude, bias, sigma, F):
    """Eq. 14 and 15 of the paper summed over the columns, with plain inverses."""
    (N, D), M = F.shape, len(W)
    psi0, psi1, psi2 = statistics(kernel, U, S, W)
    if kernel == "linear":
        gram = W @ W.T
    else:
        gram = np.array([[np.exp(-0.5 * ((a - b) ** 2).sum()) for b in W] for a in W])
    a2, b2, beta = amplitude**2, bias**2, 1.0 / sigma**2
    K = a2 * (gram + JITTER * np.eye(M)) + b2
    sums = psi1.sum(axis=0)
    Psi0, Psi1 = a2 * psi0 + N * b2, a2 * psi1 + b2
    Psi2 = a2**2 * psi2 + a2 * b2 * (sums[:, None] + sums[None, :]) + N * b2**2
    inner = K + beta * Psi2
    inside = beta * np.eye(N) - beta**2 * Psi1 @ np.linalg.inv(inner) @ Psi1.T
    log_ratio = np.log(np.linalg.det(np.linalg.solve(K, inner)))
    value = -0.5 * D * N * np.log(2.0 * np.pi / beta) - 0.5 * D * log_ratio
    value -= 0.5 * np.trace(F.T @ inside @ F)
    return value - 0.5 * D * beta * (Psi0 - np.trace(np.linalg.solve(K, Psi2)))


def complex_gradient(function, arguments):
    """Gradient of a holomorphic function of several arrays."""
    gradients = []
    for i, argument in enumerate(arguments):
        argument = np.asarray(argument, dtype=float)
        slope = np.empty_like(argument)
        for index in np.ndindex(argument.shape):
            moved = argument.astype(complex)
            moved[index] += 1e-30j
            slope[index] = function(*arguments[:i], moved, *arguments[i + 1 :]).imag / 1e-30
        gradients.append(slope)
    return gradients


def kl(mean, sd):
    """KL(q ‖ N(0, I)), one Gaussian after the other."""
    return sum(
        0.5 * (m**2 + s**2 - 1.0 - np.log(s**2)) for m, s in zip(mean.flat, sd.flat, strict=True)
    )
