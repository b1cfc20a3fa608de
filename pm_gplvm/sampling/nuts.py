"""NUTS over the hyperparameters, the latent positions held."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, count
from pm_gplvm.core.interrupt import caught, interruptible, safe_point
from pm_gplvm.data.arrays import finite
from pm_gplvm.data.fit import Fit, to_json, warn_of
from pm_gplvm.data.progress import Bar, progress_bar
from pm_gplvm.model.compile import Backend
from pm_gplvm.model.density import LogDensity, compile_constrain, compile_log_density
from pm_gplvm.model.results import as_fit
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.starts import start_values
from pm_gplvm.sampling.record import r_hat_so_far

_POLL = 0.1  # seconds between two looks for Ctrl-C
_STATS = {
    "logp": "lp",
    "diverging": "diverging",
    "energy": "energy",
    "depth": "tree_depth",
    "maxdepth_reached": "reached_max_treedepth",
    "n_steps": "n_steps",
    "step_size": "step_size",
}


@checked
def sample_theta(
    model: pm.Model,
    X: Any,
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    cores: int = 1,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
    backend: Backend = "python",
    compile_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Sample the hyperparameters by NUTS (nutpie), the latent positions held at ``X``.

    The target is p(θ | X, Y): how well θ is known for *this* embedding. It has nothing of the
    uncertainty of X. Of a model with another likelihood than a Gaussian it is p(θ, f | X, Y), with the
    likelihood's parameters and ``level``.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with latent positions ``X``.
    X : DataTree or array_like, shape (N, Q)
        A fit of one draw, such as :func:`fit_marginal` returns, or positions. The chains begin at the
        θ of a fit, each perturbed at random.
    draws, tune, chains : int
        Kept draws and warm-up draws a chain.
    cores : int, default 1
        Chains that run at once. With the Python backend they share the interpreter: below a thousand
        rows they are faster one after the other.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : int or None, default 1
        Threads of the linear algebra in each chain.
    backend : {"python", "numba", "jax"}, default "python"
        What compiles the model. Numba takes minutes to compile, and saves some 0.2 ms an evaluation.
    compile_kwargs : mapping, optional
        Handed to ``pytensor.function``.

    Returns
    -------
    DataTree
        ``posterior``: θ, dims (chain, draw). ``sample_stats``: PyMC's names. ``constant_data``:
        ``X`` among the model's data. PyMC's own functions take such a fit with
        ``model.rebuild(fit, hold=True)``, in which X is held too.

    Warns
    -----
    RuntimeWarning
        If there are divergences, or the chains have not converged by R-hat or the effective sample
        size. If Ctrl-C ended it: the chains are returned, cut to one length so that most draws are kept (a
        chain that had drawn less is left out), ``attrs["draws"]`` is that length and
        ``attrs["interrupted"]`` 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, X has a wrong shape, or nothing is left to sample.
    KeyboardInterrupt
        At Ctrl-C before any chain has drawn, and at the second Ctrl-C.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> theta = gplvm.sample_theta(model, best, draws=500, progressbar=False, random_seed=1)
    >>> theta.posterior["sigma"].sizes["chain"]
    4
    """
    spec = ModelSpec.of(model, functions=True)
    for name, value in (("draws", draws), ("tune", tune), ("chains", chains), ("cores", cores)):
        count(name, value)
    held, theta = _positions(spec, X)
    fixed = {"X": held}
    if spec.prior.says.mapped:
        fixed["X_weights"] = spec.weights_of(held)
    conditioned = pm.do(model, fixed)
    if not conditioned.free_RVs:
        raise ValueError("model must have a free hyperparameter, got every one fixed by a number.")
    with interruptible(keeps=True):
        rng = np.random.default_rng(random_seed)
        start = start_values(conditioned, theta, rng)
        density = compile_log_density(
            conditioned,
            jacobian=True,
            backend=backend,
            compile_kwargs=compile_kwargs,
        )
        with limit_threads(blas_threads):
            vectors, stats = _run(
                density,
                density.pack(start),
                draws=int(draws),
                tune=int(tune),
                chains=int(chains),
                cores=int(cores),
                seed=int(rng.integers(2**31)),
                show=progressbar,
            )
        fit = as_fit(
            conditioned,
            _constrained(conditioned, density, vectors),
            method="nuts_theta",
            sample_stats=stats,
            settings={"draws": vectors.shape[1], "tune": int(tune), "random_seed": random_seed},
        )
        # Of the model that was given: in the conditioned one X has no prior.
        fit.attrs["priors"] = to_json(spec.priors)
    if fit.attrs["interrupted"]:
        _warn_of_interruption(fit, draws, chains)
    else:
        _warn(fit)
    return fit


