"""From a model and a config to a DeepSpeed engine, under any launcher or none, on the hardware that is here.

DeepSpeed's own errors for a reader's mistake come late, deep and long. This module looks first and says in
one sentence what this machine cannot do.
"""

import atexit
import contextlib
import copy
import io
import logging
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from labsupport.config import (
    config_precision,
    offload_devices,
    read_config,
    validate_config,
    zero_stage,
)
from labsupport.errors import ConfigError, TrainingError
from labsupport.machine import (
    LOCKED_BY_LABS_BYTES,
    free_port,
    gpu_obstacle,
    has_gpu_device,
    locking_obstacle,
    nvme_is_available,
)
from labsupport.model_states import nvme_buffer_bytes, shares_of
from labsupport.op_builds import clear_stale_lock, prepare_op_builds
from labsupport.settings import read_settings

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Machine:
    """What this machine runs the labs on, and why; `print(machine)` is the sentence for the page."""

    accelerator: str  # "cuda" or "cpu", DeepSpeed's name
    device: str  # the GPU's or the processor's name
    devices: int  # GPUs, or processor cores on a machine without
    precision: str  # "bf16", or "fp16" on a GPU too old for bf16
    fused_adam: bool
    fused_adam_reason: str
    nvme: bool  # whether DeepSpeed's async_io can be compiled here, and its buffers locked
    nvme_reason: str

    def __str__(self):
        count = f"{self.devices} x {self.device}" if self.accelerator == "cuda" else f"{self.devices} CPU cores"
        adam = "FusedAdam" if self.fused_adam else "torch AdamW"
        nvme = "yes" if self.nvme else "no"
        return f"{count}, accelerator {self.accelerator}, {self.precision}, {adam}, NVMe offload: {nvme}"


def describe_machine():
    """Return the Machine that this process sees: accelerator, precision and optimizer that run here."""
    accelerator = _accelerator()
    name = accelerator.device_name()
    prepare_op_builds(name)
    no_nvme = _nvme_obstacle(name, LOCKED_BY_LABS_BYTES)
    fused, reason = _fused_adam(name)
    on_gpu = name == "cuda"
    if not on_gpu and "DS_ACCELERATOR" not in os.environ and has_gpu_device():
        _say_once(f"Note: the ranks run on the processor. {gpu_obstacle()}")
    return Machine(
        accelerator=name,
        device=torch.cuda.get_device_name(0) if on_gpu else platform.processor() or platform.machine(),
        devices=torch.cuda.device_count() if on_gpu else len(os.sched_getaffinity(0)),
        precision="fp16" if on_gpu and not _gpu_computes_bf16() else "bf16",
        fused_adam=fused,
        fused_adam_reason=reason,
        nvme=not no_nvme,
        nvme_reason=no_nvme,
    )


def initialize_deepspeed(model, config, optimizer=None):
    """Return (engine, optimizer, dataloader, lr_scheduler), as `deepspeed.initialize` does.

    model: a torch module, whole on every rank. config: a dict, or the path of a JSON file. optimizer: a torch
    optimizer over the model's parameters, or None for the one that the config names. Works under the
    deepspeed launcher, under torchrun, on a rank of `start_ranks`, and with no launcher as one rank.

    Adam that the config leaves open becomes FusedAdam where that compiles, else torch's AdamW, and rank 0
    prints which. Raises ConfigError for a config that cannot work, TrainingError for what this machine
    lacks: fp16 on most CPUs, a GPU for each rank, libaio for NVMe, a free port, a compiler.
    """
    config = copy.deepcopy(config) if isinstance(config, dict) else read_config(config)
    validate_config(config)
    start_distributed()
    world_size = torch.distributed.get_world_size()
    validate_config(config, world_size)
    _check_precision_runs_here(config)
    _check_client_optimizer(config, optimizer)
    _check_offload_runs_here(config, model)
    if optimizer is None:
        choose_adam(config)

    import deepspeed

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        engine, wrapped, dataloader, scheduler = deepspeed.initialize(
            model=model, model_parameters=trainable, optimizer=optimizer, config=config
        )
    except Exception as error:
        raise _one_sentence(error) from error
    return engine, wrapped, dataloader, scheduler


