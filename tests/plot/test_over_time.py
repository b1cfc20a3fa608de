"""Columns over time."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made import fit_of

import pm_gplvm as gplvm


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def fit_at(t, **options):
    Y = pd.DataFrame(np.sin(np.arange(12)[:, None] / 2.0 + np.arange(4.0)), columns=list("abcd"))
    prior = gplvm.priors.dynamics(t, lengthscale=4.0, **options)
    model = gplvm.build_model(Y, priors={"X": prior})
    X = np.random.default_rng(0).standard_normal((1, 1, 12, 2))
    return fit_of(model, X, lengthscale=1.0, amplitude=1.0, sigma=0.1)


def test_rows_are_points_and_gaps_break_the_line():
    fit = fit_at(np.r_[0:6, 9:15])
    ahead = gplvm.forecast(fit, [16.0, 6.0, 7.0, 15.0, 8.0], random_seed=1)
    ax = gplvm.plot.forecast(fit, ahead, ["c", "a"])
    points, lines = ([e for e in ax.lines if (e.get_linestyle() == "None") == p] for p in (1, 0))
    assert [len(line.get_xdata()) for line in lines] == [3, 2, 3, 2]
    assert [len(each.get_xdata()) for each in points] == [12, 12]
    np.testing.assert_allclose(points[0].get_ydata(), fit["observed_data"]["Y"].sel(feature="c"))
    np.testing.assert_allclose(lines[1].get_ydata(), ahead["mean"][[3, 0], 2])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c", "a"]
    assert len(ax.collections) == 4


@pytest.mark.parametrize("kind", ["dates", "durations"])
def test_times_of_every_kind_are_drawn(kind):
    days = pd.date_range("2024-03-01", periods=14, freq="D")
    t = days if kind == "dates" else days - days[0]
    fit = fit_at(t[:12])
    ax = gplvm.plot.forecast(fit, gplvm.forecast(fit, t[12:], random_seed=1))
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == ("time" if kind == "dates" else "time, s")


def test_one_sequence_is_drawn():
    fit = fit_at(np.tile(np.arange(6.0), 2), sequences=np.repeat(["u", "v"], 6))
    ahead = gplvm.forecast(fit, [6.0, 7.0, 6.5], sequence=["u", "v", "v"], random_seed=1)
    ax = gplvm.plot.forecast(fit, ahead, "a", sequence="v")
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 6]
    assert ax.get_title() == "v"
    with pytest.raises(ValueError, match=r"one of those in ahead \(u, v\), got None"):
        gplvm.plot.forecast(fit, ahead)
    with pytest.raises(ValueError, match="got 'w'"):
        gplvm.plot.forecast(fit, ahead, sequence="w")


def test_what_is_no_forecast_is_refused(best):
    fit = fit_at(np.arange(12.0))
    ahead = gplvm.forecast(fit, [12.0], random_seed=1)
    for wrong in (None, gplvm.predict(fit, [[0.0, 0.0]]), fit):
        with pytest.raises(TypeError, match=r"ahead must be what forecast\(fit, times\) returns"):
            gplvm.plot.forecast(fit, wrong)
    with pytest.raises(ValueError, match=r"features must name columns.*'z'.*a, b, c, d"):
        gplvm.plot.forecast(fit, ahead, "z")
    with pytest.raises(TypeError, match="ax must be axes"):
        gplvm.plot.forecast(fit, ahead, ax=3)
    with pytest.raises(
        ValueError, match=r"plot\.forecast needs a fit whose prior of X knows times"
    ):
        gplvm.plot.forecast(best, ahead)
