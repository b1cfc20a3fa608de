"""The code of the user guide runs: each page from its first block to its last, in an empty folder."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
BLOCK = re.compile(r"^```(?:python|\{code-cell\}.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


def blocks(text):
    """Line number and code of every block that is Python, without the options of a cell."""
    for found in BLOCK.finditer(text):
        code = re.sub(r"^:\w[\w-]*:.*$", "", found[1], flags=re.MULTILINE)
        yield text.count("\n", 0, found.start(1)), code


def test_blocks_are_found():
    text = "a\n```python\nx = 1\n```\n```text\nno\n```\n```{code-cell}\n:tags: [hide]\ny = 2\n```\n"
    assert [(line, code.strip()) for line, code in blocks(text)] == [(2, "x = 1"), (8, "y = 2")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names: dict = {"__name__": page.stem}
    for line, code in blocks(page.read_text(encoding="utf-8")):
        # Lines are counted as in the page, so that an error names the one to look at.
        exec(compile("\n" * line + code, str(page), "exec"), names)
    plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_is_short(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    assert max(map(len, text.splitlines())) <= 160