def start_distributed():
    """Join the process group that the launcher describes, or make one of a single rank; twice is harmless."""
    if torch.distributed.is_initialized():
        import deepspeed

        quiet_deepspeed()
        deepspeed.init_distributed(verbose=False)  # somebody else made the group: let DeepSpeed know of it
        return
    given = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if not given:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )
    elif len(given) < len(LAUNCHER_VARIABLES):
        missing = [name for name in LAUNCHER_VARIABLES if name not in given]
        raise TrainingError(
            f"The launcher set {', '.join(given)} but not {', '.join(missing)}: set all five, or none for one rank."
        )
    accelerator = _accelerator()
    prepare_op_builds(accelerator.device_name())
    local_rank, world_size = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    if accelerator.device_name() == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise TrainingError(
                f"Local rank {local_rank} has no GPU: this machine shows {torch.cuda.device_count()}; start that many "
                "ranks, or set DS_ACCELERATOR=cpu to run the ranks on the processor."
            )
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Ranks that each take every core slow each other down many times over.
        torch.set_num_threads(
            max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
        )

    import deepspeed

    quiet_deepspeed()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it found an op that it compiled before
            deepspeed.init_distributed(verbose=False)
    except torch.distributed.DistError as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise TrainingError(
                f"Port {os.environ['MASTER_PORT']} is already in use on this machine: choose another with "
                "--master_port."
            ) from error
        raise TrainingError(
            f"No answer from the first rank at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: check the "
            "address, the port and the firewall between the nodes."
        ) from error
    atexit.register(_leave_process_group)


def quiet_deepspeed():
    """Leave DeepSpeed's warnings and errors on the page, and its hundreds of information lines off it."""
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls names that torch 2.13 is about to rename: nothing a reader can do about it.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.distributed\.")


def _accelerator():
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would choose too, after a warning
    from deepspeed.accelerator import get_accelerator

    return get_accelerator()


def _nvme_obstacle(accelerator_name, locked_bytes):
    """Return "" where NVMe offload can lock that many bytes of buffers and run, else why not and what to do.

    For GPUs DeepSpeed 0.19.8 compiles async_io with CUDA's headers (op_builder/async_io.py).
    """
    from torch.utils.cpp_extension import CUDA_HOME

    if not nvme_is_available():
        return "NVMe offload needs libaio with its header: install the package libaio-dev."
    if accelerator_name == "cuda" and CUDA_HOME is None:
        return (
            f"NVMe offload from a GPU needs the CUDA toolkit to compile async_io: install {torch.version.cuda} and set "
            "CUDA_HOME to it."
        )
    return locking_obstacle(locked_bytes)


def _gpu_computes_bf16():
    """Whether the GPU has bf16 arithmetic: a Turing GPU says that it supports bf16, and emulates it, slowly."""
    return torch.cuda.get_device_capability()[0] >= 8


def _fused_adam(accelerator_name):
    """Whether to use DeepSpeed's FusedAdam here, and why not."""
    if accelerator_name != "cuda":
        return False, "there is no GPU to compile FusedAdam for"
    return _fused_adam_on_cuda()


