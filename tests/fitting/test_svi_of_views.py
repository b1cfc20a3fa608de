"""Minibatches of several tables: the bound by hand, one table as itself, rows joined, what is refused."""

import json
import re

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated
from oracles import central_differences
from scipy.sparse import csr_matrix
from scipy.special import gammaln
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.core.uncollapsed import JITTER, accurate
from pm_gplvm.data.rows import RowTable
from pm_gplvm.fitting import svi as module
from pm_gplvm.fitting.minibatch import RowsHere, row_gradient
from pm_gplvm.fitting.minibatch_tables import read_views

QUIET = {"random_seed": 1, "progressbar": False}
QUICK = {"epochs": 6, "n_inducing": 6, **QUIET}
pytestmark = pytest.mark.filterwarnings("ignore:fit_svi ended")


def two(n=24):
    """Counts and numbers of the same rows, the numbers with holes."""
    Y = simulated(n, 9).to_numpy()
    rows = [f"row{i}" for i in range(n)]
    counts = np.random.default_rng(1).poisson(np.exp(0.3 * Y[:, :5]))
    numbers = 7.0 * Y[:, 5:]
    numbers[2, 1] = np.nan
    columns = [f"gene{j}" for j in range(5)]
    return {
        "rna": pd.DataFrame(counts, index=rows, columns=columns),
        "protein": pd.DataFrame(numbers, index=rows),
    }


LIKELIHOODS = {"rna": "poisson", "protein": gplvm.likelihoods.gaussian("column")}


@pytest.fixture(scope="module")
def fit():
    return gplvm.fit_svi(two(), 2, likelihood=LIKELIHOODS, **QUICK)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"likelihood": "poisson", "offset": "size", "kernel": "rbf + linear"},
        {"likelihood": {"gene0": "gaussian", ("gene1", "gene2", "gene3", "gene4"): "poisson"}},
    ],
)
def test_one_table_is_fitted_as_by_itself(given):
    table = two()["rna"]
    plain = gplvm.fit_svi(table, 2, **given, **QUICK)
    by_name = {name: {"rna": value} for name, value in given.items()}
    named = gplvm.fit_svi({"rna": table}, 2, **by_name, **QUICK)
    taken = gplvm.data.view(named, "rna")
    for group in ("posterior", "approximation", "constant_data", "observed_data"):
        xr.testing.assert_identical(taken[group].to_dataset(), plain[group].to_dataset())
    for name in ("bound", "lp"):
        np.testing.assert_array_equal(named["sample_stats"][name], plain["sample_stats"][name])
    assert {**taken.attrs, "view": 0} == {**plain.attrs, "view": 0}


def test_the_bound_is_that_of_dense_formulas(fit):
    """E ln p of each table by itself, less KL(q(u)) of each and KL(q(x)) once."""
    tables, known = two(), fit["approximation"]
    mean, sd = known["X_mean"].to_numpy(), known["X_sd"].to_numpy()
    points, weights = accurate(2)
    total = -0.5 * (mean**2 + sd**2 - 1.0 - 2.0 * np.log(sd)).sum()
    for name in tables:
        own = gplvm.data.view(fit, name)
        group, theta = own["approximation"], own["posterior"].isel(chain=0, draw=0)
        length, amplitude = theta["lengthscale"].to_numpy(), float(theta["amplitude"])

        def k(a, b, length=length, amplitude=amplitude):
            r2 = (((a[:, None] - b) / length) ** 2).sum(axis=2)
            return amplitude**2 * np.exp(-0.5 * r2)

        W, V = group["X_inducing"].to_numpy(), group["u_basis"].to_numpy()
        m, p = group["u_mean"].to_numpy(), group["u_precision"].to_numpy()
        K = k(W, W)
        L = np.linalg.cholesky(K + JITTER * np.trace(K) / len(K) * np.eye(len(K)))
        centre, scale = (own["constant_data"][n].to_numpy() for n in ("Y_mean", "Y_scale"))
        y = (tables[name].to_numpy() - centre) / scale
        seen = ~np.isnan(y)
        total -= np.log(np.broadcast_to(scale, y.shape)[seen]).sum()
        for d in range(y.shape[1]):  # q(u_d) = N(L V m, L V diag(1/p) Vᵀ Lᵀ)
            half = L @ V
            S, q_mean = half / p[:, d] @ half.T, half @ m[:, d]
            inverse = np.linalg.inv(L @ L.T)
            trace, mahalanobis = np.trace(inverse @ S), q_mean @ inverse @ q_mean
            logdet = np.linalg.slogdet(L @ L.T)[1] - np.linalg.slogdet(S)[1]
            total -= 0.5 * (trace + mahalanobis - len(W) + logdet)
            for point, w in zip(points, weights, strict=True):
                cross = k(mean + sd * point, W) @ inverse
                f = float(group["level"][d]) + cross @ q_mean
                variance = amplitude**2 - (cross * k(mean + sd * point, W)).sum(axis=1)
                variance += ((cross @ S) * cross).sum(axis=1)
                value = y[:, d] * f - np.exp(f + 0.5 * variance) - gammaln(y[:, d] + 1.0)
                if name == "protein":
                    floor = own["constant_data"]["Y_entry"].to_numpy()[0, d]
                    noise = float(theta["sigma"][d]) ** 2 + floor**2
                    value = norm(f, np.sqrt(noise)).logpdf(y[:, d]) - 0.5 * variance / noise
                total += w * value[seen[:, d]].sum()
    assert float(fit["sample_stats"]["bound"][0, 0]) == pytest.approx(total, rel=1e-8)


