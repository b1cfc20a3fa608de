"""Expectations of log-likelihoods over f ~ N(m, v), compiled: three forms that most likelihoods are made of.

Each takes ``mean`` and ``variance`` (B, K, D) of f at K nodes of B rows and overwrites them with w_k times
the derivatives in m and v, and fills (B, D) sums over the nodes, of which the caller makes the value and
the derivatives in what else there is. A missing entry has coefficients 0.

A loop stores or sums and never does both: how sums are taken then does not depend on where arrays begin.
"""

import math

import numpy as np

from pm_gplvm.core import elementary
from pm_gplvm.core.jit import fast, stored

# Beyond, ln(1 + eᵗ) is 0 or t to the last digit; products of such exponentials must not overflow.
_FLAT = 100.0
_WIDEST = 60.0
_LARGEST = 600.0  # its exponential times the numbers of a table is finite


@fast
def _quadratic_node(mean, variance, weight, y, precision, total):
    for d in range(len(mean)):
        residual = y[d] - mean[d]
        total[d] += weight * (residual * residual + variance[d])
        mean[d] = weight * precision[d] * residual
        variance[d] = -0.5 * weight * precision[d]


@stored
def quadratic(mean, variance, weights, y, precision, total):
    """-½ precision (y - f)²; ``total`` is E (y - f)²."""
    total[:] = 0.0
    for b in range(mean.shape[0]):
        for k in range(mean.shape[1]):
            _quadratic_node(mean[b, k], variance[b, k], weights[k], y[b], precision[b], total[b])


@fast
def _exponential_node(mean, variance, weight, sign, shift, linear, rate, middle, total):
    for d in range(len(mean)):
        t = sign * mean[d] + shift[d]
        e = elementary.exp(min(t + 0.5 * variance[d], _LARGEST))
        middle[d] += weight * t
        total[d] += weight * e
        mean[d] = weight * sign * (linear[d] - rate[d] * e)
        variance[d] = -0.5 * weight * rate[d] * e


@stored
def exponential(mean, variance, weights, sign, shift, linear, rate, middle, total):
    """Linear t - rate eᵗ with t = ±f + shift; ``middle`` is E t, ``total`` E eᵗ."""
    middle[:] = 0.0
    total[:] = 0.0
    for b in range(mean.shape[0]):
        for k in range(mean.shape[1]):
            _exponential_node(
                mean[b, k],
                variance[b, k],
                weights[k],
                sign,
                shift[b],
                linear[b],
                rate[b],
                middle[b],
                total[b],
            )


@fast
def _softplus_centre(mean, variance, shift, weight, decay, spread, soft, chance, curvature):
    """Begin the sums at the middle point."""
    for d in range(len(mean)):
        t = max(min(mean[d] + shift[d], _FLAT), -_FLAT)
        e = elementary.exp(-t)
        p = 1.0 / (1.0 + e)
        decay[d] = e
        spread[d] = math.sqrt(variance[d])
        soft[d] = weight * (elementary.quick_log(1.0 + e) + t)
        chance[d] = weight * p
        curvature[d] = weight * p * (e * p)


@fast
def _softplus_pair(mean, shift, point, weight, decay, spread, soft, chance, curvature):
    """Add the points t ± x sd, by one exponential and one logarithm, as both stand in one quotient."""
    for d in range(len(mean)):
        t = max(min(mean[d] + shift[d], _FLAT), -_FLAT)
        wide = min(spread[d] * point, _WIDEST)
        e, u = decay[d], elementary.exp(wide)
        above, below = u + e, 1.0 + e * u
        product = above * below
        inverse = 1.0 / product
        high, low = u * below * inverse, above * inverse
        soft[d] += weight * (2.0 * t - wide + elementary.quick_log(product))
        chance[d] += weight * (high + low)
        curvature[d] += weight * (high * (1.0 - high) + low * (1.0 - low))


@fast
def _softplus_node(
    mean, variance, weight, shift, linear, count, soft, chance, curvature, middle, total
):
    for d in range(len(mean)):
        t = mean[d] + shift[d]
        middle[d] += weight * t
        total[d] += weight * (soft[d] + max(t - _FLAT, 0.0))
        mean[d] = weight * (linear[d] - count[d] * chance[d])
        variance[d] = -0.5 * weight * count[d] * curvature[d]


