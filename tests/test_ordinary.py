"""The default fit on small ordinary tables, beside PCA; and what the battery measures them with."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from pm_gplvm import GPLVM

# The benchmarks are no part of the source distribution.
ordinary = pytest.importorskip("benchmarks.ordinary", reason="no benchmarks/ here")
ppca = pytest.importorskip("benchmarks.ppca", reason="no benchmarks/ here")
tables = pytest.importorskip("benchmarks.ordinary_tables", reason="no benchmarks/ here")

LINEAR = ("linear-20x4", "linear-30x8", "linear-80x8")


@cache
def fitted(name):
    return ordinary.measured(name, limit=30.0)


# -- the defaults: `-m "not defaults"` leaves these out ------------------------------------------


@pytest.mark.defaults
@pytest.mark.parametrize("name", tables.SHORT)
def test_default_fit_is_not_silently_worse_than_pca(name):
    row = fitted(name)
    assert row["ended"] == "yes", row.get("error", row["ended"])
    assert not row["verdict"].startswith(ordinary.SILENT), row


@pytest.mark.defaults
@pytest.mark.parametrize("name", LINEAR)
def test_default_fit_of_a_linear_table_finds_what_pca_finds(name):
    row = fitted(name)
    assert row["converged"], row
    assert ordinary.worse(row) == [], row
    assert row["rms"] < 1.1 * row["pca_rms"]


@pytest.mark.defaults
@pytest.mark.parametrize("name", ["linear-30x8", "linear-80x8", "row-six-times-45x12"])
def test_positions_have_the_scale_of_their_prior(name):
    assert 0.3 < fitted(name)["sd_X"] < 1.5


@pytest.mark.defaults
# The truth, in standard deviations of the table: 0.4 where there are curves, and all of it.
@pytest.mark.parametrize(("name", "least"), [("row-six-times-45x12", 0.2), ("noise-80x8", 0.6)])
def test_noise_is_not_fitted(name, least):
    assert least < fitted(name)["sigma"] < 1.1


@pytest.mark.defaults
def test_factors_behind_yes_and_no_are_found():
    assert ordinary.worse(fitted("yes-no-60x8")) == []


@pytest.mark.defaults
def test_hidden_entries_are_filled_as_well_as_by_probabilistic_pca():
    row = fitted("holes-40x6")
    assert row["rms"] < 1.1 * row["pca_rms"]


@pytest.mark.defaults
def test_noise_of_columns_that_misleads_is_told_and_the_remedy_helps():
    row = fitted("noisy-columns-2")
    assert "factors" in ordinary.worse(row)
    assert row["verdict"].startswith(ordinary.TOLD), row
    table = tables.CASES["noisy-columns-2"].make()
    own = GPLVM(1, noise="column", random_state=1).fit(table.Y)  # a warning would be an error
    X = own.fit_["posterior"]["X"].to_numpy()[0, 0]
    assert ordinary.r2_of_factors(X, table.factors) > 0.9


# -- what it is measured with ---------------------------------------------------------------------


def test_probabilistic_pca_is_that_of_scikit_learn(rng):
    Y = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(40, 6)) + 3.0
    new = rng.normal(size=(7, 6))
    ours, theirs = ppca.ProbabilisticPCA(Y, 2), PCA(2).fit(Y)
    np.testing.assert_allclose(ours.covariance, theirs.get_covariance(), rtol=1e-9, atol=1e-12)
    assert ours.score(new) == pytest.approx(theirs.score(new), rel=1e-10)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(new)),
        theirs.inverse_transform(theirs.transform(new)),
        rtol=1e-9,
        atol=1e-11,
    )


def test_probabilistic_pca_with_holes_is_a_maximum(rng):
    """By the density of what was seen, row by row, at the mean and covariance and beside them."""
    D = 5
    Y = rng.normal(size=(60, 2)) @ rng.normal(size=(2, D)) + 0.5 * rng.normal(size=(60, D))
    hidden = rng.random(Y.shape) < 0.25
    hidden[hidden.all(axis=1), 0] = False
    Y = np.where(hidden, np.nan, Y)
    found = ppca.ProbabilisticPCA(Y, 2)

    def log_density(mean, covariance):
        parts = [(y[s], mean[s], covariance[np.ix_(s, s)]) for y, s in zip(Y, ~hidden, strict=True)]
        return sum(multivariate_normal(m, C).logpdf(y) for y, m, C in parts)

    top = log_density(found.mean, found.covariance)
    assert found.score(Y) == pytest.approx(top / len(Y), rel=1e-10)
    values, vectors = np.linalg.eigh(found.covariance)
    noise = values[0]
    np.testing.assert_allclose(values[:3], noise, rtol=1e-9)
    W = vectors[:, 3:] * np.sqrt(values[3:] - noise)
    for _ in range(10):
        # Along any way within the model both sides are lower. (EM has N - 1 for N, as PCA has.)
        way, turn = rng.normal(size=D), rng.normal(size=W.shape)
        for h in (-0.1, 0.1):
            assert log_density(found.mean + h * way, found.covariance) < top
            moved = (W + h * turn) @ (W + h * turn).T + noise * np.eye(D)
            assert log_density(found.mean, moved) < top


def test_hidden_entries_are_filled_by_their_conditional_mean(rng):
    Y = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(50, 4))
    found = ppca.ProbabilisticPCA(Y, 2)
    row = np.array([0.3, np.nan, -0.2, 1.0])
    # The density along the hidden entry is highest at the mean of a Gaussian.
    grid = np.linspace(-6.0, 6.0, 120_001)
    rows = np.column_stack([np.full_like(grid, v) if np.isfinite(v) else grid for v in row])
    best = grid[multivariate_normal(found.mean, found.covariance).logpdf(rows).argmax()]
    assert found.fill(row[None])[0, 1] == pytest.approx(best, abs=1e-4)
    np.testing.assert_allclose(found.fill(row[None])[0, [0, 2, 3]], row[[0, 2, 3]])


def test_r2_of_factors_is_that_of_a_linear_regression(rng):
    X, T = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    T[:, 0] += X @ [1.0, 2.0]
    predicted = LinearRegression().fit(X, T).predict(X)
    left, all_of_it = ((T - predicted) ** 2).sum(), ((T - T.mean(axis=0)) ** 2).sum()
    assert ordinary.r2_of_factors(X, T) == pytest.approx(1.0 - left / all_of_it, rel=1e-10)
    assert ordinary.r2_of_factors(1e-14 * X, T) == pytest.approx(1.0 - left / all_of_it, rel=1e-6)
    assert ordinary.r2_of_factors(np.zeros((30, 2)), T) == pytest.approx(0.0, abs=1e-12)


def told(word, step="fit", category="RuntimeWarning"):
    return [{"word": word, "step": step, "category": category}]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "no worse"),
        ({"r2_factors": 0.8}, "worse than PCA, silent (factors)"),
        ({"r2_factors": 0.8, "pca_r2_factors": 0.1}, "no worse"),
        ({"r2_factors": float("nan")}, "worse than PCA, silent (factors)"),
        ({"density": -9.65}, "no worse"),
        ({"density": -9.67}, "worse than PCA, silent (density)"),
        ({"density": -9.67, "warnings": told("not converged")}, "worse than PCA, warned (density)"),
        ({"density": -9.67, "warnings": told("x", "score")}, "worse than PCA, warned (density)"),
        ({"r2_factors": 0.8, "warnings": told("x", "score")}, "worse than PCA, silent (factors)"),
        ({"r2_factors": 0.8, "warnings": told("numpy")}, "worse than PCA, silent (factors)"),
        (
            {"r2_factors": 0.8, "warnings": told("x", category="DeprecationWarning")},
            "worse than PCA, silent (factors)",
        ),
        ({"rms": 0.38}, "no worse"),
        ({"rms": 0.4}, "worse than PCA, silent (rows)"),
        ({"rms": 0.4, "warnings": told("x", "transform")}, "worse than PCA, warned (rows)"),
        ({"rms": 0.01, "pca_rms": 1e-16}, "no worse"),
        ({"ended": "out of time"}, "out of time"),
    ],
)
def test_verdict(change, verdict):
    row = {"D": 8, "seen": 1.0, "warnings": [], "ended": "yes"}
    row |= {"r2_factors": 0.9, "pca_r2_factors": 0.95, "density": -9.0, "pca_density": -9.0}
    row |= {"rms": 0.3, "pca_rms": 0.3}
    assert ordinary.verdict(row | change) == verdict


def test_a_table_that_takes_too_long_keeps_what_was_found():
    row = ordinary.measured("linear-300x8", limit=0.3)
    assert row["verdict"] == ordinary.OUT_OF_TIME
    assert row["cpu_s"] < 5.0
    assert row["pca_r2_factors"] > 0.5
    assert "r2_factors" not in row


def test_a_table_that_is_refused_says_why():
    two_rows = tables.Table(Y=np.array([[0.0, 1.0, 2.0], [3.0, 5.0, 4.0]]))
    row = ordinary.measured("two", tables.Case(1, lambda: two_rows))
    assert row["verdict"] == ordinary.FAILED
    assert "minimum of 3" in row["error"]


def test_tables_are_the_same_each_time_and_held_out_rows_are_new():
    for name, case in tables.CASES.items():
        table = case.make()
        if table is None:
            continue
        np.testing.assert_array_equal(table.Y, case.make().Y)
        assert 20 <= len(table.Y) <= 1000, name
        assert table.new is None or table.new.shape[1] == table.Y.shape[1], name
        assert table.factors is None or len(table.factors) == len(table.Y), name
        assert min(table.Y.shape) > case.Q, name
