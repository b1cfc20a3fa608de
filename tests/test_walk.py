"""Steps on neighbourhoods: which rows move, how far, and what is refused."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pm_gplvm.walk import Walk


def bowl(rows, X_rows, theta):
    """-½‖X‖² - ½(θ - 1)², whose gradient pulls every row to 0."""
    value = -0.5 * (X_rows**2).sum() - 0.5 * sum(((t - 1.0) ** 2).sum() for t in theta)
    return value, -X_rows, [1.0 - t for t in theta]


THETA = (np.zeros(()), np.zeros(2))


def walk_on(X, slopes=bowl, theta=THETA, **options):
    options = {"n_neighbors": 4, "rates": (0.1, 0.05), "momentum": 0.9} | options
    return Walk(slopes, X, theta, **options)


@pytest.fixture
def X(rng):
    return rng.normal(size=(40, 2))


def test_only_the_nearest_rows_of_the_drawn_one_move(X):
    walk = walk_on(X, drawn=np.array([7]))
    walk.step(np.random.default_rng(0), 1.0)
    near = NearestNeighbors(n_neighbors=4).fit(X).kneighbors(X[[7]], return_distance=False)[0]
    moved = np.flatnonzero((walk.X != X).any(axis=1))
    assert set(moved) == set(near)
    assert 7 in moved


def test_first_steps_have_the_length_of_the_rates(X):
    walk = walk_on(X, drawn=np.array([7]))
    walk.step(np.random.default_rng(0), 0.5)
    moved = (walk.X != X).any(axis=1)
    np.testing.assert_allclose(walk.X[moved] - X[moved], -0.05 * np.sign(X[moved]), rtol=1e-6)
    np.testing.assert_allclose(walk.theta[0], 0.025, rtol=1e-6)
    np.testing.assert_allclose(walk.theta[1], [0.025, 0.025], rtol=1e-6)


def test_all_rows_at_once_is_adam(X):
    """Kingma & Ba's algorithm 1, written out, on a gradient that turns."""
    walk = walk_on(X, n_neighbors=40, momentum=0.8)
    at, mean, square = X.copy(), np.zeros_like(X), np.zeros_like(X)
    rng = np.random.default_rng(0)
    for t in range(1, 30):
        walk.step(rng, 1.0 - t / 30)
        mean = 0.8 * mean + 0.2 * -at
        square = 0.99 * square + 0.01 * at**2
        root = np.sqrt(square / (1.0 - 0.99**t)) + 1e-8
        at = at + (1.0 - t / 30) * 0.1 * (mean / (1.0 - 0.8**t)) / root
    np.testing.assert_allclose(walk.X, at, rtol=1e-10)


def test_neighbours_follow_the_moving_rows(rng):
    """Two far clusters, one carried over to the other: its rows find their new neighbours."""
    X = np.concatenate([rng.normal(size=(20, 2)), 50.0 + rng.normal(size=(20, 2))])
    met = []

    def carry(rows, X_rows, theta):
        met.append(set(rows.tolist()))
        return 0.0, 50.0 - X_rows, []

    walk = walk_on(X, carry, (), rates=(2.0, 0.0))
    generator = np.random.default_rng(0)
    for _ in range(1500):
        walk.step(generator, 1.0)
    assert not any(rows & set(range(20)) and rows - set(range(20)) for rows in met[:10])
    assert any(rows & set(range(20)) and rows - set(range(20)) for rows in met[-100:])


def test_drawn_row_is_always_among_its_neighbours(X):
    """Also where it has moved away since the tree was made."""
    seen = []

    def away(rows, X_rows, theta):
        seen.append(set(rows.tolist()))
        return 0.0, np.ones_like(X_rows), []

    walk = walk_on(X, away, (), n_neighbors=2, rates=(5.0, 0.0), drawn=np.array([3]))
    for _ in range(15):
        walk.step(np.random.default_rng(0), 1.0)
    assert all(3 in rows and len(rows) == 2 for rows in seen)


def test_theta_stays_where_its_rate_is_zero(X):
    walk = walk_on(X, rates=(0.1, 0.0))
    walk.step(np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(walk.theta[1], 0.0)


def test_theta_waits(X):
    walk = walk_on(X)
    walk.step(np.random.default_rng(0), 1.0, move_theta=False)
    np.testing.assert_array_equal(walk.theta[1], 0.0)
    walk.step(np.random.default_rng(0), 1.0)
    np.testing.assert_allclose(walk.theta[1], 0.05, rtol=1e-6)


def test_what_was_handed_over_is_left_alone(X):
    theta = [np.zeros(2)]
    before = X.copy()
    walk = walk_on(X, theta=theta)
    walk.step(np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(theta[0], 0.0)


@pytest.mark.parametrize("part", ["value", "X", "theta"])
def test_step_that_is_not_finite(part, X):
    def broken(rows, X_rows, theta):
        value, dX, dtheta = bowl(rows, X_rows, theta)
        if part == "value":
            return -np.inf, dX, dtheta
        if part == "X":
            return value, np.where(np.arange(4)[:, None] == 2, np.nan, dX), dtheta
        return value, dX, [dtheta[0], np.array([0.0, np.inf])]

    walk = walk_on(X, broken)
    message = r"Step 1 is not finite.*larger sigma, or lower the rates of X and θ, 0\.1 and 0\.05"
    with pytest.raises(ValueError, match=message):
        walk.step(np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(walk.X, X)
    np.testing.assert_array_equal(walk.theta[1], 0.0)


def test_positions_that_fly_apart(X):
    walk = walk_on(1e200 * X)
    with pytest.raises(ValueError, match="Step 1 is not finite"):
        walk.step(np.random.default_rng(0), 1.0)
