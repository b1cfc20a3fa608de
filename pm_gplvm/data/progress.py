"""What is shown of long work while one waits: its stage, how far it is, the time left, and how it does.

One line, the same in a terminal and in a notebook, on standard error. Where there is neither (a log, a
pipe) nothing is written.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pm_gplvm.core.interrupt import interruptible

_WIDTH = 12  # characters of the bar
_PER_SECOND = 4.0  # how often the line is written anew
_NOTED = 30  # seconds over which the rate is taken
_KEPT = {"starts", "tune", "draws", "steps", "climb"}  # stages whose last line stays
_NAMES = {"r_hat": "R-hat", "log_likelihood": "log-likelihood"}


class Bar:
    """What is known of the work: its stage, the units done of it, and numbers beside them.

    Whoever does the work only writes it down here; a thread of the terminal's reads it, so that it
    costs nothing to speak of.
    """

    def __init__(self, title: str, total: int | None, stage: str) -> None:
        self.title, self.shown = title, False
        self.evaluations = 0
        self.numbers: dict[str, float] = {}
        self._began = time.monotonic()
        self._due = 0.0
        self.begin(stage, total)

    def begin(self, stage: str, total: int | None = None, later: int = 0) -> None:
        """Enter a stage of so many units, or of none that could be counted; ``later`` units follow it."""
        self.stage, self.total, self.later, self.done = stage, total, later, 0
        self._noted: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=_NOTED)

    def advance(self, n: int = 1, **numbers: float) -> None:
        """Count n more units as done."""
        self.done += n
        self.numbers.update(numbers)
        self._written()

    def step(self, objective: float) -> None:
        """Count one evaluation of an objective."""
        self.evaluations += 1
        self.numbers["objective"] = objective
        self._written()

    def finish(self, objective: float) -> None:
        """Count one start as done."""
        self.advance(objective=objective)

    def is_due(self, seconds: float = 3.0) -> bool:
        """Whether a number that costs something is worth computing: it is shown, and the last is old."""
        if not self.shown or time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + seconds
        return True

    def _written(self) -> None:
        """Note that something has changed; a notebook has no thread that would look."""

    def rate(self) -> float:
        """Units a second of late, 0 where none is done."""
        now = time.monotonic()
        if now - self._noted[-1][0] > 1.0 and self.done:
            self._noted.append((now, self.done))
        then, before = self._noted[0]
        return (self.done - before) / (now - then) if now > then else 0.0

    def left(self) -> float | None:
        """Seconds left, None where they cannot be told."""
        if self.total is None:
            return None
        ahead = max(self.total - self.done, 0) + self.later
        rate = self.rate() if ahead else 0.0
        return ahead / rate if rate else None

    def words(self) -> str:
        """Tell the stage, the numbers and the time, in one line."""
        at = self.stage if self.total is None else f"{self.stage} {self.done}/{self.total}"
        clock, left = _clock(time.monotonic() - self._began), self.left()
        parts = [at, clock if left is None else f"{clock}, {_clock(left)} left"]
        if self.evaluations:
            parts.append(f"{self.evaluations} evaluations")
        for name, value in self.numbers.items():
            if value == value:  # not yet known otherwise
                told = str(value) if isinstance(value, int) else f"{value:.2f}"
                parts.append(f"{_NAMES.get(name, name)} {told}")
        return " · ".join(parts)

    def drawn(self) -> str:
        """Draw the share that is done, as characters."""
        if self.total is None:
            return ""
        full = round(_WIDTH * min(self.done / max(self.total, 1), 1.0))
        return "━" * full + "─" * (_WIDTH - full)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _InNotebook(Bar):
    """A bar that writes itself into the output of a cell."""

    _handle: Any = None
    _next = 0.0

    def _written(self) -> None:
        if self.shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0 / _PER_SECOND
            self._write()

    def _write(self, *, ended: bool = False) -> None:
        from IPython import display

        shown: Any = display  # without types

        parts = [f"<b>{escape(self.title)}</b>", self.drawn(), escape(self.words())]
        text = " ".join(part for part in parts if part)
        if ended and self.stage not in _KEPT:
            text = ""
        html = shown.HTML(
            f'<pre style="margin:0;white-space:pre-wrap">{text}</pre>' if text else ""
        )
        if self._handle is None:
            self._handle = shown.display(html, display_id=True)
        else:
            self._handle.update(html)


def _console() -> Console:
    return Console(stderr=True)


@contextmanager
def progress_bar(title: str, total: int | None, stage: str, *, show: bool) -> Iterator[Bar]:
    """Show inside a ``with`` block how far it is, in units of its first stage.

    ``"starts"``, ``"tune"``, ``"draws"`` and the like leave their last line, others vanish. Without
    ``show``, and where nobody looks, nothing is written. Ctrl-C waits for a safe point, or ends the block
    with KeyboardInterrupt.
    """
    console = _console() if show else None
    if console is not None and console.is_jupyter:
        cell = _InNotebook(title, total, stage)
        with interruptible():
            cell.shown = True
            try:
                yield cell
            finally:
                cell.shown = False
                cell._write(ended=True)
        return
    bar = Bar(title, total, stage)
    if console is None or not console.is_terminal or console.is_dumb_terminal:
        with interruptible():
            yield bar
        return
    spinner = Spinner("dots")

    def line() -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")  # what a narrow terminal cannot hold
        text = Text(title, style="bold").append(f" {bar.drawn()}".rstrip(), style="not bold")
        table.add_row(spinner, text.append(f" {bar.words()}", style="not bold"))
        return table

    live = Live(
        get_renderable=line,
        console=console,
        refresh_per_second=_PER_SECOND,
        redirect_stdout=False,  # what is printed meanwhile may go to a file
    )
    with interruptible(), live:
        bar.shown = True
        try:
            yield bar
        finally:
            bar.shown, live.transient = False, bar.stage not in _KEPT
