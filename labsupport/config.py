"""DeepSpeed configs as plain dicts of DeepSpeed's own keys, checked before DeepSpeed sees them.

    python -c "import labsupport; print(labsupport.create_deepspeed_config(stage=3, precision='bf16'))"

DeepSpeed 0.19.8 ignores an unknown top-level key and many impossible combinations without a word. What it would
ignore, our builders refuse to build. What a config means is asked of labsupport.doctor. No torch.
"""

import copy
import os
import tempfile

from labsupport.arguments import require_number, require_positive_integer, require_stage
from labsupport.doctor.case import Case
from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.findings import ERROR, SILENT
from labsupport.doctor.reading import read_document
from labsupport.errors import ConfigError

PRECISIONS = ("fp16", "bf16", "fp32")
OFFLOAD_DEVICES = ("cpu", "nvme")
DEFAULT_NVME_PATH = os.path.join(tempfile.gettempdir(), "deepspeed-nvme")


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
    forward pass; with world_size (ranks) the three must multiply. train_batch_size None is left out: DeepSpeed infers
    it from the others, on any number of ranks. offload_optimizer, offload_param: False,
    "cpu", "nvme", or True, which means "nvme" where nvme_path is given and "cpu" elsewhere.
    optimizer: a name of DeepSpeed's or of torch.optim's, also one that DeepSpeed has not tested with ZeRO.
    scheduler: None, "WarmupLR", "WarmupDecayLR" or "WarmupCosineLR", counted in optimizer steps.
    gradient_clipping: largest global gradient norm; 0.0 turns clipping off (left out, DeepSpeed clips at 1.0).
    grad_accum_dtype: "fp32" keeps accumulated bf16 gradients in fp32. bucket_size: elements per
    communication bucket; DeepSpeed's own 5e8, which None leaves as it is, takes gigabytes even for a tiny model.
    activation_checkpointing writes the block that `deepspeed.checkpointing` reads; a transformers model needs
    `model.activation_checkpointing_enable()` as well.

    Raises ConfigError where DeepSpeed would refuse the config or silently ignore part of it. Looks at no
    hardware: `initialize_deepspeed` says what this machine cannot do.
    """
    require_stage(stage)
    if precision is None:
        precision = "fp16" if fp16 else "fp32"
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}.")
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("gradient_clipping", gradient_clipping)):
        require_number(name, value)
    for name, value in (
        ("train_batch_size", train_batch_size),
        ("micro_batch_size", micro_batch_size),
        ("gradient_accumulation_steps", gradient_accumulation_steps),
        ("world_size", world_size),
    ):
        if value is not None:
            require_positive_integer(name, value)

    whole = {"train_batch_size": train_batch_size} if train_batch_size is not None else {}
    config = {
        **(whole or {"train_micro_batch_size_per_gpu": micro_batch_size}),
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": gradient_clipping,
        "optimizer": {"type": optimizer, "params": {"lr": lr, "weight_decay": weight_decay}},
        "zero_optimization": {"stage": stage, **_bucket_settings(stage, bucket_size)},
    }
    if micro_batch_size is None and whole:
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
    findings = diagnose(config, world_size)
    if any(finding.code == "untested-optimizer" for finding in findings):
        config["zero_allow_untested_optimizer"] = True  # whoever names it here wants it
        findings = diagnose(config, world_size)
    return _sound(config, findings, silent=True)


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


def validate_config(config, world_size=None, silent=True):
    """Return `config` unchanged, or raise a ConfigError that names the key, the value and the way out.

    Refused is what DeepSpeed refuses, at whichever moment, and, where `silent`, what it would ignore or change without
    a word: `silent=False` is for a config that somebody else wrote, and that shall train as DeepSpeed trains it.
    world_size: ranks; where given, the batch triple must multiply on that many. Looks at no hardware.
    """
    return _sound(config, diagnose(config, world_size), silent)


def read_config(path):
    """Read a ds_config file as DeepSpeed does and return it; raises ConfigError for what DeepSpeed refuses."""
    document = read_document(path)
    return _sound(document.value, diagnose(document.value, document=document), silent=False)


def parse_config(path):
    """Return what a ds_config file holds, as DeepSpeed reads it: JSON or Hjson, not yet validated.

    Raises ConfigError for a file that is missing, unreadable or neither (with line and column), and for a key that
    stands twice.
    """
    document = read_document(path)
    about_the_file = {"not-a-dict", "duplicate-key", "nested-too-deep", "number-too-large"}
    found = [finding for finding in diagnose(document.value, document=document) if finding.code in about_the_file]
    return _sound(document.value, found, silent=False)


def _sound(config, findings, silent):
    for finding in findings:
        if finding.severity == ERROR or (silent and finding.severity == SILENT):
            raise ConfigError(as_error(finding))
    return config


def as_error(finding):
    """Return a finding as an error says it: one sentence, with the key that it is about."""
    text = finding.in_words
    if finding.path and finding.keys[-1] not in text:
        text = f"{finding.path}: {text}"
    return text[0].upper() + text[1:] if text.split()[0] in ("a", "the", "plain", "neither") else text


def zero_stage(config):
    """Return the ZeRO stage that DeepSpeed will run for this config; 0 where none is named."""
    return Case(config).stage


def offload_devices(config):
    """Return where DeepSpeed will send optimizer states and parameters: a pair of "none", "cpu" or "nvme"."""
    return Case(config).offload_in_force


def config_precision(config):
    """Return "fp16", "bf16" or "fp32", as DeepSpeed will read this config."""
    return Case(config).precision


def _bucket_settings(stage, bucket_size):
    if bucket_size is None:
        return {}
    # DeepSpeed aligns its buckets to pairs of elements and refuses an odd size late, in an assertion.
    require_number("bucket_size", bucket_size, at_least=2, what="number of elements")
    if bucket_size % 2:
        raise ConfigError(f"bucket_size is {bucket_size!r}: give an even number of elements, for example 1000000.")
    elements = int(bucket_size)
    if stage == 0:
        return {}
    if stage == 3:
        return {
            "reduce_bucket_size": elements,
            "stage3_prefetch_bucket_size": elements,
            # Parameters with at most so many elements stay whole on every rank; DeepSpeed's 1e5 would keep most of a
            # small model whole and hide what stage 3 does.
            "stage3_param_persistence_threshold": 10_000,
        }
    return {"reduce_bucket_size": elements, "allgather_bucket_size": elements}


def _inferred_micro_batch_size(config, world_size):
    """The samples per rank per forward pass that make the triple multiply, or None where that is not known."""
    if world_size is None:
        return None
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
