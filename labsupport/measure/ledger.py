"""The measurement at rest: what one rank really holds, in bytes, by what it is for and by where it is.

    held_bytes(engine)              # {role: bytes} now, between two steps
    held_by_place(engine)           # {place: {role: bytes}}: GPU, host, pinned host, NVMe

DeepSpeed's memory_allocated() on a CPU is the whole process, so that ZeRO's savings drown in it. Here every
tensor storage that is alive is counted once, the same way on a CPU and on a GPU. What happens within a step
is labsupport.measure.timeline's.
"""

import gc
import os

import torch

from labsupport.measure.claims import address, live_tensors, storages, storages_by_role, swap_files
from labsupport.memory.roles import MODEL_STATES, PLACES, ROLES, memory_held


def held_bytes(engine, base=0, everything=True):
    """Return {role: bytes} of what this rank holds in memory now, each storage counted once; files on NVMe not.

    The roles are ROLES. "gathered parameters" are ZeRO-3 parameters that are whole at this moment, such as
    the small ones that stay whole; "communication buckets" are the tensors through which data leaves the
    rank or the device; "other" is everything else, such as batches and the text. Tensors that only autograd
    keeps are not seen here: call it between steps. Adam makes its states in the first step. base: bytes to
    leave out of "other", as other_bytes() gave them before there was an engine. everything: look for tensors
    of unknown purpose too, which walks over all of Python's objects; without it a count is hundreds of times
    as quick, and "other" is empty.
    """
    return memory_held(held_by_place(engine, base, everything))


def held_by_place(engine, base=0, everything=True):
    """Return {place: {role: bytes}} of what this rank holds now, by PLACES; the rest is as for held_bytes.

    On a CPU rank all but NVMe is "host": offloading there moves nothing.
    """
    held = {place: dict.fromkeys(ROLES, 0) for place in PLACES}
    for storage, role in storages_by_role(engine, everything).values():
        held[_place(storage)][role] += storage.nbytes()
    for role, paths in swap_files(engine):
        held["NVMe"][role] += sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    held["host"]["other"] -= base
    return held


def other_bytes():
    """Return the bytes of all tensors in this process's memory: before an engine is built, what is not the engine's."""
    while gc.collect():  # DeepSpeed's engines are cycles through cycles
        pass
    alive = {address(storage): storage for tensor in live_tensors() for storage in storages(tensor)}
    return sum(storage.nbytes() for storage in alive.values() if storage.device.type == "cpu")


def model_state_total(held):
    """Return the bytes of parameters, gradients, master weights and optimizer states together."""
    return sum(held[role] for role in MODEL_STATES)


def allocator_gap(engine):
    """Return what the CUDA allocator has handed out, what the ledger counts, and what lies between, in bytes.

    {"allocated", "counted", "cublas_workspaces", "rounding", "unexplained", "reserved"}: PyTorch gives cuBLAS its
    workspaces from the same allocator, and a block may be larger than what was asked for. None on a CPU, which has no
    such allocator.
    """
    if engine.device.type != "cuda":
        return None
    allocated, workspaces = torch.cuda.memory_allocated(), release_cublas_workspaces()
    counted = sum(held_by_place(engine)["GPU"].values())
    requested = torch.cuda.memory_stats()["requested_bytes.all.current"]
    return {
        "allocated": allocated,
        "counted": counted,
        "cublas_workspaces": workspaces,
        "rounding": allocated - workspaces - requested,
        "unexplained": requested - counted,
        "reserved": torch.cuda.memory_reserved(),
    }


def release_cublas_workspaces():
    """Let go of cuBLAS's workspaces on this GPU and return their bytes; the next matrix product makes them again."""
    before = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()  # what PyTorch's own CUDA graphs call; there is no public name
    return before - torch.cuda.memory_allocated()


def largest_over_ranks(number, device):
    """Return the largest of one number over all ranks, as an int; every rank must call it."""
    value = torch.tensor([int(number)], dtype=torch.int64, device=device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return int(value)


def _place(storage):
    if storage.device.type != "cpu":
        return "GPU"
    return "pinned host" if torch.cuda.is_available() and storage.is_pinned() else "host"
