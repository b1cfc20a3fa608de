"""Expectations of log-likelihoods over f ~ N(m, v), compiled: three forms that most likelihoods are made of.

Each takes ``mean`` and ``variance`` (B, K, D) of f at K nodes of B rows and overwrites them with w_k times
the derivatives in m and v, and fills (B, D) sums over the nodes, of which the caller makes the value and
the derivatives in what else there is. A missing entry has coefficients 0.

The loops with exponentials run along slabs of several nodes, as a few columns would not fill vector
registers. A loop stores or sums and never does both: how sums are taken then does not depend on where
arrays begin.
"""

import math

import numpy as np

from pm_gplvm.core import elementary
from pm_gplvm.core.jit import fast, stored

# Beyond, ln(1 + eᵗ) is 0 or t to the last digit; products of such exponentials must not overflow.
_FLAT = 100.0
_WIDEST = 60.0
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SLAB = 512  # numbers, of which several arrays fit the first cache
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
def _shifted(mean, sign, shift, K, first, last, t):
    """Fill ``t`` with ±mean + shift of the nodes of a slab."""
    D = shift.shape[1]
    for p in range(first, last):
        m, s, to = mean[p], shift[p // K], t[(p - first) * D : (p - first + 1) * D]
        for d in range(D):
            to[d] = sign * m[d] + s[d]


@fast
def _exponential_slab(t, variance, e):
    for i in range(len(t)):
        e[i] = elementary.exp(min(t[i] + 0.5 * variance[i], _LARGEST))


@fast
def _exponential_node(mean, variance, weight, sign, t, e, linear, rate, middle, total):
    for d in range(len(mean)):
        middle[d] += weight * t[d]
        total[d] += weight * e[d]
        mean[d] = weight * sign * (linear[d] - rate[d] * e[d])
        variance[d] = -0.5 * weight * rate[d] * e[d]


@stored
def exponential(mean, variance, weights, sign, shift, linear, rate, middle, total):
    """Of linear t - rate eᵗ with t = ±f + shift; ``middle`` is E t, ``total`` E eᵗ."""
    B, K, D = mean.shape
    means, variances = mean.reshape(B * K, D), variance.reshape(B * K, D)
    flat = variance.reshape(B * K * D)
    nodes = max(1, _SLAB // max(D, 1))
    work = np.empty((2, nodes * D))
    middle[:] = 0.0
    total[:] = 0.0
    for first in range(0, B * K, nodes):
        last = min(first + nodes, B * K)
        n = (last - first) * D
        t, e = work[0, :n], work[1, :n]
        _shifted(means, sign, shift, K, first, last, t)
        _exponential_slab(t, flat[first * D : last * D], e)
        for p in range(first, last):
            b, at = p // K, (p - first) * D
            _exponential_node(
                means[p],
                variances[p],
                weights[p % K],
                sign,
                t[at : at + D],
                e[at : at + D],
                linear[b],
                rate[b],
                middle[b],
                total[b],
            )


@fast
def _softplus_centre(t, variance, weight, decay, spread, soft, chance, curvature):
    """Begin the sums at the middle point."""
    for i in range(len(t)):
        at = max(min(t[i], _FLAT), -_FLAT)
        e = elementary.exp(-at)
        p = 1.0 / (1.0 + e)
        decay[i] = e
        spread[i] = math.sqrt(variance[i])
        soft[i] = weight * (elementary.quick_log(1.0 + e) + at)
        chance[i] = weight * p
        curvature[i] = weight * p * (e * p)


@fast
def _softplus_pair(t, point, weight, decay, spread, soft, chance, curvature):
    """Add the points t ± x sd, by one exponential and one logarithm, as both stand in one quotient."""
    for i in range(len(t)):
        at = max(min(t[i], _FLAT), -_FLAT)
        wide = min(spread[i] * point, _WIDEST)
        e, u = decay[i], elementary.exp(wide)
        above, below = u + e, 1.0 + e * u
        product = above * below
        inverse = 1.0 / product
        high, low = u * below * inverse, above * inverse
        soft[i] += weight * (2.0 * at - wide + elementary.quick_log(product))
        chance[i] += weight * (high + low)
        curvature[i] += weight * (high * (1.0 - high) + low * (1.0 - low))


@fast
def _softplus_node(
    mean, variance, weight, t, linear, count, soft, chance, curvature, middle, total
):
    for d in range(len(mean)):
        middle[d] += weight * t[d]
        total[d] += weight * (soft[d] + max(t[d] - _FLAT, 0.0))
        mean[d] = weight * (linear[d] - count[d] * chance[d])
        variance[d] = -0.5 * weight * count[d] * curvature[d]


@stored
def softplus(mean, variance, weights, shift, linear, count, centre, points, halves, middle, total):
    """Of linear t - count ln(1 + eᵗ) with t = f + shift; ``middle`` is E t, ``total`` E ln(1 + eᵗ).

    By Gauss-Hermite: ``centre`` is the weight of the middle point, ``halves`` those of each of ±``points``.
    """
    B, K, D = mean.shape
    means, variances = mean.reshape(B * K, D), variance.reshape(B * K, D)
    flat = variance.reshape(B * K * D)
    nodes = max(1, _SLAB // max(D, 1))
    work = np.empty((6, nodes * D))
    middle[:] = 0.0
    total[:] = 0.0
    for first in range(0, B * K, nodes):
        last = min(first + nodes, B * K)
        n = (last - first) * D
        t, decay, spread = work[0, :n], work[1, :n], work[2, :n]
        soft, chance, curvature = work[3, :n], work[4, :n], work[5, :n]
        _shifted(means, 1.0, shift, K, first, last, t)
        _softplus_centre(
            t, flat[first * D : last * D], centre, decay, spread, soft, chance, curvature
        )
        for j in range(len(points)):
            _softplus_pair(t, points[j], halves[j], decay, spread, soft, chance, curvature)
        for p in range(first, last):
            b, at = p // K, (p - first) * D
            _softplus_node(
                means[p],
                variances[p],
                weights[p % K],
                t[at : at + D],
                linear[b],
                count[b],
                soft[at : at + D],
                chance[at : at + D],
                curvature[at : at + D],
                middle[b],
                total[b],
            )


@fast
def _student_start(scale, nodes, tiled):
    for p in range(nodes):
        for d in range(len(scale)):
            tiled[p * len(scale) + d] = scale[d]


@fast
def _student_centre(r, variance, scale, weight, spread, logs, slope, curvature, share):
    """Begin the sums at the middle point; r is y - mean."""
    for i in range(len(r)):
        spread[i] = math.sqrt(variance[i])
        inverse = 1.0 / (scale[i] + r[i] * r[i])
        part = scale[i] * inverse
        logs[i] = -weight * elementary.quick_log(part)
        slope[i] = weight * r[i] * inverse
        curvature[i] = weight * (2.0 * part - 1.0) * inverse
        share[i] = weight * (1.0 - part)


@fast
def _student_pair(r, scale, point, weight, spread, logs, slope, curvature, share):
    """Add the points f ± x sd."""
    for i in range(len(r)):
        wide = spread[i] * point
        above, below = r[i] - wide, r[i] + wide
        first, second = 1.0 / (scale[i] + above * above), 1.0 / (scale[i] + below * below)
        one, two = scale[i] * first, scale[i] * second
        logs[i] -= weight * elementary.quick_log(one * two)
        slope[i] += weight * (above * first + below * second)
        curvature[i] += weight * ((2.0 * one - 1.0) * first + (2.0 * two - 1.0) * second)
        share[i] += weight * (2.0 - one - two)


@fast
def _student_node(mean, variance, weight, head, logs, slope, curvature, share, total, total_share):
    for d in range(len(mean)):
        total[d] += weight * logs[d]
        total_share[d] += weight * share[d]
        mean[d] = weight * head[d] * slope[d]
        variance[d] = -0.5 * weight * head[d] * curvature[d]


@stored
def student(mean, variance, weights, y, scale, head, centre, points, halves, total, total_share):
    """Of -½ head ln(1 + z), z = (y - f)² / scale; ``total`` is E ln(1 + z), ``total_share`` E z / (1 + z).

    By Gauss-Hermite, as :func:`softplus`; ``scale`` is (D,), ``head`` (B, D) is 0 where Y is missing.
    """
    B, K, D = mean.shape
    means, variances = mean.reshape(B * K, D), variance.reshape(B * K, D)
    flat = variance.reshape(B * K * D)
    nodes = max(1, _SLAB // max(D, 1))
    work = np.empty((7, nodes * D))
    _student_start(scale, nodes, work[6])
    total[:] = 0.0
    total_share[:] = 0.0
    for first in range(0, B * K, nodes):
        last = min(first + nodes, B * K)
        n = (last - first) * D
        r, spread, logs, slope = work[0, :n], work[1, :n], work[2, :n], work[3, :n]
        curvature, share, tiled = work[4, :n], work[5, :n], work[6, :n]
        _shifted(means, -1.0, y, K, first, last, r)
        _student_centre(
            r, flat[first * D : last * D], tiled, centre, spread, logs, slope, curvature, share
        )
        for j in range(len(points)):
            _student_pair(r, tiled, points[j], halves[j], spread, logs, slope, curvature, share)
        for p in range(first, last):
            b, at = p // K, (p - first) * D
            _student_node(
                means[p],
                variances[p],
                weights[p % K],
                head[b],
                logs[at : at + D],
                slope[at : at + D],
                curvature[at : at + D],
                share[at : at + D],
                total[b],
                total_share[b],
            )


@fast
def _log_gamma(x, value, slope):
    for i in range(len(x)):
        # Stirling's series at x + 8, less ln x(x+1)…(x+7)
        product, derivative = 1.0, 0.0
        for j in range(8):
            derivative = derivative * (x[i] + j) + product
            product *= x[i] + j
        inverse = 1.0 / (x[i] + 8.0)
        c = inverse * inverse
        log = -elementary.quick_log(inverse)
        gamma = 1.0 / 360.0 - c * (
            1.0 / 1260.0 - c * (1.0 / 1680.0 - c * (1.0 / 1188.0 - c * (691.0 / 360360.0)))
        )
        gamma = (1.0 / 12.0 - c * gamma) * inverse - (x[i] + 8.0) - elementary.quick_log(product)
        value[i] = (x[i] + 7.5) * log + gamma + _HALF_LOG_2PI
        psi = 1.0 / 120.0 - c * (
            1.0 / 252.0 - c * (1.0 / 240.0 - c * (1.0 / 132.0 - c * (691.0 / 32760.0)))
        )
        slope[i] = log - 0.5 * inverse - c * (1.0 / 12.0 - c * psi) - derivative / product


@stored
def log_gamma(x, value, slope):
    """Ln Γ(x) and its derivative, for positive numbers below 10³⁰."""
    _log_gamma(x, value, slope)
