"""Where the chains of the sampler begin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.graph.basic import Variable

from pm_gplvm.checks import Array
from pm_gplvm.starts import perturbed, start_values

__all__ = ["begun", "plain"]


def _bounded(model: pm.Model) -> Variable | None:
    """X, if it is a free variable with a transform: its rows must be moved in its own units."""
    if not isinstance(model, pm.Model):
        raise TypeError(f"model must be a pm.Model, got {type(model).__name__}. See build_model.")
    if not model.free_RVs:
        raise ValueError("model must have a free variable, got every one fixed by a number.")
    X = next((rv for rv in model.free_RVs if rv.name == "X"), None)
    return X if X is not None and model.rvs_to_transforms[X] is not None else None


def plain(model: pm.Model) -> pm.Model:
    """Bring X into its own units, where it has a transform."""
    X = _bounded(model)
    return model if X is None else remove_value_transforms(model, [X])


def begun(
    model: pm.Model, start: Any, chains: int, rng: np.random.Generator
) -> tuple[pm.Model, list[dict[str, Array]]]:
    """Bring X into its own units, and choose values to start each chain from."""
    X = _bounded(model)
    starts = _starts(model, start, chains, rng)
    if X is None:
        return model, starts
    transformed, transform = model.rvs_to_values[X].name, model.rvs_to_transforms[X]
    for values in starts:
        inner = pt.constant(values.pop(transformed))
        values["X"] = transform.backward(inner, *X.owner.inputs).eval()
    return remove_value_transforms(model, [X]), starts


def _starts(
    model: pm.Model, start: Any, chains: int, rng: np.random.Generator
) -> list[dict[str, Array]]:
    """Values for each chain, those of a list dealt out in turn, all moved a little."""
    several = start if isinstance(start, Sequence) and not isinstance(start, str) else [start]
    if any(isinstance(each, int | float) for each in several):
        several = [start]
    if not several:
        raise ValueError("start must name at least one place to begin, got an empty list.")
    values = [start_values(model, each, rng) for each in several]
    chosen = [(values[c % len(values)], several[c % len(values)]) for c in range(chains)]
    return [
        perturbed(model, value, each, rng)
        if isinstance(each, str)
        else {name: v + 0.05 * rng.standard_normal(v.shape) for name, v in value.items()}
        for value, each in chosen
    ]
