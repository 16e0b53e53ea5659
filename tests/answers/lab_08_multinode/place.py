"""Exercise 08-place: answers that are known to be wrong, by their mistake, and right ones."""

WRONG = {
    "local is global": (
        """def place(rank, slots):
    first = 0
    for node, count in enumerate(slots):
        if rank < first + count:
            return node, rank
        first += count""",
    ),
    "equal nodes": (
        """def place(rank, slots):
    return rank // slots[0], rank % slots[0]""",
        """def place(rank, slots):
    return divmod(rank, sum(slots) // len(slots))""",
    ),
    "from one": (
        """def place(rank, slots):
    before = 0
    for node, count in enumerate(slots):
        if rank < before + count:
            return node + 1, rank % count + 1
        before += count""",
        """def place(rank, slots):
    before = 0
    for node, count in enumerate(slots):
        if rank < before + count:
            return node, rank % count + 1
        before += count""",
    ),
    "round-robin": (
        """def place(rank, slots):
    return rank % len(slots), rank // len(slots)""",
    ),
    "place in the node": (
        """def place(rank, slots):
    node = 0
    while rank >= slots[node]:
        rank -= slots[node]
        node += 1
    return node, rank""",
    ),
    "another rank": (
        """def place(rank, slots):
    return 0, rank % slots[0]""",
    ),
}

RIGHT = (
    """def place(rank, slots):
    places = [(node, count) for node, count in enumerate(slots) for _ in range(count)]
    node, count = places[rank]
    return node, rank % count""",
    """import bisect
import itertools


def place(rank, slots):
    node = bisect.bisect_right(list(itertools.accumulate(slots)), rank)
    return [node, rank % slots[node]]""",
    """def place(rank, slots, node=0, before=0):
    if rank < before + slots[node]:
        return node, rank - rank // slots[node] * slots[node]
    return place(rank, slots, node + 1, before + slots[node])""",
)
