"""Effective draws of X and θ for each CPU second, beside NumPyro's NUTS on the same model.

    python -m benchmarks.posterior TABLE.npz DRAWS.npz OPTIONS

is one run of ours in a process of its own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist, pdist

from benchmarks.data import table
from benchmarks.environment import HERE, quiet
from benchmarks.installed import installed_peers
from benchmarks.report import Report
from benchmarks.subject import table_file

OIL_100 = HERE.parents[1] / "shared" / "data" / "oil_flow_100.npz"
N_PAIRS = 60
TABLES = range(1, 9)  # seeds
COSTS = (50, 100, 200, 300, 500)  # rows
# Name: rows, latent dimensions, options of `sample`, whether NumPyro is run beside it.
CASES = {
    "simulated": (50, 2, {"draws": 1000, "tune": 500, "thin": 4}, True),
    "oil 50": (50, 2, {"draws": 1000, "tune": 600, "thin": 2}, True),
    "digits 200": (200, 3, {"draws": 200, "tune": 200, "replicas": 1}, False),
    "oil 300": (300, 2, {"draws": 200, "tune": 200, "replicas": 1}, False),
    "oil 100": (100, 2, {"draws": 200, "tune": 200}, False),
}
NUMPYRO = {"warmup": 200, "draws": 200, "chains": 2, "hold": False}
NUMPYRO_THETA = {"warmup": 500, "draws": 1000, "chains": 4, "hold": True}


def simulated_rows(N: int, Q: int, D: int = 12, seed: int = 0) -> np.ndarray:
    """A table drawn from the model itself, the noise a tenth of the signal."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, Q))
    K = np.exp(-0.5 * cdist(X, X, "sqeuclidean")) + 0.01 * np.eye(N)
    return np.linalg.cholesky(K) @ rng.standard_normal((N, D))


def covered(draws: dict[str, np.ndarray], Q: int, seed: int) -> float:
    """Share of all pairs of simulated rows whose true distance lies in its 89 % interval."""
    Z = (draws["X"] / draws["lengthscale"][..., None, None])[:, ::4].reshape(
        -1, *draws["X"].shape[2:]
    )
    N = Z.shape[1]
    true = pdist(np.random.default_rng(seed).standard_normal((N, Q)))
    low, high = np.quantile([pdist(z) for z in Z], [0.055, 0.945], axis=0)
    return float(((low < true) & (true < high)).mean())


def rows_of(name: str, N: int, Q: int) -> np.ndarray:
    if name == "simulated":
        return simulated_rows(N, Q)
    if name.startswith("digits"):
        return table("digits", N, Q)[0]
    if N <= 100 and OIL_100.exists():
        with np.load(OIL_100) as file:
            return file["Y"][:N]
    return table("oil", N, Q)[0]


def _standard(Y: np.ndarray) -> np.ndarray:
    Y = Y - Y.mean(axis=0)
    return Y / np.sqrt((Y**2).mean())


def _principal(Y: np.ndarray, Q: int) -> np.ndarray:
    """The first principal components of the rows, each of mean square 1."""
    return np.linalg.svd(Y, full_matrices=False)[0][:, :Q] * np.sqrt(len(Y))


