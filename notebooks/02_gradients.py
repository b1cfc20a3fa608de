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
# # How do the gradients of a GP-LVM fit together?
#
# Who writes a Gaussian process latent variable model by hand soon has $\partial L/\partial K$, an
# $N \times N$ matrix, and three questions:
#
# 1. The derivatives of the kernel in the positions are an $N \times N \times Q$ array. How do the
#    two make an update of $X$, which is $N \times Q$?
# 2. $\partial K/\partial\theta$ is $N \times N$ as well. How does it become one number?
# 3. Post scriptum: may the stochastic algorithm take the gradient of $R$ neighbours and move
#    *all* positions by it?

# %%
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import approx_fprime

import pm_gplvm as gplvm

SHORT = bool(os.environ.get("PM_GPLVM_SHORT"))  # set by the tests
ROWS = 120 if SHORT else 300

Y = gplvm.data.load_digits(n=50)
N, D, Q = *Y.shape, 2
model = gplvm.build_model(Y, latent_dim=Q, resolution=0)
X = np.random.default_rng(1).normal(size=(N, Q))
point = {"X": X, "lengthscale": 0.8, "amplitude": 1.2, "sigma": 0.4}

# %% [markdown]
# ## What there is to differentiate
#
# By default the noise has a floor (`resolution`); with `resolution=0` and priors laid aside the
# objective is Lawrence's, and the diagonal of K holds $\sigma^2$ alone.
#
# Each column of the table (centred, and divided by one number) is Gaussian with the same
# covariance K over the rows:
#
# $$L = -\tfrac{DN}{2}\ln 2\pi - \tfrac{D}{2}\ln|K| - \tfrac12 \operatorname{tr}(K^{-1}YY^\top),
# \qquad \frac{\partial L}{\partial K} = \tfrac12\left(K^{-1}YY^\top K^{-1} - D K^{-1}\right).$$
#
# The ½ is missing in Lawrence (2005), eq. (10), and in what has been copied from there.
# `model.gradients` takes the chain rule apart; with `explicit=True` it writes out even the arrays that
# no fit ever forms.

# %%
parts = gplvm.model.gradients(model, point, explicit=True)
for name, part in parts.data_vars.items():
    print(f"{name:16} {part.dims!s:34} {part.shape}")

# %% [markdown]
# The ½, by moving a few entries of K one at a time:

# %%
F = ((Y - Y.mean("obs")) / np.sqrt(((Y - Y.mean("obs")) ** 2).mean())).to_numpy()
K, G = parts["K"].to_numpy(), parts["dL_dK"].to_numpy()
stated = np.linalg.inv(K) @ F @ F.T @ np.linalg.inv(K) - D * np.linalg.inv(K)


def likelihood_of(K):
    return -0.5 * D * np.linalg.slogdet(K)[1] - 0.5 * np.trace(np.linalg.solve(K, F @ F.T))


for i, j in ((0, 1), (3, 3), (7, 20)):
    moved = np.zeros((N, N))
    moved[i, j] = 1e-5
    slope = (likelihood_of(K + moved) - likelihood_of(K - moved)) / 2e-5
    print(
        f"entry {i, j}: measured {slope:9.3f}, with ½ {G[i, j]:9.3f}, without {stated[i, j]:9.3f}"
    )
    assert np.isclose(G[i, j], slope, rtol=1e-4)
np.testing.assert_allclose(stated, 2.0 * G, rtol=1e-6, atol=1e-6)

# %% [markdown]
# ## 1. From N × N × Q to N × Q
#
# The tensor holds $T_{njq} = \partial k(x_n, x_j)/\partial x_{nq}$, the derivative in the *first*
# argument. To move $x_n$ is to move row n of K and, as K is symmetric, column n as well, hence the
# factor 2. Row n of $\partial L/\partial K$ meets slice n of the tensor, and the index j is summed
# away:
#
# $$\frac{\partial L}{\partial x_{nq}} = 2\sum_j \Big(\frac{\partial L}{\partial K}\Big)_{nj} T_{njq}.$$
#
# Row by row, no N × N × Q matrix product: one number for each n and q.

# %%
T = parts["dK_dX"].to_numpy()
contracted = 2.0 * np.einsum("nj,njq->nq", G, T)
print(G.shape, "and", T.shape, "give", contracted.shape)
np.testing.assert_allclose(contracted, parts["dL_dX"], rtol=1e-8, atol=1e-8)

likelihood = gplvm.model.compile_objective(model, prior=False)


def of_one_row(x):
    return likelihood({**point, "X": np.vstack([x, X[1:]])})[0]


