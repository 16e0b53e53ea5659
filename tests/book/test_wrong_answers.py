"""The wrong answers on the pages: recorded for the exercises as they are, and told today what the record says."""

import sys

import pytest
from conftest import HTML, ROOT, needs_book

sys.path.insert(0, str(ROOT / "book/_extensions"))
sys.path.insert(0, str(ROOT / "tests/exercises"))
from answering import EXERCISES, answer_of, each_exercise
from course.finished import exercises

from labsupport.exercises.catalog import lab_of
from labsupport.exercises.verify import verify

SAMPLE = [each for each in EXERCISES if each.ranks == 1][::4]  # those on more ranks take longer


@each_exercise
def test_a_wrong_answer_is_recorded_for_the_exercise_as_it_is(exercise):
    recorded = exercises.record()[exercise.id]
    assert recorded["digest"] == exercises.digest_of(exercise, recorded["answer"]), "run python book/wrong_answers.py"


@pytest.mark.slow
@pytest.mark.parametrize("exercise", SAMPLE, ids=lambda exercise: exercise.id)
def test_the_check_says_what_was_recorded(exercise):
    recorded = exercises.record()[exercise.id]
    verdict = verify(exercise.id, answer_of(exercise, recorded["answer"]))
    assert (verdict.passed, verdict.message, verdict.hint) == (False, recorded["message"], recorded["hint"])


@needs_book
@each_exercise
def test_its_page_shows_the_answer_and_nobodys_progress(exercise):
    page = (HTML / "notebooks" / f"{lab_of(exercise)}.html").read_text(encoding="utf-8")
    assert page.count(f"✗ {exercise.id}: not yet") == 1
    assert f"{exercise.id}: not attempted" not in page
    assert "exercise-progress" not in page and "DEEPSPEED_COURSE_PROGRESS" not in page


def test_a_card_is_left_alone_where_the_record_is_of_another_check(monkeypatch):
    card = (
        '<div class="exercise-verdict" style=""><div><strong>01-batch: not attempted</strong></div><div>Do.</div></div>'
    )
    assert "A wrong answer" in exercises.show(card)
    stale = exercises.record()["01-batch"] | {"digest": "of another check"}
    monkeypatch.setattr(exercises, "record", lambda: {"01-batch": stale})
    assert exercises.show(card) == card
