"""Convert a checkpoint with DeepSpeed's own converter into the universal form: a file a parameter and state, whole.

    python -m labsupport.checkpoint convert checkpoints/run universal

The trainer does not need it: it puts a checkpoint together by itself (reassemble.py). Other programs of DeepSpeed load
it with `"checkpoint": {"load_universal": true}` in their config, on any number of ranks at the same stage.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from labsupport.checkpoint.contents import contents_of
from labsupport.checkpoint.tags import LATEST_UNIVERSAL, is_full
from labsupport.errors import CheckpointError


def convert(folder, target):
    """Convert a tag's folder into `target`/<tag>, and let `target`/latest_universal name it.

    Raises CheckpointError where the target holds something, and with the converter's last line where it fails.
    """
    folder, target = Path(folder), Path(target)
    is_new = not (target.exists() or target.is_symlink())
    if not is_new and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not an empty folder: name one that is empty or does not exist.")
    if contents_of(folder).stage == 0:
        raise CheckpointError(
            f"{folder} was saved at stage 0, which DeepSpeed's converter does not read: it is whole, so it loads on "
            "any number of ranks as it is."
        )
    part = target / f"{folder.name}.incomplete"
    flags = ["--input_folder", folder, "--output_folder", part, "--inject_missing_state"]
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        last = "no space left on device" if part.exists() and is_full(part) else last
        shutil.rmtree(target if is_new else part, ignore_errors=True)
        raise CheckpointError(f"DeepSpeed's converter does not convert {folder}: {last}")
    part.rename(target / folder.name)
    (target / LATEST_UNIVERSAL).write_text(folder.name, encoding="utf-8")
