"""Which exercises there are: a folder for each lab, a file for each exercise, found by its id."""

import difflib
from functools import cache
from importlib import import_module

from labsupport.errors import LabError

# In the order of the course; the exercises of each stand in a folder lab_<name> beside this file.
LABS = (
    "01_config",
    "02_initialize",
    "03_training",
    "04_stages",
    "04b_messages",
    "10_build_zero",
    "05_checkpointing",
    "06_offload",
    "07_huggingface",
    "11_your_model",
    "08_multinode",
    "09_milestone",
)


# Exercises of earlier editions, whose ids stand in readers' notebooks and progress files, and what asks for it now.
WITHDRAWN = {
    "02-initialize": "question 6 at the end of lab 02",
    "02-client-optimizer": "question 7 at the end of lab 02",
    "03-accumulate": "question 6 at the end of lab 03",
    "06-does-nothing": "question 6 at the end of lab 06",
    "07-order": "question 6 at the end of lab 07",
    "08-hostfile": "question 6 at the end of lab 08",
}


@cache
def catalog():
    """Return every Exercise, in the order of the course."""
    return tuple(exercise for lab in LABS for exercise in of_lab(lab))


def of_lab(lab):
    """Return the exercises of one lab, for example "03_training"; raises LabError where there is no such lab."""
    if lab not in LABS:
        raise LabError(f"There is no lab {lab!r}: choose one of {', '.join(LABS)}.")
    return import_module(f"labsupport.exercises.lab_{lab}").EXERCISES


def lab_of(exercise):
    """Return the name of the lab that an Exercise stands in."""
    return next(lab for lab in LABS if exercise in of_lab(lab))


def find(exercise_id):
    """Return the Exercise of this id, or raise LabError with the nearest id."""
    for lab in LABS:
        if str(exercise_id)[:2] == lab[:2]:
            for exercise in of_lab(lab):
                if exercise.id == exercise_id:
                    return exercise
    near = difflib.get_close_matches(str(exercise_id), [each.id for each in catalog()], n=1, cutoff=0) or ["01-batch"]
    raise LabError(f"There is no exercise {exercise_id!r}: did you mean {near[0]!r}?")
