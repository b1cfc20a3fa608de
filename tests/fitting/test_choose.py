"""Which fit is chosen, why, and that each name gives what the function gives."""

import json
import logging

import numpy as np
import pytest
import xarray as xr
from conftest import simulated

import pm_gplvm as gplvm
from pm_gplvm.fitting import choose
from pm_gplvm.fitting.choose import OF_MODELS, Task, choose_inference, fit_by
from pm_gplvm.fitting.variational import fit_sparse

short = pytest.mark.filterwarnings("ignore:fit_:RuntimeWarning")
QUIET = {"progressbar": False, "random_seed": 1}


@pytest.fixture(scope="module")
def Y():
    return simulated(30, 10, noise=0.3)


@pytest.fixture
def few(monkeypatch):
    """A table is large from 11 rows on, and very large where a test says so."""
    monkeypatch.setattr(choose, "_QUICK", 10)
    return lambda: monkeypatch.setattr(choose, "_SQUARE", 20)


def test_the_exact_estimate_up_to_a_thousand_rows():
    rows = np.random.default_rng(0).standard_normal((1001, 3))
    name, why = choose_inference(gplvm.build_model(rows[:1000], kernel="rbf"))
    assert (name, why) == ("marginal", "the exact estimate is quick for 1000 rows")
    name, why = choose_inference(gplvm.build_model(rows, kernel="rbf"))
    assert (name, why) == ("stochastic", "the exact estimate is slow for 1001 rows")
    name, why = choose_inference(gplvm.build_model(np.tile(rows, (5, 1)), kernel="rbf"))
    assert (name, why) == ("sparse", "the exact estimate is slow for 5005 rows")


@short
@pytest.mark.parametrize(
    ("options", "holes", "very", "names"),
    [
        ({"kernel": "rbf"}, False, False, {"stochastic"}),
        ({"kernel": "rbf"}, False, True, {"sparse"}),
        ({"kernel": "rbf + linear"}, False, False, {"stochastic"}),
        ({"kernel": "rbf + linear"}, False, True, {"sparse", "stochastic"}),
        ({"kernel": "rbf", "missing": "mask"}, True, False, {"sparse"}),
        ({"kernel": "rbf", "noise": "column"}, False, True, {"marginal"}),
    ],
)
def test_what_a_model_allows_is_chosen_and_can_be_fitted(Y, few, options, holes, very, names):
    if very:
        few()
    table = Y.copy()
    if holes:
        table[0, 0] = np.nan
    model = gplvm.build_model(table, **options)
    name, why = choose_inference(model)
    assert name in names
    if name == "marginal":
        assert "not sparse: " in why
        assert "not stochastic: " in why
    assert "\n" not in why
    fit = fit_by(model, max_iter=400, **QUIET)
    assert (fit.attrs["inference"], fit.attrs["inference_reason"]) == (name, why)
    assert fit.attrs["method"] == name


@short
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("make", [gplvm.priors.informative, gplvm.priors.dynamics])
def test_priors_that_know_something_are_served_by_what_is_chosen(Y, make):
    prior = make(np.linspace(-1, 1, len(Y)), *([0.5] if make is gplvm.priors.informative else []))
    model = gplvm.build_model(Y, priors={"X": prior})
    name, _ = choose_inference(model)
    fit = fit_by(model, max_iter=300, **QUIET)
    assert fit.attrs["method"] == name


def test_a_model_whose_X_cannot_be_integrated_out_has_its_mode(Y):
    import pymc as pm

    with pm.Model() as model:
        X = pm.StudentT("X", 5.0, shape=(len(Y), 2))
        K = gplvm.covariance("rbf", X, sigma=0.3)
        gplvm.GPColumns("Y", K, observed=Y.to_numpy().T)
    name, why = choose_inference(model)
    assert name == "map"
    assert "cannot be integrated out" in why


def test_auto_on_a_small_table_is_fit_marginal_to_the_last_bit(Y):
    model = gplvm.build_model(Y)
    known, fit = gplvm.fit_marginal(model, **QUIET), fit_by(model, **QUIET)
    xr.testing.assert_identical(known["posterior"].to_dataset(), fit["posterior"].to_dataset())
    more = set(fit.attrs) - set(known.attrs)
    assert more == {"inference", "inference_reason"}


