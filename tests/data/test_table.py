"""Kinds of tables, those that are refused, their scale and their grid."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn.datasets
import xarray as xr
from oracles import centre_and_spread

import pm_gplvm as gplvm
from pm_gplvm.data.datasets import load_table
from pm_gplvm.data.table import (
    as_table,
    centre_and_scale,
    grid_steps,
    resolution_of,
    warn_of_odd_table,
)


@pytest.fixture
def numbers(rng):
    return rng.normal(size=(5, 3))


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: a.astype(">f8"),
        lambda a: np.ma.masked_array(a),
        pd.DataFrame,
        lambda a: xr.DataArray(a),
        lambda a: pd.DataFrame(a).convert_dtypes(),
        lambda a: a.astype(object),
    ],
    ids=["list", "fortran", "big-endian", "masked", "frame", "dataarray", "nullable", "object"],
)
def test_every_kind_of_table_gives_the_same_numbers(convert, numbers):
    table = as_table(convert(numbers))
    assert table.dims == ("obs", "feature")
    assert table.dtype == np.float64
    assert table.dtype.isnative
    np.testing.assert_array_equal(table, numbers)


@pytest.mark.parametrize("dtype", ["int64", "int8", "float32", "uint16", "bool"])
def test_other_numbers_equal_their_float64(dtype, numbers):
    given = np.maximum(numbers * 10, 0.0).astype(dtype)
    table = as_table(given)
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table, given.astype("float64"))


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_other_numbers_give_the_same_log_likelihood(dtype, numbers, mode):
    given = np.round(numbers * 10).astype(dtype)
    fixed = {"X": numbers[:, :2], "lengthscale": 1.0, "amplitude": 1.0}
    values = []
    for table in (given, given.astype("float64")):
        model = gplvm.build_model(table, priors=fixed)
        values.append(
            model.point_logps({"sigma_log__": np.array(-1.0)}, round_vals=14, mode=mode)["Y"]
        )
    assert values[0] == values[1]


def test_table_is_a_copy_of_its_own(numbers):
    before = numbers.copy()
    model = gplvm.build_model(numbers)
    numbers[:] = 0.0
    np.testing.assert_array_equal(model["Y_data"].get_value(), before.T)


def test_frame_keeps_its_names(numbers):
    frame = pd.DataFrame(numbers, index=list("vwxyz"), columns=["a", "b", "c"])
    table = as_table(frame)
    assert table["obs"].to_numpy().tolist() == list("vwxyz")
    assert table["feature"].to_numpy().tolist() == ["a", "b", "c"]


def test_frame_of_mixed_numbers(numbers):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "c": [True, False, True]})
    np.testing.assert_array_equal(as_table(frame), [[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 1]])


def test_multiindex_becomes_text(numbers):
    index = pd.MultiIndex.from_product([["a"], range(5)])
    columns = pd.MultiIndex.from_product([["x"], list("uvw")])
    table = as_table(pd.DataFrame(numbers, index=index, columns=columns))
    assert table["obs"].to_numpy().tolist() == [f"a {i}" for i in range(5)]
    assert table["feature"].to_numpy().tolist() == ["x u", "x v", "x w"]


def test_dates_name_rows(numbers):
    index = pd.date_range("2024-01-01", periods=5)
    table = as_table(pd.DataFrame(numbers, index=index))
    np.testing.assert_array_equal(table["obs"], index.to_numpy())


def test_dataarray_with_its_dims_turned(numbers):
    turned = xr.DataArray(numbers.T, dims=("feature", "obs"), coords={"obs": list("vwxyz")})
    table = as_table(turned)
    assert table.dims == ("obs", "feature")
    np.testing.assert_array_equal(table, numbers)
    assert table["obs"].to_numpy().tolist() == list("vwxyz")


@pytest.mark.parametrize(
    "dims", [("cell", "gene"), ("obs", "gene"), ("cell", "feature")], ids=["none", "obs", "feature"]
)
def test_dataarray_with_other_dims(dims, numbers):
    table = as_table(xr.DataArray(numbers, dims=dims))
    assert table.dims == ("obs", "feature")
    np.testing.assert_array_equal(table, numbers)


def test_dataarray_keeps_labels_along_the_rows(numbers):
    given = xr.DataArray(
        numbers,
        dims=("cell", "gene"),
        coords={"cell": list("vwxyz"), "label": ("cell", list("aabbc")), "note": "a scalar"},
    )
    table = as_table(given)
    assert set(table.coords) == {"obs", "feature", "label"}
    assert table["label"].dims == ("obs",)
    assert table["label"].to_numpy().tolist() == list("aabbc")


def test_repeated_rows_and_names_are_allowed(numbers):
    numbers[3] = numbers[1]
    frame = pd.DataFrame(numbers, index=["a", "a", "b", "b", "c"])
    assert as_table(frame).shape == (5, 3)
    model = gplvm.build_model(frame)
    assert tuple(model.coords["obs"]) == ("a", "a", "b", "b", "c")


def test_duplicate_rows_are_told_and_fitted_at_one_place(numbers):
    numbers[3] = numbers[1]
    with pytest.warns(RuntimeWarning, match=r"1 rows that are exact copies .* fitted once"):
        fit = gplvm.fit_map(gplvm.build_model(numbers), progressbar=False)
    X = fit["posterior"]["X"].to_numpy()[0, 0]
    np.testing.assert_array_equal(X[3], X[1])
    assert len(np.unique(X, axis=0)) == 4


# Turned away


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            np.nan,
            r"1 missing \(NaN\) and 0 infinite values, first at obs 3, feature 1\. Drop or impute",
        ),
        (
            np.inf,
            r"0 missing \(NaN\) and 1 infinite values, first at obs 3, feature 1\. Drop or impute",
        ),
        (-np.inf, r"0 missing \(NaN\) and 1 infinite values"),
    ],
)
def test_missing_and_infinite_values_are_counted_and_placed(bad, message, numbers):
    numbers[3, 1] = bad
    with pytest.raises(ValueError, match=message):
        gplvm.build_model(numbers)


def test_first_bad_value_is_named_by_its_labels(numbers):
    numbers[2, 1], numbers[4, 0], numbers[3, 2] = np.nan, np.nan, np.inf
    frame = pd.DataFrame(numbers, index=list("vwxyz"), columns=["a", "b", "c"])
    with pytest.raises(
        ValueError,
        match=r"2 missing \(NaN\) and 1 infinite values, first at obs 2 \(x\), feature 1 \(b\)",
    ):
        gplvm.build_model(frame)


def test_masked_entries_are_missing(numbers):
    masked = np.ma.masked_array(numbers, mask=np.zeros((5, 3), bool))
    masked[2, 0] = np.ma.masked
    with pytest.raises(ValueError, match=r"1 missing \(NaN\).*first at obs 2, feature 0"):
        gplvm.build_model(masked)


def test_nullable_entries_are_missing():
    frame = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": [0.0, 1.0, 2.0]})
    with pytest.raises(ValueError, match=r"1 missing \(NaN\).*first at obs 1, feature 0 \(a\)"):
        gplvm.build_model(frame)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.arange(5.0),
            r"two dimensions \(obs, feature\), got shape \(5,\)\. For a single feature pass",
        ),
        (np.zeros((2, 3, 4)), r"two dimensions \(obs, feature\), got shape \(2, 3, 4\)"),
        (3.0, r"two dimensions \(obs, feature\), got shape \(\)"),
        (np.eye(2), r"at least 3 rows \(obs\) and 1 column \(feature\), got shape \(2, 2\)"),
        (np.zeros((4, 0)), r"at least 3 rows \(obs\) and 1 column \(feature\), got shape \(4, 0\)"),
        (np.zeros((0, 4)), r"at least 3 rows"),
        (xr.DataArray(np.zeros((2, 3, 4))), r"two dimensions \(obs, feature\), got dims"),
        (pd.DataFrame(), r"at least 3 rows"),
    ],
)
def test_wrong_shapes(wrong, message):
    with pytest.raises(ValueError, match=message):
        gplvm.build_model(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.array([["a", "b"]] * 4),
            r"Y must hold numbers, got text.*Move labels out of the table",
        ),
        (np.array([[1, "x"]] * 4, dtype=object), r"Y must hold numbers.*Move labels out"),
        (
            pd.DataFrame({"n": [1, 2, 3], "who": list("abc")}),
            r"in 1 of 2 columns: who\. Move labels out",
        ),
        (
            np.ones((4, 2)) * 1j,
            r"Y must hold numbers, got complex ones\. Stack real and imaginary parts",
        ),
        (pd.DataFrame(np.eye(3) * 1j), r"Y must hold.*numbers"),
        (xr.DataArray(np.eye(3) * 1j), r"Y must hold numbers, got complex"),
        (scipy.sparse.csr_array((20_000, 10_000)), r"Y is sparse or lazy.*too many.*TruncatedSVD"),
        ([[1.0, 2.0], [3.0]], r"Y must be an array of numbers.*rows of unequal length"),
        (None, r"Y must be an array of numbers, got None"),
    ],
    ids=[
        "text",
        "object",
        "frame",
        "complex",
        "complex frame",
        "complex xarray",
        "sparse",
        "ragged",
        "None",
    ],
)
def test_wrong_kinds(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gplvm.build_model(wrong)


def test_many_text_columns_are_cut_short():
    frame = pd.DataFrame({f"t{i}": list("abc") for i in range(7)})
    with pytest.raises(TypeError, match=r"in 7 of 7 columns: t0, t1, t2, t3, t4, …\."):
        gplvm.build_model(frame)


def test_equal_rows():
    with pytest.raises(ValueError, match=r"4 equal rows: there is nothing to embed"):
        gplvm.build_model(np.tile([1.0, 2.0], (4, 1)))


# Centre and scale


@pytest.mark.parametrize("scale", ["global", "feature", "none"])
def test_centre_and_scale(scale, numbers):
    mean, spread = centre_and_scale(as_table(numbers * [1, 10, 100] + 7), scale)
    expected = centre_and_spread(numbers * [1, 10, 100] + 7, scale)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(spread, expected[1], rtol=1e-12)


@pytest.mark.parametrize("scale", ["global", "none"])
def test_constant_feature_is_allowed(scale, numbers):
    numbers[:, 1] = 0.1
    mean, spread = centre_and_scale(as_table(numbers), scale)
    assert mean[1] == pytest.approx(0.1)
    assert (spread > 0).all()
    assert np.isfinite(
        gplvm.fit_map(gplvm.build_model(numbers, scale=scale), progressbar=False)["sample_stats"][
            "lp"
        ]
    )


def test_constant_feature_cannot_be_scaled_by_itself(numbers):
    numbers[:, 1] = 0.1
    with pytest.raises(
        ValueError, match=r"1 constant features: 1\. Drop them or use scale='global'"
    ):
        gplvm.build_model(numbers, scale="feature")


def test_scale_of_huge_and_tiny_numbers(numbers):
    for factor in (1e-98, 1e98):
        _, spread = centre_and_scale(as_table(numbers * factor), "global")
        assert np.isfinite(spread).all()
        assert (spread > 0).all()
        np.testing.assert_allclose(
            spread / factor, centre_and_scale(as_table(numbers))[1], rtol=1e-10
        )


@pytest.mark.parametrize("scale", ["std", None, True])
def test_unknown_scale(scale, numbers):
    with pytest.raises(ValueError, match=r"scale must be one of global, feature, none, got"):
        gplvm.build_model(numbers, scale=scale)


# The grid of values


def test_a_grid_is_found_where_gaps_are_multiples_and_values_repeat():
    values = np.array([[1.0, 0.1], [2.0, 0.25], [4.0, 0.7], [2.0, 1.1]])
    assert grid_steps(values).tolist() == [1.0, 0.0]


def test_the_resolution_is_that_of_rounding():
    table = as_table([[1], [2], [3], [5], [5], [3], [2], [1]])
    scale = centre_and_scale(table)[1]
    expected = np.sqrt(1.0 / np.var(table) / 12.0 + 0.01**2)
    assert resolution_of(table.to_numpy(), scale) == pytest.approx(float(expected), rel=1e-12)
    assert resolution_of(table.to_numpy(), scale, by_column=True) == pytest.approx(
        [float(expected)]
    )


def test_of_rare_values_at_most_a_third_of_the_variance_is_rounding():
    rare = np.zeros((100, 3))
    rare[:2, 0], rare[:50, 1], rare[:, 2] = 1.0, 1.0, np.arange(100) % 7
    by_column = resolution_of(rare, rare.std(axis=0), by_column=True) ** 2 - 0.01**2
    np.testing.assert_allclose(by_column, [1 / 3, 1 / 3, 1 / 12 / rare[:, 2].var()], rtol=1e-12)
    floor = gplvm.build_model(rare, scale="feature")["Y_resolution"].get_value()
    assert float(floor) == pytest.approx(np.sqrt(by_column.mean() + 0.01**2), rel=1e-12)


def coded(code, *places, decimals=0):
    """A table of rounded measurements, Normal about 50 with sd 10, with a code at some places."""
    values = np.random.default_rng(5).normal(50.0, 10.0, (60, 3)).round(decimals)
    for place in places:
        values[place] = code
    return values


@pytest.mark.parametrize(
    ("code", "places"),
    [
        (999.0, [(3, 0), (9, 0)]),
        (-9999.99, [(3, 0), (9, 2)]),
        (1e30, [(3, 0), (4, 0)]),
        (-200.0, [(3, 1), (9, 1), (20, 2)]),
    ],
)
def test_codes_for_missing_entries_are_told(code, places):
    table = coded(code, *places, decimals=2)
    with pytest.warns(RuntimeWarning, match="seem to stand for missing entries") as told:
        warn_of_odd_table(as_table(table), "none")
    assert len(told) == 1
    assert f"{code:.10g} ({len(places)} times)" in str(told[0].message)
    assert f"missing={code:.10g}" in str(told[0].message)


@pytest.mark.parametrize(
    "table",
    [
        coded(999.0, (3, 0)),  # once: an outlier
        coded(500.0, (3, 0), (9, 0)),  # no number that codes are written as
        coded(0.0, (3, 0), (9, 0)),
        coded(99.0, (3, 0), (9, 0)),  # not far enough
        np.where(coded(1.0) > 50.0, 99.0, [[0.0, 1.0, 2.0]]),  # two values a column
        np.random.default_rng(0).poisson(0.1, (80, 20)),
    ],
    ids=["once", "500", "zeros", "near", "binary", "counts"],
)
def test_sound_tables_are_not_said_to_hold_codes(table):
    warn_of_odd_table(as_table(table), "none")


@pytest.mark.parametrize(
    "name", ["iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud"]
)
def test_tables_of_scikit_learn_hold_no_codes(name):
    table = as_table(getattr(sklearn.datasets, f"load_{name}")().data)
    warn_of_odd_table(table, "none")


def test_codes_in_real_tables(data_file):
    walk = load_table(data_file("osu_run1.txt"), time="Field")
    with pytest.warns(RuntimeWarning, match=r"-9999\.99 \(447 times\)"):
        warn_of_odd_table(as_table(walk), "none")
    mended = load_table(data_file("osu_run1.txt"), time="Field", missing=-9999.99)
    assert int(np.isnan(mended).sum()) == 447
    warn_of_odd_table(as_table(mended, missing="mask"), "none")
    warn_of_odd_table(as_table(load_table(data_file("guo_qpcr.csv"))), "none")
    spectra = data_file("nir/flodat_training_spectra_0.txt")
    warn_of_odd_table(as_table(load_table(spectra, header=False)), "none")
    for name in ("oil_flow.npz", "oil_flow_100.npz"):
        with np.load(data_file(name)) as file:
            for key in file:
                if file[key].ndim == 2:
                    warn_of_odd_table(as_table(file[key]), "none")
