"""
What looks near and is far
==========================

The picture has no one scale. Where it is yellow, a short step in the picture is a large change of the row.
"""

import pm_gplvm as gplvm

Y = gplvm.data.load_digits(n=150)
best = gplvm.fit_marginal(
    gplvm.build_model(Y, kernel="rbf + linear"), random_seed=1, progressbar=False
)
ax = gplvm.plot.magnification(best, color="label")
