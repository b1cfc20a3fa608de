"""Fits whose draws are made by hand, so that what they should give is known."""

import numpy as np
from scipy.stats import ortho_group

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
