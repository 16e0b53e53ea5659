"""GPUs that people train on and the networks between their nodes, as their makers specify them. No torch.

    python -c "from labsupport.machine.cards import card; print(card('h100'))"

These are peaks that vendors print, never what a program gets. Two habits of data sheets are undone here: rates
"with sparsity" are halved to the dense rate, and a link's "bidirectional" rate is halved to one direction.
`source` names the vendor's document; each number was looked up again in a public table that quotes it:
rates, memory bandwidth and NVLink in github.com/stas00/ml-engineering, compute/accelerator and network (A100 to
MI300X, L40S), and github.com/Lightning-AI/pytorch-lightning, fabric/utilities/throughput.py (T4, V100, A10); memory
as the total that nvidia-smi or rocm-smi prints on such a card, in public logs.
"""

import difflib
import re
from typing import NamedTuple

from labsupport.errors import ConfigError

MIB = 2**20
# One direction of 16 lanes: transfers a second, times 16 lanes, times 128 payload bits of 130, in bytes.
PCIE_3, PCIE_4, PCIE_5 = (transfers * 16 * 128 / 130 / 8 for transfers in (8e9, 16e9, 32e9))

_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_DATASHEETS = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center"
_T4 = f"NVIDIA T4 datasheet, {_DATASHEETS}/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
_V100 = (
    "NVIDIA V100 datasheet, "
    "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
)
_A10 = f"NVIDIA A10 datasheet, {_DATASHEETS}/a10/pdf/a10-datasheet.pdf"
_A100 = f"NVIDIA A100 datasheet, {_DATASHEETS}/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_H100 = "NVIDIA H100 datasheet, https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"
_UNREAD = "not re-checked in the whitepaper itself, only in public tables that quote it"


class Card(NamedTuple):
    """One GPU. Rates are peaks: per second, of one GPU, links in one direction."""

    name: str
    memory_bytes: int  # what the driver shows as the total: vendors' "80 GB" are GiB, less a small reserve
    flops_per_second: float  # dense matrix products in `precision`, sums in fp32
    precision: str  # "bf16", or "fp16" on cards from before bf16
    memory_bytes_per_second: float
    link: str  # between the GPUs of one node
    link_bytes_per_second: float
    host_bytes_per_second: float  # between the GPU and the host's memory
    source: str


class Link(NamedTuple):
    """The network between nodes of eight GPUs, as one node has it."""

    name: str
    adapters: int  # in one node
    adapter_bytes_per_second: float  # in one direction
    source: str
    latency_seconds: float = 0.0  # what its plugin tells NCCL: NCCL's own for InfiniBand and RoCE tells nothing
    low_latency_protocols: bool = True  # whether NCCL may use LL and LL128 over it

    @property
    def node_bytes_per_second(self):
        """What all the adapters of one node carry together, in one direction."""
        return self.adapters * self.adapter_bytes_per_second

    @property
    def gpu_bytes_per_second(self):
        """One GPU's share of it."""
        return self.node_bytes_per_second / 8


def _pcie(name, mib, teraflops, precision, gigabytes_per_second, generation, rate, source):
    """A card whose only link, to its neighbours as to the host, is a PCIe slot."""
    slot = f"PCIe {generation} x16"
    return Card(name, mib * MIB, teraflops * 1e12, precision, gigabytes_per_second * 1e9, slot, rate, rate, source)


CARDS = {
    card.name: card
    for card in (
        _pcie("T4", 15360, 65, "fp16", 320, 3, PCIE_3, _T4),
        Card("V100-16GB", 16160 * MIB, 125e12, "fp16", 900e9, "NVLink 2", 150e9, PCIE_3, _V100),
        Card("V100-32GB", 32510 * MIB, 125e12, "fp16", 900e9, "NVLink 2", 150e9, PCIE_3, _V100),
        _pcie("RTX 3090", 24576, 71, "bf16", 936, 4, PCIE_4, f"NVIDIA Ampere GA102 whitepaper, {_UNREAD}"),
        _pcie("RTX 4090", 24564, 165.2, "bf16", 1008, 4, PCIE_4, f"NVIDIA Ada architecture whitepaper, {_UNREAD}"),
        _pcie("A10", 23028, 125, "bf16", 600, 4, PCIE_4, _A10),
        _pcie("L4", 23034, 121, "bf16", 300, 4, PCIE_4, f"NVIDIA L4, {_NVIDIA}/l4/"),
        _pcie("L40S", 46068, 362, "bf16", 864, 4, PCIE_4, f"NVIDIA L40S, {_NVIDIA}/l40s/"),
        Card("A100-40GB", 40960 * MIB, 312e12, "bf16", 1555e9, "NVLink 3", 300e9, PCIE_4, _A100),
        Card("A100-80GB", 81920 * MIB, 312e12, "bf16", 2039e9, "NVLink 3", 300e9, PCIE_4, _A100),
        Card("H100", 81559 * MIB, 989e12, "bf16", 3350e9, "NVLink 4", 450e9, PCIE_5, _H100),
        Card("H200", 143771 * MIB, 989e12, "bf16", 4800e9, "NVLink 4", 450e9, PCIE_5,
             f"NVIDIA H200, {_NVIDIA}/h200/"),
        Card("B200", 183359 * MIB, 2250e12, "bf16", 8000e9, "NVLink 5", 900e9, PCIE_5,
             f"NVIDIA DGX B200, {_NVIDIA}/dgx-b200/"),
        # Seven links of 64 GB/s to the seven neighbours; NCCL's constant for NVLink stands in for RCCL's.
        Card("MI300X", 206141652992, 1307e12, "bf16", 5300e9, "Infinity Fabric", 448e9, PCIE_5,
             "AMD Instinct MI300X, https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html"),
    )
}  # fmt: skip

