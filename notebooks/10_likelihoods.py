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
# # Does it pay to say what an entry is?
#
# Counts, answers from 1 to 5 and readings with gross errors can all be handed to a Gaussian model: counts by their logarithms, answers as
# numbers, errors as they are. `fit_svi` takes a likelihood that says what an entry is. Here both do each table, beside PCA. Entries are hidden from
# all of them, and two questions are asked of each: how probable did it call what was hidden, and do its intervals hold as much as they say?

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
EPOCHS, DRAWS = (5, 5) if SHORT else (150, 40)
QUIET = {"random_seed": 1, "progressbar": False}


def hide(Y, share=0.1):
    """The table with some entries hidden, and where."""
    hidden = np.random.default_rng(5).random(Y.shape) < share
    return np.where(hidden, np.nan, Y), hidden


def gain_of(p, other):
    """Mean of ln p / other over the hidden entries, and its standard error."""
    gain = np.log(p[hidden]) - np.log(other[hidden])
    return gain.mean(), gain.std() / np.sqrt(len(gain))


def drawn(fit, noise=False, each=1):
    """E[y | f] of the table's rows, or with noise new measurements, for draws of X from q and of f given X."""
    X = fit["posterior"]["X"][0].to_numpy()
    chosen = np.linspace(0, len(X) - 1, DRAWS).astype(int)
    tables = [
        gplvm.sample_predictive(fit, X[i], noise=noise, num_samples=each, random_seed=int(i))
        for i in chosen
    ]
    return np.concatenate([table["predictions"]["Y"][0] for table in tables])


# %% [markdown]
# ## Counts of cells
#
# 400 simulated cells lie on a path that branches. Each of 60 genes has a smooth rate over it, the counts scatter more than Poisson counts
# do (negative binomial, r = 2), and each cell was read to a depth of its own.

# %%
rng = np.random.default_rng(1)
N, D = (80, 12) if SHORT else (400, 60)
t = rng.uniform(0.0, 1.0, N)
branch = np.where(t < 0.4, "early", np.where(rng.random(N) < 0.5, "left", "right"))
side = np.select([branch == "left", branch == "right"], [1.0, -1.0]) * np.maximum(t - 0.4, 0.0)
place = np.column_stack([2.0 * t, 2.0 * side])
centres = rng.uniform([0.0, -1.2], [2.0, 1.2], (D, 2))
rate = 0.3 + 4.0 * np.exp(-2.0 * ((place[:, None] - centres) ** 2).sum(axis=2))
depth = rng.lognormal(0.0, 0.5, (N, 1))
counts = rng.poisson(rng.gamma(2.0, 0.5, rate.shape) * depth * rate).astype(float)
seen, hidden = hide(counts)
print(f"{(counts == 0).mean():.0%} of the counts are 0, the largest is {counts.max():.0f}")

# %% [markdown]
# `offset` holds the logarithm of the depth; where it is not known, `offset="size"` takes each row's sum. The Gaussian gets
# ln(1 + y / depth), as is usual, and so does PCA, which must see the whole table.

# %%
given = {"epochs": EPOCHS, "n_inducing": 30, **QUIET}
logs = np.log1p(seen / depth)
fits = {
    "Gaussian of logarithms": gplvm.fit_svi(logs, 2, **given),
    "Poisson": gplvm.fit_svi(seen, 2, likelihood="poisson", offset=np.log(depth), **given),
    "negative binomial": gplvm.fit_svi(
        seen, 2, likelihood="negative_binomial", offset=np.log(depth), **given
    ),
}
positions = {name: fit["approximation"]["X_mean"].to_numpy() for name, fit in fits.items()}
positions["PCA of logarithms"] = PCA(2).fit_transform(np.log1p(counts / depth))

# %% [markdown]
# `diagnostics.score_entries` gives the probability of each count, and its randomised quantile residual: drawn evenly between the
# probability of a smaller count and that of none larger. A Gaussian of the logarithms gives count y what lies between y - ½ and y + ½.

# %%
right = stats.nbinom(2, 2 / (2 + depth * rate))
even = np.random.default_rng(2).random(counts.shape)


def between(below, upto):
    """Probability and residual of what lies between."""
    return upto - below, below + even * (upto - below)


def of_logarithms(fit, y):
    filled = gplvm.reconstruct(fit, noise=True)
    below, upto = (
        stats.norm.cdf(
            (np.log1p(np.maximum(y + h, 0.0) / depth) - filled["mean"].to_numpy())
            / filled["sd"].to_numpy()
        )
        for h in (-0.5, 0.5)
    )
    return between(np.where(y == 0, 0.0, below), upto)


