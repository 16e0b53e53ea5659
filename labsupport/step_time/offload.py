"""The modelled seconds that offload adds to a step: the host link, Adam on the CPU, NVMe. No torch.

from labsupport.step_time.offload import offload_seconds
offload_seconds(7e9, cluster("H100", "NDR"), world_size=8)
"""

from labsupport.errors import ConfigError
from labsupport.memory.host_link import host_link_bytes
from labsupport.step_time.collectives import ELEMENT_BYTES
from labsupport.step_time.compute import ADAM_BYTES, STATE_BYTES


def offload_seconds(
    parameters, cluster, world_size, gradient_accumulation_steps=1, device="cpu", offload_param=False, stage=3
):  # fmt: skip
    """Return the seconds that offload adds on one rank.

    What goes over the host link is labsupport.memory.host_link's count, one direction after the other. Adam on the CPU
    takes as long as one rank's cores need, and at least as long as the memory that a node's ranks share; "nvme" also
    reads and writes the states (Rajbhandari et al. 2021, arXiv 2104.07857, section 5). Raises ConfigError for another
    device.
    """
    if device not in ("cpu", "nvme"):
        raise ConfigError(f"offload is {device!r}: choose 'cpu' or 'nvme'.")
    share, on_node = parameters / world_size, min(world_size, cluster.gpus_per_node)
    moved = host_link_bytes(stage, gradient_accumulation_steps, ELEMENT_BYTES, parameters=offload_param)
    seconds = share * moved / (cluster.host_bytes_per_second * cluster.link_share)
    shared_memory = on_node * share * ADAM_BYTES / cluster.host_memory_bytes_per_second
    seconds += max(share / cluster.host_adam_parameters_per_second, shared_memory)
    if device == "nvme":
        seconds += on_node * share * 2 * STATE_BYTES / cluster.nvme_bytes_per_second
    return seconds


def require_offload(stage, offload, offload_param):
    """Raise ConfigError for an offload that DeepSpeed does not combine with the stage."""
    if offload_param and (stage < 3 or not offload):
        raise ConfigError(f"offload_param is on at stage {stage}: parameters are offloaded at stage 3, with offload.")
    if offload and stage == 0:
        raise ConfigError(f"offload is {offload!r} at stage 0: DeepSpeed ignores it there, so take stage 1, 2 or 3.")
    if offload == "nvme" and stage < 3:
        raise ConfigError(f"offload is 'nvme' at stage {stage}: DeepSpeed writes to NVMe at stage 3 only.")
