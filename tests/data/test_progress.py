"""What is shown while one waits: stage, count, time left, and a number or two; or nothing."""

import inspect
import io
import sys
import time
from operator import attrgetter

import pytest
from conftest import simulated
from made import made_fit
from rich.console import Console

import pm_gplvm as gplvm
from pm_gplvm.data import progress
from pm_gplvm.data.progress import Bar, progress_bar

LONG = (
    "diagnostics.sbc",
    "diagnostics.cross_validate",
    "embed",
    "fit_laplace",
    "fit_map",
    "fit_marginal",
    "fit_sparse",
    "fit_stochastic",
    "fit_variational",
    "impute",
    "log_predictive",
    "sample",
    "resume",
    "sample_theta",
    "add_rows",
)


@pytest.fixture
def screen(monkeypatch):
    """A terminal that remembers what was written on it."""
    written = io.StringIO()
    made = {"file": written, "force_terminal": True, "force_jupyter": False, "width": 160}
    monkeypatch.setattr(progress, "_console", lambda: Console(**made))
    return written


@pytest.fixture
def cell(monkeypatch):
    """A notebook's cell that remembers each text that stood in it."""
    shown = []

    class Handle:
        def update(self, html):
            shown.append(html.data)

    def display(html, *, display_id):
        assert display_id is True
        shown.append(html.data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "_console", lambda: Console(force_jupyter=True))
    monkeypatch.setattr(progress, "_PER_SECOND", 1e9)
    return shown


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("name", LONG)
def test_all_long_work_can_be_silenced(name):
    assert inspect.signature(attrgetter(name)(gplvm)).parameters["progressbar"].default is True


def test_stage_count_and_time_left(clock):
    bar = Bar("sample", 10, "tune")
    bar.begin("tune", 10, later=20)
    for _ in range(5):
        clock[0] += 2.0
        bar.advance(log_likelihood=-12.345, replicas=3)
        bar.words()
    assert bar.words() == "tune 5/10 · 0:10, 0:50 left · log-likelihood -12.35 · replicas 3"
    assert bar.drawn() == "━" * 6 + "─" * 6
    bar.begin("draws", 20)
    clock[0] += 1.0
    assert bar.words().startswith("draws 0/20 · 0:11 · ")  # of a new stage nothing is known yet
    bar.advance(20, r_hat=1.008)
    assert bar.words().startswith("draws 20/20 · 0:11 · ")
    assert bar.words().endswith("R-hat 1.01")


def test_time_left_follows_what_was_seen_last(clock):
    """Work that becomes ten times as slow is told so within half a minute."""
    bar = Bar("sample", 1000, "tune")
    for _ in range(200):
        clock[0] += 1.0
        bar.advance()
        bar.left()
    for _ in range(40):
        clock[0] += 10.0
        bar.advance()
        bar.left()
    assert bar.left() == pytest.approx(10.0 * (1000 - 240), rel=0.1)


def test_hours_and_what_cannot_be_counted(clock):
    bar = Bar("fit_map", None, "climb")
    for i in range(3):
        bar.step(-5.0 + i)
    clock[0] += 3725.0
    assert bar.words() == "climb · 1:02:05 · 3 evaluations · objective -3.00"
    assert (bar.left(), bar.drawn()) == (None, "")


def test_costly_numbers_are_wanted_now_and_then_and_only_where_they_are_seen(clock):
    bar = Bar("sample", 10, "draws")
    assert not bar.is_due()
    bar.shown = True
    assert [bar.is_due(), bar.is_due()] == [True, False]
    clock[0] += 3.5
    assert bar.is_due()


def test_rows_are_counted_and_the_line_goes(screen, Y):
    fit = made_fit(Y, "rbf")
    gplvm.embed(fit, Y[:3], random_seed=1)
    assert "embed" in screen.getvalue()
    assert "rows 3/3" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is wiped out


@pytest.fixture
def factors(rng):
    """40 x 8: two factors, plain in each half of the rows too."""
    noise = 0.1 * rng.standard_normal((40, 8))
    return rng.standard_normal((40, 2)) @ rng.standard_normal((2, 8)) + noise


def test_folds_are_counted(screen, factors):
    settings = {"n_folds": 2, "draws": 100, "random_seed": 1}
    gplvm.diagnostics.cross_validate(factors, **settings)
    assert "folds 2/2" in screen.getvalue()


