"""What this machine has, what it gets of DeepSpeed, and the cards that others have. No torch until it must be asked."""

from labsupport.machine.cards import card, link
from labsupport.machine.probes import default_accelerator, free_port, gpu_count, gpu_obstacle, host_memory_bytes

__all__ = ["card", "default_accelerator", "free_port", "gpu_count", "gpu_obstacle", "host_memory_bytes", "link"]
