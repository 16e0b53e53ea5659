"""What DeepSpeed will use for every key that matters, and where it has it from."""

from typing import NamedTuple

from labsupport.doctor.case import BATCH_KEYS
from labsupport.doctor.known import known
from labsupport.doctor.rules.optimizer import kind
from labsupport.doctor.rules.precision import dtype_of
from labsupport.doctor.rules.zero import STAGE_3_ALONE, STAGES_1_AND_2_ALONE

FILE, DEFAULT, DERIVED, TRAINER = "the file", "default", "derived", "the Trainer"


class Setting(NamedTuple):
    """One key, what DeepSpeed uses for it, and where that comes from."""

    key: str
    value: object
    origin: str


def explain(case):
    """Return the Settings in force for a Case, in the order of the documentation."""
    return [*_batch(case), *_optimizer(case), *_precision(case), *_messages(case), *_zero(case), *_rest(case)]


def _origin(case, path):
    if path in case.filled:
        return TRAINER
    block = case.config
    for step in path[:-1]:
        block = block.get(step) if isinstance(block, dict) else None
    return FILE if isinstance(block, dict) and path[-1] in block else DEFAULT


def _batch(case):
    for key, value in zip(BATCH_KEYS, case.batch[:3], strict=True):
        given = case.config.get(key) is not None
        unknown = not given and case.world_size is None and key == "train_batch_size" and value is not None
        origin = _origin(case, (key,)) if given else DERIVED
        yield Setting(key, f"{value} x ranks" if unknown else value, origin)
    yield Setting("ranks that multiply", case.data_parallel_ranks or "not given", DERIVED if case.world_size else "-")


def _optimizer(case):
    block = case.block("optimizer")
    if case.optimizer is None:
        yield Setting("optimizer", "none but one passed to initialize", DEFAULT)
    else:
        made = kind(case)
        names = {"fused": "DeepSpeed's fused", "cpu": "DeepSpeed's CPU", "torch": "torch's", "muon": "DeepSpeed's"}
        who = names.get(made, "torch's" if case.optimizer in known()["torch_optimizers"] else "no")
        adam = case.optimizer in ("adam", "adamw")
        as_l2 = case.optimizer == "adam" and case.optimizer_params.get("adam_w_mode", True) is False
        name = ("Adam" if as_l2 else "AdamW") if adam else block.get("type")
        yield Setting("optimizer", f"{who} {name}", FILE if name == block.get("type") else DERIVED)
        takes = known()["optimizers"].get(case.optimizer, {}).get(made) or known()["torch_optimizers"].get(
            case.optimizer, {}
        )
        for key in ("lr", "betas", "eps", "weight_decay", "momentum"):
            if key in takes or key in case.optimizer_params:
                path = ("optimizer", "params", key)
                yield Setting(".".join(path), case.optimizer_params.get(key, takes.get(key)), _origin(case, path))
    scheduler = case.block("scheduler").get("type")
    yield Setting("scheduler", scheduler or "none", FILE if scheduler else DEFAULT)
    entry = known()["schedulers"].get(scheduler) if isinstance(scheduler, str) else None
    for key, default in (entry["parameters"] if entry and not entry["torch"] else {}).items():
        if key != "last_batch_iteration":
            path = ("scheduler", "params", key)
            yield Setting(".".join(path), case.block("scheduler.params").get(key, default), _origin(case, path))
    yield Setting("gradient_clipping", case.value("gradient_clipping"), _origin(case, ("gradient_clipping",)))


def _precision(case):
    path = (case.precision, "enabled")
    yield Setting("precision", case.precision, DEFAULT if case.precision == "fp32" else _origin(case, path))
    if case.fp16.enabled:
        scale = case.fp16.loss_scale
        yield Setting("fp16.loss_scale", scale or "dynamic", _origin(case, ("fp16", "loss_scale")))
        if not scale:
            for key in ("initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale"):
                yield Setting(f"fp16.{key}", getattr(case.fp16, key), _origin(case, ("fp16", key)))
    if case.bf16.enabled:
        for key in ("bf16_master_weights_and_grads", "bf16_optimizer_states", "check_grad_overflow"):
            yield Setting(f"bf16.{key}", getattr(case.bf16, key), _origin(case, ("bf16", key)))
    dtype = case.block("data_types").get("grad_accum_dtype")
    origin = DERIVED if dtype is None else FILE
    yield Setting("data_types.grad_accum_dtype", dtype_of(dtype) or dtype or case.precision, origin)
    autocast = case.block("torch_autocast")
    on = autocast.get("dtype", "on") if autocast.get("enabled") else "off"
    yield Setting("torch_autocast", on, FILE if "enabled" in autocast else DEFAULT)


def _messages(case):
    value = case.config.get("communication_data_type")
    yield Setting("communication_data_type", value or case.precision, FILE if value else DERIVED)
    operation = case.value("gradient_allreduce_op")
    yield Setting("gradient_allreduce_op", operation, _origin(case, ("gradient_allreduce_op",)))


def _zero(case):
    root, written = "zero_optimization", case.written("zero_optimization")
    yield Setting(f"{root}.stage", case.stage, _origin(case, (root, "stage")))
    if not case.stage:
        return
    others = STAGES_1_AND_2_ALONE if case.stage == 3 else STAGE_3_ALONE
    fields = known()["models"]["DeepSpeedZeroConfig"]["fields"]
    for name, entry in fields.items():
        value = getattr(case.zero, name, None)
        key = entry.get("alias") or name
        if name == "stage" or name in others or "old" in entry:
            continue
        if hasattr(value, "model_fields_set"):
            if name != "leaf_module":
                yield from _inner(case, (root, key), value)
            continue
        given = next((each for each in (key, name) if each in written), None)
        origin = _origin(case, (root, given)) if given and written[given] != "auto" else DEFAULT
        if name == "overlap_comm" and written.get(name) is None:
            origin = DERIVED
        yield Setting(f"{root}.{key}", value, origin)


def _inner(case, path, block):
    there = case.block(".".join(path))
    for name in type(block).model_fields:
        if (value := getattr(block, name)) is not None:
            origin = FILE if name in there and there[name] != "auto" else DEFAULT
            if not there and name == "device":
                origin = "an old spelling in the file"
            yield Setting(".".join((*path, name)), value, origin)


def _rest(case):
    size = case.config.get("sequence_parallel_size")
    yield Setting("sequence_parallel_size", size or 1, FILE if size else DEFAULT)
    tensor = case.tensor_parallel.autotp_size
    yield Setting("tensor_parallel.autotp_size", tensor, _origin(case, ("tensor_parallel", "autotp_size")))
    for key in ("steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer"):
        yield Setting(key, case.value(key), _origin(case, (key,)))
