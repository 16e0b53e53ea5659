"""What the installed DeepSpeed reads, asked of DeepSpeed itself and written down as plain JSON. Imports deepspeed.

    python -m labsupport.doctor.learn

`known.py` runs it once for a version and keeps what it prints. Nothing here is a list of keys kept by hand: fields and
constraints come from the pydantic models, other keys from what DeepSpeedConfig asks of a dict that remembers it.
"""

import contextlib
import enum
import inspect
import json
import sys
import types
import typing
from pathlib import Path

REQUIRED = "required"  # in place of a default


class Recorder(dict):
    """A config that remembers which keys it was asked for, and with which default."""

    def __init__(self, content=()):
        super().__init__(content)
        self.asked = {}

    def get(self, key, default=None):
        self.asked.setdefault(key, default)
        return super().get(key, default)

    def __contains__(self, key):
        self.asked.setdefault(key, None)
        return super().__contains__(key)

    def __getitem__(self, key):
        self.asked.setdefault(key, None)
        return super().__getitem__(key)

    def keys(self):
        return self

    def __copy__(self):
        return self


# A config that makes the parser ask for every key that it may ask for: it opens a block only where there is one.
OPENING = {
    "train_batch_size": 4,
    "optimizer": {"type": "Adam", "params": None},
    "scheduler": {"type": "WarmupLR", "params": None},
    "torch_autocast": {"dtype": "bf16", "lower_precision_safe_modules": []},
    "activation_checkpointing": {},
    "flops_profiler": {},
    "aio": {},
    "data_types": {},
    "checkpoint": {"writer": {}, "parallel_write": {}},
    "autotuning": {"model_info": {}},
    "timers": {},
    "expert_parallel": {"enabled": False},
    "data_efficiency": {"data_sampling": {}, "data_routing": {}},
}


def learn():
    """Return what DeepSpeed knows, as a dict that JSON can hold."""
    import deepspeed.runtime.config as parser

    config = _recording(OPENING)
    with _one_rank(parser):
        read = parser.DeepSpeedConfig(config)
    # The two that only deepspeed.initialize asks for (deepspeed/__init__.py); the first only where it is there.
    config.asked |= {"sequence_parallel_size": None, "data_parallel_size": None}
    removed = parser._REMOVED_TOP_LEVEL_CONFIG_KEYS
    models, roots = {}, {}
    for key, model in _roots(parser).items():
        roots[key] = model.__name__
        _describe(model, models)
    return {
        "top_level": {key: _plain(value) for key, value in config.asked.items() if key not in removed},
        "removed": dict(removed),
        "removed_zero": dict(parser._REMOVED_ZERO_CONFIG_KEYS),
        "blocks": _blocks(config) | {"pipeline": _plain(read.pipeline)},
        "roots": roots,
        "models": models,
        "optimizers": _optimizers(parser),
        "torch_optimizers": _torch_optimizers(),
        "zero_optimizers": _zero_optimizers(),
        "schedulers": _schedulers(),
        "dtypes": {name: [str(each) for each in member._all_values] for name, member in _members(parser.DtypeEnum)},
        "trainer_fills": _trainer_fills(),
    }


def _recording(block):
    return Recorder({key: _recording(value) if isinstance(value, dict) else value for key, value in block.items()})


@contextlib.contextmanager
def _one_rank(parser):
    """A rank that the parser can ask who it is, without a process group."""
    kept, parser.dist = parser.dist, types.SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda: 1)
    try:
        yield
    finally:
        parser.dist = kept


def _blocks(config, path=""):
    """The keys and defaults of the blocks that are plain dicts to DeepSpeed: {path of the block: {key: default}}."""
    found = {}
    for key, value in config.items():
        if isinstance(value, Recorder):
            name = f"{path}{key}"
            found[name] = {asked: _plain(default) for asked, default in value.asked.items()}
            found |= _blocks(value, f"{name}.")
    return found


