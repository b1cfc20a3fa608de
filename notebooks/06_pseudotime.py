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
# # Can an axis be made to mean time?
#
# A GP-LVM with the prior N(0, I) places cells well, but its axes mean nothing: any rotation will
# do. When something is known of where rows lie, here the stage at which each cell was taken, it
# belongs into the prior of `X` (GrandPrix: Ahmed, Rattray & Boukouvalas 2019). The first latent
# then *is* time, up to what the genes say to the contrary, also for cells whose stage nobody noted.
#
# The cells are those of Guo et al. (2010): mouse embryos from 1 to 64 cells, 48 genes by qPCR,
# normalised. At the 32-cell stage trophectoderm (TE) and inner cell mass (ICM) part, at 64 the latter
# into epiblast (EPI) and primitive endoderm (PE). The numbers are cycles: the lower, the more there
# is of a gene.

# %%
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
MARKERS = {"64 TE": "Id2", "64 PE": "Gata4", "64 EPI": "Fgf4"}


def simulated_cells(n, seed):
    """Cells that branch as those do: three genes mark a branch each, the others are random."""
    rng = np.random.default_rng(seed)
    height = {"32 TE": 1.2, "32 ICM": -0.9, "64 TE": 1.8, "64 PE": -0.6, "64 EPI": -2.2}
    kinds = np.array(["1", "2", "4", "8", "16", *height])
    label = rng.choice(kinds, n, p=np.array([1, 2, 2, 4, 7, 6, 5, 9, 4, 3]) / 43)
    age = np.log2([int(kind.split()[0]) for kind in label]) + 0.3 * rng.standard_normal(n)
    branch = np.array([height.get(kind, 0.0) for kind in label]) + 0.3 * rng.standard_normal(n)
    place = np.stack([age / 2.0, branch], axis=1)
    r2 = ((place[:, None] - place) ** 2).sum(axis=2)
    genes = np.linalg.cholesky(np.exp(-0.5 * r2) + 1e-6 * np.eye(n)) @ rng.standard_normal((n, 48))
    for column, kind in enumerate(MARKERS):
        genes[:, column] = -3.0 * np.exp(-((age - 6.0) ** 2 + (branch - height[kind]) ** 2))
    names = [*MARKERS.values(), *(f"gene{i}" for i in range(45))]
    return pd.DataFrame(genes + 0.4 * rng.standard_normal(genes.shape), label, names)


folder = Path(os.environ.get("PM_GPLVM_DATA") or "../../shared/data")
if (folder / "guo_qpcr.csv").is_file():
    frame = pd.read_csv(folder / "guo_qpcr.csv", index_col=0)
else:
    print("guo_qpcr.csv is not here (PM_GPLVM_DATA may name its folder): simulated cells instead.")
    frame = simulated_cells(437, seed=1)
frame = frame.iloc[:: 2 if SHORT else 1]

label = frame.index.astype(str).to_numpy()
stage = np.array([int(kind.split()[0]) for kind in label])
Y = xr.DataArray(
    frame.to_numpy(),
    dims=("obs", "feature"),
    coords={"feature": frame.columns, "label": ("obs", label), "stage": ("obs", stage)},
)
pd.Series(label).value_counts(sort=False)


# %% [markdown]
# ## What is known beforehand
#
# Time is counted in divisions, log₂ of the stage, brought to mean 0 and variance 1. The prior of the
# first latent is N(time, 0.2²), so that a cell may well be half a division ahead or behind; that of
# the second stays N(0, 1). `priors.informative` writes it down; the climb then begins with PCA turned to agree.

# %%
SD = 0.2
divisions = np.log2(stage)
time = (divisions - divisions.mean()) / divisions.std()


def informed_fit(Y, time):
    known = {"X": gplvm.priors.informative(time, SD)}
    model = gplvm.build_model(Y, latent_dim=2, ard=True, priors=known)
    return gplvm.fit_marginal(model, random_seed=1, progressbar=False)


plain = gplvm.fit_marginal(
    gplvm.build_model(Y, latent_dim=2, ard=True), random_seed=1, progressbar=False
)
informed = informed_fit(Y, time)


# %%
def rank_correlation(x, y):
    return float(spearmanr(x, y).statistic)


fits = {"N(0, I)": plain, "stage in the prior": informed}
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
for ax, (name, fit) in zip(axes, fits.items(), strict=True):
    gplvm.plot.latent(fit, color="label", ax=ax)
    ax.set_title(name)
