"""Files of text: each is read right, or refused in a sentence that says what to do."""

import gzip
import re

import numpy as np
import pytest

import pm_gplvm as gplvm

nan = np.nan


def read(tmp_path, text, name="cells.csv", **arguments):
    raw = text if isinstance(text, bytes) else text.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return gplvm.data.load_table(path, **arguments)


READ = {
    # Separators and decimal marks
    "comma": ("a,b\n1,2\n3,4.5\n", {}, [[1, 2], [3, 4.5]], "ab"),
    "semicolon": ("a;b\n1;2\n3;4.5\n", {}, [[1, 2], [3, 4.5]], "ab"),
    "decimal comma": ("a;b;c\n1,5;2,5;9,1\n3,5;4;9,2\n", {}, [[1.5, 2.5, 9.1], [3.5, 4, 9.2]], "abc"),
    "decimal comma, tabs": ("a\tb\n1,5\t2\n3\t4\n", {}, [[1.5, 2], [3, 4]], "ab"),
    "decimal comma, quoted": ('a,b\n"1,5","2"\n3,4\n', {}, [[1.5, 2], [3, 4]], "ab"),
    "decimal comma, one column": ("a\n1,5\n2\n", {"decimal": ","}, [[1.5], [2]], "a"),
    "bar": ("a|b\n1|2\n3|4\n", {}, [[1, 2], [3, 4]], "ab"),
    "blanks": ("a b\n  1.0e+00 2.0 \n  3    -4\n", {}, [[1, 2], [3, -4]], "ab"),
    "comma and blank": ("a, b\n1, 2\n3 , 4\n", {}, [[1, 2], [3, 4]], "ab"),
    "told by Excel": ("sep=;\na;b\n1;2\n3;4\n", {}, [[1, 2], [3, 4]], "ab"),
    "asked for": ("a:b\n1:2\n3:4\n", {"sep": ":"}, [[1, 2], [3, 4]], "ab"),
    "a semicolon within a name": ('"a;x",b\n1,2\n3,4\n', {}, [[1, 2], [3, 4]], ["a;x", "b"]),
    # Numbers
    "thousands, English": ('a,b\n"1,234.5",2\n3,4\n', {}, [[1234.5, 2], [3, 4]], "ab"),
    "thousands, German": ("a;b\n1.234,5;2\n3;4\n", {}, [[1234.5, 2], [3, 4]], "ab"),
    "thousands, millions": ("a;b\n1.234.567;2\n3;4\n", {}, [[1234567, 2], [3, 4]], "ab"),
    "thousands, blank": ("a,b\n1 234,2\n-12\u00a0345.5,4\n", {}, [[1234, 2], [-12345.5, 4]], "ab"),
    "thousands, Swiss": ("a,b\n1'234.5,2\n3,4\n", {}, [[1234.5, 2], [3, 4]], "ab"),
    "three decimals": ("a;b\n1.234;2\n3;4\n", {}, [[1.234, 2], [3, 4]], "ab"),
    "a comma, decimal": ("a;b\n1,234;2\n3;4\n", {"decimal": ","}, [[1.234, 2], [3, 4]], "ab"),
    "a comma, thousands": ("a;b\n1,234;2\n3;4\n", {"decimal": "."}, [[1234, 2], [3, 4]], "ab"),
    "signs and powers": ("a,b\n+1,\u22122\n.5,1E-5\n", {}, [[1, -2], [0.5, 1e-5]], "ab"),
    "quoted": ('"a","b"\n"1","2"\n"3","4"\n', {}, [[1, 2], [3, 4]], "ab"),
    "true and false": ("a,b\n1,TRUE\n2,false\n", {}, [[1, 1], [2, 0]], "ab"),
    # Missing entries
    "words": (
        "a,b\n1,NA\n.,4\n-,5\nnull,6\n7,N/A\n?,NaN\n#N/A,8\n,9\n",
        {},
        [[1, nan], [nan, 4], [nan, 5], [nan, 6], [7, nan], [nan, nan], [nan, 8], [nan, 9]],
        "ab",
    ),
    "a word": ("a,b\n1,below\n2,3\n", {"missing": "below"}, [[1, nan], [2, 3]], "ab"),
    "numbers": ("a,b\n1,-200\n-200.0,999\n", {"missing": [-200, 999]}, [[1, nan], [nan, nan]], "ab"),
    # Bytes
    "marked UTF-8": (b"\xef\xbb\xbfa,b\n1,2\n3,4\n", {}, [[1, 2], [3, 4]], "ab"),
    "UTF-16": ("ä,b\n1,2\n3,4\n".encode("utf-16"), {}, [[1, 2], [3, 4]], "äb"),
    "Windows": ("a,b\r\n1,2\r\n3,4\r\n", {}, [[1, 2], [3, 4]], "ab"),
    "old Mac": ("a,b\r1,2\r3,4", {}, [[1, 2], [3, 4]], "ab"),
    # Lines
    "empty lines": ("\n\na,b\n1,2\n\n3,4\n\n", {}, [[1, 2], [3, 4]], "ab"),
    "comments": ("# of, 2020\na,b\n# more\n1,2\n3,4\n", {}, [[1, 2], [3, 4]], "ab"),
    "trailing, everywhere": ("a,b,\n1,2,\n3,4,\n", {}, [[1, 2], [3, 4]], "ab"),
    "trailing, rows": ("a,b\n1,2,\n3,4,\n", {}, [[1, 2], [3, 4]], "ab"),
    "trailing, header": ("a,b,\n1,2\n3,4\n", {}, [[1, 2], [3, 4]], "ab"),
    "rows of separators": ("a;b;;\n1;2;;\n3;4;;\n;;;\n;;;\n", {}, [[1, 2], [3, 4]], "ab"),
    "a line end in a name": ('"a\nx",b\n1,2\n3,4\n', {}, [[1, 2], [3, 4]], ["a\nx", "b"]),
    "no header": ("1,2\n3,4\n", {"header": False}, [[1, 2], [3, 4]], "01"),
    "numbers as names": ("801,802\n1,2\n3,4\n", {"header": True}, [[1, 2], [3, 4]], ["801", "802"]),
    "one column": ("a\n1\n2\n", {}, [[1], [2]], "a"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "arguments", "values", "names"), READ.values(), ids=READ)