def of_entries(fit, y):
    scores = gplvm.diagnostics.score_entries(fit, y, random_seed=2)
    return np.exp(scores["log_density"].to_numpy()), scores["quantile"].to_numpy()


said = {
    name: of_logarithms(fit, counts) if name.startswith("Gauss") else of_entries(fit, counts)
    for name, fit in fits.items()
}
said["the truth"] = between(right.cdf(counts - 1), right.cdf(counts))
residual = {name: u for name, (_, u) in said.items()}

scores = pd.DataFrame(
    {
        "ln p of a hidden count": {n: np.log(p[hidden]).mean() for n, (p, _) in said.items()},
        "89 % intervals hold": {
            n: (abs(u[hidden] - 0.5) < 0.445).mean() for n, u in residual.items()
        },
        "trustworthiness": {n: trustworthiness(place, X) for n, X in positions.items()},
    }
)
if not SHORT:
    assert scores["trustworthiness"].idxmax() == "negative binomial"
scores.sort_values("ln p of a hidden count", ascending=False).round(3)

# %% [markdown]
# The differences have standard errors, as only some entries were hidden:

# %%
best = said["negative binomial"][0]
for name in ("Gaussian of logarithms", "Poisson"):
    gain, error = gain_of(best, said[name][0])
    print(f"negative binomial, above {name}: {gain:.3f} ± {error:.3f} nats a hidden count")
    assert SHORT or gain > 3 * error

# %% [markdown]
# ### Are the probabilities right?
#
# If a model is right, the residuals are even from 0 to 1: a flat histogram. Walls at both ends say that intervals
# are too narrow, a hump in the middle that they are too wide.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True, layout="constrained")
for ax, name in zip(axes, fits, strict=True):
    ax.hist(residual[name][hidden], bins=20, range=(0, 1), density=True, color="C0")
    ax.axhline(1.0, color="black", linewidth=1)
    ax.set(title=name, xlabel="quantile residual")
axes[0].set_ylabel("density")
plt.show()

# %% [markdown]
# ### The pictures
#
# X is known up to rotation: compare the shapes, not the axes.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (name, fit) in zip(axes, fits.items(), strict=True):
    of_branch = pd.Series(branch, name="branch")
    gplvm.plot.latent(fit, color=of_branch, background=False, spread=False, ax=ax)
    ax.set_title(name)
for ax in axes[1:]:
    ax.get_legend().remove()
plt.show()

# %% [markdown]
# ## A questionnaire
#
# 200 people answer 9 questions from 1 to 5. The answers are those of two traits, cut at places that differ by question; many are at
# an end. The Gaussian gives answer k what lies between k - ½ and k + ½.

# %%
N = 60 if SHORT else 200
trait = rng.standard_normal((N, 2))
leaning = 2.0 * trait @ rng.standard_normal((2, 9)) + rng.logistic(0.0, 0.5, (N, 9))
cuts = np.sort(rng.normal(0.0, 2.0, (9, 4)), axis=1)
answers = 1.0 + (leaning[:, :, None] > cuts).sum(axis=2)
seen, hidden = hide(answers)
given |= {"epochs": 2 * EPOCHS}
ordinal = gplvm.fit_svi(seen, 2, likelihood="ordinal", **given)
gaussian = gplvm.fit_svi(seen, 2, scale="feature", **given)

levels = np.arange(1, 6)
new = drawn(ordinal, noise=True, each=10)
chances = {"ordinal": ((new[..., None] == levels).sum(axis=0) + 0.2) / (len(new) + 1.0)}
filled = gplvm.reconstruct(gaussian, noise=True)
edges = np.array([-np.inf, 1.5, 2.5, 3.5, 4.5, np.inf])
mean, sd = (filled[name].to_numpy()[:, :, None] for name in ("mean", "sd"))
chances["Gaussian"] = np.diff(stats.norm.cdf((edges - mean) / sd))
usual = (
    np.array([(seen == k).sum(axis=0) for k in levels]).T / np.isfinite(seen).sum(axis=0)[:, None]
)
chances["shares of each question"] = np.broadcast_to(usual, chances["Gaussian"].shape)

