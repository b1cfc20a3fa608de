"""The explorer: what it holds, and, in a browser, that one can move about in it and read it."""

import base64
import json
import re
import sys

import numpy as np
import pytest
import xarray as xr
from made import fit_of, made_fit
from scipy.interpolate import RegularGridInterpolator

import pm_gplvm as gplvm
from pm_gplvm.plot import explorer


@pytest.fixture(scope="module")
def page(best, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "digits.html"
    return gplvm.plot.explore(best, "label", path=path, image_shape=(8, 8), grid=30)


def held(page):
    """The labels and numbers that a page holds."""
    text = page.read_text(encoding="utf-8")
    about = json.loads(re.search(r"^const about = (.*);$", text, re.MULTILINE)[1])
    encoded = json.loads(re.search(r"^const encoded = (.*);$", text, re.MULTILINE)[1])
    numbers = {n: np.frombuffer(base64.b64decode(v), "<f4") for n, v in encoded.items()}
    return about, numbers


def decoded(about, numbers, place):
    """The mean and sd of the row at a place: bilinear between cell centres, by SciPy."""
    n = about["grid"]
    low, high = np.array(about["limits"])
    x, y = (low[i] + (np.arange(n) + 0.5) / n * (high[i] - low[i]) for i in range(2))
    found = []
    for name in ("mean", "sd"):
        table = numbers[name].reshape(n, n, -1)
        found.append(RegularGridInterpolator((y, x), table)(place[::-1])[0])
    return found


# What it holds


def test_the_numbers_are_those_of_predict(page, best, digits):
    about, numbers = held(page)
    n, (low, high) = about["grid"], np.array(about["limits"])
    cell = [7, 21]  # across, up
    place = low + (np.array(cell) + 0.5) / n * (high - low)
    row = gplvm.predict(best, place[None], num_samples=20)
    at = cell[1] * n + cell[0]
    for name in ("mean", "sd"):
        np.testing.assert_allclose(numbers[name].reshape(n * n, 64)[at], row[name][0], rtol=1e-5)
    np.testing.assert_allclose(numbers["table"].reshape(30, 64), digits, rtol=1e-6)
    np.testing.assert_allclose(about["points"], best.posterior["X"][0, 0])
    assert about["values"] == digits["label"].to_numpy().tolist()
    assert 0.0 <= numbers["uncertainty"].min() < numbers["uncertainty"].max() <= 1.0


def test_neighbours_are_the_most_probable_then_the_nearest(Y):
    fit = made_fit(Y, "rbf", draws=30)
    about = gplvm.plot.explore(fit, n_neighbors=4).about
    shares = gplvm.diagnostics.neighbour_probabilities(fit, n_neighbors=4).to_numpy()
    for i, listed in enumerate(about["neighbours"]):
        assert len(listed) == 4
        assert i not in [j for j, _ in listed]
        assert [p for _, p in listed] == pytest.approx(np.sort(shares[i])[::-1][:4], abs=1e-3)


def test_the_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"\bimport\b[^;]*from|\bfetch\(", text)


def test_labels_cannot_end_the_script(Y, tmp_path):
    named = Y.assign_coords(label=("obs", ["</script><b>"] * 6 + ["right"] * 6))
    fit = made_fit(named, "rbf")
    text = gplvm.plot.explore(fit, "label", path=tmp_path / "a.html", grid=5).read_text()
    assert text.count("</script>") == 1
    assert held(tmp_path / "a.html")[0]["values"][0] == "</script><b>"


def test_the_widget_holds_the_same_and_the_same_script(best, page):
    widget = gplvm.plot.explore(best, "label", image_shape=(8, 8), grid=30)
    about, numbers = held(page)
    assert json.loads(json.dumps(widget.about)) == about
    np.testing.assert_array_equal(np.frombuffer(widget.mean, "<f4"), numbers["mean"])
    assert widget.row == 0
    assert widget.position == about["points"][0]
    script = str(widget._esm)
    assert "export default { render }" in script
    assert script.replace("export default", "const explorer =") in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("features", "settings", "kind"),
    [
        (4, {}, "bars"),
        (50, {}, "curve"),
        (4, {"kind": "curve"}, "curve"),
        (4, {"image_shape": (2, 2)}, "image"),
    ],
)
def test_how_rows_are_shown(features, settings, kind):
    rng = np.random.default_rng(1)
    fit = made_fit(xr.DataArray(rng.standard_normal((8, features)), dims=("obs", "feature")), "rbf")
    about = gplvm.plot.explore(fit, np.linspace(0, 1, 8), grid=5, **settings).about
    assert about["kind"] == kind
    assert about["scale"]["high"] == 1.0


def test_many_features_take_fewer_places():
    rng = np.random.default_rng(1)
    fit = made_fit(xr.DataArray(rng.standard_normal((60, 3000)), dims=("obs", "feature")), "rbf")
    assert gplvm.plot.explore(fit).about["grid"] == 14


