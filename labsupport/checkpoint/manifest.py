"""What makes a checkpoint count: a manifest that names each file, its size and its checksum. No torch.

    path/
      latest                    the newest whole tag
      global_step3/             appears under this name only when every rank's files are on the disk
        manifest.json           written last
        *.pt                    DeepSpeed's own files, which are pickles
        random_states_*.json    ours, one a rank
      global_step6.incomplete/  a save that is under way, or was interrupted: nothing loads it

A checkpoint that plain DeepSpeed wrote has no manifest.
"""

import contextlib
import datetime
import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from labsupport.errors import CheckpointError
from labsupport.records import versions, write_whole

NAME = "manifest.json"
FORMAT = 1
MODEL_CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"  # the names that transformers and peft look for
BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Manifest:
    """What a tag holds and what it was saved from; sizes in bytes, shapes as lists.

    files: {name within the tag: {"bytes", "sha256", "rank"}}. parameters: {name: shape}, in the model's order.
    trained: the names that the optimizer trains, in its order. group_sizes: how many of them each of its groups has.
    options: how the run was started, as its program puts it.
    """

    tag: str
    step: int
    world_size: int
    stage: int
    precision: str
    offload: dict
    optimizer: str | None
    parameters: dict
    trained: list
    files: dict
    options: dict
    group_sizes: list = field(default_factory=list)
    versions: dict = field(default_factory=versions)
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    format: int = FORMAT

    def write(self, folder):
        """Write it into the folder of the tag, on the disk and whole; raises OSError."""
        content = asdict(self)
        path = Path(folder, NAME)
        write_whole(path, json.dumps(content | {"own_sha256": _digest(content)}, indent=1) + "\n")
        sync(path)
        sync(folder)


def read_manifest(folder):
    """Return the manifest of a tag's folder, or None where it has none; raises CheckpointError for a damaged one."""
    path = Path(folder, NAME)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.pop("own_sha256")
        whole = own == _digest(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"{path} is damaged, so it vouches for nothing: load another tag of {Path(folder).parent}."
        )
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the format {content['format']} and this version of the course reads {FORMAT}: "
            "use the version that wrote it."
        )
    return Manifest(**content)


def _digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def described(path, rank):
    """Put a file on the disk for good and return its entry in the manifest, with the checksum of what can be read."""
    writing = threading.Thread(target=_sync_quietly, args=(path,))  # the drive and the processor work side by side
    writing.start()
    checksum = sha256(path)
    writing.join()
    sync(path)  # at once, if the other went well; else it raises what went wrong
    return {"bytes": os.path.getsize(path), "sha256": checksum, "rank": rank}


def sha256(path):
    """Return the checksum of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync(path):
    """Wait until a file, or the names in a folder, have reached the disk; raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_quietly(path):
    with contextlib.suppress(OSError):
        sync(path)


def files_of(folder):
    """Return the names of the files below a tag's folder, without the manifest, in alphabetical order."""
    folder = Path(folder)
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path != folder / NAME
    )
