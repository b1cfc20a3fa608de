"""Which estimate gives the better picture a second: the exact one, inducing inputs, or neighbourhoods."""

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.data import OIL, has_oil
from benchmarks.ordinary import r2_of_factors
from benchmarks.ppca import ProbabilisticPCA
from benchmarks.report import Report

SIZES = (300, 500, 1000, 1797, 3000)
HELD_OUT = 100
_NEIGHBOURS = 10
_HEADER = [
    *("data", "N", "estimate", "CPU s", "trustworthiness", "1-NN errors, %", "R² factors"),
    *("ln p(new)", "ended"),
]

Case = tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]
"""Rows, their classes or None, their true factors or None, and rows held out."""


def _digits(N: int, held: int = HELD_OUT) -> Case | None:
    from sklearn.datasets import load_digits

    data = load_digits()
    if len(data.data) < N:
        return None
    order = np.random.default_rng(0).permutation(len(data.data))
    Y, label = data.data[order], data.target[order]
    return Y[:N], label[:N], None, Y[N : N + held]


def _oil(N: int, held: int = HELD_OUT) -> Case | None:
    if not has_oil():
        return None
    with np.load(OIL) as file:
        parts = ("train", "test", "valid")
        Y = np.concatenate([file[f"Y_{p}"] for p in parts]).astype(float)
        label = np.concatenate([file[f"labels_{p}"] for p in parts])
    order = np.random.default_rng(0).permutation(len(Y))
    return Y[order[:N]], label[order[:N]], None, Y[order[N : N + held]]


def _curved(N: int, held: int = HELD_OUT) -> Case:
    """Twenty sines of two factors, with noise: curved, so that no plane holds it."""
    rng, D = np.random.default_rng(0), 20
    factors = rng.standard_normal((N + held, 2))
    phase = factors @ rng.standard_normal((2, D)) * 1.5 + rng.uniform(0.0, 2 * np.pi, D)
    Y = np.sin(phase) + 0.1 * rng.standard_normal((N + held, D))
    return Y[:N], None, factors[:N], Y[N:]


TABLES: dict[str, Callable[..., Case | None]] = {
    "digits": _digits,
    "oil": _oil,
    "curved": _curved,
}


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C after so much CPU time: a fit then returns what it has."""
    before = signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _estimates() -> dict[str, tuple[str, Callable]]:
    """Name to the kernel it is given and the fit of a model."""
    import pm_gplvm as gplvm

    quiet = {"random_seed": 1, "progressbar": False, "blas_threads": 1}
    found: dict[str, tuple[str, Callable]] = {
        "marginal": ("rbf + linear", lambda m: gplvm.fit_marginal(m, **quiet)),
        "sparse, M = 100, rbf": ("rbf", lambda m: gplvm.fit_sparse(m, **quiet)),
    }
    for M in (50, 100):
        found |= {
            f"sparse, M = {M}": (
                "rbf + linear",
                lambda m, M=M: gplvm.fit_sparse(m, n_inducing=M, **quiet),
            ),
            f"variational, M = {M}": (
                "rbf",
                lambda m, M=M: gplvm.fit_variational(m, n_inducing=M, **quiet),
            ),
            f"stochastic, R = {M}": (
                "rbf + linear",
                lambda m, M=M: gplvm.fit_stochastic(m, n_neighbors=M, **quiet),
            ),
        }
    return found


def _errors(X: np.ndarray, label: np.ndarray) -> float:
    """Share of rows, in percent, whose nearest neighbour is of another class."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=2).fit(X).kneighbors(return_distance=False)[:, 0]
    return 100.0 * float((label[near] != label).mean())


def _judged(Y: np.ndarray, X: np.ndarray, label, factors) -> dict:
    from sklearn.manifold import trustworthiness

    row = {"trust": float(trustworthiness(Y, X, n_neighbors=_NEIGHBOURS))}
    if label is not None:
        row["errors"] = _errors(X, label)
    if factors is not None:
        row["r2"] = r2_of_factors(X, factors)
    return row


def _density(fit, new: np.ndarray) -> float:
    import pm_gplvm as gplvm

    scores = gplvm.log_predictive(fit, new, random_seed=1, progressbar=False)
    return float(scores["log_score"].mean())


def _measured(name: str, N: int, case: Case, arguments) -> Iterator[dict]:
    import pm_gplvm as gplvm

    Y, label, factors, new = case
    before = time.process_time()
    pca = ProbabilisticPCA(Y, 2)
    X = pca.transform(Y)
    row = {"data": name, "N": N, "estimate": "PCA", "cpu": time.process_time() - before}
    row |= _judged(Y, X, label, factors) | {"ended": ""}
    yield row | ({"density": pca.score(new)} if len(new) else {})
    for estimate, (kernel, fit_of) in _estimates().items():
        if arguments.case and not any(estimate.startswith(c) for c in arguments.case):
            continue
        model = gplvm.build_model(Y, kernel=kernel)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            before = time.process_time()
            try:
                with _interrupted_after(arguments.cap):
                    fit = fit_of(model)
            except KeyboardInterrupt:
                yield {"data": name, "N": N, "estimate": estimate, "ended": "out of time"}
                continue
            cpu = time.process_time() - before
        X = fit["posterior"]["X"].mean(("chain", "draw")).to_numpy()
        row = {"data": name, "N": N, "estimate": estimate, "cpu": cpu}
        row |= _judged(Y, X, label, factors)
        if len(new):
            row["density"] = _density(fit, new)
        warned = "; ".join(str(w.message)[:90] for w in told)
        yield row | {
            "ended": "out of time" if fit.attrs["interrupted"] else "",
            "warned": warned,
        }


def _cells(row: dict) -> list:
    density = row.get("density")
    return [
        *(row["data"], row["N"], row["estimate"], row.get("cpu")),
        *(None if row.get(k) is None else f"{row[k]:.3f}" for k in ("trust",)),
        *(row.get("errors"), row.get("r2"), None if density is None else f"{density:.2f}"),
        row["ended"] or ("warned" if row.get("warned") else ""),
    ]


def run(report: Report, arguments) -> None:
    import pm_gplvm as gplvm

    # What the first call imports and compiles is in none of the figures.
    for _, fit_of in _estimates().values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit_of(gplvm.build_model(gplvm.data.load_digits(n=110), kernel="rbf"))
    rows = report.data["rows"] = []
    for N in arguments.N or SIZES:
        for name, make in TABLES.items():
            if arguments.data not in (None, name) or (case := make(N)) is None:
                continue
            for row in _measured(name, N, case, arguments):
                rows.append(row)
                print("  ", *(c for c in _cells(row) if c is not None), flush=True)
                report.write()  # a run that is cut off leaves what it has
    report.table(_HEADER, [_cells(row) for row in rows])
    report.text(
        f"Trustworthiness by {_NEIGHBOURS} neighbours; ln p of {HELD_OUT} rows held out; a fit may take "
        f"{arguments.cap:g} CPU seconds, and is taken as it is then. PCA has two components."
    )
