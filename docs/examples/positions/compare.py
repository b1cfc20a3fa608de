"""
Several fits in one frame
=========================

Each fit is turned onto the first, and a line joins the two positions of a row. Long lines: the fits do not
agree there.
"""

import pm_gplvm as gplvm

Y = gplvm.data.load_digits(n=150)
model = gplvm.build_model(Y, kernel="rbf + linear")
fits = {
    "marginal estimate": gplvm.fit_marginal(model, random_seed=1, progressbar=False),
    "joint mode": gplvm.fit_map(model, random_seed=1, progressbar=False),
}
axes = gplvm.plot.compare(fits, color="label")
