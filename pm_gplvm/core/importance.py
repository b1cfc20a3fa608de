"""Weights of draws that were made given what is to be left out, by Pareto-smoothed importance sampling."""

from contextlib import suppress

import numpy as np
from scipy.special import logsumexp

from pm_gplvm.core.checks import Array
from pm_gplvm.core.interrupt import interruptible

FEWEST_SMOOTHED = 25  # draws below which Pareto smoothing has no tail to fit


def left_out_weights(logs: Array) -> tuple[Array, Array]:
    """Normalised logarithms of smoothed weights proportional to exp(-logs) (S, N), and their Pareto k (N,)."""
    with interruptible():
        from arviz_stats.base import array_stats

    if len(logs) >= FEWEST_SMOOTHED:
        with suppress(ValueError):  # equal weights cannot be smoothed
            log_weights, k = array_stats.psislw(logs, axis=0)
            return np.asarray(log_weights).T, np.asarray(k)
    return -logs - logsumexp(-logs, axis=0), np.full(logs.shape[1], np.nan)
