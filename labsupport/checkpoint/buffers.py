"""The buffers of a rank, such as BatchNorm's running means, saved and restored: each rank has its own.

DeepSpeed sends no buffers between ranks, and at stages 0 to 2 it saves those of rank 0 alone. A rank that was not there
when they were saved gets those of rank 0.
"""

from pathlib import Path

import torch


def file_name(rank):
    """The file of a rank within a tag's folder."""
    return f"buffers_rank_{rank}.pt"


def buffers_of(module):
    """Return {name: buffer} of the buffers that a module saves in its state_dict."""
    return {
        f"{prefix}.{name}".lstrip("."): buffer
        for prefix, owner in module.named_modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None and name not in owner._non_persistent_buffers_set
    }


@torch.no_grad()
def restore_buffers(module, path):
    """Put the buffers in a file into the module; returns False where there is no such file."""
    if not Path(path).is_file():
        return False
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for name, buffer in buffers_of(module).items():
        if name in saved:
            buffer.copy_(saved[name])
    return True
