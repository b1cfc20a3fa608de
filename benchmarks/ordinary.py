"""Ordinary tables, each at all defaults beside PCA: can a default be trusted?"""

import signal
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import pm_gplvm
from benchmarks.ordinary_tables import CASES, SHORT, Case, Table
from benchmarks.ppca import ProbabilisticPCA
from benchmarks.report import Report

# Factors: a linear regression on X must explain this share of what it explains on PCA's scores ...
FACTORS_SHARE = 0.9
# ... where PCA finds them at all: below, a ratio compares two accidents.
FACTORS_LEAST = 0.2
# Held-out density, nats. A row's place costs about Q/2 ln N nats in either model, and on 20 to 50
# held-out rows the mean of the difference has a standard error of 0.1 to 0.3: less than half a nat
# (a row 1.6 times less probable) is no finding.
DENSITY_ROW = 0.5
# The rest grows with the entries: the noise put 2 % too high costs 0.02 nats in each. A share of
# the density itself would depend on the units of Y.
DENSITY_ENTRY = 0.02
# Held-out rows put back: an rms above so many times PCA's, and by more than so many standard
# deviations of the table. Where there is noise alone, and a fit says so, it is 1.2 times PCA's,
# which always follows Q directions; rows that were lost make it far larger.
ROWS_SHARE, ROWS_SD = 1.3, 0.02

OUT_OF_TIME, FAILED = "out of time", "failed"
NO_WORSE, TOLD, SILENT = "no worse", "worse than PCA, warned", "worse than PCA, silent"

# What a warning says: part of its text, a short word. The first that is found counts.
_WORDS = (
    ("fell onto one point", "collapsed"),
    ("no structure", "collapsed"),
    ("noise of the columns", "column noise"),
    ("did not move", "did not move"),
    ("did not converge", "not converged"),
    ("spread of more than", "units"),
    ("patterns of missing", "patterns"),
    ("pareto_k", "pareto_k"),
    ("was not reached to tolerance", "new places"),
    ("cop", "copies"),
    ("encountered in", "numpy"),
)
# Beside the fit, the step whose warning tells of what is worse.
_STEPS = {"factors": (), "density": ("score",), "rows": ("transform",)}
# These say nothing about whether the fit is good.
_BESIDE_THE_POINT = ("patterns", "numpy")


_OURS = (str(Path(pm_gplvm.__file__).parent), str(Path(__file__).parent))


class _OutOfTime(BaseException):
    """Not an Exception, so that nothing on the way takes it for a failed step."""


@contextmanager
def _cpu_limit(seconds: float):
    """Raise _OutOfTime after so much CPU time of this process, where the system can tell."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def end(_, frame):
        # What is raised in a callback (of the collector, of a weak reference) or in __del__ is
        # lost: only code of ours and of the benchmarks is ended, else the next signal does it.
        if not frame.f_code.co_filename.startswith(_OURS):
            return
        while frame is not None:
            if frame.f_code.co_name == "__del__":
                return
            frame = frame.f_back
        signal.setitimer(signal.ITIMER_PROF, 0.0)  # one is enough: none may hit what clears up
        raise _OutOfTime

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _short(message: str) -> str:
    for part, word in _WORDS:
        if part in message:
            return word
    return " ".join(message.split()[:3])


@contextmanager
def _listening(row: dict, where: str):
    """Note every warning in the row, with the step that gave it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            counts = Counter((w.category.__name__, str(w.message)) for w in caught)
            for (category, message), times in counts.items():
                word = _short(message)
                row["warnings"].append(
                    {
                        **{"step": where, "word": word, "times": times},
                        **{"category": category, "message": message[:300]},
                    }
                )


def _told(row: dict, *steps: str) -> bool:
    return any(
        w["step"] in steps
        and w["word"] not in _BESIDE_THE_POINT
        and not w["category"].endswith("DeprecationWarning")
        and w["category"] != "FutureWarning"
        for w in row["warnings"]
    )


def r2_of_factors(X: np.ndarray, factors: np.ndarray) -> float:
    """Share of the factors' variance that a linear regression on X explains."""
    sd = X.std(axis=0)
    A = np.column_stack([(X - X.mean(axis=0)) / np.where(sd > 0.0, sd, 1.0), np.ones(len(X))])
    left = factors - A @ np.linalg.lstsq(A, factors, rcond=None)[0]
    return 1.0 - float((left**2).sum() / ((factors - factors.mean(axis=0)) ** 2).sum())


