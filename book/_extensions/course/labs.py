"""What the pages say of the labs, read from the labs' own first cells: a table, their number and their minutes."""

import json
import re
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from course.table import table
from labsupport.exercises.catalog import LABS, of_lab


def setup(app):
    """Register the directive, ```{labs}```, and the substitutions."""
    app.add_directive("labs", LabsDirective)
    app.connect("config-inited", _count_labs)


class LabsDirective(SphinxDirective):
    """A table of the labs, read from their own first cells, so that the page and the labs cannot disagree."""

    def run(self):
        """Return the table's nodes: a link with the lab's title, what it is for, and its minutes."""
        rows, named = [], {}
        here = Path(self.env.doc2path(self.env.docname)).parent
        up = "../" * len(here.relative_to(self.env.srcdir).parts)
        for path in labs(self.env.srcdir):
            self.env.note_dependency(str(path))
            title, goal, _ = lab_head(path)
            link = f"[{title}]({up}notebooks/{path.name})"
            exercises = of_lab(path.stem) if path.stem in LABS else ()
            named[path.stem] = [exercise.id for exercise in exercises]
            minutes = sum(exercise.minutes for exercise in exercises)
            rows.append((link, f"{goal[0].upper()}{goal[1:]}", reading_minutes(path), minutes or "none"))
        head = ("Lab", "What you do", "Minutes to read", "and for exercises")
        text = table(head, rows, ["left", "left", "right", "right"])
        data = f'<script type="application/json">{json.dumps(named)}</script>'  # progress.js reads it
        parts = [*self.parse_text_to_nodes(text), nodes.raw("", data, format="html")]
        return [nodes.container("", *parts, classes=["labs-table"])]


def labs(root):
    """Return the paths of the labs, in the order of the table of contents."""
    contents = yaml.safe_load(Path(root, "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in contents.get("parts", [contents]) for chapter in part["chapters"]]
    return [Path(root, f"{file}.ipynb") for file in files if file.startswith("notebooks/")]


def _count_labs(app, config):
    """Give the pages {{ lab_count }}, {{ lab_hours }} to read them, to the next half, and {{ first_lab_minutes }}."""
    paths = labs(app.srcdir)
    minutes = [reading_minutes(path) for path in paths]
    halves = -(-sum(minutes) // 30)
    config.myst_substitutions = {
        **config.myst_substitutions,
        "lab_count": _in_words(len(paths)),
        "lab_hours": f"{_in_words(halves // 2)}{' and a half' if halves % 2 else ''}",
        "first_lab_minutes": minutes[0],
    }


def _in_words(number):
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[number] if number < len(words) else str(number)


def lab_head(path):
    """Return (title, goal, time) from a lab's first cell; raises ExtensionError where one is missing."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[0]["source"]) if cells else ""
    found = [re.search(pattern, text, re.MULTILINE) for pattern in (r"^# (.+)$", _field("Goal"), _field("Time"))]
    if not all(found):
        raise ExtensionError(f"The first cell of {path.name} needs a '# title' and lines for **Goal** and **Time**.")
    return tuple(" ".join(match[1].split()).replace("|", r"\|") for match in found)


def reading_minutes(path):
    """Return the first number of a lab's **Time**: the minutes to read it."""
    return int(re.search(r"\d+", lab_head(path)[2])[0])


def _field(name):
    """A pattern for `**Name**: text` or `**Name:** text`, up to the next field or an empty line."""
    return rf"^[-*]?\s*\*\*{name}(?::\*\*|\*\*:?)\s*([\s\S]+?)(?=\n\s*\n|\n[-*]?\s*\*\*|\Z)"
