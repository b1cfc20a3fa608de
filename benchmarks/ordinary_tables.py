"""Ordinary tables: what people have, and simulated ones whose factors are known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NEW = 50  # rows drawn besides those of a simulated table
_LEAST, _MOST = 60, 100  # rows of a real table that is split; rows held out of it


@dataclass(frozen=True)
class Table:
    """Rows to fit, rows held out (or None) and, where they are known, the true factors."""

    Y: np.ndarray
    new: np.ndarray | None = None
    factors: np.ndarray | None = None
    # NaN where an entry of `new` was hidden; None where none was.
    new_seen: np.ndarray | None = None
    # False where PCA leaves no residual: its density is then without bound.
    density: bool = True


@dataclass(frozen=True)
class Case:
    Q: int
    make: Callable[[], Table | None]  # None where its file is not there


# -- real tables ------------------------------------------------------------------------------


def _standardised(Y):
    return (Y - Y.mean(axis=0)) / Y.std(axis=0)


def _split(Y, factors=None, rows=None) -> Table:
    """A fifth of the rows held out, by one seed; a small table is fitted as a whole."""
    order = np.random.default_rng(7).permutation(len(Y))[:rows]
    kept = len(order) - min(len(order) // 5, _MOST) if len(order) >= _LEAST else len(order)
    first, last = np.sort(order[:kept]), np.sort(order[kept:])
    return Table(
        Y=Y[first],
        new=Y[last] if len(last) else None,
        factors=None if factors is None else factors[first],
    )


def _sklearn(name: str, *, standardise=False, rows=None):
    def make() -> Table:
        from sklearn import datasets

        Y = getattr(datasets, f"load_{name}")().data.astype(np.float64)
        return _split(_standardised(Y) if standardise else Y, rows=rows)

    return make


def _oil_100() -> Table | None:
    path = _SHARED / "oil_flow_100.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        return _split(file["Y"])


def _oil_500() -> Table | None:
    path = _SHARED / "oil_flow.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        return Table(Y=file["Y_train"][:500], new=file["Y_test"][:_MOST])


def _guo() -> Table | None:
    path = _SHARED / "guo_qpcr.csv"
    if not path.exists():
        return None
    import pandas as pd

    return _split(pd.read_csv(path, index_col=0).to_numpy(np.float64))


def _mocap() -> Table | None:
    """Every second frame, the columns that were seen throughout."""
    path = _SHARED / "osu_run1.txt"
    if not path.exists():
        return None
    import pandas as pd

    frames = pd.read_csv(path, sep="\t").drop(columns=["Field", "Time"]).dropna(axis=1, how="all")
    frames = frames.mask(frames == -9999.99).dropna(axis=1)
    return _split(frames.iloc[::2].to_numpy(np.float64))


def _spectra() -> Table | None:
    """Near infrared spectra of mixtures, every second wavelength; hardly any noise."""
    folder = _SHARED / "nir"
    if not folder.exists():
        return None

    def both(what):
        return np.vstack(
            [np.loadtxt(folder / f"flodat_{part}_{what}_0.txt") for part in ("training", "test")]
        )

    # The three shares add up to one.
    return _split(both("spectra")[:, ::2], both("components")[:, :2])


# -- simulated tables -------------------------------------------------------------------------


def _parted(Y, factors, N, **more) -> Table:
    return Table(Y=Y[:N], new=Y[N:], factors=None if factors is None else factors[:N], **more)


def _linear(N, D, seed, noise=0.7, density=True):
    """Two factors; all columns have the same noise."""

    def make() -> Table:
        rng = np.random.default_rng(seed)
        T = rng.normal(size=(N + NEW, 2))
        Y = T @ rng.normal(size=(2, D))
        return _parted(Y + noise * rng.normal(size=Y.shape), T, N, density=density)

    return make


def _units(N, D, seed, columns, times):
    """The linear table with its first columns in other units."""

    def make() -> Table:
        table = _linear(N, D, seed)()
        unit = np.where(np.arange(D) < columns, times, 1.0)
        return replace(table, Y=table.Y * unit, new=table.new * unit)

    return make


def _holed(N, D, seed, share):
    """The linear table with entries missing at random, in the new rows as well."""

    def make() -> Table:
        table = _linear(N, D, seed)()
        rng = np.random.default_rng(seed + 1)

        def pierced(Y):
            hidden = rng.random(Y.shape) < share
            hidden[hidden.all(axis=1), 0] = False
            return np.where(hidden, np.nan, Y)

        return replace(table, Y=pierced(table.Y), new_seen=pierced(table.new))

    return make


def _noisy_columns(seed) -> Callable[[], Table]:
    """One factor, ten columns that saturate; three have twenty times the others' noise."""

    def make() -> Table:
        rng = np.random.default_rng(seed)
        t = rng.uniform(-2, 2, (120 + NEW, 1))
        signal = np.tanh(1.2 * t @ rng.normal(size=(1, 10)) + rng.normal(size=10))
        sd = np.r_[np.full(7, 0.1), np.full(3, 2.0)]
        return _parted(signal + sd * rng.normal(size=signal.shape), t, 120)

    return make


def _noise(N, D, seed, decimals=None):
    def make() -> Table:
        Y = np.random.default_rng(seed).normal(size=(N + NEW, D))
        return _parted(Y if decimals is None else np.round(Y, decimals), None, N)

    return make


def _answers() -> Table:
    """A questionnaire: twelve answers from 1 to 5 that follow two attitudes."""
    rng = np.random.default_rng(1)
    T = rng.normal(size=(120 + NEW, 2))
    Y = 3 + 0.7 * T @ rng.normal(size=(2, 12)) + 0.4 * rng.normal(size=(len(T), 12))
    return _parted(np.clip(np.round(Y), 1, 5), T, 120)


