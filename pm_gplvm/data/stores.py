"""Zarr stores that several processes write a chunk of rows at a time, in one run or, after an interruption, in more.

What is under way stands in a folder beside its target, with a note of each chunk that is done. The target appears when
all of it is there.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_gplvm.core.checks import as_path, check_target
from pm_gplvm.data.files import check_labels, scratch_folder, written_alone
from pm_gplvm.data.fit import to_json

_PART = ".part"
_ABOUT = "about.json"
_LABELS = 2**16  # of rows, in a block


@dataclass(frozen=True)
class RowStore:
    """A store that is written by rows, along the dimension ``dim``."""

    target: Path
    dim: str

    @classmethod
    @contextmanager
    def of(cls, name: str, path: Any, dim: str) -> Iterator["RowStore"]:
        """Check that one can be written there, and let no other run write it; ``name`` is the argument's."""
        target = _absent(name, path)
        with written_alone(name, target):
            yield cls(_absent(name, path), dim)  # another run may have ended in between

    @property
    def part(self) -> Path:
        """Folder of what is under way."""
        return self.target.with_name(self.target.name + _PART)

    @property
    def _data(self) -> Path:
        return self.part / self.target.name

    def known(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what an earlier run that asked for the same has written about itself, None if there was none."""
        if not os.path.lexists(self.part):
            return None
        try:
            about = json.loads((self.part / _ABOUT).read_bytes())
            before, drawn = about["asked"], about["drawn"]
        except (OSError, ValueError, KeyError, TypeError):
            raise FileExistsError(
                f"{self.part} exists and is no run of pm_gplvm that could be gone on with. Remove it yourself, or choose "
                f"another name for {name}."
            ) from None
        now = json.loads(to_json(asked))
        other = [key for key in now if before.get(key) != now[key]]
        if other:
            raise FileExistsError(
                f"{name} must be a new store, or that of the same run before it was ended, got {self.target.name}, whose "
                f"unfinished run was of another {', '.join(other)}. Remove {self.part}, or choose another name."
            )
        return dict(drawn)

    def begin(
        self,
        tree: xr.DataTree,
        labels: Mapping[str, Any],
        sizes: tuple[int, int],
        about: Mapping[str, Any],
    ) -> None:
        """Lay the store out like a tree of few rows, for so many rows in chunks of so many."""
        check_labels(labels, f"the rows of {self.target.name}")
        with scratch_folder(self.target) as folder:
            whole = folder / "new" / self.part.name
            (whole / "done").mkdir(parents=True)
            for group in tree.subtree:
                self._lay_out(whole / self.target.name, group, labels, sizes)
            (whole / _ABOUT).write_text(to_json(about))
            os.rename(whole, self.part)

    def _lay_out(
        self, store: Path, group: xr.DataTree, labels: Mapping[str, Any], sizes: tuple[int, int]
    ) -> None:
        data, (n_rows, chunk_rows) = group.to_dataset(inherit=False), sizes
        own = [str(name) for name, c in data.coords.items() if self.dim in c.dims]
        by_row = {n: v for n, v in data.data_vars.items() if self.dim in v.dims}
        chunks = {n: {**v.sizes, self.dim: min(chunk_rows, n_rows)} for n, v in by_row.items()}
        where = {"group": group.path, "mode": "a", "zarr_format": 2, "consolidated": False}
        first: Any = data.drop_vars(own)  # its writer has no types for these settings
        encoding = {n: {"chunks": tuple(c.values())} for n, c in chunks.items()}
        first.to_zarr(store, encoding=encoding, **where)
        opened = self._opened(store, group)
        for name, variable in by_row.items():
            opened[name].resize(tuple({**variable.sizes, self.dim: n_rows}.values()))
        if own:
            of_rows: Any = xr.Dataset(coords={name: (self.dim, labels[name]) for name in own})
            blocks = {name: {"chunks": (min(n_rows, _LABELS),)} for name in own}
            of_rows.to_zarr(store, encoding=blocks, **where)

    @staticmethod
    def _opened(store: Path, group: xr.DataTree) -> Any:
        import zarr  # a quarter of a second, which those that write nothing need not wait

        return zarr.open_group(str(store), path=group.path.strip("/"), mode="r+", zarr_format=2)

    def write(self, rows: slice, tree: xr.DataTree) -> None:
        """Write some rows of all variables that have rows."""
        for group in tree.subtree:
            data = group.to_dataset(inherit=False)
            by_row = {n: v for n, v in data.data_vars.items() if self.dim in v.dims}
            opened: Any = self._opened(self._data, group) if by_row else None
            for name, variable in by_row.items():
                place = tuple(rows if dim == self.dim else slice(None) for dim in variable.dims)
                opened[name][place] = variable.to_numpy()

    def noted(self, index: int) -> dict[str, Any] | None:
        """Return what was noted of a chunk, None if it is not done."""
        try:
            return dict(json.loads(self._note(index).read_bytes()))
        except FileNotFoundError:
            return None

    def note(self, index: int, told: Mapping[str, Any]) -> None:
        """Note that a chunk is done, and what is told of it."""
        scratch = self.part / "done" / f"{uuid.uuid4().hex}.new"
        scratch.write_text(to_json(told))
        os.replace(scratch, self._note(index))

    def _note(self, index: int) -> Path:
        return self.part / "done" / f"{index:08}.json"

    def give_up(self) -> None:
        """Remove what is under way."""
        shutil.rmtree(self.part, ignore_errors=True)

    def end(self) -> None:
        """Put what is complete in its place."""
        import zarr

        zarr.consolidate_metadata(str(self._data), zarr_format=2)
        os.rename(self._data, self.target)
        self.give_up()


def _absent(name: str, path: Any) -> Path:
    target = as_path(name, path, (".zarr",))
    if os.path.lexists(target):
        raise FileExistsError(
            f"{target} exists. Remove it yourself, or choose another name for {name}."
        )
    check_target(target, overwrite=False)
    return target.resolve()


def opened_lazily(store: RowStore, labels: Any) -> xr.DataTree:
    """Open what is complete; rows are not read, but stand in blocks of Dask's where it is installed, as in open_zarr.

    Where their ``labels`` are numbers in order, they take no memory either.
    """
    settings: dict[str, Any] = {"chunks": {}} if find_spec("dask") else {"cache": False}
    numbered = np.array_equal(labels, np.arange(len(labels)))
    absent = [store.dim] if numbered else None
    tree = xr.open_datatree(store.target, engine="zarr", drop_variables=absent, **settings)
    for group in tree.subtree:
        data = group.to_dataset(inherit=False)
        shared = {n: v.load() for n, v in data.data_vars.items() if store.dim not in v.dims}
        if numbered and store.dim in data.sizes:
            data = data.assign_coords({store.dim: pd.RangeIndex(len(labels))})
        group.dataset = data.assign(shared)
    return tree
