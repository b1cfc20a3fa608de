"""Priors of parameters, and priors of X that know something: of single rows, their order, classes or Y.

Each class for X makes what ``build_model(Y, priors={"X": ...})`` takes. What the prior knows is
registered in the model as data or variables, so that a fit holds it too. Its class also says what the
package asks of such a prior beside its density (:class:`LatentPrior`).
"""

import copy
import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.distribution import SymbolicRandomVariable
from pymc.distributions.shape_utils import change_dist_size
from pytensor.graph.basic import Constant, Variable
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.type_other import NoneTypeT
from scipy.spatial.distance import pdist

from pm_gplvm.core.autoregression import KERNEL, Autoregression
from pm_gplvm.core.blas import rowwise
from pm_gplvm.core.checks import Array, function_of, number, one_of
from pm_gplvm.core.composite import checked_dims
from pm_gplvm.core.kernels import cross_and_rate, cross_covariance
from pm_gplvm.core.mixtures import Mixture
from pm_gplvm.data.arrays import (
    by_row,
    classes,
    duration,
    first_date,
    labels_along,
    nanoseconds,
    numbers,
    order_of,
    times,
)
from pm_gplvm.data.fit import CLASS, LATENT, OBS, SEQUENCE, TIME_KERNEL, Fit
from pm_gplvm.model.compile import constants, is_random
from pm_gplvm.model.ops import covariance, lower_factor, whitened

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
    "alpha": lambda: pm.LogNormal.dist(0.0, 1.0),
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
        return _called(name, prior, dims, shape)
    return _fixed(name, prior, dims, shape, positive)


def _called(name: str, prior: Any, dims: tuple[str, ...], shape: tuple[int, ...]) -> Variable:
    """Call a function that registers the variable, and look whether it did."""
    what = f"priors[{name!r}]"
    if isinstance(prior, type):
        raise TypeError(
            f"{what} must be an object made of {prior.__name__}, got the class. Call it first: "
            f"{prior.__name__}(...)."
        )
    if isinstance(prior, LatentPrior) and name != "X":
        raise ValueError(
            f"{what} must be a prior of one parameter, got {type(prior).__name__}, one of X."
        )
    function_of(what, prior, "name", "dims")
    variable = prior(name, dims)
    if not isinstance(variable, Variable):
        raise TypeError(
            f"{what} was called and must return the variable it made, got {type(variable).__name__}."
        )
    registered = pm.modelcontext(None).named_vars
    if registered.get(name) is not variable:
        found = (
            f"one called {variable.name!r}" if variable.name in registered else "one that is not"
        )
        raise ValueError(
            f"{what} must register the variable {name!r} in the model and return it, got {found}. "
            f"Write for instance lambda name, dims: pm.HalfNormal(name, 1.0, dims=dims)."
        )
    _check_drawn(what, variable, shape)
    return variable


def _check_drawn(what: str, variable: Variable, shape: tuple[int, ...], wanted: str = "") -> None:
    """Raise unless a variable is a number of the wanted shape."""
    if not str(variable.dtype).startswith("float"):
        raise ValueError(f"{what} must be continuous, got one of {variable.dtype}.")
    given = tuple(variable.type.shape)
    if len(given) != len(shape) or any(
        a not in (None, b) for a, b in zip(given, shape, strict=True)
    ):
        raise ValueError(f"{what} must have shape {wanted or shape}, got {given}.")


def _registered(
    name: str, prior: Variable, dims: tuple[str, ...], shape: tuple[int, ...]
) -> Variable:
    if prior.owner is None or not hasattr(prior.owner.op, "ndim_supp"):
        raise TypeError(
            f"priors[{name!r}] must be a distribution made by .dist(), such as pm.HalfNormal.dist(1), "
            f"got the variable {prior}."
        )
    _check_drawn(f"priors[{name!r}]", prior, shape if prior.type.ndim else (), f"() or {shape}")
    # A variable of its own, so that one distribution may serve several parameters and models.
    prior = change_dist_size(prior, shape[: len(shape) - prior.owner.op.ndim_supp])
    return pm.modelcontext(None).register_rv(prior, name, dims=dims)


