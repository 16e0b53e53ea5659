"""The mended config: what has one obvious way out is mended, the rest stays as it is."""

import copy
import json
import os
from pathlib import Path

from labsupport.doctor.blocks import OldAndNew, ValidationError, read
from labsupport.doctor.case import Case
from labsupport.doctor.findings import found_in
from labsupport.doctor.known import known
from labsupport.doctor.rules.names import fields_of, nearest, places
from labsupport.errors import LabError

ROUNDS = 4  # what is mended may uncover something else


def mended(config, **about):
    """Return (a mended copy of a config, the findings that went); about: what `diagnose` takes as well."""
    config = copy.deepcopy(config)
    before = found_in(Case(config, **about))
    if not isinstance(config, dict):
        return config, []
    for _ in range(ROUNDS):
        case = Case(config, **about)
        changed = [MENDS[each.code](config, each.keys, case) for each in found_in(case) if each.code in MENDS]
        if not any(changed):
            break
    about["document"] = None  # plain JSON now
    left = {(each.code, each.path) for each in found_in(Case(config, **about))}
    return config, [each for each in before if (each.code, each.path) not in left]


def write_beside(path, config):
    """Write a config as NAME.fixed.json beside the original, over nothing, and return the path; raises LabError."""
    target = Path(path).with_suffix(".fixed.json")
    try:
        with open(target, "x", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
    except FileExistsError:
        raise LabError(f"{target} is there already, and nothing is written over it: move it away.") from None
    except OSError as error:
        raise LabError(
            f"Cannot write {os.fspath(target)}: {error.strerror.lower()}; copy the config elsewhere."
        ) from None
    return target


def _block(config, keys):
    for key in keys[:-1]:
        config = config.get(key) if isinstance(config, dict) else None
    return config if isinstance(config, dict) and keys and keys[-1] in config else None


def _delete(config, keys, case):
    if (block := _block(config, keys)) is None:
        return False
    del block[keys[-1]]
    return True


def _rename(config, keys, name):
    block = _block(config, keys)
    if block is None or name is None or name in block:
        return False
    items = [(name if key == keys[-1] else key, value) for key, value in block.items()]  # where it stood
    block.clear()
    block.update(items)
    return True


def _nearest_top_level(config, keys, case):
    return _rename(config, keys, nearest(keys[-1], known()["top_level"]))


def _move(config, keys, case):
    homes = [place for place in places().get(str(keys[-1]), ()) if place != ".".join(map(str, keys[:-1]))]
    if not homes or _block(config, keys) is None:
        return False
    target = config
    for step in filter(None, homes[0].split(".")):
        target = target.setdefault(step, {})
        if not isinstance(target, dict):
            return False
    if keys[-1] in target:
        return False
    target[keys[-1]] = _block(config, keys).pop(keys[-1])
    return True


def _in_block(config, keys, case):
    """A key that its block does not have: the one that was meant, its own place, or nothing."""
    names = known()["blocks"].get(".".join(map(str, keys[:-1])))
    if names is None:
        model = known()["roots"].get(keys[0]) if len(keys) == 2 else None
        names = fields_of(model) if model else ()
    close = nearest(keys[-1], [name for name in names if name != keys[-1]])
    if keys == ("optimizer", "parameters"):
        close = "params"
    return _rename(config, keys, close) or _move(config, keys, case) or _delete(config, keys, case)


def _new_spelling(config, keys, case):
    fields = known()["models"]["DeepSpeedZeroConfig"]["fields"]
    old, block = fields[keys[-1]]["old"], _block(config, keys)
    if block is None:
        return False
    try:  # by itself: something else in the block may be refused
        taken = read(keys[0], {keys[-1]: block[keys[-1]]})
    except (ValidationError, OldAndNew):
        return False
    becomes = old["becomes"][bool(getattr(taken, old["new"]))]
    name = fields[old["new"]].get("alias", old["new"])
    if becomes is None:
        return _delete(config, keys, case)
    return _rename(config, keys, name) and bool(block.update({name: becomes}) or True)


def _full_name(config, keys, case):
    return _rename(config, keys, known()["models"]["DeepSpeedZeroConfig"]["fields"][keys[-1]]["alias"])


def _as_read(config, keys, case):
    block = case.parsed(keys[0]) if keys[0] in known()["roots"] else case.parsed("monitor")
    for key in keys[1:] if keys[0] in known()["roots"] else keys:
        fields = type(block).model_fields
        name = next((name for name, field in fields.items() if key in (name, field.alias)), None)
        block = getattr(block, name, None) if name else None
    if block is None or _block(config, keys) is None:
        return False
    _block(config, keys)[keys[-1]] = block
    return True


def _whole_number(config, keys, case):
    error = next((error for path, error in case.errors if path == keys), None)
    if error is None or isinstance(error, OldAndNew) or error["type"] != "int_from_float":
        return False
    _block(config, keys)[keys[-1]] = int(error["input"])
    return True


def _clipping(config, keys, case):
    if "gradient_clipping" not in config and isinstance(_block(config, keys)[keys[-1]], int | float):
        config["gradient_clipping"] = _block(config, keys)[keys[-1]]
    return _delete(config, keys, case)


def _stage(config, keys, case):
    config["zero_optimization"] = {"stage": int(config["zero_optimization"])}
    return True


def _empty_params(config, keys, case):
    config["scheduler"]["params"] = {}
    return True


MENDS = {
    "unknown-key": _nearest_top_level,
    "misplaced-key": _move,
    "ignored-key-in-block": _in_block,
    "unknown-key-in-block": _in_block,
    "removed-key": _delete,
    "removed-zero-key": _delete,
    "old-spelling": _new_spelling,
    "old-spelling-ignored": _delete,
    "old-and-new-spelling": _delete,
    "old-bf16-name": lambda config, keys, case: config.pop("bf16", None) is None and _rename(config, keys, "bf16"),
    "old-bf16-name-ignored": _delete,
    "old-zero-switch": _stage,
    "short-name": _full_name,
    "read-as": _as_read,
    "wrong-type": _whole_number,
    "read-by-nothing": _delete,
    "auto-in-block": _delete,
    "max-grad-norm": _clipping,
    "scheduler-without-params": _empty_params,
    "without-effect-at-stage-0": _delete,
    "without-effect-below-stage-3": _delete,
    "without-effect-at-stage-3": _delete,
    "nvme-settings-without-nvme": _delete,
    "aio-without-nvme": _delete,
    "super-offload-below-3": _delete,
    "legacy-stage-1": _delete,
    "adam-w-mode-ignored": _delete,
}
