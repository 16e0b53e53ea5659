"""The computed blocks of book/selector.md."""

from course.blocks.block import block
from course.table import table
from labsupport.memory.planner import plan_of
from labsupport.memory.room import fits
from labsupport.runs import strategy_in_words
from labsupport.widgets.selector.table import DEFAULT, run_of, strategies

SEVEN_BILLION = DEFAULT | {"model": "7b", "card": "RTX 4090", "world_size": 4, "micro_batch_size": 1}


@block
def seven_billion_on_four():
    """The answer to the page's question, worked out with the planner alone."""
    rows = []
    found = None
    for strategy in strategies():
        plain, recomputed = (
            plan_of(run_of(SEVEN_BILLION | strategy | {"checkpointing": checkpointing}))
            for checkpointing in (False, True)
        )
        verdicts = [fits(planned, SEVEN_BILLION["card"]) for planned in (plain, recomputed)]
        words = "yes" if verdicts[0] else "with checkpointing" if verdicts[1] else "no"
        rows.append((strategy_in_words(**strategy), _gib(plain), _gib(recomputed), words))
        if found is None and any(verdicts):
            found = (strategy, verdicts[0], plain if verdicts[0] else recomputed)
    strategy, plainly, planned = found
    how = "without activation checkpointing" if plainly else "with activation checkpointing"
    head = ("strategy", "peak without checkpointing", "peak with checkpointing", "fits")
    return (
        f"The cheapest that fits is **{strategy_in_words(**strategy)}**, {how}: {_gib(planned)} at the peak of a "
        f"rank, and {planned.host_bytes('peak') / 2**30:.1f} GiB a rank in the host's memory.\n\n"
        + table(head, rows, ["left"] * 4)
    )


def _gib(planned):
    return f"{planned.peak_bytes / 2**30:.1f} GiB"
