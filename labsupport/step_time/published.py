"""Steps that others published, beside the step-time model. Cited, not measured here. No torch.

    python -m labsupport.step_time.published          # every row, with the model's error

The rows stand in published.toml, with their sources. A few of them are fitted, by one rule: every
seventh row, from the first on, of llm-foundry's tables of H100 and of A100-40GB, the longest sequence on H200 and on
B200, and one more step of B200. All other rows test the model.
"""

import functools
import math
import statistics
import tomllib
from pathlib import Path
from typing import NamedTuple

from labsupport.errors import ConfigError
from labsupport.models import shape_named
from labsupport.step_time import nccl
from labsupport.step_time.collectives import Traffic
from labsupport.step_time.flops import flops_per_token
from labsupport.step_time.machines import Cluster, cluster
from labsupport.step_time.model import step_time
from labsupport.step_time.transformer import GPT, Transformer

CITED = tomllib.loads((Path(__file__).parent / "published.toml").read_text())
RETRIEVED = CITED["retrieved"]
OTHER_SOURCES = [CITED[name]["source"] for name in ("all_reduce", "core_binding")]
EVERY = 7  # the rule: which rows of a table are fitted
MPT_VOCABULARY = 50368
DDP_BUCKET_BYTES = 25e6  # nanotron's ddp_bucket_cap_mb, of 16-bit gradients


class Row(NamedTuple):
    """One published run; step_seconds is what the table says, or follows from it, the batch and its FLOPs."""

    name: str
    model: Transformer
    stage: int
    world_size: int
    micro_batch_tokens: int
    gradient_accumulation_steps: int
    sequence_length: int
    recompute: bool
    step_seconds: float
    options: dict  # the rest of step_time's

    def __str__(self):
        return f"{self.name}, {self.world_size:,} GPUs"

    def modelled(self, machine):
        """Return the StepTime of this run on a Cluster."""
        return step_time(
            self.model, self.stage, machine, self.world_size, self.micro_batch_tokens,
            self.gradient_accumulation_steps, sequence_length=self.sequence_length, recompute=self.recompute,
            **self.options,
        )  # fmt: skip


class Table(NamedTuple):
    """Runs of one publication on one cluster; `fitted` holds the positions of the rows that constants are fitted on."""

    title: str
    source: str
    cluster: Cluster
    rows: list
    fitted: frozenset = frozenset()


class Comparison(NamedTuple):
    """One row beside the model: the StepTime, and whether the row was fitted."""

    row: Row
    step: object
    fitted: bool

    @property
    def error(self):
        """The signed error of what is expected: -0.1 is 10 % too short."""
        return self.step.expected_seconds / self.row.step_seconds - 1

    @property
    def inside(self):
        """Whether the published time lies between the two bounds."""
        return self.step.overlapped_seconds <= self.row.step_seconds <= self.step.exposed_seconds


def _fsdp_rows(runs):
    """PyTorch FSDP: a gathering and a reduce-scatter for each block, and a second gathering with full sharding."""
    shapes = CITED["llm_foundry"]["shapes"]
    for name, sequence, gpus, micro_batch, steps, tokens_per_second, mode, sharding, recompute, parameters in runs:
        layers, hidden = shapes[name]
        gatherings = 2 if sharding == "FULL" else 1
        reduced = parameters * (4 if mode == "DEFAULT" else 2)
        sent = [
            Traffic("all_gather", 2 * gatherings * parameters, steps, gatherings * layers),
            Traffic("reduce_scatter", reduced, steps, layers),
        ]
        tokens = micro_batch * sequence
        model = Transformer(parameters, layers, hidden, MPT_VOCABULARY)
        yield Row(
            name if sequence == 2048 else f"{name}, {sequence:,} tokens", model, 3, gpus, tokens, steps,
            sequence, recompute, tokens * steps * gpus / tokens_per_second, {"sent": sent},
        )  # fmt: skip


def _nanotron_rows():
    """nanotron: fp32 sums, which DDP's buckets all-reduce at stage 0 and reduce-scatter at stage 1; then one gather."""
    shapes = CITED["ultrascale"]["shapes"]
    for name, gpus, micro_batch, steps, stage, tokens_per_second in CITED["ultrascale"]["rows"]:
        model = Transformer(*shapes[name])
        buckets = math.ceil(2 * model.parameters / DDP_BUCKET_BYTES)
        sent = [Traffic("reduce_scatter" if stage else "all_reduce", 4 * model.parameters, 1, buckets)]
        if stage:
            sent.append(Traffic("all_gather", 2 * model.parameters, 1, 1))
        tokens = 4096 * micro_batch
        yield Row(
            f"{name}, stage {stage}, {micro_batch} x {steps}", model, stage, gpus, tokens, steps, 4096, False,
            tokens * steps / tokens_per_second, {"sent": sent, "sum_bytes": 4},
        )  # fmt: skip


def _bekman_rows(column):
    shape = shape_named("llama-3.1-8b")
    model = Transformer(shape.parameters, shape.layers, shape.hidden_size, shape.vocabulary)
    # His count: 6 for each parameter of a matrix and token, causal attention at half, no recomputation.
    matrices = model.parameters - shape.vocabulary * shape.hidden_size  # the embedding is looked up
    for tokens, stage, *teraflops in CITED["bekman"]["rows"]:
        flops = 6 * matrices * tokens + 6 * tokens**2 * shape.query_size * shape.layers
        heavy = {"offload": "cpu"} if stage == 3 else {}
        yield Row(
            f"{tokens:,} tokens, stage {stage}", model, stage, 8, tokens, 1, tokens, stage == 3,
            flops / (teraflops[column] * 1e12), heavy,
        )  # fmt: skip


