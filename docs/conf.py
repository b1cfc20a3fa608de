"""Sphinx: guides, recipes, a gallery, the notebooks, and a page for each public name.

`make docs` builds docs/_build. What is made here beside it (docs/api, docs/api.rst, docs/gallery, copies of
the notebooks) is ignored by git and removed by `make clean`.
"""

import json
import os
import shutil
import tempfile
from collections import defaultdict
from operator import attrgetter
from pathlib import Path

import pm_gplvm

# A backend that is set here would keep the pictures of executed pages from being shown.
os.environ.pop("MPLBACKEND", None)

# Executed pages have an IPython of their own, not the builder's profile. Its kernels would each warn that
# they talk without encryption, which is between processes of this machine.
ipython = tempfile.TemporaryDirectory(prefix="ipython-")
os.environ["IPYTHONDIR"] = ipython.name
(Path(ipython.name) / "profile_default").mkdir()
(Path(ipython.name) / "profile_default" / "ipython_kernel_config.py").write_text(
    "import logging\n"
    "unread = lambda record: 'without encryption' not in record.getMessage()\n"
    "logging.getLogger('IPKernelApp').addFilter(unread)\n",
    encoding="utf-8",
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

project = "pm_gplvm"
author = "The pm_gplvm developers"
copyright = author
version = release = pm_gplvm.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
default_role = "code"

exclude_patterns = ["_build", "examples"]
nitpicky = True
# What lies inside of a room may be named and has no page.
nitpick_ignore_regex = [("py:mod", r"pm_gplvm\.\w+\.\w+"), ("py:.*", r"pm_gplvm\.\w+\.\w+\.\w+")]

# Docstrings
autosummary_generate = True
templates_path = ["_templates"]
autodoc_typehints = "none"  # the types stand in the tables of parameters, in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
maximum_signature_line_length = 88  # longer ones get a line for each argument
copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor what was printed

# Markdown and notebooks. The notebooks of notebooks/ show the outputs that they are stored with.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_excludepatterns = ["notebooks/*"]
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True

# The gallery: each example is a script, run anew at each build, as the package may have changed.
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "run_stale_examples": True,
    "abort_on_example_error": False,
    "backreferences_dir": "api/examples",
    "doc_module": ("pm_gplvm",),
    "image_srcset": ["2x"],
    "subsection_order": ["examples/positions", "examples/function", "examples/fits"],
    "within_subsection_order": "FileNameSortKey",
    "notebook_extensions": set(),
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "min_reported_time": 10**6,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "pm_gplvm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("getting_started", "architecture", "changelog")}
html_theme_options = {
    "logo": {"text": "pm_gplvm"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_nav_level": 1,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}


# The pages of the public names, by room, from the package's own lists.
ROOMS = {
    "model": ("Models", "A table becomes a `pm.Model`; what is inside of it."),
    "kernels": ("Kernels", "Factors over chosen latent dimensions, for sums and products."),
    "likelihoods": ("Likelihoods", "What the entries of Y are, given the functions."),
    "priors": ("Priors of X", "For the argument `priors` of `build_model`."),
    "fitting": ("Estimates", "One X and one θ, or draws about them."),
    "sampling": ("Draws", "The posterior of X and θ, of θ alone, and the prior."),
    "prediction": (
        "New rows and positions",
        "What a fit says of rows, entries and positions not seen.",
    ),
    "diagnostics": ("Diagnostics", "Whether the draws can be trusted, and which fit is better."),
    "plot": ("Plots", "All take and return Matplotlib axes, but for the explorer."),
    "data": ("Tables and files", "What goes in, and how a fit is kept."),
    "estimator": ("scikit-learn", "The model, its estimate and its predictions as an estimator."),
    "outcomes": (
        "scikit-learn, supervised",
        "A class or a number of a row, predicted through its position.",
    ),
}


def rooms():
    """Return the public names by room: that of their namespace, or of the module they come from."""
    names = defaultdict(list)
    for name in pm_gplvm.__all__:
        if name in ROOMS:
            names[name] += [f"{name}.{inner}" for inner in getattr(pm_gplvm, name).__all__]
        else:
            module = attrgetter(name)(pm_gplvm).__module__
            names[module.split(".")[1]].append(name)
    return {room: sorted(names[room], key=lambda name: "." in name) for room in (ROOMS | names)}


shutil.rmtree(HERE / "api", ignore_errors=True)  # pages of names that are gone
page = "API\n===\n\nEvery public name, after ``import pm_gplvm as gplvm``.\n\n.. currentmodule:: pm_gplvm\n"
for room, names in rooms().items():
    title, text = ROOMS[room]
    page += f"\n{title}\n{'-' * len(title)}\n\n{text}\n\n.. autosummary::\n   :toctree: api\n\n"
    page += "".join(f"   {name}\n" for name in names)
(HERE / "api.rst").write_text(page, encoding="utf-8")

# The notebooks, with the outputs that they are stored with.
for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
    shutil.copy(notebook, HERE / "notebooks")


def in_package(app, env, node, contnode):
    """Resolve `plot.latent` from wherever it is named."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("pm_gplvm."):
        return None
    target, python = f"pm_gplvm.{node['reftarget']}", env.get_domain("py")
    return python.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, contnode
    )


def finish(app, exception):
    """Put the pages that `plot.explore` wrote beside the gallery, and note what was executed."""
    if exception is None:
        for page in (HERE / "examples").glob("*/*.html"):
            shutil.copy(page, Path(app.outdir) / "gallery" / page.parent.name)
        examples = app.config.sphinx_gallery_conf["passing_examples"]
        cells = [doc for doc, about in app.env.nb_metadata.items() if about.get("exec_data")]
        executed = sorted(Path(path).stem for path in examples) + sorted(cells)
        (Path(app.outdir) / "executed.json").write_text(json.dumps(executed), encoding="utf-8")


def setup(app):
    """Connect what resolves names and what counts."""
    app.connect("missing-reference", in_package)
    app.connect("build-finished", finish)
