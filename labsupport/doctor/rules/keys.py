"""Keys that DeepSpeed does not read, no longer reads, or reads under another name."""

from labsupport.doctor.blocks import OldAndNew
from labsupport.doctor.findings import ERROR, NOTE, PARSE, SILENT, rule
from labsupport.doctor.known import known
from labsupport.doctor.rules.names import AMBIGUOUS, fields_of, is_comment, nearest, places, put, shown, way_out

# Blocks of plain dicts whose keys DeepSpeed looks up one by one: what it does not look up has no effect. Not the
# parameters of an optimizer or a scheduler, which are arguments, and not what other code reads in its own way.
LOOKED_UP = ("activation_checkpointing", "aio", "autotuning", "checkpoint", "checkpoint.parallel_write",
             "checkpoint.writer", "data_efficiency", "data_types", "expert_parallel", "flops_profiler", "optimizer",
             "pipeline", "scheduler", "timers", "torch_autocast")  # fmt: skip


def _unknown(case):
    return [key for key in case.config if key not in known()["top_level"] and key not in known()["removed"]]


@rule("unknown-key", SILENT, "runtime/config.py, DeepSpeedConfig._initialize_params")
def unknown_key(case):
    for key in _unknown(case):
        if not is_comment(key, case.config[key]) and not _home(case, key):
            close = nearest(key, known()["top_level"])
            fix = f"did you mean {close!r}?" if close else "delete it, or move it into the block that it belongs to"
            yield (key,), f"DeepSpeed reads no top-level key {str(key)!r} and ignores it without a word", fix


@rule("misplaced-key", SILENT, "runtime/config.py, DeepSpeedConfig._initialize_params")
def misplaced_key(case):
    for key in _unknown(case):
        if home := _home(case, key):
            yield (
                (key,),
                f"DeepSpeed does not read {key!r} at the top level and ignores it without a word",
                f"move it {put(home)}",
            )


def _home(case, key):
    """The block that a key at the top level belongs to, or None."""
    if str(key) in AMBIGUOUS or (key == "allgather_size" and case.config.get("zero_optimization") is True):
        return None
    return next(iter(places().get(str(key), ())), None)


@rule("ignored-key-in-block", SILENT, "runtime/config_utils.py, get_scalar_param")
def ignored_key(case):
    for name in LOOKED_UP:
        names = known()["blocks"][name]
        for key, value in case.block(name).items():
            if key not in names and not is_comment(key, value):
                path = (*name.split("."), key)
                yield path, f"DeepSpeed does not read {str(key)!r} in {name} and ignores it", way_out(key, name, names)


@rule("unknown-key-in-block", ERROR, "runtime/config_utils.py, DeepSpeedConfigModel (pydantic, extra forbidden)", PARSE)
def unknown_key_in_block(case):
    for path, error in case.errors:
        if isinstance(error, OldAndNew) or error["type"] != "extra_forbidden" or _is_removed(path):
            continue
        block = ".".join(map(str, path[:-1]))
        names = fields_of(model) if (model := _model_at(path[:-1])) else ()
        if path[0] == "compile" and path[-1] in ("backend", "disable", "mode", "fullgraph", "dynamic", "kwargs"):
            fix = "delete it, and pass it to engine.compile(backend=..., ...)"
        elif path == ("zero_optimization", "grad_accum_dtype"):
            fix = "write {'data_types': {'grad_accum_dtype': 'fp32'}} at the top level"
        else:
            fix = way_out(path[-1], block, names)
        yield path, f"DeepSpeed refuses the key {path[-1]!r} in {block}, which has no such setting", fix


def _is_removed(path):
    return path[0] == "zero_optimization" and len(path) == 2 and path[1] in known()["removed_zero"]


def _model_at(path):
    """The model of pydantic that reads the block at a path, or None."""
    root, rest = "monitor", path
    for each in known()["roots"]:
        steps = tuple(each.split("."))
        if path[: len(steps)] == steps:
            root, rest = each, path[len(steps) :]
    model = known()["roots"][root]
    for step in rest:
        fields = known()["models"][model]["fields"]
        entry = next((e for name, e in fields.items() if step in (name, e.get("alias"))), None)
        kind = entry["type"] if entry else None
        inner = kind.get("union", [kind]) if isinstance(kind, dict) else []
        model = next((each["model"] for each in inner if isinstance(each, dict) and "model" in each), None)
        if model is None:
            return None
    return model


@rule("removed-key", ERROR, "runtime/config.py, _reject_removed_config_keys", PARSE)
def removed_key(case):
    for key in case.config:
        if key in known()["removed"]:
            fix = {
                "amp": "delete it, and use fp16, bf16 or torch_autocast",
                "elasticity": "delete it, and give the batch sizes themselves",
                "curriculum_learning": "move it into data_efficiency.data_sampling",
            }.get(key, "delete it")
            yield (key,), f"{key!r} was removed from DeepSpeed, which refuses it even when it is disabled", fix


