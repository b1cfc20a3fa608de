"""
How sure each position is
=========================

Where a fit has draws of X, each row gets an ellipse that holds 68 % of its draws. Here every third flower of
the iris table, of which four columns say little.
"""

from sklearn.datasets import load_iris

import pm_gplvm as gplvm

iris = load_iris(as_frame=True)
species = iris.target.map(dict(enumerate(iris.target_names))).rename("species")
model = gplvm.build_model(iris.data[::3], kernel="rbf + linear", scale="feature")
draws = gplvm.align(gplvm.fit_laplace(model, draws=200, random_seed=1, progressbar=False))
ax = gplvm.plot.latent(draws, color=species[::3])
