"""Two dimensions of a table by PCA, t-SNE, UMAP, a variational autoencoder and the GP-LVM."""

import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import pm_gplvm as gplvm
from benchmarks.data import OIL, has_oil
from benchmarks.environment import HERE, quiet
from benchmarks.installed import is_installed, python_of
from benchmarks.report import Report

CASES = (("digits", 500), ("oil", 500), ("digits", 1597), ("oil", 1800))
NEW = 200  # rows held out
FAMILY = "pictures"


@dataclass
class Picture:
    """Positions of the rows and of further ones, what these decode to, and CPU seconds."""

    X: np.ndarray
    seconds: float
    X_new: np.ndarray | None = None
    Y_back: np.ndarray | None = None
    seconds_new: float | None = None


def _split(name: str, N: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """N rows and 200 further ones, centred and divided by one number, and the classes of both."""
    if name == "digits":
        data = load_digits()
        Y, classes = data.data, data.target
    else:
        with np.load(OIL) as file:
            parts = ("train", "test", "valid")
            Y = np.concatenate([file[f"Y_{part}"] for part in parts])
            classes = np.concatenate([file[f"labels_{part}"] for part in parts])
    rows = np.random.default_rng(0).permutation(len(Y))[: N + NEW]
    Y, classes = Y[rows], classes[rows]
    Y = Y - Y[:N].mean(axis=0)
    Y = Y / np.sqrt((Y[:N] ** 2).mean())
    return Y[:N], Y[N:], classes[:N], classes[N:]


def _by_pca(Y: np.ndarray, Y_new: np.ndarray) -> Picture:
    began = time.process_time()
    model = PCA(2).fit(Y)
    X, fitted = model.transform(Y), time.process_time()
    X_new = model.transform(Y_new)
    back = model.inverse_transform(X_new)
    return Picture(X, fitted - began, X_new, back, time.process_time() - fitted)


def _by_tsne(Y: np.ndarray, Y_new: np.ndarray) -> Picture:
    began = time.process_time()
    X = TSNE(random_state=0).fit_transform(Y)
    return Picture(X, time.process_time() - began)


def _by_marginal(Y: np.ndarray, Y_new: np.ndarray) -> Picture:
    began = time.process_time()
    model = gplvm.build_model(Y, kernel="rbf + linear")
    fit = gplvm.fit_marginal(model, random_seed=0, blas_threads=1, progressbar=False)
    estimator, fitted = gplvm.GPLVM.from_fit(fit), time.process_time()
    X_new = estimator.transform(Y_new)
    back = estimator.inverse_transform(X_new)
    taken = time.process_time() - fitted
    return Picture(estimator.embedding_, fitted - began, X_new, back, taken)


def _by_sparse(Y: np.ndarray, Y_new: np.ndarray) -> Picture:
    began = time.process_time()
    fit = gplvm.fit_sparse(gplvm.build_model(Y), n_inducing=50, random_seed=0, progressbar=False)
    return Picture(fit["posterior"]["X"][0, 0].to_numpy(), time.process_time() - began)


OURS = {
    "PCA": _by_pca,
    "t-SNE": _by_tsne,
    "fit_marginal": _by_marginal,
    "fit_sparse, M = 50": _by_sparse,
}
PEERS = {"UMAP": "umap", "VAE": "vae"}
WAYS = ("PCA", "t-SNE", "UMAP", "VAE", "fit_marginal", "fit_sparse, M = 50")


def _by_peer(report: Report, name: str, Y: np.ndarray, Y_new: np.ndarray) -> Picture | None:
    """UMAP and the autoencoder, in a process of the environment that has them."""
    if not is_installed(FAMILY):
        return None
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        np.savez(task, Y=Y, Y_new=Y_new, few=Y[:100])
        script = HERE / "peers" / "umap_vae.py"
        command = [str(python_of(FAMILY)), "-P", str(script), str(task), str(answer), PEERS[name]]
        done = subprocess.run(command, env=quiet(), capture_output=True, text=True)
        if done.returncode:
            print(f"  {name}: skipped, {done.stderr.strip().splitlines()[-1]}", flush=True)
            return None
        with np.load(answer) as file:
            found = {key: file[key] for key in file}
    package = "umap-learn" if name == "UMAP" else "torch"
    report.note_versions(name, {package: str(found["version"])})
    report.data.setdefault("first_call_s", {}).setdefault(name, []).append(float(found["first"]))
    times = float(found["seconds"]), float(found["seconds_new"])
    return Picture(found["X"], times[0], found["X_new"], found.get("Y_back"), times[1])


def _scores(picture: Picture, Y: np.ndarray, Y_new: np.ndarray, classes, truth) -> dict:
    own = gplvm.diagnostics.score_embedding(picture.X, Y, classes, n_neighbors=5)
    row: dict = {
        "seconds": picture.seconds,
        "trust": own["trustworthiness"],
        "errors_pc": 100 * own["nn_errors"] / len(Y),
        "errors_new_pc": None,
        "r2_new": None,
        "seconds_new": picture.seconds_new,
    }
    if picture.X_new is not None:
        distance = ((picture.X_new[:, None] - picture.X) ** 2).sum(axis=-1)
        row["errors_new_pc"] = 100 * float((classes[distance.argmin(axis=1)] != truth).mean())
    if picture.Y_back is not None:
        row["r2_new"] = 1 - float(((picture.Y_back - Y_new) ** 2).sum() / (Y_new**2).sum())
    return row


def run(report: Report, arguments) -> None:
    warnings.simplefilter("ignore", RuntimeWarning)
    few = _split("digits", 60)[0]
    for make in OURS.values():  # what is loaded and compiled once a process
        make(few, few[:5])
    report.text(
        f"Rows centred and divided by one number; {NEW} more rows held out. Of another class: rows whose "
        "nearest row of the table in the picture has another label. R² is that of held-out rows put in the "
        "picture and decoded. The autoencoder has tanh layers of 64 and 64 each "
        "way, one noise, and 5000 steps of 64 rows. PCA, t-SNE and UMAP are at their defaults."
    )
    for name, N in CASES:
        if (name == "oil" and not has_oil()) or (arguments.N and N not in arguments.N):
            continue
        Y, Y_new, classes, truth = _split(name, N)
        table = []
        for way in WAYS:
            picture = _by_peer(report, way, Y, Y_new) if way in PEERS else OURS[way](Y, Y_new)
            if picture is None:
                continue
            row = _scores(picture, Y, Y_new, classes, truth)
            report.data.setdefault("pictures", []).append({"table": name, "N": N, "way": way} | row)
            table.append([way, *row.values()])
            print(f"  {way}: {row}", flush=True)
        header = ["by", "CPU s", "trust at 5", "nearest of another class %"]
        header += ["held out: of another class %", "R²", "CPU s"]
        report.text(f"## {name}, N = {N}, D = {Y.shape[1]}")
        report.table(header, table)
        report.write()
    if "first_call_s" in report.data:
        first = {k: float(np.median(v)) for k, v in report.data["first_call_s"].items()}
        words = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in first.items())
        report.text(f"Imports and first call in a fresh process, not counted above: {words}.")
