"""Where unseen rows lie, and how likely they are, given a fit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import reduce
from importlib.metadata import version
from operator import add
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count, warn
from pm_gplvm.data.arrays import by_row
from pm_gplvm.data.fit import LATENT, Fit, to_json
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.views import NewRows, Tables, tables_of_fit
from pm_gplvm.model.priors import LatentPrior, kind_of_prior, mapped
from pm_gplvm.prediction.chunks import Stored, Told
from pm_gplvm.prediction.located import groups, located
from pm_gplvm.prediction.paths import Paths
from pm_gplvm.prediction.processes import chosen_draws, each_draw
from pm_gplvm.prediction.row_posterior import (
    Density,
    Positions,
    Rows,
    each_density,
    each_density_at,
    effective,
    joined_rows,
    row_streams,
    separate_modes,
    weighted_positions,
)
from pm_gplvm.prediction.sequences import placed_in_time
from pm_gplvm.prediction.uncollapsed import (
    each_frame,
    each_uncollapsed_density,
    offset_of,
    offsets_of,
    uncollapsed_density,
    with_known_rows,
    with_offsets,
)

_STANDARD = "Normal(0.0, 1.0)"
_UNRELIABLE = 0.7
_STRANGE = 5.0  # shortfall: 0 to 4 % of the held-out rows of ordinary tables exceed it
_NAMED = 5  # rows in a message
_LIKE = (
    0.5  # of the heaviest mode's weight: the row lies there or elsewhere at no more than two to one
)


@checked
def embed(
    fit: xr.DataTree,
    Y_new: Any,
    *,
    prior: Any = None,
    times: Any = None,
    sequence: Any = None,
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
) -> xr.DataTree:
    """Find the posterior of the position x of new rows, each for itself, or with ``times`` as frames of a path.

    For each draw (X, θ) of the fit the density of a new row with the entries o seen,

        ln p(y, x) = Σ_{d ∈ o} ln N(y_d; m_d(x), v(x)) + ln p(x),

    m and v those of :func:`predict`, is maximised from several starts. These are the positions where it
    is highest among those of the known rows, positions beside them and some from the prior; the
    positions of the known rows most alike; and the best of the positions to which least squares lead
    from these, where m(x) alone comes nearest to the row.
    From a mixture of t-distributions about the modes found (the inverse Hessian there as their
    spread) and the prior, positions are drawn, weighted by p(y, x) over their density, with Pareto
    smoothing (Vehtari et al. 2024), and resampled: Laplace's approximation, corrected. A draw of
    (X, θ) counts by the density p(y | X, θ) that it gives the row, which is the posterior of (X, θ)
    given Y and y.

    Parameters
    ----------
    fit : DataTree
        Of a model of :func:`build_model`, of one table or several. Draws of X in frames of their own
        (:func:`sample`) must be turned onto one by :func:`align` first.
    Y_new : array_like, DataFrame or DataArray, dims (obs_new, feature), shape (M, D), or mapping of these
        In the units of Y, with its columns; NaN where an entry is missing, in any pattern. Of a fit of several
        tables by name, ``{"rna": rows}``, those of which there is something: a row's entries in all of them count.
    prior : tuple of array_like, optional
        ``(mean, sd)`` of x ~ N(mean, sd²), each a number, (Q,) or (M, Q), in the frame of the fit's
        X. By default N(0, 1), the prior of :func:`build_model`, moved along where :func:`align`
        moved X; of a fit with :func:`priors.class_mixture` their mixture; of one that is
        :func:`priors.back_constraint` the position that the map gives, one for each draw. If X had a prior
        of your own, give it here.
    times : array_like, shape (M,), optional
        Of a fit with :func:`priors.dynamics`: the new rows are placed together, by the prior of a path at these times. In
        the units of ``t`` there.
    sequence : label or array_like of labels, shape (M,), optional
        With ``times``: as in :func:`forecast`. Frames of a sequence of the fit continue it, given its rows; a label that
        the fit has not is a new sequence.
    num_samples : int, default 20
        At most so many draws of the fit are used, evenly spaced.
    draws : int, default 1000
        Positions drawn for each row, over all draws of the fit, and returned.
    n_starts : int, default 16
        Starting positions for each row and draw of the fit, at least 4.
    offset : array_like (M,), (M, 1) or (M, D), or mapping of these, optional
        Of the new rows, where :func:`fit_svi` had one; of ``offset="size"`` it is found from the rows. Of several tables
        by name, ``{"rna": offset}``; where a table lacks a row it is 0.
    inputs : DataFrame, mapping from names to values, or Dataset, optional
        Of the new rows, where the model had inputs: one value a row, joined by label where both have labels, or one for
        all. A class that the table has not has offsets of its own, of which nothing is known.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : int or None, default 1
    out : path, optional
        A new ``.zarr`` store: the rows are gone through in chunks, and what is found is written there and opened, not
        read. ``Y_new`` may then be a table larger than memory, as :func:`fit_variational` takes it (a Zarr or dask array, the
        folder of Parquet files as a ``Path``, a backed AnnData, numpy.memmap). An earlier call that was ended before its
        time is gone on with. Not with ``times``.
    client, n_workers : optional
        As in :func:`fit_variational`: who does the chunks. ``out`` must lie in a folder that all workers can write to.
    chunk_rows : int, optional
        Rows of a chunk. By default as many as have draws of about 8 MB, and so that there are 8 chunks.

    Returns
    -------
    DataTree
        ``posterior``: ``X`` (chain, draw, obs_new, latent), one chain; positions of great weight come
        more than once. ``modes``: up to 8 for each row, the weightiest first (equal ones by position), NaN
        where there are fewer: ``X`` (obs_new, mode, latent), ``sd`` (obs_new, mode, latent) of the Gaussian there
        and ``weight`` (obs_new, mode), the share of the posterior that lies about it. Modes
        nearer than two standard deviations are one. ``rows``: for each row ``effective_modes``, the
        exponential of the entropy of the weights (1: one position; 2: two as likely); ``n_modes``, how
        many modes have at least half the weight of the heaviest, so that at 2 the row may as well lie
        elsewhere; ``ess``,
        how many equal weights the positions are worth; ``pareto_k`` of the weights; ``shortfall``, how
        much worse than the training rows it is explained, and ``converged``, whether its highest
        mode was reached to tolerance in every draw.
        ``shortfall`` compares ln p(y given x), divided by the number of entries seen, at the
        weightiest mode with that of every training row given all others (R&W 2006, eq. 5.12): the
        distance below their median, in units of that of their lower sixth (but at least 0.1), the
        median over the draws. 0 is as usual, 1 as poor as for a sixth of the training rows. NaN
        where a map gives the position (:func:`priors.back_constraint`).

    Warns
    -----
    RuntimeWarning
        If ``shortfall`` of a row exceeds 5, so that its position means little; if ``pareto_k`` of a row
        exceeds 0.7 or a highest mode was not reached; if the draws of X
        stand in frames of their own (:func:`align`).

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is no fit of a model of :func:`build_model`, ``Y_new`` has other columns, a row
        of NaN alone or infinite values, or another argument is out of range.
    FileExistsError
        If ``out`` exists, another run is writing it, or an unfinished run of another fit, table or setting
        stands there.
    ImportError
        If ``client`` or ``n_workers`` is given and dask is not installed.
    KeyboardInterrupt
        At Ctrl-C; of the rows placed so far nothing is returned. With ``out`` they are kept, and the same call goes on.

    Notes
    -----
    *Each row by itself.* A row is told the same alone, among others and in any order, with the same
    ``random_seed`` (not None): its random numbers come from the seed and its own values, whatever their
    signs of zero, and columns that come by name may stand in any order. Equal rows are told the same.
    With more BLAS threads than one this holds but for rounding.

    *In chunks.* Each chunk is placed by itself, which changes nothing but rounding, and does not depend on who does it. Beside
    the store, in ``out`` with ``.part`` appended, stand the chunks that are done, until all are.

    *With times* ln p(X_new given X) + Σ ln p(y_t, given x_t) is maximised in all positions of a draw at once, from the
    prior's mean and from two ways through positions of known rows, and positions are drawn from the Gaussian with the
    curvature there, together. Nothing corrects it (``pareto_k`` is NaN), a second mode is not seen, and the draws of
    the fit count the same. Given its position a row tells nothing of another's entries, as without times. ``modes``
    has one mode a row, the mean over the draws of the fit, with the sd of the position; ``n_starts`` is not used.

    *Sparse and variational fits.* m and v are those given q(u), the values at the M inducing inputs, which the
    new rows do not change. X being integrated over, a variational fit counts as one draw (unless aligned).
    Starts are sought among at most 1000 of its rows.

    *Cost.* All rows and starts are maximised in step, so that the cost is that of few products of matrices: for
    each row and draw about 20 ``n_starts`` + ``draws`` positions of N² operations, of M² through
    inducing inputs (of M D after :func:`fit_svi` where columns differ in what is known: another likelihood than the
    Gaussian, a noise of each, missing entries). A position that no
    start leads to is missed, and ``pareto_k`` may not show it: in more than about three latent
    dimensions compare with a greater ``n_starts``.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y., Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25 (72), 1-58.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=32)
    >>> best = gplvm.fit_marginal(gplvm.build_model(Y[:30]), progressbar=False)
    >>> new = gplvm.embed(best, Y[30:], random_seed=1, progressbar=False)
    >>> new["posterior"]["X"].dims, new["modes"]["weight"].dims
    (('chain', 'draw', 'obs_new', 'latent'), ('obs_new', 'mode'))

    Of a table larger than memory, a chunk at a time:

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = pathlib.Path(folder) / "places.zarr"
    ...     places = gplvm.embed(best, Y[30:], out=out, random_seed=1, progressbar=False)
    ...     bool(np.allclose(places["modes"]["X"], new["modes"]["X"], equal_nan=True))
    True
    """
    settings = {"num_samples": num_samples, "draws": draws, "n_starts": n_starts}
    in_time = times is not None or sequence is not None
    in_chunks = any(v is not None for v in (out, client, n_workers, chunk_rows))
    if in_time and in_chunks:
        raise ValueError(
            "times must be left out where rows go in chunks, as embed places frames together, got both."
        )
    tables = readable(fit, settings, "embed", whole=in_time)
    read = next(iter(tables.values()))
    if in_time:
        read.refuse_inputs("rows are not placed in time there. Leave times out.")
        if len(tables) > 1:
            raise ValueError(
                "times and sequence are of a fit of one table, got one of several. Take one of them by "
                "gplvm.data.view(fit, name)."
            )
        return _in_time(
            read,
            Y_new,
            (times, sequence, prior, offset),
            settings,
            random_seed,
            blas_threads,
            progressbar,
        )
    warn_of_prior(tables, prior)
    read.warn_unaligned()
    told = Told(prior, offset, inputs)
    if in_chunks:
        stored = Stored(out, client, n_workers, chunk_rows, random_seed, progressbar, blas_threads)
        tree, notes, labels = stored.done(place_rows, tables, Y_new, told, settings)
        doubts = reduce(add, (Doubts(**note) for note in notes))
    else:
        tree, doubts, labels = _placed(
            tables, Y_new, told, settings, random_seed, blas_threads, progressbar=progressbar
        )
    doubts.warn(labels)
    return tree


def place_rows(
    tables: Tables, Y_new: Any, told: Told, settings: dict[str, int], seed: int | None, first: int
) -> tuple[xr.DataTree, dict[str, Any]]:
    """Place some rows of a table, the first of them at ``first``: the tree, and what is to be warned of."""
    tree, doubts, _ = _placed(tables, Y_new, told, settings, seed, None, progressbar=False)
    return tree, asdict(doubts.moved(first))


def _placed(
    tables: Tables,
    Y_new: Any,
    told: Told,
    settings: dict[str, int],
    random_seed: int | None,
    blas_threads: int | None,
    *,
    progressbar: bool,
) -> tuple[xr.DataTree, "Doubts", NDArray[Any]]:
    """Place rows, each for itself, and say of which one may doubt it; with their labels."""
    read = next(iter(tables.values()))
    if told.prior is None and kind_of_prior(read.constants).mapped:
        read.refuse_inputs("its X is a function of Y, inputs and all. Give prior=(0.0, 1.0).")
        whole = NewRows.of(tables, Y_new)
        tree = _positions_by_map(read, whole, settings["num_samples"])
        unknown = np.full(len(whole), np.nan)
        return tree, Doubts.of(unknown, unknown, converged=True), new_labels(whole)
    new, positions, streams = positions_of_table(
        tables, Y_new, told, settings, random_seed, blas_threads, progressbar
    )
    weights, k = positions.smoothed()
    chosen = _resampled(weights, streams)
    X = positions.x[np.arange(len(new)), chosen]
    at, sd, weight = separate_modes(positions, weights)
    rows = {
        "effective_modes": effective(weight),
        "n_modes": (weight >= _LIKE * weight[:, :1]).sum(axis=1),
        "ess": 1.0 / (weights**2).sum(axis=1),
        "pareto_k": k,
        "shortfall": positions.shortfall,
        "converged": positions.modes.converged,
    }
    tree = _tree_of_positions(read, new, X, (at, sd, weight), rows)
    tree.attrs |= {**settings, "random_seed": to_json(random_seed)}
    doubts = Doubts.of(k, positions.shortfall, converged=positions.modes.converged)
    return tree, doubts, new_labels(new)


def _in_time(
    read: Fit,
    Y_new: Any,
    given: tuple[Any, Any, Any, Any],
    settings: dict[str, int],
    random_seed: int | None,
    blas_threads: int | None,
    progressbar: bool,
) -> xr.DataTree:
    """Place new rows together as frames, by ``given`` times and sequences."""
    times, sequence, prior, offset = given
    if times is None:
        raise ValueError(
            "sequence goes with times in embed, got no times. Give times=, or leave sequence out."
        )
    if prior is not None:
        raise ValueError(
            "embed takes prior or times, got both. Leave prior out: priors.dynamics tells it."
        )
    paths = Paths.of(read)
    new = NewRows.of({None: read}, Y_new)
    given_rows = new.parts[None]
    labelled = "obs_new" in given_rows.coords
    labels = given_rows["obs_new"].to_numpy() if labelled else np.arange(len(new))
    at = paths.at(by_row("times", times, labels), by_row("sequence", sequence, labels))
    if len(at) != len(new):
        raise ValueError(
            f"times must have one entry for each of the {len(new)} new rows, got {len(at)}."
        )
    read.warn_unaligned()
    (rows, *_) = _rows_by_draw(read, new, (0.0, 1.0), 1)
    if read.has_likelihood:
        rows = replace(rows, offset=offset_of(read, given_rows, offset))
    draws, limit = settings["draws"], settings["num_samples"]
    with (
        limit_threads(blas_threads),
        progress_bar(
            "embed", len(new) * len(read.evenly_spaced(limit)), "rows", show=progressbar
        ) as bar,
    ):
        placed = placed_in_time(
            read,
            paths,
            at,
            rows,
            num_samples=limit,
            draws=draws,
            rng=np.random.default_rng(random_seed),
            progress=bar,
        )
    M = len(new)
    Doubts.of(np.full(M, np.nan), placed.shortfall, converged=placed.converged).warn(labels)
    of_rows = {
        "effective_modes": np.ones(M),
        "n_modes": np.ones(M, dtype=np.intp),
        "ess": np.full(M, float(len(placed.X))),
        "pareto_k": np.full(M, np.nan),
        "shortfall": placed.shortfall,
        "converged": np.full(M, placed.converged),
    }
    found = (placed.mean[:, None], placed.sd[:, None], np.ones((M, 1)))
    tree = _tree_of_positions(read, new, placed.X, found, of_rows)
    tree.attrs |= {**settings, "random_seed": to_json(random_seed)}
    return tree


@checked
def log_predictive(
    fit: xr.DataTree,
    Y_new: Any,
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
) -> xr.Dataset:
    """Give ln p(y) of new rows, their positions integrated out.

    ln p(y) = ln E ∫ p(y | x, X, θ) p(x) dx, the expectation over the draws of the fit, the integral
    by importance sampling from the mixtures of :func:`embed`. Of a row with missing entries it is
    the density of those seen.

    Parameters
    ----------
    fit, Y_new, prior, num_samples, draws, n_starts, offset, inputs, random_seed, progressbar, blas_threads
        As in :func:`embed`.

    Returns
    -------
    Dataset, dims (obs_new,)
        ``log_score``: ln p(y), the density in the units of Y; ``error``: the standard error that
        the integral leaves in it; ``pareto_k`` of the weights: above 0.7 neither can be relied on.

    Raises
    ------
    TypeError, ValueError, KeyboardInterrupt
        As in :func:`embed`.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=32)
    >>> best = gplvm.fit_marginal(gplvm.build_model(Y[:30]), progressbar=False)
    >>> gplvm.log_predictive(best, Y[30:], random_seed=1, progressbar=False)["log_score"].dims
    ('obs_new',)
    """
    settings = {"num_samples": num_samples, "draws": draws, "n_starts": n_starts}
    tables = readable(fit, settings, "log_predictive")
    warn_of_prior(tables, prior)
    told = Told(prior, offset, inputs)
    new, positions, _ = positions_of_table(
        tables, Y_new, told, settings, random_seed, blas_threads, progressbar
    )
    known = {
        "log_score": positions.log_evidence - new.log_units,
        "error": positions.error,
        "pareto_k": positions.smoothed()[1],
    }
    return xr.Dataset({n: ("obs_new", v) for n, v in known.items()}, coords=new.labels)


def readable(fit: Any, settings: dict[str, int], caller: str, *, whole: bool = False) -> Tables:
    """Check the numbers that :func:`embed` is given, and read its fit, of one table or several.

    Unless ``whole``, of some fits those rows alone that tell anything of a new one.
    """
    for (name, value), least in zip(settings.items(), (1, 100, 4), strict=True):
        count(name, value, least)
    tables = tables_of_fit(fit if whole else with_known_rows(fit), caller=caller)
    for read in tables.values():
        if not read.has_likelihood:
            read.require("sigma")
    return tables


def positions_of_table(
    tables: Tables,
    Y_new: Any,
    told: Told,
    settings: dict[str, int],
    random_seed: int | None,
    blas_threads: int | None,
    progressbar: bool,
) -> tuple[NewRows, Positions, list[np.random.Generator]]:
    """Check new rows, and draw weighted positions of each; the rows' streams of random numbers go on."""
    new, read = NewRows.of(tables, Y_new), next(iter(tables.values()))
    if told.prior is None and kind_of_prior(read.constants).mapped:
        raise ValueError(
            f"{read.caller} needs a density of the place of a new row, while in a fit with back constraints "
            "it is a function of the row. Give prior=(0.0, 1.0)."
        )
    by_draw = _rows_by_draw(read, new, told.prior, settings["num_samples"])
    asked = located(read, told.inputs, new_labels(new))
    if read.has_likelihood:
        densities: Iterable[Density] = each_uncollapsed_density(list(tables.values()), len(by_draw))
        offsets = offsets_of(tables, new, told.offset)
        by_draw = [with_offsets(rows, new, offsets) for rows in by_draw]
    elif told.offset is not None:
        raise ValueError(
            f"{read.caller} takes an offset of new rows where fit_svi had one of the table's, got another fit."
        )
    else:
        densities = each_density(list(tables.values()), len(by_draw))
    seed = np.random.SeedSequence(random_seed)
    streams = row_streams(new.values, seed)
    with (
        limit_threads(blas_threads),
        progress_bar(read.caller, len(new) * len(by_draw), "rows", show=progressbar) as progress,
    ):
        common: dict[str, Any] = {
            "n_samples": settings["draws"],
            "n_starts": settings["n_starts"],
            "seed": seed,
            "progress": progress,
        }
        if asked.at is None:
            positions = weighted_positions(densities, by_draw, streams=streams, **common)
        else:
            found, order, limit = [], [], len(by_draw)
            exact = []
            if not read.has_likelihood:
                exact = [draw.factorised() for draw in each_draw(asked, limit)]
            for at, which in groups(asked.at):
                if read.has_likelihood:
                    here: Iterable[Density] = map(
                        uncollapsed_density, each_frame(replace(asked, at=at[None]), limit)
                    )
                else:
                    here = each_density_at(exact, asked.table().F, at)
                some, own = [rows[which] for rows in by_draw], [streams[i] for i in which]
                found.append(weighted_positions(here, some, streams=own, **common))
                order.append(which)
            positions = joined_rows(found, np.concatenate(order))
    return new, positions, streams


