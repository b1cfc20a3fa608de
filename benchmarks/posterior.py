"""Effective draws of X and θ for each CPU second, beside NumPyro's NUTS on the same model.

    python -m benchmarks.posterior TABLE.npz DRAWS.npz OPTIONS

is one run of ours in a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.data import table
from benchmarks.environment import HERE, quiet
from benchmarks.installed import installed_peers
from benchmarks.report import Report

OIL_100 = HERE.parents[1] / "shared" / "data" / "oil_flow_100.npz"
N_PAIRS = 60
# Name: rows, latent dimensions, options of `sample`, whether NumPyro is run beside it.
CASES = {
    "simulated": (50, 2, {"draws": 1000, "tune": 500}, True),
    "oil 50": (50, 2, {"draws": 1000, "tune": 400, "thin": 2}, True),
    "oil 100": (100, 2, {"draws": 400, "tune": 300}, False),
    "oil 300": (300, 2, {"draws": 100, "tune": 150}, False),
    "digits 200": (200, 3, {"draws": 100, "tune": 150}, False),
}
NUMPYRO = {"warmup": 300, "draws": 300, "chains": 2, "hold": False}
NUMPYRO_THETA = {"warmup": 500, "draws": 1000, "chains": 4, "hold": True}


def simulated_rows(N: int, Q: int, D: int = 12) -> np.ndarray:
    """A table drawn from the model itself, the noise a tenth of the signal."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, Q))
    distance = ((X[:, None] - X) ** 2).sum(axis=-1)
    K = np.exp(-0.5 * distance) + 0.01 * np.eye(N)
    return np.linalg.cholesky(K) @ rng.standard_normal((N, D))


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

    import pm_gplvm as gplvm

    with np.load(file) as arrays:
        Y, X0 = arrays["Y"], arrays["X0"]
    warnings.simplefilter("ignore", RuntimeWarning)
    started = time.process_time()
    model = gplvm.build_model(Y, X0.shape[1], scale="none")
    if options.pop("hold", False):
        fit = gplvm.sample_theta(
            model, X0, draws=1000, tune=500, chains=4, random_seed=0, progressbar=False
        )
    else:
        optima = [
            gplvm.fit_map(model, start=start, random_seed=i, progressbar=False, mode_of="Z")
            for i, start in enumerate(("pca", "random", "random", "random"))
        ]
        fit = gplvm.sample(model, optima, random_seed=0, progressbar=False, **options)
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
    print(json.dumps(facts))


def run(report: Report, arguments) -> None:
    peers = installed_peers(["numpyro"])
    rows = []
    for name, (N, Q, options, beside) in CASES.items():
        if arguments.case and name not in arguments.case:
            continue
        Y = _standard(rows_of(name, N, Q))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "table.npz"
            U = np.linalg.svd(Y, full_matrices=False)[0]
            np.savez(file, Y=Y, X0=U[:, :Q] * np.sqrt(N))
            _case(report, rows, name, file, options, peers if beside else {})
    report.table(
        [
            "data",
            "sampler",
            "R-hat at most",
            "ESS at least",
            "median ESS",
            "CPU s",
            "smallest ESS / CPU s",
            "replicas",
            "divergences",
        ],
        rows,
    )


def _case(report: Report, rows: list, name: str, file: Path, options: dict, peers: dict) -> None:
    runs = [("pm_gplvm sample", sys.executable, ["-m", "benchmarks.posterior"], options)]
    for python, _ in peers.values():
        script = [str(HERE / "peers" / "numpyro_nuts.py")]
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
                name,
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


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
