"""The variational Bayesian GP-LVM: time, memory and growth of its bound, and what it finds.

    python -m benchmarks.variational memory TABLE.npz M

is one measurement of memory, and

    python -m benchmarks.variational exponentials SECONDS

our time and that of the exponentials alone; `run` starts them in fresh processes.
"""

import json
import subprocess
import sys
import time
import warnings
from statistics import median

import numpy as np

from benchmarks.data import OIL, has_oil, table
from benchmarks.environment import HERE, quiet
from benchmarks.installed import installed_peers
from benchmarks.memory import _from_kernel, _peak
from benchmarks.report import Report
from benchmarks.subject import OURS, Subject, table_file
from pm_gplvm.core.elementary import exp
from pm_gplvm.core.jit import compiled, fast
from pm_gplvm.core.psi_loops import ROWS as BLOCK

CASES = ((5, 25), (10, 50))
LARGE = (10_000, 10, 50)
WANTED = {"GPy": 5.0, "exponentials": 2.0, "memory": 300.0, "errors": 3, "off": 6}
ROWS, INDUCING = (500, 1000, 2000, 5000, 10_000, 20_000), (10, 25, 50, 100, 200)
SEEDS = range(1, 6)


def _ours(file, M, own_start=False) -> Subject:
    module = HERE / "ours_variational.py"
    return Subject(sys.executable, module, file, n_inducing=M, own_start=own_start)


def _gpy(file, M, only, own_start=False) -> Subject | None:
    found = installed_peers(["gpy"]) if only is None or "gpy" in only else {}
    if not found:
        return None
    module = HERE / "peers" / "gpy_variational.py"
    return Subject(found["GPy"][0], module, file, n_inducing=M, own_start=own_start)


@fast
def _each(x, out):
    for i in range(x.size):
        out[i] = exp(x[i])


@compiled
def _raised(x, out):
    _each(x, out)


