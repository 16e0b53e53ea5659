"""Everything that the stage selector shows, as plain data that Python computed. No torch.

    python -c "from labsupport.widgets.selector.table import DEFAULT, config_for; print(config_for(DEFAULT))"

A choice is a dict with a value for every name in AXES. The page has no kernel, so it gets `stage_table()`: for each
combination the planner's terms of memory, which labsupport/stage_selector.js adds up and compares, and nothing that
it would have to know about DeepSpeed. tests/widgets/test_stage_table.py compares the whole grid with `plan`.
"""

import functools
import itertools
import math
from collections import Counter

from labsupport.config import create_deepspeed_config, merge_configs
from labsupport.errors import ConfigError
from labsupport.machine.cards import CARDS
from labsupport.memory import model_states
from labsupport.memory.activations import Activations, activation_bytes
from labsupport.memory.host_link import host_link_bytes
from labsupport.memory.messages import predicted_collectives, total_wire_bytes, wire_bytes
from labsupport.memory.moments import is_fused, resting_bytes, step_phases
from labsupport.memory.roles import ROLES
from labsupport.memory.room import ALLOWANCE_BYTES
from labsupport.models import PRESETS, shape_named
from labsupport.runs import Run
from labsupport.settings import read_settings

AXES = {
    "stage": [0, 1, 2, 3],
    "precision": ["bf16", "fp16", "fp32"],
    "offload_optimizer": ["none", "cpu", "nvme"],
    "offload_param": ["none", "cpu", "nvme"],
    "world_size": [1, 2, 4, 8, 16, 32, 64],
    "micro_batch_size": [1, 2, 4, 8, 16, 32],
    "accumulation": [1, 2, 4, 8, 16],
    "checkpointing": [False, True],
    "model": list(PRESETS),
    "card": list(CARDS),
}
DEFAULT = {
    "stage": 0,
    "precision": "bf16",
    "offload_optimizer": "none",
    "offload_param": "none",
    "world_size": 2,
    "micro_batch_size": 4,
    "accumulation": 1,
    "checkpointing": False,
    "model": "1m",
    "card": "RTX 4090",
}
PLACES = {"GPU": ("GPU",), "host": ("host", "pinned host"), "NVMe": ("NVMe",)}  # where the planner says
NVME_PATH = "/local_nvme"  # what the selector shows; the reader names a folder of their own
STRATEGY = ("stage", "offload_optimizer", "offload_param")  # the axes that DeepSpeed combines or refuses


def config_for(choice):
    """Return the ds_config of a choice; raises ConfigError for one that DeepSpeed does not combine.

    The buckets follow from the hidden size as the Hugging Face Trainer sets them for "auto": its square, nine
    tenths of that, and ten times the hidden size (transformers, integrations/deepspeed.py). train_batch_size
    is left out, and DeepSpeed infers it.
    """
    shape, stage = shape_named(choice["model"]), choice["stage"]
    config = _checked(*(choice[axis] for axis in ("precision", *STRATEGY)))
    sizes = {
        "train_micro_batch_size_per_gpu": choice["micro_batch_size"],
        "gradient_accumulation_steps": choice["accumulation"],
    }
    square = shape.hidden_size**2
    buckets = {"reduce_bucket_size": square} if stage else {}
    if stage == 3:
        buckets["stage3_prefetch_bucket_size"] = int(0.9 * square)
        buckets["stage3_param_persistence_threshold"] = 10 * shape.hidden_size
    if choice["offload_param"] == "nvme":
        buckets["offload_param"] = {"buffer_size": max(shape.tensor_sizes)}
    return merge_configs(config, sizes | {"zero_optimization": buckets})


@functools.cache
def _checked(precision, stage, offload_optimizer, offload_param):
    """The config of a strategy for one sample: whether DeepSpeed combines it depends on nothing else that is chosen."""
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


def run_of(choice, sequence_length=None):
    """Return the Run of a choice, by default at the model's longest sequence; raises as config_for does."""
    return Run(
        choice["model"],
        config_for(choice),
        choice["world_size"],
        sequence_length or shape_named(choice["model"]).longest_sequence,
        choice["checkpointing"],
    )


def refusal(choice):
    """Return "" where DeepSpeed combines the stage with the offload, else the sentence that says why it does not."""
    try:
        config_for(choice)
    except ConfigError as error:
        return str(error)
    return ""


def strategies():
    """Return the combinations of stage and offload that DeepSpeed makes, each a dict, the cheapest first.

    Cheap is what keeps data on the GPU: nothing offloaded comes before the host, the host before NVMe; then what
    copies less between GPU and host, then the lower stage, whose messages are fewer and larger.
    """
    found = [dict(zip(STRATEGY, values, strict=True)) for values in itertools.product(*(AXES[n] for n in STRATEGY))]
    allowed = [strategy for strategy in found if not refusal(DEFAULT | strategy)]
    return sorted(allowed, key=lambda s: (_farthest(s), host_trips(s, 1), s["stage"]))


