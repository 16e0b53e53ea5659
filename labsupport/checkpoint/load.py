"""Load a checkpoint that was looked through first, and say in one sentence what is wrong with one that does not fit.

Every file is verified before any is unpickled: loading a checkpoint runs code that is in it, so load only what you or
somebody you trust saved. The ranks share the reading, and all of them hear what any of them found.
"""

import itertools
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from labsupport.checkpoint import buffers, random_states, reassemble
from labsupport.checkpoint.collective import kept_on_every_rank, on_every_rank, on_first_rank
from labsupport.checkpoint.contents import UNKNOWN, contents_of
from labsupport.checkpoint.cpu_adam import count_again
from labsupport.checkpoint.manifest import files_of
from labsupport.checkpoint.save import CLIENT_STATE_KEY, shapes_of
from labsupport.checkpoint.tags import tag_to_load, whole_tags
from labsupport.checkpoint.verify import verify
from labsupport.checkpoint.whole import WholeStates
from labsupport.config import config_precision, offload_devices
from labsupport.errors import CheckpointError
from labsupport.wording import ranks_in_words

ADAM = {"Adam", "AdamW", "FusedAdam", "DeepSpeedCPUAdam"}  # the same states under the same names


def load(engine, path, tag=None, fall_back=False):
    """Load a checkpoint into the engine and return the caller's own client state. Collective.

    tag: by default the one that `latest` names. fall_back: take the newest whole one in place of a damaged one.
    Raises CheckpointError on every rank, before anything is changed, for one that is missing, damaged or does not fit.
    """
    path, rank = Path(path), torch.distributed.get_rank()
    universal = engine.load_universal_checkpoint()
    tag = on_first_rank(lambda: tag_to_load(path, tag, universal), f"The checkpoint {path} cannot be read")
    problems, manifest = ([], None) if universal else verified(path / tag, rank)
    if problems and fall_back:
        for older in reversed(on_first_rank(lambda: sorted_tags(path), f"The checkpoint {path} cannot be read")):
            if older != tag:
                problems, manifest = verified(path / older, rank)
                if not problems:
                    tag = older
                    break
    if problems:
        raise CheckpointError(f"The checkpoint {path}/{tag} is damaged: {'; '.join(problems)}; {_way_out(path, tag)}.")
    if manifest:
        on_every_rank(lambda: require_fitting(engine, path / tag, manifest), f"{path}/{tag} does not fit")
    elif rank == 0 and not universal:
        warnings.warn(
            f"{path}/{tag} has no manifest: each file was held against its own checksums, and nobody can say whether "
            "one is missing, swapped or from another save.",
            stacklevel=2,
        )
    cut_here = Cut.of_engine(engine)
    cut_saved = cut_here if universal else _cut_of(path / tag, manifest, cut_here)
    same_order = manifest is None or manifest.trained == reassemble.trained_names(engine)  # DeepSpeed counts, unnamed
    if cut_saved == cut_here and same_order and not engine.zero_nvme_offload_optimizer():
        state = kept_on_every_rank(lambda: _read(engine, path, tag), f"The checkpoint {path}/{tag} does not load")
    else:
        if rank == 0 and cut_saved != cut_here:
            print(f"{path}/{tag} was saved {cut_saved}; it is put together and cut anew {cut_here}.", flush=True)
        trained = manifest.trained if manifest else reassemble.trained_names(engine)
        state = kept_on_every_rank(
            lambda: reassemble.reassemble(engine, path / tag, trained), f"{path}/{tag} cannot be cut anew"
        )
    count_again(getattr(engine.optimizer, "optimizer", engine.optimizer))
    buffers.restore_buffers(engine.module, path / tag / buffers.file_name(rank))
    random_states.restore_random_states(path / tag / random_states.file_name(rank))
    engine.micro_steps = engine.global_steps * engine.gradient_accumulation_steps()
    return state.get(CLIENT_STATE_KEY, {})


def load_weights(engine, path, tag=None):
    """Load the weights of a checkpoint alone, of any stage and number of ranks; the optimizer starts anew. Collective.

    DeepSpeed's own ways do not do this at stage 3: `load_module_only=True` changes nothing, and
    `load_optimizer_states=False` loads the tag that `latest` names, whichever was asked for.
    """
    path = Path(path)
    tag = on_first_rank(lambda: tag_to_load(path, tag), f"The checkpoint {path} cannot be read")
    problems, manifest = verified(path / tag, torch.distributed.get_rank())
    if problems:
        raise CheckpointError(f"The checkpoint {path}/{tag} is damaged: {'; '.join(problems)}; {_way_out(path, tag)}.")

    def put():
        if manifest:
            require_same_model(engine, path / tag, manifest)
        trained = manifest.trained if manifest else reassemble.trained_names(engine)
        reassemble.put_weights(engine, WholeStates(path / tag, trained))

    kept_on_every_rank(put, f"The weights of {path}/{tag} do not load")
    return tag


