"""DeepSpeed's pydantic models again, without torch, made of what `known` keeps of them: pydantic decides as there.

    read("fp16", {"enabled": "false", "loss_scale": "2"}).enabled   # False

What a model of DeepSpeed checks by code of its own stands in VALIDATORS; tests/doctor/test_known.py sees that every
such check of the installed DeepSpeed has its place there.
"""

import enum
import functools
import math
import typing
from pathlib import Path

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from labsupport.doctor.known import known

MONITORS = ("tensorboard", "wandb", "csv_monitor", "comet")
SIMPLE = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict, "tuple": tuple,
          "Path": Path, "any": typing.Any, "none": type(None)}  # fmt: skip


class OldAndNew(ValueError):
    """A block that gives an old spelling and the new one as well."""

    def __init__(self, old, new):
        super().__init__(f"{old} and {new} are given together")
        self.old, self.new = old, new


class Opaque:
    """A value of a type that JSON cannot write, such as a torch dtype."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


class Block(BaseModel):
    """DeepSpeedConfigModel of deepspeed/runtime/config_utils.py: drops "auto", honours old spellings."""

    model_config = ConfigDict(
        validate_default=True,
        validate_assignment=True,
        use_enum_values=True,
        populate_by_name=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    old_spellings: typing.ClassVar[dict] = {}

    def __init__(self, strict=False, **values):
        super().__init__(**{key: value for key, value in values.items() if strict or value != "auto"})
        for name, old in self.old_spellings.items():
            if name not in self.model_fields_set or not (old["new"] and old["sets"]):
                continue
            value = getattr(self, name)
            delattr(self, name)
            if old["new"] in self.model_fields_set:
                raise OldAndNew(name, old["new"])
            setattr(self, old["new"], old["becomes"][bool(value)])


def read(root, value):
    """Return the Block that DeepSpeed makes of a block's dict; raises ValidationError, or OldAndNew, as it does."""
    return _models()[known()["roots"][root]](**value)


def model_of(root):
    """Return the class of a root of `known`, such as "fp16"."""
    return _models()[known()["roots"][root]]


def defaults(root):
    """Return the Block of an empty dict."""
    return _defaults(root)


@functools.cache
def _defaults(root):
    return read(root, {})


@functools.cache
def _models():
    made = {}
    for name in known()["models"]:
        _make(name, made)
    return made


def _make(name, made):
    if name in made:
        return made[name]
    described = known()["models"][name]
    fields = {}
    for field, entry in described["fields"].items():
        annotation, default = _annotation(entry["type"], made), entry["default"]
        if check := BEFORE.get((name, field)):
            annotation = typing.Annotated[annotation, BeforeValidator(check)]
        if isinstance(entry["type"], dict) and "opaque" in entry["type"]:
            default = Opaque(default)
        fields[field] = (annotation, Field(default, alias=entry.get("alias"), **entry.get("limits", {})))
    made[name] = create_model(name, __base__=Block, __validators__=VALIDATORS.get(name, {}), **fields)
    made[name].old_spellings = {field: entry["old"] for field, entry in described["fields"].items() if "old" in entry}
    return made[name]


def _annotation(kind, made):
    if isinstance(kind, str):
        return SIMPLE[kind]
    ((what, inner),) = [(key, value) for key, value in kind.items() if key not in ("base", "members")]
    if what == "model":
        return _make(inner, made)
    if what == "union":
        return typing.Union[tuple(_annotation(each, made) for each in inner)]  # noqa: UP007
    if what == "literal":
        return typing.Literal[tuple(inner)]
    if what == "enum":
        return enum.Enum(inner, kind["members"], type=SIMPLE[kind["base"]])
    if what == "opaque":
        return Opaque
    return SIMPLE[what][tuple(_annotation(each, made) for each in inner)]


def _refuse(code, text):
    raise PydanticCustomError(code, text)


