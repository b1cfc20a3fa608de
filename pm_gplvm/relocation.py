"""Better places for single rows at a mode: what no gradient can find.

A row that L-BFGS left on the wrong side of the others stays there. Here each is offered other
places z, and takes the one of the highest p(z) p(yₙ given z and the other rows) if that is higher
than where it lies. Between two climbs that raises the mode more than further random starts do.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from pm_gplvm.kernels import KERNELS
from pm_gplvm.likelihood import standardised
from pm_gplvm.model import describe
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
        A = theta.inverse(Z)[0]
        W = A @ self._F
        n_moved = 0
        for n in self._rng.permutation(len(self._F)):
            place = self._better(n, Z, theta, A, W, lengthscale, batch)
            if place is None:
                continue
            Z[0, n], s, variance = place
            A, W = _moved(A, W, n, s, variance, self._F)
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
        A: Array,
        W: Array,
        lengthscale: Array,
        batch: list[Array],
    ) -> tuple[Array, Array, float] | None:
        """Find a better place of row n, with K₋ₙ⁻¹ k and the conditional variance there."""
        present = np.ones(len(A))
        present[n] = 0.0
        C, *_ = self._proposal.draw(n, self._n_candidates, Z, present, self._rng)
        cross = theta.cross(C, Z)[0] * present
        share = cross @ A[:, n] / A[n, n]
        residual = self._F[n] - cross @ W + share[:, None] * W[n]
        misfit = (residual**2).sum(axis=1)
        best = np.argsort(misfit)[:_EXACT]
        S = cross[best] @ A - share[best, None] * A[n]
        explained = np.einsum("mn,mn->m", S, cross[best])
        variance = np.maximum(theta.variance(C)[0, best] - explained, theta.sigma**2)
        here = 1.0 / A[n, n]
        places = np.concatenate([Z[:, n, None], C[:, best]], axis=1)
        prior = self._prior(int(n), places * lengthscale, batch)[0]
        log_density = prior + self._fit(
            np.concatenate([[(W[n] ** 2).sum() * here**2], misfit[best]]),
            np.concatenate([[here], variance]),
        )
        m = int(log_density.argmax())
        if not log_density[m] > log_density[0] + _GAIN:
            return None
        return places[0, m], S[m - 1], float(variance[m - 1])

    def _fit(self, misfit: Array, variance: Array) -> Array:
        return -0.5 * (misfit / variance + self._F.shape[1] * np.log(variance))


def _held(model: pm.Model) -> set[str]:
    free = {rv.name for rv in [*model.free_RVs, *model.deterministics]}
    return set(model.named_vars) - free


def _moved(A: Array, W: Array, n: int, s: Array, variance: float, F: Array) -> tuple[Array, Any]:
    """K⁻¹ and K⁻¹F after row n went elsewhere: it is taken out and put back."""
    a, u = A[:, n].copy(), s.copy()
    u[n] = -1.0
    W = W - np.outer(a / a[n], W[n]) + np.outer(u / variance, u @ F)
    A = A - np.outer(a / a[n], a) + np.outer(u / variance, u)
    return A, W
