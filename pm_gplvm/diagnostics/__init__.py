"""What draws say of themselves and of each other, and of left-out rows."""

from pm_gplvm.core.lazy import public_names

__all__, __getattr__, __dir__ = public_names(__name__, __file__)
