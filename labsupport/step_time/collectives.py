"""The modelled time of collectives, and which of them each ZeRO stage sends in a step. No torch.

    from labsupport.step_time.collectives import collective_seconds
    collective_seconds("all_reduce", 2**30, world_size=8, alpha_seconds=5e-6, bytes_per_second=200e9)

A message of m bytes over one link takes alpha + m / B seconds: alpha is the start, B the rate. Sources: Thakur,
Rabenseifner and Gropp 2005 (the ring); Rajbhandari et al. 2020, arXiv 1910.02054, section 7 (what ZeRO sends).
"""

import math
from typing import NamedTuple

from labsupport.arguments import require_stage
from labsupport.errors import ConfigError, LabError
from labsupport.memory.gathering import gathering_of
from labsupport.settings import Settings

ELEMENT_BYTES = 2  # a 16-bit parameter or gradient
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's own reduce_bucket_size and allgather_bucket_size
PREFETCH_ELEMENTS = 50_000_000  # DeepSpeed's own stage3_prefetch_bucket_size
_MATRICES = (3, 1, 4, 4)  # twelfths of a GPT block: attention in and out, the two of the feed-forward part
_SMALL_A_BLOCK = 8  # its four biases, and a weight and a bias of each of two norms; one more norm stands at the end
_ROUNDS = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}  # how often a ring is gone round
COLLECTIVES = tuple(_ROUNDS)


def collective_seconds(collective, message_bytes, world_size, alpha_seconds, bytes_per_second):
    """Return the seconds of one collective on a ring (Thakur, Rabenseifner and Gropp 2005).

    collective: "all_reduce", "reduce_scatter" or "all_gather"; message_bytes: the whole tensor, not one rank's
    part; alpha_seconds: the start of one hop; bytes_per_second: of one rank's link in one direction. A
    reduce-scatter and an all-gather take N - 1 hops of m / N bytes, an all-reduce is one after the other.
    """
    sends = rounds(collective) * (world_size - 1)
    return sends * (alpha_seconds + message_bytes / world_size / bytes_per_second)


def rounds(collective):
    """Return how often a collective goes round a ring; raises ConfigError for an unknown one."""
    if collective not in _ROUNDS:
        raise ConfigError(f"There is no collective {collective!r} here: choose one of {', '.join(_ROUNDS)}.")
    return _ROUNDS[collective]


def fit_rate(collective, world_size, seconds):
    """Fit (alpha_seconds, bytes_per_second) of a ring to measured times, least squares of the relative error.

    seconds: {message_bytes: seconds of one collective}, at least two sizes. Raises LabError where the times do not
    grow with the size, since there is then no rate in them.
    """
    # seconds = start + message_bytes * per_byte, every size with the same weight in relation to its own time.
    rows = [(1 / taken, size / taken) for size, taken in seconds.items()]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = aa * bb - ab * ab
    per_byte = (aa * b - ab * a) / determinant if determinant > 0 else 0.0
    start = max(0.0, (a * bb - b * ab) / determinant) if determinant > 0 else 0.0
    if per_byte <= 0:
        raise LabError(f"The times of {collective} do not grow with the message: measure more and larger sizes.")
    sends = rounds(collective) * (world_size - 1)
    return start / sends, sends / world_size / per_byte


class Traffic(NamedTuple):
    """One kind of collective in a step: the whole tensor's bytes, how often a step, in how many messages."""

    collective: str
    message_bytes: float
    times: int
    messages: int


def traffic(
    model, stage, gradient_accumulation_steps=1, deepspeed_default=True, element_bytes=ELEMENT_BYTES,
    bucket_elements=BUCKET_ELEMENTS, prefetch_elements=PREFETCH_ELEMENTS, reduce_bytes=None,
):  # fmt: skip
    """Return the list of Traffic of one step; model: anything with `parameters` and `layers`.

    deepspeed_default: what DeepSpeed 0.19.8 sends unless it is told otherwise. At stages 1 and 2 it all-reduces
    gradients where the ZeRO paper (section 7) reduce-scatters them. At stage 3 it gathers a second time, for the
    backward pass, only what it has let go, where the paper gathers all again; and once a step it gathers every bias and
    norm in a message of its own (zero/stage3.py, _post_step), here without bytes. Stage 1 reduces once a step, stages 2
    and 3 in every micro-batch. Stage 3 joins matrices in a message until prefetch_elements are in it, as
    labsupport.memory.gathering says, for a GPT's four matrices a layer. reduce_bytes: of an element of a gradient that
    is sent, if that is not element_bytes (communication_data_type).
    """
    require_stage(stage)
    reduced = model.parameters * (reduce_bytes or element_bytes)
    whole, steps = model.parameters * element_bytes, gradient_accumulation_steps
    buckets = math.ceil(model.parameters / bucket_elements)
    if stage == 3:
        matrices = [model.parameters / model.layers * part / sum(_MATRICES) for part in _MATRICES] * model.layers
        settings = Settings(stage=3, prefetch_bucket_size=prefetch_elements)
        scattered = Traffic("reduce_scatter", reduced, steps, buckets)
        if not deepspeed_default:
            kept = settings._replace(max_live_parameters=math.inf, max_reuse_distance=math.inf)
            return [Traffic("all_gather", 2 * whole, steps, 2 * gathering_of(matrices, kept).messages), scattered]
        found = gathering_of(matrices, settings)
        gathered = sum(size * times for size, times in zip(matrices, found.times, strict=True))
        small = Traffic("all_gather", 0, 1, _SMALL_A_BLOCK * model.layers + 2)
        return [Traffic("all_gather", gathered * element_bytes, steps, found.messages), small, scattered]
    reduction = "all_reduce" if stage == 0 or deepspeed_default else "reduce_scatter"
    sent = [Traffic(reduction, reduced, steps if stage == 2 else 1, buckets)]
    return sent if stage == 0 else [*sent, Traffic("all_gather", whole, 1, buckets)]


def communication_seconds(sent, seconds_of):
    """Return the seconds of a list of Traffic; seconds_of(collective, message_bytes): of one message."""
    return sum(
        each.times * each.messages * seconds_of(each.collective, each.message_bytes / each.messages) for each in sent
    )


def ring_seconds(sent, world_size, rates):
    """Return the seconds of a list of Traffic on a ring; rates: {collective: (alpha_seconds, bytes_per_second)}."""
    return communication_seconds(sent, lambda name, size: collective_seconds(name, size, world_size, *rates[name]))
