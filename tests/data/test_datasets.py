"""Tables from scikit-learn and from files; those of text are in test_delimited."""

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
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
    with pytest.raises(ValueError, match=rf"n must be a whole number from 1 to 1797, got {n}"):
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


def test_table_from_a_file_goes_straight_into_a_model(csv):
    table = gplvm.data.load_table(csv("kind,a,b\nx,1,2\ny,3,5\nx,5,6\nz,7,1\n"), label="kind")
    assert tuple(gplvm.build_model(table, 1).coords["label"]) == ("x", "y", "x", "z")


def test_csv_with_text(csv):
    with pytest.raises(
        TypeError,
        match=r"got text in kind, first 'x' in line 2\. .*pass label='kind'",
    ):
        gplvm.data.load_table(csv("kind,a\nx,1\ny,3\nx,5\n"))


def test_csv_with_a_hole_is_refused_where_models_are_built(csv):
    table = gplvm.data.load_table(csv("a,b\n1,2\n3,\n5,6\n"))
    with pytest.raises(ValueError, match=r"1 missing \(NaN\).*obs 1, feature 1 \(b\)"):
        gplvm.build_model(table)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing\.csv"):
        gplvm.data.load_table(tmp_path / "nothing.csv")


def test_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        gplvm.data.load_table(tmp_path)


def test_other_kinds_of_files(csv):
    with pytest.raises(
        ValueError, match=r"must be a \.csv, .* or \.h5ad file .*, got 'cells\.xlsx'"
    ):
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


@pytest.mark.parametrize("path", [None, 3, ["cells.csv"], b"cells.csv"])
def test_a_path_of_another_type(path):
    with pytest.raises(
        TypeError, match=r"path must be a path or its text, got (NoneType|int|list|bytes)"
    ):
        gplvm.data.load_table(path)


def test_numbers_that_stand_for_missing_entries_in_netcdf(netcdf, Y):
    holes = Y.copy()
    holes[2, 1] = -999.0
    table = gplvm.data.load_table(netcdf(holes.rename("y").to_dataset()), missing=-999)
    assert np.argwhere(np.isnan(table.to_numpy())).tolist() == [[2, 1]]


def test_netcdf_label_with_a_hole(netcdf):
    dataset = xr.Dataset({"y": (("obs", "wave"), np.arange(6.0).reshape(3, 2))})
    dataset = dataset.assign_coords(batch=("obs", [1.0, np.nan, 2.0]))
    table = gplvm.data.load_table(netcdf(dataset), label="batch")
    assert table["label"].to_numpy().tolist() == ["1.0", "", "2.0"]


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")

    def write(frame):
        frame.to_parquet(tmp_path / "cells.parquet")
        return tmp_path / "cells.parquet"

    return write


FRAME = pd.DataFrame(
    {"a": [1, 2, None], "b": [1.5, 2.0, 3.0], "kind": ["x", None, "y"]}, index=["r1", "r2", "r3"]
)


def test_parquet(parquet):
    table = gplvm.data.load_table(parquet(FRAME), label="kind", missing=1.5)
    np.testing.assert_array_equal(table, [[1, np.nan], [2, 2], [np.nan, 3]])
    assert table["obs"].to_numpy().tolist() == ["r1", "r2", "r3"]
    assert table["feature"].to_numpy().tolist() == ["a", "b"]
    assert table["label"].to_numpy().tolist() == ["x", "", "y"]
    assert table.name == "cells"
    plain = gplvm.data.load_table(
        parquet(FRAME.fillna({"kind": "z"}).reset_index(drop=True)), index="kind"
    )
    assert plain["obs"].to_numpy().tolist() == ["x", "z", "y"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, r"must hold numbers, got text in kind\. .*label='kind'"),
        ({"label": "c"}, ValueError, r"label must name a column of cells\.parquet, got 'c'"),
        ({"sep": ","}, ValueError, r"sep says nothing about a \.parquet file"),
    ],
)
def test_parquet_refused(parquet, arguments, kind, message):
    with pytest.raises(kind, match=message):
        gplvm.data.load_table(parquet(FRAME), **arguments)