@dataclass(frozen=True)
class Cut:
    """How a run's states are cut into pieces, and where those are; DeepSpeed loads them where nothing of it changed."""

    stage: int
    world_size: int
    optimizer_device: str
    parameter_device: str

    @classmethod
    def of_engine(cls, engine):
        """Return the cut of a running engine."""
        devices = offload_devices(engine.config)
        return cls(engine.zero_optimization_stage(), torch.distributed.get_world_size(), *devices)

    def __str__(self):
        away = {name for name in (self.optimizer_device, self.parameter_device) if name != "none"}
        held = f", with states on {' and '.join(sorted(away))}" if away else ""
        return f"at stage {self.stage} on {ranks_in_words(self.world_size)}{held}"


def _cut_of(folder, manifest, here):
    """How a tag was cut; without a manifest its files tell the stage and the ranks, and nobody tells the places."""
    if manifest:
        return Cut(manifest.stage, manifest.world_size, *manifest.offload.values())
    found = contents_of(folder)
    if UNKNOWN in (found.stage, found.ranks):
        return here  # DeepSpeed says what it thinks of it
    return replace(here, stage=found.stage, world_size=found.ranks)


def sorted_tags(path):
    """Return the whole tags of a folder, the newest last."""
    return [manifest.tag for manifest in sorted(whole_tags(path), key=lambda manifest: manifest.step)]


def verified(folder, rank):
    """Verify a tag's folder, each rank its share of the files, and return (problems of all ranks, manifest)."""
    world_size = torch.distributed.get_world_size()

    def mine():
        names = files_of(folder)
        share = set(names[rank::world_size])
        return verify(folder, lambda name: name in share or (rank == 0 and name not in names))

    found = on_every_rank(mine, f"The checkpoint {folder} cannot be read")
    return sorted({problem for each in found for problem in each.problems}), found[0].manifest


def _way_out(path, tag):
    older = [other for other in sorted_tags(path) if other != tag]
    if older:
        return f"the newest other one is {older[-1]}: load that tag, or ask for it with fall_back"
    return "there is no other whole one in this folder"


def require_same_model(engine, folder, manifest):
    """Raise CheckpointError where a checkpoint was saved from another model; names the first parameter that differs."""
    here = shapes_of(engine.module)
    for name, shape in manifest.parameters.items():
        if name not in here:
            raise CheckpointError(
                f"{folder} has a parameter {name} that this model lacks: build the model that was saved."
            )
        if here[name] != shape:
            raise CheckpointError(
                f"The parameter {name} has the shape {shape} in {folder} and {here[name]} in this model: "
                "build the model that was saved."
            )
    if missing := [name for name in here if name not in manifest.parameters]:
        raise CheckpointError(
            f"This model has a parameter {missing[0]} that {folder} lacks: build the model that was saved."
        )


def require_fitting(engine, folder, manifest):
    """Raise CheckpointError where a run cannot go on from a checkpoint; says what differs and which way is open."""
    require_same_model(engine, folder, manifest)
    precision = config_precision(engine.config)
    if precision != manifest.precision:
        raise CheckpointError(
            f"{folder} was saved in {manifest.precision} and this run is in {precision}: resume in "
            f"{manifest.precision}, or take its weights alone with load_weights."
        )
    optimizer = type(engine.basic_optimizer).__name__
    if optimizer != manifest.optimizer and not {optimizer, manifest.optimizer} <= ADAM:
        raise CheckpointError(
            f"{folder} was trained with the optimizer {manifest.optimizer} and this run has {optimizer}: name "
            f"{manifest.optimizer} in the config, or take the weights alone with load_weights."
        )
    _require_same_groups(engine, folder, manifest)


def _require_same_groups(engine, folder, manifest):
    """Raise CheckpointError where what was trained, and in which group of the optimizer, is not what is here."""
    way_out = "give the optimizer what was saved, or take the weights alone with load_weights."
    frozen = {name for name, parameter in engine.module.named_parameters() if not parameter.requires_grad}
    here = [set(group) - frozen for group in reassemble.trained_groups(engine)]
    if new := sorted(set().union(*here) - set(manifest.trained)):
        raise CheckpointError(f"The parameter {new[0]} was frozen in {folder} and is trained in this run: {way_out}")
    if manifest.stage and (gone := sorted(frozen & set(manifest.trained))):  # stage 0 may have frozen ones among them
        raise CheckpointError(f"The parameter {gone[0]} was trained in {folder} and is frozen in this run: {way_out}")
    names = iter(manifest.trained)
    saved = [set(itertools.islice(names, size)) - frozen for size in manifest.group_sizes] or here
    if len(saved) != len(here):
        raise CheckpointError(
            f"{folder} has {len(saved)} parameter groups of the optimizer and this run has {len(here)}: {way_out}"
        )
    for number, (before, now) in enumerate(zip(saved, here, strict=True)):
        if moved := sorted(before ^ now):
            raise CheckpointError(
                f"The parameter {moved[0]} is in another parameter group in {folder} than in this run, where group "
                f"{number} {'has' if moved[0] in now else 'lacks'} it: {way_out}"
            )


def _read(engine, path, tag):
    """Let DeepSpeed load a tag and return its client state. Collective."""
    loaded, state = engine.load_checkpoint(str(path), tag=tag)
    if loaded is None:
        raise CheckpointError(f"DeepSpeed found no checkpoint at {path}/{tag}: choose another path or tag.")
    return state
