"""How graphs are compiled: one policy, in one place.

What a user waits for is the compiler. A graph written out as one function of NumPy calls is
ready in half a second, and since the heavy steps are a few Ops on LAPACK it runs at LAPACK's
speed but for some 0.2 ms of interpreter an evaluation. Numba spares those, after a minute and a
half of compilation; a MAP or a usual run of NUTS never earns that back.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytensor
from numpy.typing import NDArray
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RNGConsumerOp

from pm_gplvm.model.linker import NumpyLinker

Backend = Literal["python", "numba", "jax"]


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
    raise ValueError(f"backend must be 'python', 'numba' or 'jax', got {backend!r}.")


def resolve_mode(backend: Backend, compile_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments for ``pytensor.function``: the user's own, the backend's mode otherwise."""
    return {"mode": compile_mode(backend), **(compile_kwargs or {})}


def is_random(*variables: Variable) -> bool:
    """Whether one of them depends on a random variable."""
    return any(v.owner and isinstance(v.owner.op, RNGConsumerOp) for v in ancestors(variables))


def constants(*variables: Variable) -> list[NDArray[Any]]:
    """Values of variables that depend on nothing but data."""
    return [np.asarray(v) for v in pytensor.function([], list(variables), mode="FAST_COMPILE")()]
