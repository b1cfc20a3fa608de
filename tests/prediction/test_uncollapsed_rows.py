"""The density of new rows after fit_svi: short forms beside the sums over all columns."""

from dataclasses import replace

import numpy as np
import pytest
from oracles import central_differences
from scipy.stats import norm, ortho_group

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.prediction.row_posterior import Rows
from pm_gplvm.prediction.uncollapsed import (
    SharedDensity,
    Uncollapsed,
    UncollapsedDensity,
    uncollapsed_density,
)

N, D, Q, NEW = 60, 9, 2, 5
QUICK = {"n_inducing": 10, "epochs": 20, "random_seed": 1, "progressbar": False}
pytestmark = pytest.mark.filterwarnings("ignore:fit_svi ended")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((N, Q))
    return np.sin(X @ rng.standard_normal((Q, D))) + 0.3 * rng.standard_normal((N, D)) + 2.0


def process_of(table, frame=None, **given):
    fit = gplvm.fit_svi(table, Q, **given, **QUICK)
    return replace(Uncollapsed.of(Fit(fit, "embed")), frame=frame)


def new_rows(process, offset=None):
    rng = np.random.default_rng(5)
    y = rng.standard_normal((NEW, D))
    seen = rng.random((NEW, D)) < 0.6
    mean, sd = 0.3 * rng.standard_normal((NEW, Q)), rng.uniform(0.7, 1.3, (NEW, Q))
    return Rows(np.where(seen, y, 0.0), seen, mean, sd, offset=offset)


FRAME = (ortho_group(Q, seed=1).rvs(), np.array([0.3, -0.2]), 1.3)
GIVEN = {
    "plain": {},
    "frame": {"frame": FRAME},
    "offset": {"offset": np.linspace(-0.2, 0.2, N)},
    "known noise": {"noise_sd": 0.2},
}


@pytest.mark.parametrize("kind", GIVEN)
def test_one_noise_and_a_whole_table_are_short(kind, table):
    process = process_of(table, **GIVEN[kind])
    short, whole = uncollapsed_density(process), UncollapsedDensity(process)
    assert isinstance(short, SharedDensity)
    offset = np.linspace(-0.1, 0.3, NEW)[:, None] if kind == "offset" else None
    rows = new_rows(process, offset)
    prepared = short.prepared(rows)
    x = np.random.default_rng(6).standard_normal((7, Q))
    row = np.array([0, 0, 1, 2, 3, 4, 4])
    near = {"rtol": 1e-9, "atol": 1e-9}
    for found, expected in zip(
        short.log_joint(x, prepared, row), whole.log_joint(x, rows, row), strict=True
    ):
        np.testing.assert_allclose(found, expected, **near)
    own = np.repeat(x[:NEW, None], 3, axis=1) + np.arange(3)[:, None] / 4.0
    found, expected = (
        density.log_joint_and_variance(own, each)[0]
        for density, each in ((short, prepared), (whole, rows))
    )
    np.testing.assert_allclose(found, expected, **near)
    np.testing.assert_allclose(
        short.log_densities(x, prepared), whole.log_densities(x, rows), **near
    )
    # Least squares leave constants out, and the short form the rest of rows that no position explains.
    for found, expected in zip(
        short.squares(x, prepared, row)[1:], whole.squares(x, rows, row)[1:], strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(short.shortfall(x[:NEW], rows), whole.shortfall(x[:NEW], rows))


@pytest.mark.parametrize("kind", ["column", "holes", "poisson", "student_t"])
def test_all_other_tables_are_summed_over_columns(kind, table):
    rng = np.random.default_rng(7)
    given = {
        "column": {"likelihood": gplvm.likelihoods.gaussian(noise="column")},
        "holes": {},
        "poisson": {"likelihood": "poisson"},
        "student_t": {"likelihood": "student_t"},
    }[kind]
    if kind == "holes":
        table = np.where(rng.random(table.shape) < 0.2, np.nan, table)
    if kind == "poisson":
        table = rng.poisson(np.exp(0.5 * table)).astype(float)
    process = process_of(table, **given)
    density = uncollapsed_density(process)
    assert type(density) is UncollapsedDensity
    rows = new_rows(process)
    if kind == "poisson":
        rows = replace(rows, y=np.where(rows.seen, np.abs(rows.y).round(), 0.0))
    x = rng.standard_normal((4, Q))
    exact, _ = density.log_joint_and_variance(np.broadcast_to(x, (NEW, 4, Q)), rows)
    close = 1e-9 if kind in ("column", "holes") else 0.1  # by one point in f
    np.testing.assert_allclose(density.log_densities(x, rows), exact, atol=close)
    one = np.zeros(4, dtype=np.intp)
    value, slope = density.log_joint(x, rows, one)
    np.testing.assert_allclose(value, exact[0], atol=1e-5)
    numeric = central_differences(lambda p: density.log_joint(p["x"], rows, one)[0].sum(), {"x": x})
    np.testing.assert_allclose(slope, numeric["x"], rtol=1e-3, atol=1e-3)


def test_distances_to_the_table_are_of_entries_seen(table):
    process = process_of(table)
    density, rows = uncollapsed_density(process), new_rows(process)
    expected = (process.at(density.beginnings).mean - process.centre) / process.scale
    found = [
        ((expected[:, seen] - y[seen]) ** 2).mean(axis=1)
        for y, seen in zip(rows.y, rows.seen, strict=True)
    ]
    np.testing.assert_allclose(density.misfits(rows), found, rtol=1e-9)


def test_the_density_is_that_of_each_entry(table):
    process = process_of(table, likelihood=gplvm.likelihoods.gaussian(noise="column"))
    rows, x = new_rows(process), np.array([[0.2, -0.4]])
    f, variance = process.moments(x)
    sigma2 = np.exp(2.0 * process.parameters["log_sigma"])
    sd = np.sqrt(variance + sigma2 + 0.01**2)  # beside the least noise of any table
    logs = np.where(rows.seen, norm(f, sd).logpdf(rows.y), 0.0).sum(axis=1)
    logs += norm(rows.mean, rows.sd).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(uncollapsed_density(process).log_densities(x, rows)[:, 0], logs)
