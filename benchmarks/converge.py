"""How long an optimiser takes from the common start to given objectives."""

import numpy as np

from benchmarks.data import check_start, reference_objective, table
from benchmarks.installed import installed_peers
from benchmarks.limit import limit_times
from benchmarks.report import Report
from benchmarks.subject import OURS, Subject, ours, table_file

# Of oil flow; at other N none.
TARGETS = {500: (1500.0, 1750.0), 1000: (4000.0, 4900.0)}


def _best(trace: dict) -> tuple[np.ndarray, np.ndarray]:
    """CPU seconds, and the best objective seen until then."""
    values = -np.array(trace["values"], dtype=float)
    values[~np.isfinite(values)] = -np.inf
    return np.array(trace["cpu"]), np.maximum.accumulate(values)


def _reached(trace: dict, target: float) -> tuple[float, int] | None:
    seconds, best = _best(trace)
    above = np.flatnonzero(best >= target)
    return (float(seconds[above[0]]), int(above[0]) + 1) if len(above) else None


def _at(trace: dict, seconds: float) -> float:
    clock, best = _best(trace)
    return float(best[max(np.searchsorted(clock, seconds, side="right") - 1, 0)])


def _thinned(trace: dict, targets) -> dict:
    """What the results keep of a trace: every evaluation would be megabytes."""
    seconds, best = _best(trace)
    kept = np.unique(np.geomspace(1, len(best), 200).astype(int)) - 1
    return {
        "reached": {f"{target:g}": _reached(trace, target) for target in targets},
        "evaluation": (kept + 1).tolist(),
        "cpu_s": np.round(seconds[kept], 4).tolist(),
        "best": np.round(best[kept], 3).tolist(),
        "evaluations": len(best),
        **{key: trace[key] for key in ("first_call_s", "message")},
    }


def _climbs(file, arguments):
    starts = {}
    if arguments.only is None or "ours" in arguments.only:
        starts[OURS] = lambda: ours(file, flat=True)
    for name, (python, module) in installed_peers(arguments.only).items():
        starts[name] = lambda python=python, module=module: Subject(python, module, file)
    for name, start in starts.items():
        try:
            with start() as subject:
                yield name, subject.climb(arguments.cap), subject.facts
        except (OSError, RuntimeError) as problem:
            print(f"  {name}: skipped, {problem}", flush=True)


def _row(name: str, trace: dict, targets, gpy: dict | None, cap: float) -> list:
    row: list = [name, trace["first_call_s"]]
    for target in targets:
        mine, theirs = _reached(trace, target), _reached(gpy, target) if gpy else None
        row.append(f"{mine[0]:.3g} s, {mine[1]}" if mine else "never")
        # Where GPy never arrives, its time is the cap at least.
        bound = "" if theirs else "< "
        against = theirs[0] if theirs else cap
        row.append(f"{bound}{mine[0] / against:.2f}" if mine and gpy else "")
    row += [f"{_at(trace, seconds):.1f}" for seconds in (cap / 4, cap)]
    return [*row, len(trace["cpu"]), trace["cpu"][-1], trace["message"][:40]]


def _plot(axes, traces: dict, N: int) -> None:
    for name, trace in traces.items():
        seconds, best = _best(trace)
        width = 2.2 if name == OURS else 1.2
        axes[0].plot(seconds, best, label=name, lw=width)
        axes[1].plot(np.arange(1, len(best) + 1), best, label=name, lw=width)
    top = max(_best(trace)[1][-1] for trace in traces.values())
    begin = min(_best(trace)[1][0] for trace in traces.values())
    # The first steps climb far: show the upper part.
    for axis, label in zip(axes, ("CPU seconds", "evaluations"), strict=True):
        axis.set(xscale="log", xlabel=label, ylabel="objective", title=f"N = {N}")
        axis.set_ylim(top - min(top - begin, 0.75 * abs(top)), top + 0.03 * abs(top))
        for target in TARGETS.get(N, ()):
            axis.axhline(target, color="0.7", lw=0.8, ls=":")
    axes[0].legend(fontsize=8)


def run(report: Report, arguments) -> None:
    from matplotlib.figure import Figure

    sizes = arguments.N or (500, 1000)
    cap = arguments.cap
    figure = Figure(figsize=(10, 4 * len(sizes)), layout="constrained")
    panels = figure.subplots(len(sizes), 2, squeeze=False)
    for axes, N in zip(panels, sizes, strict=True):
        Y, X0, note = table("oil", N, 2)
        targets = TARGETS.get(N, ()) if note == "oil" else ()
        report.text(f"## {note}, N = {N}, Q = 2, flat θ, up to {cap:g} CPU seconds each")
        traces, differences, reference = {}, [], reference_objective(Y, X0)
        limits = limit_times(N, 0.3, 2)
        with table_file(Y, X0) as file:
            for name, trace, facts in _climbs(file, arguments):
                traces[name] = trace | {"first_call_s": facts["ready_s"]}
                differences.append(check_start(name, facts["value"], reference))
                report.note_versions(name, facts["versions"])
                print(f"  {name}: {len(trace['cpu'])} evaluations", flush=True)
                limits += limit_times(N, 0.3, 2)
        if not traces:
            continue
        header = ["library", "first call s"]
        for target in targets:
            header += [f"to {target:g}: CPU, evaluations", "/ GPy"]
        header += [f"objective at {cap / 4:g} s", f"at {cap:g} s", "evaluations", "CPU s", "end"]
        report.text(
            f"The common start has the objective {reference:.3f}; the libraries' own differ from "
            f"it by {max(differences):.1e} of its size at most."
        )
        gpy = traces.get("GPy")
        rows = [_row(name, trace, targets, gpy, cap) for name, trace in traces.items()]
        report.table(header, rows)
        _plot(axes, traces, N)
        report.data.setdefault("converge", []).append(
            {"data": note, "N": N, "cap": cap, "limit_ms": 1e3 * float(np.median(limits))}
            | {"traces": {name: _thinned(trace, targets) for name, trace in traces.items()}}
        )
    report.figure(figure)
