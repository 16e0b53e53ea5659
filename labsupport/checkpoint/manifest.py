"""What makes a checkpoint count: a manifest that names each file, its size and its checksum. No torch.

    path/
      latest                    the newest whole tag
      global_step3/             appears under this name only when every rank's files are on the disk
        manifest.json           written last
        *.pt                    DeepSpeed's own files, which are pickles
        buffers_*.pt            ours, one a rank, where the model has buffers
        random_states_*.json    ours, one a rank
      global_step6.incomplete/  a save that is under way, or was interrupted: nothing loads it

A checkpoint that plain DeepSpeed wrote has no manifest.
"""

import contextlib
import datetime
import hashlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from labsupport.errors import CheckpointError
from labsupport.records import versions, write_whole

NAME = "manifest.json"
FORMAT = 2
MODEL_CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"  # the names that transformers and peft look for
BLOCK_BYTES = 1 << 22
# Of a record's header in a zip file: its bytes without name and extra field, and where the lengths of those two stand.
HEADER_BYTES, LENGTHS_AT = 30, 26
# What zipfile raises for a damaged file; NotImplementedError is its word for a version or a compression of chance.
UNREADABLE = (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class Manifest:
    """What a tag holds and what it was saved from; sizes in bytes, shapes as lists.

    files: {name within the tag: {"bytes", "checksum", "rank"}}, with what `checksum` returns.
    parameters: {name: shape}, in the model's order.
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
    """Put a file on the disk for good and return its entry in the manifest; raises OSError."""
    sync(path)
    return {"bytes": os.path.getsize(path), "checksum": checksum(path), "rank": rank}


def checksum(path):
    """Return the SHA-256 of a file without the contents of its records, where it is a zip file, as torch's are.

    The index of a zip file has a CRC-32 of each record, which torch computes while it writes. With the index in this
    checksum and the records held against the index, no byte is left out, and a save reads nothing twice.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        at = 0
        for start, end in _records(file):
            _add(digest, file, at, start)
            at = end
        _add(digest, file, at, os.path.getsize(path))
    return digest.hexdigest()


def _records(file):
    """Yield where each record of a zip file begins and ends, in bytes; of another file, or a damaged one, none."""
    with contextlib.suppress(OSError, *UNREADABLE), zipfile.ZipFile(file) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
            file.seek(entry.header_offset + LENGTHS_AT)
            start = entry.header_offset + HEADER_BYTES + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
            yield start, start + entry.compress_size


def _add(digest, file, start, end):
    file.seek(start)
    while start < end and (block := file.read(min(BLOCK_BYTES, end - start))):
        digest.update(block)
        start += len(block)


def sync(path):
    """Wait until a file, or the names in a folder, have reached the disk; raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_of(folder):
    """Return the names of the files below a tag's folder, without the manifest, in alphabetical order."""
    folder = Path(folder)
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path != folder / NAME
    )
