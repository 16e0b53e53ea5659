"""The measurement: what one rank really holds, in bytes, by what it is for and by where it is.

    held_bytes(engine)              # {role: bytes} now, between two steps
    held_by_place(engine)           # {place: {role: bytes}}: GPU, host, pinned host, NVMe
    watch_step(engine, step)        # the same through one step: its timeline and its peak

DeepSpeed's memory_allocated() on a CPU is the whole process, so that ZeRO's savings drown in it. Here every
tensor storage that is alive is counted once, the same way on a CPU and on a GPU.
"""

import contextlib
import gc
import itertools
import os
import sys
from collections import Counter
from typing import NamedTuple

import torch

MODEL_STATES = ("parameters", "gradients", "master weights", "optimizer states")
ROLES = (*MODEL_STATES, "communication buckets", "gathered parameters", "activations", "other")
PLACES = ("GPU", "host", "pinned host", "NVMe")
PHASES = ("forward", "backward", "step")


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
    held = dict.fromkeys(ROLES, 0)
    for place, roles in held_by_place(engine, base, everything).items():
        for role, count in roles.items() if place != "NVMe" else ():
            held[role] += count
    return held


def held_by_place(engine, base=0, everything=True):
    """Return {place: {role: bytes}} of what this rank holds now, by PLACES; the rest is as for held_bytes.

    On a CPU rank all but NVMe is "host": offloading there moves nothing.
    """
    held = {place: dict.fromkeys(ROLES, 0) for place in PLACES}
    for storage, role in _storages_by_role(engine, everything).values():
        held[_place(storage)][role] += storage.nbytes()
    for role, paths in _swap_files(engine):
        held["NVMe"][role] += sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    held["host"]["other"] -= base
    return held


def other_bytes():
    """Return the bytes of all tensors in this process's memory: before an engine is built, what is not the engine's."""
    while gc.collect():  # DeepSpeed's engines are cycles through cycles
        pass
    storages = {_address(storage): storage for tensor in _live_tensors() for storage in _storages(tensor)}
    return sum(storage.nbytes() for storage in storages.values() if storage.device.type == "cpu")


def model_state_total(held):
    """Return the bytes of parameters, gradients, master weights and optimizer states together."""
    return sum(held[role] for role in MODEL_STATES)


