"""New rows put into a fit."""

import tracemalloc

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated
from oracles import ALL_KERNELS, column_logps, kernel_matrix
from sklearn.neighbors import NearestNeighbors

import pm_gplvm as gplvm
from pm_gplvm.fitting.stochastic import Optimiser


@pytest.fixture(scope="module")
def table():
    """110 x 5, of one function of the plane."""
    return simulated(110, 5, seed=3)


@pytest.fixture(scope="module")
def old(table):
    return gplvm.fit_map(gplvm.build_model(table[:100]), progressbar=False)


@pytest.fixture(scope="module")
def new(old, table):
    return gplvm.add_rows(old, table[100:], random_seed=1)


def positions(fit):
    return fit["posterior"]["X"].to_numpy()[0, 0]


def number(fit, name, group="sample_stats"):
    return float(fit[group][name][0, 0])


# What it does


def test_old_rows_and_theta_stay(old, new):
    np.testing.assert_array_equal(positions(new)[:100], positions(old))
    for name in ("lengthscale", "amplitude", "sigma"):
        assert number(new, name, "posterior") == pytest.approx(number(old, name, "posterior"))


def test_scale_of_the_table_stays(old, new, table):
    for name in ("Y_mean", "Y_scale"):
        np.testing.assert_array_equal(new["constant_data"][name], old["constant_data"][name])
    np.testing.assert_array_equal(new["observed_data"]["Y"].transpose("obs", "feature"), table)


def test_steps_raise_the_density(old, new, table):
    """From the place of one of the five nearest old rows."""
    distance = ((table[100:].values[:, None] - table[:100].values) ** 2).sum(axis=-1)
    hardly = gplvm.add_rows(old, table[100:], steps=1, learning_rate=1e-12)
    for x, near in zip(positions(hardly)[100:], distance.argsort(axis=1)[:, :5], strict=True):
        assert np.abs(positions(old)[near] - x).max(axis=1).min() < 1e-9
    assert number(new, "lp") > number(hardly, "lp") + 1.0
    assert number(new, "held_out") > number(hardly, "held_out")


def test_density_is_that_of_the_model_of_all_rows(new, table):
    model = gplvm.build_model(table)
    for name in ("Y_mean", "Y_scale"):
        model[name].set_value(new["constant_data"][name].to_numpy())
    point = {rv.name: new["posterior"][rv.name][0, 0].to_numpy() for rv in model.free_RVs}
    assert gplvm.model.compile_objective(model)(point)[0] == pytest.approx(
        number(new, "lp"), rel=1e-9
    )


def test_new_rows_are_predicted_where_they_lie(old, new, table):
    """By the old rows alone, most of them to within the noise; a row unlike all others need not be."""
    Y = table[100:].to_numpy()
    predicted = gplvm.predict(old, positions(new)[100:])["mean"].to_numpy()
    errors = np.sqrt(((predicted - Y) ** 2).mean(axis=1))
    assert np.median(errors) < 2.0 * 0.1 * 2.0  # the table's noise is 0.1 of a scale of 2
    assert np.median(errors) < 0.2 * (Y - table[:100].values.mean(axis=0)).std()


def test_place_is_the_likeliest_of_the_five(old, table):
    """By the change of SciPy's density of the old rows with the new one put on each of them."""
    point = {name: number(old, name, "posterior") for name in ("lengthscale", "amplitude", "sigma")}
    mean, scale = (old["constant_data"][name].to_numpy() for name in ("Y_mean", "Y_scale"))
    X, Y = positions(old), table.to_numpy()
    for n in (100, 101, 102):
        placed = positions(
            gplvm.add_rows(old, Y[[n]], n_neighbors=101, steps=1, learning_rate=1e-12)
        )
        near = ((Y[n] - Y[:100]) ** 2).sum(axis=1).argsort()[:5]
        rows = [*range(100), n]
        gains = [
            column_logps(
                Y[rows], kernel_matrix("rbf", np.vstack([X, X[j]]), **point), mean, scale
            ).sum()
            - 0.5 * (X[j] ** 2).sum()
            for j in near
        ]
        np.testing.assert_allclose(placed[100], X[near[np.argmax(gains)]], atol=1e-9)


