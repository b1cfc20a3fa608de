"""What carries row labels is joined to the table by label, whatever its order; other rows are named."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import pm_gplvm as gplvm

pytestmark = pytest.mark.filterwarnings("ignore:.*converge:RuntimeWarning")

quiet = {"progressbar": False, "random_seed": 1}


@pytest.fixture(scope="module")
def named(things):
    """The table with names, a fit of it, and a shuffled order of its rows."""
    names = [f"r{i}" for i in range(12)]
    table = pd.DataFrame(things["Y"], index=names, columns=list("abcd"))
    model = gplvm.build_model(table)
    return {
        "table": table,
        "model": model,
        "best": gplvm.fit_map(model, **quiet),
        "order": np.random.default_rng(1).permutation(12),
    }


def latent_prior(named, prior):
    model = gplvm.build_model(named["table"], priors={"X": prior})
    return [v.get_value() for v in model.data_vars if v.name.startswith("X_")]


CLASSES = np.array(list("aabbccaabbcc"), dtype=object)
NUMBERS = np.linspace(-1.0, 1.0, 12)

# Each argument: values by row, and what the library makes of them.
BY_ROW = {
    "mean": (NUMBERS, lambda n, v: latent_prior(n, gplvm.priors.informative(v, 0.1))),
    "sd": (
        0.1 + np.arange(12.0),
        lambda n, v: latent_prior(
            n, gplvm.priors.informative(pd.Series(NUMBERS, n["table"].index), v)
        ),
    ),
    "t": (NUMBERS, lambda n, v: latent_prior(n, gplvm.priors.dynamics(v))),
    "sequences": (
        CLASSES,
        lambda n, v: latent_prior(
            n, gplvm.priors.dynamics(pd.Series(NUMBERS, n["table"].index), sequences=v)
        ),
    ),
    "labels": (CLASSES, lambda n, v: latent_prior(n, gplvm.priors.class_mixture(v))),
    "labels of compare": (
        CLASSES,
        lambda n, v: [gplvm.compare({"MAP": n["best"]}, labels=v)["nn_agreement"].to_numpy()],
    ),
    "labels of score_embedding": (
        CLASSES,
        lambda n, v: list(
            gplvm.diagnostics.score_embedding(
                n["best"]["posterior"]["X"].to_numpy()[0, 0], n["table"], v
            ).values()
        ),
    ),
}


@pytest.mark.parametrize("container", [pd.Series, xr.DataArray])
@pytest.mark.parametrize("argument", BY_ROW)
def test_values_are_joined_by_label(named, argument, container):
    values, call = BY_ROW[argument]
    order, names = named["order"], named["table"].index.to_numpy()
    expected = call(named, values)
    given = {
        pd.Series: lambda o: pd.Series(values[o], index=names[o]),
        xr.DataArray: lambda o: xr.DataArray(values[o], dims="obs", coords={"obs": names[o]}),
    }[container]
    more = [*order, 0]  # rows that the table does not have are left out
    extra = given(order)
    if container is pd.Series:
        extra = pd.concat([extra, pd.Series(values[more[-1:]], index=["elsewhere"])])
    for value in (given(np.arange(12)), given(order), extra):
        for a, b in zip(call(named, value), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    name = argument.split(" of ")[0]
    with pytest.raises(
        ValueError, match=rf"{name} must have the rows of the table, got none for 1 of 12: r"
    ):
        call(named, given(order[:-1]))
    renamed = given(order)
    renamed = (
        renamed.rename(str.upper)
        if container is pd.Series
        else renamed.assign_coords(obs=np.char.upper(names[order].astype(str)))
    )
    with pytest.raises(
        ValueError, match=rf"{name} must have the rows of the table, got none for 12 of 12"
    ):
        call(named, renamed)


@pytest.mark.parametrize("argument", BY_ROW)
def test_repeated_labels_are_refused(named, argument):
    values, call = BY_ROW[argument]
    names = named["table"].index.to_numpy().copy()
    names[3] = names[4]
    with pytest.raises(ValueError, match=r"labels of .* repeat \(r4\)"):
        call(named, pd.Series(values, index=names))


def test_a_table_without_labels_takes_values_by_position(things):
    """Text labels cannot be joined to numbered rows; other numbers than 0 to N - 1 may be meant either way."""
    prior = gplvm.priors.informative(pd.Series(NUMBERS, index=[f"cell{i}" for i in range(12)]), 0.1)
    mean = gplvm.build_model(things["Y"], priors={"X": prior})["X_prior_mean"].get_value()
    np.testing.assert_array_equal(mean[:, 0], NUMBERS)
    shuffled = pd.Series(NUMBERS, index=np.arange(12)[::-1] + 1)
    with pytest.raises(ValueError, match=r"mean must have the labels of the table's rows or none"):
        gplvm.build_model(things["Y"], priors={"X": gplvm.priors.informative(shuffled, 0.1)})


def test_fits_are_joined_by_label_and_refused_of_another_table(named):
    table, best, order = named["table"], named["best"], named["order"]
    other = gplvm.build_model(table.iloc[order])
    X = best["posterior"]["X"].to_numpy()[0, 0]
    theta = gplvm.sample_theta(other, best, draws=5, tune=5, chains=1, **quiet)
    np.testing.assert_array_equal(theta["constant_data"]["X"], X[order])
    again = gplvm.fit_map(other, start=best, **quiet)
    np.testing.assert_allclose(
        again["posterior"]["X"].sel(obs=table.index), best["posterior"]["X"], atol=1e-2
    )
    changed = table.copy()
    changed.iloc[3, 1] += 0.5
    for model, found in (
        (gplvm.build_model(table.iloc[::-1].iloc[:10]), None),
        (gplvm.build_model(changed), "1 entries that differ"),
        (
            gplvm.build_model(table[["a", "b", "c"]]),
            r"\(12, 4\) entries where the model has \(12, 3\)",
        ),
        (gplvm.build_model(table.rename(index=str.upper)), "must have the rows of the table"),
    ):
        for name, call in (
            ("X", lambda m: gplvm.sample_theta(m, best, draws=5, tune=5, chains=1, **quiet)),
            ("start", lambda m: gplvm.fit_map(m, start=best, max_iter=2, **quiet)),
        ):
            if found is None:
                continue
            with pytest.raises(ValueError, match=rf"{name} must .*{found.removeprefix('must ')}"):
                call(model)


def test_tables_of_tiny_numbers_are_told_apart(named):
    """By their digits, not by an absolute difference."""
    tiny = named["table"] * 1e-9
    fit = gplvm.fit_map(gplvm.build_model(tiny), **quiet)
    with pytest.raises(
        ValueError, match=r"X must be a fit of the model's table.*entries that differ"
    ):
        gplvm.sample_theta(gplvm.build_model(1.5 * tiny), fit, draws=5, tune=5, chains=1, **quiet)


def test_a_part_of_the_rows_starts_from_the_whole(named):
    part = gplvm.build_model(named["table"].iloc[::-2])
    X = gplvm.sample_theta(part, named["best"], draws=5, tune=5, chains=1, **quiet)[
        "constant_data"
    ]["X"]
    np.testing.assert_array_equal(X, named["best"]["posterior"]["X"][0, 0, ::-2])


def test_arrays_with_labels_are_starts_by_label(named):
    X, order = named["best"]["posterior"]["X"][0, 0], named["order"]
    one, two = (
        gplvm.fit_map(named["model"], start=start, max_iter=3, **quiet)
        for start in (X.to_numpy(), X[order])
    )
    np.testing.assert_array_equal(one["posterior"]["X"], two["posterior"]["X"])


@pytest.mark.parametrize(
    "change",
    [
        {"priors": {"sigma": pm.HalfNormal.dist(100.0)}},
        {"scale": "feature"},
        {"kernel": "matern32"},
        {"resolution": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_resume_refuses_another_model(named, change):
    begun = gplvm.sample(named["model"], draws=3, tune=3, chains=2, replicas=1, **quiet)
    other = gplvm.build_model(named["table"], **change)
    with pytest.raises(ValueError, match=r"model must be the one that was sampled, got one with"):
        gplvm.resume(other, begun, draws=3, progressbar=False)


def test_columns_are_joined_by_name(named):
    import polars

    rows = named["table"].iloc[:2] + 0.05
    at = {"draws": 100, **quiet}
    expected = gplvm.embed(named["best"], rows, **at)["modes"]["X"].to_numpy()
    for mixed in (rows[list("dcba")], polars.from_pandas(rows[list("dbca")])):
        np.testing.assert_array_equal(
            gplvm.embed(named["best"], mixed, **at)["modes"]["X"], expected
        )
    with pytest.raises(ValueError, match=r"Y_new must have the 4 columns .* got 4, x among them"):
        gplvm.embed(named["best"], rows.rename(columns={"a": "x"}), **at)
    with pytest.raises(ValueError, match=r"Y_new must have each column once, got b more than once"):
        gplvm.embed(named["best"], rows[list("abbd")], **at)
    with pytest.raises(
        ValueError, match=r"Y must have a name of its own for each column, got a more"
    ):
        gplvm.build_model(named["table"][list("aabc")])


def test_scores_of_another_table_are_refused(named):
    names = named["table"].index.to_numpy()
    scores = xr.Dataset({"log_score": ("obs", NUMBERS)}, coords={"obs": names})
    table = gplvm.compare({"MAP": named["best"]}, kfold={"MAP": scores})
    assert table.loc["MAP", "elpd_row"] == pytest.approx(NUMBERS.sum())
    other = scores.assign_coords(obs=np.char.upper(names.astype(str)))
    with pytest.raises(ValueError, match="kfold must have the rows of the table, got none for 12"):
        gplvm.compare({"MAP": named["best"]}, kfold={"MAP": other})
    with pytest.raises(ValueError, match="kfold must hold finite scores"):
        gplvm.compare({"MAP": named["best"]}, kfold={"MAP": scores * np.nan})


# Labels 0, 1, 2, ... may be nobody's.


def stages(values):
    return {"priors": {"X": gplvm.priors.informative(values, 0.1)}}


def test_a_part_of_a_numbered_table_is_joined_by_its_numbers(things):
    """As pandas leaves them when rows are chosen."""
    whole = pd.DataFrame(np.tile(things["Y"], (3, 1)) + np.arange(36.0)[:, None])
    known = pd.Series(np.linspace(-1.0, 1.0, 36))
    for part in (whole.iloc[:12], whole.iloc[12:24], whole.iloc[::-3]):
        mean = gplvm.build_model(part, **stages(known))["X_prior_mean"].get_value()[:, 0]
        np.testing.assert_array_equal(mean, known[part.index])
    by_position = pd.Series(NUMBERS)  # of other rows: no number is shared
    mean = gplvm.build_model(whole.iloc[20:32], **stages(by_position))["X_prior_mean"].get_value()
    np.testing.assert_array_equal(mean[:, 0], NUMBERS)
    named = whole.iloc[:12].set_axis([f"r{i}" for i in range(12)])
    mean = gplvm.build_model(named, **stages(by_position))["X_prior_mean"].get_value()
    np.testing.assert_array_equal(mean[:, 0], NUMBERS)


def test_numbers_that_may_be_meant_either_way_are_refused(things):
    shuffled = pd.DataFrame(things["Y"]).sample(frac=1.0, random_state=1)
    known = pd.Series(NUMBERS)
    message = "mean must have the labels of the table's rows or none.*by label or by position"
    for table, values in (
        (shuffled, known),
        (things["Y"], known.sample(frac=1.0, random_state=1)),
        (things["Y"], pd.Series(np.linspace(-1.0, 1.0, 36))),
    ):
        with pytest.raises(ValueError, match=message):
            gplvm.build_model(table, **stages(values))
    for values in (known.loc[shuffled.index], known.loc[shuffled.index].to_numpy()):
        mean = gplvm.build_model(shuffled, **stages(values))["X_prior_mean"].get_value()[:, 0]
        np.testing.assert_array_equal(mean, NUMBERS[shuffled.index])
    with pytest.raises(ValueError, match="mean must have one entry a row, 12, got 36"):
        gplvm.build_model(things["Y"], **stages(np.zeros(36)))
