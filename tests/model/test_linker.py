"""NumpyLinker against PyTensor's own Python linker."""

import threading

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from scipy.special import expit, gammaln

import pm_gplvm as gplvm
from pm_gplvm.model.compile import NumpyLinker, resolve_mode
from pm_gplvm.model.ops import Covariance, GaussianTerms

OTHER = "FAST_COMPILE"


def both(inputs, outputs, **kwargs):
    return [
        pytensor.function(inputs, outputs, mode=m, **kwargs)
        for m in (gplvm.model.compile_mode(), OTHER)
    ]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert type(a) is np.ndarray
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_mixed_dtypes_and_many_outputs(rng):
    x, small, n, flag = pt.dmatrix(), pt.fvector(), pt.lvector(), pt.bvector()
    outputs = [
        pt.add(x, small, n, flag),
        pt.mul(x, small, 2, flag),
        pt.switch(n > 1, x, small),
        pt.switch(flag, small, small * 2),
        pt.switch(pt.gt(x, 0), n, flag),
        pt.sqrt(n),
        pt.exp(small),
        x.sum(axis=0),
        x.sum(),
        pt.cumsum(n),
        pt.eq(n, flag),
        pt.and_(pt.gt(x, 0), pt.lt(small, 1)),
        pt.cast(x, "int32"),
        pt.cast(n, "bool"),
        pt.maximum(x, small) // 0.3,
        n // 2,
        x**2,
        n**2,
        pt.sigmoid(x),
        pt.gammaln(pt.abs(x) + 1.0),
        pt.argmax(x, axis=1),
        pt.sort(x, axis=1),
        x.T @ x,
        x[1:, ::2],
        pt.set_subtensor(x[0], 0.0),
        pt.isnan(pt.log(x)),
        pt.concatenate([x, x], axis=1),
        pt.constant(3.0) * pt.ones((2,)),
        n.shape[0] + pt.zeros((), dtype="int64"),
    ]
    ours, theirs = both([x, small, n, flag], outputs)
    values = [
        rng.normal(size=(3, 3)),
        rng.normal(size=3).astype("float32"),
        np.array([1, 2, 3]),
        np.array([0, 1, 1], dtype="int8"),
    ]
    with np.errstate(all="ignore"):
        assert_same(ours(*values), theirs(*values))
    found = dict(zip(range(len(outputs)), ours(*values), strict=True))
    np.testing.assert_allclose(found[0], sum(values), rtol=1e-7)
    np.testing.assert_allclose(found[18], expit(values[0]), rtol=1e-12)
    np.testing.assert_allclose(found[19], gammaln(np.abs(values[0]) + 1), rtol=1e-12)


def test_single_output_and_scalar():
    x = pt.dscalar()
    function = pytensor.function([x], pt.add(x, x, x) * 2.0, mode=gplvm.model.compile_mode())
    result = function(1.5)
    assert isinstance(result, np.ndarray)
    assert result.shape == ()
    assert result == 9.0


def test_no_inputs_and_no_computation():
    assert pytensor.function([], pt.constant(2.0), mode=gplvm.model.compile_mode())() == 2.0
    x = pt.dvector()
    function = pytensor.function([x], [x, x], mode=gplvm.model.compile_mode())
    given = np.arange(3.0)
    first, second = function(given)
    first += 1.0
    np.testing.assert_array_equal(given, np.arange(3.0))
    np.testing.assert_array_equal(second, np.arange(3.0))


def test_inputs_stay_as_they_were(rng):
    x = pt.dmatrix()
    y = pt.set_subtensor(pt.exp(x)[0], 0.0) + pt.set_subtensor(x[1], 5.0)
    function = pytensor.function([x], [y, x.sum()], mode=gplvm.model.compile_mode())
    given = rng.normal(size=(3, 3))
    before = given.copy()
    function(given)
    np.testing.assert_array_equal(given, before)


def test_earlier_results_are_not_overwritten(rng):
    x = pt.dmatrix()
    outputs = [
        x.sum(axis=0),
        x @ x,
        pt.cumsum(x, axis=0),
        pt.exp(x),
        pt.linalg.cholesky(x @ x.T),
        x.T,
    ]
    function = pytensor.function([x], outputs, mode=gplvm.model.compile_mode())
    function.trust_input = True
    first = function(rng.normal(size=(4, 4)))
    kept = [value.copy() for value in first]
    for _ in range(3):
        function(rng.normal(size=(4, 4)))
    for value, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(value, before)


