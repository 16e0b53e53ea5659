"""Run cells of the GPU tier, each in processes of its own, and bring back what they measured.

    for entry in run_cells(cells):          # {"cell", "measured"} or {"cell", "error", "out_of_memory"}

`make gpu` and the labs on a GPU go through here; labsupport.gpu_cells is what is started.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from labsupport.gpu_cells import OUT_OF_MEMORY
from labsupport.launch import launcher_environment, run_to_the_end

PACKAGE_PARENT = Path(__file__).parent.parent
CELL_SECONDS = 900  # a cell that takes longer is stopped, and told so


def run_cells(cells, nvme_path=None, accelerator="cuda"):
    """Return the entries of the first cells of a list: of all of them, or up to the first that failed.

    All cells have the same world_size, and share its processes. nvme_path: the folder for what goes to NVMe.
    """
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        asked, results = Path(folder, "cells.json"), Path(folder, "results.jsonl")
        asked.write_text(json.dumps(cells))
        ranks = cells[0].get("world_size", 1)
        program = ["-m", "labsupport.gpu_cells", str(asked), str(results), str(nvme_path or folder)]
        if ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
            program = [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *program]
        environment = launcher_environment() | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks)),  # for DeepSpeedCPUAdam
            "DS_ACCELERATOR": accelerator,
            "TQDM_DISABLE": "1",
        }
        command = [sys.executable, *program]
        status, lines = run_to_the_end(command, environment, timeout_seconds=CELL_SECONDS * len(cells))
        entries = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    failed = next((number for number, entry in enumerate(entries) if "error" in entry), None)
    if failed is not None:
        return entries[: failed + 1]  # several ranks may tell of the same failure: the first one does
    if len(entries) < len(cells):
        entries += [{"cell": cell, **_silent_end(status, lines)} for cell in cells[len(entries) :][:1]]
    return entries


def _silent_end(status, lines):
    """What to write of a cell whose process ended without a word of its own."""
    if status is None:
        return {"error": f"It took longer than {CELL_SECONDS} s and was stopped."}
    if status in (-9, 137):  # the kernel's out-of-memory killer leaves nothing else behind
        return {"error": "The host ran out of memory, and the kernel ended the process.", OUT_OF_MEMORY: True}
    tail = [line.strip() for line in lines if line.strip()][-3:]
    return {"error": f"The process ended with status {status}: {' / '.join(tail)[-500:]}", OUT_OF_MEMORY: False}
