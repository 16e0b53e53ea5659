"""Kill real runs at random moments, let each go on, and count what was lost.

    chain = Chain(stage=2, folder="checkpoints/run", reference=reference(2))
    for kill in kills(100, seed=0):
        print(chain.run(kill))         # a dict: where it hit, what was lost

A chain is one run that is killed again and again: each start goes on from what the one before has left. Every loss is
held against a run that nobody disturbed; at stages 0 to 3 in fp32 they are the same to the bit.
"""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

from labsupport.checkpoint.manifest import read_manifest
from labsupport.checkpoint.tags import PASSING, has_checkpoint, tag_to_load
from labsupport.checkpoint.verify import verify
from labsupport.errors import CheckpointError, EndedEarly, TrainingError
from labsupport.faults import training
from labsupport.faults.crew import END_SECONDS, Crew
from labsupport.launch.processes import SHARED_MEMORY

STEPS = 40  # of a chain; then another one begins
PHASE_SECONDS = 3  # to wait for a phase: a chain near its end may not come to it
RANKS = 2
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
# Seconds that a phase may last here: a kill waits for a random part of it.
LENGTHS = {"starting": 0.8, "load": 0.2, "training": 0.05, "save": 0.25, "prune": 0.01}


class Kill(NamedTuple):
    """One kill: which rank, by which signal, at which part (0 to 1) of which phase, after how many saves of the run."""

    number: int
    stage: int
    rank: int
    how: str
    phase: str
    part: float
    saves: int


def kills(count, seed, first=0):
    """Return `count` kills of the endless list that a seed names, from number `first` on."""
    found = []
    for number in range(first, first + count):
        own = random.Random(f"{seed} {number}")
        # Most in saves, because there a run can lose what it has.
        phase = own.choices(list(LENGTHS), (1, 2, 3, 5, 2))[0]
        how = own.choices(list(SIGNALS), (8, 1, 1))[0]
        saves = 0 if phase in ("starting", "load") else own.randrange(3)
        found.append(Kill(number, number % 4, own.randrange(RANKS), how, phase, own.random(), saves))
    return found


def reference(stage):
    """Return the losses of a chain's steps, by step, from a run that nobody disturbs and that saves nothing."""
    losses = _losses(RANKS, folder=None, steps=STEPS, stage=stage)
    if len(losses) != STEPS:
        raise TrainingError(f"The undisturbed run has {len(losses)} of {STEPS} steps: run it again.")
    return losses


class Chain:
    """One run at a stage that is killed again and again, in a folder of its own; `begun` counts those it began."""

    def __init__(self, stage, folder, reference):
        self.stage, self.top, self.reference, self.begun = stage, Path(folder), reference, 0
        self._begin()

    def _begin(self):
        self.begun += 1
        self.folder, self._saved, self._expected = self.top / f"run{self.begun}", 0, 0

    def run(self, kill):
        """Start the run from what is there, kill it, and return what came of it as plain data."""
        start = time.monotonic()
        crew = Crew(RANKS, training.train, {"folder": str(self.folder), "steps": STEPS, "stage": self.stage})
        victim = kill.rank
        try:
            if kill.saves:
                crew.wait_for(lambda: len(crew.said(0, "saved")) >= kill.saves)
            crew.wait_for(lambda: crew.phase(victim) == kill.phase, PHASE_SECONDS, rest=0)
            _sleep(kill.part * LENGTHS[kill.phase], lambda: crew.listen(0))
            hit = crew.phase(victim)
            crew.send(victim, SIGNALS[kill.how])
            if kill.how == "SIGTERM":
                crew.wait_for_end(END_SECONDS)  # the launcher waits as long
            else:
                _sleep(0.1 * kill.part, lambda: crew.listen(0))  # and then it ends the others
        finally:
            left = crew.end()
        result = kill._asdict() | {"hit": hit, "exits": left, "seconds": round(time.monotonic() - start, 3)}
        return result | self._look(crew)

    def _look(self, crew):
        """Hold what the run said, and what it left, against what has to be."""
        problems = []
        loaded = [facts["step"] for facts in crew.said(0, "loaded")]
        if loaded and loaded[0] != self._expected:
            problems.append(f"it went on from step {loaded[0]} and not from {self._expected}")
        for rank in range(RANKS):
            for facts in crew.said(rank, "loss"):
                if facts["loss"] != self.reference[facts["step"]]:
                    problems.append(f"step {facts['step']} has the loss {facts['loss']} on rank {rank}")
            problems += [f"rank {rank}: {facts['sentence']}" for facts in crew.said(rank, "failed") if not _own(facts)]
        ends = {process.exitcode for process in crew.processes}
        said = [facts["step"] for facts in crew.said(0, "loss")]
        there, damaged = self._newest()
        if ends == {EndedEarly.status} and said and there != said[-1]:
            problems.append(f"asked to end after step {said[-1]}, it saved step {there}")
        self._saved = max([self._saved, *(facts["step"] for facts in crew.said(0, "saved"))])
        result = {
            "steps": len(crew.said(0, "loss")),
            "newest": there,
            "lost_steps": max(0, self._saved - there),
            "damaged": damaged,
            "problems": problems,
            "orphans": sum(process.is_alive() for process in crew.processes),
            "shared_memory": len(list(SHARED_MEMORY.glob(f"deepspeed_*_{crew.port}_*"))),
        }
        self._expected = there
        if there == STEPS and ends == {0}:  # it came to its end: only whole tags may be left
            result["leftovers"] = [
                each.name for each in self.folder.iterdir() if each.name.endswith((*PASSING, ".part"))
            ]
            self._begin()
        return result

    def _newest(self):
        """The step of the checkpoint that the next start will load, 0 without one, and whether it is damaged."""
        if not self.folder.exists() or not has_checkpoint(self.folder):
            return 0, False
        try:
            tag = self.folder / tag_to_load(self.folder)
            return read_manifest(tag).step, bool(verify(tag).problems)
        except CheckpointError:
            return 0, True


