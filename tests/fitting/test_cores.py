"""Runs from several starts at once, in other processes: the same numbers, and Ctrl-C as everywhere."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from conftest import ROOT, simulated
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

import pm_gplvm as gplvm
from pm_gplvm.data.progress import Bar
from pm_gplvm.fitting import map as module
from pm_gplvm.fitting.choose import fit_by

QUIET = {"random_seed": 1, "progressbar": False}


def with_copies():
    """Rows that are exact copies are left out while it is fitted."""
    Y = simulated(25, 10, seed=4).to_numpy()
    return np.concatenate([Y, Y[:5]])


def with_holes():
    Y = simulated(25, 10, seed=4).to_numpy()
    Y[::3, 2] = np.nan
    return Y


MODELS = {
    "plain": lambda: gplvm.build_model(simulated(30, 10, seed=4)),
    "copies": lambda: gplvm.build_model(with_copies()),
    "holes": lambda: gplvm.build_model(with_holes(), missing="mask"),
    "noise of each column": lambda: gplvm.build_model(simulated(25, 10, seed=4), noise="column"),
    "dynamics": lambda: gplvm.build_model(
        simulated(25, 10), priors={"X": gplvm.priors.dynamics(np.arange(25.0))}
    ),
}


def same(one, two):
    """Whether two fits are the same, but for the seconds that their runs took."""
    optima = [fit["optima"].to_dataset().drop_vars("seconds") for fit in (one, two)]
    groups = ("posterior", "sample_stats", "optima_positions")
    return optima[0].identical(optima[1]) and all(
        one[group].to_dataset().identical(two[group].to_dataset()) for group in groups
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fit", [gplvm.fit_map, gplvm.fit_marginal], ids=["map", "marginal"])
@pytest.mark.filterwarnings("ignore:Y has 5 rows:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:fit_map:RuntimeWarning")
def test_the_numbers_are_those_of_one_process(name, fit):
    model = MODELS[name]()
    one, two = (fit(model, n_restarts=3, cores=n, **QUIET) for n in (1, 2))
    assert one["optima"].sizes["start"] > 3
    assert same(one, two)


def test_of_all_who_take_it(digits):
    model = gplvm.build_model(digits)
    one = gplvm.fit_marginal(model, n_restarts=1, **QUIET)
    assert same(one, fit_by(model, "marginal", n_restarts=1, cores=2, **QUIET))
    laplace = [fit_by(model, "laplace", n_restarts=1, cores=n, **QUIET) for n in (1, 2)]
    np.testing.assert_array_equal(*(fit["posterior"]["X"] for fit in laplace))
    shells = [
        gplvm.GPLVM(n_restarts=1, n_jobs=n, random_state=1, inference="map").fit(digits)
        for n in (None, 2)
    ]
    np.testing.assert_array_equal(*(shell.embedding_ for shell in shells))


def test_no_more_than_there_are_starts_and_none_for_one(digits, monkeypatch):
    class AskedFor(Exception):
        pass

    def asked(thing, n, threads):
        raise AskedFor(n, threads)

    monkeypatch.setattr(module, "workers", asked)
    model = gplvm.build_model(digits)
    best = gplvm.fit_map(model, cores=1, **QUIET)
    assert same(best, gplvm.fit_map(model, **QUIET))
    gplvm.fit_map(model, start=best, cores=8, **QUIET)
    for more, wanted in (
        ({"n_restarts": 1, "cores": 8}, (2, 1)),
        ({"n_restarts": 9, "cores": 8}, (8, 1)),
        ({"n_restarts": 2, "cores": 2, "blas_threads": 3}, (2, 3)),
        ({"n_restarts": 2, "cores": 2, "blas_threads": None}, (2, 1)),
    ):
        with pytest.raises(AskedFor) as raised:
            gplvm.fit_map(model, start=best, **more, **QUIET)
        assert raised.value.args == wanted


@pytest.mark.parametrize(("n_jobs", "wanted"), [(-1, 2), (-2, 1), (-9, 1), (np.int64(3), 3)])
def test_n_jobs_counts_down_from_all_cores(n_jobs, wanted, monkeypatch):
    from pm_gplvm import estimator

    monkeypatch.setattr(estimator, "usable_cores", lambda: 2)
    assert estimator._cores(n_jobs) == wanted


@pytest.mark.parametrize("n_jobs", [0, 1.5, True, "2"])
def test_what_is_no_number_of_jobs(n_jobs, digits):
    with pytest.raises(ValueError, match="n_jobs must be a whole number"):
        gplvm.GPLVM(n_jobs=n_jobs).fit(digits)


def test_a_start_that_ended_advances_the_bar(digits, monkeypatch):
    told, finish = [], Bar.finish

    def noted(self, objective):
        finish(self, objective)
        if self.stage == "starts":
            told.append((self.done, self.total, self.evaluations))

    monkeypatch.setattr(Bar, "finish", noted)
    fit = gplvm.fit_map(gplvm.build_model(digits), n_restarts=2, cores=2, **QUIET)
    n = fit["optima"].sizes["start"]
    assert [done for done, *_ in told] == list(range(1, n + 1))
    assert {total for _, total, _ in told} == {n}
    assert 0 < told[0][2] < told[-1][2] <= int(fit["optima"]["evaluations"].sum())


class Locked(Op):
    """Zero, by an Op with something that no other process can have."""

    def __init__(self):
        self.lock = threading.Lock()

    def make_node(self, x):
        return Apply(self, [pt.as_tensor_variable(x)], [pt.dscalar()])

    def perform(self, node, inputs, storage):
        storage[0][0] = np.asarray(0.0)

    def connection_pattern(self, node):
        return [[False]]

    def pullback(self, inputs, outputs, cotangents):
        return [DisconnectedType()()]


def test_a_model_that_cannot_be_sent(digits):
    model = gplvm.build_model(digits)
    with model:
        pm.Potential("locked", Locked()(model["sigma"]))
    with pytest.raises(
        ValueError, match="cores must be 1 for this model, got 2: it cannot be sent"
    ):
        gplvm.fit_map(model, cores=2, **QUIET)
    assert gplvm.fit_map(model, **QUIET).attrs["converged"] == 1


def test_an_error_of_a_run_is_raised_here(digits):
    model = gplvm.build_model(digits)
    with model:
        pm.Potential("nowhere", -np.inf * model["sigma"])
    with pytest.raises(ValueError, match="The objective is not finite at the start"):
        gplvm.fit_map(model, cores=2, **QUIET)
    assert not multiprocessing.active_children()


# Ctrl-C


@pytest.fixture(scope="module")
def larger():
    """Runs that take a while."""
    return gplvm.build_model(simulated(150, 20, seed=4))


def test_what_the_runs_had_reached_is_kept(larger, ctrl_c):
    ctrl_c(Bar, "finish", 1)
    with pytest.warns(RuntimeWarning, match="fit_map was interrupted: .* kept") as said:
        fit = gplvm.fit_map(larger, n_restarts=12, cores=2, **QUIET)
    assert [warning.filename for warning in said] == [__file__]
    assert fit.attrs["interrupted"] == 1
    optima = fit["optima"]
    assert 1 <= optima.sizes["start"] < 16
    messages = optima[
        "message"
    ].to_numpy()  # the other process may just have ended a run, or begun one
    assert "interrupted" in messages or messages.tolist() == ["converged"] * len(messages)
    assert float(optima["objective"][0]) == optima["objective"].to_numpy().max()
    assert not multiprocessing.active_children()


def test_in_this_process_after_the_runs(larger, ctrl_c):
    from pm_gplvm.fitting import optimise

    ctrl_c(optimise, "_relocated", 1)
    with pytest.warns(RuntimeWarning, match="fit_map was interrupted"):
        fit = gplvm.fit_map(larger, cores=2, **QUIET)
    assert fit.attrs["interrupted"] == 1
    assert not multiprocessing.active_children()


def test_the_second_ends_it_at_once(larger, ctrl_c):
    ctrl_c(Bar, "finish", 1, 1)
    with pytest.raises(KeyboardInterrupt):
        gplvm.fit_map(larger, n_restarts=6, cores=2, **QUIET)
    assert not multiprocessing.active_children()


def test_before_any_run_has_begun_there_is_nothing(larger, ctrl_c):
    from pm_gplvm.core import workers

    ctrl_c(workers, "wait", 1)
    with pytest.raises(KeyboardInterrupt):
        gplvm.fit_map(larger, n_restarts=6, cores=2, **QUIET)
    assert not multiprocessing.active_children()


def ends(group):
    """Whether no process of a group is there soon."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


