"""What must be on the machine before anything is installed; run as a file by any Python, it needs no package.

    python3.11 labsupport/machine/preflight.py

The Makefile runs it before it makes the virtual environment.
"""

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path


def missing():
    """Return one sentence for each thing that the set-up cannot do without and that is not here."""
    sentences = []
    if sys.version_info[:2] != (3, 11):
        sentences.append(
            f"The pinned packages need Python 3.11 and this is {sys.version.split()[0]}: install the package "
            "python3.11, or name another with make PYTHON=/path/to/python3.11."
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        sentences.append("Python has no venv module: install the package python3.11-venv.")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        sentences.append("Python's C headers are missing: install the package python3.11-dev.")
    if not any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++")):
        sentences.append("There is no C++ compiler, and DeepSpeed compiles its ops: install the package g++.")
    return sentences


def notices():
    """Return one sentence for each optional thing that is not here, with what is skipped without it."""
    include = [Path("/usr/include"), Path("/usr/local/include"), Path(sys.prefix, "include")]
    if not any((folder / "libaio.h").exists() for folder in include):
        return ["libaio is missing, so the NVMe parts are skipped: install the package libaio-dev to have them."]
    return []


if __name__ == "__main__":
    for notice in notices():
        print(f"note: {notice}", file=sys.stderr)
    found = missing()
    for sentence in found:
        print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1 if found else 0)
