"""Exercise 02-held-bytes: Bytes per parameter on one rank."""

from functools import cache

from labsupport.exercises.answers import call, describe, require_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable

# What a rank is believed to hold, by the misunderstanding: from the bytes of one weight and the number of ranks.
BELIEFS = {
    "weights divided": lambda weight, ranks: ((weight + 4) / ranks, (weight + 12) / ranks),
    "nothing divided": lambda weight, ranks: (weight + 4, weight + 12),
    "masters forgotten": lambda weight, ranks: (weight, weight + 8 / ranks),
    "no masters in fp32": lambda weight, ranks: (
        weight + (4 / ranks if weight == 2 else 0),
        weight + (12 if weight == 2 else 8) / ranks,
    ),
    "everything halved": lambda weight, ranks: (weight + weight / ranks, weight + 3 * weight / ranks),
    "states at once": lambda weight, ranks: (weight + 12 / ranks, weight + 12 / ranks),
    "gradients kept": lambda weight, ranks: (weight + 4 / ranks, weight + (12 + weight) / ranks),
    "one state": lambda weight, ranks: (weight + 4 / ranks, weight + 8 / ranks),
}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
WORLD_SIZES = (1, 2, 3, 8, 64)
MOMENTS = ("right after initialize", "after the first step")


def _held_bytes(answer):
    held = {(precision, ranks): _held(precision, ranks) for precision in WEIGHT_BYTES for ranks in WORLD_SIZES}
    said = {case: _pair(call(answer, *case)) for case in held}
    if _agree(said, held):
        counts = {name: " and ".join(f"{each:.2f}" for each in held[name, 1]) for name in WEIGHT_BYTES}
        return (
            f"A real engine on one rank held {counts['fp32']} bytes per parameter in fp32, at the start and after a "
            f"step, and {counts['bf16']} in bf16; yours agree, and on more ranks with the planner."
        )
    for name, belief in BELIEFS.items():
        if _agree(said, {(precision, n): belief(WEIGHT_BYTES[precision], n) for precision, n in held}):
            raise Mistaken(name)
    for (precision, ranks), right in held.items():
        for when, mine, expected in zip(MOMENTS, said[precision, ranks], right, strict=True):
            if not _near(mine, expected):
                raise Mistaken(
                    "another number",
                    precision=precision,
                    ranks=ranks,
                    when=when,
                    said=f"{mine:.3g}",
                    held=f"{expected:.3g}",
                )


def _pair(value):
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Unusable(f"Your function returned {describe(value)}: return two numbers, at the start and after a step.")
    return tuple(require_number(each, "One of the two numbers") for each in value)


def _near(one, other):
    return abs(one - other) <= 0.02  # bytes per parameter: the counts of a real engine are rounded up a little


def _agree(said, expected):
    return all(_near(a, b) for case in expected for a, b in zip(said[case], expected[case], strict=True))


@cache
def _held(precision, ranks):
    """Bytes per parameter at both moments: counted on a real engine for one rank, planned for more of them."""
    return _counted(precision) if ranks == 1 else _planned(precision, ranks)


def _counted(precision):
    import torch

    from labsupport.config import create_deepspeed_config
    from labsupport.engine import initialize_deepspeed
    from labsupport.measure.ledger import held_bytes, model_state_total
    from labsupport.models import count_parameters

    config = create_deepspeed_config(2, precision=precision, train_batch_size=1, bucket_size=1000)
    engine, *_ = initialize_deepspeed(torch.nn.Linear(128, 128, bias=False), config)
    count = count_parameters(engine.module)
    fresh = model_state_total(held_bytes(engine, everything=False)) / count
    engine.backward(engine(torch.ones(1, 128, dtype=engine.module.weight.dtype)).sum())
    engine.step()
    stepped = model_state_total(held_bytes(engine, everything=False)) / count
    engine.destroy()
    return fresh, stepped


def _planned(precision, ranks):
    from labsupport.measure.ledger import model_state_total
    from labsupport.memory.planner import plan

    count = 10**9
    planned = plan(count, world_size=ranks, stage=2, precision=precision, accelerator="cpu")
    return tuple(model_state_total(planned.held(moment)) / count for moment in ("after initialisation", "at rest"))


MISTAKES = {
    "weights divided": Mistake(
        "You divide the weights by the ranks too. Stage 2 leaves the weights whole on every rank, and splits the "
        "masters and Adam's states.",
        "Splitting the weights is what stage 3 adds.",
    ),
    "nothing divided": Mistake(
        "Your numbers are the same on 2 ranks as on 64. At stage 2 each rank keeps the masters and Adam's states "
        "of its own part only."
    ),
    "masters forgotten": Mistake(
        "You leave out the master weights. ZeRO updates an fp32 copy of its own, whatever the precision of the model."
    ),
    "no masters in fp32": Mistake(
        "You give the fp32 model no master weights. They would be a second copy of the same numbers, and DeepSpeed "
        "keeps them all the same: ZeRO updates its own flat copy."
    ),
    "everything halved": Mistake(
        "You halve everything for bf16. Only the model's own weights are in bf16: the masters and Adam's states "
        "take 4 bytes a number in both cases."
    ),
    "states at once": Mistake(
        "You count Adam's states right after initialize. PyTorch's Adam makes them in the first step, which is "
        "why a program that fits at the start can run out of memory there."
    ),
    "gradients kept": Mistake(
        "You count gradients after the step. They are there between backward and step, and the step frees them."
    ),
    "one state": Mistake(
        "You count one state for Adam. It keeps two numbers per parameter, the mean of the gradients and the mean "
        "of their squares, of 4 bytes each."
    ),
    "another number": Mistake(
        "{precision} on a world of {ranks}: your function says {said} bytes per parameter {when}. A rank really "
        "holds {held}.",
        "Start from the table of the section: one row for each state.",
    ),
}


EXERCISE = Exercise(
    id="02-held-bytes",
    title="Bytes per parameter on one rank",
    difficulty=3,
    minutes=8,
    target="your numbers are those of a real engine on one rank, and of the planner on up to 64 ranks",
    answer="bytes_per_parameter",
    check=_held_bytes,
    seconds=30,
    mistakes=MISTAKES,
)
