"""Which exercises a reader has done: one small JSON file in the reader's own folder, shared by all labs.

Deleting it loses that and nothing else. DEEPSPEED_COURSE_PROGRESS names another file.
"""

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
from filelock import FileLock

from labsupport.records import write_whole

NAMED_BY = "DEEPSPEED_COURSE_PROGRESS"


def path():
    """Return where the file is, or will be."""
    named = os.environ.get(NAMED_BY)
    return Path(named) if named else Path(platformdirs.user_data_dir("deepspeed-course"), "progress.json")


def where():
    """Return the sentence that says where the file is."""
    shown = (
        f"the file that {NAMED_BY} names" if NAMED_BY in os.environ else str(path()).replace(str(Path.home()), "~", 1)
    )
    return f"Your progress is in {shown}; deleting that file loses nothing else."


def done():
    """Return the ids of the exercises that were passed, and a sentence where the file cannot be read, else None."""
    entries, problem = _read()
    return {name for name, entry in entries.items() if entry.get("passed_utc")}, problem


def record(exercise_id, passed):
    """Count an attempt, and note when the exercise was first passed; return a sentence where that fails, else None.

    What was passed once stays passed.
    """
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=5):  # another lab may be writing
            entries, problem = _read()
            if problem:
                file.replace(file.with_suffix(".unreadable"))
            entry = entries.setdefault(exercise_id, {"attempts": 0, "passed_utc": None})
            entry["attempts"] += 1
            if passed and not entry["passed_utc"]:
                entry["passed_utc"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            write_whole(file, json.dumps(entries, indent=1) + "\n")
    except (OSError, TimeoutError) as error:
        return f"Your progress was not written to {file} ({error}): the verdict above holds all the same."
    if problem:
        return f"{problem} A new file was begun and the old one kept beside it."
    return None


def _read():
    file = path()
    if not file.exists():
        return {}, None
    with contextlib.suppress(OSError, ValueError):
        entries = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(entries, dict) and all(_is_entry(entry) for entry in entries.values()):
            return entries, None
    return {}, f"Your progress in {file} cannot be read."


def _is_entry(entry):
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("attempts"), int)
        and isinstance(entry.get("passed_utc"), str | None)
    )
