"""Tables from scikit-learn and from files."""

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import xarray as xr

import pm_gplvm as gplvm


def test_digits_are_scikit_learns():
    digits = gplvm.data.load_digits(n=7, random_seed=3)
    source = sklearn.datasets.load_digits()
    assert digits.dims == ("obs", "feature")
    assert digits.shape == (7, 64)
    np.testing.assert_array_equal(digits, source.data[digits["obs"]])
    assert digits["label"].dims == ("obs",)
    np.testing.assert_array_equal(digits["label"], source.target[digits["obs"]].astype(str))
    assert digits["feature"].to_numpy()[9] == "pixel_1_1"


def test_digits_by_seed():
    first, again, other = (gplvm.data.load_digits(n=20, random_seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first["obs"], again["obs"])
    assert not np.array_equal(first["obs"], other["obs"])
    assert len(np.unique(first["obs"])) == 20


def test_all_digits():
    assert gplvm.data.load_digits(n=1797).shape == (1797, 64)


@pytest.mark.parametrize("n", [0, -3, 1798])
def test_number_of_digits_out_of_range(n):
    with pytest.raises(ValueError, match=rf"n must lie between 1 and 1797, got {n}"):
        gplvm.data.load_digits(n=n)


@pytest.fixture
def csv(tmp_path):
    def write(text, name="cells.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_csv_with_names_and_label(csv):
    path = csv("id,kind,a,b\nr1,x,1,2.5\nr2,y,3,4.5\nr3,x,5,6.5\n")
    table = gplvm.data.load_table(path, label="kind")
    assert table.dims == ("obs", "feature")
    assert table.name == "cells"
    assert table["obs"].to_numpy().tolist() == ["r1", "r2", "r3"]
    assert table["feature"].to_numpy().tolist() == ["a", "b"]
    assert table["label"].to_numpy().tolist() == ["x", "y", "x"]
    np.testing.assert_array_equal(table, [[1, 2.5], [3, 4.5], [5, 6.5]])
    assert table.dtype == np.float64


def test_csv_as_pandas_writes_it(tmp_path):
    frame = pd.DataFrame(
        [[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]], index=list("uvw"), columns=["a", "b"]
    )
    frame.to_csv(tmp_path / "t.csv")
    table = gplvm.data.load_table(str(tmp_path / "t.csv"))
    assert table["obs"].to_numpy().tolist() == list("uvw")
    np.testing.assert_array_equal(table, frame)


def test_csv_of_bare_numbers(csv):
    table = gplvm.data.load_table(csv("a,b\n1,2\n3,4\n5,6\n"))
    assert table["obs"].to_numpy().tolist() == [0, 1, 2]
    assert "label" not in table.coords


def test_csv_with_numeric_label(csv):
    table = gplvm.data.load_table(csv("stage,a\n1,0.5\n2,0.7\n2,0.9\n"), label="stage")
    assert table["label"].to_numpy().tolist() == ["1", "2", "2"]
    assert table.shape == (3, 1)


def test_table_from_a_file_goes_straight_into_a_model(csv):
    table = gplvm.data.load_table(csv("kind,a,b\nx,1,2\ny,3,5\nx,5,6\nz,7,1\n"), label="kind")
    assert tuple(gplvm.build_model(table, 1).coords["label"]) == ("x", "y", "x", "z")


def test_csv_without_the_label_column(csv):
    with pytest.raises(
        ValueError, match=r"name a column of cells\.csv, got 'kind'\. Its columns are a, b\."
    ):
        gplvm.data.load_table(csv("a,b\n1,2\n3,4\n5,6\n"), label="kind")


def test_csv_with_text(csv):
    with pytest.raises(
        TypeError, match=r"got text in kind\. .*pass it as the label \(--label kind\)"
    ):
        gplvm.data.load_table(csv("kind,a\nx,1\ny,3\nx,5\n"))


def test_csv_with_a_hole_is_refused_where_models_are_built(csv):
    table = gplvm.data.load_table(csv("a,b\n1,2\n3,\n5,6\n"))
    with pytest.raises(ValueError, match=r"1 missing \(NaN\).*obs 1, feature 1 \(b\)"):
        gplvm.build_model(table)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n3,4,5\n"], ids=["empty", "ragged"])
def test_broken_csv(text, csv):
    with pytest.raises(ValueError, match=r"cells\.csv is not a CSV table"):
        gplvm.data.load_table(csv(text))


def test_binary_csv(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(ValueError, match=r"b\.csv is not a CSV table"):
        gplvm.data.load_table(tmp_path / "b.csv")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing\.csv"):
        gplvm.data.load_table(tmp_path / "nothing.csv")


def test_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        gplvm.data.load_table(tmp_path)


def test_other_kinds_of_files(csv):
    with pytest.raises(ValueError, match=r"must be a \.csv or \.nc file, got 'cells\.xlsx'"):
        gplvm.data.load_table(csv("a", name="cells.xlsx"))


@pytest.fixture
def netcdf(tmp_path):
    def write(dataset):
        path = tmp_path / "spectra.nc"
        dataset.to_netcdf(path, engine="h5netcdf")
        return path

    return write


def test_netcdf_round_trip(netcdf, Y):
    table = gplvm.data.load_table(netcdf(Y.rename("spectra").to_dataset()), label="label")
    xr.testing.assert_allclose(table, Y)
    assert table["label"].to_numpy().tolist() == Y["label"].to_numpy().tolist()


def test_netcdf_with_the_label_as_a_variable(netcdf):
    dataset = xr.Dataset(
        {"y": (("time", "wave"), np.arange(6.0).reshape(3, 2)), "kind": ("time", [1, 2, 1])}
    )
    table = gplvm.data.load_table(netcdf(dataset), label="kind")
    assert table["label"].to_numpy().tolist() == ["1", "2", "1"]
    assert table.shape == (3, 2)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"y": ("a", np.arange(3.0))}, r"got 0\."),
        ({"y": (("a", "b", "c"), np.zeros((2, 2, 2)))}, r"got 0\."),
        ({"y": (("a", "b"), np.eye(2)), "z": (("a", "b"), np.eye(2))}, r"got 2: y, z\."),
    ],
    ids=["1-D", "3-D", "two tables"],
)
def test_netcdf_of_wrong_shape(variables, found, netcdf):
    with pytest.raises(
        ValueError, match=rf"spectra\.nc must hold one two-dimensional variable, {found}"
    ):
        gplvm.data.load_table(netcdf(xr.Dataset(variables)))


def test_netcdf_without_the_label(netcdf, Y):
    with pytest.raises(
        ValueError, match=r"name a coordinate of spectra\.nc, got 'kind'\. It has .*obs"
    ):
        gplvm.data.load_table(netcdf(Y.rename("spectra").to_dataset()), label="kind")


def test_netcdf_that_is_none(tmp_path):
    (tmp_path / "t.nc").write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.nc is not a NetCDF file"):
        gplvm.data.load_table(tmp_path / "t.nc")


def test_a_first_column_without_a_name_that_repeats_holds_the_classes(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text(",a,b\nearly,1,2\nearly,3,4\nlate,5,7\n")
    table = gplvm.data.load_table(path)
    assert table["label"].to_numpy().tolist() == ["early", "early", "late"]
    assert table["obs"].to_numpy().tolist() == [0, 1, 2]
    path.write_text(",a,b\none,1,2\ntwo,3,4\nthree,5,7\n")
    table = gplvm.data.load_table(path)
    assert table["obs"].to_numpy().tolist() == ["one", "two", "three"]
    assert "label" not in table.coords