def _loss_scale(value):
    if isinstance(value, bool):
        _refuse("loss-scale", "it must be a number, not true or false")
    try:
        value = float(value)
    except (TypeError, ValueError):
        _refuse("loss-scale", "it must be a number")
    if not math.isfinite(value) or value < 0:
        _refuse("loss-scale", "it must be a finite number of at least 0")
    return value


def _scale_parameter(value):
    if isinstance(value, bool):
        _refuse("loss-scale", "it must be a whole number, not true or false")
    try:
        int(value)
    except (TypeError, ValueError, OverflowError):
        _refuse("loss-scale", "it must be a whole number")
    return value


def _dynamic_loss_scale(block):
    if block.enabled and block.loss_scale == 0:
        for name in ("loss_scale_window", "min_loss_scale"):
            if getattr(block, name) <= 0:
                _refuse("loss-scale", f"{name} must be above 0 with a dynamic loss scale")
    return block


def _overlap_comm(block):
    if block.overlap_comm is None:
        block.overlap_comm = block.stage == 3
    return block


def _gradient_norm(block):
    if not block.compute_grad_norm and block.stage not in (1, 2):
        _refuse("gradient-norm", "compute_grad_norm false is taken at stages 1 and 2 alone")
    return block


def _ratio(block):
    if block.offload_optimizer and block.offload_optimizer.ratio < 1 and block.stage != 3:
        _refuse("partial-offload", "a ratio below 1 is taken at stage 3 alone")
    return block


def _zenflow(block):
    if block.select_strategy not in ("auto", "step", "epoch"):
        _refuse("zenflow", 'select_strategy is one of "auto", "step" and "epoch"')
    for name in ("select_interval", "update_interval"):
        if isinstance(getattr(block, name), str) and getattr(block, name) != "auto":
            _refuse("zenflow", f'{name} is a whole number or "auto"')
    if isinstance(block.update_interval, int) and block.update_interval < 1:
        _refuse("zenflow", "update_interval is at least 1")
    return block


def _leaf_module(values):
    if values is None:
        return {}
    if not isinstance(values, dict):
        _refuse("wrong-type", "it must be a block")
    names = ("classes", "names", "name_suffixes")
    return {key: [each] if key in names and isinstance(each, str) else each for key, each in values.items()}


def _as_it_is(block):
    return block


def _after(check):
    def checked(self):
        return check(self)

    return model_validator(mode="after")(checked)


def _before(check):
    def checked(cls, values):
        return check(values)

    return model_validator(mode="before")(classmethod(checked))


# {(model, field): what is asked of the value before pydantic converts it}
BEFORE = {
    ("DeepSpeedFP16Config", "loss_scale"): _loss_scale,
    ("DeepSpeedFP16Config", "loss_scale_window"): _scale_parameter,
    ("DeepSpeedFP16Config", "min_loss_scale"): _scale_parameter,
}
# {model: {DeepSpeed's validator: the same again}}. Those that refuse nothing and change no setting are `_as_it_is`.
VALIDATORS = {
    "DeepSpeedZeroConfig": {
        "overlap_comm_valid": _after(_overlap_comm),
        "compute_grad_norm_valid": _after(_gradient_norm),
        "offload_ratio_check": _after(_ratio),
        "elastic_checkpoint_deprecated": _after(_as_it_is),
    },
    "DeepSpeedZeroOffloadOptimizerConfig": {"set_pipeline": _after(_as_it_is)},
    "ZenFlowConfig": {"validate_fields": _after(_zenflow)},
    "DeepSpeedZeroLeafModuleConfig": {
        "_coerce_container_types": _before(_leaf_module),
        "_validate_entries": _after(_as_it_is),
    },
    "DeepSpeedFP16Config": {"_validate_dynamic_loss_scale_params": _after(_dynamic_loss_scale)},
    "DeepSpeedMonitorConfig": {"check_enabled": _after(_as_it_is)},
}

__all__ = ["MONITORS", "Block", "OldAndNew", "ValidationError", "defaults", "model_of", "read"]
