"""A choice of the stage selector, as plain data: what it may hold, its model, its ds_config, its run. No torch.

    python -c "from labsupport.widgets.selector.choices import DEFAULT, config_for; print(config_for(DEFAULT))"

A choice is a dict with the keys of DEFAULT. The page reckons with it in JavaScript (planner/ and choice.js), from what
facts.py hands over; tests/widgets/test_javascript_planner.py holds that against `plan`, byte by byte.
"""

import functools
import itertools
import json
import math
from typing import NamedTuple

from labsupport.config import create_deepspeed_config, merge_configs, validate_config
from labsupport.errors import ConfigError
from labsupport.machine.cards import CARDS
from labsupport.memory.host_link import host_link_bytes
from labsupport.memory.planner import plan
from labsupport.models import PRESETS, shape_named
from labsupport.runs import Run
from labsupport.shapes import known_models, shape_of_config

OWN, PARAMETERS = "own", "parameters"  # in place of a model's name: a config.json, or a bare number
AXES = {
    "stage": [0, 1, 2, 3],
    "precision": ["bf16", "fp16", "fp32"],
    "offload_optimizer": ["none", "cpu", "nvme"],
    "offload_param": ["none", "cpu", "nvme"],
    "checkpointing": [False, True],
    "liger": [False, True],
    "grad_accum_dtype": [None, "fp32"],
    "model": [*PRESETS, *known_models(), OWN, PARAMETERS],
    "card": list(CARDS),
}
# What is a free number, from and to: whole ones, but for the host's memory.
BOUNDS = {
    "world_size": (1, 65_536),
    "gpus_per_node": (1, 1_024),
    "host_memory": (1, 1_000_000),
    "micro_batch_size": (1, 65_536),
    "accumulation": (1, 65_536),
    "sequence_length": (1, 10_000_000),
    "parameters": (1, 10**14),
}
MOST_TOKENS = 2**24  # of a micro-batch; far beyond any card
DEFAULT = {
    "stage": 0,
    "precision": "bf16",
    "offload_optimizer": "none",
    "offload_param": "none",
    "world_size": 2,
    "gpus_per_node": 8,
    "host_memory": 64,  # of a node, in GB of 1e9 bytes
    "micro_batch_size": 4,
    "accumulation": 1,
    "sequence_length": None,  # the model's longest, and at most USUAL_SEQUENCE tokens
    "checkpointing": False,
    "liger": False,
    "grad_accum_dtype": None,  # in which gradients are added up; None: the precision
    "model": "1m",
    "config_json": None,  # of the model OWN
    "parameters": None,  # of the model PARAMETERS
    "sizes": {},  # keys of zero_optimization that the reader sets, see SIZES
    "card": "RTX 4090",
}
USUAL_SEQUENCE = 4096
NVME_PATH = "/local_nvme"  # what the selector shows; the reader names a folder of their own
STRATEGY = ("stage", "offload_optimizer", "offload_param")  # the axes that DeepSpeed combines or refuses


class Size(NamedTuple):
    """A key of zero_optimization that the selector can set: the field of Settings that it is, and where it counts."""

    field: str
    stages: tuple
    least: int | None = 0  # None: it is true or false


SIZES = {
    "reduce_bucket_size": Size("reduce_bucket_size", (1, 2, 3), 1),
    "stage3_prefetch_bucket_size": Size("prefetch_bucket_size", (3,)),
    "stage3_param_persistence_threshold": Size("persistence_threshold", (3,)),
    "stage3_max_live_parameters": Size("max_live_parameters", (3,)),
    "stage3_max_reuse_distance": Size("max_reuse_distance", (3,)),
    "sub_group_size": Size("sub_group_size", (3,), 1),
    "overlap_comm": Size("overlap_comm", (1, 2, 3), None),
    "reduce_scatter": Size("reduce_scatter", (1, 2, 3), None),
    "use_multi_rank_bucket_allreduce": Size("multi_rank_allreduce", (1, 2), None),
}
MOST_SIZE = 10**12


