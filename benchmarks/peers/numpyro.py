"""NumPyro: its multivariate normal, differentiated by JAX, as a user would write the model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

PACKAGES = ("numpyro", "jax")

jax.config.update("jax_enable_x64", True)


def objective(Y, X0):
    N, Q = X0.shape
    columns = jnp.asarray(Y.T)

    def loss(flat):
        variance, lengthscale, noise = jnp.exp(flat[:3])
        X = flat[3:].reshape(N, Q)
        Z = X / lengthscale
        square = (Z**2).sum(1)
        distance = jnp.maximum(square[:, None] + square - 2 * Z @ Z.T, 0.0)
        K = variance * jnp.exp(-0.5 * distance) + noise * jnp.eye(N)
        likelihood = dist.MultivariateNormal(jnp.zeros(N), covariance_matrix=K).log_prob(columns)
        return -(likelihood.sum() + dist.Normal().log_prob(X).sum())

    both = jax.jit(jax.value_and_grad(loss))

    def f(flat):
        value, gradient = both(flat)
        return float(value), np.asarray(gradient)

    return f, np.concatenate([np.log([1.0, 1.0, 0.1]), X0.ravel()])
