"""How far latent positions agree: draws with a reference, draws with each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import chi2

from pm_gplvm.alignment import align
from pm_gplvm.checks import Array, count
from pm_gplvm.invariants import scale_free
from pm_gplvm.procrustes import distance_correlation, procrustes_distance
from pm_gplvm.schema import LATENT, OBS, draws_of, require_fit
from pm_gplvm.scores import score_embedding

__all__ = [
    "agreement",
    "check_counts",
    "common_frame",
    "neighbour_probabilities",
    "neighbours",
    "outside",
    "positions",
]


def positions(fit: xr.DataTree) -> Array:
    """All draws of X in units of the lengthscale, shape (S, N, Q)."""
    Z = scale_free(fit).to_numpy()
    return np.asarray(Z.reshape(-1, *Z.shape[2:]))


def common_frame(fits: Mapping[str, xr.DataTree], *, draws: int = 500) -> dict[str, Array]:
    """Turn the positions of several fits, in units of the lengthscale, into the frame of the first.

    Parameters
    ----------
    fits : mapping
        Name to fit, with the same rows and number of latent dimensions.
    draws : int, default 500
        At most so many draws of each fit, evenly spaced.

    Returns
    -------
    dict
        Name to array, shape (S, N, Q): each draw turned, and under a stationary kernel moved, onto
        the mean of the first fit by :func:`pm_gplvm.align`; never scaled.

    Raises
    ------
    ValueError
        If two fits differ in the number of latent dimensions.
    """
    turned: dict[str, Array] = {}
    target: Array = np.empty((0, 0))
    for name, fit in fits.items():
        Z = positions(fit)
        Z = Z[np.unique(np.linspace(0, len(Z) - 1, min(draws, len(Z))).round().astype(int))]
        first = next(iter(fits))
        if target.size and Z.shape[1:] != target.shape:
            raise ValueError(
                f"fits must have the same number of latent dimensions to be shown in one frame, got "
                f"{target.shape[1]} in {first!r} and {Z.shape[2]} in {name!r}."
            )
        settled = len(Z) == 1 or "aligned" in fit.children
        if target.size or not settled:
            bare = xr.Dataset({"X": (("chain", "draw", OBS, LATENT), Z[None])})
            tree = xr.DataTree.from_dict({"posterior": bare})
            tree.attrs = {"kernel": fit.attrs.get("kernel", "custom")}
            Z = align(tree, to=target if target.size else None)["aligned"]["X"].to_numpy()[0]
        target = target if target.size else Z.mean(axis=0)
        turned[name] = Z
    return turned


def outside(draws: Array, at: Array, share: float = 0.89) -> NDArray[np.bool_]:
    """Whether a position lies outside the ellipse that holds so much of its row's draws.

    Parameters
    ----------
    draws : ndarray, shape (S, N, Q)
        More than Q of them.
    at : ndarray, shape (N, Q)
    share : float, default 0.89
        Of a Gaussian with the draws' mean and covariance.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    centred, off = draws - draws.mean(axis=0), at - draws.mean(axis=0)
    covariances = np.einsum("sni,snj->nij", centred, centred) / (len(draws) - 1)
    # A row that the draws hold still is inside at its own place only.
    distance2 = np.einsum("ni,nij,nj->n", off, np.linalg.pinv(covariances, hermitian=True), off)
    return np.asarray(distance2 > chi2.ppf(share, draws.shape[2]))


def neighbours(X: Array, n_neighbors: int) -> NDArray[np.bool_]:
    """Whether row j is among the nearest other rows of row i, shape (N, N).

    Examples
    --------
    >>> neighbours(np.array([[0.0], [1.0], [5.0]]), 1).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    """
    from sklearn.neighbors import kneighbors_graph

    return np.asarray(kneighbors_graph(X, n_neighbors).toarray() > 0.0)


def neighbour_probabilities(
    fit: xr.DataTree, n_neighbors: int = 10, *, draws: int = 500
) -> xr.DataArray:
    """Posterior probability that one row is among the nearest neighbours of another.

    Distances are those of Z = X / lengthscale within each draw, so that no rotation and no
    alignment matters. A neighbourhood on which all draws agree has probabilities of 0 and 1; with
    one draw there are no others.

    Parameters
    ----------
    fit : DataTree
        With ``X``, in one draw or many.
    n_neighbors : int, default 10
        k, below N.
    draws : int, default 500
        At most so many draws are used, evenly spaced.

    Returns
    -------
    DataArray, dims (obs, neighbour), shape (N, N)
        P(j is one of the k nearest other rows of i). Each row sums to k.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, or a number is out of range.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> float(gplvm.neighbour_probabilities(best, 3).sum("neighbour").max())
    3.0
    """
    require_fit(fit, "X", caller="neighbour_probabilities")
    Z = positions(fit)
    N = Z.shape[1]
    check_counts(N, n_neighbors, draws)
    chosen = np.unique(np.linspace(0, len(Z) - 1, min(draws, len(Z))).round().astype(int))
    shares = np.zeros((N, N))
    for z in Z[chosen]:
        shares += neighbours(z, n_neighbors)
    coords = {}
    rows = draws_of(fit, "X").coords.get(OBS)
    if rows is not None:
        coords = {OBS: rows.to_numpy(), "neighbour": rows.to_numpy()}
    return xr.DataArray(shares / len(chosen), dims=(OBS, "neighbour"), coords=coords)


def check_counts(n_rows: int, n_neighbors: int, draws: int) -> None:
    """Refuse numbers of neighbours and draws that are out of range."""
    for name, value in (("n_neighbors", n_neighbors), ("draws", draws)):
        count(name, value)
    if n_neighbors >= n_rows:
        raise ValueError(
            f"n_neighbors must be below the number of rows, {n_rows}, got {n_neighbors}."
        )


def agreement(
    draws: Array, reference: Array, Y: Array, labels: Any = None, *, n_neighbors: int = 10
) -> xr.Dataset:
    """Measure every draw against a reference, the table and the labels.

    Parameters
    ----------
    draws : ndarray, shape (S, N, Q)
    reference : ndarray, shape (N, Q')
    Y : ndarray, shape (N, D)
        With missing entries (NaN) it has no distances, and what needs them is NaN.
    labels : array_like, shape (N,), optional
    n_neighbors : int, default 10

    Returns
    -------
    Dataset, dims (sample)
        The measures that :func:`pm_gplvm.compare` averages, by its names.
    """
    if np.isnan(Y).any():
        known = agreement(draws, reference, reference, labels, n_neighbors=n_neighbors)
        of_Y = ("neighbours_Y", "distance_correlation_Y", "trustworthiness")
        return known.assign({name: np.nan * known[name] for name in of_Y})
    near = {
        "neighbours": neighbours(reference, n_neighbors),
        "neighbours_Y": neighbours(Y, n_neighbors),
    }
    rows = []
    for z in draws:
        scores = score_embedding(z, Y, labels, n_neighbors=n_neighbors)
        mine = neighbours(z, n_neighbors)
        row = {
            "procrustes": procrustes_distance(z, reference),
            "distance_correlation": distance_correlation(z, reference),
            "distance_correlation_Y": distance_correlation(z, Y),
            "trustworthiness": scores["trustworthiness"],
            **{name: (mine & others).sum() / others.sum() for name, others in near.items()},
            **{name: scores[name] for name in ("nn_agreement",) if name in scores},
        }
        rows.append(row)
    return xr.Dataset({n: ("sample", np.array([row[n] for row in rows])) for n in rows[0]})
