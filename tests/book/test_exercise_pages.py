"""Exercises on the static page: hints, solutions and questions fold and unfold, by keyboard and without scripts."""

import re
import sys

import pytest
from conftest import ROOT, needs_book, needs_chromium
from playwright.sync_api import expect

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
from course.finished.exercises import record

from labsupport.exercises.catalog import LABS, of_lab

pytestmark = [needs_chromium, needs_book]


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def lab(browser, site, request):
    """A page of the third lab, with and without scripts."""
    context = browser.new_context(java_script_enabled=request.param)
    page = context.new_page()
    page.goto(f"{site}/notebooks/03_training.html")
    yield page
    context.close()


def test_a_solution_is_folded_away_and_opens_with_its_verdict(lab):
    section = lab.locator("#exercise-03-train-step-one-micro-batch")
    solution = section.locator("details.hide")
    assert solution.count() == 1
    code = solution.locator("pre", has_text="engine.backward(loss)")
    expect(code).to_be_hidden()
    expect(solution.get_by_text("Show the solution")).to_be_visible()
    solution.locator("summary").click()
    expect(code).to_be_visible()
    expect(solution.get_by_text("03-train-step: passed")).to_be_visible()


def test_the_stub_and_what_the_check_says_to_a_wrong_answer_are_in_view(lab):
    section = lab.locator("#exercise-03-train-step-one-micro-batch")
    expect(section.get_by_text("def train_step(engine, batch)").first).to_be_visible()
    sample = section.locator(".wrong-answer")
    expect(sample.get_by_text("03-train-step: not yet")).to_be_visible()
    expect(sample.get_by_text(record()["03-train-step"]["message"])).to_be_visible()


def test_a_question_is_answered_with_the_keyboard(lab):
    options = lab.locator("section#check-yourself details.option")
    assert options.count() >= 9
    right = lab.locator("details.option.right").first
    expect(right.get_by_text("Right.")).to_be_hidden()
    right.locator("summary").focus()
    lab.keyboard.press("Enter")
    expect(right.get_by_text("Right.")).to_be_visible()
    right.locator("summary").focus()
    lab.keyboard.press("Space")
    expect(right.get_by_text("Right.")).to_be_hidden()


@pytest.mark.parametrize("lab_name", LABS)
def test_every_exercise_of_a_lab_is_on_its_page(browser, site, lab_name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/notebooks/{lab_name}.html")
    headings = [re.sub(r"\s*#$", "", text) for text in page.locator("article h3").all_inner_texts()]
    for exercise in of_lab(lab_name):
        assert f"Exercise {exercise.id}: {exercise.title}" in headings
    assert "`" not in "".join(page.locator("details > summary").all_inner_texts())
    context.close()
