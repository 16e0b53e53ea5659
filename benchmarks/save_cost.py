"""What saving whole costs: the trainer's save beside DeepSpeed's own and a sync of its files, at 85 million parameters.

    python benchmarks/save_cost.py

Both save the same engine by turns, on two ranks, and every rank waits for the others before the clock stops. Writes
labsupport/recorded/save_cost.json.
"""

import os
import statistics
import tempfile
from pathlib import Path

from labsupport import create_deepspeed_config
from labsupport.machine.hardware import describe_machine
from labsupport.ranks.notebook import Ranks
from labsupport.records import record

ROUNDS, WARM_UP, MODEL, STAGE = 8, 1, "85m", 2


def main():
    """Measure, print the medians and record."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    config = create_deepspeed_config(STAGE, precision="bf16", world_size=2, train_batch_size=2, nvme_path=None)
    ranks = Ranks(2, "cpu")
    try:
        with tempfile.TemporaryDirectory(prefix="deepspeed-save-cost-", dir=Path.cwd()) as folder:
            measured = ranks.run(measure, MODEL, config, folder, ROUNDS + WARM_UP)[0]
    finally:
        ranks.stop()
    for name in ("ours", "deepspeed", "deepspeed and sync", "verify"):
        measured[name] = measured[name][WARM_UP:]
    ours, theirs, synced = (statistics.median(measured[name]) for name in ("ours", "deepspeed", "deepspeed and sync"))
    rates = [measured["bytes"] / seconds / 1e6 for seconds in measured["verify"]]
    measured |= {
        "ratio": statistics.median(
            a / b for a, b in zip(measured["ours"], measured["deepspeed and sync"], strict=True)
        ),
        "ratio_without_sync": statistics.median(
            a / b for a, b in zip(measured["ours"], measured["deepspeed"], strict=True)
        ),
        "verify_megabytes_per_second": statistics.median(rates),
    }
    print(f"{measured['bytes'] / 1e9:.2f} GB: ours {ours:.2f} s, DeepSpeed's {theirs:.2f} s, with sync {synced:.2f} s;")
    print(f"ratio {measured['ratio']:.3f}, without that sync {measured['ratio_without_sync']:.3f};")
    print(f"verified at {statistics.median(rates):.0f} MB/s by both ranks together")
    path = record(
        "save_cost",
        command="python benchmarks/save_cost.py",
        config=config,
        hardware=f"{describe_machine()}; 2 ranks over gloo",
        seed=0,
        warm_up=WARM_UP,
        counted=ROUNDS,
        measured=measured,
    )
    print(f"Recorded in {path}.")


def measure(model, config, folder, rounds):
    """On each rank: save by turns and return the seconds of each, and the bytes of a checkpoint."""
    import contextlib
    import io
    import shutil
    import time
    from pathlib import Path

    import torch

    from labsupport import DeepSpeedTrainer
    from labsupport.checkpoint.load import verified
    from labsupport.checkpoint.manifest import files_of, sync
    from labsupport.corpus import text_loader
    from labsupport.models import build_model

    with contextlib.redirect_stdout(io.StringIO()):
        trainer = DeepSpeedTrainer(build_model(model), config)
    rank, barrier = trainer.rank, torch.distributed.barrier
    trainer.train_step(next(iter(text_loader(1, rank, 2, 32))))  # Adam makes its states in a step
    seconds = {"ours": [], "deepspeed": [], "deepspeed and sync": [], "verify": []}
    top = Path(folder)

    def timed(name, work, more=0.0):
        barrier()
        start = time.perf_counter()
        work()
        barrier()
        seconds[name].append(time.perf_counter() - start + more)

    def sync_all():
        for name in files_of(top / "theirs" / "step"):
            if rank == 0 or f"rank_{rank}_" in name:
                sync(top / "theirs" / "step" / name)

    for number in range(rounds):
        turns = ["ours", "deepspeed"] if number % 2 else ["deepspeed", "ours"]
        for turn in turns:
            if turn == "ours":
                timed("ours", lambda: trainer.save_checkpoint(top / "ours", tag="step"))
            else:
                timed("deepspeed", lambda: trainer.engine.save_checkpoint(str(top / "theirs"), tag="step"))
                timed("deepspeed and sync", sync_all, seconds["deepspeed"][-1])
        timed("verify", lambda: verified(top / "ours" / "step", rank))
        size = sum((top / "ours" / "step" / name).stat().st_size for name in files_of(top / "ours" / "step"))
        barrier()
        if rank == 0:
            shutil.rmtree(top / "ours")
            shutil.rmtree(top / "theirs")
            sync(top)
        barrier()
    return seconds | {"bytes": size, "parameters": sum(p.numel() for p in trainer.engine.module.parameters())}


if __name__ == "__main__":
    main()
