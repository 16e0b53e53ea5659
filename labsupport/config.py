"""DeepSpeed configs as plain dicts of DeepSpeed's own keys, checked before DeepSpeed sees them.

    python -c "import labsupport; print(labsupport.create_deepspeed_config(stage=3, precision='bf16'))"

DeepSpeed 0.19.8 ignores an unknown top-level key and many impossible combinations without a word. What it
would silently ignore, `validate_config` refuses. This module imports neither torch nor deepspeed.
"""

import copy
import difflib
import json
import os
import tempfile

from labsupport.errors import ConfigError

PRECISIONS = ("fp16", "bf16", "fp32")
OFFLOAD_DEVICES = ("cpu", "nvme")
DEFAULT_NVME_PATH = os.path.join(tempfile.gettempdir(), "deepspeed-nvme")

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


def create_deepspeed_config(
    stage=2,
    fp16=True,
    gradient_accumulation_steps=1,
    train_batch_size=32,
    offload_optimizer=False,
    offload_param=False,
    *,
    precision=None,
    world_size=None,
    micro_batch_size=None,
    optimizer="AdamW",
    lr=3e-4,
    weight_decay=0.0,
    scheduler=None,
    warmup_steps=0,
    total_steps=None,
    gradient_clipping=1.0,
    grad_accum_dtype=None,
    bucket_size=1_000_000,
    activation_checkpointing=False,
    nvme_path=None,
):
    """Build a whole DeepSpeed config: a JSON-serialisable dict of DeepSpeed's own keys.

    stage: ZeRO stage, 0 to 3. precision: "fp16", "bf16" or "fp32"; where given it wins over `fp16`.
    train_batch_size: samples per optimizer step over all ranks; micro_batch_size: samples per rank per
    forward pass; with world_size (ranks) the three must multiply. offload_optimizer, offload_param: False,
    "cpu", "nvme", or True, which means "nvme" where nvme_path is given and "cpu" elsewhere.
    scheduler: None, "WarmupLR", "WarmupDecayLR" or "WarmupCosineLR", counted in optimizer steps.
    gradient_clipping: largest global gradient norm; 0.0 turns clipping off (left out, DeepSpeed clips at 1.0).
    grad_accum_dtype: "fp32" keeps accumulated bf16 gradients in fp32. bucket_size: elements per
    communication bucket; DeepSpeed's own 5e8 takes gigabytes even for a tiny model.
    activation_checkpointing writes the block that `deepspeed.checkpointing` reads; a transformers model needs
    `model.gradient_checkpointing_enable()` as well.

    Raises ConfigError where DeepSpeed would refuse the config or silently ignore part of it. Looks at no
    hardware: `initialize_deepspeed` says what this machine cannot do.
    """
    _require_stage(stage)
    if precision is None:
        precision = "fp16" if fp16 else "fp32"
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}.")
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("gradient_clipping", gradient_clipping)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ConfigError(f"{name} is {value!r}: give a number of at least 0.")

    config = {
        "train_batch_size": train_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": gradient_clipping,
        "optimizer": {"type": optimizer, "params": {"lr": lr, "weight_decay": weight_decay}},
        "zero_optimization": {"stage": stage, **_bucket_settings(stage, bucket_size)},
    }
    if micro_batch_size is None:
        micro_batch_size = _inferred_micro_batch_size(config, world_size)
    if micro_batch_size is not None:
        config["train_micro_batch_size_per_gpu"] = micro_batch_size
    if precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 0}  # 0 means dynamic loss scaling
    elif precision == "bf16":
        config["bf16"] = {"enabled": True}
    if grad_accum_dtype is not None:
        config["data_types"] = {"grad_accum_dtype": grad_accum_dtype}
    if scheduler is not None:
        config["scheduler"] = _scheduler_block(scheduler, lr, warmup_steps, total_steps)
    if activation_checkpointing:
        config["activation_checkpointing"] = {"partition_activations": False}

    for parameters, wanted in ((False, offload_optimizer), (True, offload_param)):
        if wanted:
            device = wanted if wanted is not True else ("nvme" if nvme_path else "cpu")
            fragment = create_offload_config(not parameters, parameters, device, nvme_path=nvme_path)
            config = merge_configs(config, fragment)
    return validate_config(config, world_size)


def create_offload_config(
    optimizer_offload=True,
    param_offload=False,
    offload_device="cpu",
    *,
    nvme_path=None,
    buffer_size=10_000_000,
):
    """Build the part of a config that moves optimizer states, parameters or both off the accelerator.

    Returns a fragment, `{"zero_optimization": {...}}`, to join to a whole config with `merge_configs`; for
    "nvme" it names nvme_path (a folder, made on first use) and adds the top-level "aio" block.
    buffer_size: elements per parameter buffer, at least as many as the largest parameter has; DeepSpeed's
    own 1e8 in five buffers is more host memory than a lab needs.

    Raises ConfigError for a device other than "cpu" or "nvme".
    """
    if offload_device not in OFFLOAD_DEVICES:
        raise ConfigError(f"offload_device is {offload_device!r}: choose 'cpu' or 'nvme'.")
    target = {"device": offload_device, "pin_memory": True}
    parameter_buffers = {}
    if offload_device == "nvme":
        target["nvme_path"] = str(nvme_path or DEFAULT_NVME_PATH)
        parameter_buffers = {"buffer_count": 5, "buffer_size": buffer_size}
    zero = {}
    if optimizer_offload:
        zero["offload_optimizer"] = dict(target)
    if param_offload:
        zero["offload_param"] = target | parameter_buffers
    fragment = {"zero_optimization": zero}
    if offload_device == "nvme" and zero:
        fragment["aio"] = {
            "block_size": 1048576,
            "queue_depth": 8,
            "single_submit": False,
            "overlap_events": True,
        }
    return fragment


