"""What a ds_config means for memory and communication, with DeepSpeed 0.19.8's own defaults filled in. No torch.

    read_settings({"train_micro_batch_size_per_gpu": 4, "bf16": {"enabled": True},
                   "zero_optimization": {"stage": 3}}, world_size=8)

The defaults are those of deepspeed/runtime/zero/config.py; tests/test_settings.py compares them with the
installed DeepSpeed.
"""

import functools
import json
from typing import NamedTuple

from labsupport.config import validate_config
from labsupport.doctor.case import BATCH_KEYS, Case
from labsupport.doctor.rules.precision import dtype_of

BYTES_OF = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Adam and its kin keep two numbers a parameter beside the master weight, Lion and Adagrad one. DeepSpeed takes its own
# names in any case of letters.
STATES_OF = {"Adam": 2, "AdamW": 2, "Lion": 1, "Adagrad": 1, "Lamb": 2}
OWN_NAMES = {name.lower(): name for name in STATES_OF}


class Settings(NamedTuple):
    """One config on one number of ranks. Sizes of buckets and thresholds are in elements, as DeepSpeed counts them."""

    stage: int = 0
    world_size: int = 1
    precision: str = "fp32"
    accumulation_dtype: str = "fp32"  # in which gradients are added up; by default the precision
    master_bytes: int = 4  # a master weight
    state_bytes: int = 4  # one of the optimizer's states
    states: int | None = 2  # how many of them a parameter has; None: unknown, of an optimizer not in STATES_OF
    optimizer: str = "AdamW"
    torch_adam: bool | None = None  # None: left open, and the machine decides
    micro_batch_size: int = 1
    accumulation_steps: int = 1
    offload_optimizer: str = "none"
    offload_param: str = "none"
    pin_memory: bool = True
    gradient_clipping: float = 1.0
    reduce_bucket_size: int = 500_000_000
    allgather_bucket_size: int = 500_000_000
    overlap_comm: bool = False
    multi_rank_allreduce: bool = True
    reduce_scatter: bool = True
    sub_group_size: int = 1_000_000_000
    prefetch_bucket_size: int = 50_000_000
    persistence_threshold: int = 100_000
    max_live_parameters: int = 1_000_000_000
    max_reuse_distance: int = 1_000_000_000
    memory_efficient_linear: bool = True  # stage 3: F.linear is DeepSpeed's own, which keeps its input always
    parameter_buffers: int = 5  # offload_param.buffer_count, for NVMe
    parameter_buffer_size: int = 100_000_000
    parameter_nvme_path: str | None = None
    optimizer_buffers: int = 4  # offload_optimizer.buffer_count, for NVMe
    optimizer_nvme_path: str | None = None
    not_described: tuple = ()  # what is in force and in no field here, in words: the planner plans without it

    @property
    def parameter_bytes(self):
        """Bytes of a parameter that the model computes with."""
        return BYTES_OF[self.precision]

    @property
    def accumulation_bytes(self):
        """Bytes of an accumulated gradient."""
        return BYTES_OF[self.accumulation_dtype]

    @property
    def offloads_on_cpu(self):
        """Whether the optimizer's states live outside the accelerator."""
        return self.offload_optimizer != "none"


def read_settings(config, world_size=None):
    """Return what a ds_config means on `world_size` ranks, as DeepSpeed reads it; raises ConfigError where it refuses.

    Without world_size it follows from a complete batch triple, else it is 1.
    """
    try:
        text = json.dumps(config)
    except (TypeError, ValueError, RecursionError):  # a dict of Python's own, with a dtype in it, say
        return _settings(config, world_size)
    return _settings_of_text(text, world_size)


@functools.lru_cache(maxsize=4096)
def _settings_of_text(text, world_size):
    """The selector's table asks for one config with every model and card: it is read once."""
    return _settings(json.loads(text), world_size)