measured = approx_fprime(X[0], of_one_row, 1e-7)
print("row 0 by differences:", measured.round(2), " contracted:", contracted[0].round(2))
np.testing.assert_allclose(contracted[0], measured, rtol=1e-4)

# %% [markdown]
# A fit never forms the tensor. For a kernel of distances, $W = \partial L/\partial K \circ \partial
# k/\partial r^2$ and the sums of its rows do, in $O(N^2 Q)$. For the RBF $\partial k/\partial r^2 =
# -k/2$, r in units of the lengthscale, so that:

# %%
W = -0.5 * G * (K - point["sigma"] ** 2 * np.eye(N))
by_matrices = 4.0 * (W.sum(axis=1)[:, None] * X - W @ X) / point["lengthscale"] ** 2
np.testing.assert_allclose(by_matrices, parts["dL_dX"], rtol=1e-8, atol=1e-8)

# %% [markdown]
# With the linear kernel, $K = XX^\top + \sigma^2 I$, everything collapses into Lawrence's
# $K^{-1}YY^\top K^{-1}X - DK^{-1}X$: here the ½ of $\partial L/\partial K$ and the 2 of the symmetry
# cancel, which is why the missing ½ goes unnoticed. Its optimum needs no gradient at all: the
# eigenvectors of $YY^\top$, as in PCA.

# %%
flat = {"X": "flat", "sigma": "flat"}
linear = gplvm.build_model(Y, kernel="linear", priors=flat, resolution=0)
at = gplvm.model.gradients(linear, {"X": X, "sigma": 0.4})
inverse = np.linalg.inv(at["K"].to_numpy())
closed = inverse @ F @ F.T @ inverse @ X - D * inverse @ X
np.testing.assert_allclose(closed, at["dL_dX"], rtol=1e-8, atol=1e-8)

ppca = gplvm.fit_linear(linear)
top = np.abs(gplvm.model.gradients(linear, ppca)["dL_dX"]).max()
print(f"largest slope at a random X: {np.abs(closed).max():.1f}, at fit_linear's: {float(top):.1e}")
assert top < 1e-6

# %% [markdown]
# ## 2. From N × N to one number
#
# The same contraction, over both indices:
#
# $$\frac{\partial L}{\partial\theta} = \sum_{ij} \Big(\frac{\partial L}{\partial K}\Big)_{ij}
# \frac{\partial K_{ij}}{\partial\theta} = \operatorname{tr}\Big(\Big(\frac{\partial L}{\partial K}\Big)^{\!\top}
# \frac{\partial K}{\partial\theta}\Big).$$
#
# A number, and not zero, other than at an optimum:

# %%
for name in ("lengthscale", "amplitude", "sigma"):
    dK = parts[f"dK_d{name}"].to_numpy()
    total, trace = (G * dK).sum(), np.trace(G.T @ dK)
    step = 1e-6
    above, below = (likelihood({**point, name: point[name] + s})[0] for s in (step, -step))
    print(
        f"{name:12} {dK.shape} -> {total:10.3f}, by differences {(above - below) / (2 * step):10.3f}"
    )
    np.testing.assert_allclose([total, trace], float(parts[f"dL_d{name}"]), rtol=1e-7)
    np.testing.assert_allclose((above - below) / (2 * step), total, rtol=1e-4)
    assert abs(total) > 1.0

# %% [markdown]
# `fit_map` climbs to the mode of X and θ together, with the priors. There the likelihood still pulls;
# the priors pull back as hard. (`fit_marginal` ends elsewhere: its objective has one term more,
# of θ alone, so that X is a mode given θ, and θ is not.)

# %%
best = gplvm.fit_map(model, tol=1e-6, progressbar=False)
at_mode = gplvm.model.gradients(model, best)
mode = {rv.name: best["posterior"][rv.name][0, 0].to_numpy() for rv in model.free_RVs}
_, balance = gplvm.model.compile_objective(model)(mode)
for name in ("lengthscale", "amplitude", "sigma"):
    slope = float(at_mode[f"dL_d{name}"])
    print(f"{name:12} likelihood {slope:8.3f}, with its prior {float(balance[name]):9.2e}")
    assert abs(balance[name]) < 0.1

# %% [markdown]
# ## Post scriptum: one neighbourhood does not move everybody
#
# The stochastic algorithm (Yao, Gall, Van Gool & Urtasun 2011) draws a row, takes its R nearest in
# the latent space as it is now, and needs only $K$ of these rows: $O(R^3)$. Their likelihood does
# not contain the other positions, so that its gradient in them is zero: no, only the R rows move. θ
# is everybody's: each neighbourhood has an opinion on it, which counts as R/N of one. (`fit_stochastic`
# lets X unfold for a fifth of its steps before θ may move.)

