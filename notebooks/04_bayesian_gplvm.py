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
# # How many dimensions, and how sure of the positions?
#
# A joint mode (`fit_map`) takes as many latent dimensions as it is given. The variational Bayesian GP-LVM (Titsias &
# Lawrence 2010) does not: it replaces each position by a Gaussian, integrates the functions out
# through a few inducing inputs, and switches dimensions off that are not worth their price. It pays
# with standard deviations that are too small. Both can be seen here.

# %%
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests


def simulated(rows, columns, latent_dim, noise, seed):
    """Smooth functions of a few latent positions, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, latent_dim))
    r2 = ((X[:, None] - X) ** 2).sum(axis=2)
    K = np.exp(-0.5 * r2) + noise**2 * np.eye(rows)
    Y = np.linalg.cholesky(K) @ rng.standard_normal((rows, columns))
    return xr.DataArray(Y, dims=("obs", "feature"), coords={"first": ("obs", X[:, 0])})


# %% [markdown]
# ## A table of two dimensions, seen through six
#
# `ard=True` gives each dimension a lengthscale of its own. Where one is long, the functions do not
# change along that dimension.

# %%
Y = simulated(60, 30, latent_dim=2, noise=0.1, seed=0)
model = gplvm.build_model(Y, latent_dim=6, ard=True)
fit = gplvm.fit_variational(model, n_inducing=20, random_seed=1, progressbar=False)
table = gplvm.diagnostics.active_dimensions(fit)
assert table["in_use"].sum() == 2
table.round(3)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
gplvm.plot.relevance(fit, ax=axes[0])
trace = fit["trace"]["objective"]
axes[1].plot(trace)
axes[1].set(ylim=np.quantile(trace, [0.1, 1.0]), xlabel="evaluation", ylabel="objective")
plt.show()

# %% [markdown]
# Where a dimension is switched off, q has gone back to the prior: mean 0, standard deviation 1.

# %%
off = table.index[~table["in_use"]].to_numpy()
q = fit["approximation"].to_dataset()
assert np.abs(q["X_mean"].isel(latent=off)).max() < 0.1
assert np.abs(q["X_sd"].isel(latent=off) - 1.0).max() < 0.1
q["X_sd"].mean("obs").round(3).to_series()

# %% [markdown]
# `plot.latent` shows the two that are left, and colours tell that the first of the true
# coordinates was found again, up to a rotation.

# %%
gplvm.plot.latent(fit, color="first")
plt.show()

# %% [markdown]
# ## The bound compares models
#
# It lies below $\ln p(Y \mid \theta)$ of each, X integrated out. (A bound may be loose: small
# differences mean nothing.) One dimension is too few and straight lines are far off; two are as good
# as six, if the climb begins where the six ended. From PCA it stays in a poorer optimum: spare
# dimensions also give the rows a way around each other.

# %%
pair = q["X_mean"].isel(latent=table.index[:2].to_numpy()).to_numpy()
two = gplvm.build_model(Y, 2, ard=True)
candidates = {
    "linear, 2": (gplvm.build_model(Y, 2, kernel="linear"), "pca"),
    "RBF, 1": (gplvm.build_model(Y, 1), "pca"),
    "RBF, 2, from PCA": (two, "pca"),
    "RBF, 2, from the six": (two, pair),
}
fits = {
    name: gplvm.fit_variational(m, n_inducing=20, start=start, random_seed=1, progressbar=False)
    for name, (m, start) in candidates.items()
}
fits["RBF, 6"] = fit
bounds = {name: float(f["sample_stats"]["bound"][0, 0]) for name, f in fits.items()}
best_of_two = bounds["RBF, 2, from the six"]
assert abs(best_of_two - bounds["RBF, 6"]) < 20.0
assert best_of_two > max(bounds["linear, 2"], bounds["RBF, 1"]) + 100.0
assert best_of_two > bounds["RBF, 2, from PCA"] + 100.0
{name: round(bound, 1) for name, bound in bounds.items()}

# %% [markdown]
# ## Too sure of itself
#
# q has independent rows. In the posterior rows move together: the line on which they lie may
# stretch here and shrink there. So q's standard deviations are near those of one row *given all
# others*. Sampling has no such gap. On thirty rows of one dimension:

# %%
Y = simulated(30, 10, latent_dim=1, noise=0.1, seed=1)
small = gplvm.build_model(Y, latent_dim=1)
narrow = gplvm.fit_variational(small, n_inducing=20, n_restarts=2, random_seed=1, progressbar=False)
mean = narrow["approximation"]["X_mean"].to_numpy()
DRAWS, TUNE = (200, 200) if SHORT else (1000, 500)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # what the chains lack is looked at below
    full = gplvm.sample(
        small,
        start=mean,
        draws=DRAWS,
        tune=TUNE,
        chains=2,
        replicas=1,
        random_seed=1,
        progressbar=False,
    )
full = gplvm.align(full, to=mean)

# %%
order = np.argsort(mean[:, 0])
draws = full["aligned"]["X"]
sampled = draws.std(("chain", "draw")).to_numpy()[order, 0]
of_q = narrow["approximation"]["X_sd"].to_numpy()[order, 0]
place = np.arange(len(order))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
centre = draws.mean(("chain", "draw")).to_numpy()[order, 0]
axes[0].errorbar(place - 0.15, centre, 2 * sampled, fmt="o", ms=3, label="sample")
axes[0].errorbar(place + 0.15, mean[order, 0], 2 * of_q, fmt="s", ms=3, label="q")
axes[0].set(xlabel="row, in order", ylabel="x, ± 2 sd")
axes[0].legend()
axes[1].plot(sampled, of_q, "o")
axes[1].axline((0, 0), slope=1, color="0.5", ls=":")
axes[1].set(xlabel="posterior sd, by sampling", ylabel="sd of q", xlim=0, ylim=0)
plt.show()

ratio = of_q / sampled
assert np.abs(centre - mean[order, 0]).max() < 0.2  # the two agree on where the rows are
assert np.median(ratio) < 0.7
assert (ratio < 1.0).mean() > 0.9
print(f"sd of q over the posterior's: median {np.median(ratio):.2f}")

# %% [markdown]
# Where the rows are, q tells as well as the sampler, in a second. How far they may lie elsewhere is
# for `sample` to say. (It also visits other embeddings, if there are any: q knows only its own.)
#
# ## Many rows
#
# No N × N matrix is formed: an evaluation takes time and memory in proportion to the rows.
# `predict` goes through the inducing inputs as well, with X integrated over q. Where all that is
# wanted of many rows is a mode, `fit_sparse` finds it, by the bound (`method="vfe"`) or by FITC.

# %%
rows = 300 if SHORT else 1500
many = gplvm.build_model(gplvm.data.load_digits(n=rows), latent_dim=2)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # 100 iterations, for the looks of it
    quick = gplvm.fit_sparse(many, n_inducing=40, max_iter=100, random_seed=1, progressbar=False)
X = quick["posterior"]["X"].to_numpy()[0, 0]
labels = gplvm.data.load_digits(n=rows)["label"].to_numpy()
agreement = gplvm.diagnostics.score_embedding(X, X, labels)["nn_agreement"]
assert agreement > 0.6
gplvm.plot.latent(quick, color="label")
plt.show()
