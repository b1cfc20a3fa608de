"""More latent dimensions than the table has rows or columns: every fit, and what is done with it."""

import numpy as np
import pytest

import pm_gplvm as gplvm
from pm_gplvm.__main__ import run
from pm_gplvm.model.starts import start_values

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # they are stopped early

Q = 5
QUIET = {"random_seed": 1, "progressbar": False}
CURVED = (
    {},
    {"ard": True},
    {"kernel": "rbf + linear"},
    {"kernel": "rbf[0,1] + periodic[4]"},
    {"noise": "column"},
)


@pytest.fixture(scope="module")
def narrow():
    """A table of 25 rows and 3 columns."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 25))
    return np.column_stack([np.sin(a), a * np.cos(b), b**2]) + 0.05 * rng.normal(size=(25, 3))


@pytest.fixture(scope="module")
def low():
    """A table of 4 rows and 6 columns."""
    return np.random.default_rng(0).normal(size=(4, 6))


FITS = {
    "fit_map": lambda model, Y: gplvm.fit_map(model, **QUIET, n_restarts=1, max_iter=20),
    "fit_marginal": lambda model, Y: gplvm.fit_marginal(model, **QUIET, n_restarts=1, max_iter=20),
    "fit_laplace": lambda model, Y: gplvm.fit_laplace(model, **QUIET, draws=5),
    "fit_sparse": lambda model, Y: gplvm.fit_sparse(model, **QUIET, n_inducing=4, max_iter=10),
    "fit_variational": lambda model, Y: gplvm.fit_variational(
        model, **QUIET, n_inducing=4, max_iter=10
    ),
    "fit_stochastic": lambda model, Y: gplvm.fit_stochastic(
        model, **QUIET, n_neighbors=3, steps=10
    ),
    "fit_svi": lambda model, Y: gplvm.fit_svi(Y, Q, **QUIET, n_inducing=4, epochs=2),
    "sample": lambda model, Y: gplvm.sample(model, **QUIET, draws=3, tune=3, chains=1),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_every_fit_and_what_is_done_with_it(fit, narrow):
    found = fit(gplvm.build_model(narrow, Q), narrow)
    check(found, narrow)


def check(found, table):
    X = found["posterior"]["X"].to_numpy()
    assert X.shape[-2:] == (len(table), Q)
    assert np.isfinite(X).all()
    assert (X[0, 0].std(axis=0) > 0.0).all()
    rotation = gplvm.align(found)["aligned"]["rotation"].to_numpy()[0, 0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(Q), atol=1e-12)
    assert gplvm.predict(found, np.zeros((2, Q)))["mean"].shape == (2, table.shape[1])
    new = gplvm.embed(found, table[:1], num_samples=2, random_seed=1)["posterior"]["X"]
    assert np.isfinite(new.to_numpy()).all()
    str(gplvm.summary(found))
    gplvm.diagnostics.active_dimensions(found)


@pytest.mark.parametrize("start", ["pca", "isomap"])
@pytest.mark.parametrize("options", CURVED, ids=str)
def test_dimensions_without_a_component_start_apart_and_by_the_seed(options, start, narrow):
    model = gplvm.build_model(narrow, Q, **options)
    one, other = (start_values(model, start, np.random.default_rng(1))["X"] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (np.ptp(one, axis=0) > 0.1).all()


@pytest.mark.parametrize("options", CURVED, ids=str)
def test_all_kernels_are_fitted(options, narrow):
    model = gplvm.build_model(narrow, Q, **options)
    fit = gplvm.fit_map(model, n_restarts=1, max_iter=3, **QUIET)
    assert np.isfinite(fit["sample_stats"]["lp"].item())


def test_fewer_rows_than_dimensions(low):
    model = gplvm.build_model(low, Q)
    best = gplvm.fit_map(model, **QUIET, max_iter=20)
    check(best, low)
    gplvm.plot.latent(best)
    gplvm.plot.explore(best)
    draws = gplvm.sample(model, **QUIET, draws=8, tune=4, chains=2)
    check(draws, low)
    assert "8 draws" in str(gplvm.diagnose(draws))


def test_the_estimator_and_the_command_line(low, tmp_path, capsys):
    estimator = gplvm.GPLVM(n_components=Q, inference="map", random_state=1)
    assert estimator.fit_transform(low).shape == (4, Q)
    with pytest.raises(ValueError, match=r"n_components must be at most min\(N, D\) = 4 with"):
        gplvm.GPLVM(n_components=7, kernel="linear").fit(low)
    names = "abcdef"
    np.savetxt(tmp_path / "t.csv", low, delimiter=",", header=",".join(names), comments="")
    out = str(tmp_path / "fit")
    run(["fit", str(tmp_path / "t.csv"), "--latent-dim", str(Q), "--out", out])
    assert gplvm.load(f"{out}_fit.nc")["posterior"].sizes["latent"] == Q
    capsys.readouterr()


def test_holes_and_counts(low):
    holes = low.copy()
    holes[1, 2] = np.nan
    for model in (
        gplvm.build_model(holes, Q, missing="mask"),
        gplvm.build_model(np.round(np.exp(low)), Q, likelihood="poisson"),
    ):
        fit = gplvm.fit_map(model, **QUIET, n_restarts=1, max_iter=5)
        assert np.isfinite(fit["sample_stats"]["lp"].item())
