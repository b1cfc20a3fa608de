"""A fit: what a DataTree of this package says of its draws, its table and how it was made."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from os import PathLike
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array, warn
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.kernels import is_composite, kernel_named, unit_of
from pm_gplvm.data.inputs import COLUMN, Inputs

OBS, FEATURE, LATENT, CLASS = "obs", "feature", "latent", "latent_class"
SEQUENCE, TIME_KERNEL = "latent_sequence", "time_kernel"

THETA = ("lengthscale", "amplitude", "weight", "sigma", "bias", "alpha")
"""The hyperparameters that a model built here may have, in the order of its tables."""

OF_VIEW = (
    *(*THETA, "Y", "Y_mean", "Y_scale", "Y_data", "Y_seen", "Y_resolution", "X_inducing", FEATURE),
    *("log_likelihood", "explained", "rule_error"),
)
"""What each of several tables has of its own, in a model or in its fit, under a name of its own."""

_POSITIVE = {"lengthscale", "alpha", "sigma", "Y_scale"}  # the amplitude enters by its square

_LISTED = 5  # names in a message

_EDITED = "Was it edited? Take the fit as it was made or read from its file."

_TURNED = {"X", "lengthscale"}  # what align gives anew

# What samples X anew in each draw, and so in a frame of its own; PyMC itself leaves no method.
_UNTURNED = {"replica_exchange", ""}


def in_view(name: str, view: str | None) -> str:
    """Name of what one of several tables has of its own, such as "sigma_rna"; of a single one the plain name."""
    return name if view is None else f"{name}_{view}"


def in_each_view(name: str, views: Sequence[str]) -> list[str]:
    """Names of what each of several tables has of its own; of a single one the plain name."""
    return [in_view(name, view) for view in views] or [name]


def inducing_inputs(group: xr.Dataset) -> Array:
    """Inducing inputs of a fit (M, Q), with those that its rows' inputs have, as the kernel takes them."""
    W = group["X_inducing"].to_numpy()
    if "inputs_inducing" not in group:
        return np.asarray(W)
    return np.hstack([W, group["inputs_inducing"].to_numpy()])


def to_json(value: Any) -> str:
    """Write a value as JSON; NumPy's numbers and arrays count as Python's."""
    return json.dumps(value, default=_python_value)


def _python_value(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"JSON holds no {type(value).__name__}")


def warn_of(fit: xr.DataTree, message: str) -> None:
    """Warn of what went wrong with a fit, and keep the words in its attrs."""
    fit.attrs["warnings"] = to_json([*Fit(fit).warnings, message])
    warn(message)


class Standardised(NamedTuple):
    """A table in the units of the model: F = (Y - mean) / scale, NaN where an entry is missing."""

    F: Array  # (N, D)
    mean: Array  # (D,)
    scale: Array  # (D,)


class Frames(NamedTuple):
    """How align brought draws into one frame: x = scale · rotation · raw + shift."""

    rotation: Array  # (S, Q, Q)
    shift: Array  # (S, Q)
    scale: Array  # (S, 1)

    def inward(self, i: int, raw: Array) -> Array:
        """Bring raw positions (..., Q) of the i-th draw into the frame."""
        return np.asarray(self.scale[i] * raw @ self.rotation[i].T + self.shift[i])


