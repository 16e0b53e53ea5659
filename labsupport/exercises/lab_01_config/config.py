"""Exercise 01-config: Write create_deepspeed_config."""

import copy

from labsupport.exercises.answers import call, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_01_config.parsed import OFFLOAD_BLOCKS, offloads_of, precision_of

CALLS = (  # stage, fp16, accumulation steps, train batch, optimizer offload, parameter offload
    (2, True, 1, 32, False, False),
    (3, True, 4, 64, True, True),
    (1, False, 2, 32, False, False),
    (3, False, 1, 16, False, True),
    (2, False, 2, 16, True, False),
    (0, True, 1, 8, False, False),
)


def _config(create_deepspeed_config):
    for given in CALLS:
        config = copy.deepcopy(call(create_deepspeed_config, *given))
        require_dict(config, f"What create_deepspeed_config{given} returns")
        try:
            values = parsed_by_deepspeed(config, world_size=2)
        except Unusable as refused:
            if any(f"{name}: " in str(refused) or f".{name}" in str(refused) for name in OFFLOAD_BLOCKS):
                raise Mistaken("offload as a flag", error=refused) from refused
            if "Check batch related parameters" in str(refused):
                raise Mistaken("micro batch") from refused
            raise
        _compare_with_the_call(values, *given)
    for name, value in (("stage", 3), ("train_batch_size", 48)):  # by name, the others left out
        values = parsed_by_deepspeed(call(create_deepspeed_config, **{name: value}), world_size=2)
        defaults = {"stage": 2, "fp16": True, "gradient_accumulation_steps": 1, "train_batch_size": 32} | {name: value}
        _compare_with_the_call(values, *defaults.values(), False, False)


def _compare_with_the_call(values, stage, fp16, accumulation, batch, optimizer_offload, param_offload):
    if values.zero_optimization_stage != stage:
        raise Mistaken("stage not read", got=values.zero_optimization_stage, wanted=stage)
    if values.train_batch_size != batch or values.gradient_accumulation_steps != accumulation:
        raise Mistaken("micro batch")
    if fp16 != (precision_of(values) == "fp16"):
        raise Mistaken("precision", wanted=fp16, got=precision_of(values))
    if fp16 and values.float16_config.loss_scale != 0:
        raise Mistaken("fixed loss scale", got=values.float16_config.loss_scale)
    wanted = {name for name, asked in zip(OFFLOAD_BLOCKS, (optimizer_offload, param_offload), strict=True) if asked}
    if wanted - offloads_of(values):
        raise Mistaken("offload not read", name=min(wanted - offloads_of(values)))
    if offloads_of(values) - wanted:
        raise Mistaken("offload not asked for", name=min(offloads_of(values) - wanted))
    if values.optimizer_name not in ("adam", "adamw"):  # DeepSpeed's "Adam" is AdamW, unless adam_w_mode says otherwise
        raise Mistaken("another optimizer", got=values.optimizer_name or "none")


MISTAKES = {
    "stage not read": Mistake(
        "Stage {wanted} was asked for and DeepSpeed reads stage {got}. It looks for the key stage in a block "
        "called zero_optimization, and ignores a top-level name that it does not know.",
        "Parse your own result with effective(...) from above and look at its stage.",
    ),
    "micro batch": Mistake(
        "train_batch_size counts the samples of all ranks in all accumulation steps. Your config puts another "
        "number there, or fixes the micro batch of a rank so that the three sizes fit one number of ranks alone.",
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
        "{name} was asked for and DeepSpeed offloads nothing there: the block has to stand inside "
        "zero_optimization, under exactly this name, with a device."
    ),
    "offload not asked for": Mistake(
        "{name} was not asked for in this call, and DeepSpeed reads it. Either your function always writes the "
        "block, or a dict that is made once keeps what an earlier call put in."
    ),
    "another optimizer": Mistake(
        "The optimizer that DeepSpeed reads from this config is {got}, and AdamW was asked for: it stands in a "
        "block called optimizer, with a type and params."
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
