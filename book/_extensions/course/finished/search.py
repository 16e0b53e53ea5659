"""The index of the book's search: every section of every page on its own, made by Pagefind from the finished pages.

book/_static/search.js searches it on search.html. Opened from the disk, where a browser loads no modules, that script
takes Sphinx's own index instead, which knows pages and not sections.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import NamedTuple

from bs4 import BeautifulSoup
from sphinx.errors import ExtensionError

FOLDER = "pagefind"  # of the built book
# How much a word counts in a section's text, and that many times more in its heading; 1 where nothing else is said.
WEIGHTS = {"book/troubleshooting.html": 4, "book/reference.html": 0.2}
HEADING_WEIGHT, MOST_WEIGHT = 4, 10  # the second is Pagefind's own limit
# Not text: what a script draws, and what stands beside every heading.
SKIPPED = "script, style, svg, .headerlink, .lab-figure-plot, .error-finder"
# Of what Pagefind writes, only the engine and the index are used; its boxes and buttons are not.
UNUSED = ("pagefind-*ui*", "pagefind-highlight.js", "wasm.unknown.pagefind")


class Section(NamedTuple):
    """A section of a page: where it is, below the book's folder, its title and its page's, its text."""

    address: str
    title: str
    page_title: str
    text: str


def setup(app):
    """Register the step, after the pages are finished."""
    app.connect("build-finished", _write_index, priority=900)


def _write_index(app, exception):
    if exception is None and app.builder.format == "html":
        write_index(Path(app.outdir))


def write_index(out):
    """Index the pages of a built book in a folder of its own; raises ExtensionError where Pagefind cannot."""
    pages = sorted(path for kind in ("book", "notebooks") for path in out.glob(f"{kind}/*.html"))
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="sections-") as folder:
        for page in pages:
            found = sections(page.read_text(encoding="utf-8"), page.relative_to(out).as_posix())
            for number, section in enumerate(found):
                file = Path(folder, page.stem, f"{number}.html")
                file.parent.mkdir(exist_ok=True)
                file.write_text(_as_page(section), encoding="utf-8")
        # Its Python interface would take 0.1 s for each section.
        command = [sys.executable, "-m", "pagefind", "--silent", "--site", folder, "--output-path", str(out / FOLDER)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ExtensionError(f"Pagefind made no index for the search: {done.stderr or done.stdout}")
    for pattern in UNUSED:
        for file in (out / FOLDER).glob(pattern):
            file.unlink()


def sections(html, address):
    """Return the sections of a page's article, the inner ones on their own and not within the outer ones."""
    article = BeautifulSoup(html, "html.parser").select_one("article.bd-article")
    if article is None or article.h1 is None:
        return []
    for skipped in article.select(SKIPPED):
        skipped.decompose()
    page_title, found = _words(article.h1), []
    for section in reversed(article.select("section[id]")):  # the inner ones first: each is taken out
        section.extract()
        heading = section.find(re.compile("^h[1-6]$"))
        if heading is None:
            continue
        heading.extract()
        label = section.find("span", id=True, recursive=False)  # a label of ours stays when the heading changes
        anchor = label["id"] if label else section["id"]
        found.append(Section(f"{address}#{anchor}", _words(heading), page_title, _words(section)))
    return found[::-1]


def _words(element):
    return " ".join(element.get_text(" ").split())


def _as_page(section):
    """A section as a page for Pagefind, with what the results show as its metadata."""
    weight = WEIGHTS.get(section.address.partition("#")[0], 1)
    return (
        f'<html lang="en"><head><meta data-pagefind-meta="address[content]" content="{escape(section.address)}">'
        f'<meta data-pagefind-meta="page[content]" content="{escape(section.page_title)}"></head><body>'
        f'<h1 data-pagefind-weight="{min(HEADING_WEIGHT * weight, MOST_WEIGHT)}">{escape(section.title)}</h1>'
        f'<p data-pagefind-weight="{weight}">{escape(section.text)}</p></body></html>'
    )
