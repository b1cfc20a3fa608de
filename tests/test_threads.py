"""How many threads the linear algebra may use."""

import os

import pytest

from pm_gplvm.threads import threads_for


def test_small_tables_take_one_thread():
    assert threads_for("auto", 799) == 1


def test_large_tables_take_the_cores(monkeypatch):
    for cores, wanted in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False
        )
        assert threads_for("auto", 800) == wanted


def test_a_number_or_none_is_taken_as_it_is():
    assert threads_for(2, 10) == 2
    assert threads_for(None, 5000) is None


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"blas_threads must be 'auto', .* got 'many'"):
        threads_for("many", 10)
