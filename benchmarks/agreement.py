"""Measure every run of labsupport.measure.agreement on ranks that stay up: `make measure`.

    python benchmarks/agreement.py                 # all of them; goes on where an interrupted run stopped
    python benchmarks/agreement.py --only 3 17     # some of them, printed and not recorded
    python benchmarks/agreement.py --record architectures      # each architecture at each stage, 6 minutes
    python benchmarks/agreement.py --record adapters           # LoRA and frozen tensors, 6 minutes

Writes labsupport/recorded/agreement.json, or the record of that name. Until then each finished run is kept in _build.
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
RECORDS = {
    "agreement": agreement.runs,
    "architectures": agreement.architecture_runs,
    "adapters": agreement.adapter_runs,
}


def main():
    """Measure what is missing, smallest number of ranks first, then record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", metavar="RUN", help="numbers of runs to print, not record")
    parser.add_argument("--record", choices=tuple(RECORDS), default="agreement", help="which runs (default agreement)")
    options = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    runs = RECORDS[options.record]()
    wanted = options.only or range(len(runs))
    kept = UnfinishedRecord(ROOT / "_build" / f"{options.record}.jsonl", "cell")
    missing = [number for number in wanted if options.only or kept.entry_of(runs[number].as_dict()) is None]
    started = time.monotonic()
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar:
        for world_size in (1, 2, 4):
            numbers = [number for number in missing if runs[number].world_size == world_size]
            for number, result in _measure([runs[number] for number in numbers], numbers, world_size):
                bar.update()
                tqdm.write(line(number, runs[number], result))
                if not options.only:
                    kept.add({"cell": runs[number].as_dict(), "measured": result})
    if options.only:
        return
    entries = [kept.entry_of(run.as_dict()) for run in runs]
    path = record(
        options.record,
        command="make measure",
        config={"cells": "each cell names its own"},
        hardware=f"{describe_machine()}; ranks over gloo",
        seed=0,
        warm_up=2,
        counted=1,
        measured={"seconds": round(time.monotonic() - started), "runs": entries},
    )
    kept.forget()
    print(f"Recorded {len(runs)} runs in {path}.")


def _measure(runs, numbers, world_size):
    """Yield (number, result) of each run, from one set of ranks; a failed one ends the whole with its reason."""
    if not runs:
        return
    ranks = Ranks(world_size, "cpu")
    try:
        for number, run in zip(numbers, runs, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                path = folder if "nvme" in offload_devices(run.config) else None
                results = ranks.run(agreement.measure, run, path)
            result = results[0]
            result["estimate"] = agreement.published_estimate(run, result["parameters"], result["largest_module"])
            yield number, result
    finally:
        ranks.stop()


def line(number, run, result):
    """One line about a run: what was run, and how far off the prediction is."""
    compared = agreement.compare(run, result)
    states = " ".join(f"{error:+.1%}" for *_, error in compared["states"].values())
    role, predicted, measured = compared["worst_role"]
    return (
        f"{number:2} {run.in_words()}: sent {compared['sent'][0]:.2f} {compared['sent'][1]:.2f}, "
        f"states {states}, peak {compared['peak'][2]:+.1%} ({'/'.join(compared['phases'])}; "
        f"{role} {predicted / 2**20:.2f} {measured / 2**20:.2f} MiB)"
    )


if __name__ == "__main__":
    main()