def _r2_of_rows(Y: np.ndarray, back: np.ndarray) -> float:
    """Share of the variance of the entries that were seen."""
    away = Y - np.nanmean(Y, axis=0)
    return 1.0 - float(np.nansum((Y - back) ** 2) / np.nansum(away**2))


def _rms(table: Table, back: np.ndarray) -> float:
    """Of held-out rows put back, in standard deviations of the table: of hidden entries if any."""
    off = (back - table.new) ** 2
    if table.new_seen is not None:
        off = off[np.isnan(table.new_seen)]
    return float(np.sqrt(off.mean()) / np.nanstd(table.Y - np.nanmean(table.Y, axis=0)))


def _beside(row: dict, table: Table, Q: int) -> None:
    pca = ProbabilisticPCA(table.Y, Q)
    places = pca.transform(table.Y)
    row["pca_r2_Y"] = _r2_of_rows(table.Y, pca.inverse_transform(places))
    if table.factors is not None:
        row["pca_r2_factors"] = r2_of_factors(places, table.factors)
    if table.new is not None:
        seen = table.new if table.new_seen is None else table.new_seen
        # Hidden entries have a conditional mean, which a projection of the row would overshoot.
        back = pca.inverse_transform(pca.transform(seen))
        row["pca_rms"] = _rms(table, back if table.new_seen is None else pca.fill(seen))
        if table.density:
            row["pca_density"] = pca.score(seen)


def _spread(X: np.ndarray) -> float:
    return float(np.sqrt(X.var(axis=0).mean()))


def _fitted(row: dict, table: Table, Q: int, GPLVM):
    holes = {"missing": "mask"} if np.isnan(table.Y).any() else {}
    before = time.process_time()
    try:
        with _listening(row, "fit"):
            estimator = GPLVM(n_components=Q, random_state=1, **holes).fit(table.Y)
    finally:
        row["cpu_s"] = time.process_time() - before
    fit, known = estimator.fit_, estimator.fit_["posterior"]
    for name in ("sigma", "lengthscale", "amplitude"):
        if name in known:
            row[name] = float(np.median(known[name].to_numpy()))
    row["evaluations"] = getattr(estimator, "n_iter_", None)
    converged = fit.attrs.get("converged")
    row["converged"] = None if converged is None else bool(converged)
    X = estimator.embedding_
    row["sd_X"] = _spread(X)
    if table.factors is not None:
        row["r2_factors"] = r2_of_factors(X, table.factors)
    row["r2_Y"] = _r2_of_rows(table.Y, estimator.inverse_transform(X))
    return estimator


def _held_out(row: dict, table: Table, estimator) -> None:
    seen = table.new if table.new_seen is None else table.new_seen
    before = time.process_time()
    try:
        if table.density:
            with _listening(row, "score"):
                row["density"] = estimator.score(seen)
        with _listening(row, "transform"):
            back = estimator.inverse_transform(estimator.transform(seen))
        row["rms"] = _rms(table, back)
    finally:
        row["new_cpu_s"] = time.process_time() - before


def worse(row: dict) -> list[str]:
    """In what the fit is worse than PCA by the margins: "factors", "density", "rows"."""
    found = []
    ours, theirs = row.get("r2_factors"), row.get("pca_r2_factors")
    if ours is not None and theirs > FACTORS_LEAST and not ours >= FACTORS_SHARE * theirs:
        found.append("factors")
    ours, theirs = row.get("density"), row.get("pca_density")
    margin = DENSITY_ROW + DENSITY_ENTRY * row["D"] * row["seen"]
    if ours is not None and not ours >= theirs - margin:
        found.append("density")
    ours, theirs = row.get("rms"), row.get("pca_rms")
    if ours is not None and not ours <= max(ROWS_SHARE * theirs, theirs + ROWS_SD):
        found.append("rows")
    return found


def verdict(row: dict) -> str:
    """Worse than PCA or not, and whether a warning of the step or of the fit said so."""
    if row["ended"] != "yes":
        return row["ended"]
    found = worse(row)
    if not found:
        return NO_WORSE
    silent = any(not _told(row, "fit", *_STEPS[what]) for what in found)
    return f"{SILENT if silent else TOLD} ({', '.join(found)})"


