"""Exercise 03-bf16-accumulation: Small gradients over 16 micro-batches."""

import copy
import re

from labsupport.doctor.known import known
from labsupport.exercises.answers import parsed_by_deepspeed, require_dict, require_whole_sizes
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_03_training.engines import near, one_weight, running_engine, zero_block
from labsupport.wording import first_line

ACCUMULATION = 16
SMALL = 2.0**-9  # a gradient that bf16 loses beside 1: its steps there are 2**-7
SMALLER = 2.0**-12  # one that fp16 loses too


def _bf16_accumulation(config):
    config = require_dict(config, "The config")
    try:
        values = parsed_by_deepspeed(config, world_size=2)
    except Unusable as refused:
        if "Extra inputs are not permitted" in str(refused) and "accum" in str(config):
            raise Mistaken("in a block that refuses it", error=refused) from refused
        raise
    if not values.bfloat16_config.enabled:
        raise Mistaken("weights not in bf16")
    if int(values.zero_optimization_stage) != 2:
        raise Mistaken("another stage", stage=int(values.zero_optimization_stage))
    if values.gradient_accumulation_steps != ACCUMULATION:
        raise Mistaken("another window", steps=values.gradient_accumulation_steps)
    require_whole_sizes(values)
    updates, totals = zip(*(_added_up(config, small) for small in (SMALL, SMALLER)), strict=True)
    if updates[0] != 1:
        raise Mistaken("no window", updates=updates[0])
    exact = [1 + (ACCUMULATION - 1) * small for small in (SMALL, SMALLER)]
    if all(map(near, totals, exact)):
        return (
            f"The engine's sum of 1 and 15 times 1/512 was {totals[0]:.4f}, and with 15 times 1/4096 {totals[1]:.4f}; "
            "added up in bf16 both are 1.0000."
        )
    which = not near(totals[0], exact[0])
    lost = {
        "total": f"{totals[not which]:.4f}",
        "exact": f"{exact[not which]:.4f}",
        "small": "1/512" if which else "1/4096",
    }
    block = config.get("data_types") or {}
    if "grad_accum_dtype" in block:
        raise Mistaken("another format", said=str(block["grad_accum_dtype"]), **lost)
    if "communication_data_type" in config:
        raise Mistaken("the format of communication", **lost)
    if _keys_about_gradients(config):
        raise Mistaken("ignored", key=_keys_about_gradients(config)[0], **lost)
    raise Mistaken("the model's format", **lost)


def _keys_about_gradients(config):
    """Return the names unknown to DeepSpeed, at the top level or in data_types, that look like an answer."""
    names = [*config, *(config.get("data_types") or {})]
    return [name for name in names if name not in known()["top_level"] and re.search("grad|accum|type", name)]


def _added_up(config, small):
    """Return how often an engine with this config updates for 1 and 15 small gradients, and what it adds them up to."""
    from deepspeed.utils import safe_get_full_fp32_param

    config = copy.deepcopy(config) | {"gradient_clipping": 0.0, "zero_allow_untested_optimizer": True}
    config |= {"optimizer": {"type": "SGD", "params": {"lr": 1.0}}}
    config.pop("scheduler", None)
    zero = config["zero_optimization"]
    zero |= zero_block(2)  # DeepSpeed's own buckets take a gigabyte
    for device in ("offload_optimizer", "offload_param"):
        zero.pop(device, None)
    try:
        with running_engine(one_weight(), config) as engine:
            for gradient in [1.0] + [small] * (ACCUMULATION - 1):
                engine.backward(engine(_bf16(gradient)))
                engine.step()
            return engine.global_steps, -ACCUMULATION * safe_get_full_fp32_param(engine.module.weight).item()
    except Exception as error:
        raise Unusable(f"deepspeed.initialize refuses this config: {first_line(error)}", error) from error


def _bf16(number):
    import torch

    return torch.tensor([number], dtype=torch.bfloat16)


MISTAKES = {
    "the model's format": Mistake(
        "DeepSpeed adds gradients up in the format of the model where nothing else is said. In bf16 one gradient "
        "of 1 and 15 of {small} gave {total}; exact is {exact}."
    ),
    "another format": Mistake(
        'grad_accum_dtype "{said}" is not enough: one gradient of 1 and 15 of {small} gave {total}; exact is {exact}.'
    ),
    "in a block that refuses it": Mistake(
        'The key stands in a block that does not know it. DeepSpeed reads it in a block of its own, "data_types", '
        "at "
        "the top level. {error}"
    ),
    "ignored": Mistake(
        'DeepSpeed ignores "{key}" without a word: it knows no such key in that place. One gradient of 1 and 15 of '
        "1/512 still gave {total}; exact is {exact}."
    ),
    "the format of communication": Mistake(
        "communication_data_type is the format in which gradients travel between the ranks. Between the "
        "micro-batches they are still added up in bf16: {total} instead of {exact}."
    ),
    "weights not in bf16": Mistake(
        "The weights are not in bf16 under this config. Without it everything is added up in fp32, at twice the "
        "memory for weights; the task is to keep bf16 and change the sum alone."
    ),
    "another stage": Mistake("DeepSpeed reads stage {stage} in this config; the task is stage 2."),
    "no window": Mistake(
        "The engine updated the weights {updates} times for 16 micro-batches, so that no sum was kept over a window. "
        "Usually managed_gradient_accumulation is false, and then every step updates."
    ),
    "another window": Mistake("DeepSpeed reads {steps} accumulation steps in this config; the task is 16."),
}


EXERCISE = Exercise(
    id="03-bf16-accumulation",
    title="Small gradients over 16 micro-batches",
    difficulty=3,
    minutes=6,
    target="on two ranks at stage 2, with weights in bf16, 15 small gradients beside a large one are not lost",
    answer="bf16_config",
    check=_bf16_accumulation,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
