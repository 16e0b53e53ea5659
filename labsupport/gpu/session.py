"""What `make gpu` runs: every cell of a suite in processes of its own, finished ones kept, complete suites recorded.

    session = Session(tier, kept_folder(tier))
    session.run(["grid", "speed"], folder)   # records gpu_grid.json and gpu_speed.json there

    entry = run_cell(cell)                   # {"cell", "measured"} or {"cell", "error", "out_of_memory"}
    entry = run_fitting(cell)                # the same, of the next size down where that one is too large

The labs on a GPU go through here too; labsupport.gpu.worker is what is started. No torch.
"""

import functools
import json
import os
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tqdm.auto import tqdm

from labsupport.config import config_precision, offload_devices
from labsupport.errors import TrainingError
from labsupport.gpu.cells import OUT_OF_MEMORY
from labsupport.gpu.measurements import measure
from labsupport.gpu.suites import SUITES, WARM_UP_STEPS, Tier, label, line, next_size_down
from labsupport.launch.launcher import PACKAGE, importing_this_package, launcher_environment, torchrun_command
from labsupport.launch.processes import run_to_the_end
from labsupport.machine.probes import gpu_count, gpu_name
from labsupport.ranks.notebook import Ranks
from labsupport.records import UnfinishedRecord, commit, record

CELL_SECONDS = 900  # a cell that takes longer is stopped, and told so


