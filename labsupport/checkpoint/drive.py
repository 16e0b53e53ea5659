"""Optimizer states that DeepSpeed keeps on an NVMe drive: for a while as tensors that lie in their files there.

DeepSpeed 0.19.8 copies the files into a checkpoint and back, under names that another run does not have, and restores
neither the masters that are too small for the drive nor the weights (engine.py, `offloaded_tensors`). With its tensors
in reach, a run with NVMe offload saves and loads like any other, and no file is read into memory as a whole.
"""

import contextlib

import torch

from labsupport.checkpoint.collective import replaced
from labsupport.checkpoint.manifest import sync


@contextlib.contextmanager
def states_in_reach(engine):
    """Let the optimizer's tensors be their files on the drive; changes are on the drive when this ends."""
    optimizer = engine.optimizer
    if not engine.zero_nvme_offload_optimizer():
        yield
        return
    for info in _on_the_drive(optimizer):
        for each in info.tensors:
            each.compute_tensor.data = _in_file(each.swap_path, info, optimizer.optimizer_swapper)
    try:
        with replaced(optimizer, swap_optimizer=False):
            yield
    finally:
        for info in _on_the_drive(optimizer):  # with the states that came to it meanwhile
            for each in info.tensors:
                sync(each.swap_path)
            info.release_memory()


def new_row(optimizer, row, key):
    """Return a place for the optimizer's states `key` beside a row of masters: beside the row, wherever that is."""
    swapper = getattr(optimizer, "optimizer_swapper", None)
    info = swapper._get_param_swap_info(row) if swapper else None
    if info is None:
        return torch.zeros_like(row)
    # The name that DeepSpeed will look for: _get_state_tensors in runtime/swap_tensor/optimizer_utils.py.
    return _in_file(f"{info.swap_folder}/{key}-{row.ds_id}.tensor.swp", info, swapper)


def _in_file(path, info, swapper):
    """A row that lies in its file, which DeepSpeed reads in whole blocks: it is as long as its last one."""
    whole = torch.from_file(str(path), shared=True, size=swapper._io_aligned_numel(info.numel()), dtype=info.dtype())
    return whole[: info.numel()]


def _on_the_drive(optimizer):
    """DeepSpeed's record of each row that is large enough for the drive; the others stay in memory."""
    found = map(optimizer.optimizer_swapper._get_param_swap_info, optimizer.fp32_partitioned_groups_flat)
    return [info for info in found if info is not None]
