"""New rows put into a fit by minibatches: their q(x) is found, q(u) and θ are held."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array
from pm_gplvm.core.uncollapsed import (
    GatheredRows,
    Nodes,
    NormalRows,
    RowGradient,
    RowsPrior,
    accurate,
    block_of_rows,
    positive,
    row_steps,
    row_terms,
)
from pm_gplvm.data.fit import FEATURE, OBS, Fit, to_json
from pm_gplvm.data.table import new_table
from pm_gplvm.model.likelihoods import Rows as Observed
from pm_gplvm.model.priors import kind_of_prior
from pm_gplvm.prediction.embed import embed
from pm_gplvm.prediction.uncollapsed import InducedFunctions, Uncollapsed, offset_of

_STEPS = 60  # of each row's q(x): from a mode some ten arrive
_TRUST = 0.5
_DRAWS = 100  # the least that embed takes: of it the modes alone are used
_OF_THE_OLD = ("aligned", "trace", "optima", "optima_positions", "log_likelihood", "log_prior")
_LATER: Mapping[str, float] = {
    "Y_offset": 0.0,
    "Y_entry": 0.0,
    "X_prior_mean": 0.0,
    "X_prior_sd": 1.0,
    "X_class": -1,
}


def appended(
    fit: xr.DataTree,
    Y_new: Any,
    offset: Any,
    *,
    random_seed: int | None,
    progressbar: bool,
    blas_threads: int | None,
) -> xr.DataTree:
    """Maximise the bound in the q(x) of new rows, from the weightiest mode of each, and append them.

    The bound is then that of all rows, at the q(u) of the old ones.
    """
    read = Fit(xr.DataTree.from_dict(_kept(fit)), "add_rows")
    read.tree.attrs = dict(fit.attrs)
    new = new_table(read, Y_new)
    given = offset_of(read, new, offset)
    process = Uncollapsed.of(read)
    seen = process.observed(new.to_numpy(), given)
    found = embed(
        read.tree,
        Y_new,
        draws=_DRAWS,
        offset=offset,
        random_seed=random_seed,
        progressbar=progressbar,
        blas_threads=blas_threads,
    )["modes"]
    q = found["X"].to_numpy()[:, 0], found["sd"].to_numpy()[:, 0]
    with limit_threads(blas_threads):
        mean, sd, bound = _settled(process, seen, q, _prior_of_new_rows(read))
    _, scale = read.units()
    gained = float(bound.sum() - seen.seen.sum(axis=0) @ np.log(scale))
    known = {"Y_offset": given, "Y_entry": process.entry}
    return _longer(read, new, (mean, sd), known, gained, random_seed)


def _kept(fit: xr.DataTree) -> dict[str, xr.Dataset]:
    """Take the groups that go on; those of how the old rows were fitted, and of frames, do not."""
    return {n: g.to_dataset() for n, g in fit.children.items() if n not in _OF_THE_OLD}


def _settled(
    process: Uncollapsed, seen: Observed, q: tuple[Array, Array], prior: RowsPrior
) -> tuple[Array, Array, Array]:
    """Return q(x) where each row's bound is highest, and that bound."""
    Q, longest = q[0].shape[1], 0.5 * float(process.unit.min())
    means, sds, bounds, f = [], [], [], process.functions
    if not isinstance(f, InducedFunctions):
        raise TypeError("the fit has no q(u)")

    def evaluate(some: Observed, mean: Array, sd: Array, nodes: Nodes) -> RowGradient:
        p = process
        of = f.features, f.posterior, f.level, p.likelihood, p.parameters, some
        return row_terms(*of, (mean, sd), nodes)[0]

    size = block_of_rows(len(accurate(Q)[1]))
    for first in range(0, len(q[0]), size):
        rows = slice(first, first + size)
        some = Observed(
            seen.Y[rows], None if seen.offset is None else seen.offset[rows], seen.entry
        )
        start = q[0][rows], q[1][rows]
        mean, sd, _, _ = row_steps(
            lambda mean, sd, some=some: evaluate(some, mean, sd, positive(Q)),
            start,
            np.full(len(start[0]), _TRUST),
            prior,
            longest=longest,
            steps=_STEPS,
        )
        value = evaluate(some, mean, sd, accurate(Q)).value
        means.append(mean)
        sds.append(sd)
        bounds.append(value - prior.divergence(mean, sd))
    return np.concatenate(means), np.concatenate(sds), np.concatenate(bounds)


