"""Steps of `fit_svi` by minibatches of rows that stand with the workers of Dask, beside those of one process.

From Zarr, at the start of a fit, where each step goes through its rows four times.

    python -m benchmarks.cluster_steps HOW N BATCH FOLDER

is one measurement in a fresh process: HOW is "here", or the number of workers.
"""

import json
import sys
import tempfile
import time
import warnings
from itertools import chain, count
from pathlib import Path

import numpy as np

from benchmarks.clusters import D, M, Q, in_a_fresh_process, peak, used, write
from benchmarks.report import Report

SIZES = (100_000, 1_000_000)
BATCHES = (500, 2000)
STEPS, FIRST = 30, 5  # the first read their chunks


def _steps(client, Y, batch: int) -> list[tuple[float, float]]:
    from pm_gplvm.fitting.chunk_folder import InChunks
    from pm_gplvm.fitting.minibatch import Optimiser
    from pm_gplvm.fitting.minibatch_chunks import rows_for
    from pm_gplvm.fitting.minibatch_tables import read_views
    from pm_gplvm.fitting.svi import _schedule, _start

    def everyone() -> float:
        return used() + sum(client.run(used).values() if client else ())

    rng = np.random.default_rng(1)
    usual = {"likelihood": "gaussian", "kernel": "rbf", "scale": "global", "resolution": 0}
    views = read_views(Y, Q, None, None, ard=True, offset=None, noise_sd=None, **usual)
    with rows_for(views, Q, InChunks(client, None, None, None, None), "pca", None) as rows:
        state, _ = _start(views, Q, M, "pca", rng)
        schedule = _schedule(len(views), batch, None, 0.05)
        optimiser = Optimiser(views, state, schedule, rows(state), rng=rng)
        batches = chain.from_iterable(optimiser.rows.batches(batch, rng) for _ in count())
        found = []
        for _ in range(FIRST + STEPS):
            cpu, clock = everyone(), time.perf_counter()
            optimiser.step(next(batches))
            clock = time.perf_counter() - clock
            found.append((clock, everyone() - cpu))
    return found[FIRST:]


def _main(how: str, N: int, batch: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    import zarr

    from pm_gplvm.core.blas import blas_threads
    from pm_gplvm.core.cluster import connected

    Y = zarr.open_array(str(folder / f"{N}.zarr"), mode="r")
    with connected(None, None if how == "here" else int(how)) as client, blas_threads(1):
        clock, cpu = np.median(_steps(client, Y, batch), axis=0)
        workers = max(client.run(peak).values()) if client else 0
    found = {"N": N, "batch": batch, "how": how, "seconds": float(clock), "cpu": float(cpu)}
    print(json.dumps(found | {"mb": peak(), "workers_mb": workers}))


def run(report: Report, arguments) -> None:
    steps = []
    with tempfile.TemporaryDirectory() as name:
        for N in arguments.N or SIZES:
            write(Path(name), N)
            for batch in BATCHES:
                steps += [
                    in_a_fresh_process("cluster_steps", how, N, batch, name)
                    for how in ("here", "1", "2")
                ]
    report.data["steps"] = steps
    report.text(f"## A step: D = {D}, Q = {Q}, M = {M}, rbf, Gaussian, from Zarr")
    report.table(
        ["N", "rows of a batch", "processes", "ms", "CPU ms", "client MB", "worker MB"],
        [
            [
                s["N"],
                s["batch"],
                s["how"],
                1e3 * s["seconds"],
                1e3 * s["cpu"],
                s["mb"],
                s["workers_mb"],
            ]
            for s in steps
        ],
    )
    report.write()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