class Step(NamedTuple):
    """What one rank held through one step; `timeline` is [(phase, {role: bytes})], an entry whenever that changed."""

    timeline: list
    device: str  # whose memory: "cpu" or "cuda"

    def thinned(self, moments=40):
        """Return the timeline with at most so many moments a phase, the largest of each stretch, for a figure."""
        kept = []
        for _, stretch in itertools.groupby(self.timeline, key=lambda moment: moment[0]):
            stretch = list(stretch)
            length = -(-len(stretch) // moments)
            pieces = (stretch[start : start + length] for start in range(0, len(stretch), length))
            kept += [max(piece, key=lambda moment: sum(moment[1].values())) for piece in pieces]
        return kept

    @property
    def peak(self):
        """The roles' bytes at the moment of most bytes."""
        return max(self.timeline, key=lambda moment: sum(moment[1].values()))[1]

    @property
    def peak_phase(self):
        """In which phase that moment is: "forward", "backward" or "step"."""
        return max(self.timeline, key=lambda moment: sum(moment[1].values()))[0]

    @property
    def peak_bytes(self):
        """The most bytes held at one time."""
        return sum(self.peak.values())


def watch_step(engine, step, base=0):
    """Run `step()` twice under PyTorch's profiler and return the Step that the second run made.

    step: a function that trains one whole optimizer step, from one micro-batch or several. The bytes are
    those held before, plus and minus every allocation that the profiler saw. The first run is there because
    the profiler does not see the end of what was allocated before it began. Watching slows the step: never
    time this one. On a GPU only the GPU's memory is followed. base: as for held_bytes.
    """
    device = engine.device.type
    with _silent_stderr(), _profiler() as profile, _labels(engine):
        step()
        _mark("begin")
        held = {pointer: (storage.nbytes(), role) for pointer, (storage, role) in _of_device(engine, device)}
        step()
    timeline = _timeline(profile, held, device)
    if device == "cpu":
        for _, roles in timeline:
            roles["other"] -= base
    return Step(timeline, device)


def peak_step_bytes(engine, step):
    """Return the most bytes that this rank held at one time in a step; never time that one.

    On a GPU the CUDA allocator's own peak of one `step()`, on a CPU the peak that watch_step finds.
    """
    if engine.device.type != "cuda":
        return watch_step(engine, step).peak_bytes
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def allocator_gap(engine):
    """Return what the CUDA allocator holds beside what the ledger counts, in bytes, and the difference.

    {"allocated", "counted", "unexplained", "reserved"}; the allocator rounds every block up to 512 bytes,
    and libraries keep workspaces. None on a CPU, which has no such allocator.
    """
    if engine.device.type != "cuda":
        return None
    counted = sum(held_by_place(engine)["GPU"].values())
    allocated = torch.cuda.memory_allocated()
    return {
        "allocated": allocated,
        "counted": counted,
        "unexplained": allocated - counted,
        "reserved": torch.cuda.memory_reserved(),
    }


def largest_over_ranks(number, device):
    """Return the largest of one number over all ranks, as an int; every rank must call it."""
    value = torch.tensor([int(number)], dtype=torch.int64, device=device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return int(value)


# What is for what. DeepSpeed 0.19.8 keeps each state in other attributes at each stage; the first claim counts.


def _claims(engine):
    """Yield (role, tensor) for every tensor whose purpose is known."""
    parameters, optimizer = list(engine.module.parameters()), engine.optimizer
    for parameter in parameters:
        if hasattr(parameter, "ds_tensor"):  # ZeRO-3: the shard, and the whole while it is gathered
            yield "parameters", parameter.ds_tensor
            yield "gathered parameters", parameter.data
        else:
            yield "parameters", parameter.data
    basic = getattr(engine, "basic_optimizer", None)
    groups = basic.param_groups if basic else []
    masters = [p for group in groups for p in group["params"] if id(p) not in set(map(id, parameters))]
    masters += getattr(optimizer, "fp32_partitioned_groups_flat", [])  # stage 3
    masters += getattr(optimizer, "single_partition_of_fp32_groups", [])  # stages 1 and 2
    yield from (("gradients", tensor) for tensor in _gradients(optimizer, [*parameters, *masters]))
    yield from (("master weights", master) for master in masters)
    states = [value for state in (basic.state.values() if basic else []) for value in state.values()]
    yield from (("optimizer states", state) for state in states)
    yield from (("communication buckets", tensor) for tensor in _buckets(optimizer, parameters))


def _gradients(optimizer, parameters):
    yield from (p.grad for p in parameters)
    yield from (getattr(p, "grad_accum", None) for p in parameters)
    for name in ("averaged_gradients", "all_grad_tensors", "accumulated_grads_in_cpu"):  # stages 1 and 2
        yield from (getattr(optimizer, name, None) or {}).values()
    yield getattr(optimizer, "grads_in_partition", None)
    yield getattr(optimizer, "grad_partitions_flat_buffer", None)  # stage 3
    yield getattr(optimizer, "fp32_groups_gradients_flat", None)  # BF16_Optimizer


def _buckets(optimizer, parameters):
    yield from (bucket.buffer for bucket in (getattr(optimizer, "ipg_buckets", None) or {}).values())
    for name in (
        "temp_grad_buffer_for_cpu_offload",
        "temp_grad_buffer_for_gpu_offload",
        "param_buffer_of_bit16_for_cpu_offload_groups",
    ):
        yield getattr(optimizer, name, None)
    yield from (getattr(swapper, "buffers", None) for swapper in _parameter_swappers(parameters))
    manager = getattr(getattr(optimizer, "optimizer_swapper", None), "swap_buffer_manager", None)
    yield getattr(manager, "all_buffers", None)


def _parameter_swappers(parameters):
    return {id(s): s for s in (getattr(p, "nvme_swapper", None) for p in parameters) if s is not None}.values()


def _swap_files(engine):
    """Yield (role, paths) of what DeepSpeed keeps on NVMe for this rank."""
    for swapper in _parameter_swappers(engine.module.parameters()):
        yield "parameters", list(swapper.id_to_path.values())
    optimizer_swapper = getattr(engine.optimizer, "optimizer_swapper", None)
    for info in getattr(optimizer_swapper, "swap_params_info", {}).values():
        yield "master weights", [info.tensors[0].swap_path]
        yield "optimizer states", [tensor.swap_path for tensor in info.tensors[1:]]
        yield "gradients", [gradient.path for gradient in info.swapped_gradients.values()]


def _storages_by_role(engine, everything=True):
    """{(device, address): (storage, role)} of every tensor that is alive, the unclaimed ones as "other"."""
    found = {}
    if everything:
        gc.collect()
    for role, tensor in _claims(engine):
        for storage in _storages(tensor):
            found.setdefault(_address(storage), (storage, role))
    for tensor in _live_tensors() if everything else ():
        for storage in _storages(tensor):
            found.setdefault(_address(storage), (storage, "other"))
    return found


def _of_device(engine, device):
    by_role = _storages_by_role(engine)
    return [(pointer, claim) for (kind, pointer), claim in by_role.items() if kind == device]


def _storages(tensor):
    """The storages of a tensor, or of every tensor in a list, without empty ones."""
    if isinstance(tensor, list | tuple):
        for item in tensor:
            yield from _storages(item)
    elif isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta":
        storage = tensor.untyped_storage()
        if storage.nbytes():
            yield storage


def _address(storage):
    return storage.device.type, storage.data_ptr()


def _place(storage):
    if storage.device.type != "cpu":
        return "GPU"
    return "pinned host" if torch.cuda.is_available() and storage.is_pinned() else "host"


def _live_tensors():
    # type(), not isinstance: isinstance asks the object for its __class__, which dead weak proxies and torch's
    # deprecated aliases answer with an error or a warning.
    return (item for item in gc.get_objects() if issubclass(type(item), torch.Tensor))


# The timeline of a step. Marks in the profiler's own event stream say which phase begins and what a storage is for;
# an allocation that no mark names is an activation in the forward and backward passes, and "other" in the step.


class _Allocation:
    """One block of memory in the profiler's stream, while it lives."""

    def __init__(self, size, role=None):
        self.size, self.role, self.freed = size, role, False


def _timeline(profile, held, device):
    events = list(_flat(profile.profiler.kineto_results.experimental_event_tree()))
    entries = _entries(sorted(events, key=lambda event: event.start_time_ns), device)
    begin = entries.index(("mark", "begin"))
    roles, live, phase, timeline = Counter(dict.fromkeys(ROLES, 0)), {}, "step", []
    for pointer, (size, role) in held.items():
        live[pointer] = _Allocation(size, role)
        roles[role] += size
    for kind, *facts in entries[begin + 1 :]:
        if kind == "mark":
            phase = facts[0]
            continue
        pointer, block = facts
        if (gone := live.pop(pointer, None)) is not None:
            roles[gone.role] -= gone.size
        if kind == "allocate":
            block.role = block.role or ("other" if phase == "step" else "activations")
            live[pointer] = block
            roles[block.role] += block.size
        timeline.append((phase, dict(roles)))
        if kind == "allocate" and block.role == WORKSPACE and not block.freed:
            # A collective's own workspace is freed on a thread that the profiler does not see: it ends here.
            roles[block.role] -= live.pop(pointer).size
    return timeline


def _entries(events, device):
    """The stream as ("mark", phase), ("allocate", address, block) and ("free", address, None), roles filled in."""
    entries, open_at = [], {}
    for event in events:
        if event.name.startswith(MARK):
            name, _, pointer = event.name[len(MARK) :].partition("@")
            block = open_at.get(int(pointer)) if pointer else None
            if not pointer:
                entries.append(("mark", name))
            elif block is not None:
                block.role = block.role or name
        elif event.name == "[memory]" and event.typed[1].device.type == device:
            facts = event.typed[1]
            if facts.alloc_size > 0:
                open_at[facts.ptr] = _Allocation(facts.alloc_size, WORKSPACE if _in_collective(event) else None)
                entries.append(("allocate", facts.ptr, open_at[facts.ptr]))
            else:
                if facts.ptr in open_at:
                    open_at.pop(facts.ptr).freed = True
                entries.append(("free", facts.ptr, None))
    return entries


WORKSPACE = "communication buckets"


def _in_collective(event):
    while event is not None:
        if event.name.startswith(("c10d::", "gloo:", "nccl:")):
            return True
        event = event.parent
    return False


def _flat(nodes):
    """Every event of the profiler's tree; a step nests deeper than Python may recurse."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


MARK = "ledger:"


def _mark(text):
    """Write a mark into the profiler's stream: a phase by its name, or a storage's role as "role@address"."""
    with torch.profiler.record_function(MARK + text):
        pass


def _mark_tensor(role, tensor):
    for storage in _storages(tensor):
        _mark(f"{role}@{storage.data_ptr()}")


@contextlib.contextmanager
def _labels(engine):
    """While it lasts, the phases, gradients, collectives and the optimizer's inputs leave marks."""
    from deepspeed.comm import comm

    undo = [_mark_calls(engine, phase, before=lambda *_, phase=phase, **__: _mark(phase)) for phase in PHASES]
    undo.append(_mark_calls(engine, "backward", after=lambda: _mark_claims(engine)))
    for name, arguments, role in COLLECTIVES:
        undo.append(_mark_calls(comm.cdb, name, before=_marker(engine, role, arguments)))
    hooks = [module.register_forward_pre_hook(_mark_gathered) for module in engine.module.modules()]
    hooks += [p.register_hook(_gradient_marker(p)) for p in engine.module.parameters() if p.requires_grad]
    basic = getattr(engine, "basic_optimizer", None)
    if basic is not None:
        hooks.append(basic.register_step_pre_hook(lambda *_: _mark_claims(engine)))
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()
        for hook in hooks:
            hook.remove()


COLLECTIVES = (  # the methods of DeepSpeed's backend object, their first arguments that are memory of ours, its role
    ("all_reduce", ("tensor",), "communication buckets"),
    ("reduce", ("tensor",), "communication buckets"),
    ("reduce_scatter_tensor", ("output_tensor", "input_tensor"), "communication buckets"),
    ("all_gather_into_tensor", ("output_tensor",), "gathered parameters"),
    ("all_gather", ("tensor_list",), "gathered parameters"),
)


def _marker(engine, role, arguments):
    def mark(*positional, **named):
        _mark_tensor("communication buckets", list(_buckets(engine.optimizer, [])))
        for tensor in (*positional[: len(arguments)], *(named.get(argument) for argument in arguments)):
            _mark_tensor(role, tensor)

    return mark


def _mark_gathered(module, _inputs):
    for parameter in module.parameters(recurse=False):
        _mark_tensor("gathered parameters", parameter.data)


def _gradient_marker(parameter):
    def mark(gradient):
        _mark_tensor("gradients", gradient)
        _mark_tensor("gathered parameters", parameter.data)

    return mark


def _mark_calls(owner, name, before=None, after=None):
    """Call `before` or `after` around owner.name for a while; return what undoes it."""
    original, own = getattr(owner, name), name in vars(owner)

    def marked(*arguments, **named):
        if before:
            before(*arguments, **named)
        result = original(*arguments, **named)
        if after:
            after()
        return result

    setattr(owner, name, marked)
    return (lambda: setattr(owner, name, original)) if own else (lambda: delattr(owner, name))


def _mark_claims(engine):
    for role, tensor in _claims(engine):
        _mark_tensor(role, tensor)


def _profiler():
    return torch.profiler.profile(
        activities=torch.profiler.supported_activities(), profile_memory=True, acc_events=True
    )


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