SCRIPT = """
import signal
import numpy as np
import pymc as pm
import pm_gplvm as gplvm
from pm_gplvm.data.progress import Bar

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
print("begun", flush=True)
finish = Bar.finish


def told(self, objective):
    finish(self, objective)
    print("reached", flush=True)


Bar.finish = told


class Own:
    sd = 1.0


Y = np.random.default_rng(0).normal(size=({rows}, 10))
model = gplvm.build_model(Y, priors={{"sigma": pm.HalfNormal.dist(Own.sd)}})
fit = gplvm.fit_map(model, n_restarts={restarts}, random_seed=1, cores=2)
print("ended", fit.attrs["interrupted"], flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a group of processes")
@pytest.mark.parametrize(("rows", "restarts", "interrupted"), [(20, 1, 0), (200, 300, 1)])
def test_a_script_without_a_guard(rows, restarts, interrupted, tmp_path):
    """It runs once, no process is left, and Ctrl-C reaches all its processes as a terminal sends it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(rows=rows, restarts=restarts), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    first = [process.stdout.readline() for _ in range(2)]
    if interrupted:
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert first == ["begun\n", "reached\n"]
    assert set(out.splitlines()) <= {"reached", f"ended {interrupted}"}
    assert out.endswith(f"ended {interrupted}\n")
    assert "Traceback" not in err
    assert ends(process.pid)
