"""The code of the user guide runs: each page from its first block to its last, in an empty folder.

Pages that show what their code prints are run where the documentation is made, which fails where one does.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
SHOWN = "file_format: mystnb"
RUN_HERE = [page for page in PAGES if SHOWN not in page.read_text(encoding="utf-8")]
BLOCK = re.compile(r"^```(?:python|\{code-cell\}.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


def blocks(text):
    """Line number and code of every block that is Python, without the options of a cell."""
    for found in BLOCK.finditer(text):
        options = re.match(r"---\n(?:.*\n)*?---\n|(?::[\w-]+:.*\n)*", found[1]).end()
        start = found.start(1) + options
        yield text.count("\n", 0, start), found[1][options:]


def test_blocks_are_found():
    text = "a\n```python\nx = 1\n```\n```text\nno\n```\n"
    text += (
        "```{code-cell}\n:tags: [hide]\ny = 2\n```\n```{code-cell}\n---\na: b\n---\nz = 3\n```\n"
    )
    assert list(blocks(text)) == [(2, "x = 1\n"), (9, "y = 2\n"), (15, "z = 3\n")]


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda path: path.stem)
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
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 160
