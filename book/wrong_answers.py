"""Record what the checks say to one wrong answer of each exercise, for the cards on the pages: two or three minutes.

    python book/wrong_answers.py

The pages show a card only while the exercise's file and the answer are those that were recorded; a test says which
are not, and judges some of the answers again.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/exercises"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "book/_extensions"))
from answering import EXERCISES, answer_of, answers_to
from course.finished.exercises import RECORD, digest_of

from labsupport.exercises.verify import verify

MOST_LINES = 14  # of an answer that is to be read on a page


def main():
    """Judge an answer of each exercise and write the record."""
    record = {exercise.id: judged(exercise) for exercise in EXERCISES}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def judged(exercise):
    """Return {"answer": source, "message", "hint", "digest"} for the wrong answer that its page shows."""
    answer = shown_answer(exercise)
    verdict = verify(exercise.id, answer_of(exercise, answer))
    if verdict.passed:
        raise SystemExit(f"error: {exercise.id} passes the answer that is known to be wrong:\n{answer}")
    print(f"{exercise.id}: {verdict.message}", flush=True)
    digest = digest_of(exercise, answer)
    return {"answer": answer, "message": verdict.message, "hint": verdict.hint, "digest": digest}


def shown_answer(exercise):
    """Return the first wrong answer in tests/answers that is short enough, or the shortest."""
    answers = [each.strip() for wrong in answers_to(exercise).WRONG.values() for each in wrong]
    short = [each for each in answers if each.count("\n") < MOST_LINES]
    return short[0] if short else min(answers, key=len)


if __name__ == "__main__":
    main()
