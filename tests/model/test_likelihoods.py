"""Likelihoods given f, by SciPy's densities, dense quadrature, finite differences and simulation."""

import json

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats

from pm_gplvm.model import likelihoods as L
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.families import ENTRIES, Rows, hermite

B, K, D = 6, 3, 5
WEIGHTS = np.array([0.5, 0.3, 0.2])


def shared(value):
    return np.asarray(float(value))


def by_column(low, high):
    return np.linspace(low, high, D)


def sigma(q):
    return np.exp(q["log_sigma"])


# Each family given f, by SciPy


def normal(f, e, q):
    return stats.norm(f, sigma(q))


def poisson(f, e, q):
    return stats.poisson(np.exp(f))


def negative_binomial(f, e, q):
    r = np.exp(q["log_dispersion"])
    return stats.nbinom(r, r / (r + np.exp(f)))


def gamma(f, e, q):
    return stats.gamma(np.exp(q["log_shape"]), scale=np.exp(f - q["log_shape"]))


def bernoulli(f, e, q):
    return stats.bernoulli(1.0 / (1.0 + np.exp(-f)))


def binomial(f, e, q):
    return stats.binom(12.0 if e is None else e, 1.0 / (1.0 + np.exp(-f)))


def logistic(f, e, q):
    return stats.logistic(f, 0.7)


class ordinal:
    """Four ordered classes, 1 to 4."""

    def __init__(self, f, e, q):
        gaps = np.exp(q["log_gaps"])
        cuts = np.concatenate([np.zeros((D, 1)), np.cumsum(gaps, axis=1)], axis=1)
        cuts = cuts - cuts.mean(axis=1, keepdims=True)
        self.f = f
        self.edges = np.concatenate(
            [np.full((D, 1), -np.inf), cuts, np.full((D, 1), np.inf)], axis=1
        )
        axis = f.shape[-1] != D  # columns are the last axis, or the one before points
        self.columns = np.arange(D)[:, None] if axis else np.arange(D)

    def cdf(self, y):
        y = np.broadcast_to(y, np.broadcast_shapes(np.shape(y), self.f.shape)).astype(int)
        return stats.logistic.cdf(self.edges[self.columns, y] - self.f)

    def logpmf(self, y):
        return np.log(self.cdf(y) - self.cdf(y - 1.0))

    def power(self, n):
        return sum(c**n * (self.cdf(c * 1.0) - self.cdf(c - 1.0)) for c in range(1, 5))

    def mean(self):
        return self.power(1)

    def var(self):
        return self.power(2) - self.power(1) ** 2


def log_density(given, y):
    discrete = isinstance(given, ordinal) or not hasattr(given.dist, "pdf")
    return given.logpmf(y) if discrete else given.logpdf(y)


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
    return {
        "gaussian": (L.gaussian(), Rows(numbers), {"log_sigma": shared(-0.5)}, normal),
        "gaussian-columns-entries": (
            L.gaussian("column"),
            Rows(numbers, per_entry, sd),
            {"log_sigma": by_column(-1.0, 0.3)},
            lambda f, e, q: stats.norm(f, np.sqrt(sigma(q) ** 2 + e**2)),
        ),
        "student_t": (
            L.student_t(),
            Rows(numbers, per_row),
            {"log_sigma": shared(0.5)},
            lambda f, e, q: stats.t(4.0, f, sigma(q)),
        ),
        "student_t-free": (
            L.student_t("free", "column"),
            Rows(numbers, per_entry),
            {"log_sigma": by_column(0.4, 1.0), "log_df": shared(1.5)},
            lambda f, e, q: stats.t(2.0 + np.exp(q["log_df"]), f, sigma(q)),
        ),
        "poisson": (L.poisson(), Rows(counts, per_row), {}, poisson),
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
        "bernoulli": (L.bernoulli(), Rows(bits, per_entry), {}, bernoulli),
        "binomial": (L.binomial("entries"), Rows(some, per_row, trials), {}, binomial),
        "binomial-told": (L.binomial(12), Rows(np.minimum(counts, 12.0)), {}, binomial),
        "ordinal": (
            L.ordinal([1, 2, 3, 4]),
            Rows(ratings, per_row),
            {"log_gaps": np.linspace(-1.0, 0.7, 2 * D).reshape(D, 2)},
            ordinal,
        ),
        "ordinal-two": (L.ordinal([0, 1]), Rows(bits), {}, bernoulli),
        "lognormal": (
            L.lognormal("column"),
            Rows(positive, per_row),
            {"log_sigma": by_column(-1.0, 0.3)},
            lambda f, e, q: stats.lognorm(sigma(q), scale=np.exp(f)),
        ),
        "gamma": (
            L.gamma(),
            Rows(positive, per_entry),
            {"log_shape": by_column(-0.5, 2.0)},
            gamma,
        ),
        "gamma-shared": (
            L.gamma("shared"),
            Rows(positive),
            {"log_shape": shared(0.7)},
            gamma,
        ),
        "from_pymc": (
            L.from_pymc(lambda f: pm.Logistic.dist(f, 0.7)),
            Rows(numbers, per_row),
            {},
            logistic,
        ),
    }