def host_trips(strategy, accumulation, parameter_bytes=2):
    """Return how often one rank's part of the parameters would fit into what goes over the host link in a step."""
    optimizer, parameters = (strategy[name] != "none" for name in ("offload_optimizer", "offload_param"))
    return (
        host_link_bytes(strategy["stage"], accumulation, parameter_bytes, optimizer=optimizer, parameters=parameters)
        / parameter_bytes
    )


@functools.cache
def stage_table():
    """Return the table that the selector reads, JSON-serialisable, about a second's work.

    "refusals": {"stage|optimizer|parameters": sentence}, "strategies": the others, cheapest first, "farthest": 0 to 2
    for how far each puts data; "configs", "activations" and "cells" go by names of AXES, see `_cell`, in bytes.
    Roles are in the order of "roles".
    """
    models = {name: _model(name) for name in AXES["model"]}
    return {
        "axes": AXES,
        "roles": ROLES,
        "places": list(PLACES),
        "allowance_bytes": ALLOWANCE_BYTES,
        "cards": {
            name: {"memory_bytes": card.memory_bytes, "precision": card.precision} for name, card in CARDS.items()
        },
        "models": models,
        "strategies": strategies(),
        "farthest": [_farthest(strategy) for strategy in strategies()],
        "refusals": {
            "|".join(map(str, values)): refusal(DEFAULT | dict(zip(STRATEGY, values, strict=True)))
            for values in itertools.product(*(AXES[name] for name in STRATEGY))
        },
        "notes": notes(),
        "moments": Activations._fields,
    }


def _model(name):
    shape = shape_named(name)
    return {
        "parameters": shape.parameters,
        "sequence_length": shape.longest_sequence,
        "activations": {precision: _activations(shape, precision) for precision in AXES["precision"]},
        "cells": {
            precision: [_by_world_size(name, shape, precision, strategy) for strategy in strategies()]
            for precision in AXES["precision"]
        },
        "configs": {
            precision: [config_for(_choice(name, precision, strategy)) for strategy in strategies()]
            for precision in AXES["precision"]
        },
    }


def _activations(shape, precision):
    """[by checkpointing][by micro-batch size]: the fields of Activations, in bytes."""
    element_bytes = {"fp32": 4}.get(precision, 2)
    return [
        [
            list(
                activation_bytes(
                    shape,
                    size,
                    shape.longest_sequence,
                    element_bytes,
                    checkpointing=checkpointing,
                    reduce_bucket_size=shape.hidden_size**2,  # as config_for has it
                )
            )
            for size in AXES["micro_batch_size"]
        ]
        for checkpointing in AXES["checkpointing"]
    ]


def _by_world_size(name, shape, precision, strategy):
    choice = _choice(name, precision, strategy)
    return [_cell(shape, choice | {"world_size": world_size}) for world_size in AXES["world_size"]]


def _cell(shape, choice):
    """The planner's terms for one strategy on so many ranks.

    "memory": [one micro-batch a step, several], each [bytes at rest by place and role, the phases], a phase being
    [name, the moment of the activations that comes on top or None, bytes by role]; "sent": [by checkpointing][by
    accumulation] the bytes that a rank sends in a step; "ddp": what plain data parallelism sends; "trips": see
    host_trips, times "share" bytes.
    """
    memory = []
    for steps in (1, 2):
        s = read_settings(config_for(choice | {"accumulation": steps}), choice["world_size"])
        shares = model_states.shares_of(shape.tensor_sizes, s)
        fused = is_fused(s, "cuda")
        rest = resting_bytes(shares, s, "GPU", stepped=True, fused=fused)
        memory.append(
            [
                [_by_role(_together(rest, places)) for places in PLACES.values()],
                [
                    [phase, moment, _by_role(roles)]
                    for phase, moment, roles in step_phases(shares, s, fused, on_gpu=True)
                ],
            ]
        )
    element_bytes = s.parameter_bytes
    return {
        "memory": memory,
        "sent": [_sent(shape, choice, layers) for layers in (0, shape.layers)],
        "ddp": round(wire_bytes("all_reduce", shape.parameters * element_bytes, choice["world_size"])),
        "share": math.ceil(shape.parameters / choice["world_size"]) * element_bytes,
        "trips": [host_trips(choice, steps, element_bytes) for steps in AXES["accumulation"]],
    }


def _together(held, places):
    """{role: bytes} of some places of {place: {role: bytes}}."""
    roles = Counter()
    for place in places:
        roles.update(held.get(place, {}))
    return roles


