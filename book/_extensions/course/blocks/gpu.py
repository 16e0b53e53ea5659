"""The {computed} blocks of the page of GPU measurements, and of every record's provenance.

    PYTHONPATH=book/_extensions python -c "from course.blocks import gpu; print(gpu.every_record())"

Where no GPU was measured yet a block is empty: gpu_missing says so once, and how to measure one.
"""

from course.blocks.block import block
from course.table import table
from labsupport.gpu import figures
from labsupport.gpu import tables as gpu_records
from labsupport.gpu.suites import Tier
from labsupport.gpu.tables import gpu_record, not_measured, stamp
from labsupport.machine.cards import card
from labsupport.memory.planner import plan
from labsupport.records import provenance, read_record, record_names


@block
def every_record():
    """Every recorded measurement: the command that repeats it, the hardware, the versions, the commit and the date."""
    records = {name: read_record(name) for name in record_names()}
    return "\n".join(f"- `{name}`, by `{each['command']}`: {provenance(each)}." for name, each in records.items())


PLANNED_CARDS = ("RTX 4090", "H100", "H200")


@block
def gpu_planned():
    """What `make gpu` will train on three cards, and the peaks that the planner gives its stages. Not measured."""
    rows = []
    for name in PLANNED_CARDS:
        tier = Tier(dry_run=False, ranks=1)
        tier.environment = {"memory_bytes": card(name).memory_bytes, "precision": "bf16"}
        model, micro_batch = tier.model("bf16")
        plans = [plan(model, tier.config(stage, "bf16", micro_batch)) for stage in range(4)]
        peaks = [f"{planned.peak_bytes / 2**30:.1f}" for planned in plans]
        rows.append((name, f"{model}, {micro_batch}", *peaks))
    head = ("Card", "Model, micro-batch", *(f"Stage {stage}" for stage in range(4)))
    return table(head, rows, ["left", "left"] + ["right"] * 4)


SHOWN_SUITES = ("environment", "grid", "offload", "memory", "speed", "trainer", "largest", "scaling")


@block
def gpu_missing():
    """One box for all suites that have no record yet, or nothing."""
    missing = [suite for suite in SHOWN_SUITES if gpu_record(suite) is None]
    if not missing:
        return ""
    return (
        f"```{{admonition}} Not measured yet\n{not_measured(' '.join(missing))}\n"
        "The sections of these suites hold no numbers until then.\n```\n"
    )


@block
def gpu_machine():
    """The machine of the GPU records, and its measured rates."""
    return _table("environment", gpu_records.environment_table)


@block
def gpu_grid():
    """Stages and precisions: speed."""
    return _table("grid", gpu_records.speed_table)


@block
def gpu_grid_speed_figure():
    """Stages and precisions: tokens per second."""
    return _figure(figures.speed_by_stage("grid"))


@block
def gpu_grid_memory_figure():
    """Stages in 16 bits: the peak by role, predicted and measured."""
    return _figure(figures.memory_by_stage("grid"))


@block
def gpu_planner():
    """The planner beside the ledger and the allocator, for the stages, for offload, and for the other settings."""
    tables = (_table(suite, gpu_records.memory_table) for suite in ("grid", "offload", "memory"))
    return "\n\n".join(filter(None, tables))


@block
def gpu_frameworks():
    """Plain PyTorch, DDP, FSDP2 and ZeRO with one batch."""
    return _table("speed", gpu_records.speed_table)


@block
def gpu_frameworks_figure():
    """The same as a figure."""
    return _figure(figures.speed_by_stage("speed"))


@block
def gpu_trainer():
    """The trainer beside a loop by hand and the Hugging Face Trainer."""
    return _table("trainer", gpu_records.trainer_table)


@block
def gpu_offload():
    """Offload: speed and peak."""
    return _table("offload", gpu_records.speed_table)


@block
def gpu_offload_figure():
    """Offload: the peak by role."""
    return _figure(figures.memory_by_stage("offload"))


@block
def gpu_largest():
    """The largest model per strategy."""
    return _table("largest", gpu_records.largest_table)


@block
def gpu_scaling():
    """One GPU and several."""
    return _table("scaling", gpu_records.scaling_table)


def _table(suite, table):
    record = gpu_record(suite)
    return "" if record is None else f"{table(record)}\n\n{stamp(record)}"


def _figure(figure):
    return "" if isinstance(figure, figures.Note) else figure