def new_labels(new: NewRows) -> NDArray[Any]:
    """Labels of new rows, or their numbers."""
    labels = new.labels.get("obs_new")
    return np.arange(len(new)) if labels is None else np.asarray(labels.to_numpy())


def _rows_by_draw(read: Fit, new: NewRows, prior: Any, limit: int) -> list[Rows]:
    """Standardise new rows, once for each of at most ``limit`` draws, with the prior of their positions.

    ``prior`` is (mean, sd), each a number, (Q,) or (M, Q), in the frame of the fit's X; None stands for
    N(0, 1) of the draw as it was made, before :func:`align` moved it.
    """
    values = new.standardised
    seen = ~np.isnan(values)
    y = np.where(seen, values, 0.0)
    shape, chosen = (len(new), read.latent_dim), chosen_draws(read, limit)
    if prior is None:
        priors = kind_of_prior(read.constants).new_row(read, chosen)
    else:
        priors = [(*_given(prior, shape), None)] * len(chosen)
    return [
        Rows(y, seen, np.broadcast_to(mean, shape), np.broadcast_to(sd, shape), mixture)
        for mean, sd, mixture in priors
    ]


def warn_of_prior(tables: Tables, prior: Any) -> None:
    """Warn if the prior of a new row may not be N(0, 1), and none is given."""
    read = next(iter(tables.values()))
    text = (read.priors or {}).get("X", _STANDARD)
    if prior is None and text != _STANDARD and kind_of_prior(read.constants) is LatentPrior:
        warn(
            f"The place of a new row has the prior N(0, 1) here, while X had {text}. Give "
            "prior=(mean, sd)."
        )


