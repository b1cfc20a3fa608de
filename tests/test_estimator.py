"""The estimator: scikit-learn's own checks, and the same numbers as the functions."""

import re
import time
from base64 import b64decode
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm
import pytest
import scipy.sparse
import xarray as xr
from conftest import simulated
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.manifold import trustworthiness
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, estimator_html_repr, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import pm_gplvm as gplvm
from pm_gplvm.fitting import choose, optimise
from pm_gplvm.fitting.choose import NAMES

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
            {"n_components": 7, "kernel": "linear"},
            r"n_components must be at most .* = 6 .*, got 7",
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
    begun, function = [], choose.fit_by
    monkeypatch.setattr(choose, "fit_by", lambda *a, **k: begun.append(a) or function(*a, **k))
    model = gplvm.GPLVM(max_iter=3, n_starts=4, random_state=1)
    search = GridSearchCV(model, {"kernel": ["linear", "rbf"]}, cv=2)
    ctrl_c(choose, "fit_by", 2)
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


# Which fit

FEW = {"max_iter": 3, "n_starts": 4}
quick_fits = pytest.mark.filterwarnings("ignore:fit_:RuntimeWarning")
EXACT = ["marginal", "map", "laplace", "stochastic", "linear", "svi"]


def by(name, **settings):
    kernel = "linear" if name == "linear" else "rbf"
    return gplvm.GPLVM(inference=name, kernel=kernel, n_inducing=5, **FEW, **settings)


@quick
@quick_fits
@pytest.mark.filterwarnings("ignore:GPLVM.transform|transform:RuntimeWarning")
@parametrize_with_checks([by(name) for name in ("linear", "svi")])
def test_scikit_learns_checks_of_every_fit(estimator, check):
    check(estimator)


@quick
@quick_fits
@pytest.mark.filterwarnings("ignore:GPLVM.transform|transform:RuntimeWarning")
@pytest.mark.parametrize("name", ["map", "laplace", "stochastic"])
@pytest.mark.parametrize(
    "check",
    ["fit_idempotent", "methods_subset_invariance", "n_features_in", "estimators_pickle"],
)
def test_scikit_learns_checks_of_what_a_fit_does_itself(name, check):
    """The others are of the estimator, which is the same; each of their 120 fits compiles its functions."""
    getattr(estimator_checks, f"check_{check}")("GPLVM", by(name))


@quick
@quick_fits
@pytest.mark.parametrize("name", NAMES)
def test_every_fit_by_its_name(table, name):
    estimator = clone(by(name, random_state=1)).fit(table[0])
    wanted = "marginal" if name == "auto" else name
    assert estimator.inference_ == estimator.fit_.attrs["inference"] == wanted
    assert estimator.fit_.attrs["method"] == wanted
    assert estimator.get_params()["inference"] == name
    assert estimator.n_iter_ >= 1
    assert estimator.get_feature_names_out().tolist() == ["gplvm0", "gplvm1"]
    np.testing.assert_allclose(estimator.transform(table[0]), estimator.embedding_)
    assert estimator.inverse_transform(estimator.embedding_[:3]).shape == (3, 6)
    again = gplvm.GPLVM.from_fit(estimator.fit_)
    assert (again.inference, again.inference_) == (wanted, wanted)


@quick
@quick_fits
@pytest.mark.filterwarnings("ignore:transform:RuntimeWarning")
@pytest.mark.parametrize("name", EXACT)
def test_new_rows_of_every_fit(table, name):
    estimator = by(name, random_state=1).fit(table[0])
    assert np.isfinite(estimator.transform(table[1][:3])).all()
    assert np.isfinite(estimator.score(table[1][:3]))


def test_the_default_is_the_exact_estimate_to_the_last_bit(table, fitted):
    explicit = gplvm.GPLVM(inference="marginal").fit(table[0])
    np.testing.assert_array_equal(explicit.embedding_, fitted.embedding_)
    assert fitted.inference_ == "marginal"
    assert "quick for 40 rows" in fitted.fit_.attrs["inference_reason"]
    assert explicit.fit_.attrs["inference_reason"] == "asked for"


@quick
@quick_fits
@pytest.mark.filterwarnings("ignore:transform:RuntimeWarning")
def test_a_search_over_fits(table):
    grid = {"inference": ["map", "marginal", "stochastic"]}
    search = GridSearchCV(gplvm.GPLVM(random_state=0, **FEW), grid, cv=2, error_score="raise")
    search.fit(table[0])
    assert search.best_estimator_.inference_ == search.best_params_["inference"]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("value", [0, 1, 2.5, True, "50"])
def test_a_wrong_n_inducing_is_named(table, value):
    with pytest.raises(ValueError, match="n_inducing must be a whole number of at least 2, got"):
        gplvm.GPLVM(n_inducing=value).fit(table[0])


# Likelihoods


@pytest.fixture(scope="module")
def counts():
    """Counts of rows of different depth, and the logarithms of these."""
    rng = np.random.default_rng(2)
    X, depth = rng.uniform(-2.0, 2.0, (60, 1)), rng.uniform(0.5, 3.0, 60)
    return rng.poisson(depth[:, None] * np.exp(1.0 + np.sin(X + np.arange(6)))), np.log(depth)


