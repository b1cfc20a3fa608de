"""Draws of X in one orientation, by transforms that leave K unchanged."""

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from pm_gplvm.core.checks import Array, checked, warn
from pm_gplvm.core.composite import Composite
from pm_gplvm.core.kernels import is_known, kernel_named
from pm_gplvm.core.procrustes import (
    Symmetry,
    circular_procrustes_mean,
    procrustes_mean,
    superimpose,
    unrolled,
)
from pm_gplvm.data.arrays import by_row, finite, row_order
from pm_gplvm.data.fit import Fit, stacked
from pm_gplvm.model.own_kernels import OwnKernel

_ITERATIONS = 1000
_TOLERANCE = 1e-9


@checked
def align(fit: xr.DataTree, *, to: Any = None, scale: bool = False) -> xr.DataTree:
    """Bring every draw of X into one orientation.

    The likelihood does not change when X is rotated, so each draw has an orientation of its own. With one
    lengthscale for all dimensions, or none, a draw is rotated or reflected so that it lies as near
    to the reference as possible (orthogonal Procrustes, Schönemann 1966). With ARD, where only signs
    and order of the dimensions are free, the dimensions are matched by optimal assignment and
    their lengthscales go with them. Under a kernel of several factors only the signs of the dimensions are matched; an
    angle, at which periodic factors alone look, is shifted and mirrored, and taken modulo its period. Under a stationary kernel each draw is also translated to the
    centroid of the reference: the prior N(0, 1) of X determines the origin, the data do not.

    Nothing is sampled again and K is the same in every draw. The draws in ``posterior`` do not
    change. All functions of this package that read positions (:func:`predict`, :func:`plot.latent`) take the
    aligned ones, and ``X_new`` in their orientation. PyMC and ArviZ see the raw ones, unless given
    ``group="aligned"``.

    Parameters
    ----------
    fit : DataTree
        With ``X``, in one draw or many. A fit that has been aligned before is aligned anew from
        its raw draws.
    to : DataTree or array_like, shape (N, Q), optional
        The reference. Of a fit with many draws their mean after alignment is taken. By default the draws'
        own mean by generalised Procrustes analysis (Gower 1975), centred under a stationary
        kernel. Its axes are the principal axes (ARD: the dimensions in order of their spread), the
        widest first; the entry farthest from 0 in each dimension is positive.
    scale : bool, default False
        Whether each draw is also scaled to the reference by least squares, together with its
        lengthscale, which leaves K unchanged. For a joint mode, whose X is small, beside draws.

    Returns
    -------
    DataTree
        The fit with the group ``aligned``: ``X`` (chain, draw, obs, latent), x' = scale ·
        rotation x + shift; ``rotation`` (chain, draw, latent, latent_from), ``shift`` (chain, draw,
        latent) and, if asked, ``scale`` (chain, draw); ``reference`` (obs, latent); ``residual``
        (chain, draw), the root mean square over the rows of ‖x' - reference‖, in units of X;
        ``lengthscale`` where it changed (ARD, scale).

    Warns
    -----
    RuntimeWarning
        If the mean of the draws has not converged.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, ``to`` has another shape or other rows, or ``scale`` is asked for without a
        lengthscale.

    Notes
    -----
    Draws from different posterior modes cannot be aligned with each other: see ``residual``, and
    :func:`diagnose`. A user's own covariance is taken to be isotropic, or, where its ``lengthscale``
    has one entry a dimension, isotropic after division by it; X is then not translated.

    References
    ----------
    Schönemann, P. H. (1966). A generalized solution of the orthogonal Procrustes problem.
    Psychometrika 31, 1-10.
    Gower, J. C. (1975). Generalized Procrustes analysis. Psychometrika 40, 33-51.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(
    ...     gplvm.build_model(gplvm.data.load_digits(n=20)), progressbar=False
    ... )
    >>> mirrored = gplvm.align(best, to=-best.posterior["X"][0, 0])
    >>> bool(mirrored["aligned"]["residual"] < 1e-9)
    True
    """
    read = Fit.of(fit, "X", caller="align")
    symmetry = _symmetry(read)
    if scale and not symmetry.scale:
        raise ValueError(
            "scale=True needs a stationary kernel and its lengthscale, which is scaled along, got "
            f"a fit with the kernel {read.kernel!r}. Leave scale=False."
        )
    raw = read.draws("X", raw=True)
    draws = stacked(raw)
    if to is None:
        mixed = stacked(read.pooled().draws("X", raw=True))
        reference = _own_mean(mixed, symmetry, scale)
    else:
        reference = _reference(to, raw)
    superimposed, transform = superimpose(reference, draws, symmetry, scale=scale)
    residual = np.sqrt(((superimposed - reference) ** 2).sum(axis=2).mean(axis=1))

    lead, (rows, latent) = raw.dims[:2], raw.dims[2:]
    known = {
        "X": (raw.dims, superimposed),
        "rotation": ((*lead, latent, f"{latent}_from"), transform.rotation),
        "shift": ((*lead, latent), transform.shift),
        "residual": (lead, residual),
    }
    if scale:
        known["scale"] = (lead, transform.scale)
    if scale or symmetry.axes is True:
        lengthscale = read.draws("lengthscale", raw=True)
        known["lengthscale"] = (lengthscale.dims, transform.lengthscale(stacked(lengthscale)))
    sizes = dict(raw.sizes) | {f"{latent}_from": raw.sizes[latent]}
    group = xr.Dataset(
        {n: (dims, v.reshape([sizes[d] for d in dims])) for n, (dims, v) in known.items()},
        coords=raw.coords,
        attrs={"group": _GROUPS[symmetry.axes]},
    ).assign(reference=((rows, latent), reference))
    aligned = fit.copy()
    aligned["aligned"] = xr.DataTree(group)
    return aligned


