"""Likelihoods and offsets that cannot be meant: build_model says what is wrong before it builds anything."""

import re
import warnings

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import pm_gplvm as gplvm

L = gplvm.likelihoods
C = np.random.default_rng(0).poisson(3.0, (12, 4)).astype(float)
ROWS, COLUMNS = [f"r{i}" for i in range(12)], list("abcd")
FRAME = pd.DataFrame(C, index=ROWS, columns=COLUMNS)
ZEROS = pd.DataFrame(0.0 * C, index=ROWS, columns=COLUMNS)
ONE_OF = "likelihood must be one of gaussian, student_t, poisson,"
ALL = tuple(COLUMNS)
COUNT = "must hold counts (whole numbers of at least 0) under the likelihood"
SHAPE = "offset must have the shape (N,), (N, 1), (1, D) or (N, D) with N, D = 12, 4, got "

# (table, likelihood as it is made, what the error says)
LIKELIHOODS = [
    *[(C, lambda v=v: v, ONE_OF) for v in (3, None, True, "", "posson", "Poisson", ["poisson"], b"poisson")],
    (C, lambda: pm.Poisson, ONE_OF),
    (C, lambda: lambda f: pm.Poisson.dist(f), ONE_OF),
    (C, lambda: L.poisson, "likelihood must be an object made of poisson, got the function; use likelihoods.poisson(...)"),
    (C, dict, "likelihood must name every column of Y, got none for 0, 1, 2, 3"),
    (FRAME, lambda: {"a": "poisson"}, "likelihood must name every column of Y, got none for 'b', 'c', 'd'"),
    (FRAME, lambda: {ALL: "poisson", "z": "poisson"}, "likelihood must name columns of Y, got 'z'; they are 'a', 'b'"),
    (FRAME, lambda: {0: "poisson"}, "likelihood must name columns of Y, got 0"),
    (FRAME, lambda: {("a", "b"): "poisson", ("b", "c"): "gamma"}, "likelihood must name a column once, got 'b' again"),
    (FRAME, lambda: {ALL: "posson"}, "likelihood of column ('a', 'b', 'c', 'd') must be one of"),
    (C + 0.5, lambda: "poisson", f"{COUNT} 'poisson', got 2.5 in row 0, column 0"),
    (-1.0 - C, lambda: "negative_binomial", f"{COUNT} 'negative_binomial', got -3 in row 0, column 0"),
    (FRAME + 0.5, lambda: {("a", "b"): "gamma", ("c", "d"): "poisson"}, "in row 0, column 'c'"),
    (C, lambda: "bernoulli", "Y must hold 0 and 1 under the likelihood 'bernoulli'"),
    (C, lambda: L.binomial(2), "Y must hold whole numbers from 0 to the trials under the likelihood 'binomial', got 7 in row 0"),
    (C, lambda: "binomial", "trials must be known for the likelihood 'binomial', got none"),
    *[(C, lambda v=v: L.binomial(v), f"trials must be whole numbers of at least 0, for all, by column or by entry, got {v!r}") for v in (-1, 9.5, "9", True)],
    *[(C, lambda s=s: L.binomial(np.full(s, 9)), f"trials must be a number, have one entry a column, (4,), or the shape of Y, got shape {s}") for s in ((3,), (3, 4))],
    (C - 10.0, lambda: "lognormal", "Y must hold positive numbers under the likelihood 'lognormal', got -8 in row 0"),
    (C, lambda: L.ordinal(levels=[0, 1, 2]), "Y must hold the levels 0, 1, 2 under the likelihood 'ordinal', got 7"),
    (np.random.default_rng(0).normal(size=(60, 4)), lambda: "ordinal", "Y must hold 2 to 50 levels under the likelihood 'ordinal', got 240"),
    (C, lambda: L.from_pymc(None), "function must be a function of (f), got another"),
    (C, lambda: L.from_pymc(lambda f: f), "function must return a distribution"),
    (C, lambda: L.from_pymc(lambda f: pm.Poisson.dist(pm.math.exp(f).sum())), "a distribution of each entry of f, which has 2 dimensions, got one of 0"),
    (C - 9.0, lambda: L.from_pymc(lambda f: pm.Poisson.dist(pm.math.exp(f))), "Y must hold what the distribution can have made"),
    *[(C, lambda v=v: L.gaussian(noise_sd=v), "noise_sd must be ") for v in (-1.0, "0.1", np.ones(3), np.full((12, 4), np.nan))],
]  # fmt: skip