@rule("removed-zero-key", ERROR, "runtime/config.py, _reject_removed_config_keys", PARSE)
def removed_zero_key(case):
    for key in case.block("zero_optimization"):
        if key in known()["removed_zero"]:
            what = "LoCo" if "loco" in key else "MiCS"
            fix = "delete it" if what == "LoCo" else "delete it; zero_hpz_partition_size is what is left of the kind"
            yield ("zero_optimization", key), f"{what} was removed from DeepSpeed, which refuses {key!r}", fix


@rule("old-spelling", NOTE, "runtime/config_utils.py, DeepSpeedConfigModel._process_deprecated_field")
def old_spelling(case):
    for key, old in _old_spellings(case):
        if old["sets"]:
            becomes = {True: 'a block {"device": "cpu"}'}.get(isinstance(old["becomes"][1], dict), "the same value")
            yield (
                ("zero_optimization", key),
                f"{key!r} is an old spelling, which DeepSpeed still honours",
                f"write {_full_name(old['new'])}, {becomes}",
            )


@rule("old-spelling-ignored", SILENT, "runtime/zero/config.py, DeepSpeedZeroConfig.cpu_offload_use_pin_memory")
def old_spelling_ignored(case):
    for key, old in _old_spellings(case):
        if not old["sets"]:
            yield (
                ("zero_optimization", key),
                f"{key!r} is an old spelling, which DeepSpeed warns of and then ignores",
                "write pin_memory into offload_optimizer or offload_param",
            )


def _old_spellings(case):
    fields = known()["models"]["DeepSpeedZeroConfig"]["fields"]
    return [(key, fields[key]["old"]) for key in case.written("zero_optimization") if "old" in fields.get(key, ())]


def _full_name(field):
    entry = known()["models"]["DeepSpeedZeroConfig"]["fields"].get(field, {})
    return entry.get("alias") or field


@rule("old-and-new-spelling", ERROR, "runtime/config_utils.py, DeepSpeedConfigModel._process_deprecated_field", PARSE)
def old_and_new(case):
    for path, error in case.errors:
        if isinstance(error, OldAndNew):
            yield (
                path,
                f"DeepSpeed refuses {error.old!r} beside {_full_name(error.new)!r}, its newer spelling",
                f"delete {error.old!r}",
            )


@rule("short-name", NOTE, "runtime/config_utils.py, DeepSpeedConfigModel (pydantic, populate_by_name)")
def short_name(case):
    fields = known()["models"]["DeepSpeedZeroConfig"]["fields"]
    for key in case.written("zero_optimization"):
        if "alias" in fields.get(key, ()):
            yield (
                ("zero_optimization", key),
                f"{key!r} is the short name of a setting, which DeepSpeed takes too",
                f"write {fields[key]['alias']}, the documented one",
            )


@rule("old-zero-switch", NOTE, "runtime/zero/config.py, read_zero_config_deprecated")
def old_zero_switch(case):
    value = case.config.get("zero_optimization")
    if isinstance(value, bool):
        yield (
            ("zero_optimization",),
            f"zero_optimization {str(value).lower()} is the oldest spelling, which DeepSpeed reads as stage "
            f"{int(value)}",
            f'write {{"stage": {int(value)}}}',
        )


@rule("old-bf16-name", NOTE, "runtime/precision_config.py, get_bfloat16_config")
def old_bf16_name(case):
    if "bfloat16" in case.config and case.config.get("bf16") is None:
        yield ("bfloat16",), "'bfloat16' is the old name of the block bf16, which DeepSpeed still reads", "write bf16"


@rule("old-bf16-name-ignored", SILENT, "runtime/precision_config.py, get_bfloat16_config")
def old_bf16_name_ignored(case):
    if "bfloat16" in case.config and case.config.get("bf16") is not None:
        yield ("bfloat16",), "DeepSpeed reads bf16 and ignores 'bfloat16' beside it", "delete 'bfloat16'"


@rule("read-by-nothing", SILENT, "runtime/config.py and runtime/engine.py: stored, and used nowhere")
def read_by_nothing(case):
    for key, fix in (
        ("disable_allgather", "delete it; zero_optimization.allgather_partitions is the setting of that kind"),
        ("data_parallel_size", "delete it, or give sequence_parallel_size as well"),
    ):
        if key in case.config and not (key == "data_parallel_size" and "sequence_parallel_size" in case.config):
            yield (key,), f"{key} is {shown(case.config[key])}, and nothing in DeepSpeed acts on it", fix
