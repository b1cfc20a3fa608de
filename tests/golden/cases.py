"""What is frozen: for each verb a few small numbers, from tables and fits that are made by arithmetic.

A value at a given point is held to 1e-9: rounding changes it in the last digits only. An optimiser or a
sampler enlarges rounding with every iteration, so that of their runs the beginning alone is frozen.
The tolerance of a case is at least ten times the spread that it showed between the kernels of OpenBLAS
(`OPENBLAS_CORETYPE` Prescott, Haswell, Zen, SkylakeX) and NumPy without its AVX instructions
(`NPY_DISABLE_CPU_FEATURES`).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import get_args

import numpy as np
from made import fit_of, turned

import pm_gplvm as gplvm
from pm_gplvm.diagnostics.convergence import Verdict

N, D, Q = 12, 6, 2
QUIET = {"progressbar": False, "random_seed": 1}
EXACT, VALUE = 1e-9, "values at given points"
VERDICTS = get_args(Verdict)
CASES = {}


@dataclass(frozen=True)
class Case:
    """A function that makes numbers, and how near they must be to the frozen ones.

    Parameters
    ----------
    verb : str
        The public name that it freezes.
    make : callable
        Gives a dict of arrays.
    rtol : float
        Of each entry, or of a thousandth of the largest one of its array where that is more.
    why : str
        The reason of the tolerance.
    """

    verb: str
    make: Callable[[], dict]
    rtol: float
    why: str


def case(verb, rtol=EXACT, why=VALUE, *, tables=("complete", "holes")):
    """Register a function of the name of a table, once for each table."""

    def register(function):
        for name in tables:
            CASES[f"{function.__name__}-{name}"] = Case(verb, partial(function, name), rtol, why)
        return function

    return register


EVERY = ("complete", "holes", "column")
COMPLETE = ("complete",)


# Tables, positions and draws by whole numbers, so that they are the same everywhere


def wave(*shape, seed=0):
    """Numbers from -1 to 1 that look like chance: a quadratic sequence modulo a prime."""
    k = np.arange(np.prod(shape, dtype=int)) + 211 * (seed + 1)
    return ((3001 * k * k + 17 * k) % 10007 / 5003.5 - 1.0).reshape(shape)


def rows(first, last):
    """Rows of a table that two factors make, and the factors."""
    x = 1.5 * wave(40, Q)[first:last]
    phase = x @ np.array([[0.9, 0.3, -0.7, 0.5, 0.8, 0.1], [0.2, 1.0, 0.6, -0.8, 0.3, 0.9]])
    Y = 3.0 + 2.0 * np.sin(phase + np.arange(D)) + 0.2 * wave(40, D, seed=1)[first:last]
    return np.round(Y, 3), np.round(x + 0.1 * wave(40, Q, seed=2)[first:last], 3)


def with_holes(Y):
    """Every seventh entry is missing, in three patterns of columns, and no row is empty."""
    i, j = np.indices(Y.shape)
    return np.where((3 * i + 5 * np.minimum(j, 2)) % 7 == 2, np.nan, Y)


@cache
def model(table="complete", latent_dim=Q, kernel="rbf", ard=False, n_rows=N):
    Y = rows(0, n_rows)[0]
    if table == "holes":
        return gplvm.build_model(with_holes(Y), latent_dim, kernel=kernel, ard=ard, missing="mask")
    noise = "column" if table == "column" else "shared"
    return gplvm.build_model(Y, latent_dim, kernel=kernel, ard=ard, noise=noise)


def in_time():
    """A model whose rows follow each other."""
    prior = gplvm.priors.dynamics(wave(N, seed=5), lengthscale=0.5)
    return gplvm.build_model(rows(0, N)[0], Q, priors={"X": prior})


def point(of):
    """A value for every free variable of a model."""
    usual = {"lengthscale": 1.3, "amplitude": 0.9, "weight": 0.4, "sigma": 0.2, "bias": 0.5}
    shapes = {rv.name: rv.type.shape for rv in of.free_RVs}
    values = {
        name: usual[name] * (1.0 + 0.2 * np.arange(np.prod(shape)).reshape(shape))
        for name, shape in shapes.items()
        if name != "X"
    }
    return {"X": rows(0, N)[1][:, : shapes["X"][1]], **values}


def made(of):
    """A fit of one draw at that point."""
    values = {name: np.asarray(value)[None, None] for name, value in point(of).items()}
    return fit_of(of, **values)


@cache
def estimate(table="complete"):
    return made(model(table))


def frame(k, *, axes):
    """A rotation, or signs and order alone; every second one with a reflection."""
    if axes:
        return np.array([[1.0, 0.0], [0.0, -1.0]])[:: 1 if k % 3 else -1] * (-1.0) ** k
    c, s = np.cos(0.7 * k), np.sin(0.7 * k)
    return np.array([[c, -s], [s, c]]) * [[1.0], [(-1.0) ** k]]


@cache
def drawn(table="complete", *, in_frames=False, apart=False, chains=2, draws=15, **options):
    """A fit of draws near that point, each in a frame of its own, or of chains that lie apart."""
    of = model(table, **options)
    values = {}
    for seed, (name, value) in enumerate(point(of).items()):
        near = wave(chains, draws, *np.shape(value), seed=10 + seed)
        values[name] = value + 0.1 * near if name == "X" else value * np.exp(0.1 * near)
    if apart:
        values["X"][1] = values["X"][1, :, ::-1]
    if in_frames:
        axes = of["lengthscale"].type.ndim == 1
        W = np.array([frame(k, axes=axes) for k in range(chains * draws)])
        W = W.reshape(chains, draws, Q, Q)
        values["X"] = turned(values["X"], W)
        if axes:
            values["lengthscale"] = np.einsum("cdlf,cdf->cdl", np.abs(W), values["lengthscale"])
    return fit_of(of, **values)


PLACES = np.array([[0.1, -0.4], [1.2, 0.7], [-2.5, 3.0]])
NEW = rows(N, N + 3)[0]
NEW_WITH_HOLES = np.where([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0]], np.nan, NEW)


def numbers(data, *names, but=()):
    """The numbers of a dataset or a group, by name."""
    return {
        str(name): data[name].to_numpy()
        for name in names or data.data_vars
        if name not in but and data[name].dtype.kind in "bif"
    }


def of_fit(fit):
    """Draws, statistics and the table of optima, without times."""
    known = numbers(fit["posterior"]) | numbers(fit["sample_stats"])
    if "optima" in fit.children:
        known |= {
            f"optima_{name}": value
            for name, value in numbers(
                fit["optima"], "objective_at_start", "objective", "evaluations"
            ).items()
        }
    return known


def quietly(verb, *args, **settings):
    """Call a verb that warns, rightly, of how few its iterations are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return verb(*args, **QUIET, **settings)


