"""What DeepSpeedTrainer costs beside a hand-written DeepSpeed loop: the same engine, alternating, medians.

    python benchmarks/trainer_overhead.py            # two CPU ranks, about two minutes; writes labsupport/recorded/

Both loops read the loss of each step as a float, as a loop that reports its loss does. The hand-written loop
does not average it over ranks and does not look whether it is finite; the trainer does both.
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

    def by_trainer():
        for batch in batches:
            trainer.train_step(batch)

    seconds = {"by hand": [], "trainer": []}
    for round_number in range(warm_up_rounds + rounds):
        loops = [("by hand", by_hand), ("trainer", by_trainer)]
        for name, loop in loops if round_number % 2 else reversed(loops):
            torch.distributed.barrier()
            start = time.perf_counter()
            loop()
            if round_number >= warm_up_rounds:
                seconds[name].append((time.perf_counter() - start) / steps)
    return seconds, config


def main():
    """Measure, print, and record."""
    from labsupport.cluster import start_ranks
    from labsupport.engine import describe_machine
    from labsupport.results import record

    machine = describe_machine()
    ranks = start_ranks(RANKS)
    try:
        seconds, config = ranks.run(measure, machine.precision, SEED, ROUNDS, STEPS, WARM_UP_ROUNDS)[0]
    finally:
        ranks.stop()
    ratios = [one / other for one, other in zip(seconds["trainer"], seconds["by hand"], strict=True)]
    measured = {
        "seconds_per_step": seconds,
        "median_seconds_by_hand": statistics.median(seconds["by hand"]),
        "median_seconds_trainer": statistics.median(seconds["trainer"]),
        "median_ratio": statistics.median(ratios),
    }
    print(
        f"by hand {measured['median_seconds_by_hand'] * 1e3:.2f} ms, trainer "
        f"{measured['median_seconds_trainer'] * 1e3:.2f} ms a step, median ratio of {ROUNDS} alternating rounds "
        f"{measured['median_ratio']:.4f}"
    )
    command = "python benchmarks/trainer_overhead.py"
    path = record("trainer_overhead", command, config, str(machine), SEED, WARM_UP_ROUNDS, ROUNDS, measured)
    print(f"Recorded in {path.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
