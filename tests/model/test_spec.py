"""What is read from a model, and that a fit reads it once."""

import numpy as np
import pymc as pm
import pytest
from conftest import simulated

import pm_gplvm as gplvm
from pm_gplvm.model.priors import LatentPrior
from pm_gplvm.model.spec import ModelSpec, PositionPrior, Table

PRIORS = {
    "normal": lambda Y: pm.Normal.dist(0.5, 2.0),
    "informative": lambda Y: gplvm.priors.informative(np.linspace(-1.0, 1.0, len(Y)), 0.3),
    "dynamics": lambda Y: gplvm.priors.dynamics(np.arange(len(Y))),
    "class_mixture": lambda Y: gplvm.priors.class_mixture(Y["label"]),
    "back_constraint": lambda Y: gplvm.priors.back_constraint(),
}


@pytest.fixture
def readings(monkeypatch):
    """How often a spec, a table and a prior of X are made."""
    made = []
    for kind in (ModelSpec, Table, PositionPrior):
        begin = kind.__init__

        def counted(self, *args, begin=begin, **kwargs):
            made.append(type(self).__name__)
            begin(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", counted)
    return made


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what it finds does not matter here
@pytest.mark.parametrize("fit", [gplvm.fit_map, gplvm.fit_marginal])
@pytest.mark.parametrize("prior", [None, "dynamics", "back_constraint"])
def test_a_fit_reads_its_model_once(fit, prior, Y, readings):
    priors = None if prior is None else {"X": PRIORS[prior](Y)}
    model = gplvm.build_model(Y, priors=priors)
    readings.clear()
    fit(model, max_iter=100, progressbar=False)
    assert sorted(readings) == ["ModelSpec", "PositionPrior", "Table"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("fit", [gplvm.fit_variational, gplvm.fit_linear])
def test_so_do_the_closed_form_and_the_bound(fit, Y, readings):
    linear = fit is gplvm.fit_linear
    model = gplvm.build_model(Y, kernel="linear", priors={"sigma": "flat"} if linear else None)
    readings.clear()
    fit(model, **({} if linear else {"n_inducing": 5, "max_iter": 5, "progressbar": False}))
    assert sorted(readings) == ["ModelSpec", "PositionPrior", "Table"]


def test_what_has_been_read_is_not_read_again(model):
    spec = ModelSpec.of(model)
    assert ModelSpec.of(spec) is spec


def test_the_table_with_holes():
    Y = simulated()
    Y[2, 1] = np.nan
    table = ModelSpec.of(gplvm.build_model(Y, scale="feature", missing="mask")).table
    np.testing.assert_array_equal(table.seen, ~np.isnan(Y.to_numpy().T))
    expected = (Y - Y.mean("obs")) / Y.std("obs")
    np.testing.assert_allclose(table.F, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(table.scale, Y.std("obs"), rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"somebody needs a complete table, got one with 1 missing"
    ):
        table.require_complete(caller="somebody")
    table.require_shared(caller="somebody")


def test_columns_of_their_own(Y):
    model = gplvm.build_model(Y, noise="column")
    spec = ModelSpec.of(model)
    assert spec.kernel == "rbf"
    assert spec.table.own == (model["amplitude"], spec.table.own[1])
    assert spec.floors.shape == (4,)
    with pytest.raises(ValueError, match="somebody needs one noise for all columns"):
        spec.table.require_shared(caller="somebody")


def test_what_is_free_and_what_is_held(Y):
    model = gplvm.build_model(Y, 3, kernel="rbf + bias", priors={"sigma": 0.2, "bias": 0.5})
    spec = ModelSpec.of(model)
    assert list(spec.free) == ["X", "lengthscale", "amplitude"]
    assert list(spec.theta) == ["lengthscale", "amplitude", "sigma", "bias"]
    assert {name: float(v) for name, v in spec.fixed.items()} == {"sigma": 0.2, "bias": 0.5}
    assert (spec.X_shape, spec.latent_dim) == ((12, 3), 3)
    assert spec.is_X_plain
    assert spec.value_name("lengthscale") == "lengthscale_log__"
    held = ModelSpec.of(pm.do(model, {"X": np.ones((12, 3))}))
    assert not held.is_X_plain
    assert held.X_shape == (12, 3)
    assert not held.prior.is_known


@pytest.mark.parametrize("kind", PRIORS)
def test_the_prior_of_X(kind, Y):
    model = gplvm.build_model(Y, priors={"X": PRIORS[kind](Y)})
    spec = ModelSpec.of(model)
    prior = spec.prior
    assert prior.says is getattr(gplvm.priors, kind, LatentPrior)
    assert prior.is_known
    assert prior.independent == (kind == "normal")
    assert prior.sd == (2.0 if kind == "normal" else None)
    assert not prior.is_standard_normal
    assert (prior.row_covariance is not None) == (kind == "dynamics")
    assert spec.is_X_plain == (kind != "back_constraint")
    assert spec.X_shape == (12, 2)


def test_the_default_prior_of_X(model):
    prior = ModelSpec.of(model).prior
    assert prior.is_standard_normal
    assert prior.sd == 1.0


def test_a_prior_that_is_none_of_these(Y):
    flat = ModelSpec.of(gplvm.build_model(Y, priors={"X": "flat"})).prior
    assert not flat.is_known
    assert flat.moments is None
    with pm.Model() as model:
        spread = pm.HalfNormal("spread")
        X = pm.Normal("X", 0.0, spread, shape=(12, 1))
        gplvm.GPColumns("Y", gplvm.covariance("rbf", X, sigma=0.1), observed=Y.to_numpy().T)
    random = ModelSpec.of(model).prior
    assert random.is_normal
    assert random.moments is None
    assert random.sd is None


def test_what_depends_on_X_besides_the_table(Y):
    model = gplvm.build_model(Y)
    assert ModelSpec.of(model).tied == []
    with model:
        pm.Potential("repel", -(model["X"] ** 2).sum())
    assert ModelSpec.of(model).tied == ["repel"]
