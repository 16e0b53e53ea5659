"""The book's own Sphinx extension: what the pages compute, and what is done to them after Sphinx wrote them.

Listed in _config.yml under sphinx.local_extensions. Each part has a `setup` of its own.
"""

from course import (
    archive,
    blocks,
    deepspeed_docs,
    executed,
    glossary,
    head,
    labs,
    math,
    reference,
    repository,
    sources,
    surprises,
    widgets,
)
from course.finished import pages, search

READ = (labs, executed, surprises, blocks, widgets, math, reference, archive, sources, deepspeed_docs, glossary)
WRITTEN = (repository, head, pages, search)


def setup(app):
    """Register what the pages and _config.yml name."""
    for part in (*READ, *WRITTEN):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
