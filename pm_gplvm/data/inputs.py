"""Known inputs of the kernel beside X, such as dose and batch, as columns of positions.

A number is one column, standardised; a class one column for each of its labels, 1 in its own, and one more for labels
that the table has not: an inner product of such columns is 1 where the labels are equal, else 0.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.core.composite import Composite, Factor
from pm_gplvm.core.kernels import kernel_named

COLUMN = "input_column"
"""Dimension of the columns that inputs are in a model, or in a fit."""

LATENT_PART = "latent"
"""Name of what is a function of X, beside the inputs."""


PART = "part"
"""Dimension of the parts of a function."""


@dataclass(frozen=True)
class Input:
    """One input: its name, its labels if it is a class, and which of the columns are its own."""

    name: str
    classes: tuple[str, ...] | None
    columns: slice

    @property
    def factor(self) -> str:
        """Name of its factor in the kernel."""
        return "rbf" if self.classes is None else "linear"


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of the rows of a table, as the kernel takes them: ``values`` (N, C).

    ``columns`` (C,) name them: "dose" of a number, "batch=a", "batch=b" and "batch=" of a class. Numbers were centred
    by ``mean`` (C,) and divided by ``scale`` (C,).
    """

    values: Array
    columns: tuple[str, ...]
    mean: Array
    scale: Array

    @classmethod
    def stored(cls, values: Any, columns: Any, mean: Any, scale: Any) -> "Inputs":
        """Take them as a model or a fit has them."""
        numbers = (np.asarray(v, dtype=np.float64) for v in (values, mean, scale))
        own, centre, spread = numbers
        return cls(own, tuple(map(str, columns)), centre, spread)

    @cached_property
    def each(self) -> tuple[Input, ...]:
        """List the inputs in their order."""
        found: list[Input] = []
        names = [column.partition("=")[0] for column in self.columns]
        start = 0
        while start < len(names):
            end = start + 1
            while end < len(names) and names[end] == names[start]:
                end += 1
            labels = [column.partition("=")[2] for column in self.columns[start : end - 1]]
            own = tuple(labels) if "=" in self.columns[start] else None
            found.append(Input(names[start], own, slice(start, end)))
            start = end
        return tuple(found)

    @property
    def names(self) -> list[str]:
        """Names of the inputs."""
        return [each.name for each in self.each]

    @property
    def units(self) -> dict[str, float]:
        """What one unit of the kernel is in an input's own: 1 of a class."""
        return {each.name: float(self.scale[each.columns][0]) for each in self.each}

    @property
    def usual(self) -> Array:
        """The means of numbers and the most frequent classes, (C,)."""
        found = np.zeros(len(self.columns))
        for each in self.each:
            if each.classes is not None:
                found[
                    each.columns.start + int(self.values[:, each.columns].sum(axis=0).argmax())
                ] = 1.0
        return found

    @property
    def parts(self) -> list[str]:
        """Names of the parts of the function: what X does, then the inputs."""
        return [LATENT_PART, *self.names]

    def __str__(self) -> str:
        """Name them, a class with the number of its labels."""
        return ", ".join(
            each.name if each.classes is None else f"{each.name} ({len(each.classes)} classes)"
            for each in self.each
        )

    # Their kernel

    def joined_kernel(self, entry: Composite, latent_dim: int) -> Composite:
        """Add a term of each input to a kernel of X: of positions [X, inputs]."""
        own = tuple(
            tuple(Factor(f.name, tuple(f.chosen(latent_dim))) for f in term) for term in entry.terms
        )
        theirs = tuple((Factor(each.factor, self._dims(each, latent_dim)),) for each in self.each)
        text = " + ".join(" * ".join(map(str, term)) for term in own + theirs)
        whole = kernel_named(text)
        if not isinstance(whole, Composite):
            raise TypeError(f"kernel {text!r} is one of the table.")
        return whole

    def _dims(self, each: Input, latent_dim: int) -> tuple[int, ...]:
        return tuple(range(latent_dim + each.columns.start, latent_dim + each.columns.stop))

    def kernel_of_X(self, kernel: str, latent_dim: int) -> str:
        """Name what a kernel of [X, inputs] is of X alone, as :func:`build_model` takes it."""
        entry = kernel_named(kernel)
        if not isinstance(entry, Composite):
            return kernel
        every = tuple(range(latent_dim))
        terms = [
            " * ".join(str(Factor(f.name, None) if f.dims == every else f) for f in term)
            for term in entry.terms[: -len(self.each)]
        ]
        return " + ".join(terms)

    def counted(self, kernel: str, names: list[str]) -> NDArray[np.bool_]:
        """Which terms of a kernel, and last the bias, belong to some of the parts."""
        entry = kernel_named(kernel)
        if not isinstance(entry, Composite):
            raise TypeError(f"kernel {kernel!r} is one of the table.")
        own = len(entry.terms) - len(self.each)
        latent = LATENT_PART in names
        return np.array([latent] * own + [each.name in names for each in self.each] + [latent])
