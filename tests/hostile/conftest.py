"""Small tables and fits that the hostile calls are made with, built once."""

import warnings

import numpy as np
import pytest

import pm_gplvm as gplvm


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(14, 2))
    table = np.sin(X @ rng.normal(size=(2, 4))) + 0.1 * rng.normal(size=(14, 4))
    Y = table[:12]
    model = gplvm.build_model(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = gplvm.fit_map(model, progressbar=False)
        draws = gplvm.fit_laplace(model, draws=20, start=best, random_seed=1, progressbar=False)
    return {
        "Y": Y,
        "rows": table[12:],
        "X": best["posterior"]["X"].to_numpy()[0, 0],
        "model": model,
        "best": best,
        "draws": draws,
        "fits": {"MAP": best},
        "path": tmp_path_factory.mktemp("hostile") / "fit.nc",
    }
