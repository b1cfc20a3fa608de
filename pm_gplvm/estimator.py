"""The model as a scikit-learn estimator, around the functions of the package."""

import warnings
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from pm_gplvm.core.blas import usable_cores
from pm_gplvm.core.checks import Array, count, flag, seed, warn
from pm_gplvm.core.interrupt import interruptible
from pm_gplvm.core.kernels import check_rank, parse_kernel
from pm_gplvm.data.arrays import is_anndata, labels_along, numbers
from pm_gplvm.data.fit import Fit
from pm_gplvm.data.table import Scale
from pm_gplvm.diagnostics.summary import summary
from pm_gplvm.fitting.choose import NAMES, Inference, Task
from pm_gplvm.model.families import FAMILIES
from pm_gplvm.model.likelihoods import from_dict
from pm_gplvm.model.priors import class_mixture
from pm_gplvm.plot.latent_plot import latent
from pm_gplvm.prediction.embed import embed, log_predictive
from pm_gplvm.prediction.predict import predict
from pm_gplvm.prediction.row_posterior import row_contents


class GPLVM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A Gaussian process latent variable model for scikit-learn's pipelines.

    ``fit`` is :func:`build_model` and the fit that ``inference`` names, or :func:`fit_svi`, ``transform`` is :func:`embed`,
    ``inverse_transform`` is :func:`predict` and ``score`` is :func:`log_predictive`. Call these with
    ``fit_`` for standard deviations, further positions and draws.

    Parameters
    ----------
    n_components : int, default 2
        Q, the number of latent dimensions; with a linear kernel alone at most min(N, D).
    kernel : str, default "rbf + linear"
        As in :func:`build_model`. The default includes probabilistic PCA by its linear part.
    ard, priors, scale, missing, resolution, noise
        As in :func:`build_model`. With ``missing="mask"`` the rows given to ``transform`` and ``score``
        may have NaN too.
    likelihood : str, object of ``pm_gplvm.likelihoods``, or mapping from columns to these, default "gaussian"
        What an entry is: "poisson", "negative_binomial", "bernoulli", "ordinal", ... as in :func:`fit_svi`, which
        fits others than normal noise, or with ``inference="map"`` :func:`fit_map`, small tables.
    offset : "size" or None, default None
        As in :func:`fit_svi`: "size" takes account of the sum of each row of counts. Other offsets go to ``fit``.
    inference : {"auto", "marginal", "map", "laplace", "sparse", "variational", "stochastic", "linear", "svi"}, default "auto"
        Which ``fit_...`` of the package. "auto" takes :func:`fit_svi` for another likelihood than "gaussian", an offset,
        or a table of which a twentieth of the entries or more are missing; else
        :func:`fit_marginal` where that takes about a minute or less (1000 rows, fewer with missing entries),
        :func:`fit_stochastic` for complete tables up to 2000 rows, and :func:`fit_svi` beyond, or what else the model
        allows; ``inference_`` and the logger "pm_gplvm" (at INFO) say which. "laplace" samples about the estimate.
    n_inducing : int, optional
        Inducing inputs of a sparse, variational or minibatch fit, by default as many as these take themselves.
    start, n_restarts
        As in :func:`fit_marginal`.
    supervised : bool, default False
        Whether ``fit(X, y)`` takes y for classes of the rows and gathers those of a class
        (:func:`priors.class_mixture`); None, NaN or "" where the class is unknown.
    max_iter : int, optional
        Iterations of each start (steps of :func:`fit_stochastic`, passes of :func:`fit_svi` over the table), by default
        as many as the fit takes itself, 5000 of :func:`fit_marginal`.
    n_starts : int, default 16
        Starts for each new row, as in :func:`embed`.
    n_jobs : int, optional
        Processes that run from several starts at once, ``cores`` of :func:`fit_marginal`; -1: as many as there are
        cores, -2: one less. None is one. Other fits run in this process.
    random_state : int, RandomState or None, default None
        Seed of restarts and random starts, and of the starts and integrals of new rows. With None
        the results for new rows are the same each time, those of restarts and a random start are not.

    Attributes
    ----------
    fit_ : DataTree
        From the fit named by ``inference_``.
    inference_ : str
        The fit that was taken; why is in ``fit_.attrs["inference_reason"]``.
    embedding_ : ndarray, shape (N, Q)
        Positions of the training rows.
    n_iter_ : int
        Evaluations that the best start took; steps of :func:`fit_stochastic` and :func:`fit_svi`, 1 of a closed form.
    n_features_in_, feature_names_in_
        As in all of scikit-learn.

    Notes
    -----
    *Training rows.* A row that equals one of the training table, entry by entry, is transformed to
    its position in ``embedding_``, that of the first where several are equal. UMAP does so for the table
    as a whole.

    *New rows.* What a row is transformed to depends on that row alone, not on the others given.

    *Files.* ``save(estimator.fit_, path)`` and ``GPLVM.from_fit(load(path))`` store data only, while
    a pickle may run code.

    Examples
    --------
    >>> import numpy as np
    >>> import pm_gplvm as gplvm
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> Y = gplvm.data.load_digits(n=40).to_numpy()
    >>> pipeline = make_pipeline(FunctionTransformer(np.sqrt), gplvm.GPLVM(random_state=1))
    >>> pipeline.fit(Y[:30]).transform(Y[30:]).shape
    (10, 2)
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        kernel: str = "rbf + linear",
        ard: bool = False,
        priors: Mapping[str, Any] | None = None,
        scale: Scale = "global",
        missing: Literal["raise", "mask"] = "raise",
        resolution: Any = "auto",
        noise: Literal["shared", "column"] = "shared",
        likelihood: Any = "gaussian",
        offset: Literal["size"] | None = None,
        inference: Inference = "auto",
        n_inducing: int | None = None,
        start: Any = "pca",
        n_restarts: int = 0,
        supervised: bool = False,
        max_iter: int | None = None,
        n_starts: int = 16,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.kernel = kernel
        self.ard = ard
        self.priors = priors
        self.scale = scale
        self.missing = missing
        self.resolution = resolution
        self.noise = noise
        self.likelihood = likelihood
        self.offset = offset
        self.inference = inference
        self.n_inducing = n_inducing
        self.start = start
        self.n_restarts = n_restarts
        self.supervised = supervised
        self.max_iter = max_iter
        self.n_starts = n_starts
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, offset: Any = None) -> Self:
        """Estimate the hyperparameters with the latent positions integrated out, then the positions.

        Errors and warnings are those of :func:`build_model` and of the fit. At Ctrl-C it raises
        KeyboardInterrupt, so that a search over parameters ends, and what was fitted before stays.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, D)
            The table, at least three rows.
        y : array_like, shape (N,), optional
            Classes of the rows where ``supervised``, a Series by the index of a DataFrame X; else ignored.
        offset : array_like, shape (N,), (N, 1) or (N, D), optional
            As in :func:`fit_svi`; ``transform`` and ``score`` then need that of new rows.

        Returns
        -------
        GPLVM
        """
        X = plain(X)
        _refuse_sparse(X)
        if isinstance(X, pd.DataFrame):
            numbers("X", X)  # names the columns that hold text, as validation does not
        values = self._validated(X, ensure_min_samples=3)
        count("n_components", self.n_components)
        for name, least in (("max_iter", 1), ("n_inducing", 2)):
            if (value := getattr(self, name)) is not None:
                count(name, value, least)
        check_rank(parse_kernel(self.kernel)[0], self.n_components, values.shape, "n_components")
        random_seed, cores = seed("random_state", self.random_state), _cores(self.n_jobs)
        task = Task(
            Y=_labelled(X, values),
            latent_dim=self.n_components,
            likelihood=self.likelihood,
            offset=self._offset(offset),
            kernel=self.kernel,
            ard=self.ard,
            priors=self._priors(X, y),
            scale=self.scale,
            missing=self.missing,
            resolution=self.resolution,
            noise=self.noise,
            inference=self.inference,
            start=self.start,
        )
        with interruptible():  # a search over parameters is to end with it
            fit = task.fit(
                n_inducing=self.n_inducing,
                n_restarts=self.n_restarts,
                max_iter=self.max_iter,
                cores=cores,
                random_seed=random_seed,
                progressbar=False,
            )
        self._seed = random_seed or 0
        self._take(fit)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, offset: Any = None) -> Array:
        """Fit, and return the positions of the rows.

        Parameters
        ----------
        X, y, offset
            As in ``fit``.

        Returns
        -------
        ndarray, shape (N, Q)
        """
        positions: Array = self.fit(X, y, offset=offset).transform(X, offset=offset)
        return positions

    def _offset(self, given: Any) -> Any:
        if not (self.offset is None or (isinstance(self.offset, str) and self.offset == "size")):
            got = self.offset if isinstance(self.offset, str) else type(self.offset).__name__
            raise ValueError(
                f"offset must be 'size' or None, got {got!r}. Give numbers to fit: fit(X, offset=...)."
            )
        if self.offset is not None and given is not None:
            raise ValueError("offset must be given once, got 'size' and that of fit. Choose one.")
        return self.offset if given is None else given

    def _priors(self, X: Any, y: Any) -> Mapping[str, Any] | None:
        if not flag("supervised", self.supervised):
            return self.priors
        if y is None:
            raise ValueError("supervised=True needs y, the classes of the rows, got None.")
        if self.priors is not None and "X" in self.priors:
            raise ValueError(
                "priors must not have one of X where supervised=True, got one. Choose one."
            )
        if labels_along(X, 0) is None and hasattr(y, "to_numpy"):
            y = y.to_numpy()  # rows without labels go by position
        return {**(self.priors or {}), "X": class_mixture(y)}

    @classmethod
    def from_fit(cls, fit: xr.DataTree) -> Self:
        """Make a fitted estimator of any fit, such as one read from a file.

        Parameters
        ----------
        fit : DataTree
            With X. If it has several draws, call :func:`align` first: ``transform`` mixes over them, and
            ``embedding_`` is their mean.

        Returns
        -------
        GPLVM
            With the ``n_components``, ``kernel``, ``ard``, ``likelihood`` and ``inference`` of the fit. Other parameters
            have their defaults, which matter only if ``fit`` is called.

        Raises
        ------
        TypeError, ValueError
            If ``fit`` is not a fit with X.

        Examples
        --------
        >>> import pm_gplvm as gplvm
        >>> best = gplvm.fit_marginal(
        ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
        ... )
        >>> gplvm.GPLVM.from_fit(best).embedding_.shape
        (20, 2)
        """
        read = Fit.of(fit, "X", "Y_mean", "Y_scale", caller="from_fit")
        read.refuse_inputs(
            "transform and inverse_transform have no place for those of new rows. Take embed(fit, Y_new, inputs=...) and "
            "predict(fit, X_new, inputs=...)."
        )
        estimator = cls(
            read.latent_dim,
            kernel=read.kernel_and_bias,
            ard=read.has_ard,
            inference=next((name for name in NAMES if name == read.method), "auto"),
            **_of_entries(read),
        )
        names = read.features
        estimator.n_features_in_ = len(names)
        if all(isinstance(name, str) for name in names):
            estimator.feature_names_in_ = names.astype(object)
        estimator._seed = 0
        estimator._take(fit)
        return estimator

    def transform(self, X: Any, *, offset: Any = None) -> Array:
        """Return each row's most probable latent position: the mode with the most posterior mass.

        Parameters
        ----------
        X : array_like or DataFrame, shape (M, D)
            Rows with the columns of the training table.
        offset : array_like, shape (M,), (M, 1) or (M, D), optional
            Of these rows, where ``fit`` was given one. Of ``offset="size"`` it is found from the rows.

        Returns
        -------
        ndarray, shape (M, Q)

        Warns
        -----
        RuntimeWarning
            If new rows have a second mode of at least half the weight of the heaviest (``n_modes`` of
            :func:`embed`), with their number; and as :func:`embed` warns.
        """
        values = self._rows(X)
        read, given = Fit(self.fit_), self._given(offset, values)
        table, rows = read.Y.to_numpy() if read.holds_table else values[:0], values
        if given is not None and "Y_offset" in read.constants and read.holds_table:
            known_offset = read.constants["Y_offset"].to_numpy()
            table, rows = _beside(table, known_offset), _beside(values, given)
        first = {row: n for n, row in reversed(list(enumerate(row_contents(table))))}
        known = np.array([first.get(row, -1) for row in row_contents(rows)])
        found = self.embedding_[known]
        if (new := known < 0).any():
            more: dict[str, Any] = {} if given is None else {"offset": given[new]}
            embedded = embed(self.fit_, values[new], **more, **self._settings())
            found[new] = embedded["modes"]["X"].to_numpy()[:, 0]
            _warn_of_second_modes(embedded["rows"]["n_modes"].to_numpy())
        return found

    def inverse_transform(self, X: Any) -> Array:
        """Predict the rows of the table at latent positions.

        Parameters
        ----------
        X : array_like, shape (M, Q)

        Returns
        -------
        ndarray, shape (M, D)
            The mean of :func:`predict`, in the units of the training table: the expected measurement, whatever the
            likelihood, at an offset of 0.
        """
        check_is_fitted(self)
        return predict(self.fit_, X)["mean"].to_numpy()

    def score(self, X: Any, y: Any = None, *, offset: Any = None) -> float:
        """Return the mean of ln p(row), the row's position integrated out: higher is better.

        It is too high for rows of the training table.

        Parameters
        ----------
        X : array_like or DataFrame, shape (M, D)
        y : None
            Ignored.
        offset : array_like, optional
            As in ``transform``.

        Returns
        -------
        float
            The mean of ``score_samples``.
        """
        return float(self.score_samples(X, offset=offset).mean())

    def score_samples(self, X: Any, *, offset: Any = None) -> Array:
        """Return ln p(row) of each row, its position integrated out.

        Parameters
        ----------
        X : array_like or DataFrame, shape (M, D)
        offset : array_like, optional
            As in ``transform``.

        Returns
        -------
        ndarray, shape (M,)
            ``log_score`` of :func:`log_predictive`.
        """
        rows = self._rows(X)
        given = self._given(offset, rows)
        more: dict[str, Any] = {} if given is None else {"offset": given}
        return log_predictive(self.fit_, rows, **more, **self._settings())["log_score"].to_numpy()

    def _given(self, offset: Any, rows: Array) -> Array | None:
        """Offset of these rows as an array (M, 1) or (M, D), if one was given."""
        if offset is None:
            return None
        if not Fit(self.fit_).has_likelihood:
            raise ValueError(
                f"offset is of fits by minibatches, got one for a fit by {self.inference_}. Leave it out."
            )
        values = numbers("offset", offset)
        values = values[:, None] if values.ndim == 1 else values
        if (
            values.ndim != 2
            or len(values) != len(rows)
            or values.shape[1] not in (1, rows.shape[1])
        ):
            raise ValueError(
                f"offset must have the shape ({len(rows)},), ({len(rows)}, 1) or {rows.shape}, got {np.shape(offset)}."
            )
        return values

    def _settings(self) -> dict[str, Any]:
        return {"n_starts": self.n_starts, "random_seed": self._seed, "progressbar": False}

    @property
    def _n_features_out(self) -> int:
        return int(self.embedding_.shape[1])

    def _take(self, fit: xr.DataTree) -> None:
        self.fit_, read = fit, Fit(fit)
        self.embedding_ = read.draws("X").mean(("chain", "draw")).to_numpy()
        self.inference_ = str(fit.attrs.get("inference", read.method))
        if optima := read.group("optima"):
            self.n_iter_ = int(optima["evaluations"].to_numpy()[0])
        else:
            self.n_iter_ = int(fit.attrs.get("steps", 1))

    def _rows(self, X: Any) -> Array:
        check_is_fitted(self)
        _refuse_sparse(X)
        return self._validated(X, reset=False)

    def _validated(self, X: Any, **options: Any) -> Array:
        """Validate as all of scikit-learn does, but say what to do about missing entries here."""
        finite = "allow-nan" if self.missing == "mask" else True
        options |= {"dtype": np.float64, "order": "C", "ensure_all_finite": finite}
        try:
            values: Array = validate_data(self, X, **options)
        except ValueError as error:
            told, _, rest = str(error).partition("\n")
            if not (rest and told.endswith("contains NaN.")):
                raise
            raise ValueError(
                f"{told} Pass GPLVM(missing='mask'), which takes NaN for what was not measured, or fill them first."
            ) from None
        return values

    def _repr_html_inner(self) -> str:
        return str(super()._repr_html_inner()) + self._fitted_html()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] += self._fitted_html()
        return bundle

    def _fitted_html(self) -> str:
        """Picture and summary of what was fitted, "" where there is nothing or it cannot be drawn."""
        if not hasattr(self, "fit_"):
            return ""
        parts = []
        for part in (_picture, _words):
            # A repr that raises would hide the estimator itself, in a debugger too.
            with suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parts.append(part(self.fit_))
        inner = "".join(f'<div style="max-width:34em">{part}</div>' for part in parts)
        look = "display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start"
        return f'<div class="gplvm-fit" style="{look}">{inner}</div>' if inner else ""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = bool(self.supervised)
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags


def _picture(fit: xr.DataTree) -> str:
    """Draw the positions as an inline PNG on white, which a light and a dark page can hold."""
    read = Fit.of(fit, "X", caller="GPLVM")
    label = "label" if read.holds_table and "label" in read.coords else None
    file = BytesIO()
    with style.context("default"):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        latent(fit, label, background=False, spread=False, ax=figure.add_subplot())
        figure.savefig(file, format="png", dpi=90)
    source = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    return f'<img alt="Positions of the rows" src="{source}">'


def _words(fit: xr.DataTree) -> str:
    return summary(fit)._repr_html_()


def _warn_of_second_modes(n_modes: NDArray[np.intp]) -> None:
    if (several := int((n_modes > 1).sum())) > 0:
        warn(
            f"transform: {several} of {len(n_modes)} new rows may as well lie elsewhere: a second mode has "
            "at least half the weight of the one returned. embed(fit_, rows)['modes'] holds all of them."
        )


def _beside(rows: Array, offset: Array) -> Array:
    """Rows with their offsets, by which they are known again."""
    return np.hstack([rows, np.broadcast_to(offset, (len(rows), offset.shape[1]))])


def _of_entries(read: Fit) -> dict[str, Any]:
    """Likelihood and offset of a fit as the estimator takes them."""
    if not read.has_likelihood:
        return {}
    found = from_dict(read.setting("likelihood"))
    plain = found.name in FAMILIES and found == FAMILIES[found.name]()
    size = {"offset": "size"} if "size_median" in read.tree.attrs else {}
    return {"likelihood": found.name if plain else found, **size}


def _refuse_sparse(X: Any) -> None:
    if issparse(X):
        raise TypeError(
            f"GPLVM needs a dense table, got a sparse one ({type(X).__name__}, {X.shape[0]} × {X.shape[1]}). "
            "Pass X.toarray(), where it is large after TruncatedSVD."
        )


def _cores(n_jobs: Any) -> int | None:
    """Return scikit-learn's ``n_jobs`` as a number of cores: from below 0 it counts down from all."""
    if n_jobs is None:
        return None
    if isinstance(n_jobs, int | np.integer) and n_jobs < 0:
        return max(usable_cores() + 1 + int(n_jobs), 1)
    return count("n_jobs", n_jobs)


def plain(X: Any) -> Any:
    """Show what validation would not see: a mask, and the names of AnnData's rows and columns."""
    if np.ma.isMaskedArray(X):
        return numbers("X", X)
    return X.to_df() if is_anndata(X) else X


def _labelled(X: Any, values: Array) -> Any:
    """Restore the names of rows and columns, which validation removes."""
    if isinstance(X, xr.DataArray):
        return X
    if hasattr(X, "columns"):
        return pd.DataFrame(values, index=getattr(X, "index", None), columns=list(X.columns))
    return values
