"""The mistakes of a first hour, and what each message offers instead."""

import warnings

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from conftest import simulated
from made import fit_of, made_fit, rotations, rows_drawn, turned

import pm_gplvm as gplvm


@pytest.fixture(scope="module")
def frame(Y):
    return pd.DataFrame(Y.to_numpy(), columns=[f"gene{j}" for j in range(4)])


@pytest.fixture(scope="module")
def unaligned(Y):
    """Draws as a sampler leaves them: each in a frame of its own."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((12, 2)) + 0.1 * rng.standard_normal((2, 20, 12, 2))
    X = turned(X, rotations(rng, (2, 20), 2))
    fit = fit_of(gplvm.build_model(Y), X, lengthscale=0.7, amplitude=1.0, sigma=0.1)
    fit.attrs["method"] = "replica_exchange"
    return fit


# The table


def test_a_table_that_looks_transposed(rng):
    genes_in_rows = rng.standard_normal((600, 12))
    with pytest.warns(RuntimeWarning, match=r"12 rows and 600 columns.* pass Y\.T"):
        gplvm.build_model(genes_in_rows.T)
    gplvm.build_model(genes_in_rows)  # as it is meant, without a word
    with pytest.raises(ValueError, match=r"at least 3 rows .* got shape \(2, 50\).* pass Y\.T"):
        gplvm.build_model(rng.standard_normal((2, 50)))


def test_one_value_a_feature_where_one_a_row_is_wanted(best):
    with pytest.raises(ValueError, match=r"one value a row, 30, got shape \(64,\).* fit Y\.T"):
        gplvm.plot.latent(best, color=np.arange(64))


def test_new_rows_the_other_way_round(digits):
    fit = made_fit(digits, "rbf")
    with pytest.raises(
        ValueError,
        match=r"must have the 64 columns of the fit's table, got 2.*, or pass Y_new\.T",
    ):
        gplvm.embed(fit, digits.to_numpy()[:2].T)


def test_labels_among_the_columns(frame):
    text = frame.assign(stage=["early", "late"] * 6)
    with pytest.raises(TypeError, match=r"1 of 5 columns: stage\. Move labels out of the table"):
        gplvm.build_model(text)
    numbers = frame.assign(label=[0, 1] * 6)
    with pytest.warns(
        RuntimeWarning, match=r"column called label.* load_table\(path, label='label'\)"
    ):
        gplvm.build_model(numbers)
    numbered = frame.reset_index()
    with pytest.warns(RuntimeWarning, match=r"called index.* Y\.set_index\('index'\)"):
        gplvm.build_model(numbered)


def test_a_feature_in_other_units(frame):
    mixed = frame.assign(gene2=1e6 * frame["gene2"])
    with pytest.warns(RuntimeWarning, match=r"1 of 4 features, .*: gene2\. .*scale='feature'"):
        gplvm.build_model(mixed)
    gplvm.build_model(mixed, scale="feature")
    gplvm.build_model(1e6 * frame)  # all alike: no word


def test_two_features_of_which_one_dominates(frame):
    with pytest.warns(RuntimeWarning, match="1 of 2 features, .*: gene1"):
        gplvm.build_model(frame[["gene0", "gene1"]] * [1.0, 1e6], 1)


@pytest.mark.parametrize(
    ("n_large", "times", "told"),
    [(3, 6.0, True), (3, 4.0, False), (4, 1e6, False)],
    ids=["3 of 12 hold 92 %", "84 %", "a third of them"],
)
def test_it_is_the_share_of_a_few_features_that_is_told(n_large, times, told, rng):
    """At most a quarter of the features with 90 % of all variance; no ratio of two of them."""
    table = rng.standard_normal((400, 12))
    table /= table.std(axis=0)
    table[:, :n_large] *= times
    table[0, 5] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gplvm.build_model(table, missing="mask")
    said = [str(w.message) for w in caught]
    assert any("nearly all of its variance in 3 of 12" in one for one in said) == told
    assert any("nearly all" in one for one in said) == told


def test_too_few_rows_and_too_many_dimensions(frame):
    with pytest.raises(ValueError, match=r"at least 3 rows \(obs\) and 1 column"):
        gplvm.build_model(frame[:2])
    with pytest.raises(ValueError, match=r"at most min\(N, D\) = 4 .*, got 5"):
        gplvm.build_model(frame, latent_dim=5, kernel="linear")


def test_missing_entries_tell_how_to_keep_them(frame):
    with pytest.raises(ValueError, match=r"1 missing .* feature 1 \(gene1\).* missing='mask'"):
        gplvm.build_model(frame.where(frame != frame.iloc[3, 1]))


# The fit


@pytest.mark.parametrize(
    "use",
    [
        lambda fit: gplvm.plot.latent(fit),
        lambda fit: gplvm.plot.reconstruction(fit, grid=3),
        lambda fit: gplvm.plot.magnification(fit, grid=3),
        lambda fit: gplvm.plot.explore(fit, grid=5),
        lambda fit: gplvm.predict(fit, [[0.0, 0.0]]),
        lambda fit: gplvm.sample_predictive(fit, [[0.0, 0.0]]),
        lambda fit: gplvm.embed(fit, simulated()[:2], random_seed=1),
    ],
    ids=[
        "plot_latent",
        "reconstruction",
        "magnification",
        "explore",
        "predict",
        "sample_predictive",
        "embed",
    ],
)
def test_forgetting_align(unaligned, use):
    import matplotlib.pyplot as plt

    with pytest.warns(RuntimeWarning, match=r"frame of its own.* Call fit = align\(fit\) first"):
        use(unaligned)
    use(gplvm.align(unaligned))  # warnings are errors: none comes
    plt.close("all")


def test_comparing_fits_of_different_tables(best, Y):
    other = made_fit(Y, "rbf")
    for use in (gplvm.compare, gplvm.plot.compare):
        with pytest.raises(
            ValueError, match=r"fits of the same table.* Fit both models to the same Y"
        ):
            use({"digits": best, "small": other})
    with pytest.raises(TypeError, match=r"a mapping such as \{'MAP': best, 'NUTS': full\}"):
        gplvm.compare([best, best])


def test_one_latent_dimension(Y):
    X = np.linspace(-1, 1, 12)[None, None, :, None]
    fit = fit_of(gplvm.build_model(Y, 1), X, lengthscale=0.5, amplitude=1.0, sigma=0.1)
    with pytest.raises(ValueError, match="dims must be left out where latent_dim is 1, got"):
        gplvm.plot.latent(fit, dims=(0, 1))
    with pytest.raises(
        ValueError, match=r"needs at least three latent dimensions, got 1\. Leave dims out"
    ):
        gplvm.plot.latent(fit, dims="pairs")
    with pytest.raises(
        ValueError, match=r"Use plot\.latent and plot\.reconstruction, or .* latent_dim=2"
    ):
        gplvm.plot.explore(fit)


def test_a_model_where_a_fit_is_wanted_and_the_other_way_round(model, best):
    with pytest.raises(TypeError, match=r"needs a fit \(a DataTree, as fit_marginal .* got Model"):
        gplvm.plot.latent(model)
    with pytest.raises(
        TypeError, match=r"model must be a pm\.Model, got DataTree\. See build_model"
    ):
        gplvm.fit_map(best)
    with pytest.raises(
        TypeError, match=r"model must be a pm\.Model, got DataArray\. See build_model"
    ):
        gplvm.fit_map(simulated())


def test_draws_of_pymc_itself(Y, mode):
    """pm.sample's DataTree has the groups of a fit and nothing of the settings."""
    model = gplvm.build_model(Y)
    raw = pm.sample_prior_predictive(5, model=model, random_seed=1, compile_kwargs={"mode": mode})
    tree = xr.DataTree.from_dict(
        {
            "posterior": raw["prior"].to_dataset(),
            "observed_data": raw["observed_data"].to_dataset(),
            "constant_data": raw["constant_data"].to_dataset(),
        }
    )
    aligned = gplvm.align(tree)
    with pytest.raises(
        ValueError, match=r"without it\. Draw with sample or sample_theta instead of pm"
    ):
        gplvm.predict(aligned, [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"sample_theta instead of pm\.sample"):
        gplvm.compare({"raw": tree})


def test_one_row_and_one_position(best, digits):
    with pytest.raises(ValueError, match=r"got \(2,\)\. For a single position pass \[X_new\]"):
        gplvm.predict(best, [0.0, 0.0])
    with pytest.raises(
        ValueError, match=r"got shape \(64,\)\. For a single row pass Y_new\[None\]"
    ):
        gplvm.embed(best, digits.to_numpy()[0])


def test_a_fit_where_positions_are_wanted(best, digits):
    with pytest.raises(
        TypeError, match=r"got a fit\. Pass one draw of it: fit\['posterior'\]\['X'\]"
    ):
        gplvm.diagnostics.score_embedding(best, digits)


# The pictures


def test_rows_without_a_class_or_a_number(best):
    classes = np.array(["a"] * 20 + [None] * 10, dtype=object)
    numbers = np.where(np.arange(30) < 20, np.arange(30.0), np.nan)
    X = best.posterior["X"].to_numpy()[0, 0]
    for color in (classes, numbers):
        unknown, known = gplvm.plot.latent(best, color, background=False).collections
        assert unknown.get_label() == "missing"
        np.testing.assert_array_equal(unknown.get_offsets(), X[20:])
        assert sorted(rows_drawn(known, X)) == list(range(20))
    about = gplvm.plot.explore(best, numbers, grid=5).about
    assert about["values"][20:] == ["missing"] * 10
    assert about["scale"]["high"] == 19.0


def test_the_side_of_an_image_is_not_its_shape(best):
    with pytest.raises(ValueError, match=r"image_shape must be \(height, width\) .* = 64"):
        gplvm.plot.reconstruction(best, image_shape=8)


def test_time_and_background_of_another_kind(best, unaligned):
    with pytest.raises(TypeError, match="time must hold numbers, got text"):
        gplvm.plot.latent(best, time="label")
    with pytest.raises(ValueError, match=r"time must have one value a row, 30, got shape \(3,\)"):
        gplvm.plot.latent(best, time=[1, 2, 3])
    with pytest.raises(ValueError, match="needs draws of X, got a fit with one position a row"):
        gplvm.plot.latent(best, background="density")
    with pytest.raises(
        ValueError, match="background must be 'uncertainty', 'density', True or False"
    ):
        gplvm.plot.latent(best, background="heat")
    with pytest.raises(ValueError, match="dims must be two dimensions or 'pairs', got 'all'"):
        gplvm.plot.latent(best, dims="all")


# The estimator


def test_text_and_holes_in_a_frame_for_the_estimator(frame):
    text = frame.assign(stage=["early", "late"] * 6)
    with pytest.raises(TypeError, match=r"X must hold .* 1 of 5 columns: stage\. .*frame\.pop"):
        gplvm.GPLVM().fit(text)
    holes = frame.mask(frame > frame.max().max() - 1e-9)
    with pytest.raises(ValueError, match=r"^Input X contains NaN\. Pass GPLVM\(missing='mask'\)"):
        gplvm.GPLVM().fit(holes)
    with pytest.raises(ValueError, match=r"^Input X contains infinity or a value too large"):
        gplvm.GPLVM().fit(frame.replace(frame.iloc[0, 0], np.inf))


def test_an_estimator_in_place_of_its_fit():
    for verb in (gplvm.plot.latent, gplvm.summary, lambda given: gplvm.save(given, "a.nc")):
        with pytest.raises(TypeError, match=r"needs a fit .*got GPLVM\. Pass its fit, estimator"):
            verb(gplvm.GPLVM())


def test_a_table_in_place_of_a_saved_fit():
    with pytest.raises(ValueError, match=r"got 'a\.csv'\. A table is read by data\.load_table"):
        gplvm.load("a.csv")
    with pytest.raises(ValueError, match=r"got 'a\.txt\.gz'\. A table is read"):
        gplvm.load("a.txt.gz")
    with pytest.raises(ValueError, match=r"got 'a\.png'\.$"):
        gplvm.load("a.png")
