"""Run one cell of the GPU tier in processes of its own, and bring back what it measured.

    entry = run_cell(cell)          # {"cell", "measured"} or {"cell", "error", "out_of_memory"}
    entry = run_fitting(cell)       # the same, of the next size down where that one is too large

`make gpu` and the labs on a GPU go through here; labsupport.gpu.cells is what is started.
"""

import json
import os
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from labsupport.config import config_precision, offload_devices
from labsupport.errors import TrainingError
from labsupport.gpu.cells import OUT_OF_MEMORY
from labsupport.gpu.suites import label, line, next_size_down
from labsupport.launch.launcher import PACKAGE, importing_this_package, launcher_environment, torchrun_command
from labsupport.launch.processes import run_to_the_end
from labsupport.machine.probes import gpu_name
from labsupport.records import commit

CELL_SECONDS = 900  # a cell that takes longer is stopped, and told so


def run_cell(cell, nvme_path=None, accelerator="cuda"):
    """Return the entry of a cell, measured on world_size ranks. nvme_path: the folder for what goes to NVMe."""
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        asked, result = Path(folder, "cell.json"), Path(folder, "result.jsonl")
        asked.write_text(json.dumps(cell))
        ranks = cell.get("world_size", 1)
        start = torchrun_command(ranks) if ranks > 1 else [sys.executable]
        command = [*start, "-m", "labsupport.gpu.cells", str(asked), str(result), str(nvme_path or folder)]
        environment = importing_this_package(launcher_environment()) | {
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks)),  # for DeepSpeedCPUAdam
            "DS_ACCELERATOR": accelerator,
            "TQDM_DISABLE": "1",
        }
        status, lines = run_to_the_end(command, environment, timeout_seconds=CELL_SECONDS)
        told = [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []
    # Every rank may tell of a failure, and rank 0 of a success that another one did not have.
    failed = [entry for entry in told if "error" in entry]
    return (failed or told or [{"cell": cell, **_silent_end(status, lines)}])[0]


def run_fitting(cell, run=run_cell, say=print):
    """Return the entry of a cell, or of the first size below it that fits, with what the cell itself said of it.

    run: what makes the entry of a cell. say: told of every size that did not fit.
    """
    entry, refused = run(cell), {}
    while entry.get(OUT_OF_MEMORY) and (smaller := next_size_down(cell)):
        say(f"{label(cell)}: {entry['error']} Trying {label(smaller)}.")
        refused = refused or {"did_not_fit": entry["error"]}
        cell, entry = smaller, run(smaller)
    return refused | entry


def _silent_end(status, lines):
    """What to write of a cell whose process ended without a word of its own."""
    if status is None:
        way_out = "name a smaller --model, or a faster drive with --nvme-path"
        return {"error": f"It took longer than {CELL_SECONDS} s and was stopped: {way_out}.", OUT_OF_MEMORY: False}
    if status in (-9, 137):  # the kernel's out-of-memory killer leaves nothing else behind
        way_out = "close other programs, or name a smaller --model"
        return {"error": f"The host ran out of memory, and the kernel ended it: {way_out}.", OUT_OF_MEMORY: True}
    tail = [line.strip() for line in lines if line.strip()][-3:]
    return {"error": f"The process ended with status {status}: {' / '.join(tail)[-500:]}", OUT_OF_MEMORY: False}


def run_here(stage, model=None):
    """Measure a stage's 16-bit cells on this machine's GPU; return what speed_by_stage takes, None without a GPU.

    model: a preset; by default the largest that fits. Nothing goes to a drive: each such step would write all states
    to it. Raises TrainingError with the sentence of a cell that failed.
    """
    from tqdm.auto import tqdm

    from labsupport.gpu.suites import STAGES, Tier, environment, ops
    from labsupport.machine.probes import gpu_count

    if not gpu_count():
        return None
    tier = Tier(dry_run=False, ranks=gpu_count(), model=model)
    for name, cells in (("ops", ops(tier)), ("environment", environment(tier))):
        setattr(tier, name, _measured(run_cell(cells[0])))
    cells = [
        cell
        for cell in STAGES[stage](tier)
        if config_precision(cell["config"]) == tier.precisions[0] and "nvme" not in offload_devices(cell["config"])
    ]
    found = [run_fitting(cell, say=tqdm.write) for cell in tqdm(cells, desc=f"measuring here: {stage}", unit="cell")]
    for entry in found:
        _measured(entry)
    return {"device": tier.environment["device"], "machine": tier.environment["machine"], "cells": found}


def _measured(entry):
    if "error" in entry:
        raise TrainingError(entry["error"])
    return entry["measured"]


class _Runner:
    """Runs cells, each in a process of its own, and keeps what is finished."""

    def __init__(self, options, ranks):
        self.ranks, self.failed, self.nvme_path = ranks, False, None
        # Two machines, two states of the code or two ways of asking must not share what is half done.
        of_machine = "dry" if options.dry_run else f"{ranks}-{gpu_name()}-{version('torch')}"
        key = f"{of_machine}-{commit().rstrip('+')}-{options.model or 'auto'}-{options.memory_gib:g}"
        self.kept = PACKAGE.parent / "_build" / "gpu" / re.sub(r"[^\w.+-]+", "_", key)
        self.dry_run = options.dry_run
        if options.fresh:
            self.forget()
        self.kept.mkdir(parents=True, exist_ok=True)

    def forget(self):
        """Forget the finished cells."""
        for path in self.kept.glob("*.jsonl"):
            path.unlink()

    def stage(self, name, cells):
        """Return an entry for each cell, {"cell", "measured"} or {"cell", "error"}, and whether one was run now."""
        path = self.kept / f"{name}.jsonl"
        # A cell that failed is tried again, one that was too large is not.
        entries = [entry for entry in _whole_lines(path) if "error" not in entry or entry.get(OUT_OF_MEMORY)]
        found = {json.dumps(entry["wanted"], sort_keys=True): entry for entry in entries}
        missing = [cell for cell in cells if json.dumps(cell, sort_keys=True) not in found]
        with tqdm(total=len(cells), initial=len(cells) - len(missing), desc=name, unit="cell") as bar:
            for wanted in missing:
                entry = {"wanted": wanted, **run_fitting(wanted, self._measure, tqdm.write)}
                self.failed |= "error" in entry and not entry.get(OUT_OF_MEMORY)
                entries.append(entry)
                path.write_text("".join(json.dumps(each) + "\n" for each in entries))
                found[json.dumps(wanted, sort_keys=True)] = entry
                tqdm.write(f"{label(wanted)}: {line(entry)}")
                bar.update()
        return [found[json.dumps(cell, sort_keys=True)] for cell in cells], bool(missing)

    def _measure(self, cell):
        return run_cell(cell, self.nvme_path, "cpu" if self.dry_run else "cuda")


def _whole_lines(path):
    """What the lines of a JSON file hold; a last one that an interruption cut is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class _DryRunner(_Runner):
    """Runs cells on live CPU ranks, all in the same ones: the sizes are tiny and nothing is timed in earnest."""

    def __init__(self, options, ranks, live):
        super().__init__(options, ranks)
        self.live = live

    def _measure(self, cell):
        from labsupport.gpu.cells import measure

        if cell["kind"] == "environment":  # one cell as on a GPU, through a process of its own
            return super()._measure(cell)
        ranks = self.live(cell.get("world_size", 1))
        try:
            return {"cell": cell, "measured": ranks.run(measure, cell, str(self.nvme_path))[0]}
        except TrainingError as error:
            return {"cell": cell, "error": str(error)}
