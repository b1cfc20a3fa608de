"""Priors of X that know something, for ``build_model(Y, priors={"X": ...})``."""

from pm_gplvm.model.priors import (
    back_constraint,
    circular,
    class_mixture,
    dynamics,
    informative,
    transitions,
)

__all__ = ["back_constraint", "circular", "class_mixture", "dynamics", "informative", "transitions"]
