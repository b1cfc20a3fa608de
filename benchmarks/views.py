"""Two tables of the same rows: which dimensions are found to be shared, and what one table says of the other."""

import time
import warnings
from collections.abc import Callable
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

SEEDS = range(6)
FITTED, NEW, COLUMNS, NOISE, UNIT = 100, 60, 12, 0.1, 2.0
QUIET: dict[str, Any] = {"progressbar": False, "random_seed": 1}
FITS: dict[str, Callable[..., Any]] = {
    "fit_variational": lambda model: gplvm.fit_variational(model, n_inducing=40, **QUIET),
    "fit_marginal": lambda model: gplvm.fit_marginal(model, **QUIET),
    "fit_map": lambda model: gplvm.fit_map(model, **QUIET),
}


def two_tables(seed: int) -> list[np.ndarray]:
    """Draws of Gaussian processes over two shared positions and one of each table's own."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((FITTED + NEW, 4))
    tables = []
    for own in (2, 3):
        frequency = rng.standard_normal((3, 300)) / UNIT
        features = np.cos(X[:, [0, 1, own]] @ frequency + rng.uniform(0.0, 2.0 * np.pi, 300))
        F = features @ rng.standard_normal((300, COLUMNS)) * np.sqrt(2.0 / 300)
        tables.append(F + NOISE * rng.standard_normal(F.shape))
    return tables


def _peers() -> dict[str, GridSearchCV]:
    """Linear peers, their number of components by cross-validation."""
    pcr = Pipeline([("parts", PCA()), ("linear", LinearRegression())])
    return {
        "PCA regression": GridSearchCV(pcr, {"parts__n_components": range(1, 11)}),
        "PLS": GridSearchCV(PLSRegression(), {"n_components": range(1, 11)}),
    }


def _shared(fit: Any) -> str:
    """Dimensions in use by both tables, by the first and by the second alone."""
    one, two = (
        set(table.index[table["in_use"]])
        for table in (
            gplvm.diagnostics.active_dimensions(gplvm.data.view(fit, n)) for n in ("one", "two")
        )
    )
    return f"{len(one & two)} + {len(one - two)} + {len(two - one)}"


def run(report: Report, arguments: Any) -> None:
    """Predict the second table of new rows from the first."""
    table = []
    for seed in SEEDS:
        one, two = two_tables(seed)
        truth = two[FITTED:]
        usual = ((truth - two[:FITTED].mean(axis=0)) ** 2).mean()
        model = gplvm.build_model({"one": one[:FITTED], "two": two[:FITTED]}, 6, ard=True)
        row: list[Any] = [seed]
        for name, fit_by in FITS.items():
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                fit = fit_by(model)
                seconds = time.process_time() - began
                found = gplvm.impute(fit, {"one": one[FITTED:]}, **QUIET)
            away = found["mean_two"].to_numpy() - truth
            inside = np.abs(away) < norm.ppf(0.945) * found["sd_two"].to_numpy()
            error, share = float((away**2).mean() / usual), float(inside.mean())
            row += [f"{error:.2f} ({100 * share:.0f} %)", _shared(fit)]
            case = {"seed": seed, "fit": name, "error": error, "inside": share}
            report.data.setdefault("fits", []).append(
                case | {"dimensions": row[-1], "seconds": seconds}
            )
        for name, peer in _peers().items():
            predicted = peer.fit(one[:FITTED], two[:FITTED]).predict(one[FITTED:])
            row.append(float(((predicted - truth) ** 2).mean() / usual))
            report.data.setdefault("peers", []).append(
                {"seed": seed, "peer": name, "error": row[-1]}
            )
        table.append(row)
    report.text(
        f"{FITTED} rows, {COLUMNS} columns a table, 2 shared positions and 1 of each table's own, latent_dim=6. The second table of "
        f"{NEW} new rows from the first: mean squared error over that of the columns' means (share within 89 % intervals), and "
        "the dimensions in use by both tables + by the first + by the second alone."
    )
    columns = [c for name in FITS for c in (name, "in use")]
    report.table(["seed", *columns, *_peers()], table)
    seconds = {
        name: [case["seconds"] for case in report.data["fits"] if case["fit"] == name]
        for name in FITS
    }
    report.table(
        ["CPU seconds", *FITS], [["median", *(float(np.median(v)) for v in seconds.values())]]
    )
