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
_DOMINANT = 1000.0  # times the spread of the column in the middle


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
            f"Y has {len(large)} of {D} features with a spread of more than {_DOMINANT:.0f} times that "
            f"of the middle one, and they decide alone: {_listed(large)}. If the units differ, "
            "build_model(Y, scale='feature') divides each by its own spread."
        )


def _dominant(table: xr.DataArray, names: list[str]) -> list[str]:
    spread = np.nanstd(table.to_numpy(), axis=0)
    varies = spread > 0.0
    if varies.sum() < 2:
        return []
    # With an even number the lower of the two in the middle: one of two columns may dominate.
    middle = np.quantile(spread[varies], 0.5, method="lower")
    order = np.argsort(-spread)
    return [names[i] for i in order if spread[i] > _DOMINANT * middle]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
