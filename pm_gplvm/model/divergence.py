"""The Kullback-Leibler divergence of q(X) = ∏ N(μₙ, diag sₙ²) from the prior of X, in closed form.

Of a Normal prior N(m, τ²) it is ½ Σ [(s² + (μ - m)²) / τ² - 1 - ln(s²/τ²)], whatever m and τ depend on. Of
columns N(0, R) that are correlated between the rows

    ½ Σ_q [tr(R⁻¹ diag s_q²) + μ_qᵀR⁻¹μ_q - N + ln|R| - Σₙ ln s_nq²]

(Damianou, Titsias & Lawrence 2011, eq. 10 has q(X) of the same form). Of a row whose class k is unknown the
density Σ_k w_k N(c_k, τ²) is bounded below by q of the class too, the best of which gives

    ⟨ln p(x)⟩ ≥ ln Σ_k w_k exp⟨ln N(x; c_k, τ²)⟩.

Parameters of the prior that are free in the model stay so.
"""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from pm_gplvm.model.ops import GaussianTerms
from pm_gplvm.model.spec import ModelSpec

_LOG_2PI = float(np.log(2.0 * np.pi))


def why_no_divergence(spec: ModelSpec) -> str | None:
    """Tell in a sentence why q(X) has no divergence from the prior of X in closed form, or None if it has."""
    if spec.prior.says.mapped:
        return (
            "got priors.back_constraint, under which X is a function of Y by weights: q(X) of independent rows "
            "is none. Take fit_marginal, or another prior"
        )
    if "X" not in spec.free:
        return "got one that is held"
    if not spec.prior.is_known:
        return (
            "got another one. Take Normal, priors.informative, priors.dynamics or priors.class_mixture, or "
            "leave priors['X'] out"
        )
    return None


def minus_divergence(spec: ModelSpec, model: pm.Model, mean: Variable, sd: Variable) -> Variable:
    """Write down -KL(q(X) ‖ p(X)) in a model that has all variables of another but X, the means and sd of q."""
    prior = spec.prior
    given = _in_other(prior.parameters, spec.model, model)
    if prior.is_standard_normal:
        return -0.5 * (mean**2 + sd**2 - 1.0 - 2.0 * pt.log(sd)).sum()
    if prior.says.correlated:
        return _correlated(given[0], mean, sd, *spec.X_shape)
    if prior.is_normal:
        centre, spread = given[0], given[1]
        away = (sd**2 + (mean - centre) ** 2) / spread**2
        return -0.5 * (away - 1.0 - 2.0 * pt.log(sd / spread)).sum()
    weights, centre, spread = given  # of classes of which some are unknown
    return _gathered(weights, centre, spread, mean, sd)


def _correlated(rowcov: Variable, mean: Variable, sd: Variable, N: int, Q: int) -> Variable:
    # tr(R⁻¹ diag v) is the sum of the squares of L⁻¹ diag(v)^½, v the sum over the columns.
    alone = pt.diag(pt.sqrt((sd**2).sum(axis=1)))
    squares, log_det, *_ = GaussianTerms()(rowcov, pt.concatenate([mean, alone], axis=1))
    return -0.5 * (squares.sum() + Q * (log_det - N)) + pt.log(sd).sum()


def _gathered(
    weights: Variable, centre: Variable, spread: Variable, mean: Variable, sd: Variable
) -> Variable:
    away = ((mean[:, None] - centre) ** 2 + sd[:, None] ** 2).sum(axis=2) / spread**2
    units = _LOG_2PI + 2.0 * pt.log(spread)
    densities = pt.logsumexp(pt.log(weights) - 0.5 * away, axis=1) - 0.5 * mean.shape[1] * units
    return densities.sum() + (0.5 * (1.0 + _LOG_2PI) + pt.log(sd)).sum()


def _in_other(variables: tuple[Variable, ...], model: pm.Model, other: pm.Model) -> list[Variable]:
    """Rewrite expressions of a model's variables in those of another by their names."""
    needed = set(ancestors(list(variables)))
    names = [name for name, v in model.named_vars.items() if v in needed and name in other]
    swaps = {model[name]: other[name] for name in names}
    return list(graph_replace(list(variables), swaps, strict=False))
