"""`fit`, `sample` and `demo`: from a table, or from a fit, to fits."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import pm_gplvm as gplvm
from pm_gplvm.commands.inputs import color_of, is_fit, priors, read_fit, read_table, task_of
from pm_gplvm.commands.outputs import Outputs, begin_of, listed, names_of_fits, positions_of
from pm_gplvm.commands.wording import spoken
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.fit import FEATURE, OBS, Fit
from pm_gplvm.data.table import labelled

_MOST_SCORED = 5000  # rows of which all pairs are compared
_DRAWS = {"theta": (500, 300), "full": (1000, 500)}
_EXACT = ("marginal", "map", "linear")  # give one position a row, at which θ can be sampled


def fit(options: argparse.Namespace, written: list[Path]) -> int:
    """Embed a table."""
    return _of_table(options, read_table(options.table, options), options.table, None, written)


def demo(options: argparse.Namespace, written: list[Path]) -> int:
    """Embed scikit-learn's digits and sample θ."""
    return _of_table(options, gplvm.data.load_digits(n=300), None, "theta", written)


def sample(options: argparse.Namespace, written: list[Path]) -> int:
    """Sample θ, or X and θ, from a fit or from a table, which is fitted first."""
    kind = "full" if options.full or options.resume else "theta"
    if is_fit(options.source) or options.source.endswith(".zarr"):
        return _of_fit(options, kind, written)
    if options.resume:
        raise ValueError(f"--resume needs a fit that sample --full wrote, got {options.source}.")
    table = read_table(options.source, options)
    return _of_table(options, table, options.source, kind, written)


# From a table


def _of_table(
    options: argparse.Namespace,
    table: xr.DataArray,
    source: str | None,
    sampling: str | None,
    written: list[Path],
) -> int:
    """Check all, fit, sample if asked to, print and draw."""
    color = color_of(table, _label_by_its_column(options))
    task = task_of(table, options, sampled=sampling is not None)
    inference, why = task.choice
    if inference != "svi":
        _ = task.model  # what it refuses is told before the work
    if sampling == "theta" and inference not in _EXACT:
        raise ValueError(
            f"θ is sampled at one position a row, which --fit {inference} does not give ({why}). Pass --fit marginal, "
            "or --full."
        )
    begin, outputs = _outputs(options, source, sampling, written)
    best = task.fit(
        n_inducing=options.n_inducing,
        n_restarts=options.restarts,
        max_iter=options.max_iter,
        epochs=options.epochs,
        batch_size=options.batch_size,
        cores=options.cores,
        random_seed=options.seed,
        progressbar=not options.quiet,
    )
    outputs.save("fit", best)
    name = str(table.name or Path(begin).name)
    parts = [
        f"{name}: {table.shape[0]} rows × {table.shape[1]} features, fitted by {inference} ({why})",
        *_reached(best, options.command, outputs.paths.get("fit", "FIT")),
        _scores(labelled(table), best),
    ]
    shown = best
    if sampling is not None:
        drawn = _sampled(options, task.model, best, sampling, outputs)
        outputs.save("theta" if sampling == "theta" else "sample", drawn)
        parts.append(_of_draws(drawn, sampling, best))
        shown = drawn if sampling == "theta" else gplvm.align(drawn)
    return _shown(options, outputs, shown, parts, color, name, written)


def _label_by_its_column(options: argparse.Namespace) -> str | None:
    """Return what colours say: the column that became the label, or the time, by the name it has there."""
    color: str | None = options.color
    for name in ("label", "time"):
        if color is not None and color == vars(options).get(name):
            return name
    return color


def _outputs(
    options: argparse.Namespace, source: str | None, sampling: str | None, written: list[Path]
) -> tuple[str, Outputs]:
    """Name all files and check that they can be written."""
    if options.out == "-":
        return begin_of(source), Outputs({}, written, overwrite=False)
    roles = ["fit"] * (not is_fit(source))
    if sampling is not None:
        roles.append("theta" if sampling == "theta" else "sample")
    begin, paths = names_of_fits(
        options.out, begin_of(source), options.to, roles, source if is_fit(source) else None
    )
    overwrite = options.overwrite
    if vars(options).get("resume") and options.out is None:  # the run goes on in its own files
        paths["sample"], overwrite = Path(options.source), True
    if is_fit(source):  # whose own picture and positions stay
        begin = f"{begin}_{roles[-1]}"
    if not (is_fit(source) and sampling == "theta"):
        paths["positions"] = Path(f"{begin}_positions.csv")
    if options.format != "none":
        paths["picture"] = Path(f"{begin}.{options.format}")
    return begin, Outputs(paths, written, overwrite=overwrite)