def _fixed(
    name: str, prior: Any, dims: tuple[str, ...], shape: tuple[int, ...], positive: bool
) -> Variable:
    try:
        if isinstance(prior, bool | np.bool_):
            raise TypeError("no number")
        given = by_row("priors['X']", prior, _rows()) if dims[:1] == (OBS,) else prior
        value = numbers(f"priors[{name!r}]", given)
    except TypeError:
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


class LatentPrior:
    """A prior of X that knows something: registers X under a name with its dims, and all that it needs besides.

    What its class says is asked beside its density; as it stands here, it is said of one of the user's
    own. Two are equal if they are of one class and their arguments are equal.
    """

    mark: ClassVar[str] = ""  # the data by which a model, or a fit, tells it
    spread: ClassVar[str | None] = None  # of X; by default it is the second parameter of X
    correlated: ClassVar[bool] = False  # the first parameter of X is the covariance of the rows
    anchored: ClassVar[bool] = False  # starts are turned towards the means
    closed: ClassVar[bool] = True  # its precision and divergences are known in closed form
    mapped: ClassVar[bool] = False  # X is a function of Y by weights, and so is a new row's place

    @staticmethod
    def new_row(fit: Fit, chosen: NDArray[np.intp]) -> list[NewRow]:
        """Prior of a new row's position in each of some draws of a fit.

        N(0, 1) in the frame of each draw: what is rotated stays, what was moved moves along.
        """
        frames = fit.frames(chosen)
        return [
            (shift, scale, None) for shift, scale in zip(frames.shift, frames.scale, strict=True)
        ]

    of_rows: ClassVar[tuple[str, ...]] = ()  # arguments with an entry a row
    rows: ClassVar[NDArray[Any] | None] = None  # labels of those entries, if they had any

    def joined(self, rows: NDArray[Any], *, labelled: bool = False) -> Self:
        """Return the prior for a table with these rows: joined by label, or by position."""
        name, *_ = self.of_rows or ("",)
        order = order_of(name, self.rows, rows, labelled=labelled)
        if order is None:
            if name and len(given := getattr(self, name)) != len(rows):
                raise ValueError(
                    f"{name} must have one entry a row, {len(rows)}, got {len(given)}. Where rows are left "
                    "out, as in folds, give a pandas Series and a DataFrame with the same index."
                )
            return self
        other = copy.copy(self)
        other._keep(rows=rows, **{name: getattr(self, name)[order] for name in self.of_rows})
        return other

    def _keep(self, **checked: Any) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the way of frozen dataclasses

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        known = {name: v for name, v in vars(self).items() if name != "rows" or v is not None}
        arguments = (f"{name}={_argument_text(value)}" for name, value in known.items())
        return f"{type(self).__name__}({', '.join(arguments)})"


def _argument_text(value: Any) -> str:
    if isinstance(value, Variable):
        parts = () if value.owner is None else value.owner.inputs
        # What is made of other distributions may share them with a third, and equals itself alone.
        alone = not parts or is_random(*(p for p in parts if not isinstance(p.type, RandomType)))
        return f"{value} {id(value):#x}" if alone else distribution_text(value)
    return _array_text(value) if isinstance(value, np.ndarray) else repr(value)


def distribution_text(rv: Variable, named: Container[Variable] = ()) -> str:
    """Describe a distribution as no other is, and with it those that it is made of.

    "InverseGamma(3.0, 2.0)"; arrays of numbers by shape and SHA-256, named variables by their names.
    """
    op = rv.owner.op
    try:
        parameters = op.dist_params(rv.owner)
    except (AttributeError, NotImplementedError):  # of a symbolic one without a signature
        parameters = rv.owner.inputs
    parameters = [p for p in parameters if not isinstance(p.type, RandomType)]
    name = getattr(op, "_print_name", (type(op).__name__,))[0]
    return f"{name}({', '.join(_parameter_text(p, named) for p in parameters)})"


def _parameter_text(v: Variable, named: Container[Variable]) -> str:
    if v in named:
        return str(v.name)
    if isinstance(v.type, NoneTypeT):
        return "None"
    if not is_random(v):
        return _number_text(v.data if isinstance(v, Constant) else constants(v)[0])
    if isinstance(v.owner.op, RandomVariable | SymbolicRandomVariable):
        return distribution_text(v, named)
    inputs = [i for i in v.owner.inputs if not isinstance(i.type, RandomType)]
    return f"{v.owner.op}({', '.join(_parameter_text(i, named) for i in inputs)})"


