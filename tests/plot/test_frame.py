"""What lies within the axes, what is marked on their border, and how long a lengthscale is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from made import fit_of, made_fit
from matplotlib.collections import EllipseCollection, PathCollection

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot import latent_plot
from pm_gplvm.plot.elements import plane_of, spread_rows
from pm_gplvm.plot.frame import frame_of, limits_of


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def fit_at(X, **theta):
    """A fit with one position of each row (N, Q)."""
    table = np.random.default_rng(0).standard_normal((len(X), 3))
    model = gplvm.build_model(xr.DataArray(table, dims=("obs", "feature")), X.shape[1])
    return fit_of(
        model, X[None, None], **{"lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3} | theta
    )


def latent(fit, **options):
    return gplvm.plot.latent(fit, **{"background": False} | options)


def notes_of(ax):
    return "\n".join(text.get_text() for text in ax.texts).split("\n")


def marks_of(ax):
    """Triangles on the border."""
    return [p for p in ax.collections if isinstance(p, PathCollection) and not p.get_clip_on()]


# Limits


@pytest.fixture
def cloud(rng):
    X = rng.standard_normal((200, 2))
    X[[3, 50]] = [[60.0, 0.5], [-1.0, -80.0]]
    return X


def test_a_few_far_rows_are_marked_and_counted(cloud):
    ax = latent(fit_at(cloud))
    others = np.delete(cloud, [3, 50], axis=0)
    np.testing.assert_allclose([ax.get_xlim(), ax.get_ylim()], limits_of(others).T)
    (marks,) = marks_of(ax)
    at = marks.get_offsets()
    np.testing.assert_allclose(at, [[ax.get_xlim()[1], 0.5], [-1.0, ax.get_ylim()[0]]], rtol=1e-9)
    tips = [path.vertices[0] for path in marks.get_paths()]
    np.testing.assert_allclose(tips, [[0.75, 0.0], [0.0, -0.75]], atol=1e-12)
    assert "▸ 2 rows outside" in notes_of(ax)


def test_all_and_limits_of_ones_own(cloud):
    ax = latent(fit_at(cloud), limits="all")
    np.testing.assert_allclose([ax.get_xlim(), ax.get_ylim()], limits_of(cloud).T)
    assert not marks_of(ax)
    ax = latent(fit_at(cloud), limits=((-1.0, 2.0), (0.0, 3.0)))
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1.0, 2.0), (0.0, 3.0))
    x, y = cloud.T
    outside = int(((x < -1.0) | (x > 2.0) | (y < 0.0) | (y > 3.0)).sum())
    assert f"▸ {outside} rows outside" in notes_of(ax)


@pytest.mark.parametrize(
    "kind", ["normal", "uniform", "laplace", "clusters", "ring", "exponential"]
)
@pytest.mark.parametrize("n", [12, 40, 300, 2000])
def test_ordinary_tables_are_shown_whole(kind, n):
    rng = np.random.default_rng(n + 1)
    X = {
        "normal": lambda: rng.standard_normal((n, 2)),
        "uniform": lambda: rng.uniform(size=(n, 2)),
        "laplace": lambda: rng.laplace(size=(n, 2)),
        "clusters": lambda: (
            np.where(np.arange(n)[:, None] < n // 5, 9.0, 0.0) + rng.standard_normal((n, 2))
        ),
        "ring": lambda: np.stack([np.cos(np.arange(n)), np.sin(np.arange(n))], axis=1),
        "exponential": lambda: rng.exponential(size=(n, 2)),
    }[kind]()
    limits, far = frame_of(X, "robust")
    assert not far.any()
    np.testing.assert_array_equal(limits, limits_of(X))


def test_rows_in_one_place_and_few_rows_are_shown_whole():
    assert not frame_of(np.zeros((50, 2)), "robust")[1].any()
    assert not frame_of(np.array([[0.0], [0.1], [99.0]]), "robust")[1].any()


def test_one_dimension(rng):
    X = rng.standard_normal((50, 1))
    X[7] = 90.0
    ax = latent(fit_at(X))
    assert ax.get_xlim()[1] < 10.0
    (marks,) = marks_of(ax)
    np.testing.assert_allclose(marks.get_offsets(), [[ax.get_xlim()[1], 7.0]])
    ax = latent(fit_at(X), time=np.arange(50), limits=(-3.0, 3.0))
    assert ax.get_ylim() == (-3.0, 3.0)


@pytest.mark.parametrize("plot", ["latent", "magnification", "reconstruction", "explore"])
def test_the_same_in_all_plots_of_the_plane(cloud, plot):
    found = getattr(gplvm.plot, plot)(fit_at(cloud), grid=4)
    if plot == "explore":
        assert found.about["outside"] == 2
        assert np.abs(found.about["limits"]).max() < 10.0
    else:
        assert max(np.abs(found.get_xlim()).max(), np.abs(found.get_ylim()).max()) < 10.0
    with pytest.raises(ValueError, match=r"^limits must be 'robust' or 'all', or \(\(left"):
        getattr(gplvm.plot, plot)(fit_at(cloud), limits="none")


@pytest.mark.parametrize(
    "limits",
    [
        "none",
        3,
        (0, 1),
        ((0, 1), (2, 1)),
        ((0, np.nan), (0, 1)),
        ((0, 1),) * 3,
        {"x": 1},
        None,
        "ab",
    ],
)
def test_limits_that_are_none(best, limits):
    with pytest.raises(ValueError, match=r"^limits must be 'robust' or 'all'.*, got"):
        latent(best, limits=limits)
    with pytest.raises(ValueError, match=r"^limits must be 'robust' or 'all'.*, got"):
        gplvm.plot.compare({"a": best}, limits=limits)
    assert not plt.get_fignums()


# Lengthscales


def bars_of(ax):
    """Lengths of the bars across and upwards, in units of the axes' numbers."""
    (line,) = [line for line in ax.lines if line.get_label() == "_lengthscale"]
    (x0, y0), (x1, y1), (x2, y2) = line.get_xydata()
    assert (y0, x1) == (y1, x2)
    lengths = np.ptp([ax.get_xlim(), ax.get_ylim()], axis=1)
    return np.abs([x1 - x0, y2 - y1]) * lengths


