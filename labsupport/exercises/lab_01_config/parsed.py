"""What DeepSpeed reads from a config: its precision and its offloads."""

OFFLOAD_BLOCKS = ("offload_optimizer", "offload_param")


def precision_of(values):
    return "fp16" if values.float16_config.enabled else "bf16" if values.bfloat16_config.enabled else "fp32"


def offloads_of(values):
    blocks = {name: getattr(values.zero_config, name) for name in OFFLOAD_BLOCKS}
    return {name for name, block in blocks.items() if block is not None and block.device != "none"}
