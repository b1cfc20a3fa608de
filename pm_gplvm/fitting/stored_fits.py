"""Fits whose rows are written by those that hold them, into a store that is opened and not read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.core.checks import Array
from pm_gplvm.core.cluster import Executor
from pm_gplvm.data.files import check_labels
from pm_gplvm.data.fit import LATENT, OBS
from pm_gplvm.data.stores import RowStore, opened_lazily
from pm_gplvm.fitting.minibatch_tables import Views

FEW = 2
"""Rows of the fit by which a store is laid out."""


@contextmanager
def store_for(out: Any, verb: str, labels: Mapping[str, Any]) -> Iterator[RowStore | None]:
    """Where a fit is to be written, if anywhere; its labels are checked."""
    if out is None:
        yield None
        return
    with RowStore.of("out", out, OBS) as target:
        target.known("out", {"verb": verb})  # none that another verb has begun
        check_labels(labels, "Y")
        yield target


@dataclass(frozen=True)
class Writing:
    """Where rows are written, with so many draws of X, and which variables there are of rows, by group."""

    store: RowStore
    draws: int
    seed: int
    of_rows: Mapping[str, frozenset[str]]

    def write(
        self, index: int, rows: slice, q: tuple[Array, Array], tables: Mapping[str, Any]
    ) -> None:
        """Write q(x), means and sds (n, Q), and entries of a chunk; ``tables`` gives names, dims and values."""
        mean, sd = q
        rng = np.random.default_rng([self.seed, index])
        X = mean + sd * rng.standard_normal((1, self.draws, *mean.shape))
        given: dict[str, Mapping[str, Any]] = {
            "posterior": {"X": (("chain", "draw", OBS, LATENT), X)},
            "approximation": {"X_mean": ((OBS, LATENT), mean), "X_sd": ((OBS, LATENT), sd)},
            "observed_data": tables,
        }
        groups = {
            group: xr.Dataset({n: v for n, v in own.items() if n in self.of_rows[group]})
            for group, own in given.items()
        }
        self.store.write(rows, xr.DataTree.from_dict(groups))


def stored(
    fit: xr.DataTree,
    target: RowStore,
    executor: Executor,
    task: Callable[[Any, int, Any], int],
    told: Callable[[Writing], Any],
    views: Views,
    draws: int,
    rng: np.random.Generator,
) -> xr.DataTree:
    """Lay a fit of few rows out for all, let each chunk's be written by who holds it, and open it."""
    del fit["optima_positions"]  # which are of all rows
    of_rows = {
        str(group.name): frozenset(str(n) for n, v in group.data_vars.items() if OBS in v.dims)
        for group in fit.children.values()
    }
    writing = Writing(target, draws, int(rng.integers(2**31)), of_rows)
    job, constants, by_row = executor.job, fit["constant_data"], views.by_row
    about = {"asked": {"verb": f"fit_{fit.attrs['method']}"}, "drawn": {}}
    target.give_up()  # what a run that was killed as it wrote has left
    target.begin(fit, views.labels, (job.bounds[-1], job.bounds[1]), about)
    try:
        for _ in executor.each(task, told(writing), to_the_end=True):
            pass
        for rows in map(job.rows, range(job.n_chunks)):
            own = {n: (constants[n].dims, by_row[n][rows]) for n in of_rows["constant_data"]}
            target.write(rows, xr.DataTree.from_dict({"constant_data": xr.Dataset(own)}))
        target.end()
    except BaseException:
        target.give_up()
        raise
    return opened_lazily(target, views.obs)
