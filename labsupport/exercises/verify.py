"""Whether an answer is right: the verdict of the checking processes, which are started once and kept."""

import atexit
import contextlib
import sys
from pathlib import Path

from labsupport.errors import TrainingError
from labsupport.exercises.answers import describe, is_stub
from labsupport.exercises.catalog import find
from labsupport.exercises.exercise import NOT_YET_ATTEMPTED, Verdict
from labsupport.exercises.workers import Workers

_workers = {}  # by number of ranks: those that an earlier check started


def verify(exercise_id, answer):
    """Return the Verdict on an answer, whatever the answer is or does; the same answer gets the same verdict.

    The answer runs in processes of its own, at most as long as the exercise allows. Raises LabError for an exercise
    that does not exist, and TrainingError where the checking processes do not start; never because of the answer.
    """
    import cloudpickle

    exercise = find(exercise_id)
    if is_stub(answer):  # told without starting anything, so that a lab full of stubs runs through at once
        return NOT_YET_ATTEMPTED
    try:
        with _own_modules():
            payload = cloudpickle.dumps(answer)
    except BaseException as error:  # a generator, an open file, or a function that uses the live ranks
        message = (
            f"The answer is {describe(answer)}, which cannot be handed to the checking process "
            f"({type(error).__name__}): let it use its arguments and imports alone, nothing alive in the notebook."
        )
        return Verdict(False, "unusable", message)
    return verify_pickled(exercise, payload)


@contextlib.contextmanager
def _own_modules():
    """While it lasts, the reader's own modules beside the notebook travel with an answer, as they are now."""
    import cloudpickle

    own = [m for m in list(sys.modules.values()) if Path(getattr(m, "__file__", None) or "/").parent == Path.cwd()]
    own = [module for module in own if module.__name__ != "__main__"]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def verify_pickled(exercise, payload):
    """Return the Verdict on an answer that cloudpickle has turned into bytes; it is opened by the workers alone."""
    return _ready_workers(exercise.ranks).judge(exercise, payload) or _took_too_long(exercise)


def _took_too_long(exercise):
    hangs = exercise.mistakes.get("hangs")
    if hangs is not None:
        return Verdict(False, "too long", hangs.message, hangs.hint)
    looks_like = "an endless loop" if exercise.ranks == 1 else "a collective that not every rank calls"
    message = f"Your answer had not ended after {exercise.seconds:g} s and was stopped: look for {looks_like}."
    return Verdict(False, "too long", message)


def is_up(ranks):
    """Whether the processes for checks on so many ranks wait for an answer already."""
    return ranks in _workers and _workers[ranks].alive


def _ready_workers(ranks):
    if not is_up(ranks):
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
