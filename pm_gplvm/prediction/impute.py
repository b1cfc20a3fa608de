"""Missing entries of new rows, and of the training rows, from those that were seen."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked
from pm_gplvm.data.fit import FEATURE, Fit, in_view
from pm_gplvm.data.views import NewRows, Tables, tables_of_fit
from pm_gplvm.prediction.chunks import Stored, Told
from pm_gplvm.prediction.embed import new_labels, positions_of_table, readable, warn_of_prior
from pm_gplvm.prediction.located import located
from pm_gplvm.prediction.predict import reconstruct
from pm_gplvm.prediction.processes import each_process, mixed, parts, patterns_of
from pm_gplvm.prediction.row_posterior import Positions
from pm_gplvm.prediction.uncollapsed import mixed_responses, offsets_of


@checked
def impute(
    fit: xr.DataTree,
    Y_new: Any = None,
    *,
    prior: Any = None,
    num_samples: int = 20,
    draws: int = 1000,
    n_starts: int = 16,
    offset: Any = None,
    inputs: Any = None,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
    out: Any = None,
    client: Any = None,
    n_workers: int | None = None,
    chunk_rows: int | None = None,
) -> xr.Dataset:
    """Fill the missing entries of new rows, or of those that the fit was made from.

    The prediction at x is mixed over the posterior of x given the entries seen, as :func:`embed`
    finds it, by the law of total variance:

        mean = E m(x),  sd² = E v(x) + var m(x),

    m and v those of a measurement, its noise included. The positions of the training rows are those of
    the fit's draws, as in :func:`reconstruct`; of a variational fit they are integrated over q(X).

    Parameters
    ----------
    Y_new : array_like, DataFrame or DataArray, optional
        By default the table that the fit was made from, with ``missing="mask"``; of the other
        arguments ``num_samples`` alone then matters.
    fit, prior, num_samples, draws, n_starts, offset, inputs, random_seed, progressbar, blas_threads
        As in :func:`embed`.
    out, client, n_workers, chunk_rows
        As in :func:`embed`, of new rows: the dataset is written to a Zarr store, and opened.

    Returns
    -------
    Dataset, dims (obs_new, feature), or (obs, feature) for the training rows
        Of a fit of several tables ``mean_rna`` (obs_new, feature_rna) and so on, tables that were not given
        among them: what ``{"rna": rows}`` says of the others.
        ``mean`` and ``sd`` in the units of Y. Entries seen stand in ``mean`` as they are, with
        ``sd`` 0. ``pareto_k`` (obs_new,) of the weights: above 0.7 do not rely on the row; there is
        none of training rows. Where :func:`embed` finds several modes, the prediction may have several too.

    Raises
    ------
    TypeError, ValueError, FileExistsError, ImportError, KeyboardInterrupt
        As in :func:`embed`.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=32)
    >>> best = gplvm.fit_marginal(gplvm.build_model(Y[:30]), progressbar=False)
    >>> holes = Y[30:].where(Y["feature"] != Y["feature"][20])
    >>> filled = gplvm.impute(best, holes, random_seed=1, progressbar=False)
    >>> int(np.isnan(holes).sum()), int((filled["sd"] > 0).sum())
    (2, 2)
    """
    settings = {"num_samples": num_samples, "draws": draws, "n_starts": n_starts}
    told = Told(prior, offset, inputs)
    in_chunks = any(v is not None for v in (out, client, n_workers, chunk_rows))
    if in_chunks and Y_new is None:
        raise ValueError(
            "Y_new must be given where rows go in chunks, got none. To fill the table of the fit pass that."
        )
    if Y_new is None:
        return _filled(tables_of_fit(fit, caller="impute"), num_samples)
    tables = readable(fit, settings, "impute")
    warn_of_prior(tables, prior)
    if in_chunks:
        stored = Stored(out, client, n_workers, chunk_rows, random_seed, progressbar, blas_threads)
        return stored.done(fill_rows, tables, Y_new, told, settings)[0].to_dataset()
    return _of_new(
        tables, Y_new, told, settings, random_seed, blas_threads, progressbar=progressbar
    )


def fill_rows(
    tables: Tables, Y_new: Any, told: Told, settings: dict[str, int], seed: int | None, _first: int
) -> tuple[xr.DataTree, dict[str, Any]]:
    """Fill some rows of a table; nothing is to be warned of."""
    found = _of_new(tables, Y_new, told, settings, seed, None, progressbar=False)
    return xr.DataTree(found), {}


def _of_new(
    tables: Tables,
    Y_new: Any,
    told: Told,
    settings: dict[str, int],
    random_seed: int | None,
    blas_threads: int | None,
    *,
    progressbar: bool,
) -> xr.Dataset:
    """Fill new rows."""
    new, positions, _ = positions_of_table(
        tables, Y_new, told, settings, random_seed, blas_threads, progressbar
    )
    weights, k = positions.smoothed()
    read = next(iter(tables.values()))
    if read.has_likelihood:
        filled, offsets = {}, offsets_of(tables, new, told.offset)
        with limit_threads(blas_threads):
            for name, table in tables.items():
                asked, part = located(table, told.inputs, new_labels(new)), new.parts[name]
                found = mixed_responses(asked, part, positions, weights, offsets[name])
                filled[name] = _put(part, *found)
        return _together(filled, new, k)
    known, before = {}, 0
    with limit_threads(blas_threads):
        for name, table in tables.items():
            part, variance = new.parts[name], positions.variance
            # Of several tables each has its own patterns, those of one noise for all columns.
            if name is not None:
                after = before + len(patterns_of(table, table.table().F))
                variance, before = variance[..., before:after], after
            asked = located(table, told.inputs, new_labels(new))
            known[name] = _put(part, *_mixed(asked, part, positions, weights, variance))
    return _together(known, new, k)


def _mixed(
    read: Fit, new: xr.DataArray, positions: Positions, weights: Array, variance: Array
) -> tuple[Array, Array]:
    """Mean and sd (M, D) of a table's measurements over weighted positions, ``variance`` (M, T, G) at these."""
    F, centre, scale = read.table()
    patterns = patterns_of(read, F)
    first, second = np.zeros(new.shape), np.zeros(new.shape)
    n_used = positions.n_draws
    each = weights.shape[1] // n_used
    for s, draw in enumerate(each_process(read, n_used)):
        part = slice(s * each, (s + 1) * each)
        for _, columns, which, block, whole in parts(draw, F, patterns):
            known, own = whole.weights(block), whole
            for row in range(len(new)):
                if read.at is not None:
                    own = whole.elsewhere(read.at[row])
                x, w = positions.x[row, part], weights[row, part]
                mean, square = mixed(own, known, x, w, variance[row, part][:, which])
                first[row, columns] += mean
                second[row, columns] += square
    spread = np.maximum(second - first**2, 0.0)
    return centre + scale * first, scale * np.sqrt(spread)


