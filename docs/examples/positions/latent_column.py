"""
A column of the table as colour
===============================

Where in the picture is a column high?
"""

from sklearn.datasets import load_wine

import pm_gplvm as gplvm

table = load_wine(as_frame=True).data
model = gplvm.build_model(table, scale="feature")
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
ax = gplvm.plot.latent(best, color=table["flavanoids"])