def _given(prior: Any, shape: tuple[int, int]) -> tuple[Array, Array]:
    try:
        mean, sd = (np.broadcast_to(np.asarray(p, dtype=np.float64), shape) for p in prior)
    except (TypeError, ValueError):
        raise ValueError(
            "prior must be a pair (mean, sd), each a number or of shape (latent_dim,) = "
            f"({shape[1]},) or (rows, latent_dim) = {shape}, got {prior!r}."
        ) from None
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and (sd > 0.0).all()):
        raise ValueError("prior must have finite means and positive, finite standard deviations.")
    return mean, sd


def _tree_of_positions(
    read: Fit,
    new: NewRows,
    X: Array,
    found: tuple[Array, Array, Array],
    rows: dict[str, NDArray[Any]],
) -> xr.DataTree:
    """Put together what :func:`pm_gplvm.embed` returns.

    ``X`` (S, M, Q) are the draws; ``found`` the modes (M, J, Q), their sd and weights (M, J); ``rows``
    what is known of each row, (M,).
    """
    at, sd, weight = found
    coords: dict[str, Any] = {**new.labels, LATENT: read.draws("X")[LATENT].to_numpy()}
    modes = {
        "X": (("obs_new", "mode", LATENT), at),
        "sd": (("obs_new", "mode", LATENT), sd),
        "weight": (("obs_new", "mode"), weight),
    }
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {"X": (("chain", "draw", "obs_new", LATENT), X[None])},
                coords={**coords, "chain": [0], "draw": np.arange(len(X))},
            ),
            "modes": xr.Dataset(modes, coords={**coords, "mode": np.arange(weight.shape[1])}),
            "rows": xr.Dataset(
                {name: ("obs_new", values) for name, values in rows.items()},
                coords=new.labels,
            ),
        }
    )
    tree.attrs = {"pm_gplvm_version": version("pm_gplvm"), "method": "embed"}
    return tree


