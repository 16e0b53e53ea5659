"""The surprises on the first page, ```{surprises}```: each with the number that a lab's cell printed, and a link to it.

A cell that no longer prints what a surprise says fails the build.
"""

import re
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from course.executed import find_cell


class Surprise(NamedTuple):
    """What a lab shows: a title, a sentence with {places}, the cell's id, and the pattern whose groups fill them."""

    title: str
    sentence: str
    cell: str
    pattern: str


SURPRISES = (
    Surprise(
        "A typo that nobody reports",
        "Write `{key}` for `zero_optimization`: DeepSpeed says nothing and trains at stage {stage}.",
        "01-16",
        r"(?P<key>zero_optimisation): accepted, and the stage in force is (?P<stage>\d)",
    ),
    Surprise(
        "Stage 3 can hold the most",
        "With default buckets a model of an eighth of a million parameters rests at {most} MiB a rank "
        "at stage 3, and at {least} MiB at stage 0.",
        "cell-28",
        r"stage 0 +(?P<least>[\d.]+)[\s\S]*stage 3 +(?P<most>[\d.]+)",
    ),
    Surprise(
        "Stages 1 and 2 send more than the paper says",
        "On four ranks stage 2 sends {sent} times as much as plain data parallelism, unless a setting is changed. "
        "The paper says {paper}.",
        "04b-50b",
        r"measured, 4 ranks: .*?stage 2 (?P<sent>[\d.]+) \(paper (?P<paper>[\d.]+)\)",
    ),
)


def setup(app):
    """Register the directive."""
    app.add_directive("surprises", SurprisesDirective)


class SurprisesDirective(SphinxDirective):
    """The surprises, side by side, each a link to the heading above its cell."""

    def run(self):
        """Return the cards' nodes; raises ExtensionError where a cell printed something else."""
        root = Path(self.env.srcdir)
        for path in (Path(__file__), *root.glob("_build/executed/*.ipynb")):
            self.env.note_dependency(str(path))
        text = "\n\n".join(map(lambda each: in_markdown(root, each), SURPRISES))
        return [nodes.container("", *self.parse_text_to_nodes(text), classes=["surprises"])]


def in_markdown(root, surprise):
    """Return a surprise as Markdown, with what its cell printed; raises ExtensionError where that does not match."""
    lab, anchor, printed = find_cell(root, surprise.cell)
    found = re.search(surprise.pattern, printed)
    if not found:
        raise ExtensionError(
            f"The cell {surprise.cell} of {lab.name} no longer prints what the first page says under "
            f"{surprise.title!r}: mend the surprise in {Path(__file__).name}."
        )
    link = f"../notebooks/{lab.name}#{anchor}"
    return f"**[{surprise.title}]({link})**\\\n{surprise.sentence.format(**found.groupdict())}"
