"""Checks of arguments that many functions share, and the type of an array."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "check_target", "count"]

Array = NDArray[np.float64]


def count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least ``least``; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise unless a file can be written at ``path``: asked before the work is done."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist. Make it first.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True or choose another name.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"The folder {path.parent} cannot be written to. Choose another one.")
