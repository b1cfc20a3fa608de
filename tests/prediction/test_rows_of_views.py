"""New rows of several tables: placed by one or by all, and what one says of another; the truth of a simulation."""

import warnings

import numpy as np
import pytest
import xarray as xr
from conftest import simulated
from scipy.stats import norm
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

import pm_gplvm as gplvm
from pm_gplvm.data.views import NewRows, tables_of_fit
from pm_gplvm.prediction.processes import each_process
from pm_gplvm.prediction.row_posterior import RowDensity, Rows

QUIET = {"progressbar": False, "random_seed": 1}
NEW = {"draws": 200, "n_starts": 8, **QUIET}


@pytest.fixture(scope="module")
def table():
    return simulated(30, 12)


@pytest.fixture(scope="module", params=["fit_map", "fit_variational"])
def fit(request, table):
    tables = {"rna": table[:24, :7], "protein": table[2:24, 7:] * 3.0}
    model = gplvm.build_model(tables, 2, ard=True, missing="mask")
    if request.param == "fit_map":
        return gplvm.fit_map(model, **QUIET)
    return gplvm.fit_variational(model, n_inducing=12, **QUIET)


@pytest.fixture(scope="module")
def new(table):
    return {"rna": table[24:, :7], "protein": table[24:, 7:] * 3.0}


def test_the_density_of_a_row_is_the_sum_of_the_tables(fit, new, rng):
    """Each table by its own view, at the same positions."""
    tables = tables_of_fit(fit, caller="test")
    rows = NewRows.of(tables, new)
    zero, one = np.zeros((6, 2)), np.ones((6, 2))
    F = rows.standardised
    whole = Rows(np.nan_to_num(F), ~np.isnan(F), zero, one)
    pairs = [(next(each_process(read)), read.table().F) for read in tables.values()]
    density, x = RowDensity(*pairs[0], *pairs[1:]), rng.normal(size=(6, 2))
    prepared = density.prepared(whole)
    value, gradient = density.log_joint(x, prepared)
    expected = norm.logpdf(x).sum(axis=1)
    for name, (_, scale) in zip(tables, (read.units() for read in tables.values()), strict=True):
        known = gplvm.predict(gplvm.data.view(fit, name), x, noise=True)
        logs = norm(known["mean"], known["sd"]).logpdf(new[name].to_numpy())
        expected += logs.sum(axis=1) + np.log(scale).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-8)
    for q in range(2):
        step = np.zeros(2)
        step[q] = 1e-5
        up, down = (density.log_joint(x + s * step, prepared)[0] for s in (1.0, -1.0))
        np.testing.assert_allclose(gradient[:, q], (up - down) / 2e-5, rtol=1e-4, atol=1e-4)
    misfit, slope, _ = density.squares(x, prepared)
    assert (misfit > 0.0).all()
    assert np.isfinite(slope).all()
    assert np.isfinite(density.shortfall(x, prepared)).all()


def test_one_table_of_several_places_rows_as_its_view(fit, new):
    both = gplvm.embed(fit, {"rna": new["rna"]}, **NEW)
    alone = gplvm.embed(gplvm.data.view(fit, "rna"), new["rna"], **NEW)
    one, other = (f["modes"]["X"].isel(mode=0).to_numpy() for f in (both, alone))
    np.testing.assert_allclose(one, other, atol=0.05)
    scores = gplvm.log_predictive(fit, {"rna": new["rna"]}, **NEW)
    known = gplvm.log_predictive(gplvm.data.view(fit, "rna"), new["rna"], **NEW)
    np.testing.assert_allclose(scores["log_score"], known["log_score"], atol=0.5)
    assert scores["obs_new"].to_numpy().tolist() == new["rna"]["obs"].to_numpy().tolist()


def test_two_tables_know_a_place_better_than_one(fit, new):
    one, two = (gplvm.embed(fit, rows, **NEW) for rows in ({"rna": new["rna"]}, new))
    spread = [f["posterior"]["X"].std("draw").mean().item() for f in (one, two)]
    assert spread[1] < spread[0]