was = answers[:, :, None] == levels
scores = pd.Series(
    {
        name: np.log(np.maximum(p[was].reshape(answers.shape), 1e-3))[hidden].mean()
        for name, p in chances.items()
    },
    name="ln p of a hidden answer",
)
assert SHORT or scores.idxmax() == "ordinal"
scores.round(3)

# %% [markdown]
# Of all answers that were given a chance of 20 to 30 %, about a quarter should have come true. The bars are one standard error of such
# a share if the chances are right.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True, layout="constrained")
bins = np.linspace(0.0, 1.0, 9)
for ax, name in zip(axes, ("Gaussian", "ordinal"), strict=True):
    p, true = chances[name][hidden].ravel(), was[hidden].ravel()
    which = np.clip(np.digitize(p, bins) - 1, 0, 7)
    n = np.bincount(which, minlength=8)
    x, y = (np.bincount(which, v, minlength=8) / np.maximum(n, 1) for v in (p, true))
    some = n >= 5
    ax.errorbar(
        x[some], y[some], np.sqrt(x * (1 - x) / np.maximum(n, 1))[some], fmt="o", color="C0"
    )
    ax.plot([0, 1], [0, 1], color="black", linewidth=1)
    ax.set(title=name, xlabel="chance that was given")
axes[0].set_ylabel("share that came true")
plt.show()

# %% [markdown]
# ## Sensors that are wrong now and then
#
# 300 states of a plant, read by 15 sensors, each with a noise of its own; a twentieth of the readings is off by a lot. Which
# function is nearer to the truth?

# %%
N = 60 if SHORT else 300
state = rng.standard_normal((N, 2))
truth = np.sin(state @ rng.standard_normal((2, 15)) + rng.uniform(0.0, 6.0, 15))
noise = rng.choice([0.05, 0.1, 0.3], 15)
readings = truth + noise * rng.standard_normal(truth.shape)
wrong = rng.random(truth.shape) < 0.05
readings[wrong] += 4.0 * rng.standard_normal(wrong.sum())

fits = {
    "Gaussian": gplvm.fit_svi(
        readings, 2, likelihood=gplvm.likelihoods.gaussian("column"), **given
    ),
    "Student-t": gplvm.fit_svi(
        readings, 2, likelihood=gplvm.likelihoods.student_t(noise="column"), **given
    ),
}
found = {name: gplvm.reconstruct(fit)["mean"].to_numpy() for name, fit in fits.items()}
found["the readings"] = readings
pca = PCA(2).fit(readings)
found["PCA"] = pca.inverse_transform(pca.transform(readings))
errors = pd.DataFrame(
    {
        name: {
            "where readings are right": np.sqrt(((F - truth)[~wrong] ** 2).mean()),
            "where they are wrong": np.sqrt(((F - truth)[wrong] ** 2).mean()),
        }
        for name, F in found.items()
    }
).T
assert SHORT or (errors.idxmin() == "Student-t").all()
errors.round(3)

# %% [markdown]
# What each sensor's noise was found to be:

# %%
order = np.argsort(noise, kind="stable")
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for name, marker in (("Gaussian", "o"), ("Student-t", "s")):
    sigma = (
        fits[name]["posterior"]["sigma"][0, 0] * fits[name]["constant_data"]["Y_scale"]
    ).to_numpy()
    ax.plot(sigma[order], marker, label=name, color={"o": "C1", "s": "C0"}[marker])
ax.step(np.arange(15), noise[order], where="mid", color="black", linewidth=1, label="truth")
ax.set(
    xlabel="sensor",
    ylabel="sigma, units of the readings",
    yscale="log",
    title="Gross errors are taken for noise by the Gaussian",
)
ax.legend()
plt.show()

# %% [markdown]
# ## Columns of several kinds
#
# A dict names the likelihood of each column. A yes or no that is missing comes back as a chance.

# %%
N = 60 if SHORT else 200
x = rng.standard_normal((N, 1))
table = pd.DataFrame(
    {
        "weight": 70 + 8 * x[:, 0] + rng.normal(0, 4, N),
        "pressure": 120 + 10 * np.tanh(x[:, 0]) + rng.normal(0, 4, N),
        "visits": rng.poisson(np.exp(0.6 * x[:, 0] + 0.5)),
        "smokes": rng.random(N) < 1 / (1 + np.exp(-2.5 * x[:, 0])),
    }
).astype(float)
kinds = {("weight", "pressure"): "gaussian", "visits": "poisson", "smokes": "bernoulli"}
asked = table.copy()
unknown = rng.random(N) < 0.3
asked.loc[unknown, "smokes"] = np.nan
fit = gplvm.fit_svi(asked, 1, likelihood=kinds, scale="feature", **given)
chance = gplvm.impute(fit)["mean"].sel(feature="smokes").to_numpy()[unknown]
smokes = table["smokes"].to_numpy()[unknown] == 1
print(
    f"chance given to those who do: {chance[smokes].mean():.2f}, to those who do not: {chance[~smokes].mean():.2f}"
)
assert SHORT or chance[smokes].mean() > chance[~smokes].mean() + 0.15

