"""The exercises of all labs: show whether an answer is right, what is wrong with it, and which are done.

from labsupport.exercises import check
check("01-batch", my_config)

python -m labsupport.exercises          # the list of exercises, and which of them are done
"""

from labsupport.exercises import progress
from labsupport.exercises.answers import is_stub
from labsupport.exercises.catalog import LABS, WITHDRAWN, find, of_lab
from labsupport.exercises.solution import register_magic
from labsupport.exercises.verdict_card import VerdictCard, show_summary
from labsupport.exercises.verify import is_up, verify


def check(exercise_id, answer, record=True):
    """Judge an answer and show the verdict: a card in a notebook, text in a terminal.

    record: whether the verdict counts for the reader's progress; the solutions in the labs do not. An exercise that was
    withdrawn is not judged: one sentence says what took its place. Raises LabError for an id that never was one.
    """
    if str(exercise_id) in WITHDRAWN:
        print(
            f"The exercise {exercise_id} was withdrawn and does not count: {WITHDRAWN[str(exercise_id)]} replaced it."
        )
        return
    exercise = find(exercise_id)
    card = VerdictCard(exercise)
    if not is_stub(answer):
        card.show_waiting(starting=not is_up(exercise.ranks))
    verdict = verify(exercise_id, answer)
    note = progress.record(exercise_id, verdict.passed) if record and verdict.attempted else None
    card.show(verdict, note)


def show_progress(lab):
    """Show which exercises of this lab are done, and how many of the others; raises LabError for an unknown lab."""
    of_lab(lab)
    done, problem = progress.done()
    show_summary(lab, {name: of_lab(name) for name in LABS}, done, problem or progress.where())


register_magic(check)  # %%solution is there for whoever can check
