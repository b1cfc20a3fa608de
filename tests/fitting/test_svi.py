"""The minibatch fit: what it finds, what it takes, and what it says."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.sparse import csr_matrix
from scipy.special import expit

import pm_gplvm as gplvm
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.rows import RowTable
from pm_gplvm.fitting import svi as module
from pm_gplvm.prediction.uncollapsed import Uncollapsed

QUICK = {"epochs": 60.0, "n_inducing": 15, "random_seed": 1, "progressbar": False}


def functions(n, d, seed=1, q=2):
    """Positions and smooth functions of them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, q))
    return X, np.sin(X @ rng.standard_normal((q, d))) + 0.3 * X @ rng.standard_normal((q, d))


def explained(found, X):
    """Share of the variance of X that is linear in what was found."""
    design = np.column_stack([found, np.ones(len(X))])
    rest = X - design @ np.linalg.lstsq(design, X, rcond=None)[0]
    return 1.0 - (rest**2).sum() / ((X - X.mean(axis=0)) ** 2).sum()


@pytest.fixture(scope="module")
def truth():
    return functions(300, 8)


@pytest.fixture(scope="module")
def table(truth):
    _, F = truth
    return F + 0.1 * np.random.default_rng(2).standard_normal(F.shape)


@pytest.fixture(scope="module")
def fit(table):
    return gplvm.fit_svi(table, n_inducing=25, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def counts(truth):
    _, F = truth
    return np.random.default_rng(3).poisson(np.exp(F + 1.0)).astype(float)


# What it finds


def test_positions_noise_and_table_are_found(fit, truth, table):
    X, F = truth
    assert explained(fit["approximation"]["X_mean"].to_numpy(), X) > 0.9
    sigma = float(fit["posterior"]["sigma"][0, 0] * fit["constant_data"]["Y_scale"][0])
    assert 0.08 < sigma < 0.13
    found = gplvm.reconstruct(fit)
    assert np.sqrt(((found["mean"].to_numpy() - F) ** 2).mean()) < 0.08
    assert fit.attrs.get("warnings") is None


def test_the_bound_is_the_collapsed_one_up_to_what_q_u_lacks(fit, table):
    """Within 0.05 nats a row at the same q(X) and θ, and never above it."""
    known, constants = fit["approximation"], fit["constant_data"]
    F = (table - constants["Y_mean"].to_numpy()) / constants["Y_scale"].to_numpy()
    F = F - known["level"].to_numpy()
    theta = {n: fit["posterior"][n].to_numpy()[0, 0] for n in ("lengthscale", "amplitude")}
    mean, sd, W = (known[n].to_numpy() for n in ("X_mean", "X_sd", "X_inducing"))
    sigma = float(fit["posterior"]["sigma"][0, 0])
    whole = InducingKernel.of("rbf", (mean, sd, W), theta)
    collapsed = whole.posterior(F, sigma).bound((F**2).sum(), *F.shape)
    collapsed -= 0.5 * (mean**2 + sd**2 - 1.0 - 2.0 * np.log(sd)).sum()
    collapsed -= len(F) * np.log(constants["Y_scale"].to_numpy()).sum()
    slack = (collapsed - float(fit["sample_stats"]["bound"][0, 0])) / len(F)
    assert -1e-3 < slack < 0.05


def test_columns_may_differ_in_noise(truth):
    _, F = truth
    noise = np.linspace(0.05, 0.5, F.shape[1])
    Y = F + noise * np.random.default_rng(4).standard_normal(F.shape)
    fit = gplvm.fit_svi(
        Y, likelihood=gplvm.likelihoods.gaussian("column"), random_seed=1, progressbar=False
    )
    found = fit["posterior"]["sigma"].to_numpy()[0, 0] * fit["constant_data"]["Y_scale"].to_numpy()
    assert fit["posterior"]["sigma"].dims == ("chain", "draw", "feature")
    np.testing.assert_allclose(found[2:], noise[2:], rtol=0.3)


def test_no_noise_goes_to_zero_where_two_dimensions_act_together():
    """Nodes along fixed axes let a rounded column end at a noise of .005, and the bound at -68 000."""
    from sklearn.datasets import load_iris

    Y = load_iris().data
    fit = gplvm.fit_svi(
        (Y - Y.mean(axis=0)) / Y.std(axis=0),
        likelihood=gplvm.likelihoods.gaussian("column"),
        random_seed=1,
        epochs=1000,
        progressbar=False,
    )
    assert (fit["posterior"]["sigma"].to_numpy() > 0.05).all()
    last, bound = float(fit["trace"]["bound"][-1]), float(fit["sample_stats"]["bound"][0, 0])
    assert abs(bound / 150 - last) < 0.2


def test_columns_on_a_grid_are_not_known_beyond_it():
    """Pixels that are nearly always 0 had a noise of .002, which X then served before all others."""
    rng = np.random.default_rng(8)
    _, F = functions(150, 10, seed=8)
    Y = np.round(4.0 * F)
    Y[:, 8:] = rng.random((150, 2)) < 0.03
    given = {"likelihood": gplvm.likelihoods.gaussian("column"), **QUICK}
    fit = gplvm.fit_svi(Y, **given)
    scale = fit["constant_data"]["Y_scale"].to_numpy()
    # Where one value is rare, its variance is less than that of rounding.
    floor = np.sqrt(np.minimum(1.0 / 12.0, Y.var(axis=0) / 3.0) / scale**2 + 0.01**2)
    assert (Y.var(axis=0)[8:] < 0.1).all()
    np.testing.assert_allclose(fit["constant_data"]["Y_entry"], floor[None], rtol=1e-12)
    said = gplvm.predict(fit, np.zeros((1, 2)), noise=True)["sd"].to_numpy()
    assert (said > floor * scale).all()
    shared = gplvm.fit_svi(Y, **QUICK | {"epochs": 1.0})["constant_data"]["Y_entry"].to_numpy()
    np.testing.assert_allclose(shared, np.full((1, 10), np.sqrt((floor**2).mean())), rtol=1e-12)
    known = gplvm.fit_svi(Y, noise_sd=0.5, **QUICK | {"epochs": 1.0})
    np.testing.assert_allclose(known["constant_data"]["Y_entry"], (0.5 / scale)[None])
    with pytest.raises(ValueError, match="resolution is of a Gaussian likelihood"):
        gplvm.fit_svi(np.abs(Y), likelihood="poisson", resolution=0.1)
    with pytest.raises(ValueError, match="resolution must be 'auto', 0 or a positive number"):
        gplvm.fit_svi(Y, resolution=-1.0)


def test_rare_values_of_a_column_do_not_hide_the_others():
    """In units of its spread the grid of a column that is nearly always 0 is wider than all noise."""
    rng = np.random.default_rng(9)
    X, F = functions(150, 10, seed=9)
    Y = np.column_stack([np.round(4.0 * F), rng.random((150, 3)) < 0.02]).astype(float)
    given = {"scale": "feature", **QUICK | {"epochs": 150.0}}
    fit, without = gplvm.fit_svi(Y, **given), gplvm.fit_svi(Y, resolution=0, **given)
    assert (fit["constant_data"]["Y_entry"] < 0.35).all()
    found, usual = (explained(f["approximation"]["X_mean"].to_numpy(), X) for f in (fit, without))
    assert found > usual - 0.05
    assert usual > 0.5


def test_hidden_counts_do_not_pull_the_dispersion():
    """The mask multiplies the derivative in r too: else it goes to a quarter of the truth."""
    rng = np.random.default_rng(5)
    _, F = functions(800, 20, seed=5)
    r = 2.0
    Y = rng.poisson(rng.gamma(r, np.exp(F + 1.0) / r)).astype(float)
    hidden = rng.random(Y.shape) < 0.3
    fit = gplvm.fit_svi(
        np.where(hidden, np.nan, Y), likelihood="negative_binomial", **QUICK | {"epochs": 100}
    )
    assert 1.4 < np.median(fit["posterior"]["dispersion"]) < 2.8


def test_counts_are_predicted_better_by_their_own_likelihood(counts, truth):
    rng = np.random.default_rng(6)
    hidden = rng.random(counts.shape) < 0.1
    seen = np.where(hidden, np.nan, counts)
    fit = gplvm.fit_svi(seen, likelihood="poisson", **QUICK | {"epochs": 300})
    filled = gplvm.impute(fit)["mean"].to_numpy()
    of_columns = np.broadcast_to(np.nanmean(seen, axis=0), counts.shape)
    error, usual = (np.square(m - counts)[hidden].mean() for m in (filled, of_columns))
    assert error < 0.8 * usual


@pytest.mark.filterwarnings("ignore:fit_svi ended")
def test_counts_far_above_their_mean_do_not_throw_a_fit_off():
    """Newton's step to a count of 30 times the mean led to exp(30): the bound fell to -250 000, and θ stood still."""
    _, F = functions(100, 12, seed=1)
    counts = np.random.default_rng(4).poisson(np.exp(np.minimum(4.0 * F, 7.0)))
    assert (counts.max(axis=0) / counts.mean(axis=0)).max() > 25.0
    fit = gplvm.fit_svi(counts, 4, likelihood="poisson", **QUICK)
    bounds = fit["trace"]["bound"].to_numpy()
    assert (bounds[1:] > bounds[0]).all()
    assert bounds[-1] > -60.0


def test_gross_errors_do_not_move_a_student_t():
    _, F = functions(300, 24)
    rng = np.random.default_rng(7)
    clean = F + 0.1 * rng.standard_normal(F.shape)
    wrong = np.where(rng.random(F.shape) < 0.05, clean + 5.0 * rng.standard_normal(F.shape), clean)

    def error(Y, likelihood):
        fit = gplvm.fit_svi(
            Y, likelihood=likelihood, n_inducing=25, random_seed=1, progressbar=False
        )
        return np.sqrt(((gplvm.reconstruct(fit)["mean"].to_numpy() - F) ** 2).mean())

    best = error(clean, "gaussian")
    assert error(wrong, "student_t") < 1.4 * best
    assert error(wrong, "gaussian") > 2.0 * best


@pytest.mark.parametrize(
    "kernel", ["matern32", "matern52 + bias", "cauchy", "linear", "linear + bias", "rbf + linear"]
)
def test_every_kernel(kernel, table, truth):
    fit = gplvm.fit_svi(table, kernel=kernel, **QUICK)
    assert explained(fit["approximation"]["X_mean"].to_numpy(), truth[0]) > 0.75
    assert np.isfinite(gplvm.predict(fit, [[0.0, 0.0]])["sd"]).all()


def test_an_informative_prior_places_rows(table, truth):
    X, _ = truth
    known = np.where(np.arange(300) < 100, X[:, 0], np.nan)
    prior = gplvm.priors.informative(known, 0.1)
    fit = gplvm.fit_svi(table, priors={"X": prior}, **QUICK)
    found = fit["approximation"]["X_mean"].to_numpy()[:, 0]
    assert np.abs(found[:100] - X[:100, 0]).mean() < 0.15
    assert np.corrcoef(found[100:], X[100:, 0])[0, 1] > 0.9
    assert "X_prior_mean" in fit["constant_data"]


def test_theta_may_be_held_or_have_other_priors(table):
    import pymc as pm

    fit = gplvm.fit_svi(
        table,
        priors={"amplitude": 1.5, "lengthscale": pm.Gamma.dist(50.0, 50.0)},
        ard=False,
        **QUICK,
    )
    assert float(fit["constant_data"]["amplitude"]) == 1.5
    assert fit["posterior"]["lengthscale"].dims == ("chain", "draw")
    with pytest.raises(ValueError, match="positive numbers"):
        gplvm.fit_svi(table, priors={"amplitude": pm.Uniform.dist(0.0, 2.0)}, **QUICK)
    with pytest.raises(ValueError, match="priors must name parameters of this kernel"):
        gplvm.fit_svi(table, priors={"sigma": 0.1}, **QUICK)


# What it takes


def test_tables_of_every_kind_are_one(counts, tmp_path):
    np.save(tmp_path / "counts.npy", counts)
    kinds = {
        "memmap": np.load(tmp_path / "counts.npy", mmap_mode="r"),
        "sparse": csr_matrix(counts),
        "integers": counts.astype(int),
        "frame": pd.DataFrame(counts),
        "labelled": xr.DataArray(counts, dims=("cell", "gene")),
    }
    first = gplvm.fit_svi(counts, likelihood="poisson", **QUICK)
    for kind, Y in kinds.items():
        fit = gplvm.fit_svi(Y, likelihood="poisson", **QUICK)
        np.testing.assert_array_equal(
            fit["approximation"]["X_mean"], first["approximation"]["X_mean"], err_msg=kind
        )
        assert ("Y" in fit["observed_data"]) is (kind not in ("memmap", "sparse")), kind


def test_a_zarr_array_is_read_in_runs(counts, tmp_path):
    import zarr

    stored = zarr.open(str(tmp_path / "counts.zarr"), mode="w", shape=counts.shape, chunks=(50, 8))
    stored[:] = counts
    fit = gplvm.fit_svi(stored, likelihood="poisson", **QUICK)
    assert fit["approximation"]["X_mean"].shape == (300, 2)
    table, rng = RowTable.of(stored), np.random.default_rng(1)
    rows = np.concatenate(list(table.batches(30, rng)))
    assert len(rows) == len(set(rows.tolist())) == 300
    np.testing.assert_array_equal(table.take(rows[:5]), counts[rows[:5]])


def test_labels_are_kept_and_offsets_joined_by_them(counts):
    names = [f"cell{i}" for i in range(300)]
    genes = [f"gene{j}" for j in range(8)]
    frame = pd.DataFrame(counts, index=names, columns=genes)
    size = pd.Series(np.linspace(-0.5, 0.5, 300), index=names)
    fit = gplvm.fit_svi(frame, likelihood="poisson", offset=size[::-1], **QUICK)
    again = gplvm.fit_svi(frame, likelihood="poisson", offset=size.to_numpy(), **QUICK)
    np.testing.assert_array_equal(fit["constant_data"]["Y_offset"][:, 0], size)
    np.testing.assert_array_equal(fit["posterior"]["X"], again["posterior"]["X"])
    assert fit["posterior"]["X"]["obs"].to_numpy().tolist() == names
    assert gplvm.predict(fit, [[0.0, 0.0]])["feature"].to_numpy().tolist() == genes
    with pytest.raises(ValueError, match="labels of the rows of Y"):
        gplvm.fit_svi(frame, likelihood="poisson", offset=size.rename({"cell0": "no"}), **QUICK)


@pytest.mark.filterwarnings("ignore:fit_svi ended")
def test_new_rows_of_counts_lie_where_a_grid_says():
    """Two of them may lie beyond the table, where f is hardly known and the bound is 15 nats below ln p(y | x)."""
    rng = np.random.default_rng(2)
    X, depth = rng.uniform(-2.0, 2.0, (60, 1)), rng.uniform(0.5, 3.0, 60)
    Y = rng.poisson(depth[:, None] * np.exp(1.0 + np.sin(X + np.arange(6)))).astype(float)
    few = {"likelihood": "poisson", "n_inducing": 8, "epochs": 30, "random_seed": 1}
    fit = gplvm.fit_svi(Y[:50], 1, progressbar=False, **few)
    new = gplvm.embed(fit, Y[50:], draws=2000, random_seed=1, progressbar=False)
    process, grid = Uncollapsed.of(Fit(fit)), np.linspace(-7.0, 7.0, 1401)
    moments = process.moments(grid[:, None])
    for i, row in enumerate(Y[50:]):
        seen = process.observed(np.broadcast_to(row, moments[0].shape))
        logs = process.likelihood.log_predictive(seen, *moments, process.parameters).sum(axis=1)
        logs -= 0.5 * grid**2
        below = np.cumsum(np.exp(logs - logs.max()))
        drawn = np.sort(new["posterior"]["X"].to_numpy()[0, :, i, 0])
        share = np.searchsorted(drawn, grid, side="right") / len(drawn)
        assert np.abs(share - below / below[-1]).max() < 0.04
    assert new["rows"]["pareto_k"].max() < 0.5
    assert new["rows"]["converged"].all()


@pytest.mark.filterwarnings("ignore:fit_sparse:RuntimeWarning")
def test_the_size_of_rows_is_told_from_their_sums(counts):
    depth = np.random.default_rng(8).uniform(0.2, 5.0, (300, 1))
    deep = np.random.default_rng(9).poisson(counts * depth + 0.1).astype(float)
    fit = gplvm.fit_svi(deep, likelihood="poisson", offset="size", **QUICK)
    sums = deep.sum(axis=1)
    np.testing.assert_allclose(
        fit["constant_data"]["Y_offset"][:, 0], np.log(sums / np.median(sums))
    )
    new = gplvm.embed(fit, deep[:4], random_seed=1, draws=200, progressbar=False)
    away = (
        new["posterior"]["X"].mean(("chain", "draw"))
        - fit["approximation"]["X_mean"].to_numpy()[:4]
    )
    # Of few counts a row may lie in two places.
    assert float(np.median(np.abs(away))) < 2.0 * float(fit["approximation"]["X_sd"][:4].max())
    with pytest.raises(ValueError, match="positive sum in each new row"):
        gplvm.embed(fit, np.zeros((1, 8)), progressbar=False)
    given = gplvm.fit_svi(deep, likelihood="poisson", offset=np.log(sums), **QUICK)
    with pytest.raises(ValueError, match="needs the offset of each new row"):
        gplvm.embed(given, deep[:2], progressbar=False)
    with pytest.raises(ValueError, match="an offset of new rows"):
        gplvm.embed(gplvm.fit_sparse(gplvm.build_model(counts), n_inducing=8, max_iter=5, progressbar=False),
                    deep[:2], offset=np.zeros(2), progressbar=False)  # fmt: skip


@pytest.mark.filterwarnings("ignore:fit_s:RuntimeWarning")
def test_known_errors_of_measurement_are_told_from_noise(truth):
    """Half of the rows measured badly: their sd is known, and the others' noise found."""
    _, F = truth
    rng = np.random.default_rng(10)
    sd = np.where(rng.random(F.shape) < 0.5, 1.0, 0.0)
    Y = F + np.hypot(0.1, sd) * rng.standard_normal(F.shape)
    settings = QUICK | {"epochs": 1000, "n_inducing": 40}
    fit = gplvm.fit_svi(Y, noise_sd=sd, **settings)
    plain = gplvm.fit_svi(Y, **settings)
    sigma = float(fit["posterior"]["sigma"][0, 0] * fit["constant_data"]["Y_scale"][0])
    assert 0.07 < sigma < 0.2
    error, usual = (
        np.sqrt(((gplvm.reconstruct(f)["mean"].to_numpy() - F) ** 2).mean()) for f in (fit, plain)
    )
    assert error < 0.7 * usual
    with pytest.raises(ValueError, match="noise_sd is of a Gaussian likelihood"):
        gplvm.fit_svi(np.abs(Y), likelihood="gamma", noise_sd=sd, **QUICK)


def test_answers_of_a_questionnaire_beat_the_gaussian_on_hidden_ones():
    """Seven columns of 1 to 5; the Gaussian's density is that of the unit interval about the answer."""
    from scipy.stats import norm

    rng = np.random.default_rng(11)
    X, _ = functions(500, 2, seed=11)
    f = 2.0 * X @ rng.standard_normal((2, 7))
    cuts = np.array([-3.0, -1.5, 0.5, 2.0])
    Y = 1.0 + (rng.random(f.shape)[:, :, None] > expit(cuts - f[:, :, None])).sum(axis=2)
    hidden = rng.random(Y.shape) < 0.15
    seen = np.where(hidden, np.nan, Y)
    settings = {"n_inducing": 25, "random_seed": 1, "progressbar": False, "epochs": 100}
    scores = {}
    for name in ("ordinal", "gaussian"):
        fit = gplvm.fit_svi(seen, likelihood=name, **settings)
        process = module_process(fit)
        q = (fit["approximation"][n].to_numpy() for n in ("X_mean", "X_sd"))
        logs = log_predictive_under_q(process, Y, *q) if name == "ordinal" else None
        if logs is None:
            found = gplvm.reconstruct(fit, noise=True)
            at = norm(found["mean"].to_numpy(), found["sd"].to_numpy())
            high = np.where(Y == 5.0, 1.0, at.cdf(Y + 0.5))
            logs = np.log(np.maximum(high - np.where(Y == 1.0, 0.0, at.cdf(Y - 0.5)), 1e-12))
        scores[name] = logs[hidden].mean()
    assert scores["ordinal"] > scores["gaussian"] + 0.02


def module_process(fit):
    from pm_gplvm.data.fit import Fit
    from pm_gplvm.prediction.uncollapsed import Uncollapsed

    return Uncollapsed.of(Fit(fit))


def log_predictive_under_q(process, Y, mean, sd):
    from scipy.special import logsumexp

    from pm_gplvm.core.uncollapsed import positive

    points, weights = positive(mean.shape[1])
    each = []
    for point, weight in zip(points, weights, strict=True):
        f = process.functions.moments(mean + sd * point)
        logs = process.likelihood.log_predictive(process.observed(Y), *f, process.parameters)
        each.append(logs + np.log(weight))
    return logsumexp(each, axis=0)


# The run


def test_the_same_seed_is_the_same_fit_and_another_goes_on_from_it(table, fit):
    again = gplvm.fit_svi(table, n_inducing=25, random_seed=1, progressbar=False)
    xr.testing.assert_identical(
        fit["approximation"].to_dataset(), again["approximation"].to_dataset()
    )
    more = gplvm.fit_svi(
        table, start=fit, epochs=20, n_inducing=25, random_seed=2, progressbar=False
    )
    assert (
        float(more["sample_stats"]["bound"][0, 0]) > float(fit["sample_stats"]["bound"][0, 0]) - 5.0
    )
    with pytest.raises(ValueError, match="the same latent_dim"):
        gplvm.fit_svi(table, 3, start=fit, **QUICK)


@pytest.mark.filterwarnings("ignore:fit_svi ended while:RuntimeWarning")
def test_the_best_of_several_runs_is_returned(table):
    fit = gplvm.fit_svi(table, start="random", n_restarts=2, **QUICK)
    bounds = fit["optima"]["objective"].to_numpy()
    assert len(bounds) == 3
    assert (np.diff(bounds) <= 0.0).all()
    assert bounds[0] == float(fit["sample_stats"]["bound"][0, 0])


def test_a_bound_that_still_rises_is_said(table):
    with pytest.warns(RuntimeWarning, match=r"still rose, by .* nats a row in an epoch. Go on"):
        fit = gplvm.fit_svi(table, **QUICK | {"epochs": 3})
    assert len(gplvm.diagnose(fit).text if hasattr(gplvm.diagnose(fit), "text") else "x") > 0
    assert "still rose" in fit.attrs["warnings"]


@pytest.mark.filterwarnings("ignore:fit_svi.*:RuntimeWarning")
def test_where_the_bound_falls_an_earlier_state_is_returned(table, monkeypatch):
    step = module.Optimiser.step

    def spoiled(self, rows):
        if self.taken > 150:
            functions = self.tables[0].functions
            functions.level = np.full_like(functions.level, 3.0)
        return step(self, rows)

    monkeypatch.setattr(module.Optimiser, "step", spoiled)
    with pytest.warns(RuntimeWarning, match="saw its bound fall"):
        fit = gplvm.fit_svi(table, **QUICK | {"epochs": 100})
    assert float(fit["sample_stats"]["bound"][0, 0]) / 300 > float(fit["trace"]["bound"][-1])


def test_ctrl_c_keeps_what_was_done(table, ctrl_c):
    ctrl_c(module.Optimiser, "step", 40)
    with pytest.warns(RuntimeWarning, match="was interrupted in run 1 of 1, after 40 steps"):
        fit = gplvm.fit_svi(table, **QUICK)
    assert fit.attrs["interrupted"] == 1
    assert np.isfinite(fit["sample_stats"]["bound"]).all()


def test_ctrl_c_twice_ends_it(table, ctrl_c):
    ctrl_c(module.Optimiser, "step", 40, 40)
    with pytest.raises(KeyboardInterrupt):
        gplvm.fit_svi(table, **QUICK)


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"likelihood": "poisson"}, ValueError, "counts .* got -?[0-9.]+ in row 0, column 0"),
        ({"likelihood": "normal"}, ValueError, "likelihood must be one of gaussian"),
        ({"latent_dim": 9, "kernel": "linear"}, ValueError, "latent_dim"),
        ({"batch_size": 301}, ValueError, "batch_size"),
        ({"epochs": 0.0}, ValueError, "epochs"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"start": "umap"}, ValueError, "start must be"),
        ({"start": np.zeros((3, 2))}, ValueError, r"shape \(300, 2\)"),
        ({"scale": "columns"}, ValueError, "scale must be one of"),
        ({"offset": "depth"}, ValueError, "offset must be 'size'"),
        ({"offset": np.zeros(5)}, ValueError, "offset must have the shape"),
        ({"priors": {"X": 3.0}}, ValueError, r"priors\['X'\] must be priors.informative"),
        ({"n_inducing": 1}, ValueError, "n_inducing"),
        ({"kernel": "cubic"}, ValueError, "kernel must be one of"),
        ({"kernel": "rbf[5]"}, ValueError, "latent dimensions from 0 to 1"),
    ],
)
def test_bad_arguments_are_told_before_any_work(change, error, message, table):
    with pytest.raises(error, match=message):
        gplvm.fit_svi(table, **QUICK | change)


def test_bad_tables_are_told_by_row_and_column(table):
    wrong = table.copy()
    wrong[7, 2] = np.inf
    with pytest.raises(ValueError, match="infinite, got inf at obs 7, feature 2"):
        gplvm.fit_svi(wrong, **QUICK)
    wrong[:, 2] = np.nan
    with pytest.raises(ValueError, match="entry in every column, got none in feature 2"):
        gplvm.fit_svi(wrong, **QUICK)
    with pytest.raises(ValueError, match="at least 3 rows"):
        gplvm.fit_svi(table[:2], **QUICK)
    constant = table.copy()
    constant[:, 1] = 4.0
    with pytest.raises(ValueError, match="constant features, 1 among them"):
        gplvm.fit_svi(constant, scale="feature", **QUICK)
