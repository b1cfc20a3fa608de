"""
A path through time
===================

`priors.dynamics` lets X run smoothly in time, `time` joins the rows in their order. The simulated
sensors see a day and a slow drift.
"""

import numpy as np
import pandas as pd

import pm_gplvm as gplvm

rng = np.random.default_rng(1)
hours = pd.date_range("2024-03-01", periods=72, freq="h", name="hour")
phase = 2 * np.pi * np.arange(72) / 24
state = np.column_stack([np.sin(phase), np.cos(phase), np.linspace(-1, 1, 72)])
noise = 0.2 * rng.standard_normal((72, 8))
sensors = pd.DataFrame(np.tanh(state @ rng.standard_normal((3, 8))) + noise, index=hours)
sensors.columns = [f"sensor {j}" for j in range(8)]

model = gplvm.build_model(sensors, priors={"X": gplvm.priors.dynamics(hours, time_unit="h")})
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
ax = gplvm.plot.latent(best, color=hours, time=hours)
