"""Checks of arguments that many functions share, and the type of an array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "count"]

Array = NDArray[np.float64]


def count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least ``least``; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)
