"""Options and files that come in: checked numbers, tables, fits, models."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.commands.arguments import LIKELIHOODS
from pm_gplvm.core.checks import OPTIONS, count, number
from pm_gplvm.core.kernels import parse_kernel
from pm_gplvm.data.arrays import MOST_CLASSES
from pm_gplvm.data.datasets import existing_file, holds_fit
from pm_gplvm.data.fit import FEATURE, OBS, Fit
from pm_gplvm.data.table import labelled
from pm_gplvm.fitting.choose import Task

# Options that mean what those of the Python functions do, under the names they have there.
_CHECKS = {
    "draws": "draws",
    "tune": "tune",
    "chains": "chains",
    "cores": "cores",
    "thin": "thin",
    "restarts": "n_restarts",
    "n_inducing": "n_inducing",
    "max_iter": "max_iter",
    "seed": "random_seed",
    "pairs": "n_pairs",
}
_INDUCING = ("auto", "sparse", "variational", "svi")  # may have inducing inputs


def check_options(options: argparse.Namespace) -> None:
    """Check numbers, and whether options go together, before any file is read."""
    given = vars(options)
    for name, known in _CHECKS.items():
        if given.get(name) is not None:
            OPTIONS[known](f"--{name.replace('_', '-')}", given[name])
    if given.get("starts") is not None:
        count("--starts", options.starts, 4)
    _check_full(given)
    if given.get("n_inducing") and options.inference not in _INDUCING:
        raise ValueError(
            f"--n-inducing says nothing about --fit {options.inference}: it is for {', '.join(_INDUCING[1:])}. "
            "Leave it out."
        )
    _check_minibatches(given)
    if "kernel" in given:
        usual = "linear" if options.inference == "linear" else "rbf + linear"
        options.kernel = options.kernel or usual
        parse_kernel(options.kernel)


def _check_minibatches(given: dict[str, Any]) -> None:
    """Check what only a fit by minibatches has; who asks for it gets one."""
    for name, check in (("epochs", partial(number, above=0.0)), ("batch_size", count)):
        if (value := given.get(name)) is None:
            continue
        option = f"--{name.replace('_', '-')}"
        check(option, value)
        if given["inference"] not in ("auto", "svi"):
            raise ValueError(
                f"{option} says nothing about --fit {given['inference']}: it is for svi. Leave it out."
            )
        given["inference"] = "svi"
    if given.get("epochs") is not None and given["max_iter"] is not None:
        raise ValueError("--max-iter and --epochs both tell how long --fit svi runs. Pass one.")
    _check_likelihoods(given)


def _check_likelihoods(given: dict[str, Any]) -> None:
    """Check the names of likelihoods, and that the trials are told where they count and nowhere else."""
    if "likelihood" not in given:
        return
    if given["trials"] is not None:
        count("--trials", given["trials"])
    named = [("--likelihood binomial", given["likelihood"], "")]
    for text in given["likelihood_of"] or ():
        column, name, trials = _likelihood_of(text)
        if not (column and name in LIKELIHOODS and (not trials or name == "binomial")):
            raise ValueError(
                f"--likelihood-of must be COLUMN=NAME, NAME one of {', '.join(LIKELIHOODS)} or binomial:N, got {text!r}."
            )
        if trials and not (trials.isdecimal() and int(trials) > 0):
            raise ValueError(
                f"--likelihood-of must be COLUMN=binomial:N, N a whole number of at least 1, got {text!r}."
            )
        named.append((f"--likelihood-of {text}", name, trials))
    needing = [option for option, name, trials in named if name == "binomial" and not trials]
    if needing and given["trials"] is None:
        raise ValueError(
            f"{needing[0]} needs the number of trials of each entry, got none. Pass --trials N."
        )
    if given["trials"] is not None and not needing:
        raise ValueError(
            "--trials says nothing about likelihoods other than binomial. Pass --likelihood binomial, or leave it out."
        )


def _likelihood_of(text: str) -> tuple[str, str, str]:
    """Take COLUMN=NAME or COLUMN=binomial:N apart."""
    column, _, name = text.rpartition("=")
    name, _, trials = name.partition(":")
    return column, name, trials


def _check_full(given: dict[str, Any]) -> None:
    """Check what only new draws of X and θ together have."""
    for name in ("explore", "thin", "replicas"):
        if given.get(name) is None:
            continue
        if given["resume"] or not given["full"]:
            about = "--resume, which goes on as the run began" if given["resume"] else "draws of θ"
            raise ValueError(f"--{name} says nothing about {about}. Leave it out, or pass --full.")
    replicas = given.get("replicas")
    if replicas not in (None, "auto"):
        if not replicas.isdecimal() or int(replicas) < 1:
            raise ValueError(
                f"--replicas must be auto or a whole number of at least 1, got {replicas!r}."
            )
        given["replicas"] = int(replicas)


def is_fit(path: Any) -> bool:
    """Whether a path leads to a saved fit, not to a table."""
    return path is not None and Path(path).suffix in (".nc", ".zarr") and holds_fit(Path(path))


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Return arguments of :func:`load_table`."""
    return {
        "label": options.label,
        "time": options.time,
        "index": options.index,
        "drop": options.drop or (),
        "missing": options.missing_code,
        "sep": {"\\t": "\t", "tab": "\t"}.get(options.sep, options.sep),
        "decimal": options.decimal,
        "header": None if options.header is None else options.header == "yes",
        "layer": options.layer,
    }


