"""Unseen rows of the oil flow data: where they are put, what is filled in, and how long it takes."""

import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks.data import OIL, has_oil, near_infrared, simulated_spectra
from benchmarks.environment import HERE, quiet
from benchmarks.installed import installed_peers
from benchmarks.ppca import ProbabilisticPCA
from benchmarks.report import Report

ROWS = 1000  # of the test set
PEER_ROWS = 200  # of them: infer_newX climbs in all rows at once, and takes minutes
ITERATIONS = 600
EPOCHS = 50  # of fit_svi
# Latent dimensions, and sigma where it is held: many dimensions may leave an estimate next to no noise, and
# new rows no place near the known ones.
CASES = ((2, None), (5, None), (5, 0.1))
LEVEL = 0.89
SPECTRA_DIM = 4
KERNELS = ("rbf", "rbf + linear")  # of the spectra, those that there are


def _neighbour_error(known, labels, new, truth) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    return 100.0 * float((KNeighborsClassifier(1).fit(known, labels).predict(new) != truth).mean())


def _iterative_fill(Y, holes):
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(max_iter=30, random_state=0).fit(Y).transform(holes)


def _fit(Y, Q, sigma=None, kernel="rbf", ard=None):
    import pm_gplvm as gplvm

    before = time.process_time()
    held = {} if sigma is None else {"sigma": sigma}
    ard = Q > 2 if ard is None else ard
    model = gplvm.build_model(Y, latent_dim=Q, kernel=kernel, ard=ard, priors=held)
    fit = gplvm.fit_marginal(model, max_iter=ITERATIONS, random_seed=1, progressbar=False)
    return fit, time.process_time() - before