# %%
Y = gplvm.data.load_digits(n=ROWS)
labels = Y["label"].to_numpy().astype(int)
model = gplvm.build_model(Y)
pca = np.linalg.svd((Y - Y.mean("obs")).to_numpy(), full_matrices=False)[0][:, :2]
pca = pca / pca.std(axis=0)

one = gplvm.fit_stochastic(
    model, start=pca, n_neighbors=30, steps=1, learning_rate=0.01, random_seed=1, progressbar=False
)
moved = (one["posterior"]["X"][0, 0].to_numpy() != pca).any(axis=1)
print(moved.sum(), "of", ROWS, "rows have moved")
assert moved.sum() == 30

# %% [markdown]
# The gradient of a neighbourhood is not an unbiased estimate of the whole: what rows far apart tell
# about each other is left out. So the whole objective is watched, up to N = 2000, and `fit_map`
# finishes. Above: the exact gradient, L-BFGS stopped after 5, 30 and 300 iterations. Below: as many
# neighbourhoods as bring each row into 3, 30 and 300 of them.


# %%
def positions(fit):
    return fit["posterior"]["X"][0, 0].to_numpy()


def errors(X):
    return int(gplvm.diagnostics.score_embedding(X, Y, labels)["nn_errors"])


with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # stopped early on purpose
    exact = {
        f"{n} iterations": gplvm.fit_map(
            model, start=pca, max_iter=n, relocate=False, progressbar=False
        )
        for n in (5, 30, 300)
    }
stochastic = {
    f"{steps} steps": gplvm.fit_stochastic(
        model, start=pca, n_neighbors=30, steps=steps, random_seed=1, progressbar=False
    )
    for steps in (ROWS // 10, ROWS, 10 * ROWS)
}

figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
for row, (name, fits) in zip(axes, (("exact", exact), ("stochastic", stochastic)), strict=True):
    shown = {f"{name}: PCA": pca} | {title: positions(fit) for title, fit in fits.items()}
    for ax, (title, X) in zip(row, shown.items(), strict=True):
        ax.scatter(*X.T, c=labels, cmap="tab10", s=8)
        ax.set_title(f"{title}\n{errors(X)} neighbours of another digit", fontsize="small")
        ax.set_axis_off()
plt.show()

# %%
learnt = list(stochastic.values())[-1]
finished = gplvm.fit_map(model, start=learnt, tol=1e-6, progressbar=False)
trace = learnt["trace"].to_dataset()
ax = trace["objective"].plot(x="step", marker="o", label="neighbourhoods")[0].axes
ax.axhline(
    float(finished["sample_stats"]["lp"][0, 0]), color="0.4", ls="--", label="fit_map from there"
)
ax.set(ylabel="objective of all rows", ylim=(float(trace["objective"][1]) * 1.1, None), title="")
ax.legend()
plt.show()

counts = {
    "PCA": errors(pca),
    "stochastic": errors(positions(learnt)),
    "then fit_map": errors(positions(finished)),
}
print(counts)
assert counts["stochastic"] < counts["PCA"] / 2
assert counts["then fit_map"] < counts["PCA"] / 2
assert finished["sample_stats"]["lp"][0, 0] > learnt["sample_stats"]["lp"][0, 0]

# %% [markdown]
# ## New rows, one after the other
#
# With old rows held, the same steps place new ones; nothing is learnt anew. Where does the last
# fifth of the digits go if the others are learnt first?

# %%
known = ROWS * 4 // 5
old = gplvm.fit_stochastic(gplvm.build_model(Y[:known]), random_seed=1, progressbar=False)
new = gplvm.add_rows(old, Y[known:], random_seed=1, progressbar=False)
np.testing.assert_array_equal(positions(new)[:known], positions(old))


def share_of_the_last(X):
    distance = ((X[known:, None] - X) ** 2).sum(axis=-1)
    distance[np.arange(ROWS - known), np.arange(known, ROWS)] = np.inf
    return float((labels[distance.argmin(axis=1)] == labels[known:]).mean())


shares = {
    "PCA": pca,
    "learnt with the others": positions(learnt),
    "put in by update": positions(new),
}
shares = {name: share_of_the_last(X) for name, X in shares.items()}
print("nearest digit is the same digit:", {name: f"{share:.0%}" for name, share in shares.items()})
assert shares["put in by update"] > shares["PCA"]

ax = gplvm.plot.latent(new, color="label")
ax.scatter(*positions(new)[known:].T, s=70, facecolors="none", edgecolors="k", label="new")
plt.show()
