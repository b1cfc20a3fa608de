"""The observed term as a PyMC distribution."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.distribution import Continuous, SymbolicRandomVariable
from pymc.distributions.shape_utils import implicit_size_from_params, rv_size_is_none
from pymc.pytensorf import normalize_rng_param
from pytensor.graph.basic import Variable
from pytensor.tensor.random.utils import normalize_size_param

from pm_gplvm.data.arrays import numbers
from pm_gplvm.model.compile import constants, is_random
from pm_gplvm.model.ops import (
    as_parameter,
    columns_logp,
    incomplete_columns_logp,
    lower_factor,
    own_columns_logp,
)


class GPColumnsRV(SymbolicRandomVariable):
    """Random draws of :class:`GPColumns`."""

    name = "GPColumns"
    extended_signature = "[rng],[size],(),(),(n,n)->[rng],(n)"
    _print_name = ("GPColumns", "\\operatorname{GPColumns}")

    @classmethod
    def _prepared(
        cls, parameters: tuple[Any, ...], size: Any, rng: Any
    ) -> tuple[tuple[Variable, ...], Any, Any]:
        """Parameters, size and generator as variables; the size that the parameters have by default."""
        variables = tuple(pt.as_tensor_variable(v) for v in parameters)
        size = normalize_size_param(size)
        if rv_size_is_none(size):
            size = implicit_size_from_params(*variables, ndims_params=cls.ndims_params)
        return variables, size, normalize_rng_param(rng)

    @classmethod
    def rv_op(cls, *parameters: Any, size: Any = None, rng: Any = None) -> Variable:
        (mu, scale, cov, *seen), size, rng = cls._prepared(parameters, size, rng)
        next_rng, z = pt.random.normal(
            size=pt.concatenate([size, cov.shape[-1:]]), rng=rng, return_next_rng=True
        )
        # The lower triangle decides, as it does in the log-density.
        f = z @ lower_factor(cov).mT
        draws = mu[..., None] + scale[..., None] * f
        inputs = [rng, size, mu, scale, cov, *seen]
        return cls(inputs=inputs, outputs=[next_rng, draws])(*inputs)


class IncompleteColumnsRV(GPColumnsRV):
    """The same of a table of which entries are missing: draws are of whole tables."""

    name = "IncompleteColumns"
    extended_signature = "[rng],[size],(),(),(n,n),(n)->[rng],(n)"
    _print_name = ("IncompleteColumns", "\\operatorname{IncompleteColumns}")


class OwnColumnsRV(GPColumnsRV):
    """Columns with an amplitude and a noise of their own: ``cov`` is the signal's alone."""

    name = "OwnColumns"
    extended_signature = "[rng],[size],(),(),(n,n),(),()->[rng],(n)"
    _print_name = ("OwnColumns", "\\operatorname{OwnColumns}")

    @classmethod
    def rv_op(cls, *parameters: Any, size: Any = None, rng: Any = None) -> Variable:
        (mu, scale, cov, amplitude, sigma, *seen), size, rng = cls._prepared(parameters, size, rng)
        shape = pt.concatenate([size, cov.shape[-1:]])
        next_rng, z = pt.random.normal(size=shape, rng=rng, return_next_rng=True)
        next_rng, white = pt.random.normal(size=shape, rng=next_rng, return_next_rng=True)
        # cov itself may be singular. The noise that every column has, in units of its amplitude, is
        # drawn with the signal; the rest by itself.
        common = (sigma**2 / amplitude**2).min()
        f = z @ lower_factor(cov + common * pt.eye(cov.shape[-1])).mT
        rest = pt.sqrt(pt.maximum(sigma**2 - common * amplitude**2, 0.0))
        noisy = amplitude[..., None] * f + rest[..., None] * white
        draws = mu[..., None] + scale[..., None] * noisy
        inputs = [rng, size, mu, scale, cov, amplitude, sigma, *seen]
        return cls(inputs=inputs, outputs=[next_rng, draws])(*inputs)


