"""Every argument that takes an array reads all kinds of them the same, and refuses what holds no numbers.

A kind of array, a wrong value or an argument is a line.
"""

from decimal import Decimal
from fractions import Fraction

import anndata
import dask.array
import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
import scipy.sparse
import xarray as xr

import pm_gplvm as gplvm


def positions(things, value):
    return gplvm.predict(things["best"], value)["mean"]


def row_positions(things, **kwargs):
    return gplvm.embed(things["best"], random_seed=1, draws=100, progressbar=False, **kwargs)[
        "modes"
    ]["X"]


# Each argument, called with an array of the shape of things[shape]. The result is compared between kinds.
ARGUMENTS = {
    "Y": ("Y", lambda t, v: gplvm.build_model(v, missing="mask")["Y_data"].get_value()),
    "Y_new": ("rows", lambda t, v: row_positions(t, Y_new=v)),
    "X_new": ("X", positions),
    "X_new of sample_predictive": (
        "X",
        lambda t, v: gplvm.sample_predictive(t["best"], v, num_samples=3, random_seed=1)[
            "predictions"
        ]["Y"],
    ),
    "X_new of magnification": (
        "X",
        lambda t, v: gplvm.diagnostics.magnification(t["best"], v)["from_mean"],
    ),
    "X": (
        "X",
        lambda t, v: gplvm.sample_theta(
            t["model"], v, draws=5, tune=5, chains=1, random_seed=1, progressbar=False
        )["constant_data"]["X"],
    ),
    "to": ("X", lambda t, v: gplvm.align(t["best"], to=v)["aligned"]["X"]),
    "X of score_embedding": (
        "X",
        lambda t, v: list(gplvm.diagnostics.score_embedding(v, t["Y"]).values()),
    ),
    "Y of score_embedding": (
        "Y",
        lambda t, v: list(gplvm.diagnostics.score_embedding(t["X"], v).values()),
    ),
    "reference": ("X", lambda t, v: gplvm.compare(t["fits"], reference=v).select_dtypes("number")),
    "start": (
        "X",
        lambda t, v: gplvm.fit_map(t["model"], start=v, max_iter=3, progressbar=False)["posterior"][
            "X"
        ],
    ),
    "mean": (
        "X",
        lambda t, v: gplvm.build_model(t["Y"], priors={"X": gplvm.priors.informative(v, 0.3)})[
            "X_prior_mean"
        ].get_value(),
    ),
}
OF = {name: name.split(" of ")[0] for name in ARGUMENTS}

KINDS = {
    "list": lambda a: a.tolist(),
    "objects": lambda a: a.astype(object),
    "fractions": lambda a: [[Fraction(v) for v in row] for row in a.tolist()],
    "decimals": lambda a: np.array([[Decimal(v) for v in row] for row in a.tolist()], dtype=object),
    "masked, nothing hidden": np.ma.array,
    "big-endian": lambda a: a.astype(">f8"),
    "Fortran order": np.asfortranarray,
    "DataFrame": pd.DataFrame,
    "nullable": lambda a: pd.DataFrame(a).convert_dtypes(),
    "pyarrow columns": lambda a: pd.DataFrame(a).convert_dtypes(dtype_backend="pyarrow"),
    "object columns": lambda a: pd.DataFrame(a).astype(object),
    "categories": lambda a: pd.DataFrame(a).astype("category"),
    "sparse columns": lambda a: pd.DataFrame(a).astype(pd.SparseDtype("float", 0.0)),
    "DataArray": xr.DataArray,
    "sparse matrix": scipy.sparse.csr_matrix,
    "sparse array": scipy.sparse.coo_array,
    "dask": dask.array.from_array,
    "lazy DataArray": lambda a: xr.DataArray(dask.array.from_array(a)),
}

NAMED_KINDS = {  # with names of columns that they cannot do without
    "polars": lambda a: polars.DataFrame(a, schema=[f"c{i}" for i in range(a.shape[1])]),
    "pyarrow": lambda a: pyarrow.table({f"c{i}": column for i, column in enumerate(a.T)}),
    "AnnData": lambda a: anndata.AnnData(
        a, var=pd.DataFrame(index=[f"c{i}" for i in range(a.shape[1])])
    ),
}

