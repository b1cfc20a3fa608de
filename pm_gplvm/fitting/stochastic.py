"""X and θ by stochastic gradients, each of a neighbourhood of a few rows.

Yao, Gall, Van Gool & Urtasun (2011): draw a row, take the R rows that are nearest to it in the
latent space as it is now, and move these rows 𝓡, and θ, along the gradient of their log-density

    J(𝓡) = L(Y_𝓡 | X_𝓡, θ) + ln p(X_𝓡) + (R/N) ln p(θ),

L the model's own likelihood of these rows by themselves. A step costs O(R³), whatever N is. Sums of
J over sets that hold each row once are a composite likelihood (Varin, Reid & Firth 2011, Statistica
Sinica 21, 5-42) with the priors of X and θ counted once: what rows of different sets tell about each
other is left out. For R = N it is the model's log-density itself.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import xarray as xr
from numpy.typing import NDArray
from pymc.distributions.custom import CustomSymbolicDistRV
from pymc.distributions.shape_utils import change_dist_size
from pytensor.graph.basic import Variable
from scipy.spatial import cKDTree

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked
from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.core.interrupt import caught, interruptible, safe_point
from pm_gplvm.data.fit import warn_of
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.model.compile import Backend, resolve_mode
from pm_gplvm.model.density import compile_constrain, row_parameters
from pm_gplvm.model.ops import GaussianTerms, covariance, total_logp
from pm_gplvm.model.results import as_fit, warn_of_columns
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import start_values

Rows = NDArray[np.intp]
Gradient = Callable[[Rows, Array, Sequence[Array]], tuple[float, Array, list[Array]]]
"""Rows, their positions and θ to a log-density and its gradients in the last two."""

_NEIGHBORS = 50
_PASSES = 300  # in a default run a row belongs to that many neighbourhoods
_UNFOLDING = 0.2  # share of the steps in which θ is fixed
_FEW_ROWS = 2000  # up to which N × N arrays cost little, and all rows are evaluated together
_SAMPLE = 1000  # of more rows


@checked
def fit_stochastic(
    model: pm.Model,
    *,
    n_neighbors: int | None = None,
    steps: int | None = None,
    learning_rate: float = 0.05,
    learning_rate_theta: float = 0.01,
    momentum: float = 0.9,
    start: Any = "pca",
    monitor: int = 10,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
    backend: Backend = "python",
) -> xr.DataTree:
    """Learn X and θ from the gradients of neighbourhoods: memory linear in the number of rows.

    Each step draws a row at random, takes the R rows nearest to it in the present latent space
    (itself among them) and moves them and θ along the gradient of

        J(𝓡) = L(Y_𝓡 | X_𝓡, θ) + ln p(X_𝓡) + (R/N) ln p(θ)

    (Yao et al. 2011). The step lengths are Adam's (Kingma & Ba 2015, algorithm 1), with averages
    kept for each row by itself, and fall linearly to 0. For the first fifth of the steps θ is
    held: where the start is folded, a short lengthscale would explain the fold by tearing X.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with a kernel of the table. The data, the kernel and
        the priors are read off it.
    n_neighbors : int, optional
        R, rows of a neighbourhood, from 2 to N; 50, or N if that is less.
    steps : int, optional
        Default: as many as bring each row into 300 neighbourhoods on average, 300 N / R.
    learning_rate : float, default 0.05
        Length of the first steps of X, about that in each coordinate, in units of the start's
        standard deviation.
    learning_rate_theta : float, default 0.01
        The same for the transformed θ (their logarithms in a model of :func:`build_model`);
        0 holds θ at its start.
    momentum : float, default 0.9
        How much of the last steps' direction is kept, from 0 up to below 1.
    start : {"pca", "isomap", "random"}, array_like (N, Q), mapping or DataTree
        As in :func:`fit_map`; all but "isomap" need memory linear in N.
    monitor : int, default 10
        How often on the way, and once before it, the fit is looked at as a whole.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : int or None, default 1
        Threads of the linear algebra while it runs; None leaves the machine's setting.
    backend : {"python", "numba", "jax"}

    Returns
    -------
    DataTree
        A posterior of one chain and one draw, where the last step ended. ``trace`` (step):
        ``held_out``, the mean of ln p(yₙ given the other rows, X, θ) over all rows or, above
        N = 2000, over a fixed sample of 1000 given the others of the sample; ``objective``, that
        of :func:`fit_map`, up to N = 2000; ``seconds``. ``sample_stats`` has their last values.

    Warns
    -----
    RuntimeWarning
        If ``held_out`` is lower at the end than at the start, or Ctrl-C ended it: the state after the last
        step is returned, ``attrs["interrupted"]`` is 1, and ``attrs["steps"]`` are those taken.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the model is none that can be learnt by neighbourhoods
        (its ``X`` free, untransformed and independent from row to row, with a kernel of the table), or a step is not finite.
    KeyboardInterrupt
        At Ctrl-C before the first step, and at the second Ctrl-C.

    Notes
    -----
    *Weights.* A row drawn at random is in 𝓡 with a chance of about R/N, so a step is R/N of
    one along the gradient of the composite likelihood, of ln p(X) and of ln p(θ).

    *Bias.* L(Y_𝓡) is the likelihood of the neighbourhood as if there were no other rows. Its
    gradient has mean zero in θ at the θ that made the data, but it is no unbiased estimate of the
    full gradient, for any number of steps: rows far apart never meet, so that nothing pushes apart
    what two patches put in one place, or draws together what was torn. The bias vanishes as
    R → N. Hence the trace; and a fit to be trusted is finished by ``fit_map(model, start=fit)``
    or, where N × N arrays are too large, by ``fit_sparse(model, start=fit)``.

    *When.* A full gradient costs N³ and is worth more than one of a neighbourhood: up to about a
    thousand rows :func:`fit_map` gets further in the same time.

    References
    ----------
    Yao, A., Gall, J., Van Gool, L., Urtasun, R. (2011). Learning probabilistic non-linear latent
    variable models for tracking complex activities. NIPS 24.

    Kingma, D. P., Ba, J. (2015). Adam: a method for stochastic optimization. ICLR.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=40))
    >>> fit = gplvm.fit_stochastic(model, n_neighbors=10, steps=200, progressbar=False)
    >>> fit["posterior"]["X"].shape
    (1, 1, 40, 2)
    >>> best = gplvm.fit_map(model, start=fit, progressbar=False)
    """
    density = compile_neighbourhood(model, backend=backend)
    N = len(density.factor)
    R = checked_neighbors(n_neighbors, N)
    steps = ceil(_PASSES * N / R) if steps is None else steps
    rng = np.random.default_rng(random_seed)
    values = start_values(model, start, rng)
    optimiser = Optimiser(
        density,
        values[density.X],
        [values[name] for name in density.theta],
        n_neighbors=R,
        rates=(learning_rate * total_sd(values[density.X]), learning_rate_theta),
        momentum=momentum,
    )
    sample = density.sample(rng)
    with interruptible(keeps=True):
        with limit_threads(blas_threads):
            trace = _run(optimiser, density, sample, steps, monitor, rng, progressbar)
        settings = {
            "n_neighbors": R,
            "steps": optimiser.taken,
            "learning_rate": learning_rate,
            "learning_rate_theta": learning_rate_theta,
            "momentum": momentum,
            "start": start if isinstance(start, str) else type(start).__name__,
            "random_seed": random_seed,
        }
        groups = {"trace": trace}
        fit = optimised_fit(model, density, optimiser, sample, "stochastic", settings, groups)
    _warn(fit, steps)
    warn_of_columns(ModelSpec.of(model), fit, "fit_stochastic")
    return fit


def total_sd(X: Array) -> float:
    """Give the standard deviation of positions, all dimensions together."""
    return float(np.sqrt(X.var(axis=0).mean()))


def checked_neighbors(n_neighbors: int | None, n_rows: int) -> int:
    """R: the given one if it lies between 2 and N, or the default."""
    if n_neighbors is None:
        return min(_NEIGHBORS, n_rows)
    if not 2 <= n_neighbors <= n_rows:
        raise ValueError(f"n_neighbors must lie between 2 and N = {n_rows}, got {n_neighbors}.")
    return n_neighbors


def _run(
    optimiser: "Optimiser",
    density: "Neighbourhood",
    sample: Rows,
    steps: int,
    monitor: int,
    rng: np.random.Generator,
    show: bool,
) -> xr.Dataset:
    """Take all steps, and evaluate the sample now and then: the trace."""
    stops = {*np.linspace(0, steps, monitor + 1).round().astype(int).tolist(), steps}
    began, trace = time.perf_counter(), []

    def evaluate() -> float:
        objective, _, held_out = density.evaluate(sample, optimiser.X[sample], optimiser.theta)
        trace.append((optimiser.taken, objective, held_out, time.perf_counter() - began))
        return objective

    with progress_bar("fit_stochastic", steps, "steps", show=show) as counter:
        objective = evaluate()
        try:
            while optimiser.taken < steps:
                safe_point()
                done = optimiser.taken / steps
                optimiser.step(rng, 1.0 - done, move_theta=done >= _UNFOLDING)
                if optimiser.taken in stops:
                    objective = evaluate()
                counter.advance(objective=objective)
        except KeyboardInterrupt:
            if not optimiser.taken:
                raise
            caught()
            if trace[-1][0] < optimiser.taken:
                objective = evaluate()
    taken, *columns = (np.array(column) for column in zip(*trace, strict=True))
    data = dict(zip(("objective", "held_out", "seconds"), columns, strict=True))
    if len(sample) < len(optimiser.X):
        del data["objective"]
    return xr.Dataset({name: ("step", c) for name, c in data.items()}, coords={"step": taken})


def _warn(fit: xr.DataTree, steps: int) -> None:
    before, after = fit["trace"]["held_out"].to_numpy()[[0, -1]]
    if fit.attrs["interrupted"]:
        problem, remedy = "was interrupted", "Go on from here with start=fit"
    elif not after >= before:
        problem = f"left rows less likely than it found them ({before:.4g} to {after:.4g} each)"
        remedy = "Lower learning_rate, raise n_neighbors or steps, or begin at another start"
    else:
        return
    warn_of(
        fit, f"fit_stochastic {problem}, after {fit.attrs['steps']} of {steps} steps. {remedy}."
    )


def optimised_fit(
    model: pm.Model,
    density: "Neighbourhood",
    optimiser: "Optimiser",
    sample: Rows,
    method: str,
    settings: Mapping[str, Any],
    groups: Mapping[str, xr.Dataset] | None = None,
) -> xr.DataTree:
    """Make a fit, one chain and one draw, of the state of an optimiser.

    ``sample`` are the rows that ``held_out`` is about and, where they are all, ``lp`` and ``log_likelihood``.
    """
    values = {density.X: optimiser.X, **dict(zip(density.theta, optimiser.theta, strict=True))}
    draws = compile_constrain(model)(*(values[value.name] for value in model.value_vars))
    lp, likelihood, held_out = density.evaluate(sample, optimiser.X[sample], optimiser.theta)
    stats = {"held_out": held_out}
    if len(sample) == len(optimiser.X):
        stats |= {"lp": lp, "log_likelihood": likelihood}
    return as_fit(
        model,
        {name: np.asarray(value)[None, None] for name, value in draws.items()},
        method=method,
        sample_stats={name: np.array([[value]]) for name, value in stats.items()},
        settings=settings,
        groups=groups,
    )


class Adam:
    """Steps of even length along noisy gradients, with averages for each number by itself.

    Kingma & Ba (2015), algorithm 1, with 0.99 for their β₂: a row is seen a few hundred times only.
    """

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        self.beta1, self.beta2 = momentum, 0.99
        self.mean, self.square, self.taken = (np.zeros(shape) for _ in range(3))

    def __call__(self, gradient: Array, rows: Any = ...) -> Array:
        """Direction of the step for these rows, of length 1 in each coordinate at first."""
        self.taken[rows] += 1.0
        mean = self.beta1 * self.mean[rows] + (1.0 - self.beta1) * gradient
        square = self.beta2 * self.square[rows] + (1.0 - self.beta2) * gradient**2
        self.mean[rows], self.square[rows] = mean, square
        taken = self.taken[rows]
        root = np.sqrt(square / (1.0 - self.beta2**taken))
        return mean / (1.0 - self.beta1**taken) / (root + 1e-8)


class Optimiser:
    """X (N, Q), θ and Adam's averages, moved by the gradient of R rows a step.

    ``rates`` are the lengths of the first steps of X and of θ, 0 fixes θ; a step's first row is drawn
    from ``first``, by default all rows.
    """

    def __init__(
        self,
        gradient: Gradient,
        X: Array,
        theta: Sequence[Array],
        *,
        n_neighbors: int,
        rates: tuple[float, float],
        momentum: float,
        first: Rows | None = None,
    ) -> None:
        self.gradient, self.n_neighbors, self.rates = gradient, n_neighbors, rates
        self.X, self.theta = X.copy(), [np.array(value) for value in theta]
        self.first = np.arange(len(X)) if first is None else first
        self.taken = 0
        self._adam_X = Adam(X.shape, momentum)
        self._adam_theta = [Adam(value.shape, momentum) for value in self.theta]

    def step(self, rng: np.random.Generator, length: float, *, move_theta: bool = True) -> None:
        """Take one step, ``length`` times the rates, of X and if wanted of θ.

        ValueError, and nothing has moved, if the log-density, its gradient or a position is not finite.
        """
        rows = self._neighbours(rng)
        value, dX, dtheta = self.gradient(rows, self.X[rows], self.theta)
        moved = self.X[rows] + length * self.rates[0] * self._adam_X(dX, rows)
        if not all(np.isfinite(np.asarray(part)).all() for part in (value, moved, *dtheta)):
            raise self._not_finite()
        self.X[rows] = moved
        if move_theta and self.rates[1] > 0.0:
            for at, adam, slope in zip(self.theta, self._adam_theta, dtheta, strict=True):
                at += length * self.rates[1] * adam(slope)
        self.taken += 1

    def _neighbours(self, rng: np.random.Generator) -> Rows:
        """Draw a row; it and the R - 1 rows nearest to it."""
        # In N/R steps each row moves about once, so that the tree is one step behind at most: the
        # search costs O(R log N) a step, the making of the tree included.
        if self.taken % max(1, len(self.X) // self.n_neighbors) == 0:
            self._tree = cKDTree(self.X)
        first = self.first[rng.integers(len(self.first))]
        distances, rows = self._tree.query(self.X[first], self.n_neighbors)
        if not np.isfinite(distances).all():  # positions so far apart that their squares overflow
            raise self._not_finite()
        if first not in rows:  # it has moved since the tree was made
            rows[-1] = first
        return np.asarray(rows)

    def _not_finite(self) -> ValueError:
        return ValueError(
            f"Step {self.taken + 1} is not finite: K of a neighbourhood is not positive definite, or "
            "a value lies outside its prior. Start with a larger sigma, or lower the rates of X and "
            f"θ, {self.rates[0]:g} and {self.rates[1]:g}."
        )


@dataclass(frozen=True)
class Neighbourhood:
    """J of a few rows, compiled."""

    factor: Array  # (N, M), the data, shortened where that pays (gram_factor)
    X: str  # name of the value variable of the positions
    theta: tuple[str, ...]  # names of all other value variables
    gradient: Any  # the rows' factor, their indices, positions and θ to J and its gradients
    terms: Any  # the same to J, L and the leave-one-out density

    def __call__(
        self, rows: Rows, X_rows: Array, theta: Sequence[Array]
    ) -> tuple[float, Array, list[Array]]:
        """J of the rows, and its gradients in their positions (R, Q) and in θ."""
        value, dX, *dtheta = self.gradient(self.factor[rows], rows, X_rows, *theta)
        return float(value), dX, dtheta

    def sample(self, rng: np.random.Generator) -> Rows:
        """All rows if they are few, else 1000 at random."""
        N = len(self.factor)
        return np.arange(N) if N <= _FEW_ROWS else rng.choice(N, _SAMPLE, replace=False)

    def evaluate(
        self, rows: Rows, X_rows: Array, theta: Sequence[Array]
    ) -> tuple[float, float, float]:
        """J, L, and the mean of ln p(yₙ given the other rows among these, X, θ)."""
        values = self.terms(self.factor[rows], rows, X_rows, *theta)
        return tuple(float(value) for value in values)  # type: ignore[return-value]


def compile_neighbourhood(model: pm.Model, *, backend: Backend = "python") -> Neighbourhood:
    """Compile J of any few rows of a model.

    TypeError or ValueError unless the model has a kernel of the table, a free and untransformed ``X`` whose
    prior is independent from row to row, and nothing but its table that depends on it.
    """
    spec = ModelSpec.of(model)
    position, table = _checked_positions(spec), spec.table.variable
    value_of_X = model.rvs_to_values[position]
    F = spec.table.F
    N, D = F.shape

    rows = pt.lvector("rows")
    X_rows = pt.tensor("X_rows", shape=(None, spec.latent_dim), dtype="float64")
    factor = gram_factor(F) if N <= _FEW_ROWS else F  # a factor may be an N × N array
    F_rows = pt.tensor("F_rows", shape=(None, factor.shape[1]), dtype="float64")
    noise = {"sigma": spec.noise} if "sigma" in spec.theta else {}
    whole = X_rows
    if spec.inputs is not None:
        known = pt.specify_shape(
            pt.constant(spec.inputs.values)[rows], (None, len(spec.inputs.columns))
        )
        whole = pt.concatenate([X_rows, known], axis=1)
    K = covariance(spec.kernel, whole, **{**spec.theta, **noise})
    log_scale = spec.table.log_scale
    likelihood, left_out, prior_of_X = model.replace_rvs_by_values(
        [
            total_logp(F_rows, K, n_columns=D, log_scale=log_scale),
            _left_out(K, F_rows, D, log_scale),
            _prior_of_rows(position, X_rows, rows),
        ]
    )
    others = [v for v in (*model.basic_RVs, *model.potentials) if v not in (position, table)]
    prior_of_theta = model.logp(vars=others, jacobian=False) if others else pt.constant(0.0)
    total = likelihood + prior_of_X + X_rows.shape[0] / N * prior_of_theta

    values = [value for value in model.value_vars if value is not value_of_X]
    inputs = [F_rows, rows, X_rows, *values]
    gradient = pt.grad(total, [X_rows, *values], disconnected_inputs="ignore")
    gradients, terms = (
        pytensor.function(inputs, outputs, on_unused_input="ignore", **resolve_mode(backend, None))
        for outputs in ([total, *gradient], [total, likelihood, left_out])
    )
    gradients.trust_input = True
    names = tuple(value.name for value in values)
    # In C order the rows of a neighbourhood are gathered in one piece each.
    return Neighbourhood(np.ascontiguousarray(factor), value_of_X.name, names, gradients, terms)


def why_no_neighbourhoods(model: pm.Model | ModelSpec) -> str | None:
    """Tell why a model cannot be learnt by neighbourhoods, None if it can."""
    try:
        _checked_positions(ModelSpec.of(model))
    except ValueError as error:
        return str(error)
    return None


def _checked_positions(spec: ModelSpec) -> Variable:
    """Return the variable X; ValueError if its rows cannot be learnt a few at a time."""
    spec.table.require_shared(caller="Learning by neighbourhoods")
    spec.table.require_complete(caller="Learning by neighbourhoods")
    if not spec.table.standardisable:
        raise ValueError(
            "model must have data for the mean and scale of its table, got random variables. "
            "Build it with build_model."
        )
    if spec.kernel == "custom":
        raise ValueError(
            "model must have a kernel of the table to be learnt by neighbourhoods, got a covariance "
            "of its own. Write it with gplvm.covariance, or use fit_map."
        )
    X = spec.free.get("X")
    if X is None or not spec.is_X_plain:
        wanted = "a free X without a transform"
        found = f"an X that is {'no free variable' if X is None else 'transformed'}"
    elif X.ndim != 2 or X.owner.op.ndim_supp > 1:
        wanted, found = "a prior of X that is independent from row to row", str(X.owner.op)
    elif isinstance(X.owner.op, CustomSymbolicDistRV):  # its parameters cannot be split by row
        wanted, found = "a prior of X that is a distribution of PyMC's", "a CustomDist"
    elif spec.tied:
        wanted, found = "nothing but its table that depends on X", ", ".join(spec.tied)
    else:
        return X
    raise ValueError(
        f"model must have {wanted} to be learnt by neighbourhoods, got {found}. Use fit_map."
    )


def _prior_of_rows(X: Variable, X_rows: Variable, rows: Variable) -> Variable:
    """Write down ln p(X) of some rows, each with its own part of parameters that vary by row."""
    op = X.owner.op
    size = tuple(X_rows.shape)[: 2 - op.ndim_supp]  # over which the prior is independent
    parameters = row_parameters(X, rows)
    if parameters is None:
        return pm.logp(change_dist_size(X, size), X_rows).sum()
    _, few = op(*parameters, size=size, rng=op.rng_param(X.owner), return_next_rng=True)
    return pm.logp(few, X_rows).sum()


def _left_out(K: Variable, F: Variable, n_columns: int, log_scale: float) -> Variable:
    """Write down the mean over the rows of the log-density of each given the others.

    Left out, row n has the mean yₙ - [K⁻¹Y]ₙ / [K⁻¹]ₙₙ and the variance 1 / [K⁻¹]ₙₙ (Rasmussen &
    Williams 2006, eq. 5.12). K⁻¹ and K⁻¹F are those that the likelihood has computed.
    """
    _, _, inverse, weights = GaussianTerms()(K, F)
    precision = pt.diagonal(inverse)
    squares = (weights**2).sum(axis=1) / precision
    terms = n_columns * (pt.log(precision) - np.log(2.0 * np.pi)) - squares
    return 0.5 * terms.mean() - log_scale
