"""Measure every cell of labsupport.measure.agreement on ranks that stay up: `make measure`.

    python benchmarks/agreement.py                 # all cells; goes on where an interrupted run stopped
    python benchmarks/agreement.py --only 3 17     # some cells, printed and not recorded

Writes labsupport/recorded/agreement.json. Until then each finished cell is kept in _build/agreement.jsonl.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from labsupport.config import offload_devices
from labsupport.machine.hardware import describe_machine
from labsupport.measure import agreement
from labsupport.ranks.notebook import Ranks
from labsupport.records import UnfinishedRecord, record

ROOT = Path(__file__).parent.parent
UNFINISHED = ROOT / "_build" / "agreement.jsonl"


def main():
    """Measure what is missing, smallest number of ranks first, then record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", metavar="CELL", help="numbers of cells to print, not record")
    options = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    cells = agreement.cells()
    wanted = options.only or range(len(cells))
    kept = UnfinishedRecord(UNFINISHED, "cell")
    missing = [number for number in wanted if options.only or kept.entry_of(cells[number]) is None]
    started = time.monotonic()
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar:
        for world_size in (1, 2, 4):
            numbers = [number for number in missing if cells[number]["world_size"] == world_size]
            for number, result in _measure([cells[number] for number in numbers], numbers, world_size):
                entry = {"cell": cells[number], "measured": result}
                bar.update()
                tqdm.write(line(number, entry))
                if not options.only:
                    kept.add(entry)
    if options.only:
        return
    runs = [kept.entry_of(cell) for cell in cells]
    path = record(
        "agreement",
        command="make measure",
        config={"cells": "each cell names its own"},
        hardware=f"{describe_machine()}; ranks over gloo",
        seed=0,
        warm_up=2,
        counted=1,
        measured={"seconds": round(time.monotonic() - started), "runs": runs},
    )
    kept.forget()
    print(f"Recorded {len(runs)} runs in {path}.")


def _measure(cells, numbers, world_size):
    """Yield (number, result) of each cell, from one set of ranks; a failed one ends the whole with its reason."""
    if not cells:
        return
    ranks = Ranks(world_size, "cpu")
    try:
        for number, cell in zip(numbers, cells, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                path = folder if "nvme" in offload_devices(cell["config"]) else None
                results = ranks.run(agreement.measure, cell, path)
            result = results[0]
            result["estimate"] = agreement.published_estimate(cell, result["parameters"], result["largest_module"])
            yield number, result
    finally:
        ranks.stop()


def line(number, entry):
    """One line about a cell: what was run, and how far off the prediction is."""
    cell, compared = entry["cell"], agreement.compare(entry["cell"], entry["measured"])
    zero = cell["config"]["zero_optimization"]
    precision = "bf16" if "bf16" in cell["config"] else "fp32"
    states = " ".join(f"{error:+.1%}" for *_, error in compared["states"].values())
    role, predicted, measured = compared["worst_role"]
    return (
        f"{number:2} stage {zero['stage']} {precision} {cell['world_size']} ranks {cell['model']:4} {cell['note']:38} "
        f"sent {compared['sent'][0]:.2f} {compared['sent'][1]:.2f}, "
        f"states {states}, peak {compared['peak'][2]:+.1%} ({'/'.join(compared['phases'])}; "
        f"{role} {predicted / 2**20:.2f} {measured / 2**20:.2f} MiB)"
    )


if __name__ == "__main__":
    main()
