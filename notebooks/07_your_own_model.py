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
# # How do I change the model?
#
# A model here is a plain `pm.Model` with latent positions called `X` and one `GPColumns`, the
# likelihood of a table whose columns are independent draws of a Gaussian process. Everything else is
# yours: priors by an argument, or a model written by hand, with any covariance of `pm.gp.cov`.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
ROWS, DRAWS = 40, 300 if SHORT else 1000

Y = gplvm.data.load_digits(n=ROWS)
labels = Y["label"].to_numpy()

# %% [markdown]
# ## Other priors
#
# `priors` takes numbers (held fixed), `.dist()`s, or a function that makes the variable. Here the
# noise is held, the amplitude has another prior, and X has heavier tails. `fit_map` takes any model;
# `fit_marginal` integrates X out, and needs a Normal prior of X and a kernel of the table for that: of other
# models it says so.

# %%
priors = {
    "sigma": 0.3,
    "amplitude": pm.HalfNormal.dist(1.0),
    "X": lambda name, dims: pm.StudentT(name, nu=4, dims=dims),
}
model = gplvm.build_model(Y, kernel="matern52", priors=priors)
tailed = gplvm.fit_map(model, random_seed=1, progressbar=False)
assert float(tailed["constant_data"]["sigma"]) == 0.3
assert "sigma" not in tailed["posterior"]
model

# %% [markdown]
# ## A model from scratch
#
# Rows of one class are to lie near a centre of their own: the centres have a prior, and the rows of
# a class a narrow one around its centre. The covariance is `gplvm.covariance`, whose gradient is in closed
# form; so all functions of the package know what to do with the fit.

# %%
classes, of_row = np.unique(labels, return_inverse=True)
scale = float((Y - Y.mean("obs")).std())
coords = {
    "obs": Y["obs"].to_numpy(),
    "feature": Y["feature"].to_numpy(),
    "latent": range(2),
    "class": classes,
}
with pm.Model(coords=coords) as centred:
    centre = pm.Normal("centre", sigma=1.0, dims=("class", "latent"))
    X = pm.Normal("X", mu=centre[of_row], sigma=0.1, dims=("obs", "latent"))
    K = gplvm.covariance(
        "rbf",
        X,
        lengthscale=pm.InverseGamma("lengthscale", 3.0, 2.0),
        amplitude=pm.LogNormal("amplitude", 0.0, 1.0),
        sigma=pm.LogNormal("sigma", -2.0, 1.0),
    )
    gplvm.GPColumns(
        "Y",
        K,
        mu=pm.Data("Y_mean", Y.mean("obs").to_numpy(), dims="feature"),
        scale=pm.Data("Y_scale", np.full(Y.shape[1], scale), dims="feature"),
        observed=Y.to_numpy().T,
        dims=("feature", "obs"),
    )
centred

# %%
grouped = gplvm.fit_map(centred, random_seed=1, progressbar=False)
plain = gplvm.fit_map(gplvm.build_model(Y), random_seed=1, progressbar=False)


def share_within(fit):
    """Share of the variance of X that lies within the classes."""
    X = fit["posterior"]["X"][0, 0].to_numpy()
    means = np.stack([X[of_row == c].mean(axis=0) for c in range(len(classes))])
    return float(((X - means[of_row]) ** 2).sum() / ((X - X.mean(axis=0)) ** 2).sum())


within = {"N(0, 1)": share_within(plain), "centres": share_within(grouped)}
assert within["centres"] < within["N(0, 1)"]
within

# %% [markdown]
# The classes lie apart because the model was told to: it says how the table looks *given* the
# classes, and must not be taken as evidence that they exist.

# %%
ax = gplvm.plot.latent(grouped, color=labels)
ax.plot(*grouped["posterior"]["centre"][0, 0].to_numpy().T, "x", color="black", ms=9, mew=2)
plt.show()

# %% [markdown]
# ## A covariance of PyMC's
#
# Any covariance will do. PyTensor then differentiates it, which takes several times as long as the
# closed form; it has to add the noise itself.

# %%
with pm.Model(coords=coords) as rational:
    X = pm.Normal("X", dims=("obs", "latent"))
    lengthscale = pm.InverseGamma("lengthscale", 3.0, 2.0)
    alpha = pm.LogNormal("alpha", 0.0, 0.5)
    amplitude = pm.LogNormal("amplitude", 0.0, 1.0)
    sigma = pm.LogNormal("sigma", -2.0, 1.0)
    cov = amplitude**2 * pm.gp.cov.RatQuad(2, alpha=alpha, ls=lengthscale)
    K = cov(X) + sigma**2 * np.eye(ROWS)
    mean = pm.Data("Y_mean", Y.mean("obs").to_numpy(), dims="feature")
    spread = pm.Data("Y_scale", np.full(Y.shape[1], scale), dims="feature")
    gplvm.GPColumns("Y", K, mu=mean, scale=spread, observed=Y.to_numpy().T, dims=("feature", "obs"))
best = gplvm.fit_map(rational, random_seed=1, progressbar=False)
theta = gplvm.sample_theta(
    rational, best, draws=DRAWS, tune=300, chains=2, random_seed=1, progressbar=False
)
names = ["alpha", "lengthscale", "amplitude", "sigma"]
draws = theta["posterior"].to_dataset()[names]
assert np.isfinite(best["sample_stats"]["lp"]).all()
assert (draws.std(("chain", "draw")) > 0).to_array().all()
draws.mean(("chain", "draw")).to_pandas().round(3)

# %% [markdown]
# What needs K at new positions cannot know this covariance: `predict` says so, and PyMC's own GPs
# take over. What needs only X works: pictures, scores, `align`.

# %%
try:
    gplvm.predict(best, [[0.0, 0.0]])
    refused = ""
except ValueError as error:
    refused = str(error)
assert "covariance of your own" in refused
print(refused)

gplvm.plot.latent(gplvm.align(best), color=labels)
plt.show()

# %% [markdown]
# ## How do I know that I wrote it right?
#
# With the kernel of the table written by hand, `pm.gp.cov.ExpQuad`, the log-density and its gradient
# must be those of the package at any point. (`build_model` adds a floor to the noise, as pixels are whole
# numbers; `resolution=0` leaves it out.)

# %%
ours = gplvm.build_model(Y, resolution=0)
with pm.Model(coords=coords) as by_hand:
    X = pm.Normal("X", dims=("obs", "latent"))
    lengthscale = pm.InverseGamma("lengthscale", 3.0, 2.0)
    amplitude = pm.LogNormal("amplitude", 0.0, 1.0)
    sigma = pm.LogNormal("sigma", -2.0, 1.0)
    K = amplitude**2 * pm.gp.cov.ExpQuad(2, ls=lengthscale)(X) + sigma**2 * np.eye(ROWS)
    gplvm.GPColumns(
        "Y",
        K,
        mu=Y.mean("obs").to_numpy(),
        scale=scale,
        observed=Y.to_numpy().T,
        dims=("feature", "obs"),
    )
point = {
    "X": np.random.default_rng(1).standard_normal((ROWS, 2)),
    "lengthscale": 0.8,
    "amplitude": 1.1,
    "sigma": 0.4,
}
(value, gradient), (other, slopes) = (
    gplvm.model.compile_objective(m)(point) for m in (ours, by_hand)
)
assert abs(value - other) < 1e-6 * abs(value)
assert all(np.allclose(gradient[n], slopes[n], rtol=1e-5, atol=1e-5) for n in point)
print(f"log-density {value:.6f} and {other:.6f}")