def _number_text(value: Any) -> str:
    try:
        value = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return str(value)
    alike = value.size and (value == value.flat[0]).all()
    return repr(float(value.flat[0])) if alike else _array_text(np.ascontiguousarray(value))


def _array_text(value: NDArray[Any]) -> str:
    """Describe an array by its shape and SHA-256: of its bytes, or of the words of its objects."""
    text = repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
    return f"array {value.shape} {hashlib.sha256(text).hexdigest()[:16]}"


def kind_of_prior(names: Container[Any]) -> type[LatentPrior]:
    """Which of the priors here X has, by the names of the data of a model or a fit."""
    known = (informative, dynamics, transitions, class_mixture, back_constraint, circular)
    return next((kind for kind in known if kind.mark in names), LatentPrior)


@dataclass(frozen=True, eq=False, repr=False)
class informative(LatentPrior):
    """Tell where rows lie: x_nq ~ N(mean_nq, sd_nq²), N(0, 1) where nothing is known.

    For capture times, stages, pseudotime of anchors (GrandPrix: Ahmed, Rattray & Boukouvalas 2019).
    A start from PCA or Isomap is turned towards the means. It is for ``build_model(Y, priors={"X": ...})``;
    the model has the data ``X_prior_mean`` and ``X_prior_sd`` (obs, latent).

    Parameters
    ----------
    mean : array_like, shape (N,) or (N, Q)
        Of the first latent dimension, or of all; NaN where nothing is known. Best of about unit
        spread: the lengthscale's default prior expects that.
    sd : array_like, a number or of the shape of ``mean``
        Standard deviations, positive where ``mean`` is known.

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

    mean: Any
    sd: Any

    of_rows = ("mean", "sd")
    mark = "X_prior_mean"
    anchored = True

    def __post_init__(self) -> None:
        rows = labels_along(self.mean, 0)
        sd = self.sd if rows is None else by_row("sd", self.sd, rows)
        mean, sd = numbers("mean", self.mean), numbers("sd", sd)
        if sd.shape not in ((), mean.shape):
            raise ValueError(
                f"sd must be a number or of the shape of mean, {mean.shape}, got {sd.shape}."
            )
        sd = np.array(np.broadcast_to(sd, mean.shape))
        known = ~np.isnan(mean)
        if mean.ndim not in (1, 2) or not known.any() or np.isinf(mean).any():
            raise ValueError(
                "mean must have shape (N,) or (N, Q), be finite and known of some rows, got shape "
                f"{mean.shape} with {int(np.isfinite(mean).sum())} finite entries."
            )
        if not (np.isfinite(sd[known]).all() and (sd[known] > 0.0).all()):
            raise ValueError(
                "sd must be positive and finite wherever mean is known, got other values."
            )
        self._keep(mean=mean, sd=sd, rows=rows)

    def __call__(self, name: str, dims: tuple[str, ...]) -> Variable:
        """Register X."""
        centre, spread = self.joined(_rows()).moments_for(_shape())
        mu = pm.Data(f"{name}_prior_mean", centre, dims=dims)
        sigma = pm.Data(f"{name}_prior_sd", spread, dims=dims)
        return pm.Normal(name, mu, sigma, dims=dims)

    def moments_for(self, shape: tuple[int, int]) -> tuple[Array, Array]:
        """Mean and standard deviation of all positions, both of this shape (N, Q)."""
        (N, Q), mean = shape, self.mean
        if mean.ndim == 2 and mean.shape[1] != Q:
            raise ValueError(f"mean must have shape ({N},) or ({N}, {Q}), got {mean.shape}.")
        centre, spread = np.zeros((N, Q)), np.ones((N, Q))
        wide, sd = (v.reshape(N, -1) for v in (mean, self.sd))
        columns = slice(wide.shape[1])
        centre[:, columns] = np.nan_to_num(wide)
        spread[:, columns] = np.where(np.isnan(wide), 1.0, sd)
        return centre, spread


@dataclass(frozen=True, eq=False, repr=False)
class dynamics(LatentPrior):
    """Let X move smoothly along a known index: its columns are Gaussian processes over t.

    x_q ~ N(0, (1 - own²) κ(‖t - t'‖ / lengthscale) + own² I), κ = 0 between sequences (Wang, Fleet &
    Hertzmann 2008 in spirit; Damianou, Titsias & Lawrence 2011, eq. 2). Each entry by itself is
    N(0, 1). It is for ``build_model(Y, priors={"X": ...})``; the model has the data ``X_time`` and
    ``X_sequence`` (obs,), ``X_sequence_rows`` (latent_sequence,), ``X_own`` (time_kernel,), where there are dates
    ``X_time_start`` and ``X_time_unit``, and ``X_lengthscale``. :func:`forecast` continues X, and Y, to other times.

    Parameters
    ----------
    t : array_like, shape (N,)
        Time, or another index, in any order and unit: numbers, dates or durations.
    kernel : {"matern32", "matern52", "rbf"}, default "matern32"
        κ.
    lengthscale : number or prior, optional
        In units of t, as in ``build_model``'s ``priors``: held at a number or a duration, or a
        distribution. By default LogNormal(ln(r/4), 0.5), r the median over the sequences of their
        range of t.
    own : float, default 0.1
        Standard deviation of what is a row's own, in (0, 1). Where rows are far smoother along t than that, as in motion
        capture, X is stretched until it fits, and :func:`forecast` is too sure: take less, 0.001 say.
    sequences : array_like, shape (N,), optional
        Label of the sequence that a row belongs to; one for all by default.
    time_unit : {"W", "D", "h", "m", "s", "ms", "us", "ns"}, default "D"
        The unit of t and of the lengthscale where t holds dates or durations, days by default: whatever
        resolution they are stored in, ``X_time`` is in this unit, since the first date.

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

    t: Any
    _: KW_ONLY
    kernel: Literal["rbf", "matern32", "matern52"] = "matern32"
    lengthscale: Any = None
    own: float = 0.1
    sequences: Any = None
    time_unit: Literal["W", "D", "h", "m", "s", "ms", "us", "ns"] = "D"

    of_rows = ("t", "sequences")
    mark = "X_time"
    correlated = True
    names: ClassVar[tuple[str, ...]] = ("",)
    """Of the sequences; "" where there is one, without a name."""

    calendar: ClassVar[tuple[Array | None, float] | None] = None
    """Of dates, or durations: start and unit."""

    def __post_init__(self) -> None:
        rows = labels_along(self.t, 0)
        t, dated = times("t", self.t, self.time_unit)
        if t.ndim != 1 or not np.isfinite(t).all() or not np.ptp(t) > 0.0:
            raise ValueError(
                "t must be one finite number a row, not all the same, got other values."
            )
        one_of("kernel", self.kernel, _KERNELS)
        own = number("own", self.own, above=0.0, below=1.0)
        unit = duration("lengthscale", self.lengthscale, self.time_unit)
        if unit is not self.lengthscale and not dated:
            raise ValueError(
                f"lengthscale must be in units of t, which holds numbers, got the duration {self.lengthscale}."
            )
        sequence = np.zeros(len(t), dtype=np.intp)
        if self.sequences is not None:
            given = self.sequences if rows is None else by_row("sequences", self.sequences, rows)
            known = classes("sequences", given)
            sequence = known.codes.astype(np.intp)
            self._keep(names=tuple(plain_name(label) for label in known.categories))
            if sequence.shape != t.shape or (sequence < 0).any():
                raise ValueError(
                    f"sequences must have one label a row, {t.shape}, got {sequence.shape} with "
                    f"{int((sequence < 0).sum())} missing."
                )
        if dated:
            self._keep(calendar=(first_date(self.t), nanoseconds(self.time_unit)))
        self._keep(t=t, own=own, lengthscale=unit, sequences=sequence, rows=rows)

    def __call__(self, name: str, dims: tuple[str, ...]) -> Variable:
        """Register X, and its lengthscale along t."""
        self = self.joined(_rows())
        (N, Q), t, sequence = _shape(), self.t, self.sequences
        given = self.lengthscale
        if given is None:
            ranges = [np.ptp(t[sequence == s]) for s in np.unique(sequence)]
            usual = np.median([r for r in ranges if r > 0.0] or [np.ptp(t)])
            given = pm.LogNormal.dist(np.log(usual / 4.0), 0.5)
        unit = add_prior(f"{name}_lengthscale", given, dims=(), shape=(), positive=True)
        time = pm.Data(f"{name}_time", t, dims=OBS)
        group = pm.Data(f"{name}_sequence", sequence, dims=OBS)
        self._note(name)
        amplitude = np.sqrt(1.0 - self.own**2)
        K = covariance(self.kernel, time[:, None], lengthscale=unit, amplitude=amplitude)
        together = pt.eq(group[:, None], group[None, :])
        rowcov = K * together + self.own**2 * pt.eye(N)
        return pm.CustomDist(
            name,
            rowcov,
            np.zeros(Q),
            dist=_paths,
            logp=_paths_logp,
            signature="(n,n),(q)->(n,q)",
            dims=dims,
        )

    def _note(self, name: str) -> None:
        """Keep in the model, and so in its fits, what other times and sequences need to know."""
        model = pm.modelcontext(None)
        model.add_coord(SEQUENCE, self.names)
        model.add_coord(TIME_KERNEL, [self.kernel])
        counts = np.bincount(self.sequences, minlength=len(self.names))
        pm.Data(f"{name}_sequence_rows", counts, dims=SEQUENCE)
        pm.Data(f"{name}_own", np.array([self.own]), dims=TIME_KERNEL)
        if self.calendar is not None:
            start, unit = self.calendar
            pm.Data(f"{name}_time_unit", unit)
            if start is not None:
                pm.Data(f"{name}_time_start", start)


def plain_name(label: Any) -> str:
    """Say a label as text, 1.0 as 1 is."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


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


@dataclass(frozen=True, eq=False, repr=False)
class transitions(LatentPrior):
    """Let each position follow from the one before: x_n = f(x_{n-1}) + e, the columns of f Gaussian processes.

    The Gaussian process dynamical model of first order (Wang, Fleet & Hertzmann 2008, eq. 10). With f integrated out

        p(X) = Π N(x_first; 0, I) Π_q N(x_after,q; 0, K(X_before) + noise² I),

        k(x, x') = amplitude² exp(-‖x - x'‖² / 2 lengthscale²) + weight² x·x',

    before and after over the transitions of all sequences, which share f. A movement that comes again is known to do so,
    unlike under :func:`dynamics`. It is for ``build_model(Y, priors={"X": ...})``; the model has the variables
    ``X_map_lengthscale``, ``X_map_amplitude``, ``X_map_weight`` and ``X_map_noise``, and the data ``X_before`` (obs,), the row
    before each, -1 for the first of a sequence. :func:`forecast` continues X, and Y, by whole steps.

    Parameters
    ----------
    sequences : array_like, shape (N,), optional
        Label of the sequence that a row belongs to; one for all by default. The rows of a sequence follow each other
        in the order of the table, at equal steps.
    lengthscale, amplitude, weight : number or prior, optional
        Of f, as in ``build_model``'s ``priors``; by default InverseGamma(3, 2), LogNormal(0, 1) and HalfNormal(1).
    noise : number or prior, default 0.1
        Standard deviation of a step about f.

    Raises
    ------
    ValueError
        If a label is missing, or no row follows another. When the model is built: if there is not one entry a row.

    Notes
    -----
    :func:`fit_map` finds X and θ; :func:`sample` takes small tables. What needs p(X) in closed form, :func:`fit_marginal` and the
    fits with inducing inputs, refuses it. In a joint mode a free ``noise`` shrinks to nothing and X with it, the density
    growing without end: leave it held there.

    A new row has N(0, I) in :func:`embed`.

    References
    ----------
    Wang, J. M., Fleet, D. J., Hertzmann, A. (2008). Gaussian process dynamical models for human motion.
    IEEE Transactions on Pattern Analysis and Machine Intelligence 30, 283-298.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model(Y, priors={"X": gplvm.priors.transitions()})
    >>> [rv.name for rv in model.free_RVs][:4]
    ['X_map_lengthscale', 'X_map_amplitude', 'X_map_weight', 'X']
    """

    sequences: Any = None
    _: KW_ONLY
    lengthscale: Any = None
    amplitude: Any = None
    weight: Any = None
    noise: Any = 0.1

    mark = "X_before"
    closed = False
    of_rows = ("sequences",)

    def __post_init__(self) -> None:
        if self.sequences is None:
            self._keep(of_rows=())
            return
        rows = labels_along(self.sequences, 0)
        known = classes("sequences", self.sequences)
        if (known.codes < 0).any():
            missing = int((known.codes < 0).sum())
            raise ValueError(f"sequences must have one label a row, got {missing} missing.")
        names = np.array([plain_name(label) for label in known.categories], dtype=object)
        self._keep(sequences=names[known.codes], rows=rows)

    def __call__(self, name: str, dims: tuple[str, ...]) -> Variable:
        """Register X, and the parameters of f."""
        self = self.joined(_rows())
        N, Q = _shape()
        labels = np.repeat("", N) if self.sequences is None else self.sequences.astype(str)
        names, sequence = np.unique(labels, return_inverse=True)
        before = np.full(N, -1)
        for i in range(len(names)):
            rows = np.flatnonzero(sequence == i)
            before[rows[1:]] = rows[:-1]
        if (before < 0).all():
            raise ValueError(
                f"sequences must hold rows that follow each other, got {len(names)} of one row each."
            )
        model = pm.modelcontext(None)
        model.add_coord(SEQUENCE, names.tolist())
        pm.Data(f"{name}_before", before, dims=OBS)
        pm.Data(f"{name}_sequence", sequence, dims=OBS)
        pm.Data(f"{name}_sequence_rows", np.bincount(sequence), dims=SEQUENCE)
        theta = []
        for part in ("lengthscale", "amplitude", "weight", "noise"):
            prior = getattr(self, part)
            prior = DEFAULT_PRIORS[part]() if prior is None else prior
            theta.append(add_prior(f"{name}_map_{part}", prior, dims=(), shape=(), positive=True))
        return pm.CustomDist(
            name,
            *theta,
            np.zeros((N, Q)),
            logp=partial(_steps_logp, before),
            random=partial(_steps, before),
            signature="(),(),(),(),(n,q)->(n,q)",
            dims=dims,
        )


def _steps_logp(before: NDArray[np.intp], x: Variable, *parameters: Variable) -> Variable:
    """Log-density of the first rows, and of all others given those before."""
    lengthscale, amplitude, weight, noise, _ = parameters
    first, after = np.flatnonzero(before < 0), np.flatnonzero(before >= 0)
    theta = {"lengthscale": lengthscale, "amplitude": amplitude, "weight": weight}
    K = covariance(KERNEL, x[before[after]], **theta) + noise**2 * pt.eye(len(after))
    logdet, half = whitened(K, x[after])
    Q = x.shape[1]
    quad = (half**2).sum() + (x[first] ** 2).sum() + Q * logdet
    value = -0.5 * (quad + Q * len(before) * np.log(2.0 * np.pi))
    return pt.switch(pt.isnan(logdet), -np.inf, value)


def _steps(before: NDArray[np.intp], *parameters: Any, rng: Any = None, size: Any = None) -> Array:
    """Draw X step by step, of one f for all sequences."""
    *theta, zeros = (np.asarray(value) for value in parameters)
    lead = np.broadcast_shapes(tuple(size or ()), *(v.shape for v in theta), zeros.shape[:-2])
    drawn = np.empty((*lead, *zeros.shape[-2:]))
    theta = [np.broadcast_to(value, lead) for value in theta]
    for i in np.ndindex(*lead):
        lengthscale, amplitude, weight, noise = (float(value[i]) for value in theta)
        kernel = {"lengthscale": lengthscale, "amplitude": amplitude, "weight": weight}
        X, known = drawn[i], np.zeros(0, dtype=np.intp)
        for first in np.flatnonzero(before < 0):
            rows = [first]
            while len(following := np.flatnonzero(before == rows[-1])):
                rows.append(following[0])
            X[first] = rng.standard_normal(X.shape[1])
            step = Autoregression(X[before[known]], X[known], kernel, noise)
            X[rows[1:]] = step.paths(X[[first]], len(rows) - 1, rng)[0]
            known = np.concatenate([known, rows[1:]])
    return drawn


@dataclass(frozen=True, eq=False, repr=False)
class class_mixture(LatentPrior):
    """Gather rows of a class: x_n ~ N(c_k, within²) for a row of class k, each c_kq ~ N(0, 1).

    A row of unknown label has the mixture of all classes, by their share of the known labels. For
    batches, stages or species of which some labels are known. A new row has that mixture in
    :func:`embed`. It is for ``build_model(Y, priors={"X": ...})``; the model has ``X_centre`` (latent_class,
    latent), ``X_within`` and the data ``X_class`` (obs,), -1 where unknown.

    Parameters
    ----------
    labels : array_like, shape (N,)
        A class for each row; None, NaN or "" where it is unknown.
    within : number or prior, default 0.5
        Standard deviation within a class, as in ``build_model``'s ``priors``.

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

    labels: Any
    _: KW_ONLY
    within: Any = 0.5

    of_rows = ("labels",)
    mark = "X_class"
    spread = "X_within"

    def __post_init__(self) -> None:
        known = classes("labels", self.labels)
        if (known.codes < 0).all():
            raise ValueError("labels must have a known class, got none.")
        names = np.array([*known.categories, None], dtype=object)  # code -1 is the last one
        self._keep(labels=names[known.codes], rows=labels_along(self.labels, 0))

    def coded(self) -> tuple[NDArray[np.intp], list[str]]:
        """Give the number of each row's class, -1 where it is unknown, and the names of those that rows have."""
        known = classes("labels", self.labels)
        if not len(known.categories):
            raise ValueError("labels must have a known class among the rows of Y, got none.")
        return known.codes.astype(np.intp), [str(name) for name in known.categories]

    @staticmethod
    def new_row(fit: Fit, chosen: NDArray[np.intp]) -> list[NewRow]:
        """Mix the classes in the frame of each draw."""
        share = fit.constants["X_share"].to_numpy()
        centres, spreads = (fit.values(f"X_{part}")[chosen] for part in ("centre", "within"))
        frames = fit.frames(chosen)
        mixtures = [
            Mixture(share, frames.inward(i, c), float(s * frames.scale[i, 0]))
            for i, (c, s) in enumerate(zip(centres, spreads, strict=True))
        ]
        return [(mixture.mean, mixture.spread, mixture) for mixture in mixtures]

    def __call__(self, name: str, dims: tuple[str, ...]) -> Variable:
        """Register X, the centres of the classes and the spread within."""
        number, names = self.joined(_rows()).coded()
        share = np.bincount(number[number >= 0]) / (number >= 0).sum()
        model = pm.modelcontext(None)
        model.add_coord(CLASS, names)
        spread = add_prior(f"{name}_within", self.within, dims=(), shape=(), positive=True)
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


def _gathered(weights: Variable, centre: Variable, spread: Variable, size: Any) -> Variable:
    """Draw a class for each row, and a place about its centre."""
    return pm.Normal.dist(centre[pm.Categorical.dist(weights)], spread)


def _gathered_logp(x: Variable, weights: Variable, centre: Variable, spread: Variable) -> Variable:
    """Log-density of each row: ln Σ_k w_k N(x; c_k, spread² I)."""
    squares = ((x[..., None, :] - centre) ** 2).sum(axis=-1) / spread**2
    units = centre.shape[-1] * (0.5 * np.log(2.0 * np.pi) + pt.log(spread))
    return pt.logsumexp(pt.log(weights) - 0.5 * squares, axis=-1) - units


def _rows() -> NDArray[Any]:
    """Labels of the rows of the model that is being built."""
    return np.asarray(pm.modelcontext(None).coords[OBS])


def _shape() -> tuple[int, int]:
    """Rows and latent dimensions of the model that is being built."""
    coords = pm.modelcontext(None).coords
    return len(coords[OBS]), len(coords[LATENT])


_CIRCLE = 3.0  # sd of a Normal that is uniform around a circle to within 2 exp(-sd²/2) = 2 %


@dataclass(frozen=True, eq=False, repr=False)
class circular(LatentPrior):
    """Let latent dimensions that are angles lie anywhere around the circle: x_nq ~ N(0, 3²), N(0, 1) in the others.

    For dimensions at which a periodic factor of the kernel looks (:func:`kernels.periodic`). Modulo the period 2π
    N(0, 3²) is uniform to within 2 %, while N(0, 1) has a third of the rows within 25° of 0 and hardly any opposite.
    It is for ``build_model(Y, priors={"X": ...})``; a new row has this prior in :func:`embed`.

    Parameters
    ----------
    dims : int or sequence of int
        The latent dimensions that are angles.

    Raises
    ------
    TypeError, ValueError
        If the dimensions are no whole numbers from 0 on; when the model is built, if one is none of X.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model(
    ...     Y, kernel="rbf[0] + periodic[1]", priors={"X": gplvm.priors.circular(dims=1)}
    ... )
    >>> model["X_circular"].get_value().tolist()
    [1.0, 3.0]
    """

    dims: Any

    mark = "X_circular"

    def __post_init__(self) -> None:
        self._keep(dims=checked_dims(self.dims))

    @staticmethod
    def new_row(fit: Fit, chosen: NDArray[np.intp]) -> list[NewRow]:
        """Give a new row the prior of the rows, in the frame of each draw."""
        frames, sd = fit.frames(chosen), fit.constants["X_circular"].to_numpy()
        return [
            (shift, scale * sd, None)
            for shift, scale in zip(frames.shift, frames.scale, strict=True)
        ]

    def __call__(self, name: str, dims: tuple[str, ...]) -> Variable:
        """Register X, and the standard deviation of each of its dimensions."""
        _, Q = _shape()
        if max(self.dims) >= Q:
            raise ValueError(
                f"dims must name latent dimensions from 0 to {Q - 1}, got {max(self.dims)}."
            )
        sd = np.ones(Q)
        sd[list(self.dims)] = _CIRCLE
        pm.Data(f"{name}_circular", sd, dims=LATENT)  # by which a fit tells it
        return pm.Normal(name, 0.0, sd, dims=dims)


@dataclass(frozen=True, eq=False, repr=False)
class back_constraint(LatentPrior):
    """Make X a function of Y: X = g(Y), each column of g a Gaussian process over the rows of Y.

    x_q = B w_q with w_q ~ N(0, I) and B Bᵀ = Φ, Φ_nm = φ(f_n, f_m) and f the rows of (Y - mean) / scale:
    in the span of φ(f, f_m), as the kernel mapping of Lawrence & Quiñonero-Candela (2006, section 3)
    is, the prior N(0, Φ) in place of none. "rbf": φ = exp(-½ ‖f - f'‖² / lengthscale²); "linear":
    φ = f·f' / c, c the mean of ‖f_n‖². A new row y lies at φ(f, F) Φ⁺ X, which is what :func:`embed`
    gives for such a fit. It is for ``build_model(Y, priors={"X": ...})``; the model has the variables
    ``X_weights`` (basis, latent), the deterministic ``X`` (obs, latent) and the data
    ``X_back_lengthscale``, infinite for "linear".

    Parameters
    ----------
    kernel : {"rbf", "linear"}, default "rbf"
        φ.
    lengthscale : float, optional
        Of "rbf", in units of the data's scale; by default the median distance between rows of F.

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

    kernel: Literal["rbf", "linear"] = "rbf"
    _: KW_ONLY
    lengthscale: float | None = None

    mark = "X_back_lengthscale"
    mapped = True

    def __post_init__(self) -> None:
        kernel, unit = self.kernel, self.lengthscale
        if kernel not in ("rbf", "linear"):
            raise ValueError(f"kernel must be 'rbf' or 'linear', got {kernel!r}.")
        if unit is not None and kernel == "linear":
            raise ValueError(f"lengthscale must be None with the kernel 'linear', got {unit!r}.")
        if unit is not None:
            self._keep(lengthscale=number("lengthscale", unit, above=0.0))

    def __call__(self, name: str, dims: tuple[str, ...]) -> Variable:
        """Register the weights, and X as a function of them."""
        model = pm.modelcontext(None)
        F = _table(model)
        linear = self.kernel == "linear"
        unit = np.inf if linear else (self.lengthscale or float(np.median(pdist(F))))
        basis = basis_of(F, unit)
        model.add_coord("basis", np.arange(basis.shape[1]))
        pm.Data(f"{name}_back_lengthscale", unit)
        weights = pm.Normal(f"{name}_weights", 0.0, 1.0, dims=("basis", LATENT))
        return pm.Deterministic(name, pt.constant(basis) @ weights, dims=dims)


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