def _put(new: xr.DataArray, mean: Array, sd: Array) -> xr.Dataset:
    """Put what was seen and what was predicted together."""
    missing = np.isnan(new.to_numpy())
    dims = ("obs_new", FEATURE)
    return xr.Dataset(
        {
            "mean": (dims, np.where(missing, mean, new.to_numpy())),
            "sd": (dims, np.where(missing, sd, 0.0)),
        },
        coords=new.coords,
    )


def _merged(known: Mapping[str | None, xr.Dataset]) -> xr.Dataset:
    """Put tables of the same rows together, each of several under names of its own."""
    own = ("mean", "sd", FEATURE)
    named = [t.rename({of: in_view(of, name) for of in own}) for name, t in known.items()]
    return xr.merge(named, compat="override", join="override")


def _together(known: Mapping[str | None, xr.Dataset], new: NewRows, k: Array) -> xr.Dataset:
    """Put the tables together, and what is known of the rows."""
    return _merged(known).assign(pareto_k=("obs_new", k)).assign_coords(new.labels)


def _filled(tables: Tables, num_samples: int) -> xr.Dataset:
    """Fill the missing entries of the training rows."""
    whole = {}
    for name, read in tables.items():
        known = reconstruct(read.tree, noise=True, num_samples=num_samples)
        observed = read.Y.transpose(*known["mean"].dims)
        missing = observed.isnull()
        whole[name] = known.assign(
            mean=observed.where(~missing, known["mean"]), sd=known["sd"].where(missing, 0.0)
        )
    return _merged(whole)
