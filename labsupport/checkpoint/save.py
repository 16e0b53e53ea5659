"""Save a checkpoint so that a half-written one never counts.

Every rank writes into `<tag>.incomplete`, waits until the disk has its files, and tells their checksums. Only when all
ranks have, rank 0 writes the manifest, gives the folder its name, and lets `latest` name it: each of the three either
happens or does not. Whatever goes wrong before that leaves what was there as it was.
"""

import contextlib
import errno
import fcntl
import os
import pickle
import shutil
from pathlib import Path

import torch
from torch.utils.serialization import config as serialization

from labsupport.checkpoint import buffers, random_states
from labsupport.checkpoint.collective import on_every_rank, on_first_rank, replaced
from labsupport.checkpoint.drive import states_in_reach
from labsupport.checkpoint.manifest import ADAPTER_CONFIG, MODEL_CONFIG, Manifest, described
from labsupport.checkpoint.reassemble import trained_groups
from labsupport.checkpoint.tags import (
    DELETED,
    INCOMPLETE,
    LATEST,
    LATEST_UNIVERSAL,
    PASSING,
    REPLACED,
    finish_interrupted,
    has_size,
    is_full,
    name_latest,
    prune,
    remove,
)
from labsupport.config import config_precision, offload_devices
from labsupport.errors import CheckpointError

# The caller's state is saved under one key of ours. DeepSpeed lays client_state over its own dict, so a
# caller's "module" or "global_steps" would overwrite the engine's.
CLIENT_STATE_KEY = "labsupport_client_state"
LONGEST_NAME_BYTES = 255
_locks = {}  # the folders that this process saves into: {(device, inode): open handle}


def save(engine, path, tag, client_state=None, keep=None, options=None):
    """Save the engine, and the caller's dict, as `path`/`tag`, and keep only the newest `keep` tags; None keeps all.

    options: plain data for the manifest, such as how the run was started, which can be read without unpickling.

    Collective. Raises CheckpointError on every rank, with what was there left as it was.
    """
    path, rank = Path(path), torch.distributed.get_rank()
    failed = f"The checkpoint {path}/{tag} was not saved"
    on_every_rank(lambda: _require_possible(path, tag, client_state), failed)
    client_state = {CLIENT_STATE_KEY: dict(client_state or {})}
    folder = path / f"{tag}{INCOMPLETE}"
    on_first_rank(lambda: _make_room(path, tag), failed)
    try:
        files = on_every_rank(lambda: _write(engine, path, folder, client_state, rank), failed)
        entries = {name: entry for each in files for name, entry in each.items()}
        on_first_rank(lambda: _publish(path, tag, folder, _manifest(engine, tag, entries, options or {})), failed)
    except BaseException:
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                finish_interrupted(path)
        raise
    if keep is not None:
        on_first_rank(lambda: prune(path, keep), f"The older checkpoints in {path} were not removed")


def _require_possible(path, tag, client_state):
    """Raise CheckpointError, before anything is written, where this rank's part of the save cannot work."""
    longest = LONGEST_NAME_BYTES - max(map(len, PASSING))
    if tag in ("", ".", "..", LATEST, LATEST_UNIVERSAL) or "/" in tag or tag.endswith(PASSING):
        raise CheckpointError(f"A checkpoint cannot have the tag {tag!r}: take a plain name, such as global_step100.")
    if len(tag.encode()) > longest:
        raise CheckpointError(f"The tag {tag[:20]}... has {len(tag.encode())} bytes: a name has {longest} at most.")
    if client_state is not None and not isinstance(client_state, dict):
        raise CheckpointError(f"client_state is {type(client_state).__name__}: pass a dict, or None.")
    try:
        pickle.dumps(client_state)
    except Exception as error:  # what cannot be pickled says so in a class of its own choosing
        raise CheckpointError(
            f"client_state cannot be pickled ({error}): keep numbers, text and tensors in it."
        ) from error
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise CheckpointError(f"The checkpoint folder {path} cannot be made, because {part} is a link to nothing.")
        if part.exists():
            if not part.is_dir():
                raise CheckpointError(
                    f"The checkpoint folder {path} cannot be made, because {part} is a file: choose another."
                )
            return


def take_folder(path):
    """Take a folder, where there is one, for the saves of this run alone, and tidy up after one that was killed there.

    Collective. Raises CheckpointError on every rank where another run saves into it.
    """
    path = Path(path)
    on_first_rank(lambda: path.is_dir() and _take_and_tidy(path), f"Nothing can be saved into {path}")


def _make_room(path, tag):
    path.mkdir(parents=True, exist_ok=True)
    _take_and_tidy(path)
    (path / f"{tag}{INCOMPLETE}").mkdir()


