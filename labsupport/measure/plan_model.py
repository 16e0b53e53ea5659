"""The plan of a live model: its tensors are read, its activations are measured once on this process.

    plan_model(model, config, batch, world_size=8).peak_bytes
    plan_config("config.json", config, sequence_length=4096, world_size=8).peak_bytes

memory/planner.py plans architectures that it knows without a model, and without torch.
"""

import json
from pathlib import Path

import psutil
import torch

from labsupport.arguments import require_positive_integer
from labsupport.config import validate_config
from labsupport.errors import ConfigError
from labsupport.measure.small_copy import MORE, measured_activations, stacks_of
from labsupport.memory.activations import NOTHING, Activations
from labsupport.memory.moments import DEVICES
from labsupport.memory.planner import choices_config, described_settings, planned
from labsupport.models import checkpoint_activations
from labsupport.settings import FP32
from labsupport.wording import first_line, gibibytes

SHORT = 64, 128  # tokens
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def plan_model(model, config=None, batch=None, *, loss_fn=None, world_size=1, accelerator="cuda", **choices):
    """Predict what rank 0 holds when DeepSpeed 0.19.8 trains this module with `config`; return a Plan.

    model: a torch module, on the CPU, on the meta device or partitioned by ZeRO-3; it is left as it is. config: a
    ds_config dict, or `plan`'s choices as keywords. batch: one micro-batch as DeepSpeedTrainer takes it, of as many
    samples as a rank trains on at a time; its activations are measured, in the config's precision, on the model or on
    copies with few layers. Without a batch the plan has none. loss_fn: as for DeepSpeedTrainer. accelerator: "cuda" or
    "cpu". Raises ConfigError as `plan` does, and for a model without parameters or with all of them frozen; what the
    model itself raises with this batch is passed on.
    """
    if config is not None and choices:
        raise ConfigError(f"plan_model got a config and {', '.join(choices)}: put everything into the config.")
    if accelerator not in DEVICES:
        raise ConfigError(f"accelerator is {accelerator!r}: choose {' or '.join(map(repr, DEVICES))}.")
    if config is None:
        config = validate_config(choices_config(**choices), world_size)
    settings = described_settings(config, world_size)
    parameters = list(model.parameters())
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters]
    trained = [parameter.requires_grad for parameter in parameters]
    if not any(trained):
        raise ConfigError(
            "All parameters are frozen: leave at least one to train."
            if sizes
            else f"{type(model).__name__} has no parameters: there is nothing to plan."
        )
    activations, layers = NOTHING, 0
    if batch is not None:
        if any(hasattr(parameter, "ds_numel") for parameter in parameters):
            raise ConfigError("The model is partitioned already: measure its activations before DeepSpeed takes it.")
        activations, layers = activations_of(model, batch, settings, loss_fn)
    missing = "activations: no batch was given" if batch is None else None
    if layers:
        missing = f"activations beyond those of {layers} layers, which were measured and scaled"
    if missing:
        settings = settings._replace(not_described=(*settings.not_described, missing))
    checkpointed = _checkpointed_layers(model)
    return planned(sizes, trained, settings, activations, accelerator, checkpointed, _ties_its_embedding(model))