def test_the_bar_is_as_long_as_a_lengthscale(rng):
    ax = latent(fit_at(rng.standard_normal((40, 2)), lengthscale=0.8))
    np.testing.assert_allclose(bars_of(ax), 0.8)
    assert notes_of(ax) == ["1 lengthscale"]


@pytest.mark.parametrize(
    ("lengthscale", "told", "multiples"),
    [
        ([0.5, 1.0], "1 lengthscale", [1.0, 1.0]),
        ([4.0, 5.0], "0.2 lengthscales", [0.2, 0.2]),
        ([0.02, 0.02], "50 lengthscales", [50.0, 50.0]),
        ([1.0, 400.0], "1 lengthscales across, 0.002 upwards", [1.0, 0.002]),
    ],
)
def test_each_dimension_has_its_own(rng, lengthscale, told, multiples):
    X = rng.uniform(-2.0, 2.0, (40, 2))
    X[:2] = [[-2.0, -2.0], [2.0, 2.0]]
    table = xr.DataArray(rng.standard_normal((40, 3)), dims=("obs", "feature"))
    fit = fit_of(
        gplvm.build_model(table, ard=True),
        X[None, None],
        lengthscale=np.reshape(lengthscale, (1, 1, 2)),
        amplitude=1.0,
        sigma=0.3,
    )
    ax = latent(fit, dims=(0, 1))
    assert notes_of(ax) == [told]
    np.testing.assert_allclose(bars_of(ax), np.multiply(lengthscale, multiples))


def test_it_can_be_left_out_and_there_may_be_none(Y, best):
    assert not latent(best, scale_bar=False).texts
    assert not latent(made_fit(Y, "linear")).texts
    assert len(latent(made_fit(Y, "rbf + linear")).texts) == 1


def test_one_dimension_has_one_bar(rng):
    fit = fit_at(np.linspace(-3.0, 3.0, 30)[:, None])
    np.testing.assert_allclose(bars_of(latent(fit)), [1.0, 0.0])
    np.testing.assert_allclose(bars_of(latent(fit, time=np.arange(30))), [0.0, 1.0])


