"""Whether the matrices of the exact model fit into this machine."""

import os

__all__ = ["check_memory"]

_MATRICES = 6  # N × N arrays of float64 alive at once in a value and its gradient


def _physical_memory() -> int | None:
    """Bytes of memory of this machine, if it tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def check_memory(n_rows: int) -> None:
    """Refuse now what would end in a crash later.

    Parameters
    ----------
    n_rows : int
        N.

    Raises
    ------
    MemoryError
        If the N × N arrays of one evaluation exceed the machine's memory.

    Examples
    --------
    >>> check_memory(1000)
    """
    need, have = _MATRICES * 8 * n_rows**2, _physical_memory()
    if have is not None and need > have:
        raise MemoryError(
            f"The exact model of N = {n_rows} rows needs about {need / 1e9:.0f} GB for its N × N matrices, "
            f"this machine has {have / 1e9:.0f} GB. Take fewer rows, or a sparse model: fit_sparse "
            "or fit_variational."
        )