@short
@pytest.mark.parametrize("name", OF_MODELS)
def test_every_name(Y, name, tmp_path):
    model = gplvm.build_model(Y, kernel="linear" if name == "linear" else "rbf")
    fit = fit_by(model, name, n_inducing=5, max_iter=60, **QUIET)
    method = "marginal" if name == "auto" else name
    assert fit.attrs["method"] == fit.attrs["inference"] == method
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert read.attrs["inference_reason"] == fit.attrs["inference_reason"]
    if fit.attrs.get("n_inducing") is not None:
        assert fit.attrs["n_inducing"] == 5


def test_n_inducing_and_start_reach_the_fit(Y):
    model = gplvm.build_model(Y)
    X = np.random.default_rng(0).standard_normal((len(Y), 2))
    fit = fit_by(model, "sparse", n_inducing=4, start=X, **QUIET)
    again = fit_sparse(model, n_inducing=4, start=X, **QUIET)
    np.testing.assert_array_equal(fit["posterior"]["X"], again["posterior"]["X"])
    fit = fit_by(model, "marginal", n_restarts=2, **QUIET)
    again = gplvm.fit_marginal(model, n_restarts=2, **QUIET)
    assert fit["optima"].sizes["start"] == again["optima"].sizes["start"]


def test_one_line_at_info_says_it(Y, caplog):
    with caplog.at_level(logging.INFO, logger="pm_gplvm"):
        fit_by(gplvm.build_model(Y), max_iter=500, **QUIET)
    (record,) = caplog.records
    assert record.getMessage() == "inference: marginal, as the exact estimate is quick for 30 rows"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"inference": "nuts"}, "inference must be one of auto, marginal, .* got 'nuts'"),
        ({"inference": None}, "inference must be one of"),
        ({"inference": "stochastic", "n_restarts": 1}, "n_restarts must be 0 with inference='sto"),
        ({"inference": "linear", "n_restarts": 1}, "n_restarts must be 0 with inference='linear'"),
        ({"inference": "linear", "start": "isomap"}, "start must be left at 'pca' with"),
        ({"inference": "linear"}, "needs kernel='linear'"),
        ({"n_inducing": 0}, "n_inducing must be"),
        ({"max_iter": 0}, "max_iter must be"),
    ],
)
def test_refused(Y, call, message):
    with pytest.raises(ValueError, match=message):
        fit_by(gplvm.build_model(Y), **call)


def test_warnings_are_kept_in_the_fit_and_its_file(Y, tmp_path):
    with pytest.warns(RuntimeWarning, match="fit_map did not converge") as told:
        fit = fit_by(gplvm.build_model(Y), "map", max_iter=1, **QUIET)
    assert json.loads(fit.attrs["warnings"]) == [str(w.message) for w in told]
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert gplvm.summary(read).warned == gplvm.summary(fit).warned
    assert "warnings" not in fit_by(gplvm.build_model(simulated(30, 10, noise=0.3)), **QUIET).attrs


# Of tables


def holed(n_rows, n_columns=20, share=0.1):
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((n_rows, n_columns))
    Y[rng.random(Y.shape) < share] = np.nan
    return Y


@pytest.mark.parametrize(
    ("table", "options", "name"),
    [
        (np.ones((1000, 2)), {}, "marginal"),
        (np.ones((1500, 2)), {}, "stochastic"),
        (np.ones((2001, 2)), {}, "svi"),
        (np.ones((2001, 2)), {"priors": {"sigma": 0.1}}, "stochastic"),
        (np.ones((2001, 2)), {"resolution": 0.1}, "svi"),
        (np.ones((2001, 2)), {"start": "isomap"}, "stochastic"),
        (np.ones((2001, 2)), {"sampled": True}, "stochastic"),
        (np.ones((30, 2)), {"offset": np.zeros(30)}, "svi"),
        (np.ones((30, 2)), {"likelihood": "student_t"}, "svi"),
        (np.ones((30, 2)), {"likelihood": gplvm.likelihoods.gaussian("column")}, "marginal"),
        (np.ones((30, 2)), {"likelihood": gplvm.likelihoods.gaussian(noise_sd=0.1)}, "svi"),
        (np.ones((30, 2)), {"inference": "svi"}, "svi"),
        (np.ones((30, 2)), {"inference": "map"}, "map"),
    ],
)
def test_what_is_chosen_for_a_table(table, options, name):
    table[0] = 0.0  # else there were nothing to embed
    found, why = Task(Y=table, latent_dim=1, **options).choice
    assert found == name
    assert ("not svi: " in why) == (bool({"priors", "start"} & set(options)))


