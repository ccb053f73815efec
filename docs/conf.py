"""Sphinx's settings: MyST Markdown, the furo theme, the API from docstrings."""

from importlib.metadata import version as installed
from pathlib import Path

project = "recoverable"
author = "The recoverable authors"
copyright = "The recoverable authors"
version = release = installed("recoverable")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "recoverable"
html_static_path = []
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "monokai"

# Docstrings write `code` as Markdown does, and are written for a reader of the source.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False


def _list_benchmarks(app, docname, source):
    """Put the benchmarks' pages into the index: they are there once the benchmarks have been run."""
    here = Path(__file__).parent
    pages = [page for page in (here / "benchmarks.md", *sorted(here.glob("benchmarks/*.md"))) if page.exists()]
    if docname == "index" and pages:
        names = "\n".join(page.relative_to(here).with_suffix("").as_posix() for page in pages)
        source[0] += f"\n```{{toctree}}\n:caption: Benchmarks\n:maxdepth: 1\n\n{names}\n```\n"


def setup(app):
    app.connect("source-read", _list_benchmarks)
