"""python -m labsupport.exercises: the list of exercises, and which of them are done."""

import sys

from labsupport.exercises import progress
from labsupport.exercises.catalog import LABS, catalog, of_lab


def main():
    """Print the list of exercises; return the exit status."""
    done, problem = progress.done()
    for lab in LABS:
        print(lab)
        for exercise in of_lab(lab):
            mark = "x" if exercise.id in done else " "
            effort = f"difficulty {exercise.difficulty}, {exercise.minutes:2} min"
            print(f"  [{mark}] {exercise.id:22} {effort}  {exercise.title}")
    print(f"{len(done & {each.id for each in catalog()})} of {len(catalog())} done. {problem or progress.where()}")
    return 0


sys.exit(main())
