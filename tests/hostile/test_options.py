"""Every option of every public function refuses what is none, by its name and before it begins.

A bad value is a line here, and so is a function; an option is found by the name of the argument.
"""

import inspect

import numpy as np
import pytest

import pm_gplvm as gplvm
from pm_gplvm.core.checks import check_of, count, flag, mapping, seed

NAMESPACES = ("kernels", "likelihoods", "priors", "plot", "diagnostics", "data", "model")

# What the first arguments of each function are, by their names in `things`.
FIRST = {
    "add_rows": ("best", "rows"),
    "align": ("best",),
    "build_model": ("Y",),
    "compare": ("fits",),
    "diagnose": ("draws",),
    "embed": ("best", "rows"),
    "fit_laplace": ("model",),
    "fit_map": ("model",),
    "fit_marginal": ("model",),
    "fit_sparse": ("model",),
    "fit_stochastic": ("model",),
    "fit_svi": ("Y",),
    "fit_variational": ("model",),
    "forecast": ("best", "X"),
    "impute": ("best",),
    "log_predictive": ("best", "rows"),
    "predict": ("best", "X"),
    "reconstruct": ("best",),
    "resume": ("model", "best"),
    "sample": ("model",),
    "sample_predictive": ("best", "X"),
    "sample_prior": ("model",),
    "sample_theta": ("model", "best"),
    "save": ("best", "path"),
    "plot.compare": ("fits",),
    "plot.explore": ("best",),
    "plot.latent": ("best",),
    "plot.magnification": ("best",),
    "plot.optima": ("best",),
    "plot.reconstruction": ("best",),
    "plot.parts": ("best",),
    "plot.relevance": ("best",),
    "diagnostics.active_dimensions": ("best",),
    "diagnostics.cross_validate": ("Y",),
    "diagnostics.leave_one_out": ("best",),
    "diagnostics.log_evidence": ("best",),
    "diagnostics.magnification": ("best", "X"),
    "diagnostics.neighbour_probabilities": ("best",),
    "diagnostics.posterior_modes": ("draws",),
    "diagnostics.sbc": ("model",),
    "diagnostics.sbc_test": ("best",),
    "diagnostics.score_embedding": ("X", "Y"),
    "diagnostics.score_entries": ("best", "Y"),
    "data.load_digits": (),
    "model.build_sparse": ("model",),
    "model.build_variational": ("model",),
    "model.compile_objective": ("model",),
    "model.gradients": ("model",),
    "model.rebuild": ("best",),
}

NO_COUNT = ("3", 1.5, True, -1, None, np.nan, [3])
NO_FLAG = ("no", "False", 1, 0.0, None, [True])
NO_SEED = ("a", -1, 1.5, True, [1], np.nan, 2**70)
NO_NUMBER = ("1e-3", -1.0, np.nan, np.inf, None, True, [1.0])
NO_MAPPING = ("text", 3, [1], True)
NO_THREADS = ("many", 0, 1.5, True, -2)


def functions():
    """Public functions that have options, by their names as a user writes them."""
    places = [("", gplvm), *((f"{n}.", getattr(gplvm, n)) for n in NAMESPACES)]
    for prefix, place in places:
        for name in place.__all__:
            function = getattr(place, name)
            if inspect.isfunction(function):
                options = {
                    p.name: p
                    for p in inspect.signature(function).parameters.values()
                    if check_of(p)
                }
                if options:
                    yield f"{prefix}{name}", function, options


def bad_values(option):
    check = check_of(option)
    if option.name == "blas_threads":
        return NO_THREADS
    return {seed: NO_SEED, flag: NO_FLAG, count: NO_COUNT, mapping: NO_MAPPING}.get(
        getattr(check, "func", check), NO_NUMBER
    )


CASES = [
    pytest.param(name, function, option, value, id=f"{name}({option}={value!r})")
    for name, function, options in functions()
    for option, parameter in options.items()
    for value in bad_values(parameter)
    if value is not parameter.default
]


def test_there_are_many_cases():
    assert len(CASES) > 400
    assert {name for name, *_ in functions()} <= set(FIRST)


@pytest.mark.parametrize(("name", "function", "option", "value"), CASES)
def test_refused_by_name(things, name, function, option, value):
    first = [things[n] for n in FIRST[name]]
    with pytest.raises((TypeError, ValueError), match=rf"^{option} must be ") as caught:
        function(*first, **{option: value})
    assert "got" in str(caught.value)


@pytest.mark.parametrize(
    ("made", "same"),
    [
        (np.int64(7), True),
        (np.uint8(7), True),
        (np.random.default_rng(3), False),
        (np.random.RandomState(3), False),
        (np.random.SeedSequence(3), False),
    ],
    ids=["int64", "uint8", "Generator", "RandomState", "SeedSequence"],
)
def test_seeds_of_every_kind_are_taken(things, tmp_path, made, same):
    """A fit by such a seed is written and read, and the seed in it makes the same fit again."""
    fit = gplvm.fit_map(things["model"], start="random", random_seed=made, progressbar=False)
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    noted = int(read.attrs["random_seed"])
    assert (noted == 7) == same
    again = gplvm.fit_map(things["model"], start="random", random_seed=noted, progressbar=False)
    np.testing.assert_array_equal(again["posterior"]["X"], read["posterior"]["X"])


def test_numbers_of_numpy_are_taken_as_options(things, tmp_path):
    fit = gplvm.sample(
        things["model"],
        draws=np.int64(4),
        tune=np.int32(4),
        chains=np.uint8(2),
        thin=np.int64(1),
        replicas=1,
        random_seed=np.int64(1),
        progressbar=np.False_,
    )
    read = gplvm.load(gplvm.save(fit, tmp_path / "fit.nc"))
    assert dict(read["posterior"]["X"].sizes)["draw"] == 4
