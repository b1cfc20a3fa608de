"""Gaussian process latent variable models in PyMC.

A table Y goes in, a low-dimensional picture X of it comes out, with uncertainty:

>>> import pm_gplvm as gplvm
>>> Y = gplvm.data.load_digits(n=30)
>>> model = gplvm.build_model(Y, latent_dim=2)
>>> best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
>>> best.posterior["X"].dims
('chain', 'draw', 'obs', 'latent')

Importing the package is cheap: PyMC is loaded when a name that needs it is first used.
"""

from importlib.metadata import version

from pm_gplvm.core.lazy import public_names

__all__, __getattr__, __dir__ = public_names(__name__, __file__)
__version__ = version("pm_gplvm")
