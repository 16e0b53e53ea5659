"""The measurement: how many bytes one rank really holds, counted from its live tensors.

DeepSpeed's memory_allocated() on a CPU is the whole process, so that ZeRO's savings drown in it. Here every
tensor storage that is alive is counted once, by what it is for, the same way on a CPU and on a GPU.
"""

import contextlib
import gc
import os
import sys

import torch

MODEL_STATES = ("parameters", "gradients", "master weights", "optimizer states")


def held_bytes(engine):
    """Return {role: bytes} of the tensors that this rank holds now, each storage counted once.

    Roles: parameters, gradients, master weights, optimizer states, other (buckets, batches, the text).
    Tensors that only autograd keeps are not seen: call it between steps. Call it after the first optimizer
    step, because Adam makes its states there. Offloaded states count, since they are this rank's; states on
    NVMe do not.
    """
    storages = {}

    def take(role, tensors):
        taken = 0
        for tensor in tensors:
            for storage in _storages(tensor):
                key = (storage.device, storage.data_ptr())
                if storage.nbytes() and key not in storages:
                    storages[key] = role
                    taken += storage.nbytes()
        return taken

    parameters = list(engine.module.parameters())
    basic = getattr(engine, "basic_optimizer", None)
    groups = basic.param_groups if basic else []
    masters = [p for group in groups for p in group["params"] if id(p) not in set(map(id, parameters))]
    states = [value for state in (basic.state.values() if basic else []) for value in state.values()]
    held = {
        "parameters": take("parameters", [t for p in parameters for t in (p.data, getattr(p, "ds_tensor", None))]),
        "gradients": take("gradients", _gradient_tensors(engine, parameters, masters)),
        "master weights": take("master weights", _master_tensors(engine, masters)),
        "optimizer states": take("optimizer states", states),
    }
    gc.collect()
    held["other"] = take("other", _live_tensors())
    return held


def model_state_total(held):
    """Return the bytes of parameters, gradients, master weights and optimizer states together."""
    return sum(held[role] for role in MODEL_STATES)


def peak_step_bytes(engine, step):
    """Run `step()` once, under measurement, and return the most bytes this rank held at one time.

    On a GPU: the CUDA allocator's own peak. On a CPU: what is held before, plus the largest running sum of
    the profiler's allocation events. The profiler slows the step: never time this one.
    """
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    before = sum(held_bytes(engine).values())
    with (
        _silent_stderr(),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        ) as profile,
    ):
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    running = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        running += event.nbytes()
        largest = max(largest, running)
    return before + largest


def largest_over_ranks(number, device):
    """Return the largest of one number over all ranks, as an int; every rank must call it."""
    value = torch.tensor([int(number)], dtype=torch.int64, device=device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return int(value)


def _gradient_tensors(engine, parameters, masters):
    """The gradients wherever this stage keeps them; DeepSpeed 0.19.8 has no one place for them."""
    yield from (p.grad for p in parameters if p.grad is not None)
    yield from (p.grad for p in masters if p.grad is not None)
    optimizer = engine.optimizer
    for partition in (getattr(optimizer, "averaged_gradients", None) or {}).values():
        yield from partition if isinstance(partition, list | tuple) else [partition]
    for partition in (getattr(optimizer, "all_grad_tensors", None) or {}).values():
        yield from partition or []
    yield getattr(optimizer, "grad_partitions_flat_buffer", None)  # stage 3
    yield from getattr(optimizer, "single_partition_of_fp32_groups_grads", [])
    yield from getattr(optimizer, "fp32_groups_gradients_flat", [])  # BF16_Optimizer
    yield from (getattr(optimizer, "accumulated_grads_in_cpu", None) or {}).values()


def _master_tensors(engine, masters):
    yield from masters
    yield from getattr(engine.optimizer, "fp32_partitioned_groups_flat", [])  # stage 3
    yield from getattr(engine.optimizer, "single_partition_of_fp32_groups", [])  # stages 1 and 2


@contextlib.contextmanager
def _silent_stderr():
    """The profiler writes its own comings and goings to file descriptor 2, past Python; no setting stops it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _live_tensors():
    # type(), not isinstance: isinstance asks the object for its __class__, which dead weak proxies and torch's
    # deprecated aliases answer with an error or a warning.
    return (item for item in gc.get_objects() if issubclass(type(item), torch.Tensor))


def _storages(tensor):
    if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta":
        yield tensor.untyped_storage()