def of_counts(**settings):
    return gplvm.GPLVM(1, likelihood="poisson", kernel="rbf", n_inducing=8, max_iter=30, **settings)


@quick_fits
@pytest.mark.filterwarnings("ignore:transform|embed:RuntimeWarning")
def test_counts(counts, tmp_path):
    Y = counts[0]
    fitted = of_counts(random_state=1).fit(Y[:50])
    assert fitted.inference_ == "svi"
    np.testing.assert_array_equal(fitted.fit_transform(Y[:50]), fitted.embedding_)
    assert fitted.embedding_.shape == (50, 1)
    np.testing.assert_array_equal(fitted.transform(Y[:5]), fitted.embedding_[:5])
    again = gplvm.GPLVM.from_fit(gplvm.load(gplvm.save(fitted.fit_, tmp_path / "fit.nc")))
    assert (again.likelihood, again.inference, again.offset) == ("poisson", "svi", None)
    places = gplvm.embed(fitted.fit_, Y[50:], random_seed=1)["modes"]["X"][:, 0]
    np.testing.assert_allclose(fitted.transform(Y[50:]), places, atol=1e-4)
    expected = fitted.inverse_transform(fitted.embedding_)
    assert (expected > 0.0).all()
    assert np.corrcoef(expected.ravel(), Y[:50].ravel())[0, 1] > 0.7
    scores = fitted.score_samples(Y[50:])
    assert scores.shape == (10,)
    assert fitted.score(Y[50:]) == pytest.approx(scores.mean())


@quick_fits
@pytest.mark.filterwarnings("ignore:transform|embed:RuntimeWarning")
def test_offsets(counts):
    Y, depth = counts
    by_size = of_counts(offset="size", random_state=1).fit(Y[:50])
    again = gplvm.GPLVM.from_fit(by_size.fit_)
    assert (again.offset, again.likelihood) == ("size", "poisson")
    assert np.isfinite(by_size.transform(Y[50:])).all()
    twice = np.vstack([Y[:50], Y[:1]])  # equal counts at another depth lie elsewhere
    offset = np.append(depth[:50], depth[0] + 2.0)
    given = of_counts(random_state=1).fit(twice, offset=offset)
    found = given.transform(twice, offset=offset)
    np.testing.assert_array_equal(found, given.embedding_)
    np.testing.assert_array_equal(
        of_counts(random_state=1).fit_transform(twice, offset=offset), found
    )
    np.testing.assert_array_equal(given.transform(twice[:4]), given.embedding_[:4])
    assert given.transform(Y[50:], offset=depth[50:, None]).shape == (10, 1)
    assert np.isfinite(given.score(Y[50:], offset=depth[50:]))
    with pytest.raises(ValueError, match="needs the offset of each new row"):
        given.transform(Y[50:])
    with pytest.raises(ValueError, match=r"offset must have the shape \(10,\)"):
        given.transform(Y[50:], offset=depth)
    with pytest.raises(ValueError, match="offset must be given once"):
        of_counts(offset="size").fit(Y, offset=depth)
    with pytest.raises(ValueError, match="offset must be 'size' or None"):
        of_counts(offset=depth).fit(Y)


def test_an_offset_is_of_minibatches(table, fitted):
    with pytest.raises(ValueError, match="offset is of fits by minibatches, got one for"):
        fitted.transform(table[1], offset=np.zeros(8))


@quick_fits
def test_likelihoods_by_column_and_as_objects(counts):
    frame = pd.DataFrame(counts[0], columns=list("abcdef"))
    frame["f"] = (frame["f"] > 2).astype(int)
    kinds = {tuple("abcde"): "negative_binomial", "f": "bernoulli"}
    fitted = clone(of_counts(random_state=1).set_params(likelihood=kinds)).fit(frame)
    assert fitted.fit_.attrs["inference_reason"] == "likelihood 'mixed' is fitted by minibatches"
    share = fitted.inverse_transform(fitted.embedding_)[:, 5]
    assert ((share > 0.0) & (share < 1.0)).all()
    again = gplvm.GPLVM.from_fit(fitted.fit_)
    assert again.likelihood.name == "mixed"
    robust = clone(gplvm.GPLVM(likelihood=gplvm.likelihoods.student_t(6.0), **FEW))
    assert robust.fit(counts[0]).inference_ == "svi"


@quick_fits
def test_what_is_no_count_is_named(counts):
    wrong = counts[0] + 0.0
    wrong[3, 2] = 1.5
    with pytest.raises(ValueError, match=r"must hold counts .*got 1\.5 in row 3, column 2"):
        of_counts().fit(wrong)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        of_counts().fit(np.where(wrong == 1.5, np.nan, wrong))
    masked = of_counts(missing="mask").fit(np.where(wrong == 1.5, np.nan, wrong))
    assert np.isfinite(masked.embedding_).all()


# Its place among the others


