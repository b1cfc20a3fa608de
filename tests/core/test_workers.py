"""Tasks done by other processes: what comes back, what is warned and raised, and what is left running."""

import multiprocessing
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest

from pm_gplvm.core import workers as module
from pm_gplvm.core.interrupt import interruptible, safe_point
from pm_gplvm.core.workers import workers


class Thing:
    """It counts how often it was unpacked in a process."""

    unpacked = 0

    def __init__(self, name="thing"):
        self.name = name

    def __setstate__(self, state):
        self.name = state["name"]
        Thing.unpacked += 1


def squared(thing, x):
    return x**2, os.getpid(), thing.name, Thing.unpacked


def warned(thing, x):
    warnings.warn(f"{x % 2} is odd or even", RuntimeWarning, stacklevel=1)
    return x


def wrong(thing):
    raise ValueError("wrong at the start")


def waits(thing):
    """Work with safe points, which keeps what it has done."""
    try:
        for _ in range(3000):
            time.sleep(0.01)
            safe_point()
    except KeyboardInterrupt:
        return "stopped"
    return "done"


def tasks(function, *arguments):
    return {i: (lambda m, a=a: function(m, *a)) for i, a in enumerate(arguments)}


THING = Thing()


def each(function, *arguments, n=2, thing=THING):
    found = {}
    with interruptible(keeps=True), workers(thing, n, 1) as there:
        asked = there.each(tasks(function, *arguments), found.__setitem__)
    return found, asked


def test_all_are_done_and_told_by_number():
    found, asked = each(squared, *[(i,) for i in range(6)])
    assert not asked
    assert {i: end[0] for i, end in found.items()} == {i: i**2 for i in range(6)}
    assert os.getpid() not in {end[1] for end in found.values()}


def test_they_wait_for_the_next_tasks_with_what_they_have_unpacked():
    first, again = (each(squared, (2,), (3,), n=1)[0] for _ in range(2))
    assert len({end[1:] for end in (*first.values(), *again.values())}) == 1
    other, _ = each(squared, (0,), n=1, thing=Thing("other"))
    assert other[0] == (0, first[0][1], "other", first[0][3] + 1)


def test_the_linear_algebra_has_the_threads_that_were_asked_for():
    def threads(thing):
        from threadpoolctl import threadpool_info

        np.linalg.inv(np.eye(3))
        return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}

    assert each(threads, ())[0][0] == {1}


def test_what_they_warn_of_alike_is_said_once(monkeypatch):
    monkeypatch.setattr(module, "_WARNED", {})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        found, _ = each(warned, *[(i,) for i in range(6)])
    assert len(found) == 6
    assert sorted(str(w.message) for w in said) == ["0 is odd or even", "1 is odd or even"]
    assert {w.filename for w in said} == {__file__}


def test_an_error_is_raised_here_and_nothing_is_left_running():
    with pytest.raises(ValueError, match="wrong at the start"):
        each(wrong, (), ())
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_told_of():
    def dies(thing):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(RuntimeError, match=r"^cores: .* ended by itself, .* cores=1"):
        each(dies, ())
    assert not multiprocessing.active_children()


def test_a_daemon_may_have_none(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(ValueError, match=r"cores must be 1 in a process .* got 2"):
        each(squared, (0,))


def test_what_cannot_be_sent_or_read_is_refused():
    with pytest.raises(ValueError, match=r"cores must be 1 .* cannot be sent .* pickle"):
        each(squared, (0,), thing=threading.Lock())

    class Unreadable:
        def __reduce__(self):
            return int, ("no number",)

    with pytest.raises(ValueError, match=r"cores must be 1 .* another process cannot read it"):
        each(squared, (0,), thing=Unreadable())


def test_ctrl_c_ends_what_has_begun_at_a_safe_point_and_what_has_not_at_once(ctrl_c):
    each(squared, (0,), (1,))  # they run
    ctrl_c(module, "wait", 10)
    began = time.monotonic()
    found, asked = each(waits, *[()] * 20)
    assert asked
    assert time.monotonic() - began < 10.0
    assert 1 <= len(found) <= 20
    assert set(found.values()) == {"stopped"}
    assert not multiprocessing.active_children()


def test_the_second_ends_them_at_once(ctrl_c):
    def deaf(thing):
        time.sleep(60)

    ctrl_c(module, "wait", 5, 6)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        each(deaf, (), ())
    assert time.monotonic() - began < 30.0
    assert not multiprocessing.active_children()


def test_all_die_after_ctrl_c(ctrl_c):
    """What was cancelled before that is ended by nobody."""

    def dies(thing):
        time.sleep(3.0)
        os.kill(os.getpid(), signal.SIGKILL)

    each(squared, (0,), (1,))  # they run
    ctrl_c(module, "wait", 5)
    assert each(dies, *[()] * 40) == ({}, True)


def test_ctrl_c_of_a_terminal_does_not_reach_them(ctrl_c):
    found = each(squared, (2,), (3,))[0]
    for pid in {end[1] for end in found.values()}:
        os.kill(pid, signal.SIGINT)
    assert each(squared, (4,))[0][0][0] == 16


def test_nor_does_it_while_they_begin(ctrl_c, monkeypatch):
    """They have its signal blocked from before they are there."""

    def blocked(thing):
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    with workers(THING, 3, 1) as there:
        found = {}
        there.each(tasks(blocked, (), ()), found.__setitem__)
    assert found == {0: True, 1: True}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_another_thread_has_processes_of_its_own():
    there = []
    with workers(THING, 2, 1) as here:
        thread = threading.Thread(
            target=lambda: there.append(each(squared, *[(i,) for i in range(4)]))
        )
        thread.start()
        mine = {}
        here.each(tasks(squared, *[(i,) for i in range(4)]), mine.__setitem__)
        thread.join()
    pids = [{end[1] for end in found.values()} for found in (mine, there[0][0])]
    assert not pids[0] & pids[1]
