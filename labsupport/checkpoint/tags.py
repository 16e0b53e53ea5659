"""The tags in a folder: which are whole, which one is the latest, and how an older one is taken away. No torch."""

import os
import shutil
from pathlib import Path

from labsupport.checkpoint.manifest import files_of, read_manifest, sync
from labsupport.errors import CheckpointError

LATEST, LATEST_UNIVERSAL = "latest", "latest_universal"
# What a tag's folder is called while it is written, while another takes its place, and while it is removed.
INCOMPLETE, REPLACED, DELETED = ".incomplete", ".replaced", ".deleted"
PASSING = (INCOMPLETE, REPLACED, DELETED)
FULL_BYTES = 1 << 20  # of a disk with less left, a write that failed is taken to have filled it


def folders_in(path):
    """Return the names of the folders that can be tags, in alphabetical order."""
    return sorted(each.name for each in Path(path).iterdir() if each.is_dir() and not each.name.endswith(PASSING))


def tags_of(path):
    """Return the names of the tags in a folder; raises CheckpointError where it is no folder of checkpoints."""
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path} is not a folder: give the one that save_checkpoint wrote, which holds the tags.")
    tags = [tag for tag in folders_in(folder) if any(name.endswith(".pt") for name in files_of(folder / tag))]
    if not tags:
        raise CheckpointError(
            f"{path} holds no checkpoint: give the folder that save_checkpoint wrote, not a tag in it."
        )
    return tags


def tag_to_load(path, tag=None, universal=False):
    """Return the tag to load from the folder `path`; raises CheckpointError where there is none."""
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"There is no checkpoint at {path}: give the folder that save_checkpoint wrote.")
    if not folder.is_dir():
        raise CheckpointError(f"The checkpoint {path} is a file: give the folder that holds the file `latest`.")
    if os.access(folder, os.W_OK):
        finish_interrupted(folder)
    tags = folders_in(folder)
    if tag is None:
        latest = LATEST_UNIVERSAL if universal else LATEST
        tag = read_latest(folder, latest)
        if tag is None:
            raise CheckpointError(
                f"{path} holds no file `{latest}` with a name in it, so it names no checkpoint: "
                f"give a tag{', one of ' + ', '.join(tags) if tags else ' or another folder'}."
            )
    tag = str(tag)
    if tag not in tags:
        raise CheckpointError(f"{path} holds no checkpoint {tag!r}: it holds {', '.join(tags) or 'none'}.")
    return tag


def has_checkpoint(path):
    """Say whether a folder names a checkpoint to go on from."""
    return Path(path).is_dir() and read_latest(path) is not None


def whole_tags(path):
    """Return the manifests of a folder's tags that have one and all files, each of its size."""
    found = []
    for folder in (Path(path, tag) for tag in folders_in(path)):
        try:
            manifest = read_manifest(folder)
        except CheckpointError:
            continue
        if manifest and all(has_size(folder / name, entry["bytes"]) for name, entry in manifest.files.items()):
            found.append(manifest)
    return found


def read_latest(path, name=LATEST):
    """Return the tag that the file `latest` names, or None."""
    file = Path(path, name)
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def name_latest(path, tag):
    """Let `latest` name a tag, on the disk: who reads it finds the old name or the new one."""
    part = Path(path, f"{LATEST}.part")
    part.write_text(tag, encoding="utf-8")
    sync(part)
    part.replace(Path(path, LATEST))
    sync(path)


def prune(path, keep):
    """Remove all but the newest `keep` whole tags of a folder; return the names of those that are gone.

    The newest is what its manifest says, by its number of steps, so that a clock that goes back does no harm. The tag
    that `latest` names stays, and so do tags without a manifest, because nobody can say what they are.
    """
    path = Path(path)
    whole = sorted((manifest.step, manifest.tag) for manifest in whole_tags(path))
    latest = read_latest(path)
    older = [tag for _, tag in whole[: max(0, len(whole) - keep)] if tag != latest]
    for tag in older:
        try:
            remove(path / tag)
        except OSError as error:
            raise CheckpointError(f"{path}/{tag} was not removed: {error.strerror.lower()}.") from error
    return older


def remove(folder):
    """Remove a tag's folder; from the first moment on nothing takes what is left of it for a checkpoint."""
    leaving = folder.with_name(f"{folder.name.removesuffix(DELETED)}{DELETED}")
    if folder != leaving:
        folder.rename(leaving)
    shutil.rmtree(leaving)


def finish_interrupted(path):
    """Give back its name to a tag that a save of the same tag had put aside when it was interrupted."""
    for aside in Path(path).glob(f"*{REPLACED}"):
        tag = aside.with_name(aside.name.removesuffix(REPLACED))
        if tag.exists():
            remove(aside)
        else:
            aside.rename(tag)


def has_size(path, size):
    """Say whether there is a file of that many bytes."""
    return path.is_file() and path.stat().st_size == size


def is_full(folder):
    """Say whether the disk of a folder has no room left; torch's own writer does not say that this was the cause."""
    return shutil.disk_usage(folder).free < FULL_BYTES
