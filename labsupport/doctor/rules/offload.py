"""Offload: of optimizer states and parameters, to the host and to NVMe, ZenFlow and SuperOffload."""

from labsupport.doctor.blocks import OldAndNew
from labsupport.doctor.findings import COST, ERROR, INITIALIZE, NOTE, PARSE, SILENT, STEP, rule
from labsupport.doctor.rules.names import shown

ZERO = "zero_optimization"
ENGINE = "runtime/engine.py, DeepSpeedEngine._configure_zero_optimizer"
NVME_ALONE = ("buffer_count", "buffer_size", "max_in_cpu", "pipeline_read", "pipeline_write", "fast_init")


def _blocks(case):
    """[(path as written, block)] of the two offload blocks that are there, whichever spelling they have."""
    found = []
    for name, old in (("offload_optimizer", "cpu_offload"), ("offload_param", "cpu_offload_param")):
        block = getattr(case.zero, name)
        if block is not None:
            found.append(((ZERO, name if name in case.written(ZERO) else old), name, block))
    return found


@rule("offload-without-device", SILENT, "runtime/zero/offload_config.py, device = none")
def without_device(case):
    for path, _, _block in _blocks(case):
        written = case.written(ZERO).get(path[-1])
        if isinstance(written, dict) and "device" not in written:
            yield path, f"{path[-1]} names no device, and DeepSpeed then offloads nothing", 'add "device": "cpu"'


@rule("offload-at-stage-0", SILENT, "runtime/engine.py, DeepSpeedEngine._configure_optimizer")
def at_stage_0(case):
    if case.stage == 0:
        for path, name, block in _blocks(case):
            if block.device != "none" and name == "offload_optimizer":
                yield (
                    path,
                    f"{path[-1]} at stage 0 is silently ignored by DeepSpeed, because nothing is partitioned",
                    "use stage 1, 2 or 3",
                )


@rule("offloaded-parameters-below-3", SILENT, ENGINE)
def parameters_below_3(case):
    for path, name, block in _blocks(case):
        if name == "offload_param" and block.device != "none" and case.stage != 3:
            yield (
                path,
                f"{path[-1]} needs stage 3, where parameters are partitioned; at stage {case.stage} DeepSpeed "
                "offloads none",
                f"use stage 3 or leave {path[-1]} out",
            )


@rule("nvme-below-3", SILENT, ENGINE)
def nvme_below_3(case):
    for path, name, block in _blocks(case):
        if name == "offload_optimizer" and block.device == "nvme" and case.stage in (1, 2):
            yield (
                (*path, "device"),
                f"{path[-1]}.device 'nvme' needs stage 3; at stage {case.stage} DeepSpeed keeps the states in "
                "CPU memory and writes no file",
                "use stage 3 or device 'cpu'",
            )


@rule("nvme-without-path", ERROR, "runtime/swap_tensor/partitioned_optimizer_swapper.py", INITIALIZE)
def nvme_without_path(case):
    for path, _, block in _blocks(case):
        if block.device == "nvme" and case.stage == 3 and not (block.nvme_path and str(block.nvme_path)):
            yield (
                path,
                f"{path[-1]}.device is 'nvme' without nvme_path, which ends in a TypeError",
                "name a folder on the NVMe drive",
            )


@rule("nvme-settings-without-nvme", SILENT, "runtime/zero/stage3.py, _configure_tensor_swapping")
def nvme_settings(case):
    for path, _, block in _blocks(case):
        written = case.written(ZERO).get(path[-1])
        if not isinstance(written, dict) or block.device != "cpu":
            continue
        for key in NVME_ALONE:
            if key in written and getattr(block, key) != type(block).model_fields[key].default:
                yield (
                    (*path, key),
                    f"{key} is {shown(written[key])}, which DeepSpeed reads for device 'nvme' alone",
                    "delete it",
                )


@rule("aio-without-nvme", SILENT, "runtime/zero/stage3.py, aio_config")
def aio(case):
    writes = case.block("checkpoint.writer")
    if case.block("aio") and (case.stage != 3 or "nvme" not in case.offload) and not writes:
        yield (
            ("aio",),
            "aio is about files on NVMe, and nothing is offloaded there",
            "delete it, or use device 'nvme' at stage 3",
        )


@rule("partial-offload", ERROR, "runtime/zero/config.py, DeepSpeedZeroConfig.offload_ratio_check", PARSE)
def partial(case):
    for _, error in case.errors:
        if not isinstance(error, OldAndNew) and error["type"] == "partial-offload":
            yield (
                (ZERO, "offload_optimizer", "ratio"),
                "offload_optimizer.ratio is below 1, which DeepSpeed takes at stage 3 alone",
                "set stage 3, or leave ratio out",
            )


@rule("ratio-of-whole-groups", NOTE, "runtime/zero/stage3.py, _create_fp32_partitions (offload_ratio)")
def ratio(case):
    block = case.zero.offload_optimizer
    if case.stage == 3 and block and block.device == "cpu" and 0 < block.ratio < 1 and not _one_group(case):
        yield (
            (ZERO, "offload_optimizer", "ratio"),
            f"the first int({1 - block.ratio:g} x groups) sub-groups of sub_group_size elements stay on the GPU, "
            "so that a rank with one group keeps nothing there",
            "set sub_group_size to a small part of a rank's parameters",
        )


def _one_group(case):
    share = case.parameters / (case.world_size or 1) if case.parameters else None
    return share is not None and share <= case.zero.sub_group_size


