"""What this machine has, asked without torch where that is possible: a free port, libaio, GPUs, fp16.

    python -c "from labsupport.machine import gpu_count; print(gpu_count())"

A widget asks here before it starts anything, and must not wait for torch.
"""

import os
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


def gpu_count():
    """Return how many GPUs ranks may use here: 0 where DS_ACCELERATOR names another accelerator."""
    if os.environ.get("DS_ACCELERATOR", "cuda") != "cuda":
        return 0
    if not any(path for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern)):
        return 0
    import torch

    return torch.cuda.device_count()


def default_accelerator(ranks):
    """Return "cuda" where every rank gets a GPU of its own, else "cpu"."""
    return "cuda" if gpu_count() >= ranks else "cpu"


def free_gpu_bytes():
    """Return the free memory of the fullest NVIDIA GPU in bytes, as nvidia-smi says; None where it says nothing."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return min((int(line) * 2**20 for line in done.stdout.split() if line.isdigit()), default=None)


@cache
def processor_computes_fp16():
    """Return whether DeepSpeed trains fp16 on this processor: most CPUs refuse. Asks as DeepSpeed does."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
