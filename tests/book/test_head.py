"""What the head of a page says to search engines and previews, on every page of the built book."""

import html
import re

import pytest
from conftest import HTML, needs_book

pytestmark = needs_book
PAGES = sorted([*HTML.glob("book/*.html"), *HTML.glob("notebooks/*.html")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_has_one_title_one_viewport_and_a_description_of_its_own(path):
    head = path.read_text(encoding="utf-8").partition("</head>")[0]
    (title,) = re.findall("<title>(.*?)</title>", head)
    name, _, book = title.partition(" &#8212; ")
    assert name != book
    assert len(re.findall('<meta name="viewport"', head)) == 1
    (description,) = re.findall('<meta name="description" content="([^"]*)"', head)
    assert 20 < len(html.unescape(description)) <= 204
    assert f'<meta property="og:description" content="{description}"' in head


def test_no_two_pages_have_the_same_description():
    heads = [path.read_text(encoding="utf-8").partition("</head>")[0] for path in PAGES]
    said = [re.search('<meta name="description" content="([^"]*)"', head)[1] for head in heads]
    assert len(set(said)) == len(said)


def test_a_book_without_an_address_names_none():
    """These pages were built without BOOK_BASE_URL; test_book.py builds some with it."""
    page = (HTML / "book" / "intro.html").read_text(encoding="utf-8")
    assert "og:image" not in page and 'rel="canonical"' not in page and "/edit/" not in page
    assert not (HTML / "sitemap.xml").exists()
    assert "Allow: /" in (HTML / "robots.txt").read_text(encoding="utf-8")
    assert "There is no such page" in (HTML / "404.html").read_text(encoding="utf-8")