def _shown(
    options: argparse.Namespace,
    outputs: Outputs,
    fit: xr.DataTree,
    parts: list[str],
    color: Any,
    name: str,
    written: list[Path],
) -> int:
    """Print what was found, write the positions and draw them."""
    if options.out == "-":
        print(positions_of(fit).to_csv(lineterminator="\n"), end="")
        return 0
    print("\n\n".join(part for part in parts if part))
    if "positions" in outputs:
        outputs.table("positions", positions_of(fit))
    if "picture" in outputs:
        figure, ax = plt.subplots(figsize=(7.0, 5.2), layout="constrained")
        gplvm.plot.latent(fit, color=color, ax=ax)
        ax.set_title(_title(fit, name), fontsize="medium")
        outputs.draw("picture", figure)
        plt.close(figure)
    print("\n" + listed(written))
    return 0


def _title(fit: xr.DataTree, name: str) -> str:
    if Fit(fit).method == "nuts_theta":
        return f"{name}: X given θ, uncertainty mixed over θ"
    return name


# From a fit


def _of_fit(options: argparse.Namespace, kind: str, written: list[Path]) -> int:
    """Sample from a fit, or go on with draws of X and θ."""
    best = read_fit(options.source)
    read = Fit.of(best, "X", caller="sample")
    table = read.Y.transpose(OBS, FEATURE)
    color = color_of(table, options.color)
    model = gplvm.model.rebuild(best, priors=priors(table, options))
    _, outputs = _outputs(options, options.source, kind, written)
    if options.resume:
        draws, quiet = options.draws or _DRAWS[kind][0], options.quiet
        drawn = gplvm.resume(model, best, draws=draws, progressbar=not quiet)
    else:
        drawn = _sampled(options, model, best, kind, outputs)
    outputs.save("theta" if kind == "theta" else "sample", drawn)
    shown = drawn if kind == "theta" else gplvm.align(drawn)
    parts = [_of_draws(drawn, kind, best)]
    return _shown(options, outputs, shown, parts, color, begin_of(options.source), written)


def _sampled(
    options: argparse.Namespace, model: Any, best: xr.DataTree, kind: str, outputs: Outputs
) -> xr.DataTree:
    draws, tune = _DRAWS[kind]
    settings: dict[str, Any] = {
        "draws": options.draws or draws,
        "tune": tune if options.tune is None else options.tune,
        "chains": options.chains,
        "cores": options.cores,
        "random_seed": options.seed,
        "progressbar": not options.quiet,
    }
    if kind == "full":
        settings |= {name: getattr(options, name) for name in ("explore", "thin", "replicas")}
    settings = {name: value for name, value in settings.items() if value is not None}
    if kind == "theta":
        return gplvm.sample_theta(model, best, **settings)
    if options.explore == "local":  # the others look for embeddings of their own
        settings["start"] = best
    path = outputs.paths.get("sample")
    store = None if path is None or path.exists() else path  # written every minute
    return gplvm.sample(model, store=store, **settings)


# What is printed


def _reached(best: xr.DataTree, command: str, path: Path | str) -> list[str]:
    """Tell what a fit says of its starts and of itself."""
    parts = []
    columns = ["objective", "size", "spread", "evaluations", "converged", "seconds"]
    if "optima" in best.children:
        optima = best["optima"].to_dataset().to_dataframe()
        shown = optima[[column for column in columns if column in optima]]
        parts.append(
            "Starts, and what was reached from each (best first):\n"
            + shown.to_string(float_format="{:.2f}".format)
        )
    return [*parts, spoken(str(gplvm.summary(best)), command, path)]


def _scores(table: xr.DataArray, best: xr.DataTree) -> str:
    """Compare the embedding with PCA's, where the table is of numbers with noise, complete and not too large."""
    with interruptible():
        from sklearn.decomposition import PCA

    read = Fit(best)
    if read.has_likelihood and read.setting("likelihood")["name"] not in ("gaussian", "student_t"):
        return ""
    standard = read.table().F
    if np.isnan(standard).any() or len(standard) > _MOST_SCORED:
        return ""
    labels = table["label"].to_numpy() if "label" in table.coords else None
    if labels is not None and labels.dtype.kind != "U":  # a scale
        labels = None
    embeddings = {
        "PCA": PCA(min(read.latent_dim, *standard.shape)).fit_transform(standard),
        "GP-LVM": read.draws("X").mean(("chain", "draw")).to_numpy(),
    }
    rows = {
        name: gplvm.diagnostics.score_embedding(X, standard, labels)
        for name, X in embeddings.items()
    }
    scores = pd.DataFrame.from_dict(rows, orient="index")
    return "Embedding:\n" + scores.to_string(float_format="{:.3f}".format)


def _of_draws(drawn: xr.DataTree, kind: str, best: xr.DataTree) -> str:
    if kind == "theta":
        table = gplvm.diagnostics.summarise_theta(best, drawn)
        return "Hyperparameters, of the fit and by NUTS with X held:\n" + table.to_string(
            float_format="{:.4g}".format
        )
    return f"Draws of X and θ:\n{gplvm.diagnose(drawn)}"
