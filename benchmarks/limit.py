"""The yardstick: one Cholesky factorisation and one inverse from it, by LAPACK."""

import time
from functools import cache

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri


@cache
def _matrix(N: int) -> np.ndarray:
    X = np.random.default_rng(0).standard_normal((N, 2))
    square = (X**2).sum(axis=1)
    distance = np.maximum(square[:, None] + square - 2 * X @ X.T, 0.0)
    return np.asfortranarray(np.exp(-0.5 * distance) + 0.1 * np.eye(N))


def limit_times(N: int, seconds: float, least: int) -> list[float]:
    """CPU seconds of dpotrf + dpotri, each run by itself, for about `seconds`."""
    K, times, until = _matrix(N), [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        A = K.copy(order="F")
        before = time.process_time()
        factor, problem = dpotrf(A, lower=1, overwrite_a=1, clean=0)
        _, problem_too = dpotri(factor, lower=1, overwrite_c=1)
        times.append(time.process_time() - before)
        if problem or problem_too:
            raise RuntimeError("LAPACK refused the yardstick's matrix.")
    return times
