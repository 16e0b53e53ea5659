"""The book's search: sections with their anchors, Troubleshooting before the API, and a way without a server."""

import functools
import http.server
import shutil
import sys
import threading

import pytest
from conftest import ROOT, needs_chromium
from sphinx.errors import ExtensionError

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.finished import search

HEAD = '<meta charset="utf-8"><link rel="icon" href="data:,">'
PAGE = f'<html lang="en"><head>{HEAD}</head><body><nav>memory</nav><article class="bd-article">{{}}</article></html>'
TROUBLE = """<section id="troubleshooting">
<h1>Troubleshooting<a class="headerlink" href="#">#</a></h1><p>Find the text.</p>
<div class="error-finder">every entry once more</div>
<section id="memory"><h2>Memory<a class="headerlink" href="#">#</a></h2>
<section id="cuda-out-of-memory">
<span id="trouble-oom"></span><h3>CUDA out of memory</h3><p>Take a smaller batch.</p></section>
</section></section>"""
API = """<section id="api"><h1>API reference</h1><section id="module-memory"><h2>labsupport.memory</h2>
<p>memory memory memory out of memory: what a rank holds in memory.</p></section></section>"""
LAB = '<section id="lab"><h1>A lab</h1>{}</section>'.format(
    "".join(f'<section id="part-{n}"><h2>Part {n}</h2><p>a gradient, number {n}</p></section>' for n in range(12))
)
SEARCH_PAGE = f"""<html data-content_root="./"><head>{HEAD}<script>const DOCUMENTATION_OPTIONS = {{}};</script>
<script src="_static/search.js"></script></head><body><div class="bd-search-container"><form><input name="q"></form>
<div id="search-results"></div></div></body></html>"""


def test_a_section_has_its_own_text_and_the_anchor_that_stays():
    found = search.sections(PAGE.format(TROUBLE), "book/troubleshooting.html")
    assert found == [
        ("book/troubleshooting.html#troubleshooting", "Troubleshooting", "Troubleshooting", "Find the text."),
        ("book/troubleshooting.html#memory", "Memory", "Troubleshooting", ""),
        ("book/troubleshooting.html#trouble-oom", "CUDA out of memory", "Troubleshooting", "Take a smaller batch."),
    ]
    assert search.sections("<html><body>redirect</body></html>", "index.html") == []


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A small built book with an index."""
    out = tmp_path_factory.mktemp("html")
    for name, article in {"book/troubleshooting": TROUBLE, "book/reference": API, "notebooks/lab": LAB}.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / f"{name}.html").write_text(PAGE.format(article))
    (out / "search.html").write_text(SEARCH_PAGE)
    (out / "_static").mkdir()
    shutil.copy(ROOT / "book" / "_static" / "search.js", out / "_static")
    for file in ("_static/searchtools.js", "_static/language_data.js", "searchindex.js"):
        (out / file).write_text(f"document.body.append('{file} loaded; '); document.title = typeof Scorer;")
    search.write_index(out)
    return out


def test_only_the_engine_and_the_index_are_kept(book):
    names = {path.name for path in (book / search.FOLDER).iterdir()}
    assert {"pagefind.js", "pagefind-entry.json", "index", "fragment", "wasm.en.pagefind"} <= names
    assert not any("ui" in name for name in names)
    assert len(list((book / search.FOLDER / "fragment").iterdir())) == 3 + 2 + 13


def test_without_pagefind_the_build_fails_with_its_words(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    monkeypatch.setattr(search.sys, "executable", shutil.which("false"))
    with pytest.raises(ExtensionError, match="Pagefind made no index"):
        search.write_index(tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(book):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(book)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def answers(tab):
    tab.locator("#search-results [role=status]").wait_for()
    links = tab.locator("#search-results li > a")
    return [link.get_attribute("href") for link in links.all()]


@needs_chromium
def test_sections_are_found_and_troubleshooting_comes_before_the_api(tab, address):
    tab.goto(f"{address}/search.html?q=out+of+memory")
    assert answers(tab) == ["book/troubleshooting.html#trouble-oom", "book/reference.html#module-memory"]
    first = tab.locator("#search-results li").first
    assert "Troubleshooting" in first.inner_text() and first.locator("mark").count() >= 2
    assert tab.locator("input[name=q]").input_value() == "out of memory"
    first.locator("a").click()
    assert tab.url == f"{address}/book/troubleshooting.html#trouble-oom"


@needs_chromium
def test_more_results_come_when_they_are_asked_for(tab, address):
    tab.goto(f"{address}/search.html?q=gradient")
    assert len(answers(tab)) == 10
    tab.get_by_role("button", name="More").click()
    tab.locator("#search-results li").nth(11).wait_for()
    assert len(answers(tab)) == 12 and not tab.get_by_role("button", name="More").is_visible()
    assert tab.evaluate("document.activeElement.getAttribute('href')") == answers(tab)[10]


@needs_chromium
def test_what_is_nowhere_is_told(tab, address):
    tab.goto(f"{address}/search.html?q=<b>qwertz")
    assert answers(tab) == []
    assert tab.get_by_role("status").inner_text() == "No section has “<b>qwertz”."
    tab.goto(f"{address}/search.html")
    assert tab.locator("#search-results > *").count() == 0


@needs_chromium
def test_from_the_disk_sphinx_searches_with_the_same_weights(browser, book):
    context = browser.new_context()
    try:
        tab = context.new_page()
        tab.goto((book / "search.html").as_uri() + "?q=memory")
        tab.get_by_text("searchindex.js loaded").wait_for()
        assert tab.title() == "object", "the weights are there before Sphinx's script"
        score = "(page) => Scorer.score([page, 'title', '', null, 10, 'file'])"
        scores = [tab.evaluate(score, page) for page in ("book/troubleshooting", "notebooks/lab", "book/reference")]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3
        assert tab.evaluate("DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY") is False
    finally:
        context.close()


def test_the_weights_are_the_same_in_both():
    script = (ROOT / "book" / "_static" / "search.js").read_text()
    for page, weight in search.WEIGHTS.items():
        assert f'"{page.removesuffix(".html")}": {weight}' in script
