"""
What comes next
===============

`forecast` continues a fit whose positions run smoothly in time; `plot.forecast` draws columns with 89 % bands. The
simulated markers swing together, a gap and the end are not seen.
"""

import numpy as np
import pandas as pd

import pm_gplvm as gplvm

rng = np.random.default_rng(1)
seconds = np.arange(80) / 10.0
swing = np.sin(3.0 * seconds[:, None] + np.arange(6.0)) + 0.05 * rng.standard_normal((80, 6))
known = np.r_[0:30, 40:72]
frames = pd.DataFrame(swing[known], columns=[f"marker {j}" for j in range(6)])

prior = gplvm.priors.dynamics(seconds[known], kernel="matern52", own=0.02)
model = gplvm.build_model(frames, priors={"X": prior})
fit = gplvm.fit_variational(model, n_inducing=20, random_seed=1, progressbar=False)
other = np.setdiff1d(seconds, seconds[known])
ahead = gplvm.forecast(fit, other, random_seed=1)
ax = gplvm.plot.forecast(fit, ahead, ["marker 0", "marker 2"])
