"""What `make docs` has built: run there, after the examples, on the site itself."""

import pytest
from test_documents import NO_PARAMETERS, PUBLIC, ROOT

import pm_gplvm as gplvm

SITE = ROOT / "docs" / "_build" / "html"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_page(name):
    page = (SITE / "api" / f"pm_gplvm.{name}.html").read_text()
    assert "Parameters" in page or name in NO_PARAMETERS


def test_every_notebook_and_plot_is_shown():
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        page = (SITE / "notebooks" / f"{notebook.stem}.html").read_text()
        assert "cell_output" in page, "its stored outputs are gone"
    drawn = "".join(path.read_text() for path in (ROOT / "docs" / "examples").glob("*/*.py"))
    assert [name for name in gplvm.plot.__all__ if f"gplvm.plot.{name}(" not in drawn] == []