def measured(name: str, case: Case | None = None, limit: float = 120.0) -> dict | None:
    """One table's figures by name, or None where its file is not there.

    What was found before the limit of CPU seconds, or before an exception, is kept.
    """
    from pm_gplvm import GPLVM  # here, as the limit could leave it half imported

    case = case or CASES[name]
    table = case.make()
    if table is None:
        return None
    N, D = table.Y.shape
    row = {
        **{"table": name, "N": N, "D": D, "Q": case.Q},
        **{"n_new": 0 if table.new is None else len(table.new)},
        **{"seen": float(1.0 - np.isnan(table.Y).mean()), "warnings": [], "ended": "yes"},
    }
    _beside(row, table, case.Q)
    try:
        with _cpu_limit(limit):
            estimator = _fitted(row, table, case.Q, GPLVM)
            if table.new is not None:
                _held_out(row, table, estimator)
    except _OutOfTime:
        row["ended"] = OUT_OF_TIME
    except Exception as error:
        row["ended"] = FAILED
        row["error"] = f"{type(error).__name__}: {error}"[:300]
    row["worse"], row["verdict"] = worse(row), verdict(row)
    return row


_HEADER = [
    *("table", "N×D", "Q", "R² factors", "PCA", "R² Y", "PCA", "ln p(new)", "PPCA"),
    *("rms new", "PCA", "lengthscale", "sigma", "sd X", "converged", "warned", "CPU s"),
    *("evaluations", "verdict"),
]


def _cells(row: dict) -> list:
    words = Counter(w["word"] for w in row["warnings"])
    converged = row.get("converged")
    density = [row.get("density"), row.get("pca_density")]
    return [
        *(row["table"], f"{row['N']}×{row['D']}", row["Q"]),
        *(row.get("r2_factors"), row.get("pca_r2_factors"), row.get("r2_Y"), row.get("pca_r2_Y")),
        *(None if value is None else f"{value:.2f}" for value in density),
        *(row.get("rms"), row.get("pca_rms")),
        *(row.get("lengthscale"), row.get("sigma"), row.get("sd_X")),
        None if converged is None else "yes" if converged else "no",
        ", ".join(f"{word} ×{n}" if n > 1 else word for word, n in words.items()),
        *(row.get("cpu_s"), row.get("evaluations"), row["verdict"]),
    ]


def counted(rows: list[dict]) -> str:
    """The verdicts, each with the number of tables."""
    counts = Counter(row["verdict"].partition(" (")[0] for row in rows)
    return f"{len(rows)} tables: " + ", ".join(f"{n} {what}" for what, n in counts.most_common())


def run(report: Report, arguments) -> None:
    names = list(arguments.case or CASES)
    names = [name for given in names for name in (SHORT if given == "short" else (given,))]
    if unknown := [name for name in names if name not in CASES]:
        raise SystemExit(f"--case takes short, {', '.join(CASES)}; got {', '.join(unknown)}")
    rows = report.data["rows"] = []
    for name in names:
        row = measured(name, limit=arguments.limit)
        if row is None:
            report.text(f"{name}: left out, its file is not in ../shared/data.")
            continue
        rows.append(row)
        print(f"  {name}: {row['verdict']}, {row.get('cpu_s', 0.0):.1f} CPU s", flush=True)
        report.write()  # a run that is cut off leaves what it has
    present(report, rows, arguments.limit)


def present(report: Report, rows: list[dict], limit: float) -> None:
    report.table(_HEADER, [_cells(row) for row in rows])
    report.text(
        f"Worse: R² of factors below {FACTORS_SHARE:g} of PCA's (where that exceeds "
        f"{FACTORS_LEAST:g}); ln p of held-out rows below PPCA's by more than "
        f"{DENSITY_ROW:g} nats a row and {DENSITY_ENTRY:g} an entry; rms of held-out rows put back "
        f"above {ROWS_SHARE:g} times PCA's and by {ROWS_SD:g} standard deviations. Silent: neither "
        "fit nor, for density and rows, the step itself warned. A table may take "
        f"{limit:g} CPU seconds; CPU s is the fit's."
    )
    report.text(counted(rows))
