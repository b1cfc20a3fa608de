"""What a fit under ``priors.dynamics`` says of other times: X continued, and Y there."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.core.checks import Array, checked, warn
from pm_gplvm.data.fit import FEATURE, LATENT, Fit
from pm_gplvm.prediction.paths import Paths
from pm_gplvm.prediction.predict import drawn_together, readable
from pm_gplvm.prediction.processes import each_process, for_each_draw, patterns_of
from pm_gplvm.prediction.steps import continued
from pm_gplvm.prediction.uncollapsed import Uncollapsed, each_frame

_WIDE = 2.0  # root mean square of X beyond which its prior, of 1, is at odds with the rows
_FAR = 0.5  # standard deviation of X beyond which the prior's width tells

AtPositions = Callable[[Array], tuple[Array, Array, Array]]
"""From positions (S, Q) to a draw of Y, its mean and its variance, each (S, D), in units of Y."""


@checked
def forecast(
    fit: xr.DataTree,
    times: Any,
    *,
    sequence: Any = None,
    noise: bool = True,
    num_samples: int = 200,
    random_seed: int | None = None,
) -> xr.Dataset:
    """Continue a fit under :func:`priors.dynamics` to other times, ahead or in gaps, or under :func:`priors.transitions` by steps.

    For each draw (X, θ) of the fit each column of X at the new times is Gaussian given the rows of the same sequence,

        x ~ N(k K⁻¹ X, k(t, t) - k K⁻¹ kᵀ + own² I),    K = (1 - own²) κ(t_n, t_m) + own² I,

    k of the new times and the rows' (Rasmussen & Williams 2006, eq. 2.23 and 2.24; Damianou, Titsias & Lawrence 2011,
    section 3.3). Positions are drawn from it, all times together, and Y at each such path as :func:`sample_predictive`
    draws it, so that steps vary together in X and, given X, in each column of Y.

    Under :func:`priors.transitions` paths go on from the last row of a sequence step by step, each drawn given the
    transitions of the rows and those of its own path so far, which is exact (Wang, Fleet & Hertzmann 2008, section 5.1,
    take the mean).

    Parameters
    ----------
    fit : DataTree
        Of a model with ``priors={"X": priors.dynamics(...)}``, or ``priors.transitions(...)``: by :func:`fit_marginal`, :func:`fit_map`,
        :func:`fit_laplace`, :func:`fit_sparse`, :func:`fit_variational`, :func:`sample_theta` or :func:`sample`.
    times : array_like, shape (S,)
        In the units of ``t`` of the prior, dates where these were dates; in any order. A time of a row, or one that comes
        twice, stands for another frame at the same moment: the path is the same there, what is a frame's own is not.
        Under :func:`priors.transitions` steps after the last row of the sequence, whole numbers from 1 on.
    sequence : label or array_like of labels, shape (S,), optional
        Of the sequence that the times belong to, one for all or one for each. Not needed where the fit has one. A label
        that the fit has not is that of a new sequence, of which only the prior is known.
    noise : bool, default True
        Whether ``sd`` and the draws of Y include the noise of a new measurement.
    num_samples : int, default 200
        How many paths. The fit's draws are taken evenly spaced, each as often as the others where
        there are fewer of them.
    random_seed : int, optional

    Returns
    -------
    Dataset
        ``X_mean`` and ``X_sd`` (obs_new, latent), ``mean`` and ``sd`` (obs_new, feature) in the units of Y; and of each
        path ``X`` (sample, obs_new, latent) and a table of the table's name, ``Y`` (sample, obs_new, feature). Along
        obs_new the coordinates ``time``, as given, and ``sequence``. ``mean`` and ``sd`` are mixed over the paths by
        the law of total variance, ``X_mean`` and ``X_sd`` over the draws of the fit. Under another likelihood than a
        Gaussian ``mean`` is E[y].

    Warns
    -----
    RuntimeWarning
        If a label is that of no sequence of the fit, or the draws of X stand in frames of their own (:func:`align`); if
        the rows' X spreads twice as wide as its prior or more, so that what is far from them falls back too near and
        is too sure of itself: ``own`` is greater then than what the frames of a path have of their own.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has another prior of X, or ``times`` or ``sequence`` cannot be meant.

    Notes
    -----
    *What is uncertain.* An estimate (:func:`fit_marginal`, :func:`fit_map`) has one X of the rows, as if it were known;
    :func:`fit_laplace`, :func:`fit_variational` and :func:`sample` have draws of it. Far from all rows, in lengthscales
    along t, X is N(0, 1) again and Y what the function makes of that.

    *Cost.* For each path one product of the N² numbers of K⁻¹ with the S positions, and one root of an S x S matrix.

    References
    ----------
    Damianou, A., Titsias, M., Lawrence, N. (2011). Variational Gaussian process dynamical systems.
    NIPS 24.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> t, rng = np.arange(30) / 5.0, np.random.default_rng(0)
    >>> Y = np.sin(t[:, None] + np.arange(4.0)) + 0.05 * rng.standard_normal((30, 4))
    >>> model = gplvm.build_model(Y, priors={"X": gplvm.priors.dynamics(t)})
    >>> best = gplvm.fit_marginal(model, random_seed=1, progressbar=False)
    >>> ahead = gplvm.forecast(best, [6.0, 6.2, 6.4], random_seed=1)
    >>> ahead["mean"].shape, ahead["Y"].dims
    ((3, 4), ('sample', 'obs_new', 'feature'))
    """
    read = readable(fit, "forecast")
    read.refuse_inputs(
        "at other times they are not known. Take predict(fit, X_new, inputs=...) at positions."
    )
    paths = continued(read)
    new = paths.at(times, sequence, "forecast")
    read.warn_unaligned()
    rng = np.random.default_rng(random_seed)
    chosen = read.evenly_spaced(num_samples)
    X = read.values("X", raw=True)[chosen]
    frames = read.frames(chosen)
    shares = np.array_split(np.arange(num_samples), len(chosen))
    processes = _processes(read, num_samples, rng, noise=noise)

    positions, of_X, tables, of_Y = [], [], [], []
    for i, (at_positions, share) in enumerate(zip(processes, shares, strict=False)):
        mean, variance, ways = paths.drawn(new, X[i], chosen[i], len(share), rng)
        of_X.append((frames.inward(i, mean), variance * frames.scale[i] ** 2))
        for way in ways:
            x = frames.inward(i, way)
            table, *moments = at_positions(x)
            positions.append(x)
            tables.append(table)
            of_Y.append(moments)
    if isinstance(paths, Paths):
        farthest = max(float(variance.max()) for _, variance in of_X)
        _warn_of_width(X, paths.own, farthest**0.5)
    known = {
        **_mixed(of_X, ("X_mean", "X_sd"), LATENT),
        "X": (("sample", "obs_new", LATENT), np.array(positions)),
        **_mixed(of_Y, ("mean", "sd"), FEATURE),
        read.observed: (("sample", "obs_new", FEATURE), np.array(tables)),
    }
    coords = {
        "sample": np.arange(num_samples),
        "obs_new": np.arange(len(new)),
        "time": ("obs_new", paths.moments(new.t)),
        "sequence": ("obs_new", new.names),
        LATENT: read.draws("X")[LATENT].to_numpy(),
        FEATURE: read.features,
    }
    return xr.Dataset(known, coords=coords)


def _warn_of_width(X: Array, own: float, sd: float) -> None:
    """Warn where far times are asked for and the rows' X is no draw of N(0, 1), by its width."""
    width = float(np.sqrt((X**2).mean()))
    if width > _WIDE and sd > _FAR:
        warn(
            f"forecast: X of the rows spreads {width:.1f} times as wide as its prior, to which far times fall back: they "
            f"are told too near and too sure. own={own:g} is too much for frames as smooth as these: fit again with a "
            "smaller one, such as "
            f"priors.dynamics(t, own={own / 10:g})."
        )


