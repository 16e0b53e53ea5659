"""Exercise 10-persistence: Which weights stay whole."""

import functools

from labsupport.exercises.answers import call_unchanged, describe, is_integer
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_10_build_zero.by_deepspeed import OPTIMIZERS, small_config
from labsupport.exercises.lab_10_build_zero.worlds import RANKS
from labsupport.exercises.meeting import Meeting

BF16 = 2
MICRO_BATCHES = 4
# Sizes in elements, and the budget in bytes.
CASES = (
    ((10, 20, 40), 50),
    ((600, 30, 900, 30, 600, 30), 200),  # the biases fit
    ((600, 30, 900, 30, 600, 30), 180),  # they fit exactly
    ((600, 30, 900, 30, 600, 30), 179),  # one byte less: all three are of one size, so none may stay
    ((600, 30, 900, 30, 600, 30), 2579),  # 600 fits once and not twice
    ((600, 30, 900, 30, 600, 30), 2580),
    ((600, 30, 900, 30, 600, 30), 10**6),
    ((5,), 0),
    ((40, 10, 20, 10, 30), 121),
    ((1, 2, 3, 4, 5, 6, 7, 8), 43),
)
WIDTHS = (40, 24, 16, 16)  # of the live model's layers
LIVE_BUDGET = 2 * (24 + 16 + 16 + 16 * 16)


def _persistence(answer):
    meeting = Meeting()
    for sizes, budget in [*CASES, *_drawn(30)]:
        _judge(_threshold(call_unchanged(answer, list(sizes), budget)), list(sizes), budget)
    sizes = [size for pair in zip(WIDTHS, WIDTHS[1:], strict=False) for size in (pair[0] * pair[1], pair[1])]
    threshold = _threshold(call_unchanged(answer, sizes, LIVE_BUDGET))
    if len(set(meeting.facts(threshold))) > 1:
        raise Unusable("Your function returns another threshold on each rank.")
    held, size, messages = _measured(threshold)
    if held > LIVE_BUDGET:
        values = {"budget": LIVE_BUDGET, "threshold": threshold, "held": held}
        raise Mistaken("over budget", sizes=", ".join(map(str, sizes)), **values)
    _, without, most = _measured(0)
    return (
        f"Measured on 4 live ranks at stage 3: {held:,} bytes stay whole (budget {LIVE_BUDGET:,}). A step of "
        f"{MICRO_BATCHES} micro-batches gathers {size:,} bytes in {messages} messages; with threshold 0 {without:,} in "
        f"{most}."
    )


def _drawn(count):
    import random

    draw = random.Random(8)
    for _ in range(count):
        sizes = [draw.choice((8, 16, 64, 65, 100, draw.randint(1, 500))) for _ in range(draw.randint(1, 12))]
        yield sizes, draw.randint(0, 2 * BF16 * sum(sizes) // 3)


def _threshold(value):
    if not is_integer(value):
        raise Unusable(f"Your function returned {describe(value)}: the threshold is a whole number of elements.")
    return int(value)


def _whole(sizes, threshold):
    """Return the bytes that stay whole beside the shards."""
    return BF16 * sum(size for size in sizes if size <= threshold)


def _one_by_one(sizes, budget):
    """Return the size of the last tensor that fits where each is taken by itself, the smallest first."""
    fits = 0
    for size in sorted(sizes):
        budget -= BF16 * size
        fits = size if budget >= 0 else fits
    return fits


def _judge(threshold, sizes, budget):
    best = max(_whole(sizes, t) for t in {0, *sizes} if _whole(sizes, t) <= budget)
    held = _whole(sizes, threshold)
    if held == best and threshold >= 0:
        return
    values = {"sizes": ", ".join(map(str, sizes)), "budget": budget, "threshold": threshold}
    values |= {"held": held, "right": best}
    if threshold < 0:
        raise Unusable(f"A threshold of {threshold}: it has to be 0 or more.")
    if threshold in (budget, budget // BF16):
        raise Mistaken("budget as threshold", **values)
    if held > budget and threshold == _one_by_one(sizes, budget):
        raise Mistaken("alike", alike=sizes.count(threshold), **values)
    if held > budget:
        raise Mistaken("over budget", **values)
    raise Mistaken("under budget", **values)


@functools.cache
def _measured(threshold):
    """Return (bytes that stay whole, bytes of the all-gathers in a step, their number) of an engine at stage 3."""
    import deepspeed
    import torch

    from labsupport.measure.counted import count
    from labsupport.measure.ledger import held_bytes

    torch.manual_seed(0)
    layers = [torch.nn.Linear(*pair) for pair in zip(WIDTHS, WIDTHS[1:], strict=False)]
    more = {"bf16": {"enabled": True}, "gradient_accumulation_steps": MICRO_BATCHES}
    config = small_config(3, OPTIMIZERS["adam"], **more)
    keep_nothing = dict.fromkeys(("stage3_max_live_parameters", "stage3_max_reuse_distance"), 0)
    config["zero_optimization"] |= {"stage3_param_persistence_threshold": threshold} | keep_nothing
    engine = deepspeed.initialize(model=torch.nn.Sequential(*layers), config=config)[0]

    def step():
        for _ in range(MICRO_BATCHES):
            engine.backward(engine(torch.ones(1, WIDTHS[0], dtype=torch.bfloat16)).float().pow(2).mean())
            engine.step()

    for _ in range(2):  # stage 3 records the order of the modules first
        step()
    held = held_bytes(engine, everything=False)["gathered parameters"]
    sizes = [size for name, size in count(step, memory=False).messages if name == "all_gather"]
    engine.destroy()
    return held, sum(sizes), len(sizes)


MISTAKES = {
    "over budget": Mistake(
        "Sizes {sizes}, budget {budget} bytes: with your threshold {threshold} the weights that stay whole take {held} "
        "bytes. A bf16 weight takes 2 bytes."
    ),
    "alike": Mistake(
        "Sizes {sizes}, budget {budget} bytes: with your threshold {threshold} the weights that stay whole take {held} "
        "bytes. {alike} of them are of the largest size: a threshold lets all of one size stay, or none.",
        "Go through the different sizes, not through the tensors.",
    ),
    "under budget": Mistake(
        "Sizes {sizes}, budget {budget} bytes: with your threshold {threshold} {held} bytes stay whole, and {right} "
        "could. A weight whose size is the threshold itself stays.",
    ),
    "budget as threshold": Mistake(
        "Sizes {sizes}, budget {budget} bytes: with your threshold {threshold} the weights that stay whole take {held} "
        "bytes, and {right} is the most that fits. The threshold is compared with each tensor by itself, in elements; "
        "the budget holds for all of them together, in bytes."
    ),
    "hangs": Mistake("Your function does not come back. It computes with numbers, and needs no other rank."),
}


EXERCISE = Exercise(
    id="10-persistence",
    title="Which weights stay whole",
    difficulty=2,
    minutes=8,
    target="the threshold keeps whole as much as fits the budget, for 40 lists of sizes, and on a live "
    "engine at stage 3",
    answer="persistence_threshold",
    check=_persistence,
    ranks=RANKS,
    seconds=60,
    mistakes=MISTAKES,
)
