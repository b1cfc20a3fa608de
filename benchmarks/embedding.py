"""Unseen rows of the oil flow data: where they are put, what is filled in, and how long it takes."""

import time
import warnings

import numpy as np

from benchmarks.data import _OIL, has_oil
from benchmarks.report import Report

ROWS = 1000  # of the test set
ITERATIONS = 600
DIMENSIONS = (2, 5)
LEVEL = 0.89


def _neighbour_error(known, labels, new, truth) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    return 100.0 * float((KNeighborsClassifier(1).fit(known, labels).predict(new) != truth).mean())


def _ppca_fill(Y, holes, Q):
    """Conditional mean of the missing entries under probabilistic PCA, in closed form."""
    from sklearn.decomposition import PCA

    pca = PCA(Q).fit(Y)
    covariance, filled = pca.get_covariance(), holes.copy()
    for row in filled:
        gone = np.isnan(row)
        seen = ~gone
        away = np.linalg.solve(covariance[np.ix_(seen, seen)], row[seen] - pca.mean_[seen])
        row[gone] = pca.mean_[gone] + covariance[np.ix_(gone, seen)] @ away
    return filled


def _iterative_fill(Y, holes):
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(max_iter=30, random_state=0).fit(Y).transform(holes)


def _fit(Y, Q):
    import pm_gplvm as gplvm

    before = time.process_time()
    model = gplvm.build_model(Y, latent_dim=Q, ard=Q > 2)
    fit = gplvm.fit_map(model, mode_of="Z", maxiter=ITERATIONS, random_seed=1, progressbar=False)
    return fit, time.process_time() - before


def _hidden(Y, rng):
    """Half of the entries of every row as NaN."""
    D = Y.shape[1]
    gone = rng.permuted(np.tile(np.arange(D) < D // 2, (len(Y), 1)), axis=1)
    return np.where(gone, np.nan, Y), gone


def _oil(report: Report, N: int) -> None:
    import pm_gplvm as gplvm

    with np.load(_OIL) as file:
        Y, labels = file["Y_train"][:N], file["labels_train"][:N]
        new, truth = file["Y_test"][:ROWS], file["labels_test"][:ROWS]
    holes, gone = _hidden(new, np.random.default_rng(0))
    report.text(
        f"## Oil flow, {N} training rows, {len(new)} test rows, a MAP of {ITERATIONS} iterations"
    )

    def rmse(filled):
        return float(np.sqrt(((filled - new)[gone] ** 2).mean()))

    errors = [["data space", None, _neighbour_error(Y, labels, new, truth), None, None]]
    fills = [
        ["column means", None, rmse(np.broadcast_to(Y.mean(axis=0), new.shape)), None],
        ["scikit-learn IterativeImputer", None, rmse(_iterative_fill(Y, holes)), None],
    ]
    for Q in DIMENSIONS:
        from sklearn.decomposition import PCA

        pca = PCA(Q).fit(Y)
        errors.append(
            [
                "PCA",
                Q,
                _neighbour_error(pca.transform(Y), labels, pca.transform(new), truth),
                None,
                None,
            ]
        )
        fills.append(["probabilistic PCA", Q, rmse(_ppca_fill(Y, holes, Q)), None])
        fit, fit_s = _fit(Y, Q)
        before = time.process_time()
        places = gplvm.embed(fit, new, random_seed=1)
        embed_s = time.process_time() - before
        known = fit["posterior"]["X"][0, 0].to_numpy()
        unit = np.broadcast_to(fit["posterior"]["lengthscale"][0, 0].to_numpy(), Q)
        top = places["modes"]["X"][:, 0].to_numpy()
        error = _neighbour_error(known / unit, labels, top / unit, truth)
        errors.append(["pm_gplvm embed", Q, error, fit_s, embed_s])
        k, modes = (places["rows"][n].to_numpy() for n in ("pareto_k", "effective_modes"))
        before = time.process_time()
        filled = gplvm.impute(fit, holes, random_seed=1)
        impute_s = time.process_time() - before
        fills.append(["pm_gplvm impute", Q, rmse(filled["mean"].to_numpy()), impute_s])
        inside = (
            np.abs(filled["mean"] - new).to_numpy()[gone] < 1.598 * filled["sd"].to_numpy()[gone]
        )
        report.text(
            f"Q = {Q}: embed has {(modes > 1.5).mean():.1%} of the rows in more than 1.5 places, "
            f"pareto_k above 0.7 in {(k > 0.7).mean():.1%}, of the half-hidden rows in "
            f"{float((filled['pareto_k'] > 0.7).mean()):.1%}; {inside.mean():.1%} of the hidden entries lie "
            "within 1.598 standard deviations of impute."
        )
    report.table(["1-NN in", "Q", "errors %", "fit CPU s", "embed CPU s"], errors)
    report.table(["half of the entries hidden", "Q", "RMSE", "CPU s"], fills)
    report.data[f"oil_{N}"] = {"errors": errors, "fills": fills}


def _coverage(report: Report) -> None:
    """Rows of one Gaussian process, X and θ known for the old ones."""
    import pm_gplvm as gplvm
    from pm_gplvm.kernels import cross_covariance
    from pm_gplvm.results import as_fit

    rng, rows = np.random.default_rng(12), []
    for N, D, sigma in ((80, 6, 0.3), (150, 12, 0.2)):
        X = rng.standard_normal((N + ROWS, 2))
        K = cross_covariance("rbf", X, X) + sigma**2 * np.eye(N + ROWS)
        Y = np.linalg.cholesky(K) @ rng.standard_normal((N + ROWS, D))
        model = gplvm.build_model(Y[:N], scale="none")
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


def run(report: Report, arguments) -> None:
    warnings.filterwarnings("ignore", message="embed: pareto_k|fit_map did not converge")
    _coverage(report)
    if not has_oil():
        report.text("../shared/data/oil_flow.npz is not there: no figures for oil flow.")
        return
    for N in arguments.N or (500, 1000):
        _oil(report, N)