CASES = _cases()
SCIPY = [case for case in CASES if case != "from_pymc"]


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


def expected(given, rows, mean, variance, q, points=64):
    """The value of each row, by a dense rule and SciPy's density."""
    return terms(given, rows, mean, variance, q, points).sum(axis=(1, 2))


def terms(given, rows, mean, variance, q, points=64):
    """The same by nodes and entries, (B, K, D)."""
    x, weights = hermite(points)
    Y = np.where(rows.seen, rows.Y, 1.0)[:, None, :, None]
    entry = None if rows.entry is None else np.broadcast_to(rows.entry, (B, D))[:, None, :, None]
    q = natural(q)
    f = (mean + rows.shift[:, None])[..., None] + np.sqrt(variance)[..., None] * x
    inner = log_density(given(f, entry, q), Y) @ weights * rows.seen[:, None]
    return inner * WEIGHTS[:, None]


def run(likelihood, rows, mean, variance, q):
    m, v = mean.copy(), variance.copy()
    value, slopes = likelihood.expect(rows, m, v, WEIGHTS, q, of_parameters=True)
    return value, m, v, slopes


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_value_is_the_expected_log_density_with_its_constants(case, holes):
    likelihood, rows, q, given = CASES[case]
    rows = with_holes(rows) if holes else rows
    mean, variance = of_f()
    value = run(likelihood, rows, mean, variance, q)[0]
    assert_allclose(value, expected(given, rows, mean, variance, q), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_in_mean_and_variance_are_those_of_the_expectation(case):
    likelihood, rows, q, given = CASES[case]
    rows = with_holes(rows)
    mean, variance = of_f()
    _, by_mean, by_variance, _ = run(likelihood, rows, mean, variance, q)
    step = 1e-5
    for found, m, v in ((by_mean, step, 0.0), (by_variance, 0.0, step)):
        ends = [terms(given, rows, mean + s * m, variance + s * v, q) for s in (1, -1)]
        assert_allclose(found, (ends[0] - ends[1]) / (2.0 * step), rtol=2e-4, atol=2e-4)
        assert (found[~np.broadcast_to(rows.seen[:, None], found.shape)] == 0.0).all()


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][2]])
def test_derivatives_in_parameters_leave_out_missing_entries(case):
    likelihood, rows, q, given = CASES[case]
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
                ends.append(expected(given, rows, mean, variance, q | {name: other}).sum())
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


@pytest.mark.parametrize("case", ["gaussian-columns-entries", "negative_binomial", "gamma"])
def test_the_layout_of_a_table_makes_no_difference(case):
    likelihood, rows, q, _ = CASES[case]
    turned = Rows(
        *(None if a is None else np.asfortranarray(a) for a in (rows.Y, rows.offset, rows.entry))
    )
    mean, variance = of_f()
    for a, b in zip(
        *(run(likelihood, each, mean, variance, q)[:3] for each in (rows, turned)), strict=True
    ):
        assert_allclose(a, b, rtol=1e-14)
    assert turned.shift.flags.c_contiguous
    assert turned.filled.flags.c_contiguous


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
    likelihood, rows, q, given = CASES[case]
    rows = with_holes(rows)
    mean = of_f()[0][:, 0]
    variance = np.full((B, D), width)
    z = np.linspace(-12.0, 12.0, 6001)
    f = (mean + rows.shift)[..., None] + np.sqrt(variance)[..., None] * z
    entry = None if rows.entry is None else np.broadcast_to(rows.entry, (B, D))[..., None]
    Y = np.where(rows.seen, rows.Y, 1.0)[..., None]
    truth = np.log(
        (np.exp(log_density(given(f, entry, natural(q)), Y)) * stats.norm.pdf(z)).sum(-1)
        * (z[1] - z[0])
    )
    found = likelihood.log_predictive(rows, mean, variance, q)
    assert (np.isnan(found) == ~rows.seen).all()
    assert_allclose(found[rows.seen], truth[rows.seen], atol=2e-4)


