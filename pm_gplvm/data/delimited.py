"""Tables of text: how their fields are separated, how their numbers are written, what names them."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, counted, warn

# What says that an entry is missing, in any case of letters.
_NO_CLASS = {"", "na", "n/a", "#n/a", "#na", "<na>", "nan", "null"}
_MISSING = _NO_CLASS | {"-nan", "none", ".", "-", "--", "?"}  # which may as well be classes

# Names of a first column that names the rows.
_INDEX = {"", "id", "index", "unnamed: 0", "rownames", "row.names"}

_UNNAMED = re.compile(r"(?:unnamed: \d+)?", re.IGNORECASE)

# The first that splits all lines alike: a comma may be a decimal mark, and a blank part of a name.
_SEPARATORS = ("\t", ";", ",", "|", " ")
_SAMPLE = 200  # lines that decide

# By the decimal mark. Thousands are groups of three behind a first digit that is no zero: "0.123" has
# none.
_NUMBER = {
    mark: re.compile(
        rf"[+-]?(?:[1-9]\d{{0,2}}(?:[{group}]\d{{3}})+|(?=[{mark}]?\d)\d*)(?:[{mark}]\d*)?(?:e[+-]?\d+)?",
        re.IGNORECASE | re.ASCII,
    )
    for mark, group in (".,", ",.")
}
_ENDLESS = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_NAN = re.compile("nan")
_SPACED = re.compile(r"(?<=\d)[ \u00a0\u202f'’](?=\d{3}(?!\d))")  # 1 234 and 1'234
_WITH_UNIT = re.compile(r"[$€£]?\s?[+-]?\d[\d.,]*\s?[^\s\d]{0,6}")  # 12 %, $5, 3.1 mm
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})")  # 007 is a name
_CLOCK = r"(?:[ T]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
_ISO = re.compile(rf"\d{{4}}-\d{{2}}(?:-\d{{2}}{_CLOCK})?")
_DAY_FIRST = re.compile(rf"\d{{1,2}}\.\d{{1,2}}\.\d{{4}}{_CLOCK}")
_SLASHES = re.compile(rf"(\d{{1,2}})/(\d{{1,2}})/\d{{4}}{_CLOCK}")
_DURATION = re.compile(
    r"-?\d+ days?(?: [+-]?\d{1,2}:\d{2}:\d{2}(?:\.\d+)?)?"
)  # as pandas writes it
_EXCEL_ERRORS = ("#n/a", "#na", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!")


class Delimited(NamedTuple):
    """A table of text: names of its columns, the text of its fields, and where each row stood."""

    frame: pd.DataFrame  # text alone; the first column may have no name
    lines: list[int]

    def of(self, *names: str) -> "Delimited":
        """Keep some of the columns."""
        return Delimited(self.frame.loc[:, list(names)], self.lines)


def read_delimited(
    path: Path,
    *,
    sep: str | None,
    decimal: str | None,
    header: bool | None,
    names: Sequence[str],
    missing: Collection[str] = (),
) -> Delimited:
    """Read a file of text; ``names`` are columns that the caller looks for, so a header has them.

    ``missing`` are the words for a missing entry beside the usual ones.
    """
    if decimal not in (None, ".", ","):
        raise ValueError(f"decimal must be '.' or ',', got {decimal!r}.")
    if sep is not None and (len(sep) != 1 or sep in '\r\n"'):
        raise ValueError(f"sep must be one character, such as ',', ';' or '\\t', got {sep!r}.")
    if sep == decimal == ",":
        raise ValueError("sep and decimal must differ, got ',' for both.")
    text, comments, told = _without_comments(_decoded(path))
    sep = sep or told or _separator(text, decimal)
    try:
        records = [(line, fields) for line, fields in _records(text, sep) if fields]
    except csv.Error as error:
        _refuse(path, f"{error}, split at {sep!r}. Close what quotes are left open, or pass sep=")
    while records and not any(records[-1][1]):  # Excel's ";;;" at the end
        records.pop()
    if not records:
        _refuse(path, "it is empty")
    if len(records) == 1 and header is not False:
        _refuse(path, f"it has one line, {_short(records[0][1])}, and no rows")
    records = _cut(records)
    first = records[0][1]
    if header is None:
        _check_header(path, records, names, comments)
        header = True
    rows = records[1:] if header else records
    width = _width(path, rows, sep)
    if header:
        _check_second_header(path, first, rows, missing)
    if header:
        if len(first) + 1 == width and _are_of_R([fields[0] for _, fields in rows]):
            first = ["", *first]
        if len(first) != width:
            _refuse(
                path,
                f"its header in line {records[0][0]} has {counted(len(first), 'name')} and its rows have "
                f"{counted(width, 'field')}, split at {sep!r}. Give each column a name (a column that names the rows too), "
                "or pass sep= and decimal= if the fields should be split otherwise",
            )
    else:
        first = [str(i) for i in range(width)]
    _check_comments(path, comments, sep, width, records[0][0])
    frame = pd.DataFrame([fields for _, fields in rows], dtype=object)
    frame = _named(path, frame, first)
    return Delimited(frame, [line for line, _ in rows])


def _refuse(path: Path, reason: str) -> NoReturn:
    raise ValueError(f"{path.name} is not a CSV table: {reason}.")


def _short(fields: Iterable[str]) -> str:
    text = ", ".join(fields)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


# Text


def _decoded(path: Path) -> str:
    """Return the text of a file, its lines ended by one line feed each."""
    raw = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path.name} is not a gzip file: {error}. Unpack it first."
            ) from error
    utf_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if raw.startswith(utf_16) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = ""
    if not text and encoding == "utf-8-sig" and raw and 0 not in raw:
        try:
            text = raw.decode("cp1252")
        except UnicodeDecodeError:
            _refuse(path, "it does not hold text in UTF-8 or marked UTF-16. Save it as UTF-8")
        warn(
            f"{path.name} is not in UTF-8 and was read as Windows-1252 (Western European). If names look "
            "wrong, save it as UTF-8."
        )
    if "\0" in text or (raw and not text):
        _refuse(path, "it does not hold text in UTF-8 or marked UTF-16. Save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_comments(text: str) -> tuple[str, list[tuple[int, str]], str | None]:
    """Blank lines that begin with "#", and return them, and the separator in Excel's "sep=;"."""
    lines, comments = text.split("\n"), []
    told = re.fullmatch(r"\"?sep=(.)\"?", lines[0].strip(" "), re.I)
    if told:
        lines[0] = ""
    for i, line in enumerate(lines):
        if line.lstrip().startswith("#") and not line.strip().lower().startswith(_EXCEL_ERRORS):
            comments.append((i + 1, line.strip()))
            lines[i] = ""
    return "\n".join(lines), comments, told[1] if told else None


