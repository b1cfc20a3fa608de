"""The marginal likelihood of a model, from the temperatures of a run."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.data.fit import Fit


@dataclass(frozen=True)
class Evidence:
    """A log marginal likelihood with its standard error.

    Parameters
    ----------
    value, error : float
        ln p(Y) and its standard error, in nats.
    """

    value: float
    error: float

    def __str__(self) -> str:
        return f"ln p(Y) = {self.value:.2f} ± {self.error:.2f}"


@checked
def log_evidence(fit: xr.DataTree, *, n_batches: int = 10) -> Evidence:
    """Compute the log marginal likelihood by stepping stones.

    p(Y) is the product over the temperatures of the mean of L^(βₖ₊₁ - βₖ) over the draws at βₖ,
    from β = 0, the prior, to 1 (Xie, Lewis, Fan, Kuo & Chen 2011, Systematic Biology 60, 150,
    eq. 9). Differences between models with proper priors are log Bayes factors.

    Parameters
    ----------
    fit : DataTree
        From :func:`sample` with ``beta_min=0``.
    n_batches : int, default 10
        Batches of each chain: the error comes from their scatter, so that it includes the
        autocorrelation.

    Returns
    -------
    Evidence

    Raises
    ------
    TypeError, ValueError
        If the fit's temperatures do not reach the prior, or it has fewer than two draws a batch.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=8), latent_dim=1)
    >>> fit = gplvm.sample(
    ...     model,
    ...     draws=50,
    ...     tune=30,
    ...     chains=2,
    ...     replicas=6,
    ...     beta_min=0.0,
    ...     random_seed=1,
    ...     progressbar=False,
    ... )
    >>> gplvm.diagnostics.log_evidence(fit).error > 0.0
    True
    """
    tempering = Fit.of(fit, "X", caller="log_evidence").group("tempering")
    if not tempering:
        raise ValueError("log_evidence needs a fit made by sample, got one without 'tempering'.")
    beta = tempering["beta"].to_numpy()
    if beta[-1] != 0.0:
        raise ValueError(
            f"log_evidence needs temperatures down to the prior, β = 0, got {beta[-1]:.3g}. Sample "
            "with beta_min=0."
        )
    values = tempering["log_likelihood"].transpose("chain", "draw", "replica").to_numpy()
    draws = values.shape[1]
    if n_batches < 2 or draws < 2 * n_batches:
        raise ValueError(
            f"n_batches must be 2 or more and at most half of the {draws} draws, got {n_batches}."
        )
    # log of each ratio L^(βₖ - βₖ₊₁) at a draw of the flatter one, βₖ₊₁
    terms = (beta[:-1] - beta[1:]) * values[:, :, 1:]
    value = float(np.sum(logsumexp(terms, axis=(0, 1)) - np.log(terms.shape[0] * draws)))
    batches = np.concatenate([part for chain in terms for part in np.array_split(chain, n_batches)])
    lengths = [len(part) for chain in terms for part in np.array_split(chain, n_batches)]
    return Evidence(value, _error(batches, lengths))


def _error(terms: Array, lengths: list[int]) -> float:
    """Estimate the standard error by the jackknife over batches of draws (S, K - 1)."""
    ends = np.cumsum([0, *lengths])
    left_out = []
    for start, end in pairwise(ends):
        rest = np.delete(terms, slice(start, end), axis=0)
        left_out.append(np.sum(logsumexp(rest, axis=0) - np.log(len(rest))))
    n = len(lengths)
    return float(np.sqrt((n - 1) / n * np.sum((np.array(left_out) - np.mean(left_out)) ** 2)))
