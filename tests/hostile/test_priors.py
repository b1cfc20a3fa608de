"""Priors that cannot be used are refused when the model is built, by the name of their parameter."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest

import pm_gplvm as gplvm
from pm_gplvm import priors

TIMES = np.arange(12.0)

# Parameter, its prior, and what the error says.
REFUSED = [
    ("sigma", lambda name, dims: pm.HalfNormal.dist(1), "must register the variable 'sigma'"),
    (
        "sigma",
        lambda name, dims: pm.HalfNormal("banana", 1),
        "must register .* got one called 'banana'",
    ),
    ("sigma", lambda name, dims: None, "must return the variable it made, got NoneType"),
    ("sigma", lambda name, dims: 3.0, "must return the variable it made, got float"),
    ("sigma", lambda name: pm.HalfNormal(name, 1), r"must be a function of \(name, dims\)"),
    ("sigma", lambda: 1.0, r"must be a function of \(name, dims\)"),
    (
        "sigma",
        lambda name, dims: pm.HalfNormal(name, 1, shape=3),
        r"must have shape \(\), got \(3,\)",
    ),
    (
        "X",
        lambda name, dims: pm.Normal(name, 0, 1, shape=(12, 3)),
        r"must have shape \(12, 2\), got \(12, 3\)",
    ),
    (
        "X",
        lambda name, dims: pm.Normal(name, 0, 1, shape=12),
        r"must have shape \(12, 2\), got \(12,\)",
    ),
    ("sigma", lambda name, dims: pm.Poisson(name, 3), "must be continuous, got one of int64"),
    ("sigma", pm.Poisson.dist(3), "must be continuous, got one of int64"),
    ("X", pm.Bernoulli.dist(0.5), "must be continuous, got one of int64"),
    ("lengthscale", pm.DiscreteUniform.dist(1, 5), "must be continuous"),
    ("sigma", pm.HalfNormal.dist(1, shape=3), r"must have shape \(\) or \(\), got \(3,\)"),
    ("X", pm.Normal.dist(0, 1, shape=(3, 2)), r"must have shape \(\) or \(12, 2\), got \(3, 2\)"),
    ("sigma", "wide", "must be 'flat' where it is a text"),
    ("sigma", "", "must be 'flat' where it is a text"),
    ("sigma", True, "must be a number, 'flat', a distribution"),
    ("sigma", np.True_, "must be a number, 'flat', a distribution"),
    ("sigma", None, "must be a number, 'flat', a distribution"),
    ("sigma", {"a": 1}, "must be a number, 'flat', a distribution"),
    ("sigma", [1, 2], r"must have shape \(\) or \(\), got \(2,\)"),
    ("sigma", ["a"], "must be a number, 'flat', a distribution"),
    ("sigma", 1j, "must be a number, 'flat', a distribution"),
    ("sigma", -1.0, "must be positive and finite"),
    ("sigma", 0, "must be positive and finite"),
    ("sigma", np.nan, "must be positive and finite"),
    ("sigma", np.inf, "must be positive and finite"),
    ("sigma", 1e300, "must hold numbers between -1e100 and 1e100"),
    ("sigma", np.datetime64("2020-01-01"), "must be a number, 'flat', a distribution"),
    ("sigma", pm.HalfNormal, "must be an object made of HalfNormal, got the class"),
    ("X", priors.informative, "must be an object made of informative, got the class"),
    ("X", priors.back_constraint, "must be an object made of back_constraint, got the class"),
    ("sigma", priors.back_constraint(), "must be a prior of one parameter, got back_constraint"),
    ("lengthscale", priors.dynamics(TIMES), "must be a prior of one parameter, got dynamics"),
    ("X", priors.informative(np.zeros(5), 0.1), "mean must have one entry a row, 12, got 5"),
    ("X", priors.informative(np.zeros((12, 3)), 0.1), r"mean must have shape \(12,\) or \(12, 2\)"),
    ("X", priors.dynamics(np.arange(5.0)), "t must have one entry a row, 12, got 5"),
    ("X", priors.class_mixture(list("ab")), "labels must have one entry a row, 12, got 2"),
    ("X", priors.dynamics(TIMES, lengthscale=-1.0), "'X_lengthscale'.*positive and finite"),
    ("X", priors.dynamics(TIMES, lengthscale="long"), "'X_lengthscale'.*must be 'flat'"),
    (
        "X",
        priors.class_mixture(list("aabbccaabbcc"), within=0.0),
        "'X_within'.*positive and finite",
    ),
    ("X", np.zeros((5, 2)), r"must have shape \(\) or \(12, 2\), got \(5, 2\)"),
    ("X", np.full((12, 2), np.nan), "must be finite"),
]

# A call that makes a prior of X, and what its error says.
NOT_MADE = [
    (lambda: priors.informative("abc", 0.1), "mean must be an array of numbers, got a str"),
    (lambda: priors.informative(None, 0.1), "mean must be an array of numbers, got None"),
    (lambda: priors.informative(np.zeros(3), "wide"), "sd must be an array of numbers, got a str"),
    (lambda: priors.informative(np.zeros(3), -1.0), "sd must be positive and finite"),
    (lambda: priors.informative(np.zeros(3), np.nan), "sd must be positive and finite"),
    (
        lambda: priors.informative(np.zeros(3), [1.0, 2.0]),
        r"sd must be a number or of the shape of mean, \(3,\)",
    ),
    (lambda: priors.informative(np.full(3, np.nan), 0.1), "mean must .* known of some rows"),
    (lambda: priors.informative([np.inf, 1.0], 0.1), "mean must .* be finite"),
    (
        lambda: priors.informative(np.zeros((2, 2, 2)), 0.1),
        r"mean must have shape \(N,\) or \(N, Q\)",
    ),
    (lambda: priors.informative(3.0, 0.1), r"mean must have shape \(N,\) or \(N, Q\)"),
    (
        lambda: priors.informative(np.array(["2020-01-01"], "M8[D]"), 0.1),
        "mean must hold numbers, got dates",
    ),
    (lambda: priors.dynamics("abc"), "t must be an array of numbers, got a str"),
    (lambda: priors.dynamics(None), "t must be an array of numbers, got None"),
    (lambda: priors.dynamics(["a", "b"]), "t must hold numbers, got text"),
    (lambda: priors.dynamics([1.0, np.nan]), "t must be one finite number a row"),
    (lambda: priors.dynamics([1.0, 1.0]), "t must be one finite number a row, not all the same"),
    (lambda: priors.dynamics(np.eye(2)), "t must be one finite number a row"),
    (
        lambda: priors.dynamics(np.array(["2020-01-01", "NaT"], "M8[D]")),
        "t must be known in every row, got 1 NaT",
    ),
    (lambda: priors.dynamics(TIMES, own=1.0), "own must be a finite number above 0 and below 1"),
    (lambda: priors.dynamics(TIMES, own="0.1"), "own must be a finite number above 0 and below 1"),
    (lambda: priors.dynamics(TIMES, own=True), "own must be a finite number above 0 and below 1"),
    (lambda: priors.dynamics(TIMES, own=None), "own must be a finite number above 0 and below 1"),
    (
        lambda: priors.dynamics(TIMES, kernel="cosine"),
        "kernel must be one of rbf, matern32, matern52",
    ),
    (lambda: priors.dynamics(TIMES, kernel=None), "kernel must be one of rbf, matern32, matern52"),
    (lambda: priors.dynamics(TIMES, time_unit="month"), "time_unit must be one of W, D, h"),
    (
        lambda: priors.dynamics(TIMES, lengthscale=pd.Timedelta("1D")),
        "lengthscale must be in units of t, which holds numbers",
    ),
    (
        lambda: priors.dynamics(TIMES, sequences=list("ab")),
        r"sequences must have one label a row, \(12,\), got \(2,\)",
    ),
    (
        lambda: priors.dynamics(TIMES[:3], sequences=["a", None, "b"]),
        "sequences must have one label a row.* with 1 missing",
    ),
    (lambda: priors.class_mixture(None), "labels must have one label a row, got None"),
    (lambda: priors.class_mixture("abc"), "labels must have one label a row, got a str"),
    (lambda: priors.class_mixture({"a": 1}), "labels must have one label a row, got a dict"),
    (lambda: priors.class_mixture([None, "", np.nan]), "labels must have a known class, got none"),
    (
        lambda: priors.class_mixture(np.array(["a", "b"] * 2).reshape(2, 2)),
        r"labels must have one label a row, got shape \(2, 2\)",
    ),
    (lambda: priors.class_mixture([["a"], {}]), "labels must "),
    (lambda: priors.back_constraint("poly"), "kernel must be 'rbf' or 'linear'"),
    (
        lambda: priors.back_constraint(lengthscale=-1.0),
        "lengthscale must be a finite number above 0",
    ),
    (
        lambda: priors.back_constraint(lengthscale="1"),
        "lengthscale must be a finite number above 0",
    ),
    (
        lambda: priors.back_constraint(lengthscale=np.nan),
        "lengthscale must be a finite number above 0",
    ),
    (
        lambda: priors.back_constraint("linear", lengthscale=1.0),
        "lengthscale must be None with the kernel 'linear'",
    ),
]

NOT_PRIORS = ["flat", [("sigma", 1.0)], 3, gplvm.build_model, {"tau": 1.0}, {3: 1.0}]


@pytest.mark.parametrize(("name", "prior", "message"), REFUSED)
def test_refused_when_the_model_is_built(things, name, prior, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        gplvm.build_model(things["Y"], priors={name: prior})
    text = str(caught.value)
    assert f"priors['{name}" in text or text.startswith(("mean", "t ", "labels"))


@pytest.mark.parametrize(("call", "message"), NOT_MADE)
def test_refused_when_the_prior_is_made(call, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    "wrong", NOT_PRIORS, ids=lambda wrong: getattr(wrong, "__name__", repr(wrong))
)
def test_priors_are_a_mapping_of_parameters(things, wrong):
    with pytest.raises((TypeError, ValueError), match="priors must "):
        gplvm.build_model(things["Y"], priors=wrong)


# Missing labels are no class, whatever wrote them.
@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", "b", np.nan, "b"]),
        np.array(["a", "b", None, "b"], dtype=object),
        ["a", "b", np.nan, "b"],
        ["a", "b", "", "b"],
        pd.Series(["a", "b", None, "b"]),
        pd.Series(["a", "b", pd.NA, "b"], dtype="string"),
        pd.Categorical(["a", "b", None, "b"]),
        np.ma.array(["a", "b", "c", "b"], mask=[0, 0, 1, 0]),
    ],
    ids=["text", "None", "list", "empty", "Series", "NA", "Categorical", "masked"],
)
def test_missing_labels_are_no_class(labels):
    known = priors.class_mixture(labels)
    assert known.labels.tolist() == ["a", "b", None, "b"]


DATES = ["2020-01-01", "2020-01-03", "2020-01-04 12:00"]
DAYS = [0.0, 2.0, 3.5]


@pytest.mark.parametrize(
    "t",
    [
        np.array(DATES, "M8[s]"),
        np.array(DATES, "M8[ns]"),
        np.array(DATES, "M8[h]"),
        pd.to_datetime(DATES, format="mixed"),
        pd.to_datetime(DATES, format="mixed").as_unit("us"),
        pd.Series(pd.to_datetime(DATES, format="mixed")),
        pd.to_datetime(DATES, format="mixed").tz_localize("UTC").tz_convert("Asia/Tokyo"),
        pd.to_datetime(DATES, format="mixed").to_pydatetime(),
        list(pd.to_datetime(DATES, format="mixed")),
        pd.PeriodIndex(pd.to_datetime(DATES, format="mixed"), freq="h"),
        pd.to_timedelta(DAYS, unit="D"),
        np.array([0, 48, 84], "m8[h]"),
        list(pd.to_timedelta(DAYS, unit="D").to_pytimedelta()),
    ],
    ids=lambda t: f"{type(t).__name__} {getattr(t, 'dtype', '')}",
)
def test_dates_and_durations_are_times_in_one_unit(t):
    """Days by default, whatever resolution they are stored in."""
    half = pd.Timedelta("12h")
    assert priors.dynamics(t, lengthscale=half).t.tolist() == DAYS
    assert priors.dynamics(t, lengthscale=half).lengthscale == 0.5
    hours = priors.dynamics(t, lengthscale=half, time_unit="h")
    np.testing.assert_allclose(hours.t, 24.0 * np.array(DAYS))
    assert hours.lengthscale == 12.0
