"""What the documents say is so: names, layout, examples, notebooks."""

import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import sys
import warnings
from operator import attrgetter
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest

import pm_gplvm as gplvm

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MODULES = sorted(
    m.name.removeprefix("pm_gplvm.")
    for m in pkgutil.walk_packages(gplvm.__path__, "pm_gplvm.")
    if not m.ispkg
)


NAMESPACES = ("data", "diagnostics", "kernels", "likelihoods", "model", "plot", "priors")
NO_PARAMETERS = (
    "kernels.bias",
    "likelihoods.bernoulli",
    "likelihoods.poisson",
    "model.compile_mode",
)
PUBLIC = [name for name in gplvm.__all__ if name not in NAMESPACES]
PUBLIC += [f"{space}.{name}" for space in NAMESPACES for name in getattr(gplvm, space).__all__]


def section(title, text=README):
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_the_readme_is_short_and_its_code_runs(tmp_path, monkeypatch):
    """A newcomer's first minutes, with a smaller table."""
    assert len(README.encode()) <= 8192
    monkeypatch.chdir(tmp_path)
    table = gplvm.data.load_digits(n=30)
    names = {"Y": table.to_numpy(), "labels": table["label"].to_numpy()}
    monkeypatch.setattr(gplvm.data, "load_digits", lambda n: table)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # so few rows
        for block in blocks:
            exec(block, names)
    plt.close("all")
    assert (tmp_path / "best.nc").is_file()


def test_the_readme_shows_the_rooms_from_below():
    listed = re.findall(r"^(\w+)  +\w", section("The code in eight lines"), re.MULTILINE)
    config = (ROOT / "pyproject.toml").read_text().split("exhaustive = true")[1]
    layers = re.findall(r'^    "([\w :|]+)",$', config, re.MULTILINE)[1:]
    assert listed == [room for layer in reversed(layers) for room in layer.split(" | ")]


def test_everyday_names_are_few():
    assert len(gplvm.__all__) - len(NAMESPACES) <= 32


def test_the_modules_are_listed_from_the_top_room_down():
    listed = re.findall(r"^\| `([\w/]+)\.py`", section("Layout", CONTRIBUTING), re.MULTILINE)
    assert sorted(name.replace("/", ".") for name in listed) == MODULES
    config = (ROOT / "pyproject.toml").read_text()
    layers = re.findall(r'^    "([\w :|]+)",$', config.split("exhaustive = true")[1], re.MULTILINE)
    depth = {name: i for i, layer in enumerate(layers) for name in re.split(r" [:|] ", layer)}
    assert [depth[name.split("/")[0]] for name in listed] == sorted(
        depth[name.split(".")[0]] for name in MODULES
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings_have_every_part(name):
    thing = attrgetter(name)(gplvm)
    text = inspect.getdoc(thing)
    parameters = [p for p in inspect.signature(thing).parameters if p not in ("args", "kwargs")]
    if thing is gplvm.GPColumns:
        parameters = ["cov", "mu", "scale"]
    for parameter in parameters:
        assert re.search(rf"\b{parameter}\b", text.split("Parameters")[1]), parameter
    assert "Examples\n--------" in text


def test_importing_the_package_loads_neither_pymc_nor_scikit_learn():
    code = "import sys, pm_gplvm; dir(pm_gplvm); sys.exit(bool({'pymc', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match="has no attribute 'fit_mpa'"):
        _ = gplvm.fit_mpa


@pytest.mark.parametrize("name", [n for n in MODULES if n != "__main__"])
def test_the_examples_in_docstrings_run(name):
    module = importlib.import_module(f"pm_gplvm.{name}")
    result = doctest.testmod(module)
    plt.close("all")
    assert result.failed == 0


def test_the_example_of_the_package_runs():
    assert doctest.testmod(gplvm).failed == 0


@pytest.mark.parametrize("source", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda p: p.stem)
def test_a_notebook_is_its_source_with_outputs(source):
    built = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    written = jupytext.read(source)
    assert [(c.cell_type, c.source) for c in built.cells] == [
        (c.cell_type, c.source) for c in written.cells
    ]
    code = [c for c in built.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code)
    titles = [
        line for c in built.cells if c.cell_type == "markdown" for line in c.source.splitlines()
    ]
    assert sum(line.startswith("# ") for line in titles) == 1


def test_folders_are_listed():
    folders = re.findall(r"^\| `([\w/]+)/` \|", section("Folders", CONTRIBUTING), re.MULTILINE)
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(name):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


# The site, which `make docs` builds and looks through; `built_site.py` is run on it

CHECK_SITE = runpy.run_path(str(ROOT / "scripts" / "check-site"))["check"]


def test_lost_links_anchors_and_pages_are_found(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="b.html#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<img src="p.png" srcset="q.png 2x"><a href="#top" id="top">4</a><a href="https://x.org">5</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here">b</p>')
    (tmp_path / "lonely.html").write_text("nobody leads here")
    n_pages, n_links, wrong = CHECK_SITE(tmp_path)
    assert (n_pages, n_links) == (3, 6)
    assert sorted(wrong) == [
        "index.html: b.html#gone has no such anchor",
        "index.html: c.html is not there",
        "index.html: p.png is not there",
        "index.html: q.png is not there",
        "lonely.html: no page leads here",
    ]
