"""Likelihoods of the entries of Y given the functions f: what Y is made of."""

from pm_gplvm.model.likelihoods import (
    bernoulli,
    binomial,
    from_pymc,
    gamma,
    gaussian,
    lognormal,
    mixed,
    negative_binomial,
    ordinal,
    poisson,
    student_t,
)

__all__ = [
    "bernoulli",
    "binomial",
    "from_pymc",
    "gamma",
    "gaussian",
    "lognormal",
    "mixed",
    "negative_binomial",
    "ordinal",
    "poisson",
    "student_t",
]
