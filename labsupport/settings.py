"""What a ds_config means for memory and communication, with DeepSpeed 0.19.8's own defaults filled in. No torch.

    read_settings({"train_micro_batch_size_per_gpu": 4, "bf16": {"enabled": True},
                   "zero_optimization": {"stage": 3}}, world_size=8)

The defaults are those of deepspeed/runtime/zero/config.py; tests/test_settings.py compares them with the
installed DeepSpeed.
"""

from typing import NamedTuple

from labsupport.config import config_precision, offload_devices, zero_stage
from labsupport.config_checks import (
    BATCH_KEYS,
    half_precision_blocks,
    require_number,
    require_positive_integer,
    validate_config,
)
from labsupport.errors import ConfigError

BYTES_OF = {"fp32": 4, "fp16": 2, "bf16": 2}
# Adam and its kin keep two numbers a parameter beside the master weight, Lion and Adagrad one.
STATES_OF = {"Adam": 2, "AdamW": 2, "Lion": 1, "Adagrad": 1, "Lamb": 2}


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
    parameter_buffers: int = 5  # offload_param.buffer_count, for NVMe
    parameter_buffer_size: int = 100_000_000
    parameter_nvme_path: str | None = None
    optimizer_buffers: int = 4  # offload_optimizer.buffer_count, for NVMe
    optimizer_nvme_path: str | None = None

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
    """Check a ds_config on `world_size` ranks and return its Settings; raises ConfigError as validate_config does.

    Without world_size it follows from a complete batch triple, else it is 1.
    """
    validate_config(config, world_size)
    zero, data_types = config.get("zero_optimization", {}), config.get("data_types", {})
    batch, micro, steps = (config.get(key) for key in BATCH_KEYS)
    if world_size is None:
        world_size = batch // (micro * steps) if batch and micro and steps else 1
    require_positive_integer("world_size", world_size)
    steps = steps or (batch // (micro * world_size) if batch and micro else 1)
    micro = micro or batch // (steps * world_size)
    if not micro or not steps:
        raise ConfigError(
            f"train_batch_size {batch} is too small for {world_size} ranks: give at least one sample a rank and step."
        )
    precision, stage = config_precision(config), zero_stage(config)
    half = half_precision_blocks(config).get(precision, {})
    optimizer = config.get("optimizer") or {}
    name, parameters = optimizer.get("type", "AdamW"), optimizer.get("params") or {}
    optimizer_offload, parameter_offload = zero.get("offload_optimizer") or {}, zero.get("offload_param") or {}
    low = any(half.get(key) for key in ("bf16_master_weights_and_grads", "fp16_master_weights_and_grads"))
    of_optimizer, of_parameters = offload_devices(config)
    _check_low_precision(stage, low, bool(half.get("bf16_optimizer_states")), of_optimizer)
    values = {
        "stage": stage,
        "world_size": world_size,
        "precision": precision,
        "accumulation_dtype": data_types.get("grad_accum_dtype") or precision,
        "master_bytes": 2 if low else 4,
        "state_bytes": 2 if half.get("bf16_optimizer_states") else 4,
        "optimizer": name,
        "torch_adam": parameters.get("torch_adam"),
        "micro_batch_size": micro,
        "accumulation_steps": steps,
        "offload_optimizer": of_optimizer,
        "offload_param": of_parameters,
        "pin_memory": optimizer_offload.get("pin_memory", parameter_offload.get("pin_memory", True)),
        "gradient_clipping": config.get("gradient_clipping"),
        "overlap_comm": zero["overlap_comm"] if zero.get("overlap_comm") is not None else stage == 3,
        "parameter_buffers": parameter_offload.get("buffer_count"),
        "parameter_buffer_size": parameter_offload.get("buffer_size"),
        "parameter_nvme_path": parameter_offload.get("nvme_path"),
        "optimizer_buffers": optimizer_offload.get("buffer_count"),
        "optimizer_nvme_path": optimizer_offload.get("nvme_path"),
        **{field: zero.get(key) for field, key in _ZERO_KEYS.items()},
    }
    elements = {"reduce_bucket_size", "allgather_bucket_size", "sub_group_size", *_STAGE_3_KEYS}
    given = {key: value for key, value in values.items() if value is not None}
    given = {key: _elements(_ZERO_KEYS[key], value) if key in elements else value for key, value in given.items()}
    return Settings(states=_states(name, parameters), **given)


_STAGE_3_KEYS = ("prefetch_bucket_size", "persistence_threshold", "max_live_parameters", "max_reuse_distance")
_ZERO_KEYS = {
    "reduce_bucket_size": "reduce_bucket_size",
    "allgather_bucket_size": "allgather_bucket_size",
    "multi_rank_allreduce": "use_multi_rank_bucket_allreduce",
    "reduce_scatter": "reduce_scatter",
    "sub_group_size": "sub_group_size",
    "prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "persistence_threshold": "stage3_param_persistence_threshold",
    "max_live_parameters": "stage3_max_live_parameters",
    "max_reuse_distance": "stage3_max_reuse_distance",
}


def _elements(key, value):
    """Return a number of elements as DeepSpeed's parser takes it: 5e8 and "500000000" are 500000000, 1.5 is refused."""
    count = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    require_number(key, count, 1 if key == "reduce_bucket_size" else 0, what="whole number of elements")
    if count != int(count):
        raise ConfigError(f"{key} is {value!r}: give a whole number of elements.")
    return int(count)


def _check_low_precision(stage, masters, states, offload_optimizer):
    """DeepSpeed's own rules: runtime/config.py and base_optimizer.py, _configure_master_weights."""
    if (masters or states) and stage == 0:
        raise ConfigError("Low-precision master weights need stage 1, 2 or 3, and the stage is 0: choose one of those.")
    if states and not masters:
        raise ConfigError("bf16_optimizer_states is on alone: turn bf16_master_weights_and_grads on as well.")
    if masters and not states and offload_optimizer != "cpu":
        raise ConfigError(
            "16-bit master weights with fp32 optimizer states need the optimizer on the CPU, and offload_optimizer is "
            f"{offload_optimizer!r}: use device 'cpu', or bf16_optimizer_states."
        )


def _states(name, parameters):
    if name == "SGD":
        return 1 if parameters.get("momentum") else 0
    return STATES_OF.get(name)


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
