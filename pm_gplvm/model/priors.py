"""Priors of parameters, and priors of X that know something: of single rows, their order, classes or Y.

Each function for X makes what ``build_model(Y, priors={"X": ...})`` takes. What the prior knows is
registered in the model as data or variables, so that a fit holds it too. The table ``_KINDS`` says
what the package asks of such a prior beside its density.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.shape_utils import change_dist_size
from pytensor.graph.basic import Variable
from scipy.spatial.distance import pdist

from pm_gplvm.core.blas import rowwise
from pm_gplvm.core.checks import Array
from pm_gplvm.core.kernels import cross_and_rate, cross_covariance
from pm_gplvm.core.mixtures import Mixture
from pm_gplvm.data.fit import CLASS, LATENT, OBS, Fit
from pm_gplvm.model.ops import covariance, lower_factor, whitened

LatentPrior = Callable[[str, tuple[str, ...]], Variable]
"""Registers X under a name with its dims, and all that it needs besides."""

NewRow = tuple[Array, Array, Mixture | None]
"""Mean and standard deviation of the position of a new row, and the mixture that it has, if any."""

_KERNELS = ("rbf", "matern32", "matern52")
_ROUNDING = 1e-8  # of the largest eigenvalue: what is below is taken for 0


Prior = Any
"""A number (held fixed), ``"flat"``, a ``pm.Distribution.dist(...)`` or ``f(name, dims)``."""

DEFAULT_PRIORS: Mapping[str, Callable[[], Variable]] = {
    "X": lambda: pm.Normal.dist(0.0, 1.0),
    # Bounded away from 0: with N(0, 1) on X the pair (X, lengthscale) may shrink together at no
    # cost in likelihood, and a density that does not vanish at 0 leaves the mode without a place.
    "lengthscale": lambda: pm.InverseGamma.dist(3.0, 2.0),
    "amplitude": lambda: pm.LogNormal.dist(0.0, 1.0),
    "weight": lambda: pm.HalfNormal.dist(1.0),  # finite at 0: the linear part may vanish
    "sigma": lambda: pm.LogNormal.dist(-2.0, 1.0),
    "bias": lambda: pm.HalfNormal.dist(1.0),
}
"""The default of each parameter; amplitude, weight (per unit of X), sigma and bias in units
of the data's scale."""


