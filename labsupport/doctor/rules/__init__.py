"""The rules, a module a subject; importing this registers them all."""

from labsupport.doctor.rules import (  # noqa: F401
    batch,
    blocks,
    cost,
    file,
    hugging_face,
    keys,
    offload,
    optimizer,
    precision,
    scheduler,
    zero,
)
