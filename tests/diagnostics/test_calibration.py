"""Ranks of simulated truths among the sampler's draws."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.diagnostics.calibration import _with_data
from pm_gplvm.sampling.replicas import Replicas, compile_posterior

PRIORS = {
    "lengthscale": pm.LogNormal.dist(0.0, 0.5),
    "amplitude": pm.LogNormal.dist(0.0, 0.5),
    "sigma": pm.LogNormal.dist(-1.0, 0.5),
}


@pytest.fixture(scope="module")
def small():
    Y = np.random.default_rng(0).normal(size=(6, 3))
    return gplvm.build_model(Y, latent_dim=1, scale="none", priors=PRIORS)


def test_ranks_are_uniform(small):
    ranks = gplvm.diagnostics.sbc(
        small, n_replicates=20, draws=3, thin=4, tune=40, chains=3, random_seed=2, progressbar=False
    )
    assert set(ranks.data_vars) > {"lengthscale", "amplitude", "sigma", "log_likelihood"}
    assert max(int(v.max()) for v in ranks.data_vars.values()) <= ranks.attrs["draws"] == 9
    table = gplvm.diagnostics.sbc_test(ranks, n_bins=5)
    # The smallest of some ten p-values, on 20 tables: it finds gross errors only.
    assert table[["chi2_p", "ks_p"]].to_numpy().min() > 1e-3


@pytest.mark.parametrize("power", [0.3, 3.0])
def test_uniformity_finds_wrong_widths(power):
    share = np.linspace(0.0, 1.0, 200)
    ranks = xr.Dataset({"x": ("replicate", np.round(99 * share**power))}, attrs={"draws": 99})
    table = gplvm.diagnostics.sbc_test(ranks)
    assert table.loc["x", "chi2_p"] < 1e-3
    assert table.loc["x", "ks_p"] < 1e-3
    inside = ((99 * share**power).round() + 0.5) / 100
    expected = np.mean((inside > 0.055) & (inside < 0.945))
    assert table.loc["x", "coverage_89"] == pytest.approx(expected)


def test_another_table_in_the_same_functions(small, rng):
    """The compiled model with new data is the model that is built on them."""
    posterior = compile_posterior(small)
    states = rng.normal(size=(2, posterior.ensemble.size))
    F = rng.normal(size=(6, 3))
    other = _with_data(posterior, F)
    centred = F - F.mean(axis=0)
    rebuilt = compile_posterior(
        gplvm.build_model(centred, latent_dim=1, scale="none", priors=PRIORS)
    )
    _with_data(other, centred)
    np.testing.assert_allclose(
        other.ensemble(states).log_likelihood, rebuilt.ensemble(states).log_likelihood
    )


def test_bad_arguments(small, Y):
    with pytest.raises(
        ValueError, match="n_replicates must be a whole number of at least 1, got 0"
    ):
        gplvm.diagnostics.sbc(small, n_replicates=0)
    flat = gplvm.build_model(Y, priors={"sigma": "flat"})
    with pytest.raises(ValueError, match="proper priors"):
        gplvm.diagnostics.sbc(flat, n_replicates=1, progressbar=False)


def test_ctrl_c_keeps_the_ranks_of_whole_tables(small, ctrl_c):
    few = {"n_replicates": 4, "draws": 3, "thin": 2, "tune": 4, "chains": 2, "random_seed": 2}
    whole = gplvm.diagnostics.sbc(small, progressbar=False, **few)
    assert whole.attrs["interrupted"] == 0
    each = 4 + 3 * 2  # iterations a table
    ctrl_c(Replicas, "iterate", 2 * each + 3)
    with pytest.warns(RuntimeWarning, match="2 of 4 tables are kept") as said:
        ranks = gplvm.diagnostics.sbc(small, progressbar=False, **few)
    assert [warning.filename for warning in said] == [__file__]
    assert ranks.attrs == whole.attrs | {"interrupted": 1}
    xr.testing.assert_equal(ranks, whole.isel(replicate=slice(2)))


def test_ctrl_c_in_the_first_table(small, ctrl_c):
    ctrl_c(Replicas, "iterate", 3)
    with pytest.raises(KeyboardInterrupt):
        gplvm.diagnostics.sbc(small, n_replicates=2, draws=2, tune=4, progressbar=False)
