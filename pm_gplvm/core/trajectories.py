"""One iteration of a sampler at each of many states, compiled: a Hamiltonian trajectory, then updates of rows."""

from typing import NamedTuple

import numpy as np

from pm_gplvm.core.fused import log_likelihood, transposed, value_and_gradient
from pm_gplvm.core.jit import compiled, stored
from pm_gplvm.core.lapack import call
from pm_gplvm.core.row_loops import Rows, block_updates, factorised, row_scores, sweep

DIVERGED = 1000.0
"""Energy error above which PyMC and Stan call a trajectory divergent."""


class Addresses(NamedTuple):
    """What loops call of a model: see :class:`pm_gplvm.model.native.Native`."""

    forward: int
    pullback: int
    row_prior: int
    latent: int
    N: int
    Q: int
    n_outputs: int


@compiled
def _read(outputs, N, Q):
    """Cut what ``forward`` wrote into θ, units and Z; whether all are finite and the noise is positive."""
    theta, units = outputs[1 : 4 + Q], outputs[4 + Q : 4 + 2 * Q]
    Z = outputs[4 + 2 * Q :].reshape(N, Q)
    usable = True
    for value in outputs[1:]:
        usable = usable and np.isfinite(value)
    return theta, units, Z, usable


@compiled
def evaluate(columns, model, state, beta, outputs, given, gradient):
    """Log-likelihood and log-prior at a state; writes the gradient of prior · likelihood^β into (P,)."""
    call(model.forward, state, outputs, 0, 0, outputs)
    theta, _, Z, usable = _read(outputs, model.N, model.Q)
    if not usable:
        return -np.inf, outputs[0]
    by_theta, by_units, by_Z, _ = _read(given, model.N, model.Q)
    value = value_and_gradient(columns, theta, Z, by_theta, by_Z)
    if not np.isfinite(value):
        return -np.inf, outputs[0]
    for i in range(len(given)):
        given[i] *= beta
    for i in range(len(by_units)):
        by_units[i] = 0.0
    given[0] = 1.0
    call(model.pullback, state, given, 0, 0, gradient)
    return value, outputs[0]


@compiled
def trajectory(columns, model, state, beta, step, n_steps, rng):
    """Move a state (P,) along ``n_steps`` leapfrogs of ``step`` (P,), in place.

    Returns the probability of acceptance, the change of the energy, and the log-prior at the end.
    """
    P = len(state)
    outputs, given, gradient = np.empty(model.n_outputs), np.zeros(model.n_outputs), np.empty(P)
    likelihood, prior = evaluate(columns, model, state, beta, outputs, given, gradient)
    momentum, position = np.empty(P), state.copy()
    before = beta * likelihood + prior
    for i in range(P):
        momentum[i] = rng.standard_normal()
        before -= 0.5 * momentum[i] ** 2
        momentum[i] += 0.5 * step[i] * gradient[i]
    for k in range(n_steps):
        for i in range(P):
            position[i] += step[i] * momentum[i]
        likelihood, prior = evaluate(columns, model, position, beta, outputs, given, gradient)
        if not (np.isfinite(likelihood) and np.isfinite(prior)):
            return 0.0, -np.inf, prior
        share = 1.0 if k < n_steps - 1 else 0.5
        for i in range(P):
            momentum[i] += share * step[i] * gradient[i]
    after = beta * likelihood + prior
    for i in range(P):
        after -= 0.5 * momentum[i] ** 2
    change = after - before
    if np.isnan(change):
        change = -np.inf
    if np.log(rng.random()) < change:
        for i in range(P):
            state[i] = position[i]
    return np.exp(min(change, 0.0)), change, prior


@stored
def move(columns, model, states, betas, steps, n_steps, rng, acceptance, diverged):
    """Move every state (R, P) along a trajectory of n_steps[r] leapfrogs of steps[r] (P,)."""
    for r in range(len(states)):
        acceptance[r], change, prior = trajectory(
            columns, model, states[r], betas[r], steps[r], n_steps[r], rng
        )
        # A trajectory that left the support of a bounded prior is refused, and has not diverged.
        diverged[r] = change < -DIVERGED and prior != -np.inf


@compiled
def _rows_at(columns, model, state, beta, beside, A, W):
    """Set up the rows of a state, and whether they can be updated: not where rounding makes K singular."""
    N, Q = model.N, model.Q
    outputs = np.empty(model.n_outputs)
    call(model.forward, state, outputs, 0, 0, outputs)
    theta, units, Z, usable = _read(outputs, N, Q)
    rows = Rows(
        columns, theta, beta, state, model.latent, units, model.row_prior, beside, Z, transposed(Z),
        np.ones(N), A, W,
    )  # fmt: skip
    return rows, usable and factorised(rows)


@stored
def update_rows(columns, model, states, betas, order, blocks, n_proposals, beside, rng, moved):
    """Update rows of every state (R, P), then blocks of them: the share of the rows that moved, (R,)."""
    N = model.N
    A, W = np.empty((len(columns.counts), N, N)), np.empty(columns.F.shape)
    for r in range(len(states)):
        rows, usable = _rows_at(columns, model, states[r], betas[r], beside, A, W)
        moved[r] = 0.0
        if usable:
            moved[r] = sweep(rows, order, n_proposals, rng) / len(order)
            block_updates(rows, blocks, n_proposals, rng)


@stored
def score_rows(columns, model, states, n_proposals, beside, rng, scores):
    """Write ln p(row given the others) of every state's rows (R, N), NaN where K is singular."""
    N = model.N
    A, W = np.empty((len(columns.counts), N, N)), np.empty(columns.F.shape)
    for r in range(len(states)):
        rows, usable = _rows_at(columns, model, states[r], 1.0, beside, A, W)
        scores[r] = np.nan
        if usable:
            row_scores(rows, n_proposals, rng, scores[r])


@stored
def densities(columns, model, states, known):
    """Write the log-likelihood and log-prior of every state (R, P) into ``known`` (2, R)."""
    outputs = np.empty(model.n_outputs)
    for r in range(len(states)):
        call(model.forward, states[r], outputs, 0, 0, outputs)
        theta, _, Z, usable = _read(outputs, model.N, model.Q)
        value = log_likelihood(columns, theta, Z) if usable else -np.inf
        known[0, r] = value if np.isfinite(value) else -np.inf
        known[1, r] = outputs[0]
