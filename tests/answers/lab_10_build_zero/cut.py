"""Exercise 10-cut: answers that are known to be wrong, by their mistake, and right ones."""


def _row(share, start="first - offset", stop="first + share - offset", padding=None):
    """Return the source of an answer that walks along the row, with these expressions."""
    padding = padding or "share - sum(stop - start for _, start, stop in pieces)"
    return f"""
def cut(sizes, rank, ranks):
    share = {share}
    first, offset, pieces = rank * share, 0, []
    for number, size in enumerate(sizes):
        start, stop = max(0, {start}), min(size, {stop})
        if start < stop:
            pieces.append((number, start, stop))
        offset += size
    return pieces, {padding}"""


EVEN = "-(-sum(sizes) // (2 * ranks)) * 2"

WRONG = {
    "not every weight once": (
        _row("sum(sizes) // ranks"),
        """
def cut(sizes, rank, ranks):
    share = -(-sum(sizes) // (2 * ranks)) * 2
    pieces, offset = [], 0
    for number, size in enumerate(sizes):
        if rank * share <= offset < (rank + 1) * share:
            pieces.append((number, 0, min(size, (rank + 1) * share - offset)))
        offset += size
    return pieces, share - sum(stop for _, _, stop in pieces)""",
        """
def cut(sizes, rank, ranks):
    return [(number, 0, size) for number, size in enumerate(sizes)], -sum(sizes) % (2 * ranks)""",
    ),
    "no stretch": (
        _row(EVEN, padding="min(share, max(0, first + share - sum(sizes)))").replace("if start < stop", "if True"),
        _row(EVEN, padding="min(share, max(0, first + share - sum(sizes)))").replace(
            "max(0, first - offset)", "first - offset"
        ),
    ),
    "unequal": (
        _row(EVEN, padding="0"),
        """
def cut(sizes, rank, ranks):
    pieces = [(number, 0, size) for number, size in enumerate(sizes) if number % ranks == rank]
    return pieces, 0""",
    ),
    "not even": (_row("-(-sum(sizes) // ranks)"),),
    "another length": (_row("-(-sum(sizes) // (4 * ranks)) * 4"),),
    "places in the row": (
        """
def cut(sizes, rank, ranks):
    share = -(-sum(sizes) // (2 * ranks)) * 2
    first, offset, pieces = rank * share, 0, []
    for number, size in enumerate(sizes):
        start, stop = max(offset, first), min(offset + size, first + share)
        if start < stop:
            pieces.append((number, start, stop))
        offset += size
    return pieces, share - sum(stop - start for _, start, stop in pieces)""",
    ),
    "negative padding": (
        _row(EVEN, padding="(rank == ranks - 1) * (sum(stop - start for _, start, stop in pieces) - share)"),
    ),
    "another order": (
        """
def cut(sizes, rank, ranks):
    share = -(-sum(sizes) // (2 * ranks)) * 2
    elements = [(number, e) for number, size in enumerate(sizes) for e in range(size)][rank::ranks]
    return [(number, e, e + 1) for number, e in elements], share - len(elements)""",
    ),
}

RIGHT = (
    _row(EVEN),
    # numpy's integers are integers.
    """
import numpy as np

def cut(sizes, rank, ranks):
    ends = np.cumsum(sizes)
    share = -(-ends[-1] // (2 * ranks)) * 2
    starts = np.clip(rank * share - (ends - sizes), 0, sizes)
    stops = np.clip((rank + 1) * share - (ends - sizes), 0, sizes)
    pieces = [(number, *both) for number, both in enumerate(zip(starts, stops)) if both[0] < both[1]]
    return pieces, share - sum(stop - start for _, start, stop in pieces)""",
    """
import itertools

def cut(sizes, rank, ranks):
    total = sum(sizes)
    while total % (2 * ranks):
        total += 1
    share = total // ranks
    row = [(number, e) for number, size in enumerate(sizes) for e in range(size)]
    mine = row[rank * share : (rank + 1) * share]
    return [(number, e, e + 1) for number, e in mine], share - len(mine)""",
    """
def cut(sizes, rank, ranks):
    pad = -sum(sizes) % (2 * ranks)
    share, offset, pieces = (sum(sizes) + pad) // ranks, 0, []
    for number, size in enumerate(sizes):
        here = range(max(offset, rank * share), min(offset + size, (rank + 1) * share))
        pieces += [[number, here.start - offset, here.stop - offset]] if here else []
        offset += size
    end = (rank + 1) * share
    return tuple(pieces), min(share, max(0, end - sum(sizes)))""",
)
