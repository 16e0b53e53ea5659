"""What the selector's JavaScript has to know of Python's own tables, as one JSON-serialisable dict. No torch."""

import functools
import itertools

from labsupport.machine.cards import CARDS
from labsupport.memory.activations import RNG_STATE_BYTES
from labsupport.memory.roles import ROLES
from labsupport.memory.room import ALLOWANCE_BYTES, MOST_GPUS, RANK_BYTES
from labsupport.models import PRESETS
from labsupport.settings import BYTES_OF, NVME_ALIGNMENT_BYTES, Settings, read_settings
from labsupport.shapes import config_of, known_models
from labsupport.shapes.families import FAMILIES
from labsupport.shapes.hugging_face import EXPERTS, MOST_LAYERS, MOST_PARAMETERS, NAMES, NOT_DESCRIBED, SHARED
from labsupport.widgets.selector.choices import (
    AXES,
    BOUNDS,
    DEFAULT,
    MOST_SIZE,
    MOST_TOKENS,
    SIZES,
    STRATEGY,
    USUAL_SEQUENCE,
    farthest,
    refusal,
    strategies,
    strategy_config,
    sums_refusal,
)
from labsupport.widgets.selector.notes import notes

# What a strategy's settings differ in from Settings() by its choice alone, and not by its stage and offload.
CHOSEN = ("precision", "accumulation_dtype")


@functools.cache
def facts():
    """Return what planner/ and choice.js read as FACTS, in bytes and elements.

    "strategies": the cheapest first, each with how far it puts data and with the "settings" in which it differs from
    "settings"; "configs": [precision][strategy], for one sample; "refusals": {"stage|optimizer|parameters": sentence};
    "sums_refused": {"stage|precision": sentence}, where DeepSpeed does not add gradients up in fp32.
    """
    return {
        "axes": AXES,
        "bounds": BOUNDS,
        "default": DEFAULT,
        "sizes": {key: size._asdict() for key, size in SIZES.items()},
        "most_size": MOST_SIZE,
        "most_tokens": MOST_TOKENS,
        "most_gpus": MOST_GPUS,
        "usual_sequence": USUAL_SEQUENCE,
        "roles": ROLES,
        "families": {name: _family(family) for name, family in FAMILIES.items()},
        "config_keys": NAMES,
        "expert_keys": EXPERTS,
        "shared_expert_key": SHARED,
        "not_described": NOT_DESCRIBED,
        "most_layers": MOST_LAYERS,
        "most_parameters": MOST_PARAMETERS,
        "presets": len(PRESETS),
        "models": {name: config_of(shape) for name, shape in PRESETS.items()} | known_models(),
        "cards": {
            name: {"memory_bytes": each.memory_bytes, "precision": each.precision} for name, each in CARDS.items()
        },
        "allowance_bytes": ALLOWANCE_BYTES,
        "rank_bytes": RANK_BYTES,
        "rng_state_bytes": RNG_STATE_BYTES,
        "nvme_alignment_bytes": NVME_ALIGNMENT_BYTES,
        "bytes_of": BYTES_OF,
        "settings": Settings()._asdict(),
        "strategies": [
            strategy | {"farthest": farthest(strategy), "settings": _own_settings(strategy)}
            for strategy in strategies()
        ],
        "configs": {
            precision: [strategy_config(precision, **strategy) for strategy in strategies()]
            for precision in AXES["precision"]
        },
        "refusals": {
            "|".join(map(str, values)): refusal(dict(zip(STRATEGY, values, strict=True)))
            for values in itertools.product(*(AXES[name] for name in STRATEGY))
        },
        "sums_refused": {
            f"{stage}|{precision}": sentence
            for stage, precision in itertools.product(AXES["stage"], AXES["precision"])
            if (sentence := sums_refusal(stage, precision))
        },
        "notes": notes(),
    }


def _family(family):
    return family._asdict() | {"own_layer": family.own_layer is not None}


def _own_settings(strategy):
    """The fields that a strategy's config sets to another value than Settings() has."""
    settings = read_settings(strategy_config("bf16", **strategy), 1)._asdict()
    usual = Settings()._asdict()
    return {name: value for name, value in settings.items() if value != usual[name] and name not in CHOSEN}
