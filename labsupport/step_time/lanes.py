"""MODELLED: one step with the optimizer on the host, on three lanes: the GPU, the link, and Adam on the CPU. No torch.

    step = offload_lanes(7e9, 4096, 1, machine, stage=2)
    step.seconds, step.waiting            # of the whole step, and the GPU's share of it without work

What goes over the link is labsupport.memory.host_link's count; nobody has timed it.
"""

from typing import NamedTuple

from labsupport.arguments import require_number, require_positive_integer
from labsupport.errors import ConfigError
from labsupport.step_time.collectives import ELEMENT_BYTES
from labsupport.step_time.compute import ADAM_BYTES

LANES = ("GPU", "link", "CPU Adam")
MASTER_GRADIENT_BYTES = 4  # the gradient that Adam works with goes down in fp32


class Machine(NamedTuple):
    """One GPU and its host, in what they reach per second."""

    flops: float
    link_bytes: float  # one direction at a time
    host_memory_bytes: float


class Piece(NamedTuple):
    """One stretch of work on a lane, in seconds from the step's begin."""

    lane: str
    work: str
    start: float
    end: float


class Lanes(NamedTuple):
    """The pieces of one step, in the order in which they begin."""

    pieces: list

    @property
    def seconds(self):
        """How long the step takes."""
        return max(piece.end for piece in self.pieces)

    def busy_seconds(self, lane):
        """How long a lane works."""
        return sum(piece.end - piece.start for piece in self.pieces if piece.lane == lane)

    @property
    def waiting(self):
        """The share of the step in which the GPU does nothing, 0 to 1."""
        return 1 - self.busy_seconds("GPU") / self.seconds


def offload_lanes(parameters, tokens, micro_batches, machine, stage=2):
    """Return the Lanes of one optimizer step of one rank that owns all parameters.

    tokens: of each micro-batch; stage: 1 or 2. The GPU does 2 P tokens in a forward and 4 P in a backward pass (Kaplan
    et al. 2020, arXiv 2001.08361). A micro-batch's gradients begin to travel with its backward pass and have arrived
    when both have ended. At stage 2 with accumulation the sum travels down in each micro-batch and up before the next
    is added; the gradient for Adam goes down in fp32 with the last. Then Adam runs, bound by the host's memory, and
    the new parameters go up. Raises ConfigError for another stage and for sizes below one.
    """
    require_number("parameters", parameters, at_least=1)
    require_number("tokens", tokens, at_least=1)
    require_positive_integer("micro_batches", micro_batches)
    if stage not in (1, 2):
        raise ConfigError(f"stage is {stage}: the lanes are modelled for stages 1 and 2.")
    pieces, gpu, link = [], 0.0, 0.0
    forward = 2 * parameters * tokens / machine.flops
    for number in range(micro_batches):
        pieces.append(Piece("GPU", "forward", gpu, gpu + forward))
        pieces.append(Piece("GPU", "backward", gpu + forward, gpu + 3 * forward))
        for work, count in _transfers(stage, number, micro_batches):
            start = max(link, gpu + forward)
            link = start + count * parameters / machine.link_bytes
            pieces.append(Piece("link", work, start, link))
        gpu += 3 * forward
    adam = max(link, gpu) + ADAM_BYTES * parameters / machine.host_memory_bytes
    pieces.append(Piece("CPU Adam", "Adam", max(link, gpu), adam))
    up = adam + ELEMENT_BYTES * parameters / machine.link_bytes
    pieces.append(Piece("link", "parameters up", adam, up))
    return Lanes(sorted(pieces, key=lambda piece: piece.start))


def _transfers(stage, number, micro_batches):
    """[(what travels, bytes a parameter)] with the backward pass of this micro-batch."""
    found = []
    if stage == 2 and micro_batches > 1:
        found += [("sum up", ELEMENT_BYTES)] if number else []
        found.append(("gradients down", ELEMENT_BYTES))
    if number == micro_batches - 1:
        found.append(("gradients down", MASTER_GRADIENT_BYTES))
    return found
