"""Which rank is gone, told by those that are left: a killed one says nothing, and DeepSpeed's launcher names no rank.

    start_distributed()
    with naming_lost_ranks():
        ...                     # train

What a rank hears of one that is gone is an error of gloo's or NCCL's without a name, or the launcher's SIGTERM.
"""

import contextlib
import os
import signal
import socket
import time

import psutil

from labsupport.errors import TrainingError

LOOK_SECONDS = 2  # a process loses its connections a moment before it is gone


class RankLost(TrainingError):
    """A rank is gone that the others wait for; the run can go on from its last checkpoint."""

    status = 1

    def __init__(self, sentence, told_by):
        super().__init__(sentence)
        self.told_by = told_by


@contextlib.contextmanager
def naming_lost_ranks():
    """While it lasts, make of the error or the SIGTERM of a rank that another one has left alone a sentence.

    Collective. Raises RankLost; an error while all ranks of this node are there stays what it is.
    """
    import torch

    rank = torch.distributed.get_rank()
    processes = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(processes, (socket.gethostname(), os.getpid()))

    def lost(seconds):
        ends_at = time.monotonic() + seconds
        while True:
            gone = [number for number, process in enumerate(processes) if number != rank and _is_gone(*process)]
            if gone or time.monotonic() > ends_at:
                return gone
            time.sleep(0.05)

    def asked_to_end(*_):
        if gone := lost(0):
            raise _sentence(gone, processes)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, asked_to_end)
    try:
        yield
    except RankLost:
        raise
    except RuntimeError as error:  # gloo's and NCCL's own are of this kind
        if isinstance(error, torch.OutOfMemoryError) or not (gone := lost(LOOK_SECONDS)):
            raise
        raise _sentence(gone, processes) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_gone(host, pid):
    if host != socket.gethostname():
        return False  # nobody here can say
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _sentence(gone, processes):
    left = min(set(range(len(processes))) - set(gone))
    number, pid = gone[0], processes[gone[0]][1]
    return RankLost(
        f"Rank {number} (process {pid}) is gone, and the others cannot go on without it: where it gave no reason and "
        "nobody ended it, the memory ran out; choose a smaller model or fewer ranks, or --resume the last checkpoint.",
        told_by=left,
    )
