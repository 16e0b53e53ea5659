"""What the {computed} blocks of book/instructors.md show: the exercises, from the catalog that the checks use.

PYTHONPATH=book/_extensions python -c "from course.blocks import exercises; print(exercises.exercise_table())"
"""

from labsupport.exercises.catalog import LABS, catalog, lab_of, of_lab


def exercise_table():
    """Every exercise: its lab, what it is, its effort, and how many wrong answers its check is tested with."""
    lines = ["| Exercise | What | Difficulty | Minutes | Known wrong answers |", "|---|---|---:|---:|---:|"]
    for exercise in catalog():
        known = sum(len(mistake.answers) for mistake in exercise.mistakes.values())
        link = f"[{exercise.id}](../notebooks/{lab_of(exercise)}.ipynb)"
        lines.append(f"| {link} | {exercise.title} | {exercise.difficulty} | {exercise.minutes} | {known} |")
    return "\n".join(lines)


def exercise_totals():
    """How many exercises there are, how long they take, and how many wrong answers are known."""
    minutes = sum(exercise.minutes for exercise in catalog())
    known = sum(len(mistake.answers) for exercise in catalog() for mistake in exercise.mistakes.values())
    labs = sum(bool(of_lab(lab)) for lab in LABS)
    return f"{len(catalog())} exercises in {labs} labs, {minutes / 60:.0f} hours in all, {known} known wrong answers."