@pytest.mark.filterwarnings("ignore:Y has .* patterns of missing entries:RuntimeWarning")
@pytest.mark.parametrize(("n_rows", "name"), [(100, "marginal"), (500, "svi")])
def test_holes_make_the_exact_estimate_slow(n_rows, name):
    found, why = Task(Y=holed(n_rows, share=0.04), missing="mask").choice
    assert found == name
    assert (name == "marginal") or why == (
        f"the exact estimate is slow for {n_rows} rows with missing entries"
    )


@pytest.mark.filterwarnings("ignore:Y has .* patterns of missing entries:RuntimeWarning")
def test_where_a_twentieth_is_missing_rows_have_distributions():
    Y = holed(100)
    found, why = Task(Y=Y, missing="mask").choice
    assert (found, why) == ("svi", f"{100 * np.isnan(Y).mean():.0f} % of the entries are missing")
    found, why = Task(Y=Y, missing="mask", priors={"sigma": 0.1}).choice
    assert found == "marginal"
    assert "not svi: " in why
    assert Task(Y=Y, missing="mask", sampled=True).choice[0] == "marginal"


@short
def test_a_task_gives_what_the_verb_gives():
    counts = np.random.default_rng(0).poisson(3.0, (30, 6))
    options = {"likelihood": "poisson", "kernel": "rbf", "offset": "size"}
    fit = Task(Y=counts, **options).fit(n_inducing=5, max_iter=4, batch_size=10, **QUIET)
    again = gplvm.fit_svi(
        counts, 2, ard=False, n_inducing=5, epochs=4, batch_size=10, **options, **QUIET
    )
    xr.testing.assert_identical(
        fit["approximation"].to_dataset(), again["approximation"].to_dataset()
    )
    assert set(fit.attrs) - set(again.attrs) <= {"inference", "inference_reason"}
    assert fit.attrs["inference_reason"] == "likelihood 'poisson' is fitted by minibatches"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "posson"}, "likelihood must be one of gaussian, student_t"),
        ({"likelihood": {0: "poisson"}}, "likelihood must name every column"),
        (
            {"likelihood": "poisson", "inference": "laplace"},
            "inference must be 'auto', 'svi' or 'map' with",
        ),
        ({"offset": "size", "inference": "sparse"}, "'auto', 'svi' or 'map' with an offset"),
        ({"likelihood": "poisson", "noise": "column"}, "noise must be 'shared' with likelihood"),
        ({"likelihood": "poisson", "noise": "none"}, "noise must be one of shared, column"),
        ({"likelihood": "poisson", "sampled": True}, "draw from models of normal noise, got"),
        ({"likelihood": "poisson", "priors": {"sigma": 1.0}}, "priors must not have one of sigma"),
        ({"likelihood": "poisson", "priors": 3}, "priors must be a mapping"),
        ({"inference": "svi", "start": "isomap"}, "start must be .* with inference='svi'"),
        ({"likelihood": "poisson", "resolution": 0.1}, "resolution must be left at 'auto'"),
        (
            {"inference": "svi", "priors": {"X": gplvm.priors.dynamics(np.arange(9.0))}},
            "priors of X must be priors.informative",
        ),
    ],
)
def test_what_a_task_refuses(options, message):
    table = np.arange(27.0).reshape(9, 3)
    with pytest.raises((TypeError, ValueError), match=message):
        _ = Task(Y=table, **options).choice


def test_missing_entries_are_those_that_were_asked_for():
    with pytest.raises(ValueError, match="pass missing='mask'"):
        _ = Task(Y=holed(30), likelihood="student_t").choice