OFFSETS = [
    (C, "sum", "offset must be 'size' where it is a text, got 'sum'"),
    (C, True, "offset must be an array of numbers, got True"),
    (C, {"r0": 1.0}, "offset must be an array of numbers, got a dict"),
    (C, np.array(["a"] * 12), "offset must hold numbers, got text"),
    (C, np.zeros(12) + 1j, "offset must hold numbers, got complex ones"),
    *[(C, np.zeros(s), f"{SHAPE}{s}") for s in ((11,), (4,), (2, 12, 4), (12, 3), (0,))],
    *[(C, np.full(12, v), "offset must be finite, got missing or infinite values") for v in (np.nan, np.inf, -np.inf)],
    (C, np.full(12, 1e4), "offset must lie within ±300, got 10000. It is added to f: of an exposure pass the logarithm"),
    (FRAME, pd.Series(np.zeros(12), index=[f"q{i}" for i in range(12)]), "offset must have the labels of the rows of Y, each once, got none of r0, r1, r2"),
    (FRAME, pd.Series(np.zeros(11), index=ROWS[:11]), "offset must have the labels of the rows of Y, each once, got none of r11"),
    (FRAME, pd.Series(np.zeros(12), index=["r0"] * 12), "offset must have the labels of the rows of Y, each once"),
    (FRAME, ZEROS.set_axis(list("wxyz"), axis=1), "offset must have the labels of the columns of Y, each once, got none of a, b, c"),
    (FRAME, ZEROS.set_axis(list("aabc"), axis=1), "offset must have the labels of the columns of Y, each once"),
    (C * (np.arange(12) != 3)[:, None], "size", "offset='size' needs a positive sum in each row, got 0 at obs 3"),
]  # fmt: skip


def refused(call, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((TypeError, ValueError), match=re.escape(text)):
            call()


@pytest.mark.parametrize(("Y", "make", "text"), LIKELIHOODS)
def test_likelihoods(Y, make, text):
    refused(lambda: gplvm.build_model(Y, likelihood=make()), text)


@pytest.mark.parametrize(("Y", "offset", "text"), OFFSETS)
def test_offsets(Y, offset, text):
    refused(lambda: gplvm.build_model(Y, likelihood="poisson", offset=offset), text)
    refused(lambda: gplvm.fit_svi(Y, likelihood="poisson", offset=offset, epochs=1), text)


def offset_in(model):
    return model["Y_offset"].get_value()


def test_offsets_are_joined_by_label_along_both_axes():
    rng = np.random.default_rng(1)
    known = pd.DataFrame(rng.normal(size=C.shape), index=ROWS, columns=COLUMNS)
    mixed = known.iloc[::-1, [2, 0, 3, 1]]
    for given in (known, mixed, xr.DataArray(mixed, dims=("obs", "feature"))):
        model = gplvm.build_model(FRAME, likelihood="poisson", offset=given)
        np.testing.assert_array_equal(offset_in(model), known)
    by_row = known["a"].sample(frac=1.0, random_state=1)
    model = gplvm.build_model(FRAME, likelihood="poisson", offset=by_row)
    np.testing.assert_array_equal(offset_in(model)[:, 0], known["a"])
    model = gplvm.build_model(C, likelihood="poisson", offset=mixed.to_numpy())
    np.testing.assert_array_equal(offset_in(model), mixed)


MODEL = gplvm.build_model(C, likelihood="poisson")
Q = {"progressbar": False}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"start": "umap"}, "start must be one of pca, isomap, random"),
        ({"start": np.zeros((12, 2))}, "start has all latent positions equal"),
        ({"start": np.ones((3, 2))}, "start must give X the shape (12, 2), got (3, 2)"),
        ({"start": {"Z": C}}, "start must name variables of the model"),
        ({"start": {"level": np.ones(3)}}, "start must give level the shape (4,), got (3,)"),
        ({"start": {"amplitude": -1.0}}, "start must lie inside the range of amplitude"),
        ({"start": np.full((12, 2), np.nan)}, "start must be finite"),
        ({"backend": "numba"}, "backend must be 'python' for a model with a likelihood, got 'numba'"),
        ({"backend": "fortran"}, "backend must be 'python'"),
        ({"compile_kwargs": {"fast": True}}, "compile_kwargs must name arguments of pytensor.function"),
    ],
)  # fmt: skip
def test_fits(options, text):
    refused(lambda: gplvm.fit_map(MODEL, **options, **Q), text)


def test_what_has_nothing_left_to_find():
    held = {"X": np.ones((12, 1)), "lengthscale": 1.0, "amplitude": 1.0, "level": np.zeros(4)}
    model = gplvm.build_model(C, 1, likelihood="poisson", ard=False, priors=held)
    refused(lambda: gplvm.fit_map(model, **Q), "model must have a free variable")