CONTENTS = {
    "text": (lambda a: a.astype(str), TypeError),
    "text objects": (lambda a: a.astype(str).astype(object), TypeError),
    "text columns": (lambda a: pd.DataFrame(a.astype(str)), TypeError),
    "dates": (lambda a: np.full(a.shape, "2020-01-01", "M8[D]"), TypeError),
    "date columns": (lambda a: pd.DataFrame(np.full(a.shape, "2020-01-01", "M8[s]")), TypeError),
    "Timestamps": (lambda a: np.full(a.shape, pd.Timestamp("2020-01-01"), dtype=object), TypeError),
    "durations": (lambda a: np.full(a.shape, 3, "m8[s]"), TypeError),
    "complex": (lambda a: a * 1j, TypeError),
    "complex columns": (lambda a: pd.DataFrame(a * 1j), TypeError),
    "complex objects": (lambda a: (a * 1j).astype(object), TypeError),
    "dicts": (lambda a: np.full(a.shape, {}, dtype=object), TypeError),
    "records": (lambda a: np.zeros(len(a), "f8,f8"), TypeError),
    "polars text": (lambda a: polars.DataFrame(a.astype(str)), TypeError),
    "polars lazy": (lambda a: polars.DataFrame(a).lazy(), TypeError),
    "ragged": (lambda a: [*a.tolist()[:-1], [1.0]], TypeError),
    "a mapping": (lambda a: {"a": 1}, TypeError),
    "a set": (lambda a: {1.0, 2.0}, TypeError),
    "bytes": (lambda a: b"123", TypeError),
    "a generator": (lambda a: (row for row in a), TypeError),
    "a function": (lambda a: np.mean, TypeError),
    "a Dataset": (lambda a: xr.Dataset({"a": ("x", [1.0])}), TypeError),
    "1e300": (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, 1e300, a), ValueError),
    "-1e200": (lambda a: a - 1e200, ValueError),
    "a long integer": (lambda a: np.full(a.shape, 10**400, dtype=object), ValueError),
    "infinity": (
        lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.inf, a),
        ValueError,
    ),
    "three dims": (lambda a: a[:, :, None], ValueError),
    "huge and sparse": (lambda a: scipy.sparse.csr_array((10**6, 10**5)), ValueError),
    "huge and lazy": (lambda a: dask.array.zeros((10**6, 10**5)), ValueError),
}


def given(things, argument):
    return things[ARGUMENTS[argument][0]]


SLOW = ("X", "start")  # they are read before the work, which takes a second
CALLS = [
    (argument, kind)
    for argument in ARGUMENTS
    for kind in (*KINDS, *NAMED_KINDS)
    if argument not in SLOW or kind in ("decimals", "nullable", "lazy DataArray", "AnnData")
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("argument", "kind"), CALLS)
def test_every_kind_gives_the_same_numbers(things, argument, kind):
    array, call = given(things, argument), ARGUMENTS[argument][1]
    value = (KINDS | NAMED_KINDS)[kind](array)
    if kind in NAMED_KINDS and argument == "Y_new":
        named = gplvm.build_model(NAMED_KINDS["polars"](things["Y"]))
        things = things | {"best": gplvm.fit_map(named, max_iter=3, progressbar=False)}
        plain = KINDS["list"](array)
    else:
        plain = array
    np.testing.assert_allclose(call(things, value), call(things, plain), rtol=1e-12)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_what_holds_no_numbers_is_refused_by_name(things, argument, content):
    make, error = CONTENTS[content]
    if argument == "start" and content in ("a mapping", "a Dataset"):
        error = ValueError  # names of variables with their values are a start
    if argument == "Y" and content == "a mapping":
        error = ValueError  # names with tables are several tables, of which this one has no rows
    with pytest.raises(error, match=rf"\b{OF[argument]}\b.* (must|is sparse|has)"):
        ARGUMENTS[argument][1](things, make(given(things, argument)))


@pytest.mark.parametrize(
    "hidden",
    [
        lambda a, m: np.ma.array(np.where(m, 99.0, a), mask=m),
        lambda a, m: np.where(m, None, a.astype(object)),
        lambda a, m: pd.DataFrame(a).mask(pd.DataFrame(m)).convert_dtypes(),
        lambda a, m: pd.DataFrame(np.where(m, np.nan, a)),
        lambda a, m: polars.DataFrame(np.where(m, None, a.astype(object)).tolist(), orient="row"),
        lambda a, m: xr.DataArray(np.where(m, np.nan, a)),
    ],
    ids=["masked", "None", "nullable", "NaN", "polars null", "DataArray"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_holes_are_holes_in_every_kind(things, hidden):
    Y, rows, X = things["Y"], things["rows"], things["X"]
    mask = np.zeros(Y.shape, bool)
    mask[2, 1] = True
    table = gplvm.build_model(hidden(Y, mask), missing="mask")["Y_seen"].get_value()
    np.testing.assert_array_equal(table, ~mask.T)
    with pytest.raises(ValueError, match="Y has 1 missing"):
        gplvm.build_model(hidden(Y, mask))
    known = gplvm.build_model(
        Y, priors={"X": gplvm.priors.informative(hidden(X, mask[:, :2]), 0.1)}
    )
    np.testing.assert_array_equal(known["X_prior_sd"].get_value() == 1.0, mask[:, :2])
    with pytest.raises(ValueError, match="X_new must be finite"):
        gplvm.predict(things["best"], hidden(X, mask[:, :2]))
    if not hasattr(hidden(rows, mask[1:3]), "columns"):
        new = row_positions(things, Y_new=hidden(rows, mask[1:3]))
        expected = row_positions(things, Y_new=np.where(mask[1:3], np.nan, rows))
        np.testing.assert_array_equal(new, expected)
