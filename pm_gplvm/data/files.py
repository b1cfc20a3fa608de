"""Fits on disk, as NetCDF or Zarr: written completely or not at all, without pickle."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from pm_gplvm.core.checks import check_target, checked
from pm_gplvm.data.fit import Fit

_SUFFIXES = (".nc", ".zarr")
_CHECKSUM = "sha256"  # attribute of the root


@checked
def save(fit: xr.DataTree, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a fit to a file, from which all work can go on.

    Parameters
    ----------
    fit : DataTree
    path : path
        ``.nc`` (NetCDF 4) or ``.zarr`` (a folder). Both hold data only, and a checksum of them.
    overwrite : bool, default False
        Whether an existing file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    TypeError
        If ``fit`` is not a fit.
    ValueError
        If the suffix is neither.
    FileExistsError
        If ``path`` exists and may not be replaced.
    OSError
        If the folder does not exist or cannot be written.

    Examples
    --------
    >>> import pm_gplvm as gplvm, tempfile, pathlib
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = gplvm.save(best, pathlib.Path(folder) / "best.nc")
    ...     gplvm.load(path).attrs["method"]
    'marginal'
    """
    Fit.of(fit, caller="save")
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    marked = fit.copy()
    marked.attrs = {**fit.attrs, _CHECKSUM: _digest(fit)}
    # Written in a folder beside the target and moved when complete: a crash leaves the old file.
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.stem}-", ignore_cleanup_errors=True
    ) as scratch:
        complete = Path(scratch) / path.name
        if path.suffix == ".nc":
            marked.to_netcdf(complete, engine="h5netcdf")
        else:
            marked.to_zarr(complete, zarr_format=2, consolidated=True)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(complete, path)
    return path


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """Raise now what :func:`save` would raise after the work is done."""
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"A fit is saved as {' or '.join(_SUFFIXES)}, got {path.name!r}.")
    check_target(path, overwrite=overwrite)


def _digest(fit: xr.DataTree) -> str:
    """SHA-256 of all groups, variables and attrs, the same before writing and after reading."""
    digest = hashlib.sha256()
    for group in sorted(fit.subtree, key=lambda group: group.path):
        data = group.to_dataset(inherit=False)
        digest.update(repr((group.path, _plain(data.attrs))).encode())
        for name, variable in sorted(data.variables.items(), key=lambda item: str(item[0])):
            about = str(name), variable.dims, variable.shape, _plain(variable.attrs)
            digest.update(repr(about).encode())
            digest.update(_bytes(variable.to_numpy()))
    return digest.hexdigest()


def _plain(attrs: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return sorted((str(name), np.asarray(value).tolist()) for name, value in attrs.items())


def _bytes(values: NDArray[Any]) -> bytes:
    """Values in a form that does not depend on how a file stores them."""
    kind = values.dtype.kind
    if kind in "OUST":
        return "\0".join(map(str, values.ravel().tolist())).encode()
    if kind in "mM":
        values = values.astype(f"{kind}8[ns]").astype(np.int64)
    elif kind == "f":
        values = np.where(np.isnan(values), np.nan, values)
    else:
        values = values.astype(np.int64)
    return np.ascontiguousarray(values).tobytes()


def load(path: str | Path) -> xr.DataTree:
    """Read a fit that :func:`save` wrote.

    Parameters
    ----------
    path : path
        ``.nc`` or ``.zarr``.

    Returns
    -------
    DataTree
        In memory; the file is closed.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist.
    ValueError
        If it cannot be read, is not a fit, was written by a newer version, or has been changed since.

    Examples
    --------
    >>> load("nowhere.nc")
    Traceback (most recent call last):
    FileNotFoundError: There is no file nowhere.nc.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"A fit is a file ending in {' or '.join(_SUFFIXES)}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    engine = "h5netcdf" if path.suffix == ".nc" else "zarr"
    try:
        with xr.open_datatree(path, engine=engine) as file:
            fit = file.load()
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path.name} cannot be read as a fit; it is damaged or of another kind ({error})."
        ) from error
    _check_version(path, fit.attrs.get("pm_gplvm_version"))
    # A tree that was not written by save has no checksum.
    if (checksum := fit.attrs.pop(_CHECKSUM, None)) is not None and checksum != _digest(fit):
        raise ValueError(
            f"{path.name} cannot be read as a fit; it is damaged: it does not hold what was written "
            "(its SHA-256 is another)."
        )
    return Fit.of(fit, caller="load").tree


def _check_version(path: Path, written: Any) -> None:
    here = version("pm_gplvm")
    try:
        newer = Version(str(written)) > Version(here)
    except InvalidVersion:
        raise ValueError(
            f"{path.name} does not say which version of pm_gplvm wrote it (got {written!r}): "
            "it is no fit of this package."
        ) from None
    if newer:
        raise ValueError(
            f"{path.name} was written by pm_gplvm {written}, this is {here}. Upgrade pm_gplvm to read it."
        )
