"""Several tables of the same rows: joined by label, refused where they cannot be, and one taken out of a fit."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import simulated

import pm_gplvm as gplvm
from pm_gplvm.data.views import as_views

QUIET = {"progressbar": False}


@pytest.fixture
def pair(Y):
    """Two tables of the 12 rows, the second with its rows in another order."""
    other = (Y[::-1, :3] * 2.0 + 1.0).assign_coords(feature=["p", "q", "r"])
    return {"rna": Y, "protein": other}


def test_rows_are_joined_by_label(pair, Y):
    joined = as_views(pair, missing="raise")
    for table in joined.values():
        assert table["obs"].to_numpy().tolist() == Y["obs"].to_numpy().tolist()
        assert table["label"].to_numpy().tolist() == Y["label"].to_numpy().tolist()
    np.testing.assert_array_equal(joined["protein"], pair["protein"][::-1])


def test_tables_without_labels_are_joined_by_position(Y):
    values = Y.to_numpy()
    joined = as_views({"a": Y, "b": values[:, :2]}, missing="raise")
    np.testing.assert_array_equal(joined["b"], values[:, :2])
    assert joined["b"]["obs"].to_numpy().tolist() == Y["obs"].to_numpy().tolist()


def test_what_a_table_lacks_is_missing_with_a_mask(Y):
    left, right = Y[:10], Y[[11, 3, 2, 5, 10]][:, :2]
    joined = as_views({"a": left, "b": right}, missing="mask")
    rows = [*left["obs"].to_numpy(), "row11", "row10"]
    assert joined["a"]["obs"].to_numpy().tolist() == rows
    assert "label" not in joined["a"].coords  # neither table has it for all rows
    for name, table in (("a", left), ("b", right)):
        there = joined[name].sel(obs=table["obs"].to_numpy())
        np.testing.assert_array_equal(there, table)
        assert int(joined[name].isnull().all("feature").sum()) == len(rows) - len(table)


CONSTANT = np.ones((12, 2))

BAD = [
    ({}, {}, "at least one table where it is a mapping, got an empty one. Pass tables by name"),
    ({3: "Y"}, {}, "a name of letters, digits and '_', not beginning with a digit, got 3"),
    ({"rna seq": "Y"}, {}, "got 'rna seq': variables are named after it .* Rename it"),
    ({"mean": "Y"}, {}, "got mean, by which 'Y_mean' would be two. Rename one"),
    ({"x": "Y", "mean_x": "Y"}, {}, "got x, mean_x, by which 'Y_mean_x' would be two"),
    ({"a": "Y", "b": CONSTANT}, {}, "In the table 'b': Y has 12 equal rows: there is nothing"),
    ({"a": "Y", "b": "text"}, {}, "In the table 'b': Y must"),
    ({"a": "Y", "b": np.ones((5, 2)) * np.arange(2)}, {}, "In the table 'b': Y has 5 equal rows"),
    (
        {"a": "Y", "b": np.arange(10.0).reshape(5, 2)},
        {},
        "got 12 in 'a' and 5 in 'b', and no labels",
    ),
    ({"a": "Y", "b": "few"}, {}, "got 7 rows that 'b' lacks: row5, .* Pass missing='mask'"),
    ({"a": "few", "b": "Y"}, {}, "got 7 rows that 'a' lacks: row5, .* Pass missing='mask'"),
    (
        {"a": "Y", "b": "other"},
        {},
        "rows in common, got none in 'b' .x0, .*Give them the same labels",
    ),
    (
        {"a": "Y", "b": "turned", "c": CONSTANT * np.arange(12)[:, None]},
        {},
        "other labels in 'a' and 'b'",
    ),
    ({"a": "twice", "b": "turned"}, {}, "labels of their rows, which repeat in 'a' .row0"),
    (
        {"a": "Y", "b": "Y"},
        {"noise": "column"},
        "noise is of a model of one table, got noise='column'",
    ),
    ({"a": "Y", "b": "Y"}, {"likelihood": "poisson"}, "likelihood is of a model of one table"),
    ({"a": "Y", "b": "Y"}, {"offset": "size"}, "offset is of a model of one table"),
    (
        {"a": "Y", "b": "Y"},
        {"priors": {"sigma_c": 1.0}},
        "name parameters of this model .*, got sigma_c",
    ),
    (
        {"a": "Y", "b": "Y"},
        {"priors": {"X": gplvm.priors.back_constraint()}},
        "must not be a back_constraint",
    ),
    ({"a": "Y", "b": "Y"}, {"latent_dim": 9, "kernel": "linear"}, "at most .* = 8 .*, got 9"),
    ({"a": "named", "b": "Y"}, {}, "must not have a coordinate called 'view' on its rows"),
]


@pytest.mark.parametrize(("given", "options", "message"), BAD)
def test_bad_tables_are_told(given, options, message, Y):
    tables = {
        "Y": Y,
        "text": "text",
        "few": Y[:5],
        "turned": Y[::-1],
        "other": Y.assign_coords(obs=[f"x{i}" for i in range(12)]),
        "twice": Y.assign_coords(obs=["row0", *Y["obs"].to_numpy()[:-1]]),
        "named": Y.assign_coords(view=("obs", np.arange(12))),
    }
    given = {name: tables[of] if isinstance(of, str) else of for name, of in given.items()}
    with pytest.raises((TypeError, ValueError), match=message):
        gplvm.build_model(given, **options)


def test_a_dataset_is_no_mapping_of_tables(Y):
    with pytest.raises((TypeError, ValueError), match=r"Y must"):
        gplvm.build_model(xr.Dataset({"a": Y, "b": Y}))


@pytest.fixture(scope="module")
def fit():
    Y = simulated(20, 12)
    other = (Y[::-1, :3] * 2.0 + 1.0).assign_coords(feature=["p", "q", "r"])
    model = gplvm.build_model({"rna": Y, "protein": other}, 2, ard=True)
    return gplvm.fit_map(model, random_seed=1, **QUIET)


def test_a_view_is_a_fit_of_its_table(fit):
    Y = simulated(20, 12)
    taken = gplvm.data.view(fit, "protein")
    assert taken["observed_data"]["Y"].dims == ("feature", "obs")
    assert taken["observed_data"]["feature"].to_numpy().tolist() == ["p", "q", "r"]
    np.testing.assert_allclose(taken["observed_data"]["Y"].T, Y[:, :3] * 2.0 + 1.0)
    assert list(taken["posterior"].data_vars) == ["X", "lengthscale", "amplitude", "sigma"]
    assert set(taken["constant_data"].data_vars) == {"Y_mean", "Y_scale", "Y_resolution"}
    for name in ("lengthscale", "amplitude", "sigma"):
        mine, whole = taken["posterior"][name], fit["posterior"][f"{name}_protein"]
        np.testing.assert_array_equal(mine, whole)
    assert taken.attrs["view"] == "protein"
    assert taken.attrs["observed"] == "Y"
    assert set(json.loads(taken.attrs["priors"])) == {"X", "lengthscale", "amplitude", "sigma"}
    assert not any("rna" in str(name) for group in taken.subtree for name in group.variables)
    stats = taken["sample_stats"]
    assert set(stats.data_vars) == {"lp", "log_likelihood"}
    by_hand = gplvm.diagnostics.compute_log_likelihood(taken)
    assert float(stats["log_likelihood"][0, 0]) == pytest.approx(
        float(by_hand["log_likelihood"]["Y"].sum()), rel=1e-9
    )


def test_the_views_share_the_log_likelihood(fit):
    stats = fit["sample_stats"]
    parts = [stats[f"log_likelihood_{name}"][0, 0].item() for name in ("rna", "protein")]
    assert stats["log_likelihood"][0, 0].item() == pytest.approx(sum(parts), rel=1e-10)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_fit_of_views_is_saved_whole(fit, suffix, tmp_path):
    again = gplvm.load(gplvm.save(fit, tmp_path / f"fit.{suffix}"))
    assert again.attrs["views"] == fit.attrs["views"]
    for name in ("rna", "protein"):
        one, other = (gplvm.data.view(of, name) for of in (fit, again))
        xr.testing.assert_identical(one["posterior"].to_dataset(), other["posterior"].to_dataset())
        np.testing.assert_array_equal(
            gplvm.reconstruct(one)["mean"], gplvm.reconstruct(other)["mean"]
        )


def test_a_model_is_built_again_of_a_view(fit):
    model = gplvm.model.rebuild(gplvm.data.view(fit, "rna"))
    assert [rv.name for rv in model.free_RVs] == ["X", "lengthscale", "amplitude", "sigma"]


def test_what_has_no_views_is_told(fit, Y):
    with pytest.raises(ValueError, match=r"name must be one of .* rna, protein, got 'dna'"):
        gplvm.data.view(fit, "dna")
    taken = gplvm.data.view(fit, "rna")
    with pytest.raises(
        ValueError, match=r"view needs a fit of several tables.*got one of a single"
    ):
        gplvm.data.view(taken, "rna")
    with pytest.raises(TypeError, match="view needs a fit"):
        gplvm.data.view({"rna": Y}, "rna")


def test_tables_of_pandas(Y):
    frames = {
        "a": pd.DataFrame(Y.to_numpy(), index=Y["obs"].to_numpy()),
        "b": pd.DataFrame(Y.to_numpy()[::-1], index=Y["obs"].to_numpy()[::-1]),
    }
    joined = as_views(frames, missing="raise")
    np.testing.assert_array_equal(joined["a"], joined["b"])