@pytest.mark.parametrize("width", [1e-8, 0.05, 1.5])
@pytest.mark.parametrize("case", CASES)
def test_the_density_that_positions_are_sought_by(case, width):
    """ln ∫ p(y | f) N(f) df by few points is that by many, and its derivatives are those of it."""
    likelihood, rows, q, _ = CASES[case]
    rows = with_holes(rows)
    mean, variance = of_f()[0][:, 0], np.full((B, D), width)
    value, by_mean, by_variance = likelihood.marginal(rows, mean, variance, q)
    for found in (value, by_mean, by_variance):
        assert (found[~rows.seen] == 0.0).all()

    def predictive(mean, variance):
        return np.nan_to_num(likelihood.log_predictive(rows, mean, variance, q))

    assert_allclose(value, predictive(mean, variance), atol=3e-4)
    step = 1e-4
    slope = (predictive(mean + step, variance) - predictive(mean - step, variance)) / (2.0 * step)
    assert_allclose(by_mean, slope, rtol=2e-3, atol=2e-3)
    if width > 1e-4:
        step = 1e-3 * width
        up, down = (predictive(mean, variance + sign * step) for sign in (1.0, -1.0))
        assert_allclose(by_variance, (up - down) / (2.0 * step), rtol=2e-3, atol=2e-3)
    rough, _, _ = likelihood.marginal(rows, mean, variance, q, points=1)
    assert_allclose(rough, value, atol=0.15)


def on_a_grid(rows, mean, variance):
    """f of each entry on a fine grid (B, D, points), with weights, and what is known of entries."""
    z = np.linspace(-10.0, 10.0, 4001)
    f = (mean + rows.shift)[..., None] + np.sqrt(variance)[..., None] * z
    entry = None if rows.entry is None else np.broadcast_to(rows.entry, (B, D))[..., None]
    weights = stats.norm.pdf(z)
    return f, weights / weights.sum(), entry


@pytest.mark.parametrize("width", [0.05, 2.0])
@pytest.mark.parametrize("case", SCIPY)
def test_moments_of_the_predictive_by_a_fine_grid(case, width):
    likelihood, rows, q, given = CASES[case]
    mean, variance = of_f()[0][:, 0], np.full((B, D), width)
    f, weights, entry = on_a_grid(rows, mean, variance)
    each = given(f, entry, natural(q))
    first, within = each.mean() @ weights, each.var() @ weights
    between = each.mean() ** 2 @ weights - first**2
    found = likelihood.moments(mean, variance, rows.offset, rows.entry, q)
    for a, b in zip(found, (first, between, within), strict=True):
        assert a.shape == (B, D)
        assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("width", [0.001, 0.3, 9.0])
@pytest.mark.parametrize("case", SCIPY)
def test_the_predictive_distribution_function_by_a_fine_grid(case, width):
    likelihood, rows, q, given = CASES[case]
    rows = with_holes(rows)
    mean, variance = of_f()[0][:, 0], np.full((B, D), width)
    f, weights, entry = on_a_grid(rows, mean, variance)
    each = given(f, entry, natural(q))
    Y = np.where(rows.seen, rows.Y, 1.0)[..., None]
    lower, upper = likelihood.cumulative(rows, mean, variance, q)
    assert (np.isnan(upper) == ~rows.seen).all()
    seen = rows.seen
    assert_allclose(upper[seen], (each.cdf(Y) @ weights)[seen], atol=1e-5)
    before = Y - 1.0 if likelihood.discrete else Y
    assert_allclose(lower[seen], (each.cdf(before) @ weights)[seen], atol=1e-5)


