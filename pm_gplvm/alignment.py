"""Draws of X turned onto one frame, by what leaves K alone."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from pm_gplvm.checks import Array
from pm_gplvm.kernels import KERNELS
from pm_gplvm.schema import draws_of, require_fit

__all__ = ["align", "procrustes_mean"]

_ITERATIONS = 1000
_SETTLED = 1e-9


def align(fit: xr.DataTree, to: Any = None, *, scale: bool = False) -> xr.DataTree:
    """Turn every draw of X onto one frame.

    The likelihood cannot tell X from X turned, so each draw comes in a frame of its own. With one
    lengthscale for all dimensions, or none, a draw is rotated or reflected so that it lies as near
    to the reference as can be (orthogonal Procrustes, Schönemann 1966). With ARD, where the prior
    on X leaves signs and order free alone, the dimensions are matched by optimal assignment and
    their lengthscales go with them. Under a stationary kernel each draw is also moved, to the
    centroid of the reference: the prior N(0, 1) of X says where the origin is, the data do not.

    Nothing is drawn anew and K is the same in every draw. The draws in ``posterior`` stay as they
    are; all functions here that read positions (:func:`predict`, :func:`plot_latent`) take the
    aligned ones, and ``X_new`` in their frame. PyMC and ArviZ see the raw ones, unless told
    ``group="aligned"``.

    Parameters
    ----------
    fit : DataTree
        With ``X``, in one draw or many. If it has been aligned before, it is aligned anew, from
        its raw draws.
    to : DataTree or array_like, shape (N, Q), optional
        The reference. Of a fit with many draws their mean, after alignment. By default the draws'
        own mean by generalised Procrustes analysis (Gower 1975), centred under a stationary
        kernel, in its principal axes (ARD: its dimensions in order of their spread), the
        widest first, of each dimension the entry farthest from 0 positive.
    scale : bool, default False
        Whether each draw is also enlarged or shrunk onto the reference by least squares, its
        lengthscale with it, which K does not notice. To see a joint mode, whose X is small, beside draws.

    Returns
    -------
    DataTree
        The fit with the group ``aligned``: ``X`` (chain, draw, obs, latent), which is x' = scale ·
        rotation x + shift; ``rotation`` (chain, draw, latent, latent_from), ``shift`` (chain, draw,
        latent) and, if asked, ``scale`` (chain, draw); ``reference`` (obs, latent); ``residual``
        (chain, draw), the root mean square over the rows of ‖x' - reference‖, in units of X;
        ``lengthscale`` where it changed (ARD, scale).

    Warns
    -----
    RuntimeWarning
        If the mean of the draws has not settled.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` has no X, ``to`` has another shape or other rows, or there is no lengthscale that
        could be scaled along.

    Notes
    -----
    Draws from different embeddings cannot be turned onto each other: see ``residual``, and
    :func:`diagnose`. A covariance of the user's own is taken to be the same in all directions, or in
    all but the axes' where its ``lengthscale`` has one entry a dimension; it is not moved.

    References
    ----------
    Schönemann, P. H. (1966). A generalized solution of the orthogonal Procrustes problem.
    Psychometrika 31, 1-10.
    Gower, J. C. (1975). Generalized Procrustes analysis. Psychometrika 40, 33-51.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> best = gplvm.fit_marginal(gplvm.build_model(gplvm.load_digits(n=20)), progressbar=False)
    >>> mirrored = gplvm.align(best, to=-best.posterior["X"][0, 0])
    >>> bool(mirrored["aligned"]["residual"] < 1e-9)
    True
    """
    require_fit(fit, "X", caller="align")
    symmetry = _symmetry(fit)
    if scale and not symmetry.scale:
        raise ValueError(
            "scale=True needs a stationary kernel and its lengthscale, which is scaled along, got "
            f"a fit with the kernel {fit.attrs.get('kernel', 'custom')!r}. Leave scale=False."
        )
    raw = draws_of(fit, "X", raw=True)
    draws = raw.to_numpy().reshape(-1, *raw.shape[2:])
    reference = _own_mean(draws, symmetry, scale) if to is None else _reference(to, raw)
    turned, transform = _onto(reference, draws, symmetry, scale)
    residual = np.sqrt(((turned - reference) ** 2).sum(axis=2).mean(axis=1))

    lead, (rows, latent) = raw.dims[:2], raw.dims[2:]
    known = {
        "X": (raw.dims, turned),
        "rotation": ((*lead, latent, f"{latent}_from"), transform.rotation),
        "shift": ((*lead, latent), transform.shift),
        "residual": (lead, residual),
    }
    if scale:
        known["scale"] = (lead, transform.scale)
    if scale or symmetry.axes:
        lengthscale = draws_of(fit, "lengthscale", raw=True)
        values = lengthscale.to_numpy().reshape(len(draws), *lengthscale.shape[2:])
        known["lengthscale"] = (lengthscale.dims, transform.lengthscale(values))
    sizes = dict(raw.sizes) | {f"{latent}_from": raw.sizes[latent]}
    group = xr.Dataset(
        {n: (dims, v.reshape([sizes[d] for d in dims])) for n, (dims, v) in known.items()},
        coords=raw.coords,
        attrs={"group": "signed permutation" if symmetry.axes else "orthogonal"},
    ).assign(reference=((rows, latent), reference))
    aligned = fit.copy()
    aligned["aligned"] = xr.DataTree(group)
    return aligned


def procrustes_mean(draws: Array, *, axes: bool = False) -> tuple[Array, float]:
    """Average draws, each turned onto the average (Gower 1975), in the average's own frame.

    Parameters
    ----------
    draws : ndarray, shape (S, N, Q)
        Centred, if their place is not to matter.
    axes : bool, default False
        Whether signs and order of the axes are all that may change.

    Returns
    -------
    mean : ndarray, shape (N, Q)
        In its principal axes, or its axes in order of their spread.
    change : float
        By which it moved in the last iteration, over its size.
    """
    mean, change = draws[0], np.inf
    for _ in range(_ITERATIONS):
        before, mean = mean, _turn(draws, _rotations(mean, draws, axes)).mean(axis=0)
        change = float(np.linalg.norm(mean - before) / max(np.linalg.norm(mean), 1e-300))
        if change <= _SETTLED:
            break
    if axes:
        mean = mean[:, np.argsort(-(mean**2).sum(axis=0), kind="stable")]
    else:
        mean = mean @ np.linalg.svd(mean, full_matrices=False)[2].T
    farthest = mean[np.abs(mean).argmax(axis=0), np.arange(mean.shape[1])]
    return mean * np.where(farthest < 0.0, -1.0, 1.0), change


@dataclass(frozen=True)
class _Symmetry:
    """What leaves K alone: turns (of the axes among themselves only), moves, a common scale."""

    axes: bool
    move: bool
    scale: bool


def _symmetry(fit: xr.DataTree) -> _Symmetry:
    kernel = KERNELS.get(fit.attrs.get("kernel", "custom"))
    stationary = kernel is not None and kernel.stationary
    groups = [fit[name] for name in ("posterior", "constant_data") if name in fit.children]
    has_lengthscale = any("lengthscale" in group for group in groups)
    axes = has_lengthscale and draws_of(fit, "lengthscale", raw=True).ndim == 3
    return _Symmetry(axes, move=stationary, scale=stationary and has_lengthscale)


@dataclass(frozen=True)
class _Transform:
    """x' = scale · rotation x + shift, one of each a draw."""

    rotation: Array
    shift: Array
    scale: Array

    def lengthscale(self, values: Array) -> Array:
        """Lengthscales in the new frame, shape (S,) or (S, Q)."""
        if values.ndim == 1:
            return self.scale * values
        return self.scale[:, None] * np.einsum("slf,sf->sl", np.abs(self.rotation), values)


def _rotations(reference: Array, draws: Array, axes: bool) -> Array:
    """Find the W of each draw that minimises ‖draw Wᵀ - reference‖, shape (S, Q, Q)."""
    overlap = np.einsum("nl,snf->slf", reference, draws, optimize=True)
    if not axes:
        U, _, Vt = np.linalg.svd(overlap)
        return np.asarray(U @ Vt)
    W = np.zeros_like(overlap)
    for turn, inner in zip(W, overlap, strict=True):
        matched = linear_sum_assignment(np.abs(inner), maximize=True)
        turn[matched] = np.where(inner[matched] < 0.0, -1.0, 1.0)
    return W


def _turn(draws: Array, rotations: Array) -> Array:
    return np.asarray(draws @ rotations.transpose(0, 2, 1))


def _onto(
    reference: Array, draws: Array, symmetry: _Symmetry, scale: bool
) -> tuple[Array, _Transform]:
    """Bring each draw onto the reference, and say how."""
    still = np.zeros((1, draws.shape[2]))
    here = draws.mean(axis=1) if symmetry.move else np.repeat(still, len(draws), axis=0)
    there = reference.mean(axis=0) if symmetry.move else still[0]
    centred, target = draws - here[:, None], reference - there
    W = _rotations(target, centred, symmetry.axes)
    turned, factor = _turn(centred, W), np.ones(len(draws))
    if scale:
        inner, size = np.einsum("snq,nq->s", turned, target), (turned**2).sum(axis=(1, 2))
        # A draw that has nothing in common with the reference keeps its size.
        np.divide(inner, size, out=factor, where=inner > 0.0)
    shift = there - factor[:, None] * np.einsum("slf,sf->sl", W, here)
    return factor[:, None, None] * turned + there, _Transform(W, shift, factor)


def _own_mean(draws: Array, symmetry: _Symmetry, scale: bool) -> Array:
    if symmetry.move:
        draws = draws - draws.mean(axis=1, keepdims=True)
    if scale:  # each draw counts alike
        sizes = np.sqrt((draws**2).sum(axis=(1, 2), keepdims=True))
        draws = draws * (np.sqrt((sizes**2).mean()) / np.maximum(sizes, 1e-300))
    mean, change = procrustes_mean(draws, axes=symmetry.axes)
    if change > _SETTLED:
        warnings.warn(
            f"The mean of the draws has not settled: in iteration {_ITERATIONS} it still moved by {change:.2g} of "
            f"its size (wanted {_SETTLED:g} or less). Align to one fit or array.",
            RuntimeWarning,
            stacklevel=3,
        )
    return mean


def _reference(to: Any, raw: xr.DataArray) -> Array:
    """Positions to turn onto, checked against the draws to be turned."""
    shape, rows = raw.shape[2:], raw.dims[2]
    if isinstance(to, xr.DataTree):
        positions = draws_of(require_fit(to, "X", caller="align"), "X")
        same = rows in raw.coords and rows in positions.coords
        if same and not raw[rows].equals(positions[rows]):
            raise ValueError(
                f"to must hold the rows of the fit in their order, got another coordinate {rows!r}. "
                "Align fits of one table."
            )
        draws = positions.to_numpy().reshape(-1, *positions.shape[2:])
        if len(draws) > 1 and "aligned" not in to.children:
            values = _own_mean(draws, _symmetry(to), scale=False)
        else:
            values = draws.mean(axis=0)
    else:
        try:
            values = np.asarray(to, dtype=np.float64)
        except (TypeError, ValueError):
            raise TypeError(
                f"to must be a fit or an array of shape {shape}, got {type(to).__name__}."
            ) from None
    if values.shape != shape:
        raise ValueError(f"to must have shape (N, Q) = {shape}, got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("to must be finite, got missing or infinite positions.")
    return values