def _own(facts):
    """Whether a rank's failure is the kill's own doing: it was asked to end, or its peer is gone."""
    return facts["kind"] in ("EndedEarly", "KeyboardInterrupt") or any(
        word in facts["sentence"] for word in ("gloo", "Connection", "closed by peer", "Broken pipe", "reset by peer")
    )


def _sleep(seconds, meanwhile):
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        meanwhile()
        time.sleep(min(left, 0.002))


def moves(stage, top, numbers=(1, 2, 3, 4), stages=None):
    """Go on from each number of ranks with each other one and yield what became of the losses.

    stages: what the resumed run has; by default the same stage. Without dropout, which draws other numbers on other
    ranks, the losses of six steps have to be those of a run that stays, up to the order of sums.
    """
    saved = {}
    for count in numbers:
        folder = Path(top, f"stage{stage}-on-{count}")
        saved[count] = folder
        _losses(count, folder=str(folder), steps=2, stage=stage, dropout=0.0)
    stays = _losses(numbers[0], folder=None, steps=6, stage=stage, dropout=0.0)
    for count, folder in saved.items():
        for here in stages or (stage,):
            for other in numbers:
                if (count, stage) == (other, here):
                    continue
                copy = Path(top, "copy")
                shutil.copytree(folder, copy)
                losses = _losses(other, folder=str(copy), steps=6, stage=here, dropout=0.0)
                shutil.rmtree(copy)
                apart = max(abs(loss - stays[step]) for step, loss in losses.items())
                yield {"stage": stage, "ranks": count, "to_stage": here, "to_ranks": other, "steps": len(losses),
                       "largest_difference": apart}  # fmt: skip


def _losses(ranks, **keywords):
    """Run to the end and return {step: loss}; raises TrainingError with the sentence of a rank that failed."""
    crew = Crew(ranks, training.train, keywords)
    try:
        crew.wait_for_end(4 * END_SECONDS)
        crew.require_no_error()
        return {facts["step"]: facts["loss"] for facts in crew.said(0, "loss")}
    finally:
        crew.end()


def counts(results):
    """Return the sums over the results of kills: what the record and the page show."""
    hits = {}
    for result in results:
        hits[result["hit"]] = hits.get(result["hit"], 0) + 1
    return {
        "kills": len(results),
        "by_phase": dict(sorted(hits.items())),
        "lost_steps": sum(result["lost_steps"] for result in results),
        "damaged": sum(result["damaged"] for result in results),
        "problems": sum(len(result["problems"]) for result in results),
        "orphans": sum(result["orphans"] for result in results),
        "shared_memory": sum(result["shared_memory"] for result in results),
        "leftovers": sum(len(result.get("leftovers", [])) for result in results),
    }


MUST_BE_ZERO = ("lost_steps", "damaged", "problems", "orphans", "shared_memory", "leftovers", "undetected_damage",
                "machine_problems", "moves_apart")  # fmt: skip
APART = 2e-5  # nats that two runs may differ in that sum in another order: fp32, losses of 5


def two_tags(stage, top):
    """Train four steps and save after the second and the fourth; return the folder of the two tags."""
    folder = Path(top, f"stage{stage}")
    _losses(RANKS, folder=str(folder), steps=4, stage=stage)
    return folder
