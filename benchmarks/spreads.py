"""How wide the posterior is by each approximation: sds of distances of rows and of θ, beside NUTS over X and θ."""

import time
import warnings
from collections.abc import Callable

import arviz as az
import numpy as np
import xarray as xr
from scipy.spatial.distance import pdist

from benchmarks.choice import TABLES
from benchmarks.posterior import OIL_100
from benchmarks.report import Report
from pm_gplvm.data.fit import Fit, stacked

CASES = {"oil 50": (50, 500, 500), "oil 100": (100, 700, 500)}  # rows, tune, draws
_DRAWS = 400  # by which sds are computed
_PAIRS = 60  # of rows, whose distances' R-hat and effective draws are told
_STEADY = 1.05
_HEADER = [
    *("fit", "CPU s", "sd of distances", "sd of ln lengthscale", "sd of ln sigma", "mean sigma"),
    *("worst R-hat", "fewest effective draws"),
]


def rows_of(N: int) -> np.ndarray | None:
    """The first rows of the table that others show, or of the whole one."""
    if OIL_100.exists():
        with np.load(OIL_100) as file:
            return file["Y"][:N]
    case = TABLES["oil"](N, 1)
    return None if case is None else case[0]


def nuts(model, start: xr.DataTree, *, tune: int, draws: int, chains: int = 4) -> xr.DataTree:
    """NUTS over X and θ by nutpie, each chain from beside the start, without any other move."""
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    from pm_gplvm.model.density import compile_constrain, compile_log_density
    from pm_gplvm.model.results import as_fit
    from pm_gplvm.model.starts import start_values

    density = compile_log_density(model, jacobian=True)
    at = density.pack(start_values(model, start, np.random.default_rng(0)))
    compiled = from_pyfunc(
        density.size,
        lambda: density.copy(),
        lambda *_: lambda vector, **_: {"vector": np.array(vector)},
        [np.dtype(np.float64)],
        [(density.size,)],
        ["vector"],
        make_initial_point_fn=lambda seed: (
            at + 0.05 * np.random.default_rng(seed).standard_normal(at.shape)
        ),
    )
    settings = {"tune": tune, "draws": draws, "chains": chains, "cores": 1, "seed": 1}
    trace = nutpie.sample(compiled, **settings, progress_bar=False, adaptation="low_rank")
    vectors = trace.posterior["vector"].to_numpy()
    constrain = compile_constrain(model)
    named = [
        constrain(*density.unpack(vector).values()) for vector in vectors.reshape(-1, density.size)
    ]
    found = {
        name: np.stack([each[name] for each in named]).reshape(
            chains, -1, *np.shape(named[0][name])
        )
        for name in named[0]
    }
    shape = vectors.shape[:2]
    stats = {"diverging": trace.sample_stats["diverging"].to_numpy().reshape(shape)}
    return as_fit(model, found, method="nuts", sample_stats=stats, settings={})


def widths(fit: xr.DataTree) -> list[float | None]:
    """Sds over draws, in proportion to the weights of an ensemble; distances are in lengthscales."""
    read = Fit(fit)
    some = read.evenly_spaced(_DRAWS)
    X, length = (stacked(read.draws(name))[some] for name in ("X", "lengthscale"))
    sigma = stacked(read.draws("sigma"))[some]
    alone = len(some) == 1
    distances = np.array([pdist(x / unit) for x, unit in zip(X, length, strict=True)])
    sds = [distances.std(axis=0).mean(), np.log(length).std(), np.log(sigma).std()]
    return [*(None if alone else float(sd.round(9)) for sd in sds), float(sigma.mean())]


def agreement(fit: xr.DataTree) -> list[float | None]:
    """Worst R-hat and fewest effective draws of the distances of some pairs; None of a single chain."""
    read = Fit(fit)
    if read.tree["posterior"].sizes["chain"] < 2:
        return [None, None]
    Z = read.draws("X").to_numpy() / read.draws("lengthscale").to_numpy()[..., None, None]
    pairs = np.random.default_rng(1).integers(Z.shape[2], size=(2, _PAIRS))
    apart = np.linalg.norm(Z[:, :, pairs[0]] - Z[:, :, pairs[1]], axis=-1)
    kept = xr.Dataset({"d": (("chain", "draw", "pair"), apart[..., pairs[0] != pairs[1]])})
    return [float(az.rhat(kept)["d"].max()), float(az.ess(kept)["d"].min())]


def run(report: Report, arguments) -> None:
    """Fit and tell, case by case."""
    for case in arguments.case or list(CASES):
        N, tune, draws = CASES[case]
        Y = rows_of(N)
        if Y is None:
            report.text(f"## {case}: no data here")
            continue
        report.text(f"## {case}: Q = 2, kernel rbf")
        _case(report, case, Y, tune, draws)
        report.write()


def _case(report: Report, case: str, Y: np.ndarray, tune: int, draws: int) -> None:
    import pm_gplvm as gplvm

    warnings.simplefilter("ignore", RuntimeWarning)
    quiet = {"progressbar": False, "random_seed": 1}
    model = gplvm.build_model(Y, 2, kernel="rbf")
    best = gplvm.fit_marginal(model, **quiet)
    ways: dict[str, Callable] = {
        "fit_map": lambda: gplvm.fit_map(model, **quiet),
        "fit_marginal": lambda: gplvm.fit_marginal(model, **quiet),
        "fit_laplace, from fit_marginal": lambda: gplvm.fit_laplace(
            model, start=best, draws=_DRAWS, **quiet
        ),
        "fit_variational": lambda: gplvm.fit_variational(model, draws=_DRAWS, **quiet),
        "NUTS, from fit_marginal": lambda: nuts(model, best, tune=tune, draws=draws),
        "sample, explore='local', from fit_marginal": lambda: gplvm.sample(
            model, explore="local", start=best, tune=tune, draws=draws, **quiet
        ),
        "sample, explore='ensemble'": lambda: gplvm.sample(
            model, explore="ensemble", tune=tune, draws=draws, **quiet
        ),
    }
    if len(Y) <= 60:
        ways["sample, explore='global'"] = lambda: gplvm.sample(
            model, explore="global", tune=tune, draws=draws, **quiet
        )
    rows = []
    for name, way in ways.items():
        started = time.process_time()
        fit = way()
        rows.append([name, time.process_time() - started, *widths(fit), *agreement(fit)])
        print(f"  {rows[-1]}", flush=True)
    report.table(_HEADER, rows)
    report.data[case] = [dict(zip(_HEADER, row, strict=True)) for row in rows]