def _records(text: str, sep: str, limit: int | None = None) -> list[tuple[int, list[str]]]:
    """Split lines into fields, each record with the number of the line in which it begins."""
    if sep == " ":  # any number of blanks separates, at the ends of a line none
        text = "\n".join(line.strip() for line in text.split("\n"))
    reader = csv.reader(io.StringIO(text), delimiter=sep, skipinitialspace=True)
    records, begin = [], 1
    for fields in reader:
        records.append((begin, [field.strip() for field in fields]))
        begin = reader.line_num + 1
        if limit and len(records) >= limit:
            break
    return records


def _separator(text: str, decimal: str | None) -> str:
    """Return what splits all lines into equally many fields, or else most of them."""
    best, most = ",", 0
    for sep in _SEPARATORS:
        if sep == decimal:
            continue
        try:
            widths = [len(fields) for _, fields in _records(text, sep, _SAMPLE) if any(fields)]
        except csv.Error:  # a line of many columns is too long for one field
            continue
        if not widths:
            continue
        width, alike = Counter(widths[1:] or widths).most_common(1)[0]
        if width < 2:
            continue
        alike += len(widths) > 1 and widths[0] == width
        if alike == len(widths):
            return sep
        if alike > most:
            best, most = sep, alike
    return ";" if best == decimal else best


