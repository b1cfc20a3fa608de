"""Runs one library's objective in its own interpreter, at the command of `subject.py`.

    python -P driver.py MODULE.py TABLE.npz OPTIONS_AS_JSON

Knows neither pm_gplvm nor any other library, needs NumPy and SciPy alone. The module has
`objective(Y, X0, **options) -> (f, x0)` with `f(flat) -> (value, gradient)`, to be minimised;
`PACKAGES`, whose versions are told; and, if it has an optimiser of its own,
`optimise(f, x0, recorder) -> message`. Every line that comes in is a command, every line that
goes out is its answer, in JSON.
"""

import importlib.util
import json
import os
import sys
import time
from importlib.metadata import version

import numpy as np
from scipy.optimize import minimize


class CapReached(Exception):
    """The CPU seconds allowed are spent."""


class Recorder:
    """Notes value and CPU time of every evaluation, from the start of the first one."""

    def __init__(self, cap):
        self.cap, self.began, self.cpu, self.values = cap, None, [], []

    def wrap(self, f, sign=1.0):
        def recorded(*args, **kwargs):
            if self.began is None:
                self.began = time.process_time()
            result = f(*args, **kwargs)
            self.cpu.append(time.process_time() - self.began)
            self.values.append(sign * float(result[0]))
            if self.cpu[-1] > self.cap:
                raise CapReached
            return result

        return recorded


def lbfgs(f, x0, recorder):
    options = {"maxiter": 10**6, "maxfun": 10**7}
    return minimize(recorder.wrap(f), x0, jac=True, method="L-BFGS-B", options=options).message


def evaluate(f, x0, seconds, least):
    """CPU time of single evaluations, each at a place of its own so that nothing is remembered."""
    rng, times, until = np.random.default_rng(1), [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        x = x0 + 1e-4 * rng.standard_normal(x0.shape)
        before = time.process_time()
        f(x)
        times.append(time.process_time() - before)
    return {"cpu": times}


def climb(f, x0, optimise, cap):
    recorder = Recorder(cap)
    try:
        message = str(optimise(f, x0, recorder))
    except CapReached:
        message = "cap"
    return {"cpu": recorder.cpu, "values": recorder.values, "message": message}


def main(path, table, options):
    # What a library prints must not come between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = importlib.util.spec_from_file_location("benchmarked", path)
    module = importlib.util.module_from_spec(spec)
    before = time.process_time()
    spec.loader.exec_module(module)
    imported = time.process_time()
    with np.load(table) as file:
        Y, X0 = file["Y"], file["X0"]
    f, x0 = module.objective(Y, X0, **json.loads(options))
    value, gradient = f(x0)
    ready = time.process_time()
    facts = {
        "import_s": imported - before,
        "ready_s": ready - imported,
        "value": float(value),
        "size": len(np.asarray(gradient)),
        "versions": {name: version(name) for name in ("numpy", "scipy", *module.PACKAGES)},
    }
    print(json.dumps(facts), file=out)
    optimise = getattr(module, "optimise", lbfgs)
    for line in sys.stdin:
        name, *numbers = line.split()
        if name == "evaluate":
            answer = evaluate(f, x0, float(numbers[0]), int(numbers[1]))
        else:
            answer = climb(f, x0, optimise, float(numbers[0]))
        print(json.dumps(answer), file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
