"""compare: each number by another route, what it does not depend on, and what it refuses."""

import numpy as np
import pytest
from made import fit_of, rotations, signed_permutations, turned
from oracles import column_logps, kernel_matrix, neighbour_errors
from scipy.spatial.distance import cdist
from sklearn.manifold import trustworthiness

import pm_gplvm as gplvm
from pm_gplvm.core.procrustes import distance_correlation, procrustes_distance
from pm_gplvm.data.fit import Fit

THETA = {"lengthscale": 0.8, "amplitude": 1.3, "sigma": 0.4}


@pytest.fixture(scope="module")
def small(Y):
    return gplvm.build_model(Y, resolution=0)


def draws_about(centre, shape, spread, rng):
    return centre + spread * rng.standard_normal((*shape, *centre.shape))


@pytest.fixture(scope="module")
def fits(small):
    rng = np.random.default_rng(8)
    centre = rng.standard_normal((12, 2))
    return {
        "one": fit_of(small, centre[None, None], **THETA),
        "many": fit_of(small, draws_about(centre, (2, 20), 0.03, rng), **THETA),
    }


# Neighbours


def nearest(X, k):
    """The k nearest other rows of each, by sorting all distances."""
    distances = cdist(X, X)
    np.fill_diagonal(distances, np.inf)
    return [set(np.argsort(row)[:k].tolist()) for row in distances]


def test_neighbour_probabilities_are_shares_of_the_draws(fits):
    found = gplvm.diagnostics.neighbour_probabilities(fits["many"], n_neighbors=3)
    X = fits["many"].posterior["X"].to_numpy().reshape(-1, 12, 2)
    sets = [nearest(x, 3) for x in X]
    for i, j in np.ndindex(12, 12):
        share = np.mean([j in near[i] for near in sets])
        assert float(found[i, j]) == pytest.approx(share)
    np.testing.assert_allclose(found.sum("neighbour"), 3.0)
    assert found["obs"].to_numpy().tolist() == found["neighbour"].to_numpy().tolist()


def test_ard_measures_in_each_lengthscale(Y, rng):
    model = gplvm.build_model(Y, ard=True)
    X = rng.standard_normal((1, 1, 12, 2))
    fit = fit_of(model, X, amplitude=1.0, sigma=0.4, lengthscale=[[[1.0, 1000.0]]])
    found = gplvm.diagnostics.neighbour_probabilities(fit, n_neighbors=2).to_numpy()
    assert [set(np.flatnonzero(row).tolist()) for row in found] == nearest(X[0, 0, :, :1], 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_neighbors": 12}, "n_neighbors must be below the number of rows, 12, got 12"),
        ({"n_neighbors": 0}, "n_neighbors must be a whole number of at least 1, got 0"),
        ({"num_samples": 1.5}, "num_samples must be a whole number of at least 1, got 1.5"),
    ],
)
def test_wrong_counts(fits, settings, message):
    with pytest.raises(ValueError, match=message):
        gplvm.diagnostics.neighbour_probabilities(fits["one"], **settings)
    with pytest.raises(ValueError, match=message):
        gplvm.compare(fits, **settings)


# The table