def read_table(path: str, options: argparse.Namespace) -> xr.DataArray:
    """Read a table as it was asked for; ValueError if its label names the rows."""
    table = gplvm.data.load_table(path, **reading(options))
    if options.label is not None:
        labels = table["label"].to_numpy()
        if labels.dtype.kind == "U" and len(np.unique(labels)) == len(labels) > MOST_CLASSES:
            raise ValueError(
                f"--label must name a column of classes, got {options.label!r} with another text in each of the "
                f"{len(labels)} rows. If it names the rows, pass --index {options.label}."
            )
    return table


def read_fit(path: str) -> xr.DataTree:
    """Read a fit; ValueError if the file is a table."""
    if Path(path).suffix == ".zarr":
        return gplvm.load(path)
    if not is_fit(existing_file(path)):
        raise ValueError(
            f"{path} is no fit that was saved. Make one of a table: pm-gplvm fit {path}"
        )
    return gplvm.load(path)


def task_of(table: xr.DataArray, options: argparse.Namespace, *, sampled: bool) -> Task:
    """Put together what is to be fitted; ``sampled`` if draws are to follow."""
    return Task(
        Y=table,
        latent_dim=options.latent_dim,
        likelihood=_likelihood(table, options),
        offset=options.offset,
        kernel=options.kernel,
        ard=options.ard,
        priors=priors(table, options),
        scale=options.scale,
        missing=options.missing,
        noise=options.noise,
        inference=options.inference,
        start=options.start,
        sampled=sampled,
    )


def _likelihood(table: xr.DataArray, options: argparse.Namespace) -> Any:
    """Return the likelihood of all columns, or of each by its name."""

    def named(name: str, trials: str = "") -> Any:
        if name != "binomial":
            return name
        return gplvm.likelihoods.binomial(int(trials or options.trials))

    if not options.likelihood_of:
        return named(options.likelihood)
    features = labelled(table)[FEATURE].to_numpy().tolist()
    each = dict.fromkeys(features, named(options.likelihood))
    by_text = {str(feature): feature for feature in features}
    for column, name, trials in map(_likelihood_of, options.likelihood_of):
        if column not in by_text:
            shown = ", ".join(map(str, features[:8])) + ", …" * (len(features) > 8)
            raise ValueError(
                f"--likelihood-of must name a column of the table ({shown}), got {column!r}."
            )
        each[by_text[column]] = named(name, trials)
    return each


def priors(table: xr.DataArray, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the prior of X that was asked for, of the times or classes that a table has."""
    if options.prior is None:
        return None
    name = "time" if options.prior == "dynamics" else "label"
    if name not in table.coords:
        raise ValueError(
            f"--prior {options.prior} needs each row's {name}, got none. Pass --{name} COLUMN."
        )
    values = table[name].to_numpy()
    known = gplvm.priors.dynamics if options.prior == "dynamics" else gplvm.priors.class_mixture
    return {"X": known(values)}


def color_of(table: xr.DataArray, name: str | None) -> Any:
    """Return what colours say: a coordinate by its name, or a column; by default the label, else the time.

    ValueError if there is none of that name.
    """
    table = labelled(table)
    coords = [str(n) for n, c in table.coords.items() if c.dims == (OBS,) and n != OBS]
    if name is None:
        return next((n for n in ("label", "time") if n in coords), None)
    if name in coords:
        return name
    features = [str(feature) for feature in table[FEATURE].to_numpy()]
    if name not in features:
        shown = ", ".join(features[:8]) + ", …" * (len(features) > 8)
        raise ValueError(
            f"--color must be one of {', '.join([*coords, '']) or ''}or a column of the table ({shown}), got {name!r}."
        )
    column = table[:, features.index(name)].to_numpy()
    return pd.Series(column, index=pd.Index(table[OBS].to_numpy()), name=name)


def color_of_fit(fit: xr.DataTree, name: str | None) -> Any:
    """Return what colours say of the rows of a fit."""
    read = Fit.of(fit, "X", caller="plot")
    return color_of(read.Y.transpose(OBS, FEATURE), name)


def dims_of(text: str | None) -> tuple[int, int] | None:
    """Read two latent dimensions such as 0,2."""
    return None if text is None else _two("--dims", text, ",", "0,1")


def image_of(text: str | None) -> tuple[int, int] | None:
    """Read a shape such as 8x8."""
    return None if text is None else _two("--image-shape", text, "x", "8x8")


def _two(option: str, text: str, between: str, example: str) -> tuple[int, int]:
    parts = text.lower().split(between)
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{option} must be two whole numbers such as {example}, got {text!r}.")
    return int(parts[0]), int(parts[1])
