"""The exercises with their cells in the labs and their known answers, for the tests of both."""

import ast
import functools
from importlib import import_module

import nbformat
import pytest
from conftest import ROOT

from labsupport.exercises import catalog as labs
from labsupport.exercises.catalog import catalog, lab_of

EXERCISES = catalog()
LABS = {lab: nbformat.read(ROOT / "notebooks" / f"{lab}.ipynb", 4).cells for lab in labs.LABS}
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)


def answers_to(exercise):
    """The module of tests/answers that stands under the name of the exercise's own."""
    return import_module(exercise.check.__module__.replace("labsupport.exercises", "answers"))


@functools.cache
def imports_of(lab):
    """The import statements of a lab's first code cell, which a reader has run before any exercise."""
    first = next(cell.source for cell in LABS[lab] if cell.cell_type == "code")
    tree = ast.parse("\n".join(line for line in first.splitlines() if not line.startswith("%")))
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return compile(tree, f"<imports of {lab}>", "exec")


def answer_of(exercise, *sources):
    """What cells with these sources leave under the exercise's name."""
    names = {"__name__": "__main__"}
    exec(imports_of(lab_of(exercise)), names)
    names["check"] = lambda *_, **__: None
    for source in sources:
        exec(compile(source, f"<cell of {exercise.id}>", "exec"), names)
    return names[exercise.answer]


def cell_of(exercise, part):
    found = [cell for cell in LABS[lab_of(exercise)] if cell.id == f"exercise-{exercise.id}-{part}"]
    assert len(found) == 1, f"{exercise.id} has {len(found)} cells called {part}"
    return found[0]


def solution_of(exercise):
    """The source of an exercise's solution, without the line that keeps it from being run."""
    return cell_of(exercise, "solution").source.partition("\n")[2]
