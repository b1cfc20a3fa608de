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
# # One picture, or several?
#
# On a real table there is rarely one embedding. Here are handwritten digits: the estimate beside an ensemble of
# sampled embeddings. Which things do they agree on (θ, neighbours), on which not (how far groups lie from
# each other), and what does it matter to a new row?

# %%
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
ROWS, TUNE, DRAWS = (40, 40, 30) if SHORT else (100, 600, 300)

everything = gplvm.data.load_digits(n=ROWS + 100, random_seed=1)
Y, unseen = everything[:ROWS], everything[ROWS:]
model = gplvm.build_model(Y, latent_dim=2, kernel="rbf")
best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)

# %% [markdown]
# ## An ensemble
#
# Beyond 60 rows `sample` does not promise the whole posterior. It runs eight chains from starts of their own, each in
# the embeddings that it finds, and weighs them by how well their mixture predicts rows left out.

# %%
many = gplvm.sample(
    model, explore="ensemble", tune=TUNE, draws=DRAWS, random_seed=1, progressbar=False
)
weight, score = many["ensemble"]["weight"], many["ensemble"]["score"]
chains = pd.DataFrame(
    {
        "weight": weight,
        "log-likelihood": many["sample_stats"]["log_likelihood"].mean("draw"),
        "ln p of a row left out": score.mean("obs"),
        "lengthscale": many["posterior"]["lengthscale"].mean("draw"),
        "sigma": many["posterior"]["sigma"].mean("draw"),
    }
).rename_axis("chain")
assert abs(chains["weight"].sum() - 1.0) < 1e-9
chains.round(2)

# %%
verdict = gplvm.diagnose(many)
print(*verdict.sentences[:3], sep="\n\n")
assert SHORT or not verdict.converged

# %% [markdown]
# A chain with a likelihood tens of nats above another's need not predict better: compare the columns.
#
# ## The pictures
#
# Four of the chains, and all of them turned onto the estimate as far as it goes. An ellipse holds 89 % of a
# row's draws. Within a chain most rows are well placed; over the chains hardly any is: the last panel averages
# different pictures, and is none itself.

# %%
aligned = gplvm.align(many, to=best)
figure, axes = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
order = np.argsort(-weight.to_numpy())
gplvm.plot.latent(best, color="label", background=False, ax=axes[0, 0])
axes[0, 0].set_title("estimate")
for ax, chain in zip(axes.ravel()[1:5], order[:4], strict=True):
    one = gplvm.align(many.isel(chain=[int(chain)]))
    gplvm.plot.latent(one, color="label", background=False, ax=ax)
    ax.set_title(f"chain {chain}, weight {float(weight[chain]):.2f}")
gplvm.plot.latent(aligned, color="label", background=False, ax=axes[1, 2])
axes[1, 2].set_title("all, by their weights")
for ax in axes.ravel()[1:]:
    ax.get_legend().remove()
plt.show()

# %% [markdown]
# ## What agrees, and what does not
#
# Between two embeddings: how many of a row's 5 nearest rows are the same, whether these have its digit, and how
# the distances correlate, of rows of one digit and between the centres of the digits.

# %%
label = Y["label"].to_numpy()
Z = many["posterior"]["X"] / many["posterior"]["lengthscale"]
distance = np.array([np.mean([pdist(z) for z in chain[::5]], axis=0) for chain in Z.to_numpy()])
same = squareform(label[:, None] == label, checks=False)


def nearest(d):
    return np.argsort(squareform(d) + 1e9 * np.eye(ROWS), axis=1)[:, :5]


def centres(chain):
    digits = np.unique(label)
    return np.mean(
        [pdist([z[label == d].mean(axis=0) for d in digits]) for z in chain[::5]], axis=0
    )


near, between = [nearest(d) for d in distance], [centres(chain) for chain in Z.to_numpy()]
pairs = [(i, j) for i in range(len(near)) for j in range(i)]
agreement = {
    "nearest rows that are the same": np.mean(
        [
            np.mean([np.isin(a, b).mean() for a, b in zip(near[i], near[j], strict=True)])
            for i, j in pairs
        ]
    ),
    "nearest rows of the same digit": np.mean([(label[n] == label[:, None]).mean() for n in near]),
    "correlation of distances within digits": np.mean(
        [np.corrcoef(distance[i][same], distance[j][same])[0, 1] for i, j in pairs]
    ),
    "correlation of distances between centres": np.mean(
        [np.corrcoef(between[i], between[j])[0, 1] for i, j in pairs]
    ),
}
pd.Series(agreement).round(2)

# %% [markdown]
# θ agrees (the table of chains above), and so does which rows belong together. How far one group of digits lies from
# another is a matter of the chain: read no such distance off one picture.
#
# ## How sure is a place?
#
# Laplace's approximation and `explore="local"` look about one picture: the second keeps each row within the
# neighbourhood that it has in the estimate. The ensemble counts the other pictures too.

# %%
near_best = gplvm.sample(
    model,
    explore="local",
    start=best,
    tune=TUNE // 4,
    draws=DRAWS // 3,
    random_seed=1,
    progressbar=False,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of weights that are unreliable
    laplace = gplvm.fit_laplace(model, start=best, random_seed=1, progressbar=False)
    fits = {"Laplace": laplace, "local": near_best, "ensemble": many}
    table = gplvm.compare(fits, n_neighbors=5, labels="label")
spread = {}
for name, fit in fits.items():
    scaled = fit["posterior"]["X"] / fit["posterior"]["lengthscale"]
    flat = scaled.to_numpy().reshape(-1, ROWS, 2)
    spread[name] = np.std([pdist(z) for z in flat[:: max(len(flat) // 200, 1)]], axis=0).mean()
assert SHORT or spread["local"] < spread["ensemble"]
pd.Series(spread, name="mean sd of a distance, in lengthscales").round(2)

# %% [markdown]
# ## New rows
#
# ln p of 100 digits that no fit has seen, their places integrated out.

# %%
one = many.copy()
del one["ensemble"]
scored = {
    "estimate": best,
    **{f"chain {c}": one.isel(chain=[int(c)]) for c in order[:3]},
    "ensemble": many,
}
density = {
    name: gplvm.log_predictive(
        fit, unseen, num_samples=8 if SHORT else 24, draws=300, random_seed=1, progressbar=False
    )["log_score"].to_numpy()
    for name, fit in scored.items()
}
behind = {name: density["ensemble"] - d for name, d in density.items() if name != "ensemble"}
gain = pd.DataFrame(
    {
        "ln p": {name: d.mean() for name, d in density.items()},
        "ensemble is ahead by": {n: d.mean() for n, d in behind.items()},
        "standard error": {n: d.std(ddof=1) / np.sqrt(len(d)) for n, d in behind.items()},
    }
).loc[list(density)]
assert SHORT or gain.loc["estimate", "ensemble is ahead by"] > 0.0
gain.round(2)
