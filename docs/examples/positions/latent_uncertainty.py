"""
Positions over what the model does not know
===========================================

White: the function is known there. Grey: it is not, and its standard deviation is near the prior's.
"""

import pm_gplvm as gplvm

Y = gplvm.data.load_digits(n=150)
best = gplvm.fit_marginal(
    gplvm.build_model(Y, kernel="rbf + linear"), random_seed=1, progressbar=False
)
ax = gplvm.plot.latent(best, color="label")
