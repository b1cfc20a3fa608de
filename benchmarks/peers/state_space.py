"""Linear Gaussian state-space models of the motion capture table, beside `python -m benchmarks forecast`.

    python3 -m venv benchmarks/.peers/statsmodels
    benchmarks/.peers/statsmodels/bin/pip install statsmodels
    benchmarks/.peers/statsmodels/bin/python benchmarks/peers/state_space.py ../shared/data/osu_run1.txt

A local linear trend of each column, and a vector autoregression of second order of the first six principal components
in state-space form, with an error of each component (statsmodels' VARMAX). The last fifth of the frames, from the
first 173: root mean square error in mm and the share that 89 % intervals hold. Prints a table in Markdown.
"""

import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")
from statsmodels.tsa.statespace.structural import UnobservedComponents  # noqa: E402
from statsmodels.tsa.statespace.varmax import VARMAX  # noqa: E402

PARTS = ((0, 6), (6, 12), (12, 24), (24, 44))
HALF = 1.598
COMPONENTS = 6


def frames(path):
    """Positions of the markers seen throughout, about their mean in each frame, as benchmarks/forecasting.py has them."""
    lines = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
    rows = []
    for words in lines:
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            continue
    width = max(map(len, rows))
    walk = np.array([row for row in rows if len(row) == width])[:, 1:]
    walk[walk == -9999.99] = np.nan
    walk = walk[:, walk.shape[1] % 3 :]
    markers = walk[:, ~np.isnan(walk).any(axis=0)].reshape(len(walk), -1, 3)
    markers = markers - markers.mean(axis=1, keepdims=True)
    return markers.reshape(len(walk), -1)


def trends(Y, ahead):
    mean, sd = np.empty((2, ahead, Y.shape[1]))
    for d in range(Y.shape[1]):
        unit = Y[:, d].std()
        fit = UnobservedComponents(Y[:, d] / unit, "lltrend").fit(disp=0, maxiter=200)
        found = fit.get_forecast(ahead)
        mean[:, d], sd[:, d] = unit * found.predicted_mean, unit * found.se_mean
    return mean, sd


def components(Y, ahead):
    centre = Y.mean(axis=0)
    U, s, Vt = np.linalg.svd(Y - centre, full_matrices=False)
    scores, loadings = U[:, :COMPONENTS] * s[:COMPONENTS], Vt[:COMPONENTS]
    unit = scores.std(axis=0)
    fit = VARMAX(scores / unit, order=(2, 0), error_cov_type="diagonal").fit(disp=0, maxiter=1000)
    found = fit.get_forecast(ahead)
    cov = np.asarray(found.prediction_results.forecasts_error_cov).transpose(2, 0, 1)
    cov = cov * np.outer(unit, unit)
    left = (Y - centre - scores @ loadings).var(axis=0)
    mean = centre + (found.predicted_mean * unit) @ loadings
    return mean, np.sqrt(np.einsum("qd,tqr,rd->td", loadings, cov, loadings) + left)


def main(path):
    Y = frames(path)
    end = int(0.8 * len(Y))
    print(
        f"{len(Y)} frames, {Y.shape[1]} columns, standard deviation {(Y - Y.mean(axis=0)).std():.0f}.\n"
    )
    print("| | CPU s | " + " | ".join(f"frames {a + 1} to {b}" for a, b in PARTS) + " |")
    print("|---|---|" + "---|" * len(PARTS))
    ways = {
        "local linear trend of each column": trends,
        f"VAR(2) of {COMPONENTS} components": components,
    }
    for name, way in ways.items():
        before = time.process_time()
        mean, sd = way(Y[:end], len(Y) - end)
        cells = []
        for part in PARTS:
            away = (mean - Y[end:])[slice(*part)]
            inside = (np.abs(away) < HALF * sd[slice(*part)]).mean()
            cells.append(f"{np.sqrt((away**2).mean()):.3g} ({100 * inside:.0f} %)")
        print(
            f"| {name} | {time.process_time() - before:.3g} | " + " | ".join(cells) + " |",
            flush=True,
        )
    print(f"\nVersions: statsmodels {version('statsmodels')}.")


if __name__ == "__main__":
    main(sys.argv[1])