def test_shared_variables_are_updated(rng):
    total = pytensor.shared(np.zeros(2), name="total")
    x = pt.dvector()
    function = pytensor.function(
        [x], total * 2, updates={total: total + x}, mode=gplvm.model.compile_mode()
    )
    np.testing.assert_array_equal(function(np.ones(2)), [0.0, 0.0])
    np.testing.assert_array_equal(function(np.ones(2)), [2.0, 2.0])
    np.testing.assert_array_equal(total.get_value(), [2.0, 2.0])


def test_random_draws_equal_and_advance():
    draws = []
    for chosen in (gplvm.model.compile_mode(), OTHER):
        generator = pytensor.shared(np.random.default_rng(7), name="generator")
        advanced, z = pt.random.normal(size=(3,), rng=generator, return_next_rng=True)
        function = pytensor.function([], [z, z.sum()], updates={generator: advanced}, mode=chosen)
        draws.append([function()[0] for _ in range(2)])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0][0], draws[0][1])
    np.testing.assert_array_equal(draws[0][0], np.random.default_rng(7).normal(size=3))


def test_floating_point_errors_are_values(recwarn):
    x = pt.dvector()
    function = pytensor.function(
        [x], [pt.log(x), 1.0 / x, pt.sqrt(x), pt.exp(-1e4 * x)], mode=gplvm.model.compile_mode()
    )
    logarithm, inverse, root, power = function(np.array([0.0, -1.0]))
    assert logarithm[0] == -np.inf
    assert inverse[0] == np.inf
    assert np.isnan(root[1])
    assert power[1] == np.inf
    assert not recwarn.list


def test_an_exception_leaves_the_function_usable():
    x, i = pt.dvector(), pt.lscalar()
    function = pytensor.function([x, i], pt.exp(x)[i], mode=gplvm.model.compile_mode())
    with pytest.raises(IndexError):
        function(np.zeros(3), 7)
    assert function(np.zeros(3), 2) == 1.0


def test_earlier_results_of_the_packages_ops_are_not_overwritten(rng):
    """Their working arrays are used again from call to call; nothing returned may be among them."""
    x = pt.dmatrix()
    K, slope = Covariance("matern32")(x, 1.0, 0.5, 0.3)
    quad, logdet, factor, weights = GaussianTerms()(K, x)
    cost = pt.log(quad).sum() + logdet
    outputs = [
        K,
        K.T,
        K[1:],
        2.0 * K,
        pt.diagonal(factor),
        slope,
        quad,
        logdet,
        factor,
        weights,
        cost,
        pt.grad(cost, x),
        pt.grad(logdet, K),
        pt.grad(quad[0], K).ravel(),
    ]
    for chosen in (outputs, *([output] for output in outputs)):
        function = pytensor.function([x], chosen, mode=gplvm.model.compile_mode())
        function.trust_input = True
        first = function(rng.normal(size=(5, 2)))
        kept = [value.copy() for value in first]
        second = function(rng.normal(size=(5, 2)))
        for value, before, other in zip(first, kept, second, strict=True):
            np.testing.assert_array_equal(value, before)
            assert not np.array_equal(value, other)


def test_copies_run_in_two_threads():
    """A likelihood with its gradient, in two threads at once, against one after the other."""
    x = pt.dmatrix("x")
    quad, logdet, *_ = GaussianTerms()(gplvm.covariance("rbf", x, sigma=0.3), np.eye(12, 3))
    cost = quad.sum() + logdet
    function = pytensor.function([x], [cost, pt.grad(cost, x)], mode=gplvm.model.compile_mode())
    copies = [function.copy(share_memory=False) for _ in range(2)]
    positions = np.random.default_rng(3).normal(size=(2, 40, 12, 2))
    expected = [[function(p) for p in half] for half in positions]
    found = [[], []]

    def work(i):
        for p in positions[i]:
            found[i].append(copies[i](p))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(found[i]) == 40
        for (value, gradient), (wanted, slope) in zip(found[i], expected[i], strict=True):
            assert value == wanted
            np.testing.assert_array_equal(gradient, slope)


def test_compile_mode_is_the_numpy_linker():
    mode = gplvm.model.compile_mode()
    assert isinstance(mode, Mode)
    assert isinstance(mode.linker, NumpyLinker)


def test_users_own_mode_wins():
    assert resolve_mode("python", {"mode": OTHER, "profile": False}) == {
        "mode": OTHER,
        "profile": False,
    }


def test_unknown_backend():
    with pytest.raises(
        ValueError, match=r"backend must be 'python', 'numba' or 'jax', got 'torch'"
    ):
        gplvm.model.compile_mode("torch")
