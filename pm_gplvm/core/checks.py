"""Checks of options that many functions share, the type of an array, and the 89 % interval."""

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial, wraps
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

INTERVAL = (0.055, 0.945)
"""Probabilities at the ends of ArviZ's 89 % interval."""

_PACKAGE = str(Path(__file__).resolve().parents[1])
_LARGEST_SEED = 2**63 - 1  # an attribute of a file is a signed integer of 64 bits


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Return a whole number of at least ``least``; a bool is none."""
    if not _is_whole(value) or value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {wanted}, got {value!r}.")
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float = -np.inf,
    below: float = np.inf,
    closed: str = "",
) -> float:
    """Return a finite number between two bounds; ``closed`` is "left", "right" or "both" where they count."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    known = isinstance(value, Real) and not isinstance(value, bool)
    at: float = float(value) if known else np.nan
    left, right = closed in ("left", "both"), closed in ("right", "both")
    inside = (at >= above if left else at > above) and (at <= below if right else at < below)
    if not (np.isfinite(at) and inside):
        wanted = [
            *([f"{'at least' if left else 'above'} {above:g}"] if np.isfinite(above) else []),
            *([f"{'at most' if right else 'below'} {below:g}"] if np.isfinite(below) else []),
        ]
        raise ValueError(
            f"{name} must be a finite number{' ' * bool(wanted)}{' and '.join(wanted)}, got {value!r}."
        )
    return at


def flag(name: str, value: Any) -> bool:
    """Return True or False; no number and no text is taken for them."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def seed(name: str, value: Any) -> int | None:
    """Return a seed as an integer that can be written down, drawn from a generator where one is given."""
    if value is None:
        return None
    if isinstance(value, np.random.Generator):
        return int(value.integers(_LARGEST_SEED))
    if isinstance(value, np.random.RandomState):
        return int(value.randint(_LARGEST_SEED, dtype=np.int64))
    if isinstance(value, np.random.SeedSequence):
        return int(value.generate_state(1, np.uint64)[0] >> np.uint64(1))
    if not _is_whole(value) or not 0 <= value <= _LARGEST_SEED:
        raise ValueError(
            f"{name} must be a whole number from 0 to 2**63 - 1, a NumPy Generator, RandomState or "
            f"SeedSequence, or None, got {value!r}."
        )
    return int(value)


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    return value


def function_of(name: str, value: Any, *arguments: str) -> Any:
    """Return a function that takes such arguments by position."""
    try:
        inspect.signature(value).bind(*arguments)
    except ValueError:  # of one written in C nothing is known
        return value
    except TypeError as error:
        raise TypeError(
            f"{name} must be a function of ({', '.join(arguments)}), got another: {error}."
        ) from None
    return value


def mapping(name: str, value: Any) -> Any:
    """Return a mapping, or None for an empty one."""
    if value is not None and not isinstance(value, Mapping):
        wanted = _MAPPINGS.get(name, "")
        raise TypeError(f"{name} must be a mapping{wanted}, got {type(value).__name__}.")
    return value


_MAPPINGS = {
    "priors": " from parameters to priors, such as {'sigma': pm.HalfNormal.dist(1)}",
    "compile_kwargs": " from arguments of pytensor.function to values",
    "kfold": " from names of fits to results of cross_validate",
}


def _threads(name: str, value: Any) -> Any:
    """Return a number of BLAS threads; whether "auto" is one the function itself knows."""
    return value if value is None or value == "auto" else count(name, value)


_positive = partial(number, above=0.0)
_share = partial(number, above=0.0, below=1.0)

OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "random_seed": seed,
    "blas_threads": _threads,
    **dict.fromkeys(
        (
            *("draws", "chains", "thin", "cores", "num_samples", "n_proposals", "max_iter"),
            *("n_starts", "n_neighbors", "n_pairs", "n_inducing", "n_folds", "n_batches", "n_bins"),
            *("n_replicates", "steps"),
        ),
        count,
    ),
    **dict.fromkeys(("tune", "n_restarts", "monitor"), partial(count, least=0)),
    **dict.fromkeys(("tol", "learning_rate"), _positive),
    "learning_rate_theta": partial(number, above=0.0, closed="left"),
    **dict.fromkeys(("momentum", "beta_min"), partial(number, above=0.0, below=1.0, closed="left")),
    **dict.fromkeys(("threshold", "same"), _share),
    **dict.fromkeys(_MAPPINGS, mapping),
    "min_weight": partial(number, above=0.0, below=0.5),
}
"""Options that mean the same wherever they are; the default of a function is taken as it is."""


def check_of(option: inspect.Parameter) -> Callable[[str, Any], Any] | None:
    """Find the check of an option, by its name, or a flag by its type; None of all else."""
    if option.kind is not option.KEYWORD_ONLY:
        return None
    return flag if option.annotation is bool else OPTIONS.get(option.name)


def checked[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Check the options of a public function by their names, before it begins."""
    checks = {
        name: (check, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if (check := check_of(parameter))
    }

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, (check, default) in checks.items():
            if name in kwargs and kwargs[name] is not default:
                kwargs[name] = check(name, kwargs[name])
        return function(*args, **kwargs)

    return call


def as_path(name: str, value: Any, endings: tuple[str, ...] = ()) -> Path:
    """Return a path that ends as it should; ``name`` is that of the argument."""
    try:
        path = Path(value)
    except TypeError:
        raise TypeError(f"{name} must be a path or its text, got {type(value).__name__}.") from None
    if "\0" in str(path):
        raise ValueError(f"{name} must not hold a NUL, got {str(path)!r}.")
    if endings and path.suffix not in endings:
        raise ValueError(f"{name} must end in {' or '.join(endings)}, got {path.name!r}.")
    return path


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise unless a file can be written at ``path``: asked before the work is done."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist. Make it first.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True or choose another name.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"The folder {path.parent} cannot be written to. Choose another one.")


def interval(draws: Array) -> Array:
    """Compute the ends (2, ...) of the 89 % interval over draws (S, ...), NaN if there is one draw."""
    ends: Array = np.quantile(draws, INTERVAL, axis=0)
    return ends if len(draws) > 1 else np.full_like(ends, np.nan)


def counted(n: int, what: str) -> str:
    """Return the number and the word, as in "1 row" and "2 rows"."""
    return f"{n} {what}{'s' * (n != 1)}"


def warn(message: str) -> None:
    """Warn where the package was called from."""
    warnings.warn(message, RuntimeWarning, skip_file_prefixes=(_PACKAGE,))
