"""What the labs printed when build.py ran them, the copies in _build/executed, and on each lab's page which run it was.

build.py keeps the copies only where every lab passed.
"""

import json
import re
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.errors import ExtensionError

from course.labs import labs


def setup(app):
    """Register the step."""
    app.connect("doctree-read", _name_the_run)


def _name_the_run(app, doctree):
    """Put below a lab's title with which DeepSpeed, when and from which commit it was run."""
    file = Path(app.srcdir, "_build", "executed", "run.json")
    title = doctree.next_node(nodes.title)
    if app.env.docname.startswith("notebooks/") and file.exists() and title is not None:
        app.env.note_dependency(str(file))
        run = json.loads(file.read_text(encoding="utf-8"))
        words = f"Run with DeepSpeed {run['deepspeed']} on {run['date']}, commit {run['commit']}: passed."
        title.parent.insert(title.parent.index(title) + 1, nodes.paragraph("", words, classes=["lab-run"]))


def find_cell(root, identifier):
    """Return (path of the lab, anchor of the heading above the cell, what the cell printed).

    Raises ExtensionError where no lab has a cell of this id, or the labs were not run.
    """
    for path in labs(root):
        anchor = ""
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "markdown":
                for heading in re.findall(r"^##+ +(.+)$", cell.source, re.MULTILINE):
                    anchor = slug(heading)
            if cell.id == identifier:
                return path, anchor, _printed(executed(root, path), identifier)
    raise ExtensionError(f"No lab has a cell {identifier!r}: name another one that shows the same.")


def executed(root, lab):
    """Return the executed copy of a lab; raises ExtensionError where there is none."""
    copy = Path(root, "_build", "executed", lab.name)
    if not copy.exists():
        raise ExtensionError(f"{lab.name} was not run for this book: build it with `python book/build.py`.")
    return nbformat.read(copy, 4)


def slug(heading):
    """Return what MyST calls a heading in an address."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _printed(copy, identifier):
    outputs = next((cell.outputs for cell in copy.cells if cell.id == identifier), [])
    return "\n".join(each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs)
