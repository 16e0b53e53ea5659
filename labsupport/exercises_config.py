"""The exercises of lab 01: write a config, choose its batch sizes, read one, and mend one."""

import copy

from labsupport import mistakes_config as mistakes
from labsupport.exercises.answers import call, describe, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable

OFFLOAD_BLOCKS = ("offload_optimizer", "offload_param")


def config_to_read():
    """Return the config of exercise 01-read."""
    return {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.0003}},
        "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 12},
        "zero_optimisation": {"stage": 3},
    }


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


def _precision(values):
    return "fp16" if values.float16_config.enabled else "bf16" if values.bfloat16_config.enabled else "fp32"


def _offloaded(values):
    blocks = {name: getattr(values.zero_config, name) for name in OFFLOAD_BLOCKS}
    return {name for name, block in blocks.items() if block is not None and block.device != "none"}


# 01-config

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
    if fp16 != (_precision(values) == "fp16"):
        raise Mistaken("precision", wanted=fp16, got=_precision(values))
    if fp16 and values.float16_config.loss_scale != 0:
        raise Mistaken("fixed loss scale", got=values.float16_config.loss_scale)
    wanted = {name for name, asked in zip(OFFLOAD_BLOCKS, (optimizer_offload, param_offload), strict=True) if asked}
    if wanted - _offloaded(values):
        raise Mistaken("offload not read", name=min(wanted - _offloaded(values)))
    if _offloaded(values) - wanted:
        raise Mistaken("offload not asked for", name=min(_offloaded(values) - wanted))
    if values.optimizer_name not in ("adam", "adamw"):  # DeepSpeed's "Adam" is AdamW, unless adam_w_mode says otherwise
        raise Mistaken("another optimizer", got=values.optimizer_name or "none")


CONFIG = Exercise(
    id="01-config",
    title="Write create_deepspeed_config",
    difficulty=3,
    minutes=15,
    target="DeepSpeed reads from your configs the stage, batch, precision and offload that were asked for",
    answer="create_deepspeed_config",
    check=_config,
    mistakes=mistakes.CONFIG,
)


# 01-batch


def _batch(config):
    require_dict(config, "The config")
    if "train_micro_batch_size_per_gpu" not in config and "train_batch_size" in config:
        raise Mistaken("only the train batch")
    for ranks in (4, 2):
        try:
            values = parsed_by_deepspeed(config, ranks)
        except Unusable as refused:
            if "auto" in config.values():
                raise Mistaken("auto") from refused
            if "Check batch related parameters" in str(refused):
                raise Mistaken("refused", ranks=ranks, error=refused) from refused
            raise
        if values.train_micro_batch_size_per_gpu > 8:
            raise Mistaken("too large a pass", micro=values.train_micro_batch_size_per_gpu, ranks=ranks)
        if ranks == 4 and values.train_batch_size == 96 * 4:
            raise Mistaken("forgot the ranks", batch=values.train_batch_size)
        if ranks == 4 and values.train_batch_size != 96:
            raise Mistaken("another batch", batch=values.train_batch_size)


BATCH = Exercise(
    id="01-batch",
    title="96 samples an update, at most 8 at a time",
    difficulty=2,
    minutes=5,
    target="96 samples an update on 4 ranks, at most 8 a pass, and the same file is accepted on 2 ranks",
    answer="batch_config",
    check=_batch,
    mistakes=mistakes.BATCH,
)


# 01-read


def _read(prediction):
    require_dict(prediction, "The prediction")
    values = parsed_by_deepspeed(config_to_read(), world_size=4)
    truth = {
        "stage": values.zero_optimization_stage,
        "precision": _precision(values),
        "train_batch_size": values.train_batch_size,
        "gradient_clipping": values.gradient_clipping,
        "first_loss_scale": 2**values.float16_config.initial_scale_power,
    }
    missing = [name for name in truth if name not in prediction]
    if missing:
        raise Unusable(f"The prediction has no {missing[0]!r}: keep the keys of the cell.")
    known = {
        ("stage", 3): "stage of the misspelt block",
        ("train_batch_size", 12): "batch of one rank",
        ("first_loss_scale", 0): "loss scale of zero",
        ("first_loss_scale", 65536): "loss scale by default",
    }
    for name, value in truth.items():
        guess = prediction[name]
        if isinstance(guess, bool) or guess != value:
            if name == "gradient_clipping" and guess in (0, None) and not isinstance(guess, bool):
                raise Mistaken("no clipping")
            if isinstance(guess, int | float) and not isinstance(guess, bool) and (name, guess) in known:
                raise Mistaken(known[name, guess])
            raise Mistaken("another value", name=name, guess=describe(guess))


READ = Exercise(
    id="01-read",
    title="Read a config as DeepSpeed reads it",
    difficulty=2,
    minutes=8,
    target="all five values are those that DeepSpeed has in force on 4 ranks",
    answer="prediction",
    check=_read,
    mistakes=mistakes.READ,
)


# 01-broken


def _broken(mended):
    require_dict(mended, "The mended config")
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
    if _offloaded(values) != set(OFFLOAD_BLOCKS):
        raise Mistaken("offload removed", name=min(set(OFFLOAD_BLOCKS) - _offloaded(values)))
    if values.zero_optimization_stage != 3:
        raise Mistaken("stage left", got=values.zero_optimization_stage)
    if _precision(values) != "bf16":
        raise Mistaken("precision changed", got=_precision(values))
    if values.grad_accum_dtype not in ("fp32", "float32"):
        raise Mistaken("accumulation removed")


BROKEN = Exercise(
    id="01-broken",
    title="Find the four faults of a config",
    difficulty=3,
    minutes=10,
    target="on 2 ranks DeepSpeed has in force all that the config was meant to say",
    answer="mended",
    check=_broken,
    mistakes=mistakes.BROKEN,
)

EXERCISES = (BATCH, READ, CONFIG, BROKEN)
