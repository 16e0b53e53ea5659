"""The cells with the solutions: folded away, not run with the others, and under names of their own.

    %%solution 01-batch             # what JupyterLab shows of a folded cell is this line
    batch_config = ...

    %%solution 01-batch run         # runs it and shows its verdict

The book and the tests run them all: DEEPSPEED_COURSE_SOLUTIONS=1.
"""

import os
import sys
from functools import partial

from labsupport.errors import LabError
from labsupport.exercises.catalog import find

RUN_ALL = "DEEPSPEED_COURSE_SOLUTIONS"


def register_magic(check):
    """Give a notebook its %%solution, which hands its answer to `check`; elsewhere do nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.register_magic_function(partial(_solution, shell, check), magic_kind="cell", magic_name="solution")


def _solution(shell, check, line, source):
    exercise_id, _, wish = line.strip().partition(" ")
    exercise = find(exercise_id)
    if wish not in ("", "run"):
        raise LabError(f"%%solution {line} is not understood: write %%solution {exercise_id} run.")
    if not wish and os.environ.get(RUN_ALL) != "1":
        print(f"The solution was not run. Open this cell to read it; with %%solution {exercise_id} run it is run.")
        return
    names = dict(shell.user_ns)  # a copy: the reader's own answer stays
    exec(compile(source, f"<solution of {exercise_id}>", "exec"), names)
    check(exercise_id, names[exercise.answer], record=False)
