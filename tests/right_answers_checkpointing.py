"""Right answers to the exercises of lab 05, each written differently from the lab's own solution."""

RIGHT = {
    "05-save-load": (
        """def save(engine, folder, batches_read):
    engine.save_checkpoint(folder, tag="resume", client_state={"mine": {"position": batches_read}})

def load(engine, folder):
    path, state = engine.load_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    return state["mine"]["position"]

save_and_load = [save, load]""",
        """import json
from pathlib import Path

import torch

def save(engine, folder, batches_read):
    engine.save_checkpoint(folder)
    if torch.distributed.get_rank() == 0:
        Path(folder, "position.json").write_text(json.dumps(batches_read))
    torch.distributed.barrier()

def load(engine, folder):
    position = json.loads(Path(folder, "position.json").read_text())
    engine.load_checkpoint(folder)
    return position

save_and_load = save, load""",
        """import os

class Run:
    @staticmethod
    def save(engine, folder, batches_read):
        return engine.save_checkpoint(folder, client_state=dict(position=batches_read))

    @staticmethod
    def load(engine, folder):
        if not os.path.isfile(os.path.join(folder, "latest")):
            raise FileNotFoundError
        return engine.load_checkpoint(load_dir=folder)[1]["position"]

save_and_load = (Run.save, Run.load)""",
    ),
    "05-save-best": (
        """import torch

def save_if_better(engine, folder, loss, best):
    losses = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(losses, loss)
    mean = sum(losses) / len(losses)
    if mean >= best:
        return best
    engine.save_checkpoint(folder, tag="best")
    return mean""",
        """import deepspeed
import torch

def save_if_better(engine, folder, loss, best):
    mean = torch.tensor([loss / engine.world_size], device=engine.device)
    deepspeed.comm.all_reduce(mean)
    better = mean.item() < best
    if better:
        engine.save_checkpoint(save_dir=folder, client_state={"best_mean": mean.item()})
    return min(best, mean.item())""",
        """import torch

def save_if_better(engine, folder, loss, best):
    told = [loss if torch.distributed.get_rank() == 0 else None]
    own = torch.tensor(loss, dtype=torch.float64)
    torch.distributed.reduce(own, dst=0)
    torch.distributed.broadcast(own, src=0)
    own = float(own) / 2
    if own < best:
        engine.save_checkpoint(folder)
        best = own
    return best""",
    ),
    "05-client-state": (
        'not_safe = ["module", "global_steps", "global_samples", "optimizer", "lr_scheduler", "data_sampler"]',
        """own = "epoch best_loss my_state tokens_seen".split()
keys = ["epoch", "module", "global_steps", "optimizer", "best_loss", "data_sampler", "lr_scheduler", "my_state",
        "global_samples", "tokens_seen"]
not_safe = {key for key in keys if key not in own}""",
        """not_safe = frozenset(
    ("global_samples", "global_steps", "lr_scheduler", "module", "data_sampler", "optimizer")
)""",
    ),
    "05-other-ranks": (
        """import sys

def to_other_ranks(checkpoint, tag, target):
    flags = f"--inject_missing_state --input_folder {checkpoint}/{tag} --output_folder {target}/{tag}"
    return [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *flags.split()], {
        "checkpoint": {"load_universal": True}
    }""",
        """import sys
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

def to_other_ranks(checkpoint, tag, target):
    command = (sys.executable, Path(ds_to_universal.__file__), "--input_folder", Path(checkpoint, tag),
               "--output_folder", Path(target, "start"), "--inject_missing_state", "--num_extract_workers", "1")
    return command, dict(checkpoint=dict(load_universal=True))""",
        """import sys

def to_other_ranks(checkpoint, tag, target):
    program = "import sys; from deepspeed.checkpoint import ds_to_universal as d; d.main(d.parse_arguments())"
    folders = [f"--input_folder={checkpoint}/{tag}", f"--output_folder={target}/{tag}"]
    return [[sys.executable, "-c", program, "--inject_missing_state", *folders],
            {"checkpoint": {"load_universal": True, "tag_validation": "Warn"}}]""",
    ),
}
