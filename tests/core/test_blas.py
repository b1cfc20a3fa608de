"""How many threads the linear algebra may use."""

import pytest

from pm_gplvm.core import blas as threads
from pm_gplvm.core.blas import blas_threads, threads_for


def test_small_tables_take_one_thread():
    assert threads_for("auto", 799) == 1


def test_large_tables_take_the_cores(monkeypatch):
    monkeypatch.setattr(threads, "_set_threads", lambda: 64)
    for cores, wanted in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(threads, "usable_cores", lambda n=cores: n)
        assert threads_for("auto", 800) == wanted


def test_no_more_than_blas_is_set_to(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    with blas_threads(1):
        assert threads_for("auto", 5000) == 1


def test_a_number_or_none_is_taken_as_it_is():
    assert threads_for(2, 10) == 2
    assert threads_for(None, 5000) is None


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"blas_threads must be 'auto', .* got 'many'"):
        threads_for("many", 10)
