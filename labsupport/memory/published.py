"""GPU runs that others published, beside the planner. Cited, not measured here, and never fitted to. No torch.

    python -m labsupport.memory.published         # every row, planned beside published

What a row states differs: bytes that PyTorch had allocated, which is what the planner counts; bytes that its allocator
had reserved from the driver, or that the driver saw, which are more; or that a run went through on a card.
"""

from typing import NamedTuple

from labsupport.machine.cards import card
from labsupport.memory.planner import Plan, plan
from labsupport.memory.room import ALLOWANCE_BYTES
from labsupport.shapes import Shape, shape_of

GIB = 2**30
ALLOCATED, RESERVED, DRIVER, RAN = "allocated", "reserved", "seen by the driver", "it ran on"


class Row(NamedTuple):
    """One published figure and the Plan of that run; gibibytes is the published figure."""

    name: str
    moment: str  # "at rest" or "peak"
    counts: str  # ALLOCATED, RESERVED, DRIVER or RAN
    gibibytes: float
    planned: Plan

    @property
    def planned_gibibytes(self):
        """What the planner says of it; for RAN with what CUDA and NCCL take beside it."""
        held = self.planned.place_bytes(self.moment, "GPU")
        return (held + (ALLOWANCE_BYTES if self.counts == RAN else 0)) / GIB

    @property
    def error(self):
        """The plan's signed error: -0.1 is 10 % too little. None where the figure is only an upper bound."""
        return self.planned_gibibytes / self.gibibytes - 1 if self.counts == ALLOCATED else None


class Table(NamedTuple):
    """The runs of one publication."""

    title: str
    source: str
    rows: list


def _bf16_example():
    """DeepSpeedExamples' training/bf16_master_weight: a model of its own, planned as a GPT-2 with an untied head."""
    shape = Shape("gpt2", 32, 4096, 32, 512, 4 * 4096, 50257, tied=False)
    zero = {"stage": 3, "reduce_bucket_size": 5 * 10**7, "stage3_param_persistence_threshold": 0, "overlap_comm": True}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, "bf16": {"enabled": True}}
    low = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    autocast = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    runs = (
        ("fp32 masters", config, 25.74, 31.38),
        ("bf16 masters and states, autocast", config | {"bf16": low} | autocast, 16.17, 18.93),
    )
    for name, each, rest, peak in runs:
        planned = plan(shape, each, world_size=4, activation_checkpointing=True)
        yield Row(name, "at rest", ALLOCATED, rest, planned)
        yield Row(name, "peak", ALLOCATED, peak, planned)


def _llama(tokens, world_size=8, **choices):
    """Llama 3.1 8B, one sample a rank, with positions enough."""
    shape = shape_of("llama-3.1-8b")._replace(longest_sequence=tokens)
    return plan(shape, world_size=world_size, precision="bf16", **choices)


def _bekman():
    yield Row("8,192 tokens, stage 2, all kept", "peak", RESERVED, 99, _llama(8192, stage=2, overlap_comm=True))
    liger = _llama(8192, stage=2, overlap_comm=True, liger=True)
    yield Row("8,192 tokens, stage 2, all kept, Liger", "peak", RESERVED, 80, liger)
    for tokens, peak in ((8, 16.3), (32, 25.8), (64, 37.5), (128, 66.5), (192, 95.7), (256, 124.5)):
        planned = _llama(
            1024 * tokens,
            stage=3,
            offload_optimizer="cpu",
            overlap_comm=True,
            activation_checkpointing=True,
            liger=True,
        )
        yield Row(f"{1024 * tokens:,} tokens, stage 3, optimizer on the host, Liger", "peak", RESERVED, peak, planned)


def _snowflake():
    offload = {"stage": 3, "offload_optimizer": "cpu", "activation_checkpointing": True}
    alone = offload | {"offload_param": "cpu", "world_size": 1}
    h100 = card("H100").memory_bytes / GIB
    yield Row("8 H100, 32,000 tokens", "peak", RAN, h100, _llama(32_000, **offload))
    yield Row("1 H100, 36,000 tokens, parameters on the host", "peak", RAN, h100, _llama(36_000, **alone))
    yield Row("1 H200, 65,000 tokens, parameters on the host", "peak", DRIVER, 137.36, _llama(65_000, **alone))
    with_liger = _llama(300_000, **alone, liger=True)
    yield Row("1 H200, 300,000 tokens, parameters on the host, Liger", "peak", DRIVER, 134.96, with_liger)


def tables():
    """Return {name: Table}, planned anew."""
    return {
        "bf16": Table(
            "DeepSpeed's own example: 6.9 billion parameters on 4 H100, sequences of 512",
            "https://github.com/deepspeedai/DeepSpeedExamples/tree/master/training/bf16_master_weight, README, configs "
            "and train.py; a vocabulary of 50,257 is assumed",
            list(_bf16_example()),
        ),
        "bekman": Table(
            "S. Bekman: Llama 3.1 8B on 8 H200",
            "https://github.com/stas00/ml-engineering, insights/when-to-upgrade-gpus, 2026-08, with benchmark.py; "
            "max_memory_reserved of the worst rank",
            list(_bekman()),
        ),
        "snowflake": Table(
            "Snowflake, Arctic long sequence training: Llama 3.1 8B on H100 and H200",
            "https://github.com/snowflakedb/ArcticTraining, projects/sequence-parallelism; arXiv 2506.13996",
            list(_snowflake()),
        ),
    }


def main():
    """Print every table with the plan beside it."""
    for published in tables().values():
        print(f"\n{published.title}")
        for row in published.rows:
            error = "" if row.error is None else f" ({row.error:+.1%})"
            print(
                f"  {row.name}, {row.moment}: published {row.gibibytes:.2f} GiB {row.counts}, "
                f"planned {row.planned_gibibytes:.2f}{error}"
            )


if __name__ == "__main__":
    main()
