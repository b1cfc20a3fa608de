"""Agreement of latent positions with each other, with a reference, with Y and with labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import chi2

from pm_gplvm.core.checks import Array, checked, count
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.core.procrustes import distance_correlation, procrustes_distance
from pm_gplvm.data.arrays import by_row, classes, labels_along, numbers
from pm_gplvm.data.fit import LATENT, OBS, Fit, stacked
from pm_gplvm.diagnostics.align import align


def common_frame(fits: Mapping[str, Fit], *, draws: int = 500) -> dict[str, Array]:
    """Positions of several fits in lengthscales, aligned with the mean of the first, never scaled.

    Of each fit at most ``draws`` draws are taken, evenly spaced; the arrays have shape (S, N, Q).

    Raises
    ------
    ValueError
        If two fits differ in the number of latent dimensions.
    """
    aligned: dict[str, Array] = {}
    target: Array = np.empty((0, 0))
    for name, fit in fits.items():
        Z = stacked(fit.scaled_positions())[fit.evenly_spaced(draws)]
        first = next(iter(fits))
        if target.size and Z.shape[1:] != target.shape:
            raise ValueError(
                f"fits must have the same number of latent dimensions to be shown in one frame, got "
                f"{target.shape[1]} in {first!r} and {Z.shape[2]} in {name!r}."
            )
        settled = len(Z) == 1 or fit.is_aligned
        if target.size or not settled:
            bare = xr.Dataset({"X": (("chain", "draw", OBS, LATENT), Z[None])})
            tree = xr.DataTree.from_dict({"posterior": bare})
            tree.attrs = {"kernel": fit.kernel}
            Z = align(tree, to=target if target.size else None)["aligned"]["X"].to_numpy()[0]
        target = target if target.size else Z.mean(axis=0)
        aligned[name] = Z
    return aligned


def row_covariances(draws: Array) -> Array:
    """Covariance of the draws (S, N, Q) of each row, shape (N, Q, Q)."""
    centred = draws - draws.mean(axis=0)
    return np.asarray(np.einsum("sni,snj->nij", centred, centred) / (len(draws) - 1))


def outside(draws: Array, at: Array, share: float = 0.89) -> NDArray[np.bool_]:
    """Whether the positions ``at`` (N, Q) lie outside the ellipses that hold this share of the draws.

    The ellipses are those of Gaussians with the mean and covariance of the draws (S, N, Q), S > Q.
    """
    off = at - draws.mean(axis=0)
    # A row that is the same in all draws has an ellipse of one point.
    inverse = np.linalg.pinv(row_covariances(draws), hermitian=True)
    distance2 = np.einsum("ni,nij,nj->n", off, inverse, off)
    return np.asarray(distance2 > chi2.ppf(share, draws.shape[2]))


def neighbours(X: Array, n_neighbors: int) -> NDArray[np.bool_]:
    """Whether row j is among the nearest other rows of row i, shape (N, N).

    Examples
    --------
    >>> neighbours(np.array([[0.0], [1.0], [5.0]]), 1).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    """
    with interruptible():
        from sklearn.neighbors import kneighbors_graph

    return np.asarray(kneighbors_graph(X, n_neighbors).toarray() > 0.0)


@checked
def neighbour_probabilities(
    fit: xr.DataTree, *, n_neighbors: int = 10, num_samples: int = 500
) -> xr.DataArray:
    """Posterior probability that one row is among the nearest neighbours of another.

    Distances are those of Z = X / lengthscale within each draw, so that the orientation of the draws does
    not matter. Probabilities are 0 and 1 where all draws agree, and with one draw everywhere.

    Parameters
    ----------
    fit : DataTree
        With ``X``, in one draw or many.
    n_neighbors : int, default 10
        k, below N.
    num_samples : int, default 500
        Largest number of draws used, evenly spaced.

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
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> float(gplvm.diagnostics.neighbour_probabilities(best, n_neighbors=3).sum("neighbour").max())
    3.0
    """
    read = Fit.of(fit, "X", caller="neighbour_probabilities")
    Z = stacked(read.positions_for_distances())
    N = Z.shape[1]
    check_counts(N, n_neighbors, num_samples)
    chosen = read.evenly_spaced(num_samples)
    shares = np.zeros((N, N))
    for z in Z[chosen]:
        shares += neighbours(z, n_neighbors)
    coords = {}
    rows = read.draws("X").coords.get(OBS)
    if rows is not None:
        coords = {OBS: rows.to_numpy(), "neighbour": rows.to_numpy()}
    return xr.DataArray(shares / len(chosen), dims=(OBS, "neighbour"), coords=coords)


def check_counts(n_rows: int, n_neighbors: int, draws: int) -> None:
    """Raise if the number of neighbours or draws is out of range."""
    for name, value in (("n_neighbors", n_neighbors), ("num_samples", draws)):
        count(name, value)
    if n_neighbors >= n_rows:
        raise ValueError(
            f"n_neighbors must be below the number of rows, {n_rows}, got {n_neighbors}."
        )


@checked
def score_embedding(
    X: Any, Y: Any, labels: Any | None = None, *, n_neighbors: int = 10
) -> dict[str, float]:
    """Score latent positions by their neighbours.

    Parameters
    ----------
    X : array_like, shape (N, Q)
        Latent positions.
    Y : array_like, shape (N, D)
        The table.
    labels : array_like, shape (N,), optional
        A class for each row.
    n_neighbors : int, default 10
        Size of the neighbourhood for the trustworthiness, at most (N - 1) // 2.

    Returns
    -------
    dict
        ``trustworthiness`` in [0, 1]: whether neighbours in X are neighbours in Y (Venna & Kaski
        2001). With labels, ``nn_errors``: rows whose nearest other row in X has another label,
        and ``nn_agreement``, the share of the other rows.

    Raises
    ------
    TypeError
        If X is a fit.
    ValueError
        If the lengths differ or a position is not finite.

    Examples
    --------
    >>> score_embedding([[0.0], [0.1], [5.0], [5.1]], [[0], [0], [9], [9]], list("aabb"))[
    ...     "nn_errors"
    ... ]
    0.0
    """
    if isinstance(X, xr.DataTree):
        raise TypeError(
            "X must be positions of shape (N, Q), got a fit. Pass one draw of it: "
            "fit['posterior']['X'][0, 0]."
        )
    rows = labels_along(Y, 0)
    if rows is not None:
        X, labels = (
            given if given is None else by_row(n, given, rows)
            for n, given in (("X", X), ("labels", labels))
        )
    X, Y = numbers("X", X), numbers("Y", Y)
    N = len(X) if X.ndim else 0
    if X.ndim != 2 or Y.ndim != 2 or len(Y) != N:
        raise ValueError(
            f"X and Y must be tables with the same rows, got shapes {X.shape} and {Y.shape}."
        )
    if not np.isfinite(X).all():
        raise ValueError("X must be finite, got missing or infinite positions.")
    if not np.isfinite(Y).all():
        raise ValueError("Y must be finite, got missing or infinite entries. Impute them first.")
    codes = None if labels is None else _codes(labels, N)
    return _scores(X, Y, codes, n_neighbors)


def _codes(labels: Any, n_rows: int) -> NDArray[np.integer]:
    """Return the number of each class, -1 where a row has none."""
    codes = np.asarray(classes("labels", labels).codes)
    if codes.shape != (n_rows,):
        raise ValueError(f"labels must have one entry a row, {n_rows}, got shape {codes.shape}.")
    if (codes >= 0).sum() < 2:
        raise ValueError("labels must be known of two rows at least, got fewer.")
    return codes


def _scores(
    X: Array, Y: Array, codes: NDArray[np.integer] | None, n_neighbors: int
) -> dict[str, float]:
    """Compute what :func:`score_embedding` returns; rows of unknown class are left out of the errors."""
    with interruptible():
        from sklearn.manifold import trustworthiness
        from sklearn.neighbors import NearestNeighbors

    n_neighbors = max(1, min(n_neighbors, (len(X) - 1) // 2))
    scores = {"trustworthiness": float(trustworthiness(Y, X, n_neighbors=n_neighbors))}
    if codes is not None:
        X, known = X[codes >= 0], codes[codes >= 0]
        nearest = NearestNeighbors(n_neighbors=1).fit(X).kneighbors(return_distance=False)[:, 0]
        errors = float((known[nearest] != known).sum())
        scores |= {"nn_errors": errors, "nn_agreement": 1.0 - errors / len(known)}
    return scores


def agreement(
    draws: Array, reference: Array, Y: Array, labels: Any = None, *, n_neighbors: int = 10
) -> xr.Dataset:
    """Measures of every draw (S, N, Q) against a reference (N, Q'), the table (N, D) and the labels.

    They are those that :func:`pm_gplvm.compare` averages, by its names, with the dim sample. Where Y has
    missing entries, and so no distances, the measures that need them are NaN.
    """
    if np.isnan(Y).any():
        known = agreement(draws, reference, reference, labels, n_neighbors=n_neighbors)
        of_Y = ("neighbours_Y", "distance_correlation_Y", "trustworthiness")
        return known.assign({name: np.nan * known[name] for name in of_Y})
    near = {
        "neighbours": neighbours(reference, n_neighbors),
        "neighbours_Y": neighbours(Y, n_neighbors),
    }
    rows, codes = [], None if labels is None else _codes(labels, len(Y))
    for z in draws:
        scores = _scores(z, Y, codes, n_neighbors)
        own = neighbours(z, n_neighbors)
        row = {
            "procrustes": procrustes_distance(z, reference),
            "distance_correlation": distance_correlation(z, reference),
            "distance_correlation_Y": distance_correlation(z, Y),
            "trustworthiness": scores["trustworthiness"],
            **{name: (own & others).sum() / others.sum() for name, others in near.items()},
            **{name: scores[name] for name in ("nn_agreement",) if name in scores},
        }
        rows.append(row)
    return xr.Dataset({n: ("sample", np.array([row[n] for row in rows])) for n in rows[0]})
