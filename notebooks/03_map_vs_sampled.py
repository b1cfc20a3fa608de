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
# # What does the MAP hide?
#
# A MAP is one embedding: every row has a place, and nothing says how well it is known. Sampling X
# and θ together says it. On a table small enough for a minute, whose true positions are known, both
# can be held against the truth.

# %%
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
DRAWS, TUNE = (200, 200) if SHORT else (1000, 500)
ROWS, COLUMNS, NOISE = 25, 20, 0.4

rng = np.random.default_rng(2)
truth = rng.standard_normal((ROWS, 2))
r2 = ((truth[:, None] - truth) ** 2).sum(axis=2)
K = np.exp(-0.5 * r2) + NOISE**2 * np.eye(ROWS)
Y = xr.DataArray(
    np.linalg.cholesky(K) @ rng.standard_normal((ROWS, COLUMNS)),
    dims=("obs", "feature"),
    coords={"first": ("obs", truth[:, 0])},
)

# %% [markdown]
# ## One mode, and draws of X and θ
#
# `sample` alternates gradient moves with moves of single rows. Two chains start near the mode.

# %%
model = gplvm.build_model(Y, latent_dim=2)
best = gplvm.fit_map(model, n_restarts=2, random_seed=1, progressbar=False)
full = gplvm.sample(
    model,
    best,
    draws=DRAWS,
    tune=TUNE,
    chains=2,
    replicas=1,
    random_seed=1,
    progressbar=False,
)
verdict = gplvm.diagnose(full)
verdict

# %% [markdown]
# The verdict is about what no rotation of X changes: distances, K, θ, the likelihood. It asks much:
# a row that has two places goes from one to the other rarely, and its distances need more draws (or
# `replicas="auto"`). The median quantity of each kind is settled, which is enough for what follows.

# %%
assert verdict.table["r_hat_median"].max() < 1.2

# %% [markdown]
# ## Raw draws, and aligned ones
#
# The likelihood does not change when X is turned or mirrored, so the sampler may leave each draw in
# a frame of its own. Averages of raw coordinates therefore mean nothing; `align` turns every draw
# onto one frame.

# %%
aligned = gplvm.align(full)
rows = np.argsort(truth[:, 0])[[0, ROWS // 2, ROWS - 1]]
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, group, title in zip(axes, ("posterior", "aligned"), ("raw", "aligned"), strict=True):
    X = aligned[group]["X"].stack(every=("chain", "draw")).isel(obs=rows)
    for row, colour, marker in zip(range(3), ("#332288", "#CC6677", "#117733"), "os^", strict=True):
        places = X.isel(obs=row)
        ax.plot(*places.to_numpy(), marker, color=colour, ms=3, alpha=0.4, label=f"row {rows[row]}")
    ax.set(title=title, xlabel="latent 0", ylabel="latent 1", aspect="equal")
axes[1].legend(fontsize="small")
plt.show()

# %%
spread = {
    name: float(aligned[name]["X"].std(("chain", "draw")).mean())
    for name in ("posterior", "aligned")
}
assert spread["aligned"] < spread["posterior"]
spread

# %% [markdown]
# ## The scale of X
#
# With a N(0, 1) prior on X and a free lengthscale, X and the lengthscale shrink together at the mode
# and the density of X rises: the mode is where no draw is. What the data tell of is X / lengthscale.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of a column that is not looked at here
    table = gplvm.compare({"MAP": best, "draws": aligned}, reference=truth, n_neighbors=5)
assert table.loc["MAP", "sd_X"] < 0.5 < table.loc["draws", "sd_X"]
table[["log_likelihood", "lengthscale", "sigma", "sigma_lb", "sigma_ub", "sd_X", "sd_Z"]].round(2)

# %% [markdown]
# The likelihood of the mode is higher than that of every draw (it was climbed for), and its noise is
# on the low side: part of the noise has been taken for structure. The truth is 0.4.

# %%
sigma = full["posterior"]["sigma"]
assert float(best["posterior"]["sigma"][0, 0]) < float(sigma.mean())
assert table.loc["MAP", "log_likelihood"] > float(full["sample_stats"]["log_likelihood"].max())
assert abs(float(sigma.mean()) - NOISE) < 0.1

# %% [markdown]
# ## Where each row may lie
#
# Both in units of the lengthscale and in the frame of the MAP. An ellipse holds 89 % of a row's
# draws. Lines lead from a row's mean to the place that the MAP gives it.

# %%
gplvm.plot_compare({"MAP": best, "draws": full}, color="first")
plt.show()

# %% [markdown]
# The same as a background: where rows lie, by the density of their places.

# %%
gplvm.plot_latent(aligned, color="first", background="density")
plt.show()

# %% [markdown]
# ## Where the MAP is too sure
#
# Ask for each row: which are its 5 nearest rows? The MAP answers yes or no for every pair. Draws
# give a probability. As the truth is known, both can be scored: by the mean squared error of the
# probability (Brier's score), and by how often the neighbours of the MAP are true ones.

# %%
nearest = np.argsort(r2 + 1e9 * np.eye(ROWS), axis=1)[:, :5]
true = np.zeros((ROWS, ROWS))
np.put_along_axis(true, nearest, 1.0, axis=1)
pairs = ~np.eye(ROWS, dtype=bool)

claimed = gplvm.neighbour_probabilities(best, 5).to_numpy()[pairs]
drawn = gplvm.neighbour_probabilities(full, 5).to_numpy()[pairs]
brier = {"MAP": np.mean((claimed - true[pairs]) ** 2), "draws": np.mean((drawn - true[pairs]) ** 2)}
right = true[pairs][claimed == 1.0].mean()
assert brier["draws"] < brier["MAP"]
assert right < 0.9
print(f"Brier score: MAP {brier['MAP']:.3f}, draws {brier['draws']:.3f}")
print(f"neighbours of which the MAP is sure: {right:.0%} are true")

# %% [markdown]
# And the probabilities mean what they say: of the pairs to which the draws give about 30 %, about
# 30 % are neighbours.

# %%
edges = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
place = np.clip(np.digitize(drawn, edges) - 1, 0, len(edges) - 2)
filled = [i for i in range(len(edges) - 1) if (place == i).sum() >= 10]
said = np.array([drawn[place == i].mean() for i in filled])
came = np.array([true[pairs][place == i].mean() for i in filled])
counts = np.array([(place == i).sum() for i in filled])

figure, ax = plt.subplots(figsize=(4, 3.4), layout="constrained")
ax.axline((0, 0), slope=1, color="0.6", ls=":")
ax.errorbar(said, came, 2 * np.sqrt(came * (1 - came) / counts), fmt="o", label="draws, ± 2 se")
ax.plot(1.0, right, "s", color="#CC6677", label="MAP")
ax.set(xlabel="probability of being neighbours", ylabel="share that are")
ax.legend(fontsize="small")
plt.show()
assert abs(np.average(came - said, weights=counts)) < 0.01

# %% [markdown]
# ## Which rows are the uncertain ones?
#
# The sd of each row's place, in units of the lengthscale. The MAP has no such column.

# %%
unit = full["posterior"]["lengthscale"].mean().item()
sd = aligned["aligned"]["X"].std(("chain", "draw")).mean("latent") / unit
figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
alone = np.sort(r2 + 1e9 * np.eye(ROWS), axis=1)[:, 0] ** 0.5
ax.plot(alone, sd, "o")
ax.set(xlabel="true distance to the nearest row", ylabel="sd of x / lengthscale")
plt.show()
assert sd.min() > 0.05
assert np.corrcoef(alone, sd)[0, 1] > 0.4
