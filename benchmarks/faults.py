"""Kill runs, damage checkpoints and break the machine under them, and record what was lost: `make faults`.

    python benchmarks/faults.py                        # 1,000 kills; goes on where an interrupted run stopped
    python benchmarks/faults.py --kills 300            # fewer, or more

Writes labsupport/recorded/faults.json. Each finished kill is kept in _build/faults.jsonl, for a run that goes further.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from labsupport.faults import damage, harness, machine
from labsupport.machine.hardware import describe_machine
from labsupport.records import UnfinishedRecord, record

ROOT = Path(__file__).parent.parent
UNFINISHED = ROOT / "_build" / "faults.jsonl"
KILLS, DAMAGES, SEED = 1000, 900, 15


def main():
    """Do what is missing, then record; returns 1 where anything was lost, damaged unseen, or left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many (default {KILLS})")
    options = parser.parse_args()
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    kept = UnfinishedRecord(UNFINISHED, "number")
    with tempfile.TemporaryDirectory(prefix="deepspeed-faults-") as top:
        references = {stage: harness.reference(stage) for stage in range(4)}
        started = time.monotonic()
        killed = _kill(options.kills, kept, references, Path(top))
        seconds = time.monotonic() - started
        damaged = [
            each | {"stage": stage}
            for stage in range(1, 4)
            for each in damage.trials(DAMAGES // 3, f"{SEED} {stage}", harness.two_tags(stage, Path(top, "saved")), top)
        ]
        moved = [each for stage in range(4) for each in harness.moves(stage, Path(top, "moves"))]
        moved += [each for stage in range(4) for each in harness.moves(stage, Path(top, "stages"), (2,), range(4))]
        broken = [machine.run(fault, top, references[2]) for fault in machine.FAULTS]
    counts = harness.counts(killed) | {
        "damages": len(damaged),
        "undetected_damage": sum(not each["told"] for each in damaged),
        "moves": len(moved),
        "moves_apart": sum(each["largest_difference"] > harness.APART or each["steps"] != 4 for each in moved),
        "machine_faults": len(broken),
        "machine_problems": sum(len(each["problems"]) for each in broken),
    }
    for name, count in counts.items():
        print(f"{name}: {count}")
    for each in broken:
        print(f"{each['fault']}: {each.get('outcome', each.get('skipped'))} {'; '.join(each['problems'])}")
    path = record(
        "faults",
        command=f"python benchmarks/faults.py --kills {len(killed)}",
        config={"stages": [0, 1, 2, 3], "precision": "fp32", "save every": 2, "keep": 2},
        hardware=f"{describe_machine()}; {harness.RANKS} ranks over gloo",
        seed=SEED,
        warm_up=0,
        counted=len(killed),
        measured={"seconds": round(seconds), "counts": counts, "kills": killed, "damages": damaged,
                  "moves": moved, "machine": broken},
    )  # fmt: skip
    print(f"Recorded in {path}.")
    return int(any(counts[name] for name in harness.MUST_BE_ZERO))


def _kill(count, kept, references, top):
    """Return the results of the kills, from what is kept and from chains that go on from kill to kill."""
    chains = {stage: harness.Chain(stage, top / f"stage{stage}", losses) for stage, losses in references.items()}
    results = []
    for kill in tqdm(harness.kills(count, SEED), unit="kill"):
        result = kept.entry_of(kill.number)
        if result is None:
            result = chains[kill.stage].run(kill)
            kept.add(result)
        results.append(result)
        if result["lost_steps"] or result["damaged"] or result["problems"]:
            tqdm.write(str(result))
    return results


if __name__ == "__main__":
    sys.exit(main())