def run_cell(cell, nvme_path=None, accelerator="cuda"):
    """Return the entry of a Cell, measured on its ranks. nvme_path: the folder for what goes to NVMe."""
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        asked, result = Path(folder, "cell.json"), Path(folder, "result.jsonl")
        asked.write_text(json.dumps(cell.as_dict()))
        ranks = cell.world_size
        start = torchrun_command(ranks) if ranks > 1 else [sys.executable]
        command = [*start, "-m", "labsupport.gpu.worker", str(asked), str(result), str(nvme_path or folder)]
        environment = importing_this_package(launcher_environment()) | {
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks)),  # for DeepSpeedCPUAdam
            "DS_ACCELERATOR": accelerator,
            "TQDM_DISABLE": "1",
        }
        status, lines = run_to_the_end(command, environment, timeout_seconds=CELL_SECONDS)
        told = [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []
    # Every rank may tell of a failure, and rank 0 of a success that another one did not have.
    failed = [entry for entry in told if "error" in entry]
    return (failed or told or [{"cell": cell.as_dict(), **_silent_end(status, lines)}])[0]


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


class Session:
    """One `make gpu`: suite after suite, each cell in processes of its own. `failed`: one failed, not for its size.

    tier: what is measured on. kept: the folder of the finished cells, with which an interrupted session goes on.
    measure: makes the entry of a cell; by default run_cell on this machine's GPUs.
    """

    def __init__(self, tier, kept, measure=None):
        self.tier, self.kept, self.failed = tier, Path(kept), False
        self._measure = measure or functools.partial(run_cell, nvme_path=tier.nvme_path)

    def run(self, suites, folder):
        """Measure the suites, record in `folder` each that measured something, and return whether no cell failed.

        Raises TrainingError where not even the machine can be described.
        """
        for name in ("ops", "environment"):  # the ops first: the rest would compile them unseen
            (entry,), _ = self.measure_suite(name, SUITES[name](self.tier))
            if "error" in entry:
                raise TrainingError("This machine could not be described: mend first what the sentence above says.")
            setattr(self.tier, name, entry["measured"])
        for name in suites:
            cells = SUITES[name](self.tier)
            if isinstance(cells, str):  # why there is nothing to measure here
                print(f"{name}: {cells}")
                continue
            entries, measured_now = self.measure_suite(name, cells)
            recorded = Path(folder, f"gpu_{name}.json").exists()
            if not any("measured" in entry for entry in entries):
                print(f"{name}: no cell was measured, so nothing is recorded; an earlier record stays.")
            elif measured_now or not recorded or name in ("environment", "ops"):
                path = _record(name, entries, self.tier, folder)
                print(f"{name}: {len(entries)} cells recorded in {path.name}.", flush=True)
        if not self.failed:
            self.forget()  # until here an interrupted session can go on
        return not self.failed

    def measure_suite(self, name, cells):
        """Return an entry for each cell, {"cell", "measured"} or {"cell", "error"}, and whether one was run now."""
        kept = UnfinishedRecord(self.kept / f"{name}.jsonl", "wanted")
        missing = [cell for cell in cells if _is_to_run(kept.entry_of(cell.as_dict()))]
        with tqdm(total=len(cells), initial=len(cells) - len(missing), desc=name, unit="cell") as bar:
            for wanted in missing:
                entry = {"wanted": wanted.as_dict(), **run_fitting(wanted, self._measure, tqdm.write)}
                self.failed |= _is_to_run(entry)
                kept.add(entry)
                tqdm.write(f"{label(wanted)}: {line(entry)}")
                bar.update()
        return [kept.entry_of(cell.as_dict()) for cell in cells], bool(missing)

    def forget(self):
        """Forget the finished cells."""
        for path in self.kept.glob("*.jsonl"):
            path.unlink()


def _is_to_run(entry):
    """Whether a cell is still to be run: a cell that failed is tried again, one that was too large is not."""
    return entry is None or ("error" in entry and not entry.get(OUT_OF_MEMORY))


def kept_folder(tier):
    """Return the folder of a session's finished cells.

    Two machines, two states of the code and two ways of asking must not share what is half done.
    """
    machine = "dry" if tier.dry_run else f"{tier.ranks}-{gpu_name()}-{version('torch')}"
    key = f"{machine}-{commit().rstrip('+')}-{tier.wanted_model or 'auto'}-{tier.memory_gib:g}"
    return PACKAGE.parent / "_build" / "gpu" / re.sub(r"[^\w.+-]+", "_", key)


def _record(name, entries, tier, folder):
    found = tier.environment
    limits = "" if not tier.dry_run else "DRY RUN, no measurement: "
    return record(
        f"gpu_{name}",
        command=f"python benchmarks/gpu.py --suites {name}",
        config={"cells": "each cell names its own"},
        hardware=f"{limits}{found['machine']}; {found['cores']} CPU cores, "
        f"{found['host_memory_bytes'] / 2**30:.0f} GiB of host memory",
        seed=0,
        warm_up=WARM_UP_STEPS,
        counted=f"{tier.windows} windows of {tier.steps} steps, fewer where a step is slow",
        measured={"environment": found, "ops": tier.ops, "cells": entries},
        more_versions={"cuda": found["cuda"], "driver": found["driver"]},
        folder=folder,
    )


class LiveCpuRanks:
    """Measures cells for a dry run, on CPU ranks that stay up: the sizes are tiny and nothing is timed in earnest.

    with LiveCpuRanks(nvme_path) as measure: measure(cell) makes the entry that run_cell would.
    """

    def __init__(self, nvme_path):
        self._nvme_path, self._ranks = str(nvme_path), {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for ranks in self._ranks.values():
            ranks.stop()

    def __call__(self, cell):
        if cell.kind == "environment":  # one cell as on a GPU, through a process of its own
            return run_cell(cell, self._nvme_path, "cpu")
        count = cell.world_size
        if count not in self._ranks:
            self._ranks[count] = Ranks(count, "cpu")
        try:
            return {"cell": cell.as_dict(), "measured": self._ranks[count].run(measure, cell, self._nvme_path)[0]}
        except TrainingError as error:
            return {"cell": cell.as_dict(), "error": str(error)}


def run_here(suite, model=None):
    """Measure a suite's 16-bit cells on this machine's GPU; return what speed_by_stage takes, None without a GPU.

    model: a preset; by default the largest that fits. Nothing goes to a drive: each such step would write all states
    to it. Raises TrainingError with the sentence of a cell that failed.
    """
    if not gpu_count():
        return None
    tier = Tier(dry_run=False, ranks=gpu_count(), model=model)
    for name in ("ops", "environment"):
        setattr(tier, name, _measured(run_cell(SUITES[name](tier)[0])))
    cells = [
        cell
        for cell in SUITES[suite](tier)
        if config_precision(cell.run.config) == tier.precisions[0] and "nvme" not in offload_devices(cell.run.config)
    ]
    found = [run_fitting(cell, say=tqdm.write) for cell in tqdm(cells, desc=f"measuring here: {suite}", unit="cell")]
    for entry in found:
        _measured(entry)
    return {"device": tier.environment["device"], "machine": tier.environment["machine"], "cells": found}


def _measured(entry):
    if "error" in entry:
        raise TrainingError(entry["error"])
    return entry["measured"]
