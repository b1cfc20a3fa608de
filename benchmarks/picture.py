"""The first picture: GPLVM() at all defaults beside t-SNE, from a table to positions of its rows."""

import time
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE

import pm_gplvm as gplvm
from benchmarks.data import OIL, has_oil
from benchmarks.report import Report

CASES = (("digits", 500), ("oil", 500), ("oil", 1000))
TURNS = 3


def labelled(name: str, N: int) -> tuple[np.ndarray, np.ndarray]:
    """N rows of a table, and their classes."""
    if name == "digits":
        data = load_digits()
        rows = np.random.default_rng(0).permutation(len(data.data))[:N]
        return data.data[rows], data.target[rows]
    with np.load(OIL) as file:
        return file["Y_train"][:N], file["labels_train"][:N]


def _timed(make, Y: np.ndarray) -> tuple[float, np.ndarray]:
    began = time.process_time()
    X = make().fit_transform(Y)
    return time.process_time() - began, np.asarray(X)


def run(report: Report, arguments) -> None:
    warnings.simplefilter("ignore", RuntimeWarning)
    ways = {"GPLVM": gplvm.GPLVM, "TSNE": lambda: TSNE(random_state=0)}
    for make in ways.values():  # what is loaded and compiled once a process
        _timed(make, labelled("digits", 60)[0])
    table = []
    for name, N in CASES:
        if name == "oil" and not has_oil():
            continue
        Y, classes = labelled(name, N)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        X: dict[str, np.ndarray] = {}
        for _ in range(TURNS):
            for way, make in ways.items():
                taken, X[way] = _timed(make, Y)
                seconds[way].append(taken)
        ratio = float(np.median(np.divide(seconds["GPLVM"], seconds["TSNE"])))
        for way in ways:
            scores = gplvm.diagnostics.score_embedding(X[way], Y, classes, n_neighbors=5)
            trust, errors = scores["trustworthiness"], int(scores["nn_errors"])
            row = [name, N, way, float(np.median(seconds[way])), trust, errors]
            table.append([*row, ratio if way == "GPLVM" else None])
            case = {"table": name, "N": N, "way": way, "seconds": seconds[way]}
            report.data.setdefault("pictures", []).append(case | {"trust": trust, "errors": errors})
    report.text(f"Medians of {TURNS} turns; the ratio is that of turns, GPLVM over TSNE.")
    report.table(
        ["table", "N", "way", "CPU s", "trust at 5", "nearest of another class", "ratio"], table
    )
