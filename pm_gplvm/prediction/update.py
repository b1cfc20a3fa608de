"""New rows added to a fit, without learning it anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pm_gplvm.core.blas import blas_threads as limit_threads
from pm_gplvm.core.checks import Array, checked, number
from pm_gplvm.core.gaussian import GP
from pm_gplvm.core.interrupt import caught, interruptible, safe_point
from pm_gplvm.data.fit import FEATURE, OBS, THETA, Fit, warn_of
from pm_gplvm.data.progress import progress_bar
from pm_gplvm.data.table import new_table
from pm_gplvm.fitting.stochastic import (
    Neighbourhood,
    Optimiser,
    checked_neighbors,
    compile_neighbourhood,
    optimised_fit,
    total_sd,
)
from pm_gplvm.model.build import build_like
from pm_gplvm.model.starts import start_values
from pm_gplvm.prediction.appended import appended, continued, row_labels
from pm_gplvm.prediction.located import located
from pm_gplvm.prediction.processes import each_draw

Rows = NDArray[np.intp]

_STEPS_EACH = 50
_CANDIDATES = 5  # positions of old rows at which a new row may begin


@checked
def add_rows(
    fit: xr.DataTree,
    Y_new: Any,
    *,
    hold: float = inf,
    priors: Mapping[str, Any] | None = None,
    n_neighbors: int | None = None,
    steps: int | None = None,
    offset: Any = None,
    inputs: Any = None,
    learning_rate: float = 0.05,
    learning_rate_theta: float = 0.0,
    momentum: float = 0.9,
    random_seed: int | None = None,
    progressbar: bool = True,
    blas_threads: int | None = 1,
) -> xr.DataTree:
    """Insert new rows into a fit, each placed and refined among its neighbours.

    A new row begins where one of the five old rows lies whose data are nearest to its own: that
    where it is likeliest given the old rows around. Then each step draws a new row and moves the
    new ones among its R nearest, as :func:`fit_stochastic` does (Yao et al. 2011, the incremental
    algorithm). The old rows stay, or are held by a penalty.

    To a fit by :func:`fit_svi` rows are added through its bound: q(x) of each new row is where the bound is highest
    given q(u), from the weightiest mode that :func:`embed` finds. Missing entries are as good there as in the table.

    Parameters
    ----------
    fit : DataTree
        Of one draw, from :func:`fit_marginal`, :func:`fit_stochastic`, or this function; or from :func:`fit_svi`, for
        which ``offset``, ``random_seed``, ``progressbar`` and ``blas_threads`` alone matter of the arguments below.
    Y_new : array_like, DataFrame or DataArray, dims (obs, feature), shape (S, D)
        New rows of the same columns, in the same units. One row is a table of shape (1, D).
    hold : float, default inf
        Of the penalty ½ hold ‖x - x_old‖² on each old row, in units of 1 / X²; ``inf`` leaves the
        old rows where they are.
    priors : mapping, optional
        As in :func:`build_model`, for what was not the default there: they are not read off
        the fit. Only that of X matters while θ is held; what was a number in the model still is.
    n_neighbors : int, optional
        R, from 2 to the number of all rows; 50, or all if they are fewer.
    steps : int, optional
        Default: 50 times the number of new rows.
    offset : array_like (S,), (S, 1) or (S, D), optional
        Of the new rows, where :func:`fit_svi` had one; of ``offset="size"`` it is found from the rows.
    inputs : DataFrame, mapping from names to values, or Dataset, optional
        Of the new rows, as in :func:`embed`.
    learning_rate, learning_rate_theta, momentum : float
        As in :func:`fit_stochastic`; θ is held by default.
    random_seed : int, optional
    progressbar : bool, default True
    blas_threads : int or None, default 1

    Returns
    -------
    DataTree
        A new fit of all rows, the old ones first. Row labels go on: a number more for each row, or
        its place as text, unless Y_new has labels of its own. Coordinates along the rows
        (``label``) that Y_new lacks are empty there: "" or NaN. The mean and the scale of the
        table stay those of the old fit, so that θ keeps its meaning. Of a fit by :func:`fit_svi` ``bound`` is that of
        all rows; ``fit_svi(Y, start=...)`` goes on from there with all that is free. :func:`align` is to be called again.

    Warns
    -----
    RuntimeWarning
        If Ctrl-C ended it: the new rows are where they were, ``attrs["interrupted"]`` is 1, and
        ``attrs["steps"]`` are those taken.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has more than one draw or a kernel of its own, ``Y_new`` has other columns,
        missing values or labels that are taken, an argument is out of range, or a step is not
        finite. The old fit is untouched in any case.
    KeyboardInterrupt
        At Ctrl-C before the first step, and at the second Ctrl-C.

    Notes
    -----
    The cost is that of the steps, O(R³) each, and of one search for the nearest old rows. The
    gradient is that of neighbourhoods, with its bias (see :func:`fit_stochastic`); to go on from
    here with all rows, build their model and call ``fit_marginal(model, start=fit)``.

    References
    ----------
    Yao, A., Gall, J., Van Gool, L., Urtasun, R. (2011). Learning probabilistic non-linear latent
    variable models for tracking complex activities. NIPS 24.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> Y = gplvm.data.load_digits(n=40)
    >>> old = gplvm.fit_marginal(gplvm.build_model(Y[:30]), progressbar=False)
    >>> new = gplvm.add_rows(old, Y[30:], random_seed=1, progressbar=False)
    >>> new["posterior"].sizes["obs"], old["posterior"].sizes["obs"]
    (40, 30)
    """
    if not (isinstance(hold, float) and hold == np.inf):
        number("hold", hold, above=0.0, closed="left")
    read = Fit.of(fit, "X", caller="add_rows")
    if read.is_uncollapsed:
        read.refuse_inputs(
            "its bound is moved by positions alone. Place the rows with embed, or fit all again."
        )
        return appended(
            fit,
            Y_new,
            offset,
            random_seed=random_seed,
            progressbar=progressbar,
            blas_threads=blas_threads,
        )
    read.refuse_function_modes(
        "its f is the mode given the rows it has, and new ones would move it. Place them with embed, or fit all of "
        "them again: fit_map(build_model(Y, likelihood=...)), or fit_svi, which takes rows later."
    )
    if offset is not None:
        raise ValueError(
            "add_rows takes an offset of new rows where fit_svi had one of the table's, got another fit. Leave it out."
        )
    read.require_exact()
    draw = _only_draw(read)
    F, mean, scale = read.table(missing=False)
    new = _new_rows(read, Y_new)
    located_at = located(read, inputs, new[OBS].to_numpy()).at
    N, S = len(F), len(new)
    R = checked_neighbors(n_neighbors, N + S)
    steps = _STEPS_EACH * S if steps is None else steps

    with interruptible(keeps=True):
        candidates = _nearest((new.to_numpy() - mean) / scale, F)
        X = np.concatenate([draw.X, draw.X[candidates[:, 0]]])
        # Not by model.rebuild, which refuses other priors than the fit's: those of X may depend on the rows.
        held = {name: read.constants[name].to_numpy() for name in THETA if name in read.constants}
        model = build_like(
            read, _joined(read, new), priors={**held, **(priors or {})}, new_inputs=located_at
        )
        rng = np.random.default_rng(random_seed)
        density = compile_neighbourhood(model)
        values = start_values(
            model, {"X": X, **draw.theta, "sigma": float(read.draws("sigma")[0, 0])}, rng
        )
        theta = [values[name] for name in density.theta]
        sample = density.sample(rng)
        with (
            limit_threads(blas_threads),
            progress_bar("add_rows", int(steps), "steps", show=progressbar) as progress,
        ):
            X[N:] = draw.X[_likeliest(density, draw.X, theta, candidates, R)]
            optimiser = Optimiser(
                _Held(density, draw.X, hold),
                X,
                theta,
                n_neighbors=R,
                rates=(learning_rate * total_sd(draw.X), learning_rate_theta),
                momentum=momentum,
                first=np.arange(N, N + S),
            )
            try:
                for taken in range(steps):
                    safe_point()
                    optimiser.step(rng, 1.0 - taken / steps)
                    progress.advance()
            except KeyboardInterrupt:
                if not optimiser.taken:
                    raise
                caught()
        settings = {
            "hold": hold if np.isfinite(hold) else "inf",
            "n_new": S,
            "n_neighbors": R,
            "steps": optimiser.taken,
            "learning_rate": learning_rate,
            "learning_rate_theta": learning_rate_theta,
            "momentum": momentum,
            "random_seed": random_seed,
        }
        longer = optimised_fit(model, density, optimiser, sample, "add_rows", settings)
    if longer.attrs["interrupted"]:
        warn_of(
            longer,
            f"add_rows was interrupted, and the new rows are where they were after {optimiser.taken} of "
            f"{steps} steps. Add them again to the old fit, or go on with all rows by fit_stochastic("
            "model.rebuild(fit), start=fit).",
        )
    return longer


@dataclass(frozen=True)
class _Held:
    """The log-density of a neighbourhood whose old rows are held."""

    density: Neighbourhood
    X_old: Array
    hold: float

    def __call__(
        self, rows: Rows, X_rows: Array, theta: Sequence[Array]
    ) -> tuple[float, Array, list[Array]]:
        value, dX, dtheta = self.density(rows, X_rows, theta)
        old = rows < len(self.X_old)
        if np.isinf(self.hold):
            return value, np.where(old[:, None], 0.0, dX), dtheta
        away = X_rows[old] - self.X_old[rows[old]]
        dX[old] -= self.hold * away
        return value - 0.5 * self.hold * float((away**2).sum()), dX, dtheta


def _only_draw(read: Fit) -> GP:
    """Return the draw of a fit that has one, with one noise for all columns."""
    if read.n_draws != 1:
        sizes = read.posterior.sizes
        raise ValueError(
            "add_rows needs a fit of one draw, as fit_marginal and fit_stochastic make it, got "
            f"{sizes['chain']} chains of {sizes['draw']}."
        )
    draw = next(each_draw(read))
    if draw.own_noise:
        raise ValueError(
            "add_rows needs one noise for all columns, got a fit with one for each. Place the rows with "
            "embed, or fit all of them again with fit_map."
        )
    return draw


def _nearest(F_new: Array, F: Array) -> Rows:
    """For each new row the old ones with the most similar data, shape (S, 5)."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(_CANDIDATES, len(F))).fit(F)
    return np.asarray(search.kneighbors(F_new, return_distance=False))


