"""Fits on disk, as NetCDF or Zarr: written completely or not at all, without pickle.

A fit is written into a scratch folder beside its target, read back, and put in its place by renaming. A
file takes one step. A folder takes two, as no system renames a folder onto a full one: the old fit moves
into the scratch folder, the new one out of it. If the process dies between the two, the scratch folder
holds both, and whoever comes next, to load or to save, moves the old one back: that save has not
happened. The name of a scratch folder tells the machine and the process, so that those of the dead are
told from those of the living and removed.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from platform import node
from typing import Any

import h5py
import numpy as np
import xarray as xr
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from pm_gplvm.core.checks import as_path, check_target, checked, warn
from pm_gplvm.core.kernels import OWN, is_own, parse_kernel
from pm_gplvm.data.fit import Fit, to_json

_SUFFIXES = (".nc", ".zarr")
_LOCK = ".lock"
"""Ends the name of a file that a run holds while it writes to what is beside it, or around it."""

# Attributes of the root that save adds and load takes away.
_CHECKSUM = "sha256"
_FORMAT = "saved_by_pm_gplvm"  # what only save writes: such a file must have its checksum
_FORMAT_NOW = 1
_JSON = "json: "  # begins the text of an attribute that a file would not give back as it is

_SCRATCH = ".pm_gplvm-"
_OLD_AGE = 7 * 86400.0  # seconds after which a scratch folder of another machine is nobody's
_ATTEMPTS = 1000  # to replace a folder, while others replace it or read it
_PATIENCE = 2.0  # seconds that load waits for a fit that is being replaced
_LONGEST = 200  # bytes of a name: it may become that of a folder
_WHAT = "; it is damaged or of another kind"


@checked
def save(fit: xr.DataTree, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a fit to a file, from which all work can go on.

    Parameters
    ----------
    fit : DataTree
    path : path
        ``.nc`` (NetCDF 4) or ``.zarr`` (a folder). Both hold data only, and a checksum of them.
    overwrite : bool, default False
        Whether a fit that stands there may be replaced. Anything else is left as it is.

    Returns
    -------
    Path

    Raises
    ------
    TypeError
        If ``fit`` is not a fit, ``path`` is no path, or an attribute is none of number, text, True,
        False, None, or lists and dicts of these (arrays and tuples come back as lists).
    ValueError
        If the suffix is neither, or a label or name cannot be written.
    FileExistsError
        If ``path`` exists and may not be replaced, or is no fit that was saved.
    OSError
        If the folder does not exist or cannot be written.

    Notes
    -----
    Whenever the process is killed, ``path`` holds the old fit or the new one. What was written is read
    once and compared before it takes the place of the old.

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
    Fit.of(fit, caller="save", views=True)
    target = check_writable("path", path, overwrite=overwrite)
    marked = _encoded(fit)
    checksum = digest(marked)
    marked.attrs = {**marked.attrs, _FORMAT: _FORMAT_NOW, _CHECKSUM: checksum}
    with scratch_folder(target) as scratch:
        complete = scratch / "new" / target.name
        try:
            if target.suffix == ".nc":
                marked.to_netcdf(complete, engine="h5netcdf")
            else:
                marked.to_zarr(complete, zarr_format=2, consolidated=True)
            with xr.open_datatree(complete, engine=_engine(target), cache=False) as written:
                same = digest(written) == checksum
        except OSError:
            raise  # the disk's own words: no space, no permission
        except Exception as error:  # xarray and the writers below it raise many kinds
            raise ValueError(f"save cannot write this fit to {target.name}: {error}") from error
        if not same:
            raise ValueError(
                f"save cannot write this fit to {target.name}: read back, a variable, label or attribute "
                "is another. Try the other format, and keep attributes to numbers and text."
            )
        _put(complete, target, scratch / "old" / target.name, overwrite=overwrite)
    return target


def checkpoint(fit: xr.DataTree, store: str | Path, *, caller: str) -> None:
    """Write the draws so far over those before; what cannot be written is told, and ends no run."""
    try:
        save(fit, store, overwrite=True)
    except (OSError, ValueError, TypeError) as error:
        warn(
            f"{caller}: its draws could not be written to store ({error}). They are in what it returns."
        )


def check_writable(name: str, path: Any, *, overwrite: bool = False) -> Path:
    """Raise now what :func:`save` would raise after the work is done; ``name`` is the argument's."""
    target = as_path(name, path, _SUFFIXES)
    _tidy(target.parent)
    check_target(target, overwrite=overwrite)
    if os.path.lexists(target) and not _replaceable(target):
        raise FileExistsError(
            f"{target} exists and is no fit that save wrote, so it is not replaced. Move or remove it "
            "yourself, or choose another name."
        )
    return target


