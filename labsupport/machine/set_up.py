"""Make the virtual environment with the pinned packages, or make it again where it is not whole; run by any Python 3.

    python3 labsupport/machine/set_up.py .venv                     # with the newest Python that the course is tried on
    python3 labsupport/machine/set_up.py .venv /path/to/python     # with this one

The Makefile runs it before everything else. It returns at once where nothing is to be done.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import preflight  # beside this file: labsupport is not installed yet

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "constraints.txt").exists())

# What pip says of an index that it does not reach, in the middle of much else.
OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")
NO_INDEX = "pip reaches no package index: connect this machine to a network, and run make again."
DISK_FULL = (
    "The disk is full: the set-up needs 2 GB where .venv is made, 6 GB where torch brings CUDA, and as much again for "
    "a while in pip's cache and in the folder for temporary files; make room, and run make again."
)


class SetUpError(Exception):
    """What the reader must mend before the set-up can go on, a sentence each."""


def set_up(venv, wanted=""):
    """Make or refresh the virtual environment in the folder `venv`; raises SetUpError for what the reader must mend.

    wanted: the Python to make it with; without one, an environment that is whole keeps its own.
    """
    # One set-up at a time. Of all files this one is surely here, so that no lock file is left behind.
    with open(ROOT / "constraints.txt", "r+") as lock:
        _wait_for(lock, venv)
        ready = venv / ".ready"  # written last: an interrupted set-up has none
        python = preflight.facts_of(venv / "bin" / "python")
        whole = python and ready.exists() and ready.read_text().startswith(_origin(python)) and _is(python, wanted)
        if whole and ready.read_text() == _origin(python) + _pins():
            return
        if whole and _has_pip(venv):
            print(f"pyproject.toml or constraints.txt is another than when {venv} was made: refreshing it.")
        else:
            python, sentences = preflight.choose(wanted)
            for notice in preflight.notices():
                print(f"note: {notice}", file=sys.stderr)
            if sentences:
                raise SetUpError(*sentences)
            print(f"Making {venv} with Python {python['version']} ({python['path']}).", flush=True)
            _run([python["path"], "-m", "venv", "--clear", str(venv)], lock)
        print("Installing the pinned packages: one time, 2 to 8 minutes, 2 GB, or 6 GB with CUDA ...", flush=True)
        with contextlib.suppress(FileNotFoundError):
            ready.unlink()
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        _run([*pip, "--constraint", "constraints.txt", "--editable", ".[book,test,lab]"], lock)
        ready.write_text(_origin(python) + _pins())


def _wait_for(lock, venv):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another make is setting up {venv}: waiting for it.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _origin(python):
    """The first line of .ready: an environment of another Python, or one that was moved, is made anew."""
    return f"{preflight.series(python)} {ROOT}\n"


def _pins():
    """The second line of .ready: what the packages were installed from."""
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() + "\n"


def _is(python, wanted):
    """Whether an environment's Python is the wanted one; without a wish, any is."""
    if not wanted:
        return True
    facts = preflight.facts_of(wanted)
    return facts is not None and preflight.series(facts) == preflight.series(python)


def _has_pip(venv):
    command = [str(venv / "bin" / "python"), "-m", "pip", "--version"]
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def _run(command, lock):
    """Run a command, on a terminal with the last line that it said; raises SetUpError where it fails.

    The command inherits the lock: whatever happens to this process, nobody else touches the folder while it runs.
    """
    said, on_terminal = [], sys.stdout.isatty()
    with subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[lock.fileno()]
    ) as process:
        for line in process.stdout:
            said.append(line.decode("utf-8", "replace").strip())
            if on_terminal:
                print(f"\r\033[K{said[-1][:100]}", end="", flush=True)
    if on_terminal:
        print("\r\033[K", end="", flush=True)
    if process.returncode == 0:
        return
    text = "\n".join(said)
    # venv does not say why the pip in it could not be installed.
    if os.strerror(errno.ENOSPC) in text or shutil.disk_usage(str(ROOT)).free < 2**26:
        raise SetUpError(DISK_FULL)
    if any(word in text for word in OFFLINE):
        raise SetUpError(NO_INDEX)
    print("\n".join(said[-20:]), file=sys.stderr)
    raise SetUpError(f"{' '.join(command[1:4])} failed, for the reason that stands above.")


def main(venv, wanted=""):
    """Set up, and say in one sentence what hinders it; return the exit status."""
    try:
        set_up(Path(os.path.abspath(venv)), wanted)
    except SetUpError as error:
        for sentence in error.args:
            print(f"error: {sentence}", file=sys.stderr)
    except OSError as error:
        print(f"error: {DISK_FULL if error.errno == errno.ENOSPC else error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"error: Interrupted: the next make begins {venv} anew.", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
