"""Several embeddings pooled beside one: ln p of rows held out, and how sure each is of the places of its rows."""

import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from benchmarks.choice import TABLES
from benchmarks.posterior import OIL_100
from benchmarks.report import Report

HELD_OUT = 200
# Name: table, rows, iterations of adaptation and draws a chain of the ensemble.
CASES = {
    "oil 50": ("oil", 50, 500, 500),
    "oil 100": ("oil", 100, 700, 500),
    "digits 200": ("digits", 200, 400, 300),
    "oil 300": ("oil", 300, 300, 150),
}
_DRAWS = 24  # of a chain, and of each other fit, for the scores
_HEADER = [
    *("fit", "CPU s", "ln p(new row)", "behind the ensemble", "standard errors", "sd of Z"),
    "log-likelihood",
]


def _rows(name: str, N: int) -> tuple[np.ndarray, np.ndarray] | None:
    case = TABLES[name](N, HELD_OUT)
    if case is None:
        return None
    Y, _, _, new = case
    if name == "oil" and N <= 100 and OIL_100.exists():  # the rows that others show
        with np.load(OIL_100) as file:
            Y = file["Y"][:N]
        new = new[~(new[:, None] == Y).all(axis=-1).any(axis=1)]
    return Y, new


def run(report: Report, arguments) -> None:
    """Fit, score and tell, case by case."""
    wanted = arguments.case or list(CASES)
    for case in wanted:
        name, N, tune, draws = CASES[case]
        found = _rows(name, N)
        if found is None:
            report.text(f"## {case}: no data here")
            continue
        report.text(f"## {case}: {len(found[1])} rows held out, Q = 2, kernel rbf")
        _case(report, case, *found, tune, draws)
        report.write()


def _case(report: Report, case: str, Y: np.ndarray, new: np.ndarray, tune: int, draws: int) -> None:
    import pm_gplvm as gplvm

    warnings.simplefilter("ignore", RuntimeWarning)
    quiet = {"progressbar": False, "random_seed": 1}
    model = gplvm.build_model(Y, 2, kernel="rbf")
    started = time.process_time()
    many = gplvm.sample(model, explore="ensemble", tune=tune, draws=draws, **quiet)
    seconds = time.process_time() - started
    weights = many["ensemble"]["weight"].to_numpy()
    equal = many.copy()
    del equal["ensemble"]
    fits: dict[str, tuple[object, float]] = {
        "ensemble": (many, seconds),
        "ensemble, equal weights": (equal, seconds),
    }
    for c in range(len(weights)):
        one = equal.isel(chain=[c])
        fits[f"chain {c}, weight {weights[c]:.2f}"] = (one, seconds / len(weights))
    others: dict[str, Callable] = {
        "fit_marginal": lambda: gplvm.fit_marginal(model, **quiet),
        "fit_map": lambda: gplvm.fit_map(model, **quiet),
        "fit_laplace": lambda: gplvm.fit_laplace(model, **quiet),
        "fit_variational": lambda: gplvm.fit_variational(model, **quiet),
    }
    if len(Y) <= 60:
        others["sample, explore='global'"] = lambda: gplvm.sample(
            model, explore="global", tune=tune, draws=draws, **quiet
        )
    for name, fit in others.items():
        started = time.process_time()
        try:
            made = fit()
        except Exception as error:
            report.text(f"{name}: {type(error).__name__}: {error}")
            continue
        fits[name] = (made, time.process_time() - started)
    scores, rows = {}, []
    for name, (fit, _) in fits.items():
        if not name.startswith("ensemble"):
            found = gplvm.log_predictive(fit, new, num_samples=_DRAWS, draws=500, **quiet)
            scores[name] = found["log_score"].to_numpy()
    chains = np.stack([score for name, score in scores.items() if name.startswith("chain")])
    scores["ensemble"] = logsumexp(chains, axis=0, b=weights[:, None])
    scores["ensemble, equal weights"] = logsumexp(chains, axis=0, b=1.0 / len(chains))
    compared = gplvm.compare({name: fit for name, (fit, _) in fits.items()}, n_neighbors=5)
    for name, (fit, cpu) in fits.items():
        behind = scores["ensemble"] - scores[name]
        error = behind.std(ddof=1) / np.sqrt(len(behind))
        level = fit["sample_stats"].to_dataset().get("log_likelihood")
        rows.append(
            [
                *(name, cpu, float(scores[name].mean()), float(behind.mean()), float(error)),
                float(compared.loc[name, "sd_Z"]) if "sd_Z" in compared else None,
                None if level is None else float(level.mean()),
            ]
        )
        print(f"  {rows[-1]}", flush=True)
    report.table(_HEADER, rows)
    report.data[case] = [dict(zip(_HEADER, row, strict=True)) for row in rows]
    told = gplvm.diagnose(many)
    report.text(" ".join(told.sentences[:3]))
