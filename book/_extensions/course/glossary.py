"""The words of book/glossary.md: a page links each where it first uses it, with its meaning under the pointer."""

import re

from docutils import nodes
from sphinx import addnodes

from course.prose import insert_links, prose_of

GLOSSARY = "book/glossary"
UNLINKED = {GLOSSARY, "book/reference", "book/references"}
# Used in other senses too, so that a link would often be wrong.
AMBIGUOUS = {"boundary", "engine", "peak", "slot", "tag"}


def setup(app):
    """Register the step: the glossary has been read when a page is written."""
    app.connect("doctree-resolved", _link)


def _link(app, doctree, docname):
    if docname in UNLINKED or GLOSSARY not in app.env.found_docs:
        return
    terms = _terms(app)
    left = set(terms)
    for text in prose_of(doctree):
        if left:
            insert_links(text, _with_links(app, docname, text.astext(), terms, left))


def _terms(app):
    """{term in lower case: (its anchor, what it means)}."""
    if not hasattr(app, "glossary_terms"):
        found = {}
        for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
            meaning = _meaning(next(item.findall(nodes.definition)).next_node(nodes.paragraph))
            for term in item.findall(nodes.term):
                name = term.astext().lower()
                if name not in AMBIGUOUS:
                    found[name] = (term["ids"][0], meaning)
        app.glossary_terms = found
    return app.glossary_terms


def _meaning(paragraph):
    """The words of a definition, without its citations."""
    words = paragraph.deepcopy()
    for reference in list(words.findall(addnodes.pending_xref)):
        if reference["refdomain"] == "cite":
            reference.parent.remove(reference)
    return " ".join(words.astext().split()).replace(" .", ".").replace(" ,", ",")


def _with_links(app, docname, text, terms, left):
    """[(match, link)] for the first use of each term that is left, which is then taken out of it."""
    names = sorted(left, key=len, reverse=True)  # "activation checkpointing" before "activation"
    words = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, names))})(s?)(?![\w-])", re.IGNORECASE)
    found = []
    for match in words.finditer(text):
        name = match[1].lower()
        if name in left:
            left.discard(name)
            anchor, meaning = terms[name]
            address = f"{app.builder.get_relative_uri(docname, GLOSSARY)}#{anchor}"
            link = nodes.reference("", match[0], internal=True, refuri=address, reftitle=meaning, classes=["term-link"])
            found.append((match, link))
    return found
