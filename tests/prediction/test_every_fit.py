"""Every kind of fit and every verb: it serves, and what it gives is so; or it says why it does not.

The table stands in docs/guide/every_fit.md; where a test says that it has changed,
``python tests/prediction/test_every_fit.py`` writes it anew.
"""

import re
import sys
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from conftest import ROOT, simulated

import pm_gplvm as gplvm
from pm_gplvm import diagnostics, likelihoods, plot

PAGE = ROOT / "docs" / "guide" / "every_fit.md"
QUIET = {"progressbar": False, "random_seed": 1}
SHORT = {"max_iter": 20, **QUIET}
NEW = {"draws": 100, "num_samples": 2, "n_starts": 4, **QUIET}
N = 24


def chains(draws):
    return {"draws": draws, "tune": draws // 2, "chains": 2, **QUIET}


def minibatches(Y, draws, **settings):
    settings = {"n_inducing": 8, "batch_size": 12, "epochs": 150, **settings}
    return gplvm.fit_svi(Y, 2, draws=draws, **settings, **QUIET)


FITS = {
    "fit_marginal": lambda m, draws: gplvm.fit_marginal(m, **SHORT),
    "fit_map": lambda m, draws: gplvm.fit_map(m, relocate=False, **SHORT),
    "fit_map (poisson)": lambda m, draws: gplvm.fit_map(m, **SHORT),
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
    "fit_svi": minibatches,
    "fit_svi (holes, noise by column)": lambda Y, draws: minibatches(
        Y, draws, likelihood=likelihoods.gaussian(noise="column")
    ),
    'fit_svi("poisson")': lambda Y, draws: minibatches(Y, draws, likelihood="poisson"),
    "fit_svi (numpy.memmap)": minibatches,
}
BY_TABLE = [kind for kind in FITS if kind.startswith("fit_svi")]
HOLES, COUNTS, MAPPED = BY_TABLE[1:]
MODE_OF_COUNTS = "fit_map (poisson)"
OF_COUNTS = (COUNTS, MODE_OF_COUNTS)
KERNEL = {"fit_linear": "linear", "fit_sparse": "rbf + linear"}


def spread_of(fit):
    """Half a lengthscale in one dimension, a whole one in the other."""
    known = fit.posterior.get("lengthscale")
    unit = 1.0 if known is None else known.median(("chain", "draw")).to_numpy()
    return np.broadcast_to(unit, 2) * [0.5, 1.0]


def saved(fit, t):
    return gplvm.load(gplvm.save(fit, t["path"], overwrite=True))


VERBS = {
    "predict": lambda fit, t: gplvm.predict(fit, t["x"]),
    "predict(X_sd=...)": lambda fit, t: gplvm.predict(fit, t["x"], X_sd=spread_of(fit), noise=True),
    "predict(cov=True)": lambda fit, t: gplvm.predict(fit, t["x"], noise=True, cov=True),
    "sample_predictive": lambda fit, t: gplvm.sample_predictive(fit, t["x"], random_seed=1),
    "sample_predictive(noise=True)": lambda fit, t: gplvm.sample_predictive(
        fit, t["x"], noise=True, random_seed=1
    ),
    "reconstruct": lambda fit, t: gplvm.reconstruct(fit),
    "embed": lambda fit, t: gplvm.embed(fit, t["holes"], **NEW),
    "log_predictive": lambda fit, t: gplvm.log_predictive(fit, t["holes"], **NEW),
    "impute": lambda fit, t: gplvm.impute(fit, t["holes"], **NEW),
    "impute (the table)": lambda fit, t: gplvm.impute(fit),
    "add_rows": lambda fit, t: gplvm.add_rows(fit, t["new"], steps=2, **QUIET),
    "GPLVM.from_fit(...).transform": lambda fit, t: gplvm.GPLVM.from_fit(fit).transform(t["new"]),
    "align": lambda fit, t: gplvm.align(fit),
    "summary": lambda fit, t: gplvm.summary(fit),
    "diagnose": lambda fit, t: gplvm.diagnose(fit),
    "compare": lambda fit, t: gplvm.compare({"a": fit}, n_neighbors=3),
    "save, load": saved,
    "diagnostics.leave_one_out": lambda fit, t: diagnostics.leave_one_out(fit),
    "diagnostics.score_entries": lambda fit, t: diagnostics.score_entries(fit, t["Y"]),
    "diagnostics.compute_log_likelihood": lambda fit, t: diagnostics.compute_log_likelihood(fit),
    "diagnostics.compute_log_prior": lambda fit, t: diagnostics.compute_log_prior(fit),
    "diagnostics.cross_validate": lambda fit, t: diagnostics.cross_validate(
        t["Y"], t["build"], fit=t["again"], n_folds=2, draws=100, num_samples=2, **QUIET
    ),
    "diagnostics.magnification": lambda fit, t: diagnostics.magnification(fit, t["x"]),
    "diagnostics.neighbour_probabilities": lambda fit, t: diagnostics.neighbour_probabilities(
        fit, n_neighbors=3
    ),
    "diagnostics.active_dimensions": lambda fit, t: diagnostics.active_dimensions(fit),
    "diagnostics.order": lambda fit, t: diagnostics.order(fit),
    "diagnostics.posterior_modes": lambda fit, t: diagnostics.posterior_modes(fit),
    "plot.latent": lambda fit, t: plot.latent(fit, grid=3),
    "plot.reconstruction": lambda fit, t: plot.reconstruction(fit, grid=2),
    "plot.magnification": lambda fit, t: plot.magnification(fit, grid=3),
    "plot.optima": lambda fit, t: plot.optima(fit),
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
SEEN = (
    "would take an entry out of q(x) and q(u), which have seen it; hold rows or entries out instead"
)
MOVED = "would move the modes of f, which are given the rows it has; place the rows with embed, or fit all again"
NOT_KEPT = "needs what was said of entries and priors of the likelihood, which stands in no fit; build the model again"
NO_DRAWS = "needs draws of f, of which the fit has the mode; its sum is lp less log_likelihood"
NO_MODEL = "needs a pm.Model, and a fit by minibatches has none; it goes on by start=fit"
LINK = "is of f alone where f has the units of Y; draw jointly with sample_predictive"
NO_TABLE = "reads the table, which a fit of what is mapped, sparse or in Zarr does not hold"
NO_STARTS = "shows where several starts ended, which this fit does not keep"
ONE_DRAW = (
    *("fit_marginal", "fit_map", MODE_OF_COUNTS, "fit_linear", "fit_stochastic"),
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
    | {
        ("diagnostics.leave_one_out", fit): (SEEN, "have seen every entry.*cross_validate")
        for fit in BY_TABLE
    }
    | {
        ("diagnostics.compute_log_likelihood", fit): (
            SEEN,
            "a q.u. that has seen the column. Compare such fits by their bound",
        )
        for fit in BY_TABLE
    }
    | {
        (verb, fit): (NO_MODEL, "needs a fit other than by fit_svi: it has no pm.Model")
        for fit in BY_TABLE
        for verb in ("diagnostics.compute_log_prior", "model.rebuild")
    }
    | {
        ("predict(cov=True)", fit): (
            LINK,
            "needs a Gaussian or Student-t likelihood, got poisson. Draw with sample_predictive",
        )
        for fit in OF_COUNTS
    }
    | {
        ("add_rows", MODE_OF_COUNTS): (MOVED, "its f is the mode given the rows.*embed"),
        ("model.rebuild", MODE_OF_COUNTS): (NOT_KEPT, "Build the model as it was first built"),
        ("diagnostics.compute_log_prior", MODE_OF_COUNTS): (NO_DRAWS, "less 'log_likelihood'"),
    }
    | {
        (verb, MAPPED): (NO_TABLE, "needs the table, which.*does not hold.*or fit the table in")
        for verb in ("impute (the table)", "compare", "plot.compare", "plot.explore")
    }
    | {
        ("plot.optima", fit): (NO_STARTS, "must hold where its starts ended.*Take what fit_")
        for fit in ("fit_laplace", "fit_linear", "fit_stochastic", "sample_theta", "sample")
    }
)


@cache
def table(kind):
    """24 rows, three more, and the same with holes."""
    whole = simulated(N + 3, 5, seed=4)
    rng = np.random.default_rng(2)
    if kind in OF_COUNTS:
        whole = whole.copy(data=rng.poisson(np.exp(0.5 * whole.to_numpy())).astype(float))
    holes = whole[N:].to_numpy().copy()
    holes[0, 1] = holes[2, :2] = np.nan
    Y = whole[:N]
    if kind == HOLES:
        Y = Y.where(rng.random(Y.shape) > 0.1)
    if kind == MAPPED:
        return Y.to_numpy(), whole[N:].to_numpy(), holes
    return Y, whole[N:].to_numpy(), holes


@cache
def folder():
    return TemporaryDirectory()


def build(kind, Y):
    if kind == MODE_OF_COUNTS:
        return gplvm.build_model(Y, likelihood="poisson")
    if kind not in BY_TABLE:
        return gplvm.build_model(Y, kernel=KERNEL.get(kind, "rbf"), ard=kind != "fit_linear")
    if kind != MAPPED or not isinstance(Y, np.ndarray):
        return Y
    path = Path(folder().name) / "Y.npy"
    np.save(path, Y)
    return np.load(path, mmap_mode="r")


@cache
def fit_of_kind(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        return FITS[kind](build(kind, table(kind)[0]), 40)


def one_frame(fit):
    return fit.posterior.sizes["draw"] == 1 or "u_mean" in fit.get("approximation", {})


def seen_by(t):
    Y = np.asarray(t["Y"])
    return Y, ~np.isnan(Y)


def check_predict(found, fit, t):
    assert dict(found.sizes) == {"obs_new": 2, "feature": 5}
    noisy = gplvm.predict(fit, t["x"], noise=True)
    np.testing.assert_allclose(noisy["mean"], found["mean"])
    assert (noisy["sd"] > found["sd"]).all()
    assert (found["sd"] > 0.0).all()


def check_uncertain(found, fit, t):
    """By positions drawn at random: the law of total variance over them."""
    rng, n = np.random.default_rng(3), 20_000 if t["kind"] in BY_TABLE else 2000
    for i, x in enumerate(t["x"]):
        drawn = x + spread_of(fit) * rng.standard_normal((n, 2))
        each = gplvm.predict(fit, drawn, noise=True)
        mean, variance = each["mean"].to_numpy(), each["sd"].to_numpy() ** 2
        error = mean.std(axis=0) / np.sqrt(n)
        assert (np.abs(found["mean"][i] - mean.mean(axis=0)) < 4.5 * error + 1e-12).all()
        total = variance.mean(axis=0) + mean.var(axis=0)
        np.testing.assert_allclose(found["sd"][i] ** 2, total, rtol=0.1)
    known = gplvm.predict(fit, t["x"])
    same = gplvm.predict(fit, t["x"], X_sd=0.0)
    xr.testing.assert_allclose(same, known, rtol=1e-9)


def check_covariance(found, fit, t):
    cov = found["cov"].to_numpy()
    np.testing.assert_allclose(np.einsum("iid->id", cov), found["sd"] ** 2)
    np.testing.assert_allclose(cov, cov.transpose(1, 0, 2), atol=1e-9)
    assert (np.linalg.eigvalsh(cov.transpose(2, 0, 1)) > 0.0).all()


def check_drawn(found, fit, t, noise=False):
    values = found["predictions"]["Y"].to_numpy()[0]
    assert values.shape == (100, 2, 5)
    expected = gplvm.predict(fit, t["x"], noise=noise)
    apart = (values.mean(axis=0) - expected["mean"]) / (expected["sd"] / 10.0)
    assert np.abs(apart).max() < 6.0
    if noise and (np.asarray(t["new"]) % 1.0 == 0.0).all():
        assert (values % 1.0 == 0.0).all()
        assert (values >= 0.0).all()


def check_reconstruction(found, fit, t):
    Y, seen = seen_by(t)
    assert found["mean"].shape == Y.shape
    assert (found["sd"] > 0.0).all()
    centre = np.nanmean(Y, axis=0)
    left = ((Y - found["mean"].to_numpy()) ** 2)[seen].sum()
    assert left < 0.9 * ((Y - centre) ** 2)[seen].sum()


def check_embedded(found, fit, t):
    assert found["posterior"]["X"].shape == (1, 100, 3, 2)
    assert np.isfinite(found["posterior"]["X"]).all()
    np.testing.assert_allclose(found["modes"]["weight"].sum("mode"), 1.0, atol=0.2)


def check_density(found, fit, t):
    score = found["log_score"].to_numpy()
    strange = gplvm.log_predictive(fit, t["holes"] + 100.0, **NEW)["log_score"].to_numpy()
    assert score.shape == (3,)
    assert np.isfinite(score).all()
    assert (strange < score - 10.0).all()


def check_filled(found, fit, t):
    hole = np.isnan(t["holes"])
    np.testing.assert_array_equal(found["mean"].to_numpy()[~hole], t["holes"][~hole])
    np.testing.assert_array_equal(found["sd"].to_numpy() > 0.0, hole)


def check_filled_table(found, fit, t):
    Y, seen = seen_by(t)
    np.testing.assert_array_equal(found["mean"].to_numpy()[seen], Y[seen])
    np.testing.assert_array_equal(found["sd"].to_numpy() > 0.0, ~seen)


def check_added(found, fit, t):
    X = found.posterior["X"].to_numpy()
    np.testing.assert_allclose(X[:, :, :N], fit.posterior["X"])
    assert X.shape[2] == N + 3
    assert np.isfinite(X).all()
    assert gplvm.reconstruct(found)["mean"].shape == (N + 3, 5)


def check_scores(found, fit, t):
    assert found["log_score"].shape == (N,)
    assert np.isfinite(found["log_score"]).all()


def check_loaded(found, fit, t):
    for name, group in fit.children.items():
        xr.testing.assert_equal(found[name].to_dataset(), group.to_dataset())
    same = gplvm.predict(found, t["x"], noise=True)
    xr.testing.assert_equal(same, gplvm.predict(fit, t["x"], noise=True))


def check_metric(found, fit, t):
    assert (found["magnification"] > 0.0).all()
    if not one_frame(fit) or fit.attrs["kernel"] == "custom" or t["kind"] in OF_COUNTS:
        return
    h, steps = 1e-5, np.eye(2)
    rise = [
        gplvm.predict(fit, t["x"] + h * e)["mean"] - gplvm.predict(fit, t["x"] - h * e)["mean"]
        for e in steps
    ]
    J = np.stack(rise) / (2.0 * h)
    volume = np.sqrt(np.linalg.det(np.einsum("qsd,rsd->sqr", J, J)))
    np.testing.assert_allclose(found["from_mean"], volume, rtol=1e-4)


def check_summary(found, fit, t):
    assert str(N) in found.fitted[0]
    assert found.ended is not None
    assert found.advice
    held = t["kind"] != MAPPED
    assert (found.explained > 0.1) == held
    assert (found.noise > 0.0) == held
    assert len(found.theta) >= 1
    assert np.isfinite(found.theta["value"]).all()


def check_comparison(found, fit, t):
    row = found.loc["a"]
    assert row["neighbours"] > 0.15
    assert np.isfinite(row["sd_Z"])
    if t["kind"] in BY_TABLE:
        assert np.isfinite(row["bound"])
        assert np.isnan(row["log_likelihood"])
        assert np.isnan(row["elpd_entry"])
        assert np.isnan(row["elpd_feature"])
    else:
        assert np.isfinite(row["log_likelihood"])
        assert np.isfinite(row["elpd_entry"])


CHECKS = {
    "predict": check_predict,
    "predict(X_sd=...)": check_uncertain,
    "predict(cov=True)": check_covariance,
    "sample_predictive": check_drawn,
    "sample_predictive(noise=True)": lambda *given: check_drawn(*given, noise=True),
    "reconstruct": check_reconstruction,
    "embed": check_embedded,
    "log_predictive": check_density,
    "impute": check_filled,
    "impute (the table)": check_filled_table,
    "add_rows": check_added,
    "align": lambda found, fit, t: check_loaded_positions(found),
    "summary": check_summary,
    "compare": check_comparison,
    "save, load": check_loaded,
    "diagnostics.cross_validate": check_scores,
    "diagnostics.magnification": check_metric,
}


def check_loaded_positions(found):
    X = found["aligned"]["X"] if "aligned" in found.children else found.posterior["X"]
    assert X.shape[2:] == (N, 2)
    assert np.isfinite(X).all()


def things_of(kind, tables, path):
    """Give what verbs are called with."""
    (Y, new, holes), again = tables, FITS[kind]
    return {
        "kind": kind,
        "Y": Y,
        "new": new,
        "holes": holes,
        "x": np.array([[0.0, 0.1], [0.5, -0.3]]),
        "path": path / "fit.nc",
        "build": lambda some: again(some, 4) if kind in BY_TABLE else build(kind, some),
        "again": None if kind in BY_TABLE else lambda model: again(model, 4),
    }


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", FITS)
def test_it_serves_or_says_why_not(kind, verb, tmp_path):
    things = things_of(kind, table(kind), tmp_path)
    fit, call = fit_of_kind(kind), VERBS[verb]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (verb, kind) in REFUSED:
            _, message = REFUSED[verb, kind]
            with pytest.raises(ValueError, match=message):
                call(fit, things)
        else:
            found = call(fit, things)
            assert found is not None
            if verb in CHECKS:
                CHECKS[verb](found, fit, things)
    plt.close("all")


@pytest.mark.parametrize("kind", BY_TABLE)
def test_rows_added_raise_the_bound_by_less_than_they_are_likely(kind):
    """It is a bound on ln p of each row given q(u), and not far below it."""
    fit, (_, _, holes) = fit_of_kind(kind), table(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        longer = gplvm.add_rows(fit, holes, **QUIET)
        settings = {"draws": 2000, **QUIET}
        score = float(gplvm.log_predictive(fit, holes, **settings)["log_score"].sum())
    bound = [float(each["sample_stats"]["bound"].mean()) for each in (fit, longer)]
    assert score - 6.0 < bound[1] - bound[0] < score + 0.1
    again = gplvm.reconstruct(longer)["mean"][:N]
    np.testing.assert_allclose(again, gplvm.reconstruct(fit)["mean"], rtol=1e-9)
    assert np.isnan(longer.posterior["X"]).sum() == 0
    assert longer.attrs["n_new"] == 3


@pytest.mark.parametrize(
    ("X_sd", "message"),
    [
        (-0.1, "X_sd must hold standard deviations of at least 0, .* got -0.1"),
        (np.ones(3), r"X_sd must hold .* or of the shape \(2,\) or \(2, 2\), got the shape \(3,\)"),
        (np.nan, "X_sd must be finite"),
    ],
)
def test_wrong_spreads(X_sd, message):
    with pytest.raises(ValueError, match=message):
        gplvm.predict(fit_of_kind("fit_svi"), np.zeros((2, 2)), X_sd=X_sd)


def test_no_joint_covariance_of_uncertain_positions():
    with pytest.raises(ValueError, match=r"predict has no cov with X_sd.*sample_predictive"):
        gplvm.predict(fit_of_kind("fit_svi"), np.zeros((2, 2)), X_sd=0.1, cov=True)


INDUCING = ("fit_sparse", 'fit_sparse(method="fitc")', "fit_variational")
# What refuses a table with missing entries, of any fit that has a model.
WHOLE = ("add_rows", "GPLVM.from_fit(...).transform")


@pytest.mark.parametrize("kind", INDUCING)
def test_with_holes_in_the_table_it_serves_too(kind, tmp_path):
    Y, new, holes = table(kind)
    Y = Y.copy()
    Y[::4, 1] = np.nan
    Y[:6, 3:] = np.nan

    def masked(some):
        return gplvm.build_model(some, kernel=KERNEL.get(kind, "rbf"), ard=True, missing="mask")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = FITS[kind](masked(Y), 40)
        things = things_of(kind, (Y, new, holes), tmp_path) | {"build": masked}
        for verb, call in VERBS.items():
            if verb not in WHOLE and (verb, kind) not in REFUSED:
                found = call(fit, things)
                assert found is not None, verb
                if verb in CHECKS:
                    CHECKS[verb](found, fit, things)
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
        "`fit_svi` keeps a q(u) of each column, through which all verbs go; `add_rows` leaves it as it is, and "
        "finds q(x) of the new rows. `compare` has no `log_likelihood` and no leave-one-out of it: `bound` compares "
        "such fits of one table, of any likelihoods, and `cross_validate` takes it as "
        "`lambda rows: fit_svi(rows, ...)`. `predict` and `reconstruct` are of E[y | f]: of counts themselves, "
        "`magnification` of f.",
        "",
        "`fit_map` with a likelihood keeps f at its mode, and a Gaussian about it in each column, through which all verbs "
        "go; `leave_one_out` takes out of that what an entry has told, and `compute_log_likelihood` is Laplace's.",
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
