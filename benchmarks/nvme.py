"""The optimizer on a drive beside the optimizer on the host: what lab 06 shows where NVMe offload cannot run.

    python benchmarks/nvme.py

Trains on two ranks. Writes labsupport/recorded/nvme.json.
"""

import os
import sys
import tempfile
from pathlib import Path

from labsupport.machine.hardware import describe_machine
from labsupport.measure.offload import STEPS, drive_run, lab_config
from labsupport.ranks.notebook import Ranks
from labsupport.records import record

PRECISION, RANKS = "bf16", 2


def main():
    """Measure and record."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    machine = describe_machine()
    if not machine.nvme:
        sys.exit(f"NVMe offload cannot run here: {machine.nvme_reason}")
    ranks = Ranks(RANKS, "cpu")
    try:
        with tempfile.TemporaryDirectory(prefix="deepspeed-nvme-", dir=Path.cwd()) as folder:
            measured = ranks.run(drive_run, folder, PRECISION, RANKS)[0]
    finally:
        ranks.stop()
    path = record(
        "nvme",
        command="python benchmarks/nvme.py",
        config=lab_config(3, PRECISION, RANKS),
        hardware=f"{machine}; {RANKS} ranks over gloo; the drive is a folder of the working copy",
        seed=0,
        warm_up=0,
        counted=STEPS,
        measured=measured,
    )
    print(f"Recorded in {path}.")


if __name__ == "__main__":
    main()
