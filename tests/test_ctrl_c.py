"""Ctrl-C in what returns no part of its work, in other threads, and under a handler of the user's."""

import signal
import threading
from functools import partial

import pytest

import pm_gplvm as gplvm
from pm_gplvm.fitting import linear
from pm_gplvm.prediction import held_out
from pm_gplvm.sampling import joint, nuts, prior

QUIET = {"random_seed": 1, "progressbar": False}


@pytest.fixture(scope="module")
def verbs(digits):
    model = gplvm.build_model(digits)
    plain = gplvm.build_model(digits, kernel="linear")
    best = gplvm.fit_marginal(model, **QUIET)
    return {
        "fit_linear": (partial(gplvm.fit_linear, plain), linear, "as_fit"),
        "sample_prior": (
            partial(gplvm.sample_prior, model, draws=5, random_seed=1),
            prior,
            "as_fit",
        ),
        "leave_one_out": (partial(gplvm.diagnostics.leave_one_out, best), held_out, "_mixed"),
        "sample_theta": (
            partial(gplvm.sample_theta, model, best, draws=60, tune=60, chains=1, **QUIET),
            nuts,
            "_constrained",
        ),
        "sample": (
            partial(gplvm.sample, model, start=best, draws=4, tune=4, replicas=1, **QUIET),
            joint,
            "_run",
        ),
    }


@pytest.mark.parametrize("name", ["fit_linear", "sample_prior", "leave_one_out"])
def test_no_part_of_it_means_anything(name, verbs, ctrl_c, monkeypatch):
    verb, module, work = verbs[name]
    before = verb()
    ctrl_c(module, work, 1)
    with pytest.raises(KeyboardInterrupt):
        verb()
    monkeypatch.undo()
    assert verb().identical(before)


@pytest.mark.parametrize("name", ["sample_theta", "sample"])
@pytest.mark.filterwarnings("ignore:sample:RuntimeWarning")
def test_in_another_thread_they_work_as_ever(name, verbs, ctrl_c):
    verb, _, _ = verbs[name]
    here, there = verb(), []
    thread = threading.Thread(target=lambda: there.append(verb()))
    thread.start()
    thread.join()
    for group in ("posterior", "sample_stats"):
        assert here[group].to_dataset().identical(there[0][group].to_dataset())
    assert there[0].attrs["interrupted"] == 0


@pytest.mark.parametrize("name", ["sample_theta", "sample"])
@pytest.mark.filterwarnings("ignore:sample:RuntimeWarning")
def test_a_handler_of_the_users_decides(name, verbs, ctrl_c):
    """One that only notes it: the work goes on to its end."""
    verb, module, work = verbs[name]
    heard = []

    def note(number, frame):
        heard.append(number)

    ctrl_c(module, work, 1)
    signal.signal(signal.SIGINT, note)
    try:
        fit = verb()
        assert signal.getsignal(signal.SIGINT) is note
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert heard == [signal.SIGINT]
    assert fit.attrs["interrupted"] == 0
