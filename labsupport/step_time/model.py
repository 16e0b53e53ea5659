"""The modelled time of one optimizer step: compute, collectives, offload. Nothing here is measured. No torch.

    python -c "from labsupport.step_time import *; print(step_time(GPT['7.5B'], 3, cluster('H100', 'NDR'), 64, 8192))"

A step is between two bounds: everything hidden behind the slowest part, and nothing hidden at all. Sources:
Kaplan et al. 2020, arXiv 2001.08361 (FLOPs); Narayanan et al. 2021, arXiv 2104.04473 (recomputation, attention,
the shapes); NCCL, src/graph/tuning.cc (a ring over two kinds of link); Rajbhandari et al. 2021, arXiv 2104.07857
(what offload moves). What is sent and how long a collective takes stands in labsupport/step_time/collectives.py.
"""

from typing import NamedTuple

from labsupport.arguments import require_number
from labsupport.errors import ConfigError
from labsupport.machine.cards import card, link
from labsupport.memory.host_link import host_link_bytes
from labsupport.memory.paper import model_state_bytes
from labsupport.step_time.collectives import COLLECTIVES, ELEMENT_BYTES, communication_seconds, traffic
from labsupport.step_time.flops import flops_per_token

STATE_BYTES = 12  # Adam's fp32 master weight, momentum and variance
ADAM_BYTES = 2 * STATE_BYTES + 2 * ELEMENT_BYTES  # states read and written, gradient read, parameter written
COMPUTE_EFFICIENCY = 0.5  # of the peak: Narayanan et al., table 1, has 43 to 52 % on A100s
LINK_EFFICIENCY = 0.8  # of the specified rate: NCCL takes 235 GB/s as the most of A100's 300 (tuning.cc)


class Transformer(NamedTuple):
    """What the time of a step depends on."""

    parameters: int
    layers: int
    hidden_size: int


def gpt(layers, hidden_size, vocabulary=51_200, positions=2048):
    """Return the Transformer of a GPT of this shape (Narayanan et al. 2021, equation 2)."""
    block = 12 * hidden_size**2 + 13 * hidden_size
    return Transformer(layers * block + (vocabulary + positions) * hidden_size, layers, hidden_size)


# Narayanan et al. 2021, table 1: layers and hidden size; 174.6B is GPT-3, from their table 2.
_SHAPES = {
    "1.7B": (24, 2304), "3.6B": (30, 3072), "7.5B": (36, 4096), "18.4B": (40, 6144), "39.1B": (48, 8192),
    "76.1B": (60, 10240), "145.6B": (80, 12288), "174.6B": (96, 12288), "310.1B": (96, 16384),
    "529.6B": (105, 20480), "1008B": (128, 25600),
}  # fmt: skip
GPT = {name: gpt(*shape) for name, shape in _SHAPES.items()}


class Cluster(NamedTuple):
    """Nodes of equal GPUs: a link inside the node and a network between nodes. Rates are per second, one way."""

    flops_per_second: float  # the peak of one GPU
    memory_bytes: float  # of one GPU
    memory_bytes_per_second: float  # of one GPU's own memory
    gpus_per_node: int
    inner_bytes_per_second: float  # of one GPU
    inner_hop_seconds: float
    outer_bytes_per_second: float  # of all the adapters of one node that a collective uses
    outer_hop_seconds: float
    host_bytes_per_second: float  # between one GPU and the host
    host_memory_bytes_per_second: float = 409.6e9  # of one node: two sockets of eight DDR4-3200 channels
    nvme_bytes_per_second: float = 16e9  # of one node: the eight drives of an AWS P4d, reading
    compute_efficiency: float = COMPUTE_EFFICIENCY
    link_efficiency: float = LINK_EFFICIENCY


def cluster(card_name, link_name, gpus_per_node=8, **others):
    """Return the Cluster of nodes with this card and network, from labsupport.machine.cards; raises for unknown names.

    others: any other field of Cluster, such as compute_efficiency (0 to 1).
    """
    gpu, network = card(card_name), link(link_name)
    _require(gpus_per_node=gpus_per_node)
    built = Cluster(
        gpu.flops_per_second, gpu.memory_bytes, gpu.memory_bytes_per_second, gpus_per_node,
        gpu.link_bytes_per_second, gpu.link_hop_seconds, network.node_bytes_per_second, network.hop_seconds,
        gpu.host_bytes_per_second,
    )  # fmt: skip
    unknown = set(others) - set(Cluster._fields)
    if unknown:
        raise ConfigError(f"A cluster has no {sorted(unknown)[0]!r}: its fields are {', '.join(Cluster._fields)}.")
    for name in ("compute_efficiency", "link_efficiency"):
        if not 0 < others.get(name, 1) <= 1:
            raise ConfigError(f"{name} is {others[name]!r}: give a share of the peak, above 0 and at most 1.")
    return built._replace(**others)


