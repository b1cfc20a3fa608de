"""X and θ by stochastic gradients, each on a neighbourhood of a few rows.

Yao, Gall, Van Gool & Urtasun (2011): draw a row, take the R rows that are nearest to it in the
latent space as it is now, and move these R rows, and θ, along the gradient of their own
log-density. A step costs O(R³), whatever N is.
"""

import time
import warnings
from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.checks import Array, count
from pm_gplvm.compilation import Backend
from pm_gplvm.density import compile_constrain
from pm_gplvm.neighbourhood import Neighbourhood, compile_neighbourhood
from pm_gplvm.progress import progress_bar
from pm_gplvm.results import as_fit
from pm_gplvm.starts import start_values
from pm_gplvm.threads import blas_threads as limit_threads
from pm_gplvm.walk import Walk

__all__ = ["check_rates", "fit_stochastic", "neighbors_of", "spread", "walk_fit"]

Rows = NDArray[np.intp]

_NEIGHBORS = 50
_PASSES = 300  # in a default run a row belongs to that many neighbourhoods
_UNFOLDING = 0.2  # share of the steps in which θ is held


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
        If ``held_out`` is lower at the end than at the start, or it was interrupted.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the model is none that can be learnt by neighbourhoods
        (see :func:`pm_gplvm.neighbourhood.compile_neighbourhood`), or a step is not finite.

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
    >>> model = gplvm.build_model(gplvm.load_digits(n=40))
    >>> fit = gplvm.fit_stochastic(model, n_neighbors=10, steps=200, progressbar=False)
    >>> fit["posterior"]["X"].shape
    (1, 1, 40, 2)
    >>> best = gplvm.fit_map(model, start=fit, progressbar=False)
    """
    check_rates(learning_rate, learning_rate_theta, momentum)
    density = compile_neighbourhood(model, backend=backend)
    N = len(density.factor)
    R = neighbors_of(n_neighbors, N)
    steps = ceil(_PASSES * N / R) if steps is None else steps
    for name, value, least in (("steps", steps, 1), ("monitor", monitor, 0)):
        count(name, value, least)
    rng = np.random.default_rng(random_seed)
    values = start_values(model, start, rng)
    walk = Walk(
        density,
        values[density.X],
        [values[name] for name in density.theta],
        n_neighbors=R,
        rates=(learning_rate * spread(values[density.X]), learning_rate_theta),
        momentum=momentum,
    )
    sample = density.sample(rng)
    with limit_threads(blas_threads):
        trace = _run(walk, density, sample, steps, monitor, rng, progressbar)
    settings = {
        "n_neighbors": R,
        "steps": steps,
        "learning_rate": learning_rate,
        "learning_rate_theta": learning_rate_theta,
        "momentum": momentum,
        "start": start if isinstance(start, str) else type(start).__name__,
        "random_seed": random_seed,
    }
    return walk_fit(model, density, walk, sample, "stochastic", settings, {"trace": trace})


def check_rates(learning_rate: float, learning_rate_theta: float, momentum: float) -> None:
    """Refuse step lengths and a momentum out of range."""
    if not 0.0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate!r}.")
    if not 0.0 <= learning_rate_theta < np.inf:
        raise ValueError(
            f"learning_rate_theta must be finite and not negative, got {learning_rate_theta!r}."
        )
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}.")


def spread(X: Array) -> float:
    """Give the standard deviation of positions, all dimensions together."""
    return float(np.sqrt(X.var(axis=0).mean()))


def neighbors_of(n_neighbors: int | None, n_rows: int) -> int:
    """Return R: the given one if it lies between 2 and N, or the default."""
    if n_neighbors is None:
        return min(_NEIGHBORS, n_rows)
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, int | np.integer):
        raise TypeError(f"n_neighbors must be a whole number, got {n_neighbors!r}.")
    if not 2 <= n_neighbors <= n_rows:
        raise ValueError(f"n_neighbors must lie between 2 and N = {n_rows}, got {n_neighbors}.")
    return int(n_neighbors)


def _run(
    walk: Walk,
    density: Neighbourhood,
    sample: Rows,
    steps: int,
    monitor: int,
    rng: np.random.Generator,
    show: bool,
) -> xr.Dataset:
    """Take all steps, and look at the whole now and then."""
    stops = {*np.linspace(0, steps, monitor + 1).round().astype(int).tolist(), steps}
    began, seen = time.perf_counter(), []

    def look() -> float:
        objective, _, held_out = density.judge(sample, walk.X[sample], walk.theta)
        seen.append((walk.taken, objective, held_out, time.perf_counter() - began))
        return objective

    with progress_bar("fit_stochastic", 1, "starts", show=show) as counter:
        shown = look()
        try:
            while walk.taken < steps:
                done = walk.taken / steps
                walk.step(rng, 1.0 - done, move_theta=done >= _UNFOLDING)
                if walk.taken in stops:
                    shown = look()
                counter.step(shown)
        except KeyboardInterrupt:
            shown = look()
        counter.finish(shown)
    taken, objective, held_out, seconds = (np.array(column) for column in zip(*seen, strict=True))
    _warn(steps, taken[-1], held_out[0], held_out[-1])
    columns = {"objective": objective, "held_out": held_out, "seconds": seconds}
    if len(sample) < len(walk.X):
        del columns["objective"]
    return xr.Dataset({name: ("step", c) for name, c in columns.items()}, coords={"step": taken})


def _warn(steps: int, taken: int, before: float, after: float) -> None:
    if not after >= before:
        problem = f"left rows less likely than it found them ({before:.4g} to {after:.4g} each)"
        remedy = "Lower learning_rate, raise n_neighbors or steps, or begin at another start"
    elif taken < steps:
        problem, remedy = "was interrupted", "Go on from here with start=fit"
    else:
        return
    warnings.warn(
        f"fit_stochastic {problem}, after {taken} of {steps} steps. {remedy}.",
        RuntimeWarning,
        stacklevel=4,
    )


def walk_fit(
    model: pm.Model,
    density: Neighbourhood,
    walk: Walk,
    sample: Rows,
    method: str,
    settings: Mapping[str, Any],
    groups: Mapping[str, xr.Dataset] | None = None,
) -> xr.DataTree:
    """Make a fit, one chain and one draw, of where a walk has come to.

    Parameters
    ----------
    sample : ndarray of int
        The rows that are judged: ``held_out`` in ``sample_stats`` and, where they are all, ``lp``
        and ``log_likelihood``.
    """
    values = {density.X: walk.X, **dict(zip(density.theta, walk.theta, strict=True))}
    draws = compile_constrain(model)(*(values[value.name] for value in model.value_vars))
    objective, likelihood, held_out = density.judge(sample, walk.X[sample], walk.theta)
    stats = {"held_out": held_out}
    if len(sample) == len(walk.X):
        stats |= {"lp": objective, "log_likelihood": likelihood}
    return as_fit(
        model,
        {name: np.asarray(value)[None, None] for name, value in draws.items()},
        method=method,
        sample_stats={name: np.array([[value]]) for name, value in stats.items()},
        settings=settings,
        groups=groups,
    )
