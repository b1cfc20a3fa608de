"""`info`: what a file holds, a table or a fit."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.sparse import issparse

from pm_gplvm.commands.inputs import is_fit, reading
from pm_gplvm.core.checks import counted
from pm_gplvm.data.arrays import MOST_CLASSES, absent, datelike
from pm_gplvm.data.datasets import Columns, existing_file, kind_of_table
from pm_gplvm.data.delimited import (
    are_names,
    dates,
    is_missing,
    is_number,
    names_rows,
    read_delimited,
)
from pm_gplvm.data.files import opened
from pm_gplvm.data.fit import Fit

_MOST_SHOWN = 8
_ROUNDING = 1e-12  # of a mean of equal draws
_READ = 1000  # rows of AnnData that are looked at
_MOST_LEVELS = 10  # of answers on a scale
_FEW = 3  # columns of few whole numbers that may be classes; in a questionnaire all are


def info(options: argparse.Namespace, _: list[Path]) -> int:
    """Print what a file holds."""
    source = options.source
    if source.endswith(".zarr") or (Path(source).is_file() and is_fit(source)):
        print(_of_fit(source))
    else:
        print(_of_table(existing_file(source), options))
    return 0


# A fit


def _of_fit(source: str) -> str:
    with opened(source) as tree:
        read = Fit.of(tree, caller="info")
        lines = {"file": f"{source}, a fit by {read.method or 'PyMC'}"}
        lines |= _made_by(read)
        if read.holds_table:
            sizes = tree["observed_data"][read.observed].sizes
            lines["table"] = f"{sizes['obs']} rows × {sizes['feature']} features"
            kept = [str(n) for n, c in read.coords.items() if c.dims == ("obs",) and n != "obs"]
            lines["of the rows"] = ", ".join(kept) or "names"
        if "X" in read:
            lines["latent dimensions"] = str(tree_sizes(read)["latent"])
        lines["likelihood"] = _likelihood(read)
        lines["kernel"] = read.kernel_and_bias + (", ARD" if read.has_ard else "")
        if read.inputs is not None:
            lines["inputs"] = str(read.inputs)
        sizes = tree["posterior"].sizes
        lines["draws"] = (
            f"{sizes['chain']} chains of {sizes['draw']}"
            if read.n_draws > 1
            else "one, an estimate"
        )
        lines["ended"] = _ending(read)
        lines["θ"] = ", ".join(_theta(read)) or "none"
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name + ':':{width}}{text}" for name, text in lines.items())


def _likelihood(read: Fit) -> str:
    """Name the likelihood, of columns of several kinds each with their number."""
    if not read.has_likelihood:
        return "gaussian"
    told = read.setting("likelihood")
    blocks = [(len(b["columns"]), b["likelihood"]["name"]) for b in told.get("blocks", ())]
    return ", ".join(f"{name} for {counted(n, 'column')}" for n, name in blocks) or told["name"]


def tree_sizes(read: Fit) -> Any:
    """Return the sizes of X, drawn or held."""
    return (read.posterior if "X" in read.posterior else read.constants)["X"].sizes


def _made_by(read: Fit) -> dict[str, str]:
    attrs = read.tree.attrs
    versions = [f"pm_gplvm {attrs['pm_gplvm_version']}"] if "pm_gplvm_version" in attrs else []
    versions += [f"PyMC {attrs['pymc_version']}"] if "pymc_version" in attrs else []
    return {"made with": ", ".join(versions) or "unknown versions"}


def _ending(read: Fit) -> str:
    attrs, parts = read.tree.attrs, []
    if attrs.get("interrupted"):
        parts.append("interrupted")
    optima = read.group("optima")
    if optima:
        best = optima.isel(dict.fromkeys(optima.dims, 0))
        starts = max(optima.sizes.values())
        done = "converged" if bool(best["converged"]) else "not converged"
        parts.append(
            f"{done} at an objective of {float(best['objective']):.2f}, the best of {starts} starts"
        )
    elif "converged" in attrs:
        parts.append("converged" if attrs["converged"] else "not converged")
    if "diverging" in read.stats:
        parts.append(f"{int(read.stats['diverging'].sum())} draws after a divergence")
    return ", ".join(parts) or "as asked for"


def _theta(read: Fit) -> list[str]:
    """Write each hyperparameter: its mean, with the sd of its draws if there are many."""
    parts = []
    for name in (*read.theta_names, "sigma"):
        if name not in read:
            continue
        values = read.values(name).reshape(read.n_draws, -1)
        mean, sd = values.mean(axis=0), values.std(axis=0)
        shown = [
            f"{m:.3g}" + (f" ± {s:.2g}" if s > _ROUNDING * abs(m) else "")
            for m, s in zip(mean[:_MOST_SHOWN], sd, strict=False)
        ]
        parts.append(f"{name} {' '.join(shown)}{' …' * (len(mean) > _MOST_SHOWN)}")
    return parts


# A table


@dataclass(frozen=True)
class _Column:
    """What a column seems to hold."""

    name: str
    kind: str  # "numbers", "names", "labels", "times"
    distinct: int
    missing: int
    whole: bool = False
    ends: tuple[float, float] = (0.0, 0.0)  # lowest and highest number

    @property
    def may_be_labels(self) -> bool:
        """Whether whole numbers are so few that they may be classes."""
        return self.kind == "numbers" and self.whole and 1 < self.distinct <= 10


def _of_table(path: Path, options: argparse.Namespace) -> str:
    kind = kind_of_table(path)
    if kind == ".nc":
        return _of_netcdf(path)
    if kind == ".h5ad":
        return _of_anndata(path)
    if kind == ".parquet":
        frame = pd.read_parquet(path)
        index = [str(n) for n in frame.index.names if n is not None]
        columns = [_described(str(name), frame[name]) for name in frame]
        lines = {"names of rows": ", ".join(index)} if index else {}
        return _told(path, len(frame), columns, lines)
    asked = reading(options)
    names = Columns(asked["label"], asked["time"], asked["index"] or (), asked["drop"]).names
    how = {name: asked[name] for name in ("sep", "decimal", "header")}
    codes = {str(code).lower() for code in asked["missing"]}
    frame = read_delimited(path, **how, names=names, missing=codes).frame
    columns = [
        _described_text(str(name), frame[name].tolist(), codes, is_first=i == 0)
        for i, name in enumerate(frame)
    ]
    return _told(path, len(frame), columns, {})


def _described_text(
    name: str, fields: Sequence[str], codes: set[str], *, is_first: bool
) -> _Column:
    known = [field for field in fields if not is_missing(field) and field.lower() not in codes]
    distinct, gaps = len(set(known)), len(fields) - len(known)
    if is_first and names_rows(name) and distinct == len(fields):
        return _Column(name, "names", distinct, gaps)
    if known and dates(known) is not None:
        return _Column(name, "times", distinct, gaps)
    if all(map(is_number, known)):
        whole = bool(known) and all(
            field.lstrip("+-").removesuffix(".0").isdecimal() for field in known
        )
        ends = _ends([float(field) for field in known]) if whole else (0.0, 0.0)
        return _Column(name, "numbers", distinct, gaps, whole, ends)
    return _Column(name, "names" if are_names(fields) else "labels", distinct, gaps)


def _described(name: str, column: Any) -> _Column:
    """Describe a column of a DataFrame."""
    entries = column.tolist()
    known = [entry for entry in entries if not absent(entry)]
    distinct, gaps = len(set(known)), len(entries) - len(known)
    if datelike(column) is not None:
        return _Column(name, "times", distinct, gaps)
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric:
        whole = bool(known) and all(float(entry).is_integer() for entry in known)
        ends = _ends(known) if whole else (0.0, 0.0)
        return _Column(name, "numbers", distinct, gaps, whole, ends)
    if all(isinstance(entry, str) for entry in known):
        return _described_text(
            name, ["" if absent(v) else v for v in entries], set(), is_first=False
        )
    return _Column(name, "labels", distinct, gaps)


def _ends(known: Sequence[float]) -> tuple[float, float]:
    return float(min(known)), float(max(known))


def _of_likelihood(numbers: Sequence[_Column]) -> str:
    """Suggest another likelihood than the Gaussian, in a line, where all columns are whole numbers from 0; or ""."""
    if not numbers or not all(c.whole and c.ends[0] >= 0.0 for c in numbers):
        return ""
    highest, most = max(c.ends[1] for c in numbers), max(c.distinct for c in numbers)
    if highest <= 1.0:
        return "If 0 and 1 are answers, no and yes, add --likelihood bernoulli"
    if highest <= _MOST_LEVELS and most <= _MOST_LEVELS:
        of_two = [c.name for c in numbers if c.ends[1] <= 1.0][: _FEW + 1]
        each = [f" --likelihood-of {_quoted(f'{name}=bernoulli')}" for name in of_two]
        return (
            f"If these are answers on a scale, add --likelihood ordinal{''.join(each) * (len(each) <= _FEW)}; "
            "if counts, --likelihood negative_binomial"
        )
    return (
        "If these are counts, add --likelihood negative_binomial, and --offset size where the sums of rows say "
        "nothing of them"
    )


def _told(path: Path, n_rows: int, columns: Sequence[_Column], lines: dict[str, str]) -> str:
    of = {k: [c for c in columns if c.kind == k] for k in ("numbers", "names", "labels", "times")}
    numbers = of["numbers"]
    total, gaps = n_rows * len(numbers), sum(c.missing for c in numbers)
    maybe = [c for c in numbers if c.may_be_labels]
    maybe = maybe if len(maybe) <= min(_FEW, len(numbers) // 2) else []
    first = {
        "file": f"{path}, a table",
        "rows": str(n_rows),
        "columns of numbers": f"{len(numbers)}{_some([c.name for c in numbers])}",
        "missing": f"{gaps} of {total} entries"
        + (f" ({100.0 * gaps / total:.1f} %)" if gaps else ""),
    }
    if of["names"]:
        lines["names of rows"] = ", ".join(c.name or "the first column" for c in of["names"])
    if of["labels"] or maybe:
        shown = [
            f"{c.name or 'the first column'} ({c.distinct} values)" for c in (*of["labels"], *maybe)
        ]
        lines["labels, it seems"] = ", ".join(shown[:_MOST_SHOWN])
    if of["times"]:
        lines["times"] = ", ".join(c.name or "the first column" for c in of["times"])
    advice = _advice(path, of, columns, gaps)
    if maybe and not of["labels"]:
        name = maybe[0].name
        advice += f"\nIf {name} holds classes, not measurements, add --label {_quoted(name)}"
    if suggested := _of_likelihood([c for c in numbers if c not in maybe] or numbers):
        advice += f"\n{suggested}"
    return _written(first | lines, advice)


def _advice(path: Path, of: dict[str, list[_Column]], columns: Sequence[_Column], gaps: int) -> str:
    """Return the command that fits such a table."""
    words = ["pm-gplvm", "fit", str(path)]
    labels = sorted((c for c in of["labels"] if c.name), key=lambda c: c.distinct > MOST_CLASSES)
    words += ["--label", labels[0].name] if labels else []
    leading = columns[0].name if columns else ""
    for option, kind in (("--time", "times"), ("--index", "names")):
        if (found := of[kind]) and found[0].name not in ("", leading):
            words += [option, found[0].name]
    words += ["--missing", "mask"] if gaps else []
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _of_netcdf(path: Path) -> str:
    with xr.open_dataset(path, engine="h5netcdf") as data:
        lines = {"file": f"{path}, NetCDF"}
        for name, variable in data.data_vars.items():
            shape = " × ".join(f"{size} {dim}" for dim, size in variable.sizes.items())
            lines[str(name)] = f"{shape}, {variable.dtype}"
        coords = [
            f"{name} ({', '.join(map(str, c.dims))}, {c.dtype})" for name, c in data.coords.items()
        ]
        lines["coordinates"] = ", ".join(coords) or "none"
    return _written(lines, f"pm-gplvm fit {path}")


def _of_anndata(path: Path) -> str:
    import anndata

    data: Any = anndata.read_h5ad(path, backed="r")
    try:
        columns = [_described(str(name), data.obs[name]) for name in data.obs]
        lines = {
            "file": f"{path}, AnnData",
            "rows": f"{data.n_obs}{_some(list(data.obs_names[: _MOST_SHOWN + 1]))}",
            "columns of numbers": f"{data.n_vars}{_some(list(data.var_names[: _MOST_SHOWN + 1]))}",
            "layers": ", ".join(str(name) for name in data.layers if name is not None) or "none",
            "of the rows": ", ".join(f"{c.name} ({c.kind}, {c.distinct} values)" for c in columns)
            or "none",
        }
        suggested = "" if data.X is None else _of_likelihood([_of_numbers(data.X[:_READ])])
    finally:
        data.file.close()
    labels = [c.name for c in columns if c.kind == "labels"]
    advice = f"pm-gplvm fit {path}" + (f" --label {labels[0]}" if labels else "")
    return _written(lines, advice + f"\n{suggested}" * bool(suggested))


def _of_numbers(X: Any) -> _Column:
    """Describe the entries of a table as one column."""
    values = np.asarray(X.toarray() if issparse(X) else X, dtype=float)
    known = values[np.isfinite(values)]
    whole = known.size > 0 and bool((known % 1.0 == 0.0).all())
    ends = (float(known.min()), float(known.max())) if whole else (0.0, 0.0)
    return _Column("X", "numbers", len(np.unique(known)), values.size - known.size, whole, ends)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_SHOWN])
    return f" ({shown}{', …' * (len(names) > _MOST_SHOWN)})" if names else ""


def _written(lines: dict[str, str], advice: str) -> str:
    width = max(map(len, lines)) + 2
    told = [f"{name + ':':{width}}{text}" for name, text in lines.items()]
    return "\n".join([*told, "", f"Embed it: {advice}"])
