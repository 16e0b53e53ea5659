"""The scheduler block: its name, and the parameters that the scheduler of that name takes."""

from labsupport.doctor.findings import ERROR, INITIALIZE, NOTE, SILENT, rule
from labsupport.doctor.known import known
from labsupport.doctor.learn import REQUIRED
from labsupport.doctor.rules.names import nearest, shown

SOURCE = "runtime/engine.py, DeepSpeedEngine._scheduler_from_config"


def _name(case):
    return case.block("scheduler").get("type")


def _is_made(case):
    """Whether the engine makes it: it looks at the scheduler of a config once there is an optimizer."""
    return _name(case) is not None and (case.optimizer is not None or case.hugging_face)


def _known(case):
    name = _name(case)
    return known()["schedulers"].get(name) if _is_made(case) and isinstance(name, str) else None


@rule("unknown-scheduler", ERROR, SOURCE, INITIALIZE)
def unknown(case):
    name = _name(case)
    if _is_made(case) and (not isinstance(name, str) or name not in known()["schedulers"]):
        own = [each for each, entry in known()["schedulers"].items() if not entry["torch"]]
        names = {each.lower(): each for each in known()["schedulers"]}
        close = nearest(name, list(names))
        fix = f"did you mean {names[close]!r}?" if close else f"choose one of {', '.join(own)}"
        yield ("scheduler", "type"), f"DeepSpeed knows no scheduler {shown(name)}, and refuses it", fix


@rule("scheduler-without-type", SILENT, "runtime/config.py, get_scheduler_name")
def without_type(case):
    block = case.block("scheduler")
    if block and block.get("type") is None:
        yield (
            ("scheduler",),
            "the block scheduler has no type, so DeepSpeed makes no scheduler of it",
            'add "type": "WarmupLR"',
        )


@rule("scheduler-without-params", ERROR, SOURCE, INITIALIZE)
def without_params(case):
    params = case.block("scheduler").get("params")
    if _known(case) and not isinstance(params, dict):
        yield (
            ("scheduler",),
            f"the scheduler's params are {'missing' if params is None else shown(params)}, which ends in a TypeError",
            'add "params": {}',
        )


@rule("scheduler-parameter-missing", ERROR, SOURCE, INITIALIZE)
def missing(case):
    if (entry := _known(case)) and isinstance(case.block("scheduler").get("params"), dict):
        for key, default in entry["parameters"].items():
            if default == REQUIRED and key not in case.block("scheduler.params"):
                yield (
                    ("scheduler", "params"),
                    f"{_name(case)} needs {key}, and ends in a TypeError without it",
                    f"give {key}",
                )


@rule("scheduler-parameter", ERROR, SOURCE, INITIALIZE)
def parameter(case):
    if entry := _known(case):
        for key in case.block("scheduler.params"):
            if key not in entry["parameters"]:
                close = nearest(key, entry["parameters"])
                yield (
                    ("scheduler", "params", key),
                    f"{_name(case)} takes no parameter {key!r}, which ends in a TypeError",
                    f"did you mean {close!r}?" if close else "delete it",
                )


@rule("scheduler-steps", ERROR, "runtime/lr_schedules.py", INITIALIZE)
def steps(case):
    entry = _known(case)
    if not entry or entry["torch"]:
        return
    for key in ("warmup_num_steps", "lr_range_test_step_size"):
        value = case.block("scheduler.params").get(key, 1)
        if key in entry["parameters"] and (not isinstance(value, int) or value <= 0):
            why = '"auto", which the Hugging Face Trainer alone fills in' if value == "auto" else shown(value)
            yield (
                ("scheduler", "params", key),
                f"{key} is {why}, and DeepSpeed takes a whole number of at least 1",
                "write one",
            )


