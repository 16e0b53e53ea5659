"""How long NCCL takes for a collective, by NCCL's own cost model: the fastest of a ring and a tree. No torch.

    from labsupport.step_time.nccl import choice
    choice("all_reduce", 50e6, 256, cluster("H100", "NDR"))     # (seconds, "tree", "LL128")

NCCL adds a start and the bytes over a rate for each algorithm and protocol, and takes the least (src/graph/tuning.cc at
commit 5067397, ncclTopoTuneModel and ncclTopoGetAlgoTime). Its constants stand here as they are, in microseconds. A
tree is for all-reduces only, and its start grows with the logarithm of the nodes; a ring's grows with the ranks. Left
out: NVLS and CollNet, which need a switch that adds, PAT, which needs one GPU a node, and the correction of trees for
middle sizes.
"""

import math
from typing import NamedTuple

from labsupport.step_time.collectives import rounds

MICROSECOND = 1e-6
NETWORK_OVERHEAD = 2.0  # of each send, on a host of AMD's; Intel's has 1
LL_BYTES_PER_SECOND = {False: 140e9, True: 19e9}  # the most that LL carries, within a node and over more than two


class Start(NamedTuple):
    """What an algorithm and a protocol take before bytes count, in microseconds: once, and for each hop."""

    once: float
    nvlink_hop: float
    network_hop: float


RING = {"LL": Start(6.6, 0.6, 2.7), "LL128": Start(14.0, 1.9, 4.0), "Simple": Start(8.4, 3.4, 14.0)}
TREE = {"LL": Start(6.8, 0.6, 5.0), "LL128": Start(14.0, 1.25, 8.5), "Simple": Start(8.4, 4.0, 14.0)}
PCIE_RING_HOP, PCIE_TREE_HOP = (
    {"LL": 1.0, "Simple": 5.7},
    {"LL": 1.0, "Simple": 4.0},
)  # without LL128, which needs NVLink
TREE_RATE = 0.92  # of the ring's


class Choice(NamedTuple):
    """The seconds of one collective, and how NCCL does it."""

    seconds: float
    algorithm: str
    protocol: str


def choice(collective, message_bytes, world_size, cluster):
    """Return the Choice that is fastest; message_bytes: the whole tensor. Raises ConfigError for another collective."""
    rounds(collective)  # raises for an unknown one
    if world_size == 1:
        return Choice(0.0, "none", "none")
    protocols = ["LL", "Simple"] + ["LL128"] * cluster.nvlink if cluster.low_latency_protocols else ["Simple"]
    found = [_ring(collective, message_bytes, world_size, cluster, protocol) for protocol in protocols]
    if collective == "all_reduce" and nodes_of(world_size, cluster) > 1:
        found += [_tree(message_bytes, world_size, cluster, protocol) for protocol in protocols]
    return min(found)


def nodes_of(world_size, cluster):
    """Return how many nodes that many GPUs take."""
    return -(-world_size // cluster.gpus_per_node)


def bus_rate(cluster, world_size):
    """Return the bytes a second of a ring: of a GPU's own link, or of a node's adapters where those are slower."""
    inner = cluster.inner_bytes_per_second * cluster.link_share
    if nodes_of(world_size, cluster) == 1:
        return inner
    return min(inner, cluster.outer_bytes_per_second * cluster.link_share)


def _ring(collective, message_bytes, world_size, cluster, protocol):
    nodes, rate, start = nodes_of(world_size, cluster), bus_rate(cluster, world_size), RING[protocol]
    hop = start.nvlink_hop if cluster.nvlink else PCIE_RING_HOP[protocol]
    if nodes > 1:
        hop = max(hop, NETWORK_OVERHEAD * (3 if protocol == "Simple" else 1))
    hops = (world_size - nodes) * hop + (nodes - 1) * _network_hop(start, cluster, protocol)
    rates = {"LL": min(rate / 2, LL_BYTES_PER_SECOND[nodes > 1]), "LL128": 0.92 * rate, "Simple": rate}
    sent = (world_size - 1) / world_size * message_bytes / rates[protocol]
    return Choice(start.once * MICROSECOND + rounds(collective) * (hops * MICROSECOND + sent), "ring", protocol)


def _tree(message_bytes, world_size, cluster, protocol):
    nodes, start = nodes_of(world_size, cluster), TREE[protocol]
    rate = TREE_RATE * bus_rate(cluster, world_size)
    hop = start.nvlink_hop if cluster.nvlink else PCIE_TREE_HOP[protocol]
    hops = (world_size / nodes - 1) * hop + math.log2(nodes) * _network_hop(start, cluster, protocol)
    rates = {"LL": min(rate / 3.8, LL_BYTES_PER_SECOND[True]), "LL128": 120 / 128 * rate, "Simple": rate}
    return Choice((start.once + 2 * hops) * MICROSECOND + 2 * message_bytes / rates[protocol], "tree", protocol)


def _network_hop(start, cluster, protocol):
    """NCCL adds what the network's plugin names as its latency, and once more where data and flag go separately."""
    return start.network_hop + cluster.network_latency_seconds / MICROSECOND * (2 if protocol == "Simple" else 1)
