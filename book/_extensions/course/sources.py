"""Sources that a page names in words become links: addresses, papers on arXiv, DeepSpeed's issues and pull requests."""

import re

from docutils import nodes

from course.prose import insert_links, prose_of

DEEPSPEED = "https://github.com/deepspeedai/DeepSpeed"
SOURCE = re.compile(
    r"(?P<address>https?://[^\s<>()]*[\w/])"
    r"|arXiv (?P<paper>\d{4}\.\d{4,5})"
    r"|DeepSpeed(?:'s)? (?:issue (?P<issue>\d+)|pull request (?P<pull>\d+))"
)


def setup(app):
    """Register the step."""
    app.connect("doctree-read", lambda app, doctree: link_sources(doctree))


def link_sources(doctree):
    """Make links of the sources in a page's prose."""
    for text in prose_of(doctree):
        matches = SOURCE.finditer(text.astext())
        insert_links(text, [(match, nodes.reference("", match[0], refuri=address_of(match))) for match in matches])


def address_of(match):
    """Return the address of what SOURCE found."""
    kind, name = match.lastgroup, match[match.lastgroup]
    places = {"paper": "https://arxiv.org/abs/", "issue": f"{DEEPSPEED}/issues/", "pull": f"{DEEPSPEED}/pull/"}
    return places.get(kind, "") + name
