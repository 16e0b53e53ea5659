"""Where DeepSpeed offloads to, as it reads a config."""

BLOCKS = ("offload_optimizer", "offload_param")


def device_of(block):
    """Where DeepSpeed's own offload block sends its states: "none", "cpu" or "nvme"."""
    return "none" if block is None else str(getattr(block.device, "value", block.device))