def plan_config(
    path,
    config=None,
    *,
    sequence_length,
    activation_checkpointing=False,
    world_size=1,
    accelerator="cuda",
    **choices,
):
    """Predict what rank 0 holds when DeepSpeed trains the language model of a config.json of any type; return a Plan.

    path: of the file or its folder. The model is built on the meta device, without weights. Its activations are
    measured on copies with few layers, of its own width, on samples of SHORT tokens, and scaled to sequence_length:
    right where attention does not write its scores. The rest is as for plan_model. Raises ConfigError for a file that
    cannot be read, for what needs code of its repository, which is never run, and for what is no language model.
    """
    require_positive_integer("sequence_length", sequence_length)
    model = _built_without_weights(path)
    if activation_checkpointing:
        checkpoint_activations(model)
    if config is None:
        config = validate_config(choices_config(**choices), world_size)
    settings = described_settings(config, world_size)
    _check_width(model, path)
    # Weights' gradients do not grow with the tokens: they are left out of what is scaled, and the largest is added.
    few, more = (activations_of(model, _sample(model, tokens), settings, gradients=False) for tokens in SHORT)
    times = (settings.micro_batch_size * sequence_length - SHORT[0]) / (SHORT[1] - SHORT[0])
    activations = Activations(*(round(a + times * (b - a)) for a, b in zip(few[0], more[0], strict=True)))
    gradient = settings.parameter_bytes * _largest_in_layers(model)
    activations = activations._replace(
        **{name: getattr(activations, name) + gradient for name in ("backward", "reduction", "backward_end")}
    )
    missing = (
        f"activations beyond those of {few[1] or 'all'} layers and {SHORT[1]} tokens, which were measured and scaled"
    )
    if getattr(model.config, "_attn_implementation", "sdpa") == "eager":
        missing += "; its attention writes its scores, which grow with the square of the sequence"
    settings = settings._replace(not_described=(*settings.not_described, missing))
    parameters = list(model.parameters())
    return planned(
        [parameter.numel() for parameter in parameters],
        [parameter.requires_grad for parameter in parameters],
        settings,
        activations,
        accelerator,
        _checkpointed_layers(model),
        _ties_its_embedding(model),
    )


def _built_without_weights(path):
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    file = Path(path, "config.json") if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ConfigError(f"There is no file {file}: give a Hugging Face config.json, or the folder that it is in.")
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(entry, dict) or entry.get("model_type") not in CONFIG_MAPPING:
            kind = entry.get("model_type") if isinstance(entry, dict) else None
            raise ConfigError(
                f"{file} has the model_type {kind!r}, which this transformers does not build; code of a repository is "
                "never run here: give another model, or build it yourself and call plan_model."
            )
        config = AutoConfig.for_model(**{key: value for key, value in entry.items() if key != "auto_map"})
        config.use_cache = False
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ConfigError:
        raise
    except Exception as error:  # whatever transformers makes of such a file
        raise ConfigError(
            f"{file} describes no language model that transformers builds ({first_line(error)})."
        ) from None


def _check_width(model, path):
    """Raise ConfigError where even the copies would not fit into this machine's memory."""
    stacks = stacks_of(model)
    in_stacks = sum(p.numel() for name in stacks for p in model.get_submodule(name).parameters())
    few = sum(p.numel() for p in model.parameters()) - in_stacks
    few += sum(in_stacks * MORE // count for count in stacks.values()) if stacks else 0
    needed, free = 3 * FP32 * few, psutil.virtual_memory().available
    if needed > free:
        raise ConfigError(
            f"{path} is too wide to be measured here: copies with {MORE} layers need about {gibibytes(needed)}, and "
            f"{gibibytes(free)} are free."
        )


def _largest_in_layers(model):
    """Elements of the largest matrix of a layer."""
    layers = [parameter for name in stacks_of(model) for parameter in model.get_submodule(name).parameters()]
    return max(parameter.numel() for parameter in layers or model.parameters())


def _sample(model, tokens):
    text = torch.arange(tokens).reshape(1, tokens) % model.get_input_embeddings().num_embeddings
    return {"input_ids": text, "labels": text.clone()}


def activations_of(model, batch, settings, loss_fn=None, gradients=True):
    """Return the Activations of a module at these Settings, measured here, and how many layers were; 0 for all.

    loss_fn and gradients: as for measured_activations.
    """
    return measured_activations(
        model,
        batch,
        DTYPES[settings.precision],
        loss_fn=loss_fn,
        reduce_bucket_size=settings.reduce_bucket_size,
        linear=_linear_of_stage_3(settings),
        gradients=gradients,
    )


def _linear_of_stage_3(settings):
    if settings.stage < 3 or not settings.memory_efficient_linear:
        return None
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    return zero3_linear_wrap


def _checkpointed_layers(model):
    """How many layers transformers recomputes in the backward pass."""
    stacks = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    return sum(bool(getattr(layer, "gradient_checkpointing", False)) for stack in stacks for layer in stack)


def _ties_its_embedding(model):
    """Whether a transformers model's output layer is its embedding."""
    names = ("get_input_embeddings", "get_output_embeddings")
    embedding, output = (getattr(model, name, lambda: None)() for name in names)
    return embedding is not None and output is not None and embedding.weight is output.weight