def _hidden(Y, rng):
    """Half of the entries of every row as NaN."""
    D = Y.shape[1]
    gone = rng.permuted(np.tile(np.arange(D) < D // 2, (len(Y), 1)), axis=1)
    return np.where(gone, np.nan, Y), gone


def _infer_newX(fit, new) -> dict | None:
    """Places by GPy's infer_newX, at the X and θ of our fit, in a process of its own."""
    from pm_gplvm.data.fit import Fit

    peer = installed_peers(["gpy"]).get("GPy")
    if peer is None:
        return None
    F, centre, scale = Fit(fit).table()
    known = {n: Fit(fit).draws(n)[0, 0].to_numpy() for n in ("X", "amplitude", "sigma")}
    unit = np.broadcast_to(fit["posterior"]["lengthscale"][0, 0], known["X"].shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        np.savez(task, Y=F, new=(new - centre) / scale, lengthscale=unit, **known)
        script = HERE / "peers" / "gpy_newrows.py"
        command = [str(peer[0]), "-P", str(script), str(task), str(answer)]
        done = subprocess.run(command, env=quiet(), capture_output=True, text=True)
        if done.returncode:
            print(f"  GPy: skipped, {done.stderr.strip().splitlines()[-1]}", flush=True)
            return None
        with np.load(answer) as file:
            return {name: file[name] for name in file}


def _oil(report: Report, N: int, only: list[str] | None) -> None:
    from sklearn.decomposition import PCA

    with np.load(OIL) as file:
        Y, labels = file["Y_train"][:N], file["labels_train"][:N]
        new, truth = file["Y_test"][:ROWS], file["labels_test"][:ROWS]
    holes, gone = _hidden(new, np.random.default_rng(0))
    report.text(
        f"## Oil flow, {N} training rows, {len(new)} test rows, fit_marginal of {ITERATIONS} iterations at most"
    )

    def wrong(known, places):
        return _neighbour_error(known, labels, places, truth[: len(places)])

    def rmse(filled):
        return float(np.sqrt(((filled - new)[gone] ** 2).mean()))

    errors = [["data space", None, None, wrong(Y, new), None, None, None]]
    fills = [
        ["column means", None, None, rmse(np.broadcast_to(Y.mean(axis=0), new.shape)), None],
        ["scikit-learn IterativeImputer", None, None, rmse(_iterative_fill(Y, holes)), None],
    ]
    for Q in sorted({Q for Q, _ in CASES}):
        pca = PCA(Q).fit(Y)
        error = wrong(pca.transform(Y), pca.transform(new))
        errors.append(["PCA", Q, None, error, pca.score(new[:PEER_ROWS]), None, None])
        fills.append(["probabilistic PCA", Q, None, rmse(ProbabilisticPCA(Y, Q).fill(holes)), None])
    for Q, sigma in CASES:
        fit, fit_s = _fit(Y, Q, sigma)
        errors += _placed(report, fit, fit_s, new, wrong, Q, sigma, only)
        fills.append(["pm_gplvm impute", Q, sigma, *_filled(report, fit, new, holes, gone, rmse)])
    header = ["1-NN in", "Q", "sigma held", "errors %", "mean ln p(y)", "fit CPU s", "embed CPU s"]
    report.table(header, errors)
    report.text(f"ln p(y) is that of the first {PEER_ROWS} test rows.")
    report.table(["half of the entries hidden", "Q", "sigma held", "RMSE", "CPU s"], fills)
    report.data[f"oil_{N}"] = {"errors": errors, "fills": fills}


def _placed(report, fit, fit_s, new, wrong, Q, sigma, only) -> list[list]:
    """Rows of the table of errors: our places, and on a part of the rows GPy's beside them."""
    import pm_gplvm as gplvm

    unit = np.broadcast_to(fit["posterior"]["lengthscale"][0, 0].to_numpy(), Q)
    known = fit["posterior"]["X"][0, 0].to_numpy() / unit

    def embedded(rows):
        before = time.process_time()
        places = gplvm.embed(fit, rows, random_seed=1)
        return places, time.process_time() - before

    places, seconds = embedded(new)
    k, modes = (places["rows"][n].to_numpy() for n in ("pareto_k", "effective_modes"))
    report.text(
        f"Q = {Q}, sigma {sigma or 'free'}: embed has {(modes > 1.5).mean():.1%} of the rows in more than "
        f"1.5 places, pareto_k above 0.7 in {(k > 0.7).mean():.1%}."
    )
    top = places["modes"]["X"].to_numpy()[:, 0] / unit
    few = new[:PEER_ROWS]
    score = float(gplvm.log_predictive(fit, few, random_seed=1)["log_score"].mean())
    rows = [["pm_gplvm embed", Q, sigma, wrong(known, top), score, fit_s, seconds]]
    peer = _infer_newX(fit, few) if only is None or "gpy" in only else None
    if peer is not None:
        report.note_versions("GPy", {"GPy": str(peer["version"])})
        found = {
            "pm_gplvm embed": (top[:PEER_ROWS], embedded(few)[1]),
            "GPy infer_newX at the same X and θ": (peer["X"] / unit, float(peer["seconds"])),
        }
        for name, (at, seconds) in found.items():
            title = f"{name}, first {PEER_ROWS} rows"
            rows.append([title, Q, sigma, wrong(known, at), None, None, seconds])
    return rows


def _filled(report, fit, new, holes, gone, rmse) -> tuple[float, float]:
    """RMSE of impute and its CPU seconds."""
    import pm_gplvm as gplvm

    before = time.process_time()
    filled = gplvm.impute(fit, holes, random_seed=1)
    seconds = time.process_time() - before
    inside = np.abs(filled["mean"] - new).to_numpy()[gone] < 1.598 * filled["sd"].to_numpy()[gone]
    report.text(
        f"Half hidden: pareto_k above 0.7 in {float((filled['pareto_k'] > 0.7).mean()):.1%} of the rows; "
        f"{inside.mean():.1%} of the hidden entries lie within 1.598 standard deviations of impute."
    )
    return rmse(filled["mean"].to_numpy()), seconds


def _coverage(report: Report) -> None:
    """Rows of one Gaussian process, X and θ known for the old ones."""
    import pm_gplvm as gplvm
    from pm_gplvm.core.kernels import cross_covariance
    from pm_gplvm.model.results import as_fit

    rng, rows = np.random.default_rng(12), []
    for N, D, sigma in ((80, 6, 0.3), (150, 12, 0.2)):
        X = rng.standard_normal((N + ROWS, 2))
        K = cross_covariance("rbf", X, X) + sigma**2 * np.eye(N + ROWS)
        Y = np.linalg.cholesky(K) @ rng.standard_normal((N + ROWS, D))
        model = gplvm.build_model(Y[:N], scale="none", resolution=0)
        # The process has mean 0: centring by the rows at hand would be a mean known wrongly.
        model["Y_mean"].set_value(np.zeros(D))
        draws = {"X": X[None, None, :N]}
        for name, value in {"lengthscale": 1.0, "amplitude": 1.0, "sigma": sigma}.items():
            draws[name] = np.full((1, 1), value)
        stats = {"lp": np.zeros((1, 1))}
        fit = as_fit(model, draws, method="known", sample_stats=stats, settings={})
        for what, table in (("complete", Y[N:]), ("half missing", _hidden(Y[N:], rng)[0])):
            places = gplvm.embed(fit, table, random_seed=1)
            tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
            low, high = np.quantile(places["posterior"]["X"][0], tails, axis=0)
            inside = float(((low <= X[N:]) & (X[N:] <= high)).mean())
            k = float((places["rows"]["pareto_k"] > 0.7).mean())
            modes = float(places["rows"]["effective_modes"].mean())
            rows.append([N, D, sigma, what, 100 * inside, modes, 100 * k])
    report.text(
        f"## {LEVEL:.0%} intervals of embed, {ROWS} simulated rows, true X and θ of the others"
    )
    header = ["N", "D", "sigma", "rows", "contain x %", "effective modes", "pareto_k > 0.7 %"]
    report.table(header, rows)
    report.data["coverage"] = rows


def _known_kernels() -> list[str]:
    from pm_gplvm.core.kernels import parse_kernel

    known = []
    for kernel in KERNELS:
        try:
            parse_kernel(kernel)
        except ValueError:
            continue
        known.append(kernel)
    return known


def _spectra(report: Report) -> None:
    """Rows of tables with hardly any noise: how near they come back, whole and with holes."""
    from sklearn.decomposition import PCA

    import pm_gplvm as gplvm

    tables = {f"simulated {seed}": simulated_spectra(seed) for seed in (0, 1)}
    if (measured := near_infrared()) is not None:
        tables["near infrared"] = measured
    else:
        report.text("../shared/data/nir is not there: no figures for measured spectra.")
    rows, Q = [], SPECTRA_DIM
    for name, (known, new) in tables.items():
        sd = new.std()
        holes, gone = _hidden(new, np.random.default_rng(0))

        def errors(back, new=new, sd=sd):
            each = np.sqrt(((back - new) ** 2).mean(axis=1)) / sd
            return [float(np.sqrt((each**2).mean())), float(np.median(each)), float(each.max())]

        def hidden(filled, new=new, gone=gone, sd=sd):
            return float(np.sqrt(((filled - new)[gone] ** 2).mean()) / sd)

        pca = PCA(Q).fit(known)
        back = pca.inverse_transform(pca.transform(new))
        rows.append(
            [
                name,
                "PCA",
                *errors(back),
                hidden(ProbabilisticPCA(known, Q).fill(holes)),
                *[None] * 4,
            ]
        )
        for kernel in _known_kernels():
            fit, fit_s = _fit(known, Q, kernel=kernel, ard=False)
            before = time.process_time()
            places = gplvm.embed(fit, new, random_seed=1)
            seconds = time.process_time() - before
            back = gplvm.predict(fit, places["modes"]["X"].to_numpy()[:, 0])["mean"].to_numpy()
            filled = gplvm.impute(fit, holes, random_seed=1)["mean"].to_numpy()
            sigma = float(fit["posterior"]["sigma"][0, 0])
            strange = 100.0 * float((places["rows"]["shortfall"] > 5.0).mean())
            figures = [*errors(back), hidden(filled), sigma, strange, fit_s, seconds]
            rows.append([name, kernel, *figures])
    report.text(
        f"## Spectra with hardly any noise, Q = {Q}: rms over sd of the held-out rows as they come back"
    )
    header = ["table", "by", "rms", "median", "worst", "rms of a hidden half", "sigma"]
    report.table([*header, "shortfall > 5 %", "fit CPU s", "embed CPU s"], rows)
    report.data["spectra"] = rows


def _inducing(report: Report) -> None:
    """What a row costs through the exact model and through inducing inputs, at the same X and θ."""

    for Q in (2, 5):
        _inducing_of(report, Q)


def _inducing_of(report: Report, Q: int) -> None:
    import pm_gplvm as gplvm

    N, D, M, new = 1000, 500, 50, 200
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N + new, Q))
    slopes = np.sqrt(2.0 / Q) * rng.standard_normal((Q, D))
    Y = np.sin(X @ slopes + rng.uniform(0.0, 2.0 * np.pi, D))
    Y += 0.3 * rng.standard_normal(Y.shape)
    holes, gone = _hidden(Y[N:], rng)
    model = gplvm.build_model(Y[:N], Q, ard=Q > 2)
    settings = {"start": X[:N], "random_seed": 1, "progressbar": False}
    fits = {
        "fit_sparse": gplvm.fit_sparse(model, n_inducing=M, max_iter=20, **settings),
        "fit_variational": gplvm.fit_variational(model, n_inducing=M, max_iter=20, **settings),
        "fit_svi": gplvm.fit_svi(model, n_inducing=M, epochs=EPOCHS, **settings),
    }
    exact = fits["fit_sparse"].copy()
    del exact["approximation"]
    rows = []
    for name, fit in {"exact, X and θ of fit_sparse": exact, **fits}.items():
        cost, filled = [], None
        few = holes[:40] if fit is exact else holes
        for verb in (gplvm.embed, gplvm.impute):
            verb(fit, holes[:2], random_seed=1, progressbar=False)  # what is imported at first use
            before = time.process_time()
            filled = verb(fit, few, random_seed=1, progressbar=False)
            cost.append(1e3 * (time.process_time() - before) / len(few))
        error = (filled["mean"].to_numpy() - Y[N : N + len(few)])[gone[: len(few)]]
        rows.append([name, len(few), *cost, float(np.sqrt((error**2).mean()))])
    report.text(
        f"## N = {N}, D = {D}, Q = {Q}, M = {M}: half of the columns of each row hidden, all rows at once"
    )
    report.table(
        ["fit", "rows", "embed CPU ms a row", "impute CPU ms a row", "RMSE of impute"], rows
    )
    report.data[f"inducing_{Q}"] = rows


def run(report: Report, arguments) -> None:
    warnings.filterwarnings(
        "ignore", message="embed: (pareto_k|.* explained)|fit_\\w+:? .*(did not converge|ended)"
    )
    if "spectra" in (arguments.case or ["spectra"]):
        _spectra(report)
    if "inducing" in (arguments.case or ["inducing"]):
        _inducing(report)
    if arguments.case:
        return
    _coverage(report)
    if not has_oil():
        report.text("../shared/data/oil_flow.npz is not there: no figures for oil flow.")
        return
    for N in arguments.N or (500, 1000):
        _oil(report, N, arguments.only)
