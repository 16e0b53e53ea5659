"""Which parameters stage 3 gathers, keeps and lets go in one step: DeepSpeed 0.19.8's rules, replayed. No torch.

    from labsupport.memory.gathering import gathering_of
    gathering_of((4096,) * 20, settings).whole     # elements that are whole at the end of the forward pass

A tensor is let go after a use unless its next use is near or is already marked (zero/partitioned_param_coordinator.py,
__params_to_release). Near: fewer than stage3_max_reuse_distance elements are used in between. Marked: the prefetcher,
which reads ahead, has come by that use. It stops where as many elements as stage3_max_live_parameters are whole, and
after one stage3_prefetch_bucket_size (_fetch_sub_module_impl): so max_live_parameters bounds what is fetched ahead, and
nothing is let go for it.
"""

import functools
from collections import Counter
from typing import NamedTuple


class Gathering(NamedTuple):
    """What the forward and backward pass of one micro-batch gather, after the first step of a run."""

    times: tuple  # how often each tensor is gathered
    messages: int  # in how many collectives: those that the prefetcher fetches together are one
    whole: int  # elements that are whole, or on their way, when the forward pass ends


def gathering_of(large, settings, checkpointed_layers=0, tied_embedding=False, unreached=0):
    """Return the Gathering of a model with partitioned tensors of `large` elements, in the order of their use.

    checkpointed_layers: how many equal blocks are recomputed in the backward pass; tied_embedding: the first tensor is
    used again at the end. unreached: how many tensors the backward pass does not come to, because nothing before them
    is trained; where layers are recomputed it comes to all.

    Approximate: each tensor is used by a module of its own, and tensors that are too small to be partitioned do not
    count.
    """
    limits = settings.max_live_parameters, settings.max_reuse_distance, settings.prefetch_bucket_size
    unreached = 0 if checkpointed_layers else unreached
    return _replay(tuple(large), checkpointed_layers, bool(tied_embedding and large), unreached, *limits)


def unreached_tensors(sizes, trained, settings):
    """Return how many of the tensors that stage 3 partitions come before the first that is trained."""
    first = 0 if trained is None else list(trained).index(True)
    return sum(size > settings.persistence_threshold for size in sizes[:first])


def equal_pieces(parameters, layers=0):
    """Return a model of which only the number of parameters is known as equal tensors: 250, or 4 a layer."""
    pieces = max(250, 4 * layers)
    return [parameters / pieces] * pieces


@functools.lru_cache(maxsize=64)
def _replay(large, layers, tied, unreached, max_live, max_reuse, bucket):
    uses, kept = _uses(len(large), _blocks(large[tied:], layers), tied)
    if unreached:
        backward = uses.index(None, 1)
        uses = uses[: backward + 1] + [tensor for tensor in uses[backward + 1 :] if tensor >= unreached]
    ends_forward = len(large) + tied
    used, next_use = _between(uses, large)
    here, marked, times = (dict.fromkeys(range(len(large)), each) for each in (False, -1, 0))
    live = messages = ahead = whole = 0
    for step, tensor in enumerate(uses):
        if tensor is not None and not here[tensor]:
            here[tensor], live, messages = True, live + large[tensor], messages + 1
            times[tensor] += 1
        ahead = max(ahead, step + 1)
        room, fetched = min(max_live - live, bucket), 0
        while ahead < len(uses) and fetched < room:
            other, ahead = uses[ahead], ahead + 1
            if other is None:
                continue
            marked[other] = ahead - 1
            if not here[other]:
                here[other], fetched = True, fetched + large[other]
                times[other] += 1
        if fetched:
            messages, live = messages + 1, live + fetched
        if tensor is not None and step not in kept:
            near = next_use[step] is not None and used[next_use[step]] - used[step + 1] < max_reuse
            if not near and marked[tensor] <= step + 1:
                here[tensor], live = False, live - large[tensor]
        if step == ends_forward:
            whole = live
    return Gathering(tuple(times.values()), messages, whole)


def _between(uses, large):
    """The elements used before each use, and where each tensor is used next."""
    used, following, seen = [0], [None] * len(uses), {}
    for step, tensor in enumerate(uses):
        used.append(used[-1] + (0 if tensor is None else large[tensor]))
        if tensor in seen:
            following[seen[tensor]] = step
        seen[tensor] = step
    return used, following


def _uses(count, block, tied):
    """The tensors in the order of their uses, forward and backward, and the uses after which none is let go.

    None is the use of the whole model, which has no tensor of its own, at the start of either pass. A recomputed
    block's last tensor is fetched for its backward pass before the block is recomputed, and stays until its gradient
    is there. block: (the positions that are in a block, how many tensors one has).
    """
    first, others, kept = [0] * tied, list(range(tied, count)), set()
    uses = [None, *first, *others, *first, None, *first]
    positions, tensors = block
    while others:
        if others[-1] - tied not in positions:
            uses.append(others.pop())
            continue
        recomputed = others[-tensors:]
        del others[-tensors:]
        kept.add(len(uses))
        uses += [recomputed[-1], *recomputed, *reversed(recomputed[:-1])]
    return uses + first, kept


def _blocks(sizes, layers):
    """(positions of the tensors whose sizes occur in each of the equal blocks, how many of them a block has)."""
    count = Counter(sizes) if layers else {}
    positions = {position for position, size in enumerate(sizes) if layers and count[size] >= layers}
    return positions, max(1, len(positions) // layers) if layers else 1