class IncompleteOwnColumnsRV(OwnColumnsRV):
    """The same of a table of which entries are missing."""

    name = "IncompleteOwnColumns"
    extended_signature = "[rng],[size],(),(),(n,n),(),(),(n)->[rng],(n)"
    _print_name = ("IncompleteOwnColumns", "\\operatorname{IncompleteOwnColumns}")


class GPColumns(Continuous):
    r"""One Gaussian N(mu, scale² K) for each column of a table, the columns independent.

    As PyMC puts batch dimensions first, the variable is the *transposed* table: pass
    ``observed=Y.T`` and ``dims=("feature", "obs")``. Its log-density has one term a feature.

    Parameters
    ----------
    cov : tensor_like, shape (N, N)
        Covariance of the rows, noise included: :func:`pm_gplvm.covariance`, or anything made
        with ``pm.gp.cov``.
    mu : tensor_like, shape () or (D,), default 0
        Mean of each column.
    scale : tensor_like, shape () or (D,), default 1
        Standard deviation that multiplies each column: the units of the data.
    seen : array_like or pm.Data, bool, shape (D, N), optional
        Where there is an entry: what stands in ``observed`` elsewhere is not looked at, but must
        be finite, as PyMC makes variables of NaN. Columns with the same rows observed share a
        factorisation (see :mod:`pm_gplvm.core.gaussian`). Random draws are of whole tables.
    amplitude, sigma : tensor_like, shape () or (D,), optional
        With ``sigma``, a white noise of each column, the columns are N(mu, scale² (amplitude² cov +
        sigma² I)), and ``cov`` is the signal's covariance alone; ``amplitude`` is 1 by default (see
        :mod:`pm_gplvm.core.spectral`).

    Notes
    -----
    The gradient in ``cov`` is ½ scale-free (K⁻¹FFᵀK⁻¹ - DK⁻¹), F = (Y - mu) / scale (Lawrence
    2005, eq. 10, with the missing ½). Where K is not positive definite the log-density is -inf.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_gplvm as gplvm
    >>> Y = np.random.default_rng(0).normal(size=(6, 3))
    >>> with pm.Model() as model:
    ...     X = pm.Normal("X", shape=(6, 1))
    ...     K = pm.gp.cov.ExpQuad(1, ls=1.0)(X) + 0.1 * np.eye(6)
    ...     Y_ = gplvm.GPColumns("Y", K, observed=Y.T)
    >>> Y_.ndim
    2
    """

    rv_type = GPColumnsRV
    rv_op = GPColumnsRV.rv_op

    def __new__(cls, name: str, cov: Any, *args: Any, observed: Any = None, **kwargs: Any) -> Any:
        """Register the variable; the table is compared with the covariance and the parameters before."""
        known = dict(zip(("mu", "scale", "seen", "amplitude", "sigma"), args, strict=False))
        given = {n: v for n, v in {**known, **kwargs}.items() if n in _OF_COLUMNS}
        if observed is not None:
            _check_table(observed, _parameter("cov", cov), given, {**known, **kwargs}.get("seen"))
        return super().__new__(cls, name, cov, *args, observed=observed, **kwargs)

    @classmethod
    def dist(
        cls,
        cov: Any,
        mu: Any = 0.0,
        scale: Any = 1.0,
        seen: Any = None,
        amplitude: Any = None,
        sigma: Any = None,
        **kwargs: Any,
    ) -> Variable:
        named = {"mu": mu, "scale": scale, "cov": cov}
        mu, scale, cov = (
            pt.as_tensor_variable(_parameter(n, v), dtype="float64") for n, v in named.items()
        )
        if sigma is not None:
            named = {"amplitude": 1.0 if amplitude is None else amplitude, "sigma": sigma}
            own = [_parameter(n, v) for n, v in named.items()]
            return _OwnColumns.dist([mu, scale, cov, *own], seen, **kwargs)
        if amplitude is not None:
            raise ValueError(
                "amplitude needs a sigma beside it, the noise that cov then leaves out, got none."
            )
        if seen is not None:
            return _IncompleteColumns.dist(cov, mu, scale, seen, **kwargs)
        return super().dist([mu, scale, cov], **kwargs)

    def support_point(rv: Variable, size: Any, mu: Any, scale: Any, cov: Any) -> Variable:
        return pt.zeros_like(rv) + mu[..., None]

    def logp(value: Variable, mu: Any, scale: Any, cov: Any) -> Variable:
        if value.ndim > 2:
            raise NotImplementedError(
                f"GPColumns has a log-density for one table (feature, obs), got {value.ndim} dimensions."
            )
        F = (pt.atleast_2d(value) - mu[..., None]) / scale[..., None]
        terms = columns_logp(F.T, cov, scale)
        return terms if value.ndim == 2 else terms[0]


