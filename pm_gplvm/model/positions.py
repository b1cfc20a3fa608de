"""Priors of X for fits by minibatches and in chunks: of some rows at a time, with what they have of their own."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pm_gplvm.core.checks import Array
from pm_gplvm.core.uncollapsed import GatheredRows, NormalRows
from pm_gplvm.data.arrays import are_positions
from pm_gplvm.data.fit import CLASS, LATENT, OBS, Fit
from pm_gplvm.data.rows import Rows, RowTable
from pm_gplvm.model.priors import LatentPrior, class_mixture, dynamics, informative, transitions
from pm_gplvm.model.theta import PositivePriors

_WITHIN = 0.5, 1.0  # between which a free spread starts
_LOG_2PI = float(np.log(2.0 * np.pi))

Variables = dict[str, tuple[tuple[str, ...], Any]]  # dims and values, as a dataset takes them


class Positions(Protocol):
    """What a fit by minibatches asks of the prior of X.

    Its own parameters are handed in by name, unconstrained; where it has none they are empty.
    """

    @property
    def anchors(self) -> tuple[Array, Array] | None:
        """Mean and sd (N, Q) that a start is turned towards."""
        ...

    @property
    def texts(self) -> Mapping[str, str]:
        """Texts of the priors of X and of its parameters."""
        ...

    @property
    def constants(self) -> Variables:
        """What is known of it in a fit."""
        ...

    @property
    def names(self) -> Mapping[str, Any]:
        """Labels of its own dims."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of its own parameters."""
        ...

    def few(self, n: int) -> "Positions":
        """Return the prior of the first rows."""
        ...

    def start(self, X: Array) -> dict[str, Array]:
        """Begin where positions X (N, Q) say."""
        ...

    def stored(self, read: Fit) -> dict[str, Array] | None:
        """Find its parameters in a fit; None where that has others."""
        ...

    def of(self, rows: Rows, parameters: Mapping[str, Array]) -> NormalRows | GatheredRows:
        """Give the prior of some rows."""
        ...

    def log_prior(self, parameters: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        """Log density of the parameters, and its gradient."""
        ...

    def natural(self, parameters: Mapping[str, Array]) -> Variables:
        """Say them as they stand in a fit."""
        ...


@dataclass(frozen=True)
class NormalPositions:
    """N(mean, sd²): N(0, 1), or what :func:`priors.informative` says of each row, (N, Q)."""

    anchors: tuple[Array, Array] | None = None

    @property
    def texts(self) -> Mapping[str, str]:
        """Text of the prior of X."""
        return {"X": "Normal(0.0, 1.0)" if self.anchors is None else "informative"}

    @property
    def constants(self) -> Variables:
        """Mean and sd of each row."""
        if self.anchors is None:
            return {}
        mean, sd = self.anchors
        return {"X_prior_mean": ((OBS, LATENT), mean), "X_prior_sd": ((OBS, LATENT), sd)}

    @property
    def names(self) -> Mapping[str, Any]:
        """No dims."""
        return {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is free."""
        return {}

    def few(self, n: int) -> "NormalPositions":
        """Return the prior of the first rows."""
        if self.anchors is None:
            return self
        mean, sd = self.anchors
        return NormalPositions((mean[:n], sd[:n]))

    def start(self, X: Array) -> dict[str, Array]:
        """Nothing is free."""
        return {}

    def stored(self, read: Fit) -> dict[str, Array]:
        """Nothing is free."""
        return {}

    def of(self, rows: Rows, parameters: Mapping[str, Array]) -> NormalRows:
        """Give the prior of some rows."""
        if self.anchors is None:
            return NormalRows()
        return NormalRows(*(v[rows] for v in self.anchors))

    def log_prior(self, parameters: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        """Nothing is free."""
        return 0.0, {}

    def natural(self, parameters: Mapping[str, Array]) -> Variables:
        """Nothing is free."""
        return {}


class ClassPositions:
    """:func:`priors.class_mixture`: the centres of the classes, N(0, 1) each, and the spread within, held or free."""

    anchors = None

    def __init__(self, number: NDArray[np.intp], names: list[str], within: Any, Q: int) -> None:
        self.number, self._names, self._Q = number, names, Q
        known = number >= 0
        self.share = np.bincount(number[known], minlength=len(names)) / known.sum()
        self.within = PositivePriors({"X_within": within}, {"X_within": ()}, Q)
        weights = np.vstack([np.eye(len(names)), self.share])
        with np.errstate(divide="ignore"):
            self._log_weights = np.log(weights)  # the last are those of a row of unknown class, -1

    @property
    def names(self) -> Mapping[str, Any]:
        """Names of the classes."""
        return {CLASS: self._names}

    @property
    def texts(self) -> Mapping[str, str]:
        """Texts of the prior of X and of its parameters."""
        return {**self.within.texts, "X_centre": "Normal(0.0, 1.0)", "X": "class_mixture"}

    @property
    def constants(self) -> Variables:
        """Class of each row, share of each class, and the spread where it is held."""
        held: Variables = {name: ((), value) for name, value in self.within.fixed.items()}
        return {"X_class": ((OBS,), self.number), "X_share": ((CLASS,), self.share), **held}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the centres and of the free spread."""
        free: dict[str, tuple[int, ...]] = {"log_within": ()} if self.within.free else {}
        return {"centre": (len(self.share), self._Q), **free}

    def few(self, n: int) -> "ClassPositions":
        """Return the prior of the first rows, with the shares that classes have of all."""
        found = copy(self)
        found.number = self.number[:n]
        return found

    def start(self, X: Array) -> dict[str, Array]:
        """Centres where the rows of each class lie, weighed against their prior."""
        known = self.number >= 0
        number, x, K = self.number[known], X[known], len(self.share)
        size = np.bincount(number, minlength=K)[:, None]
        sums = np.zeros((K, X.shape[1]))
        np.add.at(sums, number, x)
        means = sums / size
        spread = float(np.sqrt(((x - means[number]) ** 2).mean()))
        free = {"log_within": np.log(np.clip(spread, *_WITHIN))} if self.within.free else {}
        within = self._spread(free)
        return {"centre": sums / (size + within**2), **free}

    def stored(self, read: Fit) -> dict[str, Array] | None:
        """Take the centres and the spread of the same classes."""
        if "X_centre" not in read or "X_within" not in read:
            return None
        centre, within = read.draws("X_centre"), read.values("X_within")[0]
        if centre[CLASS].to_numpy().astype(str).tolist() != self._names:
            return None
        own = {"log_within": np.log(within)} if self.within.free else {}
        return {"centre": centre.to_numpy()[0, 0], **own}

    def of(self, rows: Rows, parameters: Mapping[str, Array]) -> GatheredRows:
        """Give the prior of some rows."""
        weights = self._log_weights[self.number[rows]]
        return GatheredRows(weights, parameters["centre"], self._spread(parameters))

    def log_prior(self, parameters: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        """Log density of the centres, and of the spread where it is free; gradient in its logarithm."""
        centre = parameters["centre"]
        value = -0.5 * float((centre**2 + _LOG_2PI).sum())
        if not self.within.free:
            return value, {"centre": -centre}
        more, slope = self.within.log_density({"X_within": parameters["log_within"]})
        return value + more, {"centre": -centre, "log_within": slope["X_within"]}

    def natural(self, parameters: Mapping[str, Array]) -> Variables:
        """Centres, and the spread where it is free."""
        found: Variables = {"X_centre": ((CLASS, LATENT), parameters["centre"])}
        if self.within.free:
            found["X_within"] = (), np.asarray(self._spread(parameters))
        return found

    def _spread(self, parameters: Mapping[str, Array]) -> float:
        if self.within.free:
            return float(np.exp(parameters["log_within"]))
        return float(self.within.fixed["X_within"])


def positions_of(prior: Any, table: RowTable, latent_dim: int) -> Positions:
    """Return the prior of X that a user means, joined to the rows of a table."""
    if prior is None:
        return NormalPositions()
    labelled = not are_positions(np.asarray(table.obs))
    if isinstance(prior, informative):
        joined = prior.joined(table.obs, labelled=labelled)
        return NormalPositions(joined.moments_for((len(table), latent_dim)))
    if isinstance(prior, class_mixture):
        number, names = prior.joined(table.obs, labelled=labelled).coded()
        return ClassPositions(number, names, prior.within, latent_dim)
    raise ValueError(
        f"priors['X'] must be priors.informative(...) or priors.class_mixture(...) here, or be left out for N(0, 1), "
        f"got {type(prior).__name__}{why_not(type(prior))}"
    )


def why_not(kind: type) -> str:
    """Say why batches of rows cannot have a prior of X, and what can."""
    if kind is dynamics:
        return (
            ", which ties all rows to each other, so that none can be left out of a batch. Use "
            "fit_variational(build_model(Y, priors=...)), which takes it of a Gaussian likelihood."
        )
    if kind is transitions:
        return ", which ties each row to the one before, so that none can be left out of a batch. Use fit_map(build_model(Y, priors=...))."
    if issubclass(kind, LatentPrior) and kind.mapped:
        return ", under which X is a function of Y by weights that all rows share. Use fit_marginal(build_model(Y, priors=...))."
    return ". fit_variational(build_model(Y, priors=...)) takes Normal ones and priors.dynamics too, of a Gaussian likelihood."