def checked_choice(choice):
    """Return a whole choice from some of its values; raises ConfigError, in one sentence, for what has no plan."""
    for name, value in choice.items():
        if name not in DEFAULT:
            raise ConfigError(f"The selector has no {name!r}: it has {', '.join(DEFAULT)}.")
        if name in AXES and not any(value == known and type(value) is type(known) for known in AXES[name]):
            raise ConfigError(f"{name} is {value!r}: the selector has {', '.join(map(str, AXES[name]))}.")
        if name in BOUNDS and value != DEFAULT[name]:
            _require_within(name, value, BOUNDS[name], whole=name != "host_memory")
    whole = DEFAULT | choice
    for key, value in whole["sizes"].items():
        _require_size(key, value)
    if whole["model"] == PARAMETERS and whole["parameters"] is None:
        raise ConfigError("The model is a bare number of parameters: give parameters as well.")
    tokens = whole["micro_batch_size"] * (sequence_length_of(whole) or 1)
    if tokens > MOST_TOKENS:
        raise ConfigError(f"A micro-batch would have {tokens:,} tokens: give fewer samples or shorter ones.")
    plan_of_choice(whole)
    return whole


def _require_within(name, value, bounds, whole):
    low, high = bounds
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}: give a {'whole ' if whole else ''}number from {low} to {high:,}.")


def _require_size(key, value):
    if key not in SIZES:
        raise ConfigError(f"The selector sets no {key!r}: it sets {', '.join(SIZES)}.")
    if SIZES[key].least is not None:
        _require_within(key, value, (SIZES[key].least, MOST_SIZE), whole=True)
    elif not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}: give true or false.")


def shape_of_choice(choice):
    """Return the Shape of a choice's model, or None for a bare number of parameters."""
    if choice["model"] == PARAMETERS:
        return None
    return _own_shape(json.dumps(choice["config_json"])) if choice["model"] == OWN else shape_named(choice["model"])


@functools.lru_cache(maxsize=256)
def _own_shape(text):
    return shape_of_config(json.loads(text), "The config.json")


def model_in_words(choice):
    """Return what a choice's model is called: its name, or what it is made of."""
    if choice["model"] == PARAMETERS:
        return f"a model of {choice['parameters']:,} parameters"
    shape = shape_of_choice(choice)
    return f"a {shape.architecture} of {shape.parameters:,} parameters" if choice["model"] == OWN else choice["model"]


def sequence_length_of(choice):
    """Return the tokens of a sample: as chosen, else the model's longest up to USUAL_SEQUENCE; None without a shape."""
    shape = shape_of_choice(choice)
    if shape is None:
        return None
    return choice["sequence_length"] or min(shape.longest_sequence, USUAL_SEQUENCE)


def config_for(choice):
    """Return the ds_config of a choice; raises ConfigError for one that DeepSpeed does not combine.

    The buckets follow from the hidden size as the Hugging Face Trainer sets them for "auto": its square, nine
    tenths of that, and ten times the hidden size (transformers, integrations/deepspeed.py); a bare number of
    parameters keeps DeepSpeed's own. train_batch_size is left out, and DeepSpeed infers it.
    """
    shape, stage = shape_of_choice(choice), choice["stage"]
    config = strategy_config(*(choice[axis] for axis in ("precision", *STRATEGY)))
    more = {
        "train_micro_batch_size_per_gpu": choice["micro_batch_size"],
        "gradient_accumulation_steps": choice["accumulation"],
    }
    zero = {}
    if shape:
        square = shape.hidden_size**2
        zero = {"reduce_bucket_size": square} if stage else {}
        if stage == 3:
            zero["stage3_prefetch_bucket_size"] = int(0.9 * square)
            zero["stage3_param_persistence_threshold"] = 10 * shape.hidden_size
        if choice["offload_param"] == "nvme":
            zero["offload_param"] = {"buffer_size": max(shape.tensor_sizes)}
    zero |= {key: value for key, value in choice["sizes"].items() if stage in SIZES[key].stages}
    if choice["grad_accum_dtype"]:
        more["data_types"] = {"grad_accum_dtype": choice["grad_accum_dtype"]}
    return merge_configs(config, more | {"zero_optimization": zero})


