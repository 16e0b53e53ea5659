"""What happens to files: cut off, zeroed, swapped, gone, from another save. Each function damages a tag's folder.

damage("a bit flipped", Path("checkpoints/run/global_step6"), random.Random(3))
"""

import os
import random
import shutil
from pathlib import Path

from labsupport.checkpoint.manifest import NAME, files_of
from labsupport.checkpoint.tags import read_latest
from labsupport.checkpoint.verify import verify


def damage(kind, folder, chance):
    """Do one kind of damage to a tag's folder, at a place that `chance`, a random.Random, chooses; returns it in words.

    kind: one of KINDS. folder: the tag's, with another tag of the same run beside it for files of another save.
    """
    return KINDS[kind](folder, chance)


def _one(folder, chance, but=()):
    return folder / chance.choice([name for name in files_of(folder) if name not in but])


def _cut_off(folder, chance):
    path = _one(folder, chance)
    left = chance.randrange(1, path.stat().st_size)
    os.truncate(path, left)
    return f"{path.name} cut off after {left} bytes"


def _empty(folder, chance):
    path = _one(folder, chance)
    os.truncate(path, 0)
    return f"{path.name} emptied"


def _overwrite(path, at, content):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def _bit_flipped(folder, chance):
    path = _one(folder, chance)
    at = chance.randrange(path.stat().st_size)
    with open(path, "rb") as file:
        file.seek(at)
        byte = file.read(1)[0]
    _overwrite(path, at, bytes([byte ^ 1 << chance.randrange(8)]))
    return f"{path.name}: a bit of byte {at} flipped"


def _zeroed(folder, chance):
    """A tensor's worth of zeros, as a drive gives back that has lost a block."""
    path = _one(folder, chance, but=[name for name in files_of(folder) if not name.endswith(".pt")])
    content = path.read_bytes()
    where = [at for at in range(0, len(content) - 512, 512) if any(content[at : at + 512])]
    at = chance.choice(where)
    _overwrite(path, at, bytes(512))
    return f"{path.name}: 512 bytes at {at} zeroed"


def _swapped(folder, chance):
    one, other = chance.sample([name for name in files_of(folder) if name.endswith("optim_states.pt")], 2)
    aside = folder.with_name("aside")
    (folder / one).rename(aside)
    (folder / other).rename(folder / one)
    aside.rename(folder / other)
    return f"{one} and {other} swapped"


def _gone(folder, chance):
    path = _one(folder, chance)
    path.unlink()
    return f"{path.name} removed"


def _of_another_save(folder, chance):
    others = [each for each in folder.parent.iterdir() if each.is_dir() and each != folder and (each / NAME).exists()]
    path = _one(folder, chance, but=("config.json",))  # the same in every save
    shutil.copyfile(others[0] / path.name, path)
    return f"{path.name} taken from {others[0].name}"


def _stranger(folder, chance):
    path = folder / f"zero_pp_rank_{chance.randrange(2, 9)}_mp_rank_00_optim_states.pt"
    shutil.copyfile(folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt", path)
    return f"{path.name} added"


def _manifest_changed(folder, chance):
    path = folder / NAME
    content = path.read_bytes()
    at = chance.randrange(len(content) - 1)
    _overwrite(path, at, bytes([content[at] ^ 1]))
    return f"{NAME}: byte {at} changed"


KINDS = {
    "cut off": _cut_off,
    "emptied": _empty,
    "a bit flipped": _bit_flipped,
    "a block zeroed": _zeroed,
    "two swapped": _swapped,
    "removed": _gone,
    "of another save": _of_another_save,
    "a file too many": _stranger,
    "the manifest changed": _manifest_changed,
}


def trials(count, seed, folder, top):
    """Damage copies of a folder's newest tag and yield what was done and whether, and how, `verify` told it.

    folder: that of a run, with two tags. top: where the copies are made. Nothing is unpickled.
    """
    newest = read_latest(folder)
    for number in range(count):
        own = random.Random(f"{seed} {number}")
        kind = list(KINDS)[number % len(KINDS)]
        copy = Path(top, "copy")
        shutil.copytree(folder, copy)
        try:
            done = damage(kind, copy / newest, own)
            told = [problem.replace(str(copy), "...") for problem in verify(copy / newest).problems]
        finally:
            shutil.rmtree(copy)
        yield {"number": number, "kind": kind, "done": done, "told": told}
