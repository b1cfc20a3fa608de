"""
What the model decodes: images
==============================

Each picture is the mean at its position. What the model does not know is paler.
"""

import pm_gplvm as gplvm

Y = gplvm.data.load_digits(n=150)
best = gplvm.fit_marginal(
    gplvm.build_model(Y, kernel="rbf + linear"), random_seed=1, progressbar=False
)
ax = gplvm.plot.reconstruction(best, image_shape=(8, 8))