_AWS = "Gbit/s a node, https://aws.amazon.com/ec2/instance-types"
_OFI = "latency from github.com/aws/aws-ofi-nccl, src/platform-aws.cpp at commit 2daf7d3"
_IEEE = "IEEE 802.3, one adapter a node shared by its GPUs"
_SELENE = "Narayanan et al. 2021, arXiv 2104.04473, section 5: eight 200 Gbit/s HDR adapters a node"
_NDR = "NVIDIA Quantum-2, 400 Gbit/s a port, https://www.nvidia.com/en-us/networking/quantum2/; eight a node"
LINKS = {
    link.name: link
    for link in (
        Link("10 GbE", 1, 10e9 / 8, _IEEE),
        Link("25 GbE", 1, 25e9 / 8, _IEEE),
        Link("100 GbE", 1, 100e9 / 8, _IEEE),
        Link("HDR", 8, 200e9 / 8, _SELENE),
        Link("NDR", 8, 400e9 / 8, _NDR),
        Link("EFA p4d", 4, 100e9 / 8, f"AWS EC2 P4d: 400 {_AWS}/p4/; {_OFI}", 75e-6),
        Link("EFA p5", 32, 100e9 / 8, f"AWS EC2 P5: 3200 {_AWS}/p5/; {_OFI}", 75e-6),
        # Its plugin asks the adapter for LL and LL128. That it gets neither is a guess from the published all-reduces.
        Link("EFA p6-b200", 8, 400e9 / 8, f"AWS EC2 P6: 3200 {_AWS}/p6/; {_OFI}", 35e-6, False),
    )
}  # fmt: skip


class MeasuredLinks(NamedTuple):
    """What others measured on nodes of eight GPUs, in bytes a second; a data sheet says what cannot be exceeded."""

    card: str
    link: str
    host_bytes_per_second: float  # one GPU, one direction
    inner_all_reduce_bytes_per_second: float  # bus rate within a node: the rate of a ring that takes as long
    outer_all_reduce_bytes_per_second: float  # bus rate between nodes
    source: str


MEASURED_LINKS = MeasuredLinks(
    "H100", "EFA p5", 14.2e9, 480e9, 320e9,
    "Hugging Face, The Smol Training Playbook, 2025, infrastructure: up to 16 nodes, 128 GPUs",
)  # fmt: skip


def card(name):
    """Return the Card called `name`, however it is cased and spaced; raises ConfigError with the nearest name."""
    return _named(name, CARDS, "GPU")


def link(name):
    """Return the Link called `name`, however it is cased and spaced; raises ConfigError with the nearest name."""
    return _named(name, LINKS, "network")


def _named(name, table, what):
    keys = {_key(known): known for known in table}
    wanted = _key(name) if isinstance(name, str) else ""
    if wanted in keys:
        return table[keys[wanted]]
    nearest = [key for key in keys if key.startswith(wanted)] or difflib.get_close_matches(wanted, keys, cutoff=0.0)
    hint = f"the nearest is {keys[nearest[0]]!r}" if wanted and nearest else "give a name"
    raise ConfigError(f"There is no {what} {name!r} in the table: {hint}, and there are {', '.join(table)}.")


def _key(name):
    """Letters and digits that tell cards apart: "NVIDIA A100 SXM 80GB" and "a100-80" are one card."""
    return re.sub(r"nvidia|geforce|tesla|amd|instinct|sxm\d?|gb(?!e)|[^a-z0-9]", "", name.lower())
