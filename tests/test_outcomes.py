"""Supervised estimators: scikit-learn's own checks, and predictions beside those of its models."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pm_gplvm as gplvm

QUICK = {"max_iter": 3, "n_starts": 4, "random_state": 0}
rising = pytest.mark.filterwarnings("ignore:fit_svi:RuntimeWarning", "ignore:embed:RuntimeWarning")
pytestmark = [
    rising,
    pytest.mark.filterwarnings("ignore:impute:RuntimeWarning", "ignore:Y has:RuntimeWarning"),
]


@parametrize_with_checks([gplvm.GPLVMClassifier(1, **QUICK), gplvm.GPLVMRegressor(1, **QUICK)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def halves(table):
    X, y = table
    return X[::2], y[::2], X[1::2], y[1::2]


@pytest.mark.parametrize("load", [load_wine])
def test_classes_are_predicted_about_as_well_as_by_logistic_regression(load):
    X, y, new, right = halves(load(return_X_y=True))
    model = gplvm.GPLVMClassifier(random_state=1).fit(X, y)
    p = model.predict_proba(new)
    scaler = StandardScaler().fit(X)
    other = LogisticRegression().fit(scaler.transform(X), y).predict_proba(scaler.transform(new))
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert log_loss(right, p) < log_loss(right, other) + 0.1
    assert model.score(new, right) > 0.94
    assert model.transform(new).shape == (len(new), 2)


def test_labels_may_be_text_and_unknown_and_features_missing():
    X, y, new, right = halves(load_iris(return_X_y=True))
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)
    some = names[y]
    some[::3] = None
    X, new = X.copy(), new.copy()
    X[::7, 1] = np.nan
    new[::5, 2] = np.nan
    model = gplvm.GPLVMClassifier(random_state=1).fit(X, some)
    assert model.classes_.tolist() == names.tolist()
    assert (model.predict(new) == names[right]).mean() > 0.9


def test_a_mask_says_what_is_unknown():
    X, y = load_iris(return_X_y=True)
    mask = np.random.default_rng(0).random(X.shape) < 0.1
    rows = mask.any(axis=1)
    holes, some = np.where(mask, np.nan, X), np.where(rows, np.nan, y)
    plain = gplvm.GPLVMClassifier(1, **QUICK).fit(holes, some)
    masked = gplvm.GPLVMClassifier(1, **QUICK).fit(
        np.ma.array(X, mask=mask), np.ma.array(y, mask=rows)
    )
    np.testing.assert_allclose(masked.embedding_, plain.embedding_)
    new = masked.predict_proba(np.ma.array(X[::9], mask=mask[::9]))
    np.testing.assert_allclose(new, plain.predict_proba(holes[::9]))


def test_constant_features_are_left_out():
    X, y = load_iris(return_X_y=True)
    more = np.column_stack([np.ones(len(X)), X, np.full(len(X), np.nan)])
    plain, model = (gplvm.GPLVMClassifier(1, **QUICK).fit(table, y) for table in (X, more))
    np.testing.assert_allclose(model.predict_proba(more[::9]), plain.predict_proba(X[::9]))
    with pytest.raises(ValueError, match="a feature that varies"):
        gplvm.GPLVMClassifier(1, **QUICK).fit(np.ones((9, 2)), np.arange(9) > 4)


def test_of_two_classes_one_column_is_fitted():
    X, y, new, right = halves(load_iris(return_X_y=True))
    model = gplvm.GPLVMClassifier(random_state=1).fit(X, y == 2)
    assert model.fit_["observed_data"]["Y"].sizes["feature"] == 5
    assert ((model.predict_proba(new)[:, 1] > 0.5) == (right == 2)).mean() > 0.9


def test_a_number_is_predicted_with_its_standard_deviation():
    X, y, new, right = halves(load_diabetes(return_X_y=True))
    model = gplvm.GPLVMRegressor(5, random_state=1).fit(X, y)
    mean, sd = model.predict(new, return_std=True)
    assert model.score(new, right) > 0.35  # least squares: 0.47
    held = (np.abs(right - mean) < 1.6 * sd).mean()
    assert 0.83 < held < 0.95


def test_what_cannot_be_an_outcome():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="at least two classes, got 1 class"):
        gplvm.GPLVMClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match=r"y must have one entry for each row of X, 150, got 100"):
        gplvm.GPLVMClassifier().fit(X, y[:100])
    with pytest.raises(ValueError, match="got NaN alone"):
        gplvm.GPLVMRegressor().fit(X, np.full(len(X), np.nan))
