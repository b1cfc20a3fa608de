"""
Classes of your own
===================

`color` takes one value a row. Text is a class, and so are up to 20 whole numbers. A pandas Series is
joined by its index; rows without a class are grey.
"""

from sklearn.datasets import load_wine

import pm_gplvm as gplvm

wine = load_wine(as_frame=True)
cultivar = wine.target.map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
known = cultivar.where(cultivar.index % 5 > 0)  # every fifth bottle has lost its label
model = gplvm.build_model(wine.data, scale="feature")  # the columns differ in units
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
ax = gplvm.plot.latent(best, color=known.rename("cultivar"))
