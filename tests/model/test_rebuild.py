"""Going on from a file alone: the model built again, and the same numbers in another process."""

import subprocess
import sys
import warnings

import following
import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.model.spec import ModelSpec


@pytest.fixture(scope="module")
def fits(Y):
    """A fit of each kind, of one small model with nothing but defaults."""
    model = gplvm.build_model(Y, kernel="rbf + bias", scale="feature")
    quiet = {"random_seed": 1, "progressbar": False}
    best = gplvm.fit_marginal(model, **quiet)
    few = {"draws": 20, "tune": 20, "chains": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # too short to have converged
        return {
            "map": best,
            "theta": gplvm.sample_theta(model, best, **few, **quiet),
            "full": gplvm.align(
                gplvm.sample(model, start=best, replicas=1, **few, **quiet), to=best
            ),
            "variational": gplvm.fit_variational(model, n_inducing=6, draws=10, **quiet),
        }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_another_process_goes_on_from_the_files_bit_by_bit(fits, Y, tmp_path, rng):
    X_new, Y_new = rng.standard_normal((3, 2)), Y.to_numpy()[:3] + 0.3
    Y_new[0, 1] = Y_new[2, 0] = np.nan
    np.savez(tmp_path / "new.npz", X_new=X_new, Y_new=Y_new)
    for name, fit in fits.items():
        gplvm.save(fit, tmp_path / f"{name}.nc")
    command = [sys.executable, following.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert set(fits) == set(following.FITS)
    expected = {
        f"{name}/{key}": value
        for name, fit in fits.items()
        for key, value in following.after(name, fit, fits["map"], X_new, Y_new).items()
    }
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def logp_of(model, point):
    return gplvm.model.compile_objective(model)(point)[0]


POINT = {"lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.4}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kernel": "matern32", "ard": True, "scale": "none"},
        {"kernel": "rbf + linear + bias", "ard": True},
        {"priors": {"sigma": 0.3, "lengthscale": "flat"}},
        {"priors": {"amplitude": pm.HalfNormal.dist(2.0)}},
        {"priors": {"X": pm.Normal.dist(np.arange(24.0).reshape(12, 2), 0.5)}},
    ],
    ids=lambda s: " ".join(s) or "defaults",
)
def test_the_model_built_again_has_the_same_density(Y, rng, settings):
    model = gplvm.build_model(Y, **settings)
    X = rng.standard_normal((12, 2))
    fit = gplvm.fit_map(model, progressbar=False)
    given = settings.get("priors", {})
    again = gplvm.model.rebuild(
        fit, priors={k: v for k, v in given.items() if not isinstance(v, float | str)}
    )
    point = {
        rv.name: np.full(2, v) if rv.ndim else v
        for rv in model.free_RVs
        if (v := (POINT | {"weight": 0.6, "bias": 0.5}).get(rv.name)) is not None
    }
    point["X"] = X
    assert logp_of(again, point) == logp_of(model, point)
    assert {n: list(c) for n, c in again.coords.items()} == {
        n: list(c) for n, c in model.coords.items()
    }


def mixture(scale):
    return pm.Mixture.dist([0.5, 0.5], [pm.HalfNormal.dist(1.0), pm.HalfNormal.dist(scale)])


DISTRIBUTIONS = {
    "mixture": lambda: mixture(0.1),
    "mixture along an axis": lambda: pm.Mixture.dist([0.3, 0.7], pm.HalfNormal.dist([1.0, 0.1])),
    "censored": lambda: pm.Censored.dist(pm.Normal.dist(0.5, 1.0), lower=0.1, upper=None),
    "truncated": lambda: pm.Truncated.dist(pm.Normal.dist(0.5, 1.0), lower=0.1),
    "nested": lambda: (
        lambda name, dims: pm.HalfNormal(
            name, 1.0 + 2.0 * pm.HalfNormal(f"{name}_scale", 1.0), dims=dims
        )
    ),
    "of one's own": lambda: pm.CustomDist.dist(
        1.0, dist=lambda s, size: pm.HalfNormal.dist(s, size=size)
    ),
}


@pytest.mark.filterwarnings("ignore:fit_map did not converge")
@pytest.mark.filterwarnings("ignore:No safe default transform")
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_prior_of_any_distribution_is_noted_and_given_again(Y, tmp_path, name):
    priors = {"sigma": DISTRIBUTIONS[name]()}
    model = gplvm.build_model(Y, priors=priors)
    fit = gplvm.fit_map(model, max_iter=3, progressbar=False)
    fit = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    again = gplvm.model.rebuild(fit, priors={"sigma": DISTRIBUTIONS[name]()})
    assert ModelSpec.of(again).priors == ModelSpec.of(model).priors
    with pytest.raises(ValueError, match="must have the priors of the fit, got others: sigma"):
        gplvm.model.rebuild(fit)