@functools.cache
def strategy_config(precision, stage, offload_optimizer, offload_param):
    """Return the config of a strategy for one sample; raises ConfigError for what DeepSpeed does not combine."""
    return create_deepspeed_config(
        stage,
        precision=precision,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        train_batch_size=None,
        offload_optimizer=_device(offload_optimizer),
        offload_param=_device(offload_param),
        nvme_path=NVME_PATH,
        bucket_size=None,
    )


def plan_of_choice(choice):
    """Return the Plan of a choice on GPUs; raises ConfigError as config_for and `plan` do."""
    shape = shape_of_choice(choice)
    return plan(
        choice["parameters"] if shape is None else shape,
        config_for(choice),
        world_size=choice["world_size"],
        sequence_length=sequence_length_of(choice),
        activation_checkpointing=choice["checkpointing"],
        liger=choice["liger"],
    )


def run_of(choice, sequence_length=None):
    """Return the Run of a choice, by default at its own sequence length; raises as config_for does."""
    if choice["model"] == PARAMETERS:
        raise ConfigError("A bare number of parameters is no model that can be trained: choose one by its name.")
    return Run(
        shape_of_choice(choice) if choice["model"] == OWN else choice["model"],
        config_for(choice),
        choice["world_size"],
        sequence_length or sequence_length_of(choice),
        choice["checkpointing"],
    )


def refusal(choice):
    """Return "" where DeepSpeed combines the stage with the offload, else the sentence that says why it does not."""
    try:
        strategy_config("bf16", *(choice[axis] for axis in STRATEGY))
    except ConfigError as error:
        return str(error)
    return ""


def sums_refusal(stage, precision):
    """Return "" where DeepSpeed adds gradients up in fp32 at a stage and precision, else the sentence that says why."""
    config = {precision: {"enabled": True}} if precision != "fp32" else {}
    config |= {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}}
    try:
        validate_config(config | {"data_types": {"grad_accum_dtype": "fp32"}}, 1)
    except ConfigError as error:
        return str(error)
    return ""


@functools.cache
def strategies():
    """Return the combinations of stage and offload that DeepSpeed makes, each a dict, the cheapest first.

    Cheap is what keeps data on the GPU: nothing offloaded comes before the host, the host before NVMe; then what
    copies less between GPU and host, then the lower stage, whose messages are fewer and larger.
    """
    found = [dict(zip(STRATEGY, values, strict=True)) for values in itertools.product(*(AXES[n] for n in STRATEGY))]
    allowed = [strategy for strategy in found if not refusal(strategy)]
    return sorted(allowed, key=lambda s: (farthest(s), _link_bytes(s), s["stage"]))


def farthest(strategy):
    """Return 0 where all stays on the GPU, 1 where something goes to the host, 2 where something goes to NVMe."""
    return max(AXES[name].index(strategy[name]) for name in STRATEGY[1:])


def copied_bytes(planned):
    """Return the least that goes between one GPU and its host in a step of a Plan."""
    s = planned.settings
    each = _link_bytes(s._asdict(), s.accumulation_steps, s.parameter_bytes)
    return each * math.ceil(planned.parameters / s.world_size)


def _link_bytes(strategy, accumulation=1, parameter_bytes=2):
    optimizer, parameters = (strategy[name] != "none" for name in STRATEGY[1:])
    return host_link_bytes(strategy["stage"], accumulation, parameter_bytes, optimizer=optimizer, parameters=parameters)


def _device(name):
    return False if name == "none" else name
