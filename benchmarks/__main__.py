"""Command line: `python -m benchmarks NAME [options]`."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.environment import enter_quiet
from benchmarks.installed import PEERS, REQUIREMENTS, set_up_peers

# Name: its module and the title of its tables.
BENCHMARKS = {
    "evaluate": ("evaluate", "One value and gradient, in units of dpotrf + dpotri"),
    "converge": ("converge", "From the common start to an objective"),
    "picture": ("picture", "The first picture: GPLVM() at all defaults beside t-SNE"),
    "alternatives": ("alternatives", "PCA, t-SNE, UMAP, an autoencoder and the GP-LVM"),
    "compile": ("compiling", "What the first call costs"),
    "memory": ("memory", "Peak memory"),
    "growth": ("growth", "Time of an evaluation against N"),
    "embedding": ("embedding", "Unseen rows: places, missing entries, time"),
    "posterior": ("posterior", "Effective draws of X and θ for each CPU second"),
    "ensembles": ("ensembles", "Several embeddings pooled beside one"),
    "spreads": ("spreads", "How wide the posterior is, by each approximation"),
    "evidence": ("evidence", "Log evidence of latent dimensions"),
    "calibration": ("calibration", "Ranks of simulated truths among the draws of sample"),
    "variational": ("variational", "The variational Bayesian GP-LVM"),
    "columns": ("columns", "A noise of each column: its cost, and the factor it finds"),
    "views": ("views", "Two tables of the same rows: what is shared, and one from the other"),
    "stochastic": ("stochastic", "Neighbourhood gradients beside the full one"),
    "ordinary": ("ordinary", "Ordinary tables at all defaults, beside PCA"),
    "minibatch": (
        "minibatch",
        "Fits by minibatches: bound against time, speed, counts, holes and gross errors",
    ),
    "holes": ("holes", "Missing entries with inducing inputs: cost, and what is found again"),
    "outcomes": ("outcomes", "Classes of rows held out, beside scikit-learn's models"),
    "forecast": ("forecasting", "Motion capture: what comes next, frames and markers lost"),
    "pseudotime": ("pseudotime", "Pseudotime of embryo cells, their stages told or hidden"),
    "dask": ("clusters", "The bound in chunks of rows, by the workers of Dask"),
    "batches": ("cluster_steps", "Minibatches of rows that stand with the workers of Dask"),
    "choice": ("choice", "The exact estimate, inducing inputs or neighbourhoods, beside PCA"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pm_gplvm, the limit of the machine and the peers that are installed; "
        "one thread, CPU time. `peers` sets the peers up, `all` runs everything else.",
    )
    parser.add_argument("name", choices=[*BENCHMARKS, "all", "peers"])
    parser.add_argument("-N", type=int, nargs="+", help="rows, instead of the benchmark's own")
    parser.add_argument(
        "--data",
        choices=["oil", "digits", "wide", "curved"],
        help="evaluate, choice: only this table",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=str.lower,
        metavar="LIBRARY",
        help="evaluate, converge: 'ours' or names of peers; peers: names of environments",
    )
    parser.add_argument("--rounds", type=int, default=10, help="turns of library and limit (10)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each in a turn (0.3)")
    parser.add_argument(
        "--cap", type=float, default=60.0, help="converge, choice: CPU seconds each (60)"
    )
    parser.add_argument(
        "--limit", type=float, default=120.0, help="ordinary: CPU seconds of a table (120)"
    )
    parser.add_argument(
        "--case",
        nargs="+",
        help="posterior, ensembles, spreads, ordinary: only these data, to files of their own; ordinary: or 'short'; "
        "embedding: spectra or inducing alone; forecast: cycle alone; pseudotime: sample alone; calibration: entries alone",
    )
    parser.add_argument(
        "--replicates", type=int, default=200, help="calibration: simulated tables (200)"
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        default=["python"],
        choices=["python", "numba", "jax"],
        help="compile: which backends (python)",
    )
    parser.add_argument("--output", type=Path, help="folder, instead of benchmarks/results")
    return parser


def main(words: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(words)
    setting_up = arguments.name == "peers"
    known = list(REQUIREMENTS) if setting_up else ["ours", *map(str.lower, PEERS)]
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"--only takes {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if setting_up:
        return 0 if set_up_peers(arguments.only) else 1
    enter_quiet(words)
    from benchmarks.report import Report

    for name in BENCHMARKS if arguments.name == "all" else [arguments.name]:
        module, title = BENCHMARKS[name]
        cases = "-".join(arguments.case or ()).replace(" ", "_")
        report = Report(f"{name}-{cases}" if cases else name, title, words, arguments.output)
        print(f"\n# {title}", flush=True)
        import_module(f"benchmarks.{module}").run(report, arguments)
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
