"""The book's own Sphinx extension: math without JavaScript, the table of labs, computed blocks, finished pages.

Listed in _config.yml under sphinx.local_extensions.
"""

import json
import os
import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from course import widgets
from course.blocks import agreement, exercises, gpu, scaling, selector
from course.finished import pages
from labsupport import records


def setup(app):
    """Register what the pages and _config.yml name."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_html_math_renderer("mathml", (_visit_inline_math, None), (_visit_block_math, None))
    app.add_directive("labs", LabsDirective)
    app.add_directive("computed", ComputedDirective)
    app.connect("config-inited", _name_the_repository)
    app.connect("config-inited", _count_labs)
    app.connect("autodoc-process-docstring", _plain_docstring)
    pages.setup(app)
    widgets.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def mathml(formula, display="inline"):
    """Return a formula in LaTeX as MathML, which browsers draw themselves; raises ExtensionError with the formula."""
    try:
        return convert(formula.strip(), display=display)
    except Exception as error:  # latex2mathml raises a class of its own for each kind of mistake, and others
        raise ExtensionError(
            f"latex2mathml cannot read the formula {formula!r}: {type(error).__name__} {error}"
        ) from error


def _visit_inline_math(translator, node):
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _visit_block_math(translator, node):
    translator.body.append(f'<div class="math-block" tabindex="0">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


class LabsDirective(SphinxDirective):
    """A table of the labs, read from their own first cells, so that the page and the labs cannot disagree."""

    def run(self):
        """Return the table's nodes: a link with the lab's title, what it is for, and its time."""
        lines = ["| Lab | What you do | Time |", "|---|---|---|"]
        here = Path(self.env.doc2path(self.env.docname)).parent
        up = "../" * len(here.relative_to(self.env.srcdir).parts)
        for path in labs(self.env.srcdir):
            self.env.note_dependency(str(path))
            title, goal, time = lab_head(path)
            time = time.partition(". ")[0].rstrip(".")
            lines.append(
                f"| [{title}]({up}notebooks/{path.name}) | {goal[0].upper()}{goal[1:]} | {time[0].upper()}{time[1:]} |"
            )
        return self.parse_text_to_nodes("\n".join(lines))


class ComputedDirective(SphinxDirective):
    """What a function of blocks/ returns, so that no number is typed: ```{computed} name```."""

    required_arguments = 1

    def run(self):
        """Return the nodes of the function's Markdown, or of its figure; the records it reads are dependencies."""
        for path in [*(Path(module.__file__) for module in BLOCKS), *records.FOLDER.glob("*.json")]:
            self.env.note_dependency(str(path))
        content = computed_block(self.arguments[0])
        if isinstance(content, str):
            return self.parse_text_to_nodes(content)
        return [nodes.raw("", content._repr_mimebundle_()["text/html"], format="html")]


BLOCKS = (scaling, agreement, selector, exercises, gpu)


def computed_block(name):
    """Return what the block function `name` returns; raises ExtensionError for one that is not there."""
    functions = {
        key: value
        for module in BLOCKS
        for key, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
    }
    if name not in functions:
        raise ExtensionError(f"There is no computed block {name!r}: there are {', '.join(functions)}.")
    return functions[name]()


def labs(root):
    """Return the paths of the labs, in course order."""
    return sorted(Path(root, "notebooks").glob("[0-9]*.ipynb"))


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


def _name_the_repository(app, config):
    """Take the addresses of the repository and of the published book from the environment, where it has them."""
    repository = os.environ.get("BOOK_REPOSITORY_URL")
    if repository:
        config.html_theme_options |= {
            "repository_url": repository,
            # The theme knows github.com and its like by name, and asks for every other host.
            "repository_provider": next((name for name in ("gitlab", "bitbucket") if name in repository), "github"),
            "repository_branch": os.environ.get("BOOK_BRANCH", "main"),
            "use_repository_button": True,
            "use_issues_button": True,
        }
    config.html_baseurl = os.environ.get("BOOK_BASE_URL", config.html_baseurl)


def _plain_docstring(app, what, name, obj, options, lines):
    """Our docstrings are plain prose: `name` is code there, and an indented block is a command."""
    prose = [line if line.startswith("    ") else re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]
    lines[:] = re.sub(r"\n\n(?=    \S)", "\n\n::\n\n", "\n".join(prose)).splitlines()
