"""
More than two dimensions, in pairs
==================================

``dims="pairs"`` draws every two dimensions.
"""

import pm_gplvm as gplvm

Y = gplvm.data.load_digits(n=150)
model = gplvm.build_model(Y, latent_dim=3, kernel="rbf + linear")
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
axes = gplvm.plot.latent(best, color="label", dims="pairs", grid=50)
