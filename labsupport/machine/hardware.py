"""Which accelerator, precision, optimizer and offload this machine gets, and why.

    python -c "from labsupport import describe_machine; print(describe_machine())"

labsupport.machine answers what can be asked without torch; labsupport.engine trains with what is found here.
"""

import contextlib
import io
import logging
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from labsupport.machine.op_builds import prepare_op_builds, without_stale_locks
from labsupport.machine.probes import (
    LOCKED_BY_LABS_BYTES,
    gpu_obstacle,
    has_gpu_device,
    locking_obstacle,
    nvme_is_available,
)

# With a CUDA compiler and no GPU, a torch for CUDA warns in each process that no CUDA runtime is found, when DeepSpeed
# asks it for the compiler: what the ranks run on is said by describe_machine, once.
logging.getLogger("torch.utils.cpp_extension").addFilter(lambda record: "No CUDA runtime" not in str(record.msg))


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
    # Asked first: with no GPU that torch can use, accelerator() chooses the processor as if the reader had.
    unused_gpu = gpu_obstacle() if has_gpu_device() and "DS_ACCELERATOR" not in os.environ else ""
    name = accelerator().device_name()
    prepare_op_builds(name)
    no_nvme = nvme_obstacle(name, LOCKED_BY_LABS_BYTES)
    fused, reason = fused_adam(name)
    on_gpu = name == "cuda"
    if unused_gpu:
        say_once(f"Note: the ranks run on the processor. {unused_gpu}")
    return Machine(
        accelerator=name,
        device=torch.cuda.get_device_name(0) if on_gpu else platform.processor() or platform.machine(),
        devices=torch.cuda.device_count() if on_gpu else len(os.sched_getaffinity(0)),
        precision="fp16" if on_gpu and not gpu_computes_bf16() else "bf16",
        fused_adam=fused,
        fused_adam_reason=reason,
        nvme=not no_nvme,
        nvme_reason=no_nvme,
    )


def accelerator():
    """Return DeepSpeed's accelerator object; the processor's where torch has no other."""
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what DeepSpeed would choose too, after a warning
    from deepspeed.accelerator import get_accelerator

    return get_accelerator()


def nvme_obstacle(accelerator_name, locked_bytes):
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


def gpu_computes_bf16():
    """Whether the GPU has bf16 arithmetic: a Turing GPU says that it supports bf16, and emulates it, slowly."""
    return torch.cuda.get_device_capability()[0] >= 8


def fused_adam(accelerator_name):
    """Whether to use DeepSpeed's FusedAdam here, and why not."""
    if accelerator_name != "cuda":
        return False, "the ranks run on the processor, and FusedAdam is for GPUs"
    return _fused_adam_on_cuda()


@cache
def _fused_adam_on_cuda():
    from deepspeed.ops.op_builder import FusedAdamBuilder
    from deepspeed.ops.op_builder.builder import assert_no_cuda_mismatch, installed_cuda_version
    from torch.utils.cpp_extension import _get_build_directory

    if torch.version.cuda is None:
        return False, "this torch was built without CUDA"
    prepare_op_builds("cuda")
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
        with contextlib.redirect_stdout(io.StringIO()), without_stale_locks():
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


@cache
def say_once(sentence):
    """Print a sentence, the first time that it is said."""
    print(sentence, flush=True)
