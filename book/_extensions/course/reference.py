"""Our docstrings as book/reference.md shows them, and the list of names at its top, ```{names}```."""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

CODE = re.compile(r"(?:from \S+ import |import \w|python |PYTHONPATH=)")  # how an example in a docstring begins


class names(nodes.General, nodes.Element):
    """Where the list of names comes to stand."""


def setup(app):
    """Register autodoc, what is done to a docstring before it, and the directive."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _plain_docstring)
    app.add_directive("names", NamesDirective)
    app.connect("doctree-read", _list_names)


class NamesDirective(SphinxDirective):
    """Every function and class that the page describes, by section, each a link."""

    def run(self):
        """Return the place of the list."""
        return [names()]


def _list_names(app, doctree):
    for place in list(doctree.findall(names)):
        lists = [_names_of(section) for section in doctree.findall(nodes.section)]
        place.replace_self(nodes.bullet_list("", *filter(None, lists), classes=["names"]))


def _names_of(section):
    """A list item with a section's title and the names described in it, or None where there are none."""
    found = []
    for described in section.findall(addnodes.desc):
        signature = described.next_node(addnodes.desc_signature)
        if _is_within(described.parent, addnodes.desc) or _nearest_section(described) is not section:
            continue  # a method, or a name of an inner section
        found += [nodes.Text(", ")] if found else []
        name = nodes.literal("", signature["fullname"])
        found.append(nodes.reference("", "", name, refid=signature["ids"][0], internal=True))
    title = nodes.strong("", section.next_node(nodes.title).astext())
    return nodes.list_item("", nodes.paragraph("", "", title, nodes.Text(": "), *found)) if found else None


def _is_within(node, kind):
    return node is not None and (isinstance(node, kind) or _is_within(node.parent, kind))


def _nearest_section(node):
    return node if isinstance(node, nodes.section) else _nearest_section(node.parent)


def _plain_docstring(app, what, name, obj, options, lines):
    """Our docstrings are plain prose: `name` is code there, and an indented block or an example is a command."""
    paragraphs = map(_paragraph, "\n".join(lines).split("\n\n"))
    lines[:] = "\n\n".join(paragraphs).splitlines()


def _paragraph(text):
    if CODE.match(text):
        text = re.sub(r"^", "    ", text, flags=re.MULTILINE)
    if text.startswith("    "):
        return f"::\n\n{text}"
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)