def _positions(spec: ModelSpec, X: Any) -> tuple[Array, dict[str, Array]]:
    """Read off the positions to hold, and the values of θ that came with them."""
    if spec.is_X_held:
        raise ValueError("model must have a free variable 'X' to be held, got none.")
    shape = spec.X_shape
    theta: dict[str, Array] = {}
    if isinstance(X, xr.DataTree):
        read = Fit.of(X, "X", caller="sample_theta")
        positions = read.draws("X")
        if positions.sizes["chain"] * positions.sizes["draw"] != 1:
            raise ValueError(
                f"X must be a fit of one draw, got {positions.sizes['chain']} chains of "
                f"{positions.sizes['draw']} draws. Choose one: fit['posterior']['X'][0, -1]."
            )
        X = positions.to_numpy()[0, 0][spec.rows_in(read, "X")]
        known = [n for n in spec.free if n in read.posterior and n != "X"]
        theta = {n: read.draws(n).to_numpy()[0, 0] for n in known}
    return finite("X", spec.by_row("X", X), shape, "(N, Q)"), theta


def _run(
    density: LogDensity, start: Array, *, show: bool, **settings: Any
) -> tuple[Array, dict[str, NDArray[Any]]]:
    """Run nutpie on a Python function: each chain gets a copy, as threads must not share one.

    Returns the vectors (chain, draw, parameter) and what is known of each.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    given_up = Event()
    seen: list[list[Array]] = []  # of each chain, its warm-up included

    def make_logp() -> Callable[..., tuple[float, Array]]:
        own = density.copy()

        def logp(vector: Array) -> tuple[float, Array]:
            return (np.nan, np.full_like(vector, np.nan)) if given_up.is_set() else own(vector)

        return logp

    def make_expand(*_: Any) -> Callable[..., dict[str, Array]]:
        own: list[Array] = []
        seen.append(own)

        def expand(vector: Array, **_: Any) -> dict[str, Array]:
            own.append(np.array(vector, dtype=np.float64))
            return {"vector": own[-1]}

        return expand

    def initial(seed: int) -> Array:
        return start + np.random.default_rng(seed).uniform(-0.5, 0.5, start.shape)

    compiled = from_pyfunc(
        density.size,
        make_logp,
        make_expand,
        [np.dtype(np.float64)],
        [(density.size,)],
        ["vector"],
        make_initial_point_fn=initial,
    )
    # θ are few and correlated: a low-rank metric takes half the steps.
    # Its conversion for ArviZ would pad the chains of an interrupted run with NaN.
    running = nutpie.sample(
        compiled,
        save_warmup=False,
        adaptation="low_rank",
        blocking=False,
        return_raw_trace=True,
        progress_bar=False,
        **settings,
    )
    total = settings["chains"] * (settings["tune"] + settings["draws"])
    with progress_bar("sample_theta", total, "draws", show=show) as progress:
        look = partial(_look, progress, seen, settings["tune"])
        trace = _waited_for(running, given_up, look)
        progress.advance(sum(map(len, seen)) - progress.done)
    wanted = {"vector", "tuning", *_STATS}
    chains = [
        {n: _column(batch, n) for batch in pair for n in batch.column_names if n in wanted}
        for pair in zip(*trace.get_arrow_trace(), strict=True)
    ]
    for chain in chains:
        chain["vector"] = chain["vector"].reshape(-1, density.size)
    drawn = [{n: v[~chain["tuning"]] for n, v in chain.items()} for chain in chains]
    vectors = [chain["vector"] for chain in drawn]
    known = {ours: [chain[n] for chain in drawn] for n, ours in _STATS.items() if n in drawn[0]}
    return whole_chains(vectors, known)


def _column(batch: Any, name: str) -> NDArray[Any]:
    """Return a column of an Arrow table as an array, vectors one after the other."""
    import pyarrow  # nutpie's

    column = pyarrow.array(batch.column(name))
    return np.asarray((column.flatten() if hasattr(column, "flatten") else column).to_numpy(False))


def _look(progress: Bar, seen: list[list[Array]], tune: int) -> None:
    """Count the draws so far, and now and then see whether those after the warm-up agree."""
    safe_point()
    progress.advance(sum(map(len, seen)) - progress.done)
    if progress.is_due():
        kept = [own[tune:] for own in seen if len(own) > tune]
        progress.advance(0, r_hat=r_hat_so_far(kept))


def _waited_for(running: Any, given_up: Event, look: Callable[[], None]) -> Any:
    """Wait for a sampler of nutpie's, or for Ctrl-C: what it has drawn.

    It ends at whole draws, which may take long; ``given_up`` ends its trajectories where they are.
    """
    with ThreadPoolExecutor(1) as other:
        try:
            try:
                return _polled(running.wait, look)
            except KeyboardInterrupt:
                caught()
                # Not in this thread, which is to hear of the second Ctrl-C.
                return _polled(other.submit(running.abort).result, lambda: None)
        except KeyboardInterrupt:
            given_up.set()
            other.submit(running.cancel)  # its threads would go on
            raise


def _polled(wait: Callable[..., Any], between: Callable[[], None]) -> Any:
    """Wait a moment at a time."""
    while True:
        try:
            return wait(timeout=_POLL)
        except TimeoutError:
            between()


def whole_chains(
    vectors: list[Array], stats: Mapping[str, list[NDArray[Any]]]
) -> tuple[Array, dict[str, NDArray[Any]]]:
    """Cut chains, each (draw, parameter), to one length, so that most draws are kept.

    Chains that are shorter than that are left out.

    >>> whole_chains([np.ones((length, 1)) for length in (0, 3, 9, 8)], {})[0].shape
    (2, 8, 1)
    """
    lengths = np.array([len(chain) for chain in vectors])
    longest = np.sort(lengths)[::-1]
    draws = int(longest[np.argmax(longest * np.arange(1, len(longest) + 1))])
    if not draws:
        raise KeyboardInterrupt("sample_theta was interrupted before its first draw.")
    kept = np.flatnonzero(lengths >= draws).tolist()
    return (
        np.stack([vectors[c][:draws] for c in kept]),
        {name: np.stack([chains[c][:draws] for c in kept]) for name, chains in stats.items()},
    )


def _constrained(model: pm.Model, density: LogDensity, vectors: Array) -> dict[str, Array]:
    """Turn vectors (chain, draw, parameter) into named, untransformed variables."""
    constrain = compile_constrain(model)
    chains, draws = vectors.shape[:2]
    points = [constrain(*density.unpack(v).values()) for v in vectors.reshape(chains * draws, -1)]
    return {
        name: np.stack([point[name] for point in points]).reshape(
            chains, draws, *np.shape(points[0][name])
        )
        for name in points[0]
    }


def _warn_of_interruption(fit: xr.DataTree, draws: int, chains: int) -> None:
    kept = fit["posterior"].sizes
    warn_of(
        fit,
        f"sample_theta was interrupted: {kept['draw']} of {draws} draws of {kept['chain']} of {chains} "
        "chains are kept. Their convergence was not judged; for more draws, call it again with another "
        "random_seed.",
    )


def _warn(fit: xr.DataTree) -> None:
    """Warn of divergences, R-hat and the effective sample size."""
    import arviz_stats

    read = Fit(fit)
    posterior = read.posterior
    divergences = int(read.stats["diverging"].sum())
    chains = posterior.sizes["chain"]
    rhats = arviz_stats.rhat(posterior).data_vars.values() if chains > 1 else ()
    rhat = max((float(v.max()) for v in rhats), default=1.0)
    ess = min(float(v.min()) for v in arviz_stats.ess(posterior).data_vars.values())
    wanted = 100 * chains
    found = []
    if divergences:
        found.append(f"{divergences} divergences")
    if not rhat <= 1.01:
        found.append(f"largest R-hat {rhat:.3f} (wanted 1.01 or less)")
    if not ess >= wanted:
        found.append(f"smallest bulk ESS {ess:.0f} (wanted {wanted} or more)")
    if found:
        warn_of(
            fit,
            f"sample_theta has not converged: {', '.join(found)}. Raise tune and draws, or give θ "
            "priors that bound it.",
        )
