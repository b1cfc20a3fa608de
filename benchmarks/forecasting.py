"""Motion capture: what comes next, and frames or markers that are missing, beside splines and processes of columns."""

import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicSpline

from benchmarks.data import OIL
from benchmarks.report import Report

_FILE = OIL.parent / "osu_run1.txt"
_RATE = 120.0  # frames a second
_AHEAD = ((0, 6), (6, 12), (12, 24), (24, 44))  # frames after the last that is known
_GAPS, _LONG = 10, 12
_OWN = (0.1, 0.001)  # the default, and what so smooth a table asks for
_INTERVAL = (0.055, 0.945)
_HALF = 1.598  # of an 89 % interval, in standard deviations

Found = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
"""Mean and the ends of 89 % intervals."""


def _frames() -> tuple[np.ndarray, np.ndarray]:
    """Seconds, and positions in mm of the markers seen throughout, about their mean in each frame."""
    import pm_gplvm as gplvm

    walk = gplvm.data.load_table(_FILE, time="Field", missing=-9999.99)[:, 1:].to_numpy()
    markers = walk[:, ~np.isnan(walk).any(axis=0)].reshape(len(walk), -1, 3)
    markers = markers - markers.mean(axis=1, keepdims=True)
    return np.arange(len(walk)) / _RATE, markers.reshape(len(walk), -1)


def _fit(kind: str, Y: np.ndarray, t: np.ndarray, own: float, missing: str = "raise"):
    import pm_gplvm as gplvm

    prior = gplvm.priors.dynamics(t, kernel="matern52", own=own)
    model = gplvm.build_model(Y, 3, kernel="rbf", missing=missing, priors={"X": prior})
    quiet = {"random_seed": 1, "progressbar": False}
    if kind == "marginal":
        return gplvm.fit_marginal(model, **quiet)
    return gplvm.fit_variational(model, n_inducing=40, **quiet)