def test_what_a_table_says_of_another(fit, new):
    filled = gplvm.impute(fit, {"rna": new["rna"]}, **NEW)
    np.testing.assert_array_equal(filled["mean_rna"], new["rna"])
    assert float(filled["sd_rna"].max()) == 0.0
    assert filled["mean_protein"].dims == ("obs_new", "feature_protein")
    assert filled["obs_new"].to_numpy().tolist() == new["rna"]["obs"].to_numpy().tolist()
    away = filled["mean_protein"].to_numpy() - new["protein"].to_numpy()
    usual = new["protein"].to_numpy() - fit["constant_data"]["Y_mean_protein"].to_numpy()
    assert (away**2).mean() < 0.5 * (usual**2).mean()
    # By hand: the other table's prediction at the positions that embed has drawn.
    x = gplvm.embed(fit, {"rna": new["rna"]}, draws=1000, n_starts=8, **QUIET)["posterior"]["X"][0]
    known = gplvm.predict(gplvm.data.view(fit, "protein"), x.to_numpy().reshape(-1, 2), noise=True)
    mean, sd = (known[n].to_numpy().reshape(*x.shape[:2], -1) for n in ("mean", "sd"))
    total = np.sqrt((sd**2).mean(axis=0) + mean.var(axis=0))
    np.testing.assert_allclose(filled["mean_protein"], mean.mean(axis=0), atol=0.3 * total.max())
    np.testing.assert_allclose(filled["sd_protein"], total, rtol=0.4)


def test_rows_go_in_chunks(fit, new, tmp_path):
    few = {**NEW, "draws": 100, "num_samples": 1}
    rows = {name: table[:5] for name, table in new.items()}
    for verb, Y in ((gplvm.embed, rows), (gplvm.impute, {"rna": rows["rna"]})):
        out = tmp_path / f"{verb.__name__}.zarr"
        parted, whole = verb(fit, Y, out=out, chunk_rows=2, **few), verb(fit, Y, **few)
        assert parted.attrs == whole.attrs
        xr.testing.assert_allclose(parted.load(), whole, rtol=1e-8, atol=1e-8)
    other = {**rows, "protein": rows["protein"][::-1]}
    with pytest.raises(ValueError, match="Y_new must have the same new rows in each table"):
        gplvm.embed(fit, other, out=tmp_path / "other.zarr", **few)


def test_training_rows_that_a_table_lacks_are_filled(fit):
    filled = gplvm.impute(fit)
    assert filled["mean_protein"].sizes == {"obs": 24, "feature_protein": 5}
    assert int((filled["sd_protein"] > 0.0).sum()) == 2 * 5
    assert float(filled["sd_rna"].max()) == 0.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            lambda n: n["rna"],
            r"a mapping from tables .* {'rna': ...}, got DataArray. By one .*view\(fit, 'rna'\)",
        ),
        (lambda n: {}, "name tables of the fit, rna, protein, got none"),
        (lambda n: {"dna": n["rna"]}, "name tables of the fit, rna, protein, got dna"),
        (lambda n: {"rna": n["protein"]}, "In the table 'rna': Y_new must have the 7 columns"),
        (
            lambda n: {"rna": n["rna"], "protein": n["protein"][1:]},
            "the same new rows in each table",
        ),
        (lambda n: {"rna": n["rna"] * np.nan}, "an entry in every row, got 6 rows of NaN alone"),
    ],
)
def test_bad_new_rows_are_told(fit, new, rows, message):
    for verb in (gplvm.embed, gplvm.impute, gplvm.log_predictive):
        with pytest.raises((TypeError, ValueError), match=message):
            verb(fit, rows(new), **NEW)


def test_a_row_may_be_missing_from_a_table(fit, new):
    holes = new["protein"].where(new["protein"]["obs"] != new["protein"]["obs"][0])
    filled = gplvm.impute(fit, {"rna": new["rna"], "protein": holes}, **NEW)
    assert (filled["sd_protein"] > 0.0).sum("feature_protein").to_numpy().tolist() == [
        5,
        0,
        0,
        0,
        0,
        0,
    ]