def add_prior(
    name: str, prior: Prior, *, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    """Add one parameter to the model on the context stack.

    ``prior`` as in :func:`build_model`: a number is held and stands in ``constant_data``, "flat" is the
    improper constant density, a distribution is brought to the parameter's shape, and a callable
    registers the variable itself.
    """
    if isinstance(prior, str):
        if prior != "flat":
            raise ValueError(f"priors[{name!r}] must be 'flat' where it is a text, got {prior!r}.")
        return (pm.HalfFlat if positive else pm.Flat)(name, dims=dims)
    if isinstance(prior, Variable):
        return _registered(name, prior, dims, shape)
    if callable(prior):
        variable = prior(name, dims)
        if not isinstance(variable, Variable):
            raise TypeError(
                f"priors[{name!r}] was called and must return the variable it made, "
                f"got {type(variable).__name__}."
            )
        return variable
    return _fixed(name, prior, dims, shape, positive)


def _registered(
    name: str, prior: Variable, dims: tuple[str, ...], shape: tuple[int, ...]
) -> Variable:
    if prior.owner is None or not hasattr(prior.owner.op, "ndim_supp"):
        raise TypeError(
            f"priors[{name!r}] must be a distribution made by .dist(), such as pm.HalfNormal.dist(1), "
            f"got the variable {prior}."
        )
    given = tuple(prior.type.shape)
    fits = len(given) == len(shape) and all(
        a in (None, b) for a, b in zip(given, shape, strict=True)
    )
    if given and not fits:
        raise ValueError(f"priors[{name!r}] must have shape () or {shape}, got {given}.")
    # A variable of its own, so that one distribution may serve several parameters and models.
    prior = change_dist_size(prior, shape[: len(shape) - prior.owner.op.ndim_supp])
    return pm.modelcontext(None).register_rv(prior, name, dims=dims)


def _fixed(
    name: str, prior: Any, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    try:
        value = np.asarray(prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"priors[{name!r}] must be a number, 'flat', a distribution made by .dist() or a "
            f"function of (name, dims), got {type(prior).__name__}."
        ) from None
    if value.shape not in ((), shape):
        raise ValueError(f"priors[{name!r}] must have shape () or {shape}, got {value.shape}.")
    if not np.isfinite(value).all() or (positive and (value <= 0).any()):
        wanted = "positive and finite" if positive else "finite"
        raise ValueError(f"priors[{name!r}] must be {wanted} where it is a number, got {prior}.")
    return pm.Data(name, np.broadcast_to(value, shape).copy(), dims=dims or None)


# Priors of X


def _standard(fit: Fit, chosen: NDArray[np.intp]) -> list[NewRow]:
    """N(0, 1) in the frame of each draw: what is rotated stays, what was moved moves along."""
    frames = fit.frames(chosen)
    return [(shift, scale, None) for shift, scale in zip(frames.shift, frames.scale, strict=True)]


def _mixed(fit: Fit, chosen: NDArray[np.intp]) -> list[NewRow]:
    """Mix the classes in the frame of each draw."""
    share = fit.constants["X_share"].to_numpy()
    centres, spreads = (fit.values(f"X_{part}")[chosen] for part in ("centre", "within"))
    frames = fit.frames(chosen)
    mixtures = [
        Mixture(share, frames.inward(i, c), float(s * frames.scale[i, 0]))
        for i, (c, s) in enumerate(zip(centres, spreads, strict=True))
    ]
    return [(mixture.mean, mixture.spread, mixture) for mixture in mixtures]


@dataclass(frozen=True)
class Kind:
    """What a prior of X says beside its density; as it stands, what one of the user's own says.

    ``mark`` is the data by which a model, or a fit, tells it. ``new_row`` gives the prior of a new row's
    position in each of some draws of a fit. ``spread`` names the standard deviation of X.
    """

    name: str | None = None
    mark: str = ""
    new_row: Callable[[Fit, NDArray[np.intp]], list[NewRow]] = _standard
    spread: str | None = None  # by default it is the second parameter of X
    correlated: bool = False  # the first parameter of X is the covariance of the rows
    anchored: bool = False  # starts are turned towards the means
    mapped: bool = False  # X is a function of Y by weights, and so is the position of a new row


_KINDS = (
    Kind("informed", "X_prior_mean", anchored=True),
    Kind("dynamics", "X_time", correlated=True),
    Kind("classes", "X_class", new_row=_mixed, spread="X_within"),
    Kind("back_constrained", "X_back_lengthscale", mapped=True),
)


def kind_of_prior(names: Container[Any]) -> Kind:
    """Which of the priors here X has, by the names of the data of a model or a fit."""
    return next((kind for kind in _KINDS if kind.mark in names), Kind())


def informative(mean: Any, sd: Any) -> LatentPrior:
    """Tell where rows lie: x_nq ~ N(mean_nq, sd_nq²), N(0, 1) where nothing is known.

    For capture times, stages, pseudotime of anchors (GrandPrix: Ahmed, Rattray & Boukouvalas 2019).
    A start from PCA or Isomap is turned towards the means.

    Parameters
    ----------
    mean : array_like, shape (N,) or (N, Q)
        Of the first latent dimension, or of all; NaN where nothing is known. Best of about unit
        spread: the lengthscale's default prior expects that.
    sd : array_like, a number or of the shape of ``mean``
        Standard deviations, positive where ``mean`` is known.

    Returns
    -------
    callable
        For ``build_model(Y, priors={"X": ...})``. The model has the data ``X_prior_mean`` and
        ``X_prior_sd`` (obs, latent).

    Raises
    ------
    ValueError
        If the shapes differ, nothing is known, or an sd is not positive. When the model is built: if
        there is not one entry a row.

    References
    ----------
    Ahmed, S., Rattray, M., Boukouvalas, A. (2019). GrandPrix: scaling up the Bayesian GPLVM for
    single-cell data. Bioinformatics 35, 47-54.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> time = np.where(np.arange(20) < 5, np.linspace(-1.0, 1.0, 20), np.nan)  # of the first five
    >>> model = gplvm.build_model(Y, priors={"X": gplvm.priors.informative(time, 0.2)})
    >>> model["X_prior_sd"].get_value()[[0, 10]].tolist()
    [[0.2, 1.0], [1.0, 1.0]]
    """
    mean = np.array(mean, dtype=np.float64)
    sd = np.broadcast_to(np.asarray(sd, dtype=np.float64), mean.shape)
    known = ~np.isnan(mean)
    if mean.ndim not in (1, 2) or not known.any() or np.isinf(mean).any():
        raise ValueError(
            "mean must have shape (N,) or (N, Q), be finite and known of some rows, got shape "
            f"{mean.shape} with {int(np.isfinite(mean).sum())} finite entries."
        )
    if not (np.isfinite(sd[known]).all() and (sd[known] > 0.0).all()):
        raise ValueError("sd must be positive and finite wherever mean is known, got other values.")

    def prior(name: str, dims: tuple[str, ...]) -> Variable:
        N, Q = _shape()
        if len(mean) != N or (mean.ndim == 2 and mean.shape[1] != Q):
            raise ValueError(f"mean must have shape ({N},) or ({N}, {Q}), got {mean.shape}.")
        centre, spread = np.zeros((N, Q)), np.ones((N, Q))
        wide = mean[:, None] if mean.ndim == 1 else mean
        columns = slice(wide.shape[1])
        centre[:, columns] = np.nan_to_num(wide)
        spread[:, columns] = np.where(np.isnan(wide), 1.0, sd.reshape(wide.shape))
        mu = pm.Data(f"{name}_prior_mean", centre, dims=dims)
        sigma = pm.Data(f"{name}_prior_sd", spread, dims=dims)
        return pm.Normal(name, mu, sigma, dims=dims)

    return prior


def dynamics(
    t: Any,
    *,
    kernel: Literal["rbf", "matern32", "matern52"] = "matern32",
    lengthscale: Any = None,
    own: float = 0.1,
    sequences: Any = None,
) -> LatentPrior:
    """Let X move smoothly along a known index: its columns are Gaussian processes over t.

    x_q ~ N(0, (1 - own²) κ(‖t - t'‖ / lengthscale) + own² I), κ = 0 between sequences (Wang, Fleet &
    Hertzmann 2008 in spirit; Damianou, Titsias & Lawrence 2011, eq. 2). Each entry by itself is
    N(0, 1).

    Parameters
    ----------
    t : array_like, shape (N,)
        Time, or another index, in any order and unit.
    kernel : {"matern32", "matern52", "rbf"}, default "matern32"
        κ.
    lengthscale : number or prior, optional
        In units of t, as in ``build_model``'s ``priors``: held at a number, or a distribution. By
        default LogNormal(ln(r/4), 0.5), r the median over the sequences of their range of t.
    own : float, default 0.1
        Standard deviation of what is a row's own, in (0, 1).
    sequences : array_like, shape (N,), optional
        Label of the sequence that a row belongs to; one for all by default.

    Returns
    -------
    callable
        For ``build_model(Y, priors={"X": ...})``. The model has the data ``X_time`` and
        ``X_sequence`` (obs,), and ``X_lengthscale``.

    Raises
    ------
    ValueError
        If ``t`` is not finite or constant, or another argument is out of range. When the model is
        built: if there is not one entry a row.

    Notes
    -----
    The rows depend on each other: :func:`sample` moves single rows by the whole prior of X, O(N²)
    for each place offered, and no groups of them.

    References
    ----------
    Damianou, A., Titsias, M., Lawrence, N. (2011). Variational Gaussian process dynamical systems.
    NIPS 24.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model(Y, priors={"X": gplvm.priors.dynamics(np.arange(20))})
    >>> [rv.name for rv in model.free_RVs]
    ['X_lengthscale', 'X', 'lengthscale', 'amplitude', 'sigma']
    """
    t = np.asarray(t, dtype=np.float64)
    if t.ndim != 1 or not np.isfinite(t).all() or not np.ptp(t) > 0.0:
        raise ValueError("t must be one finite number a row, not all the same, got other values.")
    if kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}.")
    if not 0.0 < own < 1.0:
        raise ValueError(f"own must lie between 0 and 1, got {own!r}.")
    labels = np.zeros(len(t)) if sequences is None else np.asarray(sequences)
    if labels.shape != t.shape:
        raise ValueError(f"sequences must have one label a row, {t.shape}, got {labels.shape}.")
    _, sequence = np.unique(labels, return_inverse=True)
    ranges = [np.ptp(t[sequence == s]) for s in np.unique(sequence)]
    usual = np.median([r for r in ranges if r > 0.0] or [np.ptp(t)])

    def prior(name: str, dims: tuple[str, ...]) -> Variable:
        N, Q = _shape()
        if len(t) != N:
            raise ValueError(f"t must have one entry a row, {N}, got {len(t)}.")
        given = pm.LogNormal.dist(np.log(usual / 4.0), 0.5) if lengthscale is None else lengthscale
        unit = add_prior(f"{name}_lengthscale", given, dims=(), shape=(), positive=True)
        time = pm.Data(f"{name}_time", t, dims=OBS)
        group = pm.Data(f"{name}_sequence", sequence, dims=OBS)
        K = covariance(kernel, time[:, None], lengthscale=unit, amplitude=np.sqrt(1.0 - own**2))
        together = pt.eq(group[:, None], group[None, :])
        rowcov = K * together + own**2 * pt.eye(N)
        return pm.CustomDist(
            name,
            rowcov,
            np.zeros(Q),
            dist=_paths,
            logp=_paths_logp,
            signature="(n,n),(q)->(n,q)",
            dims=dims,
        )

    return prior


def _paths(rowcov: Variable, mean: Variable, size: Any) -> Variable:
    """Draw independent columns N(mean_q, rowcov)."""
    z = pm.Normal.dist(size=(rowcov.shape[0], mean.shape[0]))
    return mean + lower_factor(rowcov) @ z


def _paths_logp(x: Variable, rowcov: Variable, mean: Variable) -> Variable:
    # Factored once for all candidates of a row: they share rowcov.
    logdet, half = whitened(rowcov, x - mean)
    N, Q = rowcov.shape[0], mean.shape[0]
    value = -0.5 * ((half**2).sum() + Q * (logdet + N * np.log(2.0 * np.pi)))
    return pt.switch(pt.isnan(logdet), -np.inf, value)


def class_mixture(labels: Any, *, within: Any = 0.5) -> LatentPrior:
    """Gather rows of a class: x_n ~ N(c_k, within²) for a row of class k, each c_kq ~ N(0, 1).

    A row of unknown label has the mixture of all classes, by their share of the known labels. For
    batches, stages or species of which some labels are known. A new row has that mixture in
    :func:`embed`.

    Parameters
    ----------
    labels : array_like, shape (N,)
        A class for each row; None, NaN or "" where it is unknown.
    within : number or prior, default 0.5
        Standard deviation within a class, as in ``build_model``'s ``priors``.

    Returns
    -------
    callable
        For ``build_model(Y, priors={"X": ...})``. The model has ``X_centre`` (latent_class, latent),
        ``X_within`` and the data ``X_class`` (obs,), -1 where unknown.

    Raises
    ------
    ValueError
        If no label is known. When the model is built: if there is not one entry a row.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model(Y, priors={"X": gplvm.priors.class_mixture(Y["label"])})
    >>> [rv.name for rv in model.free_RVs]
    ['X_centre', 'X', 'lengthscale', 'amplitude', 'sigma']
    """
    column = pd.Series(np.asarray(labels).ravel(), dtype=object)
    number, names = pd.factorize(column.where(column != "", None).infer_objects(), sort=True)
    if not len(names):
        raise ValueError("labels must have a known class, got none.")
    share = np.bincount(number[number >= 0]) / (number >= 0).sum()

    def prior(name: str, dims: tuple[str, ...]) -> Variable:
        N, _ = _shape()
        if len(number) != N:
            raise ValueError(f"labels must have one entry a row, {N}, got {len(number)}.")
        model = pm.modelcontext(None)
        model.add_coord(CLASS, [str(n) for n in names])
        spread = add_prior(f"{name}_within", within, dims=(), shape=(), positive=True)
        pm.Data(f"{name}_class", number, dims=OBS)
        pm.Data(f"{name}_share", share, dims=CLASS)
        centre = pm.Normal(f"{name}_centre", 0.0, 1.0, dims=(CLASS, LATENT))
        if (number >= 0).all():
            return pm.Normal(name, centre[number], spread, dims=dims)
        weights = np.where(number[:, None] < 0, share, np.eye(len(names))[number])
        return pm.CustomDist(
            name,
            weights,
            centre,
            spread,
            dist=_gathered,
            logp=_gathered_logp,
            signature="(k),(k,q),()->(q)",
            dims=dims,
        )

    return prior


def _gathered(weights: Variable, centre: Variable, spread: Variable, size: Any) -> Variable:
    """Draw a class for each row, and a place about its centre."""
    return pm.Normal.dist(centre[pm.Categorical.dist(weights)], spread)


def _gathered_logp(x: Variable, weights: Variable, centre: Variable, spread: Variable) -> Variable:
    """Log-density of each row: ln Σ_k w_k N(x; c_k, spread² I)."""
    squares = ((x[..., None, :] - centre) ** 2).sum(axis=-1) / spread**2
    units = centre.shape[-1] * (0.5 * np.log(2.0 * np.pi) + pt.log(spread))
    return pt.logsumexp(pt.log(weights) - 0.5 * squares, axis=-1) - units


def _shape() -> tuple[int, int]:
    """Rows and latent dimensions of the model that is being built."""
    coords = pm.modelcontext(None).coords
    return len(coords[OBS]), len(coords[LATENT])


def back_constraint(
    kernel: Literal["rbf", "linear"] = "rbf", *, lengthscale: float | None = None
) -> LatentPrior:
    """Make X a function of Y: X = g(Y), each column of g a Gaussian process over the rows of Y.

    x_q = B w_q with w_q ~ N(0, I) and B Bᵀ = Φ, Φ_nm = φ(f_n, f_m) and f the rows of (Y - mean) / scale:
    in the span of φ(f, f_m), as the kernel mapping of Lawrence & Quiñonero-Candela (2006, section 3)
    is, the prior N(0, Φ) in place of none. "rbf": φ = exp(-½ ‖f - f'‖² / lengthscale²); "linear":
    φ = f·f' / c, c the mean of ‖f_n‖². A new row y lies at φ(f, F) Φ⁺ X, which is what :func:`embed`
    gives for such a fit.

    Parameters
    ----------
    kernel : {"rbf", "linear"}, default "rbf"
        φ.
    lengthscale : float, optional
        Of "rbf", in units of the data's scale; by default the median distance between rows of F.

    Returns
    -------
    callable
        For ``build_model(Y, priors={"X": ...})``. The model has the variables ``X_weights`` (basis,
        latent), the deterministic ``X`` (obs, latent) and the data ``X_back_lengthscale``, infinite
        for "linear".

    Raises
    ------
    ValueError
        If ``kernel`` or ``lengthscale`` is out of range. When the model is built: if Y has missing
        entries.

    Notes
    -----
    As X is no free variable, ``fit_map`` and ``fit_marginal`` find the mode of the weights and move no
    single rows, nor does ``sample``.

    References
    ----------
    Lawrence, N. D., Quiñonero-Candela, J. (2006). Local distance preservation in the GP-LVM through
    back constraints. ICML 23, 513-520.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=32)
    >>> model = gplvm.build_model(Y[:30], priors={"X": gplvm.priors.back_constraint()})
    >>> best = gplvm.fit_marginal(model, progressbar=False)
    >>> gplvm.embed(best, Y[30:], progressbar=False)["posterior"]["X"].dims
    ('chain', 'draw', 'obs_new', 'latent')
    """
    if kernel not in ("rbf", "linear"):
        raise ValueError(f"kernel must be 'rbf' or 'linear', got {kernel!r}.")
    if lengthscale is not None and (kernel == "linear" or not 0.0 < lengthscale < np.inf):
        raise ValueError(
            f"lengthscale must be positive and finite, and goes with 'rbf' alone, got {lengthscale!r} "
            f"and kernel={kernel!r}."
        )

    def prior(name: str, dims: tuple[str, ...]) -> Variable:
        model = pm.modelcontext(None)
        F = _table(model)
        unit = np.inf if kernel == "linear" else (lengthscale or float(np.median(pdist(F))))
        basis = basis_of(F, unit)
        model.add_coord("basis", np.arange(basis.shape[1]))
        pm.Data(f"{name}_back_lengthscale", unit)
        weights = pm.Normal(f"{name}_weights", 0.0, 1.0, dims=("basis", LATENT))
        return pm.Deterministic(name, pt.constant(basis) @ weights, dims=dims)

    return prior


def _table(model: pm.Model) -> Array:
    """Standardise the table of a model that is being built."""
    if "Y_seen" in model.named_vars:
        raise ValueError(
            "back_constraint needs a complete Y, got missing entries: a row's place is a function of "
            "all of it. Impute them first, or take another prior of X."
        )
    mean, scale, data = (model[f"Y_{part}"].get_value() for part in ("mean", "scale", "data"))
    return np.ascontiguousarray(((data - mean[:, None]) / scale[:, None]).T)


def _similarity(F_new: Array, F: Array, lengthscale: float) -> Array:
    """φ of new rows and the known ones, shape (M, N)."""
    if np.isinf(lengthscale):
        return cross_and_rate("linear", F_new, F, product=rowwise)[0] / (F**2).sum(axis=1).mean()
    return cross_covariance("rbf", F_new, F, lengthscale=lengthscale)


def _eigen(F: Array, lengthscale: float) -> tuple[Array, Array]:
    """Eigenvalues of Φ above rounding, the largest first, and their vectors."""
    values, vectors = np.linalg.eigh(_similarity(F, F, lengthscale))
    kept = values > _ROUNDING * values[-1]
    return values[kept][::-1], vectors[:, kept][:, ::-1]


def basis_of(F: Array, lengthscale: float) -> Array:
    """B (N, M) with B Bᵀ = Φ; its columns are orthogonal."""
    values, vectors = _eigen(F, lengthscale)
    return vectors * np.sqrt(values)


def mapped(read: Fit, F: Array, F_new: Array, X: Array) -> Array:
    """Map new rows (M, D) to φ(f, F) Φ⁺ X, X (..., N, Q) as drawn: any square root of Φ gives the same."""
    unit = float(read.constants["X_back_lengthscale"])
    values, vectors = _eigen(F, unit)
    gain = rowwise(rowwise(_similarity(F_new, F, unit), vectors) / values, vectors.T)
    return np.asarray((gain[:, None] @ X[..., None, :, :])[..., 0, :])
