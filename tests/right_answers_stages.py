"""Right answers to the exercises of lab 04, each written differently from the lab's own solution."""

RIGHT = {
    "04-bytes": (
        """def bytes_on_a_rank(parameters, stage, world_size):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
    return parameters * (whole + (16 - whole) / world_size)""",
        """def bytes_on_a_rank(parameters, stage, world_size):
    if stage == 0:
        return 16 * parameters
    if stage == 1:
        return 4 * parameters + 12 * parameters // world_size
    return (2 * parameters if stage == 2 else 2 * parameters // world_size) + 14 * parameters // world_size""",
        """from labsupport.memory import model_state_bytes

bytes_on_a_rank = model_state_bytes""",
    ),
    "04-fewest-ranks": (
        """import math

def fewest_ranks(parameters, stage, card_bytes):
    whole = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    if stage == 0:
        return 1 if whole <= card_bytes else None
    if whole >= card_bytes:
        return None
    return max(1, math.ceil((16 * parameters - whole) / (card_bytes - whole)))""",
        """from labsupport.memory import model_state_bytes

def fewest_ranks(parameters, stage, card_bytes):
    if model_state_bytes(parameters, stage, 10**15) > card_bytes:
        return None
    ranks = 1
    while model_state_bytes(parameters, stage, ranks) > card_bytes:
        ranks += 1
    return ranks""",
        """def fewest_ranks(parameters, stage, card_bytes):
    kept = (16, 4, 2, 0)[stage] * parameters
    left, divided = card_bytes - kept, 16 * parameters - kept
    if left < 0 or left == 0 and divided:
        return None
    return -(-divided // left) or 1 if left else 1""",
    ),
    "04-collectives": (
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
    ),
    "04-edit": (
        """import torch
import deepspeed
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    with deepspeed.zero.GatheredParameters(parameter, modifier_rank=1):
        parameter.data.fill_(value)
    safe_set_full_fp32_param(parameter, torch.full(parameter.ds_shape, float(value)))""",
        """from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

def set_weight(parameter, value):
    whole = safe_get_full_fp32_param(parameter)
    safe_set_full_fp32_param(parameter, whole * 0 + value)
    parameter.ds_tensor.data.fill_(value)""",
        """import deepspeed, torch
from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

def set_weight(parameter, value):
    shard = safe_get_local_fp32_param(parameter)
    safe_set_local_fp32_param(parameter, torch.full_like(shard, value))
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
        if torch.distributed.get_rank() == 0:
            parameter.copy_(torch.full_like(parameter, value))""",
    ),
}
