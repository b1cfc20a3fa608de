"""The compiled likelihood and its parts against NumPy, SciPy and differences."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from scipy.stats import multivariate_normal

from pm_gplvm.core import elementary, lapack
from pm_gplvm.core.fused import Columns, log_likelihood, value_and_gradient
from pm_gplvm.core.kernels import KERNELS, matrix

N, Q, D = 11, 2, 5


def exponentials(x):
    return np.array([elementary.exp(each) for each in x])


def test_exp_is_right_to_the_last_digits_and_does_not_overflow_below():
    x = np.concatenate([np.linspace(-700.0, 700.0, 20001), [0.0, -1e-300, 1e-17]])
    np.testing.assert_allclose(njit(exponentials)(x), np.exp(x), rtol=5e-16 * 700)
    small = np.linspace(-30.0, 0.0, 5001)
    np.testing.assert_allclose(njit(exponentials)(small), np.exp(small), rtol=1e-14)
    assert (njit(exponentials)(np.array([-701.0, -1e6, -np.inf])) < 1e-300).all()


def test_inverse_and_determinant_of_lapack(rng):
    A = rng.standard_normal((7, 9))
    A = A @ A.T
    found, memory = A.copy(), (np.zeros(2, np.int32), np.zeros(1, np.uint8))
    assert lapack.invert(found, 7, *memory) == pytest.approx(np.linalg.slogdet(A)[1])
    np.testing.assert_allclose(found, np.linalg.inv(A), rtol=1e-9)
    assert np.isnan(lapack.invert(-A, 7, *memory))


def table(rng, missing):
    F = rng.standard_normal((N, D))
    if missing:
        F[:3, 1] = F[5:7, 3] = F[5:7, 4] = np.nan
    return F


def theta_of(kernel, rng):
    """Amplitude, bias, sigma and two weights, 0 where the kernel has no such part."""
    entry, (a, b, s, *v) = KERNELS[kernel], rng.uniform(0.4, 1.4, 5)
    stationary, linear = float(entry.scaled is not None), float(entry.linear)
    # By itself the linear part has one amplitude.
    v = v if stationary else [v[0], v[0]]
    return np.array([a * stationary, b, s, *(linear * np.array(v))])


def by_scipy(kernel, F, Z, theta):
    entry = KERNELS[kernel]
    amplitude = theta[0] if entry.scaled is not None else theta[3]
    linear = [theta[3:]] if entry.summed else []
    K = matrix(entry, Z, amplitude, theta[1], theta[2], *linear)[0]
    total = 0.0
    for f in F.T:
        seen = ~np.isnan(f)
        part = multivariate_normal(np.zeros(seen.sum()), K[np.ix_(seen, seen)])
        total += part.logpdf(f[seen])
    return total


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_value_and_gradient_of_every_kernel(kernel, missing, rng):
    F, Z, theta = table(rng, missing), rng.standard_normal((N, Q)), theta_of(kernel, rng)
    scales = rng.uniform(0.5, 2.0, D)
    columns = Columns.of(F, kernel, np.log(scales))
    by_theta, by_Z = np.full(3 + Q, np.nan), np.full((N, Q), np.nan)
    value = value_and_gradient(columns, theta, Z, by_theta, by_Z)
    wanted = by_scipy(kernel, F, Z, theta) - (~np.isnan(F)).sum(axis=0) @ np.log(scales)
    assert value == pytest.approx(wanted, rel=1e-12)
    assert log_likelihood(columns, theta, Z) == pytest.approx(wanted, rel=1e-12)
    step = 1e-6

    def slope(dtheta, dZ):
        up = by_scipy(kernel, F, Z + step * dZ, theta + step * dtheta)
        down = by_scipy(kernel, F, Z - step * dZ, theta - step * dtheta)
        return (up - down) / (2 * step)

    near = {"abs": 1e-6, "rel": 1e-6}
    for i in range(3):
        if theta[i] != 0.0:
            assert by_theta[i] == pytest.approx(slope(np.eye(3 + Q)[i], 0.0), **near)
    if KERNELS[kernel].linear:
        together = np.r_[np.zeros(3), np.ones(Q)]
        assert by_theta[3:].sum() == pytest.approx(slope(together, 0.0), **near)
    for n, q in ((0, 0), (6, 1), (N - 1, 0)):
        at = np.zeros((N, Q))
        at[n, q] = 1.0
        assert by_Z[n, q] == pytest.approx(slope(0.0, at), **near)


def test_a_covariance_that_is_not_positive_has_no_value(rng):
    Z = np.zeros((N, Q))
    columns = Columns.of(table(rng, missing=False), "rbf", np.zeros(D))
    theta = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    assert np.isnan(log_likelihood(columns, theta, Z))
    assert np.isnan(value_and_gradient(columns, theta, Z, np.empty(3 + Q), np.empty((N, Q))))


def test_what_is_stored_is_made_anew_where_any_file_has_changed(tmp_path):
    """Numba itself looks at the file of the function alone."""
    (tmp_path / "inner.py").write_text(
        "from numba import njit\n@njit\ndef g(x):\n    return x + 1\n"
    )
    (tmp_path / "outer.py").write_text(
        "from pathlib import Path\nfrom pm_gplvm.core.jit import stored\nfrom inner import g\n"
        "def f(x):\n    return g(x)\nf = stored(f, Path(__file__).parent)\n"
        "print(f(1), sum(f.stats.cache_hits.values()))\n"
    )

    def run():
        command = [sys.executable, "outer.py"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return found.stdout.split()

    assert run() == ["2", "0"]
    assert run() == ["2", "1"]
    inner = Path(tmp_path / "inner.py")
    inner.write_text(inner.read_text().replace("+ 1", "+ 2"))
    assert run() == ["3", "0"]
