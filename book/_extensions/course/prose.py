"""Links put into the prose of a page: not into code, titles, or what is a link already."""

from docutils import nodes
from sphinx import addnodes

NOT_PROSE = (nodes.reference, nodes.literal, nodes.title, nodes.strong, nodes.literal_block, nodes.raw,
             addnodes.pending_xref, addnodes.desc)  # fmt: skip


def prose_of(doctree):
    """Return the text nodes of a page's prose, in their order."""
    return [text for text in doctree.findall(nodes.Text) if _is_prose(text)]


def insert_links(text, found):
    """Put links into a text node. found: [(match of its text, the link that stands for it)], in their order."""
    words, parts, done = text.astext(), [], 0
    for match, link in found:
        parts += [nodes.Text(words[done : match.start()]), link]
        done = match.end()
    if parts:
        text.parent.replace(text, [*parts, nodes.Text(words[done:])])


def _is_prose(text):
    node, within_paragraph = text.parent, False
    while node is not None:
        if isinstance(node, NOT_PROSE):
            return False
        within_paragraph |= isinstance(node, nodes.paragraph)
        node = node.parent
    return within_paragraph
