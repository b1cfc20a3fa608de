"""
The prior against the table
===========================

Draw tables before the fit: does the prior hold tables like yours, and is the estimate inside of it?
"""

from sklearn.datasets import load_wine

import pm_gplvm as gplvm

model = gplvm.build_model(load_wine(as_frame=True).data, scale="feature")
prior = gplvm.sample_prior(model, draws=200, random_seed=1)
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
axes = gplvm.plot.prior(prior, best)
