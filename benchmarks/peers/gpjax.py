"""GPJax: a ConjugateModel with X as a parameter, mapped over the columns."""

import equinox as eqx
import gpjax as gpx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from gpjax.parameters import Real, val
from jax.flatten_util import ravel_pytree

PACKAGES = ("gpjax", "jax")

jax.config.update("jax_enable_x64", True)


class Model(eqx.Module):
    X: Real
    regression: eqx.Module


def objective(Y, X0):
    prior = gpx.gps.Prior(
        mean_function=gpx.mean_functions.Zero(),
        kernel=gpx.kernels.RBF(lengthscale=1.0, variance=1.0),
    )
    model = Model(Real(jnp.asarray(X0)), prior * gpx.likelihoods.Gaussian(np.sqrt(0.1)))
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    x0, unravel = ravel_pytree(parameters)
    columns = jnp.asarray(Y.T)

    def loss(flat):
        model = eqx.combine(unravel(flat), rest)
        X = val(model.X)

        def column(y):
            return gpx.objectives.conjugate_mll(model.regression, gpx.Dataset(X=X, y=y[:, None]))

        return -(jax.vmap(column)(columns).sum() + dist.Normal().log_prob(X).sum())

    both = jax.jit(jax.value_and_grad(loss))

    def f(flat):
        value, gradient = both(flat)
        return float(value), np.asarray(gradient)

    return f, np.asarray(x0)