def test_missing_entries_stay_missing(Y, tmp_path):
    holes = Y.where(np.arange(12)[:, None] != 3 * np.arange(4))
    model = gplvm.build_model(holes, missing="mask")
    X = np.random.default_rng(1).standard_normal((1, 1, 12, 2))
    fit = fit_of(model, X, lengthscale=0.8, amplitude=1.2, sigma=0.3)
    page = gplvm.plot.explore(fit, path=tmp_path / "holes.html", grid=5)
    about, numbers = held(page)
    np.testing.assert_allclose(numbers["table"].reshape(12, 4), holes, rtol=1e-6)
    assert about["low"] == pytest.approx(float(holes.min()))
    assert np.isfinite(numbers["mean"]).all()


def test_without_anywidget_the_remedy_is_told(best, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    explorer._widget_class.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'pm-gplvm\[explore\]', or write a page"):
        gplvm.plot.explore(best)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"path": "a.png"}, ValueError, r"path must end in \.html or \.htm, got 'a\.png'"),
        ({"path": "nowhere/a.html"}, FileNotFoundError, "The folder nowhere does not exist"),
        ({"grid": 2}, ValueError, "grid must be a whole number of at least 4, got 2"),
        ({"kind": "pie"}, ValueError, "kind must be one of image, curve, bars, got 'pie'"),
        ({"kind": "image"}, ValueError, "kind='image' needs image_shape"),
        ({"image_shape": (7, 8)}, ValueError, "image_shape must be .* = 64"),
        ({"color": "stage"}, ValueError, "color must name a coordinate"),
    ],
)
def test_wrong_arguments(best, settings, error, message):
    with pytest.raises(error, match=message):
        gplvm.plot.explore(best, **settings)


def test_one_dimension_and_standing_files_are_refused(Y, best, page):
    line = gplvm.fit_map(gplvm.build_model(Y, 1), progressbar=False)
    with pytest.raises(
        ValueError, match=r"plot\.explore needs two latent dimensions or more, got one"
    ):
        gplvm.plot.explore(line)
    before = page.read_bytes()
    with pytest.raises(FileExistsError, match=r"digits\.html exists\. Pass overwrite=True"):
        gplvm.plot.explore(best, path=page)
    assert page.read_bytes() == before


# In a browser


def role(browser, name):
    return browser.find_element("css selector", f"[data-role={name}]")


def pull(browser, place, about, *, held_down=False):
    """Lead the pointer to a place in the plane, from the middle."""
    from selenium.webdriver import ActionChains

    plane = browser.find_element("css selector", ".plane")
    low, high = np.array(about["limits"])
    share = (np.asarray(place) - low) / (high - low) - 0.5
    x, y = share[0] * plane.size["width"], -share[1] * plane.size["height"]
    chain = ActionChains(browser, duration=50).move_to_element(plane)
    if held_down:
        chain.click_and_hold()
    chain.move_to_element_with_offset(plane, round(x), round(y))
    (chain.release() if held_down else chain).perform()


def test_one_can_drag_and_read(browser, page, best):
    from selenium.webdriver import ActionChains

    about, numbers = held(page)
    browser.get(page.as_uri())
    assert len(browser.find_elements("css selector", "[data-row]")) == 30

    low, high = np.array(about["limits"])
    aim = low + np.array([0.3, 0.62]) * (high - low)
    pull(browser, aim, about, held_down=True)
    at = np.array(json.loads(role(browser, "place").get_attribute("data-at")))
    assert np.abs((at - aim) / (high - low)).max() < 0.005  # about a pixel
    assert role(browser, "place").text == f"decoded at ({at[0]:.3f}, {at[1]:.3f})"

    mean, sd = decoded(about, numbers, at)
    image = role(browser, "mean")
    # Ink of every pixel, then what the status line says of one.
    ink = browser.execute_script(
        "const c = arguments[0]; return Array.from(c.getContext('2d').getImageData(0, 0, 8, 8).data)",
        image,
    )
    ground, text = 255.0, 17.0  # of the light theme
    share = np.clip((mean - about["low"]) / (about["high"] - about["low"]), 0, 1)
    expected = ground + (text - ground) * share
    np.testing.assert_allclose(np.array(ink).reshape(64, 4)[:, 0], expected, atol=1.0)
    ActionChains(browser).move_to_element_with_offset(image, 12, 12).perform()
    name, mean_read, sd_read = re.match(
        r"(\S+): (\S+) ± (\S+)", role(browser, "status").text
    ).groups()
    d = about["features"].index(name)
    assert float(mean_read) == pytest.approx(mean[d], rel=0.01)
    assert float(sd_read) == pytest.approx(sd[d], rel=0.01)
    # Between the cells the page interpolates: predict itself is near.
    exact = gplvm.predict(best, at[None])["mean"].to_numpy()[0]
    assert np.abs(mean - exact).max() < 0.05 * (about["high"] - about["low"])


