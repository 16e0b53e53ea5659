"""Blocks that are no blocks, and values of a type or size that DeepSpeed's parser does not take."""

from labsupport.doctor.blocks import OldAndNew
from labsupport.doctor.findings import ERROR, NOTE, PARSE, SILENT, rule
from labsupport.doctor.known import known
from labsupport.doctor.rules.names import nearest, shown

# {block: what DeepSpeed takes in place of a dict}. `null` where it must be a dict ends in a TypeError or an
# AttributeError of Python's.
INSTEAD_OF_A_DICT = {
    "zero_optimization": (bool,),
    "bf16": (type(None),),
    "aio": (type(None),),
    "checkpoint.writer": (type(None),),
    "autotuning.model_info": (type(None),),
}
NESTED = ("checkpoint.writer", "checkpoint.parallel_write", "autotuning.model_info", "data_efficiency.data_sampling",
          "data_efficiency.data_routing", "data_efficiency.data_sampling.curriculum_learning",
          "data_efficiency.data_sampling.dynamic_batching", "data_efficiency.data_routing.random_ltd")  # fmt: skip
DICTS = ("activation_checkpointing", "torch_autocast", "optimizer", "scheduler", "flops_profiler", "autotuning",
         "pipeline", "data_efficiency", "checkpoint", "data_types", "aio")  # fmt: skip


@rule("not-a-block", ERROR, "runtime/config.py, DeepSpeedConfig._initialize_params", PARSE)
def not_a_block(case):
    models = [root for root in known()["roots"] if root not in ("monitor", "timers.throughput")]
    for name in (*models, *DICTS, *NESTED):
        outer, _, key = name.rpartition(".")
        block = case.block(outer) if outer else case.config
        if key in block and not isinstance(block[key], (dict, *INSTEAD_OF_A_DICT.get(name, ()))):
            yield _refusal(name.split("."), block[key])
    if "bfloat16" in case.config and case.config.get("bf16") is None and not isinstance(case.config["bfloat16"], dict):
        yield _refusal(("bfloat16",), case.config["bfloat16"])
    experts = case.config.get("expert_parallel")
    if experts and not isinstance(experts, dict):
        yield _refusal(("expert_parallel",), experts)
    timers = case.config.get("timers", {})
    if isinstance(timers, str | list) and "throughput" in timers or not isinstance(timers, str | list | dict):
        yield _refusal(("timers",), timers)
    if isinstance(timers, dict) and not isinstance(timers.get("throughput", {}), dict):
        yield _refusal(("timers", "throughput"), timers["throughput"])


def _refusal(path, value):
    return (
        tuple(path),
        f"{path[-1]} is {shown(value)}, and DeepSpeed, which looks for a block there, ends in an error of Python's",
        "write a block, {...}, or leave it out",
    )


@rule("wrong-type", ERROR, "runtime/config_utils.py, DeepSpeedConfigModel (pydantic)", PARSE)
def wrong_type(case):
    for path, error in case.errors:
        if not isinstance(error, OldAndNew) and _kind(error) == "wrong-type":
            # pydantic's model is given where the value is one.
            yield (
                path,
                f"{path[-1]} is {shown(error['input'])}, and DeepSpeed refuses it: {_said(error)}",
                _type_fix(error),
            )


def _kind(error):
    if error["type"] in OUT_OF_RANGE:
        return "out-of-range"
    if error["type"] in ("enum", "literal_error"):
        return "not-a-choice"
    return error["type"] if error["type"] in OWN_KINDS or error["type"] == "extra_forbidden" else "wrong-type"


OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
OWN_KINDS = ("loss-scale", "gradient-norm", "partial-offload", "zenflow")


def _said(error):
    return error["msg"][0].lower() + error["msg"][1:].rstrip(".")


def _type_fix(error):
    if error["type"] == "int_from_float":
        return f"write a whole number, {int(error['input'])}"
    if error["type"].startswith("int"):
        return "write a whole number"
    if error["type"].startswith("float"):
        return "write a number"
    if error["type"].startswith("bool"):
        return "write true or false"
    if error["type"].startswith("string"):
        return "write a text"
    if error["type"].startswith(("model", "dict")):
        return "write a block, {...}, or leave it out"
    return "mend the value, or leave it out"