# The objectives


def value_and_gradient(of, name, **settings):
    value, gradient = gplvm.model.compile_objective(of, **settings)(point(of))
    return {name: value} | {f"{name}_{part}": slope for part, slope in gradient.items()}


@case("compile_objective", tables=EVERY)
def compile_objective(table):
    return value_and_gradient(model(table), "rbf")


KERNELS = {
    "matern32": {"kernel": "matern32"},
    "matern52": {"kernel": "matern52"},
    "linear": {"kernel": "linear"},
    "rbf_linear_bias": {"kernel": "rbf + linear + bias"},
    "ard": {"ard": True},
}


@case("compile_objective", tables=tuple(KERNELS))
def compile_objective_of(name):
    return value_and_gradient(model(**KERNELS[name]), name)


@case("fit_map", tables=EVERY)
def fit_map_at_start(table):
    return {"objective": started(table, gplvm.fit_map)["optima"]["objective_at_start"].to_numpy()}


@case("fit_marginal", tables=EVERY)
def fit_marginal_at_start(table):
    fit = started(table, gplvm.fit_marginal)
    return {"objective": fit["optima"]["objective_at_start"].to_numpy()}


PRIORS = {
    "informative": lambda: gplvm.priors.informative(np.where(np.arange(N) < 4, 0.5, np.nan), 0.3),
    "dynamics": lambda: gplvm.priors.dynamics(np.arange(N)),
    "class_mixture": lambda: gplvm.priors.class_mixture(np.array(["a", "b", ""])[np.arange(N) % 3]),
    "back_constraint": gplvm.priors.back_constraint,
}