VERBS = {
    "predict": lambda f: gplvm.predict(f, np.zeros((1, 2))),
    "sample_predictive": lambda f: gplvm.sample_predictive(f, np.zeros((1, 2))),
    "reconstruct": gplvm.reconstruct,
    "add_rows": lambda f: gplvm.add_rows(f, np.zeros((1, 7))),
    "align": gplvm.align,
    "summary": gplvm.summary,
    "diagnose": gplvm.diagnose,
    "compare": lambda f: gplvm.compare({"a": f}),
    "rebuild": gplvm.model.rebuild,
    "leave_one_out": gplvm.diagnostics.leave_one_out,
    "active_dimensions": gplvm.diagnostics.active_dimensions,
    "order": gplvm.diagnostics.order,
    "GPLVM": gplvm.GPLVM.from_fit,
    "plot.latent": gplvm.plot.latent,
    "plot.reconstruction": gplvm.plot.reconstruction,
    "plot.explore": gplvm.plot.explore,
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_takes_one_table_names_the_way_to_it(fit, verb):
    with pytest.raises(
        ValueError, match=r"one of several, rna, protein\. .*gplvm\.data\.view\(fit, 'rna'\)"
    ):
        VERBS[verb](fit)


@pytest.mark.parametrize("name", ["rna", "protein"])
def test_a_view_is_taken_by_every_verb(fit, new, name, tmp_path):
    taken = gplvm.data.view(fit, name)
    assert gplvm.reconstruct(taken)["mean"].notnull().all()
    assert gplvm.impute(taken)["mean"].notnull().all()
    assert gplvm.embed(taken, new[name], **NEW)["rows"]["shortfall"].notnull().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one column of five tells much of X
        assert len(gplvm.compare({"a": taken}, n_neighbors=3)) == 1
    assert f"Table Y: 24 rows and {len(new[name].T)} columns" in str(gplvm.summary(taken))
    assert gplvm.diagnostics.active_dimensions(taken)["relevance"].notnull().all()
    if taken.attrs["method"] != "variational":
        scores = gplvm.diagnostics.leave_one_out(taken)
        assert isinstance(scores, xr.Dataset | xr.DataTree)
    ax = gplvm.plot.latent(taken, grid=3)
    ax.figure.clear()
    again = gplvm.load(gplvm.save(taken, tmp_path / "view.nc"))
    xr.testing.assert_identical(again["posterior"].to_dataset(), taken["posterior"].to_dataset())


# A simulated truth


def two_views(seed, n=160, d=12, noise=0.1, unit=2.0):
    """Tables of draws of Gaussian processes, of two shared positions and one of each by itself."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    tables = []
    for own in (2, 3):
        frequency = rng.standard_normal((3, 300)) / unit
        features = np.cos(X[:, [0, 1, own]] @ frequency + rng.uniform(0.0, 2.0 * np.pi, 300))
        F = features @ rng.standard_normal((300, d)) * np.sqrt(2.0 / 300)
        tables.append(F + noise * rng.standard_normal(F.shape))
    return tables


@pytest.mark.slow
def test_shared_and_private_dimensions_are_found_and_one_view_predicts_the_other():
    n, inside = 100, []
    for seed in range(2):
        first, second = two_views(seed)
        tables = {"first": first[:n], "second": second[:n]}
        fit = gplvm.fit_variational(gplvm.build_model(tables, 6, ard=True), n_inducing=40, **QUIET)
        views = {name: gplvm.data.view(fit, name) for name in tables}
        used = {
            name: set(table.index[table["relevance"] > 0.1])
            for name, table in (
                (name, gplvm.diagnostics.active_dimensions(of)) for name, of in views.items()
            )
        }
        assert len(used["first"] & used["second"]) == 2
        assert len(used["first"] - used["second"]) == len(used["second"] - used["first"]) == 1
        filled = gplvm.impute(fit, {"first": first[n:]}, **QUIET)
        mean, sd, truth = (
            filled["mean_second"].to_numpy(),
            filled["sd_second"].to_numpy(),
            second[n:],
        )
        error = ((mean - truth) ** 2).mean()
        inside.append((np.abs(mean - truth) < norm.ppf(0.945) * sd).mean())
        assert error < 0.5 * ((truth - second[:n].mean(axis=0)) ** 2).mean()
        for k in range(1, 9):  # with what is best for the new rows themselves
            parts = PCA(k).fit(first[:n])
            linear = LinearRegression().fit(parts.transform(first[:n]), second[:n])
            pls = PLSRegression(k).fit(first[:n], second[:n])
            assert error < 0.85 * ((linear.predict(parts.transform(first[n:])) - truth) ** 2).mean()
            assert error < 0.85 * ((pls.predict(first[n:]) - truth) ** 2).mean()
    assert 0.84 < np.mean(inside) < 0.96
    assert min(inside) > 0.8