def test_copies_of_old_rows_come_beside_them(old, table):
    copies = gplvm.add_rows(old, table[:6].to_numpy(), random_seed=1)
    away = np.linalg.norm(positions(copies)[100:] - positions(old)[:6], axis=1)
    assert away.max() < 0.3 * positions(old).std()


def test_penalty_holds_the_old_rows(old, table):
    moved = [
        np.abs(
            positions(gplvm.add_rows(old, table[100:], hold=hold, random_seed=1))[:100]
            - positions(old)
        ).mean()
        for hold in (0.0, 1e3, 1e7)
    ]
    assert moved[0] > moved[1] > moved[2] > 0.0
    assert moved[2] < 0.1 * moved[0]


def test_theta_goes_on_if_wanted(old, table):
    further = gplvm.add_rows(old, table[100:], learning_rate_theta=0.01, random_seed=1)
    assert number(further, "sigma", "posterior") != number(old, "sigma", "posterior")


def test_old_fit_is_untouched(table):
    old = gplvm.fit_map(gplvm.build_model(table[:100]), progressbar=False)
    before = old.copy(deep=True)
    gplvm.add_rows(old, table[100:], hold=1.0, learning_rate_theta=0.01, random_seed=1)
    with pytest.raises(ValueError, match="is not finite"):
        gplvm.add_rows(old, table[100:], learning_rate=1e308)
    xr.testing.assert_identical(old, before)


def test_one_row_after_the_other(old, table):
    fit = old
    for n in range(100, 103):
        fit = gplvm.add_rows(fit, table[[n]].to_numpy(), random_seed=n)
    assert positions(fit).shape == (103, 2)
    np.testing.assert_array_equal(positions(fit)[:100], positions(old))
    np.testing.assert_array_equal(fit["observed_data"]["Y"].T[100:], table[100:103])


def test_seed_decides(old, table):
    a, b, c = (gplvm.add_rows(old, table[100:], random_seed=s, steps=40) for s in (1, 1, 2))
    np.testing.assert_array_equal(positions(a), positions(b))
    assert not np.array_equal(positions(a), positions(c))


@pytest.mark.parametrize(
    ("kernel", "ard"), [*((k, False) for k in ALL_KERNELS), ("rbf", True), ("rbf + bias", False)]
)
def test_every_kernel(kernel, ard, table):
    model = gplvm.build_model(table[:100], kernel=kernel, ard=ard)
    old = gplvm.fit_stochastic(model, steps=100, random_seed=1, progressbar=False)
    new = gplvm.add_rows(old, table[100:], random_seed=1, steps=20)
    assert new.attrs["kernel"] == old.attrs["kernel"]
    assert set(new["posterior"].data_vars) == set(old["posterior"].data_vars)
    for name in set(old["posterior"].data_vars) - {"X"}:
        np.testing.assert_allclose(new["posterior"][name], old["posterior"][name], rtol=1e-12)


def test_number_in_the_model_stays_one(table):
    model = gplvm.build_model(table[:100], priors={"sigma": 0.2, "X": pm.StudentT.dist(4)})
    old = gplvm.fit_stochastic(model, steps=100, random_seed=1, progressbar=False)
    new = gplvm.add_rows(
        old, table[100:], priors={"X": pm.StudentT.dist(4)}, random_seed=1, steps=20
    )
    assert float(new["constant_data"]["sigma"]) == 0.2
    normal = gplvm.add_rows(old, table[100:], random_seed=1, steps=20)
    assert not np.array_equal(positions(new), positions(normal))


