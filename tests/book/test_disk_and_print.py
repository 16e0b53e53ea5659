"""A page that was opened from the disk works as a served one does, and a printed one hides nothing."""

import pytest
from conftest import HTML, needs_book, needs_chromium

pytestmark = [needs_chromium, needs_book]


@pytest.fixture
def opened(browser):
    """Open a page of the built book from the disk; the test fails if it asks anybody or its console shows an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))

    def open_page(page):
        tab.goto((HTML / page).as_uri())
        return tab

    yield open_page
    context.close()
    assert wrong == []


def test_the_widgets_work_from_the_disk(opened):
    tab = opened("book/selector.html")
    tab.locator(".lab-widget.is-live .role-bar").first.wait_for()
    tab = opened("book/intro.html")
    tab.get_by_role("button", name="Next").click()
    assert tab.locator(".step-through .told").inner_text().startswith("2/")


FOLDED = "article details:not([open])"
CUT = """() => [...document.querySelectorAll("article pre")].filter(
  (box) => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1).map((box) => box.textContent.slice(0, 80))"""


def test_a_printed_lab_is_whole(opened):
    tab = opened("notebooks/03_training.html")
    folded = tab.locator(FOLDED).count()
    assert folded > 20
    tab.evaluate(
        f"addEventListener('beforeprint', () => (window.folded = document.querySelectorAll('{FOLDED}').length))"
    )
    tab.pdf(format="A4")
    assert tab.evaluate("window.folded") == 0, "an answer is printed folded"
    assert tab.locator(FOLDED).count() == folded, "they are as the reader left them"
    tab.set_viewport_size({"width": 700, "height": 1000})  # A4 within its margins
    tab.emulate_media(media="print")
    assert tab.evaluate(CUT) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 700
    drawn = "plots => plots.every((plot) => plot.querySelector('svg').getBoundingClientRect().height > 100)"
    assert tab.locator(".lab-figure-plot").evaluate_all(drawn), "a figure that was not scrolled to is blank"
    adjust = "ranks => ranks.map((box) => getComputedStyle(box).printColorAdjust)"
    assert set(tab.locator(".ranks, .lab-figure").evaluate_all(adjust)) == {"exact"}