def test_every_number_by_another_route(fits, Y):
    table = gplvm.compare(fits, labels="label", n_neighbors=3)
    assert table.index.tolist() == ["one", "many"]
    F = (Y.to_numpy() - Y.to_numpy().mean(axis=0)) / fits["one"].constant_data["Y_scale"].to_numpy()
    target = fits["one"].posterior["X"].to_numpy()[0, 0]
    draws = fits["many"].posterior["X"].to_numpy().reshape(-1, 12, 2)
    mean, scale = (fits["one"].constant_data[n].to_numpy() for n in ("Y_mean", "Y_scale"))
    logps = [
        column_logps(Y.to_numpy(), kernel_matrix("rbf", x, **THETA), mean, scale).sum()
        for x in draws
    ]
    labels = Y["label"].to_numpy()
    right = [1.0 - neighbour_errors(x, labels) / 12 for x in draws]

    def kept(tables, others):
        return np.mean(
            [
                len(a & b) / 3
                for x in tables
                for a, b in zip(nearest(x, 3), nearest(others, 3), strict=True)
            ]
        )

    row = table.loc["many"]
    expected = {
        "log_likelihood": np.mean(logps),
        "log_likelihood_sd": np.std(logps, ddof=1),
        "sd_X": np.mean([np.sqrt(x.var(axis=0).mean()) for x in draws]),
        "sd_Z": np.mean([np.sqrt(x.var(axis=0).mean()) for x in draws]) / 0.8,
        "procrustes": np.mean([procrustes_distance(x, target) for x in draws]),
        "procrustes_ub": np.quantile([procrustes_distance(x, target) for x in draws], 0.945),
        "distance_correlation": np.mean([distance_correlation(x, target) for x in draws]),
        "distance_correlation_Y": np.mean([distance_correlation(x, F) for x in draws]),
        "trustworthiness": np.mean([trustworthiness(F, x, n_neighbors=3) for x in draws]),
        "neighbours": kept(draws, target),
        "neighbours_Y": kept(draws, F),
        "nn_agreement": np.mean(right),
        "nn_agreement_lb": np.quantile(right, 0.055),
        "lengthscale": 0.8,
        "sigma_lb": 0.4,
        "draws": 40,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-9), name
    assert (row["method"], row["elpd_entry"]) == (
        "made",
        pytest.approx(float(gplvm.diagnostics.leave_one_out(fits["many"])["log_score"].sum())),
    )


def test_one_draw_has_no_spread(fits):
    row = gplvm.compare(fits).loc["one"]
    assert row["procrustes"] == pytest.approx(0.0, abs=1e-12)
    assert row[["neighbours", "distance_correlation"]].tolist() == pytest.approx([1.0, 1.0])
    assert row[["log_likelihood_sd", "sigma_lb", "procrustes_ub", "elpd_feature"]].isna().all()
    assert np.isfinite(row["elpd_entry"])


def test_no_number_depends_on_the_frame_of_a_draw(fits, small, rng):
    X = fits["many"].posterior["X"].to_numpy()
    moved = fit_of(small, turned(X, rotations(rng, (2, 20), 2)), **THETA)
    table = gplvm.compare({"here": fits["many"], "there": moved}, reference=fits["one"])
    numbers = table.drop(columns=["method"]).astype(float)
    np.testing.assert_allclose(numbers.loc["here"], numbers.loc["there"], rtol=1e-6)


def test_ard_lengthscales_are_sorted_in_each_draw(Y, rng):
    model = gplvm.build_model(Y, ard=True)
    W = signed_permutations(rng, (2, 10), 2)
    scale = np.abs(np.einsum("cdlf,f->cdl", W, [0.5, 2.0]))
    X = turned(np.broadcast_to(rng.standard_normal((12, 2)), (2, 10, 12, 2)), W)
    row = gplvm.compare({"ard": fit_of(model, X, lengthscale=scale, amplitude=1.0, sigma=0.4)}).loc[
        "ard"
    ]
    assert row[["lengthscale[0]", "lengthscale[1]"]].tolist() == pytest.approx([0.5, 2.0])
    assert row["procrustes"] == pytest.approx(0.0, abs=1e-12)


def test_the_reference_may_be_named_or_given(fits):
    centre = fits["one"].posterior["X"].to_numpy()[0, 0]
    columns = ["procrustes", "distance_correlation", "neighbours"]
    expected = gplvm.compare(fits)[columns]
    for reference in ("one", fits["one"], centre):
        np.testing.assert_allclose(
            gplvm.compare(fits, reference=reference)[columns], expected, atol=1e-12
        )
    assert gplvm.compare(fits, reference="many").loc["one", "procrustes"] > 0.0


def test_models_of_another_size_and_kernel_stand_in_one_table(fits, Y):
    line = gplvm.fit_map(gplvm.build_model(Y, 1, kernel="linear"), progressbar=False)
    table = gplvm.compare({**fits, "line": line})
    assert np.isnan(table.loc["line", "lengthscale"])
    assert 0.0 < table.loc["line", "procrustes"] <= 1.0


