"""`embed`, `diagnose`, `plot` and `explore`: what is done with a fit."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.commands.inputs import color_of_fit, dims_of, image_of, read_fit, read_table
from pm_gplvm.commands.outputs import Outputs, begin_of, listed, positions_of_new
from pm_gplvm.data.fit import Fit

NOT_PASSED = 3


def embed(options: argparse.Namespace, written: list[Path]) -> int:
    """Place new rows in a fit."""
    path = Path(options.out or f"{begin_of(options.table)}_positions.csv")
    if options.out != "-" and path.suffix != ".csv":
        raise ValueError(f"--out must end in .csv, or be -, got {options.out!r}.")
    fit = _aligned(read_fit(options.fit))
    table = read_table(options.table, options)
    paths = {} if options.out == "-" else {"positions": path}
    outputs = Outputs(paths, written, overwrite=options.overwrite)
    placed = gplvm.embed(
        fit,
        table,
        draws=options.draws,
        n_starts=options.starts,
        random_seed=options.seed,
        progressbar=not options.quiet,
    )
    frame = positions_of_new(placed)
    if options.out == "-":
        print(frame.to_csv(lineterminator="\n"), end="")
        return 0
    outputs.table("positions", frame)
    print(listed(written))
    return 0


def diagnose(options: argparse.Namespace, _: list[Path]) -> int:
    """Print the verdict on the draws of a fit."""
    verdict = gplvm.diagnose(read_fit(options.fit), n_pairs=options.pairs)
    print(verdict)
    return 0 if verdict.converged else NOT_PASSED


def plot(options: argparse.Namespace, written: list[Path]) -> int:
    """Draw a fit."""
    out = Path(options.out or f"{begin_of(options.fit)}.{options.format or 'png'}")
    if out.suffix not in (".png", ".svg") or (
        options.format and out.suffix != f".{options.format}"
    ):
        raise ValueError(
            f"--out must end in {'.' + options.format if options.format else '.png or .svg'}, got {str(out)!r}."
        )
    _check_said(options)
    dims, shape = dims_of(options.dims), image_of(options.image_shape)
    fit = _aligned(read_fit(options.fit))
    color = color_of_fit(fit, options.color)
    outputs = Outputs({"picture": out}, written, overwrite=options.overwrite)
    figure = _drawn(options.kind, fit, color, dims, shape, options)
    outputs.draw("picture", figure)
    plt.close(figure)
    print(listed(written))
    return 0


def _drawn(
    kind: str, fit: xr.DataTree, color: Any, dims: Any, shape: Any, options: argparse.Namespace
) -> Any:
    """Draw one kind of picture: its figure."""
    background: Any = {None: True, "none": False}.get(options.background, options.background)
    if kind == "latent":
        return gplvm.plot.latent(
            fit, color, dims=dims, time=options.time, background=background
        ).figure
    if kind == "reconstruction":
        return gplvm.plot.reconstruction(fit, dims=dims, image_shape=shape).figure
    if kind == "magnification":
        return gplvm.plot.magnification(fit, color, dims=dims).figure
    axes: Any = gplvm.plot.relevance(fit) if kind == "relevance" else gplvm.plot.optima(fit)
    return np.ravel(axes)[0].figure


_SAY = {
    "color": ("latent", "magnification"),
    "dims": ("latent", "reconstruction", "magnification"),
    "time": ("latent",),
    "background": ("latent",),
    "image_shape": ("reconstruction",),
}


def _check_said(options: argparse.Namespace) -> None:
    for name, kinds in _SAY.items():
        if getattr(options, name) is not None and options.kind not in kinds:
            raise ValueError(
                f"--{name.replace('_', '-')} says nothing about --kind {options.kind}. Leave it out."
            )


def explore(options: argparse.Namespace, written: list[Path]) -> int:
    """Write a page in which to move about in a fit."""
    out = Path(options.out or f"{begin_of(options.fit)}.html")
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {str(out)!r}.")
    dims, shape = dims_of(options.dims), image_of(options.image_shape)
    fit = _aligned(read_fit(options.fit))
    color = color_of_fit(fit, options.color)
    Outputs({"page": out}, written, overwrite=options.overwrite)
    written.append(
        gplvm.plot.explore(
            fit, color, path=out, dims=dims, image_shape=shape, kind=options.kind, overwrite=True
        )
    )
    print(listed(written))
    return 0


def _aligned(fit: xr.DataTree) -> xr.DataTree:
    """Turn draws of X that stand in frames of their own onto one."""
    read = Fit.of(fit, "X", caller="plot")
    turned = read.method == "replica_exchange" and not read.is_aligned and read.n_draws > 1
    return gplvm.align(fit) if turned else fit
