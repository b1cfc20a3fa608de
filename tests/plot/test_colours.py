"""What colours and shapes say of the rows: which classes in which order, which scale, which legend."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from made import fit_of, made_fit, rows_drawn
from matplotlib.collections import PathCollection
from matplotlib.dates import date2num
from matplotlib.markers import MarkerStyle

import pm_gplvm as gplvm
from pm_gplvm.data.fit import Fit
from pm_gplvm.plot.colours import SHAPES, Key, key_of, shortened
from pm_gplvm.plot.style import COLOURS, DARK, LIGHT


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fit(Y):
    """A fit of 12 rows, row0 to row11."""
    return made_fit(Y, "rbf")


def latent(fit, color=None, **options):
    return gplvm.plot.latent(fit, color, background=False, **options)


def points_of(ax):
    return [part for part in ax.collections if isinstance(part, PathCollection)]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bars_of(ax):
    return [other for other in ax.figure.axes if other is not ax]


ORDERED = pd.Categorical(["low", "high", "mid"] * 4, ["low", "mid", "high", "none"], ordered=True)
CLASSES = {
    "ordered": (ORDERED, ["low", "mid", "high"], 0),
    "ordered, of a Series": (pd.Series(ORDERED), ["low", "mid", "high"], 0),
    "numbers within text": ([f"day {i}" for i in (1, 2, 10, 20)] * 3, ["day 1", "day 2", "day 10", "day 20"], 0),
    "numbers as text": (["-3", "10", "2", "1.5"] * 3, ["-3", "1.5", "2", "10"], 0),
    "whole numbers": (np.arange(12) % 3, ["0", "1", "2"], 0),
    "bools": (np.arange(12) % 2 == 0, ["False", "True"], 0),
    "one": (["all"] * 12, ["all"], 0),
    "underscores": (["_a", "b"] * 6, ["_a", "b"], 0),
    "missing text": (["a", None, "b"] * 4, ["a", "b"], 4),
    "NaN in text of NumPy": (np.array(["a", np.nan, "b"] * 4), ["a", "b"], 4),
    "NaN among objects": (np.array(["a", np.nan, ""] * 4, dtype=object), ["a"], 8),
    "missing category": (pd.Categorical(["b", None, "a"] * 4), ["a", "b"], 4),
    "missing whole numbers": (pd.array([1, None, 2] * 4, dtype="Int64"), ["1", "2"], 4),
    "masked": (np.ma.masked_array([1, 2, 3] * 4, [False, True, False] * 4), ["1", "3"], 4),
    "all missing": (np.full(12, np.nan), [], 12),
    "mixed": ([2, "b", "1", 1.5, None, "a"] * 2, ["1.5", "2", "1", "a", "b"], 2),
    "alike as text": ([1, "1", "a"] * 4, ["1", "'1'", "'a'"], 0),
}  # fmt: skip


@pytest.mark.parametrize(("color", "names", "missing"), CLASSES.values(), ids=CLASSES)
def test_classes(fit, color, names, missing):
    ax = latent(fit, color)
    assert legend_of(ax) == names + ["missing"] * (missing > 0)
    assert not bars_of(ax)
    X = fit.posterior["X"].to_numpy()[0, 0]
    known = key_of(Fit(fit), color, 12)
    grey, *classes = points_of(ax) if missing else [None, *points_of(ax)]
    if missing:
        assert sorted(rows_drawn(grey, X)) == np.flatnonzero(known.codes < 0).tolist()
        assert plt.matplotlib.colors.to_hex(grey.get_facecolor()[0]) == LIGHT.missing
    marks = ax.get_legend().legend_handles
    if not names:
        return
    (points,) = classes
    rows = rows_drawn(points, X)
    assert sorted(rows) == np.flatnonzero(known.codes >= 0).tolist()
    for row, colour, outline in zip(rows, points.get_facecolor(), points.get_paths(), strict=True):
        i = known.codes[row]
        assert plt.matplotlib.colors.to_hex(colour) == COLOURS[i].lower()
        assert marks[i].get_color() == COLOURS[i]
        assert marks[i].get_marker() == SHAPES[i]
        marker = MarkerStyle(SHAPES[i])
        shape = marker.get_path().transformed(marker.get_transform())
        np.testing.assert_array_equal(outline.vertices, shape.vertices)


def test_formulas_in_names_are_shown_as_they_are(fit):
    ax = latent(fit, ["$5", "$x$"] * 6)
    ax.figure.canvas.draw()
    assert legend_of(ax) == [r"\$5", r"\$x\$"]


def test_many_classes_differ_in_colour_or_shape_and_the_legend_says_so(fit, best):
    key = Key("", np.arange(100), tuple(map(str, range(100))))
    assert len({key.look(i) for i in range(100)}) == 100
    assert len({key.look(i, DARK.colours) for i in range(40)}) == 40
    ax = latent(best, [f"plate {i}" for i in range(30)])
    title = ax.get_legend().get_title().get_text()
    assert title == "30 classes: colours\nrepeat with other shapes"
    assert legend_of(ax) == [f"plate {i}" for i in range(30)]
    assert ax.get_legend()._ncols == 2


def test_a_legend_names_forty_classes_at_most():
    key = Key("", np.arange(57), tuple(map(str, range(57))))
    assert [name for _, name in key.listed] == [str(i) for i in range(39)]
    assert key.unlisted == "… and 18 more"
    assert Key("", np.arange(40), tuple(map(str, range(40)))).unlisted == ""


def test_long_names_are_shortened_as_long_as_they_differ():
    long = "the first of two names that are very long indeed"
    assert shortened(["a", long]) == ["a", "the first of two n…ong indeed"]
    ends = [f"{'x' * 40} {i} of them all, from first to last" for i in range(12)]
    assert shortened(ends) == [f"…{i}…" for i in range(12)]
    assert shortened(["a\n b"]) == ["a b"]
    within = ["y" * 30 + str(i) + "z" * 30 for i in range(3)]
    assert len(set(shortened(within))) == 3


def test_the_figure_is_wider_by_the_legend(fit):
    short, long = (
        latent(fit, [name + end for end in "ab"] * 6).figure.get_size_inches()[0]
        for name in ("", "quite a long name, ")
    )
    assert short == 6.0
    assert long > 6.5


# Scales

MONTHS = {"2024", *pd.date_range("2024-01-01", periods=12, freq="MS").strftime("%b")}


def test_dates_have_a_scale_with_dates(fit):
    at = pd.date_range("2024-01-15", periods=12, freq="30D")
    color = pd.Series(at, name="sampled").where(np.arange(12) != 3)
    ax = latent(fit, color)
    ((grey, scale), (bar,)) = points_of(ax), bars_of(ax)
    assert len(grey.get_offsets()) == 1
    days = (at - at[0]).days.to_numpy()
    rows, first = rows_drawn(scale, fit.posterior["X"].to_numpy()[0, 0]), date2num(at[0])
    assert sorted(rows) == [i for i in range(12) if i != 3]
    np.testing.assert_allclose(np.asarray(scale.get_array()) - first, days[rows])
    ax.figure.canvas.draw()
    texts = [text.get_text() for text in bar.get_yticklabels()]
    assert len(texts) > 3
    assert set(texts) <= MONTHS
    assert bar.get_ylabel() == "sampled\ngrey: missing"


@pytest.mark.parametrize(
    ("step", "values", "unit"),
    [(np.timedelta64(12, "h"), 0.5, "days"), (np.timedelta64(90, "s"), 1.5, "minutes")],
)
def test_durations_are_in_units_that_fit(fit, step, values, unit):
    ax = latent(fit, np.arange(12) * step)
    (points,) = points_of(ax)
    rows = rows_drawn(points, fit.posterior["X"].to_numpy()[0, 0])
    np.testing.assert_allclose(points.get_array(), rows * values)
    assert bars_of(ax)[0].get_ylabel() == unit


def test_numbers_have_a_scale_and_rows_without_one_are_grey(best):
    color = np.arange(30.0)
    color[[4, 9]] = np.nan, np.inf
    ax = latent(best, color)
    grey, scale = points_of(ax)
    X = best.posterior["X"].to_numpy()[0, 0]
    np.testing.assert_array_equal(grey.get_offsets(), X[[4, 9]])
    rows = rows_drawn(scale, X)
    np.testing.assert_array_equal(scale.get_array(), rows)
    assert sorted(rows) == [i for i in range(30) if i not in (4, 9)]
    assert bars_of(ax)[0].get_ylabel() == "grey: missing"


def test_more_than_twenty_whole_numbers_are_a_scale(best):
    key = key_of(Fit(best), np.arange(30), 30)
    np.testing.assert_array_equal(key.values, np.arange(30.0))
    assert key_of(Fit(best), np.arange(30) % 20, 30).values is None
    objects = np.array([1.5, None, 2] * 10, dtype=object)
    np.testing.assert_array_equal(key_of(Fit(best), objects, 30).values, [1.5, np.nan, 2.0] * 10)


# Rows


@pytest.mark.parametrize(
    "shuffled",
    [
        lambda values, names: pd.Series(values, index=names)[::-1],
        lambda values, names: pd.Series(values, index=names).to_frame()[::-1],
        lambda values, names: xr.DataArray(values, dims="obs", coords={"obs": names})[::-1],
    ],
    ids=["Series", "DataFrame", "DataArray"],
)
def test_values_are_joined_to_the_rows_by_label(fit, Y, shuffled):
    values = np.linspace(0.0, 1.0, 12)
    color = shuffled(values, Y["obs"].to_numpy())
    (scale,) = points_of(latent(fit, color))
    X = fit.posterior["X"].to_numpy()[0, 0]
    np.testing.assert_array_equal(scale.get_array(), values[rows_drawn(scale, X)])
    ax = latent(fit, time=shuffled(np.arange(12.0), Y["obs"].to_numpy()))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), X)


def test_rows_that_are_missing_are_named(fit, Y):
    color = pd.Series(np.arange(12.0), index=Y["obs"].to_numpy())[2:]
    with pytest.raises(
        ValueError, match=r"color must have the rows of .*, got none for 2 of 12: row0, row1"
    ):
        latent(fit, color)


@pytest.mark.parametrize(
    ("color", "found"),
    [
        ([1, 2], r"shape \(2,\)"),
        (3, "int"),
        ({"a": 1}, "dict"),
        ([[1], [2, 3]], "list"),
        (np.zeros((12, 2)), r"shape \(12, 2\)"),
        (np.zeros(4), r"shape \(4,\)\. That is one a feature"),
    ],
)
def test_values_of_another_shape(fit, color, found):
    with pytest.raises(ValueError, match=rf"color must have one value a row, 12, got {found}"):
        latent(fit, color)


# Other plots


def test_the_same_in_all_plots(fit, Y):
    color = np.array(["_a", "b", None] * 4, dtype=object)
    wanted = ["_a", "b", "missing"]
    axes = gplvm.plot.compare({"one": fit, "two": fit}, color)
    assert legend_of(axes[1]) == wanted
    assert legend_of(gplvm.plot.magnification(fit, color, grid=5)) == wanted
    three = gplvm.fit_map(gplvm.build_model(Y, 3), progressbar=False)
    assert legend_of(latent(three, color, dims="pairs")[0, 1]) == wanted


@pytest.mark.parametrize("n", [1, 2])
def test_dates_as_time(Y, n):
    best = gplvm.fit_map(gplvm.build_model(Y, n), progressbar=False)
    at = pd.date_range("2024-01-15", periods=12, freq="30D")[::-1]
    ax = latent(best, time=at)
    X = best.posterior["X"].to_numpy()[0, 0]
    if n == 2:
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), X[::-1])
    else:
        ax.figure.canvas.draw()
        texts = {text.get_text() for text in ax.get_xticklabels()}
        assert len(texts) > 3
        assert texts <= MONTHS


@pytest.mark.parametrize(
    ("time", "kind", "message"),
    [
        (np.full(12, np.nan), ValueError, "time must be known in every row, got 12 missing"),
        (["a"] * 12, TypeError, "time must hold numbers"),
        ([1.0], ValueError, r"time must have one value a row, 12, got shape \(1,\)"),
    ],
)
def test_times_that_are_none(fit, time, kind, message):
    with pytest.raises(kind, match=message):
        latent(fit, time=time)


LATENT, MAP = gplvm.plot.latent, gplvm.plot.magnification
RECONSTRUCTION, EXPLORE = gplvm.plot.reconstruction, gplvm.plot.explore
REFUSED = [
    *((plot, {"grid": n}, ValueError, "grid must be a whole number") for plot in (LATENT, MAP, RECONSTRUCTION, EXPLORE) for n in (0, 1.5)),
    *((plot, {"dims": d}, ValueError, "dims must be two different dimensions below 2") for plot in (LATENT, MAP, RECONSTRUCTION) for d in (3, (0, 0.5), (True, False))),
    *((plot, {"ax": 3}, TypeError, "ax must be axes of Matplotlib.*, got int") for plot in (LATENT, MAP, RECONSTRUCTION, gplvm.plot.relevance)),
    *((RECONSTRUCTION, {"image_shape": s}, ValueError, "image_shape must be") for s in (3, "ab", (2.5, 2), (-2, -2))),
    (LATENT, {"background": [1]}, ValueError, "background must be 'uncertainty'"),
    (gplvm.plot.optima, {"axes": [1, 2]}, TypeError, "axes must be axes of Matplotlib"),
]  # fmt: skip


@pytest.mark.parametrize(("plot", "arguments", "kind", "message"), REFUSED)
def test_arguments_out_of_range(fit, plot, arguments, kind, message):
    with pytest.raises(kind, match=message):
        plot(fit, **arguments)
    assert not plt.get_fignums()


def test_a_page_shows_missing_rows_and_dates(fit, tmp_path):
    import json
    import re

    def about(color):
        path = gplvm.plot.explore(fit, color, path=tmp_path / "p.html", grid=8, overwrite=True)
        return json.loads(re.search(r"const about = (.*);", path.read_text(encoding="utf-8"))[1])

    page = about(np.array(["_a", "b", None] * 4, dtype=object))
    assert [entry["name"] for entry in page["legend"]] == ["_a", "b", "missing"]
    assert page["values"][:3] == ["_a", "b", "missing"]
    assert page["colours"][:3] == [0, 1, 2]
    assert page["palettes"]["light"] == [COLOURS[0], COLOURS[1], LIGHT.missing]
    assert page["palettes"]["dark"] == [*DARK.colours[:2], DARK.missing]
    at = pd.Series(pd.date_range("2024-01-15", periods=12)).where(np.arange(12) != 1)
    page = about(at)
    assert page["scale"]["ends"] == ["2024-01-15", "2024-01-26"]
    assert page["values"][:3] == ["2024-01-15", "missing", "2024-01-17"]
    assert page["palettes"]["light"][page["colours"][1]] == LIGHT.missing


# Columns of the table


@pytest.fixture(scope="module")
def genes(Y):
    """A fit with a hole in a column, and a column and a coordinate of one name."""
    table = Y.assign_coords(
        feature=["GAPDH", "ACTB", "gene3", "CD19"], ACTB=("obs", np.arange(12) % 2)
    )
    holes = table.copy()
    holes[:2, 0] = np.nan
    model = gplvm.build_model(holes, missing="mask")
    X = np.random.default_rng(1).standard_normal((1, 1, 12, 2))
    return fit_of(model, X, lengthscale=0.8, amplitude=1.2, sigma=0.3)


def test_a_column_is_a_scale_in_its_units_and_its_holes_are_missing(genes, Y):
    ax = latent(genes, "GAPDH")
    grey, scale = points_of(ax)
    X = genes.posterior["X"].to_numpy()[0, 0]
    assert sorted(rows_drawn(grey, X)) == [0, 1]
    np.testing.assert_allclose(scale.get_array(), Y.to_numpy()[rows_drawn(scale, X), 0])
    assert bars_of(ax)[0].get_ylabel() == "GAPDH\ngrey: missing"
    page = gplvm.plot.explore(genes, "GAPDH", grid=5).about
    assert page["color"] == "GAPDH"
    assert page["values"][:2] == ["missing", "missing"]
    np.testing.assert_allclose(page["scale"]["low"], Y.to_numpy()[2:, 0].min())


def test_a_coordinate_comes_before_a_column_of_its_name(genes, Y):
    assert legend_of(latent(genes, "label")) == ["left", "right"]
    assert legend_of(latent(genes, "ACTB")) == ["0", "1"]


def test_a_column_as_time(genes, Y):
    ax = latent(genes, time="CD19")
    X = genes.posterior["X"].to_numpy()[0, 0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), X[np.argsort(Y.to_numpy()[:, 3])])
    with pytest.raises(ValueError, match="time must be known in every row, got 2 missing"):
        latent(genes, time="GAPDH")


PLOTS = {
    "latent": gplvm.plot.latent,
    "magnification": gplvm.plot.magnification,
    "explore": gplvm.plot.explore,
    "compare": lambda fit, color: gplvm.plot.compare({"a": fit}, color),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_an_unknown_name_is_told_with_what_is_like_it(plot, genes):
    with pytest.raises(
        ValueError,
        match=r"color must name a coordinate along the rows or a column of the table, got 'gapdh'\. "
        r"coordinates: obs, label, ACTB; columns: GAPDH, ACTB, gene3, CD19",
    ):
        plot(genes, "gapdh")


def test_of_many_columns_the_closest_are_named(best):
    with pytest.raises(ValueError, match=r"columns: (\w+, )*pixel_3_4(, \w+)* \(of 64\)\. Or"):
        latent(best, "Pixel_34")
    with pytest.raises(ValueError, match=r"columns: none alike \(of 64\)"):
        latent(best, "GAPDH")
    with pytest.raises(ValueError, match="color must name a coordinate"):
        latent(best, "feature")  # a coordinate, but not of the rows


# Order


def seen(fit, names):
    """Pixels of each of the first two colours, where points lie over each other."""
    fig, ax = plt.subplots(figsize=(3, 3), dpi=400)
    latent(fit, names, ax=ax, scale_bar=False, limits=((-0.2, 0.2), (-0.2, 0.2)))
    ax.get_legend().remove()
    fig.canvas.draw()
    picture = np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(float)
    wanted = [np.array(plt.matplotlib.colors.to_rgb(c)) * 255 for c in COLOURS[:2]]
    apart = np.stack([np.abs(picture - colour).sum(axis=-1) for colour in wanted])
    drawn = np.abs(picture - 255.0).sum(axis=-1) > 150.0
    return [int(((apart.argmin(axis=0) == i) & drawn).sum()) for i in range(2)]


def test_no_class_hides_another():
    """Two classes in one place, each alone covering it: each shows in about half of what both cover."""
    rng = np.random.default_rng(5)
    n = 6000  # without edges
    X = 0.12 * rng.standard_normal((1, 1, n, 2))
    table = xr.DataArray(rng.standard_normal((n, 2)), dims=("obs", "feature"))
    fit = fit_of(gplvm.build_model(table), X, lengthscale=1.0, amplitude=1.0, sigma=0.3)
    for names in (np.array(["a", "b"]).repeat(n // 2), np.array(["b", "a"]).repeat(n // 2)):
        first, second = seen(fit, names)
        assert first + second > 20_000
        assert 0.4 < first / (first + second) < 0.6


def test_the_picture_is_the_same_each_time(fit):
    first, second = (latent(fit, ["a", "b"] * 6) for _ in range(2))
    for ax in (first, second):
        ax.figure.canvas.draw()
    pictures = [np.asarray(ax.figure.canvas.buffer_rgba()) for ax in (first, second)]
    np.testing.assert_array_equal(*pictures)
