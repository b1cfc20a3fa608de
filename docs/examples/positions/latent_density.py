"""
The density of the positions
============================

`fit_laplace` gives draws of X. The shades are the density of a row's position, averaged over the rows.
"""

from sklearn.datasets import load_iris

import pm_gplvm as gplvm

iris = load_iris(as_frame=True)
species = iris.target.map(dict(enumerate(iris.target_names))).rename("species")
model = gplvm.build_model(iris.data, kernel="rbf + linear", scale="feature")
draws = gplvm.align(gplvm.fit_laplace(model, draws=200, random_seed=1, progressbar=False))
ax = gplvm.plot.latent(draws, color=species, background="density", spread=False)