_OF_COLUMNS: dict[str, dict[str, Any]] = {
    "mu": {},
    "scale": {"positive": True},
    "amplitude": {"least": 0.0},
    "sigma": {"positive": True},
}
"""Parameters that are one number, or one a column."""


def _parameter(name: str, value: Any) -> Variable:
    """Return a parameter of :class:`GPColumns` as a variable, or raise."""
    if name != "cov":
        return as_parameter(name, value, ndim=(0, 1), **_OF_COLUMNS[name])
    cov = as_parameter(name, value, ndim=(0, 1, 2, 3))
    rows, columns = cov.type.shape if cov.ndim == 2 else (None, None)
    if cov.ndim != 2 or (None not in (rows, columns) and rows != columns):
        found = f"{cov.ndim} dimensions" if cov.ndim != 2 else f"shape {cov.type.shape}"
        raise ValueError(f"cov must be one N × N matrix shared by all columns, got {found}.")
    return cov


def _check_table(observed: Any, cov: Variable, columns: Mapping[str, Any], seen: Any) -> None:
    """Raise unless a table (D, N) has the rows of K, and the columns of the parameters."""
    if isinstance(observed, Variable):
        shape = observed.type.shape
    else:
        values = numbers("observed", observed)
        shape = values.shape
        if missing := int((~np.isfinite(values)).sum()):
            raise ValueError(
                f"observed must be finite, got {missing} missing or infinite entries. Put any number there, "
                "and pass seen, False where an entry is missing."
            )
    if len(shape) not in (1, 2):
        raise ValueError(f"observed must be one table (feature, obs), got {len(shape)} dimensions.")
    D, N = (1, *shape)[-2:]
    if None not in (N, cov.type.shape[-1]) and cov.type.shape[-1] != N:
        raise ValueError(
            f"cov must have a row for each of the {N} rows of observed (feature, obs), got shape "
            f"{cov.type.shape}. Is observed transposed? Pass observed=Y.T."
        )
    for name, value in columns.items():
        given = () if value is None else _parameter(name, value).type.shape
        if D is not None and given not in ((), (None,), (1,), (D,)):
            raise ValueError(
                f"{name} must be one number, or one for each of the {D} columns, got shape {given}."
            )
    mask = () if seen is None else _mask(seen).type.shape
    if any(None not in (a, b) and a != b for a, b in zip(mask, (D, N), strict=False)):
        raise ValueError(f"seen must have the shape of observed, {(D, N)}, got {mask}.")


class _IncompleteColumns(Continuous):
    """:class:`GPColumns` with ``seen``."""

    rv_type = IncompleteColumnsRV
    rv_op = IncompleteColumnsRV.rv_op

    @classmethod
    def dist(cls, cov: Any, mu: Any, scale: Any, seen: Any, **kwargs: Any) -> Variable:
        return super().dist([mu, scale, cov, _mask(seen)], **kwargs)

    def support_point(
        rv: Variable, size: Any, mu: Any, scale: Any, cov: Any, seen: Any
    ) -> Variable:
        return pt.zeros_like(rv) + mu[..., None]

    def logp(value: Variable, mu: Any, scale: Any, cov: Any, seen: Any) -> Variable:
        F = (value - mu[..., None]) / scale[..., None]
        return incomplete_columns_logp(F.T, cov, _numbers(seen).T, scale)