@rule("out-of-range", ERROR, "runtime/config_utils.py, DeepSpeedConfigModel (pydantic)", PARSE)
def out_of_range(case):
    for path, error in case.errors:
        if not isinstance(error, OldAndNew) and _kind(error) == "out-of-range":
            bound = next(iter(error["ctx"].values()))
            words = {"greater_than": "above", "greater_than_equal": "at least", "less_than": "below", "less_than_equal": "at most"}[error["type"]]  # noqa: E501  # fmt: skip
            yield (
                path,
                f"{path[-1]} is {shown(error['input'])}, and DeepSpeed takes what is {words} {bound}",
                "mend the number",
            )


@rule("not-a-choice", ERROR, "runtime/config_utils.py, DeepSpeedConfigModel (pydantic)", PARSE)
def not_a_choice(case):
    for path, error in case.errors:
        if not isinstance(error, OldAndNew) and _kind(error) == "not-a-choice":
            names = list(dict.fromkeys(error["ctx"]["expected"].replace(" or ", ", ").split(", ")))
            choices = f"{', '.join(names[:-1])} or {names[-1]}"
            close = nearest(error["input"], [name.strip("'") for name in names])
            fix = f"did you mean {close!r}?" if close else f"choose {choices}"
            yield path, f"{path[-1]} is {shown(error['input'])}, and DeepSpeed takes {choices}", fix


@rule("loss-scale", ERROR, "runtime/precision_config.py, DeepSpeedFP16Config", PARSE)
def loss_scale(case):
    for path, error in case.errors:
        if not isinstance(error, OldAndNew) and error["type"] == "loss-scale":
            what = shown(error["input"]) if len(path) > 1 else "as it is"
            yield (
                path,
                f"{path[-1]} is {what}, and DeepSpeed refuses it: {error['msg']}",
                "write 0 for a dynamic loss scale",
            )


@rule("read-as", NOTE, "runtime/config_utils.py, DeepSpeedConfigModel (pydantic converts)")
def read_as(case):
    for root, (path, written) in case.roots.items():
        block = case.taken(root)
        if block is not None:
            yield from _converted(path, written, block)


def _converted(path, written, block):
    fields = type(block).model_fields
    for key, value in written.items():
        name = next((n for n, field in fields.items() if key in (n, field.alias)), None)
        taken = getattr(block, name, None) if name else None
        if isinstance(value, dict) and hasattr(taken, "model_fields_set"):
            yield from _converted((*path, key), value, taken)
        elif isinstance(taken, bool | int | float) and value != "auto" and _differs(value, taken):
            yield (*path, key), f"DeepSpeed reads {shown(value)} as {shown(taken)}", f"write {_json(taken)}"


def _differs(value, taken):
    # 1 for 1.0 and 5e8 for 500000000 are no surprise; "false" for False and 1 for True may be.
    if isinstance(value, bool) or isinstance(taken, bool):
        return type(value) is not type(taken)
    return isinstance(value, str)