def _forecast(kind: str, own: float) -> Callable[..., Found]:
    def found(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
        import pm_gplvm as gplvm

        ahead = gplvm.forecast(_fit(kind, Y, t, own), at, random_seed=1)
        low, high = np.quantile(ahead["Y"], _INTERVAL, axis=0)
        return ahead["mean"].to_numpy(), low, high

    return found


def _last(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
    return Y[np.searchsorted(t, at) - 1], None, None


def _spline(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
    return CubicSpline(t, Y)(at), None, None


def _columns(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
    """A Gaussian process over time for each column, by scikit-learn."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(0.1, (0.01, 10.0), nu=2.5) + WhiteKernel(1e-3, (1e-8, 1))
    mean, sd = np.empty((2, len(at), Y.shape[1]))
    for d in range(Y.shape[1]):
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        mean[:, d], sd[:, d] = process.fit(t[:, None], Y[:, d]).predict(at[:, None], True)
    return mean, mean - _HALF * sd, mean + _HALF * sd


METHODS: dict[str, Callable[..., Found]] = {
    "last value": _last,
    "cubic spline": _spline,
    "a process of each column": _columns,
    **{
        f"{kind}, own {own:g}": _forecast(kind, own)
        for kind in ("marginal", "variational")
        for own in _OWN
    },
}


def _error(found: Found, truth: np.ndarray, rows: slice = slice(None)) -> str:
    """Root mean square error, and the share that the intervals hold."""
    mean, low, high = (None if part is None else part[rows] for part in found)
    error = np.sqrt(((mean - truth[rows]) ** 2).mean())
    if low is None:
        return f"{error:.3g}"
    inside = (low < truth[rows]) & (truth[rows] < high)
    return f"{error:.3g} ({100.0 * inside.mean():.0f} %)"


def _timed(method: Callable[..., Found], *args: np.ndarray) -> tuple[Found, float]:
    before = time.process_time()
    return method(*args), time.process_time() - before


def _gaps(N: int, rng: np.random.Generator) -> list[slice]:
    """Gaps apart from each other and from both ends."""
    slots = np.arange(2, N - _LONG - 2, _LONG + 6)
    starts = np.sort(rng.choice(slots, _GAPS, replace=False))
    return [slice(s, s + _LONG) for s in starts]


def _lost_markers(Y: np.ndarray, t: np.ndarray, gaps: list[slice], rng) -> list[list]:
    """Two thirds of the markers are lost in each gap, others each time."""
    import pm_gplvm as gplvm

    markers, lost = Y.shape[1] // 3, np.zeros(Y.shape, dtype=bool)
    for gap in gaps:
        chosen = np.repeat(rng.random(markers) < 2.0 / 3.0, 3)
        lost[gap, chosen] = True
    table, rows = np.where(lost, np.nan, Y), []

    def by_column(method: Callable[..., Found]) -> Callable[[], Found]:
        def found() -> Found:
            filled = [np.full(Y.shape, np.nan) for _ in range(3)]
            for d in range(Y.shape[1]):
                gone = lost[:, d]
                if gone.any():
                    parts = method(Y[~gone, d : d + 1], t[~gone], t[gone])
                    for whole, part in zip(filled, parts, strict=True):
                        if part is not None:
                            whole[gone, d] = part[:, 0]
            mean, low, high = (whole[lost] for whole in filled)
            return (mean, None, None) if np.isnan(low).all() else (mean, low, high)

        return found

    def imputed(kind: str, own: float) -> Callable[[], Found]:
        def found() -> Found:
            filled = gplvm.impute(_fit(kind, table, t, own, "mask"))
            mean, sd = (filled[name].to_numpy()[lost] for name in ("mean", "sd"))
            return mean, mean - _HALF * sd, mean + _HALF * sd

        return found

    plain = {name: by_column(METHODS[name]) for name in list(METHODS)[:3]}
    ours = {
        f"{k}, own {own:g}": imputed(k, own) for k in ("marginal", "variational") for own in _OWN
    }
    for name, method in (plain | ours).items():
        found, cpu = _timed(method)
        rows.append([name, cpu, _error(found, Y[lost])])
    return rows


_CYCLES, _ROWS, _FURTHER = range(10, 15), 120, 60  # tables; rows that are known, and further ones
_PERIODS = ((0, 19), (19, 38), (38, 60))  # about a period each


def _cycle(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Van der Pol's oscillator on its limit cycle, through a function to 12 columns, with noise of 0.1."""
    from scipy.integrate import solve_ivp

    rng, t = np.random.default_rng(seed), 0.35 * np.arange(_ROWS + _FURTHER)

    def slope(_, z):
        return [z[1], (1.0 - z[0] ** 2) * z[1] - z[0]]

    path = solve_ivp(slope, (0.0, t[-1] + 20.0), [2.0, 0.0], t_eval=t + 15.0, rtol=1e-8).y.T
    path = path / path.std(axis=0)
    bent = np.sin(0.7 * path @ rng.standard_normal((2, 12)) + rng.uniform(0.0, 6.0, 12))
    Y = bent + 0.3 * path @ rng.standard_normal((2, 12))
    return t, Y + 0.1 * rng.standard_normal(Y.shape)


def _by_map(**known: float) -> Callable[..., Found]:
    """priors.transitions by fit_map; ``noise`` of the map, and θ of the function to Y that is held."""
    noise = known.pop("noise", 0.1)

    def found(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
        import pm_gplvm as gplvm

        priors = {"X": gplvm.priors.transitions(noise=noise), **known}
        model = gplvm.build_model(Y, 2, priors=priors)
        fit = gplvm.fit_map(model, random_seed=1, progressbar=False)
        ahead = gplvm.forecast(fit, np.arange(1, len(at) + 1), random_seed=1)
        low, high = np.quantile(ahead["Y"], _INTERVAL, axis=0)
        return ahead["mean"].to_numpy(), low, high

    return found


def _over_time(own: float) -> Callable[..., Found]:
    def found(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
        import pm_gplvm as gplvm

        prior = gplvm.priors.dynamics(t, kernel="matern52", own=own)
        model = gplvm.build_model(Y, 2, priors={"X": prior})
        fit = gplvm.fit_variational(model, n_inducing=30, random_seed=1, progressbar=False)
        ahead = gplvm.forecast(fit, at, random_seed=1)
        low, high = np.quantile(ahead["Y"], _INTERVAL, axis=0)
        return ahead["mean"].to_numpy(), low, high

    return found


def _last_period(Y: np.ndarray, t: np.ndarray, at: np.ndarray) -> Found:
    """Repeat the last period, its length by the mean square difference of the rows: what a movement that comes again asks for."""
    lags = range(5, len(Y) // 2)
    lag = min(lags, key=lambda k: ((Y[k:] - Y[:-k]) ** 2).mean())
    return Y[len(Y) - lag + np.arange(len(at)) % lag], None, None


_OF_CYCLES: dict[str, Callable[..., Found]] = {
    "last value": _last,
    "last period": _last_period,
    "a process of each column": _columns,
    "dynamics, own 0.1": _over_time(0.1),
    "dynamics, own 0.01": _over_time(0.01),
    "transitions, all by default": _by_map(),
    "transitions, lengthscale held at 1": _by_map(lengthscale=1.0),
    "the same, noise 0.03": _by_map(lengthscale=1.0, noise=0.03),
    "the same, amplitude held at 1 too": _by_map(lengthscale=1.0, amplitude=1.0, noise=0.03),
}


def _cycles(report: Report) -> None:
    rows = []
    for name, method in _OF_CYCLES.items():
        parts, cpu = [], 0.0
        for seed in _CYCLES:
            t, Y = _cycle(seed)
            found, taken = _timed(method, Y[:_ROWS], t[:_ROWS], t[_ROWS:])
            parts.append([*found, Y[_ROWS:]])
            cpu += taken / len(_CYCLES)
        joined = [
            None if part[0] is None else np.stack(part, axis=1) for part in zip(*parts, strict=True)
        ]
        whole: Found = (joined[0], joined[1], joined[2])
        rows.append([name, cpu, *(_error(whole, joined[3], slice(*part)) for part in _PERIODS)])
        print(rows[-1], flush=True)
    report.data["cycles"] = rows
    report.text(
        f"Van der Pol's oscillator on its limit cycle, a period of 19 rows, seen through a function to 12 columns with noise of "
        f"0.1: {_ROWS} rows known, {_FURTHER} ahead, {len(_CYCLES)} tables. Two latent dimensions; `priors.transitions` by "
        "`fit_map`, `priors.dynamics` (matern52) by `fit_variational`."
    )
    header = ["", "CPU s", *(f"steps {a + 1} to {b}" for a, b in _PERIODS)]
    report.table(header, rows)
    report.write()


def run(report: Report, arguments) -> None:
    if arguments.case == ["cycle"]:
        warnings.simplefilter("ignore")
        return _cycles(report)
    if not _FILE.exists():
        report.text(f"{_FILE.name} is not in {_FILE.parent}: nothing measured.")
        return
    warnings.simplefilter("ignore")  # of patterns, and of own that is too great
    t, Y = _frames()
    end, rng = int(0.8 * len(Y)), np.random.default_rng(0)
    report.text(
        f"A run: {len(Y)} frames at {_RATE:g} a second, {Y.shape[1] // 3} markers about their mean. Root mean square "
        f"error in mm (standard deviation of the table: {(Y - Y.mean(axis=0)).std():.0f}), and the share that 89 % "
        "intervals hold. Three latent dimensions, kernel rbf, priors.dynamics with matern52; `own` as said."
    )
    rows = []
    for name, method in METHODS.items():
        found, cpu = _timed(method, Y[:end], t[:end], t[end:])
        rows.append([name, cpu, *(_error(found, Y[end:], slice(*part)) for part in _AHEAD)])
    report.data["ahead"] = rows
    report.text(f"The last fifth, from the first {end} frames.")
    report.table(["", "CPU s", *(f"frames {a + 1} to {b}" for a, b in _AHEAD)], rows)
    gaps, rows = _gaps(len(Y), rng), []
    out = np.zeros(len(Y), dtype=bool)
    for gap in gaps:
        out[gap] = True
    for name, method in METHODS.items():
        found, cpu = _timed(method, Y[~out], t[~out], t[out])
        rows.append([name, cpu, _error(found, Y[out])])
    report.data["gaps"] = rows
    report.text(f"{_GAPS} gaps of {_LONG} frames, whole frames held out (`forecast`).")
    report.table(["", "CPU s", "error"], rows)
    rows = report.data["markers"] = _lost_markers(Y, t, gaps, rng)
    report.text(
        'The same gaps, two thirds of the markers lost in each (`missing="mask"`, `impute`).'
    )
    report.table(["", "CPU s", "error"], rows)
    report.write()