def _mixed(parts: Any, names: tuple[str, str], dim: str) -> dict[str, Any]:
    """Mean and sd (S, ...) of a mixture of means and variances, by the law of total variance."""
    means, variances = (np.array(part) for part in zip(*parts, strict=True))
    sd = np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    both = (means.mean(axis=0), sd)
    return {name: (("obs_new", dim), value) for name, value in zip(names, both, strict=True)}


def _processes(
    read: Fit, limit: int, rng: np.random.Generator, *, noise: bool
) -> Iterator[AtPositions]:
    """Say of each draw of the fit what Y is at positions; the same again where there is one process for all."""
    if read.has_likelihood:
        found: Iterator[AtPositions] = (
            _of_likelihood(process, rng, noise=noise) for process in each_frame(read, limit)
        )
    else:
        F, centre, scale = read.table()
        patterns = patterns_of(read, F)

        def of(process: Any) -> AtPositions:
            def at(x: Array) -> tuple[Array, Array, Array]:
                own, mean, variance = drawn_together(process, F, patterns, x, 1, rng, noise=noise)
                return centre + scale * own[0], centre + scale * mean, scale**2 * variance

            return at

        found = map(of, each_process(read, limit))
    return for_each_draw(read, found)


def _of_likelihood(process: Uncollapsed, rng: np.random.Generator, *, noise: bool) -> AtPositions:
    def at(x: Array) -> tuple[Array, Array, Array]:
        (table,), found = process.draw_response(x, 1, rng, noise=noise), process.at(x)
        return table, found.mean, found.of_mean + (found.about if noise else 0.0)

    return at
