"""The text that the labs train on: the source code of Python's own standard library.

Every reader has it, so nothing is downloaded: some ten megabytes of real code, read as bytes, one token a byte.
"""

import itertools
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

# Distributions ship or leave out these, so that they would make the text differ between machines.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo",
            "tkinter", "ensurepip", "distutils", "pydoc_data", "__pycache__"}  # fmt: skip


@cache
def standard_library_bytes():
    """Return the modules of the standard library, in name order, as one bytes object."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if not LEFT_OUT & set(path.relative_to(root).parts)
        and path.relative_to(root).parts[0].removesuffix(".py") in sys.stdlib_module_names
        and not path.name.startswith("_sysconfigdata")
    ]
    return b"\n".join(path.read_bytes() for path in files)


class ByteWindows(Dataset):
    """Windows of `sequence_length` bytes: {"input_ids", "labels"}, each int64 of shape (sequence_length,).

    split: "train" is the first nine tenths of the text, "validation" the rest. The labels equal the inputs:
    transformers shifts them by one itself.
    """

    def __init__(self, sequence_length=128, split="train"):
        text = standard_library_bytes()
        border = len(text) * 9 // 10
        part = text[:border] if split == "train" else text[border:]
        windows = len(part) // sequence_length
        self.bytes = torch.frombuffer(bytearray(part[: windows * sequence_length]), dtype=torch.uint8)
        self.bytes = self.bytes.view(windows, sequence_length)

    def __len__(self):
        return len(self.bytes)

    def __getitem__(self, index):
        window = self.bytes[index].long()
        return {"input_ids": window, "labels": window.clone()}


def text_loader(micro_batch_size, rank=0, world_size=1, sequence_length=128, split="train", seed=0, samples=None):
    """Return a DataLoader over this rank's share of the text, in micro-batches.

    The ranks together read, step by step, the same samples as one rank with a micro-batch world_size times
    as large. samples: how many windows of the split to use, over all ranks; None means all.
    """
    data = ByteWindows(sequence_length, split)
    if samples is not None:
        data = torch.utils.data.Subset(data, range(min(samples, len(data))))
    sampler = DistributedSampler(data, world_size, rank, shuffle=split == "train", seed=seed, drop_last=True)
    # Pinned batches travel to a GPU while it computes.
    return DataLoader(data, micro_batch_size, sampler=sampler, drop_last=True, pin_memory=_trains_on_gpu())


def _trains_on_gpu():
    return os.environ.get("DS_ACCELERATOR", "cuda") == "cuda" and torch.cuda.is_available()


def endless_batches(loader):
    """Yield the loader's batches epoch after epoch, each epoch in its own order."""
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        yield from loader
