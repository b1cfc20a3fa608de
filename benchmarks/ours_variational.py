"""pm_gplvm's variational bound as the driver wants it."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np

import pm_gplvm as gplvm
from pm_gplvm.fitting import variational as searching
from pm_gplvm.model.density import compile_log_density

PACKAGES = ("pm_gplvm", "pymc", "pytensor")
FLAT = dict.fromkeys(("lengthscale", "amplitude", "sigma"), "flat")


class Negative:
    """Minus the bound at a vector of the bound model's value variables."""

    def __init__(self, Y, X0, n_inducing, own_start):
        self.n_inducing, self.own_start = n_inducing, own_start
        self.exact = gplvm.build_model(
            Y, X0.shape[1], ard=True, scale="none", priors=FLAT, resolution=0
        )
        self.model = gplvm.model.build_variational(self.exact, n_inducing=n_inducing)
        self.density = compile_log_density(self.model)
        rows = np.random.default_rng(0).permutation(len(Y))[:n_inducing]
        self.start = {
            "X_mean": X0,
            "X_sd_log__": np.full(X0.shape, 0.5 * np.log(0.1)),
            "X_inducing": X0[rows],
            "lengthscale_log__": np.zeros(X0.shape[1]),
            "amplitude_log__": np.zeros(()),
            "sigma_log__": np.array(0.5 * np.log(0.1)),
        }

    def __call__(self, flat):
        value, gradient = self.density(flat)
        return -value, -gradient


def objective(Y, X0, n_inducing, own_start=False):
    f = Negative(Y, X0, n_inducing, own_start)
    return f, f.density.pack(f.start)


def optimise(f, x0, recorder):
    """Run `fit_variational`, or its search from the common start."""
    settings = {"max_iter": 10**6, "tol": 1e-12, "progressbar": False, "blas_threads": 1}

    def recording(*args, **kwargs):
        density = compile_log_density(*args, **kwargs)
        return replace(density, function=recorder.wrap(density.function, sign=-1.0))

    with patch.object(searching, "compile_log_density", recording):
        if f.own_start:
            fit = gplvm.fit_variational(f.exact, n_inducing=f.n_inducing, random_seed=1, **settings)
            return "converged" if fit.attrs["converged"] else "not converged"
        ((_, best),) = searching.search(f.model, [f.start], hold=200, title="", **settings)
    return best.message
