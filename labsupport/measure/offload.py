"""MEASURED: a few steps with states off the accelerator: who holds what, which Adam runs, what lies on a drive.

trained(config)              # on every rank: losses, bytes by place, the optimizer's class
drive_run(folder)            # the same training with the optimizer on the host and on a drive
"""

import contextlib
import io
import itertools
import os
from pathlib import Path

import torch

from labsupport.config import create_deepspeed_config, create_offload_config, merge_configs
from labsupport.corpus import text_loader
from labsupport.measure.ledger import held_by_place
from labsupport.models import build_model, count_parameters
from labsupport.trainer import DeepSpeedTrainer

STEPS, SEQUENCE_LENGTH, LARGER = 3, 64, "10m"


def lab_config(stage, precision, world_size, offload=None):
    """Return the config that these runs share, with an offload fragment laid over it."""
    config = create_deepspeed_config(
        stage=stage,
        precision=precision,
        world_size=world_size,
        train_batch_size=2 * world_size,
        gradient_clipping=0.0,
        bucket_size=10_000,
    )
    return merge_configs(config, offload or {})


def trained(config, model="1m"):
    """Train a few steps on this rank and return what it then has; every rank must call it.

    {"losses", "places": {place: {role: bytes}} at rest, "adam": the optimizer's class, "masters on" and "weights on":
    the devices' types, "buffers": [bytes of each swap buffer]}.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # the choice of the optimizer is in the report
        trainer = DeepSpeedTrainer(build_model(model), config)
    batches = text_loader(2, trainer.rank, torch.distributed.get_world_size(), SEQUENCE_LENGTH)
    losses = [trainer.train_step(batch) for batch in itertools.islice(batches, STEPS)]
    engine = trainer.engine
    zero = engine.optimizer
    masters = getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups
    weights = [getattr(p, "ds_tensor", p) for p in engine.module.parameters() if not getattr(p, "ds_persist", False)]
    swapper = getattr(zero, "optimizer_swapper", None)
    report = {
        "losses": losses,
        "places": held_by_place(engine, everything=False),
        "adam": type(engine.basic_optimizer).__name__,
        "masters on": masters[0].device.type,
        "weights on": weights[0].device.type,
        "buffers": [buffer.nbytes for buffer in swapper.swap_buffer_manager.all_buffers] if swapper else [],
    }
    engine.destroy()
    return report


def drive_run(folder, precision, world_size):
    """Train with the optimizer on the host and in files below `folder`; every rank must call it, with one folder.

    Returns {"parameters", "host", "drive": what `trained` gives, "files": [(name, bytes)] of all ranks, "larger":
    {place: losses} of a larger model in fp32, "gradient files": how many of those it has on the drive}.
    """
    places = {"accelerator": {}, "host": create_offload_config(True, offload_device="cpu")}
    for name in ("drive", "larger"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
        places[name] = create_offload_config(True, offload_device="nvme", nvme_path=f"{folder}/{name}")
    found = {place: trained(lab_config(3, precision, world_size, places[place])) for place in ("host", "drive")}
    files = sorted(Path(folder, "drive").rglob("*.swp"))
    larger = {
        place: trained(lab_config(3, "fp32", world_size, places[where]), LARGER)["losses"]
        for place, where in (("accelerator", "accelerator"), ("host", "host"), ("drive", "larger"))
    }
    return {
        "parameters": count_parameters(build_model("1m")),
        **found,
        "files": [(f"{path.parent.name}/{path.name}", path.stat().st_size) for path in files],
        "larger": larger,
        "gradient files": sum("gradient" in path.name for path in Path(folder, "larger").rglob("*")),
    }