def _example_rows():
    model = Transformer(6_860_000_000, 32, 4096, 50257)
    for name, seconds in CITED["deepspeed_example"]["rows"]:
        yield Row(name, model, 3, 4, 512, 1, 512, True, seconds, {})


def _zero3_rows():
    for name, gpus, micro_batch, teraflops in CITED["zero3"]["rows"]:
        tokens = micro_batch * 2048
        flops = tokens * flops_per_token(GPT[name], 2048, recompute=True)
        options = {"deepspeed_default": False}  # the DeepSpeed of 2021 gathered everything twice
        yield Row(name, GPT[name], 3, gpus, tokens, 1, 2048, True, flops / (teraflops * 1e12), options)


@functools.cache
def tables():
    """Return {name: Table}: the runs that others published, with the cluster that the model has them on."""
    foundry, ultrascale, bekman, zero3 = (
        CITED[name]["source"] for name in ("llm_foundry", "ultrascale", "bekman", "zero3")
    )
    runs = {name: list(_fsdp_rows(CITED["llm_foundry"][name])) for name in ("h100", "a100_40gb", "a100_80gb")}
    every = {name: frozenset(range(0, len(rows), EVERY)) for name, rows in runs.items()}
    h200, b200 = (list(_bekman_rows(column)) for column in (0, 1))
    longest = len(h200) - 1
    selene = cluster("A100-80GB", "HDR")
    one_adapter = selene._replace(outer_bytes_per_second=selene.outer_bytes_per_second / 8)
    return {
        "h100": Table("MosaicML: FSDP on H100", foundry, cluster("H100", "NDR"), runs["h100"], every["h100"]),
        "a100-40gb": Table(
            "MosaicML: FSDP on A100-40GB", foundry, cluster("A100-40GB", "HDR"), runs["a100_40gb"], every["a100_40gb"]
        ),
        "a100-80gb": Table("MosaicML: FSDP on A100-80GB", foundry, cluster("A100-80GB", "HDR"), runs["a100_80gb"]),
        "ultrascale": Table(
            "Ultra-Scale Playbook: nanotron on H100", ultrascale, cluster("H100", "EFA p5"), list(_nanotron_rows())
        ),
        "h200": Table("Bekman: DeepSpeed on H200", bekman, cluster("H200", "NDR"), h200, frozenset([longest])),
        "b200": Table("Bekman: DeepSpeed on B200", bekman, cluster("B200", "NDR"), b200, frozenset([0, longest])),
        "example": Table(
            "DeepSpeed's bf16 example on H100", CITED["deepspeed_example"]["source"], cluster("H100", "NDR"),
            list(_example_rows()),
        ),
        "zero3": Table("Narayanan et al.: DeepSpeed on A100-80GB", zero3, selene, list(_zero3_rows())),
        # The same runs, if a collective gets one adapter of a node's eight: the rate of one GPU's own share.
        "zero3, one adapter": Table(
            "Narayanan et al., one adapter", zero3, one_adapter, list(_zero3_rows())
        ),
    }  # fmt: skip


def table(name):
    """Return the Table called `name`; raises ConfigError for one that is not there."""
    if name not in tables():
        raise ConfigError(f"There is no published table {name!r}: choose one of {', '.join(tables())}.")
    return tables()[name]


def compare(published):
    """Return a Comparison for every row of a Table."""
    return [
        Comparison(row, row.modelled(published.cluster), position in published.fitted)
        for position, row in enumerate(published.rows)
    ]


def median_and_worst(comparisons):
    """Return the median of the errors without their signs, and the error that is furthest from 0, with its sign."""
    errors = [each.error for each in comparisons]
    return statistics.median(map(abs, errors)), max(errors, key=abs)


def all_reduce_rows():
    """Return (bytes, GPUs, published seconds, modelled seconds) of the all-reduce table; nothing is fitted."""
    machine = cluster("B200", "EFA p6-b200")
    rows = []
    for kibibytes, *rates in CITED["all_reduce"]["rows"]:
        for gpus, busbw in zip((8, 32), rates, strict=True):
            size = kibibytes * 1024
            published = 2 * (gpus - 1) / gpus * size / (busbw * 1e9)  # what busbw means
            rows.append((size, gpus, published, nccl.choice("all_reduce", size, gpus, machine).seconds))
    return rows


def main():
    """Print every table with what the model expects beside it."""
    for name, published in tables().items():
        print(f"\n{name}: {published.title}")
        for each in compare(published):
            marks = [word for word, on in (("fitted", each.fitted), ("outside", each.step.outside)) if on]
            print(
                f"{each.row!s:42} published {each.row.step_seconds:8.3f} s, "
                f"expected {each.step.expected_seconds:8.3f} s ({each.error:+.0%}) {' '.join(marks)}"
            )
    print("\nall-reduce on B200")
    for size, gpus, seconds, modelled in all_reduce_rows():
        error = f"{modelled / seconds - 1:+.0%}"
        print(f"{size / 1024:9.0f} KiB {gpus:3} GPUs {seconds:.3e} s, modelled {modelled:.3e} s ({error})")


if __name__ == "__main__":
    main()