def test_priors_are_told_apart_by_their_parts(Y):
    def text(prior):
        return ModelSpec.of(gplvm.build_model(Y, priors={"amplitude": prior})).priors["amplitude"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert text(mixture(0.1)) == "Mixture(0.5, HalfNormal(0.0, 1.0), HalfNormal(0.0, 0.1))"
        assert text(mixture(0.2)) != text(mixture(0.1))
    assert text(pm.HalfNormal.dist(2.0)) == "HalfNormal(0.0, 2.0)"


LATENT_PRIORS = {
    "informative": gplvm.priors.informative(np.linspace(-1.5, 1.5, 12), 0.2),
    "dynamics": gplvm.priors.dynamics(np.arange(12.0)),
    "class_mixture": gplvm.priors.class_mixture(np.arange(12) % 3),
    "back_constraint": gplvm.priors.back_constraint(),
}


@pytest.mark.filterwarnings("ignore:fit_map did not converge")
@pytest.mark.parametrize("name", LATENT_PRIORS)
def test_priors_that_know_something_are_given_again(Y, name):
    priors = {"X": LATENT_PRIORS[name]}
    model = gplvm.build_model(Y, priors=priors)
    fit = gplvm.fit_map(model, max_iter=3, progressbar=False)
    again = gplvm.model.rebuild(fit, priors=priors)
    assert ModelSpec.of(again).priors == ModelSpec.of(model).priors
    one, two = (
        gplvm.fit_map(m, start=fit, max_iter=3, progressbar=False)["sample_stats"]["lp"]
        for m in (model, again)
    )
    np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="must have the priors of the fit, got others: X"):
        gplvm.model.rebuild(fit)


def test_a_mean_that_was_put_there_by_hand_comes_back(Y):
    model = gplvm.build_model(Y)
    model["Y_mean"].set_value(np.zeros(4))
    best = gplvm.fit_map(model, progressbar=False)
    np.testing.assert_array_equal(gplvm.model.rebuild(best)["Y_mean"].get_value(), np.zeros(4))


def test_a_table_with_holes_comes_back(Y):
    holes = Y.copy()
    holes[2, 1] = holes[5, 3] = np.nan
    model = gplvm.build_model(holes, missing="mask")
    best = gplvm.fit_map(model, progressbar=False)
    again = gplvm.model.rebuild(best)
    point = {"X": best["posterior"]["X"].to_numpy()[0, 0], **POINT}
    assert logp_of(again, point) == logp_of(model, point)


def test_priors_are_told_apart(Y):
    def told(prior):
        return ModelSpec.of(gplvm.build_model(Y, priors={"X": prior})).priors["X"]

    mean = np.linspace(-1.0, 1.0, 24).reshape(12, 2)
    texts = {
        told(p)
        for p in (
            "flat",
            pm.Normal.dist(0.0, 1.0),
            pm.Normal.dist(0.0, 2.0),
            pm.StudentT.dist(nu=3.0, mu=0.0, sigma=1.0),
            pm.Normal.dist(mean, 1.0),
            pm.Normal.dist(mean[::-1], 1.0),
        )
    }
    assert len(texts) == 6
    assert told(pm.Normal.dist(mean, 1.0)) == told(pm.Normal.dist(mean.copy(), np.ones((12, 2))))


def test_other_priors_are_refused(Y):
    model = gplvm.build_model(Y, priors={"amplitude": pm.HalfNormal.dist(2.0)})
    best = gplvm.fit_map(model, progressbar=False)
    with pytest.raises(ValueError, match=r"amplitude had HalfNormal\(0\.0, 2\.0\), now LogNormal"):
        gplvm.model.rebuild(best)
    with pytest.raises(ValueError, match=r"had HalfNormal\(0\.0, 2\.0\), now HalfNormal\(0\.0, 1"):
        gplvm.model.rebuild(best, priors={"amplitude": pm.HalfNormal.dist(1.0)})
    with pytest.raises(ValueError, match=r"amplitude had .*, now none"):
        gplvm.model.rebuild(best, priors={"amplitude": 1.0})


def test_what_cannot_be_built_again_is_refused(best):
    with pytest.raises(TypeError, match="rebuild needs a fit"):
        gplvm.model.rebuild({"X": 1})
    other = best.copy()
    other.attrs = {**best.attrs, "kernel": "custom"}
    with pytest.raises(ValueError, match="a covariance of its own"):
        gplvm.model.rebuild(other)
    without = best.copy()
    without["posterior"] = xr.DataTree(best.posterior.to_dataset().drop_vars("X"))
    with pytest.raises(ValueError, match="rebuild needs the variable 'X'"):
        gplvm.model.rebuild(without)
