"""Record one training step at each ZeRO stage, frame by frame, on live CPU ranks; a minute.

    python benchmarks/walkthrough.py

Writes labsupport/recorded/walkthrough.json, which labsupport/step_through.js draws.
"""

import os

from labsupport.machine.hardware import describe_machine
from labsupport.measure import walkthrough
from labsupport.ranks.notebook import Ranks
from labsupport.records import record


def main():
    """Record every run of labsupport.measure.walkthrough, two ranks first."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs = walkthrough.runs()
    recorded = []
    for world_size in sorted({run.world_size for run in runs}):
        ranks = Ranks(world_size, "cpu")
        try:
            for run in (run for run in runs if run.world_size == world_size):
                recorded.append(walkthrough.join(run, ranks.run(walkthrough.record_step, run)))
                print(f"{run.in_words()}: {len(recorded[-1]['frames'])} frames", flush=True)
        finally:
            ranks.stop()
    path = record(
        "walkthrough",
        command="python benchmarks/walkthrough.py",
        config={"runs": "each run names its own"},
        hardware=f"{describe_machine()}; ranks over gloo",
        seed=0,
        warm_up=walkthrough.WARM_UP_STEPS,
        counted=1,
        measured={"blocks": walkthrough.BLOCKS, "model": walkthrough.MODEL._asdict(), "runs": recorded},
    )
    print(f"Recorded {len(recorded)} runs in {path}.")


if __name__ == "__main__":
    main()