# How sure a position is


def test_a_variational_fit_has_the_ellipses_of_q(model):
    fit = gplvm.fit_variational(model, n_inducing=10, draws=1, random_seed=1, progressbar=False)
    q = fit["approximation"]
    (ellipses,) = [
        c for c in latent(fit, dims=(0, 1)).collections if isinstance(c, EllipseCollection)
    ]
    np.testing.assert_allclose(ellipses.get_offsets(), q["X_mean"])
    radius = np.sqrt(-2.0 * np.log(0.32))
    found = np.sort([ellipses.get_widths(), ellipses.get_heights()], axis=0).T
    np.testing.assert_allclose(found, 2.0 * radius * np.sort(q["X_sd"], axis=1))
    np.testing.assert_array_equal(plane_of(Fit(fit), (0, 1)).X, q["X_mean"])


def test_one_position_a_row_has_none(best):
    assert not plane_of(Fit(best), None).varies
    assert not [c for c in latent(best).collections if isinstance(c, EllipseCollection)]


# Many rows


def test_rows_are_chosen_from_everywhere(rng):
    X = np.concatenate([0.01 * rng.standard_normal((5000, 2)), rng.uniform(-1, 1, (60, 2))])
    chosen = spread_rows(X, 200)
    assert len(chosen) == len(np.unique(chosen)) == 200
    assert set(range(5000, 5060)) <= set(chosen)
    assert spread_rows(X, 6000).tolist() == list(range(5060))
    assert len(spread_rows(np.zeros((100, 2)), 10)) == 10


@pytest.mark.parametrize("background", ["uncertainty", "density"])
def test_a_background_of_some_rows_says_so_and_claims_no_more(Y, monkeypatch, background):
    fit = made_fit(Y, "rbf", draws=20)
    kind = {"background": background, "grid": 12}
    whole = latent(fit, **kind).images[0].get_array()
    monkeypatch.setattr(latent_plot, "_MOST_ROWS", 8)
    monkeypatch.setattr(latent_plot, "_FEW_ROWS", 6)
    ax = latent(fit, **kind)
    assert any("6 of 12 rows" in other.get_ylabel() for other in ax.figure.axes)
    if background == "uncertainty":
        some = ax.images[0].get_array()
        assert (some >= whole - 1e-12).all()
        assert (some > whole + 1e-3).any()


def test_a_hundred_thousand_rows(rng):
    """Seconds of CPU, drawing and savefig at dpi 150: 1.0 to 1.4, 1.8 the first time (sparse and variational fits too)."""
    n = 100_000
    X = rng.standard_normal((1, 1, n, 2))
    coords = {
        "feature": ["GAPDH", "CD19"],
        "label": ("obs", np.array(["a", "b", "c"])[np.arange(n) % 3]),
    }
    table = xr.DataArray(rng.standard_normal((n, 2)), dims=("obs", "feature"), coords=coords)
    fit = fit_of(gplvm.build_model(table), X, lengthscale=1.0, amplitude=1.0, sigma=0.3)
    for color in ("label", "GAPDH"):
        ax = gplvm.plot.latent(fit, color)
        (points,) = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_clip_on()]
        assert len(points.get_offsets()) == n
        assert points.get_rasterized()
        assert points.get_linewidths().max() == 0.0
        assert points.get_sizes().max() < 3.0
        assert ax.images
        assert any("600 of 100000 rows" in other.get_ylabel() for other in ax.figure.axes)
        ax.figure.canvas.draw()


def test_of_many_rows_some_have_ellipses(rng):
    n = 1500
    X = rng.standard_normal((n, 2)) + 0.1 * rng.standard_normal((1, 20, n, 2))
    table = xr.DataArray(rng.standard_normal((n, 2)), dims=("obs", "feature"))
    fit = fit_of(gplvm.build_model(table), X, lengthscale=1.0, amplitude=1.0, sigma=0.3)
    ax = latent(fit)
    (ellipses,) = [c for c in ax.collections if isinstance(c, EllipseCollection)]
    assert len(ellipses.get_offsets()) == 150
    assert "ellipses of 150 rows" in notes_of(ax)