def merge_configs(base, fragment):
    """Return a new config: `base` with `fragment` laid over it, block by block; neither argument changes."""
    merged = copy.deepcopy(base)
    for key, value in fragment.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge_configs(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def read_config(path):
    """Read a ds_config.json and validate it.

    Raises ConfigError for a file that is missing, unreadable or not JSON (with line and column), for a key
    that stands twice, and for everything that `validate_config` refuses.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg.lower()}; "
            "look for a missing comma or quote just before that place."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"Cannot read the config {path}: it is not UTF-8 text; give the path of a JSON file."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"Cannot read the config {path}: {error.strerror.lower()}; give the path of a JSON file."
        ) from None
    return validate_config(config)


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
    _require_stage(zero.get("stage", 0))
    _check_zero_keys(zero)
    _check_offload(zero)
    _check_precision(config)
    _check_batch_triple(config, world_size)
    return config


def zero_stage(config):
    """Return the ZeRO stage that DeepSpeed will run for this config; 0 where none is named."""
    return config.get("zero_optimization", {}).get("stage", 0)


def offload_devices(config):
    """Return where optimizer states and parameters go: a pair of "none", "cpu" or "nvme"."""
    zero = config.get("zero_optimization", {})
    return tuple((zero.get(key) or {}).get("device", "none") for key in ("offload_optimizer", "offload_param"))


def config_precision(config):
    """Return "fp16", "bf16" or "fp32", as DeepSpeed will read this config."""
    if config.get("fp16", {}).get("enabled"):
        return "fp16"
    if config.get("bf16", config.get("bfloat16", {})).get("enabled"):
        return "bf16"
    return "fp32"


def _require_stage(stage):
    if isinstance(stage, bool) or not isinstance(stage, int) or stage not in (0, 1, 2, 3):
        raise ConfigError(f"ZeRO stage is {stage!r}: choose 0, 1, 2 or 3.")


def _bucket_settings(stage, bucket_size):
    # DeepSpeed aligns its buckets to pairs of elements and refuses an odd size late, in an assertion.
    if isinstance(bucket_size, bool) or not isinstance(bucket_size, int | float) or bucket_size < 2 or bucket_size % 2:
        raise ConfigError(f"bucket_size is {bucket_size!r}: give an even number of elements, for example 1000000.")
    elements = int(bucket_size)
    if stage == 0:
        return {}
    if stage == 3:
        return {
            "reduce_bucket_size": elements,
            "stage3_prefetch_bucket_size": elements,
            # Parameters with fewer elements stay whole on every rank; DeepSpeed's 1e5 would keep most of a
            # small model whole and hide what stage 3 does.
            "stage3_param_persistence_threshold": 10_000,
        }
    return {"reduce_bucket_size": elements, "allgather_bucket_size": elements}


def _inferred_micro_batch_size(config, world_size):
    """The samples per rank per forward pass that make the triple multiply, or None where that is not known."""
    if world_size is None:
        return None
    for name, value in (
        ("world_size", world_size),
        *((key, config[key]) for key in BATCH_KEYS if key in config),
    ):
        _require_positive_integer(name, value)
    batch, steps = config["train_batch_size"], config["gradient_accumulation_steps"]
    if batch % (steps * world_size):
        raise ConfigError(
            f"train_batch_size {batch} does not divide by gradient_accumulation_steps {steps} x world_size "
            f"{world_size} = {steps * world_size}: choose a train_batch_size that is a multiple of it."
        )
    return batch // (steps * world_size)


def _scheduler_block(scheduler, lr, warmup_steps, total_steps):
    needs_total = {"WarmupLR": False, "WarmupDecayLR": True, "WarmupCosineLR": True}
    if scheduler not in needs_total:
        raise ConfigError(f"scheduler is {scheduler!r}: choose None, {', '.join(needs_total)}.")
    if needs_total[scheduler] and not total_steps:
        raise ConfigError(f"scheduler {scheduler!r} needs total_steps, the optimizer steps of the whole run.")
    if scheduler == "WarmupCosineLR":  # scales the optimizer's own lr by ratios
        return {
            "type": scheduler,
            "params": {"warmup_num_steps": max(warmup_steps, 2), "total_num_steps": total_steps},
        }
    params = {"warmup_min_lr": 0.0, "warmup_max_lr": lr, "warmup_num_steps": max(warmup_steps, 2)}
    return {
        "type": scheduler,
        "params": params | ({"total_num_steps": total_steps} if needs_total[scheduler] else {}),
    }


def _refuse_duplicates(pairs):
    block = {}
    for key, value in pairs:
        if key in block:
            raise ConfigError(f"The key {key!r} stands twice in one block of the config: keep one of them.")
        block[key] = value
    return block


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
    if config.get("fp16", {}).get("enabled") and config.get("bf16", config.get("bfloat16", {})).get("enabled"):
        raise ConfigError("fp16 and bf16 are both enabled: keep one.")
    dtype = config.get("data_types", {}).get("grad_accum_dtype")
    if dtype not in (None, *PRECISIONS):
        raise ConfigError(f"data_types.grad_accum_dtype is {dtype!r}: choose one of {', '.join(PRECISIONS)}.")


def _require_positive_integer(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}: give a whole number of at least 1.")


def _check_batch_triple(config, world_size):
    given = {key: config[key] for key in BATCH_KEYS if config.get(key) is not None}
    for key, value in given.items():
        _require_positive_integer(key, value)
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
        _require_positive_integer("world_size", world_size)
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
