"""What DeepSpeed reads from a config, and makes of it: its precision, its offloads, its optimizer."""

from labsupport.exercises.answers import made_optimizer

OFFLOAD_BLOCKS = ("offload_optimizer", "offload_param")


def precision_of(values):
    return "fp16" if values.float16_config.enabled else "bf16" if values.bfloat16_config.enabled else "fp32"


def devices_of(values):
    """Return {block: "none", "cpu" or "nvme"}, as DeepSpeed reads it; "cpu, 50%" where it is to take a part alone."""
    blocks = {name: getattr(values.zero_config, name) for name in OFFLOAD_BLOCKS}
    return {name: _device(block) for name, block in blocks.items()}


def _device(block):
    if block is None:
        return "none"
    device, part = str(getattr(block.device, "value", block.device)), getattr(block, "ratio", 1.0)
    return device if part == 1 else f"{device}, {part:.0%}"


def optimizer_of(values, config):
    """Return the name and the learning rate of the optimizer that an engine makes of a config; "none" and None else.

    values: what DeepSpeed reads from the config. Its "Adam" is AdamW too, unless adam_w_mode says otherwise.
    """
    if values.optimizer_name not in ("adam", "adamw"):  # made without a GPU and a compiler
        return str(values.optimizer_name or "none"), None
    optimizer = made_optimizer(config)
    return type(optimizer).__name__, optimizer.param_groups[0]["lr"]
