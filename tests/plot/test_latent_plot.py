"""The latent plot: what stands on the axes, and what is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made import made_fit, rows_drawn
from matplotlib.collections import EllipseCollection, LineCollection, PathCollection
from scipy.stats import norm

import pm_gplvm as gplvm


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def of_kind(ax, kind):
    return [artist for artist in ax.collections if isinstance(artist, kind)]


def test_every_row_is_a_point_and_every_class_a_colour_and_a_shape(best, digits):
    ax = gplvm.plot.latent(best, color="label")
    points = of_kind(ax, PathCollection)
    X = best.posterior["X"].to_numpy()[0, 0]
    (drawn,) = points
    assert sorted(rows_drawn(drawn, X)) == list(range(30))
    classes = np.unique(digits["label"])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == classes.tolist()
    looks = {
        (tuple(colour), path.vertices.tobytes())
        for colour, path in zip(drawn.get_facecolor(), drawn.get_paths(), strict=True)
    }
    assert len(looks) == len(classes)


def test_the_background_is_the_uncertainty_and_says_so(best):
    ax = gplvm.plot.latent(best, grid=20)
    (picture,) = ax.images
    shades = picture.get_array()
    assert shades.shape == (20, 20)
    assert 0.0 <= shades.min() < shades.max() <= 1.0 + 1e-9
    assert "sd of the function,\nshare of the prior's" in [a.get_ylabel() for a in ax.figure.axes]
    assert not gplvm.plot.latent(best, background=False).images


def test_draws_of_X_get_ellipses_of_their_covariance(Y):
    fit = made_fit(Y, "rbf", draws=500)
    ax = gplvm.plot.latent(fit, background=False)
    (ellipses,) = of_kind(ax, EllipseCollection)
    # The draws are standard normal: radius 1.51 holds 68 % of them, the axes are twice that.
    np.testing.assert_allclose(ellipses.get_widths(), 2 * 1.51, rtol=0.15)
    np.testing.assert_allclose(ellipses.get_heights(), 2 * 1.51, rtol=0.15)
    assert not of_kind(gplvm.plot.latent(fit, background=False, spread=False), EllipseCollection)


def test_a_fit_with_X_held_has_no_ellipses(theta):
    assert not of_kind(gplvm.plot.latent(theta, grid=10), EllipseCollection)


def test_numbers_get_a_scale_and_whole_numbers_classes(best):
    ax = gplvm.plot.latent(best, color=np.linspace(0.0, 1.0, 30), background=False)
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2
    ax = gplvm.plot.latent(best, color=np.arange(30) % 3, background=False)
    assert len(ax.get_legend().get_texts()) == 3


def test_one_latent_dimension_is_drawn_row_by_row(Y):
    best = gplvm.fit_map(gplvm.build_model(Y, latent_dim=1), progressbar=False)
    ax = gplvm.plot.latent(best, color="label")
    assert ax.get_ylabel() == "row"
    assert len(of_kind(ax, PathCollection)) == 1
    assert not of_kind(ax, LineCollection)


def test_more_than_two_dimensions_are_drawn_in_pairs(Y):
    best = gplvm.fit_map(gplvm.build_model(Y, latent_dim=3), progressbar=False)
    ax = gplvm.plot.latent(best, dims=(2, 0), grid=10)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 2", "latent 0")
    with pytest.raises(ValueError, match="two different dimensions below 3"):
        gplvm.plot.latent(best, dims=(0, 3))


def test_given_axes_are_used(best):
    _, ax = plt.subplots()
    assert gplvm.plot.latent(best, ax=ax, background=False) is ax


@pytest.mark.parametrize(
    ("color", "message"),
    [
        ([1, 2, 3], r"one value a row, 30, got shape \(3,\)"),
        ("stage", "color must name a coordinate"),
    ],
)
def test_wrong_colours_are_refused(best, color, message):
    with pytest.raises(ValueError, match=message):
        gplvm.plot.latent(best, color=color, background=False)


def test_a_fit_without_X_is_refused(best):
    bare = best.copy()
    bare["posterior"] = best["posterior"].to_dataset().drop_vars("X")
    with pytest.raises(ValueError, match=r"plot\.latent needs the variable 'X'"):
        gplvm.plot.latent(bare)


def test_time_joins_rows_in_its_order_and_is_the_axis_of_one_dimension(best, Y, rng):
    time = rng.permutation(30)
    ax = gplvm.plot.latent(best, time=time, background=False)
    X = best.posterior["X"].to_numpy()[0, 0]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), X[np.argsort(time)])
    line = gplvm.fit_map(gplvm.build_model(Y, latent_dim=1), progressbar=False)
    ax = gplvm.plot.latent(line, time=np.arange(12)[::-1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "latent 0")
    (points,) = of_kind(ax, PathCollection)
    X = line.posterior["X"].to_numpy()[0, 0, :, 0]
    assert len(rows_drawn(points, np.column_stack([np.arange(12.0)[::-1], X]))) == 12


def test_the_density_of_places_as_a_background(Y):
    fit = made_fit(Y, "rbf", draws=200)
    ax = gplvm.plot.latent(fit, background="density", grid=40)
    shades = ax.images[0].get_array()
    left, right, bottom, top = ax.images[0].get_extent()
    # Every row is standard normal: inside the picture lies what SciPy says, up to chance.
    inside = np.prod([norm.cdf(b) - norm.cdf(a) for a, b in ((left, right), (bottom, top))])
    area = (right - left) * (top - bottom) / shades.size
    assert shades.sum() * area == pytest.approx(inside, rel=0.1)
    assert "density of a row's place" in [a.get_ylabel() for a in ax.figure.axes]


def test_every_pair_of_dimensions(Y):
    best = gplvm.fit_map(gplvm.build_model(Y, latent_dim=3), progressbar=False)
    axes = gplvm.plot.latent(best, "label", dims="pairs", grid=10)
    assert axes.shape == (2, 2)
    X = best.posterior["X"].to_numpy()[0, 0]
    for i, j in ((0, 0), (1, 0), (1, 1)):
        drawn = np.vstack([part.get_offsets() for part in of_kind(axes[i, j], PathCollection)])
        np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(X[:, [j, i + 1]], axis=0))
    assert not axes[0, 1].axison
    assert len(axes[0, 1].get_legend().get_texts()) == 2
    assert (axes[1, 0].get_xlabel(), axes[1, 0].get_ylabel()) == ("latent 0", "latent 2")
    with pytest.raises(ValueError, match=r"ax must be an array \(2, 2\) of axes"):
        gplvm.plot.latent(best, dims="pairs", ax=axes[0])


def test_a_covariance_of_ones_own_has_no_background(best):
    own = best.copy()
    own.attrs = {**best.attrs, "kernel": "custom"}
    assert not gplvm.plot.latent(own).images
    with pytest.raises(ValueError, match="knows the kernels rbf"):
        gplvm.plot.latent(own, background="uncertainty")
