"""
A number as colour
==================

Numbers are a scale, dates and durations too. Here: the progression of the disease a year later, which
the fit has not seen.
"""

from sklearn.datasets import load_diabetes

import pm_gplvm as gplvm

diabetes = load_diabetes(as_frame=True)
table = diabetes.data.drop(columns="sex").iloc[:200]
model = gplvm.build_model(table, scale="feature")
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
ax = gplvm.plot.latent(best, color=diabetes.target[:200].rename("progression"))
