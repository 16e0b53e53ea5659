"""Exercise 04-edit: answers that are known to be wrong, by their mistake, and right ones."""


def _set(before="pass", after="pass"):
    """Return the source of a right answer with a line before it and one after it."""
    return f"""import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    {before}
    safe_set_full_fp32_param(parameter, torch.full(tuple(parameter.ds_shape), float(value)))
    parameter.ds_tensor.data.fill_(value)
    {after}"""


WRONG = {
    "lost": (
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
    "another value": (_set("value = int(value)"),),
    "stays whole": (
        """import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    safe_set_full_fp32_param(parameter, torch.full(tuple(parameter.ds_shape), value))
    parameter.ds_tensor.data.fill_(value)
    parameter.all_gather()""",
    ),
    "frozen": (_set(after="parameter.requires_grad_(False)"),),
    "lost in the step": (
        """import deepspeed
import torch

def set_weight(parameter, value):
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.data.fill_(value)""",
        "def set_weight(parameter, value):\n    parameter.ds_tensor.data.fill_(value)",
    ),
    "not yet": (
        """import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    safe_set_full_fp32_param(parameter, torch.full(tuple(parameter.ds_shape), value))""",
    ),
    "one shard": (
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
    "empty value": (
        """import torch
from deepspeed.utils import safe_set_full_fp32_param

def set_weight(parameter, value):
    safe_set_full_fp32_param(parameter, torch.full_like(parameter, value))""",
    ),
    "hangs": (
        """import deepspeed
import torch


def set_weight(parameter, value):
    if torch.distributed.get_rank() == 0:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.fill_(value)""",
    ),
}

RIGHT = (
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
)
