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
# # What does one embedding hide?
#
# A point estimate is one embedding: every row has a place, and nothing says how well it is known. There
# are two of them, the joint mode of X and θ (`fit_map`) and the marginal estimate (`fit_marginal`: θ
# with X integrated out approximately, then X). Sampling X and θ together says what both leave out. On
# tables small enough for a minute, whose true positions are known, all can be held against the truth.

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
# ## Two modes, and draws of X and θ
#
# `sample` alternates gradient moves with moves of single rows. Two chains start near an estimate.

# %%
model = gplvm.build_model(Y, latent_dim=2)
joint = gplvm.fit_map(model, n_restarts=2, random_seed=1, progressbar=False)
marginal = gplvm.fit_marginal(model, n_restarts=2, random_seed=1, progressbar=False)


def sampled(model, start, draws, tune):
    return gplvm.sample(
        model,
        start=start,
        draws=draws,
        tune=tune,
        chains=2,
        replicas=1,
        random_seed=1,
        progressbar=False,
    )


full = sampled(model, marginal, DRAWS, TUNE)
verdict = gplvm.diagnose(full)
verdict

# %% [markdown]
# The verdict is about what no rotation of X changes: distances, K, θ, the likelihood. It asks much:
# a row that has two places goes from one to the other rarely, and its distances need more draws (or
# `replicas="auto"`). The median distance is settled, which is enough for what follows.

# %%
assert verdict.table.loc["distance", "r_hat_median"] < 1.2

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
# ## Why sd(X) differs
#
# The likelihood knows Z = X / lengthscale alone. So X and the lengthscale may shrink together at no
# price, and the density of X under N(0, 1) rises:
#
# - the **joint mode** takes that gain in full; only the lengthscale's prior stops it, so that sd(X) is far
#   below 1. Such a point is high, but the room about it is small, and no draw is ever there;
# - the **marginal estimate** counts the room: to the log-density it adds $-\frac12\sum\ln(1 + h)$, the
#   volume that X may take given θ, with $h = D\,\text{amplitude}^2 / (\text{lengthscale}^2\,\text{noise}^2)$
#   as the prior expects it. To shrink now costs what it gains, and sd(X) is near 1;
# - the **posterior** holds X where it is, the room included: sd(X) of its draws is near 1 too.

# %%
names = ["log_likelihood", "lengthscale", "sigma", "sigma_lb", "sigma_ub", "sd_X", "sd_Z"]
agreement = ["distance_correlation", "neighbours"]


def side_by_side(fits, truth):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a column that is not looked at here
        return gplvm.compare(fits, reference=truth, n_neighbors=5)


table = side_by_side({"joint": joint, "marginal": marginal, "draws": aligned}, truth)
assert table.loc["joint", "sd_X"] < 0.5
assert abs(table.loc["marginal", "sd_X"] - table.loc["draws", "sd_X"]) < 0.2
assert (table["sd_Z"] > 0.9).all()  # what the table tells of differs far less
table[names + agreement].round(2)

# %% [markdown]
# The likelihood of the joint mode is higher than that of every draw: it was climbed for, at the price
# of taking noise for structure. Its noise is below the draws' mean. The marginal estimate's is above
# their interval here: 20 columns of strong curves tell more of where a row lies than the prior
# expects, the room is charged too dearly, and the noise comes out too large. The truth is 0.4.

# %%
sigma = full["posterior"]["sigma"]
noise = {
    name: float(f["posterior"]["sigma"][0, 0])
    for name, f in (("joint", joint), ("marginal", marginal))
}
assert noise["joint"] < float(sigma.mean()) < table.loc["draws", "sigma_ub"] < noise["marginal"]
assert table.loc["joint", "log_likelihood"] > float(full["sample_stats"]["log_likelihood"].max())
assert abs(float(sigma.mean()) - NOISE) < 0.1

# %% [markdown]
# ## A straight table
#
# There it is the other way round: a plane with noise, 30 rows of 8 columns, and 100 more rows that no fit
# sees. Both estimates find the plane. The joint mode bends it towards the noise, so that the noise comes out
# below the draws' interval; the marginal estimate lies among the draws.

