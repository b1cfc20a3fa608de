"""What follows from a fit, in numbers; run with a folder, the same from its files in a process apart."""

import sys
import warnings
from pathlib import Path

import numpy as np

import pm_gplvm as gplvm

EXACT = ("map", "theta", "full")
FITS = (*EXACT, "variational")


def after(name, fit, best, X_new, Y_new):
    """Names and arrays: predictions, places, comparisons, and further fits of the rebuilt model."""
    found = {}
    predicted = gplvm.predict(fit, X_new, noise=True)
    found |= {"mean": predicted["mean"], "sd": predicted["sd"]}
    if name in EXACT:
        seeds = {"draws": 200, "random_seed": 3}
        places = gplvm.embed(fit, Y_new, **seeds)
        found |= {"places": places["posterior"]["X"], "weights": places["modes"]["weight"]}
        found["filled"] = gplvm.impute(fit, Y_new, **seeds)["mean"]
        found["scores"] = gplvm.log_predictive(fit, Y_new, **seeds)["log_score"]
    if "X" in fit["posterior"]:
        found["aligned"] = gplvm.align(fit, to=best)["aligned"]["X"]
    table = gplvm.compare({"best": best, "this": fit}, labels="label", n_neighbors=3)
    found["compared"] = table.select_dtypes("number")

    model = gplvm.model.rebuild(fit)
    found["climbed"] = gplvm.fit_map(model, start=fit, progressbar=False)["posterior"]["X"]
    settings = {"draws": 5, "tune": 5, "chains": 2, "random_seed": 4, "progressbar": False}
    if name == "map":
        found["drawn"] = gplvm.sample(model, start=fit, replicas=1, **settings)["posterior"]["X"]
    if name == "theta":
        found["theta"] = gplvm.sample_theta(model, best, **settings)["posterior"]["lengthscale"]
    if name == "full":
        more = gplvm.resume(model, fit, draws=5, progressbar=False)
        found |= {"more": more["posterior"]["X"], "lp": more["sample_stats"]["lp"]}
    return {key: np.asarray(value) for key, value in found.items()}


def main(folder):
    warnings.simplefilter("ignore")
    with np.load(folder / "new.npz") as file:
        new = file["X_new"], file["Y_new"]
    fits = {name: gplvm.load(folder / f"{name}.nc") for name in FITS}
    found = {
        f"{name}/{key}": value
        for name, fit in fits.items()
        for key, value in after(name, fit, fits["map"], *new).items()
    }
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
