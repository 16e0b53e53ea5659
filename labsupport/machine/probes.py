"""What this machine has, asked without torch where that is possible: a free port, libaio, GPUs, fp16.

    python -c "from labsupport.machine import gpu_count; print(gpu_count())"

A widget asks here before it starts anything, and must not wait for torch.
"""

import contextlib
import ctypes
import mmap
import os
import resource
import socket
import subprocess
from functools import cache
from pathlib import Path

# What the drivers of NVIDIA, of NVIDIA under WSL, and of AMD put there; without one there is no GPU to ask torch for.
GPU_DEVICES = ("nvidia[0-9]*", "dxg", "kfd")


def free_port():
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nvme_is_available():
    """Return whether libaio and its header are installed, without which async_io cannot be compiled."""
    roots = [Path("/usr/include"), Path("/usr/local/include")]
    roots += [Path(os.environ["CONDA_PREFIX"], "include")] if "CONDA_PREFIX" in os.environ else []
    return any((root / "libaio.h").exists() for root in roots)


# What lab 06 locks on a rank: four buffers of half of ten million fp32 numbers, and room for the interpreter's own.
LOCKED_BY_LABS_BYTES = 2**27


def locking_obstacle(wanted_bytes):
    """Return "" where this process may lock that much memory, else the sentence that says why not and what to do.

    DeepSpeed 0.19.8 locks the buffers of NVMe offload with mlock, and aborts the process where that is refused
    (ops/csrc/pin_memory/deepspeed_pin_tensor.cpp). The soft limit is raised to the hard one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard == resource.RLIM_INFINITY or wanted_bytes <= hard or _can_lock(hard + resource.getpagesize()):
        return ""
    return (
        f"NVMe offload would lock {wanted_bytes / 2**20:.0f} MiB of buffers in memory, and this user may lock "
        f"{hard / 2**20:.0f} MiB: raise the limit (memlock in /etc/security/limits.conf, --ulimit memlock=-1 for a "
        "container), or offload to the CPU."
    )


def _can_lock(count):
    """Whether the kernel locks so many bytes now: for root, whatever the limit says, but not in every container."""
    libc = ctypes.CDLL(None)
    with mmap.mmap(-1, count) as memory:
        start = ctypes.c_char.from_buffer(memory)
        locked = libc.mlock(ctypes.byref(start), ctypes.c_size_t(count)) == 0
        del start  # a mapping with a view on it cannot be closed; closing it unlocks it
    return locked


def has_gpu_device():
    """Return whether a GPU's driver has put a device there, whatever torch can do with it."""
    return any(path for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern))


def gpu_count():
    """Return how many GPUs ranks may use here: 0 where DS_ACCELERATOR names another accelerator."""
    if os.environ.get("DS_ACCELERATOR", "cuda") != "cuda":
        return 0
    if not has_gpu_device():
        return 0
    import torch

    # device_count asks the driver alone, and finds GPUs that this torch is too new for.
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_name():
    """Return the name of the first GPU; there must be one."""
    import torch

    return torch.cuda.get_device_name(0)


def gpu_obstacle():
    """Return "" where ranks can use an NVIDIA GPU here, else the sentence that says why not and what to do."""
    if os.environ.get("DS_ACCELERATOR", "cuda") != "cuda":
        return f"DS_ACCELERATOR is {os.environ['DS_ACCELERATOR']!r}, so no GPU is used: unset it, or set it to cuda."
    if not has_gpu_device():
        return "No NVIDIA GPU is visible on this machine: install the driver, or go to a machine that has one."
    import torch

    if torch.cuda.is_available():
        return ""
    driver = driver_version() or "no driver that answers"
    if torch.version.cuda is None:
        return f"This torch {torch.__version__} was built without CUDA: install torch's build for CUDA."
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU: unset it, or name a GPU."
    return (
        f"This torch needs a driver for CUDA {torch.version.cuda} and there is {driver}: install a newer NVIDIA "
        "driver, or a torch that was built for an older CUDA."
    )


def driver_version():
    """Return the version of the NVIDIA driver as nvidia-smi says it; None where it says nothing."""
    return next(iter(_ask_nvidia_smi("driver_version")), None)


def default_accelerator(ranks):
    """Return "cuda" where every rank gets a GPU of its own, else "cpu"."""
    return "cuda" if gpu_count() >= ranks else "cpu"


def host_memory_bytes():
    """Return the memory of the host that this process may use: a container's limit may be below the machine's."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # cgroups 2 and 1
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def free_gpu_bytes():
    """Return the free memory of the fullest NVIDIA GPU in bytes, as nvidia-smi says; None where it says nothing."""
    return min((int(line) * 2**20 for line in _ask_nvidia_smi("memory.free") if line.isdigit()), default=None)


def _ask_nvidia_smi(what):
    """What nvidia-smi says of every GPU, a line each, in its own units; nothing where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def can_write(folder):
    """Return whether that folder is there, or can be made, and can be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK)
    except OSError:
        return False


@cache
def processor_computes_fp16():
    """Return whether DeepSpeed trains fp16 on this processor: most CPUs refuse. Asks as DeepSpeed does."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
