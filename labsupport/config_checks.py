"""What DeepSpeed would refuse late or silently ignore in a config, told in one sentence before it sees it.

`labsupport.config` builds and reads configs and lets `validate_config` judge each one.
"""

import difflib
import math

from labsupport.errors import ConfigError

PRECISIONS = ("fp16", "bf16", "fp32")
OFFLOAD_DEVICES = ("cpu", "nvme")

# Every top-level key that DeepSpeed 0.19.8 reads. tests/test_config.py records what the installed DeepSpeed
# asks its config for and fails when this list and the record part.
TOP_LEVEL_KEYS = frozenset(
    """activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger
    communication_data_type compile csv_monitor data_efficiency data_types dataloader_drop_last
    datastates_ckpt disable_allgather disable_python_gc dump_state expert_parallel flops_profiler fp16
    gradient_accumulation_steps gradient_allreduce_op gradient_clipping gradient_predivide_factor
    hybrid_engine log_level managed_gradient_accumulation memory_breakdown optimizer pipeline
    prescale_gradients scheduler seq_parallel_communication_data_type sequence_parallel_size
    steps_per_print tensor_parallel tensorboard timers torch_autocast train_batch_size
    train_micro_batch_size_per_gpu use_data_before_expert_parallelism vocabulary_size wall_clock_breakdown
    wandb weight_quantization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    zero_optimization""".split()  # noqa: SIM905 - as a list it would be sixty lines
)
# Keys that older DeepSpeed read. The installed one raises on each, even on {"enabled": false}.
REMOVED_KEYS = frozenset(
    """amp compression_training curriculum_learning eigenvalue elasticity graph_harvesting nebula
    progressive_layer_drop quantize_training sparse_attention sparse_gradients""".split()  # noqa: SIM905
)
BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def validate_config(config, world_size=None):
    """Return `config` unchanged, or raise a ConfigError that names the key, the value and the way out.

    world_size: ranks; where given, the batch triple must multiply on that many. Checks what DeepSpeed checks
    late or not at all: unknown and removed keys, the stage, offload that would do nothing, "aio" in the
    wrong place, both half precisions at once, Hugging Face's "auto" outside the Trainer.
    """
    if not isinstance(config, dict):
        raise ConfigError(
            f"A DeepSpeed config is a dict, not {type(config).__name__}: pass a dict or read_config(path)."
        )
    _check_key_names(config)
    _check_auto_values(config)
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ConfigError(f"zero_optimization is {zero!r}: write a block, for example {{'stage': 2}}.")
    require_stage(zero.get("stage", 0))
    _check_zero_keys(zero)
    _check_offload(zero)
    _check_precision(config)
    _check_batch_triple(config, world_size)
    return config


def require_stage(stage):
    """Raise ConfigError unless `stage` is 0, 1, 2 or 3."""
    if isinstance(stage, bool) or not isinstance(stage, int) or stage not in (0, 1, 2, 3):
        raise ConfigError(f"ZeRO stage is {stage!r}: choose 0, 1, 2 or 3.")


def _check_key_names(config):
    for key in config:
        if key in REMOVED_KEYS:
            raise ConfigError(
                f"{key!r} was removed from DeepSpeed, which refuses it even when disabled: delete the key."
            )
        if key not in TOP_LEVEL_KEYS:
            close = difflib.get_close_matches(str(key), TOP_LEVEL_KEYS, n=1)
            way_out = f"did you mean {close[0]!r}?" if close else "delete it or move it into the block it belongs to."
            raise ConfigError(f"DeepSpeed reads no top-level key {key!r} and would silently ignore it: {way_out}")


def _check_auto_values(block, path=""):
    for key, value in block.items():
        if value == "auto" and f"{path}{key}" != "data_types.keep_in_fp32_modules":
            raise ConfigError(
                f"{path}{key} is 'auto', which only the Hugging Face Trainer fills in: write the number, or pass "
                "this config to TrainingArguments(deepspeed=...)."
            )
        if isinstance(value, dict):
            _check_auto_values(value, f"{path}{key}.")


def _check_zero_keys(zero):
    if "aio" in zero:
        raise ConfigError(
            "'aio' stands inside zero_optimization, where DeepSpeed refuses it: move it to the top level."
        )
    if "grad_accum_dtype" in zero or "data_types" in zero:
        raise ConfigError(
            "data_types stands inside zero_optimization, where DeepSpeed refuses it: write "
            "{'data_types': {'grad_accum_dtype': 'fp32'}} at the top level."
        )


