"""
What the model decodes: curves
==============================

Rows that are curves, such as spectra, are drawn as curves with their standard deviation. The simulated
spectra have one peak that shifts and one that grows.
"""

import numpy as np
import pandas as pd

import pm_gplvm as gplvm

rng = np.random.default_rng(1)
wavelength = np.linspace(0, 10, 40)
shift, height = rng.uniform(-1, 1, (2, 30, 1))
spectra = np.exp(-((wavelength - 3 - shift) ** 2))
spectra += (1 + height) * np.exp(-((wavelength - 7) ** 2) / 2)
spectra += 0.1 * rng.standard_normal(spectra.shape)

model = gplvm.build_model(pd.DataFrame(spectra, columns=wavelength))
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
ax = gplvm.plot.reconstruction(best, grid=6)
