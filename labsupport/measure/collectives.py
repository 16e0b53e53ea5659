"""What one rank sends in an optimizer step, as DeepSpeed counts its own messages."""

from collections import Counter

from labsupport.errors import LabError
from labsupport.memory.messages import (
    plain_name,
)


def measured_collectives(engine, step):
    """Run `step()` and return this rank's {collective: message bytes}, as DeepSpeed's comms_logger sees them.

    step: a function that trains one whole optimizer step, from one micro-batch or several. Every rank must
    call it. No setting of the config is needed, nothing is printed, and a log that the config asked for goes
    on afterwards without these messages. Stage 3 records its trace first: train two steps before this one.
    Raises LabError where `step` made no optimizer step, or several.
    """
    from deepspeed.comm import comm
    from deepspeed.utils.comms_logging import CommsLogger

    sent, before = Counter(), engine.global_steps
    logger = CommsLogger()
    logger.enabled = logger.prof_all = True
    # Its own append divides by the time that the message took, which a clock may show as zero.
    logger.append = lambda _function, name, _seconds, size: sent.update({plain_name(name): size})
    previous, comm.comms_logger = comm.comms_logger, logger
    try:
        step()
    finally:
        comm.comms_logger = previous
    if engine.global_steps != before + 1:
        raise LabError(
            f"The step made {engine.global_steps - before} optimizer steps: train exactly one, which takes "
            f"{engine.gradient_accumulation_steps()} micro-batches here."
        )
    return {name: size for name, size in sent.items() if size}
