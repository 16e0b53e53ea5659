"""Is a checkpoint what was saved? Every file is read and held against the manifest; nothing is unpickled. No torch.

    for problem in verify(Path("checkpoints/run/global_step6")).problems:
        print(problem)

Without a manifest, as plain DeepSpeed saves, each file of torch still carries a checksum for each of its tensors,
in the index of the zip file that it is. `torch.load` does not look at them. They tell a damaged file, and not
whether two files are swapped or one belongs to another save.
"""

import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from labsupport.checkpoint.manifest import BLOCK_BYTES, UNREADABLE, Manifest, checksum, files_of, read_manifest
from labsupport.errors import CheckpointError

RANK_OF_SHARD = re.compile(r"^(.*zero_pp_rank_)(\d+)(_mp_rank_\d+_.*\.pt)$")


@dataclass(frozen=True)
class Verified:
    """What was found: the manifest or None, sentences about what is wrong, and how much was read in how long."""

    manifest: Manifest | None
    problems: tuple
    read_bytes: int
    seconds: float


def verify(folder, only=None):
    """Read a tag's folder, or of its files those for which `only(name)` is true, and return what is wrong with it."""
    folder, start = Path(folder), time.perf_counter()
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:  # nothing vouches for the files then
        return Verified(None, (str(error).partition(": ")[0],), 0, time.perf_counter() - start)
    there = files_of(folder)
    wanted = sorted({*there, *(manifest.files if manifest else ())})
    mine = [name for name in wanted if only is None or only(name)]
    if manifest:
        problems = [problem for name in mine if (problem := _against_manifest(folder, name, manifest))]
    else:
        problems = [problem for name in mine if (problem := _by_itself(folder / name))] + _gaps(there)
    read = sum((folder / name).stat().st_size for name in mine if name in there)
    return Verified(manifest, tuple(problems), read, time.perf_counter() - start)


def _against_manifest(folder, name, manifest):
    """What is wrong with one file, in words, or None."""
    path, entry = folder / name, manifest.files.get(name)
    if entry is None:
        return f"{name} does not belong to this checkpoint"
    if not path.is_file():
        return f"{name} of rank {entry['rank']} is missing"
    size, saved = path.stat().st_size, entry["bytes"]
    if size == 0 < saved:
        return f"{name} is empty"
    own = checksum(path)
    if (size, own) == (saved, entry["checksum"]):
        return _by_itself(path)
    for other, its in manifest.files.items():
        if own == its["checksum"]:
            return f"{name} holds what was saved as {other}: the two are swapped or one was copied over the other"
    damage = _by_itself(path)
    if path.suffix != ".pt":
        return f"{name} is not what was saved"  # without checksums of its own, nobody can say how
    if damage is None:
        return f"{name} is whole, but it is not the file that was saved: it comes from another save"
    if size < saved:
        return f"{name} is cut off ({size:,} of {saved:,} bytes)"
    return damage


def _by_itself(path):
    """What is wrong with one file by what it says itself, in words, or None; files that are not torch's say nothing."""
    if path.suffix != ".pt":
        return None
    if path.stat().st_size == 0:
        return f"{path.name} is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    while stream.read(BLOCK_BYTES):
                        pass  # the end compares the checksum
    except UNREADABLE as error:
        if "CRC" in str(error):
            return f"{path.name} is damaged: a tensor in it no longer has its checksum"
        return f"{path.name} is cut off, or no file that torch saved"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def _gaps(names):
    """Of shards that count their ranks, those that are missing between others."""
    ranks = {}
    for name in names:
        if found := RANK_OF_SHARD.match(name):
            ranks.setdefault((found[1], found[3]), set()).add(int(found[2]))
    return [
        f"{before}{rank}{after} is missing"
        for (before, after), present in ranks.items()
        for rank in sorted(set(range(max(present))) - present)
    ]
