"""Rules for expectations under N(0, I): nodes and weights."""

from functools import lru_cache
from itertools import product

import numpy as np

from pm_gplvm.checks import Array

__all__ = ["Rule", "cubature", "fine_rule", "point_rule"]

Rule = tuple[Array, Array]

_MOST_NODES = 64


@lru_cache(maxsize=8)
def cubature(Q: int) -> Rule:
    """Nodes and weights of a rule for expectations under N(0, I).

    Up to three dimensions the product of Gauss-Hermite rules, with 64, 8 or 4 nodes each, exact
    for polynomials of degree 127, 15 or 7; beyond, the 2 Q unscented points ±√Q along the axes,
    exact to degree 3.

    Measured for the Matérn kernels, the error of an entry of ψ₁ or ψ₂ (amplitude 1), standard
    deviations s of q in units of the lengthscale: below 0.0005 for s = 0.1; for s = 0.5 below 0.007 in
    two dimensions, 0.02 in three, 0.06 beyond; for s = 1 below 0.03, 0.06, 0.08.

    Returns
    -------
    nodes : ndarray, shape (I, Q)
    weights : ndarray, shape (I,)
        Positive, of sum 1.

    Examples
    --------
    >>> nodes, weights = cubature(5)
    >>> round(float(weights @ nodes[:, 0] ** 2), 12)
    1.0
    """
    if Q > 3:
        axes = np.sqrt(Q) * np.eye(Q)
        return np.concatenate([axes, -axes]), np.full(2 * Q, 0.5 / Q)
    nodes, weights = np.polynomial.hermite_e.hermegauss(round(_MOST_NODES ** (1 / Q)))
    weights = weights / weights.sum()
    grid = np.array(list(product(nodes, repeat=Q)))
    return grid, np.array([np.prod(w) for w in product(weights, repeat=Q)])


def point_rule(Q: int) -> Rule:
    """Return the rule of a point: its one node is the mean."""
    return np.zeros((1, Q)), np.ones(1)


def fine_rule(Q: int, seed: int = 0) -> Rule:
    """Return a rule to measure others by: 256 points of a scrambled Sobol sequence and their mirror.

    Made to have the moments of N(0, I) up to the third.
    """
    from scipy.stats.qmc import MultivariateNormalQMC

    half = MultivariateNormalQMC(np.zeros(Q), rng=seed).random(256)
    half = np.linalg.solve(np.linalg.cholesky(half.T @ half / 256), half.T).T
    return np.concatenate([half, -half]), np.full(512, 1.0 / 512)
