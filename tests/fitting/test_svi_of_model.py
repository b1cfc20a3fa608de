"""fit_svi of a model: the same fit as of what the model was built from."""

import numpy as np
import pymc as pm
import pytest

import pm_gplvm as gplvm

QUICK = {"epochs": 20, "random_seed": 1, "progressbar": False}


@pytest.fixture
def counts(rng):
    t = rng.uniform(-2.0, 2.0, (12, 1))
    Y = rng.poisson(np.exp(1.0 + np.sin(t + np.arange(4)))).astype(float)
    Y[0, 1] = np.nan
    return Y


def same(one, other):
    for group in ("approximation", "sample_stats", "constant_data"):
        assert one[group].to_dataset().identical(other[group].to_dataset())
    assert one.attrs["likelihood"] == other.attrs["likelihood"]


@pytest.mark.filterwarnings("ignore:fit_svi")
@pytest.mark.parametrize("ard", [False, True])
@pytest.mark.parametrize("offset", ["size", np.linspace(0.0, 0.2, 12)])
def test_counts(counts, ard, offset):
    priors = {"lengthscale": pm.InverseGamma.dist(4.0, 2.0), "amplitude": 1.5}
    given = {"likelihood": "poisson", "ard": ard, "offset": offset, "priors": priors}
    model = gplvm.build_model(counts, missing="mask", **given)
    same(gplvm.fit_svi(model, **QUICK), gplvm.fit_svi(counts, **given, **QUICK))


@pytest.mark.filterwarnings("ignore:fit_svi")
def test_a_gaussian_with_a_bias(counts):
    given = {"kernel": "rbf + bias", "ard": True, "scale": "feature"}
    model = gplvm.build_model(counts, missing="mask", resolution=0, **given)
    again = gplvm.fit_svi(counts, resolution=0, **given, **QUICK)
    same(gplvm.fit_svi(model, **QUICK), again)


@pytest.mark.filterwarnings("ignore:fit_svi")
@pytest.mark.parametrize("scale", ["global", "feature"])
@pytest.mark.parametrize("resolution", [0.3, "auto"])
def test_the_resolution_is_that_of_the_model(counts, scale, resolution):
    """The noise variance is sigma² + resolution², both in units of the scale; what a grid says by default."""
    given = {"scale": scale, "ard": True, "resolution": resolution}
    model = gplvm.build_model(counts, missing="mask", **given)
    fit = gplvm.fit_svi(model, **QUICK)
    same(fit, gplvm.fit_svi(counts, **given, **QUICK))
    floor = model["Y_resolution"].get_value()
    np.testing.assert_array_equal(fit["constant_data"]["Y_entry"], np.full((1, 4), floor))
    # It is noise that is known.
    spread = model["Y_scale"].get_value()
    known = {"noise_sd": (floor * spread)[None], "scale": scale, "ard": True}
    other = gplvm.fit_svi(counts, **known, **QUICK)["approximation"]["X_mean"]
    np.testing.assert_allclose(fit["approximation"]["X_mean"], other, atol=1e-6)


def test_noise_that_a_model_knows_is_not_found_again(rng):
    """What predictions hold is the whole of it, for new rows too."""
    t = rng.uniform(-2.0, 2.0, (150, 1))
    Y = np.sin(t + np.arange(8)) + 0.4 * rng.standard_normal((150, 8))
    given = {"scale": "none", "ard": True}
    fits = [
        gplvm.fit_svi(gplvm.build_model(Y, 1, resolution=r, **given), **QUICK | {"epochs": 60})
        for r in (0, 0.3)
    ]
    sigmas = [float(f["posterior"]["sigma"][0, 0]) for f in fits]
    assert np.hypot(sigmas[1], 0.3) == pytest.approx(sigmas[0], rel=0.05)
    sds = [gplvm.predict(f, np.zeros((1, 1)))["sd"].to_numpy() for f in fits]
    np.testing.assert_allclose(*sds, rtol=0.1)
    scores = [gplvm.log_predictive(f, Y[:9], random_seed=1, progressbar=False) for f in fits]
    np.testing.assert_allclose(*(s["log_score"] for s in scores), atol=0.3)


@pytest.mark.filterwarnings("ignore:fit_svi")
def test_positions_that_are_known_about(counts):
    priors = {"X": gplvm.priors.informative(np.linspace(-1.0, 1.0, 12), 0.3)}
    given = {"likelihood": {(0, 1): "poisson", (2, 3): "student_t"}, "priors": priors, "ard": False}
    model = gplvm.build_model(counts, 1, missing="mask", **given)
    same(gplvm.fit_svi(model, **QUICK), gplvm.fit_svi(counts, 1, **given, **QUICK))


@pytest.mark.parametrize(
    "given", [{"latent_dim": 1}, {"likelihood": "poisson"}, {"ard": False}, {"priors": {}}]
)
def test_what_the_model_fixes_is_not_given_again(counts, given):
    model = gplvm.build_model(counts, likelihood="poisson", missing="mask")
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be left out"):
        gplvm.fit_svi(model, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"priors": {"sigma": 0.3}}, "the prior LogNormal"),
        ({"noise": "column"}, "one noise for all columns"),
        ({"priors": {"X": gplvm.priors.dynamics(np.arange(12.0))}}, "X of the prior N"),
        ({"priors": {"X": np.arange(24.0).reshape(12, 2)}}, "X of the prior N"),
    ],
)
def test_what_it_has_not_is_refused(counts, given, message):
    model = gplvm.build_model(counts, missing="mask", **given)
    with pytest.raises(ValueError, match=message):
        gplvm.fit_svi(model)
