"""Sphinx's settings: MyST Markdown, the furo theme, the API from docstrings."""

from importlib.metadata import version as installed

project = "recoverable"
author = "The recoverable authors"
copyright = "The recoverable authors"
version = release = installed("recoverable")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "benchmarks/*.md"]  # those are parts of benchmarks.md
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "recoverable"
html_static_path = ["_static"]
html_css_files = ["site.css"]
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
