"""What makes a table look as if something else had been meant, told before any work."""

import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from pm_gplvm.schema import FEATURE

__all__ = ["warn_suspicious"]

_LABELS = {"class", "classes", "cluster", "group", "label", "labels", "species", "stage", "target"}
_NUMBERS = {"id", "index", "row", "unnamed: 0"}
_FEW_ROWS, _MANY_COLUMNS = 20, 50  # columns a row
_SHARE, _FEW = 0.9, 0.25  # of all variance in at most this share of the columns
_SHARE_OF_FEW = 0.99  # in one column where there are only two or three


def warn_suspicious(table: xr.DataArray, scale: str) -> None:
    """Warn of tables that look transposed, hold labels, or have columns in other units.

    Parameters
    ----------
    table : DataArray, dims (obs, feature)
    scale : {"global", "feature", "none"}
        As in :func:`pm_gplvm.build_model`.

    Warns
    -----
    RuntimeWarning
        For each suspicion, with what would dispel it.
    """
    N, D = table.shape
    names = [str(name) for name in table[FEATURE].to_numpy()]
    if N < _FEW_ROWS and D >= _MANY_COLUMNS * N:
        _warn(
            f"Y has {N} rows and {D} columns, and rows are what is embedded. If columns were meant, "
            "pass Y.T."
        )
    labels = [n for n in names if n.lower() in _LABELS]
    if labels:
        _warn(
            f"Y has a column called {_listed(labels)}, which would be embedded as a measurement. If it "
            f"holds classes, take it out: load_table(path, label={labels[0]!r}), or a DataArray with "
            "the coordinate 'label' along obs."
        )
    numbers = [n for n in names if n.lower() in _NUMBERS]
    if numbers:
        _warn(
            f"Y has a column called {_listed(numbers)}, which would be embedded as a measurement. If "
            f"it numbers the rows, make it the index: Y.set_index({numbers[0]!r})."
        )
    if scale == "global" and (large := _dominant(table, names)):
        _warn(
            f"Y has nearly all of its variance in {len(large)} of {D} features, and they decide alone: "
            f"{_listed(large)}. If the units differ, scale='feature' divides each by its own spread: "
            "build_model(Y, scale='feature'), GPLVM(scale='feature'), or --scale feature."
        )


def _dominant(table: xr.DataArray, names: list[str]) -> list[str]:
    """Columns that hold nearly all variance, if they are few."""
    variance = np.nanvar(table.to_numpy(), axis=0)
    varies = int((variance > 0.0).sum())
    order = np.argsort(-variance)
    share = np.cumsum(variance[order]) / variance.sum()
    few = int(_FEW * varies)
    n = int(np.searchsorted(share, _SHARE if few else _SHARE_OF_FEW)) + 1
    return [names[i] for i in order[:n]] if varies > 1 and n <= max(few, 1) else []


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
