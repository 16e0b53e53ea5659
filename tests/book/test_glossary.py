"""A page links the words of the glossary where it first uses them, and names DeepSpeed's own documentation."""

import sys
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from conftest import HTML, ROOT, needs_book
from docutils import nodes

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course import glossary
from course.deepspeed_docs import PAGES
from course.sources import link_sources

pytestmark = [needs_book, pytest.mark.slow]


def article(page):
    return BeautifulSoup((HTML / f"{page}.html").read_text(encoding="utf-8"), "html.parser").select_one("article")


@pytest.mark.parametrize("page", ["book/zero", "book/stuck", "notebooks/02_initialize", "notebooks/05_checkpointing"])
def test_each_word_is_linked_once_and_to_its_entry(page):
    anchors = {term["id"] for term in article("book/glossary").select("dt[id]")}
    links = article(page).select("a.term-link")
    targets = [link["href"].partition("#")[2] for link in links]
    assert len(targets) > 5 and len(set(targets)) == len(targets)
    assert set(targets) <= anchors
    for link, target in zip(links, targets, strict=True):
        words = target.removeprefix("term-").replace("-", " ").lower()
        assert link.text.lower().replace("-", " ").rstrip("s") == words.rstrip("s")
        assert len(link["title"].split()) > 3
        assert not link.find_parent(["code", "pre", "h1", "h2", "h3", "strong"])


def test_the_first_use_is_linked_and_the_longest_term():
    app = SimpleNamespace(builder=SimpleNamespace(get_relative_uri=lambda page, other: "glossary.html"))
    terms = {name: (f"term-{name}", "meaning") for name in ("rank", "activation", "activation checkpointing")}
    text = "Rankings: all ranks, one rank, activation checkpointing, a reactivation"
    found = glossary._with_links(app, "book/zero", text, terms, set(terms))
    assert [link.astext() for _, link in found] == ["ranks", "activation checkpointing"]


@pytest.mark.parametrize(("text", "address"), [
    ("see https://example.org/a_b.html.", "https://example.org/a_b.html"),
    ("(2020, arXiv 1910.02054, section 5)", "https://arxiv.org/abs/1910.02054"),
    ("DeepSpeed issue 6936 asks", "https://github.com/deepspeedai/DeepSpeed/issues/6936"),
    ("DeepSpeed's pull request 8068", "https://github.com/deepspeedai/DeepSpeed/pull/8068"),
])  # fmt: skip
def test_a_source_in_words_is_a_link(text, address):
    paragraph = nodes.paragraph("", text)
    link_sources(paragraph)
    (link,) = paragraph.findall(nodes.reference)
    assert link["refuri"] == address and paragraph.astext() == text


def test_no_source_of_a_cited_table_is_left_as_words():
    page = article("book/scaling")
    cited = page.find("p", string=lambda text: text and text.startswith("Cited, retrieved")).find_next("ul")
    assert len(cited.select("li")) >= 3 and all(item.select("a[href^='https://']") for item in cited.select("li"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_the_documentation_of_what_it_teaches(page):
    (line,) = article(page).select("p.deepspeed-docs")
    assert [link["href"] for link in line.select("a")] == [address for _, address in PAGES[page]]
