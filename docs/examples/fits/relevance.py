"""
How many dimensions are in use
==============================

With ``ard=True`` each latent dimension has a lengthscale of its own, and `fit_variational` switches off
what the table does not need. The simulated table has two dimensions.
"""

import numpy as np

import pm_gplvm as gplvm

rng = np.random.default_rng(1)
hidden = rng.standard_normal((80, 2))
table = np.tanh(hidden @ rng.standard_normal((2, 12))) + 0.1 * rng.standard_normal((80, 12))

model = gplvm.build_model(table, latent_dim=5, ard=True)
fit = gplvm.fit_variational(model, n_inducing=20, random_seed=1, progressbar=False)
ax = gplvm.plot.relevance(fit)
