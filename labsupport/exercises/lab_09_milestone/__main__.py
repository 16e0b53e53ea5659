"""The milestone as a program: make milestone MODULE=my_trainer.py"""

import sys
from pathlib import Path

from labsupport.exercises.lab_09_milestone.milestone import EXERCISE
from labsupport.exercises.verify import verify
from labsupport.wording import framed


def main(arguments):
    """Judge the named module, print the banner or what to mend first, and return the exit status."""
    if len(arguments) != 1 or not arguments[0]:
        print("error: name one module: make milestone MODULE=my_trainer.py", file=sys.stderr)
        return 2
    print(f"Running {arguments[0]} on two ranks of this processor ...", flush=True)
    verdict = verify(EXERCISE.id, Path(arguments[0]).resolve())
    if not verdict.passed:
        print("\n".join(filter(None, [verdict.message, verdict.hint])), file=sys.stderr)
        return 1
    print(framed(verdict.message.splitlines()))
    return 0


sys.exit(main(sys.argv[1:]))
