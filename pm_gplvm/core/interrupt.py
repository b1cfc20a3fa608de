"""Ctrl-C: the first asks work to end at its next safe point, the second ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class _Window:
    """Whether Ctrl-C was pressed while a piece of work ran, and whether again."""

    def __init__(self, told: Callable[[], bool] = bool) -> None:
        self.asked = self.again = False
        self.told = told  # another way to hear of it; by default there is none, bool() is False

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        """Note it; raise KeyboardInterrupt if it is not the first."""
        if self.asked:
            self.again = True
            raise KeyboardInterrupt
        self.asked = True


class _Open(threading.local):
    """The outermost window of a thread: signals reach the main one only."""

    window: _Window | None = None


_OPEN = _Open()


@contextmanager
def interruptible(*, keeps: bool = False) -> Iterator[None]:
    """Hold Ctrl-C back inside the block until a :func:`safe_point`, or to the block's end.

    Work that ``keeps`` what it has done catches the KeyboardInterrupt of the safe point, calls
    :func:`caught`, and returns what there is, unless it was called by other work in such a block: then,
    and always without ``keeps``, the block ends with KeyboardInterrupt, so that a loop over fits stops.
    An inner block without ``keeps`` is part of the outer one. Nothing is installed, and Ctrl-C does what
    it did before, outside the main thread and where SIGINT is ignored or has a handler of the user's.
    """
    outer = _OPEN.window
    if outer is not None:
        try:
            yield
        finally:
            if keeps and outer.asked:
                raise KeyboardInterrupt
        return
    window = _OPEN.window = _Window()
    installed = _install(window)
    try:
        yield
    except Exception as error:
        if window.asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        _OPEN.window = None
        if installed and signal.getsignal(signal.SIGINT) == window.handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if window.asked and not keeps:
        raise KeyboardInterrupt


def _install(window: _Window) -> bool:
    """Take the place of Python's own handler, and of no other."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, window.handle)
    except ValueError:  # this is not the main thread
        return False
    return True


def safe_point() -> None:
    """Raise KeyboardInterrupt if it was asked for: all that was done so far is in place."""
    if interrupted():
        raise KeyboardInterrupt


def caught() -> None:
    """Note that a KeyboardInterrupt is being handled; the second Ctrl-C is raised again."""
    if (window := _OPEN.window) is not None:
        if window.again:
            raise
        window.asked = True


def interrupted() -> bool:
    """Whether the work that runs was asked to end."""
    window = _OPEN.window
    if window is None:
        return False
    window.asked = window.asked or window.told()
    return window.asked


@contextmanager
def told_by(asked: Callable[[], bool]) -> Iterator[None]:
    """Let work in the block end at a safe point once a function says so: in a process without Ctrl-C."""
    outer, _OPEN.window = _OPEN.window, _Window(asked)
    try:
        yield
    finally:
        _OPEN.window = outer
