"""Neighbourhood gradients: what they reach, what a step costs, and how far they go.

    python -m benchmarks.stochastic N

is one measurement of time and memory at N rows; `run` starts it in a fresh process.
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
from benchmarks.limit import limit_times
from benchmarks.report import Report

PASSES = (10, 30, 100, 300, 1000)  # neighbourhoods that a row is in, on average
ITERATIONS = (10, 30, 100, 300, 1000)
R = 50


def _labelled() -> tuple[np.ndarray, np.ndarray, str]:
    if has_oil():
        with np.load(OIL) as file:
            return file["Y_train"].astype(float), file["labels_train"], "oil"
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data[:1000], digits.target[:1000], "digits"


def _timed(fit, *args, **options):
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # few iterations do not converge
        result = fit(*args, random_seed=1, progressbar=False, **options)
    return result, time.process_time() - began


def _figures(fit, labels) -> tuple[float, int]:
    """Objective, and rows whose nearest other row has another label."""
    import pm_gplvm as gplvm

    X = fit["posterior"]["X"].to_numpy()[0, 0]
    errors = gplvm.diagnostics.score_embedding(X, X, labels)["nn_errors"]
    return float(fit["sample_stats"]["lp"][0, 0]), int(errors)


def _learning(report: Report, Y, labels, note: str) -> None:
    import pm_gplvm as gplvm

    model, N = gplvm.build_model(Y), len(Y)
    report.text(f"## {note}, N = {N}, Q = 2: what a budget of CPU seconds reaches")
    curves: dict[str, list] = {
        "fit_stochastic": [],
        "fit_stochastic, then fit_map": [],
        "fit_map": [],
    }

    def note_down(name, count, seconds, fit):
        curves[name].append([count, seconds, *_figures(fit, labels)])
        print(f"  {name}, {count}: {curves[name][-1]}", flush=True)

    _timed(gplvm.fit_map, model, max_iter=1)  # what is imported and made once
    _timed(gplvm.fit_stochastic, model, steps=1, monitor=0)
    for passes in PASSES:
        steps = passes * N // R
        fit, seconds = _timed(gplvm.fit_stochastic, model, steps=steps, n_neighbors=R, monitor=0)
        note_down("fit_stochastic", f"{steps} steps", seconds, fit)
        if passes in (30, 300):
            mode, more = _timed(gplvm.fit_map, model, start=fit, tol=1e-5)
            count = f"{steps} steps, {int(mode['optima']['evaluations'][0])} evaluations"
            note_down("fit_stochastic, then fit_map", count, seconds + more, mode)
    for max_iter in ITERATIONS:
        fit, seconds = _timed(gplvm.fit_map, model, max_iter=max_iter)
        count = f"{int(fit['optima']['evaluations'][0])} evaluations"
        note_down("fit_map", count, seconds, fit)
    report.table(
        ["fit, from PCA", "", "CPU s", "objective", "neighbour errors"],
        [[name, *row] for name, rows in curves.items() for row in rows],
    )
    report.data["learning"] = {"data": note, "N": N, "R": R, "curves": curves}
    report.figure(_picture(curves, N))


def _picture(curves: dict, N: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, rows), style in zip(curves.items(), ("o-", "D", "s--"), strict=True):
        _, seconds, objectives, errors = zip(*rows, strict=True)
        left.plot(seconds, objectives, style, label=name)
        right.plot(seconds, errors, style, label=name)
    left.set(xscale="log", xlabel="CPU seconds", ylabel="objective", title=f"N = {N}")
    right.set(xscale="log", xlabel="CPU seconds", ylabel="nearest-neighbour errors")
    left.legend(fontsize=8)
    return figure


def _cost(report: Report, Y, arguments) -> None:

    import pm_gplvm as gplvm
    from pm_gplvm.fitting.stochastic import Optimiser, compile_neighbourhood
    from pm_gplvm.model.density import compile_log_density
    from pm_gplvm.model.starts import start_values

    model, N = gplvm.build_model(Y), len(Y)
    rng = np.random.default_rng(0)
    values = start_values(model, "pca", rng)
    whole = compile_log_density(model)
    vector = whole.pack(values)
    density = compile_neighbourhood(model)
    theta = [values[name] for name in density.theta]
    times: dict[str, list[float]] = {"full gradient": [], "dpotrf + dpotri": []}

    def clock(name, call, seconds=arguments.seconds):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.process_time()
            call()
            times.setdefault(name, []).append(time.process_time() - began)

    for _ in range(arguments.rounds):
        clock("full gradient", lambda: whole(vector + 1e-4 * rng.standard_normal(vector.shape)))
        times["dpotrf + dpotri"] += limit_times(N, arguments.seconds, 2)
        for rows in (10, 30, 50, 100):
            optimiser = Optimiser(
                density, values["X"], theta, n_neighbors=rows, rates=(0.05, 0.01), momentum=0.9
            )
            clock(f"step, R = {rows}", lambda optimiser=optimiser: optimiser.step(rng, 0.5))
            few = rng.choice(N, rows, replace=False)
            clock(
                f"its gradient alone, R = {rows}",
                lambda few=few: density(few, values["X"][few], theta),
            )
    unit = median(times["full gradient"])
    report.text(f"## Cost of a step, N = {N}")
    report.table(
        ["", "CPU ms", "steps for one full gradient"],
        [[name, 1e3 * median(all_), unit / median(all_)] for name, all_ in times.items()],
    )
    report.data["cost_ms"] = {name: 1e3 * median(all_) for name, all_ in times.items()}


def _main(N: int) -> None:
    """Time of a step, and memory, at N rows."""
    import pm_gplvm as gplvm
    from benchmarks.memory import _peak

    Y, _, note = table("oil", N, 2)
    small = gplvm.build_model(Y[:100])
    gplvm.add_rows(gplvm.fit_stochastic(small, steps=10, progressbar=False), Y[:3])
    before, steps = _peak(), 4000
    model = gplvm.build_model(Y)
    (fit, least), (_, most) = (
        _timed(gplvm.fit_stochastic, model, steps=n, n_neighbors=R, monitor=0) for n in (10, steps)
    )
    peak = _peak()
    began = time.process_time()
    gplvm.add_rows(fit, Y[:10] + 0.01, random_seed=1)
    result = {
        "N": N,
        "data": note,
        "ms_a_step": 1e3 * (most - least) / (steps - 10),
        "MiB": (peak - before) / 2**20,
        "MiB_of_Y": Y.nbytes / 2**20,
        "MiB_of_N_by_N": 8 * N**2 / 2**20,
        "s_to_update_10_rows": time.process_time() - began,
    }
    print(json.dumps(result))


def _growth(report: Report, sizes) -> None:
    results = []
    for N in sizes:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.stochastic", str(N)],
            env=quiet(),
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
        print(f"  {results[-1]}", flush=True)
    report.text(f"## Many rows, R = {R}: memory over that before build_model, time of a step")
    header = ["N", "CPU ms a step", "peak MiB", "Y MiB", "N × N MiB", "CPU s to update 10 rows"]
    keys = ["N", "ms_a_step", "MiB", "MiB_of_Y", "MiB_of_N_by_N", "s_to_update_10_rows"]
    report.table([*header, "data"], [[r[key] for key in (*keys, "data")] for r in results])
    report.data["growth"] = results


def _online(report: Report, Y, labels, note: str) -> None:
    from sklearn.neighbors import NearestNeighbors

    import pm_gplvm as gplvm

    old_rows = len(Y) * 4 // 5
    rows, agreements = [], {}

    def note_down(name, fit, seconds):
        X = fit["posterior"]["X"].to_numpy()[0, 0]
        nearest = NearestNeighbors(n_neighbors=1).fit(X).kneighbors(return_distance=False)[:, 0]
        agreements[name] = float((labels[nearest] == labels[: len(X)])[old_rows:].mean())
        rows.append([name, seconds, agreements[name]])

    whole, seconds = _timed(gplvm.fit_stochastic, gplvm.build_model(Y), monitor=0)
    note_down("all rows at once", whole, seconds)
    old, _ = _timed(gplvm.fit_stochastic, gplvm.build_model(Y[:old_rows]), monitor=0)
    for hold in (np.inf, 100.0):
        began = time.process_time()
        new = gplvm.add_rows(old, Y[old_rows:], hold=hold, random_seed=1)
        note_down(f"update, hold = {hold:g}", new, time.process_time() - began)
    report.text(f"## {note}: {old_rows} rows learnt, {len(Y) - old_rows} put in by update")
    report.table(["", "CPU s", "new rows whose nearest row has their label"], rows)
    report.data["online"] = agreements


def run(report: Report, arguments) -> None:
    Y, labels, note = _labelled()
    _learning(report, Y, labels, note)
    _cost(report, Y, arguments)
    _growth(report, arguments.N or (1000, 5000, 20_000, 100_000))
    _online(report, Y, labels, note)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
