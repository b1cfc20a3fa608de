"""Simulation-based calibration of `sample`: ranks of the truth over simulated tables."""

import time

import numpy as np

from benchmarks.report import Report

ROWS, COLUMNS = 8, 4
TABLES = 12  # of which entries are held out


def _entries(report: Report) -> None:
    """Share of held-out entries of simulated tables in the 89 % intervals of `impute`."""
    import pm_gplvm as gplvm
    from benchmarks.posterior import simulated_rows

    rows = []
    for explore in ("global", "ensemble"):
        started, inside, width = time.process_time(), [], []
        for seed in range(TABLES):
            Y = simulated_rows(24, 2, 10, seed)
            held = np.random.default_rng(seed).random(Y.shape) < 0.1
            holes = np.where(held, np.nan, Y)
            model = gplvm.build_model(holes, 2, kernel="rbf", missing="mask", resolution=0)
            fit = gplvm.sample(
                model,
                explore=explore,
                draws=300,
                tune=300,
                random_seed=seed,
                progressbar=False,
                backend="numba",
            )
            filled = gplvm.impute(fit, num_samples=200)
            z = (Y - filled["mean"].to_numpy())[held] / filled["sd"].to_numpy()[held]
            inside += (np.abs(z) < 1.598).tolist()
            width += (2.0 * 1.598 * filled["sd"].to_numpy()[held] / Y.std()).tolist()
        share = float(np.mean(inside))
        error = float(np.sqrt(share * (1.0 - share) / len(inside)))
        seconds = time.process_time() - started
        rows.append([explore, len(inside), share, error, float(np.median(width)), seconds])
    report.text(f"## Held-out entries of {TABLES} tables, N = 24, D = 10, Q = 2, a tenth hidden")
    header = ["explore", "entries", "in the 89 % interval", "±", "median width / sd of Y", "CPU s"]
    report.table(header, rows)
    report.data["entries"] = [dict(zip(header, row, strict=True)) for row in rows]


def run(report: Report, arguments) -> None:
    import pymc as pm
    from matplotlib.figure import Figure

    import pm_gplvm as gplvm

    if arguments.case == ["entries"]:
        _entries(report)
        return
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 7, sharex=True, sharey="row")
    for row, Q in zip(axes, (1, 2), strict=True):
        priors = {
            "lengthscale": pm.LogNormal.dist(0.0, 0.5),
            "amplitude": pm.LogNormal.dist(0.0, 0.5),
            "sigma": pm.LogNormal.dist(-1.0, 0.5),
        }
        Y = np.random.default_rng(0).normal(size=(ROWS, COLUMNS))
        model = gplvm.build_model(Y, Q, scale="none", priors=priors)
        started = time.process_time()
        ranks = gplvm.diagnostics.sbc(
            model,
            n_replicates=arguments.replicates,
            draws=25,
            thin=8,
            tune=100,
            chains=4,
            random_seed=Q,
            progressbar=False,
        )
        seconds = time.process_time() - started
        table = gplvm.diagnostics.sbc_test(ranks)
        report.text(
            f"## Q = {Q}, N = {ROWS}, D = {COLUMNS}, {arguments.replicates} tables, "
            f"{ranks.attrs['draws']} draws each, {seconds:.0f} CPU s"
        )
        rows = [[str(name), *map(float, values)] for name, values in table.iterrows()]
        report.table(["quantity", "χ² p (10 bins)", "KS p", "truth in the 89 % interval"], rows)
        report.data.setdefault("calibration", []).append(
            {
                "Q": Q,
                "cpu_s": seconds,
                "p": table.to_dict(),
                "ranks": ranks.to_dict("list")["data_vars"],
            }
        )
        for axis, (name, values) in zip(row, ranks.data_vars.items(), strict=True):
            share = (values + 0.5) / (ranks.attrs["draws"] + 1)
            axis.hist(share, bins=10, range=(0, 1), color="0.7", edgecolor="0.3")
            expected = arguments.replicates / 10
            band = 2.0 * np.sqrt(expected * 0.9)
            axis.axhspan(expected - band, expected + band, color="C0", alpha=0.2)
            axis.set_title(f"{name}, Q = {Q}", fontsize="small")
    for axis in axes[-1]:
        axis.set_xlabel("rank / draws", fontsize="small")
    report.figure(figure)
