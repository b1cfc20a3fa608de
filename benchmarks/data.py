"""The tables, and the start that all libraries share."""

from pathlib import Path

import numpy as np

OIL = Path(__file__).resolve().parents[2] / "shared" / "data" / "oil_flow.npz"

_NIR = OIL.parent / "nir"


def has_oil() -> bool:
    return OIL.exists()


def _rows(name: str, N: int) -> np.ndarray:
    if name == "digits" or not has_oil():
        from sklearn.datasets import load_digits

        return load_digits().data
    with np.load(OIL) as file:
        parts = ("Y_train",) if len(file["Y_train"]) >= N else ("Y_train", "Y_test", "Y_valid")
        return np.concatenate([file[part] for part in parts])


def _simulated(N: int, D: int) -> np.ndarray:
    """Smooth functions of two latent coordinates, with noise."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 2))
    signal = np.sin(X @ rng.standard_normal((2, D)) + rng.uniform(0.0, 2 * np.pi, D))
    return signal + 0.3 * rng.standard_normal((N, D))


def simulated_spectra(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mixtures of four substances seen through a logarithm, with noise of 0.001: 172 rows, and 43."""
    rng, at = np.random.default_rng(seed), np.linspace(0.0, 1.0, 100)
    peaks = ((0.2, 0.1), (0.35, 0.2), (0.6, 0.08), (0.8, 0.25))
    pure = np.array([np.exp(-0.5 * ((at - centre) / width) ** 2) for centre, width in peaks])
    amounts = rng.gamma(2.0, 0.5, (215, 4))
    Y = np.log1p(amounts @ pure) * rng.normal(1.0, 0.05, (215, 1))
    Y += 1e-3 * rng.normal(size=Y.shape)
    return Y[:172], Y[172:]


def near_infrared() -> tuple[np.ndarray, np.ndarray] | None:
    """Near infrared spectra of mixtures at several temperatures, a fifth held out; None if not there."""
    files = [_NIR / f"flodat_{part}_spectra_0.txt" for part in ("training", "test")]
    if not all(file.exists() for file in files):
        return None
    Y = np.vstack([np.loadtxt(file) for file in files])
    Y = Y[np.random.default_rng(0).permutation(len(Y))]
    n = int(0.8 * len(Y))
    return Y[:n], Y[n:]


def _standard(Y: np.ndarray) -> np.ndarray:
    Y = Y - Y.mean(axis=0)
    return np.ascontiguousarray(Y / np.sqrt((Y**2).mean()))


def pca_start(Y: np.ndarray, Q: int) -> np.ndarray:
    """Principal components, each of standard deviation 1; the largest loading is positive."""
    U, S, Vt = np.linalg.svd(Y, full_matrices=False)
    signs = np.sign(Vt[np.arange(Q), np.abs(Vt[:Q]).argmax(axis=1)])
    X = U[:, :Q] * S[:Q] * signs
    return np.ascontiguousarray(X / X.std(axis=0))


def table(name: str, N: int, Q: int, D: int | None = None) -> tuple[np.ndarray, np.ndarray, str]:
    """Y, the common start X, and a note on where Y is from.

    A subset by seed 0, columns centred, one scale for all so that the mean of Y² is 1. Where N
    exceeds the rows there are, rows come again with a little noise.
    """
    if name == "simulated":
        Y, note = _simulated(N, D)[:, :D], f"simulated, {D} columns"
    else:
        rows, note = _rows(name, N).astype(np.float64), name
        if name == "oil" and not has_oil():
            note = "digits (../shared/data/oil_flow.npz is not there)"
        elif name == "oil" and N > 1000:
            note += ", with its test and validation rows"
        rng = np.random.default_rng(0)
        order = rng.permutation(len(rows))
        Y = rows[np.resize(order, N)]
        if len(rows) < N:
            note += f" ({len(rows)} rows, again with noise)"
            Y = Y + 0.05 * rows.std() * rng.standard_normal(Y.shape)
    Y = _standard(Y)
    return Y, pca_start(Y, Q), note


def check_start(library: str, loss: float, reference: float) -> float:
    """Whether a library's objective is the common one, jitter apart: the relative difference."""
    difference = abs(-loss - reference) / abs(reference)
    if difference > 1e-4:
        print(f"  {library}: {-loss:.6f} at the start, by definition {reference:.6f}", flush=True)
    return difference


def reference_objective(Y: np.ndarray, X: np.ndarray) -> float:
    """Log-likelihood + log N(X; 0, I) at the common start's hyperparameters, by definition."""
    from scipy.stats import multivariate_normal, norm

    distance = ((X[:, None] - X) ** 2).sum(axis=-1)
    K = np.exp(-0.5 * distance) + 0.1 * np.eye(len(X))
    likelihood = multivariate_normal(np.zeros(len(X)), K).logpdf(Y.T).sum()
    return float(likelihood + norm.logpdf(X).sum())
