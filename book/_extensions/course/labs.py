"""What the pages say of the labs, read from the labs' own first cells: a table, their number and their hours."""

import json
import re
from pathlib import Path

import yaml
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from course.table import table


def setup(app):
    """Register the directive, ```{labs}```, and the substitutions."""
    app.add_directive("labs", LabsDirective)
    app.connect("config-inited", _count_labs)


class LabsDirective(SphinxDirective):
    """A table of the labs, read from their own first cells, so that the page and the labs cannot disagree."""

    def run(self):
        """Return the table's nodes: a link with the lab's title, what it is for, and its time."""
        rows = []
        here = Path(self.env.doc2path(self.env.docname)).parent
        up = "../" * len(here.relative_to(self.env.srcdir).parts)
        for path in labs(self.env.srcdir):
            self.env.note_dependency(str(path))
            title, goal, time = lab_head(path)
            time = time.partition(". ")[0].rstrip(".")
            link = f"[{title}]({up}notebooks/{path.name})"
            rows.append((link, f"{goal[0].upper()}{goal[1:]}", f"{time[0].upper()}{time[1:]}"))
        return self.parse_text_to_nodes(table(("Lab", "What you do", "Time"), rows, ["left"] * 3))


def labs(root):
    """Return the paths of the labs, in the order of the table of contents."""
    contents = yaml.safe_load(Path(root, "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in contents.get("parts", [contents]) for chapter in part["chapters"]]
    return [Path(root, f"{file}.ipynb") for file in files if file.startswith("notebooks/")]


def _count_labs(app, config):
    """Give the pages {{ lab_count }} and {{ lab_hours }}: the labs, and the hours to read them, to the next half."""
    paths = labs(app.srcdir)
    minutes = sum(int(re.search(r"\d+", lab_head(path)[2])[0]) for path in paths)
    halves = -(-minutes // 30)
    config.myst_substitutions = {
        **config.myst_substitutions,
        "lab_count": _in_words(len(paths)),
        "lab_hours": f"{_in_words(halves // 2)}{' and a half' if halves % 2 else ''}",
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


def _field(name):
    """A pattern for `**Name**: text` or `**Name:** text`, up to the next field or an empty line."""
    return rf"^[-*]?\s*\*\*{name}(?::\*\*|\*\*:?)\s*([\s\S]+?)(?=\n\s*\n|\n[-*]?\s*\*\*|\Z)"
