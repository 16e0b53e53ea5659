"""Tables that others published, beside the step-time model. Cited, not measured here. No torch.

    python -m labsupport.step_time.published          # every row, with the model's error

Each table was read in a public copy of its source and is cut to the columns that the model needs. One number is
fitted on one row of a table, the share of the GPU's peak that its kernels reach; all other rows test the model.
"""

from typing import NamedTuple

from labsupport.errors import ConfigError
from labsupport.step_time.collectives import collective_seconds
from labsupport.step_time.flops import flops_per_token
from labsupport.step_time.model import GPT, Cluster, Transformer, cluster, ring_rate, step_time

RETRIEVED = "2026-11"


class Row(NamedTuple):
    """One published run; step_seconds is what the table says, or follows from it, the batch and its FLOPs."""

    name: str
    model: Transformer
    world_size: int
    micro_batch_tokens: int
    gradient_accumulation_steps: int
    recompute: bool
    step_seconds: float

    def __str__(self):
        return f"{self.name}, {self.world_size} GPUs"


class Table(NamedTuple):
    """Runs of one publication on one cluster; `fitted` is the position of the row that fits the efficiency."""

    title: str
    source: str
    cluster: Cluster
    fitted: int
    rows: list


class Comparison(NamedTuple):
    """One row beside the model: the StepTime, and each bound over the published seconds, minus one."""

    row: Row
    step: object
    fitted: bool

    @property
    def overlapped_error(self):
        """The lower bound's signed error, everything hidden: -0.1 is 10 % too short."""
        return self.step.overlapped_seconds / self.row.step_seconds - 1

    @property
    def exposed_error(self):
        """The upper bound's signed error, nothing hidden."""
        return self.step.exposed_seconds / self.row.step_seconds - 1

    @property
    def error(self):
        """The signed error of the middle between the two bounds, which is the model's one answer."""
        return (self.overlapped_error + self.exposed_error) / 2

    @property
    def inside(self):
        """Whether the published time lies between the two bounds."""
        return self.overlapped_error <= 0 <= self.exposed_error


# MosaicML, PyTorch FSDP, FULL_SHARD, bf16, sequences of 2,048 tokens: what stage 3 does, by another program.
# (model, GPUs, micro-batch, accumulation steps, tokens a second of all GPUs), in the order of the table.
_MPT_SHAPES = {  # layers, hidden size, NumParams; up to 3b without activation checkpointing
    "70b": (80, 8192, 64862437376), "30b": (48, 7168, 29975214080), "13b": (40, 5120, 12853954560),
    "7b": (32, 4096, 6658859008), "3b": (32, 2560, 2651837440), "1b": (24, 2048, 1315950592),
    "760m": (24, 1536, 760470528), "350m": (24, 1024, 355985408), "125m": (12, 768, 125311488),
}  # fmt: skip
_MPT_RUNS = [
    ("70b", 128, 4, 1, 48194), ("70b", 64, 2, 1, 17672), ("30b", 128, 6, 1, 110803), ("30b", 32, 4, 1, 27431),
    ("13b", 128, 16, 1, 252444), ("13b", 64, 16, 1, 126479), ("13b", 32, 14, 1, 63946), ("13b", 16, 10, 1, 31900),
    ("13b", 8, 4, 16, 13347), ("7b", 128, 18, 1, 463749), ("7b", 64, 18, 1, 234614), ("7b", 32, 18, 1, 119202),
    ("7b", 16, 16, 1, 58322), ("7b", 8, 12, 4, 29436), ("3b", 128, 6, 1, 1220885), ("3b", 64, 6, 1, 623167),
    ("3b", 32, 6, 1, 317261), ("3b", 16, 5, 1, 156013), ("3b", 8, 5, 8, 80520), ("1b", 128, 10, 1, 2386897),
    ("1b", 64, 10, 1, 1216104), ("1b", 32, 10, 1, 497782), ("1b", 16, 8, 1, 305372), ("1b", 8, 8, 8, 154171),
    ("760m", 128, 12, 1, 3704382), ("760m", 64, 12, 1, 1878030), ("760m", 32, 12, 1, 948745),
    ("760m", 16, 12, 1, 473723), ("760m", 8, 12, 4, 241389), ("350m", 128, 18, 1, 6647647),
    ("350m", 64, 18, 1, 3372118), ("350m", 32, 18, 1, 1721978), ("350m", 16, 18, 1, 886622),
    ("350m", 8, 16, 4, 447963), ("125m", 128, 26, 1, 15863837), ("125m", 64, 26, 1, 8015010),
    ("125m", 32, 26, 1, 4067922), ("125m", 16, 26, 1, 2088560), ("125m", 8, 26, 3, 1090678),
]  # fmt: skip
# Narayanan et al. 2021, table 2: DeepSpeed ZeRO-3 without model parallelism, sequences of 2,048 tokens, with
# recomputation: (parameters, GPUs, micro-batch, teraFLOP/s a GPU); the batch is GPUs times micro-batch.
_ZERO3_RUNS = [
    ("174.6B", 384, 4, 144), ("174.6B", 768, 2, 88), ("174.6B", 1536, 1, 44),
    ("529.6B", 640, 4, 138), ("529.6B", 1120, 2, 98), ("529.6B", 2240, 1, 48),
]  # fmt: skip
# Bekman, all-reduce on AWS P6-B200: KiB of payload, and busbw in GB/s on one node and on four.
_ALL_REDUCE = [
    (32, 1.20, 0.01), (64, 2.17, 0.04), (128, 4.86, 0.45), (256, 9.54, 1.33), (512, 18.71, 2.84),
    (2**10, 36.06, 5.37), (2**11, 63.09, 10.38), (2**12, 76.48, 18.90), (2**13, 126.49, 35.12),
    (2**14, 254.96, 64.43), (2**15, 325.97, 91.19), (2**16, 400.60, 156.74), (2**17, 568.38, 197.94),
    (2**18, 646.11, 229.09), (2**19, 688.99, 326.90), (2**20, 723.34, 361.99), (2**21, 734.97, 372.42),
    (2**22, 740.64, 377.34), (2**23, 839.07, 380.39), (2**24, 845.67, 381.80),
]  # fmt: skip
ALL_REDUCE_SOURCE = (
    "S. Bekman, Machine Learning Engineering, network/README.md, all_reduce on 1 and 4 AWS P6-B200 nodes, "
    "https://github.com/stas00/ml-engineering"
)


