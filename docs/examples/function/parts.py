"""
What known inputs do
====================

With `inputs` in the model, `plot.parts` draws what each of them does to some columns, with 89 % intervals: a curve of
a number, an offset of each class. The simulated measurements rise with a dose, and each plate adds something of its own.
"""

import numpy as np
import pandas as pd

import pm_gplvm as gplvm

rng = np.random.default_rng(1)
state = rng.standard_normal((60, 1))
dose = rng.uniform(0, 3, 60)
plate = rng.integers(3, size=60)
columns = np.sin(1.5 * state + np.arange(8.0))
columns += np.tanh(dose)[:, None] * np.linspace(-1, 1, 8)
columns += rng.normal(0, 0.6, (3, 8))[plate] + 0.1 * rng.standard_normal((60, 8))
table = pd.DataFrame(columns, columns=[f"column {j}" for j in range(8)])

known = pd.DataFrame({"dose": dose, "plate": np.array(["a", "b", "c"])[plate]})
model = gplvm.build_model(table, latent_dim=1, inputs=known)
fit = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
axes = gplvm.plot.parts(fit, ["column 0", "column 4", "column 7"])
