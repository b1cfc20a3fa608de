"""Fits by minibatches: bound against time, speed, counts beside the Gaussian of their logarithms, holes, robust noise."""

import time
import warnings

import numpy as np
from scipy.special import gammaln
from scipy.stats import norm

from benchmarks.data import OIL, has_oil
from benchmarks.report import Report

_QUIET = {"random_seed": 1, "progressbar": False}
_HALF = norm.ppf(0.945)  # of an 89 % interval, in standard deviations


def smooth(N: int, D: int, seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a GP by 300 random features, lengthscale 2, of positions N(0, I) in two dimensions."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, 2))
    W, phase = rng.standard_normal((2, 300)) / 2.0, rng.uniform(0.0, 2.0 * np.pi, 300)
    A = rng.standard_normal((300, D)) * np.sqrt(2.0 / 300)
    Y = np.empty((N, D))
    for i in range(0, N, 10_000):
        some = slice(i, i + 10_000)
        Y[some] = np.cos(X[some] @ W + phase) @ A
        Y[some] += noise * rng.standard_normal(Y[some].shape)
    return Y, X


def cells(N: int = 2000, D: int = 200, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Counts of a trunk and two branches: negative binomial, r = 2, with sizes; X, branch and mean."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.0, 1.0, N)
    branch = np.where(t < 0.4, 0, 1 + (rng.random(N) < 0.5))
    after = np.maximum(t - 0.4, 0.0)
    side = np.where(branch > 0, 0.7 * after, 0.0) * np.where(branch == 1, 1, -1)
    X = np.column_stack([np.minimum(t, 0.4) + 0.7 * after, side])
    X = X + 0.02 * rng.standard_normal(X.shape)
    X = (X - X.mean(axis=0)) / X.std()
    W, phase = rng.standard_normal((2, 300)) / 1.2, rng.uniform(0.0, 2.0 * np.pi, 300)
    A = rng.standard_normal((300, D)) * np.sqrt(2.0 / 300)
    f = np.cos(X @ W + phase) @ A - 2.1 + 0.8 * rng.standard_normal(D)
    size = np.exp(0.5 * rng.standard_normal(N))
    mean = size[:, None] * np.exp(f)
    Y = rng.poisson(rng.gamma(2.0, 0.5, mean.shape) * mean).astype(float)
    return Y, X, size, mean


def _timed(*args, **settings):
    import pm_gplvm as gplvm

    before = time.process_time()
    fit = gplvm.fit_svi(*args, **_QUIET | settings)
    return fit, time.process_time() - before


def _tables() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits().data
    found = {"digits 1797": digits[:, digits.std(axis=0) > 0.0]}
    if has_oil():
        with np.load(OIL) as file:
            found["oil 1000"] = file["Y_train"].astype(float)
    tables = {name: (Y - Y.mean(axis=0)) / Y.std(axis=0) for name, Y in found.items()}
    if has_oil():
        oil = found["oil 1000"]
        tables["oil 1000, one scale"] = (oil - oil.mean(axis=0)) / oil.std()
    return tables


def _climbs() -> list[list]:
    rows = []
    for name, Y in _tables().items():
        fit, cpu = _timed(Y, 5, scale="none")
        marks, bound = fit["trace"]["seconds"].to_numpy(), fit["trace"]["bound"].to_numpy()
        at = [float(np.interp(s, marks, bound)) for s in (3.0, 6.0, 12.0)]
        rows.append([name, *at, float(fit["sample_stats"]["bound"][0, 0]) / len(Y), cpu])
    return rows


def _speed() -> list[list]:
    import resource

    rows = []
    for N in (20_000, 100_000):
        Y, X = smooth(N, 12)
        fit, cpu = _timed(Y, 2)
        A = np.column_stack([fit["approximation"]["X_mean"], np.ones(N)])
        rest = X - A @ np.linalg.lstsq(A, X, rcond=None)[0]
        steps, seconds = (float(fit["trace"][n][-1]) for n in ("step", "seconds"))
        visits = steps * fit.attrs["batch_size"] if "step" in fit["trace"] else np.nan
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(
            [N, visits / seconds, float(fit.attrs["epochs"]), float(fit["trace"]["bound"][-1]), cpu,
             1.0 - (rest**2).sum() / ((X - X.mean(axis=0)) ** 2).sum(), peak]
        )  # fmt: skip
    return rows


def _counts() -> list[list]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import trustworthiness

    import pm_gplvm as gplvm

    Y, X, size, mean = cells()
    hidden = np.random.default_rng(5).random(Y.shape) < 0.1
    seen = np.where(hidden, np.nan, Y)

    def near(found) -> float:
        return float(trustworthiness(X, found, n_neighbors=15))

    p = 2.0 / (2.0 + mean)
    truth = gammaln(Y + 2.0) - gammaln(2.0) - gammaln(Y + 1.0) + 2.0 * np.log(p)
    truth += Y * np.log1p(-p)
    logs = np.log1p(Y / size[:, None])
    rows = [
        ["the truth", None, float(truth[hidden].mean()), None, None],
        ["PCA of log1p", None, None, near(PCA(2).fit_transform(logs)), None],
    ]
    settings = {"n_inducing": 25, "epochs": 20}
    fit, cpu = _timed(np.where(hidden, np.nan, logs), 2, **settings)
    found = gplvm.reconstruct(fit, noise=True)
    at = norm(found["mean"].to_numpy(), found["sd"].to_numpy())
    edges = [np.log1p(np.maximum(Y + h, 0.0) / size[:, None]) for h in (-0.5, 0.5)]
    low = np.where(Y == 0.0, 0.0, at.cdf(edges[0]))
    of_logs = np.log(np.maximum(at.cdf(edges[1]) - low, 1e-12))[hidden].mean()

    def placed(fit) -> float:
        unit = fit["posterior"]["lengthscale"].to_numpy()[0, 0]
        return near(fit["approximation"]["X_mean"].to_numpy() / unit)

    rows.append(["gaussian of log1p", cpu, float(of_logs), placed(fit), _rate(fit)])
    for name in ("poisson", "negative_binomial"):
        fit, cpu = _timed(seen, 2, likelihood=name, offset=np.log(size), **settings)
        scores = gplvm.diagnostics.score_entries(fit, Y)
        score = float(scores["log_density"].to_numpy()[hidden].mean())
        rows.append([name, cpu, score, placed(fit), _rate(fit)])
    return rows


def _rate(fit) -> float:
    """Rows a second, two steps of each row a visit."""
    steps, seconds = fit["trace"]["step"].to_numpy(), fit["trace"]["seconds"].to_numpy()
    return float((steps[-1] - steps[0]) * fit.attrs["batch_size"] / (seconds[-1] - seconds[0]))


def sensors(N: int = 400, D: int = 12, seed: int = 0) -> np.ndarray:
    """Readings of three states of a plant in time, each sensor with a unit and a noise of its own."""
    rng = np.random.default_rng(seed)
    day = np.arange(N) / 48.0
    daily = np.sin(2.0 * np.pi * day) + 0.3 * np.sin(6.0 * np.pi * day)
    drift = np.cumsum(rng.standard_normal(N))
    slow = np.convolve(rng.standard_normal(N + 23), np.ones(24), "valid")
    state = np.column_stack([daily, drift, slow])
    state = (state - state.mean(axis=0)) / state.std(axis=0)
    clean = np.tanh(state @ rng.normal(0.0, 0.8, (3, D))) + 0.3 * state @ rng.standard_normal(
        (3, D)
    )
    noise = rng.choice([0.05, 0.1, 0.2, 0.6], D)
    return 10.0 ** rng.standard_normal(D) * (clean + noise * rng.standard_normal(clean.shape))


def _holes() -> list[list]:
    from sklearn.datasets import load_breast_cancer, load_digits, load_wine

    import pm_gplvm as gplvm
    from benchmarks.ordinary_tables import CASES

    tables = {
        "digits": (load_digits().data, 0.3, 5, "rbf", "global"),
        "sensors, simulated": (sensors(), 0.2, 3, "rbf + linear", "feature"),
        "wine": (load_wine().data, 0.2, 3, "rbf + linear", "feature"),
        "breast cancer": (load_breast_cancer().data, 0.2, 10, "rbf + linear", "feature"),
    }
    if (guo := CASES["guo"].make()) is not None:
        tables["qPCR of cells"] = np.vstack([guo.Y, guo.new]), 0.2, 6, "rbf + linear", "feature"
    if has_oil():
        with np.load(OIL) as file:
            tables["oil flow"] = (
                file["Y_train"][:200].astype(float),
                0.5,
                5,
                "rbf + linear",
                "feature",
            )
    rows = []
    for name, (Y, share, Q, kernel, scale) in tables.items():
        Y = Y[:, Y.std(axis=0) > 0.0]
        hidden = np.random.default_rng(0).random(Y.shape) < share
        table, shape = np.where(hidden, np.nan, Y), f"{Y.shape[0]} × {Y.shape[1]}"
        unit = np.nanstd(table, axis=0)
        if scale == "global":
            unit = np.full(Y.shape[1], np.sqrt(np.nanmean((table - np.nanmean(table, 0)) ** 2)))
        for noise in ("shared", "column"):
            gaussian = gplvm.likelihoods.gaussian(noise)
            fit, cpu = _timed(table, Q, likelihood=gaussian, kernel=kernel, scale=scale)
            filled = gplvm.reconstruct(fit, noise=True)
            error = ((filled["mean"].to_numpy() - Y) / unit)[hidden]
            inside = np.abs(error) < _HALF * (filled["sd"].to_numpy() / unit)[hidden]
            rmse, held = np.sqrt((error**2).mean()), 100.0 * inside.mean()
            rows.append([name, shape, share, Q, f"fit_svi, noise {noise}", cpu, rmse, held])
        if scale == "feature":
            found = _imputed(table, Y, hidden, unit)
            rows.append([name, shape, share, None, "IterativeImputer", *found, None])
    return rows


def _imputed(table, Y, hidden, scale) -> tuple[float, float]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    before = time.process_time()
    filled = IterativeImputer(random_state=0).fit_transform(table / scale)
    error = (filled - Y / scale)[hidden]
    return time.process_time() - before, float(np.sqrt((error**2).mean()))


def _robust() -> list[list]:
    import pm_gplvm as gplvm

    Y, _ = smooth(500, 30, noise=0.0)
    rng, rows = np.random.default_rng(1), []
    clean = Y + 0.2 * rng.standard_normal(Y.shape)
    gross = rng.random(Y.shape) < 0.05
    wrong = np.where(gross, clean + 5.0 * rng.standard_normal(Y.shape), clean)
    cases = {
        "clean, gaussian": (clean, "gaussian"),
        "errors hidden, gaussian": (np.where(gross, np.nan, clean), "gaussian"),
        "5 % gross errors, gaussian": (wrong, "gaussian"),
        "5 % gross errors, student_t": (wrong, "student_t"),
    }
    for name, (table, likelihood) in cases.items():
        fit, cpu = _timed(table, 2, likelihood=likelihood)
        error = gplvm.reconstruct(fit)["mean"].to_numpy() - Y
        rows.append([name, cpu, float(np.sqrt((error**2).mean()))])
    return rows


def run(report: Report, arguments) -> None:
    warnings.simplefilter("ignore")
    report.text(
        "Q = 5, M = 50, columns of unit spread or one scale; nats a row by seconds, and at the end."
    )
    report.table(["table", "3 s", "6 s", "12 s", "end", "CPU s"], _climbs())
    report.text("Draws of a GP, D = 12, Q = 2, M = 50, at the defaults.")
    report.table(["N", "rows/s", "epochs", "nats a row", "CPU s", "R² of X", "peak MB"], _speed())
    report.text("Counts of 2000 cells × 200 genes, a tenth hidden; 20 epochs, M = 25.")
    header = ["model", "CPU s", "ln p of a hidden entry", "trustworthiness", "rows/s"]
    report.table(header, _counts())
    report.text("Hidden entries: RMSE in sds, share within 89 % intervals.")
    header = ["table", "shape", "hidden", "Q", "by", "CPU s", "RMSE", "held, %"]
    report.table(header, _holes())
    report.text("500 × 30 smooth functions, noise 0.2: RMSE against the functions.")
    report.table(["table and likelihood", "CPU s", "RMSE"], _robust())
    report.write()
