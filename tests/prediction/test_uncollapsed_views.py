"""New rows of several tables fitted by minibatches: their density by hand, one table from another, a truth."""

import numpy as np
import pandas as pd
import pytest
from oracles import central_differences
from scipy.stats import norm

import pm_gplvm as gplvm
from pm_gplvm.data.views import NewRows, tables_of_fit
from pm_gplvm.prediction.row_posterior import Rows
from pm_gplvm.prediction.uncollapsed import (
    JoinedDensity,
    each_uncollapsed_density,
    offsets_of,
    with_offsets,
)

QUIET = {"progressbar": False, "random_seed": 1}
NEW = {"draws": 150, "n_starts": 6, **QUIET}
NAMES = ("rna", "protein")
KINDS = {"rna": "poisson", "protein": "gaussian"}
pytestmark = pytest.mark.filterwarnings("ignore:fit_svi ended")


def simulated_tables(seed, n, d=10, rate=2.0, unit=2.0, noise=0.1):
    """Counts and numbers of n rows, functions of two shared positions and one of each by itself."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    F = []
    for own in (2, 3):
        frequency = rng.standard_normal((3, 300)) / unit
        features = np.cos(X[:, [0, 1, own]] @ frequency + rng.uniform(0.0, 2.0 * np.pi, 300))
        F.append(features @ rng.standard_normal((300, d)) * np.sqrt(2.0 / 300))
    counts = rng.poisson(np.exp(F[0] + rate)).astype(float)
    numbers = F[1] + noise * rng.standard_normal(F[1].shape)
    rows = [f"row{i}" for i in range(n)]
    return {
        name: pd.DataFrame(table, index=rows)
        for name, table in zip(NAMES, (counts, numbers), strict=True)
    }


@pytest.fixture(scope="module")
def tables():
    return simulated_tables(1, 46, d=6)


def fitted(tables, **given):
    return gplvm.fit_svi(tables, 2, **{"n_inducing": 8, "epochs": 40, **QUIET, **given})


@pytest.fixture(scope="module")
def fit(tables):
    """Rows that one table lacks, sizes, a noise of each column."""
    numbers = gplvm.likelihoods.gaussian("column")
    return fitted(
        {"rna": tables["rna"][:40], "protein": tables["protein"][3:40]},
        likelihood={"rna": "negative_binomial", "protein": numbers},
        offset={"rna": "size", "protein": None},
    )


@pytest.fixture(scope="module")
def plain(tables):
    """One noise of whole columns, whose density is short."""
    return fitted({name: table[:40] for name, table in tables.items()}, likelihood=KINDS)


@pytest.fixture
def new(tables):
    return {name: table[40:] for name, table in tables.items()}


def density_of(fit, rows):
    """The density of new rows of all tables, and the rows as it takes them."""
    tables = tables_of_fit(fit, caller="test")
    given = NewRows.of(tables, rows)
    F = given.standardised
    zero, one = np.zeros((len(F), 2)), np.ones((len(F), 2))
    plain = Rows(np.nan_to_num(F), ~np.isnan(F), zero, one)
    joined = with_offsets(plain, given, offsets_of(tables, given, None))
    (density,) = each_uncollapsed_density(list(tables.values()), 1)
    assert isinstance(density, JoinedDensity)
    return density, density.prepared(joined)


@pytest.mark.parametrize("kind", ["fit", "plain"])
def test_the_density_of_a_row_is_the_product_of_the_tables(kind, request, new, rng):
    fit = request.getfixturevalue(kind)
    density, rows = density_of(fit, new)
    x = rng.normal(size=(6, 2))
    exact, _ = density.log_joint_and_variance(np.repeat(x[:, None], 2, axis=1), rows)
    expected = norm.logpdf(x).sum(axis=1)
    for name in NAMES:
        alone, of_one = density_of(fit, {name: new[name]})
        value, _ = alone.log_joint_and_variance(x[:, None], of_one)
        expected += value[:, 0] - norm.logpdf(x).sum(axis=1)
    np.testing.assert_allclose(exact, np.repeat(expected[:, None], 2, axis=1), rtol=1e-9)
    value, slope = density.log_joint(x, rows)
    np.testing.assert_allclose(value, expected, atol=0.02)  # by fewer points in f
    numeric = central_differences(lambda p: density.log_joint(p["x"], rows)[0].sum(), {"x": x})
    np.testing.assert_allclose(slope, numeric["x"], rtol=1e-3, atol=1e-3)
    slope = density.squares(x, rows)[1]
    numeric = central_differences(lambda p: density.squares(p["x"], rows)[0].sum(), {"x": x})
    np.testing.assert_allclose(slope, numeric["x"], rtol=1e-3, atol=1e-3)
    assert np.isfinite(density.shortfall(x, rows)).all()
    assert (density.misfits(rows) >= 0.0).all()


def test_numbers_alone_are_as_predict_says(fit, new, rng):
    """The Gaussian table by its own predictions; of the counts nothing is known."""
    density, rows = density_of(fit, {"protein": new["protein"]})
    x = rng.normal(size=(6, 2))
    own = gplvm.data.view(fit, "protein")
    known = gplvm.predict(own, x, noise=True)
    logs = norm(known["mean"], known["sd"]).logpdf(new["protein"].to_numpy()).sum(axis=1)
    logs += np.log(own["constant_data"]["Y_scale"].to_numpy()).sum() + norm.logpdf(x).sum(axis=1)
    value, _ = density.log_joint(x, rows)
    np.testing.assert_allclose(value, logs, rtol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_one_table_of_several_places_rows_as_its_view(fit, new, name):
    both, alone = (
        gplvm.embed(of, rows, **NEW)
        for of, rows in ((fit, {name: new[name]}), (gplvm.data.view(fit, name), new[name]))
    )
    one, other = (f["modes"]["X"].isel(mode=0).to_numpy() for f in (both, alone))
    np.testing.assert_allclose(one, other, atol=0.1)
    scores = gplvm.log_predictive(fit, {name: new[name]}, **NEW)["log_score"]
    known = gplvm.log_predictive(gplvm.data.view(fit, name), new[name], **NEW)["log_score"]
    np.testing.assert_allclose(scores, known, atol=1.0)


def test_what_a_table_says_of_another(fit, new):
    filled = gplvm.impute(fit, {"rna": new["rna"]}, **NEW)
    np.testing.assert_array_equal(filled["mean_rna"], new["rna"])
    x = gplvm.embed(fit, {"rna": new["rna"]}, **NEW | {"draws": 600})["posterior"]["X"][0]
    own = gplvm.data.view(fit, "protein")
    known = gplvm.predict(own, x.to_numpy().reshape(-1, 2), noise=True)
    mean, sd = (known[n].to_numpy().reshape(*x.shape[:2], -1) for n in ("mean", "sd"))
    total = np.sqrt((sd**2).mean(axis=0) + mean.var(axis=0))
    np.testing.assert_allclose(filled["mean_protein"], mean.mean(axis=0), atol=0.3 * total.max())
    np.testing.assert_allclose(filled["sd_protein"], total, rtol=0.4)
    two = gplvm.embed(fit, new, **NEW)["posterior"]["X"].std("draw").mean().item()
    one = gplvm.embed(fit, {"rna": new["rna"]}, **NEW)["posterior"]["X"].std("draw").mean().item()
    assert two < one


def test_a_row_may_be_missing_from_a_table(fit, new):
    rows = dict(new)
    rows["rna"] = new["rna"].copy()
    rows["rna"].iloc[0] = np.nan
    filled = gplvm.impute(fit, rows, **NEW)
    assert (filled["sd_rna"] > 0.0).sum("feature_rna").to_numpy().tolist() == [6, 0, 0, 0, 0, 0]


def test_offsets_are_given_by_table(tables, new, tmp_path):
    exposure = {"rna": np.linspace(0.0, 1.0, 40), "protein": None}
    own = {name: table[:40] for name, table in tables.items()}
    fit = fitted(own, likelihood=KINDS, offset=exposure)
    with pytest.raises(
        ValueError, match=r"In the table 'rna': embed needs the offset of each new row"
    ):
        gplvm.embed(fit, new, **NEW)
    with pytest.raises(ValueError, match=r"offset must be a mapping from tables .* got ndarray"):
        gplvm.embed(fit, new, offset=np.zeros(6), **NEW)
    with pytest.raises(ValueError, match=r"offset must be a mapping from tables .* got dna"):
        gplvm.embed(fit, new, offset={"dna": 0.0}, **NEW)
    low, high = (
        gplvm.impute(fit, {"protein": new["protein"]}, offset={"rna": np.full(6, v)}, **NEW)
        for v in (0.0, 0.5)
    )
    np.testing.assert_allclose(high["mean_rna"], np.exp(0.5) * low["mean_rna"], rtol=1e-6)
    gplvm.embed(
        fit, {"protein": new["protein"]}, **NEW
    )  # of a table that is not asked none is needed
    # By row, also where the rows go in chunks.
    told = {"offset": {"rna": np.linspace(0.0, 1.0, 6)}, **NEW}
    for verb, of, name in ((gplvm.embed, new, "modes/X"), (gplvm.impute, new, "mean_rna")):
        whole = verb(fit, of, **told)
        chunks = verb(fit, of, **told, out=tmp_path / f"{verb.__name__}.zarr", chunk_rows=3)
        np.testing.assert_allclose(chunks[name], whole[name], rtol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_taken_by_every_verb(fit, new, name, tmp_path):
    taken = gplvm.data.view(fit, name)
    assert gplvm.reconstruct(taken)["mean"].notnull().all()
    assert len(gplvm.compare({"a": taken}, n_neighbors=3)) == 1
    assert "Table Y: 40 rows and 6 columns" in str(gplvm.summary(taken))
    scores = gplvm.diagnostics.score_entries(taken, taken["observed_data"]["Y"].to_numpy())
    lacking = int(taken["observed_data"]["Y"].isnull().sum())
    assert int(scores["log_density"].isnull().sum()) == lacking
    assert gplvm.add_rows(taken, new[name], **QUIET)["posterior"].sizes["obs"] == 46
    gplvm.plot.latent(taken, grid=3).figure.clear()
    again = gplvm.load(gplvm.save(taken, tmp_path / "view.nc"))
    assert again["approximation"].to_dataset().identical(taken["approximation"].to_dataset())
    with pytest.raises(ValueError, match=r"one of several, rna, protein"):
        gplvm.add_rows(fit, new[name])


def test_a_bar_of_each_table(fit):
    ax = gplvm.plot.relevance(fit)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(NAMES)
    ax.figure.clear()


def test_shared_and_private_dimensions_are_found_and_one_view_predicts_the_other():
    n = 80
    tables = simulated_tables(0, 105, rate=3.0)
    fit = gplvm.fit_svi(
        {name: table[:n] for name, table in tables.items()},
        4,
        likelihood=KINDS,
        n_inducing=15,
        epochs=400,
        batch_size=40,
        **QUIET,
    )
    used = {}
    for name in NAMES:
        found = gplvm.diagnostics.active_dimensions(gplvm.data.view(fit, name))
        used[name] = set(found.index[found["relevance"] > 0.1])
    assert len(used["rna"] & used["protein"]) == 2
    assert len(used["rna"] - used["protein"]) == len(used["protein"] - used["rna"]) == 1
    truth, usual = tables["protein"][n:].to_numpy(), tables["protein"][:n].to_numpy().mean(axis=0)
    filled = gplvm.impute(fit, {"rna": tables["rna"][n:]}, **NEW | {"draws": 400})
    away = filled["mean_protein"].to_numpy() - truth
    assert (away**2).mean() < 0.6 * ((usual - truth) ** 2).mean()
    inside = (np.abs(away) < norm.ppf(0.945) * filled["sd_protein"].to_numpy()).mean()
    assert 0.82 < inside < 0.98
