"""The documentation site: ``make docs`` builds it, and every warning is an error."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), str(ROOT / "examples")]
sys.path[:0] = [*PATHS, str(ROOT / "docs")]
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)  # for the kernel that executes the notebooks

import blan_layers  # noqa: E402  # from the path above

project = "blan-layers"
author = "The blan-layers authors"
project_copyright = author
version = release = blan_layers.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
]
exclude_patterns = ["_build"]

# What autodoc makes of the docstrings.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Shape", "notes_style"), ("Reference", "notes_style")]
toc_object_entries = False

# Pages in Markdown, and notebooks that the build executes.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"blan-layers {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_theme_options = {
    "source_repository": "https://github.com/blan-layers/blan-layers/",
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#1f5f99", "color-brand-content": "#1f5f99"},
    "dark_css_variables": {"color-brand-primary": "#7db8ea", "color-brand-content": "#7db8ea"},
}


def escape_axes(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let docstrings write the axes ``*S`` as they are, which reStructuredText would take for emphasis."""
    lines[:] = [re.sub(r"(?<![\\`])\*S\b", r"\\*S", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Hear autodoc."""
    app.connect("autodoc-process-docstring", escape_axes, priority=400)  # before napoleon