def _settings(config, world_size):
    validate_config(config, world_size, silent=False)
    if world_size is None:
        batch, micro, steps = (config.get(key) for key in BATCH_KEYS)
        world_size = int(batch // (micro * steps)) if batch and micro and steps else 1
        validate_config(config, world_size, silent=False)
    case = Case(config, world_size)
    zero, low = case.zero, case.bf16.bf16_master_weights_and_grads or case.fp16.fp16_master_weights_and_grads
    blocks = zip(case.offload_in_force, (zero.offload_optimizer, zero.offload_param), strict=True)
    to_optimizer, to_parameters = (block if device != "none" else None for device, block in blocks)
    values = {
        "stage": int(case.stage),
        "world_size": world_size,
        "precision": case.precision,
        "accumulation_dtype": dtype_of(case.block("data_types").get("grad_accum_dtype")) or case.precision,
        "master_bytes": 2 if low else 4,
        "state_bytes": 2 if case.bf16.bf16_optimizer_states else 4,
        "states": _states(case),
        "optimizer": OWN_NAMES.get(case.optimizer, case.block("optimizer").get("type") or "AdamW"),
        "torch_adam": case.optimizer_params.get("torch_adam"),
        "micro_batch_size": _whole(case.batch.micro),
        "accumulation_steps": _whole(case.batch.steps),
        "offload_optimizer": case.offload_in_force[0],
        "offload_param": case.offload_in_force[1],
        "pin_memory": (to_optimizer or to_parameters).pin_memory if to_optimizer or to_parameters else True,
        "gradient_clipping": case.value("gradient_clipping"),
        "multi_rank_allreduce": zero.use_multi_rank_bucket_allreduce,
        "persistence_threshold": zero.param_persistence_threshold,
        **{name: getattr(zero, name) for name in _OF_THE_SAME_NAME},
        "not_described": tuple(_not_described(case)),
    }
    if to_parameters:
        values |= {"parameter_buffers": to_parameters.buffer_count, "parameter_buffer_size": to_parameters.buffer_size,
                   "parameter_nvme_path": _path(to_parameters)}  # fmt: skip
    if to_optimizer:
        values |= {"optimizer_buffers": to_optimizer.buffer_count, "optimizer_nvme_path": _path(to_optimizer)}
    return Settings(**values)


_OF_THE_SAME_NAME = ("reduce_bucket_size", "allgather_bucket_size", "overlap_comm", "reduce_scatter", "sub_group_size",
                     "prefetch_bucket_size", "max_live_parameters", "max_reuse_distance",
                     "memory_efficient_linear")  # fmt: skip


def _path(block):
    return None if block.nvme_path is None else str(block.nvme_path)


def _whole(size):
    """A size of the batch as a number of samples; DeepSpeed reckons with 2.0 as well."""
    return int(size)


def _states(case):
    if case.optimizer is None:
        return STATES_OF["AdamW"]
    if case.optimizer == "SGD":
        return 1 if case.optimizer_params.get("momentum") else 0
    return STATES_OF.get(OWN_NAMES.get(case.optimizer))


def _not_described(case):
    """What changes what a rank holds or sends, and has no field in Settings, as a person would name it."""
    zero, offload = case.zero, case.zero.offload_optimizer
    if case.stage == 3 and zero.zero_hpz_partition_size > 1:
        yield f"hpZ (zero_hpz_partition_size {zero.zero_hpz_partition_size})"
    if case.stage == 3 and zero.zero_quantized_weights:
        yield "quantized weights (zero_quantized_weights)"
    if case.stage == 3 and zero.zero_quantized_gradients:
        yield "quantized gradients (zero_quantized_gradients)"
    if case.tensor_parallel.autotp_size > 1:
        yield f"tensor parallelism (autotp_size {case.tensor_parallel.autotp_size})"
    if case.config.get("sequence_parallel_size", 1) not in (0, 1, None):
        yield f"sequence parallelism (sequence_parallel_size {case.config['sequence_parallel_size']})"
    if case.block("expert_parallel").get("enabled"):
        yield "expert parallelism (expert_parallel)"
    if case.stage and zero.zenflow is not None:
        yield "ZenFlow (zenflow)"
    if case.stage == 3 and offload and offload.device != "none" and offload.ratio < 1:
        yield f"partial offload (ratio {offload.ratio:g})"
    if case.stage == 3 and offload and offload.super_offload:
        yield "SuperOffload (super_offload)"
    if case.block("torch_autocast").get("enabled"):
        yield "torch_autocast"
    if case.parsed("compile").deepcompile:
        yield "DeepCompile (compile.deepcompile)"


FP32 = 4
# DeepSpeed writes NVMe files in pieces of this many bytes a rank, and its buffers alike: runtime/swap_tensor/utils.py.
NVME_ALIGNMENT_BYTES = 1024


def nvme_buffer_bytes(share, s):
    """Return the bytes of the pinned host buffers through which NVMe offload reads and writes.

    share: the elements of a rank's part of the model. The optimizer's: offload_optimizer.buffer_count of the largest
    sub-group in fp32; the parameters': offload_param.buffer_count times buffer_size (runtime/swap_tensor,
    optimizer_utils.py and partitioned_param_swapper.py).
    """
    optimizer = parameters = 0
    if s.offload_optimizer == "nvme":
        optimizer = s.optimizer_buffers * aligned(min(share, s.sub_group_size) * FP32)
    if s.offload_param == "nvme":
        parameters = s.parameter_buffers * aligned(s.parameter_buffer_size * s.parameter_bytes)
    return optimizer + parameters


def aligned(count):
    """Return a number of bytes rounded up to what DeepSpeed's NVMe files are made of."""
    return -(-count // NVME_ALIGNMENT_BYTES) * NVME_ALIGNMENT_BYTES