@pytest.mark.parametrize(
    ("name", "package"), [("cells.parquet", "pyarrow"), ("cells.h5ad", "anndata")]
)
def test_a_package_that_is_not_installed_is_named(csv, monkeypatch, name, package):
    for module in (package, "fastparquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"{package}, which is not installed.*pip install {package}"
    ):
        gplvm.data.load_table(csv("hello", name))


def test_files_that_are_none(csv):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"t\.parquet is not a Parquet file"):
        gplvm.data.load_table(csv("hello", "t.parquet"))


@pytest.mark.filterwarnings("ignore")  # anndata's own
class TestAnnData:
    @pytest.fixture
    def path(self, tmp_path):
        anndata = pytest.importorskip("anndata")
        data = anndata.AnnData(
            scipy.sparse.csr_matrix(np.arange(12.0).reshape(4, 3)),
            obs=pd.DataFrame({"kind": pd.Categorical(["a", "b", None, "a"])}, index=list("wxyz")),
            var=pd.DataFrame(index=["g1", "g2", "g3"]),
        )
        data.layers["log"] = np.log1p(np.arange(12.0).reshape(4, 3))
        data.write_h5ad(tmp_path / "cells.h5ad")
        return tmp_path / "cells.h5ad"

    def test_X_and_names(self, path):
        table = gplvm.data.load_table(path, label="kind")
        np.testing.assert_array_equal(table, np.arange(12.0).reshape(4, 3))
        assert table["obs"].to_numpy().tolist() == list("wxyz")
        assert table["feature"].to_numpy().tolist() == ["g1", "g2", "g3"]
        assert table["label"].to_numpy().tolist() == ["a", "b", "", "a"]

    def test_a_layer(self, path):
        table = gplvm.data.load_table(path, layer="log")
        np.testing.assert_array_equal(table, np.log1p(np.arange(12.0).reshape(4, 3)))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"layer": "raw"}, r"layer must name a layer .*, got 'raw'\. Its layers are log\."),
            (
                {"label": "stage"},
                r"label must name a column .*, got 'stage'\. Its columns are kind",
            ),
            ({"header": True}, r"header says nothing about a \.h5ad file"),
        ],
    )
    def test_refused(self, path, arguments, message):
        with pytest.raises(ValueError, match=message):
            gplvm.data.load_table(path, **arguments)

    def test_a_file_that_is_none(self, tmp_path):
        pytest.importorskip("anndata")
        (tmp_path / "t.h5ad").write_text("hello")
        with pytest.raises(ValueError, match=r"t\.h5ad is not an AnnData file"):
            gplvm.data.load_table(tmp_path / "t.h5ad")


# Names, times and labels in files of every kind

DATES = pd.date_range("2020-01-30", periods=30)
NUMBERS = pd.DataFrame(
    np.random.default_rng(0).standard_normal((30, 3)).round(3), columns=list("abc")
)


def written(tmp_path, frame, name="t.csv", **how):
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, **how)
    return path


INDEXES = {
    "dates": (DATES, {}),
    "named dates": (DATES.rename("t"), {}),
    "hours": (pd.date_range("2020-01-30", periods=30, freq="h", name="t"), {}),
    "a time zone": (pd.date_range("2020-01-30", periods=30, freq="h", tz="Europe/Berlin"), {}),
    "repeated dates": (DATES[:15].repeat(2).rename("t"), {}),
    "repeated dates without a name": (DATES[:15].repeat(2), {}),
    "German": (DATES.rename("Tag"), {"date_format": "%d.%m.%Y", "sep": ";", "decimal": ","}),
    "British": (DATES.rename("day"), {"date_format": "%d/%m/%Y"}),
    "American": (DATES.rename("day"), {"date_format": "%m/%d/%Y"}),
    "months": (pd.period_range("2020-01", periods=30, freq="M", name="month"), {}),
    "durations": (pd.to_timedelta(np.arange(30), unit="h").rename("t"), {}),
}


