"""Which Python the course takes on this machine, and what is missing; run as a file by any Python 3, without a package.

    python3 labsupport/machine/preflight.py                     # looks for Python 3.13, 3.12 and 3.11
    python3 labsupport/machine/preflight.py /path/to/python     # asks this one alone

The set-up asks here before it makes the virtual environment.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.13", "3.12", "3.11")  # the versions that the pinned packages are tried on, newest first
NEEDED = "The course needs Python 3.11, 3.12 or 3.13"

# The one of them that a release of Debian or Ubuntu, or a relative of it, has as packages.
PACKAGED = {"bookworm": "3.11", "trixie": "3.13", "noble": "3.12", "plucky": "3.13", "questing": "3.13"}

ELSEWHERE = "take one from pyenv or conda, and name it: make PYTHON=/path/to/python"

# What each candidate says of itself; every Python 3 can read it. For the Python of an environment that is the Python
# behind it, because the environment may be the one that is about to be made again.
QUESTION = """
import importlib.util, json, os, platform, sys, sysconfig
print(json.dumps({
    "path": os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
    "version": platform.python_version(),
    "venv": all(getattr(importlib.util.find_spec(name), "origin", None) for name in ("venv", "ensurepip")),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
}))
"""


def choose(wanted=""):
    """Return (the facts of the Python to take, the sentences that say what is missing); one of them is empty.

    wanted: the reader's own choice, a path or a name; without one, the newest that has all that is needed, else the
    newest that there is. The facts are the dict that QUESTION prints.
    """
    names = [wanted] if wanted else [f"python{version}" for version in PYTHONS] + ["python3"]
    answers = [facts for facts in map(facts_of, names) if facts]
    fitting = [facts for facts in answers if series(facts) in PYTHONS]
    if not fitting:
        return None, [_no_python(wanted, answers), *_no_compiler()]
    facts = next((facts for facts in fitting if facts["venv"] and facts["headers"]), fitting[0])
    sentences = _missing_parts(facts) + _no_compiler()
    return (None if sentences else facts), sentences


def facts_of(python):
    """Return what a Python says of itself, or None where there is none or it does not start, as a shim of pyenv's."""
    try:
        output = subprocess.run(
            [python, "-I", "-c", QUESTION], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60
        ).stdout
        return json.loads(output.decode())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def series(facts):
    """Return "3.12" for a Python 3.12.1."""
    return ".".join(facts["version"].split(".")[:2])


def _no_python(wanted, answers):
    packaged = PACKAGED.get(codename())
    install = (
        f"install the packages python{packaged}, python{packaged}-venv and python{packaged}-dev"
        if packaged
        else ELSEWHERE
    )
    if wanted and not answers:
        return f"PYTHON={wanted} does not start as a Python 3: give the path of a Python 3.11, 3.12 or 3.13."
    if wanted:
        return f"{NEEDED} and PYTHON={wanted} is {answers[0]['version']}: {install}."
    found = f"here is only {answers[0]['version']}" if answers else "there is none of them here"
    return f"{NEEDED} and {found}: {install}."


def _missing_parts(facts):
    """One sentence for each part of a Python that Debian and Ubuntu keep in a package of its own."""
    name = f"Python {facts['version']} ({facts['path']})"
    packaged = facts["path"].startswith("/usr/bin/") and Path("/usr/bin/dpkg").exists()
    sentences = []
    for part, words, suffix in (("venv", "no venv module", "venv"), ("headers", "no C headers (Python.h)", "dev")):
        if not facts[part]:
            way_out = f"install the package python{series(facts)}-{suffix}" if packaged else ELSEWHERE
            sentences.append(f"{name} has {words}: {way_out}.")
    return sentences


def _no_compiler():
    if any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++")):
        return []
    return ["There is no C++ compiler, and DeepSpeed compiles its ops: install the package g++."]


def codename(file="/etc/os-release"):
    """Return the code name of this Debian or Ubuntu, of the Ubuntu that a relative is made from, or ""."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ""
    values = dict(line.partition("=")[::2] for line in lines)
    return (values.get("UBUNTU_CODENAME") or values.get("VERSION_CODENAME") or "").strip('"')


def notices():
    """Return one sentence for each optional thing that is not here, with what is skipped without it."""
    include = [Path("/usr/include"), Path("/usr/local/include"), Path(sys.prefix, "include")]
    if not any((folder / "libaio.h").exists() for folder in include):
        return ["libaio is missing, so the NVMe parts are skipped: install the package libaio-dev to have them."]
    return []


def main(wanted=""):
    """Print what was found and what is missing; return the exit status."""
    facts, sentences = choose(wanted)
    for sentence in sentences:
        print(f"error: {sentence}", file=sys.stderr)
    for notice in notices():
        print(f"note: {notice}", file=sys.stderr)
    if facts:
        print(f"Python {facts['version']} ({facts['path']}) has what the set-up needs.")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