@case("fit_marginal", tables=tuple(PRIORS))
def fit_marginal_with_prior_at_start(name):
    of = gplvm.build_model(rows(0, N)[0], Q, priors={"X": PRIORS[name]()})
    fit = quietly(gplvm.fit_marginal, of, start=rows(0, N)[1], relocate=False, max_iter=1)
    return {"objective": fit["optima"]["objective_at_start"].to_numpy()}


@case("fit_marginal", tables=("copies",))
def fit_marginal_at_start_of(_):
    Y = np.concatenate([rows(0, N)[0], rows(0, 2)[0]])
    X = np.concatenate([rows(0, N)[1], rows(0, 2)[1]])
    of = gplvm.build_model(Y, Q)
    start = {"X": X, "lengthscale": 1.3, "amplitude": 0.9, "sigma": 0.2}
    fit = quietly(gplvm.fit_marginal, of, start=start, relocate=False, max_iter=1)
    return {"objective": fit["optima"]["objective_at_start"].to_numpy()}


SPARSE = ("vfe", "fitc", "vfe-holes", "fitc-holes")


@case("fit_sparse", tables=SPARSE)
def fit_sparse_at_start(which):
    fit = sparse(which)
    return {"objective": fit["optima"]["objective_at_start"].to_numpy()}


@case("fit_variational", tables=("complete", "holes", "times"))
def fit_variational_at_start(table):
    return {"objective": variational(table)["optima"]["objective_at_start"].to_numpy()}


# The beginning of optimisers


@cache
def started(table, verb):
    """The first iterations from a given point."""
    of = model(table)
    return quietly(verb, of, start=point(of), relocate=False, max_iter=5)


@cache
def sparse(which):
    method, _, holes = which.partition("-")
    of = model(holes or "complete")
    return quietly(
        gplvm.fit_sparse, of, n_inducing=6, method=method, start=point(of), hold=2, max_iter=5
    )


@cache
def variational(table):
    of = model(table) if table != "times" else in_time()
    start = point(of)
    return quietly(
        gplvm.fit_variational, of, n_inducing=6, start=start, hold=2, max_iter=5, draws=2
    )


@case("fit_map", 1e-7, "about ten iterations of L-BFGS", tables=EVERY)
def fit_map(table):
    return of_fit(started(table, gplvm.fit_map))


@case("fit_marginal", 1e-8, "about ten iterations of L-BFGS", tables=EVERY)
def fit_marginal(table):
    return of_fit(started(table, gplvm.fit_marginal))


@case("fit_map", 1e-7, "some tens of iterations, from PCA, with rows moved")
def fit_map_by_itself(table):
    return of_fit(quietly(gplvm.fit_map, model(table, n_rows=20), n_restarts=1, max_iter=5))


@case("fit_marginal", 1e-7, "some tens of iterations, from PCA, with rows moved")
def fit_marginal_by_itself(table):
    return of_fit(quietly(gplvm.fit_marginal, model(table, n_rows=20), n_restarts=1, max_iter=5))


@cache
def laplace(table):
    of = model(table, 1)
    return quietly(gplvm.fit_laplace, of, start=point(of), draws=30)


@case("fit_laplace", 1e-5, "some tens of iterations, then differences of gradients")
def fit_laplace(table):
    fit = laplace(table)
    names = ("log_evidence", "null_directions", "flat_directions", "pareto_k")
    known = {name: fit.attrs[name] for name in names}
    known |= numbers(fit["sample_stats"], "lp") | numbers(fit["posterior"], but=("X",))
    return known | {"X": fit["posterior"]["X"].to_numpy()[0, ::10]}


@case("fit_laplace", 1e-4, "small differences of such log-densities")
def fit_laplace_weights(table):
    return numbers(laplace(table)["sample_stats"], "log_weight")


