"""Where the answers of lab 10 run: worlds of one to four ranks, watched for what they send, hold and borrow."""

import contextlib
import functools
import gc
import sys
import types

from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Mistake, Mistaken, NotAttempted, Unusable
from labsupport.exercises.meeting import Meeting
from labsupport.wording import first_line, ranks_in_words

RANKS = 4  # processes of a check; smaller worlds are made of the first of them
SIZES = (1, 2, 4, 3)

# Ready-made ZeRO, by the function that begins it (any, where none is named): to call it is not to build it.
READY_MADE = (
    ("torch/distributed/optim/zero_redundancy_optimizer.py", "__init__", "ZeroRedundancyOptimizer"),
    ("torch/distributed/fsdp/fully_sharded_data_parallel.py", "__init__", "FSDP"),
    ("torch/distributed/fsdp/", "fully_shard", "FSDP"),
    ("torch/nn/parallel/distributed.py", "__init__", "DistributedDataParallel"),
    ("deepspeed/__init__.py", "initialize", "deepspeed.initialize"),
    ("deepspeed/runtime/", "", "DeepSpeed's own ZeRO"),
)


class Worlds:
    """The ranks of one check; every rank makes one before the answer runs."""

    def __init__(self):
        self.meeting = Meeting()
        self.meeting.WAIT_SECONDS = 20
        _groups()  # to make a group is collective, so also for those that will not be in it

    def run(self, work, sizes=SIZES):
        """Yield (size, facts): what work() returns on each rank of a world of that size, the same on every rank.

        Raises Unusable where the answer fails in the first world, and Mistaken("not everywhere") where it ran in
        smaller ones before. Facts have to be something that JSON can hold.
        """
        ran = []
        for size in sizes:
            try:
                yield size, self._in_one(size, work)
            except Unusable as problem:
                if not ran:
                    raise
                before = " and ".join(map(str, ran))
                raise Mistaken("not everywhere", before=before, ranks=ranks_in_words(size), error=problem) from problem
            ran.append(size)

    def _in_one(self, size, work):
        mine = problem = None
        if self.meeting.rank < size:
            try:
                with _world(size):
                    mine = work()
            except (Unusable, NotAttempted, Mistaken) as raised:
                problem = raised
            except Exception as error:  # told to all, so that no rank waits for this one
                reason = f"This answer could not be judged ({first_line(error)})"
                problem = Unusable(f"{reason}: compare the shapes and types that it leaves with what is asked for.")
        told = self.meeting.facts([mine, None if problem is None else str(problem) or "not attempted"])[:size]
        if problem is not None:
            raise problem
        for rank, (_, message) in enumerate(told):
            if message is not None:
                where = "" if all(other for _, other in told) else f"On rank {rank}, and not on every rank: "
                raise Unusable(f"{where}{message}")
        return [fact for fact, _ in told]


@functools.cache
def _groups():
    import torch.distributed as dist

    return {size: dist.new_group(list(range(size))) for size in range(1, RANKS)}


@contextlib.contextmanager
def _world(size):
    """While it lasts, the first `size` ranks are all that torch.distributed knows of."""
    from torch.distributed import distributed_c10d

    whole = distributed_c10d._get_default_group()
    distributed_c10d._update_default_pg(_groups().get(size, whole))
    try:
        yield
    finally:
        distributed_c10d._update_default_pg(whole)


class Watch:
    """Calls the reader's functions and names in `borrowed` what is not theirs."""

    def __init__(self):
        self.borrowed = set()

    def call(self, function, *arguments, memory=False):
        """Call a function of the reader's and return labsupport.measure's Counted, with its bytes only if `memory`."""
        from labsupport.measure.counted import count

        sys.setprofile(self._note)
        try:
            return count(lambda: call(function, *arguments), memory)
        finally:
            sys.setprofile(None)

    def _note(self, frame, event, _):
        code = frame.f_code
        if event != "call" or _is_stage_3s_linear(frame):
            return
        for place, function, name in READY_MADE:
            if place in code.co_filename and function in ("", code.co_name):
                self.borrowed.add(name)
                raise Mistaken("borrowed", what=name)  # before it does what the next answer would feel


def _is_stage_3s_linear(frame):
    """Whether this is the function that stands in torch's place since the first engine at stage 3, or within it."""
    while frame is not None:
        if frame.f_code.co_filename.endswith("deepspeed/runtime/zero/linear.py"):
            return True
        if "deepspeed" not in frame.f_code.co_filename:
            return False
        frame = frame.f_back


def bytes_reached_from(*objects):
    """Return the bytes of the tensors that these objects hold on to, through attributes, closures and containers."""
    import torch

    from labsupport.measure.claims import address, storages

    waiting, seen, found = list(objects), {}, {}
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, types.ModuleType | type):
            continue
        seen[id(item)] = item
        if isinstance(item, torch.Tensor):
            waiting.append(item.grad)
            found |= {address(storage): storage.nbytes() for storage in storages(item)}
        if isinstance(item, types.FunctionType) and item.__module__ != "__main__":
            waiting.append(item.__closure__)  # and not all that its module holds
        else:
            waiting += gc.get_referents(item)
    return sum(found.values())


def require_own_work(facts):
    """Raise Mistaken("borrowed") where a fact's "borrowed" names something ready-made."""
    names = sorted({name for fact in facts for name in fact["borrowed"]})
    if names:
        raise Mistaken("borrowed", what=" and ".join(names))


def in_words(sent):
    """Return {collective: bytes} for a sentence."""
    return ", ".join(f"{name} {size:,.0f} bytes" for name, size in sent.items()) or "nothing"


def farthest(tensors, others):
    """Return the largest distance between two lists of tensors, 1e30 where one is not a number."""
    apart = max((one.float() - other.float()).abs().max().item() for one, other in zip(tensors, others, strict=True))
    return apart if apart < 1e30 else 1e30


def new_tensors(shapes, *seed):
    """Return a list of normal numbers, the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(sum(number * 1009**place for place, number in enumerate(seed, 1)))
    return [torch.randn(shape, generator=generator) for shape in shapes]


NOT_EVERYWHERE = Mistake(
    "In a world of {before} your function runs. On {ranks} it does not: {error}",
    "Ask `torch.distributed` how many ranks there are, and what does not divide by that number has to be padded.",
)
BORROWED = Mistake(
    "Your function calls {what}: ready-made, it can do this. Here you build it: `torch.distributed`'s collectives are "
    "all that you need.",
)
HANGS = Mistake(
    "One rank waits for the others: a collective was not called by all of them, or not with the same number of "
    "elements.",
    "Every rank has to make the same calls in the same order, whatever it owns.",
)
EVERYWHERE = {"not everywhere": NOT_EVERYWHERE, "borrowed": BORROWED, "hangs": HANGS}
