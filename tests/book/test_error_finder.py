"""The box of the troubleshooting page: from files alone, a pasted error finds its entry, as the command does."""

import re
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, needs_chromium

from labsupport.symptoms.entries import symptoms
from labsupport.symptoms.logs import find_in_log

pytestmark = needs_chromium
CONF = """\
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_nb", "course.blocks"]
html_theme = "basic"
html_static_path = ["_static"]
html_css_files = ["error_finder.css"]
html_js_files = ["error_finder.js"]
"""
SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of the page alone, built without the book, in a file."""
    from sphinx.testing.util import SphinxTestApp

    folder = tmp_path_factory.mktemp("page")
    (folder / "conf.py").write_text(CONF.format(extensions=str(ROOT / "book" / "_extensions")))
    shutil.copytree(ROOT / "book" / "_static", folder / "_static")
    shutil.copy(ROOT / "book" / "troubleshooting.md", folder / "index.md")
    app = SphinxTestApp("html", srcdir=folder, builddir=folder / "_build")
    app.build()
    app.cleanup()
    return (folder / "_build" / "html" / "index.html").as_uri()


@pytest.fixture
def tab(browser, page, request):
    """The page in the browser; the test fails if it asks for anything but files, or its console shows an error."""
    size = SCREENS[getattr(request, "param", "desktop")]
    context = browser.new_context(viewport=size, color_scheme="dark" if size["width"] < 600 else "light")
    tab = context.new_page()
    errors, asked = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page)
    yield tab
    context.close()
    assert errors == [] and [url for url in asked if not url.startswith("file:")] == []


def paste(tab, text):
    """Paste a text, wait for the answer, and return what the page says and the titles of the entries."""
    tab.get_by_label("Paste an error").fill(text)
    tab.locator(".error-finder:not(.is-waiting)").wait_for()
    return tab.get_by_role("status").text_content(), tab.locator(".error-finder-found > li > a").all_inner_texts()


@pytest.mark.parametrize("tab", SCREENS, indirect=True)
def test_a_pasted_error_shows_its_entry(tab):
    text = (
        "\x1b[31m[rank1]: RuntimeError: Ninja is required to load C++ extensions\x1b[0m (pip install ninja)\n[rank0]: x"
    )
    said, titles = paste(tab, text)
    assert said == "One entry matches." and titles == ["Ninja is required"]
    answer = tab.locator(".error-finder-found > li")
    assert answer.locator(".error-finder-line").inner_text().startswith("[rank1]: RuntimeError: Ninja is required")
    assert "Cause. PyTorch compiles" in answer.inner_text() and "Fix. Use the make targets" in answer.inner_text()
    assert tab.evaluate("document.querySelector('.error-finder').scrollWidth <= innerWidth")
    assert tab.evaluate("new Set([...document.querySelectorAll('[id]')].map((each) => each.id)).size") == (
        tab.locator("[id]").count()
    )
    found = Axe().run(tab, context=".error-finder", options={"preload": False}).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    answer.locator("a").first.click()
    assert tab.url.endswith("#trouble-no-ninja")
    assert tab.get_by_role("heading", name="Ninja is required").evaluate(
        "(heading) => { const { top } = heading.getBoundingClientRect(); return top >= -5 && top < innerHeight; }"
    )


def test_nonsense_is_told(tab):
    said, titles = paste(tab, "qwertz uiop asdf")
    assert said.startswith("No entry matches.") and titles == []
    said, titles = paste(tab, "ValueError: of my own\n" * 1000)
    assert said.startswith("No entry matches.") and titles == []
    assert paste(tab, "  ") == ("", [])


def test_it_finds_what_the_command_finds_in_the_same_order(tab):
    """Every entry has a text of its own: so the patterns mean the same to JavaScript as to Python."""
    log = "\n".join(each.text for each in reversed(symptoms()) if each.text)
    expected = [match.symptom.title for match in find_in_log(log)]
    said, titles = paste(tab, log)
    assert said.startswith(f"{len(expected)} entries match.") and len(expected) > 100
    smooth = str.maketrans("‘’“”", "''\"\"")
    assert [title.translate(smooth) for title in titles] == expected


def test_a_message_that_was_wrapped_is_found_and_so_are_words(tab):
    assert paste(tab, "Exception: Current loss scale\nalready at    minimum")[1] == [
        "Current loss scale already at minimum"
    ]
    said, titles = paste(tab, "loss scale minimum")
    assert said.startswith("No entry has this text.") and "Current loss scale already at minimum" in titles


def test_the_keyboard_alone_is_enough(tab):
    box = tab.get_by_label("Paste an error")
    for _ in range(30):
        tab.keyboard.press("Tab")
        if box.evaluate("(box) => box === document.activeElement"):
            break
    tab.keyboard.insert_text("CUDA out of memory")
    link = tab.locator(".error-finder-found > li > a")
    link.wait_for()
    assert link.inner_text().startswith("CUDA out of memory")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Clear"
    tab.keyboard.press("Enter")
    assert box.input_value() == "" and link.count() == 0 and box.evaluate("(box) => box === document.activeElement")


def test_the_patterns_on_the_page_are_those_of_the_entries(page):
    from pathlib import Path
    from urllib.request import url2pathname

    html = Path(url2pathname(page.removeprefix("file://"))).read_text()
    assert html.count('class="error-finder"') == 1
    assert set(re.findall(r'"anchor":"([\w-]+)"', html)) == {each.anchor for each in symptoms() if each.patterns}
