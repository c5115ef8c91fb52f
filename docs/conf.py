"""How Sphinx builds the reference: ``make docs``, which writes ``build/docs/index.html``.

The repository root is the source folder, so that README.md, ARCHITECTURE.md, CHANGELOG.md and the
tutorials are pages as they are, and the links between them hold.  What is public is what
``__all__`` says: the pages of modules, classes and functions are made from it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpydoc.xref
import rejuvenet
from rejuvenet.graph.find.nodes import Node

HERE = Path(__file__).parent
MODULES = {
    "rejuvenet.sofm": "The map",
    "rejuvenet.sofm.plots": "Plots of a map",
    "rejuvenet.graph": "The graph",
    "rejuvenet.graph.find.composites": "Composite operators",
    "rejuvenet.adapters.torch": "PyTorch",
    "rejuvenet.adapters.onnx": "ONNX",
    "rejuvenet.adapters.trainers": "Trainers",
    "rejuvenet.adapters.trainers.lightning": "Lightning",
    "rejuvenet.adapters.trainers.transformers": "transformers",
    "rejuvenet.adapters.trainers.ignite": "Ignite",
    "rejuvenet.adapters.trainers.metrics": "Figures for loggers",
}

project = "rejuvenet"
author = copyright = "the rejuvenet contributors"
release = version = rejuvenet.__version__
root_doc = "README"
include_patterns = ["*.md", "docs/**", "tutorials/**", "tests/**/README.md"]
exclude_patterns = [".*", "build", "demo", "docs/templates", "**/runs"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
]
nitpicky = True
smartquotes = False
highlight_language = "none"  # where a block does not name one

templates_path = [str(HERE / "templates")]
autosummary_ignore_module_all = False
autosummary_generate = True
autosummary_context = {"kinds": [kind.__name__ for kind in get_args(Node)]}
autodoc_typehints = "none"  # types stand in the docstrings, in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_attributes_as_param_list = True
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # names of ours are linked, others are not
numpydoc.xref.DEFAULT_LINKS.clear()
numpydoc_xref_aliases = {
    name: f"{module}.{name}"
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if inspect.isclass(getattr(importlib.import_module(module), name))
}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = [str(HERE / "static")]
html_css_files = ["reference.css"]
html_title = "rejuvenet"
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False

CONTENTS = """
```{{toctree}}
:hidden:
:glob:
:caption: Use

docs/command_line
tutorials/*
```

```{{toctree}}
:hidden:
:caption: Reference

{modules}
docs/method
```

```{{toctree}}
:hidden:
:glob:
:caption: Measured

tutorials/*/README
tests/*/README
```

```{{toctree}}
:hidden:
:caption: Project

CHANGELOG
ARCHITECTURE
CONTRIBUTING
SECURITY
```
"""


def add_contents(app, docname, source):
    """The home page is the README; only here does it list the others."""
    if docname == root_doc:
        pages = "\n".join(f"{title} <docs/api/{module}>" for module, title in MODULES.items())
        source[0] += CONTENTS.format(modules=pages)


def write_sources(app):
    """The modules to describe, and the options of the command line."""
    shutil.rmtree(HERE / "api", ignore_errors=True)
    (HERE / "modules.rst").write_text(
        ":orphan:\n\nModules\n=======\n\n.. autosummary::\n   :toctree: api\n\n"
        + "".join(f"   {module}\n" for module in MODULES)
    )
    typer = [sys.executable, "-m", "typer", "rejuvenet.adapters.command_line.app"]
    how = ["utils", "docs", "--name", "rejuvenet", "--title", "The command line"]
    said = subprocess.run([*typer, *how], check=True, capture_output=True, text=True).stdout
    # A list of the commands with their sentences cut short; whole ones follow.
    said = re.sub(r"\*\*Commands\*\*:.*?(?=^## )", "", said, count=1, flags=re.S | re.M)
    (HERE / "command_line.md").write_text(said)


def skip_generated(app, what, name, member, skip, options):
    """What every estimator of scikit-learn has, and is described there."""
    theirs = (getattr(member, "__module__", None) or "").startswith("sklearn.")
    return skip or name.startswith("set_") or (theirs and not name.startswith("fit_"))


def copy_home(app, exception):
    """Where a reader looks for the first page."""
    if exception is None and app.builder.format == "html":
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app):
    app.connect("config-inited", lambda app, config: write_sources(app))
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("source-read", add_contents)
    app.connect("build-finished", copy_home)