@pytest.mark.parametrize("case", SCIPY)
def test_bounds_of_the_interval_are_quantiles(case):
    likelihood, rows, q, _ = CASES[case]
    mean, variance = of_f()[0][:, 0], np.full((B, D), 0.7)
    lower, upper = likelihood.interval(mean, variance, rows.offset, rows.entry, q, 0.8)
    for bound, p in ((lower, 0.1), (upper, 0.9)):
        at = Rows(bound, rows.offset, rows.entry)
        below, to = likelihood.cumulative(at, mean, variance, q)
        if likelihood.discrete:
            assert (to >= p - 1e-9).all()
            assert (below <= p + 1e-9).all()
        else:
            assert_allclose(to, p, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_draws_have_the_moments(case):
    likelihood, rows, q, _ = CASES[case]
    n = 20_000
    mean, variance = of_f()[0][0, :1], np.full((1, D), 0.2)
    offset = None if rows.offset is None else np.broadcast_to(rows.offset, (B, D))[:1]
    entry = None if rows.entry is None else rows.entry[:1]
    rng = np.random.default_rng(3)
    f = mean + np.sqrt(0.2) * rng.standard_normal((n, D))
    many = [None if a is None else np.repeat(a, n, axis=0) for a in (offset, entry)]
    drawn = likelihood.draw(rng, f, *many, q)
    first, between, within = (a[0] for a in likelihood.moments(mean, variance, offset, entry, q))
    sd = np.sqrt(between + within)
    assert (np.abs(drawn.mean(axis=0) - first) < 0.06 * sd).all()
    if case not in ("student_t", "lognormal"):  # whose variances are no sure thing in so few
        assert_allclose(drawn.std(axis=0), sd, rtol=0.12)


@pytest.mark.parametrize("case", CASES)
def test_starts_fit_the_columns_and_survive_empty_ones(case):
    likelihood, rows, q, _ = CASES[case]
    found, level = likelihood.start(rows)
    assert {n: np.shape(v) for n, v in found.items()} == {n: np.shape(v) for n, v in q.items()}

    # The level is about the constant f of largest likelihood.
    def total(shift):
        m = np.broadcast_to(level + shift, (B, 1, D)).copy()
        return likelihood.expect(rows, m, np.full(m.shape, 1e-6), np.ones(1), found)[0].sum()

    assert total(0.0) > max(total(1.5), total(-1.5))
    empty = rows.Y.copy()
    empty[:, 2] = np.nan
    found, level = likelihood.start(Rows(empty, rows.offset, rows.entry))
    assert np.isfinite(level).all()
    assert all(np.isfinite(v).all() for v in found.values())
    working = likelihood.working(Rows(empty, rows.offset, rows.entry))
    assert (np.isnan(working) == np.isnan(empty)).all()
    assert np.isfinite(working[~np.isnan(empty)]).all()


def test_columns_without_counts_start_low_but_finite():
    rows = Rows(np.zeros((50, 3)), np.full((50, 1), 1.0))
    for likelihood in (L.poisson(), L.negative_binomial(), L.bernoulli(), L.binomial(4)):
        found, level = likelihood.start(rows)
        assert np.isfinite(level).all()
        assert (level < -3.0).all()
        assert np.isfinite(likelihood.working(rows)).all()
        assert all(np.isfinite(v).all() for v in found.values())


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][2]])
def test_priors_are_densities_with_their_derivatives(case):
    likelihood, _, q, _ = CASES[case]
    _, slopes = likelihood.log_prior(q)
    for name, value in q.items():
        for at in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                other = value.copy()
                other[at] += sign * 1e-5
                ends.append(likelihood.log_prior(q | {name: other})[0])
            assert slopes[name][at] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)
        one = likelihood.log_prior({name: np.zeros(())})[0]
        mean, sd = likelihood.widths[name]
        assert one == pytest.approx(stats.norm.logpdf(0.0, mean, sd))


def test_sigma_has_the_prior_of_the_gaussian_model():
    value, _ = L.gaussian().log_prior({"log_sigma": np.log(0.2)})
    # of ln sigma, so with the Jacobian
    prior = pm.logp(pm.LogNormal.dist(-2.0, 1.0), 0.2).eval() + np.log(0.2)
    assert value == pytest.approx(prior)


