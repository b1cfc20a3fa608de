"""Plots of the function from X to Y."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made import fit_of, made_fit

import pm_gplvm as gplvm


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def line(Y):
    model = gplvm.build_model(Y, 1)
    rng = np.random.default_rng(4)
    X = np.linspace(-1, 1, 12)[:, None] + 0.02 * rng.standard_normal((1, 20, 12, 1))
    return fit_of(model, X, lengthscale=0.5, amplitude=1.0, sigma=0.1)


def labels(ax):
    return [other.get_ylabel() for other in ax.figure.axes]


# plot_reconstruction


def test_each_cell_is_the_image_that_predict_gives_at_its_centre(best):
    ax = gplvm.plot.reconstruction(best, image_shape=(8, 8), grid=3)
    assert len(ax.images) == 9
    for picture in ax.images:
        left, right, bottom, top = picture.get_extent()
        centre = [[(left + right) / 2, (bottom + top) / 2]]
        expected = gplvm.predict(best, centre)["mean"].to_numpy().reshape(8, 8)
        np.testing.assert_allclose(picture.get_array(), expected, rtol=1e-9)
        assert picture.get_clim() == ax.images[0].get_clim()
    assert "mean of Y,\nfainter: less known" in labels(ax)
    faint = [p.get_alpha() for p in ax.images]
    assert min(faint) < max(faint)


def test_without_a_shape_curves_are_drawn(Y):
    ax = gplvm.plot.reconstruction(made_fit(Y, "rbf", draws=3), grid=4)
    curves = [line for line in ax.lines if len(line.get_xdata()) == 4]
    assert len(curves) == 16
    assert "band ± 2 sd" in ax.get_title()


def test_one_dimension_is_one_line_of_cells(line):
    ax = gplvm.plot.reconstruction(line, image_shape=(2, 2), grid=5)
    assert len(ax.images) == 5
    assert ax.get_ylabel() == ""
    ax = gplvm.plot.reconstruction(line, grid=5, ax=plt.gca())
    assert ax is plt.gca()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_shape": (8, 9)},
            r"image_shape must be \(height, width\) with height · width = 64",
        ),
        ({"grid": 1}, "grid must be a whole number of at least 2, got 1"),
        ({"dims": (0, 2)}, "two different dimensions below 2"),
    ],
)
def test_wrong_reconstructions(best, settings, message):
    with pytest.raises(ValueError, match=message):
        gplvm.plot.reconstruction(best, **settings)


# plot_magnification


def test_the_map_is_the_magnification_at_its_cells(best):
    ax = gplvm.plot.magnification(best, "label", grid=6)
    (picture,) = ax.images
    left, right, bottom, top = picture.get_extent()
    x = left + (right - left) * (2 + 0.5) / 6
    y = bottom + (top - bottom) * (4 + 0.5) / 6
    expected = gplvm.diagnostics.magnification(best, [[x, y]])["magnification"][0]
    assert picture.get_array()[4, 2] == pytest.approx(float(expected), rel=1e-9)
    assert any("√det E JᵀJ" in label for label in labels(ax))
    assert ax.get_legend() is not None


def test_draws_give_lines_of_equal_width(Y, rng):
    X = rng.standard_normal((12, 2)) + 0.1 * rng.standard_normal((1, 20, 12, 2))
    fit = fit_of(gplvm.build_model(Y), X, lengthscale=0.7, amplitude=1.0, sigma=0.1)
    ax = gplvm.plot.magnification(fit, grid=20)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    places = np.meshgrid(np.linspace(left, right, 60), np.linspace(bottom, top, 60))
    found = gplvm.diagnostics.magnification(
        fit, np.stack([p.ravel() for p in places], axis=1), num_samples=20
    )
    ratio = (found["high"] / found["low"]).to_numpy()
    texts = {float(t.get_text().removeprefix("×")) for t in ax.texts}
    assert texts
    assert all(ratio.min() < level < ratio.max() for level in texts)


def test_a_path_and_one_dimension_are_curves_with_a_band(line, Y):
    ax = gplvm.plot.magnification(line, grid=5)
    (band,) = ax.collections
    assert band.get_label() == "89 %"
    curve = ax.lines[-1]
    expected = gplvm.diagnostics.magnification(line, curve.get_xdata()[:, None], num_samples=20)[
        "magnification"
    ]
    np.testing.assert_allclose(curve.get_ydata(), expected)
    path = [[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]
    ax = gplvm.plot.magnification(made_fit(Y, "rbf"), path=path)
    assert ax.lines[0].get_xdata().tolist() == [0.0, 5.0, 6.0]
    assert not ax.collections
    with pytest.raises(ValueError, match="grid must be a whole number of at least 2"):
        gplvm.plot.magnification(line, grid=True)
