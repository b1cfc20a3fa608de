"""What a user sees while an optimisation or a sampler runs."""

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Counter", "Pieces", "Steps"]


class _Shown:
    """A line of progress that is there as long as its ``with`` block."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class Counter(_Shown):
    """Count starts and evaluations, with the best objective so far and the rate.

    Parameters
    ----------
    title : str
    n_starts : int
    show : bool
        False keeps silent.
    """

    def __init__(self, title: str, *, n_starts: int, show: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("start {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[evaluations]} evaluations"),
            TextColumn("objective {task.fields[objective]:.2f}"),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TimeElapsedColumn(),
            disable=not show,
        )
        self._task = self._progress.add_task(
            title, total=n_starts, evaluations=0, objective=float("nan"), rate=0.0
        )
        self._evaluations = 0

    def step(self, objective: float) -> None:
        """Note one evaluation."""
        self._evaluations += 1
        if self._evaluations % 20 == 0:
            self._show(objective)

    def finish(self, objective: float) -> None:
        """Note the end of one start."""
        self._show(objective)
        self._progress.advance(self._task)

    def _show(self, objective: float) -> None:
        elapsed = self._progress.tasks[0].elapsed or 0.0
        self._progress.update(
            self._task,
            evaluations=self._evaluations,
            objective=objective,
            rate=self._evaluations / elapsed if elapsed else 0.0,
        )


class Steps(_Shown):
    """Count iterations of a sampler, with its log-likelihood, rate and the time that remains.

    Parameters
    ----------
    title : str
    total : int
        Iterations.
    show : bool
        False keeps silent.
    """

    def __init__(self, title: str, total: int, show: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("log-likelihood {task.fields[log_likelihood]:.1f}"),
            TextColumn("{task.fields[replicas]} replicas"),
            TextColumn("{task.fields[rate]:.1f}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=not show,
        )
        self._task = self._progress.add_task(
            title, total=total, log_likelihood=float("nan"), replicas=1, rate=0.0
        )

    def advance(self, *, log_likelihood: float, replicas: int) -> None:
        """Note one iteration."""
        self._progress.update(
            self._task,
            advance=1,
            log_likelihood=log_likelihood,
            replicas=replicas,
            rate=self._progress.tasks[0].speed or 0.0,
        )


class Pieces(_Shown):
    """Count pieces of work, with their rate and the time that remains; gone when they are done.

    Parameters
    ----------
    title : str
    total : int
    what : str
        Name of a piece: "rows".
    show : bool
        False keeps silent.
    """

    def __init__(self, title: str, total: int, what: str, show: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn(f"{what}, {{task.fields[rate]:.3g}}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=not show,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, rate=0.0)

    def advance(self, n: int = 1) -> None:
        """Note that so many more are done."""
        self._progress.update(self._task, advance=n, rate=self._progress.tasks[0].speed or 0.0)
