"""The {computed} blocks of the page of GPU measurements, and of every record's provenance.

    PYTHONPATH=book/_extensions python -c "import gpu_blocks; print(gpu_blocks.every_record())"

Where no GPU was measured yet a block is the sentence that says so, and how to measure one.
"""

from labsupport import gpu_records
from labsupport.gpu_records import gpu_record, not_measured, stamp
from labsupport.results import FOLDER, read_record


def every_record():
    """Every recorded measurement: the command that repeats it, the hardware, the versions, the commit and the date."""
    lines = ["| Record | Command | Hardware | torch, DeepSpeed | Commit | Date |", "|---|---|---|---|---|---|"]
    for path in sorted(FOLDER.glob("*.json")):
        record = read_record(path.stem)
        versions = f"{record['versions']['torch']}, {record['versions']['deepspeed']}"
        lines.append(
            f"| `{path.stem}` | `{record['command']}` | {record['hardware']} | {versions} | {record['commit']} "
            f"| {record['date'][:10]} |"
        )
    return "\n".join(lines)


def gpu_machine():
    """The machine of the GPU records, and its measured rates."""
    return _table("environment", gpu_records.environment_table)


def gpu_grid():
    """Stages and precisions: speed."""
    return _table("grid", gpu_records.speed_table)


def gpu_grid_speed_figure():
    """Stages and precisions: tokens per second."""
    return _figure(gpu_records.speed_by_stage("grid"))


def gpu_grid_memory_figure():
    """Stages in 16 bits: the peak by role, predicted and measured."""
    return _figure(gpu_records.memory_by_stage("grid"))


def gpu_planner():
    """The planner beside the ledger and the allocator, for the stages and for offload."""
    return "\n\n".join(_table(stage, gpu_records.memory_table) for stage in ("grid", "offload"))


def gpu_planner_settings():
    """The planner beside the ledger, for the settings that the grid leaves out."""
    return _table("memory", gpu_records.memory_table)


def gpu_frameworks():
    """Plain PyTorch, DDP, FSDP2 and ZeRO with one batch."""
    return _table("speed", gpu_records.speed_table)


def gpu_frameworks_figure():
    """The same as a figure."""
    return _figure(gpu_records.speed_by_stage("speed"))


def gpu_trainer():
    """The trainer beside a loop by hand and the Hugging Face Trainer."""
    return _table("trainer", gpu_records.trainer_table)


def gpu_offload():
    """Offload: speed and peak."""
    return _table("offload", gpu_records.speed_table)


def gpu_offload_figure():
    """Offload: the peak by role."""
    return _figure(gpu_records.memory_by_stage("offload"))


def gpu_largest():
    """The largest model per strategy."""
    return _table("largest", gpu_records.largest_table)


def gpu_scaling():
    """One GPU and several."""
    return _table("scaling", gpu_records.scaling_table)


def _table(stage, table):
    record = gpu_record(stage)
    return not_measured(stage) if record is None else f"{table(record)}\n\n{stamp(record)}"


def _figure(figure):
    return figure.text if isinstance(figure, gpu_records.Note) else figure