@pytest.mark.parametrize("case", CASES)
def test_the_variable_of_pymc_has_the_same_density(case):
    likelihood, rows, q, _ = CASES[case]
    f = of_f()[0][:, 0]
    with pm.Model() as model:
        offset = None if rows.offset is None else rows.offset
        observed = rows.Y if not likelihood.discrete else rows.Y.astype(int)
        likelihood.distribution(
            "Y", pt.as_tensor(f), offset, rows.entry, likelihood.constrained(q), observed=observed
        )
    mode = compile_mode()
    found = model.compile_logp(sum=False, mode=mode)({})[0]
    m, v = f[:, None].copy(), np.zeros((B, 1, D))
    value, _ = likelihood.expect(rows, m, v, np.ones(1), q)
    assert_allclose(found.sum(axis=1), value, rtol=1e-9)


@pytest.mark.parametrize("case", SCIPY)
def test_a_likelihood_is_written_as_json_and_read_back(case):
    likelihood, rows, q, _ = CASES[case]
    again = L.from_dict(json.loads(json.dumps(likelihood.to_dict())))
    assert again == likelihood
    assert again.to_dict() == likelihood.to_dict()
    assert likelihood.text
    mean, variance = of_f()
    a, b = (run(each, rows, mean, variance, q)[0] for each in (likelihood, again))
    assert_allclose(a, b)


def test_one_made_of_a_function_says_that_it_cannot_be_saved():
    with pytest.raises(ValueError, match="made by from_pymc is a function and cannot be saved"):
        CASES["from_pymc"][0].to_dict()


# Mixed columns


def mixture():
    rng = np.random.default_rng(5)
    Y = np.column_stack(
        [
            rng.normal(size=B),
            rng.poisson(2.0, B),
            rng.normal(size=B),
            rng.random(B) < 0.5,
            rng.integers(0, 3, B),
        ]
    ).astype(float)
    Y[2] = np.nan
    Y[0, 3] = np.nan
    labels = ["a", "b", "c", "d", "e"]
    kinds = {
        ("a", "c"): L.gaussian("column"),
        "b": "negative_binomial",
        "d": "bernoulli",
        "e": L.binomial(3),
    }
    return L.resolve(kinds, labels), Y, labels


