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

from pm_gplvm.checks import Array
from pm_gplvm.density import compile_constrain
from pm_gplvm.kernels import KERNELS, cross_slope, prior_slope_variance
from pm_gplvm.patterns import column_patterns
from pm_gplvm.row_priors import compile_row_prior
from pm_gplvm.rowjumps import Proposal, Theta
from pm_gplvm.schema import THETA
from pm_gplvm.spec import ModelSpec

__all__ = ["Relocation"]

_EXACT = 4  # of the candidates that fit best by their mean, so many get a variance
_GAIN = 0.5  # nats by which another place must be better


class Relocation:
    """Offers the rows of a model other places.

    Parameters
    ----------
    model : pm.Model
        One that :meth:`serves`.
    rng : numpy.random.Generator
    rows : ndarray of int, optional
        Of these rows alone, as if there were no others.
    n_candidates : int, default 64
        Places offered to a row.
    """

    def __init__(
        self,
        model: pm.Model | ModelSpec,
        rng: np.random.Generator,
        rows: NDArray[np.intp] | None = None,
        n_candidates: int = 64,
    ) -> None:
        spec = ModelSpec.of(model)
        F = spec.table.F
        self._kernel, self._F = spec.kernel, F if rows is None else F[rows]
        self._rows = np.arange(len(F)) if rows is None else rows
        self._names = [v.name for v in spec.model.value_vars]
        self._constrain = compile_constrain(spec.model)
        self._fixed, self._floor = spec.fixed, spec.floor
        self._patterns = column_patterns(~np.isnan(self._F))
        self._prior = compile_row_prior(spec)
        self._proposal, self._n_candidates, self._rng = Proposal(self._F), n_candidates, rng

    @staticmethod
    def serves(spec: ModelSpec) -> bool:
        """Whether a model has rows that can be moved by themselves, and a kernel of the table."""
        table = spec.table
        known = spec.kernel in KERNELS and table.own is None and table.standardisable
        return spec.is_X_plain and known

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
        Z = (values["X"][self._rows] / lengthscale)[None]
        batch = [np.asarray(values[name])[None] for name in self._names]
        parts = [_Part.of(theta, Z, rows, F) for rows, _, F in self._patterns.blocks(self._F)]
        n_moved = 0
        for n in self._rng.permutation(_ill_explained(parts)):
            having = [part for part in parts if part.A[n, n] > 0.0]
            place = self._better(n, Z, theta, having, lengthscale, batch)
            if place is None:
                continue
            Z[0, n], gains = place
            for part, gain in zip(having, gains, strict=True):
                part.move(n, *gain)
            n_moved += 1
        X = values["X"].copy()
        X[self._rows] = Z[0] * lengthscale
        return {**values, "X": X}, n_moved

    def log_volume(self, values: Mapping[str, Array], sd: float) -> float:
        """Give the logarithm of the volume that the rows' positions take, each given the others.

        -½ Σ_n ln|I + sd² B_n|, with B_n what row n's entries are expected to tell of its position: with
        the slope m' of its conditional mean, the covariance S of its slopes and its variance V, all
        given the other rows, B_n = (m' m'ᵀ + D S) / V. It is Laplace's determinant but for what rows
        have in common, and bounded where that is not.

        Parameters
        ----------
        values : mapping
            Of the model's value variables, by name.
        sd : float
            Prior standard deviation of X.
        """
        theta, lengthscale = self._theta(values)
        X = values["X"][self._rows]
        N, Q = X.shape
        slope = self._slopes(values)
        slope[np.arange(N), :, np.arange(N)] = 0.0  # given the others
        own = np.diag(prior_slope_variance(self._kernel, Q, **self._parameters(values)))
        information = np.zeros((N, Q, Q))
        for rows, _, F in self._patterns.blocks(self._F):
            part = _Part.of(theta, (X / lengthscale)[None], rows, F)
            some, nn = slope[rows], part.A[rows, rows]
            explained = some @ part.A
            share = explained[np.arange(len(rows)), :, rows] / nn[:, None]
            mean = some @ part.W - share[:, :, None] * part.W[rows, None]
            known = explained @ some.transpose(0, 2, 1)
            left = own - known + nn[:, None, None] * share[:, :, None] * share[:, None]
            each = mean @ mean.transpose(0, 2, 1) + F.shape[1] * left
            information[rows] += nn[:, None, None] * each
        return float(-0.5 * np.linalg.slogdet(np.eye(Q) + sd**2 * information)[1].sum())

    def information(self, values: Mapping[str, Array]) -> Array:
        """Give what the table is expected to tell of each dimension of X, by itself.

        Fisher's information of x_q (N,): with J_nm = ∂k(x_n, x_m)/∂x_nq and A = K⁻¹,
        D (A ∘ J A Jᵀ + J A ∘ (J A)ᵀ), added up over columns that have the same rows observed.

        Parameters
        ----------
        values : mapping
            Of the model's value variables, by name.

        Returns
        -------
        ndarray, shape (Q, N, N)
            Of all rows, 0 for those that are left out.
        """
        theta, lengthscale = self._theta(values)
        X = values["X"]
        slope = self._slopes(values)
        blocks = [
            (F.shape[1], _Part.of(theta, (X[self._rows] / lengthscale)[None], rows, F).A)
            for rows, _, F in self._patterns.blocks(self._F)
        ]
        information = np.zeros((X.shape[1], len(X), len(X)))
        for q, whole in enumerate(information):
            J = np.ascontiguousarray(slope[:, q])
            for n_columns, A in blocks:
                JA = J @ A
                whole[np.ix_(self._rows, self._rows)] += n_columns * (A * (JA @ J.T) + JA * JA.T)
        return information

    def _slopes(self, values: Mapping[str, Array]) -> Array:
        """∂k(x, X)/∂x at each row, shape (N, Q, N)."""
        X = values["X"][self._rows]
        return cross_slope(self._kernel, X, X, **self._parameters(values))

    def _parameters(self, values: Mapping[str, Array]) -> dict[str, Any]:
        named = self._named(values)
        return {n: named[n] for n in THETA if n in named and n != "sigma"}

    def _named(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """Give the model's variables by name, those that are held among them."""
        return {**self._fixed, **self._constrain(*(values[name] for name in self._names))}

    def _theta(self, values: Mapping[str, Array]) -> tuple[Theta, Array]:
        named = self._named(values)
        amplitude, sigma, bias = (
            np.atleast_1d(np.asarray(named.get(name, default), dtype=np.float64))
            for name, default in (("amplitude", 1.0), ("sigma", 0.0), ("bias", 0.0))
        )
        sigma = np.hypot(sigma, self._floor)
        lengthscale = np.asarray(named.get("lengthscale", 1.0))
        # Rows move in units of the lengthscale, and the linear part is in units of X.
        of_linear = None
        if KERNELS[self._kernel].summed:
            of_linear = (named.get("weight", 1.0) * lengthscale).reshape(1, 1, -1)
        return Theta(self._kernel, amplitude, sigma, bias, of_linear), lengthscale

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
        places = np.concatenate([Z[:, n, None], C[:, best]], axis=1)
        log_density = self._prior(int(self._rows[n]), places * lengthscale, batch)[0]
        # What no variance could bring above the present place needs none.
        bound = log_density + sum(
            part.bound(n, misfit[best], float(theta.sigma[0]))
            for part, misfit in zip(parts, misfits, strict=True)
        )
        if not bound[1:].max() > bound[0] + _GAIN:
            return None
        prior_variance = theta.variance(C)[0, best]
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


def _ill_explained(parts: "list[_Part]") -> NDArray[np.intp]:
    """Rows whose squared distance from what the others predict, in its own variance, is above median.

    It is they that have better places, and who is offered some pays for them.
    """
    diagonals = [np.diagonal(part.A) for part in parts]
    squares = sum(
        (part.W**2).sum(axis=1) / np.where(d > 0.0, d, 1.0)
        for part, d in zip(parts, diagonals, strict=True)
    )
    counts = sum((d > 0.0) * part.F.shape[1] for part, d in zip(parts, diagonals, strict=True))
    each = np.asarray(squares / counts)
    return np.flatnonzero(each >= np.median(each))


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

    def bound(self, n: int, misfit: Array, sigma: float) -> Array:
        """As :meth:`fit`, at the variance that suits each of the other places best."""
        return self.fit(n, misfit, np.maximum(misfit / self.F.shape[1], sigma**2))

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
