"""The papers' own data: 200 rows of the three-phase oil flow (Bishop & James 1993)."""

import arviz_stats
import numpy as np
import pytest
from oracles import neighbour_errors
from sklearn.decomposition import PCA

import pm_gplvm as gplvm


@pytest.fixture(scope="module")
def oil_model(oil_200):
    return gplvm.build_model(oil_200[0], 2, kernel="rbf + bias", scale="none")


@pytest.fixture(scope="module")
def oil_map(oil_model):
    return gplvm.fit_map(oil_model, random_seed=1, progressbar=False)


def test_map_separates_the_flows_better_than_pca(oil_200, oil_map):
    Y, labels = oil_200
    of_pca = neighbour_errors(PCA(2).fit_transform(Y), labels)
    of_map = neighbour_errors(oil_map["posterior"]["X"].to_numpy()[0, 0], labels)
    assert oil_map.attrs["converged"] == 1
    assert of_map < of_pca / 2


def test_big_endian_file_gives_native_numbers(oil_200, oil_map):
    np.testing.assert_array_equal(oil_map["observed_data"]["Y"].to_numpy().T, oil_200[0])
    assert oil_map["observed_data"]["Y"].dtype.isnative


@pytest.mark.slow
def test_theta_of_the_map_mixes(oil_model, oil_map):
    fit = gplvm.sample_theta(
        oil_model, oil_map, draws=500, chains=2, random_seed=1, progressbar=False
    )
    posterior = fit["posterior"].to_dataset()
    assert dict(posterior.sizes) == {"chain": 2, "draw": 500}
    assert not fit["sample_stats"]["diverging"].any()
    for name, rhat in arviz_stats.rhat(posterior).data_vars.items():
        assert float(rhat.max()) < 1.02, name
    for name, ess in arviz_stats.ess(posterior).data_vars.items():
        assert float(ess.min()) > 200, name
