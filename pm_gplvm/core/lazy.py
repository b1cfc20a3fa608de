"""Public names of a package, imported when they are first used."""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def public_names(package: str, file: str) -> tuple[list[str], Callable[[str], Any]]:
    """Return ``__all__`` and ``__getattr__`` of a package whose stub beside ``file`` lists its names.

    Type checkers read the stub, and so does this: there is one list.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    home = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"{package} has no attribute {name!r}.")
        module, original = home[name]
        if module == package:
            return import_module(f"{package}.{original}")
        return getattr(import_module(module), original)

    return sorted(home), get
