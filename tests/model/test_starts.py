"""Where fits begin."""

import numpy as np
import pymc as pm
import pytest
from sklearn.decomposition import PCA

import pm_gplvm as gplvm
from pm_gplvm.model.starts import Form, forms, perturbed, start_values


@pytest.fixture(scope="module")
def small(Y):
    return gplvm.build_model(Y, kernel="rbf + bias")


def begin(model, start, seed=0):
    return start_values(model, start, np.random.default_rng(seed))


def test_names_and_shapes_are_those_of_the_value_variables(small):
    values = begin(small, "pca")
    assert {k: v.shape for k, v in values.items()} == {
        "X": (12, 2),
        "lengthscale_log__": (),
        "amplitude_log__": (),
        "sigma_log__": (),
        "bias_log__": (),
    }
    assert all(v.dtype == np.float64 for v in values.values())
    assert values["lengthscale_log__"] == 0.0
    assert values["sigma_log__"] < np.log(0.5)  # not all of the table is noise


def test_pca_is_scikit_learns_with_unit_columns(small, Y):
    X = begin(small, "pca")["X"]
    scores = PCA(2).fit_transform(Y.to_numpy())
    scores /= scores.std(axis=0)
    np.testing.assert_allclose(np.abs((X * scores).mean(axis=0)), 1.0, rtol=1e-10)
    np.testing.assert_allclose(X.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(X.std(axis=0), 1.0, rtol=1e-12)


def test_pca_sees_the_table_as_it_is_scaled(Y):
    stretched = Y * [1.0, 1.0, 1.0, 1000.0]
    X = {
        scale: begin(gplvm.build_model(stretched, 1, scale=scale), "pca")["X"][:, 0]
        for scale in ("none", "feature")
    }
    last = Y.to_numpy()[:, 3] - Y.to_numpy()[:, 3].mean()
    agreement = {k: abs(np.corrcoef(x, last)[0, 1]) for k, x in X.items()}
    assert agreement["none"] > 0.999
    assert agreement["feature"] < 0.99


def test_isomap_unrolls_a_curve(rng):
    angle = np.sort(rng.uniform(0, 1.5 * np.pi, 60))
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    X = begin(gplvm.build_model(circle, 1), "isomap")["X"][:, 0]
    assert abs(np.corrcoef(X, angle)[0, 1]) > 0.99


def test_isomap_of_separate_clusters(rng, recwarn):
    table = np.concatenate([rng.normal(size=(15, 3)), 100.0 + rng.normal(size=(15, 3))])
    X = begin(gplvm.build_model(table), "isomap")["X"]
    assert X.shape == (30, 2)
    assert np.isfinite(X).all()
    assert not recwarn.list


def test_isomap_of_three_rows():
    table = np.array([[0.0, 1.0], [1.0, 5.0], [2.0, 2.0]])
    assert begin(gplvm.build_model(table, 1), "isomap")["X"].shape == (3, 1)


def test_random_start_follows_the_seed(small):
    a, b, c = (begin(small, "random", seed)["X"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_allclose(a.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(a.std(axis=0), 1.0, rtol=1e-12)


def test_more_dimensions_than_the_table_varies_in(rng):
    line = np.outer(np.arange(8.0), [1.0, 2.0, 3.0])
    X = begin(gplvm.build_model(line, 3), "pca")["X"]
    assert np.isfinite(X).all()
    np.testing.assert_allclose(X.std(axis=0), 1.0, atol=0.8)
    assert np.linalg.matrix_rank(X) == 3


def test_array(small, rng):
    X = rng.normal(size=(12, 2))
    np.testing.assert_array_equal(begin(small, X)["X"], X)
    np.testing.assert_array_equal(begin(small, X.tolist())["X"], X)


def test_mapping(small, rng):
    X = rng.normal(size=(12, 2))
    values = begin(small, {"X": X, "sigma": 0.7})
    assert values["sigma_log__"] == pytest.approx(np.log(0.7))
    np.testing.assert_array_equal(values["X"], X)


def test_fit(model, best):
    values = begin(model, best)
    np.testing.assert_array_equal(values["X"], best["posterior"]["X"][0, 0])
    assert np.exp(values["sigma_log__"]) == pytest.approx(float(best["posterior"]["sigma"][0, 0]))


def test_fit_that_held_X(model, theta):
    """A fit of θ alone has its positions in constant_data."""
    values = begin(model, theta)
    np.testing.assert_array_equal(values["X"], theta["constant_data"]["X"])
    assert np.exp(values["sigma_log__"]) == pytest.approx(float(theta["posterior"]["sigma"][0, -1]))


def test_model_whose_X_is_fixed(Y, rng):
    held = gplvm.build_model(Y, priors={"X": rng.normal(size=(12, 2))})
    assert set(begin(held, "pca")) == {"lengthscale_log__", "amplitude_log__", "sigma_log__"}


def test_bounded_parameter_takes_its_own_transform(Y):
    model = gplvm.build_model(Y, priors={"sigma": pm.Uniform.dist(0.1, 0.5)})
    value = float(begin(model, {"X": np.eye(12, 2), "sigma": 0.2})["sigma_interval__"])
    assert value == pytest.approx(np.log((0.2 - 0.1) / (0.5 - 0.2)))


def test_usual_start_keeps_to_a_prior_that_excludes_it(Y):
    model = gplvm.build_model(Y, priors={"sigma": pm.Uniform.dist(0.5, 1.0)})
    assert np.isfinite(begin(model, "pca")["sigma_interval__"])


# The forms of a start


def rms(values):
    return np.sqrt((values["X"] ** 2).mean()) / np.exp(values["lengthscale_log__"])


def test_a_way_to_place_X_is_tried_at_several_sizes(small, Y):
    made = forms(small, "pca", np.random.default_rng(0))
    assert [form.size for form, _ in made] == [0.5, 1.0, 2.0, 0.3]
    assert [form.whitened for form, _ in made] == [True, True, True, False]
    scores = PCA(2).fit_transform(Y.to_numpy())
    for form, values in made:
        assert rms(values) == pytest.approx(form.size)
        assert np.sqrt((values["X"] ** 2).mean()) == pytest.approx(1.0)
        spread = values["X"].std(axis=0)
        wanted = np.ones(2) if form.whitened else scores.std(axis=0) / scores[:, 0].std()
        np.testing.assert_allclose(spread / spread[0], wanted, rtol=1e-10)
        assert set(values) == set(begin(small, "pca"))


def test_where_the_lengthscale_is_held_X_has_the_size(Y):
    model = gplvm.build_model(Y, priors={"lengthscale": 3.0})
    for form, values in forms(model, "pca", np.random.default_rng(0)):
        assert np.sqrt((values["X"] ** 2).mean()) / 3.0 == pytest.approx(form.size)


@pytest.mark.parametrize("kernel", ["linear", "rbf + linear"])
def test_a_straight_start_leaves_to_the_noise_what_pca_leaves(kernel, Y):
    model = gplvm.build_model(Y, kernel=kernel, scale="none")
    (form, values), *others = forms(model, "pca", np.random.default_rng(0))
    assert form == Form(1.0, False, straight=True)
    assert len(others) == (0 if kernel == "linear" else 3)
    pca = PCA(2).fit(Y)
    left = np.sqrt(((Y - pca.inverse_transform(pca.transform(Y))) ** 2).to_numpy().mean())
    assert np.exp(values["sigma_log__"]) == pytest.approx(left)
    if kernel == "rbf + linear":
        weights = [np.exp(v["weight_log__"]) for _, v in ((form, values), *others)]
        np.testing.assert_allclose(weights, [1.0, 1.0, 0.1, 0.1])


def test_what_is_no_way_to_place_X_is_one_start(small, Y, rng):
    X = rng.normal(size=(12, 2))
    held = gplvm.build_model(Y, priors={"X": X})
    for model, start in ((small, X), (small, {"X": X, "sigma": 0.2}), (held, "pca")):
        ((form, values),) = forms(model, start, np.random.default_rng(0))
        assert form is None
        for name, value in begin(model, start).items():
            np.testing.assert_array_equal(values[name], value)


# Turned away


def test_all_zero_start(small):
    with pytest.raises(
        ValueError, match=r"all latent positions equal.*start from 'pca', 'isomap', 'random'"
    ):
        begin(small, np.zeros((12, 2)))


def test_all_equal_start(small):
    with pytest.raises(
        ValueError, match=r"all latent positions equal.*gradient in X is zero there"
    ):
        begin(small, np.tile([0.3, -2.0], (12, 1)))


def test_zero_start_of_fit_map(small):
    with pytest.raises(ValueError, match="all latent positions equal"):
        gplvm.fit_map(small, start={"X": np.zeros((12, 2))}, progressbar=False)


@pytest.mark.parametrize("shape", [(12, 3), (11, 2), (12,)])
def test_start_of_a_wrong_shape(shape, small, rng):
    with pytest.raises(ValueError, match=r"start must give X the shape \(12, 2\), got"):
        begin(small, rng.normal(size=shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_start_that_is_not_finite(bad, small, rng):
    X = rng.normal(size=(12, 2))
    X[3, 1] = bad
    with pytest.raises(
        ValueError, match="start must be finite, got missing or infinite values in X"
    ):
        begin(small, X)


def test_start_out_of_its_range(small):
    with pytest.raises(ValueError, match=r"start must lie inside the range of sigma, got -1\.0"):
        begin(small, {"X": np.eye(12, 2), "sigma": -1.0})


def test_unknown_word(small):
    with pytest.raises(
        ValueError, match=r"start must be one of pca, isomap, random, an array, .*got 'umap'"
    ):
        begin(small, "umap")


def test_unknown_variable(small):
    with pytest.raises(ValueError, match=r"name variables of the model \(X, .*\), got sgima"):
        begin(small, {"sgima": 1.0})


@pytest.mark.parametrize("wrong", [object(), [["a", "b"]] * 12, {1, 2}])
def test_start_of_another_kind(wrong, small):
    with pytest.raises(
        TypeError, match="start must be one of pca, isomap, random, an array, a mapping or a fit"
    ):
        begin(small, wrong)


def test_fit_of_another_table(small, best):
    with pytest.raises(ValueError, match=r"start must have the rows of the table, got none for 12"):
        begin(small, best)


def test_fit_without_a_posterior(small, best):
    bare = best.copy()
    del bare["posterior"]
    with pytest.raises(ValueError, match="start needs a fit with the group 'posterior'"):
        begin(small, bare)


# Further starts


def test_perturbed_moves_by_half_the_spread(small):
    rng = np.random.default_rng(1)
    first = begin(small, "pca")
    moved = np.array([perturbed(small, first, "pca", rng)["X"] - first["X"] for _ in range(200)])
    # 4800 numbers of standard deviation ½: five standard errors are 0.026.
    assert moved.std() == pytest.approx(0.5, abs=0.026)


def test_perturbed_random_start_is_drawn_anew(small):
    rng = np.random.default_rng(1)
    first = begin(small, "random")
    second = perturbed(small, first, "random", rng)
    assert not np.array_equal(first["X"], second["X"])
    np.testing.assert_allclose(second["X"].std(axis=0), 1.0, rtol=1e-12)
