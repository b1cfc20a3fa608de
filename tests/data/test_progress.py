"""What is shown while one waits: a count, a rate, the time that remains; or nothing."""

import inspect
import io
from operator import attrgetter

import pytest
from made import made_fit
from rich.console import Console
from rich.progress import Progress

import pm_gplvm as gplvm
from pm_gplvm.data import progress

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
    console = Console(file=written, force_terminal=True, width=160)

    class Shown(Progress):
        def __init__(self, *columns, **settings):
            super().__init__(*columns, console=console, **settings)

    monkeypatch.setattr(progress, "Progress", Shown)
    return written


@pytest.mark.parametrize("name", LONG)
def test_all_long_work_can_be_silenced(name):
    assert inspect.signature(attrgetter(name)(gplvm)).parameters["progressbar"].default is True


def test_rows_are_counted_and_the_line_goes(screen, Y):
    fit = made_fit(Y, "rbf")
    gplvm.embed(fit, Y[:3], random_seed=1)
    assert "embed" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert "rows," in screen.getvalue()


@pytest.fixture
def factors(rng):
    """40 x 8: two factors, plain in each half of the rows too."""
    noise = 0.1 * rng.standard_normal((40, 8))
    return rng.standard_normal((40, 2)) @ rng.standard_normal((2, 8)) + noise


def test_folds_are_counted(screen, factors):
    settings = {"n_folds": 2, "draws": 100, "random_seed": 1}
    gplvm.diagnostics.cross_validate(factors, **settings)
    assert "2/2" in screen.getvalue()
    assert "folds," in screen.getvalue()


@pytest.mark.parametrize("use", ["embed", "impute", "log_predictive", "fit_map", "fit_marginal"])
def test_silence(screen, capsys, Y, factors, use):
    fit = made_fit(Y, "rbf")
    if use.startswith("fit"):
        getattr(gplvm, use)(gplvm.build_model(factors), progressbar=False)
    else:
        getattr(gplvm, use)(fit, Y[:2], random_seed=1, progressbar=False)
    assert screen.getvalue() == ""
    assert capsys.readouterr().out == ""
