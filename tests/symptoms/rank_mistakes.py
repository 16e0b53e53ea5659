"""Two ranks over gloo that do not make the same calls: a process of two for each mistake, run by test_reproduced.py.

python -m symptoms.rank_mistakes FOLDER      # in tests/; prints what a reader would see
"""

import datetime
import os
import sys
import time

import torch
import torch.distributed as dist


def mismatch(rank):
    """Different collectives, under the eyes of TORCH_DISTRIBUTED_DEBUG."""
    dist.broadcast(torch.ones(1), 0) if rank == 0 else dist.all_reduce(torch.ones(1))


def sizes(rank):
    """One collective, on tensors of different sizes."""
    dist.all_reduce(torch.ones(1000 if rank == 0 else 1))


def late(rank):
    """One that does not come."""
    dist.barrier()  # whoever starts late has come
    dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=1))
    time.sleep(2) if rank else dist.all_reduce(torch.ones(1))


def lost(rank):
    """One that ends, while the other waits for it."""
    os._exit(1) if rank else dist.all_reduce(torch.ones(1))


MISTAKES = {"mismatch": (mismatch, "DETAIL"), "sizes": (sizes, "OFF"), "late": (late, "OFF"), "lost": (lost, "OFF")}


def rank(number, name, folder):
    """Be one of the two."""
    mistake, os.environ["TORCH_DISTRIBUTED_DEBUG"] = MISTAKES[name]
    dist.set_debug_level_from_env()
    patience = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=number, world_size=2, timeout=patience)
    try:
        mistake(number)
    except RuntimeError as error:
        print(f"{name}: [rank{number}]: RuntimeError: {error}", flush=True)
    os._exit(0)


def main(folder):
    """Make each mistake, one after the other, so that no output is mixed."""
    for name in MISTAKES:
        children = []
        for number in range(2):
            if not (child := os.fork()):
                rank(number, name, folder)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
