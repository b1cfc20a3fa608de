"""Missing entries with inducing inputs: what patterns cost, and how near what was hidden comes back."""

import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from benchmarks.data import OIL, has_oil
from benchmarks.report import Report

_N, _M = 1000, 50
_FIND = (200, 1000)
_EXACT = 200  # rows up to which the exact estimate is taken too
_HALF = norm.ppf(0.945)  # of an 89 % interval, in standard deviations


def _hidden(Y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mark this share of the entries, one of each row kept."""
    gone = rng.random(Y.shape) < share
    gone[np.arange(len(Y)), rng.integers(Y.shape[1], size=len(Y))] = False
    return gone


def _seconds(build: Callable, table: np.ndarray) -> float:
    import pm_gplvm as gplvm
    from pm_gplvm.model.density import compile_log_density

    model = gplvm.build_model(table, 5, kernel="rbf", missing="mask")
    density = compile_log_density(build(model))
    vector = 0.3 * np.random.default_rng(0).standard_normal(density.size)
    taken = []
    for _ in range(12):
        before = time.process_time()
        density(vector)
        taken.append(time.process_time() - before)
    return float(np.min(taken[2:]))


def _costs() -> list[list]:
    import pm_gplvm as gplvm

    ways = {
        "variational": lambda m: gplvm.model.build_variational(m, n_inducing=_M),
        "sparse": lambda m: gplvm.model.build_sparse(m, n_inducing=_M),
        "sparse, fitc": lambda m: gplvm.model.build_sparse(m, n_inducing=_M, method="fitc"),
    }
    rows, rng = [], np.random.default_rng(0)
    for D in (12, 64):
        Y = rng.standard_normal((_N, D))
        blocks = np.repeat(_hidden(Y[:, :4], 0.2, rng), D // 4, axis=1)
        holes = {"4 blocks": blocks, "at random": _hidden(Y, 0.2, rng)}
        for name, build in ways.items():
            whole = _seconds(build, Y)
            times = [_seconds(build, np.where(gone, np.nan, Y)) / whole for gone in holes.values()]
            rows.append([name, D, 1e3 * whole, *times])
    return rows


def _estimates(N: int) -> dict[str, Callable]:
    import pm_gplvm as gplvm

    quiet = {"random_seed": 1, "progressbar": False}
    found: dict[str, Callable] = {
        "variational": lambda m: gplvm.fit_variational(m, n_inducing=_M, **quiet),
        "sparse": lambda m: gplvm.fit_sparse(m, n_inducing=_M, **quiet),
    }
    return ({"marginal": lambda m: gplvm.fit_marginal(m, **quiet)} if N <= _EXACT else {}) | found


def _found_again(N: int) -> list[list]:
    import pm_gplvm as gplvm

    with np.load(OIL) as file:
        Y = file["Y_train"].astype(float)
    Y = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    rng, rows = np.random.default_rng(0), []
    Y = Y[rng.permutation(len(Y))[:N]]
    gone = _hidden(Y, 0.5, rng)
    table = np.where(gone, np.nan, Y)
    for Q in (2, 5):
        model = gplvm.build_model(table, Q, kernel="rbf", ard=Q > 2, missing="mask")
        for name, fit_of in _estimates(N).items():
            before = time.process_time()
            fit = fit_of(model)
            cpu, filled = time.process_time() - before, gplvm.impute(fit)
            error = (filled["mean"].to_numpy() - Y)[gone]
            inside = np.abs(error) < _HALF * filled["sd"].to_numpy()[gone]
            rows.append([N, Q, name, cpu, np.sqrt((error**2).mean()), 100.0 * inside.mean()])
    means = np.sqrt(((np.nanmean(table, axis=0) - Y)[gone] ** 2).mean())
    return [*rows, [N, "", "column means", None, means, None]]


def run(report: Report, arguments) -> None:
    warnings.simplefilter("ignore")  # of patterns
    costs = report.data["costs"] = _costs()
    report.text(f"One value and gradient, N = {_N}, M = {_M}, Q = 5, a fifth missing.")
    report.table(["", "D", "complete, ms", "holes in 4 blocks, times", "at random, times"], costs)
    if has_oil():
        found = [row for N in arguments.N or _FIND for row in _found_again(N)]
        report.data["found"] = found
        report.text(
            "Half of the entries of oil flow rows hidden; errors in units of each column's sd."
        )
        report.table(["N", "Q", "estimate", "CPU s", "RMSE", "in 89 % intervals, %"], found)
    report.write()
