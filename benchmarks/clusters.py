"""The collapsed bound in chunks of rows: a pass against N, Dask's overhead, a fit from Zarr, and a model of what it costs.

Passes are values and gradients at the start. CPU time is that of all processes, the seconds of a pass are on the clock, as
workers run beside each other: on a machine that others use, compare the CPU times.

    python -m benchmarks.clusters HOW N ITERATIONS FOLDER

is one measurement in a fresh process: HOW is "here", or the number of workers.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks.environment import HERE
from benchmarks.report import Report

D, Q, M = 50, 5, 100
SIZES = (10_000, 100_000)
PASSES = 3
ITERATIONS = 40  # of the fit
BLOCK = 50_000  # rows that are drawn at once
CHUNK = 6990  # rows of a chunk by default at these sizes
# Multiplications and additions for a row: ψ₂ of all pairs of inducing inputs and its pullback, three numbers a
# dimension each, and ψ₁ᵀ Y and its pullback.
FLOPS = 2 * (3 * Q * M * (M + 1) // 2) * 2 + 4 * M * D
SENT = 8 * (
    M * (M + 1) // 2 + M * D + 2 * M * Q
)  # bytes that come from a chunk: ψ₂, ψ₁ᵀ Y, slopes of W
HELD = 8 * (D + M + 44 * Q)  # bytes that a worker holds of a row
RATE = 1.25e9  # bytes a second of a network of 10 Gbit/s


def write(folder: Path, N: int):
    """Draw a table of N rows, smooth functions of five positions, into Zarr, a block at a time."""
    import zarr

    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((Q, D)), rng.standard_normal((Q, D))
    settings = {"shape": (N, D), "chunks": (min(N, 5000), D), "dtype": "f4"}
    Y = zarr.open_array(str(folder / f"{N}.zarr"), mode="w", **settings)
    for start in range(0, N, BLOCK):
        n = min(BLOCK, N - start)
        X = rng.standard_normal((n, Q))
        noise = 0.2 * rng.standard_normal((n, D))
        Y[start : start + n] = np.sin(X @ A) + 0.5 * X @ B + noise
    return Y


def used() -> float:
    """CPU seconds of a process, user and system."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def peak() -> int:
    """Highest resident memory of a process in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


def _measured(client, bound) -> dict:
    """Time passes of value and gradient at the start."""
    from pm_gplvm.core.row_chunks import Step

    def everyone() -> float:
        return used() + sum(client.run(used).values() if client else ())

    found = []
    number = bound.first
    for turn in range(1 + PASSES):
        cpu, clock = everyone(), time.perf_counter()
        step = Step(number + 1 + turn, number)
        bound.value(step)
        bound.products(step)
        found.append((time.perf_counter() - clock, everyone() - cpu))
    clock, cpu = np.median(found[1:], axis=0)  # the first compiles
    return {"seconds": float(clock), "cpu": float(cpu), "chunks": bound.executor.job.n_chunks}


def _main(how: str, N: int, iterations: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    import zarr

    import pm_gplvm as gplvm
    from pm_gplvm.core.blas import blas_threads
    from pm_gplvm.core.cluster import connected
    from pm_gplvm.data.rows import RowTable
    from pm_gplvm.fitting.by_chunks import Setting, prepared

    Y = zarr.open_array(str(folder / f"{N}.zarr"), mode="r")
    began = time.perf_counter()
    with connected(None, None if how == "here" else int(how)) as client, blas_threads(1):
        started = time.perf_counter() - began
        if iterations:
            fit = gplvm.fit_variational(
                Y,
                Q,
                n_inducing=M,
                client=client,
                chunk_rows=None if client else 5000,
                hold=iterations // 2,
                max_iter=iterations - iterations // 2,
                draws=1,
                random_seed=1,
                progressbar=False,
                out=folder / f"fit-{N}-{how}.zarr",
            )
            found = {
                "evaluations": int(fit["optima"]["evaluations"][0]),
                "objective": float(fit["optima"]["objective"][0]),
                "seconds": time.perf_counter() - began,
                "cpu": used() + sum(client.run(used).values() if client else ()),
            }
        else:
            asked = Setting(Q, "rbf", True, None, "global", 0, M, "pca", 0, 1, 1, 1e-8, 1)
            with tempfile.TemporaryDirectory() as store:
                rng = np.random.default_rng(1)
                keeps = client is not None
                bound = prepared(RowTable.of(Y), client, Path(store), None, asked, rng, keeps=keeps)
                prepared_after = time.perf_counter() - began - started
                found = _measured(client, bound) | {"preparing": prepared_after}
                bound.executor.end()
        found["workers_mb"] = max(client.run(peak).values()) if client else 0
    print(json.dumps(found | {"starting": started, "mb": peak(), "N": N, "how": how}))


def in_a_fresh_process(module: str, *arguments) -> dict:
    """Run a module of the benchmarks; what it has printed last."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=HERE.parent, env=os.environ, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"  {found}", flush=True)
    return found


