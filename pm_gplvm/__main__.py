"""Command line: embed a table, sample θ, and write two fits, a table of scores and a plot."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.core.checks import OPTIONS, check_target
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.fit import Fit


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pm_gplvm",
        description="Embed a table with a Gaussian process latent variable model: θ with X integrated out, X "
        "given θ, NUTS over θ, a table of scores, two files and a picture.",
    )
    add = parser.add_argument
    add(
        "table",
        nargs="?",
        help="a .csv, .tsv, .txt, .parquet, .h5ad or .nc file; default: 300 of scikit-learn's digits",
    )
    add("--label", help="column (or coordinate) that names each row's class")
    add("--index", help="column that names the rows (default: the first if it holds names)")
    add("--sep", help="separator of a file of text (default: found)")
    add("--decimal", choices=(".", ","), help="decimal mark of a file of text (default: found)")
    add("--header", choices=("yes", "no"), help="whether the first line names the columns")
    add("--latent-dim", type=int, default=2, metavar="Q", help="latent dimensions (default 2)")
    add(
        "--kernel",
        default="rbf + linear",
        help="such as rbf, matern52, linear or rbf + linear (default), '+ bias' if wanted",
    )
    add(
        "--scale",
        choices=("global", "feature", "none"),
        default="global",
        help="what columns are divided by: one number, each its own spread, or nothing (default global)",
    )
    add("--restarts", type=int, default=0, metavar="R", help="further starts (default 0)")
    add("--draws", type=int, default=500, help="NUTS draws a chain (default 500)")
    add("--tune", type=int, default=300, help="NUTS warm-up draws a chain (default 300)")
    add("--chains", type=int, default=4, help="NUTS chains (default 4)")
    add("--seed", type=int, default=1, help="random seed (default 1)")
    add("--out", metavar="NAME", help="files are NAME_fit.nc, NAME_theta.nc, NAME.png")
    add("--overwrite", action="store_true", help="replace these files without asking")
    add("--quiet", action="store_true", help="no progress")
    return parser.parse_args(argv)


def _outputs(name: str, *, overwrite: bool) -> dict[str, Path] | None:
    """Check all files before any work; None if the user declines to replace them."""
    endings = {"fit": "_fit.nc", "theta": "_theta.nc", "picture": ".png"}
    paths = {key: Path(name + ending) for key, ending in endings.items()}
    found = [str(path) for path in paths.values() if path.exists()]
    existing = f"{', '.join(found)} exist{'s' if len(found) == 1 else ''}"
    if found and not overwrite:
        if not sys.stdin.isatty():
            raise FileExistsError(f"{existing}. Pass --overwrite or choose another --out.")
        if input(f"{existing}. Replace? [y/N] ").strip().lower() != "y":
            return None
    for path in paths.values():
        check_target(path, overwrite=True)
    return paths


def _scores(table: xr.DataArray, best: xr.DataTree, latent_dim: int) -> pd.DataFrame:
    with interruptible():
        from sklearn.decomposition import PCA

    labels = table.coords["label"].to_numpy() if "label" in table.coords else None
    read = Fit(best)
    standard = read.table().F
    embeddings = {
        "PCA": PCA(latent_dim).fit_transform(standard),
        "GP-LVM": read.draws("X").to_numpy()[0, 0],
    }
    rows = {
        name: gplvm.diagnostics.score_embedding(X, standard, labels)
        for name, X in embeddings.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _report(table: xr.DataArray, best: xr.DataTree, theta: xr.DataTree, scores: Any) -> str:
    optima = best["optima"].to_dataset().to_dataframe()
    columns = ["objective", "size", "spread", "evaluations", "converged", "seconds"]
    parts = [
        f"{table.name or 'table'}: {table.shape[0]} rows × {table.shape[1]} features",
        "Starts, and what fit_marginal reached from each (best first):\n"
        + optima[columns].to_string(float_format="{:.2f}".format),
        "Embedding:\n" + scores.to_string(float_format="{:.3f}".format),
        "Hyperparameters, with X integrated out and by NUTS with X held:\n"
        + gplvm.diagnostics.summarise_theta(best, theta).to_string(float_format="{:.4g}".format),
    ]
    return "\n\n".join(parts)


def run(argv: Sequence[str] | None = None) -> int:
    """Return 0 when all is written, 1 when the user declined to replace a file, 130 after Ctrl-C."""
    options = _arguments(argv)
    for name, option in (
        ("draws", "draws"),
        ("tune", "tune"),
        ("chains", "chains"),
        ("n_restarts", "restarts"),
        ("random_seed", "seed"),
    ):
        OPTIONS[name](f"--{option}", getattr(options, option))
    if options.table is None:
        table = gplvm.data.load_digits(n=300)
    else:
        table = gplvm.data.load_table(
            options.table,
            label=options.label,
            index=options.index,
            sep=options.sep,
            decimal=options.decimal,
            header=None if options.header is None else options.header == "yes",
        )
    name = options.out or (Path(options.table).stem if options.table else "digits")
    paths = _outputs(name, overwrite=options.overwrite)
    if paths is None:
        print("Nothing was changed.")
        return 1
    written: list[Path] = []
    try:
        _work(options, table, name, paths, written)
    except KeyboardInterrupt:
        print("Interrupted. " + _listed(written), file=sys.stderr)
        return 130
    print("\n" + _listed(written))
    return 0


def _listed(written: Sequence[Path]) -> str:
    return "Written: " + (", ".join(map(str, written)) or "nothing")


def _save(fit: xr.DataTree, path: Path, written: list[Path]) -> None:
    """Write a fit; KeyboardInterrupt if it is one that was interrupted."""
    with interruptible():
        gplvm.save(fit, path, overwrite=True)
        written.append(path)
    if fit.attrs["interrupted"]:
        raise KeyboardInterrupt


def _work(
    options: argparse.Namespace,
    table: xr.DataArray,
    name: str,
    paths: Mapping[str, Path],
    written: list[Path],
) -> None:
    """Fit, sample, print and draw, and note each file when it is there."""
    progress = not options.quiet
    model = gplvm.build_model(table, options.latent_dim, kernel=options.kernel, scale=options.scale)
    best = gplvm.fit_marginal(
        model, n_restarts=options.restarts, random_seed=options.seed, progressbar=progress
    )
    _save(best, paths["fit"], written)
    theta = gplvm.sample_theta(
        model,
        best,
        draws=options.draws,
        tune=options.tune,
        chains=options.chains,
        random_seed=options.seed,
        progressbar=progress,
    )
    _save(theta, paths["theta"], written)
    print(_report(table, best, theta, _scores(table, best, options.latent_dim)))
    figure, ax = plt.subplots(figsize=(7.0, 5.2), layout="constrained")
    gplvm.plot.latent(theta, color="label" if "label" in table.coords else None, ax=ax)
    ax.set_title(f"{table.name or name}: X given θ, uncertainty mixed over θ", fontsize="medium")
    with interruptible():
        figure.savefig(paths["picture"], dpi=150)
        written.append(paths["picture"])


def main() -> None:
    """Run, and print errors and warnings as one sentence each."""
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    try:
        code = run()
    except (OSError, TypeError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
