"""Fits whose draws are made by hand, so that what they should give is known, and a Ctrl-C on time."""

import signal

import numpy as np
import pytensor.tensor as pt
from oracles import kernel_matrix
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from scipy.stats import ortho_group

import pm_gplvm as gplvm
from pm_gplvm.model.results import as_fit


def fit_of(model, X, *, stats=None, **theta):
    """A fit of given draws of X, shape (chain, draw, N, Q), and of θ, numbers or (chain, draw)."""
    lead = X.shape[:2]
    draws = {"X": X}
    for name, value in theta.items():
        value = np.asarray(value, dtype=float)
        draws[name] = value if value.shape[:2] == lead else np.broadcast_to(value, lead)
    return as_fit(
        model, draws, method="made", sample_stats=stats or {"lp": np.zeros(lead)}, settings={}
    )


def rotations(rng, shape, q):
    """Random orthogonal matrices, reflections among them."""
    if q == 1:
        return rng.choice([-1.0, 1.0], size=(*shape, 1, 1))
    return ortho_group.rvs(q, size=int(np.prod(shape)), random_state=rng).reshape(*shape, q, q)


def signed_permutations(rng, shape, q):
    W = np.zeros((*shape, q, q))
    for i in np.ndindex(*shape):
        W[i][np.arange(q), rng.permutation(q)] = rng.choice([-1.0, 1.0], q)
    return W


def turned(X, W):
    """Every row x of every draw as W x."""
    return np.einsum("...lf,...nf->...nl", W, X)


def made_fit(Y, kernel, draws=1, *, scale="global", seed=3):
    """A fit of random draws, as any sampler would give it: no optimiser in between."""

    model = gplvm.build_model(Y, kernel=kernel, scale=scale)
    rng = np.random.default_rng(seed)
    values = {"X": rng.standard_normal((1, draws, len(Y), 2))}
    for rv in model.free_RVs[1:]:
        values[rv.name] = rng.uniform(0.5, 1.5, (1, draws))
    stats = {"lp": np.zeros((1, draws))}
    return as_fit(model, values, method="made", sample_stats=stats, settings={})


def noise_of(fit, draw=0):
    """All of the noise, its floor included."""
    sigma = float(fit.posterior["sigma"][0, draw])
    return np.hypot(sigma, float(fit.constant_data["Y_resolution"]))


def conditional(fit, draw, X_new, y):
    """Mean and covariance of the new rows of one column by conditioning the joint covariance."""
    posterior = fit.posterior.to_dataset().isel(chain=0, draw=draw)
    theta = {n: float(v) for n, v in posterior.data_vars.items() if n not in ("X", "sigma")}
    X = np.vstack([posterior["X"].to_numpy(), X_new])
    joint = kernel_matrix(fit.attrs["kernel"], X, **theta)
    N = len(y)
    K = joint[:N, :N] + noise_of(fit, draw) ** 2 * np.eye(N)
    gain = np.linalg.solve(K, joint[:N, N:]).T
    return gain @ y, joint[N:, N:] - gain @ joint[:N, N:]


def rows_drawn(points, X):
    """The row (N, 2) that each point of a collection is drawn for."""
    apart = np.abs(points.get_offsets()[:, None] - X).sum(axis=2)
    assert (apart.min(axis=1) == 0.0).all()
    return apart.argmin(axis=1)


class InterruptAt(Op):
    """Zero; at its n-th evaluation the process gets the signal of Ctrl-C."""

    __props__ = ("n",)

    def __init__(self, n):
        self.n = n
        self.count = 0

    def make_node(self, x):
        return Apply(self, [pt.as_tensor_variable(x)], [pt.dscalar()])

    def perform(self, node, inputs, storage):
        self.count += 1
        if self.count == self.n:
            signal.raise_signal(signal.SIGINT)
        storage[0][0] = np.asarray(0.0)

    def connection_pattern(self, node):
        return [[False]]

    def pullback(self, inputs, outputs, cotangents):
        return [DisconnectedType()()]