def test_at_most_so_many_draws_are_used(fits):
    assert gplvm.compare(fits, num_samples=7)["draws"].tolist() == [1, 6]
    few = Fit(fits["many"]).thinned(7).tree
    assert few["sample_stats"].sizes["draw"] == 3
    np.testing.assert_array_equal(few["posterior"]["draw"], [0, 7, 14])


def test_scores_of_rows_are_taken_up(fits):
    import xarray as xr

    N = fits["one"]["posterior"].sizes["obs"]
    values = -np.arange(1.0, N + 1)
    scores = xr.Dataset({"log_score": ("obs", values)})
    table = gplvm.compare(fits, kfold={"one": scores})
    assert table.loc["one", "elpd_row"] == values.sum()
    assert table.loc["one", "elpd_row_se"] == pytest.approx(np.sqrt(N * values.var()))
    assert np.isnan(table.loc["many", "elpd_row"])
    with pytest.raises(ValueError, match=r"kfold must name fits \(one, many\), got three"):
        gplvm.compare(fits, kfold={"three": scores})
    with pytest.raises(ValueError, match=rf"score of each of the {N} rows .* got shape \(5,\)"):
        gplvm.compare(fits, kfold={"one": scores.isel(obs=slice(5))})
    with pytest.raises(TypeError, match="kfold must hold results of cross_validate, got float"):
        gplvm.compare(fits, kfold={"one": 3.0})


def test_a_large_pareto_k_is_said(small, rng):
    wide = fit_of(small, rng.standard_normal((1, 60, 12, 2)), **THETA)
    with pytest.warns(RuntimeWarning, match=r"elpd_feature is unreliable for wide \(") as caught:
        table = gplvm.compare({"wide": wide})
    assert caught[0].filename == __file__
    assert table.loc["wide", "elpd_feature_k"] > 0.7


# Hyperparameters and labels


def test_the_table_of_theta_holds_what_it_says(best, theta):
    table = gplvm.diagnostics.summarise_theta(best, theta)
    assert table.index.tolist() == ["lengthscale", "amplitude", "sigma"]
    draws = theta.posterior["sigma"].to_numpy()
    assert table.loc["sigma", "mean"] == pytest.approx(draws.mean())
    assert table.loc["sigma", "sd"] == pytest.approx(draws.std(ddof=1))
    assert table.loc["sigma", "estimate"] == pytest.approx(best.posterior["sigma"].item())
    # The mode lies within the draws: θ is well known given X.
    assert (np.abs(table["estimate"] - table["mean"]) < 3 * table["sd"]).all()


def test_unknown_coordinates_are_named(best):
    assert len(Fit(best).labels("label")) == 30
    with pytest.raises(ValueError, match="no coordinate 'stage' along its rows, got obs, label"):
        Fit(best).labels("stage")


# Turned away


def test_fits_of_different_tables_are_named(fits, Y, best):
    with pytest.raises(
        ValueError, match=r"got in 'one' and 'digits' 12 rows and 4 features, and 30 and 64"
    ):
        gplvm.compare({**fits, "digits": best})
    other = Y.copy()
    other[0, 0] += 1.0
    model = gplvm.build_model(other)
    changed = fit_of(model, np.random.default_rng(0).standard_normal((1, 1, 12, 2)), **THETA)
    with pytest.raises(ValueError, match=r"got in 'one' and 'other' 1 entries that differ"):
        gplvm.compare({"one": fits["one"], "other": changed})


def test_what_is_no_mapping_of_fits(best):
    with pytest.raises(TypeError, match="compare needs a mapping such as"):
        gplvm.compare(best)
    with pytest.raises(ValueError, match="compare needs at least one fit"):
        gplvm.compare({})
    with pytest.raises(TypeError, match="compare needs a fit"):
        gplvm.compare({"a": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": "three"}, r"reference must name a fit \(one, many\), got 'three'"),
        (
            {"reference": np.zeros((3, 2))},
            r"one finite position a row, \(12, Q\), got shape \(3, 2\)",
        ),
        ({"labels": "stage"}, "no coordinate 'stage'"),
        ({"labels": [1, 2]}, "labels must have one entry a row, 12"),
    ],
)
def test_wrong_arguments(fits, settings, message):
    with pytest.raises(ValueError, match=message):
        gplvm.compare(fits, **settings)