@cache
def _fused_adam_on_cuda():
    from deepspeed.ops.op_builder import FusedAdamBuilder
    from deepspeed.ops.op_builder.builder import assert_no_cuda_mismatch, installed_cuda_version
    from torch.utils.cpp_extension import _get_build_directory

    if torch.version.cuda is None:
        return False, "this torch was built without CUDA"
    prepare_op_builds("cuda")
    clear_stale_lock("fused_adam")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what it accepts, it says at length
            toolkit = installed_cuda_version("fused_adam")
    except Exception:  # no CUDA_HOME, or no nvcc in it: each DeepSpeed release has a class of its own for it
        return False, (
            f"FusedAdam needs nvcc: install the CUDA toolkit {torch.version.cuda} and set CUDA_HOME to have it"
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            assert_no_cuda_mismatch("fused_adam")
    except Exception:  # the check says it at length; what is behind it was asked above
        return False, _toolkit_mismatch(toolkit, torch.version.cuda)
    folder = Path(_get_build_directory("fused_adam", verbose=False))
    if not list(folder.glob("*.so")):
        print("Compiling DeepSpeed's FusedAdam, once for this machine: up to two minutes ...", flush=True)
    try:
        # A toolkit that matches can still fail to compile: only a loaded op is known to work.
        with contextlib.redirect_stdout(io.StringIO()):
            FusedAdamBuilder().load(verbose=False)
    except Exception as error:  # whatever the compiler or DeepSpeed said
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return False, f"FusedAdam does not compile ({first[:200]}); ninja -v in {folder} shows why"
    return True, ""


def _toolkit_mismatch(toolkit, cuda_of_torch):
    """The sentence for an nvcc of another version than torch's CUDA, with the way out that applies.

    toolkit: (major, minor). cuda_of_torch: "13.0".
    """
    versions = f"nvcc is {toolkit[0]}.{toolkit[1]} and torch was built with CUDA {cuda_of_torch}"
    install = f"install the CUDA toolkit {cuda_of_torch} and set CUDA_HOME to it"
    if str(toolkit[0]) == cuda_of_torch.split(".")[0]:
        return f"{versions}: set DS_SKIP_CUDA_CHECK=1, because only the minor version differs, or {install}"
    return f"{versions}: {install}"


def choose_adam(config):
    block = config.get("optimizer", {})
    settings = block.setdefault("params", {}) if block else {}
    if block.get("type", "").lower() not in ("adam", "adamw") or "torch_adam" in settings:
        return
    if offload_devices(config)[0] != "none":
        return  # DeepSpeed takes its own CPU Adam for offloaded states
    fused, reason = _fused_adam(_accelerator().device_name())
    if not fused:
        settings["torch_adam"] = True
    if torch.distributed.get_rank() == 0:
        _say_once(f"Optimizer: {'DeepSpeed FusedAdam' if fused else f'torch AdamW: {reason}'}.")


@cache
def _say_once(sentence):
    print(sentence, flush=True)


def _check_precision_runs_here(config):
    accelerator = _accelerator()
    if config_precision(config) == "fp16" and not accelerator.is_fp16_supported():
        raise ConfigError(
            f"fp16 does not run on this accelerator ({accelerator.device_name()}): build the config with "
            'precision="bf16".'
        )
    on_gpu = accelerator.device_name() == "cuda"
    if config_precision(config) == "bf16" and on_gpu and not _gpu_computes_bf16():
        raise ConfigError(
            f"bf16 is only emulated on this GPU ({torch.cuda.get_device_name(0)}): build the config with "
            'precision="fp16".'
        )
    if config_precision(config) == "bf16" and not accelerator.is_bf16_supported():
        raise ConfigError(
            f"bf16 does not run on this accelerator ({accelerator.device_name()}): build the config with "
            'precision="fp16".'
        )


def _check_client_optimizer(config, optimizer):
    if optimizer is None or zero_stage(config) == 0:
        return
    name = type(optimizer).__name__
    if offload_devices(config)[0] != "none" and config.get("zero_force_ds_cpu_optimizer", True):
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        from deepspeed.ops.lion import DeepSpeedCPULion

        if not isinstance(optimizer, DeepSpeedCPUAdam | DeepSpeedCPULion):
            raise ConfigError(
                f"The optimizer {name} cannot step on states offloaded to the CPU: pass "
                "deepspeed.ops.adam.DeepSpeedCPUAdam, or name the optimizer in the config and pass none."
            )
    if not config.get("zero_allow_untested_optimizer"):
        from deepspeed.runtime.zero.utils import is_zero_supported_optimizer

        if not is_zero_supported_optimizer(optimizer):
            raise ConfigError(
                f"DeepSpeed has not tested ZeRO with the optimizer {name}: use Adam or AdamW, or add "
                "'zero_allow_untested_optimizer': true to the config."
            )


def _check_offload_runs_here(config, model):
    zero = config.get("zero_optimization", {})
    for key in ("offload_optimizer", "offload_param"):
        block = zero.get(key) or {}
        if block.get("device") != "nvme":
            continue
        if reason := _nvme_obstacle(_accelerator().device_name(), _nvme_buffer_bytes(config, model)):
            raise TrainingError(reason)
        path = Path(block["nvme_path"])
        try:
            path.mkdir(parents=True, exist_ok=True)
            writable = os.access(path, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise TrainingError(f"{key}.nvme_path {path} cannot be written: name a folder that you own.")


def _nvme_buffer_bytes(config, model):
    """The buffers that NVMe offload will lock on this rank; 0 for an optimizer that the planner does not know."""
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters()]
    try:
        settings = read_settings(config, torch.distributed.get_world_size())
    except ConfigError:
        return 0
    return nvme_buffer_bytes(shares_of(sizes, settings), settings)


def _one_sentence(error):
    """Turn what deepspeed.initialize raised into the sentence for it, or into its own first line."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            f"{out_of_gpu_memory()} while DeepSpeed set up: take a smaller model, a higher stage or offload."
        )
    if "extra_forbidden" in text or type(error).__name__ == "ValidationError":
        details = [
            f"{'.'.join(map(str, item['loc']))} ({item['msg'].lower()}, value {item['input']!r})"
            for item in getattr(error, "errors", list)()
        ]
        return ConfigError(f"DeepSpeed refuses in this config: {'; '.join(details) or text}: mend or delete that key.")
    if type(error).__name__ in ("CUDAMismatchException", "MissingCUDAException") or "CUDA_HOME" in text:
        reason = _fused_adam(_accelerator().device_name())[1]
        return TrainingError(
            f"DeepSpeed cannot compile its CUDA ops here ({reason}): mend that, or take an optimizer without a CUDA "
            'op, as "torch_adam": true in the optimizer\'s params does.'
        )
    if "Error building extension" in text or "Ninja is required" in text or "ninja" in text.lower():
        return TrainingError(
            "DeepSpeed could not compile one of its ops: run `make ops` to see the compiler's own message; a C++ "
            "compiler (package g++), ninja and Python's headers (package python3-dev) are needed."
        )
    first_line = text.strip().splitlines()[0] if text.strip() else "no message"
    return TrainingError(f"deepspeed.initialize failed with {type(error).__name__}: {first_line}")


def out_of_gpu_memory():
    """Return the beginning of the sentence for a GPU that is full: which one, how much it has, how much we held."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    most = torch.cuda.max_memory_allocated()
    return (
        f"The GPU ({properties.name}, {properties.total_memory / 2**30:.1f} GiB) ran out of memory, with "
        f"{most / 2**30:.1f} GiB held at most,"
    )


def end_rank(status):
    """End this process with that exit status, once its output is written and the process group is left.

    Without the interpreter's own shutdown: a thread of gloo or DeepSpeed that still lets go of a tensor then
    aborts the process now and then ("terminate called without an active exception"), and a finished run fails.
    """
    _leave_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave_process_group():
    if torch.distributed.is_initialized():
        with contextlib.suppress(Exception):  # the interpreter is going: nothing can be done about a lost peer
            torch.distributed.destroy_process_group()
        time.sleep(0.2)  # lets the threads named in end_rank finish, where a reader's own script ends by itself
