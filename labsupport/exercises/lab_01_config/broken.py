"""Exercise 01-broken: Find the four faults of a config."""

from labsupport.exercises.answers import (
    describe,
    first_difference,
    made_optimizer,
    parsed_by_deepspeed,
    require_dict,
    require_whole_sizes,
)
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_01_config.parsed import devices_of, optimizer_of, precision_of

# What is judged by itself, or may differ: settings in force, as first_difference names them.
JUDGED = ("gradient_clipping", "grad_accum_dtype", "optimizer_name", "optimizer_params", "zero_config")


def config_to_mend():
    """Return the config of exercise 01-broken, with its faults."""
    return {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_cliping": 0.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.0003}},
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "cpu"},
            "data_types": {"grad_accum_dtype": "fp32"},
        },
    }


def _meant():
    """Return the same config without its faults."""
    meant = config_to_mend()
    meant["gradient_accumulation_steps"] = 4
    meant["gradient_clipping"] = meant.pop("gradient_cliping")
    meant["zero_optimization"]["stage"] = 3
    meant["data_types"] = meant["zero_optimization"].pop("data_types")
    return meant


def _broken(mended):
    mended = require_dict(mended, "The mended config")
    try:
        values = parsed_by_deepspeed(mended, world_size=2)
    except Unusable as refused:
        if "Check batch related parameters" in str(refused):
            raise Mistaken("triple left", error=refused) from refused
        if "data_types" in (mended.get("zero_optimization") or {}):
            raise Mistaken("data_types left", error=refused) from refused
        raise
    sizes = values.train_batch_size, values.train_micro_batch_size_per_gpu
    if sizes != (32, 4):
        raise Mistaken("other batch", batch=sizes[0], micro=sizes[1])
    if values.gradient_clipping != 0:
        raise Mistaken("still clips", got=describe(values.gradient_clipping))
    for name, device in devices_of(values).items():
        if device != "cpu":
            raise Mistaken("offload changed", name=name, device=device)
    if values.zero_optimization_stage != 3:
        raise Mistaken("stage left", got=values.zero_optimization_stage)
    if precision_of(values) != "bf16":
        raise Mistaken("precision changed", got=precision_of(values))
    if values.grad_accum_dtype not in ("fp32", "float32"):
        raise Mistaken("accumulation removed", got=values.grad_accum_dtype or "the format of the model")
    require_whole_sizes(values)
    _require_the_optimizer(values, mended)
    found = first_difference(values, parsed_by_deepspeed(_meant(), world_size=2), ignored=JUDGED)
    if found:
        raise Mistaken("more changed", key=found[0], value=found[1], other=found[2])
    return (
        f"DeepSpeed reads on 2 ranks: {sizes[0]} samples an update, {sizes[1]} a pass, "
        f"{values.gradient_accumulation_steps} passes; stage 3 in bf16, gradients added up in "
        f"{values.grad_accum_dtype}, no clipping, and both offloads on the cpu."
    )


def _require_the_optimizer(values, mended):
    meant = config_to_mend()["optimizer"]
    name, rate = optimizer_of(values, mended)
    if (name, rate) != (meant["type"], meant["params"]["lr"]):
        raise Mistaken("optimizer changed", got=name, lr=rate)
    mine, right = (made_optimizer(config).param_groups[0] for config in (mended, _meant()))
    for key in ("betas", "eps", "weight_decay"):
        if mine[key] != right[key]:
            raise Mistaken("more changed", key=f"{key} of the optimizer", value=mine[key], other=right[key])


MISTAKES = {
    "triple left": Mistake(
        "The three batch sizes do not multiply on 2 ranks. {error}",
        "The batch and the micro batch are what was meant; the accumulation steps are what has to follow.",
    ),
    "data_types left": Mistake(
        "data_types does not belong into zero_optimization, where DeepSpeed's page on configs shows it. {error}",
        "It is a block of the top level.",
    ),
    "other batch": Mistake("This trains on {batch} samples an update and {micro} a pass. Meant were 32 and 4."),
    "still clips": Mistake(
        "DeepSpeed has a gradient_clipping of {got} in force, and off is 0. A misspelt key at the top level is not "
        "read, and a removed one leaves the default, which is 1.0."
    ),
    "stage left": Mistake(
        "At stage {got} the parameters are whole on every rank, and offload_param does nothing, although DeepSpeed "
        "repeats it back. It works at stage 3."
    ),
    "offload changed": Mistake(
        "DeepSpeed reads for {name} the device {device}, and the CPU's memory was meant. Mend what kept it from "
        "working in place of taking it out or sending it elsewhere."
    ),
    "optimizer changed": Mistake(
        "An engine with this config steps with {got} at a learning rate of {lr}. That part had no fault: "
        "AdamW at 0.0003."
    ),
    "more changed": Mistake(
        "The faults are mended, and more has changed: DeepSpeed has {value} in force for {key}, and without that "
        "{other}. That part had no fault."
    ),
    "accumulation removed": Mistake(
        "DeepSpeed reads that gradients are added up in {got}, and fp32 was meant: the wish is gone, or it is written "
        "where nobody reads it, or it names another format."
    ),
    "precision changed": Mistake("The weights were meant to be in bf16, and DeepSpeed reads {got}."),
}


EXERCISE = Exercise(
    id="01-broken",
    title="Find the four faults of a config",
    difficulty=3,
    minutes=10,
    target="on 2 ranks DeepSpeed has in force all that the config was meant to say",
    answer="mended",
    check=_broken,
    mistakes=MISTAKES,
)