@pytest.mark.parametrize(("index", "how"), INDEXES.values(), ids=INDEXES)
def test_an_index_of_dates_is_names_and_times(tmp_path, index, how):
    table = gplvm.data.load_table(written(tmp_path, NUMBERS.set_axis(index), **how))
    np.testing.assert_array_equal(table, NUMBERS)
    times = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
    if getattr(times, "tz", None) is not None:
        times = times.tz_convert("UTC").tz_localize(None)
    assert (table["time"].to_numpy() == times.to_numpy()).all()
    assert "label" not in table.coords
    assert len(set(table["obs"].to_numpy())) == len(set(index))


def test_a_date_that_is_missing(tmp_path):
    index = DATES.rename("t").where(np.arange(30) != 3)
    table = gplvm.data.load_table(written(tmp_path, NUMBERS.set_axis(index)))
    assert np.flatnonzero(np.isnat(table["time"])).tolist() == [3]


@pytest.mark.parametrize("text", ["01/02/2020", "2020-02-31", "2020Q1"])
def test_what_may_be_another_date_is_a_name(tmp_path, text):
    index = pd.Index([text, *(f"{text} {i}" for i in range(29))], name="t")
    table = gplvm.data.load_table(written(tmp_path, NUMBERS.set_axis(index)))
    assert "time" not in table.coords
    assert table["obs"].to_numpy()[0] == text


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_an_index_of_two_levels(tmp_path, name):
    levels = pd.MultiIndex.from_product([list("abc"), range(10)], names=["patient", "visit"])
    path = written(tmp_path, NUMBERS.set_axis(levels), name)
    if name == "t.csv":
        with pytest.raises(TypeError, match="index='patient'"):
            gplvm.data.load_table(path)
    table = gplvm.data.load_table(path, index=["patient", "visit"])
    assert table["obs"].to_numpy().tolist() == [f"{p} {v}" for p, v in levels]
    np.testing.assert_array_equal(table, NUMBERS)


def test_an_index_of_two_levels_without_names(tmp_path):
    levels = pd.MultiIndex.from_product([list("abc"), range(10)])
    table = gplvm.data.load_table(written(tmp_path, NUMBERS.set_axis(levels)))
    assert table["obs"].to_numpy().tolist() == [f"{p} {v}" for p, v in levels]
    np.testing.assert_array_equal(table, NUMBERS)


def test_row_numbers_as_R_writes_them(tmp_path):
    path = tmp_path / "t.tsv"
    rows = "\n".join(f'"{i + 1}"\t{a}\t{b}\t{c}' for i, (a, b, c) in enumerate(NUMBERS.to_numpy()))
    path.write_text(f'"a"\t"b"\t"c"\n{rows}\n')
    table = gplvm.data.load_table(path)
    np.testing.assert_array_equal(table, NUMBERS)
    assert table["obs"].to_numpy().tolist() == list(range(1, 31))


def test_a_first_column_in_equal_steps_is_told(tmp_path):
    path = written(tmp_path, NUMBERS.set_axis(pd.RangeIndex(1990, 2020, name="year")))
    with pytest.warns(
        RuntimeWarning, match=r"'year' that rises in equal steps.*index='year' or time='year'"
    ):
        assert gplvm.data.load_table(path).shape == (30, 4)
    assert gplvm.data.load_table(path, index="year")["obs"].to_numpy()[0] == 1990
    table = gplvm.data.load_table(path, time="year")
    assert table.shape == (30, 3)
    assert table["time"].to_numpy().tolist() == list(range(1990, 2020))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_column_of_times(tmp_path, name):
    path = written(tmp_path, NUMBERS.assign(when=DATES, kind=["x", "y"] * 15), name)
    with pytest.raises(TypeError, match=r"got (dates|text) in when"):
        gplvm.data.load_table(path)
    table = gplvm.data.load_table(path, time="when", label="kind")
    assert (table["time"].to_numpy() == DATES.to_numpy()).all()
    np.testing.assert_array_equal(table, NUMBERS)
    with pytest.raises(TypeError, match=r"time must name a column of .* got 'x' in 'kind'"):
        gplvm.data.load_table(path, time="kind")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_many_numbers_or_dates_are_no_classes(tmp_path, name):
    ages = np.arange(30) / 4.0
    path = written(tmp_path, NUMBERS.assign(age=ages, day=DATES, few=np.arange(30) % 3), name)
    options = {"time": "day"}
    assert (
        gplvm.data.load_table(path, label="few", index="age", **options)["label"].dtype.kind == "U"
    )
    table = gplvm.data.load_table(path, label="age", index="few", **options)
    np.testing.assert_array_equal(table["label"], ages)
    table = gplvm.data.load_table(path, label="day", index=["few", "age"])
    assert (table["label"].to_numpy() == DATES.to_numpy()).all()


