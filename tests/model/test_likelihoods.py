"""Likelihoods given f, by SciPy's densities, dense quadrature, finite differences and simulation."""

import json

import numpy as np
import pymc as pm
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from pm_gplvm.model import likelihoods as L
from pm_gplvm.model.families import Rows, hermite

B, K, D = 6, 3, 5
WEIGHTS = np.array([0.5, 0.3, 0.2])


def shared(value):
    return np.asarray(float(value))


def by_column(low, high):
    return np.linspace(low, high, D)


def sigma(q):
    return np.exp(q["log_sigma"])


def _cases():
    rng = np.random.default_rng(1)
    counts = rng.poisson(2.0, (B, D)).astype(float)
    counts[1] = 0.0
    counts[0, 0] = 30.0
    numbers = rng.normal(size=(B, D))
    positive = np.exp(numbers)
    bits = (rng.random((B, D)) < 0.4).astype(float)
    per_row, per_entry = rng.normal(scale=0.5, size=(B, 1)), rng.normal(scale=0.5, size=(B, D))
    sd = rng.uniform(0.1, 0.5, (B, D))
    trials = rng.integers(1, 20, (B, D)).astype(float)
    some = np.floor(trials * rng.random((B, D)))
    ratings = rng.integers(1, 5, (B, D)).astype(float)
    of = {
        "normal": lambda y, f, e, q: stats.norm.logpdf(y, f, sigma(q)),
        "poisson": lambda y, f, e, q: stats.poisson.logpmf(y, np.exp(f)),
        "gamma": lambda y, f, e, q: stats.gamma.logpdf(
            y, np.exp(q["log_shape"]), scale=np.exp(f - q["log_shape"])
        ),
        "bernoulli": lambda y, f, e, q: stats.bernoulli.logpmf(y, 1.0 / (1.0 + np.exp(-f))),
        "binomial": lambda y, f, e, q: stats.binom.logpmf(
            y, 12.0 if e is None else e, 1.0 / (1.0 + np.exp(-f))
        ),
        "laplace": lambda y, f, e, q: stats.logistic.logpdf(y, f, 0.7),
    }
    return {
        "gaussian": (L.gaussian(), Rows(numbers), {"log_sigma": shared(-0.5)}, of["normal"]),
        "gaussian-columns-entries": (
            L.gaussian("column"),
            Rows(numbers, per_entry, sd),
            {"log_sigma": by_column(-1.0, 0.3)},
            lambda y, f, e, q: stats.norm.logpdf(y, f, np.sqrt(sigma(q) ** 2 + e**2)),
        ),
        "student_t": (
            L.student_t(),
            Rows(numbers, per_row),
            {"log_sigma": shared(0.5)},
            lambda y, f, e, q: stats.t.logpdf(y, 4.0, f, sigma(q)),
        ),
        "student_t-free": (
            L.student_t("free", "column"),
            Rows(numbers, per_entry),
            {"log_sigma": by_column(0.4, 1.0), "log_df": shared(1.5)},
            lambda y, f, e, q: stats.t.logpdf(y, 2.0 + np.exp(q["log_df"]), f, sigma(q)),
        ),
        "poisson": (L.poisson(), Rows(counts, per_row), {}, of["poisson"]),
        "negative_binomial": (
            L.negative_binomial(),
            Rows(counts, per_row),
            {"log_dispersion": by_column(-1.0, 2.0)},
            negative_binomial,
        ),
        "negative_binomial-shared": (
            L.negative_binomial("shared"),
            Rows(counts, per_entry),
            {"log_dispersion": shared(0.4)},
            negative_binomial,
        ),
        "bernoulli": (L.bernoulli(), Rows(bits, per_entry), {}, of["bernoulli"]),
        "binomial": (L.binomial("entries"), Rows(some, per_row, trials), {}, of["binomial"]),
        "binomial-told": (L.binomial(12), Rows(np.minimum(counts, 12.0)), {}, of["binomial"]),
        "ordinal": (
            L.ordinal([1, 2, 3, 4]),
            Rows(ratings, per_row),
            {"log_gaps": np.linspace(-1.0, 0.7, 2 * D).reshape(D, 2)},
            ordinal,
        ),
        "ordinal-two": (L.ordinal([0, 1]), Rows(bits), {}, of["bernoulli"]),
        "lognormal": (
            L.lognormal("column"),
            Rows(positive, per_row),
            {"log_sigma": by_column(-1.0, 0.3)},
            lambda y, f, e, q: stats.lognorm.logpdf(y, sigma(q), scale=np.exp(f)),
        ),
        "gamma": (
            L.gamma(),
            Rows(positive, per_entry),
            {"log_shape": by_column(-0.5, 2.0)},
            of["gamma"],
        ),
        "gamma-shared": (
            L.gamma("shared"),
            Rows(positive),
            {"log_shape": shared(0.7)},
            of["gamma"],
        ),
        "from_pymc": (
            L.from_pymc(lambda f: pm.Logistic.dist(f, 0.7)),
            Rows(numbers, per_row),
            {},
            of["laplace"],
        ),
    }


def ordinal(y, f, e, q):
    gaps = np.exp(q["log_gaps"])
    gaps = gaps.reshape(D, 2)
    cuts = np.concatenate([np.zeros((D, 1)), np.cumsum(gaps, axis=1)], axis=1)
    cuts = cuts - cuts.mean(axis=1, keepdims=True)
    edges = np.concatenate([np.full((D, 1), -np.inf), cuts, np.full((D, 1), np.inf)], axis=1)
    columns = np.arange(D).reshape(D, *([1] * (f.ndim - y.ndim + (y.shape[-1] == 1))))
    code = y.astype(int) - 1
    low, high = edges[columns, code], edges[columns, code + 1]
    return np.log(stats.logistic.cdf(high - f) - stats.logistic.cdf(low - f))


