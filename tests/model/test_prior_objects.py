"""Priors of X as objects: equal by value, copied, pickled, and inside scikit-learn's searches."""

import copy
import pickle
import re
from dataclasses import FrozenInstanceError

import joblib
import numpy as np
import pymc as pm
import pytest
from conftest import simulated
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

import pm_gplvm as gplvm
from pm_gplvm.model.spec import ModelSpec

N = 12
STAGE = np.where(np.arange(N) % 3 == 0, np.nan, np.linspace(-1.0, 1.0, N))
LABELS = np.array(["b", "a", None, "", "b", np.nan] * 2, dtype=object)
PRIORS = {
    "informative": lambda: gplvm.priors.informative(STAGE, 0.3),
    "informative, wide": lambda: gplvm.priors.informative(np.column_stack([STAGE, STAGE]), 0.3),
    "dynamics": lambda: gplvm.priors.dynamics(np.arange(N), sequences=["x", "y"] * 6),
    "dynamics, drawn": lambda: gplvm.priors.dynamics(
        np.arange(N), kernel="rbf", lengthscale=pm.HalfNormal.dist(2.0)
    ),
    "class_mixture": lambda: gplvm.priors.class_mixture(LABELS),
    "class_mixture, drawn": lambda: gplvm.priors.class_mixture(
        LABELS, within=pm.HalfNormal.dist(1.0)
    ),
    "back_constraint": lambda: gplvm.priors.back_constraint(lengthscale=2.0),
    "back_constraint, linear": lambda: gplvm.priors.back_constraint("linear"),
}
COPIES = {
    "made again": lambda prior, _: prior,
    "deepcopy": lambda prior, _: copy.deepcopy(prior),
    "pickle": lambda prior, _: pickle.loads(pickle.dumps(prior)),
    "clone": lambda prior, _: clone(gplvm.GPLVM(priors={"X": prior})).priors["X"],
    "joblib": lambda prior, folder: joblib.load(
        joblib.dump(gplvm.GPLVM(priors={"X": prior}), folder / "file")[0]
    ).priors["X"],
}
OTHERS = [
    lambda: gplvm.priors.informative(STAGE, 0.4),
    lambda: gplvm.priors.informative(np.nan_to_num(STAGE), 0.3),
    lambda: gplvm.priors.dynamics(np.arange(N), sequences=["x", "x", "y"] * 4),
    lambda: gplvm.priors.dynamics(np.arange(N)),
    lambda: gplvm.priors.dynamics(np.arange(N), kernel="rbf", lengthscale=pm.HalfNormal.dist(1.0)),
    lambda: gplvm.priors.dynamics(np.arange(N), kernel="rbf", lengthscale=pm.HalfFlat.dist()),
    lambda: gplvm.priors.class_mixture(np.where(LABELS == "a", "a", "b")),
    lambda: gplvm.priors.class_mixture(LABELS, within=0.4),
    lambda: gplvm.priors.back_constraint(),
]


@pytest.fixture(scope="module")
def table():
    return simulated(N, 4, seed=3).to_numpy()


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", PRIORS)
def test_a_copy_is_equal_and_makes_the_same_model(name, way, table, tmp_path, mode):
    prior, again = PRIORS[name](), COPIES[way](PRIORS[name](), tmp_path)
    assert again == prior
    assert hash(again) == hash(prior)
    assert again is not prior
    one, two = (gplvm.build_model(table, priors={"X": p}) for p in (prior, again))
    assert ModelSpec.of(one).priors == ModelSpec.of(two).priors
    assert list(one.named_vars) == list(two.named_vars)
    at = one.initial_point()
    assert one.compile_logp(mode=mode)(at) == two.compile_logp(mode=mode)(at)


def test_another_is_not_equal():
    made = [make() for make in (*PRIORS.values(), *OTHERS)]
    for i, prior in enumerate(made):
        assert [other == prior for other in made] == [j == i for j in range(len(made))]
    assert made[0] != "informative"


def test_what_is_given_is_kept_as_it_was():
    t, mean = np.arange(N, dtype=float), STAGE.copy()
    priors = gplvm.priors.dynamics(t), gplvm.priors.informative(mean, 0.3)
    t[:], mean[:] = 0.0, 0.0
    assert priors == (gplvm.priors.dynamics(np.arange(N)), gplvm.priors.informative(STAGE, 0.3))
    with pytest.raises(FrozenInstanceError):
        priors[0].own = 0.5


def test_it_is_shown_in_a_line():
    shown = repr(gplvm.priors.class_mixture(LABELS, within=pm.HalfNormal.dist(1.0)))
    assert re.fullmatch(
        r"class_mixture\(labels=array \(12,\) [0-9a-f]{16}, within=HalfNormal\(0\.0, 1\.0\)\)",
        shown,
    )
    linear = gplvm.priors.back_constraint("linear")
    assert repr(linear) == "back_constraint(kernel='linear', lengthscale=None)"


def test_a_distribution_by_other_variables_equals_itself_alone():
    one, two = (pm.HalfNormal.dist(pm.HalfNormal.dist(1.0)) for _ in range(2))
    prior = gplvm.priors.class_mixture(LABELS, within=one)
    assert prior == gplvm.priors.class_mixture(LABELS, within=one)
    assert prior != gplvm.priors.class_mixture(LABELS, within=two)


def minus_squared_error(estimator, Y, _=None):
    return -float(((estimator.inverse_transform(estimator.transform(Y)) - Y) ** 2).mean())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a few iterations on a few rows
def test_a_prior_of_any_rows_is_cross_validated(table):
    """The score of a fold is that of a fit of the other rows."""
    prior = gplvm.priors.back_constraint()
    estimator = gplvm.GPLVM(1, kernel="rbf", priors={"X": prior}, max_iter=20, random_state=1)
    settings = {"cv": 2, "scoring": minus_squared_error, "error_score": "raise"}
    scores = cross_val_score(estimator, table, **settings)
    alone = clone(estimator).fit(table[N // 2 :])
    assert scores[0] == minus_squared_error(alone, table[: N // 2])
    grid = {"priors": [{"X": gplvm.priors.back_constraint("linear")}]}
    search = GridSearchCV(estimator, grid, **settings).fit(table)
    assert search.best_params_ == {"priors": grid["priors"][0]}
    assert np.isfinite(search.best_score_)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["informative", "dynamics", "class_mixture"])
def test_a_prior_of_other_rows_is_refused_in_a_fold(name, table):
    estimator = gplvm.GPLVM(1, kernel="rbf", priors={"X": PRIORS[name]()}, max_iter=3)
    with pytest.raises(ValueError, match=r"must have .*6.*, got .*12"):
        cross_val_score(estimator, table, cv=2, error_score="raise")
    search = GridSearchCV(estimator, {"max_iter": [3]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match=r"must have .*6.*, got .*12"):
        search.fit(table)
