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
# # What can a fit say of rows it has not seen?
#
# Where a new row lies, how likely it is, and what its missing entries were: `embed`,
# `log_predictive` and `impute`. All three integrate over the place x of the row, so that a row which
# may lie in two places is told as such.

# %%
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
TRAIN, TEST = (120, 30) if SHORT else (300, 80)

digits = gplvm.data.load_digits(n=TRAIN + TEST)
order = np.random.default_rng(0).permutation(TRAIN + TEST)
Y, Y_new = digits[order[:TRAIN]], digits[order[TRAIN:]]
labels, labels_new = Y["label"].to_numpy(), Y_new["label"].to_numpy()

# %% [markdown]
# A new row has the prior N(0, 1) on its place. `fit_marginal` keeps the positions at that scale; at the
# joint mode of `fit_map` they lie within a few tenths of the origin, where that prior is far too wide.

# %%
model = gplvm.build_model(Y, kernel="rbf + linear")
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
joint = gplvm.fit_map(model, random_seed=1, progressbar=False)
sd = {name: float(f["posterior"]["X"].std()) for name, f in (("marginal", best), ("joint", joint))}
assert sd["joint"] < 0.7 < sd["marginal"]
{name: round(value, 2) for name, value in sd.items()}

# %% [markdown]
# ## Places of new rows
#
# `pareto_k` above 0.7 says that the draws of a row may have missed a place: rely on the others.
# `shortfall` tells how much worse a row is explained than the table's own rows are when left out:
# above 5 its place means little, and `embed` warns.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of single rows, which are in the table
    new = gplvm.embed(best, Y_new, random_seed=1, progressbar=False)
assert (new["rows"]["pareto_k"] > 0.7).mean() < 0.1
new["rows"].to_dataset().to_dataframe()[
    ["effective_modes", "pareto_k", "shortfall"]
].describe().round(2)

# %%
X = best["posterior"]["X"][0, 0].to_numpy()
places = new["posterior"]["X"][0]
ax = gplvm.plot.latent(best, color="label")
mean = places.mean("draw")
ax.plot(*mean.to_numpy().T, "x", color="#D41159", ms=7, mew=2, label="new rows")
ax.plot(*places[::40].stack(every=("draw", "obs_new")).to_numpy(), ",", color="#D41159")
plt.show()

# %% [markdown]
# The nearest known row of the weightiest mode mostly has the same label.

# %%
mode = new["modes"]["X"].isel(mode=0).to_numpy()
nearest = np.linalg.norm(mode[:, None] - X, axis=2).argmin(axis=1)
right = (labels[nearest] == labels_new).mean()
assert right > 0.6
print(f"{right:.0%} of {TEST} new digits lie beside one of their class")

# %% [markdown]
# ## A row with two places
#
# `effective_modes` is 1 where the place is clear and 2 where two are as likely. The decoded modes show
# between what the model cannot decide.

# %%
effective = new["rows"]["effective_modes"].to_numpy()
row = int(effective.argmax())
modes = new["modes"].to_dataset().isel(obs_new=row).dropna("mode")
decoded = gplvm.predict(best, modes["X"].to_numpy())["mean"].to_numpy()

figure, axes = plt.subplots(1, 1 + len(decoded), figsize=(1.6 * (1 + len(decoded)), 1.9))
pictures = [Y_new[row].to_numpy(), *decoded]
titles = ["the row", *(f"mode, {w:.0%}" for w in modes["weight"].to_numpy())]
for ax, picture, title in zip(np.atleast_1d(axes), pictures, titles, strict=True):
    ax.imshow(picture.reshape(8, 8), cmap="Greys", vmin=0, vmax=16)
    ax.set_title(title, fontsize="small")
    ax.set_axis_off()
plt.show()
assert abs(float(modes["weight"].sum()) - 1.0) < 1e-6
assert effective[row] > 1.3

