"""Where the ranks of a check compare notes without a collective, so that a rank that is left behind is told so."""

import contextlib
import datetime
import functools
import json
import uuid

from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Mistaken, NotAttempted, Unusable


@contextlib.contextmanager
def world_of_one():
    """While it lasts, each rank is all that torch.distributed knows of; gives DeepSpeed's mpu for an engine in it.

    Every rank has to enter it, since making the groups is collective.
    """
    from deepspeed.utils import groups
    from torch.distributed import distributed_c10d

    whole, known = distributed_c10d._get_default_group(), groups.mpu
    alone = _own_group()
    distributed_c10d._update_default_pg(alone.group)
    try:
        yield alone
    finally:
        distributed_c10d._update_default_pg(whole)
        groups.mpu = known  # an engine left it there for all that come after


@functools.cache
def _own_group():
    import torch.distributed as dist

    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    return OneRank(groups[dist.get_rank()])


class OneRank:
    """What DeepSpeed asks for the ranks: each process is a world of its own, with one rank."""

    def __init__(self, group):
        self.group = group

    def __getattr__(self, name):
        if name.startswith("get_") and name.endswith("_parallel_group"):
            return lambda: self.group
        if name.startswith("get_") and name.endswith("_parallel_world_size"):
            return lambda: 1
        if name.startswith("get_") and name.endswith("_parallel_rank"):
            return lambda: 0
        raise AttributeError(name)


class Meeting:
    """Where the ranks of one check compare notes: over the process group's store, which no collective disturbs.

    Every rank must make one before the answer runs. A rank that waits here for one that the answer has left in a
    collective raises Mistaken("hangs"), so the exercise has to know a mistake of that name.
    """

    WAIT_SECONDS = 7  # more than checking.PEER_SECONDS, so that a rank's own verdict comes first

    def __init__(self):
        import torch.distributed as dist

        name = [uuid.uuid4().hex]
        dist.broadcast_object_list(name)
        self.store = dist.PrefixStore(name[0], dist.distributed_c10d._get_default_store())
        self.rank, self.ranks, self.number = dist.get_rank(), dist.get_world_size(), 0

    def facts(self, mine):
        """Return what every rank says, in the order of the ranks; `mine` has to be something that JSON can hold."""
        self.number += 1
        keys = [f"{self.number}/{rank}" for rank in range(self.ranks)]
        self.store.set(keys[self.rank], json.dumps(mine))
        try:
            self.store.wait(keys, datetime.timedelta(seconds=self.WAIT_SECONDS))
        except Exception as error:
            raise Mistaken("hangs") from error
        return [json.loads(self.store.get(key)) for key in keys]

    def call(self, function, *arguments):
        """Call the reader's function on every rank and return this rank's result; where one rank fails, all raise."""
        result = problem = None
        try:
            result = call(function, *arguments)
        except (Unusable, NotAttempted) as raised:
            problem = raised
        try:
            told = self.facts(None if problem is None else str(problem))
        except Mistaken:  # a peer waits for this rank
            if isinstance(problem, Unusable):
                others = f"The other {'rank waits' if self.ranks == 2 else 'ranks wait'} for it."
                raise Unusable(f"On rank {self.rank}: {problem} {others}", problem.error) from problem
            raise
        if problem is not None:
            raise problem
        for rank, message in enumerate(told):
            if message is not None:
                raise Unusable(f"On rank {rank}, and not on every rank: {message}")
        return result
