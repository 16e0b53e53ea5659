"""The exercises of all labs: which there are, whether an answer is right, and what is wrong with it.

from labsupport.exercises import check
check("01-batch", my_config)

python -m labsupport.exercises          # the list of exercises, and which of them are done
"""

import atexit
import difflib
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from labsupport import progress
from labsupport.checking import NOT_ATTEMPTED, Workers
from labsupport.errors import LabError, TrainingError
from labsupport.judging import describe, is_stub
from labsupport.verdict_card import VerdictCard, show_summary

# Where the exercises of each lab stand, in the order of the course.
MODULES = {
    "01_config": "exercises_config",
    "02_initialize": "exercises_initialize",
    "03_training": "exercises_training",
    "04_stages": "exercises_stages",
    "05_checkpointing": "exercises_checkpointing",
    "06_offload": "exercises_offload",
    "07_huggingface": "exercises_huggingface",
    "08_multinode": "exercises_multinode",
    "09_milestone": "milestone",
}
_workers = {}  # by number of ranks: those that an earlier check started


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, what to say about it, and what to look at next ("" where there is nothing)."""

    passed: bool
    message: str
    hint: str

    @property
    def attempted(self):
        """Whether there was an answer at all."""
        return self.message != NOT_ATTEMPTED


@cache
def catalog():
    """Return every Exercise, in the order of the course."""
    return tuple(exercise for lab in MODULES for exercise in of_lab(lab))


def of_lab(lab):
    """Return the exercises of one lab, for example "03_training"; raises LabError where there is no such lab."""
    if lab not in MODULES:
        raise LabError(f"There is no lab {lab!r}: choose one of {', '.join(MODULES)}.")
    return import_module(f"labsupport.{MODULES[lab]}").EXERCISES


def lab_of(exercise):
    """Return the name of the lab that an Exercise stands in."""
    return next(lab for lab in MODULES if lab[:3] == f"{exercise.id[:2]}_")


def find(exercise_id):
    """Return the Exercise of this id, or raise LabError with the nearest id."""
    for lab in MODULES:
        if str(exercise_id)[:2] == lab[:2]:
            for exercise in of_lab(lab):
                if exercise.id == exercise_id:
                    return exercise
    near = difflib.get_close_matches(str(exercise_id), [each.id for each in catalog()], n=1, cutoff=0) or ["01-batch"]
    raise LabError(f"There is no exercise {exercise_id!r}: did you mean {near[0]!r}?")


def verify(exercise_id, answer):
    """Return the Verdict on an answer, whatever the answer is or does; the same answer gets the same verdict.

    The answer runs in processes of its own, at most as long as the exercise allows. Raises LabError for an exercise
    that does not exist, and TrainingError where the checking processes do not start; never because of the answer.
    """
    import cloudpickle

    exercise = find(exercise_id)
    if is_stub(answer):  # told without starting anything, so that a lab full of stubs runs through at once
        return Verdict(False, NOT_ATTEMPTED, "")
    try:
        payload = cloudpickle.dumps(answer)
    except BaseException as error:  # a generator, an open file, or a function that uses the live ranks
        message = (
            f"The answer is {describe(answer)}, which cannot be handed to the checking process "
            f"({type(error).__name__}): let it use its arguments and imports alone, nothing alive in the notebook."
        )
        return Verdict(False, message, "")
    return verify_pickled(exercise, payload)


def verify_pickled(exercise, payload):
    """Return the Verdict on an answer that cloudpickle has turned into bytes; it is opened by the workers alone."""
    verdict = _ready_workers(exercise.ranks).judge(exercise, payload)
    if verdict is None:
        hangs = exercise.mistakes.get("hangs")
        if hangs is not None:
            return Verdict(False, hangs.message, hangs.hint)
        looks_like = "an endless loop" if exercise.ranks == 1 else "a collective that not every rank calls"
        message = f"Your answer had not ended after {exercise.seconds:g} s and was stopped: look for {looks_like}."
        return Verdict(False, message, "")
    return Verdict(verdict["passed"], verdict["message"], verdict["hint"])


def check(exercise_id, answer, record=True):
    """Judge an answer and show the verdict: a card in a notebook, text in a terminal.

    record: whether the verdict counts for the reader's progress; the solutions in the labs do not.
    """
    exercise = find(exercise_id)
    card = VerdictCard(exercise)
    if not is_stub(answer):
        card.show_waiting(starting=not _is_up(exercise.ranks))
    verdict = verify(exercise_id, answer)
    note = progress.record(exercise_id, verdict.passed) if record and verdict.attempted else None
    card.show(verdict, note)


def show_progress(lab):
    """Show which exercises of this lab are done, and how many of the others; raises LabError for an unknown lab."""
    of_lab(lab)
    done, problem = progress.done()
    show_summary(lab, {name: of_lab(name) for name in MODULES}, done, problem or progress.where())


def _is_up(ranks):
    return ranks in _workers and _workers[ranks].alive


def _ready_workers(ranks):
    if not _is_up(ranks):
        if ranks in _workers:
            _workers.pop(ranks).stop()
        try:
            _workers[ranks] = Workers(ranks)
        except TrainingError:  # another program may have taken the port that was free a moment ago
            _workers[ranks] = Workers(ranks)
    return _workers[ranks]


@atexit.register
def stop_workers():
    """End the checking processes; the next check starts new ones."""
    while _workers:
        _workers.popitem()[1].stop()


def main():
    """Print the list of exercises; return the exit status."""
    done, problem = progress.done()
    for lab in MODULES:
        print(lab)
        for exercise in of_lab(lab):
            mark = "x" if exercise.id in done else " "
            effort = f"difficulty {exercise.difficulty}, {exercise.minutes:2} min"
            print(f"  [{mark}] {exercise.id:22} {effort}  {exercise.title}")
    print(f"{len(done & {each.id for each in catalog()})} of {len(catalog())} done. {problem or progress.where()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
