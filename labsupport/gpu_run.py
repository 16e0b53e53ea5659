"""Run one cell of the GPU tier in processes of its own, and bring back what it measured.

    entry = run_cell(cell)          # {"cell", "measured"} or {"cell", "error", "out_of_memory"}
    entry = run_fitting(cell)       # the same, of the next size down where that one is too large

`make gpu` and the labs on a GPU go through here; labsupport.gpu_cells is what is started.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from labsupport.gpu_cells import OUT_OF_MEMORY
from labsupport.gpu_stages import label, next_size_down
from labsupport.launch.launcher import launcher_environment
from labsupport.launch.processes import run_to_the_end

PACKAGE_PARENT = Path(__file__).parent.parent
CELL_SECONDS = 900  # a cell that takes longer is stopped, and told so


def run_cell(cell, nvme_path=None, accelerator="cuda"):
    """Return the entry of a cell, measured on world_size ranks. nvme_path: the folder for what goes to NVMe."""
    with tempfile.TemporaryDirectory(prefix="deepspeed-lab-") as folder:
        asked, result = Path(folder, "cell.json"), Path(folder, "result.jsonl")
        asked.write_text(json.dumps(cell))
        ranks = cell.get("world_size", 1)
        program = ["-m", "labsupport.gpu_cells", str(asked), str(result), str(nvme_path or folder)]
        if ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
            program = [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *program]
        environment = launcher_environment() | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks)),  # for DeepSpeedCPUAdam
            "DS_ACCELERATOR": accelerator,
            "TQDM_DISABLE": "1",
        }
        status, lines = run_to_the_end([sys.executable, *program], environment, timeout_seconds=CELL_SECONDS)
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