def _json(value):
    return {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value


@rule("auto-in-block", SILENT, "runtime/config_utils.py, DeepSpeedConfigModel.__init__")
def auto_in_block(case):
    for root, (path, written) in case.roots.items():
        block = case.taken(root)
        if block is not None:
            yield from _dropped(case, path, written, block)


def _dropped(case, path, written, block):
    for key, value in written.items():
        name = next((n for n, field in type(block).model_fields.items() if key in (n, field.alias)), None)
        taken = getattr(block, name, None) if name else None
        if isinstance(value, dict) and hasattr(taken, "model_fields_set"):
            yield from _dropped(case, (*path, key), value, taken)
        elif value == "auto" and (path == () or name) and taken != "auto" and "zenflow" not in path:
            who = "the Trainer does not fill this one in, and DeepSpeed" if case.hugging_face else "plain DeepSpeed"
            fix = "write the value" if case.hugging_face else "write the value, or hand the config to the Trainer"
            yield (*path, key), f'{who} drops "auto" here and takes its default, {_default_in_words(taken)}', fix


def _default_in_words(taken):
    if taken is None or hasattr(taken, "model_fields_set"):
        return "which is none" if taken is None else "an empty block"
    return str(_json(taken))


@rule("no-such-value", ERROR, "runtime/config.py, the get_* functions", PARSE)
def no_such_value(case):
    """Values outside the pydantic blocks that the parser looks at, one by one."""
    config = case.config
    for key in ("communication_data_type", "seq_parallel_communication_data_type"):
        value = config.get(key)
        if value is not None and (not isinstance(value, str) or value.lower() not in ("fp32", "fp16", "bf16")):
            yield (
                (key,),
                f"{key} is {shown(value)}, and DeepSpeed takes fp16, bf16 or fp32 in this spelling alone",
                _dtype(value),
            )
    operation = config.get("gradient_allreduce_op", "mean")
    if not isinstance(operation, str) or operation.lower() not in ("mean", "sum"):
        yield (
            ("gradient_allreduce_op",),
            f"gradient_allreduce_op is {shown(operation)}, and DeepSpeed takes mean or sum",
            "write one of them",
        )
    autocast = case.block("torch_autocast")
    if "dtype" in autocast and not _is_dtype(autocast["dtype"]):
        yield (
            ("torch_autocast", "dtype"),
            f"torch_autocast.dtype is {shown(autocast['dtype'])}, which is no name of a dtype to DeepSpeed",
            "write bfloat16 or float16",
        )
    modules = autocast.get("lower_precision_safe_modules", [])
    if not isinstance(modules, list | str | dict) or not all(isinstance(each, str) for each in modules):
        yield (
            ("torch_autocast", "lower_precision_safe_modules"),
            "lower_precision_safe_modules is no list of names of modules, and DeepSpeed refuses it",
            'write a list such as ["torch.nn.Linear"]',
        )
    for block in ("optimizer",):
        name = case.block(block).get("type")
        if name is not None and not isinstance(name, str):
            yield (block, "type"), f"{block}.type is {shown(name)}, which is no name", "write a name, for example AdamW"
    params = case.block("optimizer").get("params")
    if case.optimizer is not None and params is not None and not isinstance(params, dict):
        yield (
            ("optimizer", "params"),
            f"optimizer.params is {shown(params)}, and DeepSpeed looks for a block there",
            "write a block, {...}",
        )
    size = config.get("vocabulary_size")
    try:
        bool(size and size % 8 != 0)
    except TypeError:
        yield (
            ("vocabulary_size",),
            f"vocabulary_size is {shown(size)}, and DeepSpeed divides it by 8",
            "write a whole number, or leave it out",
        )
    experts = case.block("expert_parallel")
    if experts.get("load_balance_coeff") is not None:
        yield (
            ("expert_parallel", "load_balance_coeff"),
            "load_balance_coeff is not supported, and DeepSpeed refuses it",
            "delete it",
        )
    kept = case.block("data_types").get("keep_in_fp32_modules", "auto")
    if kept != "auto" and not (isinstance(kept, list) and all(isinstance(each, str) for each in kept)):
        yield (
            ("data_types", "keep_in_fp32_modules"),
            f'keep_in_fp32_modules is {shown(kept)}, and DeepSpeed takes "auto" or a list of names',
            "write one of these",
        )
    if case.block("aio").get("use_gds") and case.accelerator not in (None, "cuda"):
        yield (
            ("aio", "use_gds"),
            f"use_gds is on, and DeepSpeed takes it on an NVIDIA GPU alone, not on {case.accelerator!r}",
            "delete it",
        )
    yield from _wall_clock(case)


def _dtype(value):
    for name, spellings in known()["dtypes"].items():
        if isinstance(value, str) and value.lower() in spellings and name != "int8":
            return f"write {name}"
    return "write one of them, or leave it out"


def _is_dtype(value):
    return isinstance(value, str) and any(value in spellings[1:] for spellings in known()["dtypes"].values())


def _wall_clock(case):
    switch, profiler = (
        case.config.get("wall_clock_breakdown", False),
        case.block("flops_profiler").get("enabled", False),
    )
    try:
        _ = switch | profiler
    except TypeError:
        key = ("flops_profiler", "enabled") if isinstance(switch, bool | int) else ("wall_clock_breakdown",)
        value = profiler if key[0] == "flops_profiler" else switch
        yield key, f"{'.'.join(key)} is {shown(value)}, and DeepSpeed takes true or false alone", "write true or false"


@rule("checkpoint-value", ERROR, "runtime/model_checkpointing/config.py, _validate_config_values", PARSE)
def checkpoint_value(case):
    checkpoint, writer = case.block("checkpoint"), case.block("checkpoint.writer")
    for path, block, names in (
        (("checkpoint", "tag_validation"), checkpoint, ("WARN", "IGNORE", "FAIL")),
        (("checkpoint", "writer", "type"), writer, ("MOCK", "PYTHON", "FAST")),
        (("checkpoint", "writer", "data_parallel"), writer, ("REPLICA", "SOCKET", "MACHINE")),
    ):
        value = block.get(path[-1], names[0])
        nothing = value is None and path[-1] != "tag_validation"
        if not nothing and (not isinstance(value, str) or value.upper() not in names):
            yield (
                path,
                f"{'.'.join(path)} is {shown(value)}, and DeepSpeed takes {', '.join(names)}",
                "write one of them",
            )
    stage = case.block("checkpoint.parallel_write").get("pipeline_stage", False)
    if stage not in (True, False):
        path = ("checkpoint", "parallel_write", "pipeline_stage")
        yield path, f"pipeline_stage is {shown(stage)}, and DeepSpeed takes true or false alone", "write one of them"


@rule("autotuning-folder", ERROR, "autotuning/config.py, DeepSpeedAutotuningConfig._initialize", PARSE)
def autotuning_folder(case):
    for key in ("results_dir", "exps_dir"):
        if not case.block("autotuning").get(key, "named"):
            yield (
                ("autotuning", key),
                f"autotuning.{key} is empty, which DeepSpeed refuses",
                "name a folder, or leave it out",
            )


@rule("data-efficiency-value", ERROR, "runtime/data_pipeline/config.py", PARSE)
def data_efficiency(case):
    outer = ("data_efficiency", "data_sampling")
    learning = case.block("data_efficiency.data_sampling.curriculum_learning")
    if learning.get("enabled", False) and "curriculum_metrics" not in learning:
        yield (
            (*outer, "curriculum_learning"),
            "curriculum learning is enabled without curriculum_metrics, which DeepSpeed refuses",
            "name the metrics",
        )
    batching = case.block("data_efficiency.data_sampling.dynamic_batching")
    needed = ("max_tokens",) if batching.get("enabled") else ()
    for key in needed:
        if key not in batching:
            yield (
                (*outer, "dynamic_batching"),
                "dynamic batching is enabled without max_tokens, which DeepSpeed refuses",
                "give max_tokens",
            )
    for key in ("min_batch_size", "max_batch_size", *needed):
        if key in batching and not _is_whole(batching[key]):
            yield (
                (*outer, "dynamic_batching", key),
                f"{key} is {shown(batching[key])}, and DeepSpeed makes a whole number of it",
                "write a whole number",
            )


def _is_whole(value):
    try:
        int(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


@rule("max-grad-norm-type", ERROR, "runtime/config.py, DeepSpeedConfig._do_warning_check", PARSE)
def max_grad_norm_type(case):
    params = case.optimizer_params
    if case.optimizer is not None and "max_grad_norm" in params:
        value = params["max_grad_norm"]
        if not isinstance(value, int | float):
            yield (
                ("optimizer", "params", "max_grad_norm"),
                f"max_grad_norm is {shown(value)}, and DeepSpeed compares it with 0",
                "delete it, and write gradient_clipping",
            )
