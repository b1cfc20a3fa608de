"""Two tables of the same rows: which dimensions are found to be shared, and what one table says of the other.

``--case counts``: the first table holds counts, fitted by their likelihood and as logarithms.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

import pm_gplvm as gplvm
from benchmarks.report import Report

THRESHOLDS = {"numbers": (0.05,), "counts": (0.05, 0.15)}  # of the relevance of the most relevant
SEEDS = {"numbers": range(6), "counts": range(4)}
FITTED, NEW, COLUMNS, NOISE, UNIT = 100, 60, 12, 0.1, 2.0
QUIET: dict[str, Any] = {"progressbar": False, "random_seed": 1}
Tables = dict[str, np.ndarray]


@dataclass(frozen=True)
class Method:
    """What is made of the tables beforehand, a fit of that, and what it takes for the first table."""

    prepare: Callable[[Tables], Any]
    fit: Callable[[Any], Any]
    rows: Callable[[np.ndarray], np.ndarray] = np.asarray


def _model(tables: Tables) -> Any:
    return gplvm.build_model(tables, 6, ard=True)


def _by_likelihood(tables: Tables) -> Any:
    kinds = {"one": "poisson", "two": "gaussian"}
    return gplvm.fit_svi(tables, 6, likelihood=kinds, n_inducing=30, **QUIET)


METHODS = {
    "numbers": {
        "fit_variational": Method(
            _model, lambda model: gplvm.fit_variational(model, n_inducing=40, **QUIET)
        ),
        "fit_marginal": Method(_model, lambda model: gplvm.fit_marginal(model, **QUIET)),
        "fit_map": Method(_model, lambda model: gplvm.fit_map(model, **QUIET)),
    },
    "counts": {
        "fit_svi": Method(lambda tables: tables, _by_likelihood),
        "fit_variational of log(1 + y)": Method(
            lambda tables: _model({**tables, "one": np.log1p(tables["one"])}),
            lambda model: gplvm.fit_variational(model, n_inducing=30, **QUIET),
            np.log1p,
        ),
    },
}


def two_tables(seed: int, *, counts: bool = False) -> list[np.ndarray]:
    """Draws of Gaussian processes over two shared positions and one of each table's own; the first may be Poisson's logs."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((FITTED + NEW, 4))
    tables = []
    for own in (2, 3):
        frequency = rng.standard_normal((3, 300)) / UNIT
        features = np.cos(X[:, [0, 1, own]] @ frequency + rng.uniform(0.0, 2.0 * np.pi, 300))
        F = features @ rng.standard_normal((300, COLUMNS)) * np.sqrt(2.0 / 300)
        of_counts = counts and own == 2
        tables.append(
            rng.poisson(np.exp(F + 2.0)).astype(float)
            if of_counts
            else F + NOISE * rng.standard_normal(F.shape)
        )
    return tables


def _peers() -> dict[str, GridSearchCV]:
    """Linear peers, their number of components by cross-validation."""
    pcr = Pipeline([("parts", PCA()), ("linear", LinearRegression())])
    return {
        "PCA regression": GridSearchCV(pcr, {"parts__n_components": range(1, 11)}),
        "PLS": GridSearchCV(PLSRegression(), {"n_components": range(1, 11)}),
    }


def _shared(fit: Any, threshold: float) -> str:
    """Dimensions in use by both tables, by the first and by the second alone."""
    one, two = (
        set(table.index[table["in_use"]])
        for table in (
            gplvm.diagnostics.active_dimensions(gplvm.data.view(fit, n), threshold=threshold)
            for n in ("one", "two")
        )
    )
    return f"{len(one & two)} + {len(one - two)} + {len(two - one)}"


def run(report: Report, arguments: Any) -> None:
    """Predict the second table of new rows from the first."""
    kind = "counts" if arguments.case == ["counts"] else "numbers"
    methods, table = METHODS[kind], []
    for seed in SEEDS[kind]:
        one, two = two_tables(seed, counts=kind == "counts")
        truth = two[FITTED:]
        usual = ((truth - two[:FITTED].mean(axis=0)) ** 2).mean()
        row: list[Any] = [seed]
        for name, method in methods.items():
            given = method.prepare({"one": one[:FITTED], "two": two[:FITTED]})
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                fit = method.fit(given)
                seconds = time.process_time() - began
                found = gplvm.impute(fit, {"one": method.rows(one[FITTED:])}, **QUIET)
            away = found["mean_two"].to_numpy() - truth
            inside = np.abs(away) < norm.ppf(0.945) * found["sd_two"].to_numpy()
            error, share = float((away**2).mean() / usual), float(inside.mean())
            used = [_shared(fit, threshold) for threshold in THRESHOLDS[kind]]
            row += [f"{error:.2f} ({100 * share:.0f} %)", *used]
            case = {"seed": seed, "fit": name, "error": error, "inside": share}
            report.data.setdefault("fits", []).append(
                case | {"dimensions": used, "seconds": seconds}
            )
        known = np.log1p(one) if kind == "counts" else one
        for name, peer in _peers().items():
            predicted = peer.fit(known[:FITTED], two[:FITTED]).predict(known[FITTED:])
            row.append(float(((predicted - truth) ** 2).mean() / usual))
            report.data.setdefault("peers", []).append(
                {"seed": seed, "peer": name, "error": row[-1]}
            )
        table.append(row)
    of_counts = ", the first of Poisson counts of mean 8 to 12, peers on log(1 + y)"
    report.text(
        f"{FITTED} rows, {COLUMNS} columns a table{of_counts if kind == 'counts' else ''}, 2 shared positions and 1 of each table's "
        f"own, latent_dim=6. The second table of {NEW} new rows from the first: mean squared error over that of the columns' means "
        "(share within 89 % intervals), and the dimensions in use by both tables + by the first + by the second alone, at a threshold."
    )
    in_use = [f"in use, {threshold:g}" for threshold in THRESHOLDS[kind]]
    columns = [c for name in methods for c in (name, *in_use)]
    report.table(["seed", *columns, *_peers()], table)
    seconds = {
        name: [case["seconds"] for case in report.data["fits"] if case["fit"] == name]
        for name in methods
    }
    report.table(
        ["CPU seconds", *methods], [["median", *(float(np.median(v)) for v in seconds.values())]]
    )
