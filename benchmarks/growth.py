"""Time of an evaluation against N."""

import numpy as np

from benchmarks.data import table
from benchmarks.report import Report
from benchmarks.subject import beside_limit, ours, table_file


def _exponent(sizes, times) -> float | None:
    """Slope of log time over log N, for N of 500 and more."""
    large = [(N, time) for N, time in zip(sizes, times, strict=True) if N >= 500]
    if len(large) < 2:
        return None
    return float(np.polyfit(*np.log(np.array(large).T), 1)[0])


def run(report: Report, arguments) -> None:
    from matplotlib.figure import Figure

    sizes, rows, results = arguments.N or (100, 200, 500, 1000, 2000, 4000), [], []
    report.text("## rbf, Q = 2")
    for N in sizes:
        Y, X0, note = table("oil", N, 2)
        with table_file(Y, X0) as file, ours(file) as subject:
            result = beside_limit(subject, N, arguments.rounds, arguments.seconds)
        results.append({"N": N, "data": note, **result})
        rows.append([N, result["cpu_ms"], result["limit_ms"], result["ratio"], note])
        print(f"  N = {N}: {result['cpu_ms']:.3g} ms, ratio {result['ratio']:.2f}", flush=True)
    report.table(["N", "CPU ms", "limit ms", "ratio", "data"], rows)

    own, limit = ([result[key] for result in results] for key in ("cpu_ms", "limit_ms"))
    exponents = {"pm_gplvm": _exponent(sizes, own), "limit": _exponent(sizes, limit)}
    if exponents["limit"] is not None:
        report.text(
            f"Time grows as N^{exponents['pm_gplvm']:.2f} for N ≥ 500, "
            f"the limit as N^{exponents['limit']:.2f}."
        )
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, times, marker in (("pm_gplvm", own, "o-"), ("limit", limit, "s--")):
        slope = exponents["limit" if name == "limit" else "pm_gplvm"]
        label = "dpotrf + dpotri" if name == "limit" else "pm_gplvm, value and gradient"
        axis.loglog(sizes, times, marker, label=f"{label}, N^{slope:.2f}" if slope else label)
    axis.set(xlabel="N", ylabel="CPU ms per evaluation, one thread")
    axis.legend()
    axis.grid(which="both", alpha=0.2)
    report.figure(figure)
    report.data |= {"growth": results, "exponents": exponents}
