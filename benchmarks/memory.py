"""Peak of the resident memory, in N × N matrices of float64.

    python -m benchmarks.memory evaluate|fit_map TABLE.npz

is one measurement; `run` starts it in a fresh process.
"""

import json
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

from benchmarks.data import table
from benchmarks.environment import HERE, quiet
from benchmarks.report import Report
from benchmarks.subject import table_file

WANTED = 6


def _from_kernel(entry: str) -> int | None:
    """Bytes under this name in Linux's account of the process; None elsewhere."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    return None


def _peak() -> int:
    """Bytes: the highest resident memory of this process so far."""
    # Linux hands ru_maxrss on from the process that started this one, its own peak included.
    peak = _from_kernel("VmHWM")
    if peak is None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak


def _main(what: str, file: str) -> None:
    warnings.simplefilter("ignore")  # three iterations do not converge
    import pm_gplvm as gplvm
    from pm_gplvm.model.density import compile_log_density
    from pm_gplvm.model.starts import start_values

    with np.load(file) as arrays:
        Y, X0 = arrays["Y"], arrays["X0"]
    model = gplvm.build_model(Y, X0.shape[1])
    before, now = _peak(), _from_kernel("VmRSS")
    if what == "evaluate":
        density = compile_log_density(model)
        vector = density.pack(start_values(model, {"X": X0}, np.random.default_rng(0)))
        for _ in range(3):
            density(vector)
    else:
        gplvm.fit_map(model, start=X0, max_iter=3, progressbar=False)
    print(json.dumps({"before": before, "now": now, "peak": _peak()}))


def run(report: Report, arguments) -> None:
    rows = []
    for N in arguments.N or (2000,):
        Y, X0, note = table("oil", N, 2)
        with table_file(Y, X0) as file:
            for what in ("evaluate", "fit_map"):
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.memory", what, str(file)],
                    env=quiet(),
                    cwd=HERE.parent,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                bytes_ = json.loads(done.stdout)
                units = {
                    key: (bytes_["peak"] - bytes_[key]) / (8 * N**2)
                    for key in ("before", "now")
                    if bytes_[key] is not None
                }
                wanted = f"≤ {WANTED}" if N == 2000 else ""
                row = [what, N, units["before"], wanted, units.get("now"), bytes_["before"] / 2**20]
                rows.append([*row, bytes_["peak"] / 2**20])
                entry = {"what": what, "N": N, "data": note, "bytes": bytes_, "matrices": units}
                report.data.setdefault("memory", []).append(entry)
    report.text("## Peak resident memory over that after the imports and build_model")
    header = ["", "N", "matrices over the peak before", "wanted", "over the memory just before"]
    report.table([*header, "before MiB", "peak MiB"], rows)
    report.text("`fit_map` with max_iter = 3. A matrix is N × N float64.")


if __name__ == "__main__":
    _main(*sys.argv[1:])