def test_read(tmp_path, text, arguments, values, names):
    table = read(tmp_path, text, **arguments)
    np.testing.assert_array_equal(table, values)
    assert table["feature"].to_numpy().tolist() == list(names)
    assert table["obs"].to_numpy().tolist() == list(range(len(values)))
    assert "label" not in table.coords


NAMED = {
    "without a name": (",a,b\nr1,1,2\nr2,3,4\n", {}, ["r1", "r2"], None),
    "numbers as names of columns": (",801,802\nr1,1,2\nr2,3,4\n", {}, ["r1", "r2"], None),
    "id": ("id,a,b\n7,1,2\n9,3,4\n", {}, [7, 9], None),
    "leading zeros": ("id,a,b\n007,1,2\n010,3,4\n", {}, ["007", "010"], None),
    "text": ("gene,a,b\nBRCA,1,2\nTP53,3,4\n", {}, ["BRCA", "TP53"], None),
    "R": ('"a" "b"\n"r1" 1 2\n"r2" 3 4\n', {}, ["r1", "r2"], None),
    "asked for": ("a,mouse,b\n1,5,2\n3,6,4\n", {"index": "mouse"}, [5, 6], None),
    "no header": ("r1,1,2\nr2,3,4\n", {"header": False}, ["r1", "r2"], None),
    "classes": (",a,b\nx,1,2\nx,3,4\n", {}, [0, 1], ["x", "x"]),
    "label": ("id,kind,a,b\nr1,+,1,2\nr2,-,3,4\n", {"label": "kind"}, ["r1", "r2"], ["+", "-"]),
    "label last": ("a,b,kind\n1,2,1\n3,4,2\n", {"label": "kind"}, [0, 1], ["1", "2"]),
    "no class": ("kind,a,b\nx,1,2\nNA,3,4\n", {"label": "kind"}, [0, 1], ["x", ""]),
}


@pytest.mark.parametrize(("text", "arguments", "rows", "classes"), NAMED.values(), ids=NAMED)
def test_names_of_rows_and_classes(tmp_path, text, arguments, rows, classes):
    table = read(tmp_path, text, **arguments)
    np.testing.assert_array_equal(table, [[1, 2], [3, 4]])
    assert table["obs"].to_numpy().tolist() == rows
    assert (table["label"].to_numpy().tolist() if "label" in table.coords else None) == classes


