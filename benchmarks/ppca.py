"""Probabilistic PCA by its closed form, missing entries allowed: what a default is held against."""

import numpy as np
from scipy.stats import multivariate_normal

_ROUNDS, _TOLERANCE = 500, 1e-7


class ProbabilisticPCA:
    """N(mean, low rank + noise · I) of maximal likelihood (Tipping & Bishop 1999).

    Without missing entries it is scikit-learn's PCA and its score; with them, EM.
    """

    def __init__(self, Y: np.ndarray, Q: int):
        self.Q = Q
        hidden = np.isnan(Y)
        if not hidden.any():
            self._take(Y.mean(axis=0), np.cov(Y.T))
            return
        filled = np.where(hidden, np.nanmean(Y, axis=0), Y)
        self._take(filled.mean(axis=0), np.cov(filled.T))
        for _ in range(_ROUNDS):
            before = self.covariance
            filled, spread = self._expected(Y)
            self._take(filled.mean(axis=0), np.cov(filled.T) + spread / (len(Y) - 1))
            if np.abs(self.covariance - before).max() < _TOLERANCE * np.abs(before).max():
                break

    def _take(self, mean, scatter) -> None:
        values, vectors = np.linalg.eigh(scatter)
        noise = values[: -self.Q].mean()
        self.mean, self.axes = mean, vectors[:, -self.Q :]
        above = self.axes * (values[-self.Q :] - noise)
        self.covariance = above @ self.axes.T + noise * np.eye(len(mean))

    def _expected(self, Y):
        """Missing entries at their conditional mean, and the summed covariance of these."""
        filled, spread = Y.copy(), np.zeros_like(self.covariance)
        for row in filled:
            gone = np.isnan(row)
            if not gone.any():
                continue
            S = self.covariance[np.ix_(~gone, ~gone)]
            across = self.covariance[np.ix_(gone, ~gone)]
            weights = np.linalg.solve(S, across.T).T
            row[gone] = self.mean[gone] + weights @ (row[~gone] - self.mean[~gone])
            spread[np.ix_(gone, gone)] += self.covariance[np.ix_(gone, gone)] - weights @ across.T
        return filled, spread

    def fill(self, Y: np.ndarray) -> np.ndarray:
        return self._expected(Y)[0]

    def transform(self, Y: np.ndarray) -> np.ndarray:
        # The mean place is linear in the row: that of the mean row is the mean place.
        return (self.fill(Y) - self.mean) @ self.axes

    def inverse_transform(self, places: np.ndarray) -> np.ndarray:
        return self.mean + places @ self.axes.T

    def score(self, Y: np.ndarray) -> float:
        """Mean over rows of ln p of what was seen of them."""
        total = 0.0
        for row in Y:
            seen = ~np.isnan(row)
            covariance = self.covariance[np.ix_(seen, seen)]
            total += multivariate_normal(self.mean[seen], covariance).logpdf(row[seen])
        return total / len(Y)
