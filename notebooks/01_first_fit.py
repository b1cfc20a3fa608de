# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does a first fit give?
#
# A table goes in: here handwritten digits, one row a digit, one column a pixel. Out come a
# position in the plane for every digit, and how well the model's few other numbers are known.

# %%
import os

import arviz_plots as azp
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
ROWS, DRAWS = (80, 300) if SHORT else (200, 500)

Y = gplvm.data.load_digits(n=ROWS)
Y

# %% [markdown]
# ## The model is a plain `pm.Model`
#
# Positions `X` have a standard normal prior. Given X, every column of the table is one draw of a
# Gaussian process over the plane: `Y` is Gaussian with a covariance K between the rows that falls
# with their distance in X. The kernel "rbf + linear" is a plane, as PCA has it, and what bends that;
# it is what the estimator `GPLVM` takes by default. `lengthscale` and `amplitude` (of what bends),
# `weight` (of the plane) and `sigma` (the noise) have priors too.

# %%
model = gplvm.build_model(Y, latent_dim=2, kernel="rbf + linear")
model

# %% [markdown]
# The data are centred and divided by one number inside the model, so the hyperparameters are in
# units of the data's own spread, and whatever the model predicts is in the units of Y:

# %%
mode = {"mode": gplvm.model.compile_mode()}  # ready at once; PyMC's default compiles for a minute
prior = pm.sample_prior_predictive(20, model=model, random_seed=1, compile_kwargs=mode)
simulated = prior.prior_predictive["Y"]
print("ink per pixel, data:     ", float(Y.min()), "to", float(Y.max()))
print("ink per pixel, the prior:", *simulated.quantile([0.05, 0.95]).round(1).to_numpy())
assert simulated.dims == ("chain", "draw", "feature", "obs")

# %% [markdown]
# ## The first fit
#
# `fit_marginal` finds the hyperparameters with the positions integrated out, approximately, and the
# positions given these. It climbs from PCA, more and less curved (`size`, the smaller the flatter;
# `spread`, each component's own or one for all), goes on with the best, and moves single rows to
# better places. The table of all starts stays in the fit.

# %%
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
assert best.attrs["converged"]
columns = ["objective", "size", "spread", "evaluations", "message"]
best.optima.to_dataset().to_dataframe()[columns].round(1)

# %%
X = best.posterior["X"][0, 0].to_numpy()
labels = Y["label"].to_numpy()
pca = np.linalg.svd(Y - Y.mean("obs"), full_matrices=False)[0][:, :2]
scores = {
    "PCA": gplvm.diagnostics.score_embedding(pca, Y, labels),
    "GP-LVM": gplvm.diagnostics.score_embedding(X, Y, labels),
}
assert scores["GP-LVM"]["nn_agreement"] > scores["PCA"]["nn_agreement"]
assert scores["GP-LVM"]["trustworthiness"] > scores["PCA"]["trustworthiness"]
scores

# %% [markdown]
# ## How well are the hyperparameters known?
#
# NUTS samples them with the positions held where they are. R-hat near 1 and some hundreds of
# effective draws say that the chains agree.

# %%
theta = gplvm.sample_theta(model, best, draws=DRAWS, tune=300, random_seed=1, progressbar=False)
table = gplvm.diagnostics.summarise_theta(best, theta)
assert (table["r_hat"] < 1.05).all()
table.round(4)

# %%
azp.plot_dist(theta)
plt.show()

# %% [markdown]
# For *this* embedding noise, amplitude and lengthscale are known to about a per cent: each of 64 pixels
# tells something about them, and two slopes for each, with less, about `weight`. That is not the
# uncertainty of the embedding itself, which is held fixed here. (Given these very places the noise is
# smaller than the estimate, which allows for others.)
#
# ## The picture
#
# The background is the standard deviation that the model's function has left, as a share of its
# prior's: white where digits lie, grey where the data say nothing.

# %%
gplvm.plot.latent(theta, color="label")
plt.show()

# %% [markdown]
# ## Back to digits
#
# Any place in the plane has a predicted row of Y, with a standard deviation. Halfway between two
# digits lies what the model thinks is between them. All pixels share one kernel and one scale, and so
# one standard deviation at a place: it is large where few digits are near.

# %%
first, second = 0, int(np.argmax(np.abs(X - X[0]).sum(axis=1)))
steps = np.linspace(0.0, 1.0, 7)[:, None]
path = gplvm.predict(theta, X[first] + steps * (X[second] - X[first]), num_samples=20)

figure, axes = plt.subplots(1, 7, figsize=(8, 1.6), layout="constrained")
for ax, mean, sd in zip(axes, path["mean"].to_numpy(), path["sd"].to_numpy(), strict=True):
    ax.imshow(mean.reshape(8, 8), cmap="Greys", vmin=0, vmax=16)
    ax.set_title(f"sd {sd.mean():.1f}", fontsize="small")
    ax.set_axis_off()
plt.show()

at_rows = gplvm.predict(theta, X, num_samples=20)
rmse = float(np.sqrt(((at_rows["mean"].to_numpy() - Y.to_numpy()) ** 2).mean()))
print(
    f"root mean square error at the rows: {rmse:.2f} of 16; of the column means: {float(Y.std('obs').mean()):.2f}"
)
assert rmse < float(Y.std("obs").mean())

# %% [markdown]
# ## Saved, and gone on with
#
# A fit is one file; nothing but data is in it.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    path = gplvm.save(best, Path(folder) / "digits.nc")
    again = gplvm.load(path)
np.testing.assert_array_equal(again.posterior["X"], best.posterior["X"])
again.attrs