def _likeliest(
    density: Neighbourhood, X: Array, theta: Sequence[Array], candidates: Rows, n_neighbors: int
) -> Rows:
    """For each new row the old row at whose position it is likeliest given the old rows around."""
    N, chosen = len(X), []
    tree = cKDTree(X)
    for n, near in enumerate(candidates, start=N):
        gains = []
        for row in near:
            around = np.asarray(tree.query(X[row], min(n_neighbors - 1, N))[1]).reshape(-1)
            before, *_ = density(around, X[around], theta)
            after, *_ = density(np.append(around, n), X[np.append(around, row)], theta)
            gains.append(after - before)
        chosen.append(near[int(np.argmax(gains))])
    return np.array(chosen)


def _new_rows(read: Fit, Y_new: Any) -> xr.DataArray:
    """Check new rows, and bring their columns into the order of the old ones."""
    new = new_table(read, Y_new).rename(obs_new=OBS)
    if new.isnull().any():
        raise ValueError(
            "Y_new must not have missing values for add_rows. Drop or impute them, or see embed."
        )
    return new


def _joined(read: Fit, new: xr.DataArray) -> xr.DataArray:
    """Concatenate old and new rows, with their labels."""
    old = read.Y.transpose(OBS, FEATURE)
    coords: dict[Any, Any] = {
        OBS: row_labels(old[OBS].to_numpy(), new[OBS].to_numpy()),
        FEATURE: old[FEATURE].to_numpy(),
    }
    for name, coord in old.coords.items():
        if coord.dims == (OBS,) and name != OBS:
            coords[name] = (OBS, continued(coord.to_numpy(), new.coords.get(name), len(new)))
    return xr.DataArray(np.concatenate([old, new]), dims=(OBS, FEATURE), coords=coords)
