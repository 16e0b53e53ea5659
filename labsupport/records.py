"""Recorded measurements: JSON files beside this module, each with what it takes to trust or repeat it. No torch.

    python -c "from labsupport.records import read_record; print(read_record('trainer_overhead')['measured'])"

A page loads a record and says on which hardware it was taken.
"""

import datetime
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from labsupport.errors import LabError

FOLDER = Path(__file__).with_name("recorded")
REQUIRED = ("command", "config", "hardware", "versions", "commit", "date", "seed", "warm_up", "counted", "measured")


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
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)
    return path


def read_record(name, folder=FOLDER):
    """Return a recorded measurement as a dict; raises LabError where it is missing or has lost its provenance."""
    path = Path(folder, f"{name}.json")
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in Path(folder).glob("*.json"))) or "none"
        raise LabError(f"There is no recorded measurement {name!r}: there are {known}.")
    content = json.loads(path.read_text())
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise LabError(f"The recorded measurement {name!r} lacks {', '.join(missing)}: record it again.")
    return content


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
