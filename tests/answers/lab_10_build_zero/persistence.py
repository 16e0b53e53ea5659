"""Exercise 10-persistence: answers that are known to be wrong, by their mistake, and right ones."""


def _answer(order="sorted(set(sizes))", counted="2 * sum(s for s in sizes if s <= size)", fits="<= budget", first="0"):
    return f"""
def persistence_threshold(sizes, budget):
    threshold = {first}
    for size in {order}:
        if {counted} {fits}:
            threshold = size
    return threshold"""


WRONG = {
    "over budget": (
        _answer(counted="sum(s for s in sizes if s <= size)"),
        _answer(counted="2 * sum(s for s in sizes if s < size)"),
    ),
    "alike": (
        """
def persistence_threshold(sizes, budget):
    threshold = whole = 0
    for size in sorted(sizes):
        if whole + 2 * size <= budget:
            whole, threshold = whole + 2 * size, size
    return threshold""",
    ),
    "under budget": (
        _answer(fits="< budget"),
        _answer(counted="4 * sum(s for s in sizes if s <= size)"),
        _answer(counted="2 * sum(s for s in sizes if s <= size)").replace(
            "return threshold", "return threshold - 1 if threshold else 0"
        ),
    ),
    "budget as threshold": (
        "def persistence_threshold(sizes, budget):\n    return budget",
        "def persistence_threshold(sizes, budget):\n    return budget // 2",
    ),
}

RIGHT = (
    _answer(),
    # numpy's integers are integers.
    """
import numpy as np

def persistence_threshold(sizes, budget):
    candidates = np.unique([0, *sizes])
    whole = np.array([2 * sum(s for s in sizes if s <= t) for t in candidates])
    return candidates[whole <= budget][-1]""",
    """
def persistence_threshold(sizes, budget):
    candidates = [0, *sizes]
    return max(t for t in candidates if sum(2 * s for s in sizes if s <= t) <= budget)""",
    """
import itertools

def persistence_threshold(sizes, budget):
    whole, best = 0, 0
    for size, alike in itertools.groupby(sorted(sizes)):
        whole += 2 * size * len(list(alike))
        if whole > budget:
            return size - 1
        best = size
    return 10**9""",
)
