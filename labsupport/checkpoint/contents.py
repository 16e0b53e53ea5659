"""What is in a checkpoint, read without running code that it may hold: the manifest, names, sizes, and plain data.

A file of torch is a pickle, and unpickling runs what the pickle says. `torch.load(weights_only=True)` takes tensors and
plain data alone; where a file holds more, it is left closed, and its name and size are what is said of it.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

from labsupport.checkpoint.manifest import files_of, read_manifest
from labsupport.errors import CheckpointError

UNKNOWN = "unknown"
ROLES = (  # of a file, by its name
    ("optimizer states and fp32 masters", re.compile(r"optim_states\.pt$")),
    ("weights and counters", re.compile(r"model_states\.pt$")),
    ("buffers", re.compile(r"^buffers_")),
    ("random states", re.compile(r"^random_states_")),
    ("files of the NVMe drive", re.compile(r"^offloaded_tensors/")),
)
RANK = re.compile(r"(?:zero_pp_rank_|_rank_|/rank)(\d+)")


@dataclass(frozen=True)
class Contents:
    """What a tag holds; a fact that cannot be read is "unknown". files: [(name, role, rank, bytes)]."""

    tag: str
    step: object
    ranks: object
    stage: object
    precision: object
    deepspeed: object
    vouched_for: bool
    files: tuple

    @property
    def total_bytes(self):
        """Return the sizes of all files together."""
        return sum(size for *_, size in self.files)


def contents_of(folder):
    """Return what is in a tag's folder."""
    folder = Path(folder)
    names = files_of(folder)
    files = tuple((name, _role(name), _rank(name), (folder / name).stat().st_size) for name in names)
    try:
        manifest = read_manifest(folder)
    except CheckpointError:
        manifest = None
    if manifest:
        facts = (manifest.step, manifest.world_size, manifest.stage, manifest.precision, manifest.versions["deepspeed"])
    else:
        facts = _facts_without_manifest(folder, names)
    return Contents(folder.name, *facts, vouched_for=manifest is not None, files=files)


def _role(name):
    return next((role for role, pattern in ROLES if pattern.search(name)), "other")


def _rank(name):
    found = RANK.search(name)
    return int(found[1]) if found else 0


def _facts_without_manifest(folder, names):
    """Step, ranks, stage, precision and version of DeepSpeed, from the first file of weights that opens safely."""
    import torch

    for name in names:
        if not name.endswith("model_states.pt"):
            continue
        try:
            states = torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError):
            continue
        config = states.get("ds_config") or {}
        on = [p for p in ("bf16", "fp16") if isinstance(config.get(p), dict) and config[p].get("enabled")]
        return (
            states.get("global_steps", UNKNOWN),
            states.get("dp_world_size", UNKNOWN),
            (config.get("zero_optimization") or {}).get("stage", 0),
            on[0] if on else "fp32",
            states.get("ds_version", UNKNOWN),
        )
    return (UNKNOWN,) * 5
