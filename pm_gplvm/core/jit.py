"""How loops are compiled, and kept on disk, as compiling takes seconds."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

_FAST = {"contract", "reassoc", "nsz", "arcp"}

compiled = njit(error_model="numpy")
"""Compile a function in which a division by 0 is infinite."""

fast = njit(error_model="numpy", fastmath=_FAST)
"""So too, with liberties of rounding by which loops become vector instructions; NaN and infinity stay."""


@cache
def fingerprint(folder: Path) -> str:
    """Digest of the Python files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def stored(function: Callable[..., Any], folder: Path = Path(__file__).parent) -> Any:
    """Compile a function at its first call, and keep what is made for other processes.

    It runs beside other threads.

    Numba would compile it anew where its own file has changed. What it calls stands in others: here it is
    anew where any file of ``folder`` has changed.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        kept: Any = njit(cache=True, **options)(function)
    except RuntimeError:  # where nothing can be written
        return njit(**options)(function)
    kept._cache._cache_file._source_stamp = fingerprint(folder)
    return kept