@dataclass(frozen=True)
class Fit:
    """The one reader of a DataTree; ``caller`` is the verb that errors and warnings name."""

    tree: xr.DataTree
    caller: str = "fit"
    at: Array | None = (
        None  # inputs of new rows, (C,) or (S, C), where the kernel has terms of inputs
    )
    counted: NDArray[np.bool_] | None = None  # terms of the kernel that are predicted; None for all

    @classmethod
    def of(cls, tree: Any, *variables: str, caller: str, views: bool = False) -> "Fit":
        """Read a DataTree that has a posterior and the named variables, fixed ones included.

        ``views``: whether it may be one of several tables. Raises TypeError if it is no DataTree, ValueError
        if a group or a variable is missing, or holds what no fit holds.
        """
        if not isinstance(tree, xr.DataTree):
            raise TypeError(
                f"{caller} needs a fit (a DataTree, as fit_marginal and sample_theta return it), "
                f"got {type(tree).__name__}.{_advice(tree)}"
            )
        if "posterior" not in tree.children:
            groups = ", ".join(tree.children) or "none"
            raise ValueError(
                f"{caller} needs a fit with the group 'posterior', got the groups: {groups}."
            )
        sizes = dict(tree["posterior"].sizes)
        if not (sizes.get("chain") and sizes.get("draw")):
            raise ValueError(
                f"{caller} needs a fit with draws, dims chain and draw first, got a posterior of the sizes "
                f"{sizes}. Keep both dims where draws are selected: isel(draw=[0])."
            )
        fit = cls(tree, caller)
        if fit.views and not views:
            raise ValueError(
                f"{caller} needs a fit of one table, got one of several, {', '.join(fit.views)}. Take one of them: "
                f"gplvm.data.view(fit, {fit.views[0]!r})."
            )
        fit.require(*variables)
        return fit

    def require(self, *variables: str) -> None:
        """Raise ValueError unless each variable was drawn or held fixed, and it and θ are possible values."""
        if not variables:
            return
        if "sigma" in variables and "likelihood" in self.tree.attrs and not self.is_uncollapsed:
            got = "an estimate" if self.has_function_modes else "draws"
            raise ValueError(
                f"{self.caller} needs a fit of a Gaussian likelihood or by fit_svi, got {got} of f under another. Fit "
                "the model by fit_svi(model), or draw from it by PyMC's own functions."
            )
        noted = [name for name in THETA if name in (self.priors or {})]  # drawn, and so not removed
        for name in (*variables, *noted):
            if name not in self:
                raise ValueError(
                    f"{self.caller} needs the variable {name!r}, in posterior or constant_data; the fit "
                    f"has {', '.join(map(str, self.posterior.data_vars))}. Was it made by a model of "
                    "build_model?"
                )
        for name in dict.fromkeys((*variables, *THETA, "Y_mean", "Y_scale")):
            if name in self:
                self._check(name)

    def _check(self, name: str) -> None:
        """Raise ValueError unless a variable holds finite numbers, positive where it is a scale."""
        draws = self.draws(name)
        values = draws.to_numpy()
        if values.dtype.kind not in "fiu":
            raise ValueError(
                f"{self.caller} needs a fit with numbers in {name}, got {values.dtype}. {_EDITED}"
            )
        if name == "X" and draws.ndim != 4:
            raise ValueError(
                f"{self.caller} needs a fit with X of the dims chain, draw, {OBS} and {LATENT}, got "
                f"{', '.join(map(str, draws.dims))}. {_EDITED}"
            )
        rows = self._table[self.observed].sizes.get(OBS) if self.holds_table else None
        if name == "X" and rows not in (None, draws.shape[2]):
            raise ValueError(
                f"{self.caller} needs a fit with a position for each of the {rows} rows of its table, got "
                f"X of {draws.shape[2]} rows. {_EDITED}"
            )
        wrong, wanted = ~np.isfinite(values), "finite"
        if name in _POSITIVE:
            # The floor of the noise may be all of it.
            least = np.hypot(values, self.resolution) if name == "sigma" else values
            wrong, wanted = wrong | (least <= 0.0) | (values < 0.0), "positive and finite"
        if wrong.any():
            raise ValueError(
                f"{self.caller} needs a fit with {wanted} values of {name}, got {values[wrong][0]} among "
                f"them ({int(wrong.sum())} of {values.size}). {_EDITED}"
            )

    def require_exact(self) -> None:
        """Raise ValueError unless the fit has X, σ and its table, and no inducing inputs."""
        self.require("X", "sigma", "Y_mean", "Y_scale")
        if self.is_inducing:
            raise ValueError(
                f"{self.caller} needs a fit of the exact model, got a sparse or variational one, which it would "
                "leave for another model. Place the rows with embed, or fit all of them again: "
                "fit_sparse(build_model(Y), start=fit)."
            )

    def refuse_function_modes(self, reason: str) -> None:
        """Raise ValueError with the reason, and the remedy, if the fit is a mode under a likelihood."""
        if self.has_function_modes:
            raise ValueError(
                f"{self.caller} needs a fit other than by fit_map of a model with a likelihood: {reason}"
            )

    def refuse_uncollapsed(self, reason: str) -> None:
        """Raise ValueError with the reason, and the remedy, if the fit is one by minibatches."""
        if self.is_uncollapsed:
            raise ValueError(f"{self.caller} needs a fit other than by fit_svi: {reason}")

    def warn_unaligned(self) -> None:
        """Warn where draws of X are about to be averaged, each in a frame of its own."""
        if self.is_aligned or "X" not in self.posterior:
            return
        if self.method in _UNTURNED and self.n_draws > 1:
            warn(
                f"{self.caller} got draws of X each in a frame of its own, rotated and reflected at "
                "random: their mean is no embedding. Call fit = align(fit) first."
            )

    def __contains__(self, name: object) -> bool:
        """Whether a variable was drawn or held fixed."""
        return name in self.posterior or name in self.constants

    # How it was made.

    @property
    def kernel(self) -> str:
        """Text of the kernel, "custom" where it is a user's own covariance."""
        return str(self.tree.attrs.get("kernel", "custom"))

    @property
    def kernel_and_bias(self) -> str:
        """Name of the kernel as build_model takes it."""
        kernel = self.kernel
        if self.inputs is not None:
            kernel = self.inputs.kernel_of_X(kernel, self.latent_dim)
        return f"{kernel} + bias" if "bias" in self else kernel

    @cached_property
    def inputs(self) -> Inputs | None:
        """Known inputs of the rows, of which the kernel has terms beside those of X."""
        if "inputs" not in (constants := self.constants):
            return None
        names = ("inputs", "inputs_mean", "inputs_scale")
        if absent := [name for name in (*names, COLUMN) if name not in constants]:
            raise ValueError(
                f"{self.caller} needs a fit with {absent[0]} in constant_data, beside its inputs. {_EDITED}"
            )
        values, mean, scale = (constants[name].to_numpy() for name in names)
        return Inputs.stored(values, constants[COLUMN].to_numpy(), mean, scale)

    def refuse_inputs(self, reason: str) -> None:
        """Raise ValueError with the reason, and the remedy, if the kernel has terms of known inputs."""
        if self.inputs is not None:
            raise ValueError(
                f"{self.caller} needs a fit without inputs, got one with {', '.join(self.inputs.names)}: {reason}"
            )

    @property
    def has_ard(self) -> bool:
        """Whether each latent dimension, of each factor, has a lengthscale of its own."""
        if "lengthscale" not in self:
            return False
        draws = self.draws("lengthscale")
        if not is_composite(self.kernel):
            return LATENT in draws.dims
        entry = cast(Composite, kernel_named(self.kernel))
        return entry.has_own(self.latent_dim, draws.shape[-1])

    @property
    def angles(self) -> list[int]:
        """Latent dimensions that are angles: only periodic factors of the kernel look at them."""
        if not is_composite(self.kernel):
            return []
        return cast(Composite, kernel_named(self.kernel)).angles(self.latent_dim)

    def positions_for_distances(self) -> xr.DataArray:
        """X / lengthscale, angles as points of a circle of that radius: distances are those that the kernel sees."""
        X, unit, angles = self.draws("X"), self.unit_of_positions(), self.angles
        if not angles:
            return self.scaled_positions()
        one = np.ones((1, 1)) if unit is None else unit
        scale = np.broadcast_to(one, (len(one), X.shape[-1])).reshape(*X.shape[:2], 1, -1)
        lines = [q for q in range(X.shape[-1]) if q not in angles]
        values, around = X.to_numpy(), X.to_numpy()[..., angles]
        parts = [values[..., lines] / scale[..., lines]]
        parts += [turn(around) / scale[..., angles] for turn in (np.cos, np.sin)]
        coords = {name: c for name, c in X.coords.items() if X.dims[-1] not in c.dims}
        return xr.DataArray(np.concatenate(parts, axis=-1), dims=X.dims, coords=coords)

    @property
    def method(self) -> str:
        """How the posterior was found, "" where PyMC itself drew it."""
        return str(self.tree.attrs.get("method", ""))

    @property
    def approximation(self) -> str:
        """Kind of the approximation by inducing inputs ("vfe", "fitc"), "" of the exact model."""
        return str(self.tree.attrs.get("approximation", ""))

    @property
    def is_inducing(self) -> bool:
        """Whether the model went through inducing inputs."""
        return "approximation" in self.tree.children

    @property
    def is_uncollapsed(self) -> bool:
        """Whether it keeps a q(u) for each column and a likelihood, as :func:`fit_svi` does."""
        return "u_mean" in self.group("approximation")

    @property
    def has_function_modes(self) -> bool:
        """Whether it keeps its columns' functions at their modes, as :func:`fit_map` does with a likelihood."""
        return "weights" in self.group("laplace")

    @property
    def has_likelihood(self) -> bool:
        """Whether predictions go through a likelihood: of f by its q(u), or about its mode."""
        return self.is_uncollapsed or self.has_function_modes

    @property
    def has_q(self) -> bool:
        """Whether it keeps a Gaussian q(x) of each row."""
        return "X_mean" in self.group("approximation")

    @property
    def positions_and_sds(self) -> tuple[Array, Array]:
        """Mean and sd of each row's q(x), or its position and 0, each (N, Q), in the frame of inducing inputs."""
        if not self.has_q:
            X = np.asarray(self.values("X", raw=True)[0])
            return X, np.zeros_like(X)
        group = self.group("approximation")
        return group["X_mean"].to_numpy(), group["X_sd"].to_numpy()

    @property
    def is_aligned(self) -> bool:
        """Whether align has brought the draws into one frame."""
        return "aligned" in self.tree.children

    @property
    def own_noise(self) -> bool:
        """Whether each column has an amplitude and a noise of its own."""
        return FEATURE in self.draws("sigma").dims

    @property
    def has_one_process(self) -> bool:
        """Whether all draws share one process: f has a q(u) or a mode, and no draw was turned."""
        return (self.has_likelihood or self.is_inducing) and not self.is_aligned

    @property
    def views(self) -> list[str]:
        """Names of its tables, where it is a fit of several; none of a single one."""
        told = self.setting("views") if "views" in self.tree.attrs else []
        if not isinstance(told, list):
            raise self._bad_attr("views", "the JSON of a list")
        return [str(name) for name in told]

    @property
    def own_names(self) -> tuple[str, ...]:
        """Plain names of what each of its tables has under a name of its own."""
        told = self.setting("own_names") if "own_names" in self.tree.attrs else []
        if not isinstance(told, list):
            raise self._bad_attr("own_names", "the JSON of a list")
        return (*OF_VIEW, *(str(name) for name in told if name not in OF_VIEW))

    @property
    def priors(self) -> dict[str, str] | None:
        """Text of each prior, None if the fit keeps no note of them."""
        if "priors" not in self.tree.attrs:
            return None
        noted = self.setting("priors")
        if not isinstance(noted, dict):
            raise self._bad_attr("priors", "the JSON of a mapping")
        return noted

    @property
    def warnings(self) -> list[str]:
        """What was warned of as it was made."""
        told = self.setting("warnings") if "warnings" in self.tree.attrs else []
        if not isinstance(told, list):
            raise self._bad_attr("warnings", "the JSON of a list")
        return [str(text) for text in told]

    def setting(self, name: str) -> Any:
        """Return a number that the verb which made it was given, or has found, None where there was none (NaN)."""
        try:
            value = self.tree.attrs[name]
            unknown = isinstance(value, float) and np.isnan(value)
            return None if unknown else json.loads(str(value))
        except (KeyError, json.JSONDecodeError):
            raise self._bad_attr(name, "the JSON of what was set") from None

    def _bad_attr(self, name: str, wanted: str) -> ValueError:
        found = repr(self.tree.attrs[name])[:60] if name in self.tree.attrs else "none"
        return ValueError(
            f"{self.caller} needs a fit with {wanted} in attrs[{name!r}], got {found}. {_EDITED}"
        )

    # Its groups.

    @property
    def posterior(self) -> xr.Dataset:
        """What was drawn."""
        return self.tree["posterior"].to_dataset()

    @property
    def constants(self) -> xr.Dataset:
        """What was held fixed, empty if nothing was."""
        return self.group("constant_data")

    @property
    def stats(self) -> xr.Dataset:
        """What the sampler says of each draw, empty if it says nothing."""
        return self.group("sample_stats")

    def group(self, name: str) -> xr.Dataset:
        """Return a group as a dataset, empty if there is none."""
        return self.tree[name].to_dataset() if name in self.tree.children else xr.Dataset()

    # Its draws.

    @property
    def n_draws(self) -> int:
        """Draws of all chains."""
        sizes = self.tree["posterior"].sizes
        return int(sizes["chain"] * sizes["draw"])

    @property
    def latent_dim(self) -> int:
        """Q, the number of latent dimensions."""
        return int(self.draws("X").shape[3])

    @property
    def theta_names(self) -> list[str]:
        """Hyperparameters that it has, σ excepted, in the order of every table."""
        return [name for name in THETA if name in self and name != "sigma"]

    def draws(self, name: str, *, raw: bool = False) -> xr.DataArray:
        """All draws (chain, draw, ...) of a variable, one a draw also where it was held fixed.

        X and the lengthscale of an aligned fit come in the common frame unless ``raw``.
        """
        if not raw and name in _TURNED and name in self.group("aligned"):
            return self.group("aligned")[name]
        posterior = self.posterior
        if name in posterior:
            return posterior[name].transpose("chain", "draw", ...)
        fixed = self.constants[name]
        return fixed.expand_dims({"chain": posterior["chain"], "draw": posterior["draw"]})

    def values(self, name: str, *, raw: bool = False) -> Array:
        """Draws of all chains one after the other, shape (S, ...)."""
        return stacked(self.draws(name, raw=raw))

    @property
    def resolution(self) -> Array:
        """Floor of the noise in units of the scale, 0 where there is none; one number or (D,)."""
        return np.asarray(self.constants.get("Y_resolution", 0.0))

    def noise(self) -> Array:
        """Give the standard deviation of all noise, its floor included, shape (S,) or (S, D)."""
        return np.hypot(self.values("sigma"), self.resolution)

    def scaled_positions(self) -> xr.DataArray:
        """X / lengthscale, dims (chain, draw, obs, latent); angles, and X without a lengthscale, as they are."""
        X, unit = self.draws("X"), self.unit_of_positions()
        if unit is None:
            return X
        if self.angles:
            unit = np.where(np.isin(np.arange(X.shape[-1]), self.angles), 1.0, unit)
        return X / unit.reshape(*X.shape[:2], 1, -1)

    def unit_of_positions(self, *, raw: bool = False) -> Array | None:
        """Lengthscale along each latent dimension (S, Q) or (S, 1), None where there is none.

        Of a kernel of several factors the shortest of those that look at the dimension.
        """
        if "lengthscale" not in self:
            return None
        values = self.values("lengthscale", raw=raw)
        if is_composite(self.kernel):
            return unit_of(self.kernel, self.latent_dim, values)
        return values.reshape(len(values), -1)

    @property
    def chain_weights(self) -> Array | None:
        """Weight of each chain of an ensemble, or of a part of one, (chain,); None where all weigh the same."""
        group = self.group("ensemble")
        if "weight" not in group:
            return None
        weights = np.asarray(group["weight"], dtype=np.float64)
        n, total = self.tree["posterior"].sizes["chain"], weights.sum()
        if weights.shape != (n,) or not (weights >= 0.0).all() or not 0.0 < total < np.inf:
            raise ValueError(
                f"{self.caller} needs a weight of each of the {n} chains in the group 'ensemble' of fit, none "
                f"below 0 and not all 0, got {weights}."
            )
        return np.asarray(weights / total)

    @property
    def n_mixed(self) -> int:
        """Draws of the mixture of all chains: fewer than there are where some weigh more than others."""
        weights = self.chain_weights
        if weights is None:
            return self.n_draws
        return int(self.tree["posterior"].sizes["draw"] / weights.max())

    def thinned(self, draws: int) -> "Fit":
        """Keep at most this number of draws, evenly spaced in each chain, at least one a chain.

        Of an ensemble, as :meth:`pooled` has them.
        """
        if self.chain_weights is not None:
            return self._chosen(self.evenly_spaced(draws))
        sizes = self.tree["posterior"].sizes
        step = -(-sizes["draw"] // max(1, draws // sizes["chain"]))
        return self._with(
            lambda group: group.isel(draw=slice(None, None, step), missing_dims="ignore")
        )

    def pooled(self) -> "Fit":
        """Draws of the mixture of an ensemble's chains by their weights, in one chain; else as they are."""
        return (
            self if self.chain_weights is None else self._chosen(self.evenly_spaced(self.n_mixed))
        )

    def _chosen(self, chosen: NDArray[np.intp]) -> "Fit":
        """Keep some of the draws of all chains, in one chain."""

        def of_group(group: xr.Dataset) -> xr.Dataset:
            if not {"chain", "draw"} <= set(group.dims):
                return group
            both = {n: v for n, v in group.data_vars.items() if {"chain", "draw"} <= set(v.dims)}
            drawn = {n: v.transpose("chain", "draw", ...) for n, v in both.items()}
            one = {n: (v.dims, stacked(v)[chosen][None]) for n, v in drawn.items()}
            coords = {"chain": [0], "draw": np.arange(len(chosen))}
            return group.drop_dims(["chain", "draw"]).assign(one).assign_coords(coords)

        pooled = self._with(of_group)
        del pooled.tree["ensemble"]
        return pooled

    def _with(self, change: Callable[[xr.Dataset], xr.Dataset]) -> "Fit":
        """Change every group."""
        groups = {name: change(group.to_dataset()) for name, group in self.tree.children.items()}
        tree = xr.DataTree.from_dict(groups)
        tree.attrs = self.tree.attrs
        return Fit(tree, self.caller)

    def with_rows(self, rows: NDArray[np.intp]) -> "Fit":
        """Keep some of the rows, as if no others had been measured; the draws stay as they are."""
        return self._with(lambda group: group.isel({OBS: rows}, missing_dims="ignore"))

    def evenly_spaced(self, limit: int | None) -> NDArray[np.intp]:
        """Choose at most so many of the draws of all chains, evenly spaced, or all of them.

        So many of an ensemble in the proportions of its weights, and no draw twice.
        """
        weights = self.chain_weights
        if weights is None or limit is None:
            return evenly_spaced(self.n_draws, limit)
        draws = self.tree["posterior"].sizes["draw"]
        total = min(limit, self.n_mixed)
        ends = np.cumsum(weights)
        at = (np.arange(total) + 0.5) / total
        chain = np.minimum(np.searchsorted(ends, at), len(weights) - 1)
        within = (at - (ends - weights)[chain]) / weights[chain]
        draw = np.clip((within * draws).astype(np.intp), 0, draws - 1)
        return np.unique(chain * draws + draw)

    def frames(self, chosen: NDArray[np.intp]) -> Frames:
        """Frames of the chosen draws; nothing moves in a fit that has not been aligned."""
        Q, S = self.latent_dim, len(chosen)
        rotation, shift, scale = np.tile(np.eye(Q), (S, 1, 1)), np.zeros((S, Q)), np.ones((S, 1))
        group = self.group("aligned")
        if self.is_aligned:
            rotation = group["rotation"].to_numpy().reshape(-1, Q, Q)[chosen]
            shift = group["shift"].to_numpy().reshape(-1, Q)[chosen]
            if "scale" in group:
                scale = group["scale"].to_numpy().reshape(-1, 1)[chosen]
        return Frames(rotation, shift, scale)

    # Its table.

    @property
    def observed(self) -> str:
        """Name of the table; ValueError if the fit does not tell."""
        if "observed" not in self.tree.attrs:
            raise ValueError(
                f"{self.caller} needs a fit of this package, whose attrs name the table, got a DataTree "
                "without it. Draw with sample or sample_theta instead of pm.sample."
            )
        return str(self.tree.attrs["observed"])

    @property
    def _table(self) -> xr.Dataset:
        """The group of the table, or its labels alone where the fit says so; ValueError if it is not there."""
        group = self.group("observed_data")
        if self.observed not in group and not self.is_uncollapsed:
            raise ValueError(
                f"{self.caller} needs a fit that holds its table, {self.observed!r} in the group "
                f"observed_data, got {', '.join(map(str, group.data_vars)) or 'none'}. {_EDITED}"
            )
        return group

    @property
    def holds_table(self) -> bool:
        """Whether the table stands in the fit."""
        return self.tree.attrs.get("observed") in self.group("observed_data")

    @property
    def features(self) -> NDArray[Any]:
        """Names of the columns."""
        return np.asarray(self._table[FEATURE].to_numpy())

    def row_names(self, n_rows: int) -> NDArray[Any]:
        """Labels of the rows, or their positions where the fit tells none."""
        if (self.holds_table or self.is_uncollapsed) and OBS in self._table.coords:
            return np.asarray(self._table[OBS].to_numpy())
        return np.arange(n_rows)

    def labels(self, name: str) -> NDArray[Any]:
        """Read a coordinate along the rows of the table; ValueError if there is none of that name."""
        kept = self._row_coords
        if name not in kept:
            raise ValueError(
                f"The fit has no coordinate {name!r} along its rows, got {', '.join(kept) or 'none'}. Give "
                "Y as a DataArray with that coordinate, or pass one value a row."
            )
        return np.asarray(kept[name].to_numpy())

    @property
    def _row_coords(self) -> dict[str, xr.DataArray]:
        coords = self._table.coords
        return {str(name): c for name, c in coords.items() if c.dims == (OBS,)}

    def by_name(self, argument: str, name: str) -> NDArray[Any]:
        """Read a coordinate along the rows, or else a column of the table, in the user's units.

        ValueError if neither has that name.
        """
        if name in self._row_coords:
            return self.labels(name)
        columns = [str(feature) for feature in self.features]
        (found,) = np.nonzero(np.array(columns) == name)
        if len(found):
            return self.Y.to_numpy()[:, found[0]]
        kinds = {"coordinates": list(self._row_coords), "columns": columns}
        told = "; ".join(f"{kind}: {_like(name, names)}" for kind, names in kinds.items())
        raise ValueError(
            f"{argument} must name a coordinate along the rows or a column of the table, got {name!r}. "
            f"{told}. Or pass one value a row."
        )

    @property
    def coords(self) -> dict[Any, xr.DataArray]:
        """Coordinates along the rows of the table, and along its columns."""
        coords = self._table.coords
        return {name: c for name, c in coords.items() if c.dims in ((OBS,), (FEATURE,))}

    @property
    def Y(self) -> xr.DataArray:
        """The table (obs, feature) in the user's units, NaN where an entry is missing."""
        if self.is_uncollapsed and not self.holds_table:
            raise ValueError(
                f"{self.caller} needs the table, which a fit of what is sparse, mapped or in Zarr does not hold. "
                "Pass rows of it as new ones where the verb takes such, or fit the table in memory: "
                "fit_svi(numpy.asarray(Y), start=fit)."
            )
        table = self._table[self.observed]
        if FEATURE not in table.dims:
            raise ValueError(
                f"{self.caller} needs a fit whose table has the dims {FEATURE} and {OBS}, got "
                f"{', '.join(map(str, table.dims))}. Give GPColumns dims=({FEATURE!r}, {OBS!r})."
            )
        return table.transpose(..., FEATURE)

    def units(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and scale of the columns, both (D,)."""
        self.require("Y_mean", "Y_scale")
        mean, scale = (self.constants[name].to_numpy() for name in ("Y_mean", "Y_scale"))
        return mean, scale

    def table(self, *, missing: bool = True) -> Standardised:
        """Standardise the table; ``missing=False`` raises ValueError where an entry is missing."""
        mean, scale = self.units()
        Y = self.Y.to_numpy()
        F = (Y - mean) / scale
        if not missing and (n := int(np.isnan(F).sum())):
            raise ValueError(
                f"{self.caller} needs a fit of a complete table, got one with {n} missing entries. Fill "
                "them and fit again: build_model(impute(fit)['mean'])."
            )
        return Standardised(F, mean, scale)


def _advice(given: Any) -> str:
    """Say what to do with something that is no fit."""
    if isinstance(given, Mapping) and any(isinstance(v, xr.DataTree) for v in given.values()):
        return f" Pass one of them, such as fits[{next(iter(given))!r}]."
    if isinstance(given, str | PathLike):
        return " Read it first: gplvm.load(path)."
    if type(given).__name__ == "GPLVM":
        return " Pass its fit, estimator.fit_."
    return ""


def _like(name: str, names: Sequence[str]) -> str:
    """List names, of many those that are most like this one."""
    if len(names) > _LISTED:
        lower = {known.lower(): known for known in reversed(names)}
        close = get_close_matches(name.lower(), lower, _LISTED)
        near = ", ".join(lower[key] for key in close)
        return f"{near or 'none alike'} (of {len(names)})"
    return ", ".join(names) or "none"


def stacked(draws: xr.DataArray) -> NDArray[Any]:
    """Put draws (chain, draw, ...) of all chains one after the other, shape (S, ...)."""
    values = draws.to_numpy()
    return values.reshape(-1, *values.shape[2:])


def evenly_spaced(total: int, limit: int | None) -> NDArray[np.intp]:
    """Choose at most ``limit`` of ``total``, the first and the last among them."""
    chosen = np.linspace(0, total - 1, min(limit or total, total)).round()
    return np.unique(chosen).astype(np.intp)


def fits_of_one_table(fits: Mapping[str, xr.DataTree], *, caller: str) -> dict[str, Fit]:
    """Read fits of the same table; ValueError if two of them have different ones."""
    if not isinstance(fits, Mapping) or isinstance(fits, xr.DataTree):
        raise TypeError(
            f"{caller} needs a mapping such as {{'MAP': best, 'NUTS': full}}, got {type(fits).__name__}."
        )
    if not fits:
        raise ValueError(f"{caller} needs at least one fit, got an empty mapping.")
    read = {name: Fit.of(fit, "X", caller=caller) for name, fit in fits.items()}
    require_one_table(read, caller=caller)
    return read


def require_one_table(read: Mapping[str, Fit], *, caller: str) -> None:
    """Raise ValueError if two of them have different tables."""
    (first, Y), *others = [(name, fit.Y.to_numpy()) for name, fit in read.items()]
    for name, other in others:
        if other.shape != Y.shape:
            (N, D), (n, d) = Y.shape, other.shape
            found = f"{N} rows and {D} features, and {n} and {d}"
        elif not np.array_equal(other, Y, equal_nan=True):
            same = (other == Y) | (np.isnan(other) & np.isnan(Y))
            found = f"{int((~same).sum())} entries that differ"
        else:
            continue
        raise ValueError(
            f"{caller} needs fits of the same table, got in {first!r} and {name!r} {found}. "
            "Fit both models to the same Y."
        )