@rule("scheduler-value-type", ERROR, "runtime/lr_schedules.py", INITIALIZE)
def values(case):
    entry = _known(case)
    if not entry or entry["torch"]:
        return
    for key in ("total_num_steps", "warmup_min_lr", "warmup_max_lr"):
        value = case.block("scheduler.params").get(key, 0)
        if key in entry["parameters"] and isinstance(value, str):
            why = (
                '"auto", which the Hugging Face Trainer alone fills in'
                if value == "auto"
                else f"{shown(value)}, which is no number"
            )
            yield (
                ("scheduler", "params", key),
                f"{key} is {why}, and the scheduler ends in a TypeError",
                "write the number",
            )


@rule("torch-scheduler", ERROR, SOURCE, INITIALIZE)
def torch_scheduler(case):
    entry = _known(case)
    if (
        entry
        and entry["torch"]
        and (case.stage or case.precision != "fp32")
        and isinstance(case.block("scheduler").get("params"), dict)
    ):
        yield (
            ("scheduler", "type"),
            f"{_name(case)} is torch's, which refuses the optimizer that DeepSpeed makes for ZeRO and for 16 bits",
            "use one of DeepSpeed's, or make it yourself and pass it to initialize",
        )


@rule("scheduler-without-optimizer", NOTE, "runtime/engine.py, DeepSpeedEngine.__init__ (has_optimizer)")
def without_optimizer(case):
    if _name(case) is not None and case.optimizer is None and not case.hugging_face:
        yield (
            ("scheduler",),
            "the config names no optimizer, and without one passed to initialize DeepSpeed makes no scheduler",
            "name an optimizer, or pass one",
        )


@rule("warmup-type", SILENT, "runtime/lr_schedules.py, WarmupLR.__init__")
def warmup_type(case):
    entry, value = _known(case), case.block("scheduler.params").get("warmup_type", "log")
    if entry and "warmup_type" in entry["parameters"] and value not in ("log", "linear"):
        yield (
            ("scheduler", "params", "warmup_type"),
            f"warmup_type is {shown(value)}, and DeepSpeed goes on with log",
            "write log or linear",
        )


@rule("warmup-maximum", SILENT, "runtime/lr_schedules.py, WarmupDecayLR.__init__ (warmup_max_lr = 0.001)")
def warmup_maximum(case):
    params, lr = case.block("scheduler.params"), case.optimizer_params.get("lr")
    if _known(case) and _name(case) == "WarmupDecayLR" and "warmup_max_lr" not in params:
        default = known()["schedulers"]["WarmupDecayLR"]["parameters"]["warmup_max_lr"]
        if isinstance(lr, int | float) and lr != default:
            yield (
                ("scheduler", "params"),
                f"warmup_max_lr is not named, so that the learning rate rises to {default:g}, whatever the "
                f"optimizer's lr of {lr:g}",
                f'add "warmup_max_lr": {lr:g}',
            )


@rule("warmup-longer-than-run", SILENT, "runtime/lr_schedules.py, WarmupDecayLR.__init__")
def warmup_longer(case):
    params = case.block("scheduler.params")
    warmup, total = params.get("warmup_num_steps", 1000), params.get("total_num_steps")
    if (
        _known(case)
        and "total_num_steps" in _known(case)["parameters"]
        and isinstance(warmup, int)
        and isinstance(total, int)
        and total < warmup
    ):
        yield (
            ("scheduler", "params"),
            f"total_num_steps {total} is below warmup_num_steps "
            f"{warmup}{'' if 'warmup_num_steps' in params else ' (the default)'}, and the run ends before its "
            "largest learning rate",
            "warm up for fewer steps",
        )


@rule("logarithmic-warmup", NOTE, "runtime/lr_schedules.py, WARMUP_LOG_RATE")
def logarithmic(case):
    entry, params = _known(case), case.block("scheduler.params")
    if entry and "warmup_type" in entry["parameters"] and "warmup_type" not in params:
        yield (
            ("scheduler",),
            "the learning rate rises as a logarithm: half of it is there after the square root of the warmup's steps",
            'write "warmup_type": "linear" for a straight line',
        )
