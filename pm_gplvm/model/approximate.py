"""From an exact model to one in which inducing inputs stand for many rows."""

from typing import Literal

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.graph.basic import Variable

from pm_gplvm.core.checks import checked
from pm_gplvm.core.gaussian import column_patterns, gram_factor
from pm_gplvm.core.inducing import InducingKernel
from pm_gplvm.core.inducing_patterns import warn_of_inducing_cost
from pm_gplvm.core.kernels import KERNELS, is_composite
from pm_gplvm.core.psi import ONE_NODE
from pm_gplvm.data.fit import LATENT
from pm_gplvm.model.divergence import minus_divergence, why_no_divergence
from pm_gplvm.model.ops import SYMBOLIC, CollapsedBound, PatternBound
from pm_gplvm.model.spec import ModelSpec, noise_in

Method = Literal["vfe", "fitc"]

INDUCING = "inducing"


@checked
def build_variational(model: pm.Model | ModelSpec, *, n_inducing: int = 50) -> pm.Model:
    r"""Write down the variational approximation to a model's posterior as a ``pm.Model``.

    q(X) = ∏ₙ N(μₙ, diag sₙ²) and M inducing inputs take the place of X and of the table
    (Titsias & Lawrence 2010). The log-density of the result, θ's priors apart, is the bound

        ⟨ln p(Y | X, θ)⟩ bounded below as by Titsias (2009), minus KL(q(X) ‖ p(X))
        ≤ ln p(Y | θ).

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`. The prior of ``X`` may be Normal, :func:`priors.informative`,
        :func:`priors.dynamics` or :func:`priors.class_mixture`; what of it is free stays so.
    n_inducing : int, default 50
        M; more than N are N. The linear kernel takes as many as it has latent dimensions (and one for a
        bias), which lose nothing.

    Returns
    -------
    pm.Model
        θ and the parameters of X's prior with the priors that they have in ``model``; ``X_mean`` and ``X_sd``
        (obs, latent), of q;
        ``X_inducing`` (inducing, latent); the potentials ``likelihood_bound``, in units of the
        table as the model's log-likelihood is, and ``minus_KL``. Of several tables each has inducing inputs and a
        bound of its own, ``X_inducing_rna`` and ``likelihood_bound_rna`` (Damianou, Ek, Titsias & Lawrence 2012).

    Warns
    -----
    RuntimeWarning
        If missing entries have so many patterns that an evaluation takes more than ten times as long.

    Raises
    ------
    TypeError, ValueError
        If the model is not one of :func:`build_model`, X has another prior, a variable beside
        the table depends on X, or ``n_inducing`` is out of range.

    Notes
    -----
    *Missing entries.* Columns of which the same rows were observed have the bound of these rows, with the
    statistics summed over them, and a factorisation of M × M of their own.

    *Priors of X.* The divergence is in closed form. Rows of unknown class have a lower bound in its place, the
    best of a q of the class too. Under :func:`priors.dynamics` rows depend on each other in p(X), not in q(X): an
    evaluation then takes N³ for it, and memory for N × N.

    The psi statistics are in closed form for ``rbf`` and ``linear``, with or without a bias. For
    the other kernels, sums with a linear part among them, they are taken by quadrature (:func:`pm_gplvm.core.psi.cubature`), and the
    bound may then be missed by its error, which :func:`fit_variational` tells.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20), ard=True)
    >>> [rv.name for rv in gplvm.model.build_variational(model, n_inducing=8).free_RVs][-3:]
    ['X_mean', 'X_sd', 'X_inducing']
    """
    exact, n_inducing = _checked(model, n_inducing, views=True)
    if (why := why_no_divergence(exact)) is not None:
        raise ValueError(
            f"model must have a prior on X from which q(X) has a divergence in closed form, {why}."
        )
    approximation = _without(exact, "X")
    shape = exact.X_shape
    dims = exact.model.named_vars_to_dims.get("X")
    with approximation:
        mean = pm.Flat("X_mean", shape=shape, dims=dims)
        sd = pm.HalfFlat("X_sd", shape=shape, dims=dims)
        for part in exact.parts:
            W, theta = _add_inducing_inputs(part, n_inducing), _theta(approximation, part)
            unit = theta["lengthscale"]
            likelihood = _bound(part, (mean / unit, sd / unit, W / unit), theta, points=False)
            pm.Potential(part.own("likelihood_bound"), likelihood - part.table.log_units)
        pm.Potential("minus_KL", minus_divergence(exact, approximation, mean, sd))
    return approximation


