"""Every kind of fit and every verb: the one serves, or says why it does not.

The table is also a page of the guide: ``python tests/prediction/test_every_fit.py`` writes it.
"""

import re
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xarray as xr
from conftest import ROOT, simulated

import pm_gplvm as gplvm
from pm_gplvm import diagnostics, plot

PAGE = ROOT / "docs" / "guide" / "every_fit.md"
QUIET = {"progressbar": False, "random_seed": 1}
FEW = {"draws": 40, "tune": 20, "chains": 2, **QUIET}
NEW = {"draws": 100, "num_samples": 2, "n_starts": 4, **QUIET}
N = 24

FITS = {
    "fit_marginal": lambda m: gplvm.fit_marginal(m, **QUIET),
    "fit_map": lambda m: gplvm.fit_map(m, relocate=False, **QUIET),
    "fit_laplace": lambda m: gplvm.fit_laplace(m, draws=40, **QUIET),
    "fit_linear": lambda m: gplvm.fit_linear(m),
    "fit_stochastic": lambda m: gplvm.fit_stochastic(m, steps=200, n_neighbors=8, **QUIET),
    "sample_theta": lambda m: gplvm.sample_theta(m, gplvm.fit_map(m, **QUIET), **FEW),
    "sample": lambda m: gplvm.align(gplvm.sample(m, replicas=2, **FEW)),
    "fit_sparse": lambda m: gplvm.fit_sparse(m, n_inducing=8, **QUIET),
    'fit_sparse(method="fitc")': lambda m: gplvm.fit_sparse(
        m, n_inducing=8, method="fitc", **QUIET
    ),
    "fit_variational": lambda m: gplvm.fit_variational(m, n_inducing=8, draws=40, **QUIET),
}
KERNEL = {"fit_linear": "linear", "fit_sparse": "rbf + linear"}


def saved(fit, t):
    return gplvm.load(gplvm.save(fit, t["path"], overwrite=True))


VERBS = {
    "predict": lambda fit, t: gplvm.predict(fit, t["x"]),
    "predict(cov=True)": lambda fit, t: gplvm.predict(fit, t["x"], noise=True, cov=True),
    "sample_predictive": lambda fit, t: gplvm.sample_predictive(fit, t["x"], random_seed=1),
    "reconstruct": lambda fit, t: gplvm.reconstruct(fit),
    "embed": lambda fit, t: gplvm.embed(fit, t["holes"], **NEW),
    "log_predictive": lambda fit, t: gplvm.log_predictive(fit, t["holes"], **NEW),
    "impute": lambda fit, t: gplvm.impute(fit, t["holes"], **NEW),
    "impute (the table)": lambda fit, t: gplvm.impute(fit),
    "add_rows": lambda fit, t: gplvm.add_rows(fit, t["new"], steps=2, **QUIET),
    "GPLVM.from_fit(...).transform": lambda fit, t: gplvm.GPLVM.from_fit(fit).transform(t["new"]),
    "align": lambda fit, t: gplvm.align(fit),
    "diagnose": lambda fit, t: gplvm.diagnose(fit),
    "compare": lambda fit, t: gplvm.compare({"a": fit}, n_neighbors=3),
    "save, load": saved,
    "diagnostics.leave_one_out": lambda fit, t: diagnostics.leave_one_out(fit),
    "diagnostics.compute_log_likelihood": lambda fit, t: diagnostics.compute_log_likelihood(fit),
    "diagnostics.compute_log_prior": lambda fit, t: diagnostics.compute_log_prior(fit),
    "diagnostics.cross_validate(fit=...)": lambda fit, t: diagnostics.cross_validate(
        t["Y"], t["build"], fit=t["fit"], n_folds=2, draws=100, num_samples=2, **QUIET
    ),
    "diagnostics.magnification": lambda fit, t: diagnostics.magnification(fit, t["x"]),
    "diagnostics.neighbour_probabilities": lambda fit, t: diagnostics.neighbour_probabilities(
        fit, n_neighbors=3
    ),
    "diagnostics.active_dimensions": lambda fit, t: diagnostics.active_dimensions(fit),
    "diagnostics.posterior_modes": lambda fit, t: diagnostics.posterior_modes(fit),
    "plot.latent": lambda fit, t: plot.latent(fit, grid=3),
    "plot.reconstruction": lambda fit, t: plot.reconstruction(fit, grid=2),
    "plot.magnification": lambda fit, t: plot.magnification(fit, grid=3),
    "plot.relevance": lambda fit, t: plot.relevance(fit),
    "plot.compare": lambda fit, t: plot.compare({"a": fit}),
    "plot.explore": lambda fit, t: plot.explore(fit, grid=4, num_samples=2),
    "model.rebuild": lambda fit, t: gplvm.model.rebuild(fit),
}

REFUSED = {}


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    whole = simulated(N + 3, 5, seed=4)
    holes = whole[N:].to_numpy().copy()
    holes[0, 1] = holes[2, :2] = np.nan
    return {
        "Y": whole[:N],
        "new": whole[N:].to_numpy(),
        "holes": holes,
        "x": np.array([[0.0, 0.1], [0.5, -0.3]]),
        "path": tmp_path_factory.mktemp("every") / "fit.nc",
    }


if __name__ == "__main__":
    import tempfile

    whole = simulated(N + 3, 5, seed=4)
    holes = whole[N:].to_numpy().copy()
    holes[0, 1] = holes[2, :2] = np.nan
    t = {
        "Y": whole[:N],
        "new": whole[N:].to_numpy(),
        "holes": holes,
        "x": np.array([[0.0, 0.1], [0.5, -0.3]]),
        "path": Path(tempfile.mkdtemp()) / "fit.nc",
    }
    import time

    warnings.simplefilter("ignore")
    for name, make in FITS.items():
        t0 = time.time()
        t["build"] = lambda Y, name=name: gplvm.build_model(
            Y, kernel=KERNEL.get(name, "rbf"), ard=name != "fit_linear"
        )
        t["fit"] = make
        fit = make(t["build"](t["Y"]))
        print(name, round(time.time() - t0, 1), flush=True)
        for verb, call in VERBS.items():
            t0 = time.time()
            try:
                call(fit, t)
            except Exception as e:
                print("   ", verb, type(e).__name__, str(e)[:230], flush=True)
            plt.close("all")
            if time.time() - t0 > 3:
                print("    slow", verb, round(time.time() - t0, 1), flush=True)