def _yes_no() -> Table:
    rng = np.random.default_rng(3)
    T = rng.normal(size=(60 + NEW, 2))
    return _parted((T @ rng.normal(size=(2, 8)) > 0) * 1.0, T, 60)


def _counts(logarithm):
    def make() -> Table:
        rng = np.random.default_rng(5)
        T = rng.normal(size=(150 + NEW, 2))
        Y = rng.poisson(np.exp(0.8 + 0.7 * T @ rng.normal(size=(2, 10)))).astype(np.float64)
        return _parted(np.log1p(Y) if logarithm else Y, T, 150)

    return make


def _curves(N) -> Table:
    rng = np.random.default_rng(0)
    T, B = rng.normal(size=(N + NEW, 2)), rng.normal(size=(2, 12))
    return _parted(np.sin(T @ B) + 0.3 * rng.normal(size=(len(T), 12)), T, N)


def _rows_twice() -> Table:
    table = _curves(40)
    return replace(table, Y=np.tile(table.Y, (2, 1)), factors=np.tile(table.factors, (2, 1)))


def _row_six_times() -> Table:
    table, index = _curves(40), np.r_[np.arange(40), np.zeros(5, int)]
    return replace(table, Y=table.Y[index], factors=table.factors[index])


def _clusters() -> Table:
    """Three tight groups: rows of one are nearly, but not quite, copies."""
    rng = np.random.default_rng(4)
    centres = 3.0 * rng.normal(size=(3, 6))
    group = rng.integers(3, size=90 + NEW)
    return _parted(centres[group] + 0.01 * rng.normal(size=(len(group), 6)), None, 90)


def _process(N, Q, D, seed, noise=0.3):
    """Columns drawn from a Gaussian process over known positions."""

    def make() -> Table:
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(N + NEW, Q))
        square = ((X[:, None] - X) ** 2).sum(axis=-1)
        K = np.exp(-0.5 * square / 1.5**2) + noise**2 * np.eye(len(X))
        return _parted(np.linalg.cholesky(K) @ rng.normal(size=(len(X), D)), X, N)

    return make


CASES: dict[str, Case] = {
    "linear-20x4": Case(1, _linear(20, 4, 0)),
    "linear-30x8": Case(2, _linear(30, 8, 0)),
    "linear-30x16": Case(5, _linear(30, 16, 1)),
    "linear-80x8": Case(2, _linear(80, 8, 0)),
    "linear-80x16": Case(2, _linear(80, 16, 1)),
    "linear-300x8": Case(2, _linear(300, 8, 2)),
    "linear-1000x8": Case(2, _linear(1000, 8, 3)),
    "exact-linear-100x8": Case(2, _linear(100, 8, 4, noise=0.0, density=False)),
    "noisy-columns-0": Case(1, _noisy_columns(0)),
    "noisy-columns-2": Case(2, _noisy_columns(2)),
    "noise-80x8": Case(2, _noise(80, 8, 100)),
    "noise-30x16": Case(5, _noise(30, 16, 101)),
    "noise-rounded-80x8": Case(2, _noise(80, 8, 102, decimals=0)),
    "answers-120x12": Case(2, _answers),
    "yes-no-60x8": Case(2, _yes_no),
    "counts-150x10": Case(2, _counts(False)),
    "log-counts-150x10": Case(2, _counts(True)),
    "rows-twice-80x12": Case(2, _rows_twice),
    "row-six-times-45x12": Case(2, _row_six_times),
    "clusters-90x6": Case(2, _clusters),
    "one-unit-100x8": Case(2, _units(100, 8, 6, 1, 1000.0)),
    "two-units-100x12": Case(2, _units(100, 12, 7, 2, 30.0)),
    "holes-100x8": Case(2, _holed(100, 8, 8, 0.2)),
    "holes-40x6": Case(1, _holed(40, 6, 9, 0.2)),
    "curves-100x12": Case(2, lambda: _curves(100)),
    "process-100x20": Case(2, _process(100, 2, 20, 1)),
    "process-150x10": Case(1, _process(150, 1, 10, 0)),
    "process-200x20": Case(5, _process(200, 5, 20, 2)),
    "iris-raw": Case(2, _sklearn("iris")),
    "iris": Case(2, _sklearn("iris", standardise=True)),
    "wine-raw": Case(2, _sklearn("wine")),
    "wine": Case(2, _sklearn("wine", standardise=True)),
    "wine-5": Case(5, _sklearn("wine", standardise=True)),
    "linnerud": Case(1, _sklearn("linnerud", standardise=True)),
    "diabetes": Case(2, _sklearn("diabetes", rows=300)),
    "cancer-raw": Case(2, _sklearn("breast_cancer", rows=300)),
    "cancer": Case(2, _sklearn("breast_cancer", standardise=True, rows=300)),
    "digits": Case(2, _sklearn("digits", rows=300)),
    "oil-100": Case(5, _oil_100),
    "oil-500": Case(2, _oil_500),
    "guo": Case(2, _guo),
    "mocap": Case(2, _mocap),
    "spectra": Case(2, _spectra),
    "spectra-5": Case(5, _spectra),
}

# Small ones, a minute of CPU time together.
SHORT = (
    *("linear-20x4", "linear-30x8", "linear-80x8", "noise-80x8", "yes-no-60x8"),
    *("row-six-times-45x12", "holes-40x6", "linnerud"),
)
