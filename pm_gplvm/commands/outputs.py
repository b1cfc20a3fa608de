"""Files that go out: named and checked before the work, then written one by one and noted."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.core.checks import Array, check_target
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.files import check_writable
from pm_gplvm.data.fit import LATENT, Fit

_FITS = (".nc", ".zarr")
_ROLES = ("_fit", "_theta", "_sample", "_positions")


class Declined(Exception):
    """The user does not want files to be replaced."""


def begin_of(path: str | None) -> str:
    """Return how the files of a table or fit begin: its name without ending, and without what fits end in."""
    if path is None:
        return "digits"
    name = Path(path.removesuffix(".gz")).stem
    return next((name.removesuffix(role) for role in _ROLES if name.endswith(role)), name)


def names_of_fits(
    out: str | None, begin: str, to: str | None, roles: list[str], source: str | None = None
) -> tuple[str, dict[str, Path]]:
    """Return how all files begin, and the files of fits: of "fit", "theta", "sample", the main one last.

    An ``out`` that ends as fits do is the main one. Else fits are written as the ``source`` is, if that is one.
    """
    begin = out or begin
    ending = Path(begin).suffix
    if ending not in _FITS:
        if ending in (".png", ".svg", ".csv", ".html"):
            raise ValueError(
                f"--out must be the beginning of names, or end in .nc or .zarr, got {out!r}."
            )
        to = to or (Path(source).suffix[1:] if source else "nc")
        return begin, {role: Path(f"{begin}_{role}.{to}") for role in roles}
    if to is not None and ending != f".{to}":
        raise ValueError(f"--out and --to must agree, got {out!r} and {to!r}.")
    *others, main = roles
    stem = begin.removesuffix(ending)
    return stem, {role: Path(f"{stem}_{role}{ending}") for role in others} | {main: Path(begin)}


class Outputs:
    """Files by what they hold; all can be written, or this raises before the work."""

    def __init__(self, paths: Mapping[str, Path], written: list[Path], *, overwrite: bool) -> None:
        self.paths, self._written = dict(paths), written
        found = [str(path) for path in self.paths.values() if os.path.lexists(path)]
        for path in self.paths.values():  # what no answer would help
            check = check_writable if path.suffix in _FITS else _check_file
            check("--out", path, overwrite=True)
        if found and not overwrite:
            existing = f"{', '.join(found)} exist{'s' if len(found) == 1 else ''}"
            if not sys.stdin.isatty():
                raise FileExistsError(f"{existing}. Pass --overwrite or choose another --out.")
            print(f"{existing}. Replace? [y/N] ", end="", file=sys.stderr, flush=True)
            if input().strip().lower() != "y":
                raise Declined

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file to write."""
        return name in self.paths

    def save(self, name: str, fit: xr.DataTree) -> None:
        """Write a fit; KeyboardInterrupt if it is one that was interrupted."""
        if name in self:
            with interruptible():
                gplvm.save(fit, self.paths[name], overwrite=True)
                self._written.append(self.paths[name])
        if fit.attrs.get("interrupted"):
            raise KeyboardInterrupt

    def draw(self, name: str, figure: Any) -> None:
        """Write a picture."""
        path = self.paths[name]
        self._replace(path, lambda target: figure.savefig(target, dpi=150))

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a table."""
        self._replace(self.paths[name], lambda target: frame.to_csv(target, lineterminator="\n"))

    def _replace(self, path: Path, write: Any) -> None:
        """Write a file whole or not at all."""
        with (
            interruptible(),
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".pm-gplvm-") as scratch,
        ):
            complete = Path(scratch) / path.name
            write(complete)
            os.replace(complete, path)
            self._written.append(path)


def _check_file(_: str, path: Path, *, overwrite: bool) -> None:
    check_target(path, overwrite=overwrite)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Choose another --out.")


def listed(written: list[Path]) -> str:
    """Say what was written."""
    return "Written: " + (", ".join(map(str, written)) or "nothing")


def positions_of(fit: xr.DataTree) -> pd.DataFrame:
    """Return the positions of a fit, one row each: names, labels, means, and sds where it has draws."""
    read = Fit.of(fit, "X", caller="positions").pooled()
    X = read.draws("X")
    Y = read.Y
    found = read.group("approximation")
    sd: Array | None = None
    if "X_sd" in found:
        mean, sd = found["X_mean"].to_numpy(), found["X_sd"].to_numpy()
    else:
        mean = X.mean(("chain", "draw")).to_numpy()
        if "X" in read.posterior and read.n_draws > 1:
            sd = X.std(("chain", "draw"), ddof=1).to_numpy()
    rows = {
        str(n): c.to_numpy()
        for n, c in Y.coords.items()
        if c.dims == (X.dims[2],) and n != X.dims[2]
    }
    columns = dict(rows)
    for kind, values in (("latent", mean), ("sd", sd)):
        if values is not None:
            columns |= {f"{kind}_{q}": values[:, i] for i, q in enumerate(X[LATENT].to_numpy())}
    return pd.DataFrame(columns, index=pd.Index(read.row_names(len(mean)), name="id"))


def positions_of_new(placed: xr.DataTree) -> pd.DataFrame:
    """Return where :func:`embed` placed rows: the heaviest mode of each, its sd, and how sure it is."""
    if "modes" in placed.children:
        modes, rows = placed["modes"].to_dataset(), placed["rows"].to_dataset()
        at, sd = modes["X"][:, 0].to_numpy(), modes["sd"][:, 0].to_numpy()
        known = {"weight": modes["weight"][:, 0].to_numpy()}
        known |= {str(name): rows[name].to_numpy() for name in rows.data_vars}
    else:
        draws = placed["posterior"]["X"]
        at = draws.mean(("chain", "draw")).to_numpy()
        sd, known = draws.std(("chain", "draw")).to_numpy(), {}
    coords = placed["posterior"].to_dataset().coords
    labels = {
        str(n): c.to_numpy() for n, c in coords.items() if c.dims == ("obs_new",) and n != "obs_new"
    }
    dims = coords[LATENT].to_numpy()
    columns: dict[str, Any] = dict(labels)
    for kind, values in (("latent", at), ("sd", sd)):
        columns |= {f"{kind}_{q}": values[:, i] for i, q in enumerate(dims)}
    index = coords["obs_new"].to_numpy() if "obs_new" in coords else np.arange(len(at))
    return pd.DataFrame(columns | known, index=pd.Index(index, name="id"))
