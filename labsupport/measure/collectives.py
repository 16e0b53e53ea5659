"""What one rank sends in an optimizer step, as DeepSpeed counts its own messages."""

import contextlib
from collections import Counter

from labsupport.errors import LabError
from labsupport.memory.messages import plain_name

SMALLEST_BYTES = 1_000  # smaller messages agree on overflow, on the norm or on the order of the modules


def measured_collectives(engine, step):
    """Run `step()` and return this rank's {collective: message bytes}, as DeepSpeed's comms_logger sees them.

    step: a function that trains one whole optimizer step, from one micro-batch or several. Every rank must
    call it. No setting of the config is needed, nothing is printed, and a log that the config asked for goes
    on afterwards without these messages. Stage 3 records its trace first: train two steps before this one.
    Raises LabError where `step` made no optimizer step, or several.
    """
    before = engine.global_steps
    with counted_messages() as sent:
        step()
    if engine.global_steps != before + 1:
        raise LabError(
            f"The step made {engine.global_steps - before} optimizer steps: train exactly one, which takes "
            f"{engine.gradient_accumulation_steps()} micro-batches here."
        )
    return {name: size for name, size in sent.items() if size}


def measured_by_phase(engine, batch):
    """Return {"forward", "backward", "step": {collective: message bytes}} of one micro-batch, a dict of tensors.

    Every rank must call it. As for measured_collectives, but messages below SMALLEST_BYTES are left out.
    """
    inputs, sent = {name: value.to(engine.device) for name, value in batch.items()}, {}
    with counted_messages(SMALLEST_BYTES) as sent["forward"]:
        loss = engine(**inputs).loss
    with counted_messages(SMALLEST_BYTES) as sent["backward"]:
        engine.backward(loss)
    with counted_messages(SMALLEST_BYTES) as sent["step"]:
        engine.step()
    return {phase: dict(messages) for phase, messages in sent.items()}


@contextlib.contextmanager
def counted_messages(smallest=0):
    """Count this rank's messages while it lasts, and yield {collective: bytes}, without those below `smallest`."""
    from deepspeed.comm import comm
    from deepspeed.utils.comms_logging import CommsLogger

    sent = Counter()
    logger = CommsLogger()
    logger.enabled = logger.prof_all = True

    def append(_function, name, _seconds, size):  # its own divides by the time, which a clock may show as zero
        if size >= smallest:
            sent[plain_name(name)] += size

    logger.append = append
    previous, comm.comms_logger = comm.comms_logger, logger
    try:
        yield sent
    finally:
        comm.comms_logger = previous
