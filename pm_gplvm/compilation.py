"""How graphs are compiled: one policy, in one place.

What a user waits for is the compiler. A graph written out as one function of NumPy calls is
ready in half a second, and since the heavy steps are a few Ops on LAPACK it runs at LAPACK's
speed but for some 0.2 ms of interpreter an evaluation. Numba spares those, after a minute and a
half of compilation. So it pays for few rows and very many evaluations, and that is when "auto"
takes it: a MAP or a usual run of NUTS never does.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pytensor.compile.mode import Mode, get_mode

from pm_gplvm.linker import NumpyLinker

__all__ = ["Backend", "choose_backend", "compile_mode", "resolve_mode"]

Backend = Literal["auto", "python", "numba", "jax"]

# CPU seconds, caches empty, one thread: `python -m benchmarks compile --backend python numba`.
_COMPILATION = 90.0
_INTERPRETER = 2e-4  # an evaluation
_FEW_ROWS = 60  # above, the linear algebra takes most of the time, and is LAPACK's in both


def choose_backend(backend: Backend, *, n_rows: int, n_evaluations: int) -> Backend:
    """Choose what "auto" stands for.

    Parameters
    ----------
    backend : {"auto", "python", "numba", "jax"}
        Returned as it is, unless "auto".
    n_rows : int
        N.
    n_evaluations : int
        Values and gradients that the task will ask for, roughly.

    Returns
    -------
    str
        "numba" if what it spares is more than twice what its compilation costs, else "python".

    Examples
    --------
    >>> choose_backend("auto", n_rows=50, n_evaluations=5_000)
    'python'
    >>> choose_backend("auto", n_rows=50, n_evaluations=2_000_000)
    'numba'
    """
    if backend != "auto":
        return backend
    spared = _INTERPRETER * n_evaluations if n_rows <= _FEW_ROWS else 0.0
    return "numba" if spared > 2.0 * _COMPILATION else "python"


def compile_mode(backend: Backend = "python") -> Mode:
    """Return the PyTensor mode of a backend.

    It may be handed to PyMC's own functions too, which otherwise compile with numba:
    ``pm.sample_prior_predictive(model=model, compile_kwargs={"mode": gplvm.compile_mode()})``.

    Parameters
    ----------
    backend : {"python", "numba", "jax"}, default "python"

    Returns
    -------
    pytensor.compile.mode.Mode

    Raises
    ------
    ValueError
        If the backend is unknown.

    Examples
    --------
    >>> type(compile_mode()).__name__
    'Mode'
    """
    if backend == "python":
        return Mode(linker=NumpyLinker(), optimizer="fast_run")
    if backend in ("numba", "jax"):
        return get_mode(backend.upper())
    raise ValueError(f"backend must be 'auto', 'python', 'numba' or 'jax', got {backend!r}.")


def resolve_mode(
    backend: Backend,
    compile_kwargs: Mapping[str, Any] | None,
    *,
    n_rows: int = 0,
    n_evaluations: int = 0,
) -> dict[str, Any]:
    """Keyword arguments for ``pytensor.function``: the user's own, the backend's mode otherwise."""
    chosen = choose_backend(backend, n_rows=n_rows, n_evaluations=n_evaluations)
    return {"mode": compile_mode(chosen), **(compile_kwargs or {})}