def _take_and_tidy(path):
    """Finish what an interrupted save left to do, and remove what it left half written or half removed."""
    _take(path)
    finish_interrupted(path)
    for leftover in path.glob(f"*{DELETED}"):
        remove(leftover)
    for leftover in path.glob(f"*{INCOMPLETE}"):
        shutil.rmtree(leftover)


def _take(path):
    """Let this process alone save into the folder until it ends, however it ends: the lock goes with the process."""
    handle = os.open(path, os.O_RDONLY)
    place = os.fstat(handle).st_dev, os.fstat(handle).st_ino
    if place in _locks:
        os.close(handle)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CheckpointError(
            f"Another run saves into {path}: wait for its end, or give each run its own folder."
        ) from None
    except OSError:
        pass  # some network drives have no locks
    _locks[place] = handle


class _Writer:
    """DeepSpeed's own checkpoint writer, except that an error on this rank is kept until all ranks can hear of it.

    `engine.save_checkpoint` ends at a barrier. A rank that left it with an error would leave the others there.
    """

    def __init__(self, writer):
        self._writer, self.paths, self.error = writer, [], None

    def __getattr__(self, name):
        return getattr(self._writer, name)

    def save(self, state_dict, path):
        self.paths.append(Path(path))
        self.keep(self._writer.save, state_dict, path)
        # torch's own writer says of a full disk only that it is not where it should be in the file.
        if isinstance(self.error, RuntimeError) and is_full(Path(path).parent):
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def makedirs(self, path, exist_ok=False):
        self.keep(self._writer.makedirs, path, exist_ok=exist_ok)

    def keep(self, work, *given, **named):
        try:
            if self.error is None:
                work(*given, **named)
        except Exception as error:
            self.error = error


def _write(engine, path, folder, client_state, rank):
    """Write this rank's files, wait for the disk, and return their entries in the manifest. Collective."""
    writer = _Writer(engine.checkpoint_engine)
    copy_scripts = engine._copy_recovery_script
    with (
        states_in_reach(engine),
        serialization.patch({"save.compute_crc32": True}),  # the manifest builds on it
        replaced(
            engine,
            checkpoint_engine=writer,
            _copy_recovery_script=lambda target: writer.keep(copy_scripts, target),
        ),
    ):
        engine.save_checkpoint(str(path), tag=folder.name, client_state=client_state, save_latest=False)
        if own_buffers := buffers.buffers_of(engine.module):
            writer.save(own_buffers, folder / buffers.file_name(rank))
    if writer.error is not None:
        raise writer.error
    own = folder / random_states.file_name(rank)
    random_states.save_random_states(own)
    paths = [*writer.paths, own, *(_write_configs(engine.module, folder) if rank == 0 else [])]
    return {str(file.relative_to(folder)): described(file, rank) for file in paths}


def _write_configs(module, folder):
    """Write what transformers and peft need beside the weights, where the model is theirs; returns the paths."""
    written = []
    if hasattr(getattr(module, "config", None), "to_json_string"):
        written.append(folder / MODEL_CONFIG)
        written[-1].write_text(module.config.to_json_string(use_diff=True), encoding="utf-8")
    for adapter in getattr(module, "peft_config", {}).values():
        adapter.save_pretrained(folder)
        written.append(folder / ADAPTER_CONFIG)
    return written


def _publish(path, tag, folder, manifest):
    """Write the manifest, give the folder its name, and let `latest` name it."""
    for name, entry in manifest.files.items():
        if not has_size(folder / name, entry["bytes"]):
            raise CheckpointError(
                f"The checkpoint {path}/{tag} was not saved: rank 0 does not see {name} of rank {entry['rank']}, so "
                f"{path} is not one folder for all nodes; name a folder on a drive that they share."
            )
    manifest.write(folder)
    target, aside = path / tag, path / f"{tag}{REPLACED}"
    if target.exists():
        target.rename(aside)
    folder.rename(target)
    name_latest(path, tag)
    if aside.exists():
        remove(aside)


def _manifest(engine, tag, files, options):
    config = engine.config
    optimizer_device, parameter_device = offload_devices(config)
    groups = trained_groups(engine)
    return Manifest(
        tag=tag,
        step=engine.global_steps,
        world_size=torch.distributed.get_world_size(),
        stage=engine.zero_optimization_stage(),
        precision=config_precision(config),
        offload={"optimizer": optimizer_device, "parameters": parameter_device},
        optimizer=type(engine.basic_optimizer).__name__,
        parameters=shapes_of(engine.module),
        trained=[name for group in groups for name in group],
        group_sizes=[len(group) for group in groups],
        files=files,
        options=options,
    )


def shapes_of(module):
    """Return {name: shape} of a model's parameters, whole ones, also where stage 3 has partitioned them."""
    return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()}
