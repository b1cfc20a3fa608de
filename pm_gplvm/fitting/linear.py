"""The linear kernel's mode in closed form: dual probabilistic PCA."""

from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytensor
import xarray as xr
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pymc.model.transform.conditioning import remove_value_transforms
from scipy.optimize import minimize_scalar

from pm_gplvm.core.checks import Array
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.density import compile_constrain
from pm_gplvm.model.results import as_fit
from pm_gplvm.model.spec import ModelSpec, PositionPrior


def fit_linear(model: pm.Model) -> xr.DataTree:
    r"""Give the mode of a model with the linear kernel without an optimiser.

    Its likelihood has K = X Xᵀ + σ² I, σ² the variance of all noise: sigma² and the square of its floor,
    ``resolution`` of :func:`build_model`. With λ₁ ≥ λ₂ ≥ … the eigenvalues of F Fᵀ / D, F the
    standardised table (N × D), and uᵢ their eigenvectors, the mode has

        X = [u₁ ℓ₁, …, u_Q ℓ_Q],    ℓᵢ² = max(kᵢ - σ², 0),    a kᵢ² + D kᵢ = D λᵢ,

    where 1/a is the variance of the prior N(0, 1/a) of X. With a flat prior of X, a = 0, kᵢ = λᵢ
    and σ² is the mean of the discarded eigenvalues (Lawrence 2005, section 2; Tipping & Bishop
    1999, eq. 3.7 and 3.8). Else all kᵢ < λᵢ: the prior draws X towards 0, and σ² is the lesser
    root of

        a q σ⁴ - D (N - q) σ² + D Σ_{i > q} λᵢ = 0,

    q the number of ℓᵢ > 0. Both are for a flat prior of σ. A fixed σ is put into the first line,
    and any other prior of σ adds a search for the best σ alone, X following in closed form.

    Parameters
    ----------
    model : pm.Model
        ``build_model(Y, Q, kernel="linear")``: with X ~ N(0, 1), its default, or
        ``priors={"X": "flat"}``, or another normal prior of mean 0; and any prior of sigma.

    Returns
    -------
    DataTree
        A posterior of one chain and one draw, turned so that the columns of X are orthogonal, the
        first the longest. X is in units of the data's scale.

    Raises
    ------
    TypeError, ValueError
        If the model has another kernel, a bias or another prior of X; or if a flat prior of σ
        meets a table of rank Q, which needs no noise, so that there is no mode.

    References
    ----------
    Lawrence, N. D. (2005). Probabilistic non-linear principal component analysis with Gaussian
    process latent variable models. JMLR 6, 1783-1816.

    Tipping, M. E., Bishop, C. M. (1999). Probabilistic principal component analysis. JRSS B 61,
    611-622.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> flat = {"X": "flat", "sigma": "flat"}
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=30), kernel="linear", priors=flat)
    >>> fit = gplvm.fit_linear(model)
    >>> fit["posterior"]["X"].shape
    (1, 1, 30, 2)
    """
    spec = _checked(model)
    F, Q = spec.table.F, spec.latent_dim
    N, D = F.shape
    U, singular, _ = np.linalg.svd(F, full_matrices=False)
    values = singular**2 / D
    rest, floor = float(values[Q:].sum()), spec.floor
    mode = _Modes(values[:Q], rest, N, D, _precision_of_X(spec.prior), floor**2)
    sigma = _best_sigma(model, mode)
    noise = sigma**2 + mode.floor
    X = U[:, :Q] * mode.lengths(noise)
    X *= np.where(X[np.abs(X).argmax(axis=0), np.arange(Q)] < 0.0, -1.0, 1.0)

    plain = remove_value_transforms(model)  # whose values are the parameters themselves
    at = {"X": X, "sigma": np.asarray(sigma)}
    point = [at[value.name] for value in plain.value_vars]
    draws = compile_constrain(plain)(*point)
    prior = pytensor.function(
        plain.value_vars, plain.logp(vars=plain.free_RVs, jacobian=False), mode=compile_mode()
    )
    likelihood = mode.log_likelihood(noise) - N * spec.table.log_scale
    stats = {"lp": likelihood + float(prior(*point)), "log_likelihood": likelihood}
    return as_fit(
        spec,
        {name: np.asarray(value)[None, None] for name, value in draws.items()},
        method="linear",
        sample_stats={name: np.array([[value]]) for name, value in stats.items()},
        settings={"converged": 1},
    )


