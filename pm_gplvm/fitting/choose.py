"""Which fit suits a table or a model, and any fit by its name."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pymc as pm
import xarray as xr

from pm_gplvm.core.checks import checked, mapping, one_of
from pm_gplvm.core.gaussian import column_patterns, relative_cost
from pm_gplvm.data.files import check_labels
from pm_gplvm.data.table import Scale, as_table, warn_of_odd_table
from pm_gplvm.fitting.laplace import fit_laplace
from pm_gplvm.fitting.linear import fit_linear
from pm_gplvm.fitting.map import fit_map, fit_marginal
from pm_gplvm.fitting.stochastic import fit_stochastic, why_no_neighbourhoods
from pm_gplvm.fitting.svi import fit_svi
from pm_gplvm.fitting.variational import fit_sparse, fit_variational
from pm_gplvm.model.approximate import why_no_inducing
from pm_gplvm.model.build import build_model
from pm_gplvm.model.families import FAMILIES, Gaussian, Likelihood
from pm_gplvm.model.likelihoods import resolve
from pm_gplvm.model.priors import class_mixture, informative
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.volume import why_no_volume

OfModel = Literal[
    "auto", "marginal", "map", "laplace", "sparse", "variational", "stochastic", "linear"
]
Inference = Literal[
    "auto", "marginal", "map", "laplace", "sparse", "variational", "stochastic", "linear", "svi"
]
OF_MODELS = get_args(OfModel)  # fits of what build_model builds
NAMES = get_args(Inference)

_QUICK = 1000  # rows up to which the exact estimate takes about a minute of one core
_SLOWER = 2.0  # how much longer than their arithmetic many small factorisations take
_NEAR = 2000  # rows up to which neighbourhoods give the better picture of a complete table
_HOLED = 0.05  # share of missing entries from which q(x) fills a table better, whatever its size
_SQUARE = (
    5000  # rows up to which N × N arrays, which predictions of an exact model need, cost little
)
_BY_ROW = informative, class_mixture  # priors of X that minibatches take
_WHY_NOT: dict[str, Callable[[ModelSpec], str | None]] = {
    "stochastic": why_no_neighbourhoods,
    "sparse": why_no_inducing,
}
"""What serves larger tables, and what tells why it cannot serve a model."""

_log = logging.getLogger("pm_gplvm")


def choose_inference(model: pm.Model | ModelSpec) -> tuple[str, str]:
    """Choose a fit by what the model allows and by its number of rows: its name, and why in a line.

    The exact estimate up to 1000 rows: its cost grows with N³. Beyond, gradients of neighbourhoods give
    nearly as good a picture in an eighth of the time, and a better one than inducing inputs
    (``benchmarks/results/choice.md``). Beyond 5000 rows inducing inputs come first, as new rows too then
    need no N × N array. Where the model allows neither, it is the exact estimate all the same.

    >>> import pm_gplvm as gplvm
    >>> choose_inference(gplvm.build_model(gplvm.data.load_digits(n=20)))
    ('marginal', 'the exact estimate is quick for 20 rows')
    """
    spec = ModelSpec.of(model)
    n_rows = spec.X_shape[0]
    exact, reason = "marginal", ""
    if (why := why_no_volume(spec)) is not None:
        exact, reason = "map", f", and X cannot be integrated out: {why}"
    if n_rows <= _QUICK:
        return exact, f"the exact estimate is quick for {n_rows} rows{reason}"
    told = f"the exact estimate is slow for {n_rows} rows"
    first, second = ("stochastic", "sparse") if n_rows <= _SQUARE else ("sparse", "stochastic")
    for name in (first, second):
        if (why := _WHY_NOT[name](spec)) is None:
            return name, told
        told += f"; not {name}: {_first_sentence(why)}"
    return exact, f"{told}{reason}"


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")


@checked
def fit_by(
    model: pm.Model,
    inference: OfModel = "auto",
    *,
    n_inducing: int | None = None,
    n_restarts: int = 0,
    max_iter: int | None = None,
    cores: int | None = None,
    random_seed: int | None = None,
    progressbar: bool = True,
    start: Any = "pca",
    reason: str = "asked for",
) -> xr.DataTree:
    """Fit a model by the name of the fit, or by the one that suits it.

    ``attrs["inference"]`` and ``attrs["inference_reason"]`` say what was taken and why; so does a line
    of the logger "pm_gplvm" at INFO. "laplace" is :func:`fit_marginal`, or :func:`fit_map` where X cannot
    be integrated out, and :func:`fit_laplace` about it.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`.
    inference : {"auto", "marginal", "map", "laplace", "sparse", "variational", "stochastic", "linear"}
    n_inducing : int, optional
        M of "sparse" and "variational"; other fits have none.
    n_restarts : int, default 0
        As in :func:`fit_map`; "stochastic" and "linear" take none.
    max_iter : int, optional
        Iterations of each start, the steps of "stochastic"; by default as many as that fit takes by itself.
    cores : int, optional
        As in :func:`fit_map`, for "marginal", "map" and the estimate of "laplace"; the others run in this process.
    random_seed, progressbar, start
        As in :func:`fit_map`; "linear" has no start.
    reason : str, default "asked for"
        Why it is this fit, where it has a name.

    Raises
    ------
    TypeError, ValueError
        As the fit itself; also if it has no restarts, or no start, and one was asked for.
    """
    one_of("inference", inference, OF_MODELS)
    name, reason = choose_inference(model) if inference == "auto" else (inference, reason)
    if n_restarts and name in ("stochastic", "linear"):
        raise ValueError(
            f"n_restarts must be 0 with inference={name!r}, which has no restarts, got {n_restarts}."
        )
    if name == "linear" and not (isinstance(start, str) and start == "pca"):
        raise ValueError(
            "start must be left at 'pca' with inference='linear', which is in closed form, got "
            f"{start if isinstance(start, str) else type(start).__name__!r}."
        )
    _log.info("inference: %s, as %s", name, reason)
    seeded: dict[str, Any] = {"random_seed": random_seed, "progressbar": progressbar}
    search: dict[str, Any] = {"start": start, "n_restarts": n_restarts, **seeded} | (
        {} if max_iter is None else {"max_iter": max_iter}
    )
    inducing: dict[str, Any] = {} if n_inducing is None else {"n_inducing": n_inducing}
    fits: dict[str, Callable[[], xr.DataTree]] = {
        "marginal": lambda: fit_marginal(model, cores=cores, **search),
        "map": lambda: fit_map(model, cores=cores, **search),
        "laplace": lambda: _about_the_best(model, {"cores": cores, **search}, seeded),
        "sparse": lambda: fit_sparse(model, **inducing, **search),
        "variational": lambda: fit_variational(model, **inducing, **search),
        "stochastic": lambda: fit_stochastic(model, start=start, steps=max_iter, **seeded),
        "linear": lambda: fit_linear(model),
    }
    fit = fits[name]()
    fit.attrs |= {"inference": name, "inference_reason": reason}
    return fit


def _about_the_best(model: pm.Model, search: dict[str, Any], seeded: dict[str, Any]) -> xr.DataTree:
    best = (fit_marginal if why_no_volume(model) is None else fit_map)(model, **search)
    if best.attrs["interrupted"]:
        raise KeyboardInterrupt  # there is no Gaussian about an unfinished search
    return fit_laplace(model, start=best, **seeded)


# From a table


@dataclass(frozen=True, kw_only=True)
class Task:
    """A table, what is to be fitted to it, and by which fit.

    The parameters are those of :func:`build_model` and of :func:`fit_svi`, and the name of a fit or "auto". With
    ``sampled`` the fit is to be one of a ``pm.Model``, which samplers go on from.
    """

    Y: Any
    latent_dim: int = 2
    likelihood: Any = "gaussian"
    offset: Any = None
    kernel: str = "rbf"
    ard: bool = False
    priors: Mapping[str, Any] | None = None
    scale: Scale = "global"
    missing: Literal["raise", "mask"] = "raise"
    resolution: Any = "auto"
    noise: Literal["shared", "column"] = "shared"
    inference: Inference = "auto"
    start: Any = "pca"
    sampled: bool = False

    @cached_property
    def table(self) -> xr.DataArray:
        """The table, checked as :func:`build_model` does."""
        return as_table(self.Y, missing=self.missing)

    @cached_property
    def model(self) -> pm.Model:
        """What :func:`build_model` builds."""
        found = self._entries
        others = (
            self._needs_minibatches() is not None
        )  # a noise is the likelihood's own matter then
        noise: Any = (
            "shared" if others else found.noise if isinstance(found, Gaussian) else self.noise
        )
        return build_model(
            self.Y,
            self.latent_dim,
            kernel=self.kernel,
            ard=self.ard,
            priors=self.priors,
            scale=self.scale,
            missing=self.missing,
            resolution=self.resolution,
            noise=noise,
            **({"likelihood": found, "offset": self.offset} if others else {}),
        )

    @cached_property
    def _entries(self) -> Likelihood:
        """The likelihood, with the noise that was asked for."""
        found = resolve(self.likelihood, self.table.indexes["feature"].tolist())
        one_of("noise", self.noise, ("shared", "column"))
        if self.noise == "shared":
            return found
        if getattr(found, "noise", None) is None:
            noisy = [name for name, family in FAMILIES.items() if "noise" in vars(family())]
            raise ValueError(
                f"noise must be 'shared' with likelihood {found.name!r}, as noise is of {', '.join(noisy)}, got "
                f"{self.noise!r}. Leave it out."
            )
        return type(found)(**(vars(found) | {"noise": self.noise}))

    @cached_property
    def choice(self) -> tuple[str, str]:
        """The fit, and why in a line.

        Another likelihood than the Gaussian, or an offset, is for :func:`fit_svi`; for :func:`fit_map` where that is
        asked for. :func:`fit_svi` is taken too where a
        twentieth of the entries or more are missing: at a tenth and three tenths of them its log predictive density of a
        hidden entry was higher by up to 2.7 in 21 of 24 cases, and at most 0.015 lower. And where the exact estimate would take
        more than about a minute and there are more than 2000 rows, or holes. Other tables go as :func:`choose_inference` says.
        """
        name = one_of("inference", self.inference, NAMES)
        why_not = self._why_no_minibatches()
        if (needs := self._needs_minibatches()) is not None:
            if self.sampled:
                raise ValueError(
                    f"sample and sample_theta draw from models of normal noise, got {needs}. Fit it, which gives q(X)."
                )
            if name == "map":
                return name, "asked for"
            if name not in ("auto", "svi"):
                raise ValueError(
                    f"inference must be 'auto', 'svi' or 'map' with {needs}, which no other fit knows, got {name!r}."
                )
            if why_not is not None:
                raise ValueError(f"{why_not}, as it is fitted by minibatches with {needs}.")
            return "svi", f"{needs} is fitted by minibatches" if name == "auto" else "asked for"
        if name == "svi" and why_not is not None:
            raise ValueError(f"{why_not} with inference='svi'.")
        if name != "auto":
            return name, "asked for"
        reason = self._holed() or self._slow()
        if reason is None or self.sampled:
            return choose_inference(self.model)
        if why_not is None:
            return "svi", reason
        name, reason = choose_inference(self.model)
        return name, f"{reason}; not svi: {why_not}"

    def _needs_minibatches(self) -> str | None:
        found = self._entries
        if not (isinstance(found, Gaussian) and found.noise_sd is None):
            return f"likelihood {found.name!r}" if found.name != "gaussian" else "a known noise_sd"
        return None if self.offset is None else "an offset"

    def _why_no_minibatches(self) -> str | None:
        """Say what :func:`fit_svi` does not take, None if it takes all."""
        priors = mapping("priors", self.priors) or {}
        if (of_X := priors.get("X")) is not None and not isinstance(of_X, _BY_ROW):
            return "priors of X must be priors.informative or class_mixture, or be left out for N(0, 1)"
        if "sigma" in priors:
            return "priors must not have one of sigma"
        if isinstance(self.start, str) and self.start == "isomap":
            return "start must be 'pca', 'random', positions or a fit"
        by_default = isinstance(self.resolution, str) and self.resolution == "auto"
        if not by_default and self._entries.name != "gaussian":
            return f"resolution must be left at 'auto' with likelihood {self._entries.name!r}"
        return None

    def _holed(self) -> str | None:
        """Say that many entries are missing, which an estimate of X from few entries fills badly, else None."""
        share = float(np.isnan(self.table.to_numpy()).mean())
        return f"{100.0 * share:.0f} % of the entries are missing" if share >= _HOLED else None

    def _slow(self) -> str | None:
        """Say that the exact estimate is slow and neighbourhoods are no help, else None."""
        seen = ~np.isnan(self.table.to_numpy())
        N, times = len(seen), relative_cost(column_patterns(seen))
        slower = 1.0 if seen.all() else _SLOWER * times
        if slower * N**3 <= _QUICK**3 or (seen.all() and N <= _NEAR):
            return None
        holes = "" if seen.all() else " with missing entries"
        return f"the exact estimate is slow for {N} rows{holes}"

    def fit(
        self,
        *,
        n_inducing: int | None = None,
        n_restarts: int = 0,
        max_iter: int | None = None,
        epochs: float | None = None,
        batch_size: int | None = None,
        cores: int | None = None,
        random_seed: int | None = None,
        progressbar: bool = True,
    ) -> xr.DataTree:
        """Fit by what was chosen; ``max_iter`` is the passes over the table of "svi", if ``epochs`` is not given."""
        name, reason = self.choice
        given: dict[str, Any] = {
            "start": self.start,
            "n_restarts": n_restarts,
            "random_seed": random_seed,
            "progressbar": progressbar,
        }
        given |= {} if n_inducing is None else {"n_inducing": n_inducing}
        if name != "svi":
            kind: Any = name
            how = given | {"max_iter": max_iter, "cores": cores, "reason": reason}
            return fit_by(self.model, kind, **how)
        check_labels({n: coord.to_numpy() for n, coord in self.table.coords.items()}, "Y")
        warn_of_odd_table(self.table, self.scale if self._entries.name == "gaussian" else "none")
        _log.info("inference: %s, as %s", name, reason)
        fit = fit_svi(
            self.table,
            self.latent_dim,
            likelihood=self._entries,
            kernel=self.kernel,
            ard=self.ard,
            priors=self.priors,
            scale=self.scale,
            offset=self.offset,
            resolution=self.resolution,
            epochs=max_iter if epochs is None else epochs,
            batch_size=batch_size,
            **given,
        )
        fit.attrs |= {"inference": name, "inference_reason": reason}
        return fit
