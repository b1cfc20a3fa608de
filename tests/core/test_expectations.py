"""The compiled expectations: the vectorised logarithm, and sums that do not depend on where arrays begin."""

import numpy as np
from numpy.testing import assert_allclose
from scipy.special import digamma, gammaln

from pm_gplvm.core import elementary, expectations
from pm_gplvm.core.jit import fast


@fast
def logs(x, out):
    for i in range(len(x)):
        out[i] = elementary.quick_log(x[i])


def test_the_vectorised_logarithm_is_that_of_the_c_library():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0.5, 2.0, 1003), np.exp(rng.uniform(-700, 700, 1003)), [1.0]])
    out = np.empty_like(x)
    logs(x, out)
    assert_allclose(out, np.log(x), rtol=1e-15, atol=2e-16)


def test_gamma_functions_are_scipys():
    x = np.concatenate([np.geomspace(1e-3, 1e6, 501), np.arange(1.0, 9.0)])
    value, slope = np.empty_like(x), np.empty_like(x)
    expectations.log_gamma(x, value, slope)
    assert_allclose(value, gammaln(x), rtol=1e-13, atol=2e-14)
    assert_allclose(slope, digamma(x), rtol=1e-13, atol=2e-14)


def test_the_memory_of_arrays_changes_no_digit():
    rng = np.random.default_rng(2)
    B, K, D = 3, 4, 13
    mean, variance = rng.normal(size=(B, K, D)), rng.uniform(0.1, 1.0, (B, K, D))
    y, weights = rng.poisson(1.0, (B, D)).astype(float), np.full(K, 0.25)
    found = []
    for start in range(8):
        arrays = []
        for each in (mean, variance, y, np.empty((B, D)), np.empty((B, D))):
            memory = np.empty(each.size + 8)
            arrays.append(memory[start : start + each.size].reshape(each.shape))
            arrays[-1][:] = each
        m, v, count, middle, total = arrays
        points = np.array([1.2, 2.6])
        expectations.softplus(
            m, v, weights, y, count, y + 2, 0.5, points, points / 20, middle, total
        )
        found.append([a.copy() for a in (m, v, middle, total)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
