"""Exercise 03-four-patterns: answers that are known to be wrong, by their mistake, and right ones."""


def _table(first="[5, 5, 5, 5]", end="[0, 0, 0, 0]", one="[10, 7, 7, 10]", unmanaged="[5, 5, 5, 5]"):
    """Return the source of a table in which all rows that are not named are right."""
    return (
        f'moved = {{"step every time": {first}, "step at the end": {end}, '
        f'"accumulation 1": {one}, "unmanaged": {unmanaged}}}'
    )


WRONG = {
    "nobody divides": (_table(first="[10, 10, 10, 10]"),),
    "window never closed": (_table(end="[5, 5, 5, 5]"), _table(end="[10, 7, 7, 10]"), _table(end="[7, 7, 7, 7]")),
    "divided without being asked": (_table(one="[5, 5, 5, 5]"),),
    "added at every stage": (_table(one="[10, 10, 10, 10]"),),
    "lost at every stage": (_table(one="[7, 7, 7, 7]"),),
    "stages exchanged": (_table(one="[7, 10, 10, 7]"),),
    "unmanaged divides twice": (_table(unmanaged="[2.5, 2.5, 2.5, 2.5]"),),
    "unmanaged does not divide": (_table(unmanaged="[10, 10, 10, 10]"),),
    "unmanaged waits": (_table(unmanaged="[0, 0, 0, 0]"),),
    "another number": (
        _table(first="[5, 5, 5, 10]"),
        _table(one="[5, 3.5, 3.5, 5]"),
        _table(unmanaged="[5, 3.5, 3.5, 5]"),
    ),
}

RIGHT = (
    """mean, total, last = (3 + 7) / 2, 3 + 7, 7
moved = {"step every time": [mean] * 4, "step at the end": [0] * 4}
moved |= {"accumulation 1": [total, last, last, total], "unmanaged": [mean] * 4}""",
    """moved = dict(zip(
    ("step every time", "step at the end", "accumulation 1", "unmanaged"),
    ((5, 5, 5, 5), (0, 0, 0, 0), (10, 7, 7, 10), (5, 5, 5, 5)),
))""",
    """moved = {
    "unmanaged": [5.0, 5.0, 5.0, 5.0],
    "accumulation 1": [10.0, 7.0, 7.0, 10.0],
    "step at the end": [0.0, 0.0, 0.0, 0.0],
    "step every time": [5.0, 5.0, 5.0, 5.0],
}""",
)