_GROUPS = {True: "signed permutation", False: "orthogonal", "signs": "signs"}


def _symmetry(read: Fit) -> Symmetry:
    """Read off a fit which transforms of X leave its K unchanged."""
    kernel = kernel_named(read.kernel) if is_known(read.kernel) else None
    stationary = kernel is not None and kernel.stationary
    if isinstance(kernel, OwnKernel):
        return _of_own(kernel, read)
    if isinstance(kernel, Composite):
        return Symmetry("signs", move=stationary, scale=False, angles=tuple(read.angles))
    has_lengthscale = "lengthscale" in read
    axes = has_lengthscale and read.draws("lengthscale", raw=True).ndim == 3
    return Symmetry(axes, move=stationary, scale=stationary and has_lengthscale)


def _of_own(kernel: OwnKernel, read: Fit) -> Symmetry:
    """Take the transforms that a user's kernel was found not to change under."""
    axes, moves, scales = kernel.symmetry(read.latent_dim, ard=read.has_ard)
    if axes is None:
        raise ValueError(
            f"{read.caller} needs a kernel under which positions may be turned or mirrored, got {kernel.name!r}, which changes "
            "with either. Its draws have one frame as they are."
        )
    if read.angles:
        axes, scales = "signs", False
    return Symmetry(axes, move=moves, scale=scales, angles=tuple(read.angles))


def _own_mean(draws: Array, symmetry: Symmetry, scale: bool) -> Array:
    """Procrustes mean of the draws; warn if it has not converged."""
    if symmetry.angles:
        return _mean_with_angles(draws, symmetry)
    if symmetry.move:
        draws = draws - draws.mean(axis=1, keepdims=True)
    if scale:  # every draw has the same weight
        sizes = np.sqrt((draws**2).sum(axis=(1, 2), keepdims=True))
        draws = draws * (np.sqrt((sizes**2).mean()) / np.maximum(sizes, 1e-300))
    mean, change = procrustes_mean(
        draws, axes=symmetry.axes, max_iter=_ITERATIONS, tolerance=_TOLERANCE
    )
    _warn_unsettled(change)
    return mean


def _mean_with_angles(draws: Array, symmetry: Symmetry) -> Array:
    """Mean of the draws, of each angle around its circle."""
    mean, lines = np.empty(draws.shape[1:]), symmetry.lines(draws.shape[2])
    if lines:
        mean[:, lines] = _own_mean(draws[..., lines], replace(symmetry, angles=()), scale=False)
    for q in symmetry.angles:
        mean[:, q], change = circular_procrustes_mean(
            draws[..., q], max_iter=_ITERATIONS, tolerance=_TOLERANCE
        )
        _warn_unsettled(change)
    return mean


def _warn_unsettled(change: float) -> None:
    if change > _TOLERANCE:
        warn(
            f"The mean of the draws has not settled: in iteration {_ITERATIONS} it still moved by {change:.2g} of "
            f"its size (wanted {_TOLERANCE:g} or less). Align to one fit or array."
        )


def _reference(to: Any, raw: xr.DataArray) -> Array:
    """Positions to align to, checked against the draws."""
    shape, rows = raw.shape[2:], raw.dims[2]
    if isinstance(to, xr.DataTree):
        other = Fit.of(to, "X", caller="align")
        positions = other.draws("X")
        if rows in raw.coords and rows in positions.coords:
            order = row_order("to", positions[rows].to_numpy(), raw[rows].to_numpy())
            positions = positions.isel({rows: order})
        draws = stacked(positions)
        if len(draws) > 1 and not other.is_aligned:
            to = _own_mean(draws, _symmetry(other), scale=False)
        else:
            to = unrolled(draws, other.angles).mean(axis=0)
    elif rows in raw.coords:
        to = by_row("to", to, raw[rows].to_numpy())
    return finite("to", to, shape, "(N, Q)")
