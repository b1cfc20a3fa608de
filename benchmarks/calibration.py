"""Simulation-based calibration of `sample`: ranks of the truth over simulated tables."""

import time

import numpy as np

from benchmarks.report import Report

ROWS, COLUMNS = 8, 4


def run(report: Report, arguments) -> None:
    import pymc as pm
    from matplotlib.figure import Figure

    import pm_gplvm as gplvm

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
