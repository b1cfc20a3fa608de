"""Gaussian process latent variable models in PyMC.

A table Y goes in, a low-dimensional picture X of it comes out, with uncertainty:

>>> import pm_gplvm as gplvm
>>> Y = gplvm.load_digits(n=30)
>>> model = gplvm.build_model(Y, latent_dim=2)
>>> best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
>>> best.posterior["X"].dims
('chain', 'draw', 'obs', 'latent')

Importing the package is cheap: PyMC is loaded when a name that needs it is first used.
"""

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

# The stub is the one list of public names: type checkers read it, and so does this file.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOME = {
    alias.name: str(node.module)
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = sorted(_HOME)

__version__ = version("pm_gplvm")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"pm_gplvm has no attribute {name!r}.")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
