"""The first page: what a reader sees without scrolling works, and what it claims is what the labs show."""

import re
import sys

import pytest
from conftest import HTML, ROOT, needs_book, needs_chromium
from sphinx.errors import ExtensionError

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course import executed, surprises
from course.labs import labs, reading_minutes

FIRST = "book/intro.html"


@needs_chromium
@needs_book
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_has_the_promise_the_start_and_on_a_desktop_the_picture(tab, site, width, height):
    tab.set_viewport_size({"width": width, "height": height})
    tab.goto(f"{site}/{FIRST}")
    start = tab.locator(".start-button a")
    assert start.bounding_box()["y"] + start.bounding_box()["height"] < height
    first_lab = labs(ROOT)[0]
    assert start.inner_text() == f"Start with Lab 01: {reading_minutes(first_lab)} minutes"
    assert start.get_attribute("href").endswith(f"{first_lab.stem}.html")
    following = tab.get_by_role("button", name="Next")
    if width > 1000:
        assert following.bounding_box()["y"] < height - 200
    told = tab.locator(".step-through .told")
    before = told.inner_text()
    assert before.startswith("1/")
    following.click()
    assert told.inner_text().startswith("2/") and told.inner_text() != before
    assert tab.locator(".step-through.small").bounding_box()["height"] < 480, "on a phone it fits the screen"


@needs_chromium
@needs_book
def test_a_surprise_leads_to_the_cell_that_shows_its_numbers(tab, site):
    tab.goto(f"{site}/{FIRST}")
    links = [link.get_attribute("href") for link in tab.locator(".surprises strong a").all()]
    said = tab.locator(".surprises > p").all_inner_texts()
    assert len(links) == len(said) == len(surprises.SURPRISES) == 3
    shown = []
    for link in links:
        tab.goto(f"{site}/book/{link}")
        section = tab.locator(f"section[id='{link.partition('#')[2]}']")
        assert section.count() == 1, link
        shown.append(section.inner_text())
    typo, buckets, messages = said
    assert "zero_optimisation: accepted, and the stage in force is 0" in shown[0] and "trains at stage 0" in typo
    at_rest = {stage: row_of(shown[1], stage)[0] for stage in (0, 3)}
    assert f"rests at {at_rest[3]} MiB a rank at stage 3, and at {at_rest[0]} MiB at stage 0" in buckets
    sent, paper = re.search(r"stage 2 ([\d.]+) \(paper ([\d.]+)\)", shown[2]).groups()
    assert f"stage 2 sends {sent} times" in messages and f"The paper says {paper}." in messages
    assert float(at_rest[3]) > 100 * float(at_rest[0]) and float(sent) > float(paper)


def row_of(text, stage):
    """The words of the first row of a table that begins with a stage, without the stage."""
    return re.search(rf"^stage {stage}\s+(.+)$", text, re.MULTILINE)[1].split()


def test_a_surprise_that_no_cell_shows_fails_the_build(monkeypatch):
    monkeypatch.setattr(surprises, "find_cell", lambda root, cell: (labs(ROOT)[0], "a-heading", "stage 0 rests at 1.7"))
    with pytest.raises(ExtensionError, match="no longer prints"):
        surprises.in_markdown(ROOT, surprises.SURPRISES[1])
    with pytest.raises(ExtensionError, match="No lab has a cell 'none'"):
        executed.find_cell(ROOT, "none")


@needs_book
def test_the_table_of_labs_has_minutes_in_columns():
    page = (HTML / FIRST).read_text(encoding="utf-8")
    table = re.search(r'class="labs-table.*?</table>', page, re.DOTALL)[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
    cells = [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows
    ]
    assert [cell[2] for cell in cells] == [str(reading_minutes(path)) for path in labs(ROOT)]
    assert all(re.fullmatch(r"\d+|none", cell[3]) for cell in cells)
