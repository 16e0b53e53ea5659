"""What a resumed run takes over of the run that was saved, and what of the command line it refuses. No torch.

    manifest = manifest_to_resume("checkpoints/run")
    options = taken_over(options, given={"steps"}, manifest=manifest, world_size=4)

A checkpoint of plain DeepSpeed tells nothing of how its run was started.
"""

import argparse
from pathlib import Path

from labsupport.checkpoint.manifest import read_manifest
from labsupport.checkpoint.tags import tag_to_load, whole_tags
from labsupport.errors import CheckpointError

# What the weights, the optimizer's states and the place in the data were made with: another value is another run.
DECIDED = ("model", "precision", "seed", "lr", "sequence_length")
# How the same training is carried out.
MAY_CHANGE = ("stage", "offload", "micro_batch", "accumulation")


def manifest_to_resume(path, tag=None, fall_back=False):
    """Return the Manifest of the tag that a resumed run begins with, or None where it has none or a damaged one.

    fall_back: take that of the newest whole tag for a damaged one.
    """
    try:
        return read_manifest(Path(path, tag_to_load(path, tag)))
    except CheckpointError:  # loading tells what is wrong, on all ranks alike
        whole = whole_tags(path) if fall_back and Path(path).is_dir() else []
        return max(whole, key=lambda manifest: manifest.step, default=None)


def options_of(options, preset, precision, batch):
    """Return what a manifest keeps of the options of a run; what a config file decides is the file's own affair."""
    names = ("seed", "sequence_length") if options.config else (*DECIDED, *MAY_CHANGE)
    kept = {name: getattr(options, name) for name in names} | {"model": preset, "batch": batch}
    return kept if options.config else kept | {"precision": precision}


def taken_over(options, given, manifest, world_size):
    """Return the options of a run that goes on: what the reader did not write is as it was in the run that was saved.

    given: the names of the options that the reader wrote. Raises CheckpointError for one that cannot be another.
    """
    saved = manifest.options if manifest else {}
    chosen = dict(vars(options))
    for name in saved.keys() & set(DECIDED):
        if options.config and name not in ("model", "seed", "sequence_length"):
            continue
        if name in given and chosen[name] not in ("auto", saved[name]):
            raise CheckpointError(
                f"--{name.replace('_', '-')} is {chosen[name]}, and the run that was saved in {options.resume} has "
                f"{saved[name]}: leave it out to go on with that run, or begin another one in another folder."
            )
        chosen[name] = saved[name]
    if options.config:
        return argparse.Namespace(**chosen)
    chosen |= {name: saved[name] for name in saved.keys() & set(MAY_CHANGE) - given}
    if "micro_batch" in saved and not {"micro_batch", "accumulation"} & given:
        # The same batch on another number of ranks, where it can be cut so.
        share, rest = divmod(saved["batch"], world_size * chosen["accumulation"])
        if share and not rest:
            chosen["micro_batch"] = share
    return argparse.Namespace(**chosen)


def changes(manifest, batch, wanted_lr, lr):
    """Return a sentence about each thing that is other than the reader may think; batch: samples of a step now.

    wanted_lr and lr: the learning rate of the config and the one in force, which comes with the optimizer's states.
    """
    found = []
    saved = manifest.options.get("batch", batch) if manifest else batch
    if batch != saved:
        found.append(
            f"Note: a step has {batch} samples now and had {saved}, so the losses will not be those of the run that "
            "was saved."
        )
    if wanted_lr is not None and lr != wanted_lr:
        found.append(f"Note: the learning rate is {lr:g}, as it was saved, and not the {wanted_lr:g} of the config.")
    return found