def _roots(parser):
    """The pydantic model that reads each block; tests/doctor/test_known.py sees that none is missing."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    return {
        "zero_optimization": DeepSpeedZeroConfig,
        "fp16": DeepSpeedFP16Config,
        "bf16": DeepSpeedBF16Config,
        "comms_logger": CommsLoggerConfig,
        "monitor": DeepSpeedMonitorConfig,  # of the four blocks tensorboard, wandb, csv_monitor and comet
        "hybrid_engine": parser.HybridEngineConfig,
        "weight_quantization": parser.WeightQuantConfig,
        "compile": parser.CompileConfig,
        "timers.throughput": DeepSpeedThroughputTimerConfig,
        "tensor_parallel": TPTrainingConfig,
    }


def _describe(model, models):
    """Add a model, and those that its fields hold, to `models`."""
    if model.__name__ in models:
        return
    decorators = model.__pydantic_decorators__
    models[model.__name__] = {
        "file": f"{model.__module__.replace('.', '/')}.py",
        "extra": model.model_config.get("extra"),
        "validators": sorted([*decorators.field_validators, *decorators.model_validators]),
        "fields": {},
    }
    for name, field in model.model_fields.items():
        limits = {
            limit: getattr(constraint, limit)
            for constraint in field.metadata
            for limit in ("gt", "ge", "lt", "le")
            if getattr(constraint, limit, None) is not None
        }
        entry = {
            "type": _type(field.annotation, models),
            "default": _plain(field.get_default(call_default_factory=True)),
        }
        entry |= {"alias": field.alias} if field.alias else {}
        entry |= {"limits": limits} if limits else {}
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("deprecated"):
            entry["old"] = {"new": extra.get("new_param", ""), "sets": extra.get("set_new_param", True)}
            change = extra.get("new_param_fn", lambda value: value)
            entry["old"]["becomes"] = [_plain(change(False)), _plain(change(True))]
        models[model.__name__]["fields"][name] = entry


def _type(annotation, models):
    """An annotation as JSON; `blocks.py` makes the annotation of it again."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return {"union": [_type(argument, models) for argument in arguments]}
    if origin is typing.Literal:
        return {"literal": list(arguments)}
    if origin in (list, dict, tuple):
        return {origin.__name__: [_type(argument, models) for argument in arguments]}
    if annotation is type(None):
        return "none"
    if annotation in (typing.Any, object):
        return "any"
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        base = "int" if issubclass(annotation, int) else "str"
        return {"enum": annotation.__name__, "base": base, "members": {n: m.value for n, m in _members(annotation)}}
    if hasattr(annotation, "model_fields"):
        _describe(annotation, models)
        return {"model": annotation.__name__}
    if annotation in (bool, int, float, str, list, dict, tuple, Path):
        return annotation.__name__
    return {"opaque": f"{annotation.__module__}.{annotation.__name__}"}  # torch.dtype: nothing in JSON is one


def _members(enumeration):
    return enumeration.__members__.items()


def _plain(value):
    """A default as JSON has it."""
    if hasattr(value, "model_dump"):
        return {key: _plain(each) for key, each in value.model_dump(exclude_unset=True).items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bool | None | str):
        return value
    if isinstance(value, int):
        return int(value)  # DeepSpeed's own kind of int prints itself with commas
    return value if isinstance(value, float) else str(value)


def _optimizers(parser):
    """{name: {kind: parameters}} of the optimizers that DeepSpeed makes itself; the engine decides which kind."""
    import torch
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
    from deepspeed.ops.lamb import FusedLamb
    from deepspeed.ops.lion import DeepSpeedCPULion, FusedLion
    from deepspeed.runtime.engine import DeepSpeedEngine

    adam = {"fused": FusedAdam, "cpu": DeepSpeedCPUAdam, "torch": torch.optim.AdamW}
    made_by = {
        "adam": adam,
        "adamw": adam,
        "adagrad": {"cpu": DeepSpeedCPUAdagrad, "torch": torch.optim.Adagrad},
        "lamb": {"fused": FusedLamb},
        "lion": {"cpu": DeepSpeedCPULion, "fused": FusedLion},
    }
    found = {
        name: {} for name in parser.DEEPSPEED_OPTIMIZERS
    }  # those of mup, which is a package of its own, stay empty
    for name, kinds in made_by.items():
        found[name] = {kind: _parameters(made) for kind, made in kinds.items()}
    halves = {*DeepSpeedEngine._MUON_HALF_KEYS, *DeepSpeedEngine._ADAM_HALF_KEYS, "muon_lr", "adam_lr", "per_head_muon"}
    found["muon"] = {"muon": dict.fromkeys(sorted(halves))}
    return found


def _torch_optimizers():
    import torch

    return {
        name: _parameters(made)
        for name, made in vars(torch.optim).items()
        if inspect.isclass(made) and issubclass(made, torch.optim.Optimizer) and made is not torch.optim.Optimizer
    }


def _zero_optimizers():
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    return sorted({made.__name__ for made in ZERO_SUPPORTED_OPTIMIZERS})


def _schedulers():
    """{name: {"torch": whether it is torch's, "parameters": {name: default}}}."""
    import torch
    from deepspeed.runtime import lr_schedules

    own = {name: made for name, made in vars(lr_schedules).items() if name in lr_schedules.VALID_LR_SCHEDULES}
    theirs = {
        name: made
        for name, made in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(made) and issubclass(made, torch.optim.lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    return {
        name: {"torch": name in theirs and name not in own, "parameters": _parameters(made)}
        for name, made in (theirs | own).items()
    }


def _parameters(made):
    """The parameters of a class with their defaults, without the first, which is the model's or the optimizer's."""
    signature = list(inspect.signature(made.__init__).parameters.values())[2:]
    return {
        each.name: REQUIRED if each.default is inspect.Parameter.empty else _plain(each.default)
        for each in signature
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }


def _trainer_fills():
    """The keys whose "auto" transformers' Trainer replaces, read in its source, which this does not import."""
    import ast
    import importlib.util

    found = importlib.util.find_spec("transformers")
    path = Path(found.origin).parent / "integrations" / "deepspeed.py" if found else None
    if not path or not path.exists():
        return []
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return sorted(
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("fill_match", "fill_only")
        and isinstance(call.args[0], ast.Constant)
    )


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed logs as it is imported
        known = learn()
    print(json.dumps(known))
