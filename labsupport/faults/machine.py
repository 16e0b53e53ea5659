"""Faults of the machine under a run: a full disk, a folder that cannot be written or is gone, time, a rank that stalls.

    for fault in FAULTS:
        print(run(fault, "work", reference(2)))

Each returns plain data: what happened in words, and `problems`, which has to be empty. Two of them mount a small drive
in memory, which takes root; without it they say so in `skipped`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from labsupport.checkpoint.manifest import read_manifest
from labsupport.checkpoint.tags import has_checkpoint, tag_to_load
from labsupport.checkpoint.verify import verify
from labsupport.faults import training
from labsupport.faults.crew import END_SECONDS, Crew

DRIVE_BYTES = 1_500_000  # two checkpoints of the small run and a half
STALL_SECONDS = 60


def run(fault, top, reference, **options):
    """Run one of FAULTS in a folder of its own below `top`; reference: the losses of stage 2 by step."""
    folder = Path(top, fault.__name__)
    folder.mkdir(parents=True)
    try:
        words, problems = fault(folder, reference, **options)
    except NoDrive as reason:
        return {"fault": fault.__name__.replace("_", " "), "skipped": str(reason), "problems": []}
    return {"fault": fault.__name__.replace("_", " "), "outcome": words, "problems": problems}


class NoDrive(Exception):
    """No small drive can be made here."""


@contextlib.contextmanager
def small_drive(folder, options=""):
    """Mount a drive of 1.5 MB on a folder; raises NoDrive where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DRIVE_BYTES}{options}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        raise NoDrive(f"a small drive cannot be mounted here: {mounted.stderr.strip() or 'not as root'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _ended(folder, reference, seconds=2 * END_SECONDS, meanwhile=lambda crew: None, **options):
    """Run to its end and return (the crew, problems): whether each loss is that of the undisturbed run."""
    crew = Crew(2, training.train, {"folder": str(folder), "stage": 2, "steps": 12} | options)
    problems = []
    try:
        meanwhile(crew)
        if not crew.wait_for_end(seconds):
            problems.append("it had not ended")
    finally:
        crew.end()
    for rank in (0, 1):
        for facts in crew.said(rank, "loss"):
            if facts["loss"] != reference[facts["step"]]:
                problems.append(f"step {facts['step']} has another loss on rank {rank}")
    return crew, problems


def _told_alike(crew, words):
    """The sentence with which all ranks ended, and what is wrong with it."""
    sentences = {facts["sentence"] for rank in (0, 1) for facts in crew.said(rank, "failed")}
    problems = [f"a rank ended with {process.exitcode}" for process in crew.processes if process.exitcode != 2]
    if len(sentences) != 1 or not any(word in next(iter(sentences)) for word in words):
        problems.append(f"the ranks said {sorted(sentences)}")
    return next(iter(sentences), "nothing was said"), problems


def _whole(folder, step=None):
    """What is wrong with the checkpoint that a folder names; step: the one that it has to be."""
    if not has_checkpoint(folder):
        return ["no checkpoint is left"]
    tag = Path(folder, tag_to_load(folder))
    problems = list(verify(tag).problems)
    if step is not None and read_manifest(tag).step != step:
        problems.append(f"{tag.name} is the newest, and not that of step {step}")
    return problems


def full_disk(folder, reference):
    """The drive is full in the middle of a save: the one before stays, and the run says why it ended."""
    with small_drive(folder / "drive") as drive:
        crew, problems = _ended(drive / "run", reference, keep=None)
        saved = [facts["step"] for facts in crew.said(0, "saved")]
        sentence, more = _told_alike(crew, ["no space left"])
        problems += more + _whole(drive / "run", saved[-1] if saved else None)
        left = [each.name for each in (drive / "run").glob("*.incomplete")]
    return sentence.replace(str(folder), "..."), problems + [f"{name} is left" for name in left]


def read_only_folder(folder, reference):
    """Nothing can be written: the run says so at its first save."""
    with small_drive(folder / "drive", ",ro") as drive:
        crew, problems = _ended(drive / "run", reference)
        sentence, more = _told_alike(crew, ["read-only"])
    return sentence.replace(str(folder), "..."), problems + more


def vanished_folder(folder, reference):
    """Somebody removes the folder while the run trains: it makes it anew and saves there."""

    def remove(crew):
        crew.wait_for(lambda: len(crew.said(0, "saved")) == 2)
        shutil.rmtree(folder / "run", ignore_errors=True)

    crew, problems = _ended(folder / "run", reference, meanwhile=remove)
    if {process.exitcode for process in crew.processes} == {0}:
        return "The run went on and saved into a new folder.", problems + _whole(folder / "run", 12)
    sentence, more = _told_alike(crew, ["no such file"])  # it was removed in the middle of a save
    return sentence.replace(str(folder), "..."), problems + more


def clock_that_goes_back(folder, reference):
    """The files of the first half are from next year: the newest checkpoint is still the one with the most steps."""
    _, problems = _ended(folder / "run", reference, steps=6)
    later = time.time() + 365 * 86400
    for path in (folder / "run").rglob("*"):
        os.utime(path, (later, later))
    _, more = _ended(folder / "run", reference)
    tags = sorted(each.name for each in (folder / "run").iterdir() if each.is_dir())
    return f"Kept: {', '.join(tags)}.", problems + more + _whole(folder / "run", 12)


def rank_that_stalls(folder, reference, seconds=STALL_SECONDS):
    """A rank stands still for a minute: the others wait, and nothing is lost."""

    def stall(crew):
        crew.wait_for(lambda: crew.said(1, "loss"))
        crew.send(1, signal.SIGSTOP)
        time.sleep(seconds)
        crew.send(1, signal.SIGCONT)

    crew, problems = _ended(folder / "run", reference, 2 * END_SECONDS, stall)
    return f"After {seconds} s it went on to its end.", problems + _whole(folder / "run", 12)


def two_runs_on_one_folder(folder, reference):
    """A second run begins while the first one saves: it is refused, and the first one is not disturbed."""
    others = []

    def begin_another(crew):
        crew.wait_for(lambda: crew.said(0, "saved"))
        crew.send(0, signal.SIGSTOP)  # so that the first one is not done before the second one saves
        other = Crew(2, training.train, {"folder": str(folder / "run"), "stage": 2, "steps": 12})
        try:
            other.wait_for_end(END_SECONDS)
        finally:
            other.end()
        others.append(other)
        crew.send(0, signal.SIGCONT)

    _, problems = _ended(folder / "run", reference, meanwhile=begin_another)
    sentence, more = _told_alike(others[0], ["Another run saves into"])
    return sentence.replace(str(folder), "..."), problems + more + _whole(folder / "run", 12)


FAULTS = (full_disk, read_only_folder, vanished_folder, clock_that_goes_back, rank_that_stalls, two_runs_on_one_folder)
