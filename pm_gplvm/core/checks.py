"""Checks of arguments that many functions share, the type of an array, and the 89 % interval."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

INTERVAL = (0.055, 0.945)
"""Probabilities at the ends of ArviZ's 89 % interval."""


def count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least ``least``; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)


def finite_positions(name: str, given: Any, shape: tuple[int, ...]) -> Array:
    """Return finite positions of shape (N, Q) as an array; ``name`` is that of the argument."""
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a fit or an array of shape {shape}, got {type(given).__name__}."
        ) from None
    if values.shape != shape:
        raise ValueError(f"{name} must have shape (N, Q) = {shape}, got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got missing or infinite positions.")
    return values


def as_path(name: str, value: Any, endings: tuple[str, ...] = ()) -> Path:
    """Return a path that ends as it should; ``name`` is that of the argument."""
    try:
        path = Path(value)
    except TypeError:
        raise TypeError(f"{name} must be a path or its text, got {type(value).__name__}.") from None
    if "\0" in str(path):
        raise ValueError(f"{name} must not hold a NUL, got {str(path)!r}.")
    if endings and path.suffix not in endings:
        raise ValueError(f"{name} must end in {' or '.join(endings)}, got {path.name!r}.")
    return path


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise unless a file can be written at ``path``: asked before the work is done."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist. Make it first.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True or choose another name.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"The folder {path.parent} cannot be written to. Choose another one.")


def interval(draws: Array) -> Array:
    """Compute the ends (2, ...) of the 89 % interval over draws (S, ...), NaN if there is one draw."""
    ends: Array = np.quantile(draws, INTERVAL, axis=0)
    return ends if len(draws) > 1 else np.full_like(ends, np.nan)
