"""A fit in words: what was fitted, how it ended, the hyperparameters, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pm_gplvm.core.checks import Array, counted, interval
from pm_gplvm.core.composite import FACTOR, SHAPE, TERM
from pm_gplvm.data.fit import FEATURE, LATENT, OBS, THETA, Fit
from pm_gplvm.diagnostics.convergence import words_of_agreement
from pm_gplvm.diagnostics.explored import fresh_lineages, words_of_lineages
from pm_gplvm.diagnostics.invariants import invariants
from pm_gplvm.prediction.predict import predict
from pm_gplvm.prediction.uncollapsed import Uncollapsed, rows_under_q

_METHODS = {
    "marginal": "estimate of θ with X integrated out, X its mode (fit_marginal)",
    "map": "mode of X and θ together (fit_map)",
    "linear": "mode in closed form (fit_linear)",
    "laplace": "draws from a Gaussian about the estimate (fit_laplace)",
    "sparse": "mode of X and θ through inducing inputs (fit_sparse)",
    "variational": "variational posterior through inducing inputs (fit_variational)",
    "svi": "variational posterior by minibatches (fit_svi)",
    "stochastic": "X and θ by gradients of neighbourhoods (fit_stochastic)",
    "add_rows": "rows put into an earlier fit (add_rows)",
    "nuts_theta": "draws of θ at held positions (sample_theta)",
    "replica_exchange": "draws of X and θ (sample)",
    "": "draws by PyMC or another sampler",
}
_EXPLORED = {
    "global": "explored: all embeddings, as far as the chains came",
    "ensemble": "explored: an embedding of each chain, weighed by what they predict",
    "local": "explored: the neighbourhoods of one embedding",
}
_DEAR = 3e10  # operations above which the share explained is left out: some seconds
_FAR = 0.7  # Pareto k from which a Gaussian is far from the posterior
_NO_STRUCTURE = "no structure found"


@dataclass(frozen=True, repr=False)
class Summary:
    """Result of :func:`summary`; prints as words and a table.

    Parameters
    ----------
    fitted, ended, warned, advice : sequence of str
        What was fitted; how it ended; what was warned of as it was made; what to do next.
    theta : DataFrame
        One row a hyperparameter: ``value`` (the median of the draws), ``low`` and ``high`` (the 89 %
        interval, NaN for an estimate), and its ``unit``.
    noise, explained : float
        Variance of the noise, and variance explained by the positions, as shares of the variance of the
        table; NaN where they cannot be told.
    """

    fitted: Sequence[str]
    ended: Sequence[str]
    theta: pd.DataFrame
    noise: float
    explained: float
    warned: Sequence[str]
    advice: Sequence[str]

    def __str__(self) -> str:
        parts = [*self.fitted, *self.ended, *self._shares()]
        if len(self.theta):
            parts += ["", self._table().to_string(float_format="{:.3g}".format, na_rep=""), ""]
        parts += [f"Warned: {text}" for text in self.warned]
        return "\n".join([*parts, *(f"Next: {text}" for text in self.advice)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<p>{'<br>'.join(map(escape, [*self.fitted, *self.ended, *self._shares()]))}</p>"]
        if len(self.theta):
            parts.append(self._table().to_html(float_format="{:.3g}".format, na_rep="", border=0))
        told = [f"Warned: {text}" for text in self.warned]
        told += [f"Next: {text}" for text in self.advice]
        return "".join([*parts, f"<p>{'<br>'.join(map(escape, told))}</p>"])

    def _table(self) -> pd.DataFrame:
        return self.theta.dropna(axis=1, how="all")

    def _shares(self) -> list[str]:
        told = []
        if np.isfinite(self.explained):
            told.append(f"the positions explain {100.0 * self.explained:.1f} % in hindsight")
        if np.isfinite(self.noise):
            told.append(f"the noise of a new row is {100.0 * self.noise:.1f} %")
        return [f"Of the variance of the table {' and '.join(told)}."] if told else []


def summary(fit: xr.DataTree) -> Summary:
    """Say in a few lines what a fit is, how it ended, and what to do next.

    Parameters
    ----------
    fit : DataTree
        From any ``fit_...`` or sampler, also one read from a file.

    Returns
    -------
    Summary
        Prints as words and a table of the hyperparameters; ``fitted``, ``ended``, ``theta``, ``noise``,
        ``explained``, ``warned`` and ``advice`` are its parts.

    Raises
    ------
    TypeError, ValueError
        If ``fit`` is not a fit with ``X``.

    Notes
    -----
    Chains are judged by what costs little: distances between rows, θ and the log-density.
    :func:`diagnose` looks at more. The share explained is of the table less the conditional mean at the
    rows' own positions, and is left out where N³ operations, or those of all patterns of missing
    entries, would take more than seconds.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> told = gplvm.summary(gplvm.fit_marginal(model, progressbar=False))
    >>> print(told.fitted[0])
    Table Y: 20 rows and 64 columns, complete.
    >>> print(told.advice[0])
    Draws tell how sure it is: fit_laplace(model, start=fit), or sample(model); of θ alone sample_theta(model, fit).
    """
    read = Fit.of(fit, "X", caller="summary")
    ended, agree = _ended(read)
    if read.has_likelihood:
        noise, explained = _shares_uncollapsed(read)
    else:
        noise, explained = _noise_share(read), _explained(read)
    return Summary(
        fitted=_fitted(read),
        ended=ended,
        theta=_theta(read),
        noise=noise,
        explained=explained,
        warned=tuple(read.warnings),
        advice=_advice(read, agree),
    )


def _fitted(read: Fit) -> list[str]:
    _, _, N, Q = read.draws("X").shape
    size = f"{N} rows"
    if read.holds_table:
        Y = read.Y.to_numpy()
        holes = np.isnan(Y).mean()
        seen = f"{100.0 * holes:.2g} % missing" if holes else "complete"
        size = f"{N} rows and {Y.shape[1]} columns, {seen}"
    elif read.is_uncollapsed:
        size = f"{N} rows and {len(read.features)} columns, not held by the fit"
    model = [counted(Q, "latent dimension"), f"kernel {read.kernel_and_bias}"]
    model += ["a lengthscale of each dimension"] if read.has_ard else []
    model += [f"inputs {read.inputs}"] if read.inputs is not None else []
    if read.has_likelihood:
        model.append(f"likelihood {Uncollapsed.of(read).likelihood.name}")
    if "sigma" in read and read.own_noise:
        model.append("a noise of each column")
    how = _METHODS.get(read.method, read.method)
    if read.is_inducing:
        how += f", M = {read.group('approximation').sizes['inducing']}"
    attrs = read.tree.attrs
    if explored := _EXPLORED.get(attrs.get("explore", "")):
        how += f"; {explored}"
    if "inference_reason" in attrs:
        how += f"; {attrs['inference_reason']}"
    return [
        f"Table {attrs.get('observed', 'unknown')}: {size}.",
        f"Model: {', '.join(model)}.",
        f"Fit: {how}.",
    ]


def _ended(read: Fit) -> tuple[list[str], bool]:
    """How it ended, and whether it may be gone on with as it is."""
    attrs, (chains, draws) = read.tree.attrs, read.draws("X").shape[:2]
    cut = ["Interrupted: it is what there was."] if attrs.get("interrupted") else []
    told, good = [], not cut
    if optima := read.group("optima"):
        best = optima.isel(start=0)
        arrived = bool(best["converged"])
        message = str(best["message"].item())
        end = "Converged" if arrived else f"Not converged: {message}"
        if arrived and message.startswith(_NO_STRUCTURE):
            end, arrived = f"Converged, and {message}", False
        starts = counted(optima.sizes["start"], "start")
        what = "evaluations"
        if read.method == "svi":
            what, end = "steps", "The bound stands" if arrived else "Not at rest: " + message
        told.append(f"{end}, after {int(best['evaluations'])} {what} of the best of {starts}.")
        good = good and arrived
    elif "steps" in attrs:
        told.append(f"Ended after {attrs['steps']} steps, which are not judged by convergence.")
    if read.method == "laplace":
        k, converged = read.setting("pareto_k"), bool(attrs.get("converged"))
        told.append(
            f"{draws} draws about {'a mode' if converged else 'a place that is no mode'}; Pareto k of their "
            f"weights {'unknown' if k is None else f'{k:.2f}'}, good below {_FAR}."
        )
        good = good and converged
    elif read.has_q:
        told.append(f"{draws} draws from q(X).")
    elif chains * draws > 1:
        agree, words = words_of_agreement(read)
        told += [
            words,
            *words_of_lineages(fresh_lineages(read), read.draws("X")["chain"].to_numpy()),
        ]
        good = good and agree
    return cut + told, good


def _theta(read: Fit) -> pd.DataFrame:
    rows: dict[str, dict[str, Any]] = {}
    scale = np.atleast_1d(read.constants["Y_scale"]) if "Y_scale" in read else np.ones(1)
    of_Y = "Y" if np.ptp(scale) == 0.0 else "the scale of each column"
    if read.has_likelihood and not Uncollapsed.of(read).in_units_of_Y:
        of_Y = "f"
    factor = float(scale[0]) if of_Y == "Y" else 1.0
    of_inputs = {} if read.inputs is None else read.inputs.units
    names = [*read.theta_names, *(["sigma"] if "sigma" in read else []), *_of_likelihood(read)]
    for name in names:
        values = read.noise() if name == "sigma" else read.values(name)
        unit, times = ("X", 1.0) if name == "lengthscale" else (of_Y, factor)
        if name not in THETA or name == "alpha":
            unit, times = "", 1.0
        if name == "weight":
            unit = of_Y + _SLOPE
        label = "noise (sigma)" if name == "sigma" else name
        if values.ndim > 1 and FEATURE in read.draws(name).dims:
            label, values = f"{label}, median of columns", np.median(values, axis=1)
        labels = _entries(read, name)
        for i, (suffix, column) in enumerate(_columns(values)):
            suffix = suffix if labels is None else f"[{labels[i]}]"
            if labels is not None and name == "amplitude":
                unit = of_Y + _SLOPE * labels[i].count("linear") * (labels[i] not in of_inputs)
            if labels is not None and name == "lengthscale":
                known = labels[i] in of_inputs
                unit, times = (labels[i], of_inputs[labels[i]]) if known else ("X", 1.0)
            low, high = times * interval(column)
            rows[label + suffix] = {
                "value": times * float(np.median(column)),
                "low": low if np.ptp(column) > 0.0 else np.nan,
                "high": high if np.ptp(column) > 0.0 else np.nan,
                "unit": unit,
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "unit"])


_SLOPE = " / X"


def _entries(read: Fit, name: str) -> list[str] | None:
    """Name the entries of a parameter of a kernel of several factors, None of all others."""
    dim = read.draws(name).dims[-1]
    if dim not in (FACTOR, TERM, SHAPE):
        return None
    return [str(label) for label in read.draws(name)[dim].to_numpy()]


def _of_likelihood(read: Fit) -> list[str]:
    """Names of the parameters that a likelihood has beside sigma: all but θ, X and those of its prior."""
    known = (str(name) for name in read.posterior.data_vars)
    others = ("X", "f", "level", *THETA)
    own = [n for n in known if n not in others and not n.startswith("X_")]
    return own if read.has_likelihood else []


def _columns(values: Array) -> list[tuple[str, Array]]:
    if values.ndim == 1:
        return [("", values)]
    return [(f"[{i}]", column) for i, column in enumerate(values.reshape(len(values), -1).T)]


def _shares_uncollapsed(read: Fit) -> tuple[float, float]:
    """Shares of the noise and of what the rows' own positions explain, by the moments of the likelihood."""
    if read.has_function_modes:
        N, D = read.group("laplace")["weights"].shape
        operations = float(D) * N**3
    else:
        group = read.group("approximation")
        operations = group["u_mean"].size * group.sizes[OBS] * 2.0 * group.sizes[LATENT]
    if not read.holds_table or operations > _DEAR:
        return np.nan, np.nan
    Y, scale = read.Y.to_numpy(), read.units()[1]
    rows, seen = rows_under_q(read), ~np.isnan(Y)
    total = np.square((Y - np.nanmean(Y, axis=0)) / scale)[seen].sum()
    left = np.square((Y - rows.mean) / scale)[seen].sum()
    noise = (rows.about / scale**2)[seen].sum()
    return float(noise / total), 1.0 - float(left / total)


