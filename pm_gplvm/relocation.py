"""Better places for single rows at a mode: what no gradient can find.

A row that L-BFGS left on the wrong side of the others stays there. Here each is offered other
places z, and takes the one of the highest p(z) p(yₙ given z and the other rows) if that is higher
than where it lies. Between two climbs that raises the mode more than further random starts do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from pm_gplvm.kernels import KERNELS
from pm_gplvm.likelihood import has_own_noise, standardised
from pm_gplvm.model import describe
from pm_gplvm.patterns import column_patterns
from pm_gplvm.results import compile_constrain
from pm_gplvm.row_priors import compile_row_prior
from pm_gplvm.rowjumps import Proposal, Theta
from pm_gplvm.schema import THETA

__all__ = ["Relocation"]

Array = NDArray[np.float64]

_EXACT = 4  # of the candidates that fit best by their mean, so many get a variance
_GAIN = 0.5  # nats by which another place must be better


class Relocation:
    """Offers the rows of a model other places.

    Parameters
    ----------
    model : pm.Model
        One that :meth:`serves`.
    rng : numpy.random.Generator
    n_candidates : int, default 64
        Places offered to a row.
    """

    def __init__(self, model: pm.Model, rng: np.random.Generator, n_candidates: int = 64) -> None:
        described = describe(model)
        data: Any = standardised(described.observed, model.rvs_to_values[described.observed])
        self._kernel, self._F = described.kernel, data[0]
        self._names = [v.name for v in model.value_vars]
        self._constrain = compile_constrain(model)
        self._fixed = {n: model[n].eval() for n in THETA if n in _held(model)}
        self._patterns = column_patterns(~np.isnan(self._F))
        self._prior = compile_row_prior(model)
        self._proposal, self._n_candidates, self._rng = Proposal(self._F), n_candidates, rng

    @staticmethod
    def serves(model: pm.Model) -> bool:
        """Whether a model has rows that can be moved by themselves, and a kernel of the table."""
        described = describe(model)
        X = next((rv for rv in model.free_RVs if rv.name == "X"), None)
        return (
            X is not None
            and model.rvs_to_transforms[X] is None
            and described.kernel in KERNELS
            and not has_own_noise(described.observed)
            and standardised(described.observed, model.rvs_to_values[described.observed])
            is not None
        )

    def __call__(self, values: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Move rows to better places.

        Parameters
        ----------
        values : mapping
            Of the model's value variables, by name.

        Returns
        -------
        values : dict
        n_moved : int
        """
        theta, lengthscale = self._theta(values)
        Z = (values["X"] / lengthscale)[None]
        batch = [np.asarray(values[name])[None] for name in self._names]
        parts = [_Part.of(theta, Z, rows, F) for rows, _, F in self._patterns.blocks(self._F)]
        n_moved = 0
        for n in self._rng.permutation(len(self._F)):
            having = [part for part in parts if part.A[n, n] > 0.0]
            place = self._better(n, Z, theta, having, lengthscale, batch)
            if place is None:
                continue
            Z[0, n], gains = place
            for part, gain in zip(having, gains, strict=True):
                part.move(n, *gain)
            n_moved += 1
        return {**values, "X": Z[0] * lengthscale}, n_moved

    def _theta(self, values: Mapping[str, Array]) -> tuple[Theta, Array]:
        named = {**self._fixed, **self._constrain(*(values[name] for name in self._names))}
        scalars = [
            np.atleast_1d(np.asarray(named.get(name, default), dtype=np.float64))
            for name, default in (("amplitude", 1.0), ("sigma", 0.0), ("bias", 0.0))
        ]
        return Theta(self._kernel, *scalars), np.asarray(named.get("lengthscale", 1.0))

    def _better(
        self,
        n: int,
        Z: Array,
        theta: Theta,
        parts: "list[_Part]",
        lengthscale: Array,
        batch: list[Array],
    ) -> tuple[Array, list[tuple[Array, float]]] | None:
        """Find a better place of row n, with K₋ₙ⁻¹ k and the conditional variance in each part."""
        present = np.ones(Z.shape[1])
        present[n] = 0.0
        C, *_ = self._proposal.draw(n, self._n_candidates, Z, present, self._rng)
        cross = theta.cross(C, Z)[0] * present
        misfits = [part.misfit(n, cross) for part in parts]
        best = np.argsort(sum(misfits))[:_EXACT]
        prior_variance = theta.variance(C)[0, best]
        places = np.concatenate([Z[:, n, None], C[:, best]], axis=1)
        log_density = self._prior(int(n), places * lengthscale, batch)[0]
        gains = []
        for part, misfit in zip(parts, misfits, strict=True):
            S, explained = part.gain(n, cross[best])
            variance = np.maximum(prior_variance - explained, theta.sigma**2)
            log_density += part.fit(n, misfit[best], variance)
            gains.append((S, variance))
        m = int(log_density.argmax())
        if not log_density[m] > log_density[0] + _GAIN:
            return None
        return places[0, m], [(S[m - 1], float(variance[m - 1])) for S, variance in gains]


@dataclass
class _Part:
    """Columns that have the same rows observed; a complete table is one part.

    Parameters
    ----------
    F : ndarray, shape (N, D_g)
        What was observed, 0 elsewhere.
    A : ndarray, shape (N, N)
        K⁻¹ of the rows observed, 0 elsewhere.
    W : ndarray, shape (N, D_g)
        A F.
    """

    F: Array
    A: Array
    W: Array

    @classmethod
    def of(cls, theta: Theta, Z: Array, rows: NDArray[np.intp], block: Array) -> "_Part":
        N = Z.shape[1]
        F, A = np.zeros((N, block.shape[1])), np.zeros((N, N))
        F[rows], A[np.ix_(rows, rows)] = block, theta.inverse(Z[:, rows])[0]
        return cls(F, A, A @ F)

    def misfit(self, n: int, cross: Array) -> Array:
        """Squared distance of row n to its prediction without itself, from k(c, Z) (M, N)."""
        share = cross @ self.A[:, n] / self.A[n, n]
        residual = self.F[n] - cross @ self.W + share[:, None] * self.W[n]
        return np.asarray((residual**2).sum(axis=1))

    def gain(self, n: int, cross: Array) -> tuple[Array, Array]:
        """k(c, Z₋ₙ) K₋ₙ⁻¹ (M, N), and how much it explains of the variance (M,)."""
        share = cross @ self.A[:, n] / self.A[n, n]
        S = cross @ self.A - share[:, None] * self.A[n]
        return S, np.einsum("mn,mn->m", S, cross)

    def fit(self, n: int, misfit: Array, variance: Array) -> Array:
        """Log-density of row n where it lies, and at other places, up to a constant."""
        here = 1.0 / self.A[n, n]
        misfit = np.concatenate([[(self.W[n] ** 2).sum() * here**2], misfit])
        variance = np.concatenate([[here], variance])
        return np.asarray(-0.5 * (misfit / variance + self.F.shape[1] * np.log(variance)))

    def move(self, n: int, s: Array, variance: float) -> None:
        """Take row n out and put it back elsewhere: K⁻¹ and K⁻¹F after it."""
        a, u = self.A[:, n].copy(), s.copy()
        u[n] = -1.0
        self.W = self.W - np.outer(a / a[n], self.W[n]) + np.outer(u / variance, u @ self.F)
        self.A = self.A - np.outer(a / a[n], a) + np.outer(u / variance, u)


def _held(model: pm.Model) -> set[str]:
    free = {rv.name for rv in [*model.free_RVs, *model.deterministics]}
    return set(model.named_vars) - free