# %%
rng = np.random.default_rng(0)
plane = rng.standard_normal((130, 2))
everything = plane @ rng.standard_normal((2, 8)) + 0.7 * rng.standard_normal((130, 8))
straight, unseen, flat_truth = everything[:30], everything[30:], plane[:30]
flat_model = gplvm.build_model(straight, latent_dim=2)
flat = {
    "joint": gplvm.fit_map(flat_model, random_seed=1, progressbar=False),
    "marginal": gplvm.fit_marginal(flat_model, random_seed=1, progressbar=False),
}
flat["draws"] = gplvm.align(sampled(flat_model, flat["marginal"], DRAWS // 2, TUNE // 2))
beside = side_by_side(flat, flat_truth)
low, high = beside.loc["draws", ["sigma_lb", "sigma_ub"]]
assert beside.loc["joint", "sigma"] < low < beside.loc["marginal", "sigma"] < high
assert beside.loc["joint", "sd_X"] < 0.3 < 0.7 < beside.loc["marginal", "sd_X"]
beside[names + agreement].round(2)

# %% [markdown]
# In the same frame and on the same scale: N(0, 1), the prior of a new row, fits the marginal estimate, and
# is ten times too wide for the joint mode. That costs new rows their density.

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharex=True, sharey=True)
shown = {"truth": flat_truth} | {
    name: gplvm.align(flat[name], to=flat_truth)["aligned"]["X"][0, 0].to_numpy()
    for name in ("joint", "marginal")
}
for ax, (name, places) in zip(axes, shown.items(), strict=True):
    ax.scatter(*places.T, c=flat_truth[:, 0], s=12, cmap="viridis")
    ax.set(title=name, aspect="equal", xlabel="latent 0")
axes[0].set_ylabel("latent 1")
plt.show()

density = {
    name: gplvm.log_predictive(flat[name], unseen, random_seed=1, progressbar=False)["log_score"]
    for name in ("joint", "marginal")
}
gain = (density["marginal"] - density["joint"]).to_numpy()
assert gain.mean() > 3.0 * gain.std() / np.sqrt(len(gain))
print(
    f"ln p of a new row: the marginal estimate gains {gain.mean():.2f} ± {gain.std() / 10:.2f} nats"
)

# %% [markdown]
# ## Where each row may lie
#
# Back to the first table. All in units of the lengthscale and in the frame of the joint mode. An ellipse
# holds 89 % of a row's draws; a dot in it is where the first fit has the row.

# %%
gplvm.plot.compare({"joint": joint, "marginal": marginal, "draws": full}, color="first")
plt.show()

# %% [markdown]
# The same as a background: where rows lie, by the density of their places.

# %%
gplvm.plot.latent(aligned, color="first", background="density")
plt.show()

# %% [markdown]
# ## Where a point estimate is too sure
#
# Ask for each row: which are its 5 nearest rows? An estimate answers yes or no for every pair. Draws
# give a probability. As the truth is known, all can be scored: by the mean squared error of the
# probability (Brier's score), and by how often the neighbours of an estimate are true ones.

# %%
nearest = np.argsort(r2 + 1e9 * np.eye(ROWS), axis=1)[:, :5]
true = np.zeros((ROWS, ROWS))
np.put_along_axis(true, nearest, 1.0, axis=1)
pairs = ~np.eye(ROWS, dtype=bool)

fits = {"joint": joint, "marginal": marginal, "draws": full}
said = {
    name: gplvm.diagnostics.neighbour_probabilities(f, n_neighbors=5).to_numpy()[pairs]
    for name, f in fits.items()
}
brier = {name: float(np.mean((p - true[pairs]) ** 2)) for name, p in said.items()}
right = {name: float(true[pairs][said[name] == 1.0].mean()) for name in ("joint", "marginal")}
assert brier["draws"] < 0.7 * min(brier["joint"], brier["marginal"])
assert max(right.values()) < 0.9
print("Brier score:", {name: round(score, 3) for name, score in brier.items()})
print(
    "of the neighbours it is sure of are true:", {k: f"{share:.0%}" for k, share in right.items()}
)

# %% [markdown]
# And the probabilities mean what they say: of the pairs to which the draws give about 30 %, about
# 30 % are neighbours.

# %%
drawn = said["draws"]
edges = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
place = np.clip(np.digitize(drawn, edges) - 1, 0, len(edges) - 2)
filled = [i for i in range(len(edges) - 1) if (place == i).sum() >= 10]
meant = np.array([drawn[place == i].mean() for i in filled])
came = np.array([true[pairs][place == i].mean() for i in filled])
counts = np.array([(place == i).sum() for i in filled])

figure, ax = plt.subplots(figsize=(4, 3.4), layout="constrained")
ax.axline((0, 0), slope=1, color="0.6", ls=":")
ax.errorbar(meant, came, 2 * np.sqrt(came * (1 - came) / counts), fmt="o", label="draws, ± 2 se")
ax.plot(1.0, right["joint"], "s", color="#CC6677", label="joint mode")
ax.plot(1.0, right["marginal"], "^", color="#117733", label="marginal estimate")
ax.set(xlabel="probability of being neighbours", ylabel="share that are")
ax.legend(fontsize="small")
plt.show()
assert abs(np.average(came - meant, weights=counts)) < 0.01

# %% [markdown]
# ## Which rows are the uncertain ones?
#
# The sd of each row's place, in units of the lengthscale. No estimate of one X has that.

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