@checked
def build_sparse(
    model: pm.Model | ModelSpec, *, n_inducing: int = 100, method: Method = "vfe"
) -> pm.Model:
    """Write down a model with its table's likelihood approximated by inducing inputs.

    With Q = K_nm K_mm⁻¹ K_mn, which has rank M:

    - "vfe": ln N(Y | 0, Q + sigma² I) - tr(K - Q) / (2 sigma²) a column (Titsias 2009, eq. 9), a
      lower bound on the exact log-likelihood, whatever the inducing inputs.
    - "fitc": ln N(Y | 0, Q + diag(K - Q) + sigma² I) a column (Snelson & Ghahramani 2006; Lawrence
      2007 for GP-LVMs), another model, whose likelihood may exceed the exact one.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`.
    n_inducing : int, default 100
        M; more than N are N. The linear kernel takes as many as it has latent dimensions (and one for a
        bias), which lose nothing.
    method : {"vfe", "fitc"}

    Returns
    -------
    pm.Model
        ``X`` and θ with the priors that they have in ``model``; ``X_inducing`` (inducing,
        latent); the potential ``likelihood``, in units of the table.

    Warns
    -----
    RuntimeWarning
        As :func:`build_variational`.

    Raises
    ------
    TypeError, ValueError
        If the model is not one of :func:`build_model`, or ``n_inducing`` or ``method`` is out of
        range.

    Notes
    -----
    Where entries are missing, columns of which the same rows were observed have the likelihood of these rows.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> [rv.name for rv in gplvm.model.build_sparse(model, n_inducing=8).free_RVs][-1]
    'X_inducing'
    """
    if method not in ("vfe", "fitc"):
        raise ValueError(f"method must be 'vfe' or 'fitc', got {method!r}.")
    exact, n_inducing = _checked(model, n_inducing)
    approximation = _without(exact)
    with approximation:
        W = _add_inducing_inputs(exact, n_inducing)
        X, theta = approximation["X"], _theta(approximation, exact)
        positions = X / theta["lengthscale"], pt.zeros_like(X), W / theta["lengthscale"]
        if method == "vfe" or exact.table.seen is not None:
            value = _bound(exact, positions, theta, points=True, fitc=method == "fitc")
        else:
            value = _fitc(exact, positions, theta)
        pm.Potential("likelihood", value - exact.table.log_units)
    return approximation


def _checked(
    model: pm.Model | ModelSpec, n_inducing: int, *, views: bool = False
) -> tuple[ModelSpec, int]:
    """Check an exact model and the number of inducing inputs, or choose it (linear kernel)."""
    spec = ModelSpec.of(model, views=views)
    spec.refuse_inputs(
        "inducing inputs are places of X. Take fit_marginal or fit_map, which are exact, or fit_svi, which has inputs at its inducing inputs too.",
        caller="An approximation by inducing inputs",
    )
    if composite := next(filter(is_composite, spec.kernels), None):
        raise ValueError(
            f"model must have one of the kernels {', '.join(KERNELS)} for inducing inputs with q(u) in closed form, got "
            f"{composite!r}, whose expectations under q(X) are not known. Take fit_marginal or fit_map, which are exact, "
            "or fit_svi, which goes through inducing inputs by minibatches."
        )
    if other := next((name for name in spec.kernels if name not in KERNELS), None):
        raise ValueError(
            f"model must have a kernel of the table ({', '.join(KERNELS)}) in its own parameters, "
            f"got kernel={other!r}. Build it with build_model."
        )
    spec.table.require_shared(caller="A model with inducing inputs")
    noisy = all("sigma" in part.theta for part in spec.parts)
    if not spec.table.standardisable or not noisy:
        raise ValueError(
            "model must have a noise 'sigma', and the mean and scale of its table must be data, "
            "got other. Build it with build_model."
        )
    n_rows = len(spec.table.F)
    if n_inducing < 2:
        raise ValueError(
            f"n_inducing must be at least 2, got {n_inducing}. The cost grows with its square; 50 is a "
            "beginning."
        )
    straight = [KERNELS[name].scaled is None for name in spec.kernels]
    if not any(straight):
        return spec, min(n_inducing, n_rows)  # with one a row nothing is approximated
    biases = {"bias" in part.theta for part in spec.parts}
    if not all(straight) or len(biases) > 1:
        raise ValueError(
            "model must have a curved kernel for every table, or the same linear one for all, where it goes through inducing "
            f"inputs, got {', '.join(spec.kernels)}. Take fit_marginal, or a kernel such as 'rbf + linear'."
        )
    return spec, spec.latent_dim + int(biases.pop())