@rule("ratio-without-effect", SILENT, "runtime/zero/stage3.py, _create_fp32_partitions (offload_ratio)")
def ratio_without_effect(case):
    block = case.zero.offload_optimizer
    if case.stage == 3 and block and block.device == "cpu" and 0 < block.ratio < 1 and _one_group(case):
        yield (
            (ZERO, "offload_optimizer", "ratio"),
            f"a rank's parameters are one sub-group, since sub_group_size is {case.zero.sub_group_size}, and "
            f"int({1 - block.ratio:g} x 1) of it, which is none, stays on the GPU",
            "set sub_group_size to a small part of a rank's parameters",
        )


@rule("ratio-needs-cpu-adam", ERROR, "runtime/zero/stage3.py, DeepSpeedZeroOptimizer_Stage3.__init__", INITIALIZE)
def ratio_needs_cpu_adam(case):
    block = case.zero.offload_optimizer
    partial = case.stage == 3 and block and block.device != "none" and block.ratio < 1
    is_cpu_adam = case.optimizer in ("adam", "adamw", None) and not case.optimizer_params.get("torch_adam")
    if partial and not is_cpu_adam:
        yield (
            (ZERO, "offload_optimizer", "ratio"),
            "a ratio below 1 needs DeepSpeed's CPU Adam, and the config names another optimizer",
            "name AdamW without torch_adam, or leave ratio out",
        )


@rule("super-offload-below-3", SILENT, ENGINE)
def super_below_3(case):
    block = case.zero.offload_optimizer
    if block and block.super_offload and case.stage != 3:
        yield (
            (ZERO, "offload_optimizer", "super_offload"),
            f"super_offload is of stage 3, and at stage {case.stage} DeepSpeed offloads as without it",
            "set stage 3, or delete it",
        )


@rule("super-offload-needs-cuda", ERROR, "runtime/superoffload/superoffload_stage3.py", INITIALIZE)
def super_needs_cuda(case):
    block = case.zero.offload_optimizer
    if block and block.super_offload and case.stage == 3 and case.accelerator == "cpu":
        yield (
            (ZERO, "offload_optimizer", "super_offload"),
            "super_offload needs an NVIDIA GPU, and DeepSpeed refuses it on a processor",
            "delete it",
        )


@rule("unpinned-offload", COST, "runtime/zero/offload_config.py, pin_memory")
def unpinned(case):
    for path, _, block in _blocks(case):
        if block.device != "none" and not block.pin_memory and case.stage:
            yield (
                (*path, "pin_memory"),
                "pin_memory is false, and copies to and from the host are slower and overlap with nothing",
                "leave it out, unless the host's memory cannot be locked",
            )


@rule("offload-with-torch-adam", COST, "runtime/engine.py, DeepSpeedEngine.get_optimizer_configuration")
def torch_adam(case):
    if (
        case.offload[0] != "none"
        and case.stage
        and case.optimizer in ("adam", "adamw")
        and case.optimizer_params.get("torch_adam")
        and case.zero.zenflow is None
    ):
        yield (
            ("optimizer", "params", "torch_adam"),
            "torch_adam is on, and the offloaded states are stepped by torch's AdamW, several times slower than "
            "DeepSpeed's CPU Adam",
            "leave it out",
        )


@rule("zenflow", ERROR, "runtime/zenflow/zenflow_config.py, ZenFlowConfig.validate_fields", PARSE)
def zenflow_values(case):
    for path, error in case.errors:
        if not isinstance(error, OldAndNew) and error["type"] == "zenflow":
            yield path, f"DeepSpeed refuses the block zenflow: {error['msg']}", "mend it"


@rule("zenflow-needs-offload", ERROR, "runtime/zenflow/zenflow_stage_1_and_2.py", INITIALIZE)
def zenflow_needs_offload(case):
    if case.zero.zenflow is None or case.stage not in (1, 2):
        return
    if case.offload[0] == "none":
        yield (
            (ZERO, "zenflow"),
            "zenflow needs the optimizer on the CPU, and nothing is offloaded",
            'add "offload_optimizer": {"device": "cpu"}',
        )
    elif case.optimizer in ("adam", "adamw") and case.optimizer_params.get("torch_adam"):
        yield (ZERO, "zenflow"), "zenflow needs DeepSpeed's CPU Adam, and torch_adam is on", "delete torch_adam"


@rule("zenflow-intervals", ERROR, "runtime/zenflow/engine.py, configure_zenflow", INITIALIZE)
def zenflow_intervals(case):
    block = case.zero.zenflow
    if block is None:
        return
    if block.select_strategy == "auto":
        if isinstance(block.select_interval, int):
            yield (
                (ZERO, "zenflow", "select_interval"),
                "select_interval is a number beside select_strategy auto, which DeepSpeed refuses",
                'write "select_strategy": "step"',
            )
    elif isinstance(block.select_interval, str):
        yield (
            (ZERO, "zenflow"),
            f"select_strategy is {block.select_strategy}, and select_interval is no number, which DeepSpeed refuses",
            "give select_interval",
        )
    elif (
        block.select_strategy == "step"
        and isinstance(block.update_interval, int)
        and 0 != block.select_interval < block.update_interval
    ):
        yield (
            (ZERO, "zenflow", "select_interval"),
            f"select_interval {block.select_interval} is below update_interval {block.update_interval}, which "
            "DeepSpeed refuses",
            "make it at least as large",
        )


@rule("zenflow-at-stage-0", ERROR, "runtime/zenflow/engine.py, is_zenflow_update_boundary", STEP)
def zenflow_at_stage_0(case):
    if case.zero.zenflow is not None and case.stage == 0:
        yield (
            (ZERO, "zenflow"),
            "zenflow at stage 0 ends in an AttributeError at the first step",
            "set stage 2 and offload the optimizer to the CPU, or delete it",
        )
