"""Which latent dimension the log evidence prefers on tables whose own is known."""

import time

import numpy as np

from benchmarks.report import Report

ROWS, COLUMNS, TRUE = 20, 12, 2


def _table(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((ROWS, TRUE))
    distance = ((X[:, None] - X) ** 2).sum(axis=-1)
    K = np.exp(-0.5 * distance) + 0.01 * np.eye(ROWS)
    return np.linalg.cholesky(K) @ rng.standard_normal((ROWS, COLUMNS))


def run(report: Report, arguments) -> None:
    import pm_gplvm as gplvm

    report.text(f"## Simulated, N = {ROWS}, D = {COLUMNS}, Q = {TRUE}; ln p(Y) ± standard error")
    rows, right, started = [], 0, time.process_time()
    for seed in range(10):
        values = {}
        for Q in (1, 2, 3):
            model = gplvm.build_model(_table(seed), Q)
            fit = gplvm.sample(
                model,
                draws=150,
                tune=120,
                chains=2,
                replicas=14,
                beta_min=0.0,
                random_seed=seed,
                progressbar=False,
            )
            values[Q] = gplvm.diagnostics.log_evidence(fit)
        best = max(values, key=lambda Q: values[Q].value)
        right += best == TRUE
        rows.append([seed, *(f"{v.value:.1f} ± {v.error:.1f}" for v in values.values()), best])
        report.data.setdefault("evidence", []).append(
            {"seed": seed, **{f"Q{Q}": [v.value, v.error] for Q, v in values.items()}}
        )
        print(f"  {rows[-1]}", flush=True)
    report.table(["seed", "Q = 1", "Q = 2", "Q = 3", "preferred"], rows)
    report.text(
        f"Preferred the true one {right} times of 10; {time.process_time() - started:.0f} CPU s."
    )