def _positions_by_map(read: Fit, new: NewRows, draws: int) -> xr.DataTree:
    """Positions X = g(Y) of new rows without missing entries, one for each of so many draws of the fit."""
    F, F_new = read.table(missing=False).F, new.standardised
    if np.isnan(F_new).any():
        raise ValueError(
            "embed needs whole rows for a fit with back constraints, as a place is a function of all of "
            "it, got missing entries. Give prior=(0.0, 1.0) to place them by their density instead."
        )
    chosen = read.evenly_spaced(draws)
    frames = read.frames(chosen)
    positions = mapped(read, F, F_new, read.values("X", raw=True)[chosen])
    X = np.stack([frames.inward(i, x) for i, x in enumerate(positions)])
    M = len(new)
    found = (X.mean(axis=0)[:, None], X.std(axis=0)[:, None], np.ones((M, 1)))
    rows = {
        "effective_modes": np.ones(M),
        "n_modes": np.ones(M, dtype=np.intp),
        "ess": np.full(M, float(len(X))),
        "pareto_k": np.full(M, np.nan),
        "shortfall": np.full(M, np.nan),
        "converged": np.ones(M, dtype=bool),
    }
    tree = _tree_of_positions(read, new, X, found, rows)
    tree.attrs["draws"] = len(X)
    return tree