def _check_offload(zero):
    stage = zero.get("stage", 0)
    for key in ("offload_optimizer", "offload_param"):
        block = zero.get(key)
        if block is None:
            continue
        if not isinstance(block, dict):
            raise ConfigError(f"{key} is {block!r}: write a block, for example {{'device': 'cpu'}}, or leave it out.")
        device = block.get("device", "none")
        if device not in ("none", *OFFLOAD_DEVICES):
            raise ConfigError(f"{key}.device is {device!r}: choose 'none', 'cpu' or 'nvme'.")
        if device == "none":
            continue
        if key == "offload_param" and stage != 3:
            raise ConfigError(
                f"offload_param needs stage 3, where parameters are partitioned; at stage {stage} DeepSpeed "
                "offloads none: use stage 3 or leave offload_param out."
            )
        if stage == 0:
            raise ConfigError(
                "offload_optimizer at stage 0 is silently ignored by DeepSpeed, because nothing is partitioned: "
                "use stage 1, 2 or 3."
            )
        if device == "nvme" and stage != 3:
            raise ConfigError(
                f"{key}.device 'nvme' needs stage 3; at stage {stage} DeepSpeed keeps the states in CPU memory and "
                "writes no file: use stage 3 or device 'cpu'."
            )
        if device == "nvme" and not block.get("nvme_path"):
            raise ConfigError(f"{key}.device is 'nvme' without nvme_path: name a folder on the NVMe drive.")


def _check_precision(config):
    for key in ("fp16", "bf16", "bfloat16"):
        if not isinstance(config.get(key, {}), dict):
            raise ConfigError(f"{key} is {config[key]!r}: write a block, for example {{'enabled': true}}.")
    enabled = [name for name, block in half_precision_blocks(config).items() if block.get("enabled")]
    if len(enabled) == 2:
        raise ConfigError("fp16 and bf16 are both enabled: keep one.")
    dtype = config.get("data_types", {}).get("grad_accum_dtype")
    if dtype not in (None, *PRECISIONS):
        raise ConfigError(f"data_types.grad_accum_dtype is {dtype!r}: choose one of {', '.join(PRECISIONS)}.")
    precision = enabled[0] if enabled else "fp32"
    if dtype not in (None, precision) and config.get("zero_optimization", {}).get("stage", 0) == 0:
        raise ConfigError(
            f"DeepSpeed refuses stage 0 with {precision} and gradients added up in {dtype}: choose stage 1, or leave "
            "grad_accum_dtype out."
        )


def half_precision_blocks(config):
    """Return the blocks "fp16" and "bf16" of a config, empty where there is none; DeepSpeed reads "bfloat16" too."""
    return {"fp16": config.get("fp16", {}), "bf16": config.get("bf16", config.get("bfloat16", {}))}


def require_positive_integer(name, value):
    """Raise ConfigError, naming `name`, unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}: give a whole number of at least 1.")


def require_number(name, value, at_least=0, what="number"):
    """Raise ConfigError, naming `name`, unless `value` is a finite number of at least that; what: what to give."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value < math.inf:
        raise ConfigError(f"{name} is {value!r}: give a {what} of at least {at_least}.")


def _check_batch_triple(config, world_size):
    given = {key: config[key] for key in BATCH_KEYS if config.get(key) is not None}
    for key, value in given.items():
        require_positive_integer(key, value)
    if "train_batch_size" not in given and "train_micro_batch_size_per_gpu" not in given:
        raise ConfigError(
            "The config names no batch size: give train_micro_batch_size_per_gpu and gradient_accumulation_steps, "
            "and DeepSpeed infers train_batch_size."
        )
    if "train_batch_size" not in given:
        return
    batch, micro = given["train_batch_size"], given.get("train_micro_batch_size_per_gpu")
    steps = given.get("gradient_accumulation_steps")
    if world_size is not None:
        require_positive_integer("world_size", world_size)
    known = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": steps,
        "world_size": world_size,
    }
    product, factors = 1, []
    for name, value in known.items():
        if value is not None:
            product *= value
            factors.append(f"{name} {value}")
    # Where one factor is free DeepSpeed fills it in by whole division; all three leave nothing free. A triple
    # with only the batch size and the ranks leaves the accumulation at 1.
    free = micro is None or steps is None or world_size is None
    if batch % product or (not free and batch != product):
        nearest = max(batch // product, 1) * product
        raise ConfigError(
            f"train_batch_size {batch} is not {' x '.join(factors)} = {product}"
            f"{' times a whole number' if free else ''}: set train_batch_size to {product if not free else nearest}, "
            "or leave it out and DeepSpeed infers it."
        )
