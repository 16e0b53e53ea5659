"""The measurement of a step: every allocation of one training step, by what it is for, and the peak of it.

    step = watch_step(engine, lambda: trainer.train_step(batch))
    step.peak_bytes, step.peak_phase, step.peak     # the most at one time; when; {role: bytes} then

Marks in the profiler's own event stream say which phase begins and what a storage is for. An allocation that no
mark names is an activation in the forward and backward passes, and "other" in the optimizer's step.
"""

import contextlib
import itertools
import os
import sys
from collections import Counter
from typing import NamedTuple

import torch

from labsupport.measure.claims import buckets, claims, storages, storages_by_role
from labsupport.memory.roles import ROLES

PHASES = ("forward", "backward", "step")
MARK = "ledger:"  # how the marks in the profiler's stream begin
WORKSPACE = "communication buckets"  # the role of what a collective allocates for itself


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
    with watching(engine, base) as watch:
        step()
        watch.begin()
        step()
    return watch.step


@contextlib.contextmanager
def watching(engine, base=0):
    """Watch the engine while it lasts, and yield a Watch, whose `step` is there afterwards; the rest is watch_step's.

    Enter it one optimizer step before the one to watch, call `begin()` between the two, and leave it after the second.
    """
    watch = Watch(engine)
    with silent_stderr(), profiler() as profile, _labels(engine):
        yield watch
    timeline = timeline_of(profile, watch.held, watch.device)
    if watch.device == "cpu":
        for _, roles in timeline:
            roles["other"] -= base
    watch.step = Step(timeline, watch.device)


class Watch:
    """What an engine holds when the watched step begins, and the Step when it has been made."""

    def __init__(self, engine):
        self.engine, self.device, self.held, self.step = engine, engine.device.type, {}, None

    def begin(self):
        """Say that the watched step begins now."""
        mark("begin")
        self.held = {
            pointer: (storage.nbytes(), role)
            for (kind, pointer), (storage, role) in storages_by_role(self.engine).items()
            if kind == self.device
        }


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


# Reading the profiler's stream


class _Allocation:
    """One block of memory in the profiler's stream, while it lives."""

    def __init__(self, size, role=None):
        self.size, self.role, self.freed = size, role, False


def timeline_of(profile, held, device):
    """Return a Step's timeline from a profile, in which "begin" is marked; held: {address: (bytes, role)} then."""
    events = list(flat_events(profile.kineto_results.experimental_event_tree()))
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
                open_at[facts.ptr] = _Allocation(facts.alloc_size, WORKSPACE if in_collective(event) else None)
                entries.append(("allocate", facts.ptr, open_at[facts.ptr]))
            else:
                if facts.ptr in open_at:
                    open_at.pop(facts.ptr).freed = True
                entries.append(("free", facts.ptr, None))
    return entries


def in_collective(event):
    """Return whether an event of the profiler's tree lies within a collective."""
    while event is not None:
        if event.name.startswith(("c10d::", "gloo:", "nccl:")):
            return True
        event = event.parent
    return False


def flat_events(nodes):
    """Every event of the profiler's tree; a step nests deeper than Python may recurse."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


# Writing the marks into it


def mark(text):
    """Write a mark into the profiler's stream: a phase by its name, or a storage's role as "role@address"."""
    with torch.profiler.record_function(MARK + text):
        pass


def mark_tensor(role, tensor):
    """Write into the profiler's stream what a tensor's storage is for."""
    for storage in storages(tensor):
        mark(f"{role}@{storage.data_ptr()}")


@contextlib.contextmanager
def _labels(engine):
    """While it lasts, the phases, gradients, collectives and the optimizer's inputs leave marks."""
    from deepspeed.comm import comm

    undo = [around_calls(engine, phase, before=lambda *_, phase=phase, **__: mark(phase)) for phase in PHASES]
    undo.append(around_calls(engine, "backward", after=lambda: _mark_claims(engine)))
    for name, arguments, role in COLLECTIVES:
        undo.append(around_calls(comm.cdb, name, before=_marker(engine, role, arguments)))
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
    def mark_arguments(*positional, **named):
        mark_tensor("communication buckets", list(buckets(engine.optimizer, [])))
        for tensor in (*positional[: len(arguments)], *(named.get(argument) for argument in arguments)):
            mark_tensor(role, tensor)

    return mark_arguments


def _mark_gathered(module, _inputs):
    for parameter in module.parameters(recurse=False):
        mark_tensor("gathered parameters", parameter.data)


def _gradient_marker(parameter):
    def mark_gradient(gradient):
        mark_tensor("gradients", gradient)
        mark_tensor("gathered parameters", parameter.data)

    return mark_gradient


def around_calls(owner, name, before=None, after=None):
    """Call `before` with the arguments of owner.name, or `after` it, for a while; return what undoes it."""
    original, own = getattr(owner, name), name in vars(owner)

    def wrapped(*arguments, **named):
        if before:
            before(*arguments, **named)
        result = original(*arguments, **named)
        if after:
            after()
        return result

    setattr(owner, name, wrapped)
    return (lambda: setattr(owner, name, original)) if own else (lambda: delattr(owner, name))


def _mark_claims(engine):
    for role, tensor in claims(engine):
        mark_tensor(role, tensor)


def profiler(record_shapes=False):
    """Return PyTorch's profiler as a context that follows memory, and the shapes of what operations are given."""
    # Memory on a GPU is reported by its allocator, on the CPU's side; CUPTI would only slow what is timed afterwards.
    # Not torch.profiler.profile: that one turns every event into a Python object, which takes longer than the step.
    return torch.autograd.profiler.profile(use_device=None, profile_memory=True, record_shapes=record_shapes)


@contextlib.contextmanager
def silent_stderr():
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