def _resampled(weights: Array, streams: list[np.random.Generator]) -> NDArray[np.intp]:
    """Systematic resampling of each row, shape (T, M), in random order."""
    T, chosen = weights.shape[1], []
    for weight, stream in zip(weights, streams, strict=True):
        total = np.cumsum(weight)
        level = (np.arange(T) + stream.random()) / T
        own = np.searchsorted(total / total[-1], level, side="right")
        chosen.append(stream.permutation(np.minimum(own, T - 1)))
    return np.stack(chosen, axis=1)


@dataclass(frozen=True)
class Doubts:
    """Of how many rows one may doubt the place, the worst of them, and the strangest, as (shortfall, row)."""

    n_rows: int
    n_unreliable: int
    largest_k: float
    n_unconverged: int
    n_strange: int
    strangest: list[tuple[float, int]]

    @classmethod
    def of(cls, k: Array, shortfall: Array, *, converged: Any) -> "Doubts":
        """Count rows (M,)."""
        far = np.broadcast_to(converged, k.shape)
        bad, strange = k[k > _UNRELIABLE], np.flatnonzero(shortfall > _STRANGE)
        order = strange[np.argsort(-shortfall[strange], kind="stable")][:_NAMED]
        return cls(
            len(k),
            len(bad),
            float(bad.max(initial=0.0)),
            int((~far).sum()),
            len(strange),
            [(float(shortfall[i]), int(i)) for i in order],
        )

    def moved(self, first: int) -> "Doubts":
        """Count rows from another one on."""
        return replace(self, strangest=[(value, first + row) for value, row in self.strangest])

    def __add__(self, other: "Doubts") -> "Doubts":
        both = sorted([*self.strangest, *other.strangest], key=lambda found: -found[0])
        return Doubts(
            self.n_rows + other.n_rows,
            self.n_unreliable + other.n_unreliable,
            max(self.largest_k, other.largest_k),
            self.n_unconverged + other.n_unconverged,
            self.n_strange + other.n_strange,
            [(float(value), int(row)) for value, row in both[:_NAMED]],
        )

    def warn(self, labels: NDArray[Any]) -> None:
        """Warn of them; ``labels`` are those of all rows."""
        if self.n_unreliable:
            warn(
                f"embed: pareto_k exceeds {_UNRELIABLE} in {self.n_unreliable} of {self.n_rows} rows (up to "
                f"{self.largest_k:.2f}): their draws may miss part of the posterior. Raise draws or n_starts, "
                "or look at their modes."
            )
        if self.n_unconverged:
            warn(
                f"embed: the highest mode of {self.n_unconverged} of {self.n_rows} rows was not reached "
                "to tolerance. Raise n_starts."
            )
        if self.n_strange:
            named = ", ".join(str(labels[row]) for _, row in self.strangest)
            more = ", ..." if self.n_strange > _NAMED else ""
            warn(
                f"embed: {self.n_strange} of {self.n_rows} rows ({named}{more}) are explained much worse than the "
                f"table's own when left out (shortfall up to {self.strangest[0][0]:.1f}, above {_STRANGE:.0f}): their "
                "places mean little. Compare their values with predict at their modes; rows unlike all "
                "others need a fit that has seen such, and many such rows a fit with more noise."
            )
