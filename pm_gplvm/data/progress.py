"""A line of progress on the screen while an optimiser, a sampler or another loop runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pm_gplvm.core.interrupt import interruptible


class Bar:
    """What :func:`progress_bar` shows: the work done, and numbers beside it."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown, self._task, self._evaluations = shown, task, 0

    def advance(self, n: int = 1, **numbers: Any) -> None:
        """Count n more units as done."""
        speed = self._shown.tasks[0].speed or 0.0
        self._shown.update(self._task, advance=n, **({"rate": speed} | numbers))

    def step(self, objective: float) -> None:
        """Count one evaluation of a start."""
        self._evaluations += 1
        if self._evaluations % 20 == 0:
            self._show(objective)

    def finish(self, objective: float) -> None:
        """Count one start as done."""
        self._show(objective, advance=1)

    def _show(self, objective: float, advance: int = 0) -> None:
        elapsed = self._shown.tasks[0].elapsed
        rate = self._evaluations / elapsed if elapsed else 0.0
        self.advance(advance, evaluations=self._evaluations, objective=objective, rate=rate)


@contextmanager
def progress_bar(title: str, total: int, unit: str, *, show: bool) -> Iterator[Bar]:
    """Show a bar inside a ``with`` block: of ``"starts"``, of ``"iterations"``, or of other units.

    Starts have evaluations and the objective beside them, iterations the log-likelihood and the number
    of replicas. The bar of other units vanishes at the end. Without ``show`` nothing is written. Ctrl-C
    waits for a safe point, or ends the block with KeyboardInterrupt.
    """
    numbers: dict[str, Any] = {"rate": 0.0}
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("[bold]{task.description}")]
    columns += [BarColumn(bar_width=20), MofNCompleteColumn()]
    if unit == "starts":
        numbers |= {"evaluations": 0, "objective": float("nan")}
        columns[-1] = TextColumn("start {task.completed:.0f}/{task.total:.0f}")
        columns.append(TextColumn("{task.fields[evaluations]} evaluations"))
        columns.append(TextColumn("objective {task.fields[objective]:.2f}"))
        columns += [TextColumn("{task.fields[rate]:.0f}/s"), TimeElapsedColumn()]
    elif unit == "iterations":
        numbers |= {"log_likelihood": float("nan"), "replicas": 1}
        columns.append(TextColumn("log-likelihood {task.fields[log_likelihood]:.1f}"))
        columns.append(TextColumn("{task.fields[replicas]} replicas"))
        columns += [TextColumn("{task.fields[rate]:.1f}/s"), TimeElapsedColumn()]
        columns.append(TimeRemainingColumn())
    else:
        columns.append(TextColumn(unit + ", {task.fields[rate]:.3g}/s"))
        columns += [TimeElapsedColumn(), TimeRemainingColumn()]
    transient = unit not in ("starts", "iterations")
    with interruptible(), Progress(*columns, disable=not show, transient=transient) as shown:
        yield Bar(shown, shown.add_task(title, total=total, **numbers))
