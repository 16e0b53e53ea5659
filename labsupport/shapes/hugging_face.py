"""A model's Shape from a Hugging Face config.json, or from the name of a well-known model. No torch, no weights.

shape_of("llama-3.1-8b").parameters            # 8,030,261,248
shape_of_file("my-model")                      # a config.json, or the folder that it is in
"""

import json
import tomllib
from functools import cache
from pathlib import Path

from labsupport.arguments import require_positive_integer
from labsupport.errors import ConfigError
from labsupport.shapes.families import FAMILIES
from labsupport.shapes.shape import Shape

# The names of one thing in a config.json: GPT-2's are its own.
NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "n_embd"),
    "attention_heads": ("num_attention_heads", "n_head"),
    "longest_sequence": ("max_position_embeddings", "n_positions"),
    "vocabulary": ("vocab_size",),
}
EXPERTS, SHARED = ("num_local_experts", "num_experts"), "shared_expert_intermediate_size"
# A hundred times the largest model: beyond them a number is a slip.
MOST_PARAMETERS, MOST_LAYERS = 10**14, 10_000
# What changes the tensors of these architectures and is not described, with the value that changes nothing.
NOT_DESCRIBED = {"mlp_bias": False, "use_bias": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
IN_ITS_PLACE = "give its number of parameters instead, which plans model states and buffers"


@cache
def known_models():
    """Return {name: its config as in config.json, with its repository}, for the well-known models of known.toml."""
    return tomllib.loads(Path(__file__).with_name("known.toml").read_text(encoding="utf-8"))


@cache
def shape_of(name):
    """Return the Shape of a well-known model; `name` is a key of `known_models`, in any case."""
    return shape_of_config(known_models()[name.lower()], name)


def shape_of_file(path):
    """Return the Shape of a config.json, by its path or its folder's; raises ConfigError in one sentence."""
    file = Path(path, "config.json") if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ConfigError(f"There is no file {file}: give a Hugging Face config.json, or the folder that it is in.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as JSON ({error}): give a Hugging Face config.json.") from None
    return shape_of_config(config, str(file))


def shape_of_config(config, name="the config"):
    """Return the Shape of a config.json as a dict, read as transformers' own config classes read it.

    name: what a message calls it. Raises ConfigError for an unknown model_type, sizes that are missing or no positive
    integers, and what does not divide.
    """
    if not isinstance(config, dict):
        raise ConfigError(f"{name} holds a {type(config).__name__}: a config.json is an object with a model_type.")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(
            f"{name} has the model_type {model_type!r}, which the planner does not know: it knows "
            f"{', '.join(FAMILIES)}; {IN_ITS_PLACE}."
        )
    for key, harmless in NOT_DESCRIBED.items():
        if config.get(key, harmless) not in (harmless, None):
            raise ConfigError(
                f"{name} sets {key} to {config[key]!r}, which the planner does not describe: {IN_ITS_PLACE}."
            )
    sizes = {field: _size(config, keys, name) for field, keys in NAMES.items()}
    family, heads = FAMILIES[model_type], sizes["attention_heads"]
    key_value_heads = _size(config, ("num_key_value_heads",), name, heads)
    if heads % key_value_heads:
        raise ConfigError(f"{name} has {heads} attention heads on {key_value_heads} key heads: these must divide.")
    head_size = _size(config, ("head_dim",), name, family.head_size)
    if head_size is None and sizes["hidden_size"] % heads:
        raise ConfigError(f"{name} has a hidden_size of {sizes['hidden_size']} and {heads} heads: these must divide.")
    experts = _size(config, EXPERTS, name) if family.experts else 0
    shape = Shape(
        model_type,
        **sizes,
        mlp_size=_mlp_size(config, sizes["hidden_size"], experts, name),
        key_value_heads=key_value_heads,
        head_size=head_size,
        tied=config.get("tie_word_embeddings"),
        attention_bias=bool(config.get("attention_bias", False)),
        experts=experts,
        experts_per_token=_size(config, ("num_experts_per_tok",), name) if experts else 0,
        shared_expert_size=_size(config, (SHARED,), name) if model_type == "qwen2_moe" else 0,
    )
    if shape.experts_per_token > experts:
        raise ConfigError(f"{name} sends a token to {shape.experts_per_token} of {experts} experts: give fewer.")
    if shape.layers > MOST_LAYERS or shape.parameters > MOST_PARAMETERS:
        raise ConfigError(
            f"{name} would have more than {MOST_PARAMETERS:.0e} parameters or {MOST_LAYERS:,} layers: mend its sizes."
        )
    return shape


def config_of(shape):
    """Return the config.json of a Shape as a dict, sizes alone: what `shape_of_config` reads as the same Shape."""
    if shape.architecture == "gpt2":
        return {"model_type": "gpt2", "n_inner": shape.mlp_size} | {
            keys[-1]: getattr(shape, field) for field, keys in NAMES.items()
        }
    config = {"model_type": shape.architecture} | {keys[0]: getattr(shape, field) for field, keys in NAMES.items()}
    config |= {
        "intermediate_size": shape.mlp_size,
        "num_key_value_heads": shape.key_value_heads or shape.attention_heads,
        "head_dim": shape.query_size // shape.attention_heads,
        "tie_word_embeddings": shape.is_tied,
    }
    if shape.attention_bias:
        config["attention_bias"] = True
    if shape.experts:
        count = "num_local_experts" if shape.architecture == "mixtral" else "num_experts"
        config |= {count: shape.experts, "num_experts_per_tok": shape.experts_per_token}
        if shape.architecture != "mixtral":
            config["moe_intermediate_size"] = shape.mlp_size
    if shape.shared_expert_size:
        config[SHARED] = shape.shared_expert_size
    return config


def _mlp_size(config, hidden_size, experts, name):
    if experts and "moe_intermediate_size" in config:
        return _size(config, ("moe_intermediate_size",), name)
    if "n_embd" in config:  # GPT-2's may be left out
        return _size(config, ("n_inner",), name, 4 * hidden_size)
    return _size(config, ("intermediate_size",), name)


def _size(config, keys, name, *default):
    """The first of these keys that the config has, a positive integer; the default where none is there or is null."""
    for key in keys:
        if config.get(key) is not None:
            require_positive_integer(f"{key} of {name}", config[key])
            return config[key]
    if not default:
        raise ConfigError(f"{name} has no {keys[0]}: a config.json of this model_type needs it.")
    return default[0]