def test_mixed_columns_are_the_sum_of_their_blocks():
    likelihood, Y, _ = mixture()
    offset = np.random.default_rng(2).normal(size=(B, 1))
    rows = Rows(Y, offset, likelihood.entries(B, D))
    q, level = likelihood.start(rows)
    with_gain = ("negative_binomial", "bernoulli", "binomial")
    assert set(q) == {
        *("log_sigma_gaussian", "log_dispersion_negative_binomial"),
        *(f"log_gain_{name}" for name in with_gain),
    }
    assert q["log_sigma_gaussian"].shape == (2,)
    assert likelihood.columns("log_sigma_gaussian", D).tolist() == [0, 2]
    q |= {
        f"log_gain_{name}": np.array(g) for name, g in zip(with_gain, (0.4, -0.3, 0.2), strict=True)
    }
    natural = likelihood.constrained(q)
    assert {"sigma_gaussian", "dispersion_negative_binomial"} < set(natural)
    assert natural["gain_bernoulli"] == pytest.approx(np.exp(-0.3))
    assert np.isfinite(level).all()
    mean, variance = of_f()
    value, m, v, slopes = run(likelihood, rows, mean, variance, q)
    blocks = {
        (0, 2): (L.gaussian("column"), {"log_sigma": q["log_sigma_gaussian"]}),
        (1,): (L.negative_binomial(), {"log_dispersion": q["log_dispersion_negative_binomial"]}),
        (3,): (L.bernoulli(), {}),
        (4,): (L.binomial(3), {}),
    }
    total = np.zeros(B)
    for columns, (each, own) in blocks.items():
        at, g = list(columns), float(natural.get(f"gain_{each.name}", 1.0))
        part = Rows(Y[:, at], offset)
        ours = run(each, part, g * mean[:, :, at], g**2 * variance[:, :, at], own)
        total += ours[0]
        assert_allclose(m[:, :, at], g * ours[1])
        assert_allclose(v[:, :, at], g**2 * ours[2])
        for name, slope in ours[3].items():
            assert_allclose(slopes[f"{name}_{each.name}"], slope)
        flat, width = g * mean[:, 0, at], g**2 * variance[:, 0, at]
        for found, want in zip(
            (
                *likelihood.moments(mean[:, 0], variance[:, 0], offset, rows.entry, q),
                likelihood.log_predictive(rows, mean[:, 0], variance[:, 0], q),
                *likelihood.cumulative(rows, mean[:, 0], variance[:, 0], q),
                *likelihood.interval(mean[:, 0], variance[:, 0], offset, rows.entry, q),
            ),
            (
                *each.moments(flat, width, offset, None, own),
                each.log_predictive(part, flat, width, own),
                *each.cumulative(part, flat, width, own),
                *each.interval(flat, width, offset, None, own),
            ),
            strict=True,
        ):
            assert_allclose(found[:, at], want)
    assert_allclose(value, total)
    for name in with_gain:
        ends = [
            run(
                likelihood,
                rows,
                mean,
                variance,
                q | {f"log_gain_{name}": q[f"log_gain_{name}"] + h},
            )
            for h in (-1e-5, 1e-5)
        ]
        slope = (ends[1][0].sum() - ends[0][0].sum()) / 2e-5
        assert slopes[f"log_gain_{name}"] == pytest.approx(slope, rel=1e-3)
    assert likelihood.log_prior(q)[0] == pytest.approx(
        sum(each.log_prior(own)[0] for each, own in blocks.values())
        + sum(stats.norm.logpdf(q[f"log_gain_{name}"]) for name in with_gain)
    )
    drawn = likelihood.draw(np.random.default_rng(0), mean[:, 0], offset, rows.entry, q)
    assert set(np.unique(drawn[:, 3])) <= {0.0, 1.0}
    again = L.from_dict(json.loads(json.dumps(likelihood.to_dict())))
    assert again == likelihood
    assert (np.isnan(likelihood.working(rows)) == np.isnan(Y)).all()


def test_the_first_block_has_no_gain_where_none_is_standardised():
    likelihood = L.resolve({"a": "bernoulli", "b": "poisson"}, ["a", "b"])
    q, _ = likelihood.start(Rows(np.array([[0.0, 2.0], [1.0, 0.0]])))
    assert set(q) == {"log_gain_poisson"}


def test_mixed_columns_make_variables_of_pymc():
    likelihood, Y, _ = mixture()
    Y = np.nan_to_num(Y)
    rows = Rows(Y, None, likelihood.entries(B, D))
    q, _ = likelihood.start(rows)
    f = of_f()[0][:, 0]
    with pm.Model() as model:
        likelihood.distribution(
            "Y", pt.as_tensor(f), None, rows.entry, likelihood.constrained(q), observed=Y
        )
    found = model.compile_logp(sum=True, mode=compile_mode())({})
    value, _ = likelihood.expect(rows, f[:, None].copy(), np.zeros((B, 1, D)), np.ones(1), q)
    assert found == pytest.approx(value.sum())


def test_mixed_columns_name_the_column_that_is_wrong():
    likelihood, Y, labels = mixture()
    Y[4, 3] = 0.5
    with pytest.raises(ValueError, match=r"0 and 1 .*'bernoulli', got 0\.5 in row 104, column 'd'"):
        likelihood.check(Rows(Y, None, likelihood.entries(B, D)), labels, 100)


# What users hand in


@pytest.mark.parametrize("name", L.FAMILIES)
def test_every_name_is_a_likelihood(name):
    assert L.resolve(name).name == name


def test_equal_likelihoods_of_columns_are_one_block():
    kinds = {"a": "poisson", "b": "bernoulli", "c": "poisson"}
    found = L.resolve(L.mixed(kinds), ["a", "b", "c"])
    assert [columns.tolist() for columns, _ in found.blocks] == [[0, 2], [1]]
    assert L.resolve({"a": "poisson", "b": "poisson"}, ["a", "b"]) == L.poisson()
    twice = L.resolve({"a": L.student_t(3), "b": L.student_t(5)}, ["a", "b"])
    assert twice.names == ["student_t", "student_t_2"]


