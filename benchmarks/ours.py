"""pm_gplvm as the driver wants it."""

import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np

import pm_gplvm as gplvm
from pm_gplvm.fitting import map as optimiser
from pm_gplvm.model.density import compile_log_density
from pm_gplvm.model.starts import start_values

PACKAGES = ("pm_gplvm", "pymc", "pytensor")
FLAT = {"lengthscale": "flat", "amplitude": "flat", "sigma": "flat"}


class Negative:
    """Minus the log-density of a model, and what the model was made from."""

    def __init__(self, Y, X0, kernel="rbf", ard=False, flat=False):
        self.model = gplvm.build_model(
            Y,
            X0.shape[1],
            kernel=kernel,
            ard=ard,
            scale="none",
            priors=FLAT if flat else None,
            resolution=0,
        )
        theta = {"amplitude": 1.0, "sigma": math.sqrt(0.1)}
        theta["lengthscale"] = np.ones(X0.shape[1]) if ard else 1.0
        named = self.model.named_vars
        self.start = {"X": X0, **{name: v for name, v in theta.items() if name in named}}
        self.density = compile_log_density(self.model)

    def first(self):
        values = start_values(self.model, self.start, np.random.default_rng(0))
        return self.density.pack(values)

    def __call__(self, flat):
        value, gradient = self.density(flat)
        return -value, -gradient


def objective(Y, X0, **options):
    f = Negative(Y, X0, **options)
    return f, f.first()


def optimise(f, x0, recorder):
    """Run `fit_map` as it is; only what it compiles is made to keep a record."""

    def recording(*args, **kwargs):
        density = compile_log_density(*args, **kwargs)
        # The log-likelihood alone is compiled too, for the record in the fit.
        if not kwargs.get("prior", True):
            return density
        return replace(density, function=recorder.wrap(density.function, sign=-1.0))

    with patch.object(optimiser, "compile_log_density", recording):
        fit = gplvm.fit_map(f.model, start=f.start, max_iter=10**6, progressbar=False)
    return str(fit["optima"]["message"].item(0))
