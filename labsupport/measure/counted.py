"""The measurement of code that has no engine: what it sends and what it holds.

    counted = count(lambda: step(gradients))
    counted.messages                      # [("reduce_scatter", 13200), ("all_gather", 3300)], in their order
    counted.peak_bytes, counted.kept_bytes

Nothing of the code is replaced or marked, so that it does not matter by which name it calls a collective: messages are
seen where PyTorch dispatches them.
"""

import itertools
import time
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labsupport.measure.timeline import flat_events, in_collective, profiler, silent_stderr
from labsupport.memory.messages import total_wire_bytes

# Of PyTorch's operations that send: how a collective is called here, and which argument is the message.
_SENDING = {
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::allreduce_coalesced_": ("all_reduce", 0),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::reduce_scatter_": ("reduce_scatter", 1),
    "c10d::reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "c10d::_allgather_base_": ("all_gather", 1),
    "c10d::allgather_": ("all_gather", 1),
    "c10d::allgather_coalesced_": ("all_gather", 1),
    "c10d::allgather_into_tensor_coalesced_": ("all_gather", 1),
    "c10d::reduce_": ("reduce", 0),
    "c10d::broadcast_": ("broadcast", 0),
    "c10d::gather_": ("gather", 1),
    "c10d::scatter_": ("scatter", 0),
    "c10d::alltoall_base_": ("all_to_all", 1),
    "c10d::alltoall_": ("all_to_all", 1),
    "c10d::send": ("send", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
    "_c10d_functional::all_reduce_": ("all_reduce", 0),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", 0),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", 0),
}

LET_GO_SECONDS = 1  # the backend's thread lets a message go a moment after its collective has ended


class Counted(NamedTuple):
    """What a function returned, sent and held on this rank.

    messages: [(collective, bytes)] in the order in which they were sent, sized as DeepSpeed sizes them: an all-gather
    by one rank's part. peak_bytes and kept_bytes: the most bytes of tensors at one time, and those at the end, both
    above what was held at the beginning; what a collective allocates for itself is not among them.
    """

    result: Any
    messages: list
    peak_bytes: int
    kept_bytes: int

    @property
    def sent(self):
        """{collective: message bytes} of all messages together."""
        return dict(_added_up(self.messages))

    def wire_bytes(self):
        """Return the bytes that this rank sends for these messages on a ring of all ranks."""
        return total_wire_bytes(self.sent, torch.distributed.get_world_size())


def count(function, memory=True):
    """Run `function()` on this rank, watched, and return the Counted; never time that one.

    memory: without it only messages are counted, and the bytes are 0.
    """
    with _Messages() as sent:
        if not memory:
            return Counted(function(), sent.messages, 0, 0)
        with silent_stderr(), profiler(record_shapes=True) as profile:
            result = function()
    tree = profile.kineto_results.experimental_event_tree()
    events = sorted(flat_events(tree), key=lambda event: event.start_time_ns)
    return Counted(result, sent.messages, *_held(events, sent.let_go))


class _Messages(TorchDispatchMode):
    """While it lasts, it sees every collective: its message, and the memory of its tensors."""

    def __init__(self):
        super().__init__()
        self.messages = []
        self._sent = {}  # {address: the memory of the last message there}

    def __torch_dispatch__(self, operation, kinds, inputs=(), options=None):
        if operation.namespace in ("c10d", "_c10d_functional"):
            tensors = [item for item in tree_leaves(inputs) if isinstance(item, torch.Tensor)]
            self._sent |= {memory.data_ptr(): StorageWeakRef(memory) for memory in map(_memory, tensors)}
            if collective := _SENDING.get(operation.name()):
                name, position = collective
                size = sum(tensor.nbytes for tensor in tree_leaves(inputs[position]))
                self.messages += [(name, size)] if size else []
        return operation(*inputs, **(options or {}))

    def let_go(self, addresses):
        """Return those of the addresses at which the last message is gone, soon after its collective at the latest."""
        ends_at = time.monotonic() + LET_GO_SECONDS
        sent = self._sent.keys() & addresses
        while True:
            gone = {address for address in sent if self._sent[address].expired()}
            if gone == sent or time.monotonic() > ends_at:
                return gone
            time.sleep(0.001)


def _memory(tensor):
    return tensor.untyped_storage()


def _added_up(messages):
    sent = Counter()
    for collective, size in messages:
        sent[collective] += size
    return sent


def _held(events, let_go):
    """(the most bytes, the bytes at the end) of the allocations that are no collective's own.

    What was in a message may be freed on the backend's thread, which the profiler does not see. `let_go` tells which
    of such blocks are gone at the end; that they were until their last use is all that can be known.
    """
    blocks, open_at, of_collectives = [], {}, set()
    for moment, event in enumerate(events):
        if event.name == "[memory]":
            facts = event.typed[1]
            if facts.device.type != "cpu":
                continue
            if facts.alloc_size < 0 and facts.ptr in of_collectives:
                of_collectives.remove(facts.ptr)
                continue
            if facts.ptr in open_at:  # freed, or freed unseen and allocated again
                block = open_at.pop(facts.ptr)
                block["end"] = moment if facts.alloc_size < 0 else block["used"] + 1
                if facts.alloc_size < 0:
                    continue
            of_collectives.discard(facts.ptr)
            if facts.alloc_size > 0 and in_collective(event):
                of_collectives.add(facts.ptr)
                continue
            block = {"size": facts.alloc_size, "begin": moment, "used": moment, "sent": False, "end": None}
            blocks.append(block)
            if facts.alloc_size > 0:
                open_at[facts.ptr] = block
        else:
            sent = event.name.startswith("_c10d_functional") or in_collective(event)
            for pointer in _pointers(event):
                if pointer in open_at:
                    open_at[pointer]["used"] = moment
                    open_at[pointer]["sent"] |= sent
    for pointer in let_go([pointer for pointer, block in open_at.items() if block["sent"]]):
        open_at[pointer]["end"] = open_at[pointer]["used"] + 1
    change = Counter()
    for block in blocks:
        change[block["begin"]] += block["size"]
        if block["end"] is not None:
            change[block["end"]] -= block["size"]
    held = [0, *itertools.accumulate(change[moment] for moment in sorted(change))]
    return max(held), held[-1]


def _pointers(event):
    """The addresses of the memory that an operation is given."""
    for given in getattr(event.typed[1], "inputs", None) or ():
        for tensor in given if isinstance(given, list) else [given]:
            if hasattr(tensor, "storage_data_ptr"):
                yield tensor.storage_data_ptr
