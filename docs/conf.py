"""Sphinx: a page for each public name, from its docstring. `make docs` builds docs/_build."""

from pathlib import Path

import pm_gplvm

project = "pm_gplvm"
author = "The pm_gplvm developers"
version = release = pm_gplvm.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
default_role = "code"
maximum_signature_line_length = 88  # longer ones get a line for each argument

html_theme = "alabaster"
html_theme_options = {"description": pm_gplvm.__doc__.splitlines()[0]}
exclude_patterns = ["_build", "ordinary_results.rst"]

# The lists of names are the package's own.
spaces = {"": "Everyday", "priors": "Priors of X", "plot": "Plots", "diagnostics": "Diagnostics"}
spaces |= {"data": "Data", "model": "Models"}
page = "Public names\n============\n\n.. currentmodule:: pm_gplvm\n"
for space, title in spaces.items():
    listed = getattr(pm_gplvm, space).__all__ if space else pm_gplvm.__all__
    names = [f"{space}.{name}".lstrip(".") for name in listed if name not in spaces]
    page += f"\n{title}\n{'-' * len(title)}\n\n.. autosummary::\n   :toctree: generated\n\n"
    page += "".join(f"   {name}\n" for name in names)
(Path(__file__).parent / "api.rst").write_text(page, encoding="utf-8")


def in_package(app, env, node, contnode):
    """Resolve `plot.latent` from wherever it is named."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("pm_gplvm."):
        return None
    target, python = f"pm_gplvm.{node['reftarget']}", env.get_domain("py")
    return python.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, contnode
    )


def setup(app):
    """Connect what resolves names."""
    app.connect("missing-reference", in_package)


# The table of ordinary tables is the benchmark's own.
made = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "ordinary.md"
text = made.read_text(encoding="utf-8") if made.is_file() else "There is none yet."
lines = []
for line in text.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if not line.startswith("|"):
        # A title of the file is none of the page, and an asterisk is no markup.
        lines.append(line.lstrip("# ").replace("*", "\\*"))
    elif not set(line) <= set("|-"):
        if not lines or not lines[-1].startswith("   "):
            lines += [".. list-table::", "   :header-rows: 1", "   :class: wide", ""]
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(cells)]
(Path(__file__).parent / "ordinary_results.rst").write_text("\n".join(lines) + "\n", "utf-8")
