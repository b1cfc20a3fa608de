"""A noise of each column: what an evaluation costs beside that of a shared noise, and what it finds."""

import time
import warnings
from functools import partial

import numpy as np
import pytensor
import pytensor.tensor as pt
from sklearn.decomposition import PCA, FactorAnalysis

import pm_gplvm as gplvm
from benchmarks.report import Report
from pm_gplvm.core.gaussian import gram_factor
from pm_gplvm.core.spectral import spectrum
from pm_gplvm.model.compile import resolve_mode
from pm_gplvm.model.ops import covariance, own_columns_logp, total_logp

ROWS = (200, 500, 1000)
COLUMNS = (10, 64, 500)
SIZES = {"smooth": 0.5, "rough": 3.0}  # root mean square of X, at lengthscale 1
NOISE = 0.3
SEEDS = range(6)
SPREADS = np.r_[np.full(7, 0.1), np.full(3, 2.0)]  # the true noise of the ten columns


def _compiled(logp, inputs):
    gradients = pt.grad(logp, inputs)
    function = pytensor.function(inputs, [logp, *gradients], **resolve_mode("python", None))
    function.trust_input = True
    return function


def evaluations(F: np.ndarray):
    """Value and gradient in X, amplitude and sigma: with a shared noise, and with one a column."""
    X, amplitude, sigma = pt.dmatrix("X"), pt.dscalar("amplitude"), pt.dscalar("sigma")
    K = covariance("rbf", X, amplitude=amplitude, sigma=sigma)
    factor = pytensor.shared(gram_factor(F))
    shared = _compiled(total_logp(factor, K, n_columns=F.shape[1]), [X, amplitude, sigma])
    a, s = pt.dvector("amplitude"), pt.dvector("sigma")
    table = pytensor.shared(np.asfortranarray(F))
    terms = own_columns_logp(table, covariance("rbf", X), None, amplitude=a, noise=s**2)
    return shared, _compiled(terms.sum(), [X, a, s])


def _median_ms(calls, seconds: float) -> list[float]:
    """CPU milliseconds of each call, all taken in turns."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - start < seconds:
        for call, known in zip(calls, times, strict=True):
            began = time.process_time()
            call()
            known.append(1e3 * (time.process_time() - began))
    return [float(np.median(known)) for known in times]


def costs(report: Report, rows, seconds: float) -> None:
    table = []
    for N in rows:
        for D in COLUMNS:
            rng = np.random.default_rng(0)
            F = rng.normal(size=(N, D))
            shared, column = evaluations(F)
            for name, size in SIZES.items():
                X = size * rng.normal(size=(N, 2))
                one, ones = np.array(1.0), np.ones(D)
                K = covariance("rbf", X).eval()
                rank = len(spectrum(K, NOISE**2)[0])
                calls = [
                    partial(shared, X, one, NOISE * one),
                    partial(column, X, ones, NOISE * ones),
                ]
                times = _median_ms(calls, seconds)
                table.append([N, D, name, rank, *times, times[1] / times[0]])
                case = dict(
                    zip(("N", "D", "X", "rank", "shared", "column"), table[-1], strict=False)
                )
                report.data.setdefault("costs", []).append(case)
    report.table(["N", "D", "X", "rank", "shared ms", "column ms", "ratio"], table)


def noisy_table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Seven columns of one factor with little noise and three with much; the factor."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2.0, 2.0, (120, 1))
    signal = np.tanh(t @ rng.normal(size=(1, 10)) * 1.2 + rng.normal(size=10))
    return signal + SPREADS * rng.normal(size=(120, 10)), t


def explained(X: np.ndarray, t: np.ndarray) -> float:
    """R² of the factor t by linear regression on X."""
    A = np.column_stack([X, np.ones(len(X))])
    rest = t - A @ np.linalg.lstsq(A, t, rcond=None)[0]
    return float(1.0 - (rest**2).sum() / ((t - t.mean(axis=0)) ** 2).sum())


def _score(X: np.ndarray, t: np.ndarray) -> str:
    cubic = explained(np.column_stack([X, X**2, X**3]), t)
    return f"{explained(X, t):.2f} / {cubic:.2f}"


def factors(report: Report, seeds=SEEDS) -> None:
    """R² of the true factor, linear / cubic, under fit_marginal at its defaults."""
    cases = {
        "shared, global": {"scale": "global"},
        "shared, feature": {"scale": "feature"},
        "column, feature": {"scale": "feature", "noise": "column"},
    }
    table, noises = [], []
    for seed in seeds:
        Y, t = noisy_table(seed)
        standard = (Y - Y.mean(axis=0)) / Y.std(axis=0)
        analysed = FactorAnalysis(1).fit_transform(standard)
        row = [seed]
        for name, options in cases.items():
            model = gplvm.build_model(Y, 1, kernel="rbf + linear", **options)
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
            X = best["posterior"]["X"].to_numpy()[0, 0]
            row.append(_score(X, t))
            case = {"seed": seed, "model": name, "score": row[-1]}
            case["seconds"] = time.process_time() - began
            if "noise" in options:
                floor = best["constant_data"]["Y_resolution"].to_numpy()
                sigma = np.hypot(best["posterior"]["sigma"].to_numpy()[0, 0], floor)
                spread = best["constant_data"]["Y_scale"].to_numpy()
                noises.append([seed, *(sigma * spread / SPREADS)])
                case["noise_over_truth"] = noises[-1][1:]
            report.data.setdefault("factors", []).append(case)
        row += [_score(analysed, t), _score(PCA(1).fit_transform(standard), t)]
        table.append(row)
    report.text(factors.__doc__)
    report.table(["seed", *cases, "factor analysis", "PCA"], table)
    report.text("Noise of each column over the truth, with one a column:")
    report.table(["seed", *(f"{spread:g}" for spread in SPREADS)], noises)


def run(report: Report, arguments) -> None:
    factors(report)
    costs(report, arguments.N or ROWS, arguments.seconds)
