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
# # Can I trust this fit?
#
# Every fit is an ArviZ `DataTree`, so that ArviZ's pictures and statistics apply. What they can be
# asked differs: θ stands still under rotations and may be looked at directly; X may not.

# %%
import os
import warnings

import arviz_plots as azp
import arviz_stats as azs
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
import xarray as xr

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
DRAWS, TUNE = 150 if SHORT else 800, 400
azp.style.use("arviz-variat")

ROWS, COLUMNS = 20, 15
rng = np.random.default_rng(4)
x = rng.standard_normal((ROWS, 1))
K = np.exp(-0.5 * (x - x.T) ** 2) + 0.3**2 * np.eye(ROWS)
Y = xr.DataArray(
    np.linalg.cholesky(K) @ rng.standard_normal((ROWS, COLUMNS)),
    dims=("obs", "feature"),
    coords={"truth": ("obs", x[:, 0])},
)

# %% [markdown]
# ## Before: does the prior know of such tables?
#
# Bands hold 50 % and 89 % of the tables that the model draws before it has seen any; the table
# should not leave them.

# %%
model = gplvm.build_model(Y, latent_dim=1)
prior = gplvm.sample_prior(model, draws=200, random_seed=1)
gplvm.plot.prior(prior)
plt.show()

# %% [markdown]
# ## Do the chains agree?

# %%
best = gplvm.fit_marginal(model, n_restarts=2, random_seed=1, progressbar=False)


def sampled(model, start):
    return gplvm.sample(
        model,
        start=start,
        draws=DRAWS,
        tune=TUNE,
        chains=2,
        replicas=1,
        random_seed=1,
        progressbar=False,
    )


full = sampled(model, best)
gplvm.diagnose(full)

# %% [markdown]
# Some posteriors have several embeddings. `diagnostics.posterior_modes` sorts the draws by them and weighs each, with
# the error that is left; `members` tells which draws are whose. Here there is one.

# %%
found = gplvm.diagnostics.posterior_modes(full)
assert len(found) == 1
found

# %% [markdown]
# `diagnose` looks at what no rotation of X changes. The same of θ by ArviZ: traces, ranks (flat if
# the chains agree), intervals, pairs.

# %%
theta = ["lengthscale", "amplitude", "sigma"]
azp.plot_trace_dist(full, var_names=theta)
plt.show()

# %%
azp.plot_rank(full, var_names=theta)
plt.show()

# %%
azp.plot_pair(full, var_names=theta)
plt.show()

# %%
summary = azs.summary(full, var_names=theta, round_to="none")
assert (summary["r_hat"] < 1.1).all()
summary

# %% [markdown]
# **R-hat of raw X means nothing**: a chain may be the mirror image of another, which is no lack of
# convergence. Here one chain is mirrored on purpose: the likelihood of every draw stays, R-hat of X does
# not, and of the aligned X it says what it should. `group="aligned"` shows ArviZ those draws.

# %%
mirrored = full.copy()
draws = full["posterior"].to_dataset()
signs = xr.DataArray(np.sign(draws["X"].mean("draw")[:, 0, 0]), dims="chain") * [1.0, -1.0]
mirrored["posterior"] = xr.DataTree(draws.assign(X=draws["X"] * signs))
aligned = gplvm.align(mirrored, to=best)
r_hat = {
    group: float(azs.rhat(aligned[group].to_dataset()["X"]).max())
    for group in ("posterior", "aligned")
}
assert r_hat["aligned"] < 1.2 < r_hat["posterior"]
print({name: round(value, 2) for name, value in r_hat.items()})

azp.plot_forest(aligned, group="aligned", var_names=["X"], combined=True)
plt.show()

# %% [markdown]
# ## After: do tables drawn from the posterior look like this one?
#
# `pm.sample_posterior_predictive` draws new tables at the posterior's X and θ. In PyTensor's default
# mode it would compile for a minute.

# %%
mode = {"mode": gplvm.model.compile_mode()}
predictive = pm.sample_posterior_predictive(
    full, model=model, random_seed=1, progressbar=False, compile_kwargs=mode
)
azp.plot_ppc_dist(predictive, num_samples=50)
plt.show()

# %% [markdown]
# A test that could fail: the share of the table's variance in its first principal component, against
# its distribution over drawn tables.


# %%
def first_share(tables):
    centred = tables - tables.mean(axis=-1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    return values[..., 0] / values.sum(axis=-1)


drawn = first_share(predictive["posterior_predictive"]["Y"].to_numpy().reshape(-1, COLUMNS, ROWS))
seen = first_share(Y.to_numpy().T)
p = (drawn > seen).mean()
figure, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
ax.hist(drawn, 30, color="0.75")
ax.axvline(seen, color="black")
ax.set(xlabel="share of variance in the first component", ylabel="drawn tables")
plt.show()
assert 0.005 < p < 0.995
print(f"larger in {p:.0%} of the drawn tables")

# %% [markdown]
# ## Which model?
#
# `diagnostics.compute_log_likelihood` gives one term a *column*, so `az.loo` leaves out a feature. A feature
# tells much of X, and a Pareto k above 0.7 says that importance sampling cannot forget it.

# %%
straight = gplvm.build_model(Y, latent_dim=1, kernel="linear")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # a few of the linear model's steps diverge
    fits = {"RBF": full, "linear": sampled(straight, gplvm.fit_linear(straight))}
trees = {}
for name, fit in fits.items():
    trees[name] = gplvm.diagnostics.compute_log_likelihood(fit)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of Pareto k, which is printed
    by_feature = azs.compare(trees)
    worst = {
        name: float(azs.loo(tree, pointwise=True).pareto_k.max()) for name, tree in trees.items()
    }
print("largest Pareto k:", {name: round(k, 2) for name, k in worst.items()})
assert by_feature.index[0] == "RBF"
azp.plot_compare(by_feature)
plt.show()

# %% [markdown]
# Leaving out single entries needs no importance sampling for X and θ given (it is in closed form) and
# is gentler; leaving out *rows* is what a newcomer's question is about: what of the next one? That takes
# refits, `diagnostics.cross_validate`.

# %%
entries = {name: gplvm.diagnostics.leave_one_out(fit) for name, fit in fits.items()}
print({name: round(float(found["log_score"].sum()), 1) for name, found in entries.items()})

# %%
rows = {
    kernel: gplvm.diagnostics.cross_validate(
        Y,
        lambda table, k=kernel: gplvm.build_model(table, 1, kernel=k),
        n_folds=4,
        random_seed=1,
        progressbar=False,
    )
    for kernel in ("rbf", "linear")
}
gain = (rows["rbf"]["log_score"] - rows["linear"]["log_score"]).to_numpy()
assert gain.sum() > 0.0
print(f"RBF gains {gain.sum():.0f} ± {gain.std(ddof=1) * np.sqrt(ROWS):.0f} over {ROWS} rows")

# %% [markdown]
# ## All of it in one table

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of Pareto k, see above
    table = gplvm.compare({"marginal": best, **fits}, reference=x, n_neighbors=5)
columns = ["method", "log_likelihood", "sigma", "sd_Z", "neighbours", "elpd_feature", "elpd_entry"]
assert table.loc["RBF", "elpd_feature"] > table.loc["linear", "elpd_feature"]
table[columns].round(2)
