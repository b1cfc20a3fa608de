"""Priors of X that know classes, in the fit by minibatches: what it finds, keeps and hands on, and what it refuses."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.views import NewRows
from pm_gplvm.prediction.embed import _rows_by_draw

N = 90
QUICK = {"n_inducing": 12, "epochs": 60.0, "random_seed": 1, "progressbar": False}
CLASSES = np.array([f"c{i % 3}" for i in range(N)], dtype=object)
SOME = np.where(np.arange(N) % 5 == 0, None, CLASSES)


@pytest.fixture(scope="module")
def table():
    """Three classes that overlap, in few and noisy columns."""
    rng = np.random.default_rng(3)
    X = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])[np.arange(N) % 3]
    X = X + 0.5 * rng.standard_normal(X.shape)
    F = np.sin(X @ rng.standard_normal((2, 6))) + 0.3 * X @ rng.standard_normal((2, 6))
    Y = F + 0.6 * rng.standard_normal(F.shape)
    return pd.DataFrame(Y, index=[f"r{i}" for i in range(N)])


@pytest.fixture(scope="module")
def fit(table):
    prior = gplvm.priors.class_mixture(SOME, within=pm.HalfNormal.dist(1.0))
    return gplvm.fit_svi(table, priors={"X": prior}, **QUICK)


def apart(fit):
    """Variance between classes over that within, of the positions."""
    X = fit["approximation"]["X_mean"].to_numpy()
    means = np.stack([X[c == CLASSES].mean(axis=0) for c in ("c0", "c1", "c2")])
    within = (X - means[np.arange(N) % 3]).var()
    return means.var(axis=0).mean() / within


def test_classes_lie_further_apart_than_without(table, fit):
    assert apart(fit) > 2.0 * apart(gplvm.fit_svi(table, **QUICK))


def test_centres_and_spread_are_where_their_gradient_is_none(fit):
    """Rows of known class against what weighs each centre: Σ r μ / (Σ r + within²), and the spread by its mode."""
    centre = fit["posterior"]["X_centre"].to_numpy()[0, 0]
    within = float(fit["posterior"]["X_within"][0, 0])
    mean, sd = (fit["approximation"][f"X_{n}"].to_numpy() for n in ("mean", "sd"))
    squares = ((mean[:, None] - centre) ** 2).sum(axis=2)
    share = np.exp(-0.5 * squares / within**2) * fit["constant_data"]["X_share"].to_numpy()
    number = fit["constant_data"]["X_class"].to_numpy()
    share = np.where(number[:, None] < 0, share, np.eye(3)[number])
    share /= share.sum(axis=1, keepdims=True)
    expected = share.T @ mean / (share.sum(axis=0)[:, None] + within**2)
    np.testing.assert_allclose(centre, expected, atol=0.05)
    total = (share * squares).sum() + (sd**2).sum()
    slope = total / within**2 - mean.size - within**2
    assert abs(slope) < 0.05 * mean.size


@pytest.mark.filterwarnings("ignore:fit_variational")
def test_what_it_keeps_is_what_fit_variational_keeps(table, fit):
    prior = gplvm.priors.class_mixture(SOME, within=pm.HalfNormal.dist(1.0))
    model = gplvm.build_model(table, priors={"X": prior})
    other = gplvm.fit_variational(model, n_inducing=6, max_iter=2, hold=0, progressbar=False)
    for name in ("X_centre", "X_within"):
        assert fit["posterior"][name].dims == other["posterior"][name].dims
    for name in ("X_class", "X_share"):
        found, expected = (f["constant_data"][name] for f in (fit, other))
        np.testing.assert_array_equal(found, expected)
        assert found.dims == expected.dims
    for f in (fit, other):
        assert f["posterior"]["latent_class"].to_numpy().tolist() == ["c0", "c1", "c2"]


@pytest.mark.filterwarnings("ignore:fit_svi ended")
@pytest.mark.parametrize("within", [0.4, pm.HalfNormal.dist(1.0)])
def test_a_model_is_the_table_with_its_prior(table, within):
    prior = {"X": gplvm.priors.class_mixture(SOME, within=within)}
    model = gplvm.build_model(table, priors=prior, ard=True)
    one = gplvm.fit_svi(model, **QUICK | {"epochs": 5.0})
    other = gplvm.fit_svi(table, priors=prior, **QUICK | {"epochs": 5.0})
    for group in ("posterior", "approximation", "constant_data"):
        assert one[group].to_dataset().identical(other[group].to_dataset())


def test_labels_are_joined_by_row(table, fit):
    turned = pd.Series(SOME, index=table.index)[::-1]
    prior = gplvm.priors.class_mixture(turned, within=pm.HalfNormal.dist(1.0))
    again = gplvm.fit_svi(table, priors={"X": prior}, **QUICK)
    np.testing.assert_array_equal(again["posterior"]["X"], fit["posterior"]["X"])


def test_counts_have_classes_too():
    rng = np.random.default_rng(5)
    centre = rng.standard_normal((3, 8))
    Y = rng.poisson(np.exp(0.4 * centre[np.arange(N) % 3])).astype(float)
    known = {"X": gplvm.priors.class_mixture(CLASSES)}
    given = {"likelihood": "poisson", **QUICK}
    assert apart(gplvm.fit_svi(Y, priors=known, **given)) > apart(gplvm.fit_svi(Y, **given))


def test_the_estimator_gathers_classes_of_counts():
    rng = np.random.default_rng(5)
    Y = rng.poisson(np.exp(0.8 * rng.standard_normal((3, 7)))[np.arange(N) % 3])
    given = {"kernel": "rbf", "n_inducing": 8, "max_iter": 40, "random_state": 1}
    estimator = gplvm.GPLVM(2, likelihood="poisson", supervised=True, **given).fit(Y, SOME)
    assert estimator.inference_ == "svi"
    assert estimator.fit_["posterior"]["X_centre"].shape[2:] == (3, 2)
    known = np.array([c is not None for c in SOME])
    centre = estimator.fit_["posterior"]["X_centre"].to_numpy()[0, 0]
    away = np.linalg.norm(estimator.embedding_[:, None] - centre, axis=2)
    assert (away.argmin(axis=1) == np.arange(N) % 3)[~known].mean() > 0.8


def test_new_rows_have_the_mixture_and_files_keep_it(table, fit, tmp_path):
    gplvm.save(fit, tmp_path / "fit.nc")
    read = gplvm.load(tmp_path / "fit.nc")
    new = table.iloc[:6].to_numpy() + 0.1
    given = {"draws": 400, "random_seed": 1, "progressbar": False}
    one, other = (gplvm.embed(f, new, **given)["posterior"]["X"] for f in (fit, read))
    np.testing.assert_array_equal(one, other)
    kept = Fit.of(fit, caller="embed")
    (rows,) = _rows_by_draw(kept, NewRows.of({None: kept}, new), None, 20)
    np.testing.assert_array_equal(rows.mixture.centre, fit["posterior"]["X_centre"][0, 0])
    longer = gplvm.add_rows(fit, new, random_seed=1, progressbar=False)
    assert longer["constant_data"]["X_class"].to_numpy()[N:].tolist() == [-1] * 6
    np.testing.assert_array_equal(longer["posterior"]["X_centre"], fit["posterior"]["X_centre"])
    assert not any("X_" in name for name in gplvm.summary(fit).theta.index)


def test_another_goes_on_from_it(table, fit):
    prior = gplvm.priors.class_mixture(SOME, within=pm.HalfNormal.dist(1.0))
    more = gplvm.fit_svi(table, priors={"X": prior}, start=fit, **QUICK | {"epochs": 1.0})
    centres = [f["posterior"]["X_centre"].to_numpy()[0, 0] for f in (fit, more)]
    np.testing.assert_allclose(*centres, atol=0.2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (list("ab"), "labels must have one entry a row, 90, got 2"),
        (pd.Series(CLASSES[:80], [f"r{i}" for i in range(80)]), "labels must have the rows of the"),
        (pd.Series(CLASSES, [f"s{i}" for i in range(N)]), "labels must have the rows of the table"),
    ],
)
def test_labels_of_other_rows_are_refused(labels, message, table):
    with pytest.raises(ValueError, match=message):
        gplvm.fit_svi(table, priors={"X": gplvm.priors.class_mixture(labels)}, **QUICK)


def test_a_path_through_all_rows_is_refused_with_what_takes_it(table):
    prior = {"X": gplvm.priors.dynamics(np.arange(float(N)))}
    for given in ((table, prior), (gplvm.build_model(table, priors=prior), None)):
        with pytest.raises(ValueError, match=r"dynamics, which ties all rows.*Use fit_variational"):
            gplvm.fit_svi(given[0], priors=given[1], **QUICK)


def test_a_spread_on_an_interval_is_refused(table):
    prior = gplvm.priors.class_mixture(SOME, within=pm.Uniform.dist(0.0, 1.0))
    with pytest.raises(ValueError, match=r"'X_within'.*must be one on all positive numbers"):
        gplvm.fit_svi(table, priors={"X": prior}, **QUICK)