def why_no_inducing(model: pm.Model | ModelSpec) -> str | None:
    """Tell why a model cannot be given inducing inputs, by :func:`build_sparse`'s own check; None if it can."""
    try:
        spec, _ = _checked(model, 2)
    except ValueError as error:
        return str(error)
    return None if "X" in spec.free else "X is held fixed"


def _without(exact: ModelSpec, *others: str) -> pm.Model:
    """Clone a model less its table and other variables, on which no other may depend."""
    graph, memo = fgraph_from_model(exact.model, inlined_views=True)
    names = (*(part.table.name for part in exact.parts), *others)
    for name in names:
        graph.remove_output(graph.outputs.index(memo[exact.model[name]]))
    rest = model_from_fgraph(graph, mutate_fgraph=True)
    left = [name for name in names if name in rest.named_vars]
    if left:
        raise ValueError(
            f"model must not have a variable or potential that depends on {', '.join(left)} beside the "
            "table, got one. Leave it out: the bound does not know it."
        )
    return rest


def _add_inducing_inputs(exact: ModelSpec, n_inducing: int) -> Variable:
    """Add ``X_inducing`` to the model on the context stack.

    Free, without a prior: not the model's, but the approximation's. The linear kernel's are held
    on the axes, and with a bias at the origin, which determines a linear function.
    """
    model, name = pm.modelcontext(None), exact.own("X_inducing")
    if INDUCING not in model.coords:
        model.add_coord(INDUCING, np.arange(n_inducing))
    dims = (INDUCING, LATENT) if LATENT in model.coords else None
    shape = (n_inducing, exact.latent_dim)
    if KERNELS[exact.kernel].scaled is not None:
        return pm.Flat(name, dims=dims, shape=shape)
    return pm.Data(name, np.eye(*shape), dims=dims)


def _theta(model: pm.Model, exact: ModelSpec) -> dict[str, Variable]:
    """Return θ of an exact model's table by plain name, defaults where it has none; sigma includes the noise floor."""
    defaults = {"lengthscale": 1.0, "amplitude": 1.0, "weight": 1.0, "bias": 0.0}
    named = {name: model.named_vars.get(exact.own(name)) for name in defaults}
    return {n: pt.constant(defaults[n]) if v is None else v for n, v in named.items()} | {
        "sigma": noise_in(model, exact.view)
    }


def _bound(
    exact: ModelSpec,
    positions: tuple[Variable, ...],
    theta: dict[str, Variable],
    *,
    points: bool,
    fitc: bool = False,
) -> Variable:
    scalars = [theta[name] for name in ("amplitude", "bias", "sigma")]
    if exact.table.seen is None:
        op, factor = CollapsedBound(exact.kernel, exact.table.F.shape[1], points), _factor(exact)
    else:
        patterns = column_patterns(exact.table.seen.T)
        warn_of_inducing_cost(patterns, points=points)
        short, of_short = patterns.shortened(exact.table.F)
        widths = tuple(np.bincount(patterns.group).tolist())
        op = PatternBound(exact.kernel, of_short, widths, points, fitc=fitc)
        factor = pytensor.shared(short, name="factors")
    return op(*positions, *scalars, factor, *_ratio(exact, theta))[0]


def _ratio(exact: ModelSpec, theta: dict[str, Variable]) -> list[Variable]:
    """Divide the sd of the linear part at a lengthscale by the other part's, in each dimension (Q,)."""
    if not KERNELS[exact.kernel].summed:
        return []
    shares = theta["weight"] * theta["lengthscale"] / theta["amplitude"]
    return [shares * pt.ones(exact.latent_dim)]


def _fitc(
    exact: ModelSpec, positions: tuple[Variable, ...], theta: dict[str, Variable]
) -> Variable:
    scalars = theta["amplitude"], theta["bias"]
    ratio = next(iter(_ratio(exact, theta)), None)
    whole = InducingKernel(
        exact.kernel, positions, *scalars, quadrature=ONE_NODE, ratio=ratio, xp=SYMBOLIC
    )
    return whole.fitc_log_likelihood(_factor(exact), theta["sigma"], exact.table.F.shape[1])


def _factor(exact: ModelSpec) -> Variable:
    """F shortened to at most N columns."""
    return pytensor.shared(gram_factor(exact.table.F), name="factor")
