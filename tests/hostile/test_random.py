"""Random tables, orders and files: what is read is what was meant, or an error says what to do."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import pm_gplvm as gplvm
from pm_gplvm.data.arrays import LARGEST, by_row, classes, numbers, times

usual = settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FINITE = st.floats(-1e6, 1e6).map(lambda v: round(v, 4))
TABLES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE)
HOLES = st.one_of(FINITE, st.just(np.nan))
MASKED = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=HOLES)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6)

KINDS = [
    lambda a: a.tolist(),
    lambda a: np.ma.masked_invalid(a),
    lambda a: np.where(np.isnan(a), None, a.astype(object)),
    pd.DataFrame,
    lambda a: pd.DataFrame(a).convert_dtypes(),
    lambda a: pd.DataFrame(a).astype(object),
    lambda a: pd.DataFrame(a).astype("Float64"),
    lambda a: pd.DataFrame(a).to_xarray().to_array().T,
]


@usual
@given(MASKED, st.sampled_from(KINDS))
def test_numbers_are_the_same_in_every_kind(table, kind):
    before = table.copy()
    found = numbers("Y", kind(table))
    np.testing.assert_array_equal(found, table)
    found[...] = 0.0  # of its own
    np.testing.assert_array_equal(table, before)


@usual
@given(arrays(np.float64, 5, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_numbers_are_in_range_or_refused(values):
    finite = values[np.isfinite(values)]
    if (np.abs(finite) > LARGEST).any():
        with pytest.raises(ValueError, match="t must hold numbers between -1e100 and 1e100"):
            numbers("t", values)
    else:
        np.testing.assert_array_equal(numbers("t", values), values)


@usual
@given(st.lists(NAMES, unique=True, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_rows_in_any_order_are_joined(names, random):
    order, values = random.sample(range(len(names)), len(names)), np.arange(len(names))
    series = pd.Series(values[order], index=[names[i] for i in order])
    extra = pd.concat([series, pd.Series([99], index=["another row"])])
    rows = np.array([str(name) for name in names])
    for given_values in (series, extra):
        np.testing.assert_array_equal(by_row("t", given_values, rows), values)
    if len(names) > 1:
        with pytest.raises(
            ValueError, match="t must have the rows of the table, got none for 1 of"
        ):
            by_row("t", series.iloc[1:], rows)


@usual
@given(st.lists(st.one_of(st.none(), NAMES, st.integers(-9, 9)), min_size=1, max_size=12))
def test_classes_are_what_was_given(labels):
    known = classes("labels", labels)
    missing = {None, "nan", "None", "<NA>", "NaT"}
    expected = [None if label in missing else label for label in labels]
    assert [None if c < 0 else known.categories[c] for c in known.codes] == expected
    frame = classes("labels", pd.Series(labels, dtype=object))
    assert frame.codes.tolist() == known.codes.tolist()


@usual
@given(
    st.lists(st.datetimes(), min_size=2, max_size=8),
    st.sampled_from(["s", "ms", "us"]),
    st.sampled_from(["D", "h", "s"]),
)
def test_dates_are_times_in_every_resolution(dates, resolution, unit):
    dates = [date.replace(microsecond=0) for date in dates]
    seconds = np.array([(date - min(dates)).total_seconds() for date in dates])
    expected = seconds / {"D": 86400.0, "h": 3600.0, "s": 1.0}[unit]
    for stored in (
        dates,
        np.array(dates, f"M8[{resolution}]"),
        pd.Series(dates).astype(f"M8[{resolution}]"),
    ):
        found, dated = times("t", stored, unit)
        assert dated
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@usual
@given(
    arrays(np.float64, st.tuples(st.integers(3, 6), st.integers(1, 4)), elements=FINITE),
    st.sampled_from([(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_files_of_text_are_read_as_written_or_refused(tmp_path, table, marks, named, encoding, end):
    """Never shifted, never under other names."""
    sep, decimal = marks
    columns = [f"c{i}" for i in range(table.shape[1])]
    rows = [f"row {i}" for i in range(len(table))]
    path = tmp_path / "table.csv"
    pd.DataFrame(table, index=rows, columns=columns).to_csv(
        path, sep=sep, decimal=decimal, index=named, encoding=encoding, lineterminator=end
    )
    try:
        read = gplvm.data.load_table(path)
    except ValueError as error:
        if not re.search("sep|decimal|index|header", str(error)):
            raise
        read = gplvm.data.load_table(path, sep=sep, decimal=decimal)
    np.testing.assert_array_equal(read, table)
    assert read["feature"].to_numpy().tolist() == columns
    if named:
        assert read["obs"].to_numpy().tolist() == rows
