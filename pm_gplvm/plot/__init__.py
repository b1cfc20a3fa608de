"""Fits as pictures."""

from pm_gplvm.core.lazy import public_names

__all__, __getattr__ = public_names(__name__, __file__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