@pytest.fixture(scope="module")
def model():
    return gplvm.build_model(simulated(30, 10, noise=0.3))


WORK = {
    "fit_map": (lambda m: gplvm.fit_map(m), "climb", "objective"),
    "fit_marginal": (lambda m: gplvm.fit_marginal(m), "climb", "evaluations"),
    "fit_sparse": (lambda m: gplvm.fit_sparse(m, n_inducing=6), "starts 1/1", "objective"),
    "fit_variational": (
        lambda m: gplvm.fit_variational(m, n_inducing=6, max_iter=20),
        "starts 1/1",
        "objective",
    ),
    "fit_stochastic": (lambda m: gplvm.fit_stochastic(m, steps=50), "steps 50/50", "objective"),
    "fit_laplace": (lambda m: gplvm.fit_laplace(m, draws=5), "draws 5/5", "objective"),
    "sample_theta": (
        lambda m: gplvm.sample_theta(m, made_fit(simulated(30, 10, noise=0.3), "rbf"), draws=50, tune=50, chains=2),
        "draws 200/200",
        "sample_theta",
    ),
    "sample": (
        lambda m: gplvm.sample(m, draws=6, tune=4, chains=2, replicas=1),
        "draws 6/6",
        "log-likelihood",
    ),
    "sbc": (
        lambda _: gplvm.diagnostics.sbc(
            gplvm.build_model(simulated(12, 4)), n_replicates=2, draws=9, tune=5
        ),
        "tables 2/2",
        "sbc",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:fit_variational:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:sample_theta has not converged:RuntimeWarning")
@pytest.mark.parametrize("name", WORK)
def test_all_long_work_tells_its_stage(screen, capsys, model, name):
    call, stage, number = WORK[name]
    call(model)
    written = screen.getvalue()
    assert name in written
    assert stage in written
    assert number in written
    assert capsys.readouterr().out == ""


def test_a_notebook_shows_the_same_line(cell, Y):
    gplvm.embed(made_fit(Y, "rbf"), Y[:3], random_seed=1)
    assert any("<b>embed</b>" in html and "rows 3/3 · 0:0" in html for html in cell)
    assert cell[-1] == ""  # and it goes
    del cell[:]
    gplvm.fit_map(gplvm.build_model(Y))
    assert "climb" in cell[-1]
    assert "objective" in cell[-1]


@pytest.mark.parametrize("place", ["screen", "cell"])
def test_errors_end_the_line(request, place):
    request.getfixturevalue(place)
    with pytest.raises(ZeroDivisionError), progress_bar("a", 3, "rows", show=True) as bar:
        bar.advance(1 // int(not bar.shown))
    assert not bar.shown


def test_a_log_stays_empty(capsys, Y):
    """Neither a terminal nor a notebook: nobody waits in front of it."""
    assert not sys.stderr.isatty()
    gplvm.fit_map(gplvm.build_model(Y))
    gplvm.embed(made_fit(Y, "rbf"), Y[:3], random_seed=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("use", ["embed", "impute", "log_predictive", "fit_map", "fit_marginal"])
def test_silence(screen, capsys, Y, factors, use):
    fit = made_fit(Y, "rbf")
    if use.startswith("fit"):
        getattr(gplvm, use)(gplvm.build_model(factors), progressbar=False)
    else:
        getattr(gplvm, use)(fit, Y[:2], random_seed=1, progressbar=False)
    assert screen.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_a_search_over_parameters_is_silent(screen, factors):
    from sklearn.model_selection import GridSearchCV

    estimator = gplvm.GPLVM(kernel="linear", random_state=1)
    GridSearchCV(estimator, {"n_components": [1, 2]}, cv=2).fit(factors)
    assert screen.getvalue() == ""


def test_it_costs_next_to_nothing(screen):
    """An evaluation of the smallest tables takes 0.2 ms: a hundredth of it is 2 µs."""

    def seconds(bar, n=20_000):
        before = time.process_time()
        for _ in range(n):
            bar.step(1.0)
        return (time.process_time() - before) / n

    with progress_bar("fit_map", 1, "starts", show=True) as bar:
        taken = min(seconds(bar) for _ in range(5))
    assert taken < 2e-6
