"""MODELLED: steps over ever more GPUs, weak and strong, and where stage 3's messages begin to cost. No torch.

from labsupport.step_time.scaling import weak_scaling
weak_scaling(GPT["7.5B"], 3, cluster("H100", "NDR"), [8, 64, 512], micro_batch_tokens=8192)
"""

from typing import NamedTuple

from labsupport.arguments import require_number
from labsupport.memory.paper import model_state_bytes
from labsupport.step_time import nccl
from labsupport.step_time.collectives import communication_seconds, traffic
from labsupport.step_time.compute import compute_seconds
from labsupport.step_time.model import StepTime, step_time


class ScalingPoint(NamedTuple):
    """One number of GPUs: the modelled step, the tokens of the whole step, and whether the model states fit."""

    world_size: int
    step: StepTime
    tokens: int
    fits: bool


def weak_scaling(model, stage, cluster, world_sizes, micro_batch_tokens, gradient_accumulation_steps=1, **options):
    """Return a ScalingPoint for each number of GPUs, with the same batch on every GPU; options: as for step_time."""
    return [
        ScalingPoint(
            size,
            step_time(model, stage, cluster, size, micro_batch_tokens, gradient_accumulation_steps, **options),
            size * micro_batch_tokens * gradient_accumulation_steps,
            model_states_fit(model, stage, cluster, size),
        )
        for size in world_sizes
    ]


def strong_scaling(
    model, stage, cluster, world_sizes, batch_tokens, micro_batch_tokens, sequence_length=2048, **options
):
    """Return a ScalingPoint for each number of GPUs, with the same batch over all of them.

    batch_tokens: of the whole step. A GPU takes its part in micro-batches of at most micro_batch_tokens; a number
    of GPUs that leaves a GPU less than one sequence, or that does not divide the batch, is left out.
    """
    points = []
    for size in world_sizes:
        part = batch_tokens // size
        micro_batch = min(micro_batch_tokens, part)
        if part < sequence_length or batch_tokens % size or part % micro_batch:
            continue
        points += weak_scaling(
            model, stage, cluster, [size], micro_batch, part // micro_batch, sequence_length=sequence_length, **options
        )
    return points


def model_states_fit(model, stage, cluster, world_size):
    """Whether the model states alone fit on one GPU; activations and buckets come on top (labsupport.memory.fits)."""
    return model_state_bytes(model.parameters, stage, world_size) <= cluster.memory_bytes


def stage3_break_even_tokens(model, cluster, world_size, sequence_length=2048, recompute=True):
    """Return the tokens of a micro-batch on one GPU below which stage 3's messages take longer than its compute.

    Closed form, with the paper's two gathers: the seconds of one micro-batch's messages over those of one token.
    For many ranks, wide layers, short sequences and no latency it comes to F / B without recomputation and 9 F / 11 B
    with it, F being the FLOP/s that a GPU gets and B the bytes/s of the ring: the size of the model cancels.
    """
    require_number("world_size", world_size, at_least=1)
    require_number("sequence_length", sequence_length, at_least=1)
    sent = traffic(model, 3, deepspeed_default=False)
    messages = communication_seconds(sent, lambda name, size: nccl.choice(name, size, world_size, cluster).seconds)
    return messages / compute_seconds(model, 1, cluster, sequence_length, recompute)