REFUSED = {
    "empty": ("", {}, "is not a CSV table: it is empty"),
    "blank": ("\n \n", {}, "it is empty"),
    "a header alone": ("a,b\n", {}, "it has one line, 'a, b', and no rows"),
    "a field too many": ("a,b\n1,2\n3,4,5\n6,7\n", {}, "line 3 has 3 fields, split at ',', where most have 2"),
    "a field too few": ("a,b\n1,2\n3\n5,6\n", {}, "line 3 has 1 field, split"),
    "header too short": ("a,b\n1,2,9\n3,4,9\n", {}, "header in line 1 has 2 names and its rows have 3 fields"),
    "header too long": ("a,b,c\n1,2\n3,4\n", {}, "has 3 names and its rows have 2 fields"),
    "decimal comma beside commas": ("a,b\n1,5,2,5\n3,5,4,5\n", {}, "has 2 names and its rows have 4 fields"),
    "a quote left open": ('a,b\n"1,2\n3,4\n', {}, "has 2 names and its rows have 1 field,"),
    "both marks": ("a;b\n1,5;2\n3.5;4\n", {}, "has '3.5' with a decimal point and '1,5' with a decimal comma"),
    "one comma, three digits": ("a;b\n1,234;2\n3;4\n", {}, "such as '1,234', whose comma may be .* Pass decimal="),
    "the other mark": ("a;b\n1,5;2\n3;4\n", {"decimal": "."}, "got '1,5' in column a, line 2.*one decimal mark"),
    "no header": ("1,2\n3,4\n", {}, "numbers in line 1, where names .* Pass header=False if"),
    "no header, names of rows": ("r1,1.5,2\nr2,3,4\n", {}, "numbers in line 1.*'r1, 1.5, 2'"),
    "header in a comment": ("# a,b\n1,2\n3,4\n", {}, "If '# a,b' above it names them, remove its #"),
    "header in a comment, text": ("#x,a,b\nr1,1,2\nr2,3,4\n", {}, "If '#x,a,b' above it"),
    "a row like a comment": ("a,b\n#1,2\n3,4\n", {}, "line 2 begins with # and has 2 fields as the rows do"),
    "two header lines of pandas": (",x,x,y\n,a,b,a\nr1,1,2,3\nr2,3,4,5\n", {}, "has two header lines: line 2, ', a, b, a', .*Delete it, .* such as 'x_a'"),
    "and the name of the index": ("g,x,x\nh,a,b\nid,,\nr1,1,2\nr2,3,4\n", {}, "has two header lines: line 2"),
    "units": ("a,b,c\ncm,%,1\n1,2,3\n3,4,5\n", {}, "has two header lines: line 2, 'cm, %, 1'"),
    "names twice": ("a,b,a\n1,2,3\n4,5,6\n", {}, "different names of columns, got 'a' more than once"),
    "no name": ("a,,c\n1,2,3\n4,5,6\n", {}, "got no name of column 2"),
    "per cent": ("a,b\n1%,2\n3%,4\n", {}, "got '1%' in column a, line 2. Write numbers alone, without units"),
    "a number with its unit": ("a,b\n1,2\n3,4 mm\n", {}, "got '4 mm' in column b, line 3"),
    "one word": ("a,b\n1,2\n3,low\n5,6\n", {}, "got 'low' in column b, line 3.*pass missing='low'"),
    "an error of Excel": ("a,b\n#DIV/0!,2\n3,4\n5,6\n", {}, "got '#DIV/0!' in column a, line 2"),
    "underscores": ("a,b\n1_000,2\n3,4\n", {}, "got '1_000' in column a"),
    "text": ("a,kind\n1,x\n3,y\n", {}, "got text in kind, first 'x' in line 2.*pass label='kind'"),
    "a label alone": ("kind\nx\ny\nx\n", {"label": "kind"}, "must have a column of numbers, got none"),
    "no such label": ("a,b\n1,2\n3,4\n", {"label": "c"}, "label must name a column of cells.csv, got 'c'. Its columns are a, b."),
    "no such index": ("a,b\n1,2\n3,4\n", {"index": "c"}, "index must name a column of cells.csv, got 'c'"),
    "label and index": ("a,b\n1,2\n3,4\n", {"index": "a", "label": "a"}, "label and index must be different"),
    "UTF-16 without a mark": ("a,b\n1,2\n3,4\n".encode("utf-16-le"), {}, "does not hold text in UTF-8"),
    "UTF-32": ("a,b\n1,2\n3,4\n".encode("utf-32"), {}, "does not hold text in UTF-8"),
    "another alphabet": ("Длинаё,b\n1,2\n3,4\n".encode()[1:] + b"\x81", {}, "Save it as UTF-8"),
    "bytes": (b"\xff\xfe\x00\x81" * 20, {}, "is not a CSV table"),
    "sep": ("a,b\n1,2\n", {"sep": "::"}, "sep must be one character, .* got '::'"),
    "decimal": ("a,b\n1,2\n", {"decimal": ";"}, "decimal must be '.' or ',', got ';'"),
    "sep and decimal": ("a,b\n1,2\n", {"sep": ",", "decimal": ","}, "sep and decimal must differ"),
    "layer": ("a,b\n1,2\n", {"layer": "raw"}, "layer says nothing about a .csv file"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, text, arguments, message):
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises((ValueError, TypeError), match=pattern):
        read(tmp_path, text, **arguments)


def test_a_first_row_of_codes_is_no_header(tmp_path):
    codes = {"missing": ["low", "broken"]}
    table = read(tmp_path, "id,a,b\nr1,low,broken\nr2,1,2\nr3,3,4\n", **codes)
    np.testing.assert_array_equal(table, [[np.nan, np.nan], [1, 2], [3, 4]])
    table = read(tmp_path, "id,a,b,c\nr1,low,low,1\nr2,1,2,3\nr3,3,4,5\n", missing="low")
    np.testing.assert_array_equal(table[0], [np.nan, np.nan, 1])
    with pytest.raises(TypeError, match=r"got 'low' in column a, line 2.*pass missing='low'"):
        read(tmp_path, "id,a,b\nr1,low,low\nr2,1,2\nr3,3,4\n")


def test_a_column_at_the_end_with_neither_entry_nor_name_is_none(tmp_path):
    for name in ("", "Unnamed: 3", "unnamed: 3"):  # a comma at the end, and what pandas makes of it
        table = read(tmp_path, f"id,a,b,{name}\nr1,1,2,\nr2,3,4,\n")
        assert table["feature"].to_numpy().tolist() == ["a", "b"]
    assert read(tmp_path, "id,a,b,Unnamed: 3\nr1,1,2,\nr2,3,4,5\n").shape == (2, 3)
    assert read(tmp_path, "id,a,b,c\nr1,1,2,\nr2,3,4,\n").shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cells.tsv", "a\tb\n1\t2\n3\t4\n"),
        ("cells.txt", "a b\n1 2\n3 4\n"),
        ("cells.CSV", "a,b\n1,2\n3,4\n"),
        ("cells.csv.gz", "a,b\n1,2\n3,4\n"),
        ("cells.tsv.gz", "a\tb\n1\t2\n3\t4\n"),
    ],
)
def test_endings(tmp_path, name, text):
    table = read(tmp_path, text, name)
    np.testing.assert_array_equal(table, [[1, 2], [3, 4]])
    assert table.name == "cells"