# %% [markdown]
# ## A real table, and where it does not pay
#
# Each of the 64 numbers of a handwritten digit of scikit-learn's counts the inked pixels of a block of 4 × 4: 0 to 16. Of 300 digits a tenth of the
# entries is hidden. A count of 16 looks like a case for `binomial(16)`. Another choice is `ordinal`: it knows nothing of numbers but their order.

# %%
N = 60 if SHORT else 300
digits = gplvm.data.load_digits(n=N, random_seed=1).to_numpy()
digits = digits[:, (digits > 7).any(axis=0) & (digits <= 7).any(axis=0)]
seen, hidden = hide(digits)
given |= {"epochs": EPOCHS}
fits = {
    "Gaussian": gplvm.fit_svi(seen, 4, likelihood=gplvm.likelihoods.gaussian("column"), **given),
    "binomial": gplvm.fit_svi(seen, 4, likelihood=gplvm.likelihoods.binomial(16), **given),
    "ordinal": gplvm.fit_svi(seen, 4, likelihood=gplvm.likelihoods.ordinal(range(17)), **given),
}
said = {}
even = np.random.default_rng(2).random(digits.shape)
for name, fit in fits.items():
    if name == "Gaussian":
        filled = gplvm.reconstruct(fit, noise=True)
        mean, sd = filled["mean"].to_numpy(), filled["sd"].to_numpy()
        below = np.where(digits == 0, 0.0, stats.norm.cdf((digits - 0.5 - mean) / sd))
        upto = np.where(digits == 16, 1.0, stats.norm.cdf((digits + 0.5 - mean) / sd))
        said[name] = between(below, upto)
    else:
        said[name] = of_entries(fit, digits)

scores = pd.DataFrame(
    {
        name: {
            # No chance below 1 in 1000: the Gaussian's tails are thin.
            "ln p of a hidden entry": np.log(np.maximum(p, 1e-3))[hidden].mean(),
            "89 % intervals hold": (abs(u - 0.5)[hidden] < 0.445).mean(),
        }
        for name, (p, u) in said.items()
    }
).T
if not SHORT:
    held = scores["89 % intervals hold"]
    assert scores["ln p of a hidden entry"].idxmax() == held.idxmax() == "ordinal"
    assert held["binomial"] < held["Gaussian"]
scores.round(3)

# %% [markdown]
# The binomial's intervals are too narrow, more so than the Gaussian's: the 16 pixels of a block are no independent trials. The right range of values is not
# enough. Ordinal answers have 16 cuts a column to learn, and are the best of the three.
#
# Binarised, a pixel is a yes or no:

# %%
ink = (digits > 7).astype(float)
seen = np.where(hidden, np.nan, ink)
given |= {"epochs": 2 * EPOCHS}
chances = {
    "Bernoulli": gplvm.impute(gplvm.fit_svi(seen, 4, likelihood="bernoulli", **given))["mean"],
    "Gaussian, cut to [.01, .99]": gplvm.impute(gplvm.fit_svi(seen, 4, **given))["mean"],
}
p = {
    name: np.clip(np.where(ink == 1, chance, 1 - chance), 0.01, 0.99)
    for name, chance in chances.items()
}
gain, error = gain_of(p["Bernoulli"], p["Gaussian, cut to [.01, .99]"])
print(f"Bernoulli, above the Gaussian: {gain:.3f} ± {error:.3f} nats a hidden pixel")
assert SHORT or abs(gain) < 2 * error
pd.Series(
    {name: np.log(each[hidden]).mean() for name, each in p.items()}, name="ln p of a hidden pixel"
).round(3)

# %% [markdown]
# The Gaussian knows a hidden pixel as well. A likelihood pays where entries scatter as it says and a Gaussian cannot: few counts, answers
# at the ends, gross errors. Hide some entries of your own table and see; the figures of larger tables are in the guide (*Likelihoods*).
