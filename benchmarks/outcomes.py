"""Classes of rows held out, predicted through latent positions and by scikit-learn's models."""

import warnings

import numpy as np

from benchmarks.data import OIL, has_oil
from benchmarks.report import Report

_DIMS = (2, 5)


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and classes."""
    from sklearn.datasets import load_breast_cancer, load_iris, load_wine

    found = {
        "iris": load_iris(return_X_y=True),
        "wine": load_wine(return_X_y=True),
        "breast cancer": load_breast_cancer(return_X_y=True),
    }
    if has_oil():
        with np.load(OIL) as file:
            found["oil flow, every third row"] = (
                file["Y_train"][::3].astype(float),
                file["labels_train"][::3],
            )
    return found


class _PLS:
    """Partial least squares on the classes as numbers; its values, cut at 0 and normalised, as chances."""

    def fit(self, X, y):
        from sklearn.cross_decomposition import PLSRegression

        self._model = PLSRegression(min(5, X.shape[1])).fit(X, np.eye(y.max() + 1)[y])
        return self

    def predict_proba(self, X):
        found = np.clip(self._model.predict(X), 1e-3, None)
        return found / found.sum(axis=1, keepdims=True)


def run(report: Report, arguments) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    import pm_gplvm as gplvm

    warnings.simplefilter("ignore")
    models = {
        "1 nearest neighbour": lambda: KNeighborsClassifier(1),
        "5 nearest neighbours": lambda: KNeighborsClassifier(5),
        "PLS": _PLS,
        "logistic regression": lambda: LogisticRegression(max_iter=2000),
    }
    for Q in _DIMS:
        models[f"GPLVMClassifier, Q = {Q}"] = lambda Q=Q: gplvm.GPLVMClassifier(Q, random_state=1)
    report.text("Five folds: errors, and minus ln p of the right class, mean of the rows.")
    rows = []
    for name, (X, y) in tables().items():
        folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
        for model, make in models.items():
            chances = np.empty((len(y), y.max() + 1))
            for known, new in folds:
                scaler = StandardScaler().fit(X[known])
                fitted = make().fit(scaler.transform(X[known]), y[known])
                chances[new] = fitted.predict_proba(scaler.transform(X[new]))
            errors = float((chances.argmax(axis=1) != y).mean())
            loss = float(log_loss(y, np.clip(chances, 1e-3, 1.0)))
            rows.append([name, f"{X.shape[0]} × {X.shape[1]}", model, 100.0 * errors, loss])
    report.table(["table", "shape", "model", "errors, %", "-ln p"], rows)
    report.write()
