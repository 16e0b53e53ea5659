"""The Markdown tables that the pages compute."""

from tabulate import tabulate


def table(head, rows, align=None):
    """Return a Markdown table of what the rows hold, as they write it.

    align: "left" or "right" for each column; by default the first is left and the others, numbers, are right.
    """
    align = align or ["left"] + ["right"] * (len(head) - 1)
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=align)
