"""The explorer and a notebook in a real JupyterLab, in both of its themes."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
THEMES = ("JupyterLab Light", "JupyterLab Dark")
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    # All cells are to be in the page, whether they are in view or not.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
# What a user would write, and an observer that tells this test what reaches Python.
CELLS = [
    "import numpy as np\nimport pm_gplvm as gplvm",
    """rng = np.random.default_rng(1)
angle = np.linspace(0, 3, 12)
Y = np.column_stack([np.cos(angle), np.sin(angle), angle]) + 0.05 * rng.standard_normal((12, 3))
best = gplvm.fit_map(gplvm.build_model(Y), max_iter=100, progressbar=False, random_seed=1)""",
    """widget = gplvm.plot.explore(best, np.repeat(["early", "late"], 6), grid=12)

def tell(change):
    with open(f"{change.name}.txt", "w") as file:
        file.write(repr(change.new))

widget.observe(tell, ["row", "position"])
widget""",
]
# Text and what it stands on, from the element up to the first one that is not see-through.
INK = """
let node = arguments[0];
const ink = getComputedStyle(node).color;
const seen = (c) => c !== "transparent" && !/, 0\\)$/.test(c);
while (node.parentElement && !seen(getComputedStyle(node).backgroundColor)) node = node.parentElement;
return [ink, getComputedStyle(node).backgroundColor];
"""


def write_settings(folder, name, values):
    path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


class Lab:
    """A JupyterLab that serves one folder, and the browser that looks at it."""

    def __init__(self, browser, folder, settings, pictures, url, token):
        self.browser, self.folder, self.settings = browser, folder, settings
        self.pictures, self.url, self.token = pictures, url, token

    def wait(self, ready, message, seconds=60):
        """Wait until something is so; a picture shows why it is not."""
        end = time.monotonic() + seconds
        while not (found := ready()):
            if time.monotonic() > end:
                pytest.fail(f"{message}, see {self.show('failed')}")
            time.sleep(0.3)
        return found

    def show(self, name):
        path = self.pictures / f"{name}.png"
        self.browser.save_screenshot(str(path))
        return path

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        (element,) = self.wait(lambda: self.all(selector), f"no {selector}")
        return element

    def open(self, name, theme):
        write_settings(self.settings, "apputils-extension/themes", {"theme": theme})
        self.browser.get(f"{self.url}lab/tree/{name}?reset&token={self.token}")
        self.wait(lambda: self.all(".jp-Notebook .jp-Cell"), f"{name} does not open")
        light = json.dumps(theme == "JupyterLab Light")
        self.wait(lambda: self.all(f"body[data-jp-theme-light={light}]"), f"no {theme}")

    def run_all(self):
        status = self.one("#jp-main-statusbar")
        self.wait(lambda: "| Idle" in status.text, "the kernel does not start")
        for item in self.all(".lm-MenuBar-item"):
            if item.text == "Run":
                item.click()
        self.one(".lm-Menu-item[data-command='runmenu:run-all']").click()

    def errors(self):
        """Text of the outputs that are exceptions."""
        return [e.text for e in self.all("[data-mime-type='application/vnd.jupyter.error']")]

    def told(self, name):
        """What Python was told of a trait."""
        path = self.folder / f"{name}.txt"
        return path.read_text() if path.exists() else None

    def contrast(self, element):
        """Between a text and its ground, as WCAG counts it: from 1 to 21."""
        lights = []
        for colour in self.browser.execute_script(INK, element):
            shares = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
            linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
            lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
        return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """A server with settings and folders of its own, which ends with this module."""
    home = tmp_path_factory.mktemp("jupyterlab")
    folder, settings = home / "notebooks", home / "settings"
    folder.mkdir()
    for name, values in SETTINGS.items():
        write_settings(settings, name, values)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # To look at the screenshots, name a folder for them.
    pictures = Path(os.environ.get("PM_GPLVM_PICTURES") or home)
    token = secrets.token_hex()
    env = os.environ | {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_TOKEN": token,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", str(folder)]
    log = (home / "log.txt").open("w+")
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        running = []
        for _ in range(200):
            running = list((home / "runtime").glob("jpserver-*.json"))
            if running or server.poll() is not None:
                break
            time.sleep(0.3)
        log.seek(0)
        assert running, log.read()
        about = json.loads(running[0].read_text())  # the port may be another one by now
        size = browser.get_window_size()
        browser.set_window_size(1500, 1000)
        yield Lab(browser, folder, settings, pictures, about["url"], token)
        browser.get("about:blank")
        browser.set_window_size(size["width"], size["height"])
        browser.get_log("browser")  # which empties it for who comes next
    finally:
        server.terminate()  # which ends the kernels too
        server.wait(30)
        log.close()


@pytest.mark.parametrize("theme", THEMES)
def test_the_explorer_is_drawn_and_answers(lab, theme):
    from selenium.webdriver import ActionChains

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    name = f"explore {theme}.ipynb"
    nbformat.write(notebook, lab.folder / name)
    for told in lab.folder.glob("*.txt"):
        told.unlink()
    lab.open(name, theme)
    lab.run_all()
    lab.wait(lambda: lab.all(".gplvm") or lab.errors(), "the widget is not drawn", 240)
    assert not lab.errors()
    assert len(lab.all(".gplvm [data-row]")) == 12
    assert len(lab.all(".gplvm [data-role=mean] rect")) == 6  # decoded, and data

    plane = lab.one(".gplvm .plane")
    lab.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plane)
    place, row = lab.one("[data-role=place]"), lab.one("[data-role=row]")

    def heights():
        return [r.get_attribute("y") for r in lab.all("[data-role=mean] rect")]

    before, bars = place.text, heights()
    ActionChains(lab.browser).move_to_element_with_offset(plane, 60, 30).perform()
    lab.wait(lambda: place.text != before, "the pointer moves nothing")
    assert heights()[:3] != bars[:3]
    assert heights()[3:] == bars[3:]
    at = json.loads(place.get_attribute("data-at"))
    lab.wait(lambda: lab.told("position") == repr(at), "Python is not told where")

    assert row.text == "row 0, value early: its data"
    points = lab.all(".gplvm [data-row]")
    ActionChains(lab.browser).move_to_element(points[-1]).click().perform()
    lab.wait(lambda: row.text == "row 11, value late: its data", "a click shows no row")
    lab.wait(lambda: lab.told("row") == "11", "Python is not told which row")
    words = [place, row, *lab.all(".gplvm button"), *lab.all(".gplvm .legend span")]
    assert len(words) == 2 + 6 + 2
    assert min(map(lab.contrast, words)) > 4.5
    lab.show(f"explore {theme}")


@pytest.mark.parametrize("theme", THEMES)
def test_a_notebook_opens_with_its_pictures(lab, theme):
    (source,) = (ROOT / "notebooks").glob("01_*.ipynb")
    (lab.folder / source.name).write_bytes(source.read_bytes())
    cells = nbformat.read(source, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    drawn = sum("image/png" in output.get("data", {}) for output in outputs)
    assert drawn
    lab.open(source.name, theme)

    def pictures():
        images = lab.all(".jp-RenderedImage img")
        return [i for i in images if int(i.get_property("naturalWidth"))]

    lab.wait(lambda: len(pictures()) == drawn, "pictures are missing")
    assert len(lab.all(".jp-Notebook .jp-Cell")) == len(cells)
    assert not lab.errors()
    lab.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pictures()[0])
    lab.show(f"notebook {theme}")