def test_levels_are_found_in_the_table():
    Y = np.array([[1.0, 5.0], [np.nan, 2.0], [1.0, 1.0]])
    assert L.resolve("ordinal", Y=Y).levels == (1.0, 2.0, 5.0)
    mixed = L.resolve(
        {"a": "ordinal", "b": "gaussian"}, ["a", "b"], np.array([[0.0, 3.3], [2.0, 1.0]])
    )
    assert mixed.blocks[0][1].levels == (0.0, 2.0)


WRONG = {
    "name": (
        lambda: L.resolve("possion"),
        "likelihood must be one of gaussian, student_t, .*'possion'",
    ),
    "function": (lambda: L.resolve(L.poisson), r"got the function; use likelihoods.poisson\(...\)"),
    "column": (
        lambda: L.resolve({"a": "poisson", "z": "poisson"}, ["a", "b"]),
        "must name columns of Y, got 'z'; they are 'a', 'b'",
    ),
    "missing": (
        lambda: L.resolve({"a": "poisson"}, ["a", "b"]),
        "must name every column of Y, got none for 'b'",
    ),
    "twice": (
        lambda: L.resolve({("a", "b"): "poisson", "a": "bernoulli"}, ["a", "b"]),
        "must name a column once, got 'a' again",
    ),
    "of a column": (
        lambda: L.mixed({"a": "poison"}),
        "likelihood of column 'a' must be one of .*, got 'poison'",
    ),
    "parts": (lambda: L.mixed("poisson"), "parts must be a mapping from columns .*, got str"),
    "noise": (lambda: L.gaussian("rows"), "noise must be one of shared, column, got 'rows'"),
    "df": (lambda: L.student_t(-1), "df must be a finite number above 0, or 'free', got -1"),
    "df no number": (lambda: L.student_t("many"), "df must be .*, got 'many'"),
    "dispersion": (lambda: L.negative_binomial(2.0), "dispersion must be one of shared, column"),
    "shape": (lambda: L.gamma("row"), "shape must be one of shared, column, got 'row'"),
    "trials": (lambda: L.binomial(2.5), "trials must be whole numbers of at least 0.*, got 2.5"),
    "trials negative": (lambda: L.binomial([3, -1]), "trials must be whole numbers"),
    "trials none": (lambda: L.binomial(None), "trials must be whole numbers .*, got None"),
    "noise_sd": (lambda: L.gaussian(noise_sd=-1.0), "noise_sd must be standard deviations"),
    "levels": (
        lambda: L.ordinal([2, 1]),
        r"levels must be two or more numbers that rise, got \[2, 1\]",
    ),
    "distribution": (
        lambda: L.from_pymc(lambda f: 3.0),
        "function must return a distribution, such as .*, got float",
    ),
    "no function": (lambda: L.from_pymc(lambda: 3.0), r"function must be a function of \(f\)"),
    "read": (
        lambda: L.from_dict({"name": "cauchy"}),
        "name of a likelihood must be one of .*'cauchy'",
    ),
    "many levels": (
        lambda: L.resolve("ordinal", Y=np.random.default_rng(0).normal(size=(60, 2))),
        "must hold 2 to 50 levels .* got 120; use likelihoods.ordinal",
    ),
    "trials shape": (
        lambda: L.binomial([1, 2, 3]).entries(5, 2),
        r"trials must be a number, have one entry a column, \(2,\), or the shape of Y, got shape \(3,\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_named(case):
    call, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


BAD_ENTRIES = {
    "gaussian": (L.gaussian(), np.inf, "finite numbers under the likelihood 'gaussian', got inf"),
    "student_t": (L.student_t(), -np.inf, "finite numbers"),
    "poisson half": (L.poisson(), 0.5, r"counts .* under the likelihood 'poisson', got 0\.5"),
    "poisson negative": (L.poisson(), -1.0, "counts .*, got -1 "),
    "poisson infinite": (L.poisson(), np.inf, "counts .*, got inf "),
    "negative_binomial": (L.negative_binomial(), 1.2, "counts .*, got 1.2 "),
    "bernoulli": (L.bernoulli(), 2.0, "0 and 1 .*, got 2 "),
    "binomial": (L.binomial(5), 6.0, "whole numbers from 0 to the trials .*, got 6 "),
    "ordinal": (L.ordinal([0, 1]), 3.0, "the levels 0, 1 .*, got 3 "),
    "lognormal": (L.lognormal(), 0.0, "positive numbers .*, got 0 "),
    "gamma": (L.gamma(), -2.0, "positive numbers .*, got -2 "),
    "from_pymc": (
        L.from_pymc(lambda f: pm.Poisson.dist(pm.math.exp(f))),
        -2.0,
        "have made .*, got -2",
    ),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_an_entry_that_cannot_be_is_named(case):
    likelihood, value, message = BAD_ENTRIES[case]
    Y = np.ones((3, 2))
    Y[0, 1] = np.nan
    likelihood.check(Rows(Y))
    Y[2, 0] = value
    with pytest.raises(ValueError, match=f"{message}.*in row 12, column 'left'"):
        likelihood.check(Rows(Y), ["left", "right"], 10)


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [(L.gaussian(), -0.1), (L.gaussian(), np.inf), (L.binomial(ENTRIES), 1.5)],
)
def test_what_is_known_of_an_entry_is_checked(likelihood, value):
    entry = np.full((3, 2), 2.0)
    entry[0, 1] = np.nan
    Y = np.ones((3, 2))
    Y[0, 1] = np.nan
    likelihood.check(Rows(Y, None, entry))
    entry[1, 1] = value
    with pytest.raises(
        ValueError, match=f"(noise_sd|trials) must be .*, got {value:g} in row 1, column 1"
    ):
        likelihood.check(Rows(Y, None, entry))


def test_binomial_asks_for_trials():
    with pytest.raises(ValueError, match=r"trials must be known .*, got none"):
        L.resolve("binomial").check(Rows(np.ones((2, 2))))


def test_heavy_tails_are_integrated_where_f_is_wider_than_the_noise():
    y = np.linspace(-4.0, 4.0, 17)[:, None]
    value, _ = L.student_t().expect(
        Rows(y), np.zeros((17, 1, 1)), np.ones((17, 1, 1)), np.ones(1), {"log_sigma": np.log(0.5)}
    )
    z = np.linspace(-10.0, 10.0, 4001)
    weights = stats.norm.pdf(z) * (z[1] - z[0])
    assert_allclose(value, stats.t.logpdf(y, 4.0, z, 0.5) @ weights, atol=0.01)


def test_the_dispersion_is_found_though_entries_are_missing():
    rng = np.random.default_rng(4)
    f, r = rng.normal(size=(400, 50)), 2.0
    Y = rng.poisson(np.exp(f) * rng.gamma(r, 1.0 / r, f.shape)).astype(float)
    Y[rng.random(Y.shape) < 0.5] = np.nan
    rows, likelihood = Rows(Y), L.negative_binomial("shared")

    def slope(log_r):
        q = {"log_dispersion": np.asarray(log_r)}
        m, v = f[:, None].copy(), np.zeros((400, 1, 50))
        found = likelihood.expect(rows, m, v, np.ones(1), q, of_parameters=True)[1]
        return float(found["log_dispersion"])

    assert np.exp(optimize.brentq(slope, -3.0, 4.0)) == pytest.approx(r, rel=0.1)


def test_large_counts_under_a_wide_f_are_integrated():
    """The likelihood of y = 10⁴ is 0.01 wide in f: no rule about the mean of f sees it."""
    y, m, v = np.array([[1e4]]), np.array([[7.0]]), np.array([[2.0]])
    found = L.poisson().log_predictive(Rows(y), m, v, {})
    # A gamma variable over f, as ∫ p(y|f) df = 1/y
    f = np.linspace(np.log(1e4) - 0.2, np.log(1e4) + 0.2, 20001)
    values = np.exp(stats.poisson.logpmf(1e4, np.exp(f)) + stats.norm.logpdf(f, 7.0, np.sqrt(2.0)))
    assert found[0, 0] == pytest.approx(np.log(values.sum() * (f[1] - f[0])), abs=1e-6)
    lower, upper = L.poisson().cumulative(Rows(y), m, v, {})
    truth = stats.norm.cdf(np.log(1e4), 7.0, np.sqrt(2.0))
    assert lower[0, 0] < upper[0, 0]
    assert upper[0, 0] == pytest.approx(truth, abs=1e-4)
