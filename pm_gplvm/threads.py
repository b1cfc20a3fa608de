"""How many threads the linear algebra may use."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

__all__ = ["blas_threads"]


@contextmanager
def blas_threads(n: int | None) -> Iterator[None]:
    """Hold BLAS and OpenMP to ``n`` threads inside the block; None leaves them as they are.

    For N below a few thousand one thread is fastest, and on a busy machine a second one can cost
    a hundredfold: the threads wait for each other.

    Examples
    --------
    >>> with blas_threads(1):
    ...     pass
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ValueError(f"blas_threads must be a positive whole number or None, got {n!r}.")
    if n is None:
        yield
        return
    with threadpool_limits(n):
        yield
