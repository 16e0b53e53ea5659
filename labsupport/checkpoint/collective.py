"""Do something on every rank, and fail on every rank alike: none is left waiting for one that went away."""

import contextlib

import torch

from labsupport.errors import CheckpointError, LabError
from labsupport.wording import first_line


def on_every_rank(work, failed):
    """Run `work` on each rank and return what it returned on all of them, in the order of the ranks.

    failed: how the sentence for an error begins that has none of its own. Raises CheckpointError on every rank,
    with the sentence of the first one, where it failed on any. Collective; `work` itself may be so too only if it
    fails on all ranks or on none.
    """
    result, sentence = None, None
    try:
        result = work()
    except LabError as error:
        sentence = str(error)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sentence = f"{failed}: {(error.strerror or str(error)).lower()}{where}."
    except Exception as error:  # whatever it is, the other ranks are waiting to hear of it
        sentence = f"{failed}: {first_line(error)}."
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (result, sentence))
    for rank, (_, told) in enumerate(everyone):
        if told is not None:
            alone = sum(other is not None for _, other in everyone) == 1 < len(everyone)
            raise CheckpointError(f"{told.removesuffix('.')} (on rank {rank})." if alone and rank else told)
    return [result for result, _ in everyone]


def kept_on_every_rank(work, failed):
    """Run `work` on each rank and return what it returned on this one, which the others never see; fails alike."""
    own = []
    on_every_rank(lambda: own.append(work()), failed)
    return own[0]


def on_first_rank(work, failed):
    """Run `work` on rank 0 and return what it returned, on every rank; fails like `on_every_rank`."""
    return on_every_rank(work if torch.distributed.get_rank() == 0 else lambda: None, failed)[0]


@contextlib.contextmanager
def replaced(owner, **attributes):
    """Give an object other attributes for a while, by name."""
    before = {name: owner.__dict__[name] for name in attributes if name in owner.__dict__}
    owner.__dict__.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                owner.__dict__[name] = before[name]
            else:
                owner.__dict__.pop(name, None)