def test_a_damaged_gzip_file_is_refused(tmp_path):
    path = tmp_path / "cells.csv.gz"
    for raw in (b"a,b\n1,2\n", gzip.compress(b"a,b\n1,2\n3,4\n" * 99)[:-20]):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"cells\.csv\.gz is not a gzip file"):
            gplvm.data.load_table(path)


def test_windows_1252_is_read_and_told(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"cells\.csv is not in UTF-8 .* Windows-1252"):
        table = read(tmp_path, "Länge;€\n1;2\n3;4\n".encode("cp1252"))
    assert table["feature"].to_numpy().tolist() == ["Länge", "€"]


def test_numbers_keep_their_last_digit(tmp_path, rng):
    values = rng.standard_normal((20, 5)) * 10.0 ** rng.integers(-30, 30, (20, 5))
    text = "\n".join(["a;b;c;d;e", *(";".join(map(repr, row)) for row in values.tolist())])
    np.testing.assert_array_equal(read(tmp_path, text), values)
    np.testing.assert_array_equal(read(tmp_path, text.replace(".", ",")), values)


def test_a_line_of_many_columns(tmp_path, rng):
    values = rng.standard_normal((3, 20_000)).round(4)
    names = [f"gene number {i}" for i in range(20_000)]
    lines = [names, *([repr(v) for v in row] for row in values.tolist())]
    table = read(tmp_path, "\n".join(map(",".join, lines)))
    np.testing.assert_array_equal(table, values)
    assert table["feature"].to_numpy().tolist() == names


def test_a_quote_left_open_in_a_long_file(tmp_path):
    with pytest.raises(ValueError, match=r"field larger than field limit.*quotes are left open"):
        read(tmp_path, 'a,b\n1,2\n"3,4\n' + "5,6\n" * 40_000)
