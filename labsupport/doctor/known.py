"""What the installed DeepSpeed knows: its keys, types, optimizers and schedulers, learnt once and kept by its version.

    python -c "from labsupport.doctor.known import known; print(sorted(known()['top_level']))"

`learn.py` asks DeepSpeed, in a process of its own, since importing it takes seconds. What it found is kept in the
user's cache folder; without one that can be written to, each process learns anew.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs

from labsupport.errors import LabError
from labsupport.records import write_whole

# What the file holds and how: another number here, and what older code kept is learnt again.
FORMAT = 1


@functools.cache
def known():
    """Return what DeepSpeed knows, as learn.learn wrote it; raises LabError where DeepSpeed is not installed."""
    try:
        versions = {name: version(name) for name in ("deepspeed", "torch")}
    except PackageNotFoundError as error:
        raise LabError(
            f"{error.name} is not installed here, and what it reads is asked of it: install it first."
        ) from None
    path = cache_file(versions)
    found = _kept(path)
    if found is None:
        found = _learnt(versions["deepspeed"])
        # A home that cannot be written to is no mistake.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(found))
    return found


def cache_file(versions):
    """Return the file that keeps what a version knows, in the user's cache folder."""
    name = f"deepspeed-{versions['deepspeed']}-torch-{versions['torch']}-{FORMAT}.json"
    return Path(platformdirs.user_cache_dir("deepspeed-course"), name)


def _kept(path):
    """What the file holds, or None where there is none or it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "models" in found else None


def _learnt(deepspeed):
    if "deepspeed" in sys.modules:
        from labsupport.doctor.learn import learn

        return json.loads(json.dumps(learn()))
    print(f"Learning once which keys DeepSpeed {deepspeed} reads, which takes some seconds ...", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "labsupport.doctor.learn"],
        env=os.environ | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise LabError(f"DeepSpeed {deepspeed} cannot be asked what it reads: {lines[-1]}; mend that first.")
    return json.loads(done.stdout)


if __name__ == "__main__":
    known()  # now, so that no lab has to say that it learns