@stored
def softplus(mean, variance, weights, shift, linear, count, centre, points, halves, middle, total):
    """Linear t - count ln(1 + eᵗ) with t = f + shift; ``middle`` is E t, ``total`` E ln(1 + eᵗ).

    By Gauss-Hermite: ``centre`` is the weight of the middle point, ``halves`` those of each of ±``points``.
    """
    work = np.empty((5, mean.shape[2]))
    middle[:] = 0.0
    total[:] = 0.0
    for b in range(mean.shape[0]):
        for k in range(mean.shape[1]):
            m, v = mean[b, k], variance[b, k]
            _softplus_centre(m, v, shift[b], centre, work[0], work[1], work[2], work[3], work[4])
            for j in range(len(points)):
                _softplus_pair(
                    m,
                    shift[b],
                    points[j],
                    halves[j],
                    work[0],
                    work[1],
                    work[2],
                    work[3],
                    work[4],
                )
            _softplus_node(
                m,
                v,
                weights[k],
                shift[b],
                linear[b],
                count[b],
                work[2],
                work[3],
                work[4],
                middle[b],
                total[b],
            )


@fast
def _log_rising(y, r, value, slope):
    for d in range(len(y)):
        value[d] = 0.0
        slope[d] = 0.0
        if y[d] > 0.0:
            # ln Γ(x) = Stirling's series at x + 8 less ln x(x+1)…(x+7); ψ likewise
            for end in range(2):
                x = r[d] + y[d] if end == 0 else r[d]
                product, derivative = 1.0, 0.0
                for i in range(8):
                    derivative = derivative * (x + i) + product
                    product *= x + i
                z = x + 8.0
                c = 1.0 / (z * z)
                log = elementary.quick_log(z)
                gamma = (z - 0.5) * log - z - elementary.quick_log(product)
                gamma += (
                    1.0 / 12.0
                    - c * (1.0 / 360.0 - c * (1.0 / 1260.0 - c * (1.0 / 1680.0 - c / 1188.0)))
                ) / z
                psi = log - 0.5 / z - derivative / product
                psi -= c * (
                    1.0 / 12.0
                    - c * (1.0 / 120.0 - c * (1.0 / 252.0 - c * (1.0 / 240.0 - c / 132.0)))
                )
                if end == 0:
                    value[d] += gamma
                    slope[d] += psi
                else:
                    value[d] -= gamma
                    slope[d] -= psi


@stored
def log_rising(y, r, value, slope):
    """Ln Γ(y + r) / Γ(r) and its derivative in r, for counts (B, D) and r (D,)."""
    for b in range(y.shape[0]):
        _log_rising(y[b], r, value[b], slope[b])


@fast
def _student_centre(mean, variance, y, scale, weight, spread, logs, slope, curvature, share):
    """Begin the sums at the middle point."""
    for d in range(len(mean)):
        spread[d] = math.sqrt(variance[d])
        r = y[d] - mean[d]
        inverse = 1.0 / (scale[d] + r * r)
        part = scale[d] * inverse
        logs[d] = -weight * elementary.quick_log(part)
        slope[d] = weight * r * inverse
        curvature[d] = weight * (2.0 * part - 1.0) * inverse
        share[d] = weight * (1.0 - part)


@fast
def _student_pair(mean, y, scale, point, weight, spread, logs, slope, curvature, share):
    """Add the points f ± x sd."""
    for d in range(len(mean)):
        wide = spread[d] * point
        r, s = y[d] - mean[d] - wide, y[d] - mean[d] + wide
        first, second = 1.0 / (scale[d] + r * r), 1.0 / (scale[d] + s * s)
        one, two = scale[d] * first, scale[d] * second
        logs[d] -= weight * elementary.quick_log(one * two)
        slope[d] += weight * (r * first + s * second)
        curvature[d] += weight * ((2.0 * one - 1.0) * first + (2.0 * two - 1.0) * second)
        share[d] += weight * (2.0 - one - two)


@fast
def _student_node(mean, variance, weight, head, logs, slope, curvature, share, total, total_share):
    for d in range(len(mean)):
        total[d] += weight * logs[d]
        total_share[d] += weight * share[d]
        mean[d] = weight * head[d] * slope[d]
        variance[d] = -0.5 * weight * head[d] * curvature[d]


@stored
def student(mean, variance, weights, y, scale, head, centre, points, halves, total, total_share):
    """-½ head ln(1 + z), z = (y - f)² / scale; ``total`` is E ln(1 + z), ``total_share`` E z / (1 + z).

    By Gauss-Hermite, as :func:`softplus`; ``scale`` is (D,), ``head`` (B, D) is 0 where Y is missing.
    """
    work = np.empty((5, mean.shape[2]))
    total[:] = 0.0
    total_share[:] = 0.0
    for b in range(mean.shape[0]):
        for k in range(mean.shape[1]):
            m, v = mean[b, k], variance[b, k]
            _student_centre(m, v, y[b], scale, centre, work[0], work[1], work[2], work[3], work[4])
            for j in range(len(points)):
                _student_pair(
                    m,
                    y[b],
                    scale,
                    points[j],
                    halves[j],
                    work[0],
                    work[1],
                    work[2],
                    work[3],
                    work[4],
                )
            _student_node(
                m,
                v,
                weights[k],
                head[b],
                work[1],
                work[2],
                work[3],
                work[4],
                total[b],
                total_share[b],
            )