def negative_binomial(y, f, e, q):
    r = np.exp(q["log_dispersion"])
    return stats.nbinom.logpmf(y, r, r / (r + np.exp(f)))


CASES = _cases()


def with_holes(rows):
    Y = rows.Y.copy()
    Y[0, 1] = Y[3, 2] = Y[5, 0] = np.nan
    Y[4] = np.nan
    return Rows(Y, rows.offset, rows.entry)


def of_f(seed=0, width=0.4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, K, D)), rng.uniform(0.02, width, (B, K, D))


def natural(q):
    """Parameters beside arrays whose last axis are points."""
    return {n: v if np.ndim(v) != 1 else v[:, None] for n, v in q.items()}


def expected(density, rows, mean, variance, q, points=64):
    """The value of each row, by a dense rule and SciPy's density."""
    x, weights = hermite(points)
    Y = np.where(rows.seen, rows.Y, 1.0)[:, None, :, None]
    entry = None if rows.entry is None else np.broadcast_to(rows.entry, (B, D))[:, None, :, None]
    q = natural(q)
    f = (mean + rows.shift[:, None])[..., None] + np.sqrt(variance)[..., None] * x
    inner = density(Y, f, entry, q) @ weights * rows.seen[:, None]
    return np.einsum("bkd,k->b", inner, WEIGHTS)


def run(likelihood, rows, mean, variance, q):
    m, v = mean.copy(), variance.copy()
    value, slopes = likelihood.expect(rows, m, v, WEIGHTS, q, of_parameters=True)
    return value, m, v, slopes


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_value_is_the_expected_log_density_with_its_constants(case, holes):
    likelihood, rows, q, density = CASES[case]
    rows = with_holes(rows) if holes else rows
    mean, variance = of_f()
    value = run(likelihood, rows, mean, variance, q)[0]
    assert_allclose(value, expected(density, rows, mean, variance, q), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_in_mean_and_variance_are_those_of_the_expectation(case):
    likelihood, rows, q, density = CASES[case]
    rows = with_holes(rows)
    mean, variance = of_f()
    _, by_mean, by_variance, _ = run(likelihood, rows, mean, variance, q)
    for array, found in ((mean, by_mean), (variance, by_variance)):
        for at in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                kept = array[at]
                array[at] += sign * 1e-5
                ends.append(expected(density, rows, mean, variance, q).sum())
                array[at] = kept
            assert found[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-4, abs=2e-4)
        assert (found[~np.broadcast_to(rows.seen[:, None], found.shape)] == 0.0).all()


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][2]])
def test_derivatives_in_parameters_leave_out_missing_entries(case):
    likelihood, rows, q, density = CASES[case]
    rows = with_holes(rows)
    mean, variance = of_f()
    slopes = run(likelihood, rows, mean, variance, q)[3]
    for name, value in q.items():
        assert slopes[name].shape == value.shape
        for at in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                other = value.copy()
                other[at] += sign * 1e-5
                ends.append(expected(density, rows, mean, variance, q | {name: other}).sum())
            assert slopes[name][at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_changes_nothing(case):
    likelihood, rows, q, _ = CASES[case]
    holes = with_holes(rows)
    mean, variance = of_f()
    first = run(likelihood, holes, mean, variance, q)
    mean2, variance2 = mean.copy(), variance.copy()
    hidden = np.broadcast_to(~holes.seen[:, None], mean.shape)
    mean2[hidden], variance2[hidden] = 7.0, 3.0
    second = run(likelihood, holes, mean2, variance2, q)
    for a, b in zip(first[:3], second[:3], strict=True):
        assert_allclose(a, b, rtol=1e-13, atol=1e-13)
    for name in q:
        assert_allclose(first[3][name], second[3][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_far_out_all_is_finite(case):
    likelihood, rows, q, _ = CASES[case]
    for at in (-1000.0, -50.0, 50.0, 1000.0):
        for width in (0.0, 1.0, 400.0):
            mean, variance = np.full((B, K, D), at), np.full((B, K, D), width)
            value, m, v, slopes = run(likelihood, rows, mean, variance, q)
            for each in (value, m, v, *slopes.values()):
                assert np.isfinite(each).all()


@pytest.mark.parametrize("width", [0.3, 4.0])
@pytest.mark.parametrize("case", CASES)
def test_the_predictive_density_by_a_fine_grid(case, width):
    likelihood, rows, q, density = CASES[case]
    rows = with_holes(rows)
    mean = of_f()[0][:, 0]
    variance = np.full((B, D), width)
    z = np.linspace(-12.0, 12.0, 6001)
    f = (mean + rows.shift)[..., None] + np.sqrt(variance)[..., None] * z
    entry = None if rows.entry is None else np.broadcast_to(rows.entry, (B, D))[..., None]
    Y = np.where(rows.seen, rows.Y, 1.0)[..., None]
    truth = np.log(
        (np.exp(density(Y, f, entry, natural(q))) * stats.norm.pdf(z)).sum(-1) * (z[1] - z[0])
    )
    found = likelihood.log_predictive(rows, mean, variance, q)
    assert (np.isnan(found) == ~rows.seen).all()
    assert_allclose(found[rows.seen], truth[rows.seen], atol=2e-4)
