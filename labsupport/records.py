"""Recorded measurements: JSON files beside this module, each with what it takes to trust or repeat it. No torch.

    python -c "from labsupport.records import read_record; print(read_record('trainer_overhead')['measured'])"

A page loads a record and says on which hardware it was taken. What the fields hold stands in recorded/schema.json.
"""

import contextlib
import datetime
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from labsupport.errors import LabError

FOLDER = Path(__file__).with_name("recorded")
SCHEMA = FOLDER / "schema.json"
REQUIRED = tuple(json.loads(SCHEMA.read_text())["required"])


def record(name, command, config, hardware, seed, warm_up, counted, measured, more_versions=None, folder=FOLDER):
    """Write a measurement whole or not at all and return its path.

    command: what was typed; config: the full config; hardware: in words; warm_up, counted: numbers of runs
    or steps; measured: the samples themselves and what follows from them; more_versions: of what Python does
    not know, such as a driver. Python's versions, the commit and the UTC date are added here.
    """
    content = {
        "command": command,
        "config": config,
        "hardware": hardware,
        "versions": versions() | (more_versions or {}),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "warm_up": warm_up,
        "counted": counted,
        "measured": measured,
    }
    path = Path(folder, f"{name}.json")
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def write_whole(path, text):
    """Write a text file whole or not at all: who reads it finds the old one or the new one, never half of one."""
    part = Path(f"{path}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class UnfinishedRecord:
    """The entries of a measurement that is under way, in a file, so that an interrupted one goes on.

    path: a file of JSON lines. key: under which name an entry says what was asked for; one is kept for each.
    """

    def __init__(self, path, key):
        self._path, self._key = Path(path), key
        lines = self._path.read_text(encoding="utf-8").split("\n") if self._path.exists() else []
        # A last line without an end was cut by an interruption.
        self._entries = {self._name(entry[key]): entry for entry in map(json.loads, lines[:-1])}

    def entry_of(self, wanted):
        """Return the entry that is kept for what was asked for, or None."""
        return self._entries.get(self._name(wanted))

    def add(self, entry):
        """Keep an entry, in place of an earlier one for the same."""
        self._entries[self._name(entry[self._key])] = entry
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, "".join(json.dumps(each) + "\n" for each in self._entries.values()))

    def forget(self):
        """Remove the file: the record is finished."""
        self._path.unlink(missing_ok=True)

    @staticmethod
    def _name(wanted):
        return json.dumps(wanted, sort_keys=True)


def record_names(folder=FOLDER):
    """Return the names of the records in a folder, in alphabetical order."""
    return sorted(file.stem for file in Path(folder).glob("*.json") if file.name != SCHEMA.name)


def read_record(name, folder=FOLDER):
    """Return a recorded measurement as a dict; raises LabError where it is missing or has lost its provenance."""
    path = Path(folder, f"{name}.json")
    if not path.exists():
        known = ", ".join(record_names(folder)) or "none"
        raise LabError(f"There is no recorded measurement {name!r}: there are {known}.")
    content = json.loads(path.read_text())
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise LabError(f"The recorded measurement {name!r} lacks {', '.join(missing)}: record it again.")
    return content


def provenance(record):
    """Return where, when and with what a record was measured, in words: what every page says beside its numbers."""
    found = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    return f"{record['hardware']}; {found}; commit {record['commit']}, {record['date'][:10]}"


def commit():
    """The commit that is measured, with a + where the working tree has other changes than records; or "unknown"."""
    others = ["--", ":/", f":(top,exclude)labsupport/{FOLDER.name}"]
    described = _git("rev-parse", "--short=12", "HEAD")
    if described is None or described.returncode:
        return "unknown"
    return described.stdout.strip() + ("+" if _git("diff", "--quiet", "HEAD", *others).returncode else "")


def _git(*arguments):
    try:
        return subprocess.run(["git", *arguments], cwd=FOLDER.parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None


def versions():
    """Return the versions of Python, torch, deepspeed and transformers that are running."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "deepspeed", "transformers")},
    }