def test_a_level_of_a_parquet_index_as_label(tmp_path):
    path = written(tmp_path, NUMBERS.set_axis(pd.Index(["x", "y"] * 15, name="kind")), "t.parquet")
    table = gplvm.data.load_table(path, label="kind")
    assert table["label"].to_numpy()[:2].tolist() == ["x", "y"]
    np.testing.assert_array_equal(table, NUMBERS)


def test_netcdf_of_other_dims_has_those_of_tables(netcdf):
    dataset = xr.Dataset({"y": (("time", "wave"), NUMBERS.to_numpy())}, coords={"time": DATES})
    table = gplvm.data.load_table(netcdf(dataset))
    assert table.dims == ("obs", "feature")
    assert (table["time"].to_numpy() == DATES.to_numpy()).all()
    with pytest.raises(ValueError, match=r"got 'wave'\. It has time along its rows"):
        gplvm.data.load_table(netcdf(dataset.assign_coords(wave=list("abc"))), label="wave")


def test_a_fit_is_no_table(tmp_path, best):
    path = gplvm.save(best, tmp_path / "fit.nc")
    with pytest.raises(ValueError, match=r"It holds a fit: read it with gplvm\.load"):
        gplvm.data.load_table(path)


def test_times_go_into_a_model_and_a_file(tmp_path):
    table = gplvm.data.load_table(written(tmp_path, NUMBERS.set_axis(DATES)))
    fit = gplvm.fit_linear(gplvm.build_model(table, kernel="linear"))
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert (read["posterior"]["time"].to_numpy() == DATES.to_numpy()).all()


@pytest.mark.parametrize("ending", ["csv", "parquet", "nc"])
def test_columns_that_are_dropped_may_hold_anything(ending, tmp_path):
    frame = pd.DataFrame(
        {
            "kind": ["x", "y", "x"],
            "note": ["so", "and", "so"],
            "a": [1.0, 3.0, 4.0],
            "b": [2.0, 5.0, 6.0],
        }
    )
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        xr.DataArray(
            frame[["a", "b"]].to_numpy(),
            dims=("obs", "feature"),
            coords={"feature": ["a", "b"]},
            name="t",
        ).to_netcdf(path, engine="h5netcdf")
    more = {} if ending == "nc" else {"label": "kind"}
    drop = ["b"] if ending == "nc" else ["note", "b"]
    table = gplvm.data.load_table(path, drop=drop, **more)
    assert table["feature"].to_numpy().tolist() == ["a"]
    np.testing.assert_array_equal(table.to_numpy()[:, 0], [1.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"drop must name a column of .*got 'c'"):
        gplvm.data.load_table(path, drop="c", **more)
    if more:
        assert gplvm.data.load_table(path, drop="note", label="kind")[
            "label"
        ].to_numpy().tolist() == ["x", "y", "x"]
        with pytest.raises(
            ValueError, match="drop must name columns that are not used otherwise, got 'kind'"
        ):
            gplvm.data.load_table(path, drop=["note", "kind"], label="kind")