def _exponentials(N: int, M: int, seconds: float) -> list[float]:
    """CPU seconds of N M (M + 1) / 2 + N M exponentials by the loop that the library's are taken in."""
    exponents = -5.0 * np.random.default_rng(0).random(N * M * (M + 3) // 2)
    out = np.empty_like(exponents)
    _raised(exponents, out)
    times, until = [], time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < until:
        before = time.process_time()
        _raised(exponents, out)
        times.append(time.process_time() - before)
    return times


def _evaluations(report: Report, arguments) -> None:
    rows = []
    for Q, M in CASES:
        Y, X0, note = table("oil", 1000, Q)
        with table_file(Y, X0) as file:
            subjects = {OURS: _ours(file, M), "GPy": _gpy(file, M, arguments.only)}
            subjects = {name: subject for name, subject in subjects.items() if subject}
            times: dict[str, list[float]] = {name: [] for name in subjects}
            yardstick: list[float] = []
            for subject in subjects.values():
                subject.evaluate(0.0, 3)
            for _ in range(arguments.rounds):
                yardstick += _exponentials(1000, M, arguments.seconds)
                for name, subject in subjects.items():
                    times[name] += subject.evaluate(arguments.seconds, 2)
            facts = {name: subject.facts for name, subject in subjects.items()}
            for subject in subjects.values():
                subject.__exit__()
        ours, unit = median(times[OURS]), median(yardstick)
        for name, own in times.items():
            report.note_versions(name, facts[name]["versions"])
            ratio = median(own) / ours if name != OURS else None
            bound = -facts[name]["value"]
            rows.append([name, Q, M, 1e3 * median(own), ratio, median(own) / unit, bound])
            entry = {"library": name, "Q": Q, "M": M, "data": note, "bound": bound}
            entry |= {"cpu_ms": 1e3 * median(own), "exponentials_ms": 1e3 * unit}
            report.data.setdefault("evaluate", []).append(entry)
    report.text(
        "## One value and gradient, oil flow, N = 1000 "
        f"(wanted: {WANTED['GPy']:g} times faster than GPy, below {WANTED['exponentials']:g} times the "
        "N M (M + 3) / 2 exponentials)"
    )
    header = [
        "library",
        "Q",
        "M",
        "CPU ms",
        "times ours",
        "times exponentials",
        "bound at the start",
    ]
    report.table(header, rows)


def _limit(N: int, Q: int, M: int, seconds: float) -> list[float]:
    """CPU seconds of what value and gradient cannot do without: exponentials and three products."""
    pairs, rng = M * (M + 1) // 2, np.random.default_rng(0)
    rows, columns = rng.random((Q, BLOCK)), -rng.random((pairs, Q))
    seen = np.ascontiguousarray(rows.T)
    bumps, sums, back = np.empty((pairs, BLOCK)), np.empty((pairs, Q)), np.empty((Q, BLOCK))
    times, until = [], time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < until:
        before = time.process_time()
        for _ in range(0, N, BLOCK):
            for p in range(0, pairs, 512):
                own = np.dot(columns[p : p + 512], rows, out=bumps[p : p + 512])
                _raised(own.reshape(-1), own.reshape(-1))
                np.dot(own, seen, out=sums[p : p + 512])
                np.dot(columns[p : p + 512].T, own, out=back)
        times.append(time.process_time() - before)
    return times


def _main_exponentials(seconds: str) -> None:
    from benchmarks.ours_variational import objective

    rows, rng = [], np.random.default_rng(1)
    for Q, M in CASES:
        Y, X0, _ = table("oil", 1000, Q)
        f, x0 = objective(Y, X0, M)
        f(x0)
        own, until = [], time.perf_counter() + float(seconds)
        while time.perf_counter() < until:
            x, before = x0 + 1e-4 * rng.standard_normal(x0.shape), time.process_time()
            f(x)
            own.append(time.process_time() - before)
        times = (own, _exponentials(1000, M, float(seconds)), _limit(1000, Q, M, float(seconds)))
        rows.append([Q, M, *(1e3 * median(part) for part in times)])
    print(json.dumps(rows))


def _exponentials_alone(report: Report, seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.variational", "exponentials", str(seconds)],
        env=quiet(),
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = []
    for Q, M, own, unit, limit in json.loads(done.stdout.splitlines()[-1]):
        each = 1e6 * unit / (1000 * M * (M + 3) / 2)
        rows.append([Q, M, own, unit, each, own / unit, limit, own / limit])
    header = ["Q", "M", "CPU ms", "exponentials, ms", "ns each"]
    header += ["times exponentials", "and three products, ms", "times those"]
    report.text(
        "## Beside the exponentials alone, and with the three products (N, Q, M (M + 1) / 2) that "
        f"exponents, sums and gradient take (wanted: below {WANTED['exponentials']:g} times the exponentials)"
    )
    report.table(header, rows)
    report.data["exponentials"] = [dict(zip(header, row, strict=True)) for row in rows]


def _memory(report: Report) -> None:
    N, Q, M = LARGE
    Y, X0, _ = table("oil", N, Q)
    with table_file(Y, X0) as file:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.variational", "memory", str(file), str(M)],
            env=quiet(),
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    bytes_ = json.loads(done.stdout)
    over = {
        what: (peak - bytes_["before"]) / 1e6 for what, peak in bytes_.items() if what != "before"
    }
    report.text(
        f"## Peak memory over that after imports and build_model, N = {N}, Q = {Q}, M = {M}"
    )
    full = 8 * N * M * M / 1e6
    rows = [[what, value, f"< {WANTED['memory']:g}", full] for what, value in over.items()]
    report.table(["", "MB", "wanted", "one N × M × M array, MB"], rows)
    report.data["memory"] = {"N": N, "Q": Q, "M": M, "bytes": bytes_}


def _main_memory(file: str, M: str) -> None:
    warnings.simplefilter("ignore")  # three iterations do not converge
    import pm_gplvm as gplvm
    from pm_gplvm.model.density import compile_log_density

    with np.load(file) as arrays:
        Y, X0 = arrays["Y"], arrays["X0"]
    model = gplvm.build_model(Y, X0.shape[1], ard=True)
    before = _from_kernel("VmRSS") or _peak()
    density = compile_log_density(gplvm.model.build_variational(model, n_inducing=int(M)))
    for _ in range(3):
        density(np.zeros(density.size))
    evaluated = _peak()
    gplvm.fit_variational(
        model, n_inducing=int(M), hold=3, max_iter=3, random_seed=1, progressbar=False
    )
    print(json.dumps({"before": before, "evaluation": evaluated, "fit_variational": _peak()}))


def _time(N: int, Q: int, M: int, seconds: float) -> float:
    Y, X0, _ = table("oil", N, Q)
    with table_file(Y, X0) as file, _ours(file, M) as subject:
        subject.evaluate(0.0, 2)
        return 1e3 * median(subject.evaluate(seconds, 3))


def _growth(report: Report, seconds: float) -> None:
    found: dict[str, list] = {
        "N": [[N, 5, 25, _time(N, 5, 25, seconds)] for N in ROWS],
        "M": [[1000, 5, M, _time(1000, 5, M, seconds)] for M in INDUCING],
    }
    report.text("## Growth of one value and gradient")
    for axis, column, least in (("N", 0, 1000), ("M", 2, 25)):
        rows = np.array(found[axis])
        large = rows[:, column] >= least
        slope = float(np.polyfit(np.log(rows[large, column]), np.log(rows[large, 3]), 1)[0])
        report.table(
            ["N", "Q", "M", "CPU ms"], [[int(n), int(q), int(m), t] for n, q, m, t in rows]
        )
        report.text(f"For {axis} of {least} and more it grows as {axis}^{slope:.2f}.")
        report.data.setdefault("growth", {})[axis] = {"rows": found[axis], "exponent": slope}


def _oil(report: Report) -> None:
    if not has_oil():
        report.text("## Oil flow: skipped, ../shared/data/oil_flow.npz is not there")
        return
    import pm_gplvm as gplvm

    with np.load(OIL) as file:
        Y, labels = file["Y_train"], file["labels_train"]
    model, rows = gplvm.build_model(Y, 10, ard=True), []
    for seed in SEEDS:
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # told in the table
            fit = gplvm.fit_variational(model, random_seed=seed, progressbar=False)
        seconds = time.process_time() - began
        found = gplvm.diagnostics.active_dimensions(fit)
        two = found.index[:2].to_numpy()
        X = fit["approximation"]["X_mean"].to_numpy()[:, two]
        errors = int(gplvm.diagnostics.score_embedding(X, Y, labels)["nn_errors"])
        off, bound = int((~found["in_use"]).sum()), float(fit["sample_stats"]["bound"][0, 0])
        evaluations, converged = fit["optima"]["evaluations"].item(0), fit.attrs["converged"]
        rows.append([seed, bound, errors, off, evaluations, bool(converged), seconds])
        relevances = " ".join(f"{r:.3f}" for r in found["relevance"])
        entry = dict(zip(("seed", "bound", "errors", "off"), rows[-1], strict=False))
        report.data.setdefault("oil", []).append(
            entry | {"relevance": relevances, "cpu_s": seconds}
        )
        print(f"  seed {seed}: {errors} errors, {off} off, relevance {relevances}", flush=True)
    good = sum(row[2] <= WANTED["errors"] and row[3] >= WANTED["off"] for row in rows)
    report.text(
        "## Oil flow, N = 1000, Q = 10, M = 50, default start; errors of the nearest neighbour in the two "
        f"dominant dimensions (wanted: at most {WANTED['errors']}, and at least {WANTED['off']} off)"
    )
    header = ["seed", "bound", "errors", "dimensions off", "evaluations", "converged", "CPU s"]
    report.table(header, rows)
    report.text(
        f"{good} of {len(rows)} seeds reach both. Published (Titsias & Lawrence 2010): 3 and 7."
    )


def _race(report: Report, arguments) -> None:
    from matplotlib.figure import Figure

    figure, rows = Figure(figsize=(9, 3.6), layout="constrained"), []
    marks = [arguments.cap / 4, arguments.cap / 2, arguments.cap]
    for axis, (Q, M) in zip(figure.subplots(1, 2), CASES, strict=True):
        Y, X0, _ = table("oil", 1000, Q)
        with table_file(Y, X0) as file:
            for own in (False, True):
                racers = {"GPy": _gpy(file, M, arguments.only, own), OURS: _ours(file, M, own)}
                for name, subject in racers.items():
                    if subject is None:
                        continue
                    start = "its default" if own else "common"
                    with subject:
                        trace = subject.climb(arguments.cap)
                    seconds = np.array(trace["cpu"])
                    best = np.maximum.accumulate(-np.array(trace["values"]))
                    at = [float(best[max(np.searchsorted(seconds, s) - 1, 0)]) for s in marks]
                    rows.append([name, start, Q, M, *at, len(best), trace["message"][:40]])
                    entry = {"library": name, "start": start, "Q": Q, "M": M, "seconds": marks}
                    report.data.setdefault("race", []).append(entry | {"bound": at})
                    style = {"ls": "-" if own else "--", "color": "C0" if name == OURS else "C1"}
                    axis.plot(seconds, best, label=f"{name}, {start} start", **style)
        axis.set(title=f"Q = {Q}, M = {M}", xlabel="CPU seconds", ylabel="bound")
        axis.set_ylim(-8000, None)
        axis.legend()
    report.text(f"## Climbing the bound, flat θ, up to {arguments.cap:g} CPU seconds each")
    times = [f"bound at {seconds:g} s" for seconds in marks]
    report.table(["library", "start", "Q", "M", *times, "evaluations", "end"], rows)
    report.figure(figure)


def run(report: Report, arguments) -> None:
    _evaluations(report, arguments)
    _exponentials_alone(report, arguments.seconds)
    _memory(report)
    _growth(report, arguments.seconds)
    _race(report, arguments)
    _oil(report)


if __name__ == "__main__":
    {"memory": _main_memory, "exponentials": _main_exponentials}[sys.argv[1]](*sys.argv[2:])