def test_a_click_shows_a_row_and_its_neighbours(browser, page, digits):
    from selenium.webdriver import ActionChains

    about, _ = held(page)
    browser.get(page.as_uri())
    # A point that no other covers.
    points = np.array(about["points"])
    apart = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(30)
    n = int(apart.min(axis=1).argmax())
    pull(browser, points[n], about)
    ActionChains(browser).click().perform()
    assert role(browser, "row").text == (
        f"row {digits['obs'].to_numpy()[n]}, label {digits['label'].to_numpy()[n]}: its data"
    )
    buttons = role(browser, "neighbours").find_elements("css selector", "button")
    listed = [about["names"][j] for j, _ in about["neighbours"][n]]
    assert [b.text.split()[0] for b in buttons] == listed
    buttons[0].click()
    assert role(browser, "row").text.startswith(f"row {listed[0]},")


def test_the_keyboard_moves_too(browser, page):
    from selenium.webdriver.common.keys import Keys

    about, _ = held(page)
    browser.get(page.as_uri())
    start = np.array(about["points"][0])
    browser.find_element("css selector", ".plane").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    at = np.array(json.loads(role(browser, "place").get_attribute("data-at")))
    low, high = np.array(about["limits"])
    np.testing.assert_allclose(at, np.clip(start + (high - low) / 40, low, high), rtol=1e-9)
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_the_colours_are_those_of_the_theme(browser, page, best):
    """Light or dark is what the browser prefers, or JupyterLab's theme, also while the page is open."""

    from selenium.webdriver.support.ui import WebDriverWait

    def ground():
        plane = "const c = document.querySelector('.plane canvas'); return Array.from(c.getContext('2d').getImageData"
        shades = np.array(browser.execute_script(f"{plane}(0, 0, c.width, c.height).data)"))
        return float(shades.reshape(-1, 4)[:, :3].mean())

    def look():
        root = browser.find_element("css selector", ".gplvm")
        point = browser.find_element("css selector", "[data-row='0']").get_attribute("fill")
        return root.get_attribute("data-theme"), root.value_of_css_property("color"), point

    def prefer(scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def wait_for(theme):  # the page is told of a change later
        WebDriverWait(browser, 5).until(lambda _: look()[0] == theme)

    about, _ = held(page)
    browser.get(page.as_uri())
    prefer("light")
    wait_for("light")
    light, shade = look(), ground()
    assert light == (
        "light",
        "rgba(17, 17, 17, 1)",
        about["palettes"]["light"][about["colours"][0]],
    )
    prefer("dark")
    wait_for("dark")
    dark = look()
    assert dark == (
        "dark",
        "rgba(232, 232, 232, 1)",
        about["palettes"]["dark"][about["colours"][0]],
    )
    assert ground() < 128 < shade
    # JupyterLab says what its theme is, whatever the browser prefers.
    browser.execute_script(
        "document.body.style.setProperty('--jp-layout-color0', '#fff');"
        "document.body.style.setProperty('--jp-content-font-color1', 'rgb(1, 2, 3)');"
        "document.body.dataset.jpThemeLight = 'true';"
    )
    wait_for("light")
    assert look() == ("light", "rgba(1, 2, 3, 1)", light[2])
    prefer("light")


def test_ellipses_are_those_of_the_draws(browser, Y, tmp_path):
    fit = made_fit(Y, "rbf", draws=400)
    page = gplvm.plot.explore(fit, path=tmp_path / "draws.html", grid=5, limits=((-4, 4), (-4, 4)))
    browser.get(page.as_uri())
    circles = browser.find_elements("css selector", "[data-ellipse]")
    assert len(circles) == 12
    # Draws are standard normal: radius 1.51 holds 68 %; the plane is 420 pixels for 8 units.
    found = [re.findall(r"-?\d[-\d.e]*", c.get_attribute("transform")) for c in circles]
    matrices = np.array(found, dtype=float)
    radii = np.linalg.svd(matrices[:, :4].reshape(-1, 2, 2), compute_uv=False)
    np.testing.assert_allclose(radii, 1.51 * 420 / 8, rtol=0.15)
    points = [
        c.get_attribute("transform") for c in browser.find_elements("css selector", "[data-row]")
    ]
    assert [re.findall(r"-?\d[-\d.e]*", p) for p in points] == [m[4:] for m in found]


def test_rows_outside_stand_on_the_border(best):
    about = gplvm.plot.explore(best, grid=5, limits=((0.0, 9.0), (-9.0, 9.0))).about
    X = best.posterior["X"].to_numpy()[0, 0]
    assert about["outside"] == (X[:, 0] < 0.0).sum()
    assert about["limits"] == [[0.0, -9.0], [9.0, 9.0]]
    assert about["ellipses"] == []