def _mpt_row(name, gpus, micro_batch, accumulation, tokens_per_second):
    layers, hidden, parameters = _MPT_SHAPES[name]
    tokens = micro_batch * 2048
    seconds = tokens * accumulation * gpus / tokens_per_second
    return Row(name, Transformer(parameters, layers, hidden), gpus, tokens, accumulation, parameters > 3e9, seconds)


def _zero3_row(name, gpus, micro_batch, teraflops):
    tokens = micro_batch * 2048
    flops = tokens * flops_per_token(GPT[name], 2048, recompute=True)
    return Row(name, GPT[name], gpus, tokens, 1, True, flops / (teraflops * 1e12))


TABLES = {
    "mosaic": Table(
        "MosaicML: PyTorch FSDP on A100-40GB, 8 to 128 GPUs",
        "MosaicML, llm-foundry, MPT Training Benchmarks, A100 40GB with 1600 Gbps RoCE a node, "
        "https://github.com/mosaicml/llm-foundry/blob/main/scripts/train/benchmarking/README.md",
        cluster("A100-40GB", "HDR"),  # eight adapters of 200 Gbit/s, as RoCE
        _MPT_RUNS.index(("7b", 8, 12, 4, 29436)),
        [_mpt_row(*run) for run in _MPT_RUNS],
    ),
    "zero3": Table(
        "Narayanan et al.: DeepSpeed ZeRO-3 on A100-80GB, 384 to 2,240 GPUs",
        "Narayanan et al. 2021, table 2, https://arxiv.org/abs/2104.04473",
        cluster("A100-80GB", "HDR"),
        0,
        [_zero3_row(*run) for run in _ZERO3_RUNS],
    ),
}
# The same runs, if a collective gets one adapter of a node's eight: the rate of one GPU's own share.
TABLES["zero3, one adapter"] = TABLES["zero3"]._replace(
    cluster=TABLES["zero3"].cluster._replace(outer_bytes_per_second=TABLES["zero3"].cluster.outer_bytes_per_second / 8)
)


def table(name):
    """Return the Table called `name`; raises ConfigError for one that is not there."""
    if name not in TABLES:
        raise ConfigError(f"There is no published table {name!r}: choose one of {', '.join(TABLES)}.")
    return TABLES[name]


def fitted_efficiency(published):
    """Return the share of the GPU's peak that makes the fitted row's lower bound its published time."""
    row = published.rows[published.fitted]
    whole = _modelled(row, published.cluster._replace(compute_efficiency=1.0))
    return whole.compute_seconds / (row.step_seconds - whole.optimizer_seconds)


def compare(published):
    """Return a Comparison for every row of a Table, at the efficiency that its one fitted row gives."""
    fitted = published.cluster._replace(compute_efficiency=fitted_efficiency(published))
    return [
        Comparison(row, _modelled(row, fitted), position == published.fitted)
        for position, row in enumerate(published.rows)
    ]


def all_reduce_rows():
    """Return (bytes, GPUs, published seconds, modelled seconds) of the all-reduce table; nothing is fitted."""
    machine = cluster("B200", "NDR")  # 50 GB/s a GPU between nodes, as EFA v4 has
    rows = []
    for kibibytes, *rates in _ALL_REDUCE:
        for gpus, busbw in zip((8, 32), rates, strict=True):
            size = kibibytes * 1024
            published = 2 * (gpus - 1) / gpus * size / (busbw * 1e9)  # what busbw means
            rows.append(
                (size, gpus, published, collective_seconds("all_reduce", size, gpus, *ring_rate(machine, gpus)))
            )
    return rows


def _modelled(row, machine):
    return step_time(
        row.model, 3, machine, row.world_size, row.micro_batch_tokens, row.gradient_accumulation_steps,
        recompute=row.recompute, deepspeed_default=False,  # FSDP gathers everything twice
    )  # fmt: skip


def main():
    """Print every table with the model's two bounds beside it."""
    for name, published in TABLES.items():
        print(f"\n{name}: {published.title}; of the peak, fitted on one row: {fitted_efficiency(published):.3f}")
        for each in compare(published):
            low, high = each.step.overlapped_seconds, each.step.exposed_seconds
            mark = "fitted" if each.fitted else "inside" if each.inside else ""
            print(
                f"{each.row!s:18} published {each.row.step_seconds:8.3f} s, modelled {low:8.3f} to {high:8.3f} s "
                f"({each.overlapped_error:+.0%} to {each.exposed_error:+.0%}) {mark}"
            )
    print("\nall-reduce on B200")
    for size, gpus, seconds, modelled in all_reduce_rows():
        error = f"{modelled / seconds - 1:+.0%}"
        print(f"{size / 1024:9.0f} KiB {gpus:3} GPUs {seconds:.3e} s, modelled {modelled:.3e} s ({error})")


if __name__ == "__main__":
    main()