def test_nothing_in_it_grows_with_the_square_of_the_rows():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(20_000, 2))
    Y = np.sin(X @ rng.normal(size=(2, 4))) + 0.1 * rng.normal(size=(20_000, 4))
    old = gplvm.fit_stochastic(
        gplvm.build_model(Y[:-5]), steps=200, random_seed=1, monitor=0, progressbar=False
    )
    tracemalloc.start()
    new = gplvm.add_rows(old, Y[-5:], random_seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * Y.nbytes  # one N × N array would be 5000 times Y
    assert positions(new).shape == (20_000, 2)
    assert set(new["sample_stats"].data_vars) == {"held_out"}


# Labels


def test_labels_of_rows_and_classes_go_on(new, table):
    for name in ("obs", "label"):
        assert new["posterior"][name].to_numpy().tolist() == table[name].to_numpy().tolist()
    assert new["posterior"]["X"].dims == ("chain", "draw", "obs", "latent")
    assert new.attrs["method"] == "add_rows"
    assert new.attrs["n_new"] == 10


def test_stored_and_read_again(new, tmp_path):
    again = gplvm.load(gplvm.save(new, tmp_path / "new.nc"))
    np.testing.assert_array_equal(positions(again), positions(new))
    assert gplvm.plot.latent(again, color="label").get_xlabel() == "latent 0"


def test_rows_without_labels_are_counted_on(old, table):
    named = gplvm.add_rows(old, table[100:103].to_numpy(), steps=1)
    assert named["posterior"]["obs"].to_numpy().tolist()[-4:] == ["row99", "100", "101", "102"]
    assert named["posterior"]["label"].to_numpy().tolist()[-3:] == ["", "", ""]
    bare = gplvm.fit_stochastic(
        gplvm.build_model(table[:100].to_numpy()), steps=20, random_seed=1, progressbar=False
    )
    for rows in (table[100:103].to_numpy(), pd.DataFrame(table[100:103].to_numpy())):
        counted = gplvm.add_rows(bare, rows, steps=1)
        assert counted["posterior"]["obs"].to_numpy().tolist() == list(range(103))


def test_numbers_along_the_rows_are_missing_for_new_ones(table):
    ages = table[:100].assign_coords(age=("obs", np.arange(100)))
    old = gplvm.fit_stochastic(gplvm.build_model(ages), steps=20, random_seed=1, progressbar=False)
    new = gplvm.add_rows(old, table[100:103], steps=1)
    ages = new["posterior"]["age"].to_numpy()
    np.testing.assert_array_equal(ages[:100], np.arange(100))
    assert np.isnan(ages[100:]).all()


def test_columns_are_found_by_their_names(old, new, table):
    shuffled = table[100:, ::-1]
    assert shuffled["feature"].to_numpy().tolist() != table["feature"].to_numpy().tolist()
    again = gplvm.add_rows(old, shuffled, random_seed=1)
    np.testing.assert_array_equal(positions(again), positions(new))
    frame = table[100:].to_pandas()[list(reversed(table["feature"].to_numpy().tolist()))]
    again = gplvm.add_rows(old, frame, random_seed=1)
    np.testing.assert_array_equal(positions(again), positions(new))


# Turned away


def refused(old, rows, message, kind=ValueError, **arguments):
    before = old.copy(deep=True)
    with pytest.raises(kind, match=message):
        gplvm.add_rows(old, rows, **arguments)
    xr.testing.assert_identical(old, before)


def test_other_columns(old, table):
    refused(old, table[100:, :4].to_numpy(), r"Y_new must have the 5 columns .*, got 4\.")
    other = table[100:].assign_coords(feature=["column0", "column1", "column2", "column3", "z"])
    refused(old, other, r"the 5 columns of the fit's table, got 5, z among them")


def test_rows_that_are_not_numbers(old, table):
    rows = table[100:].to_numpy().copy()
    rows[2, 1] = np.nan
    refused(old, rows, r"Y_new must not have missing values for add_rows")
    refused(old, [["a"] * 5], r"must hold numbers, got text", TypeError)
    refused(old, rows[0], r"dimensions \(obs_new, feature\), got shape \(5,\).* pass Y_new\[None\]")
    refused(old, rows[:0], r"Y_new must have at least one row, got none")


def test_labels_that_are_taken(old, table):
    refused(
        old, table[98:102], r"labels of rows that the fit has, got .*Give its rows other labels"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_neighbors": 111}, r"n_neighbors must lie between 2 and N = 110, got 111"),
        ({"n_neighbors": 1}, r"n_neighbors must lie between 2 and N = 110, got 1"),
        ({"steps": 0}, r"steps must be a whole number of at least 1, got 0"),
        ({"hold": -1.0}, r"hold must be a finite number at least 0, got -1\.0"),
        ({"hold": np.nan}, r"hold must be a finite number at least 0, got nan"),
        ({"learning_rate": 0.0}, r"learning_rate must be a finite number above 0"),
        ({"priors": {"sgima": 1.0}}, r"priors must name parameters of this model"),
    ],
)
def test_arguments_out_of_range(arguments, message, old, table):
    refused(old, table[100:], message, **arguments)