def _run(how: str, N: int, folder: Path, iterations: int = 0) -> dict:
    return in_a_fresh_process("clusters", how, N, iterations, folder)


def predicted(fitted: dict[str, float], N: int, workers: int, chunk: int, rate: float) -> float:
    """Seconds of a pass: a worker's rows, in whole chunks; what all send, one after the other at the client; a round.

    ``rate``: bytes a second that the client receives.
    """
    chunks = -(-N // chunk)
    there = fitted["row"] * chunk * -(-chunks // workers)
    return there + (fitted["chunk"] + SENT / rate) * chunks + fitted["round"]


def _model(report: Report, passes: list[dict]) -> None:
    """Fit the cost of a pass to what was measured with workers, and say what more workers would take."""
    runs = [run for run in passes if run["how"] != "here" and run["chunks"] > 1]
    design, seconds = [], []
    for run in runs:
        chunk = -(-run["N"] // run["chunks"])
        turns = -(-run["chunks"] // int(run["how"]))
        design.append([chunk * turns, run["chunks"], 1.0])
        seconds.append(run["seconds"])
    if len(runs) < 4:
        return
    from scipy.optimize import nnls

    weights = 1.0 / np.array(seconds)  # relative errors
    found, _ = nnls(np.array(design) * weights[:, None], np.ones(len(seconds)))
    fitted = dict(zip(("row", "chunk", "round"), found.tolist(), strict=True))
    again = np.array(design) @ found / seconds
    report.data["model"] = fitted | {"flops_a_row": FLOPS, "bytes_a_chunk": SENT}
    report.text(
        f"## What more workers would take\n\nA pass = {found[0] * 1e6:.3g} µs a row on its worker ({FLOPS / found[0] / 1e9:.2g} "
        f"GFlop/s of the {FLOPS / 1e6:.2g} MFlop that the statistics and their pullback take) + {found[1] * 1e3:.3g} ms a chunk at the "
        f"client, which receives {SENT / 1e6:.2g} MB of it + {found[2] * 1e3:.3g} ms. The measured passes are {again.min():.2f} to "
        f"{again.max():.2f} times as long by this as they were. In seconds; a core for each worker; chunks of {CHUNK} rows, or of "
        f"as many as each worker has one or two of; the client's network brings {RATE / 1e9:.3g} GB a second."
    )
    rows = []
    for N in (10**7, 10**8, 10**9):
        for workers in (4, 16, 64, 256, 1000):
            few = max(CHUNK, -(-N // (2 * workers)))
            each = [predicted(fitted, N, workers, chunk, RATE) for chunk in (CHUNK, few)]
            rows.append([N, workers, each[0], few, each[1], N * HELD / workers / 1e9])
    names = ["N", "workers", "s a pass", "rows of a long chunk", "s with these", "GB a worker"]
    report.table(names, rows)


def run(report: Report, arguments) -> None:
    sizes = tuple(arguments.N or SIZES)
    with tempfile.TemporaryDirectory() as name:
        folder, passes = Path(name), []
        for N in sizes:
            write(folder, N)
            passes += [_run(how, N, folder) for how in ("here", "1", "2")]
        report.text(f"## A pass: value and gradient, D = {D}, Q = {Q}, M = {M}, rbf, from Zarr")
        report.table(
            [
                "N",
                "processes",
                "s a pass",
                "CPU s a pass",
                "CPU µs a row",
                "client MB",
                "worker MB",
            ],
            [
                [
                    p["N"],
                    p["how"],
                    p["seconds"],
                    p["cpu"],
                    1e6 * p["cpu"] / p["N"],
                    p["mb"],
                    p["workers_mb"],
                ]
                for p in passes
            ],
        )
        report.data["passes"] = passes
        _model(report, passes)
        report.write()
        fits = [_run("2", sizes[-1], folder, ITERATIONS)]
        report.data["fits"] = fits
        report.text(f"## {ITERATIONS} iterations from Zarr to a fit in Zarr, two workers")
        report.table(
            ["N", "evaluations", "s", "CPU s", "client MB", "worker MB"],
            [
                [f["N"], f["evaluations"], f["seconds"], f["cpu"], f["mb"], f["workers_mb"]]
                for f in fits
            ],
        )


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
