"""What readers get wrong in exercises_stages.py: what they are told, and answers that must be told it."""

import json

from labsupport.exercises.exercise import Mistake

MOMENTS = ("forward", "backward", "step")


def _table(stage_0, stage_1, stage_2, stage_3):
    """The source of an answer whose rows are written as "forward | backward | step"."""
    rows = []
    for stage, row in enumerate((stage_0, stage_1, stage_2, stage_3)):
        cells = dict(zip(MOMENTS, ([n for n in cell.split() if n != "-"] for cell in row.split("|")), strict=True))
        rows.append(f"    {stage}: {json.dumps(cells)},")
    return "\n".join(["collectives_at = {", *rows, "}"])


_SHARDS, _GATHERS = "- | all_reduce | all_gather", "all_gather | all_gather reduce_scatter | -"

COLLECTIVES_AT = {
    "no second gather": Mistake(
        "At stage 3, with these settings, your backward pass gathers nothing. The gathered parameters were "
        "released after the forward pass, and the backward pass needs them again.",
        (_table("- | all_reduce | -", _SHARDS, _SHARDS, "all_gather | reduce_scatter | -"),),
    ),
    "stage 0": Mistake(
        "At stage 0 nothing is partitioned. The gradients are summed for everybody in one kind of message, and "
        "every rank updates all of its own weights, so nothing has to be handed round afterwards.",
        (
            _table("- | reduce_scatter | -", _SHARDS, _SHARDS, _GATHERS),
            _table("- | all_reduce | all_gather", _SHARDS, _SHARDS, _GATHERS),
        ),
    ),
    "gathers whole parameters": Mistake(
        "At stage {stage} every rank has all parameters while it computes. Only stage 3 has to gather them in the "
        "forward and in the backward pass.",
        (_table("- | all_reduce | -", _SHARDS, "all_gather | all_reduce | all_gather", _GATHERS),),
    ),
    "new weights stay": Mistake(
        "At stage {stage} each rank updates only its piece of the weights. In the step that piece has to reach the "
        "other ranks, or they would compute on with old weights.",
        (
            _table("- | all_reduce | -", "- | all_reduce | -", _SHARDS, _GATHERS),
            _table("- | all_reduce | -", _SHARDS, "- | reduce_scatter | -", _GATHERS),
        ),
    ),
    "the paper": Mistake(
        "The paper reduce-scatters the gradients at stage {stage}. This DeepSpeed does something else by default, "
        "and the measurement in this section showed it.",
        (
            _table(
                "- | all_reduce | -",
                "- | reduce_scatter | all_gather",
                "- | reduce_scatter | all_gather",
                _GATHERS,
            ),
            _table("- | all_reduce | -", _SHARDS, "- | reduce_scatter | all_gather", _GATHERS),
        ),
        "Look up what use_multi_rank_bucket_allreduce decides.",
    ),
    "gathers in the step": Mistake(
        "At stage 3 a rank keeps its own shard and nothing else. After the step nobody needs the whole parameter "
        "before the next forward pass asks for it.",
        (_table("- | all_reduce | -", _SHARDS, _SHARDS, "all_gather | all_gather reduce_scatter | all_gather"),),
    ),
    "another moment": Mistake(
        "Stage {stage}, {moment}: you sum gradients here. They exist from the backward pass on, and with one "
        "micro-batch a step DeepSpeed has summed them when `engine.backward` returns.",
        (_table("- | - | all_reduce", _SHARDS, _SHARDS, _GATHERS),),
    ),
    "another": Mistake(
        "Stage {stage}, {moment}: you say {given}, and the engine sent something else.",
        (_table("- | all_reduce | -", _SHARDS, _SHARDS, "all_gather | all_gather all_reduce | -"),),
    ),
}

EDIT = {
    "lost": Mistake(
        "The weight is as it was. Outside a gather a partitioned parameter is empty, and the end of a gather "
        "throws away what was written, unless `modifier_rank` names the rank whose version counts.",
        (
            "def set_weight(parameter, value):\n    parameter.data.fill_(value)",
            """import deepspeed

def set_weight(parameter, value):
    with deepspeed.zero.GatheredParameters([parameter]):
        parameter.data.fill_(value)""",
            """import torch

def set_weight(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.full_like(parameter, value))""",
        ),
    ),
    "lost in the step": Mistake(
        "Right after your function every rank sees {value}, and after the next optimizer step it is gone. The step "
        "starts from the fp32 master and rounds it into the shard, and the master still held the old numbers.",
        (
            """import deepspeed
import torch

def set_weight(parameter, value):
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.data.fill_(value)""",
            "def set_weight(parameter, value):\n    parameter.ds_tensor.data.fill_(value)",
        ),
    ),
    "not yet": Mistake(
        "After the next optimizer step every rank sees {value}, but the forward pass before that still computes "
        "with the old weight. The fp32 master is changed; the shard in the model's precision follows in the step.",
        (
            """import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    safe_set_full_fp32_param(parameter, torch.full(tuple(parameter.ds_shape), value))""",
        ),
        "There are two copies of every weight. Which one did you not change?",
    ),
    "one shard": Mistake(
        "Only a part of the weight becomes {value}: the shard of one rank. Each rank holds another part of the "
        "master and of the weight, so every rank has to do its share.",
        (
            """import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    if torch.distributed.get_rank() == 0:
        safe_set_full_fp32_param(parameter, torch.full(tuple(parameter.ds_shape), value))""",
            """import torch

def set_weight(parameter, value):
    if torch.distributed.get_rank() == 0:
        parameter.ds_tensor.data.fill_(value)""",
        ),
    ),
    "empty value": Mistake(
        "You hand over a tensor of the wrong size. The whole value is asked for, and `parameter.shape` says (0,) "
        "outside a gather: the true shape is `ds_shape`.",
        (
            """import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    safe_set_full_fp32_param(parameter, torch.full_like(parameter, value))""",
        ),
    ),
    "hangs": Mistake(
        "Your function hangs. A gather is collective: the rank that enters it waits for all others, and they do "
        "not come.",
        (
            """import deepspeed
import torch


def set_weight(parameter, value):
    if torch.distributed.get_rank() == 0:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.fill_(value)""",
        ),
        "Which line may stand under `if rank == 0:`, and which may not?",
    ),
}
