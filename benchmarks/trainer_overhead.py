"""What DeepSpeedTrainer costs beside a hand-written DeepSpeed loop: the same engine, in turn, medians.

    python benchmarks/trainer_overhead.py            # two CPU ranks, about three minutes; writes labsupport/recorded/

The hand-written loop reads its own rank's loss of each step. `train_step` also averages that loss over the ranks
and looks whether it is finite; `train_epoch` does both every ten steps.
"""

import statistics
import sys

RANKS, ROUNDS, STEPS, WARM_UP_ROUNDS, SEED = 2, 40, 10, 4, 0


def measure(precision, seed, rounds, steps, warm_up_rounds):
    """Run on every rank: alternate rounds of the two loops; return seconds per step of each round, and the config."""
    import itertools
    import time

    import torch

    from labsupport import DeepSpeedTrainer, create_deepspeed_config
    from labsupport.corpus import endless_batches, text_loader
    from labsupport.models import build_model

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    config = create_deepspeed_config(2, precision=precision, train_batch_size=8 * world_size, world_size=world_size)
    trainer = DeepSpeedTrainer(build_model("1m", seed), config)
    engine = trainer.engine
    batches = list(itertools.islice(endless_batches(text_loader(8, rank, world_size, 128, seed=seed)), steps))

    def by_hand():
        for batch in batches:
            batch = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            loss = engine(**batch).loss
            engine.backward(loss)
            engine.step()
            loss.item()

    def by_train_step():
        for batch in batches:
            trainer.train_step(batch)

    def by_train_epoch():
        trainer.train_epoch(batches, progress=False)

    loops = [("by hand", by_hand), ("train_step", by_train_step), ("train_epoch", by_train_epoch)]
    seconds = {name: [] for name, _ in loops}
    for round_number in range(warm_up_rounds + rounds):
        first = round_number % len(loops)
        for name, loop in loops[first:] + loops[:first]:
            torch.distributed.barrier()
            start = time.perf_counter()
            loop()
            if round_number >= warm_up_rounds:
                seconds[name].append((time.perf_counter() - start) / steps)
    return seconds, config


def main():
    """Measure, print, and record."""
    from labsupport.machine.hardware import describe_machine
    from labsupport.ranks.notebook import start_ranks
    from labsupport.records import record

    machine = describe_machine()
    ranks = start_ranks(RANKS)
    try:
        seconds, config = ranks.run(measure, machine.precision, SEED, ROUNDS, STEPS, WARM_UP_ROUNDS)[0]
    finally:
        ranks.stop()
    by_hand = seconds["by hand"]
    measured = {
        "seconds_per_step": seconds,
        "median_seconds_per_step": {name: statistics.median(each) for name, each in seconds.items()},
        "median_ratio_to_by_hand": {
            name: statistics.median(one / hand for one, hand in zip(each, by_hand, strict=True))
            for name, each in seconds.items()
        },
    }
    for name, median in measured["median_seconds_per_step"].items():
        ratio = measured["median_ratio_to_by_hand"][name]
        print(f"{name:12} {median * 1e3:8.2f} ms a step, {ratio:.4f} of by hand, median of {ROUNDS} rounds")
    command = "python benchmarks/trainer_overhead.py"
    path = record("trainer_overhead", command, config, str(machine), SEED, WARM_UP_ROUNDS, ROUNDS, measured)
    print(f"Recorded in {path.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
