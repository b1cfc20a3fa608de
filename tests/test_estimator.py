"""The estimator: scikit-learn's own checks, and the same numbers as the functions."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import pm_gplvm as gplvm
from pm_gplvm import estimator
from pm_gplvm.fitting import optimise

quick = pytest.mark.filterwarnings(
    "ignore:fit_marginal:RuntimeWarning",
    "ignore:Y has .* exact copies:RuntimeWarning",
    "ignore:embed:RuntimeWarning",
)


@quick
@parametrize_with_checks([gplvm.GPLVM(max_iter=3, n_starts=4)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@quick
@pytest.mark.filterwarnings("ignore:X .* feature names")
@pytest.mark.parametrize(
    "check",
    [
        "check_dataframe_column_names_consistency",
        "check_global_output_transform_pandas",
        "check_set_output_transform_pandas",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
    ],
)
def test_checks_that_scikit_learn_keeps_for_itself(check):
    getattr(estimator_checks, check)("GPLVM", gplvm.GPLVM(max_iter=3, n_starts=4))


@pytest.fixture(scope="module")
def table():
    """Rows to learn from, and others."""
    rows = simulated(48, 6, seed=3).to_numpy()
    return rows[:40], rows[40:]


@pytest.fixture(scope="module")
def fitted(table):
    return gplvm.GPLVM().fit(table[0])


def test_it_gives_what_the_functions_give(table, fitted):
    Y, new = table
    best = gplvm.fit_marginal(gplvm.build_model(Y, kernel="rbf + linear"), progressbar=False)
    np.testing.assert_array_equal(fitted.embedding_, best["posterior"]["X"][0, 0])
    assert fitted.n_iter_ == best["optima"]["evaluations"][0]
    assert fitted.n_features_in_ == 6
    np.testing.assert_array_equal(fitted.fit_transform(Y), fitted.embedding_)

    places = gplvm.embed(best, new, random_seed=1)["modes"]["X"][:, 0]
    np.testing.assert_allclose(fitted.transform(new), places, atol=1e-4)
    again = fitted.inverse_transform(fitted.embedding_[:5])
    np.testing.assert_array_equal(again, gplvm.predict(best, fitted.embedding_[:5])["mean"])
    score = gplvm.log_predictive(best, new, random_seed=1)
    assert fitted.score(new) == pytest.approx(
        float(score["log_score"].mean()), abs=5 * float(score["error"].max()) + 1e-3
    )


def test_arguments_reach_the_model(table):
    priors = {"sigma": 0.1, "amplitude": pm.HalfNormal.dist(2.0)}
    settings = {
        "kernel": "matern52 + bias",
        "ard": True,
        "priors": priors,
        "scale": "feature",
        "resolution": 0.05,
    }
    estimator = clone(gplvm.GPLVM(3, **settings)).fit(table[0])
    best = gplvm.fit_marginal(gplvm.build_model(table[0], 3, **settings), progressbar=False)
    assert float(estimator.fit_["constant_data"]["Y_resolution"]) == 0.05
    np.testing.assert_array_equal(estimator.embedding_, best["posterior"]["X"][0, 0])
    again = gplvm.GPLVM.from_fit(estimator.fit_)
    assert (again.n_components, again.kernel, again.ard) == (3, "matern52 + bias", True)


def test_rows_of_the_training_table_stay_where_they_are(table):
    Y = np.vstack([table[0], table[0][:2]])
    Y[5, 0] = 0.0
    with pytest.warns(RuntimeWarning, match="Y has 2 rows that are exact copies of others"):
        fitted = gplvm.GPLVM().fit(Y)
    np.testing.assert_array_equal(fitted.embedding_[40:], fitted.embedding_[:2])
    np.testing.assert_array_equal(fitted.transform(Y), fitted.embedding_)
    some = Y[[7, 5, 3]]
    some[1, 0] = -0.0
    mixed = fitted.transform(np.vstack([some, table[1]]))
    np.testing.assert_array_equal(mixed[:3], fitted.embedding_[[7, 5, 3]])
    np.testing.assert_array_equal(mixed[3:], fitted.transform(table[1]))
    # One row more is enough for the others to be looked up one by one.
    np.testing.assert_array_equal(fitted.transform(Y[::-1])[::-1][:40], fitted.embedding_[:40])


def test_missing_entries_where_they_are_asked_for(table):
    holes = table[0].copy()
    holes[2, 1] = holes[7, 1] = np.nan
    fitted = gplvm.GPLVM(missing="mask").fit(holes)
    assert get_tags(fitted).input_tags.allow_nan
    assert not get_tags(gplvm.GPLVM()).input_tags.allow_nan
    np.testing.assert_array_equal(fitted.transform(holes), fitted.embedding_)
    np.testing.assert_array_equal(fitted.transform(holes[5:9]), fitted.embedding_[5:9])
    new = table[1].copy()
    new[0, :3] = np.nan
    places = gplvm.embed(fitted.fit_, new, random_seed=1)["modes"]["X"]
    np.testing.assert_allclose(fitted.transform(new)[1:], places[1:, 0], atol=1e-4)
    assert np.isfinite(fitted.score(new))
    new[0] = np.nan
    with pytest.raises(ValueError, match="Y_new must have an entry in every row"):
        fitted.transform(new)
    with pytest.raises(ValueError, match="NaN"):
        gplvm.GPLVM().fit(holes)


def test_names_go_in_and_come_out(table):
    frame = pd.DataFrame(table[0], columns=list("abcdef")).rename(index="cell {}".format)
    estimator = gplvm.GPLVM().set_output(transform="pandas")
    X = estimator.fit_transform(frame)
    assert X.columns.tolist() == ["gplvm0", "gplvm1"]
    assert X.index.equals(frame.index)
    assert estimator.feature_names_in_.tolist() == list("abcdef")
    assert estimator.fit_["observed_data"]["feature"].to_numpy().tolist() == list("abcdef")
    assert estimator.fit_["posterior"]["obs"].to_numpy().tolist() == frame.index.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(frame.rename(columns={"a": "z"}))
    labelled = simulated(30, 10, noise=0.3)
    known = gplvm.GPLVM().fit(labelled).fit_["posterior"]["label"]
    np.testing.assert_array_equal(known, labelled["label"])


def test_the_number_of_components_by_grid_search():
    Y = simulated(60, 8, seed=5, noise=0.05).to_numpy()
    pipeline = make_pipeline(StandardScaler(), gplvm.GPLVM(random_state=0))
    search = GridSearchCV(pipeline, {"gplvm__n_components": [1, 2]}, cv=2, error_score="raise")
    assert search.fit(Y).best_params_ == {"gplvm__n_components": 2}
    assert search.best_estimator_.transform(Y[:3]).shape == (3, 2)


def test_it_goes_on_from_a_file(table, fitted, tmp_path):
    path = gplvm.save(fitted.fit_, tmp_path / "fit.nc")
    again = gplvm.GPLVM.from_fit(gplvm.load(path))
    again.n_starts = fitted.n_starts
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)
    np.testing.assert_array_equal(again.transform(table[0]), fitted.embedding_)
    np.testing.assert_allclose(again.transform(table[1]), fitted.transform(table[1]), atol=1e-4)
    np.testing.assert_array_equal(
        again.inverse_transform([[0.1, 0.2]]), fitted.inverse_transform([[0.1, 0.2]])
    )
    assert again.get_feature_names_out().tolist() == ["gplvm0", "gplvm1"]
    assert again.n_iter_ == fitted.n_iter_


def test_names_of_columns_come_back_from_a_file(tmp_path):
    Y = simulated(30, 10, noise=0.3)
    fit = gplvm.GPLVM().fit(Y.to_pandas()).fit_
    again = gplvm.GPLVM.from_fit(gplvm.load(gplvm.save(fit, tmp_path / "fit.nc")))
    assert again.feature_names_in_.tolist() == Y["feature"].to_numpy().tolist()
    np.testing.assert_array_equal(again.transform(Y.to_pandas()), again.embedding_)


# Turned away


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_components": 7},
            r"n_components .* min\(n_samples, n_features\) = 6, got 7",
        ),
        ({"n_components": 0}, "n_components must be a whole number of at least 1, got 0"),
        ({"n_components": 2.0}, r"n_components must be a whole number .*, got 2\.0"),
        ({"kernel": "cubic"}, "kernel"),
        ({"max_iter": 0}, "max_iter must be a whole number of at least 1, got 0"),
        ({"start": "umap"}, "start must be one of pca, isomap, random"),
    ],
)
def test_wrong_parameters(table, settings, message):
    with pytest.raises(ValueError, match=message):
        gplvm.GPLVM(**settings).fit(table[0])


def test_wrong_tables(table, fitted):
    Y, new = table
    holes = new.copy()
    holes[0, 0] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fitted.transform(holes)
    with pytest.raises(ValueError, match="X has 5 features, but GPLVM is expecting 6"):
        fitted.score(new[:, :5])
    with pytest.raises(ValueError, match="Found array with 2 sample"):
        gplvm.GPLVM().fit(Y[:2])
    with pytest.raises(ValueError, match="40 equal rows"):
        gplvm.GPLVM().fit(np.ones_like(Y))
    with pytest.raises(ValueError, match=r"X_new must have shape \(n, latent_dim\) = \(n, 2\)"):
        fitted.inverse_transform(np.zeros((3, 3)))


def test_what_is_not_fitted(table, fitted):
    for verb in ("transform", "inverse_transform", "score"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(gplvm.GPLVM(), verb)(table[0])
    with pytest.raises(TypeError, match="from_fit needs a fit"):
        gplvm.GPLVM.from_fit({"X": 1})
    without = fitted.fit_.copy()
    without["posterior"] = xr.DataTree(fitted.fit_.posterior.to_dataset().drop_vars("X"))
    with pytest.raises(ValueError, match="from_fit needs the variable 'X'"):
        gplvm.GPLVM.from_fit(without)


@quick
def test_ctrl_c_ends_a_search_over_parameters(table, ctrl_c, monkeypatch):
    """The fit that is broken off is not scored, and none comes after it."""
    begun, function = [], estimator.fit_by
    monkeypatch.setattr(estimator, "fit_by", lambda *a, **k: begun.append(a) or function(*a, **k))
    model = gplvm.GPLVM(max_iter=3, n_starts=4, random_state=1)
    search = GridSearchCV(model, {"kernel": ["linear", "rbf"]}, cv=2)
    ctrl_c(estimator, "fit_by", 2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(table[0])
    assert len(begun) == 2
    ctrl_c(optimise, "minimize", 2)
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(model, table[0], cv=2)
    assert len(begun) == 3


def test_ctrl_c_leaves_the_estimator_as_it_was(table, ctrl_c):
    model = gplvm.GPLVM(kernel="linear", random_state=1).fit(table[0])
    fit, embedding = model.fit_, model.embedding_.copy()
    ctrl_c(optimise._Run, "negative", 8)
    with pytest.raises(KeyboardInterrupt):
        model.fit(table[0][:-1])
    assert model.fit_ is fit
    np.testing.assert_array_equal(model.embedding_, embedding)


# Classes of the rows


@quick
@pytest.mark.filterwarnings("ignore:GPLVM.transform:RuntimeWarning")
def test_classes_come_by_y():
    """By the index of a DataFrame, else by position; in folds too, whose rows differ."""
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b"] * 12, dtype=object)
    values = rng.normal(size=(24, 5)) + 3.0 * (classes == "a")[:, None]
    frame = pd.DataFrame(values, index=[f"r{i}" for i in range(24)], columns=list("abcde"))
    known = pd.Series(classes, index=frame.index)
    settings = {"supervised": True, "max_iter": 20, "random_state": 1}
    by_label = gplvm.GPLVM(**settings).fit(frame, known.sample(frac=1.0, random_state=1))
    by_position = gplvm.GPLVM(**settings).fit(values, classes)
    np.testing.assert_array_equal(by_label.embedding_, by_position.embedding_)
    numbered = pd.Series(classes, index=np.arange(24)[::-1])  # of what was an array
    again = gplvm.GPLVM(**settings).fit(values, numbered)
    np.testing.assert_array_equal(again.embedding_, by_position.embedding_)
    scores = cross_val_score(gplvm.GPLVM(**settings), frame, known, cv=2)
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match="supervised=True needs y"):
        gplvm.GPLVM(**settings).fit(values)
    prior = {"X": gplvm.priors.class_mixture(classes)}
    with pytest.raises(ValueError, match="priors must not have one of X"):
        gplvm.GPLVM(**settings, priors=prior).fit(values, classes)


@quick
def test_priors_by_label_go_into_folds():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(24, 5)), index=[f"r{i}" for i in range(24)])
    stage = pd.Series(np.linspace(-1, 1, 24), index=frame.index[::-1])
    estimator = gplvm.GPLVM(priors={"X": gplvm.priors.informative(stage, 0.3)}, max_iter=5)
    assert np.isfinite(cross_val_score(estimator, frame, cv=2)).all()
    with pytest.raises(ValueError, match="mean must have one entry a row, 12, got 24"):
        estimator.set_params(priors={"X": gplvm.priors.informative(stage.to_numpy(), 0.3)}).fit(
            frame[:12]
        )


@quick
@pytest.mark.parametrize("start", ["pca", "isomap", "random"])
@pytest.mark.parametrize("kernel", ["linear", "linear + bias", "rbf", "matern32 + linear"])
def test_every_start_and_kernel(kernel, start):
    table = np.random.default_rng(0).normal(size=(15, 4))
    fitted = gplvm.GPLVM(kernel=kernel, start=start, max_iter=5, random_state=0).fit(table)
    assert np.isfinite(fitted.embedding_).all()


@quick
def test_masks_and_names_are_seen():
    import anndata

    table = np.random.default_rng(0).normal(size=(15, 4))
    mask = np.zeros(table.shape, bool)
    mask[3, 1] = True
    hidden = np.ma.array(np.where(mask, 99.0, table), mask=mask)
    with pytest.raises(ValueError, match="NaN"):
        gplvm.GPLVM().fit(hidden)
    settings = {"missing": "mask", "max_iter": 5, "random_state": 1}
    one, two = (
        gplvm.GPLVM(**settings).fit(x).embedding_ for x in (hidden, np.where(mask, np.nan, table))
    )
    np.testing.assert_array_equal(one, two)
    names = pd.DataFrame(index=[f"gene{i}" for i in range(4)])
    fitted = gplvm.GPLVM(max_iter=5).fit(anndata.AnnData(table, var=names))
    assert fitted.feature_names_in_.tolist() == names.index.tolist()


@pytest.mark.parametrize("wrong", ["a", -1, 1.5, True, [1]])
def test_a_wrong_seed_is_named(wrong):
    with pytest.raises(ValueError, match="random_state must be"):
        gplvm.GPLVM(random_state=wrong).fit(np.random.default_rng(0).normal(size=(9, 3)))