def test_gradients_of_the_rows_are_those_of_all_tables(rng):
    views = read_views(
        two(),
        2,
        None,
        None,
        ard=True,
        likelihood=LIKELIHOODS,
        kernel={"rna": "matern52", "protein": "rbf + bias"},
        scale="global",
        offset=None,
        noise_sd=None,
        resolution="auto",
    )
    state, _ = module._start(views, 2, 5, "pca", rng)
    schedule = module._schedule(24, None, None, 0.05)
    optimiser = module.Optimiser(views, state, schedule, RowsHere(views, state), rng=rng)
    for _ in range(3):
        optimiser.step(np.arange(24))
    rows = np.array([0, 2, 7])
    seen = [part.rows(rows) for part in views.parts]
    given = {"mean": state.mean[rows], "log_sd": np.log(state.sd[rows])}

    def terms(named):
        q = named["mean"], np.exp(named["log_sd"])
        return row_gradient(optimiser.tables, rows, seen, q, optimiser.nodes)

    found = terms(given)
    numeric = central_differences(lambda named: terms(named).value.sum(), given)
    np.testing.assert_allclose(found.mean, numeric["mean"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.log_sd, numeric["log_sd"], rtol=1e-5, atol=1e-5)


def test_names_are_those_of_other_fits_of_several_tables(fit, tmp_path):
    assert set(fit["posterior"].data_vars) == {
        "X",
        *(f"{of}_{name}" for of in ("lengthscale", "amplitude") for name in ("rna", "protein")),
        "sigma_protein",
    }
    assert json.loads(fit.attrs["views"]) == ["rna", "protein"]
    assert "observed" not in fit.attrs
    taken = gplvm.data.view(fit, "protein")
    assert set(taken["posterior"].data_vars) == {"X", "lengthscale", "amplitude", "sigma"}
    assert taken["posterior"]["sigma"].dims == ("chain", "draw", "feature")
    assert not any("rna" in str(name) for group in taken.subtree for name in group.variables)
    assert not any("rna" in name for name in taken.attrs)
    assert json.loads(gplvm.data.view(fit, "rna").attrs["likelihood"])["name"] == "poisson"
    again = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    xr.testing.assert_identical(
        gplvm.data.view(again, "rna")["approximation"].to_dataset(),
        gplvm.data.view(fit, "rna")["approximation"].to_dataset(),
    )


def test_rows_are_joined_by_label():
    """What a table says of its rows goes with them, and a row that it lacks has nothing missing but that."""
    whole = two()
    turned = whole["protein"][4:].iloc[::-1]
    error = pd.DataFrame(0.5 + 0.01 * np.arange(20), index=whole["protein"].index[4:])
    given = {"likelihood": {"rna": "poisson", "protein": "gaussian"}}
    given["offset"] = {"rna": "size", "protein": None}
    fit = gplvm.fit_svi(
        {"rna": whole["rna"], "protein": turned},
        2,
        noise_sd={"rna": None, "protein": error},
        **given,
        **QUICK,
    )
    holes = whole["protein"].copy()
    holes.iloc[:4] = np.nan
    full = np.concatenate([np.ones(4), error.to_numpy()[:, 0]])
    again = gplvm.fit_svi(
        {"rna": whole["rna"], "protein": holes},
        2,
        noise_sd={"rna": None, "protein": full},
        **given,
        **QUICK,
    )
    np.testing.assert_array_equal(
        fit["observed_data"]["Y_protein"], again["observed_data"]["Y_protein"]
    )
    for name in ("X_mean", "level_protein", "u_mean_rna"):
        np.testing.assert_allclose(
            fit["approximation"][name], again["approximation"][name], atol=1e-6
        )
    late = gplvm.fit_svi({"protein": turned, "rna": whole["rna"]}, 2, **given, **QUICK)
    offset = late["constant_data"]["Y_offset_rna"].sel(obs=whole["rna"].index)
    np.testing.assert_array_equal(offset, fit["constant_data"]["Y_offset_rna"])


def test_a_table_lacks_rows_of_its_sizes():
    """The size of a row that is not there is the median's."""
    tables = two()
    fit = gplvm.fit_svi(
        {"protein": tables["protein"], "rna": tables["rna"][3:]},
        2,
        likelihood={"protein": "gaussian", "rna": "poisson"},
        offset={"protein": None, "rna": "size"},
        **QUICK,
    )
    offset = fit["constant_data"]["Y_offset_rna"].to_numpy()[:, 0]
    assert (offset[:3] == 0.0).all()
    assert (offset[3:] != 0.0).any()
    filled = gplvm.impute(fit)
    assert int((filled["sd_rna"] > 0.0).sum()) == 3 * 5


def test_tables_are_read_a_batch_at_a_time(fit, tmp_path):
    tables = {name: table.to_numpy(float) for name, table in two().items()}
    sparse = tables | {"rna": csr_matrix(tables["rna"])}
    mapped = np.memmap(tmp_path / "protein", dtype=float, mode="w+", shape=(24, 4))
    mapped[:] = tables["protein"]
    found = gplvm.fit_svi(sparse | {"protein": mapped}, 2, likelihood=LIKELIHOODS, **QUICK)
    np.testing.assert_allclose(
        found["approximation"]["X_mean"], fit["approximation"]["X_mean"], atol=1e-9
    )
    assert not found["observed_data"].data_vars


def test_kernels_scales_and_priors_by_table():
    fit = gplvm.fit_svi(
        two(),
        2,
        likelihood=LIKELIHOODS,
        kernel={"rna": "linear", "protein": "rbf + bias"},
        scale={"rna": "none", "protein": "feature"},
        resolution={"rna": "auto", "protein": 0.2},
        priors={"amplitude": 1.0, "lengthscale_protein": pm.InverseGamma.dist(4.0, 2.0)},
        **QUICK,
    )
    rna, protein = (gplvm.data.view(fit, name) for name in ("rna", "protein"))
    assert (rna.attrs["kernel"], protein.attrs["kernel"]) == ("linear", "rbf")
    assert rna["approximation"].sizes["inducing"] == 2
    assert float(protein["constant_data"]["amplitude"]) == 1.0
    assert json.loads(protein.attrs["priors"])["lengthscale"] == "InverseGamma(4.0, 2.0)"
    np.testing.assert_array_equal(protein["constant_data"]["Y_entry"], np.full((1, 4), 0.2))
    assert np.ptp(protein["constant_data"]["Y_scale"].to_numpy()) > 0.0


def test_priors_of_positions_are_joined_by_label():
    tables = two()
    classes = pd.Series(np.where(np.arange(24) < 12, "a", "b"), index=tables["rna"].index)
    fit = gplvm.fit_svi(
        {"protein": tables["protein"].iloc[::-1], "rna": tables["rna"]},
        2,
        likelihood={"protein": "gaussian", "rna": "poisson"},
        priors={"X": gplvm.priors.class_mixture(classes)},
        **QUICK,
    )
    found = fit["constant_data"]["X_class"].sel(obs=classes.index)
    assert found.to_numpy().tolist() == [0] * 12 + [1] * 12
    assert gplvm.data.view(fit, "rna")["posterior"]["X_centre"].sizes["latent_class"] == 2


def test_a_fit_goes_on(fit):
    again = gplvm.fit_svi(two(), 2, likelihood=LIKELIHOODS, start=fit, **QUICK)
    assert float(again["sample_stats"]["bound"][0, 0]) > float(fit["sample_stats"]["bound"][0, 0])
    one, other = (f["trace"]["bound"].to_numpy() for f in (fit, again))
    assert other[0] > one[-1] - 1.0
    with pytest.raises(ValueError, match="start must be a fit of this table"):
        gplvm.fit_svi(two() | {"more": two()["protein"]}, 2, start=fit, **QUICK)
    with pytest.raises(ValueError, match="start must be a fit of this table"):
        gplvm.fit_svi(two(), 2, start=fit, **QUICK)
    model = gplvm.build_model(two(), 2, missing="mask")
    with pytest.warns(RuntimeWarning, match="did not converge"):
        placed = gplvm.fit_marginal(model, max_iter=3, **QUIET)
    begun = gplvm.fit_svi(two(), 2, start=placed, **QUICK | {"epochs": 1})
    assert begun.attrs["start"] == "DataTree"


def test_ctrl_c_keeps_what_was_done(ctrl_c):
    ctrl_c(module.Optimiser, "step", 3)
    with pytest.warns(RuntimeWarning, match="was interrupted in run 1 of 1, after 3 steps"):
        fit = gplvm.fit_svi(two(), 2, likelihood=LIKELIHOODS, **QUICK)
    assert fit["optima"]["message"].item() == "interrupted"


BAD = [
    ({"likelihood": {"rna": "poisson"}}, "likelihood must be one value, or one for each of rna, "),
    ({"offset": {"rna": "size", "dna": None}}, "offset must be one value, .* got one for rna, dna"),
    ({"kernel": {"rna": "rbf"}}, "kernel must be one value"),
    ({"kernel": "rbf[0] + rbf[1]"}, "kernel must be a named one with several tables"),
    ({"likelihood": "poisson"}, "In the table 'protein': "),
    ({"scale": {"rna": "global", "protein": "all"}}, "In the table 'protein': scale must be one"),
    (
        {"offset": {"rna": "size", "protein": "all"}},
        "In the table 'protein': offset must be 'size'",
    ),
    ({"noise_sd": {"rna": 1.0, "protein": -1.0}}, "In the table '(rna|protein)': "),
    ({"priors": {"sigma_dna": 1.0}}, "priors must name parameters of these kernels .*sigma_dna"),
    ({"inputs": {"dose": np.arange(24.0)}}, "inputs are of a fit of one table"),
    ({"priors": {"X": gplvm.priors.back_constraint()}}, "must be priors.informative"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[str(next(iter(g))) for g, _ in BAD])
def test_what_is_no_option_is_told(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gplvm.fit_svi(two(), 2, **given, **QUICK)


def test_names_that_would_be_one_are_told():
    table = two()["protein"].to_numpy()
    with pytest.raises(
        ValueError, match=r"got x and gaussian_x, by which 'sigma_gaussian_x' would"
    ):
        gplvm.fit_svi(
            {"x": np.nan_to_num(table).round(), "gaussian_x": table},
            2,
            likelihood={"x": {(0, 1): "gaussian", (2, 3): "student_t"}, "gaussian_x": "gaussian"},
            **QUICK,
        )
    with pytest.raises(ValueError, match="In the table 'b': Y must have at least 3 rows"):
        gplvm.fit_svi({"a": table, "b": table[:2]}, **QUICK)
    with pytest.raises(ValueError, match=re.escape("got 24 in 'a' and 20 in 'b'")):
        gplvm.fit_svi({"a": table, "b": table[:20]}, **QUICK)


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_rows_of_a_joined_table_are_read_in_any_order(kind, rng):
    Y = rng.standard_normal((6, 3))
    order = np.array([4, -1, 0, 5, -1, 2])
    joined = RowTable.of(kind(Y)).joined(np.arange(10, 16), order)
    expected = np.where(order[:, None] < 0, np.nan, Y[order])
    np.testing.assert_array_equal(joined.take(np.arange(6)), expected)
    np.testing.assert_array_equal(joined.take(np.array([1, 2, 5])), expected[[1, 2, 5]])
    assert np.isnan(joined.take(np.array([1, 4]))).all()
    whole = joined.whole()
    assert whole is None if kind is csr_matrix else np.array_equal(whole, expected, equal_nan=True)
