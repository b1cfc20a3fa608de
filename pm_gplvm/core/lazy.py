"""Public names of a package, imported when they are first used."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pm_gplvm.core.interrupt import interruptible


def public_names(
    package: str, file: str
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return __all__, __getattr__ and __dir__ of a package whose stub beside ``file`` lists its names.

    Type checkers read the stub, and so does this: there is one list.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    home = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    own = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"{package} has no attribute {name!r}.")
        module, original = home[name]
        with interruptible():  # an extension that is half imported cannot be imported again
            if module == package:
                return import_module(f"{package}.{original}")
            own[name] = getattr(import_module(module), original)
            return own[name]

    return sorted(home), get, lambda: sorted({*own, *home})