def test_fit_of_many_draws(theta, digits):
    with pytest.raises(ValueError, match=r"a fit of one draw, .*got 2 chains of 1000"):
        gplvm.add_rows(theta, digits[:3].to_numpy())


def test_fit_with_a_covariance_of_its_own(old, table):
    own = old.copy()
    own.attrs["kernel"] = "custom"
    with pytest.raises(ValueError, match=r"add_rows knows the kernels .*got a fit with 'custom'"):
        gplvm.add_rows(own, table[100:])


def test_something_else_than_a_fit(table):
    with pytest.raises(TypeError, match=r"add_rows needs a fit .*got DataArray"):
        gplvm.add_rows(table, table)


# The papers' data


@pytest.mark.slow
def test_oil_flow_learnt_and_gone_on_with(data_file):
    """800 rows learnt and 200 put in are as near their classes as all 1000 learnt at once."""
    with np.load(data_file("oil_flow.npz")) as file:
        Y, labels = file["Y_train"], file["labels_train"]

    def agreement(X):
        """Share of the last 200 rows whose nearest other row is of their class."""
        nearest = NearestNeighbors(n_neighbors=1).fit(X).kneighbors(return_distance=False)[:, 0]
        return (labels[nearest] == labels)[800:].mean()

    whole, old = (
        gplvm.fit_stochastic(gplvm.build_model(Y[:N]), random_seed=1, progressbar=False)
        for N in (1000, 800)
    )
    new = gplvm.add_rows(old, Y[800:], random_seed=1)
    accuracy = {name: agreement(positions(fit)) for name, fit in (("whole", whole), ("new", new))}
    assert accuracy["whole"] > 0.97
    assert accuracy["new"] >= accuracy["whole"] - 0.02


def test_ctrl_c_keeps_the_places_that_were_reached(old, table, ctrl_c, monkeypatch):
    after, step = [], Optimiser.step

    def noted(self, *args, **kwargs):
        step(self, *args, **kwargs)
        after.append(self.X.copy())

    settings = {"steps": 20, "random_seed": 1, "progressbar": False}
    monkeypatch.setattr(Optimiser, "step", noted)
    whole = gplvm.add_rows(old, table[100:], **settings)
    assert (whole.attrs["interrupted"], whole.attrs["steps"]) == (0, 20)
    monkeypatch.setattr(Optimiser, "step", step)
    ctrl_c(Optimiser, "step", 7)
    with pytest.warns(RuntimeWarning, match="interrupted, .* after 7 of 20 steps") as said:
        fit = gplvm.add_rows(old, table[100:], **settings)
    assert [warning.filename for warning in said] == [__file__]
    assert (fit.attrs["interrupted"], fit.attrs["steps"]) == (1, 7)
    np.testing.assert_array_equal(positions(fit), after[6])


def test_ctrl_c_before_the_first_step(old, table, ctrl_c):
    ctrl_c(Optimiser, "__init__", 1)
    with pytest.raises(KeyboardInterrupt):
        gplvm.add_rows(old, table[100:], random_seed=1, progressbar=False)
