"""The GPUs, links and hosts that a modelled step runs on: peaks from data sheets, and the shares of them reached.

    from labsupport.step_time.machines import cluster
    cluster("H100", "NDR").matrix_share           # fitted, once a card

What is fitted is fitted on few published rows, by labsupport.step_time.fit, and judged on the others. No torch.
"""

from typing import NamedTuple

from labsupport.arguments import require_number
from labsupport.errors import ConfigError
from labsupport.machine.cards import card, link

LINK_SHARE = 0.8  # of the specified rate: NCCL takes 235 GB/s as the most of A100's 300 (tuning.cc)
# Fitted on every seventh row of llm-foundry's table of H100s (labsupport.step_time.fit), and taken for every card.
HIDDEN_BYTES = 332.0  # that a token's norms, activations and sums read and write, for each layer and hidden unit
EXPOSED_SHARE = 0.78  # of the messages that could run beside the compute: what they add to the step all the same
# Fitted on one published pair of steps, with the optimizer on the host, cores bound to ranks, and without.
HOST_ADAM_PARAMETERS_PER_SECOND = 0.82e9  # of one rank


class Reached(NamedTuple):
    """What a card's kernels reach of its peak, 0 to 1: products of matrices, and causal attention counted as half."""

    matrix_share: float
    attention_share: float


# Attention on A100 and H100 is that of 2023, in llm-foundry; on H200 and B200 FlashAttention 3 and 4.
_A100 = Reached(0.772, 0.275)
REACHED = {
    "A100-40GB": _A100,
    "A100-80GB": _A100,
    "H100": Reached(0.668, 0.155),
    "H200": Reached(0.668, 0.544),
    "B200": Reached(0.441, 0.529),
}
_UNTESTED = _A100  # for a card that nobody's rows were found for; StepTime.outside says so


class Cluster(NamedTuple):
    """Nodes of equal GPUs: a link inside the node and a network between nodes. Rates are per second, one way."""

    flops_per_second: float  # the peak of one GPU
    memory_bytes: float  # of one GPU
    memory_bytes_per_second: float  # of one GPU's own memory
    gpus_per_node: int
    inner_bytes_per_second: float  # of one GPU
    nvlink: bool  # inside the node, or something like it; else PCIe
    outer_bytes_per_second: float  # of all the adapters of one node that a collective uses
    network_latency_seconds: float  # beyond NCCL's own constants
    low_latency_protocols: bool  # NCCL's LL and LL128
    host_bytes_per_second: float  # between one GPU and the host
    matrix_share: float  # of the peak that matrix products reach
    attention_share: float
    tested: bool  # whether published rows of this card were found
    link_share: float = LINK_SHARE
    hidden_bytes: float = HIDDEN_BYTES
    exposed_share: float = EXPOSED_SHARE
    host_adam_parameters_per_second: float = HOST_ADAM_PARAMETERS_PER_SECOND  # of one rank
    host_memory_bytes_per_second: float = 409.6e9  # of one node: two sockets of eight DDR4-3200 channels
    nvme_bytes_per_second: float = 16e9  # of one node: the eight drives of an AWS P4d, reading


def cluster(card_name, link_name, gpus_per_node=8, **others):
    """Return the Cluster of nodes with this card and network, from labsupport.machine.cards; raises for unknown names.

    others: any other field of Cluster, such as attention_share (0 to 1; H200's 0.54 for an H100 with FlashAttention 3).
    """
    gpu, network = card(card_name), link(link_name)
    require_number("gpus_per_node", gpus_per_node, at_least=1)
    reached = REACHED.get(gpu.name, _UNTESTED)
    built = Cluster(
        gpu.flops_per_second, gpu.memory_bytes, gpu.memory_bytes_per_second, gpus_per_node, gpu.link_bytes_per_second,
        not gpu.link.startswith("PCIe"), network.node_bytes_per_second, network.latency_seconds,
        network.low_latency_protocols, gpu.host_bytes_per_second, *reached, gpu.name in REACHED,
    )  # fmt: skip
    unknown = set(others) - set(Cluster._fields)
    if unknown:
        raise ConfigError(f"A cluster has no {sorted(unknown)[0]!r}: its fields are {', '.join(Cluster._fields)}.")
    for name in ("matrix_share", "attention_share", "link_share", "exposed_share"):
        if not 0 < others.get(name, 1) <= 1:
            raise ConfigError(f"{name} is {others[name]!r}: give a share of the peak, above 0 and at most 1.")
    return built._replace(**others)
