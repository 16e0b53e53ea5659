"""Exercise 04-collectives: answers that are known to be wrong, by their mistake, and right ones."""

import json

from labsupport.exercises.lab_04_stages.collectives import MOMENTS


def _table(stage_0, stage_1, stage_2, stage_3):
    """The source of an answer whose rows are written as "forward | backward | step"."""
    rows = []
    for stage, row in enumerate((stage_0, stage_1, stage_2, stage_3)):
        cells = dict(zip(MOMENTS, ([n for n in cell.split() if n != "-"] for cell in row.split("|")), strict=True))
        rows.append(f"    {stage}: {json.dumps(cells)},")
    return "\n".join(["collectives_at = {", *rows, "}"])


_SHARDS, _GATHERS = "- | all_reduce | all_gather", "all_gather | all_gather reduce_scatter | -"

WRONG = {
    "no second gather": (_table("- | all_reduce | -", _SHARDS, _SHARDS, "all_gather | reduce_scatter | -"),),
    "stage 0": (
        _table("- | reduce_scatter | -", _SHARDS, _SHARDS, _GATHERS),
        _table("- | all_reduce | all_gather", _SHARDS, _SHARDS, _GATHERS),
    ),
    "gathers whole parameters": (
        _table("- | all_reduce | -", _SHARDS, "all_gather | all_reduce | all_gather", _GATHERS),
    ),
    "new weights stay": (
        _table("- | all_reduce | -", "- | all_reduce | -", _SHARDS, _GATHERS),
        _table("- | all_reduce | -", _SHARDS, "- | reduce_scatter | -", _GATHERS),
    ),
    "the paper": (
        _table(
            "- | all_reduce | -",
            "- | reduce_scatter | all_gather",
            "- | reduce_scatter | all_gather",
            _GATHERS,
        ),
        _table("- | all_reduce | -", _SHARDS, "- | reduce_scatter | all_gather", _GATHERS),
    ),
    "gathers in the step": (
        _table("- | all_reduce | -", _SHARDS, _SHARDS, "all_gather | all_gather reduce_scatter | all_gather"),
    ),
    "another moment": (_table("- | - | all_reduce", _SHARDS, _SHARDS, _GATHERS),),
    "another": (_table("- | all_reduce | -", _SHARDS, _SHARDS, "all_gather | all_gather all_reduce | -"),),
}

RIGHT = (
    """shards = {"forward": [], "backward": ["all_reduce"], "step": ["all_gather"]}
collectives_at = {0: dict(shards, step=[]), 1: shards, 2: shards,
                  3: {"forward": ["all_gather"], "backward": ["reduce_scatter", "all_gather"], "step": []}}""",
    """collectives_at = {stage: {"forward": set(), "backward": {"all_reduce"}, "step": set()} for stage in range(4)}
for stage in (1, 2):
    collectives_at[stage]["step"].add("all_gather")
collectives_at[3] = {"forward": {"all_gather"}, "backward": {"all_gather", "reduce_scatter"}, "step": set()}""",
    """rows = ["|all_reduce|", "|all_reduce|all_gather", "|all_reduce|all_gather",
        "all_gather|all_gather reduce_scatter|"]
moments = ("forward", "backward", "step")
collectives_at = {
    stage: {moment: tuple(cell.split()) for moment, cell in zip(moments, row.split("|"))}
    for stage, row in enumerate(rows)
}""",
)