@contextmanager
def written_alone(name: str, target: Path) -> Iterator[None]:
    """Refuse what another run is writing: a file to be, or a folder. A lock ends with the process that holds it."""
    inside = target.is_dir() and target.suffix not in _SUFFIXES
    path = target / _LOCK if inside else target.with_name(f".{target.name}{_LOCK}")
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise FileExistsError(
            f"{name} must be written by one run at a time, got {target}, which another run is writing. Wait for its "
            f"end, or choose another name for {name}."
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # elsewhere than on Unix, while it is held
            path.unlink()
        lock.release()


@contextmanager
def kept_in(name: str, path: Any) -> Iterator[None]:
    """Keep a file that :func:`save` may write for one run, if there is to be one."""
    if path is None:
        yield
        return
    with written_alone(name, check_writable(name, path)):
        check_writable(name, path)  # another run may have ended in between
        yield


def _replaceable(target: Path) -> bool:
    """Whether a fit that save wrote stands there, and nothing else with it; or nothing at all."""
    try:
        about = os.stat(target)
    except OSError:
        return False
    if target.suffix == ".nc":
        if not stat.S_ISREG(about.st_mode):
            return False
        if about.st_size == 0:
            return True
        try:
            with h5py.File(target, "r") as file:
                return _FORMAT in file.attrs
        except (OSError, KeyError, RuntimeError):
            return False
    if not stat.S_ISDIR(about.st_mode):
        return False
    names = {entry: set(files) for entry, _, files in os.walk(target)}
    if not any(names.values()):
        return len(names) == 1
    try:
        attrs = json.loads((target / ".zattrs").read_bytes())
    except (OSError, ValueError):
        return False
    ours = all(
        ".zarray" in files or files <= {".zattrs", ".zgroup", ".zmetadata"}
        for files in names.values()
    )
    return ours and isinstance(attrs, dict) and _FORMAT in attrs


# Scratch folders


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside the target, with ``new`` and ``old`` in it, and remove it at the end."""
    folder = Path(
        tempfile.mkdtemp(dir=target.parent, prefix=f"{_SCRATCH}{_machine()}-{os.getpid()}-")
    )
    try:
        for part in ("new", "old"):
            (folder / part).mkdir()
        yield folder
    finally:
        _give_up(folder)


@cache
def _machine() -> str:
    """Tell where process numbers mean the same: one start of one machine, one container."""
    told = [node()]
    with suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        told.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


def _tidy(folder: Path) -> None:
    """Remove the scratch folders of processes that have died, after moving back what they set aside."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        found = re.fullmatch(rf"{re.escape(_SCRATCH)}(\w+)-(\d+)-\w+", scratch.name)
        if found and scratch.is_dir() and not _alive(scratch, found[1], int(found[2])):
            _give_up(scratch)


def _alive(scratch: Path, machine: str, process: int) -> bool:
    """Whether a run may still be writing there; of another machine only the age is known."""
    if machine != _machine() or sys.platform == "win32":  # where os.kill would end the process
        with suppress(OSError):
            return time.time() - scratch.stat().st_mtime < _OLD_AGE
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _give_up(scratch: Path) -> None:
    """Remove a scratch folder; a fit that was set aside and not replaced goes back first."""
    for aside in _set_aside(scratch):
        target = scratch.parent / aside.name
        with suppress(OSError):
            if not os.path.lexists(target):
                os.rename(aside, target)
        if not os.path.lexists(target):
            return
    shutil.rmtree(scratch, ignore_errors=True)


def _set_aside(scratch: Path) -> list[Path]:
    """Fits that were moved away while the new one had not yet left the scratch folder."""
    return [old for old in scratch.glob("old/*") if (scratch / "new" / old.name).exists()]


def _put(complete: Path, target: Path, aside: Path, *, overwrite: bool) -> None:
    """Put what was written in its place, in one step or two."""
    if target.suffix == ".nc":
        if not overwrite:
            _claim(complete, target)
        os.replace(complete, target)
        return
    for attempt in itertools.count():  # until no other process puts its own there in between
        try:
            os.rename(complete, target)
            return
        except OSError as error:
            # The one that stood in the way may have been set aside by now, by the other process.
            was_there = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not (was_there or os.path.lexists(target)) or attempt > _ATTEMPTS:
                raise
        if not overwrite:
            check_target(target, overwrite=False)
        with suppress(FileNotFoundError):  # overtaken by that of the other process
            os.rename(aside, aside.parent.parent / f"earlier-{attempt}")
        with suppress(FileNotFoundError):
            os.rename(target, aside)


def _claim(complete: Path, target: Path) -> None:
    """Raise if another process has made the file since it was looked for."""
    try:
        os.link(complete, target)
    except FileExistsError:
        check_target(target, overwrite=False)
    except OSError:
        pass  # a file system without links


# What is written


def _encoded(fit: xr.DataTree) -> xr.DataTree:
    """Write attributes that a file would change or refuse as JSON, and check all names and labels."""
    groups = {}
    for group in fit.subtree:
        data = group.to_dataset(inherit=False).copy()
        where = f"the fit's {group.path}" if group.path != "/" else "the fit"
        check_labels({name: data[name].to_numpy() for name in data.variables}, where)
        for name in data.variables:
            # What a reader has noted of another file does not matter to this one.
            data[name].attrs, data[name].encoding = (
                _attrs(data[name].attrs, f"{where}'s {name}"),
                {},
            )
        data.attrs, data.encoding = _attrs(data.attrs, where), {}
        groups[group.path] = data
    return xr.DataTree.from_dict(groups)


def _attrs(attrs: Mapping[Any, Any], of: str) -> dict[str, Any]:
    encoded = {}
    for name, value in attrs.items():
        check_name(name, f"attrs of {of}")
        try:
            encoded[name] = _attr(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"attrs[{name!r}] of {of} must be a number, text, True, False, None, or a list or dict of "
                f"these, got {type(value).__name__} ({error}). Remove it or make it text."
            ) from None
    return encoded


def _attr(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    kept = type(value) is float or (type(value) is int and -(2**63) <= value < 2**63)
    if kept or (type(value) is str and _plain_text(value) and not value.startswith(_JSON)):
        return value
    if not _keys_are_text(value):
        raise TypeError("the keys of a dict must be text")
    return _JSON + to_json(value)


def _keys_are_text(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _keys_are_text(v) for key, v in value.items())
    return not isinstance(value, list | tuple) or all(map(_keys_are_text, value))


def _decoded(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    def of(value: Any) -> Any:
        as_json = isinstance(value, str) and value.startswith(_JSON)
        return json.loads(value.removeprefix(_JSON)) if as_json else value

    return {name: of(value) for name, value in attrs.items()}


def _plain_text(text: str) -> bool:
    """Whether HDF5 and Zarr hold a text: UTF-8 without NUL, and not empty."""
    return bool(text) and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def check_name(name: Any, where: str) -> None:
    """Raise ValueError unless a file can hold a variable, coordinate or attribute of that name."""
    known = isinstance(name, str) and name not in (".", "..") and "/" not in name
    if not (known and _plain_text(name) and len(name.encode()) <= _LONGEST):
        shown = repr(name) if len(repr(name)) < 60 else f"{repr(name)[:50]}… ({len(name)} letters)"
        raise ValueError(
            f"Names in {where} must be text of at most {_LONGEST} bytes without '/' and NUL, so that a file "
            f"can hold them, got {shown}. Rename it."
        )


def check_labels(coords: Mapping[Any, Any], where: str) -> None:
    """Raise ValueError unless a file can hold these arrays under these names: numbers, dates, text."""
    for name, labels in coords.items():
        check_name(name, where)
        values = np.asarray(labels)
        if values.dtype.kind in "biufmM":
            continue
        for i, label in enumerate(values.ravel().tolist()):
            if not isinstance(label, str) or (label and not _plain_text(label)):
                raise ValueError(
                    f"{name!r} of {where} must be numbers, dates, or text without NUL and surrogates, so "
                    f"that a file can hold it, got {label!r} at {i}. Make it plain text."
                )


def digest(fit: xr.DataTree) -> str:
    """SHA-256 of all groups, variables and attrs, the same before writing and after reading."""
    found = hashlib.sha256()
    for group in sorted(fit.subtree, key=lambda group: group.path):
        data = group.to_dataset(inherit=False)
        attrs = {k: v for k, v in data.attrs.items() if k not in (_FORMAT, _CHECKSUM)}
        found.update(repr((group.path, _plain(attrs))).encode())
        for name, variable in sorted(data.variables.items(), key=lambda item: str(item[0])):
            about = str(name), variable.dims, variable.shape, _plain(variable.attrs)
            found.update(repr(about).encode())
            found.update(_bytes(variable.to_numpy()))
    return found.hexdigest()


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


# Reading


def load(path: str | Path, *, kernel: Any = None) -> xr.DataTree:
    """Read a fit that :func:`save` wrote.

    Parameters
    ----------
    path : path
        ``.nc`` or ``.zarr``. A file that ``DataTree.to_netcdf`` or ``to_zarr`` wrote is taken too, and has
        no checksum.
    kernel : function or pm.gp.cov covariance, optional
        That which :func:`build_model` was given, of a fit whose kernel is the user's own: the file tells its name and a
        checksum of its values, and holds no code. Without it, or a model built with it before, such a fit can be read and
        drawn, but not predict.

    Returns
    -------
    DataTree
        In memory; the file is closed.

    Raises
    ------
    TypeError
        If ``path`` is no path.
    FileNotFoundError
        If ``path`` does not exist.
    ValueError
        If it cannot be read, is not a fit, was written by a newer version, has been changed since, or
        does not fit in memory; if ``kernel`` is another than that of the fit.

    Examples
    --------
    >>> load("nowhere.nc")
    Traceback (most recent call last):
    FileNotFoundError: There is no file nowhere.nc.
    """
    try:
        target = as_path("path", path, _SUFFIXES)
    except ValueError as error:
        known = as_path("path", path).suffix in (".csv", ".tsv", ".txt", ".gz", ".parquet", ".h5ad")
        raise ValueError(f"{error}{' A table is read by data.load_table.' * known}") from None
    _tidy(target.parent)
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            seen = os.stat(target)
        except OSError:  # it may be between the two steps of another process
            if not _bring_back(target) or time.monotonic() > until:
                raise FileNotFoundError(f"There is no file {target}.") from None
            time.sleep(0.01)
            continue
        try:
            fit = _read(target)
            break
        except ValueError:
            # A folder that was replaced while it was read is read again.
            with suppress(OSError):
                if os.path.samestat(seen, os.stat(target)):
                    raise
            if time.monotonic() > until:
                raise
    _check_version(target, fit.attrs.get("pm_gplvm_version"))
    read = Fit.of(fit, caller="load", views=True)
    if kernel is not None:
        _check_kernel(kernel, read.kernel)
    return read.tree


def _check_kernel(kernel: Any, wanted: str) -> None:
    """Let a user's own kernel be known, if it is that of a fit."""
    given = parse_kernel(kernel)[0].name
    if given != wanted and not (is_own(wanted) and given.split(":")[-1] == wanted.split(":")[-1]):
        raise ValueError(f"kernel must be that of the fit, {wanted!r}, got {given!r}.")
    if given != wanted:
        OWN[wanted] = replace(OWN[given], name=wanted)


@contextmanager
def opened(path: str | Path) -> Iterator[xr.DataTree]:
    """Open a fit without reading its draws and without comparing its checksum."""
    target = as_path("path", path, _SUFFIXES)
    if not target.exists():
        raise FileNotFoundError(f"There is no file {target}.")
    try:
        (_check_file if target.suffix == ".nc" else _check_folder)(target)
        file = xr.open_datatree(target, engine=_engine(target), cache=False)
    except Exception as error:  # of nearly every kind, as in _read
        raise ValueError(f"{target.name} cannot be read as a fit{_WHAT} ({error}).") from error
    with file:
        for group in file.subtree:
            group.attrs = _decoded(group.attrs)
        yield file


def _bring_back(target: Path) -> bool:
    """Move back what a save set aside, and tell whether to look again; a living save just repeats."""
    folders = list(target.parent.glob(f"{_SCRATCH}*"))
    for scratch in folders:
        for old in _set_aside(scratch):
            if old.name == target.name:
                with suppress(OSError):
                    os.rename(old, target)
    return bool(folders) or os.path.exists(target)


def _engine(path: Path) -> str:
    return "h5netcdf" if path.suffix == ".nc" else "zarr"


def _read(path: Path) -> xr.DataTree:
    """Read a tree, its checksum compared and its attributes decoded."""
    try:
        (_check_file if path.suffix == ".nc" else _check_folder)(path)
        with xr.open_datatree(path, engine=_engine(path)) as file:
            _check_size(file)
            fit = file.load()
        checksum, ours = (fit.attrs.pop(name, None) for name in (_CHECKSUM, _FORMAT))
        whole = checksum == digest(fit) if checksum is not None else ours is None
        if whole and ours is not None:
            for group in fit.subtree:
                group.attrs = _decoded(group.attrs)
                for variable in group.variables.values():
                    variable.attrs = _decoded(variable.attrs)
    # h5py, h5netcdf, Zarr and xarray raise errors of nearly every kind over a damaged file.
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read as a fit{_WHAT} ({error}).") from error
    if not whole:
        found = "its checksum is missing" if checksum is None else "its SHA-256 is another"
        raise ValueError(
            f"{path.name} cannot be read as a fit; it is damaged: it does not hold what was written "
            f"({found})."
        )
    return fit


def _check_file(path: Path) -> None:
    """Raise unless it is a file that holds all of itself."""
    if not path.is_file():
        raise ValueError("it is no ordinary file")
    with h5py.File(path, "r") as file:
        file.visititems_links(_refuse_links)
        file.visititems(_refuse_elsewhere)


def _refuse_links(name: str, link: Any) -> None:
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")


def _refuse_elsewhere(name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
        raise ValueError(f"{name} lies in another file")


def _check_folder(path: Path) -> None:
    """Raise unless it is a folder of ordinary files: a pipe would be waited for."""
    if not path.is_dir():
        raise ValueError("it is no folder")
    for folder, _, files in os.walk(path):
        for name in files:
            if not os.path.isfile(os.path.join(folder, name)):
                raise ValueError(f"{name} is no ordinary file")


def _check_size(file: xr.DataTree) -> None:
    needed = sum(v.nbytes for group in file.subtree for v in group.variables.values())
    with suppress(AttributeError, ValueError):  # where the system does not tell its memory
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > there:
            raise MemoryError(f"it says that it holds {needed:.2g} bytes, there are {there:.2g}")


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
