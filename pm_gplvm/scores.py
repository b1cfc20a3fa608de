"""Numbers that say how good an embedding is, and tables of fits."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.schema import THETA, draws_of, require_fit

__all__ = ["score_embedding", "summarise_theta"]


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
        Size of the neighbourhood for the trustworthiness; less if N is small.

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
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    if isinstance(X, xr.DataTree):
        raise TypeError(
            "X must be positions of shape (N, Q), got a fit. Pass one draw of it: "
            "fit['posterior']['X'][0, 0]."
        )
    X, Y = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    N = len(X)
    if X.ndim != 2 or Y.ndim != 2 or len(Y) != N:
        raise ValueError(
            f"X and Y must be tables with the same rows, got shapes {X.shape} and {Y.shape}."
        )
    if not np.isfinite(X).all():
        raise ValueError("X must be finite, got missing or infinite positions.")
    n_neighbors = max(1, min(n_neighbors, (N - 1) // 2))
    scores = {"trustworthiness": float(trustworthiness(Y, X, n_neighbors=n_neighbors))}
    if labels is not None:
        classes = np.asarray(labels)
        if classes.shape != (N,):
            raise ValueError(f"labels must have one entry a row, {N}, got shape {classes.shape}.")
        nearest = NearestNeighbors(n_neighbors=1).fit(X).kneighbors(return_distance=False)[:, 0]
        errors = float((classes[nearest] != classes).sum())
        scores |= {"nn_errors": errors, "nn_agreement": 1.0 - errors / N}
    return scores


def summarise_theta(best: xr.DataTree, draws: xr.DataTree) -> pd.DataFrame:
    """Set the hyperparameters of an estimate beside their posterior.

    Parameters
    ----------
    best : DataTree
        A fit of one draw.
    draws : DataTree
        From :func:`sample_theta`.

    Returns
    -------
    DataFrame
        One row a hyperparameter (and dimension, if ARD), columns ``estimate``, ``mean``, ``sd``,
        ``ess_bulk``, ``r_hat``; in units of the scale of Y, the lengthscale in units of X.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> theta = gplvm.sample_theta(model, best, draws=500, progressbar=False, random_seed=1)
    >>> gplvm.summarise_theta(best, theta).columns.tolist()
    ['estimate', 'mean', 'sd', 'ess_bulk', 'r_hat']
    """
    import arviz_stats

    require_fit(best, caller="summarise_theta")
    require_fit(draws, caller="summarise_theta")
    posterior = draws["posterior"].to_dataset()
    names = [name for name in THETA if name in posterior]
    statistics = {
        "estimate": xr.Dataset({name: draws_of(best, name)[0, 0] for name in names}),
        "mean": posterior[names].mean(("chain", "draw")),
        "sd": posterior[names].std(("chain", "draw"), ddof=1),
        "ess_bulk": arviz_stats.ess(posterior[names]),
        "r_hat": arviz_stats.rhat(posterior[names]),
    }
    rows: dict[str, list[float]] = {}
    for name in names:
        columns = [np.atleast_1d(table[name].to_numpy()) for table in statistics.values()]
        for i, row in enumerate(zip(*columns, strict=True)):
            rows[name if len(columns[0]) == 1 else f"{name}[{i}]"] = [float(v) for v in row]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(statistics))


def classes_of(fit: xr.DataTree, name: str) -> NDArray[Any]:
    """Read a coordinate along the rows off a fit.

    Raises
    ------
    ValueError
        If the fit has none of that name.
    """
    coords = fit["observed_data"].to_dataset().coords
    if name not in coords:
        kept = [str(key) for key, value in coords.items() if value.dims == ("obs",)]
        raise ValueError(
            f"The fit has no coordinate {name!r} along its rows, got {', '.join(kept) or 'none'}. Give Y as "
            "a DataArray with that coordinate, or pass one value a row."
        )
    return np.asarray(coords[name].to_numpy())
