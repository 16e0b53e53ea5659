"""A checkpoint as whole tensors by name, whatever stage and number of ranks wrote it.

    states = WholeStates(Path("checkpoints/run/global_step6"))
    for name in states.trained:
        print(name, states.master(name).shape, sorted(states.of_optimizer(name)))

Stages 1 and 2 cut the flat row of all parameters into one piece a rank; stage 3 cuts each parameter by itself; stage 0
has them whole. The files are mapped, not read: of a tensor only what is asked for comes into memory. Nothing is
unpickled but tensors, plain data and the few classes of DeepSpeed's own that its files hold.
"""

import math
import re
from functools import cached_property
from pathlib import Path

import torch

from labsupport.checkpoint.manifest import files_of
from labsupport.errors import CheckpointError

SHARD = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt$")
MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_00_model_states\.pt$")
SCALER_REACHED = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # stage 0 has no hysteresis


class WholeStates:
    """The whole tensors of a tag's folder; a parameter that the model has under two names is there under the first.

    trained: the names of the trained parameters, for stage 0, which does not name them, in the order of its
    optimizer. Raises CheckpointError for files that are not those of DeepSpeed's stages 0 to 3.
    """

    def __init__(self, folder, trained=None):
        self.folder = Path(folder)
        names = files_of(self.folder)
        shards = sorted((int(found[1]), name) for name in names if (found := SHARD.search(name)))
        models = sorted((int(found[1] or 0), name) for name in names if (found := MODEL.search(name)))
        if not models:
            raise CheckpointError(f"{folder} holds no file of DeepSpeed's with model states: give the folder of a tag.")
        self.model_files = [_opened(self.folder / name) for _, name in models]
        self.model_states = self.model_files[0]
        self.shards = [_opened(self.folder / name)["optimizer_state_dict"] for _, name in shards]
        self.stage = int(self.shards[0]["zero_stage"]) if self.shards else 0
        self._places = self._find(trained)

    @property
    def trained(self):
        """Return the names of the parameters that the optimizer trains."""
        return list(self._places)

    def master(self, name):
        """Return a trained parameter, whole, as the optimizer keeps it: fp32, unless it was told otherwise."""
        return self._places[name]("master")

    def of_optimizer(self, name):
        """Return the optimizer's states of a parameter: {"exp_avg": tensor of its shape, "step": a number, ...}."""
        keys = self._states(0).get(0 if self.stage else self._number[name], ())  # none before the first step
        found = {key: self._places[name](key) for key in keys}
        if found.get("step") == 0:  # FusedAdam counts in its last parameter's state alone: ops/adam/fused_adam.py
            found["step"] = max(state["step"] for state in self._states(0).values())
        return found

    @cached_property
    def others(self):
        """What the model holds beside what is trained: {name: tensor} of frozen parameters and buffers."""
        module = self.model_states["module"]
        twice = {module[name].data_ptr() for name in self._places if name in module and module[name].numel()}
        others = {
            name: tensor
            for name, tensor in module.items()
            if name not in self._places and tensor.numel() and tensor.data_ptr() not in twice
        }
        if self.stage == 3:
            for name, shape in (self.model_states["frozen_param_shapes"] or {}).items():
                pieces = [states["frozen_param_fragments"][name].flatten() for states in self.model_files]
                others[name] = torch.cat(pieces)[: math.prod(shape)].view(shape)
        return others

    @property
    def groups(self):
        """The settings of the optimizer's groups, such as the learning rate, without the parameters."""
        state = self._base(0)
        return [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]

    @property
    def loss_scaler(self):
        """What fp16's loss scaler had reached: the scale, its steps, the last overflow, the hysteresis that is left."""
        saved = vars(self.shards[0]["loss_scaler"]) if self.stage else self.model_states["optimizer"]
        return {key: saved[key] for key in SCALER_REACHED if key in saved}

    def _base(self, rank):
        if not self.stage:
            state = self.model_states["optimizer"]
            return state.get("optimizer_state_dict", state)
        return self.shards[rank]["optimizer_state_dict" if self.stage == 3 else "base_optimizer_state"]

    def _states(self, rank):
        return self._base(rank)["state"]

    def _find(self, trained):
        """Return {name: function from the name of a state to the whole tensor}."""
        return {0: self._find_whole, 1: self._find_in_row, 2: self._find_in_row, 3: self._find_cut}[self.stage](trained)

    def _find_whole(self, trained):
        module = self.model_states["module"]
        if trained is None:
            first = {}
            for name, tensor in module.items():
                first.setdefault(tensor.data_ptr() if tensor.numel() else name, name)
            trained = [name for name in first.values() if name not in self.model_states["buffer_names"]]
        self._number = {name: number for number, name in enumerate(trained)}
        optimizer = self.model_states["optimizer"]
        masters = [each for group in optimizer.get("fp32_groups", []) for each in group]
        rows = optimizer.get("fp32_groups_flat", [])
        held = sum(row.numel() for row in rows)
        if (masters and len(masters) != len(trained)) or (rows and held != sum(module[n].numel() for n in trained)):
            raise CheckpointError(
                f"{self.folder} was saved at stage 0 by plain DeepSpeed, which does not say which parameters were "
                "frozen: load it at stage 0 and save it with labsupport.checkpoint."
            )
        if rows:
            return self._find_in_whole_rows(trained, rows)

        def finder(number, name):
            def tensor(key):
                if key == "master":
                    return masters[number] if masters else module[name]
                return self._states(0)[number][key]

            return tensor

        return {name: finder(number, name) for name, number in self._number.items()}

    def _find_in_whole_rows(self, trained, rows):
        """A fused optimizer at stage 0 has the parameters of each of its groups one behind the other."""
        places, group, start = {}, 0, 0
        for name in trained:
            shape = self.model_states["module"][name].shape
            while start == rows[group].numel():
                group, start = group + 1, 0
            places[name], self._number[name] = self._in_whole_row(rows[group], group, start, shape), group
            start += shape.numel()
        return places

    def _in_whole_row(self, masters, group, start, shape):
        def tensor(key):
            row = masters if key == "master" else self._states(0)[group][key]
            return row[start : start + shape.numel()].view(shape) if torch.is_tensor(row) and row.dim() else row

        return tensor

    def _find_in_row(self, _):
        places = {}
        for group, shapes in enumerate(self.model_states["param_shapes"]):
            for name, shape in shapes.items():
                places[name] = self._in_row(group, name, shape)
        return places

    def _in_row(self, group, name, shape):
        def tensor(key):
            pieces = []
            for rank, shard in enumerate(self.shards):
                if (at := shard["param_slice_mappings"][group].get(name)) is None:
                    continue
                row = shard["single_partition_of_fp32_groups"][group]
                row = row if key == "master" else self._states(rank)[group][key]
                if not torch.is_tensor(row) or row.dim() == 0:
                    return row
                pieces.append(row[at.start : at.start + at.numel])
            return torch.cat(pieces).view(shape)

        return tensor

    def _find_cut(self, _):
        places = {}
        for group, shapes in enumerate(self.model_states["param_shapes"]):
            start = 0
            for name, shape in shapes.items():
                count = math.ceil(math.prod(shape) / len(self.shards))
                places[name] = self._cut(group, start, count, shape)
                start += count
        return places

    def _cut(self, group, start, count, shape):
        def tensor(key):
            pieces = []
            for rank, shard in enumerate(self.shards):
                row = shard["fp32_flat_groups"][group] if key == "master" else self._states(rank)[group][key]
                if not torch.is_tensor(row) or row.dim() == 0:
                    return row
                pieces.append(row[start : start + count])
            return torch.cat(pieces)[: math.prod(shape)].view(shape)

        return tensor


def _opened(path):
    """Open a file of torch's without running code in it and without reading its tensors."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not opened, because it is damaged, or holds more than tensors and what DeepSpeed saves beside "
            f"them ({str(error).splitlines()[0][:200]}): verify it, and load only what you trust."
        ) from error