@case("fit_linear", tables=COMPLETE)
def fit_linear(table):
    flat = {"X": "flat", "sigma": "flat"}
    of = gplvm.build_model(rows(0, N)[0], Q, kernel="linear", priors=flat)
    return of_fit(gplvm.fit_linear(of))


@case("fit_linear", 1e-6, "a search for sigma to 1e-9", tables=COMPLETE)
def fit_linear_with_priors(table):
    return of_fit(gplvm.fit_linear(model(kernel="linear")))


@case("fit_sparse", 1e-8, "some iterations of L-BFGS", tables=SPARSE)
def fit_sparse(which):
    fit = sparse(which)
    predicted = numbers(gplvm.predict(fit, PLACES))
    return of_fit(fit) | numbers(fit["approximation"]) | predicted


@case("fit_variational", 1e-8, "some iterations of L-BFGS")
def fit_variational(table):
    fit = variational(table)
    predicted = numbers(gplvm.predict(fit, PLACES))
    return of_fit(fit) | numbers(fit["approximation"]) | predicted


@case("fit_stochastic", EXACT, "ten steps", tables=COMPLETE)
def fit_stochastic(table):
    of = model(table)
    fit = quietly(gplvm.fit_stochastic, of, start=point(of), n_neighbors=6, steps=10, monitor=2)
    trace = numbers(fit["trace"], "objective", "held_out")
    return of_fit(fit) | {f"trace_{name}": value for name, value in trace.items()}


@case("add_rows", EXACT, "ten steps", tables=COMPLETE)
def add_rows(table):
    return of_fit(quietly(gplvm.add_rows, estimate(table), NEW, n_neighbors=8, steps=10))


# The beginning of samplers


@case("sample", 1e-8, "twelve iterations of short trajectories")
def sample(table):
    of = model(table)
    few = {"draws": 4, "tune": 6, "chains": 2, "replicas": 2, "beta_min": 0.9, "n_proposals": 8}
    fit = quietly(gplvm.sample, of, start=point(of), **few)
    fit = gplvm.resume(of, fit, draws=2, progressbar=False)
    tempering = numbers(fit["tempering"])
    known = of_fit(fit) | {f"tempering_{name}": value for name, value in tempering.items()}
    return known | {"X": known["X"][:, ::5]}


@case("sample_theta", 1e-8, "fifteen draws of NUTS")
def sample_theta(table):
    few = {"draws": 5, "tune": 10, "chains": 2}
    return of_fit(quietly(gplvm.sample_theta, model(table), estimate(table), **few))


# What is read off a fit


@case("predict", tables=EVERY)
def predict(table):
    one = gplvm.predict(estimate(table), PLACES)
    many = gplvm.predict(drawn(table), PLACES, noise=True, num_samples=10)
    return numbers(one) | {f"{name}_of_draws": value for name, value in numbers(many).items()}


@case("sample_predictive", tables=EVERY)
def sample_predictive(table):
    settings = {"num_samples": 2, "random_seed": 1}
    one = gplvm.sample_predictive(estimate(table), PLACES[:1], **settings)
    many = gplvm.sample_predictive(drawn(table), PLACES, noise=True, **settings)
    return {
        "one_place": one["predictions"]["Y"].to_numpy(),
        "of_draws": many["predictions"]["Y"].to_numpy(),
    }


@case("forecast", tables=("in_time",))
def forecast(_):
    found = gplvm.forecast(made(in_time()), [0.3, 1.5, 1.7], num_samples=2, random_seed=1)
    return numbers(found)


@case("reconstruct", tables=EVERY)
def reconstruct(table):
    many = gplvm.reconstruct(drawn(table), noise=True, num_samples=10)
    one = numbers(gplvm.reconstruct(estimate(table)))
    return one | {f"{name}_of_draws": value for name, value in numbers(many).items()}


CLIMBED = {"draws": 100, "n_starts": 4}


