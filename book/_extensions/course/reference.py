"""Our docstrings as book/reference.md shows them."""

import re


def setup(app):
    """Register autodoc, and what is done to a docstring before it."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _plain_docstring)


def _plain_docstring(app, what, name, obj, options, lines):
    """Our docstrings are plain prose: `name` is code there, and an indented block is a command."""
    prose = [line if line.startswith("    ") else re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]
    lines[:] = re.sub(r"\n\n(?=    \S)", "\n\n::\n\n", "\n".join(prose)).splitlines()
