"""Ctrl-C in work that can be interrupted: when it is raised, and that the handler is as it was."""

import signal
import threading

import pytest

import pm_gplvm as gplvm
from pm_gplvm.core import lazy
from pm_gplvm.core.interrupt import caught, interrupted, interruptible, safe_point


def press():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def handler(ctrl_c):
    """Python's own, and it must be there at the end."""


def kept(n, at, *, times=1):
    """Count to n, Ctrl-C at one number: what was counted."""
    counted = []
    with interruptible(keeps=True):
        try:
            for i in range(n):
                safe_point()
                if i == at:
                    for _ in range(times):
                        press()
                counted.append(i)
        except KeyboardInterrupt:
            caught()
        counted.append(interrupted())
    return counted


def test_it_waits_for_a_safe_point():
    assert kept(5, 2) == [0, 1, 2, True]
    assert kept(5, None) == [0, 1, 2, 3, 4, False]
    assert not interrupted()


def test_after_the_last_safe_point_it_is_known_too():
    assert kept(5, 4) == [0, 1, 2, 3, 4, True]


def test_the_second_is_raised_at_once():
    with pytest.raises(KeyboardInterrupt):
        kept(5, 2, times=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_work_that_keeps_nothing_ends_with_it():
    done = []

    @interruptible()
    def work():
        press()
        done.append("to the end of the block")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["to the end of the block"]


def test_a_loop_over_work_that_keeps_stops():
    done = []
    with interruptible(keeps=True):
        try:
            done.append(kept(3, None))
            done.append(kept(3, 1))
            done.append(kept(3, None))
        except KeyboardInterrupt:
            caught()
        assert interrupted()
    assert done == [[0, 1, 2, False]]


def test_what_is_raised_by_the_work_itself_counts():
    """As a handler of the user's would raise it, at any moment."""
    with interruptible(keeps=True):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            caught()
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            safe_point()


def test_an_error_after_it_does_not_hide_it():
    @interruptible()
    def work():
        press()
        raise ValueError("scikit-learn's searches would go on after this one")

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert isinstance(raised.value.__cause__, ValueError)


def test_an_error_goes_through():
    with pytest.raises(ValueError, match="wrong"), interruptible():
        raise ValueError("wrong")


def test_a_handler_of_the_users_stays():
    heard = []

    def own(number, frame):
        heard.append(number)

    signal.signal(signal.SIGINT, own)
    try:
        assert kept(3, 1) == [0, 1, 2, False]
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert heard == [signal.SIGINT]


def test_where_it_is_ignored_it_still_is():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert kept(3, 1) == [0, 1, 2, False]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_the_work_sets_stays():
    def own(number, frame):
        pass

    with interruptible():
        signal.signal(signal.SIGINT, own)
    after = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert after is own


def test_other_threads_work_on():
    """Neither is anything installed from them, nor does Ctrl-C in the main one end their work."""
    found = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        found.append(kept(3, None))
        found.append(signal.getsignal(signal.SIGINT) is before)

    @interruptible()
    def with_another():
        press()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    with pytest.raises(KeyboardInterrupt):
        with_another()
    assert found == [[0, 1, 2, False], True]


def test_an_import_on_demand_is_not_broken_off(ctrl_c, monkeypatch):
    """An extension that is half imported cannot be imported again in the same process."""
    _, get, _ = lazy.public_names("pm_gplvm", gplvm.__file__)
    monkeypatch.delitem(vars(gplvm), "fit_map", raising=False)
    ctrl_c(lazy, "import_module", 1)
    with pytest.raises(KeyboardInterrupt):
        get("fit_map")
    assert callable(vars(gplvm)["fit_map"])
