"""Moves of rows to other places, where entries of the table are missing.

As in :mod:`pm_gplvm.rowjumps`; only, the columns that have the same rows observed form a part g with a
K_g⁻¹ of its own, and a row's density is the product over the parts in which it was observed:

    p(yₙ given z, …) = ∏_g ∏_{d ∈ g} N(y_nd; m_d(z), v_g(z)).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.checks import Array
from pm_gplvm.gaussian import column_patterns
from pm_gplvm.rowjumps import Proposal, RowMoves, RowPrior, Theta, choose, put_back, take_out

__all__ = ["PatternMoves"]

Known = list[tuple[Array, Array]]
Gain = list[tuple[Array, Array]]


class PatternMoves(RowMoves):
    """Moves of rows at R states at once; ``F`` is NaN where an entry is missing.

    What belongs to a row that was not observed in a part is 0 in its K_g⁻¹, as it is for a row taken
    out, so that nothing else need be told of it.
    """

    def __init__(
        self,
        Z: Array,
        theta: Theta,
        F: Array,
        beta: Array,
        log_prior: RowPrior,
        proposal: Proposal,
        rng: np.random.Generator,
    ) -> None:
        self.Z, self.theta, self.F, self.beta = Z, theta, F, beta
        self.log_prior, self.proposal, self.rng = log_prior, proposal, rng
        patterns = column_patterns(~np.isnan(F))
        self.seen = patterns.seen
        self.tables: list[Array] = []
        self.known: Known = []
        every = np.arange(len(Z))
        for rows, columns, block in patterns.blocks(F):
            table, inverse = np.zeros((len(F), len(columns))), np.zeros((len(Z), len(F), len(F)))
            table[rows] = block
            inverse[np.ix_(every, rows, rows)] = theta.inverse(Z[:, rows])
            self.tables.append(table)
            self.known.append((inverse, inverse @ table))

    def sweep(self, rows: NDArray[np.int64], n_candidates: int) -> Array:
        """Offer each of the rows other places; the share of them that moved, shape (R,)."""
        present, moved = np.ones(len(self.F)), np.zeros(len(self.Z))
        states = np.arange(len(self.Z))
        for n in rows:
            present[n] = 0.0
            self._remove(self.known, n)
            C, *wide = self._candidates(n, n_candidates, self.Z, present)
            C = np.concatenate([self.Z[:, n, None], C], axis=1)
            log_weights, gains = self._weighed(n, C, self.Z, self.known, present, wide)
            chosen = choose(log_weights, self.rng)
            self.Z[:, n] = C[states, chosen]
            self._restore(self.known, n, gains, chosen)
            moved += chosen > 0
            present[n] = 1.0
        return moved / len(rows)

    def regrow(self, rows: Iterable[int], n_candidates: int) -> NDArray[np.bool_]:
        """Take several rows out and put them back as one move; where it was accepted, (R,)."""
        bare, present = _copied(self.known), np.ones(len(self.F))
        for n in rows:
            self._remove(bare, n)
            present[n] = 0.0
        forth, Z, known = self._regrown(rows, n_candidates, bare, present, keep=False)
        back, *_ = self._regrown(rows, n_candidates, bare, present, keep=True)
        accepted = np.log(self.rng.random(len(self.Z))) < forth - back
        self.Z[accepted] = Z[accepted]
        for mine, new in zip(self.known, known, strict=True):
            for own, other in zip(mine, new, strict=True):
                own[accepted] = other[accepted]
        return accepted

    def _regrown(
        self, rows: Iterable[int], n_candidates: int, bare: Known, present: Array, *, keep: bool
    ) -> tuple[Array, Array, Known]:
        """Put rows back at chosen candidates, or where they were, and sum the log mean weights."""
        bare, Z, present = _copied(bare), self.Z.copy(), present.copy()
        states, total = np.arange(len(Z)), np.zeros(len(Z))
        for n in rows:
            C, *wide = self._candidates(n, n_candidates, Z, present)
            if keep:
                C[:, 0] = self.Z[:, n]
            log_weights, gains = self._weighed(n, C, Z, bare, present, wide)
            top = log_weights.max(axis=1)
            total += top + np.log(np.exp(log_weights - top[:, None]).sum(axis=1))
            chosen = np.zeros(len(Z), dtype=int) if keep else choose(log_weights, self.rng)
            Z[:, n] = C[states, chosen]
            self._restore(bare, n, gains, chosen)
            present[n] = 1.0
        return total, Z, bare

    def _weighed(
        self, n: int, C: Array, Z: Array, bare: Known, present: Array, wide: list[Array]
    ) -> tuple[Array, Gain]:
        """Log-weights (R, M) of candidates; k(C, Z) K_g⁻¹ and the conditional variances too."""
        cross = self.theta.cross(C, Z)
        cross *= present
        prior, noise = self.theta.variance(C), (self.theta.sigma**2)[:, None]
        likelihood, gains = np.zeros(C.shape[:2]), []
        for seen, table, (A, W) in zip(self.seen[:, n], self.tables, bare, strict=True):
            if not seen:
                gains.append((cross, prior))  # not looked at
                continue
            S = cross @ A
            variance = np.maximum(prior - np.einsum("rmn,rmn->rm", S, cross), noise)
            residual = table[n] - cross @ W
            misfit = np.einsum("rmd,rmd->rm", residual, residual) / variance
            likelihood -= 0.5 * (misfit + table.shape[1] * np.log(variance))
            gains.append((S, variance))
        log_weights = (
            self.beta[:, None] * likelihood
            + self.log_prior(n, C)
            - self.proposal.log_density(n, C, Z, present, *wide)
        )
        return np.where(np.isnan(log_weights), -np.inf, log_weights), gains

    def _remove(self, known: Known, n: int) -> None:
        for seen, (A, W) in zip(self.seen[:, n], known, strict=True):
            if seen:
                take_out(A, W, n)

    def _restore(self, bare: Known, n: int, gains: Gain, chosen: NDArray[np.int64]) -> None:
        states = np.arange(len(chosen))
        parts = zip(self.seen[:, n], self.tables, gains, bare, strict=True)
        for seen, table, (S, variance), (A, W) in parts:
            if seen:
                put_back(A, W, n, S[states, chosen], variance[states, chosen], table)


def _copied(known: Known) -> Known:
    return [(A.copy(), W.copy()) for A, W in known]