def invariants(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """θ, the log-likelihood and distances in lengthscales, (chain, draw) each."""
    found = {n: v for n, v in draws.items() if n != "X"}
    if "X" in draws:
        Z = draws["X"] / draws["lengthscale"][..., None, None]
        rng = np.random.default_rng(0)
        first = rng.integers(Z.shape[2], size=N_PAIRS)
        second = (first + rng.integers(1, Z.shape[2], size=N_PAIRS)) % Z.shape[2]
        distances = np.linalg.norm(Z[:, :, first] - Z[:, :, second], axis=-1)
        found |= {f"distance {k}": distances[..., k] for k in range(N_PAIRS)}
    return found


def judged(draws: dict[str, np.ndarray], seconds: float) -> dict:
    """Bulk ESS and R-hat of all invariants."""
    import arviz_stats
    import xarray as xr

    data = xr.Dataset({n: (("chain", "draw"), v) for n, v in invariants(draws).items()})
    ess = {n: float(v) for n, v in arviz_stats.ess(data).data_vars.items()}
    rhat = {n: float(v) for n, v in arviz_stats.rhat(data).data_vars.items()}
    smallest = min(ess.values())
    return {
        "smallest_ess": smallest,
        "median_ess": float(np.median(list(ess.values()))),
        "largest_rhat": max(rhat.values()),
        "ess": {n: v for n, v in ess.items() if not n.startswith("distance")},
        "rhat": {n: v for n, v in rhat.items() if not n.startswith("distance")},
        "ess_per_cpu_s": smallest / seconds,
        "cpu_s": seconds,
    }


def _run(python, script: list[str], file: Path, options: dict) -> tuple[dict, dict]:
    out = file.with_name("draws.npz")
    command = [str(python), *script, str(file), str(out), json.dumps(options)]
    done = subprocess.run(command, env=quiet(), cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    with np.load(out) as arrays:
        draws = {name: arrays[name] for name in arrays.files}
    return draws, json.loads(done.stdout.strip().splitlines()[-1])


def _main(file: str, out: str, options: dict) -> None:
    """One run of ours, chains begun in different optima, the search for them counted."""
    import warnings

    import pymc as pm

    import pm_gplvm as gplvm

    with np.load(file) as arrays:
        Y, X0 = arrays["Y"], arrays["X0"]
    warnings.simplefilter("ignore", RuntimeWarning)
    started = time.process_time()
    model = gplvm.build_model(Y, X0.shape[1], scale="none", resolution=0)
    if options.pop("uncentred", False):
        pm.set_data({"Y_mean": np.zeros(Y.shape[1])}, model)
    if options.pop("hold", False):
        fit = gplvm.sample_theta(
            model, X0, draws=1000, tune=500, chains=4, random_seed=0, progressbar=False
        )
    else:
        optima = [
            gplvm.fit_marginal(model, start=start, random_seed=i, progressbar=False)
            for i, start in enumerate(("pca", "random", "random", "random"))
        ]
        fit = gplvm.sample(model, start=optima, random_seed=0, progressbar=False, **options)
    seconds = time.process_time() - started
    draws = {n: v.to_numpy() for n, v in fit["posterior"].data_vars.items()}
    stats = fit["sample_stats"]
    if "log_likelihood" in stats:
        draws["log_likelihood"] = stats["log_likelihood"].to_numpy()
    np.savez(out, **draws)
    facts = {
        "cpu_s": seconds,
        "replicas": int(fit.attrs.get("replicas", 1)),
        "divergences": int(stats["diverging"].sum()),
        "steps_per_draw": float(stats["n_steps"].mean()),
    }
    if "moved" in stats:
        found = gplvm.diagnostics.posterior_modes(fit).table
        found["chains"] = [" ".join(map(str, chains)) for chains in found["chains"]]
        found["rows"] = [" ".join(map(str, some)) for some in found["rows"]]
        facts |= {"verdict": gplvm.diagnose(fit).sentences[0], "embeddings": found.to_dict("list")}
    print(json.dumps(facts))


HEADER = [
    "sampler",
    "R-hat at most",
    "ESS at least",
    "median ESS",
    "CPU s",
    "smallest ESS / CPU s",
    "replicas",
    "divergences",
]


def run(report: Report, arguments) -> None:
    if arguments.case is None or "costs" in arguments.case:
        _costs(report)
    if arguments.case is None or "coverage" in arguments.case:
        _coverage(report)
    peers = installed_peers(["numpyro"])
    for name, (N, Q, options, beside) in CASES.items():
        if arguments.case and name not in arguments.case:
            continue
        report.text(f"## {name}: N = {N}, Q = {Q}, `sample` with {options}")
        Y = _standard(rows_of(name, N, Q))
        with table_file(Y, _principal(Y, Q)) as file:
            _case(report, name, file, options, peers if beside else {})
        report.write()


def _coverage(report: Report) -> None:
    """How often true distances lie in their intervals, over several simulated tables."""
    options = {"draws": 400, "tune": 400, "thin": 2}
    report.text(
        f"## True distances in their 89 % intervals: N = 50, Q = 2, `sample` with {options}"
    )
    rows, shares = [], []
    exact = {"uncentred": True}  # a table less its means is not one that the model draws
    for seed in TABLES:
        Y = simulated_rows(50, 2, seed=seed)
        with table_file(Y, _principal(Y, 2)) as file:
            draws, facts = _run(
                sys.executable, ["-m", "benchmarks.posterior"], file, {**options, **exact}
            )
        result = judged(draws, facts["cpu_s"])
        shares.append(covered(draws, 2, seed))
        found = [result["largest_rhat"], result["smallest_ess"], facts["cpu_s"]]
        rows.append([seed, 100 * shares[-1], *found])
        print(f"  {rows[-1]}", flush=True)
    header = ["table", "covered %", "R-hat at most", "ESS at least", "CPU s"]
    report.table(header, rows)
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    report.text(f"Mean: {100 * np.mean(shares):.1f} %, its standard error {100 * error:.1f} %.")
    report.data["coverage"] = [dict(zip(header, row, strict=True)) for row in rows]
    report.write()


def _costs(report: Report) -> None:
    """CPU time of one iteration at four states against N, and of one row's move."""
    import pm_gplvm as gplvm
    from pm_gplvm.sampling.joint import chain_starts
    from pm_gplvm.sampling.replicas import Replicas, compile_posterior

    rows = []
    for N in COSTS:
        model = gplvm.build_model(_standard(rows_of("oil", N, 2)), 2, scale="none", resolution=0)
        rng = np.random.default_rng(0)
        model, starts = chain_starts(model, "pca", 4, rng)
        posterior = compile_posterior(model)
        states = np.array([posterior.ensemble.inward(values) for values in starts])
        sampler = Replicas(
            posterior, states[:, None], np.ones(1), np.full(1, 0.01), n_proposals=64, rng=rng
        )
        sampler.iterate(tuning=True)
        repeats = max(3, 2000 // N)
        started = time.process_time()
        for _ in range(repeats):
            sampler.iterate()
        whole = (time.process_time() - started) / repeats / 4
        row = _row_move_seconds(sampler, repeats)
        rows.append([N, sampler.n_rows, 1e3 * whole, 1e3 * row])
        report.data.setdefault("costs", []).append(
            {"N": N, "rows": sampler.n_rows, "iteration_s": whole, "row_s": row}
        )
    report.text("\n## Cost of one iteration of one state, without a ladder\n")
    report.table(["N", "rows offered other places", "iteration, CPU ms", "row, CPU ms"], rows)


def _row_move_seconds(sampler, repeats: int) -> float:
    """CPU seconds to offer one row of one state its candidates."""
    from pm_gplvm.core.row_moves import RowUpdates

    posterior, ensemble = sampler.posterior, sampler.posterior.ensemble
    tables, unit = posterior.placed(ensemble.draws(sampler.states), len(sampler.states))
    Z = ensemble.outward(sampler.states)[ensemble.X] / unit
    updates = RowUpdates(
        Z,
        tables,
        np.ones(len(Z)),
        lambda n, C: -0.5 * ((C * unit) ** 2).sum(axis=-1),
        posterior.proposal,
        sampler.rng,
    )
    rows = np.arange(min(len(posterior.F), 20))
    started = time.process_time()
    for _ in range(repeats):
        updates.sweep(rows, sampler.n_proposals)
    return (time.process_time() - started) / repeats / len(rows) / len(Z)


def _case(report: Report, name: str, file: Path, options: dict, peers: dict) -> None:
    rows: list = []
    runs = [("pm_gplvm sample", sys.executable, ["-m", "benchmarks.posterior"], options)]
    for python, _ in peers.values():
        script = ["-P", str(HERE / "peers" / "numpyro_nuts.py")]  # peers/numpyro.py is no numpyro
        runs.append(("NumPyro NUTS", python, script, NUMPYRO))
        if name == "simulated":
            runs.append(("NumPyro NUTS, θ alone", python, script, NUMPYRO_THETA))
            runs.insert(
                1,
                (
                    "pm_gplvm sample_theta",
                    sys.executable,
                    ["-m", "benchmarks.posterior"],
                    {"hold": True},
                ),
            )
    for sampler, python, script, given in runs:
        try:
            draws, facts = _run(python, script, file, given)
        except RuntimeError as problem:
            print(f"  {name}, {sampler}: skipped, {problem}", flush=True)
            continue
        result = judged(draws, facts["cpu_s"])
        report.data.setdefault("posterior", []).append(
            {"data": name, "sampler": sampler, "options": given, **facts, **result}
        )
        rows.append(
            [
                sampler,
                result["largest_rhat"],
                result["smallest_ess"],
                result["median_ess"],
                facts["cpu_s"],
                result["ess_per_cpu_s"],
                facts.get("replicas"),
                facts["divergences"],
            ]
        )
        print(f"  {rows[-1]}", flush=True)
    report.table(HEADER, rows)
    for entry in report.data.get("posterior", []):
        if entry["data"] == name and "embeddings" in entry:
            report.text(f"`diagnose`: {entry['verdict']} `embeddings`:")
            found = entry["embeddings"]
            report.table(list(found), [list(row) for row in zip(*found.values(), strict=True)])


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
