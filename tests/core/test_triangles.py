"""The inverse of a triangle in position."""

import numpy as np
import pytest
from scipy.linalg import solve_triangular

from pm_gplvm.core.gaussian import invert, mirror
from pm_gplvm.core.triangles import invert_upper


@pytest.mark.parametrize("n", [1, 2, 128, 129, 137, 300, 513])
def test_a_triangle_times_its_inverse_is_the_identity(n, rng):
    U = np.triu(rng.standard_normal((n, n))) / np.sqrt(n) + 2.0 * np.eye(n)
    below = np.tril(rng.standard_normal((n, n)), -1)
    found = np.asfortranarray(U + below)
    invert_upper(found)
    np.testing.assert_allclose(np.triu(found), solve_triangular(U, np.eye(n)), atol=1e-13)
    np.testing.assert_array_equal(np.tril(found, -1), below)  # what is below stays


@pytest.mark.parametrize(
    "U", [np.eye(3)[:, ::-1].T[::2], np.eye(3, dtype="float32"), np.eye(4)[1:]]
)
def test_other_arrays_are_refused(U):
    with pytest.raises(ValueError, match="Fortran-ordered array of float64"):
        invert_upper(U)


@pytest.mark.parametrize("n", [191, 192, 250])
def test_the_inverse_is_LAPACKs_on_both_sides_of_the_switch(n, rng):
    root = rng.standard_normal((n, 2 * n))
    A = root @ root.T / n
    found = A.copy()
    assert invert(found) == pytest.approx(np.linalg.slogdet(A)[1], abs=1e-9)
    np.testing.assert_allclose(mirror(found) @ A, np.eye(n), atol=1e-10)
    assert invert(-A) is None
