"""What the sparse and the variational fit share: from an exact model to one of inducing inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import xarray as xr
from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.graph.basic import Variable

from pm_gplvm.checks import Array, count
from pm_gplvm.compilation import compile_mode
from pm_gplvm.density import compile_constrain
from pm_gplvm.gaussian import gram_factor
from pm_gplvm.kernels import KERNELS
from pm_gplvm.model import noise_in
from pm_gplvm.optimise import Optimum, optima_positions, optima_table
from pm_gplvm.schema import LATENT, OBS, THETA
from pm_gplvm.spec import ModelSpec

__all__ = [
    "INDUCING",
    "Exact",
    "add_inducing_inputs",
    "approximation_groups",
    "check_settings",
    "drawn",
    "earlier",
    "label_approximation",
    "named_values",
    "potential_of",
    "read_exact",
    "spread_rows",
    "theta_of",
    "without",
]

INDUCING = "inducing"


@dataclass(frozen=True)
class Exact:
    """What an approximation needs to know of the exact model.

    Parameters
    ----------
    kernel : str
    observed : str
        Name of the table.
    F : ndarray, shape (N, D)
        The standardised table.
    log_scale : float
        Sum over the columns of the logarithm of their scale.
    latent_dim : int
    bias : bool
        Whether the kernel has one.
    floor : float
        Of the noise, besides sigma.
    """

    kernel: str
    observed: str
    F: Array
    log_scale: float
    latent_dim: int
    bias: bool
    floor: float

    @property
    def factor(self) -> Array:
        """F shortened to at most N columns."""
        return gram_factor(self.F)


def read_exact(model: pm.Model, n_inducing: int) -> tuple[Exact, int]:
    """Read an exact model, and how many inducing inputs it is to have.

    Returns
    -------
    exact : Exact
    n_inducing : int
        M as asked for; under the linear kernel as many as its functions have dimensions, with
        which nothing is lost.

    Raises
    ------
    TypeError, ValueError
        If the model is not one of ``build_model``, or ``n_inducing`` is out of range.
    """
    spec = ModelSpec.of(model)
    if spec.kernel not in KERNELS:
        raise ValueError(
            f"model must have a kernel of the table ({', '.join(KERNELS)}) in its own parameters, "
            f"got kernel={spec.kernel!r}. Build it with build_model."
        )
    if KERNELS[spec.kernel].summed:
        raise ValueError(
            "model must have a kernel of one part to be given inducing inputs, got "
            f"kernel={spec.kernel!r}. Use fit_map, fit_stochastic or sample, or leave one part out."
        )
    spec.table.require_shared(caller="A model with inducing inputs")
    spec.table.require_complete(caller="A model with inducing inputs")
    if not spec.table.standardisable or "sigma" not in spec.theta:
        raise ValueError(
            "model must have a noise 'sigma', and the mean and scale of its table must be data, "
            "got other. Build it with build_model."
        )
    exact = Exact(
        kernel=spec.kernel,
        observed=spec.table.name,
        F=spec.table.F,
        log_scale=float(np.log(spec.table.scale).sum()),
        latent_dim=spec.latent_dim,
        bias="bias" in spec.theta,
        floor=spec.floor,
    )
    return exact, _checked(n_inducing, exact)


def check_settings(tol: float, **counts: tuple[Any, int]) -> None:
    """Check a fit's settings: ``counts`` are name=(value, least)."""
    for name, (value, least) in counts.items():
        count(name, value, least)
    if not 0.0 < tol < 1.0:
        raise ValueError(f"tol must lie between 0 and 1, got {tol!r}.")


def _checked(n_inducing: int, exact: Exact) -> int:
    if isinstance(n_inducing, bool) or not isinstance(n_inducing, int | np.integer):
        raise TypeError(f"n_inducing must be a whole number, got {n_inducing!r}.")
    N = len(exact.F)
    if not 2 <= n_inducing <= N:
        raise ValueError(
            f"n_inducing must lie between 2 and the number of rows, {N}, got {n_inducing}. "
            "The cost grows with its square; 50 is a beginning."
        )
    if KERNELS[exact.kernel].stationary:
        return int(n_inducing)
    return exact.latent_dim + int(exact.bias)


def without(model: pm.Model, *names: str) -> pm.Model:
    """Clone a model less some of its variables.

    Raises
    ------
    ValueError
        If another variable depends on one of them.
    """
    graph, memo = fgraph_from_model(model, inlined_views=True)
    for name in names:
        graph.remove_output(graph.outputs.index(memo[model.named_vars[name]]))
    rest = model_from_fgraph(graph, mutate_fgraph=True)
    left = [name for name in names if name in rest.named_vars]
    if left:
        raise ValueError(
            f"model must not have a variable or potential that depends on {', '.join(left)} beside the "
            "table, got one. Leave it out: the bound does not know it."
        )
    return rest


