"""What the first call of each function costs, nothing compiled before.

    python -m benchmarks.compiling CALL TABLE.npz FIT.nc BACKEND

is one such call; `run` starts it in a fresh process with empty caches.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from operator import attrgetter
from pathlib import Path

from benchmarks.data import table
from benchmarks.environment import HERE, quiet
from benchmarks.report import Report
from benchmarks.subject import table_file

# Call: its function, what is asked of it, and the bound on CPU seconds.
CALLS = {
    "build_model": ("build_model", "", None),
    "compile_objective": ("model.compile_objective", "and one value", None),
    "fit_map_once": ("fit_map", "one iteration", None),
    "fit_map": ("fit_map", "until done", 10.0),
    "sample_theta": ("sample_theta", "until one draw", 15.0),
    "sample": ("sample", "until one draw", 15.0),
    "fit_laplace": ("fit_laplace", "until done", None),
    "fit_linear": ("fit_linear", "", None),
    "fit_stochastic": ("fit_stochastic", "20 steps", None),
    "gradients": ("model.gradients", "", None),
    "sample_prior": ("sample_prior", "10 tables", None),
    "predict": ("predict", "10 points", None),
    "embed": ("embed", "10 rows", None),
    "impute": ("impute", "10 rows", None),
    "align": ("align", "", None),
    "compare": ("compare", "one fit", None),
    "leave_one_out": ("diagnostics.leave_one_out", "", None),
    "plot.latent": ("plot.latent", "", None),
}
# What is called on a fit and the table's first rows alone.
ON_FIT = {
    "predict": lambda f, fit, Y: f(fit, [[0.1 * i, 0.0] for i in range(10)]),
    "embed": lambda f, fit, Y: f(fit, Y[:10], random_seed=1),
    "impute": lambda f, fit, Y: f(fit, _with_holes(Y[:10]), random_seed=1),
    "align": lambda f, fit, Y: f(fit),
    "compare": lambda f, fit, Y: f({"MAP": fit}),
    "leave_one_out": lambda f, fit, Y: f(fit),
    "plot.latent": lambda f, fit, Y: f(fit),
}
WITH_BACKEND = ("compile_objective", "fit_map_once", "fit_map", "sample_theta")
_IMPORT = """
import json, time
cpu, wall = time.process_time(), time.perf_counter()
import {}
print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]))
"""


def _with_holes(Y):
    holes = Y.copy()
    holes[:, ::2] = float("nan")
    return holes


def _cpu_seconds() -> float:
    """Of this process and of the compilers it ran."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def _call(name: str, file: str, fit_file: str, backend: str):
    """Prepare a call, and return it as a function without arguments."""
    import numpy as np
    import pymc  # noqa: F401  an import, not a compilation

    import pm_gplvm as gplvm

    function = attrgetter(CALLS[name][0])(gplvm)
    with np.load(file) as arrays:
        Y, X0 = arrays["Y"], arrays["X0"]
    few = {"draws": 1, "tune": 1, "chains": 1, "progressbar": False, "random_seed": 1}
    if name == "build_model":
        return lambda: function(Y)
    if name in ON_FIT:
        fit = gplvm.load(fit_file)
        return lambda: ON_FIT[name](function, fit, Y)
    if name == "fit_linear":
        linear = gplvm.build_model(Y, kernel="linear")
        return lambda: function(linear)
    model = gplvm.build_model(Y)
    if name == "sample_prior":
        return lambda: function(model, draws=10, random_seed=1)
    if name == "fit_stochastic":
        return lambda: function(model, steps=20, random_seed=1, progressbar=False)
    if name == "fit_laplace":
        return lambda: function(model, random_seed=1, progressbar=False)
    if name == "gradients":
        theta = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
        return lambda: function(model, {"X": X0, **theta})
    if name == "compile_objective":
        point = {"X": X0, "lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
        return lambda: function(model, backend=backend)(point)
    if CALLS[name][0] == "fit_map":
        more = {"max_iter": 1} if name == "fit_map_once" else {}
        return lambda: function(model, progressbar=False, backend=backend, **more)
    if name == "sample_theta":
        return lambda: function(model, gplvm.load(fit_file), backend=backend, **few)
    return lambda: function(model, start=gplvm.load(fit_file), **few)


def _main(name: str, file: str, fit_file: str, backend: str) -> None:
    warnings.simplefilter("ignore")  # one draw is too few, and fit_map may stop early
    call = _call(name, file, fit_file, backend)
    cpu, wall = _cpu_seconds(), time.perf_counter()
    result = call()
    times = {"cpu_s": _cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
    if name == "fit_map" and not Path(fit_file).exists():
        from pm_gplvm import save

        save(result, fit_file)
    print(json.dumps(times))


def _fresh(command: list[str]) -> list | dict:
    """The answer of a process whose compilation caches are empty."""
    with tempfile.TemporaryDirectory() as cache:
        caches = {"PYTENSOR_FLAGS": f"base_compiledir={cache}", "NUMBA_CACHE_DIR": cache}
        done = subprocess.run(
            [sys.executable, *command],
            env=quiet(**caches),
            cwd=HERE.parent,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(report: Report, arguments) -> None:

    Y, X0, note = table("oil", (arguments.N or [100])[0], 2)
    report.text(f"## The first call, {note}, N = {len(Y)}, caches empty, imports done before")
    rows = []
    with table_file(Y, X0) as file:
        fit = file.with_name("fit.nc")
        _fresh(["-m", "benchmarks.compiling", "fit_map", str(file), str(fit), "python"])
        for name, (function, what, wanted) in CALLS.items():
            for backend in arguments.backend if name in WITH_BACKEND else [""]:
                command = ["-m", "benchmarks.compiling", name, str(file), str(fit), backend]
                try:
                    times = _fresh(command)
                except RuntimeError as problem:
                    print(f"  {name} {backend}: skipped, {problem}", flush=True)
                    continue
                bound = f"≤ {wanted:g}" if wanted and backend in ("", "python") else ""
                rows.append([function, what, backend, times["cpu_s"], bound, times["wall_s"]])
                entry = {
                    "function": function,
                    "what": what,
                    "backend": backend,
                    "N": len(Y),
                    **times,
                }
                report.data.setdefault("compile", []).append(entry)
                print(f"  {name} {backend}: {times['cpu_s']:.2f} s", flush=True)
    report.table(["function", "what", "backend", "CPU s", "wanted", "wall s"], rows)

    report.text("## Imports, medians of 3")
    rows = []
    for module in ("pm_gplvm", "pymc"):
        times = [_fresh(["-c", _IMPORT.format(module)]) for _ in range(3)]
        cpu, wall = (sorted(column)[1] for column in zip(*times, strict=True))
        rows.append([f"import {module}", cpu, wall])
        report.data.setdefault("imports", []).append(
            {"module": module, "cpu_s": cpu, "wall_s": wall}
        )
    report.table(["", "CPU s", "wall s"], rows)


if __name__ == "__main__":
    _main(*sys.argv[1:])