def _cut(records: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Cut empty fields behind the last separator off the header, or off all rows."""
    (line, first), *rows = records
    if not rows:
        return records
    widest = max(len(fields) for _, fields in rows)
    if len(first) > widest:
        kept = max([widest, *(i + 1 for i, name in enumerate(first) if name)])
        return [(line, first[:kept]), *rows]
    if all(len(fields) > len(first) and not any(fields[len(first) :]) for _, fields in rows):
        rows = [(at, fields[: len(first)]) for at, fields in rows]
    return [(line, first), *rows]


def _width(path: Path, rows: list[tuple[int, list[str]]], sep: str) -> int:
    """Return the number of fields that all rows have."""
    width = Counter(len(fields) for _, fields in rows).most_common(1)[0][0]
    for line, fields in rows:
        if len(fields) != width:
            _refuse(
                path,
                f"line {line} has {counted(len(fields), 'field')}, split at {sep!r}, where most have {width}. Put "
                "the missing fields in, empty where a value is missing, quote fields that contain the "
                "separator, or pass sep= and decimal=",
            )
    return width


# Names


def _check_header(
    path: Path,
    records: list[tuple[int, list[str]]],
    names: Sequence[str],
    comments: list[tuple[int, str]],
) -> None:
    """Raise ValueError where the first line may as well be a row as the names of the columns."""
    (line, first), *rows = records
    if names_rows(first[0]) or set(names) & set(first):
        return
    found = [
        name
        for i, name in enumerate(first)
        if all(is_number(fields[i]) for _, fields in rows[:20] if i < len(fields))
    ]
    if not all(map(is_number, found)) or all(map(is_missing, found)):
        return
    above = [comment for at, comment in comments if at < line]
    hint = f" If {_short(above[-1:])} above it names them, remove its #." if above else ""
    raise ValueError(
        f"{path.name} has numbers in line {line}, where names of columns are expected: {_short(first)}. Pass "
        f"header=False if the line is a row, or header=True if these are names.{hint}"
    )


def _check_second_header(
    path: Path, first: list[str], rows: list[tuple[int, list[str]]], missing: Collection[str]
) -> None:
    """Refuse a second line of names or units: text, not all the same, where the rows below have numbers."""
    (line, second), *below = rows
    known = {word.lower() for word in missing}
    texts, others = [], 0
    for i, field in enumerate(second):
        column = [fields[i] for _, fields in below[:_SAMPLE] if not is_missing(fields[i])]
        if not column or not all(map(is_number, column)):
            continue
        if is_number(field) or field.lower() in known:  # missing ones too, and the unit 1
            others += 1
        elif _WITH_UNIT.fullmatch(field):
            return
        else:
            texts.append((first[i] if i < len(first) else "", field))
    if len(texts) > others and len({text for _, text in texts}) > 1:
        name, text = texts[0]
        raise ValueError(
            f"{path.name} has two header lines: line {line}, {_short(second)}, has text above numbers. Delete it, "
            f"or write both into the first line, one name for each column, such as {f'{name}_{text}'!r}."
        )


def _check_comments(
    path: Path, comments: list[tuple[int, str]], sep: str, width: int, header_at: int
) -> None:
    """Refuse a line behind a "#" among the rows that may be one of them, such as of sample #12."""
    for line, comment in comments:
        if line > header_at and width > 1 and len(_records(comment, sep)[0][1]) == width:
            _refuse(
                path,
                f"line {line} begins with # and has {width} fields as the rows do: {_short([comment])}. "
                "Remove the line if it is a comment, or its # if it is a row",
            )


def _named(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Give columns their names, without those at the end that have neither a name nor an entry.

    A name that pandas made up for such a column is none.
    """
    kept = len(names)
    while kept > 1 and _UNNAMED.fullmatch(names[kept - 1]) and not frame[kept - 1].any():
        kept -= 1
    names, frame = _joined(names[:kept], frame)
    if unnamed := [i + 1 for i, name in enumerate(names) if not name and i]:
        raise ValueError(
            f"{path.name} must name its columns, got no name of column {unnamed[0]}. Name it in the "
            "header (the first column alone may go without and names the rows then)."
        )
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ValueError(
            f"{path.name} must have different names of columns, got {', '.join(map(repr, twice[:5]))} more "
            "than once. Rename them; if a second line tells them apart, write both lines into one."
        )
    frame = frame.iloc[:, : len(names)]
    frame.columns = pd.Index(names, dtype=object)
    return frame


def _joined(names: Sequence[str], frame: pd.DataFrame) -> tuple[Sequence[str], pd.DataFrame]:
    """Make one column of several without a name at the left: what pandas writes of an index of levels."""
    levels = next((i for i, name in enumerate(names) if name), 0)
    if levels < 2:
        return names, frame
    whole = frame.iloc[:, levels - 1 :].copy()
    whole.iloc[:, 0] = joined([frame.iloc[:, i].tolist() for i in range(levels)])
    return names[levels - 1 :], whole


def joined(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return one name for each row of several columns of names."""
    return [" ".join(fields) for fields in zip(*columns, strict=True)]


def _are_of_R(fields: Sequence[str]) -> bool:
    """Whether fields without a name above them are those that R writes of the rows: names, or 1, 2, 3, ..."""
    return are_names(fields) or list(fields) == [str(i + 1) for i in range(len(fields))]


def names_rows(name: str) -> bool:
    """Whether a first column of this name names the rows."""
    return name.lower() in _INDEX


def are_names(fields: Sequence[str]) -> bool:
    """Whether fields name rows: text that is no number, with a unit or without, each another one."""
    texts = not any(is_number(field) or _WITH_UNIT.fullmatch(field) for field in fields)
    return texts and len(set(fields)) == len(fields)


def row_names(fields: Sequence[str]) -> NDArray[Any]:
    """Return names of rows: whole numbers as such, unless one begins with a needless 0."""
    if all(map(_WHOLE.fullmatch, fields)):
        return np.array([int(field) for field in fields])
    return np.array(list(fields), dtype=str)


def class_names(fields: Sequence[str]) -> NDArray[Any]:
    """Return the class of each row, "" where it is missing."""
    return np.array(["" if field.lower() in _NO_CLASS else field for field in fields], dtype=str)


# Times


def dates(fields: Sequence[str]) -> NDArray[Any] | None:
    """Return dates or durations as NumPy's, NaT where one is missing; None if any field is neither.

    Dates are written as 2020-01-31, 31.1.2020, or with slashes where some day is above 12; clocks may
    follow. With a time zone they become UTC.
    """
    known = [field for field in fields if field.lower() not in _MISSING]
    options = _format_of(known) if known else None
    if options is None:
        return None
    given = [field if field.lower() not in _MISSING else None for field in fields]
    try:
        if _DURATION.fullmatch(known[0]):
            return pd.to_timedelta(pd.Series(given, dtype=object)).to_numpy()
        found = pd.to_datetime(pd.Series(given, dtype=object), utc=True, **options)
    except ValueError:  # the 31st of June
        return None
    return found.dt.tz_localize(None).to_numpy()


def _format_of(fields: Sequence[str]) -> dict[str, Any] | None:
    """Return what pandas is to know of how dates are written; None if they are none."""
    if all(map(_DURATION.fullmatch, fields)):
        return {}
    if all(map(_ISO.fullmatch, fields)):
        return {"format": "ISO8601"}
    if all(map(_DAY_FIRST.fullmatch, fields)):
        return {"format": "mixed", "dayfirst": True}
    found = [match for match in map(_SLASHES.fullmatch, fields) if match]
    first, second = (any(int(match[i]) > 12 for match in found) for i in (1, 2))
    if len(found) < len(fields) or first == second:
        return None
    return {"format": "mixed", "dayfirst": first}


# Numbers


def is_missing(field: str) -> bool:
    """Whether a field says that its entry is missing."""
    return field.lower() in _MISSING


def is_number(field: str) -> bool:
    """Whether a field is a number with either decimal mark, or missing."""
    plain = _SPACED.sub("", field)
    return is_missing(field) or any(p.fullmatch(plain) for p in (*_NUMBER.values(), _ENDLESS))


def as_numbers(
    path: Path, table: Delimited, decimal: str | None, words: Collection[str] = ()
) -> Array:
    """Return the fields (N, D) as numbers, NaN where one is missing or among the ``words``.

    The decimal mark is found in all columns together, and asked for where fields do not tell.
    """
    absent = _MISSING | {word.lower() for word in words}
    texts = [
        ["nan" if text.lower() in absent else text for text in table.frame.iloc[:, d]]
        for d in range(table.frame.shape[1])
    ]
    if decimal != "," and (values := _as_written(texts)) is not None:
        return values
    texts = [[_plain(text) for text in column] for column in texts]
    _check_numbers(path, table, texts, decimal)
    decimal = decimal or _decimal(path, chain.from_iterable(texts))
    group = "," if decimal == "." else "."
    plain = [[t.replace(group, "").replace(",", ".") for t in column] for column in texts]
    return np.array(plain, dtype=np.float64).T


def _as_written(texts: list[list[str]]) -> Array | None:
    """Return numbers as Python writes them, of columns of text; None if any is written otherwise."""
    if any("," in text or "_" in text for text in map("".join, texts)):
        return None
    try:
        return np.array([[float(text) for text in column] for column in texts]).T
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Write a number without blanks between thousands, with the minus of ASCII; yes and no as 1 and 0."""
    text = _SPACED.sub("", text).replace("\u2212", "-")
    return {"true": "1", "false": "0"}.get(text.lower(), text)


def _check_numbers(
    path: Path,
    table: Delimited,
    texts: list[list[str]],
    decimal: str | None,
) -> None:
    """Raise TypeError where a field is neither a number nor missing."""
    patterns = (_ENDLESS, _NAN, *(_NUMBER.values() if decimal is None else (_NUMBER[decimal],)))
    odd = [
        np.array([not any(p.fullmatch(text) for p in patterns) for text in column], dtype=bool)
        for column in texts
    ]
    found = [d for d, flags in enumerate(odd) if flags.any()]
    if not found:
        return
    d = found[0]
    rows = odd[d]
    names = [str(table.frame.columns[i]) for i in found]
    at = int(rows.argmax())
    field, line = str(table.frame.iloc[at, d]), table.lines[at]
    if dates(table.frame.iloc[:, d].tolist()) is not None:
        raise TypeError(
            f"{path.name} must hold numbers, got dates in {names[0]}, first {field!r} in line {line}. Pass "
            f"time={names[0]!r} if they are the times of the rows, or index={names[0]!r} if they name them."
        )
    if _WITH_UNIT.fullmatch(field) or rows.mean() <= 0.5:
        raise TypeError(
            f"{path.name} must hold numbers, got {field!r} in column {names[0]}, line {line}. Write numbers "
            f"alone, without units, all with one decimal mark; pass missing={field!r} if it stands for "
            "a missing entry."
        )
    raise TypeError(
        f"{path.name} must hold numbers, got text in {', '.join(names[:5])}, first {field!r} in line {line}. "
        f"If one of them names the classes, pass label={names[0]!r}; if it names the rows, index={names[0]!r}. "
        "Take other text out of the file."
    )


def _decimal(path: Path, texts: Iterable[str]) -> str:
    """Return the decimal mark that all numbers agree with."""
    point = comma = open_ = ""
    for text in texts:
        if "." not in text and "," not in text:
            continue
        as_point, as_comma = (p.fullmatch(text) is not None for p in _NUMBER.values())
        if as_point and as_comma:
            open_ = text if "," in text else open_
        elif as_point:
            point = point or text
        else:
            comma = comma or text
    if point and comma:
        raise ValueError(
            f"{path.name} has {point!r} with a decimal point and {comma!r} with a decimal comma. Write all "
            "numbers alike."
        )
    if open_ and not point and not comma:
        raise ValueError(
            f"{path.name} has numbers such as {open_!r}, whose comma may be a decimal one or mark "
            "thousands. Pass decimal=',' or decimal='.'."
        )
    return "," if comma else "."
