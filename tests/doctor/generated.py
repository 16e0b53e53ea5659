"""Configs made at random, and the real parser's answer to each beside the doctor's."""

import copy
import functools
import math
import types

from hypothesis import strategies as st

from labsupport.doctor.case import Case
from labsupport.doctor.diagnosis import diagnose
from labsupport.doctor.findings import ERROR, PARSE
from labsupport.doctor.known import known
from labsupport.doctor.rules.names import places

# The kinds of configs that people publish, written anew.
SOUND = [
    {"train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}},
    {"train_batch_size": 16, "gradient_accumulation_steps": 1, "fp16": {"enabled": True, "loss_scale": 0},
     "zero_optimization": {"stage": 2, "cpu_offload": True, "overlap_comm": True, "reduce_bucket_size": 5e8}},
    {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "gradient_clipping": "auto",
     "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto",
     "offload_optimizer": {"device": "cpu", "pin_memory": True},
     "offload_param": {"device": "nvme", "nvme_path": "/n"}}},
    {"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.95]}},
     "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100}}, "steps_per_print": 10,
     "wall_clock_breakdown": False, "tensorboard": {"enabled": True, "output_path": "logs"}},
    {"train_batch_size": 8, "zero_optimization": {"stage": 2, "zenflow": {"select_strategy": "auto"},
     "offload_optimizer": {"device": "cpu"}}, "tensor_parallel": {"autotp_size": 2}, "compile": {"deepcompile": True}},
    {"train_batch_size": 8, "checkpoint": {"tag_validation": "Warn", "writer": {"type": "fast"}}, "aio": {},
     "activation_checkpointing": {"number_checkpoints": 4}, "data_types": {"grad_accum_dtype": "fp32"},
     "data_efficiency": {"data_sampling": {"curriculum_learning": {"enabled": False}}}, "comms_logger": {},
     "flops_profiler": {"enabled": False}, "autotuning": {"enabled": False}, "timers": {"throughput": {}},
     "expert_parallel": {"enabled": False}, "hybrid_engine": {"enabled": False}, "torch_autocast": {"enabled": True}},
]  # fmt: skip
ODD = [None, True, False, 0, 1, 2, 3, 4, -1, 2.0, 0.5, 15099494.4, 5e8, 10**30, math.inf, math.nan, "", "auto", "2",
       "-1", "2.0", "false", "yes", "cpu", "nvme", "none", "fp16", "bf16", "FP32", "float16",
       "sum", "MEAN", "warn", "AdamW",
       "WarmupLR", "/nvme", "throughput", [], [1], ["a"], {}, {"enabled": True}, {"device": "cpu"}, {"stage": 2},
       {"a": None}]  # fmt: skip
JSON = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@functools.cache
def paths():
    """Every path that DeepSpeed reads, and some that it does not."""
    found = [("unknown",), ("nebula",), ("zero_optimization", "mics_shard_size"), ("zero_optimization", "unknown"),
             ("fp16", "strict"), ("optimizer", "params", "max_grad_norm")]  # fmt: skip
    for key, blocks in places().items():
        found += [(*(block.split(".") if block else ()), key) for block in blocks]
    return sorted(found)


# Where the default tells nothing of what fits.
FITTING = {
    "train_batch_size": [1, 2, 6, 8, 16, 48], "train_micro_batch_size_per_gpu": [1, 2, 3, 4],
    "gradient_accumulation_steps": [1, 2, 3], "sequence_parallel_size": [1, 2], "autotp_size": [1, 2],
    "communication_data_type": ["fp32", "bf16", None], "gradient_allreduce_op": ["sum", "mean", "SUM"],
    "type": ["AdamW", "sgd", "WarmupLR", "fast"], "dtype": ["bf16", "float16", "half"], "device": ["cpu", "nvme"],
    "stage": [0, 1, 2, 3, "2"], "offload_optimizer": [{"device": "cpu"}, {"device": "cpu", "ratio": 0.5}, {}],
    "offload_param": [{"device": "cpu"}, {}], "cpu_offload": [True, False], "cpu_offload_param": [True, False],
    "zenflow": [{}, {"select_strategy": "step", "select_interval": 4}], "curriculum_learning": [{"enabled": True}],
    "dynamic_batching": [{"enabled": True}, {"min_batch_size": "a"}, {"enabled": True, "max_tokens": 8}],
    "loss_scale": [0, 128, "2"], "select_interval": [1, "auto"], "update_interval": [0, 1, "auto"],
}  # fmt: skip