# Compute


def compute_seconds(model, tokens, cluster, sequence_length=2048, recompute=True):
    """Return the seconds that one GPU computes on `tokens` tokens, at the cluster's share of the peak rate."""
    flops = tokens * flops_per_token(model, sequence_length, recompute)
    return flops / (cluster.flops_per_second * cluster.compute_efficiency)


def optimizer_seconds(parameters, stage, world_size, cluster):
    """Return the seconds of Adam on one GPU: bound by its memory, 28 bytes a parameter, of its part from stage 1."""
    return parameters / (world_size if stage else 1) * ADAM_BYTES / cluster.memory_bytes_per_second


# Communication


def ring_rate(cluster, world_size):
    """Return (alpha_seconds, bytes_per_second) of a ring over this many GPUs of the cluster.

    Inside a node it is the inner link. Over several nodes the ring is as fast as the slower of a GPU's inner link
    and a node's adapters together, and each node adds one slow hop (NCCL, src/graph/tuning.cc).
    """
    nodes = -(-world_size // cluster.gpus_per_node)
    if nodes == 1:
        return cluster.inner_hop_seconds, cluster.inner_bytes_per_second * cluster.link_efficiency
    slow, hops = nodes - 1, world_size - 1
    alpha = (slow * cluster.outer_hop_seconds + (hops - slow) * cluster.inner_hop_seconds) / hops
    slowest = min(cluster.inner_bytes_per_second, cluster.outer_bytes_per_second)
    return alpha, slowest * cluster.link_efficiency


# Offload


def offload_seconds(
    parameters, cluster, world_size, gradient_accumulation_steps=1, device="cpu", offload_param=False, stage=3
):  # fmt: skip
    """Return the seconds that offload adds on one rank.

    What goes over the host link is labsupport.memory.host_link's count, one direction after the other. Adam on the CPU
    is bound by the memory that a node's ranks share; "nvme" also reads and writes the states (Rajbhandari et al. 2021,
    section 5).
    """
    if device not in ("cpu", "nvme"):
        raise ConfigError(f"offload is {device!r}: choose 'cpu' or 'nvme'.")
    share, on_node = parameters / world_size, min(world_size, cluster.gpus_per_node)
    moved = host_link_bytes(stage, gradient_accumulation_steps, ELEMENT_BYTES, parameters=offload_param)
    seconds = share * moved / (cluster.host_bytes_per_second * cluster.link_efficiency)
    seconds += on_node * share * ADAM_BYTES / cluster.host_memory_bytes_per_second
    if device == "nvme":
        seconds += on_node * share * 2 * STATE_BYTES / cluster.nvme_bytes_per_second
    return seconds


# A step


class StepTime(NamedTuple):
    """The modelled parts of one optimizer step on one GPU, in seconds, and the two bounds that they give."""

    compute_seconds: float
    optimizer_seconds: float
    communication_seconds: float
    offload_seconds: float

    @property
    def exposed_seconds(self):
        """The upper bound: nothing runs at the same time as anything else."""
        return sum(self)

    @property
    def overlapped_seconds(self):
        """The lower bound: everything is hidden behind the slowest of compute, communication and offload."""
        return max(self.compute_seconds + self.optimizer_seconds, self.communication_seconds, self.offload_seconds)


def step_time(
    model, stage, cluster, world_size, micro_batch_tokens, gradient_accumulation_steps=1, *, sequence_length=2048,
    recompute=True, deepspeed_default=True, offload=None, offload_param=False,
):  # fmt: skip
    """Return the modelled StepTime of one optimizer step.

    micro_batch_tokens: tokens of one micro-batch on one GPU. offload: None, "cpu" or "nvme" for the optimizer's
    states; offload_param: the parameters too, stage 3 only. Raises ConfigError for sizes below one, and for an
    offload that DeepSpeed does not combine with the stage.
    """
    _require(world_size=world_size, micro_batch_tokens=micro_batch_tokens, parameters=model.parameters,
             gradient_accumulation_steps=gradient_accumulation_steps, sequence_length=sequence_length)  # fmt: skip
    sent = traffic(model, stage, gradient_accumulation_steps, deepspeed_default)
    _require_offload(stage, offload, offload_param)
    tokens = micro_batch_tokens * gradient_accumulation_steps
    rates = dict.fromkeys(COLLECTIVES, ring_rate(cluster, world_size))
    return StepTime(
        compute_seconds(model, tokens, cluster, sequence_length, recompute),
        0.0 if offload else optimizer_seconds(model.parameters, stage, world_size, cluster),
        communication_seconds(sent, world_size, rates),
        offload_seconds(
            model.parameters, cluster, world_size, gradient_accumulation_steps, offload, offload_param, stage
        )
        if offload
        else 0.0,
    )


def model_states_fit(model, stage, cluster, world_size):
    """Whether the model states alone fit on one GPU; activations and buckets come on top (labsupport.memory.fits)."""
    return model_state_bytes(model.parameters, stage, world_size) <= cluster.memory_bytes


def stage3_break_even_tokens(model, cluster, world_size, sequence_length=2048, recompute=True):
    """Return the tokens of a micro-batch on one GPU below which stage 3's messages take longer than its compute.

    Closed form, with the paper's two gathers: the seconds of one micro-batch's messages over those of one token.
    For many ranks, short sequences and no latency it comes to F / B without recomputation and 3 F / 4 B with it, F
    being the FLOP/s that a GPU gets and B the bytes/s of the ring: the size of the model cancels.
    """
    _require(world_size=world_size, sequence_length=sequence_length)
    rates = dict.fromkeys(COLLECTIVES, ring_rate(cluster, world_size))
    messages = communication_seconds(traffic(model, 3, deepspeed_default=False), world_size, rates)
    return messages / compute_seconds(model, 1, cluster, sequence_length, recompute)


# Scaling


class ScalingPoint(NamedTuple):
    """One number of GPUs: the modelled step, the tokens of the whole step, and whether the model states fit."""

    world_size: int
    step: StepTime
    tokens: int
    fits: bool


def weak_scaling(model, stage, cluster, world_sizes, micro_batch_tokens, gradient_accumulation_steps=1, **options):
    """Return a ScalingPoint for each number of GPUs, with the same batch on every GPU; options: as for step_time."""
    return [
        ScalingPoint(
            size,
            step_time(model, stage, cluster, size, micro_batch_tokens, gradient_accumulation_steps, **options),
            size * micro_batch_tokens * gradient_accumulation_steps,
            model_states_fit(model, stage, cluster, size),
        )
        for size in world_sizes
    ]


def strong_scaling(
    model, stage, cluster, world_sizes, batch_tokens, micro_batch_tokens, sequence_length=2048, **options
):
    """Return a ScalingPoint for each number of GPUs, with the same batch over all of them.

    batch_tokens: of the whole step. A GPU takes its part in micro-batches of at most micro_batch_tokens; a number
    of GPUs that leaves a GPU less than one sequence, or that does not divide the batch, is left out.
    """
    points = []
    for size in world_sizes:
        part = batch_tokens // size
        micro_batch = min(micro_batch_tokens, part)
        if part < sequence_length or batch_tokens % size or part % micro_batch:
            continue
        points += weak_scaling(
            model, stage, cluster, [size], micro_batch, part // micro_batch, sequence_length=sequence_length, **options
        )
    return points


# Bad input


def _require(**sizes):
    for name, value in sizes.items():
        require_number(name, value, at_least=1)


def _require_offload(stage, offload, offload_param):
    if offload_param and (stage < 3 or not offload):
        raise ConfigError(f"offload_param is on at stage {stage}: parameters are offloaded at stage 3, with offload.")
    if offload and stage == 0:
        raise ConfigError(f"offload is {offload!r} at stage 0: DeepSpeed ignores it there, so take stage 1, 2 or 3.")
    if offload == "nvme" and stage < 3:
        raise ConfigError(f"offload is 'nvme' at stage {stage}: DeepSpeed writes to NVMe at stage 3 only.")