class _OwnColumns(Continuous):
    """:class:`GPColumns` with ``sigma``."""

    rv_type = OwnColumnsRV
    rv_op = OwnColumnsRV.rv_op

    @classmethod
    def dist(cls, parameters: Any, seen: Any = None, **kwargs: Any) -> Variable:
        parameters = [pt.as_tensor_variable(v, dtype="float64") for v in parameters]
        if seen is not None:
            return _IncompleteOwnColumns.dist([*parameters, _mask(seen)], **kwargs)
        return super().dist(parameters, **kwargs)

    def support_point(rv: Variable, size: Any, mu: Any, *parameters: Any) -> Variable:
        return pt.zeros_like(rv) + mu[..., None]

    def logp(value: Variable, *parameters: Any) -> Variable:
        if value.ndim > 2:
            raise NotImplementedError(
                f"GPColumns has a log-density for one table (feature, obs), got {value.ndim} dimensions."
            )
        terms = _own_logp(pt.atleast_2d(value), None, *parameters)
        return terms if value.ndim == 2 else terms[0]


class _IncompleteOwnColumns(Continuous):
    """:class:`GPColumns` with ``sigma`` and ``seen``."""

    rv_type = IncompleteOwnColumnsRV
    rv_op = IncompleteOwnColumnsRV.rv_op

    def support_point(rv: Variable, size: Any, mu: Any, *parameters: Any) -> Variable:
        return pt.zeros_like(rv) + mu[..., None]

    def logp(value: Variable, *parameters: Any) -> Variable:
        *own, seen = parameters
        return _own_logp(value, _numbers(seen).T, *own)


def _own_logp(
    value: Variable,
    seen: NDArray[np.bool_] | None,
    mu: Any,
    scale: Any,
    cov: Any,
    amplitude: Any,
    sigma: Any,
) -> Variable:
    """Log-density of each column with a noise of its own, shape (D,)."""
    F = (value - mu[..., None]) / scale[..., None]
    ones = pt.ones(F.shape[0])
    own = {"amplitude": amplitude * ones, "noise": sigma**2 * ones}
    return own_columns_logp(F.T, cov, seen, **own, scale=scale)


def _mask(seen: Any) -> Variable:
    if not isinstance(seen, Variable):
        seen = numbers("seen", seen)
        if not np.isin(seen, (0.0, 1.0)).all():
            raise ValueError("seen must hold True and False, got other numbers.")
        seen = seen.astype(bool)
    seen = pt.as_tensor_variable(seen, dtype="bool")
    if seen.ndim != 2:
        raise ValueError(
            f"seen must have two dimensions (feature, obs), as observed has, got {seen.ndim}."
        )
    return seen


def _numbers(seen: Variable) -> NDArray[np.bool_]:
    """Read a mask, which must be known when a graph is written."""
    if is_random(seen):
        raise ValueError("seen must be data, got a random variable.")
    return constants(seen)[0]


def mask_in(rv: Variable) -> NDArray[np.bool_] | None:
    """Which entries of a :class:`GPColumns` there are, (D, N); None if it is a complete one."""
    if not isinstance(rv.owner.op, IncompleteColumnsRV | IncompleteOwnColumnsRV):
        return None
    return _numbers(rv.owner.op.dist_params(rv.owner)[-1])


_MATRICES = 6  # N × N arrays of float64 alive at once in a value and its gradient


def _physical_memory() -> int | None:
    """Bytes of memory of this machine, if it tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def check_memory(n_rows: int) -> None:
    """Raise MemoryError now if the N × N arrays of one evaluation would end in a crash later."""
    need, have = _MATRICES * 8 * n_rows**2, _physical_memory()
    if have is not None and need > have:
        raise MemoryError(
            f"The exact model of N = {n_rows} rows needs about {need / 1e9:.0f} GB for its N × N matrices, "
            f"this machine has {have / 1e9:.0f} GB. Take fewer rows, or a sparse model: fit_sparse "
            "or fit_variational."
        )