@quick
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output(table, library):
    estimator = gplvm.GPLVM(**FEW).set_output(transform=library)
    found = estimator.fit_transform(table[0])
    assert type(found).__module__.startswith(library)
    assert list(found.columns) == estimator.get_feature_names_out().tolist()
    np.testing.assert_array_equal(found.to_numpy(), estimator.embedding_)


def test_the_offset_is_metadata_that_nobody_must_route(table):
    """Of nothing else beside X and y is a method told."""
    with config_context(enable_metadata_routing=True):
        router = gplvm.GPLVM().get_metadata_routing()
        for method in ("fit", "transform", "score"):
            assert getattr(router, method).requests == {"offset": None}
        pipeline = make_pipeline(StandardScaler(), gplvm.GPLVM(kernel="linear"))
        assert pipeline.fit(table[0]).transform(table[0]).shape == (40, 2)
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        scaler.set_transform_request(copy=False)
        weighted = make_pipeline(scaler, gplvm.GPLVM(kernel="linear"))
        weighted.fit(table[0], sample_weight=np.r_[np.ones(39), 0.0])  # goes past GPLVM
        assert not np.allclose(weighted[0].mean_, pipeline[0].mean_)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array"])
def test_a_sparse_table_is_refused_in_words(table, fitted, kind):
    X = getattr(scipy.sparse, kind)(table[0])
    for use in (gplvm.GPLVM().fit, fitted.transform, fitted.score):
        with pytest.raises(TypeError, match=r"needs a dense table.*40 × 6.*X\.toarray\(\)"):
            use(X)


# What a notebook shows


def test_a_fitted_estimator_shows_its_picture_and_summary(fitted):
    for html in (fitted._repr_html_(), fitted._repr_mimebundle_()["text/html"]):
        assert html.count("data:image/png;base64,") == 1
        assert "Table Y: 40 rows and 6 columns" in html
        assert html.startswith(estimator_html_repr(fitted)[:6])
    for part in ("data:image/png", "gplvm-fit"):
        assert part not in gplvm.GPLVM()._repr_html_()
    assert repr(fitted) == "GPLVM()"
    with config_context(display="text"):
        assert "text/html" not in fitted._repr_mimebundle_()
        assert not hasattr(fitted, "_repr_html_")


@quick
def test_the_picture_is_the_plot_of_the_positions(fitted):
    before = plt.get_fignums()
    html = fitted._repr_html_()
    assert plt.get_fignums() == before  # no figure is left open
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    picture = plt.imread(BytesIO(b64decode(source)), format="png")
    assert min(picture.shape[:2]) > 200
    np.testing.assert_array_equal(picture[0, 0], 1.0)  # white, whatever the page
    with plt.style.context("dark_background"):
        assert source in fitted._repr_html_()


@pytest.mark.parametrize("lost", ["X", "sigma", "everything"])
def test_a_repr_never_raises(fitted, lost):
    broken = clone(fitted)
    broken.__dict__.update(fitted.__dict__)
    broken.fit_ = fitted.fit_.copy()
    posterior = fitted.fit_["posterior"].to_dataset()
    names = list(posterior) if lost == "everything" else [lost]
    broken.fit_["posterior"] = xr.DataTree(posterior.drop_vars(names))
    assert "GPLVM" in broken._repr_html_()
    broken.fit_ = None
    assert "GPLVM" in broken._repr_mimebundle_()["text/html"]


@quick_fits
def test_a_repr_is_quick():
    """Of 2000 rows less than a second of one core."""
    rng = np.random.default_rng(0)
    model = gplvm.build_model(rng.standard_normal((2000, 5)), kernel="rbf")
    large = gplvm.GPLVM.from_fit(gplvm.fit_stochastic(model, steps=1, monitor=0, progressbar=False))
    large._repr_html_()  # imports
    before = time.process_time()
    html = large._repr_html_()
    assert time.process_time() - before < 1.0
    assert "data:image/png" in html


@quick
@pytest.mark.filterwarnings("ignore:transform:RuntimeWarning")
def test_a_table_of_more_than_a_thousand_rows_at_all_defaults():
    """Faster than the exact estimate, better than PCA, and new rows have their places."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((1120, 2))
    phase = 1.5 * factors @ rng.standard_normal((2, 8)) + rng.uniform(0.0, 2 * np.pi, 8)
    Y = np.sin(phase) + 0.1 * rng.standard_normal(phase.shape)
    estimator = gplvm.GPLVM(random_state=1).fit(Y[:1100])
    assert estimator.inference_ == "stochastic"
    assert estimator.fit_.attrs["inference_reason"] == "the exact estimate is slow for 1100 rows"
    pca = PCA(2).fit_transform(Y[:1100])
    ours, theirs = (
        trustworthiness(Y[:1100], X, n_neighbors=10) for X in (estimator.embedding_, pca)
    )
    assert ours > 0.95 > theirs
    back = estimator.inverse_transform(estimator.transform(Y[1100:]))
    assert np.square(back - Y[1100:]).mean() < 0.3 * Y.var()