@dataclass(frozen=True)
class _Modes:
    """The best X of each σ, by the eigenvalues of F Fᵀ / D."""

    values: Array  # (Q,), the largest eigenvalues
    rest: float  # sum of the others
    N: int
    D: int
    a: float  # precision of X's prior
    floor: float  # the least that σ² may be

    @property
    def _roots(self) -> Array:
        """Of a k² + D k = D λ, written so that a = 0 gives λ."""
        D, value = self.D, self.values
        return 2.0 * D * value / (D + np.sqrt(D**2 + 4.0 * self.a * D * value))

    def lengths(self, noise: float) -> Array:
        """Lengths of the columns of X."""
        return np.sqrt(np.maximum(self._roots - noise, 0.0))

    def log_likelihood(self, noise: float) -> float:
        """L of the standardised table at σ² = noise."""
        k = self.lengths(noise) ** 2 + noise
        others = (self.N - len(k)) * np.log(noise) + self.rest / noise
        total = self.N * np.log(2.0 * np.pi) + (np.log(k) + self.values / k).sum() + others
        return float(-0.5 * self.D * total)

    def log_density(self, noise: float) -> float:
        """L and ln p(X), constants apart."""
        return self.log_likelihood(noise) - 0.5 * self.a * float((self.lengths(noise) ** 2).sum())

    def noise(self) -> float:
        """Best σ² under a flat prior: of the stationary points, one for each q, or the floor, the highest."""
        N, D, a = self.N, self.D, self.a
        stationary = []
        for q in range(len(self.values) + 1):
            discarded = self.rest + float(self.values[q:].sum())
            square = (D * (N - q)) ** 2 - 4.0 * a * q * D * discarded
            if square >= 0.0:
                stationary.append(2.0 * D * discarded / (D * (N - q) + np.sqrt(square)))
        if max(stationary[-1], self.floor) == 0.0:  # noise-free: the density has no maximum
            return 0.0
        return max((max(s, self.floor) for s in stationary), key=self.log_density)


def _checked(model: pm.Model) -> ModelSpec:
    """Read a model, and check that it is one with a closed form."""
    spec = ModelSpec.of(model)
    table, free = spec.table, spec.free.keys()
    table.require_shared(caller="fit_linear")
    spec.refuse_inputs(
        "it has no closed form with their terms. Use fit_marginal.", caller="fit_linear"
    )
    if spec.kernel != "linear" or "bias" in spec.theta or "X" not in free:
        raise ValueError(
            "fit_linear needs kernel='linear', no bias and a free X, got a model with the kernel "
            f"{spec.kernel!r} and {', '.join(model.named_vars)}. Use fit_map."
        )
    if free - {"X", "sigma"} or model.potentials or len(model.observed_RVs) > 1:
        raise ValueError(
            "fit_linear knows models of X, sigma and one table, got "
            f"{', '.join(rv.name for rv in (*model.basic_RVs, *model.potentials))}. Use fit_map."
        )
    table.require_complete(caller="fit_linear")
    if not table.standardisable:
        raise ValueError(
            "fit_linear needs the mean and scale of the table to be data. Use fit_map."
        )
    return spec


def _precision_of_X(prior: PositionPrior) -> float:
    """Read a off the prior of X: 0 if it is flat, 1/τ² if N(0, τ²)."""
    op, moments = prior.model["X"].owner.op, prior.moments
    if isinstance(op, FlatRV):
        return 0.0
    if moments is not None and np.all(moments[0] == 0.0) and np.ptp(moments[1]) == 0.0:
        return float(np.mean(moments[1]) ** -2.0)
    raise ValueError(
        f"fit_linear needs a flat prior of X, or a normal one of mean 0 and one spread, got {op}. "
        "Use fit_map."
    )


def _best_sigma(model: pm.Model, mode: _Modes) -> float:
    """σ of the mode: its value if fixed, in closed form under a flat prior, else by a search."""
    sigma = model["sigma"]
    if sigma not in model.free_RVs:
        return float(sigma.get_value())
    if isinstance(sigma.owner.op, HalfFlatRV):
        noise = mode.noise()
        if noise <= 1e-14 * mode.values[0]:
            raise ValueError(
                f"latent_dim must be below the rank of the table with a flat prior of sigma, got {len(mode.values)}: "
                "nothing is left for the noise, and the density has no maximum. Give sigma a prior or "
                "a number."
            )
        return float(np.sqrt(noise - mode.floor))
    value = model.rvs_to_values[sigma]
    (of_value,) = model.replace_rvs_by_values([sigma])
    outputs = [of_value, model.logp(vars=[sigma], jacobian=False)]
    function = pytensor.function([value], outputs, mode=compile_mode())

    def negative(at: float) -> float:
        at_sigma, log_prior = (float(v) for v in function(at))
        return -(mode.log_density(at_sigma**2 + mode.floor) + log_prior)

    # There may be two maxima, one of them all noise, and where a prior ends abruptly none inside.
    grid = float(model.initial_point()[value.name]) + np.linspace(-12.0, 12.0, 97)
    near = grid[np.argmin([negative(at) for at in grid])]
    best = minimize_scalar(negative, bounds=(near - 0.25, near + 0.25), options={"xatol": 1e-9})
    return float(function(best.x)[0])