def add_inducing_inputs(exact: Exact, n_inducing: int) -> Variable:
    """Add ``X_inducing`` to the model on the context stack.

    Free, without a prior: not the model's, but the approximation's. The linear kernel's are held
    on the axes, and with a bias at the origin: they tell all of a linear function.
    """
    model = pm.modelcontext(None)
    model.add_coord(INDUCING, np.arange(n_inducing))
    dims, shape = (INDUCING, LATENT), (n_inducing, exact.latent_dim)
    if KERNELS[exact.kernel].stationary:
        return pm.Flat("X_inducing", dims=dims if LATENT in model.coords else None, shape=shape)
    return pm.Data("X_inducing", np.eye(*shape), dims=dims if LATENT in model.coords else None)


def theta_of(model: pm.Model) -> dict[str, Variable]:
    """Return the kernel's parameters in a model, by name, its defaults where it has none.

    ``sigma`` is all of the noise, its floor included.
    """
    defaults = {"lengthscale": 1.0, "amplitude": 1.0, "bias": 0.0}
    return {name: model.named_vars.get(name, pt.constant(v)) for name, v in defaults.items()} | {
        "sigma": noise_in(model)
    }


def spread_rows(X: Array, n_inducing: int, rng: np.random.Generator) -> Array:
    """Choose rows that lie apart, by the seeding of k-means++."""
    from sklearn.cluster import kmeans_plusplus

    seed = int(rng.integers(2**31))
    return np.asarray(kmeans_plusplus(X, n_inducing, random_state=seed)[0])


def earlier(start: Any, values: Mapping[str, Array]) -> dict[str, Array]:
    """Take from a fit with inducing inputs to start from what it knows beside X and θ."""
    if not isinstance(start, xr.DataTree) or "approximation" not in start.children:
        return {}
    known = start["approximation"].to_dataset()
    found = {name: known[name].to_numpy() for name in ("X_mean", "X_inducing") if name in known}
    if "X_sd" in known:
        found["X_sd_log__"] = np.log(known["X_sd"].to_numpy())
    return {n: v for n, v in found.items() if n in values and v.shape == values[n].shape}


def named_values(model: pm.Model, values: Mapping[str, Array]) -> dict[str, Array]:
    """Bring values of a model's value variables to its variables, with those held fixed."""
    known = compile_constrain(model)(*[values[v.name] for v in model.value_vars])
    held = {
        name: model.named_vars[name].get_value()
        for name in (*THETA, "X_inducing")
        if name in model.named_vars and name not in known
    }
    return {name: np.asarray(value) for name, value in (known | held).items()}


def drawn(model: pm.Model, named: Mapping[str, Array]) -> dict[str, Array]:
    """Keep the values of what is random in a model."""
    names = {variable.name for variable in (*model.free_RVs, *model.deterministics)}
    return {name: value for name, value in named.items() if name in names}


def potential_of(model: pm.Model, values: Mapping[str, Array], *names: str) -> float:
    """Sum of potentials of a model at values of its value variables."""
    potentials = model.replace_rvs_by_values([model.named_vars[name] for name in names])
    function = pytensor.function(
        model.value_vars, pt.add(0.0, *potentials), on_unused_input="ignore", mode=compile_mode()
    )
    return float(function(*[values[v.name] for v in model.value_vars]))


def label_approximation(fit: xr.DataTree) -> None:
    """Give the group ``approximation`` the labels of the rows and the latent dimensions."""
    known = fit["approximation"].to_dataset()
    coords = fit["posterior"].to_dataset().coords
    labels = {
        name: c for name, c in coords.items() if set(c.dims) <= {OBS, LATENT} & set(known.dims)
    }
    fit["approximation"] = xr.DataTree(known.assign_coords(labels))


def approximation_groups(
    model: pm.Model, named: Mapping[str, Array], ranked: list[tuple[int, Optimum]]
) -> dict[str, xr.Dataset]:
    """Make the groups ``approximation``, ``optima``, ``optima_positions`` and ``trace`` of a fit."""
    dims = {"X_mean": (OBS, LATENT), "X_sd": (OBS, LATENT), "X_inducing": (INDUCING, LATENT)}
    trace = ranked[0][1].trace
    ends = [named_values(model, optimum.values) for _, optimum in ranked]
    return {
        "approximation": xr.Dataset({n: (d, named[n]) for n, d in dims.items() if n in named}),
        "optima": optima_table(ranked),
        **optima_positions([i for i, _ in ranked], ends),
        "trace": xr.Dataset({"objective": ("evaluation", trace)}),
    }
