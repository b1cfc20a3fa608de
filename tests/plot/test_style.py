"""Colours on light and dark ground, and for the colour-blind."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made import fit_of, made_fit
from matplotlib.colors import to_hex, to_rgb

import pm_gplvm as gplvm
from pm_gplvm.plot.style import COLOURS, COLOURS_ON_DARK, DARK, LIGHT, Style

# Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB.
SEEN_BY = {
    "all": np.eye(3),
    "deuteranopes": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopes": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def linear(colours):
    c = np.array([to_rgb(colour) for colour in colours])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colours):
    """CIELAB of linear RGB."""
    t = colours @ XYZ.T / [0.95047, 1.0, 1.08883]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16.0 / 116.0)
    x, y, z = f.T
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=1)


def contrast(one, other):
    """Ratio of the luminances, as WCAG 2 defines it."""
    a, b = (linear([colour])[0] @ XYZ[1] + 0.05 for colour in (one, other))
    return max(a, b) / min(a, b)


@pytest.mark.parametrize("seen_by", SEEN_BY)
@pytest.mark.parametrize("colours", [COLOURS, COLOURS_ON_DARK], ids=["light", "dark"])
def test_the_cycle_can_be_told_apart(colours, seen_by):
    seen = lab(np.clip(linear(colours) @ np.transpose(SEEN_BY[seen_by]), 0.0, 1.0))
    apart = np.linalg.norm(seen[:, None] - seen, axis=2) + 1e9 * np.eye(len(seen))
    assert apart.min() > 15.0


def test_what_has_no_edge_stands_out_from_the_ground():
    assert min(contrast(colour, "black") for colour in COLOURS_ON_DARK) > 3.9
    ends = [to_hex(DARK.scale(share)) for share in np.linspace(0.0, 1.0, 20)]
    assert min(contrast(colour, "black") for colour in ends) > 3.0
    for style, ground in ((LIGHT, "white"), (DARK, "black")):
        assert contrast(style.missing, ground) > 1.9
        assert style.missing not in style.colours
        assert style.grey(0.0) == to_hex(style.ink)
        assert style.grey(1.0) == to_hex(style.paper)


@pytest.mark.parametrize(
    ("face", "figure", "label", "dark"),
    [
        ("white", "white", "black", False),
        ("black", "white", "white", True),
        ("none", "#222222", "white", True),
        ("none", "none", "white", True),
        ("none", "none", "black", False),
        ("#EAEAF2", "white", ".15", False),
    ],
)
def test_the_ground_is_read_off_the_axes(face, figure, label, dark):
    settings = {"axes.facecolor": face, "figure.facecolor": figure, "axes.labelcolor": label}
    with plt.rc_context(settings):
        _, ax = plt.subplots()
    assert Style.of(ax).is_dark == dark


@pytest.fixture(scope="module")
def fits(Y):
    rng = np.random.default_rng(2)
    model = gplvm.build_model(Y, 2, ard=True)
    X = rng.standard_normal((12, 2)) + 0.1 * rng.standard_normal((1, 20, 12, 2))
    theta = {"lengthscale": np.broadcast_to([1.0, 2.0], (1, 20, 2)), "amplitude": 1.0}
    line = gplvm.build_model(Y, 1)
    one = np.linspace(-1, 1, 12)[:, None] + 0.02 * rng.standard_normal((1, 20, 12, 1))
    return {
        "plane": fit_of(model, X, sigma=0.1, **theta),
        "line": fit_of(line, one, lengthscale=0.5, amplitude=1.0, sigma=0.1),
        "map": gplvm.fit_map(gplvm.build_model(Y), n_restarts=1, random_seed=1, progressbar=False),
        "prior": gplvm.sample_prior(gplvm.build_model(Y), draws=50, random_seed=3),
    }


P, GAPS = gplvm.plot, np.array(["a", "b", None] * 4, dtype=object)
PLOTS = {
    "latent": lambda f: P.latent(f["plane"], GAPS, grid=8),
    "latent, numbers": lambda f: P.latent(f["plane"], "column0", grid=8, time=np.arange(12)),
    "latent, one dimension": lambda f: P.latent(f["line"], "label"),
    "latent, density": lambda f: P.latent(f["plane"], background="density", grid=8),
    "reconstruction": lambda f: P.reconstruction(f["plane"], grid=3),
    "reconstruction of images": lambda f: P.reconstruction(f["plane"], grid=3, image_shape=(2, 2)),
    "magnification": lambda f: P.magnification(f["plane"], "label", grid=8),
    "magnification, one dimension": lambda f: P.magnification(f["line"], grid=8),
    "compare": lambda f: P.compare({"MAP": f["map"], "draws": f["plane"]}, GAPS),
    "prior": lambda f: P.prior(f["prior"], f["map"]),
    "optima": lambda f: P.optima(f["map"]),
    "relevance": lambda f: P.relevance(f["plane"]),
}


def axes_of(found):
    return np.atleast_1d(found).ravel()[0].figure.axes


def texts_of(ax):
    legend = ax.get_legend()
    titles = [
        ax.title,
        ax.xaxis.label,
        ax.yaxis.label,
        *ax.get_xticklabels(),
        *ax.get_yticklabels(),
    ]
    return [*titles, *([*legend.get_texts(), legend.get_title()] if legend else [])]


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_texts_and_lines_are_legible_in_every_style(plot, style, fits):
    with plt.style.context(style):
        axes = axes_of(plot(fits))
        axes[0].figure.canvas.draw()
    ground = axes[0].get_figure().get_facecolor()
    for ax in axes:
        for text in texts_of(ax):
            assert contrast(text.get_color(), ground) > 10.0, text
        for line in ax.lines:
            if line.get_linestyle() != "None" and not ax.images:
                assert contrast(line.get_color(), ax.get_facecolor()) > 1.2, line


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_nothing_is_cut_off(plot, fits):
    axes = axes_of(plot(fits))
    figure = axes[0].figure
    figure.canvas.draw()
    for ax in axes:
        box = ax.get_tightbbox()
        if box is not None and ax.axison:
            assert box.x0 >= -1.0, ax
            assert box.y0 >= -1.0, ax
            assert box.x1 <= figure.bbox.x1 + 1.0, ax
            assert box.y1 <= figure.bbox.y1 + 1.0, ax


LONG = [f"a class with a long name, the {i}th of them all" for i in range(12)]


@pytest.mark.parametrize("color", [LONG, np.arange(12.0), GAPS], ids=["names", "scale", "short"])
def test_axes_of_ones_own_make_room_without_a_layout_engine(color, fits):
    figure, ax = plt.subplots()
    P.latent(fits["plane"], color, grid=8, ax=ax)
    figure.canvas.draw()
    for part in figure.axes:
        assert part.get_tightbbox().x0 >= 0.0
        assert part.get_tightbbox().x1 <= figure.bbox.x1
    figure, axes = plt.subplots(1, 2)
    P.compare({"a": fits["map"], "b": fits["plane"]}, color, axes=axes)
    figure.canvas.draw()
    assert max(part.get_tightbbox().x1 for part in figure.axes) <= figure.bbox.x1 + 1.0
    widths = [panel.get_position().width for panel in axes]
    assert widths[0] == pytest.approx(widths[1])


def test_dark_classes_have_the_dark_cycle(Y):
    with plt.style.context("dark_background"):
        ax = P.latent(made_fit(Y, "rbf"), "label", background=False)
    found = {to_hex(colour) for colour in ax.collections[0].get_facecolor()}
    assert found == {colour.lower() for colour in COLOURS_ON_DARK[:2]}