# %% [markdown]
# ## Missing entries
#
# The lower half of each new digit is taken away. `impute` places the row by what is left, and fills
# in the rest, with a standard deviation. (Fewer than the nominal 95 % lie within two of them: the model
# has one noise for all pixels, and θ and the known digits' places are held.)

# %%
holes = Y_new.copy()
holes[:, 32:] = np.nan
filled = gplvm.impute(best, holes, random_seed=1, progressbar=False)

error = (filled["mean"].to_numpy() - Y_new.to_numpy())[:, 32:]
by_model = np.sqrt((error**2).mean())
by_mean = np.sqrt(((Y.mean("obs").to_numpy() - Y_new.to_numpy())[:, 32:] ** 2).mean())
score = error / filled["sd"].to_numpy()[:, 32:]
inside = (np.abs(score) < 2.0).mean()
print(f"root mean square error: {by_model:.2f}, of the pixels' means {by_mean:.2f} (of 16)")
print(f"within 2 sd: {inside:.0%}")
assert by_model < by_mean
assert inside > 0.8

# %%
shown = range(8)
figure, axes = plt.subplots(3, 8, figsize=(8, 3.2), layout="constrained")
for j, (name, rows, top) in enumerate(
    [("seen", holes, 16), ("filled", filled["mean"], 16), ("sd", filled["sd"], 8)]
):
    for i in shown:
        axes[j, i].imshow(rows[i].to_numpy().reshape(8, 8), cmap="Greys", vmin=0, vmax=top)
        axes[j, i].set(xticks=[], yticks=[])
    axes[j, 0].set_ylabel(name)
plt.show()

# %% [markdown]
# ## How likely is a row?
#
# `log_predictive` is ln p(y), the place integrated out. Digits whose pixels have been shuffled have
# the same ink and are no digits; the density tells them apart.

# %%
known = gplvm.log_predictive(best, Y_new, random_seed=1, progressbar=False)["log_score"].to_numpy()
shuffled = Y_new.copy(data=np.random.default_rng(1).permuted(Y_new.to_numpy(), axis=1))
strange = gplvm.log_predictive(best, shuffled, random_seed=1, progressbar=False)[
    "log_score"
].to_numpy()
assert np.median(known) > np.quantile(strange, 0.95)

figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
bins = np.linspace(min(known.min(), strange.min()), known.max(), 30)
ax.hist(known, bins, color="#332288", alpha=0.8, label="digits")
ax.hist(strange, bins, histtype="step", color="#CC6677", linewidth=2, label="shuffled")
ax.set(xlabel="ln p(y)", ylabel="rows")
ax.legend()
plt.show()

# %% [markdown]
# What `embed` says of them is their shortfall:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # it warns of them, which is the point
    strangers = gplvm.embed(best, shuffled, random_seed=1, progressbar=False)
shortfall = {
    name: tree["rows"]["shortfall"].to_numpy()
    for name, tree in (("digits", new), ("shuffled", strangers))
}
print({name: f"{(rows > 5).mean():.0%} above 5" for name, rows in shortfall.items()})
assert (shortfall["digits"] > 5).mean() < 0.1
assert np.median(shortfall["shuffled"]) > np.quantile(shortfall["digits"], 0.9)

# %% [markdown]
# The density also compares models fairly: the rows have not been seen. Two dimensions against one,
# and the marginal estimate against the joint mode, on the same held-out rows:

# %%
line = gplvm.fit_marginal(
    gplvm.build_model(Y, 1, kernel="rbf + linear"), random_seed=1, progressbar=False
)
gains = {}
for name, other in (("one dimension", line), ("the joint mode", joint)):
    scores = gplvm.log_predictive(other, Y_new, random_seed=1, progressbar=False)["log_score"]
    gains[name] = known - scores.to_numpy()
    error = gains[name].std() / np.sqrt(TEST)
    print(
        f"two dimensions, marginal, against {name}: {gains[name].mean():.2f} ± {error:.2f} nats a row"
    )
assert gains["one dimension"].mean() > 0.0