@case("embed", 1e-8, "climbs to the places of the rows", tables=EVERY)
def embed(table):
    new = quietly(gplvm.embed, drawn(table), NEW_WITH_HOLES, num_samples=2, **CLIMBED)
    modes = {f"modes_{name}": value for name, value in numbers(new["modes"]).items()}
    X = new["posterior"]["X"].to_numpy()[0]
    return modes | numbers(new["rows"]) | {"mean": X.mean(axis=0), "sd": X.std(axis=0)}


@case("log_predictive", 1e-8, "climbs to the places of the rows", tables=EVERY)
def log_predictive(table):
    return numbers(
        quietly(gplvm.log_predictive, drawn(table), NEW_WITH_HOLES, num_samples=2, **CLIMBED)
    )


@case("impute", 1e-8, "climbs to the places of the rows", tables=EVERY)
def impute(table):
    return numbers(quietly(gplvm.impute, drawn(table), NEW_WITH_HOLES, num_samples=2, **CLIMBED))


@case("impute", tables=("holes",))
def impute_table(table):
    return numbers(gplvm.impute(drawn(table), num_samples=10))


@case("leave_one_out", tables=EVERY)
def leave_one_out(table):
    one = numbers(gplvm.diagnostics.leave_one_out(estimate(table)), but=("pareto_k",))
    many = numbers(gplvm.diagnostics.leave_one_out(drawn(table)), "log_score", "pareto_k")
    return one | {f"{name}_of_draws": value for name, value in many.items()}


@case("compute_log_likelihood", tables=EVERY)
def compute_log_likelihood(table):
    fit = gplvm.diagnostics.compute_log_likelihood(drawn(table, draws=2))
    return numbers(fit["log_likelihood"])


@case("compute_log_prior", tables=EVERY)
def compute_log_prior(table):
    fit = gplvm.diagnostics.compute_log_prior(drawn(table, draws=2), model=model(table))
    return numbers(fit["log_prior"])


@case("align", tables=("rotated", "scaled", "onto_a_reference", "ard"))
def align(how):
    fit = drawn(in_frames=True, draws=2, ard=how == "ard")
    to = estimate() if how == "onto_a_reference" else None
    return numbers(gplvm.align(fit, to=to, scale=how == "scaled")["aligned"])


DIAGNOSED = ("holes", "near", "apart", "in_frames")


@cache
def diagnosed(how):
    table = "holes" if how == "holes" else "complete"
    fit = drawn(table, apart=how == "apart", in_frames=how == "in_frames", draws=30)
    return gplvm.diagnose(fit, n_pairs=10)


@case("diagnose", tables=DIAGNOSED)
def diagnose(how):
    found = diagnosed(how)
    table = found.table[["entries", "ess_bulk", "ess_tail"]]
    known = {f"table_{name}": values.to_numpy() for name, values in table.items()}
    embeddings = found.embeddings.select_dtypes("number")
    known |= {f"embeddings_{name}": values.to_numpy() for name, values in embeddings.items()}
    return known | {"verdict": VERDICTS.index(found.verdict), "converged": found.converged}


@case(
    "diagnose",
    0.02,
    "of folded ranks the two nearest the median tie, but for rounding",
    tables=DIAGNOSED,
)
def diagnose_r_hat(how):
    return {name: diagnosed(how).table[name].to_numpy() for name in ("r_hat", "r_hat_median")}


@case("compare")
def compare(table):
    fits = {"one": estimate(table), "many": drawn(table)}
    labels = np.arange(N) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws: the largest Pareto k is told
        found = gplvm.compare(fits, labels=labels, n_neighbors=3)
    return {name: v.to_numpy() for name, v in found.select_dtypes("number").items()}


# Further functions


@case("gradients", tables=COMPLETE)
def gradients(table):
    return numbers(gplvm.model.gradients(model(table), point(model(table))), but=("K",))


@case("magnification", tables=EVERY)
def magnification(table):
    return numbers(gplvm.diagnostics.magnification(drawn(table), PLACES, num_samples=5))


@case("active_dimensions", tables=("ard",))
def active_dimensions(table):
    found = gplvm.diagnostics.active_dimensions(drawn(ard=True))
    return {name: v.to_numpy() for name, v in found.select_dtypes(["number", "bool"]).items()}
