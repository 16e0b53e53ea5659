"""Run one submitted lab, and put the answers that it leaves into files. For labsupport.grading; needs no solutions.

python -m labsupport.grading.submission LAB.ipynb ANSWERS_FOLDER SECONDS_A_CELL
"""

import os
import re
import sys
from pathlib import Path

ANSWERS = "DEEPSPEED_COURSE_ANSWERS"  # names the folder to the submission's kernel
CHECK = re.compile(r"""^\s*check\(\s*["'](\d\d-[\w-]+)["']""", re.MULTILINE)


def exercises_in(notebook):
    """Return the Exercises of the lab that a notebook is, by the checks in it; none where it has no check."""
    from labsupport.exercises.catalog import LABS, of_lab

    numbers = {found[:2] for cell in notebook.cells for found in CHECK.findall(cell.source)}
    return [exercise for lab in LABS if lab[:2] in numbers for exercise in of_lab(lab)]


def without_checks(notebook):
    """Change a notebook so that each answer is handed over where it was checked, and solutions are not run."""
    from nbformat.v4 import new_code_cell

    wanted = {exercise.id: exercise.answer for exercise in exercises_in(notebook)}
    cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in cells:
        for exercise_id in CHECK.findall(cell.source) if cell.cell_type == "code" else ():
            if exercise_id in wanted:  # the answer under its own name, whatever the submission checks there
                cell.source = _handing_over(exercise_id, wanted.pop(exercise_id))
    cells += [new_code_cell(_handing_over(*missing)) for missing in wanted.items()]
    notebook.cells = cells
    return notebook


def hand_over(exercise_id, name, names):
    """Put what the notebook has under `name` into a file that only the checking processes open."""
    import cloudpickle

    from labsupport.exercises.answers import describe, is_stub

    folder = Path(os.environ[ANSWERS])
    if name not in names:
        (folder / f"{exercise_id}.txt").write_text(f"The notebook defines no {name}.")
    elif not is_stub(names[name]):
        try:
            (folder / f"{exercise_id}.pickle").write_bytes(cloudpickle.dumps(names[name]))
        except BaseException:  # a generator, an open file, live ranks
            reason = f"{name} is {describe(names[name])}, which cannot be handed to the checking process."
            (folder / f"{exercise_id}.txt").write_text(reason)


def _handing_over(exercise_id, name):
    return f"from labsupport.grading.submission import hand_over\n\nhand_over({exercise_id!r}, {name!r}, globals())"


def main(arguments):
    """Run the notebook from top to bottom, over its errors too; return the exit status."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    path, answers, seconds = Path(arguments[0]), arguments[1], int(arguments[2])
    os.environ[ANSWERS] = answers
    notebook = without_checks(nbformat.read(path, 4))
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=seconds, kernel_name="python3", allow_errors=True, resources=where)
    client.interrupt_on_timeout = True
    try:
        client.execute()
    except DeadKernelError:
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