def _noise_share(read: Fit) -> float:
    if not ("sigma" in read and read.holds_table and "Y_scale" in read):
        return np.nan
    F = read.table().F
    return float(np.square(read.noise()).mean() / np.nanmean(F**2))


def _explained(read: Fit) -> float:
    """Share of the variance of the table that the conditional mean at the rows' own positions has."""
    if not (read.holds_table and "Y_scale" in read and "sigma" in read):
        return np.nan
    F, mean, scale = read.table()
    few = read.thinned(1)
    if read.is_inducing:
        X = read.draws("X").mean(("chain", "draw")).to_numpy()
        left = F - (predict(read.tree, X)["mean"].to_numpy() - mean) / scale
        return 1.0 - float(np.nansum(left**2) / np.nansum(F**2))
    patterns = len(np.unique(np.isnan(F), axis=1).T) if np.isnan(F).any() else 1
    if few.n_draws * patterns * float(len(F)) ** 3 > _DEAR:
        return np.nan
    rms = invariants(few.tree, n_pairs=1).get("reconstruction")
    return np.nan if rms is None else 1.0 - float(np.square(rms).mean() / np.nanmean(F**2))


def _advice(read: Fit, good: bool) -> list[str]:
    method, attrs = read.method, read.tree.attrs
    optima = read.group("optima")
    message = optima["message"].to_numpy()[0] if optima else ""
    if method in ("replica_exchange", "nuts_theta", ""):
        return _advice_on_draws(read, good)
    if str(message).startswith(_NO_STRUCTURE):
        return [
            "Take fewer latent dimensions, scale='feature' where a few columns dominate, or a kernel with "
            "a linear part; else the table holds none."
        ]
    if read.is_uncollapsed:
        return _advice_by_minibatches(read, good)
    if not good:
        verb = {"add_rows": "fit_stochastic"}.get(method, f"fit_{method}")
        return [f"Go on from here: {verb}(model, start=fit), or raise max_iter."]
    if method == "laplace":
        k = read.setting("pareto_k")
        if k is None or k > _FAR:
            return [
                "The draws are a sketch of the uncertainty."
                + " For the posterior itself sample(model)." * (read.inputs is None)
            ]
        return ["plot.latent(fit) shows the spread; predict and embed take it as it is."]
    if method == "variational":
        return [
            "diagnostics.active_dimensions(fit) tells the dimensions in use. Its spread leaves out that rows "
            "may move together: sample(model) does not."
        ]
    if read.has_function_modes:
        return [
            "The mode of X and θ together overfits: for new rows and missing entries take fit_svi(model, start=fit)."
        ]
    if method == "map":
        return [
            "The mode of X and θ together overfits: for new rows and missing entries take "
            "fit_marginal(model, start=fit)."
        ]
    if method == "stochastic" and "inference" not in attrs:
        return ["Finish it by fit_map(model, start=fit), or where N is too large fit_sparse."]
    exact = "fit_laplace(model, start=fit)" + ", or sample(model)" * (read.inputs is None)
    return [f"Draws tell how sure it is: {exact}; of θ alone sample_theta(model, fit)."]


def _advice_by_minibatches(read: Fit, good: bool) -> list[str]:
    if not good and read.method in ("variational", "sparse"):
        return [f"Go on from here: fit_{read.method}(Y, start=fit), or raise max_iter."]
    if not good:
        return ["Go on from here: fit_svi(Y, start=fit), or raise epochs."]
    return [
        "diagnostics.active_dimensions(fit) tells the dimensions in use, log_predictive(fit, Y_new) how well rows "
        "that were left out are predicted."
        + " Its spread leaves out that rows may move together."
        * read.has_q
    ]


def _advice_on_draws(read: Fit, good: bool) -> list[str]:
    told = [] if good else ["diagnose(fit) tells what has not mixed, and what helps."]
    if read.method != "nuts_theta" and not read.is_aligned:
        told.append("align(fit) before X is averaged or drawn: each draw has a frame of its own.")
    if read.method == "nuts_theta" and read.inputs is None:
        told.append("X is held: how sure the positions are, sample(model) tells.")
    return told or ["compare, plot.latent and predict take it as it is."]