def fitting(path):
    """Values of the type that belongs to a path, as its default tells it."""
    if path[-1] in FITTING:
        return FITTING[path[-1]]
    return {
        bool: [True, False, "true", 0], int: [0, 1, 2, 1000, "7", 3.0], float: [0.0, 0.5, 1, "0.25"],
        str: ["a", "auto", "step"], dict: [{}], list: [[], ["a"]], type(None): [None, 1, True],
    }[type(_default(path))]  # fmt: skip


@functools.cache
def _default(path):
    block = known()["blocks"].get(".".join(path[:-1]), known()["top_level"] if len(path) == 1 else {})
    if path[-1] in block:
        return block[path[-1]]
    for model in known()["models"].values():
        for field, entry in model["fields"].items():
            if path[-1] in (field, entry.get("alias")):
                return entry["default"]
    return None


@st.composite
def configs(draw):
    """A sound config, changed in up to four places, or any JSON value at all."""
    if draw(st.integers(0, 30)) == 0:
        return draw(JSON)
    config = copy.deepcopy(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(paths()))
        if draw(st.integers(0, 3)) == 0:  # one of the common ones
            path = draw(st.sampled_from([path for path in paths() if len(path) == 1 or path[0] == "zero_optimization"]))
        block = config
        for step in path[:-1]:
            block = block.setdefault(step, {})
            if not isinstance(block, dict):
                break
        if isinstance(block, dict):
            what = draw(st.integers(0, 5))
            if what == 0:
                block.pop(path[-1], None)
            else:
                values = st.sampled_from(fitting(path)) if what < 4 else st.sampled_from(ODD) | JSON
                block[path[-1]] = copy.deepcopy(draw(values))
    return config


def difference(config, ranks):
    """Return what the doctor and DeepSpeed's parser say differently of a config on that many ranks, or None."""
    import deepspeed.runtime.config as parser

    real, parser.dist = parser.dist, types.SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda: ranks)
    try:
        theirs, why = parser.DeepSpeedConfig(copy.deepcopy(config)) if isinstance(config, dict) else None, "no dict"
    except (Exception, Warning) as error:
        theirs, why = None, f"{type(error).__name__}: {error}"
    finally:
        parser.dist = real
    found = diagnose(copy.deepcopy(config), ranks, accelerator="cpu")
    errors = [finding for finding in found if finding.severity == ERROR and finding.when == PARSE]
    if theirs is None:
        return None if errors else f"DeepSpeed refuses it ({why}), the doctor does not"
    if errors:
        return f"the doctor refuses it ({errors[0].in_words} [{errors[0].code}]), DeepSpeed does not"
    case = Case(config, ranks, "cpu")
    for name, (ours, other) in settings(case, theirs).items():
        if ours != other and not (ours != ours and other != other):
            return f"{name}: the doctor reads {ours!r}, DeepSpeed {other!r}"
    return None


def settings(case, theirs):
    """{name: (ours, DeepSpeed's)} of all that both read."""
    pairs = {
        "batch": (case.batch[:3], (theirs.train_batch_size, theirs.train_micro_batch_size_per_gpu,
                                   theirs.gradient_accumulation_steps)),
        "optimizer": (case.optimizer, theirs.optimizer_name),
        "scheduler": (case.block("scheduler").get("type"), theirs.scheduler_name),
        "clipping": (case.value("gradient_clipping"), theirs.gradient_clipping),
        "stage": (case.stage, theirs.zero_optimization_stage),
    }  # fmt: skip
    blocks = {
        "zero_optimization": theirs.zero_config, "fp16": theirs.float16_config, "bf16": theirs.bfloat16_config,
        "monitor": theirs.monitor_config, "hybrid_engine": theirs.hybrid_engine, "compile": theirs.compile_config,
        "timers.throughput": theirs.timers_config, "tensor_parallel": theirs.tensor_parallel_config,
    }  # fmt: skip
    if theirs.weight_quantization_config is not None:
        blocks["weight_quantization"] = theirs.weight_quantization_config
    if theirs.comms_config.comms_logger_enabled:
        blocks["comms_logger"] = theirs.comms_config.comms_logger
    for root, block in blocks.items():
        pairs[root] = (plain(case.parsed(root)), plain(block))
    return pairs


def plain(block):
    """A pydantic block as nested dicts of its set values, in words where JSON has none for them."""
    if hasattr(block, "model_fields_set"):
        return {key: plain(value) for key, value in vars(block).items() if key in type(block).model_fields}
    if isinstance(block, dict):
        return {key: plain(value) for key, value in block.items()}
    if isinstance(block, list | tuple):
        return [plain(value) for value in block]
    if isinstance(block, float) and block != block:
        return "not a number"
    return block if isinstance(block, bool | int | float | str | None) else str(block)


__all__ = ["JSON", "SOUND", "configs", "difference", "known", "paths", "settings"]