def _sent(shape, choice, checkpointed_layers):
    """The bytes that one rank sends in a step, by AXES["accumulation"], whose first two are worked out.

    Each further micro-batch sends what the second one did.
    """
    first, second = (
        total_wire_bytes(
            predicted_collectives(
                shape.tensor_sizes,
                read_settings(config_for(choice | {"accumulation": steps}), choice["world_size"]),
                checkpointed_layers=checkpointed_layers,
                tied_embedding=shape.is_tied,
            ),
            choice["world_size"],
        )
        for steps in (1, 2)
    )
    return [round(first + (steps - 1) * (second - first)) for steps in AXES["accumulation"]]


def _by_role(held):
    return [held.get(role, 0) for role in ROLES]


def _choice(model, precision, strategy):
    return DEFAULT | {"model": model, "precision": precision, "micro_batch_size": 1} | strategy


def _device(name):
    return False if name == "none" else name


def _farthest(strategy):
    """0 where all stays on the GPU, 1 where something goes to the host, 2 where something goes to NVMe."""
    return max(AXES[name].index(strategy[name]) for name in STRATEGY[1:])


def notes():
    """Return what a choice should know, [{"text", "when": {axis: values}}]: shown where every axis has such a value."""
    zero, several = [1, 2, 3], AXES["world_size"][1:]
    windows = AXES["accumulation"][1:]
    small = [name for name, shape in PRESETS.items() if shape.parameters < 0.5e9]
    large = [name for name in PRESETS if name not in small]
    older = [name for name, card in CARDS.items() if card.precision == "fp16"]
    return [
        _note("One rank has nobody to share with: stages 1 to 3 save nothing here, and add buffers.",
              stage=zero, world_size=[1]),
        _note("DeepSpeed 0.19.8 all-reduces the gradients and then gathers the parameters, 1.5 times what plain data "
              "parallelism sends. With use_multi_rank_bucket_allreduce: false in zero_optimization it is the paper's "
              "1.0.", stage=[1, 2], world_size=several),
        _note("Stages 2 and 3 keep only a part of the gradients, so they reduce after every micro-batch of a step, not "
              "once.", stage=[2, 3], world_size=several, accumulation=windows),
        _note("The model is smaller than half of stage3_max_reuse_distance (1e9): stage 3 gathers it whole for the "
              "forward pass and releases nothing before the backward pass ends.",
              stage=[3], world_size=several, model=small),
        _note("Some 1e9 gathered parameters stay on the GPU: smaller numbers for stage3_max_live_parameters and "
              "stage3_max_reuse_distance, both together, free memory and send more.",
              stage=[3], world_size=several, model=large),
        _note("ZeRO keeps fp32 master weights even of fp32 parameters.", stage=zero, precision=["fp32"]),
        _note("The gradients of several micro-batches are added up in 16 bits. For fp32 sums write "
              "{\"data_types\": {\"grad_accum_dtype\": \"fp32\"}} at the top level of the config.",
              stage=zero, precision=["bf16", "fp16"], accumulation=windows),
        _note("At stage 0 in 16 bits DeepSpeed copies all gradients to fp32 for the optimizer's step.",
              stage=[0], precision=["bf16", "fp16"]),
        _note("fp16 scales its loss, and skips steps until the scale fits. Most CPUs refuse it.", precision=["fp16"]),
        _note("This card computes no bf16: choose fp16.", precision=["bf16"], card=older),
        _note("Adam runs on the host's processors: DeepSpeedCPUAdam, compiled once on a machine.",
              offload_optimizer=["cpu", "nvme"]),
        _note("NVMe offload needs libaio and a drive in the same machine. nvme_path is a folder there, of your own.",
              offload_optimizer=["nvme"]),
        _note("NVMe offload needs libaio and a drive in the same machine. nvme_path is a folder there, of your own.",
              offload_optimizer=["none", "cpu"], offload_param=["nvme"]),
        _note("What goes to and from the drive comes on top of what is counted here.",
              offload_optimizer=["nvme"]),
        _note("Parameters that are offloaded to NVMe were in the host's memory as well between two steps, in the runs "
              "that were measured. What goes to and from the drive comes on top of what is counted here.",
              offload_optimizer=["none", "cpu"], offload_param=["nvme"]),
        _note("Parameters that are offloaded to NVMe were in the host's memory as well between two steps, in the runs "
              "that were measured.", offload_optimizer=["nvme"], offload_param=["nvme"]),
        _note("Activation checkpointing is the model's own: call model.activation_checkpointing_enable() before "
              "deepspeed.initialize. No line of the config turns it on.", checkpointing=[True]),
    ]  # fmt: skip


def _note(text, **when):
    return {"text": text, "when": when}