plt.show()

# %%
orders = {}
for name, fit in fits.items():
    X = fit["posterior"]["X"][0, 0].to_numpy()
    orders[name] = [abs(rank_correlation(X[:, q], stage)) for q in (0, 1)]
    agreement = gplvm.diagnostics.score_embedding(X, Y, label)["nn_agreement"]
    print(
        f"{name:20} rank correlation with the stage: {orders[name][0]:.2f} and {orders[name][1]:.2f};",
        end=" ",
    )
    print(f"the nearest cell is of the same kind: {agreement:.0%}")
assert orders["stage in the prior"][0] > 0.9
assert orders["stage in the prior"][0] > max(orders["N(0, I)"]) + 0.05
assert orders["stage in the prior"][1] < 0.5

# %% [markdown]
# ## Cells without a stage
#
# That the first latent follows what its prior was told is no wonder. The test is cells of which it
# was told nothing. A third of them is taken out; the model learns from the others; `embed` places
# the third with the prior N(0, 1), from its genes alone.

# %%
unseen = np.random.default_rng(0).random(len(Y)) < 1 / 3
learnt = informed_fit(Y[~unseen], time[~unseen])
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # a few rows of unreliable weights
    places = gplvm.embed(learnt, Y[unseen], random_seed=1, progressbar=False)
draws = places["posterior"]["X"][0, :, :, 0]
low, centre, high = np.quantile(draws, [0.055, 0.5, 0.945], axis=0)

order = rank_correlation(centre, stage[unseen])
away = np.abs(centre - time[unseen]) * divisions.std()
print(f"{unseen.sum()} cells without a stage: rank correlation of their time with it {order:.2f},")
print(
    f"{(away < 1).mean():.0%} of them less than a division away from it, half less than {np.median(away):.2f}"
)
assert order > 0.8
assert (away < 1).mean() > 0.8

# %%
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
jitter = np.random.default_rng(1).uniform(-0.3, 0.3, unseen.sum())
ax.errorbar(
    divisions[unseen] + jitter, centre, [centre - low, high - centre], fmt="o", ms=3, lw=0.6
)
known = np.unique(divisions)
ax.plot(known, (known - divisions.mean()) / divisions.std(), "k_", ms=30, label="time of the stage")
ax.set(xlabel="stage (known to us, not to the model)", ylabel="first latent, 89 % interval")
ax.set_xticks(known, (2**known).astype(int))
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# The genes alone tell when a cell was taken, to a fraction of a division. The intervals are narrower
# than the scatter: they hold the other cells and θ where they are, and cells of one stage do differ in
# age.
#
# ## Genes over time
#
# The model is a function from the plane to all genes. `predict` draws it: Id2 marks trophectoderm,
# Gata4 primitive endoderm, Fgf4 epiblast (dark: few cycles, much of the gene). Grey lines: where the
# standard deviation left is half that of the gene.

# %%
X = informed["posterior"]["X"][0, 0].to_numpy()
ends = np.stack([X.min(axis=0), X.max(axis=0)]) + 0.2 * np.array([[-1.0], [1.0]])
across, up = (np.linspace(*ends[:, q], 50) for q in (0, 1))
grid = np.stack(np.meshgrid(across, up), axis=-1)
surface = gplvm.predict(informed, grid.reshape(-1, 2))
kinds = {
    kind: gplvm.predict(informed, X[label == kind].mean(axis=0, keepdims=True)) for kind in MARKERS
}

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
for ax, (kind, gene) in zip(axes, MARKERS.items(), strict=True):
    mean, sd = (surface[n].sel(feature=gene).to_numpy().reshape(50, 50) for n in ("mean", "sd"))
    shown = ax.pcolormesh(across, up, mean, cmap="viridis", shading="gouraud")
    ax.contour(across, up, sd, [0.5 * float(Y.sel(feature=gene).std())], colors="0.6")
    ax.scatter(*X.T, s=3, c="k", alpha=0.3)
    ax.scatter(*X[label == kind].T, s=8, c="w", label=kind)
    ax.set(title=gene, xlabel="first latent: time")
    ax.legend(loc="lower left", fontsize="small")
    figure.colorbar(shown, ax=ax)
    levels = {other: float(row["mean"].sel(feature=gene)[0]) for other, row in kinds.items()}
    assert min(levels, key=levels.get) == kind
axes[0].set_ylabel("second latent")
plt.show()
