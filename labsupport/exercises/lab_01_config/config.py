"""Exercise 01-config: Write create_deepspeed_config."""

from labsupport.exercises.answers import (
    call,
    parsed_by_deepspeed,
    require_dict,
    require_whole_sizes,
)
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_01_config.parsed import OFFLOAD_BLOCKS, devices_of, optimizer_of, precision_of
from labsupport.wording import ranks_in_words

CALLS = (  # stage, fp16, accumulation steps, train batch, optimizer offload, parameter offload
    (2, True, 1, 32, False, False),
    (3, True, 4, 64, True, True),
    (1, False, 2, 32, False, False),
    (3, False, 1, 16, False, True),
    (2, False, 2, 16, True, False),
    (0, True, 1, 8, False, False),
)
DEFAULTS = {
    "stage": 2,
    "fp16": True,
    "gradient_accumulation_steps": 1,
    "train_batch_size": 32,
    "offload_optimizer": False,
    "offload_param": False,
}
BY_NAME = (
    {"stage": 3},
    {"train_batch_size": 48},
    {"fp16": False},
    {"gradient_accumulation_steps": 4},
    {"offload_optimizer": True},
    {"offload_param": True, "stage": 3},
)
WORLDS = (1, 2, 4)


def _config(create_deepspeed_config):
    for given in CALLS:
        config = require_dict(call(create_deepspeed_config, *given), f"What create_deepspeed_config{given} returns")
        _compare_with_the_call(config, *given)
    for named in BY_NAME:  # the others left out
        config = require_dict(call(create_deepspeed_config, **named), f"What it returns for {named}")
        _compare_with_the_call(config, *(DEFAULTS | named).values())
    return (
        f"DeepSpeed read what was asked for from all {len(CALLS) + len(BY_NAME)} configs, on 1, 2 and 4 ranks, and an "
        f"engine made AdamW of each."
    )


def _compare_with_the_call(config, stage, fp16, accumulation, batch, optimizer_offload, param_offload):
    wanted = dict(zip(OFFLOAD_BLOCKS, (optimizer_offload, param_offload), strict=True))
    for ranks in WORLDS:
        values = _read(config, ranks, batch, accumulation)
        if values.zero_optimization_stage != stage:
            raise Mistaken("stage not read", got=values.zero_optimization_stage, wanted=stage)
        if (values.train_batch_size, values.gradient_accumulation_steps) != (batch, accumulation):
            found = f"{values.train_batch_size} samples in {values.gradient_accumulation_steps}"
            raise Mistaken(
                "sizes",
                batch=batch,
                steps=accumulation,
                ranks=ranks_in_words(ranks),
                found=f"DeepSpeed reads {found} steps.",
            )
        require_whole_sizes(values)
        if fp16 != (precision_of(values) == "fp16"):
            raise Mistaken("precision", wanted=fp16, got=precision_of(values))
        if fp16 and values.float16_config.loss_scale != 0:
            raise Mistaken("fixed loss scale", got=values.float16_config.loss_scale)
        for name, device in devices_of(values).items():
            if wanted[name] and device != "cpu":
                raise Mistaken("offload not read", name=name, device=device)
            if not wanted[name] and device != "none":
                raise Mistaken("offload not asked for", name=name)
    name, _ = optimizer_of(values, config)
    if name != "AdamW":
        raise Mistaken("another optimizer", got=name)


def _read(config, ranks, batch, accumulation):
    try:
        return parsed_by_deepspeed(config, ranks)
    except Unusable as refused:
        if any(f"{name}: " in str(refused) or f".{name}" in str(refused) for name in OFFLOAD_BLOCKS):
            raise Mistaken("offload as a flag", error=refused) from refused
        if "Check batch related parameters" in str(refused):
            raise Mistaken(
                "sizes", batch=batch, steps=accumulation, ranks=ranks_in_words(ranks), found=refused
            ) from refused
        raise


MISTAKES = {
    "stage not read": Mistake(
        "Stage {wanted} was asked for and DeepSpeed reads stage {got}. It looks for the key stage in a block "
        "called zero_optimization, and ignores a top-level name that it does not know.",
        "Parse your own result with effective(...) from above and look at its stage.",
    ),
    "sizes": Mistake(
        "Asked for {batch} samples an update in {steps} accumulation steps. On {ranks}: {found} "
        "train_batch_size counts the samples of all ranks in all accumulation steps. Usually another number stands "
        "there, or the micro batch of a rank is fixed, so that the three sizes fit one number of ranks alone.",
        "Write the two numbers that were passed, and let DeepSpeed work out the third.",
    ),
    "precision": Mistake(
        "fp16={wanted} was asked for and DeepSpeed reads {got}. A 16-bit format is on only where its block says "
        '"enabled": true, and fp32 is what is left when no such block is on.'
    ),
    "fixed loss scale": Mistake(
        "A loss_scale of {got:g} is fixed for the whole run: the first overflow cannot lower it. 0 is the word for "
        "a dynamic scale, not for a loss of zero."
    ),
    "offload as a flag": Mistake("An offload is a block that names a device, not a flag. {error}"),
    "offload not read": Mistake(
        '{name} was asked for, and DeepSpeed reads its device as "{device}"; the CPU\'s memory is "cpu". The block has '
        "to stand inside zero_optimization, under exactly this name, with that device."
    ),
    "offload not asked for": Mistake(
        "{name} was not asked for in this call, and DeepSpeed reads it. Usually the function always writes the "
        "block, or a dict that is made once keeps what an earlier call put in."
    ),
    "another optimizer": Mistake(
        "The optimizer of an engine with this config is {got}, and AdamW was asked for: it stands in a block called "
        "optimizer, with a type and params."
    ),
}


EXERCISE = Exercise(
    id="01-config",
    title="Write create_deepspeed_config",
    difficulty=3,
    minutes=15,
    target="DeepSpeed reads from your configs the stage, batch, precision and offload that were asked for",
    answer="create_deepspeed_config",
    check=_config,
    mistakes=MISTAKES,
)