def _prior_of_new_rows(read: Fit) -> RowsPrior:
    """Give the prior of a new row as :func:`embed` has it, of unknown class where there are classes."""
    ((mean, sd, mixture),) = kind_of_prior(read.constants).new_row(read, np.zeros(1, dtype=np.intp))
    if mixture is None:
        return NormalRows(mean, sd)
    return GatheredRows(np.log(mixture.share)[None], mixture.centre, mixture.sd)


def _longer(
    read: Fit,
    new: xr.DataArray,
    q: tuple[Array, Array],
    known: Mapping[str, Array | None],
    gained: float,
    random_seed: int | None,
) -> xr.DataTree:
    """Put the groups of all rows together."""
    (mean, sd), M = q, len(new)
    groups = {name: read.group(name) for name in read.tree.children}
    S = groups["posterior"].sizes["draw"]
    noise = read.has_q * np.random.default_rng(random_seed).standard_normal((1, S, *mean.shape))
    old = read.row_names(groups["approximation"].sizes[OBS])
    coords: dict[str, Any] = {OBS: row_labels(old, new["obs_new"].to_numpy())}
    for name, old_ones in groups["posterior"].coords.items():
        if old_ones.dims == (OBS,) and name != OBS:
            more = continued(old_ones.to_numpy(), new.coords.get(name), M)
            coords[str(name)] = (OBS, more)
    added: dict[str, NDArray[Any]] = {
        "X": mean + sd * noise,
        "X_mean": mean,
        "X_sd": sd,
        read.observed: new.to_numpy(),
    }
    for name, value in known.items():
        if value is not None:
            added[name] = np.broadcast_to(value, (M, value.shape[1]))
    longer = {
        name: _along_rows(group, added, M).assign_coords(
            {n: c for n, c in coords.items() if OBS in group.dims or OBS in group.coords}
        )
        for name, group in groups.items()
    }
    longer["sample_stats"] = longer["sample_stats"] + gained
    tree = xr.DataTree.from_dict(longer)
    tree.attrs = read.tree.attrs | {
        "method": "add_rows",
        "n_new": M,
        "random_seed": to_json(random_seed),
        "interrupted": 0,
        "warnings": to_json([]),
    }
    return tree


def _along_rows(group: xr.Dataset, added: dict[str, NDArray[Any]], n_new: int) -> xr.Dataset:
    """Continue each variable along the rows: by what is added, or by what nothing known means."""
    if OBS not in group.dims:
        return group
    bare = group.drop_vars([name for name, c in group.coords.items() if OBS in c.dims])
    variables: dict[Any, Any] = {}
    for name, old in bare.data_vars.items():
        if OBS not in old.dims:
            variables[name] = old
            continue
        axis, shape = old.dims.index(OBS), list(old.shape)
        more = added.get(str(name))
        if more is None:
            more = np.full(1, _LATER[str(name)])
        wide = (
            [max(a, b) for a, b in zip(shape, more.shape, strict=False)] if more.ndim > 1 else shape
        )
        before, after = list(wide), list(wide)
        before[axis], after[axis] = shape[axis], n_new
        values = [np.broadcast_to(old.to_numpy(), before), np.broadcast_to(more, after)]
        dims = old.dims if wide[-1] == shape[-1] else (*old.dims[:-1], FEATURE)
        variables[name] = (dims, np.concatenate(values, axis=axis))
    kept = {n: c for n, c in bare.coords.items() if OBS not in c.dims}
    return xr.Dataset(variables, coords=kept)


def row_labels(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Give all rows labels: numbers go on where the new ones have none of their own."""
    numbered = np.issubdtype(old.dtype, np.integer)
    if new.tolist() == list(range(len(new))):  # a table whose rows have no labels of their own
        first = int(old.max()) + 1 if numbered else len(old)
        new = np.arange(first, first + len(new))
    if old.dtype.kind != new.dtype.kind:
        old, new = old.astype(str), new.astype(str)
    taken = set(new.tolist()) & set(old.tolist())
    if taken:
        raise ValueError(
            f"Y_new must not have labels of rows that the fit has, got {', '.join(map(str, list(taken)[:5]))}. "
            "Give its rows other labels, or none."
        )
    return np.concatenate([old, new])


def continued(old: NDArray[Any], new: xr.DataArray | None, n_new: int) -> NDArray[Any]:
    """Continue a coordinate along the rows, empty where the new ones lack it."""
    if new is not None:
        return np.concatenate([old, new.to_numpy()])
    if old.dtype.kind == "M":
        return np.concatenate([old, np.full(n_new, "NaT", dtype=old.dtype)])
    return np.concatenate([old, np.full(n_new, "" if old.dtype.kind in "UO" else np.nan)])
