"""Which fit suits a model, and any fit by its name."""

import logging
from collections.abc import Callable
from typing import Any, Literal, get_args

import pymc as pm
import xarray as xr

from pm_gplvm.core.checks import checked, one_of
from pm_gplvm.fitting.laplace import fit_laplace
from pm_gplvm.fitting.linear import fit_linear
from pm_gplvm.fitting.map import fit_map, fit_marginal
from pm_gplvm.fitting.stochastic import fit_stochastic, why_no_neighbourhoods
from pm_gplvm.fitting.variational import fit_sparse, fit_variational
from pm_gplvm.model.approximate import why_no_inducing
from pm_gplvm.model.spec import ModelSpec
from pm_gplvm.model.volume import why_no_volume

Inference = Literal[
    "auto", "marginal", "map", "laplace", "sparse", "variational", "stochastic", "linear"
]
NAMES = get_args(Inference)

_QUICK = 1000  # rows up to which the exact estimate takes about a minute of one core
_SQUARE = (
    5000  # rows up to which N × N arrays, which predictions of an exact model need, cost little
)
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
    inference: Inference = "auto",
    *,
    n_inducing: int | None = None,
    n_restarts: int = 0,
    max_iter: int | None = None,
    cores: int | None = None,
    random_seed: int | None = None,
    progressbar: bool = True,
    start: Any = "pca",
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

    Raises
    ------
    TypeError, ValueError
        As the fit itself; also if it has no restarts, or no start, and one was asked for.
    """
    one_of("inference", inference, NAMES)
    name, reason = choose_inference(model) if inference == "auto" else (inference, "asked for")
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
