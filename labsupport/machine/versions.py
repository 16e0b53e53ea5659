"""The versions that the course is tried with, and the note for a reader who has others: a notebook service's, or newer.

python -c "from labsupport.machine.versions import untried; print(untried() or 'all tried')"
"""

import platform
from functools import cache
from importlib.metadata import version

from labsupport.machine.preflight import PYTHONS

# As in constraints.txt, which an installed package does not carry; tests/test_pins.py holds the two together.
TRIED = {"torch": "2.13.0", "deepspeed": "0.19.8", "transformers": "5.23.0"}


def untried(versions=None, python=None):
    """Return the note that names each version here that the course was not tried with, or "" where there is none.

    versions: {package: version} and python: "3.12.1", by default those of this process. What stands after a plus, as
    in 2.13.0+cpu, is another build of the same version.
    """
    versions = versions or {name: version(name) for name in TRIED}
    python = python or platform.python_version()
    others = [
        f"{name} {here} (tried: {TRIED[name]})"
        for name, here in versions.items()
        if here.partition("+")[0] != TRIED[name]
    ]
    if not python.startswith(tuple(f"{series}." for series in PYTHONS)):
        others.append(f"Python {python} (tried: {', '.join(sorted(PYTHONS))})")
    if not others:
        return ""
    return f"Note: the course was not tried with {', '.join(others)}. The labs go on; a number or a message may differ."


@cache
def say_what_is_untried():
    """Print the note, once in a process."""
    if note := untried():
        print(note, flush=True)
