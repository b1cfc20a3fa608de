"""
Where the starts ended
======================

The objective has many maxima. Each start is a point; starts that found the same embedding share a letter.
"""

from sklearn.datasets import load_wine

import pm_gplvm as gplvm

table = load_wine(as_frame=True).data
model = gplvm.build_model(table, kernel="rbf + linear", scale="feature")
best = gplvm.fit_marginal(model, n_restarts=6, random_seed=1, progressbar=False)
axes = gplvm.plot.optima(best)
