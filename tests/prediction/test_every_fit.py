"""Every kind of fit and every verb: it serves, or says why it does not.

The table stands in docs/guide/every_fit.md; where a test says that it has changed,
``python tests/prediction/test_every_fit.py`` writes it anew.
"""

import re
import sys
import warnings
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, simulated

import pm_gplvm as gplvm
from pm_gplvm import diagnostics, plot

PAGE = ROOT / "docs" / "guide" / "every_fit.md"
QUIET = {"progressbar": False, "random_seed": 1}
SHORT = {"max_iter": 20, **QUIET}
NEW = {"draws": 100, "num_samples": 2, "n_starts": 4, **QUIET}
N = 24


def chains(draws):
    return {"draws": draws, "tune": draws // 2, "chains": 2, **QUIET}


FITS = {
    "fit_marginal": lambda m, draws: gplvm.fit_marginal(m, **SHORT),
    "fit_map": lambda m, draws: gplvm.fit_map(m, relocate=False, **SHORT),
    "fit_laplace": lambda m, draws: gplvm.fit_laplace(m, draws=draws, **QUIET),
    "fit_linear": lambda m, draws: gplvm.fit_linear(m),
    "fit_stochastic": lambda m, draws: gplvm.fit_stochastic(m, steps=200, n_neighbors=8, **QUIET),
    "sample_theta": lambda m, draws: gplvm.sample_theta(
        m, gplvm.fit_map(m, relocate=False, **SHORT), **chains(draws)
    ),
    "sample": lambda m, draws: gplvm.align(gplvm.sample(m, replicas=1, **chains(draws))),
    "fit_sparse": lambda m, draws: gplvm.fit_sparse(m, n_inducing=8, **SHORT),
    'fit_sparse(method="fitc")': lambda m, draws: gplvm.fit_sparse(
        m, n_inducing=8, method="fitc", **SHORT
    ),
    "fit_variational": lambda m, draws: gplvm.fit_variational(
        m, n_inducing=8, hold=5, draws=draws, **SHORT
    ),
}
KERNEL = {"fit_linear": "linear", "fit_sparse": "rbf + linear"}


def saved(fit, t):
    return gplvm.load(gplvm.save(fit, t["path"], overwrite=True))


VERBS = {
    "predict": lambda fit, t: gplvm.predict(fit, t["x"]),
    "predict(cov=True)": lambda fit, t: gplvm.predict(fit, t["x"], noise=True, cov=True),
    "sample_predictive": lambda fit, t: gplvm.sample_predictive(fit, t["x"], random_seed=1),
    "reconstruct": lambda fit, t: gplvm.reconstruct(fit),
    "embed": lambda fit, t: gplvm.embed(fit, t["holes"], **NEW),
    "log_predictive": lambda fit, t: gplvm.log_predictive(fit, t["holes"], **NEW),
    "impute": lambda fit, t: gplvm.impute(fit, t["holes"], **NEW),
    "impute (the table)": lambda fit, t: gplvm.impute(fit),
    "add_rows": lambda fit, t: gplvm.add_rows(fit, t["new"], steps=2, **QUIET),
    "GPLVM.from_fit(...).transform": lambda fit, t: gplvm.GPLVM.from_fit(fit).transform(t["new"]),
    "align": lambda fit, t: gplvm.align(fit),
    "diagnose": lambda fit, t: gplvm.diagnose(fit),
    "compare": lambda fit, t: gplvm.compare({"a": fit}, n_neighbors=3),
    "save, load": saved,
    "diagnostics.leave_one_out": lambda fit, t: diagnostics.leave_one_out(fit),
    "diagnostics.compute_log_likelihood": lambda fit, t: diagnostics.compute_log_likelihood(fit),
    "diagnostics.compute_log_prior": lambda fit, t: diagnostics.compute_log_prior(fit),
    "diagnostics.cross_validate(fit=...)": lambda fit, t: diagnostics.cross_validate(
        t["Y"], t["build"], fit=t["again"], n_folds=2, draws=100, num_samples=2, **QUIET
    ),
    "diagnostics.magnification": lambda fit, t: diagnostics.magnification(fit, t["x"]),
    "diagnostics.neighbour_probabilities": lambda fit, t: diagnostics.neighbour_probabilities(
        fit, n_neighbors=3
    ),
    "diagnostics.active_dimensions": lambda fit, t: diagnostics.active_dimensions(fit),
    "diagnostics.posterior_modes": lambda fit, t: diagnostics.posterior_modes(fit),
    "plot.latent": lambda fit, t: plot.latent(fit, grid=3),
    "plot.reconstruction": lambda fit, t: plot.reconstruction(fit, grid=2),
    "plot.magnification": lambda fit, t: plot.magnification(fit, grid=3),
    "plot.relevance": lambda fit, t: plot.relevance(fit),
    "plot.compare": lambda fit, t: plot.compare({"a": fit}),
    "plot.explore": lambda fit, t: plot.explore(fit, grid=4, num_samples=2),
    "model.rebuild": lambda fit, t: gplvm.model.rebuild(fit),
}

MANY = "needs a fit of one draw: the new rows are placed beside one X"
OTHER = (
    "would leave the approximation for the exact model; place the rows with embed, or fit all again"
)
ESTIMATE = "sorts draws, of which an estimate has one"
ONE_DRAW = (
    *("fit_marginal", "fit_map", "fit_linear", "fit_stochastic"),
    *("fit_sparse", 'fit_sparse(method="fitc")'),
)
# (verb, fit): the reason in the table, and what the error says
REFUSED = (
    {
        ("add_rows", fit): (MANY, "add_rows needs a fit of one draw")
        for fit in ("fit_laplace", "sample_theta", "sample")
    }
    | {
        ("add_rows", fit): (
            OTHER,
            "add_rows needs a fit of the exact model.*Place the rows with embed",
        )
        for fit in ("fit_sparse", 'fit_sparse(method="fitc")', "fit_variational")
    }
    | {
        ("diagnostics.posterior_modes", fit): (ESTIMATE, "needs 40 draws or more to sort, got 1")
        for fit in ONE_DRAW
    }
)


@cache
def table():
    """24 rows, three more, and the same with holes."""
    whole = simulated(N + 3, 5, seed=4)
    holes = whole[N:].to_numpy().copy()
    holes[0, 1] = holes[2, :2] = np.nan
    return whole[:N], whole[N:].to_numpy(), holes


def build(kind, Y):
    return gplvm.build_model(Y, kernel=KERNEL.get(kind, "rbf"), ard=kind != "fit_linear")


@cache
def fit_of_kind(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        return FITS[kind](build(kind, table()[0]), 40)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", FITS)
def test_it_serves_or_says_why_not(kind, verb, tmp_path):
    Y, new, holes = table()
    things = {
        "Y": Y,
        "new": new,
        "holes": holes,
        "x": np.array([[0.0, 0.1], [0.5, -0.3]]),
        "path": tmp_path / "fit.nc",
        "build": lambda some: build(kind, some),
        "again": lambda model: FITS[kind](model, 4),
    }
    fit, call = fit_of_kind(kind), VERBS[verb]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (verb, kind) in REFUSED:
            _, message = REFUSED[verb, kind]
            with pytest.raises(ValueError, match=message):
                call(fit, things)
        else:
            assert call(fit, things) is not None
    plt.close("all")


HOLES = ("fit_sparse", 'fit_sparse(method="fitc")', "fit_variational")
# What refuses a table with missing entries, of any fit.
WHOLE = ("add_rows", "GPLVM.from_fit(...).transform", "diagnostics.cross_validate(fit=...)")


@pytest.mark.parametrize("kind", HOLES)
def test_with_holes_in_the_table_it_serves_too(kind, tmp_path):
    Y, new, holes = table()
    Y = Y.copy()
    Y[::4, 1] = np.nan
    Y[:6, 3:] = np.nan
    things = {
        "new": new,
        "holes": holes,
        "x": np.array([[0.0, 0.1], [0.5, -0.3]]),
        "path": tmp_path / "fit.nc",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = gplvm.build_model(Y, kernel=KERNEL.get(kind, "rbf"), ard=True, missing="mask")
        fit = FITS[kind](model, 40)
        for verb, call in VERBS.items():
            if verb not in WHOLE and (verb, kind) not in REFUSED:
                assert call(fit, things) is not None, verb
                plt.close("all")
        filled = gplvm.impute(fit)
    np.testing.assert_array_equal(filled["sd"] > 0.0, Y.isnull().to_numpy())


def page():
    """The table as Markdown."""
    lines = [
        "# Every fit and every verb",
        "",
        "Which verb takes which fit. A number is a note below: the verb refuses this fit, and its error "
        "says so. Each cell is tested (`tests/prediction/test_every_fit.py`).",
        "",
        "| | " + " | ".join(f"`{kind}`" for kind in FITS) + " |",
        "|---|" + "---|" * len(FITS),
    ]
    notes = []
    for verb in VERBS:
        cells = []
        for kind in FITS:
            reason, _ = REFUSED.get((verb, kind), ("", ""))
            if reason and (verb, reason) not in notes:
                notes.append((verb, reason))
            cells.append(f"{notes.index((verb, reason)) + 1}" if reason else "yes")
        lines.append(f"| `{verb}` | " + " | ".join(cells) + " |")
    lines += [""]
    lines += [f"{i}. `{verb}` {reason}." for i, (verb, reason) in enumerate(notes, start=1)]
    lines += [
        "",
        "Sparse and variational fits answer through their inducing inputs: nothing of N × N is formed. "
        "The values there, given the table, are not changed by new rows. `reconstruct` of a variational "
        "fit is the mean over q(x), `leave_one_out` and `compute_log_likelihood` go through its draws of "
        "X. Where entries are missing, u has a posterior for each set of columns with the same rows observed.",
        "",
        "`sample` stands for its draws after `align`; without it most verbs warn. `fit_sparse` is shown with "
        "a linear part in the kernel, which it takes as it takes any kernel.",
        "",
    ]
    return "\n".join(lines)


def test_the_page_is_this_table():
    assert set(REFUSED) <= {(verb, kind) for verb in VERBS for kind in FITS}
    assert all(re.search(r"\w$", reason) for reason, _ in REFUSED.values())
    assert PAGE.read_text() == page(), "python tests/prediction/test_every_fit.py writes it"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
