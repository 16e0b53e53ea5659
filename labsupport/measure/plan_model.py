"""The plan of a live model: its tensors are read, its activations are measured once on this process.

    plan_model(model, config, batch, world_size=8).peak_bytes

memory/planner.py plans architectures that it knows without a model, and without torch.
"""

import torch

from labsupport.config import validate_config
from labsupport.errors import ConfigError
from labsupport.measure.small_copy import measured_activations
from labsupport.memory.activations import NOTHING
from labsupport.memory.moments import DEVICES
from labsupport.memory.planner import choices_config, described_settings, planned

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


def activations_of(model, batch, settings, loss_fn=None):
    """Return the Activations of a module at these Settings, measured here, and how many layers were; 0 for all."""
    return measured_activations(
        model,
        batch,
        DTYPES[settings.precision],
        loss_fn=loss_fn,
        reduce_bucket_size=settings.reduce_bucket_size,
        linear=_linear_of_stage_3(settings),
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
