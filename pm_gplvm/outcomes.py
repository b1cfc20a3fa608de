"""Supervised models as scikit-learn estimators: a class or a number is predicted through latent positions."""

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from pm_gplvm.core.checks import Array, count, seed
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.data.table import Scale
from pm_gplvm.estimator import plain
from pm_gplvm.fitting.svi import fit_svi
from pm_gplvm.model.likelihoods import Likelihood, gaussian
from pm_gplvm.prediction.embed import embed
from pm_gplvm.prediction.impute import impute

_DRAWS = 500  # positions of a new row, over which its outcome is averaged
_ENDS = (np.min, np.inf), (np.max, -np.inf)


class _Supervised(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features and outcome as columns of one table, each with its likelihood; that of new rows is imputed."""

    def __init__(
        self,
        n_components: int = 2,
        *,
        kernel: str = "rbf + linear",
        likelihood: Any = None,
        scale: Scale = "feature",
        n_inducing: int | None = None,
        max_iter: int | None = None,
        n_starts: int = 16,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.kernel = kernel
        self.likelihood = likelihood
        self.scale = scale
        self.n_inducing = n_inducing
        self.max_iter = max_iter
        self.n_starts = n_starts
        self.random_state = random_state

    def transform(self, X: Any) -> Array:
        """Return each row's most probable latent position given its features alone, shape (M, Q)."""
        new = self._beside(self._rows(X))
        found = embed(self.fit_, new, **self._settings())
        return np.asarray(found["modes"]["X"].to_numpy()[:, 0])

    def _fit(self, X: Any, outcome: Array, likelihood: str | Likelihood) -> Self:
        """Fit features (N, D) and outcomes (N, K), of which some may be NaN."""
        values = self._validated(X, ensure_min_samples=3)
        if len(outcome) != len(values):
            raise ValueError(
                f"y must have one entry for each row of X, {len(values)}, got {len(outcome)}."
            )
        known = ~np.isnan(values)
        low, high = (f(values, axis=0, where=known, initial=b) for f, b in _ENDS)
        self._used = np.flatnonzero(low < high)
        if not len(self._used):
            raise ValueError("X must have a feature that varies, got constant ones alone.")
        K = outcome.shape[1]
        self._features = [f"x{d}" for d in self._used]
        self._outcomes = [f"y{k}" for k in range(K)]
        table = self._table(values, outcome)
        self._seed = seed("random_state", self.random_state)
        of_features = gaussian("column") if self.likelihood is None else self.likelihood
        named = {"epochs": self.max_iter, "n_inducing": self.n_inducing}
        given: dict[str, Any] = {k: count(k, v, 1) for k, v in named.items() if v is not None}
        with interruptible():  # a search over parameters is to end with it
            self.fit_ = fit_svi(
                table,
                count("n_components", self.n_components),
                kernel=self.kernel,
                likelihood={
                    tuple(self._features): of_features,
                    tuple(self._outcomes): likelihood,
                },
                scale=self.scale,
                **given,
                random_seed=self._seed,
                progressbar=False,
            )
        self.embedding_ = self.fit_["approximation"]["X_mean"].to_numpy()
        self.n_iter_ = int(self.fit_["trace"]["step"].to_numpy()[-1])
        return self

    def _predicted(self, X: Any) -> tuple[Array, Array]:
        """Mean and sd (M, K) of the outcomes of new rows."""
        new = self._beside(self._rows(X))
        found = impute(self.fit_, new, draws=_DRAWS, **self._settings())
        at = found.sel(feature=self._outcomes)
        return at["mean"].to_numpy(), at["sd"].to_numpy()

    def _beside(self, values: Array) -> pd.DataFrame:
        """Rows of the table with no outcome."""
        return self._table(values, np.full((len(values), len(self._outcomes)), np.nan))

    def _table(self, values: Array, outcome: Array) -> pd.DataFrame:
        """Features that vary, and outcomes beside them."""
        columns = [*self._features, *self._outcomes]
        return pd.DataFrame(np.hstack([values[:, self._used], outcome]), columns=columns)

    def _settings(self) -> dict[str, Any]:
        return {"n_starts": self.n_starts, "random_seed": self._seed or 0, "progressbar": False}

    @property
    def _n_features_out(self) -> int:
        return int(self.embedding_.shape[1])

    def _rows(self, X: Any) -> Array:
        check_is_fitted(self)
        return self._validated(X, reset=False)

    def _validated(self, X: Any, **options: Any) -> Array:
        values: Array = validate_data(
            self, plain(X), dtype=np.float64, ensure_all_finite="allow-nan", **options
        )
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags


class GPLVMClassifier(ClassifierMixin, _Supervised):
    """Predict the class of a row, with its probability, through its latent position.

    Features and class are columns of one table, given a position x of each row: features by ``likelihood``, the class
    by a logistic function of a Gaussian process of its own scale, one for each class where there are more than two.
    All are fitted together by :func:`fit_svi`. The position of a new row is inferred from its features alone, and

        p(class k | features) ∝ E σ(f_k(x)),    over q(f) and p(x | features),

    normalised over the classes. So is a picture of the table made, in which classes lie apart as far as the features say.

    Parameters
    ----------
    n_components : int, default 2
        Q, the number of latent dimensions. Where the probability of the class matters more than a picture, try 5 or more.
    kernel, scale, n_inducing
        As in :func:`fit_svi`.
    likelihood : str, object of ``pm_gplvm.likelihoods``, or None
        Of the features; by default ``gaussian("column")``, a noise of each.
    max_iter : int, optional
        Passes over the table, ``epochs`` of :func:`fit_svi`.
    n_starts : int, default 16
        Starts for each new row, as in :func:`embed`.
    random_state : int, RandomState or None

    Attributes
    ----------
    classes_ : ndarray
        The classes in order.
    fit_ : DataTree
        From :func:`fit_svi`: features are the columns "x0", "x1", ..., the class "y0", ...
    embedding_ : ndarray, shape (N, Q)
        Positions of the training rows, which know their class.
    n_iter_, n_features_in_, feature_names_in_
        As in all of scikit-learn.

    Notes
    -----
    Features that were not measured may be NaN, in training and in new rows, and classes that are unknown None or NaN in
    training: the features of such rows count. Features that are constant in training are left out. Each column counts the same; of many features and one class, positions are
    mostly of the features. :func:`priors.class_mixture` (``GPLVM(supervised=True)``) pulls rows of a class together instead.

    References
    ----------
    Gao, X., Wang, X., Tao, D., Li, X. (2011). Supervised Gaussian process latent variable model for dimensionality
    reduction. IEEE Trans. Systems, Man, and Cybernetics B 41.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = gplvm.GPLVMClassifier(random_state=1).fit(X[::2], y[::2])
    >>> model.predict_proba(X[1::2]).shape
    (75, 3)
    >>> model.score(X[1::2], y[1::2]) > 0.9
    True
    """

    classes_: NDArray[Any]

    def fit(self, X: Any, y: Any) -> Self:
        """Fit features and classes together.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, D)
            At least three rows; NaN where a feature was not measured.
        y : array_like, shape (N,)
            Classes, two or more; None or NaN where unknown.

        Returns
        -------
        GPLVMClassifier

        Raises
        ------
        ValueError
            If y holds fewer than two classes, or numbers that are no classes; else as :func:`fit_svi`.
        """
        given = _one_a_row(y)
        known = ~pd.isna(given)
        if given.dtype.kind == "f":
            assert_all_finite(given[known], input_name="y")
        check_classification_targets(given[known])
        self.classes_, codes = np.unique(given[known], return_inverse=True)
        K = len(self.classes_)
        if K < 2:
            raise ValueError(f"y must hold at least two classes, got {K} class.")
        outcome = np.full((len(given), K), np.nan)
        outcome[known] = np.eye(K)[codes]
        return self._fit(X, outcome[:, 1:] if K == 2 else outcome, "bernoulli")

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, shape (M, K), in the order of ``classes_``."""
        p, _ = self._predicted(X)
        if len(self.classes_) == 2:
            return np.hstack([1.0 - p, p])
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, shape (M,)."""
        chances = self.predict_proba(X)
        return np.asarray(self.classes_[chances.argmax(axis=1)])


class GPLVMRegressor(RegressorMixin, _Supervised):
    """Predict a number of a row, with its standard deviation, through its latent position.

    As :class:`GPLVMClassifier`, the outcome being a number with normal noise of its own.

    Parameters
    ----------
    n_components, kernel, likelihood, scale, n_inducing, max_iter, n_starts, random_state
        As in :class:`GPLVMClassifier`.

    Attributes
    ----------
    fit_, embedding_, n_iter_, n_features_in_, feature_names_in_
        As in :class:`GPLVMClassifier`; the outcome is the column "y0".

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = gplvm.GPLVMRegressor(random_state=1).fit(X[:200], y[:200])
    >>> mean, sd = model.predict(X[200:220], return_std=True)
    >>> mean.shape, bool((sd > 0).all())
    ((20,), True)
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit features and outcome together.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, D)
            At least three rows; NaN where a feature was not measured.
        y : array_like, shape (N,)
            Numbers; NaN where unknown.

        Returns
        -------
        GPLVMRegressor

        Raises
        ------
        ValueError
            If y is infinite or never known; else as :func:`fit_svi`.
        """
        outcome = np.asarray(_one_a_row(y), dtype=float)[:, None]
        assert_all_finite(outcome, allow_nan=True, input_name="y")
        if np.isnan(outcome).all():
            raise ValueError("y must hold a number of some rows, NaN where unknown, got NaN alone.")
        return self._fit(X, outcome, gaussian("column"))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the expected outcome of each row, shape (M,), with ``return_std`` the standard deviation too.

        It is that of a measurement: of the position, the function and the noise.
        """
        mean, sd = (part[:, 0] for part in self._predicted(X))
        return (mean, sd) if return_std else mean


def _one_a_row(y: Any) -> NDArray[Any]:
    if y is None:  # in the words that scikit-learn's checks look for
        raise ValueError(
            "y must hold the outcome of each row, got None: the estimator requires y to be passed, but the target y is None."
        )
    if np.ma.isMaskedArray(y):
        unknown: Any = np.nan if y.dtype.kind in "biuf" else None
        y = np.where(np.ma.getmaskarray(y), unknown, y.data)
    return np.asarray(column_or_1d(y, warn=True))
