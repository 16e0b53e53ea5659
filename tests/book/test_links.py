"""Every link within the repository leads somewhere, told without building the book."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.blocks import computed_block

LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)<?([^)\s>]+)>?\)")
LABEL = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")])


def text_of(path):
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


def without_code(text):
    return re.sub(r"^(```+|~~~+).*?^\1 *$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


TEXTS = {path: text_of(path) for path in PAGES}
TEXTS[ROOT / "book" / "troubleshooting.md"] += "\n\n" + computed_block("troubleshooting_entries")
LABELS = {label for text in TEXTS.values() for label in LABEL.findall(text)}


def anchors_of(text):
    """What GitHub and Sphinx call a page's headings in an address, and its own labels."""
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text))
    return {*slugs, *LABEL.findall(text)}


def broken_links(path, text):
    broken = []
    for target in LINK.findall(without_code(text)):
        place, _, anchor = target.partition("#")
        file = Path(path.parent, place).resolve() if place else path
        if (
            place
            and not file.exists()
            or anchor
            and anchor not in LABELS
            and anchor not in anchors_of(TEXTS.get(file) or file.read_text())
        ):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(path):
    assert broken_links(path, TEXTS[path]) == []


def test_a_broken_link_is_seen():
    page = ROOT / "book" / "setup.md"
    bad = "[a](no-such-file.md) [b](setup.md#no-such-heading) [c](#no-such-label) `[code](not-a-link.md)` [d](setup.md)"
    assert broken_links(page, bad) == ["no-such-file.md", "setup.md#no-such-heading", "#no-such-label"]
