"""NumPyro's NUTS on the very model of `pm_gplvm.build_model`, standardised data, in one process.

    python numpyro_nuts.py TABLE.npz DRAWS.npz '{"warmup": 300, "draws": 300, "chains": 2}'

With X0 among the options' names ("hold": true) X is held at the table's X0 and θ alone is drawn.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, init_to_value

jax.config.update("jax_enable_x64", True)


def log_likelihood(X, lengthscale, amplitude, sigma, columns):
    Z = X / lengthscale
    square = (Z**2).sum(1)
    distance = jnp.maximum(square[:, None] + square - 2 * Z @ Z.T, 0.0)
    K = amplitude**2 * jnp.exp(-0.5 * distance) + sigma**2 * jnp.eye(len(X))
    return dist.MultivariateNormal(jnp.zeros(len(X)), covariance_matrix=K).log_prob(columns).sum()


def main(table, out, warmup, draws, chains, hold):
    with np.load(table) as file:
        columns, X0 = jnp.asarray(file["Y"].T), jnp.asarray(file["X0"])

    def model():
        lengthscale = numpyro.sample("lengthscale", dist.InverseGamma(3.0, 2.0))
        amplitude = numpyro.sample("amplitude", dist.LogNormal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.LogNormal(-2.0, 1.0))
        X = X0 if hold else numpyro.sample("X", dist.Normal().expand(X0.shape).to_event(2))
        value = log_likelihood(X, lengthscale, amplitude, sigma, columns)
        numpyro.deterministic("log_likelihood", value)
        numpyro.factor("table", value)

    start = {"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3, "X": X0}
    if hold:
        del start["X"]
    kernel = NUTS(model, init_strategy=init_to_value(values=start))
    sampler = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    started = time.process_time()
    sampler.run(jax.random.PRNGKey(0), extra_fields=("num_steps", "diverging"))
    values = jax.block_until_ready(sampler.get_samples(group_by_chain=True))
    extra = jax.block_until_ready(sampler.get_extra_fields(group_by_chain=True))
    seconds = time.process_time() - started
    np.savez(out, **{name: np.asarray(v) for name, v in values.items()})
    facts = {
        "cpu_s": seconds,
        "steps_per_draw": float(np.mean(np.asarray(extra["num_steps"]))),
        "divergences": int(np.asarray(extra["diverging"]).sum()),
        "versions": {"numpyro": numpyro.__version__, "jax": jax.__version__},
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
