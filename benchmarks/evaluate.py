"""Value and gradient in X and θ together, in units of dpotrf + dpotri."""

from benchmarks.data import check_start, pca_start, reference_objective, table
from benchmarks.installed import installed_peers
from benchmarks.report import Report
from benchmarks.subject import OURS, Subject, beside_limit, ours, table_file

KERNELS = {
    "rbf": {"kernel": "rbf"},
    "rbf ARD": {"kernel": "rbf", "ard": True},
    "matern32": {"kernel": "matern32"},
    "matern52": {"kernel": "matern52"},
    "linear": {"kernel": "linear"},
    "rbf + linear": {"kernel": "rbf + linear"},
}
TABLES = (("oil", 2), ("digits", 5))
WIDE = (300, 20_000)
HEADER = ["library", "kernel", "CPU ms", "limit ms", "ratio", "wanted", "first call s"]


def _wanted(N: int) -> str:
    return "≤ 1.5" if N >= 500 else "≤ 4" if N == 100 else ""


def _cases(file, only: list[str] | None):
    """Name, kernel and how to start each process."""
    if only is None or "ours" in only:
        for kernel, options in KERNELS.items():
            yield OURS, kernel, lambda options=options: ours(file, **options)
    for name, (python, module) in installed_peers(only).items():
        yield name, "rbf", lambda python=python, module=module: Subject(python, module, file)


def _one_table(report: Report, name: str, N: int, Q: int, arguments) -> None:
    Y, X0, note = table(name, N, Q)
    report.text(f"## {note}, N = {N}, Q = {Q}, D = {Y.shape[1]}")
    reference = reference_objective(Y, X0)
    rows = []
    with table_file(Y, X0) as file:
        for library, kernel, start in _cases(file, arguments.only):
            try:
                with start() as subject:
                    result = beside_limit(subject, N, arguments.rounds, arguments.seconds)
                    facts = subject.facts
            except (OSError, RuntimeError) as problem:
                print(f"  {library} {kernel}: skipped, {problem}", flush=True)
                continue
            if library != OURS:  # ours has its default priors on θ too
                check_start(library, facts["value"], reference)
            report.note_versions(library, facts["versions"])
            wanted = _wanted(N) if library == OURS else ""
            times = [result["cpu_ms"], result["limit_ms"], result["ratio"]]
            rows.append([library, kernel, *times, wanted, facts["ready_s"]])
            case = {"data": note, "N": N, "Q": Q, "D": Y.shape[1]}
            case |= {"library": library, "kernel": kernel, **result, **facts}
            report.data.setdefault("evaluate", []).append(case)
    report.table(HEADER, rows)


def _wide(report: Report, arguments) -> None:
    N, D = WIDE
    report.text(f"## Many columns: simulated, N = {N}, Q = 2, rbf")
    Y, _, _ = table("simulated", N, 2, D)
    rows = []
    for columns in (N, D):
        part = Y[:, :columns]
        with table_file(part, pca_start(part, 2)) as file, ours(file) as subject:
            result = beside_limit(subject, N, arguments.rounds, arguments.seconds)
            ready = subject.facts["ready_s"]
        rows.append([columns, result["cpu_ms"], result["limit_ms"], result["ratio"], ready])
        report.data.setdefault("wide", []).append({"N": N, "D": columns, **result})
    report.table(["D", "CPU ms", "limit ms", "ratio", "first call s"], rows)
    # In units of the limit, measured beside each.
    report.text(f"{D} columns cost {rows[1][3] / rows[0][3]:.2f} times as much as {N}.")


def run(report: Report, arguments) -> None:
    for name, Q in TABLES:
        if arguments.data in (None, name):
            for N in arguments.N or (100, 500, 1000, 2000):
                _one_table(report, name, N, Q, arguments)
    if arguments.data in (None, "wide") and (arguments.only is None or "ours" in arguments.only):
        _wide(report, arguments)
