"""What the {computed} blocks of book/instructors.md show: the exercises, from the catalog that the checks use.

PYTHONPATH=book/_extensions python -c "from course.blocks import exercises; print(exercises.exercise_table())"
"""

from course.blocks.block import block
from course.table import table
from labsupport.exercises.catalog import catalog, lab_of


@block
def exercise_table():
    """Every exercise: its lab, what it is, its effort, and how many mistakes its check tells apart."""
    rows = []
    for exercise in catalog():
        link = f"[{exercise.id}](../notebooks/{lab_of(exercise)}.ipynb)"
        rows.append((link, exercise.title, exercise.difficulty, exercise.minutes, len(exercise.mistakes)))
    head = ("Exercise", "What", "Difficulty", "Minutes", "Mistakes told apart")
    return table(head, rows, ["left", "left", "right", "right", "right"])


@block
def exercise_totals():
    """How many exercises there are, how long they take, and how many mistakes are told apart."""
    minutes = sum(exercise.minutes for exercise in catalog())
    mistakes = sum(len(exercise.mistakes) for exercise in catalog())
    labs = len({exercise.id[:2] for exercise in catalog()})
    hours = f"{minutes / 60:.0f} hours in all"
    return f"{len(catalog())} exercises in {labs} labs, {hours}; their checks tell {mistakes} mistakes apart."
