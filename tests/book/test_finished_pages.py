"""What the build does to the written pages: icons drawn in place, nothing loaded in vain, pictures with own ids."""

import re
import sys

import pytest
from conftest import ROOT
from sphinx.errors import ExtensionError

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.finished import icons, pages, pictures

from labsupport.plots import loss_curves

PAGE = """<html lang="en" data-theme="auto"><head>
  <script>document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";</script>
  <!-- So that users can add custom icons -->
  <script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
  <script src="../_static/searchtools.js"></script>
  <script src="../_static/language_data.js"></script>
  <script src="../searchindex.js"></script>
</head><body><header id="pst-header"><button class="primary-toggle"></button>
</header><i class="theme-switch fa-solid fa-moon   fa-lg" data-mode="dark" title="Dark"></i></body></html>"""
PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><defs><clipPath id="ab"><rect width="9.87654"/>'
    '</clipPath><clipPath id="a"/></defs><g class="empty"/><path clip-path="url(#ab)" '
    'd="M0,1V2.04H1V2.04H2V2.04H3V5" style="stroke: rgb(1, 2, 3); stroke-opacity: 1;"/></svg>'
)


def test_an_icon_keeps_its_label_and_its_drawing_is_the_themes():
    page = pages.finished_page(PAGE, "zero.html")
    moon = icons.theme_icons()["fas"]["moon"]
    assert f'd="{moon.path}"' in page and f'viewBox="0 0 {moon.width} {moon.height}"' in page
    assert 'data-mode="dark"' in page and "<title>Dark</title>" in page and "theme-switch" in page
    assert "CC BY 4.0" in page and "<i" not in page


def test_an_icon_that_the_theme_lacks_fails_the_build():
    with pytest.raises(ExtensionError, match="names the icon 'no-such-thing'"):
        icons.inline_icons('<i class="fa-solid fa-no-such-thing"></i>')


def test_a_page_loads_neither_the_icons_nor_the_search():
    page = pages.finished_page(PAGE, "zero.html")
    assert not re.search(r"<script[^>]*src=", page) and "prefers-color-scheme" in page and 'data-theme="light"' in page
    assert "primary-toggle" not in page
    assert pages.finished_page(page, "zero.html") == page, "a page that was finished stays as it is"
    search = pages.finished_page(PAGE, "search.html")
    assert re.findall(r'<script[^>]*src="([^"]*)"', search) == ["_static/search.js"], "which loads what it needs"
    assert pages.finished_page(search, "search.html") == search


def test_another_form_of_the_themes_pages_fails_the_build():
    with pytest.raises(ExtensionError, match="searchindex"):
        pages.finished_page(PAGE.replace("searchindex.js", "index.js"), "zero.html")


def test_the_style_sheet_draws_only_what_the_theme_wrote_in_the_font():
    sheet = (
        ':root{--pst-icon-bell:"\uf0f3";--pst-icon-admonition-note:var(--pst-icon-bell)}.fa-bars:before{content:"\\f0c9"}'
        ".note:after{content:var(--pst-icon-admonition-note);left:0}@font-face{font-family:Font Awesome;src:url(x)}"
    )
    slim = icons.without_icon_font(sheet)
    assert "fa-bars" not in slim and "@font-face" not in slim and ".note:after" in slim
    rules = icons.drawn_rules(slim)
    assert rules.count("mask:") == 1 and rules.splitlines()[1].startswith(".note:after {")
    assert icons.theme_icons()["fas"]["bell"].path[:40] in rules


def test_a_picture_has_the_pages_colours_short_paths_and_ids_of_its_own():
    slim = pictures._slim(PICTURE, "wide")
    assert 'd="M0,1V2H3V5"' in slim and 'width="9.9"' in slim and "empty" not in slim
    assert "var(--lab-figure-text)" in slim and "stroke-opacity" not in slim
    figure = loss_curves({"one": [3.0, 2.0]}, "falls from 3 to 2", "alt")._repr_mimebundle_()["text/html"]
    other = figure.replace("falls", "goes")
    page = pictures.insert(figure + other, {figure: slim, other: slim})
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) == 4
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_without_a_browser_the_build_says_so_and_leaves_the_figures(tmp_path, monkeypatch):
    figure = loss_curves({"one": [3.0, 2.0]}, "falls from 3 to 2", "alt")._repr_mimebundle_()["text/html"]
    for name in ("figures.js", "plotly.min.js"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    said = []
    monkeypatch.setattr(pictures.logger, "info", said.append)
    assert pictures.draw([figure], tmp_path, tmp_path / "cache") == {}
    assert len(said) == 1 and "install the package chromium" in said[0]
    assert pictures.insert(figure, {}) == figure
