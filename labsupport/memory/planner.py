"""The planner: what a rank will hold, in bytes, before anything is run. Needs no torch.

    python -m labsupport.memory --parameters 7.5e9 --stage 3 --world-size 64 --gpu H200
    python -m labsupport.memory --model 1.3b --config ds_config.json --world-size 8

paper.py has the ZeRO paper's formula; `plan` says what DeepSpeed 0.19.8 really holds, by the same roles and places
as labsupport.measure measures.
"""

import itertools
from typing import NamedTuple

from labsupport.arguments import require_number, require_positive_integer
from labsupport.config import validate_config
from labsupport.errors import ConfigError
from labsupport.memory.activations import ATTENTIONS, NOTHING, activation_bytes
from labsupport.memory.liger import liger_activation_bytes
from labsupport.memory.messages import predicted_collectives, times_ddp, total_wire_bytes
from labsupport.memory.model_states import shares_of, shares_of_number
from labsupport.memory.moments import (
    DEVICES,
    moments_of,
)
from labsupport.models import shape_named
from labsupport.settings import STATES_OF, Settings, nvme_buffer_bytes, read_settings
from labsupport.shapes import Shape


class Plan(NamedTuple):
    """A prediction for rank 0: moments is {moment: {place: {role: bytes}}}, for MOMENTS, all of them predicted."""

    parameters: int
    trained_parameters: int
    settings: Settings
    moments: dict
    peak_phase: str  # "forward", "backward" or "step"
    collectives: dict  # {collective: message bytes} of one optimizer step, as messages.py has them
    nvme_buffer_bytes: int  # of the host's memory, which NVMe offload locks for its buffers on a rank

    @property
    def sent_bytes(self):
        """The bytes that one rank sends in one optimizer step."""
        return total_wire_bytes(self.collectives, self.settings.world_size)

    @property
    def times_ddp(self):
        """The same as a multiple of what plain data parallelism sends; 0 on one rank."""
        return times_ddp(self.collectives, self.trained_parameters, self.settings)

    def held(self, moment):
        """Return {role: bytes} at a moment, in all places together."""
        roles = {}
        for by_role in self.moments[moment].values():
            for role, count in by_role.items():
                roles[role] = roles.get(role, 0) + count
        return roles

    def place_bytes(self, moment, place):
        """Return the bytes in one place ("GPU", "host", "pinned host", "NVMe") at a moment."""
        return sum(self.moments[moment].get(place, {}).values())

    def host_bytes(self, moment):
        """Return the bytes in the host's memory at a moment, pinned and not: those that offload put there."""
        return self.place_bytes(moment, "host") + self.place_bytes(moment, "pinned host")

    @property
    def peak_bytes(self):
        """The most bytes at one time where the model computes: on the GPU, or on the host of a CPU rank."""
        return self.place_bytes("peak", "GPU") or self.place_bytes("peak", "host")


def plan(
    model,
    config=None,
    *,
    world_size=1,
    sequence_length=None,
    activation_checkpointing=False,
    attention="sdpa",
    liger=False,
    accelerator="cuda",
    activations=None,
    **choices,
):
    """Predict what rank 0 holds when DeepSpeed 0.19.8 trains `model` with `config`; return a Plan.

    model: the name of a preset or of a well-known model, a labsupport.shapes.Shape, or a number of parameters, which
    has no activations and no small tensors. config: a ds_config dict; or leave it out and name what matters, as
    keywords of `choices_config`. sequence_length: tokens, by default the model's longest. liger: norms, MLP and loss
    are Liger's kernels (transformers' use_liger_kernel). accelerator: "cuda" (fused
    optimizer, NCCL) or "cpu" (PyTorch's Adam, gloo). activations: Activations that were measured, in place of the
    count. Raises ConfigError for what DeepSpeed would refuse or
    ignore, for sizes that are not positive and finite, and for an unknown model, attention or accelerator.
    """
    if config is not None and choices:
        raise ConfigError(f"plan got a config and {', '.join(choices)}: put everything into the config.")
    for name, value, known in (("attention", attention, ATTENTIONS), ("accelerator", accelerator, tuple(DEVICES))):
        if value not in known:
            raise ConfigError(f"{name} is {value!r}: choose {' or '.join(map(repr, known))}.")
    shape = shape_named(model) if isinstance(model, str) else model if isinstance(model, Shape) else None
    if shape is None:
        require_number("parameters", model, at_least=1)
    if config is None:
        config = validate_config(choices_config(**choices), world_size)
    settings = described_settings(config, world_size)
    if activations is None:
        activations, settings = _counted(shape, settings, sequence_length, activation_checkpointing, attention, liger)
    if shape is None:
        return planned([int(model)], None, settings, activations, accelerator)
    layers = shape.layers if activation_checkpointing else 0
    return planned(shape.tensor_sizes, shape.trained, settings, activations, accelerator, layers, shape.is_tied)


def _counted(shape, settings, sequence_length, activation_checkpointing, attention, liger):
    """The Activations as they are counted, and the Settings, which say where they are not."""
    activations = NOTHING
    if shape is not None:
        tokens = shape.longest_sequence if sequence_length is None else sequence_length
        require_positive_integer("sequence_length", tokens)
        if tokens > shape.longest_sequence:
            raise ConfigError(
                f"sequence_length is {tokens}: this model reads at most {shape.longest_sequence} tokens; give fewer, "
                "or a Shape with a longer longest_sequence."
            )
        if liger:
            if not shape.family.counted or shape.architecture == "gpt2" or attention != "sdpa":
                raise ConfigError(
                    f"Liger's kernels are planned for a Llama and its like with sdpa, not for {shape.architecture} "
                    f"with {attention}: leave out liger."
                )
            activations = liger_activation_bytes(
                shape,
                settings.micro_batch_size,
                tokens,
                settings.parameter_bytes,
                activation_checkpointing,
                settings.reduce_bucket_size,
                keeps_linear_inputs=settings.stage == 3 and settings.memory_efficient_linear,
            )
        elif shape.family.counted:
            activations = activation_bytes(
                shape,
                settings.micro_batch_size,
                tokens,
                settings.parameter_bytes,
                attention,
                activation_checkpointing,
                settings.reduce_bucket_size,
                keeps_linear_inputs=settings.stage == 3 and settings.memory_efficient_linear,
            )
        else:
            missing = f"the activations of {shape.architecture}"
            settings = settings._replace(not_described=(*settings.not_described, missing))
    return activations, settings


def described_settings(config, world_size):
    """Return the Settings of a ds_config; raises ConfigError for an optimizer whose states are not known."""
    settings = read_settings(config, world_size)
    if settings.states is None:
        raise ConfigError(
            f"The planner does not know the optimizer {settings.optimizer!r}: it can describe SGD, "
            f"{', '.join(STATES_OF)}."
        )
    return settings


def planned(sizes, trained, settings, activations, accelerator, checkpointed_layers=0, tied_embedding=False):
    """Return the Plan of a model with tensors of `sizes` elements, in order, of which `trained` says which are.

    trained None: the one size is the number of parameters, and no more is known. activations: Activations, as counted
    or measured. checkpointed_layers and tied_embedding: as for predicted_collectives.
    """
    shares = shares_of_number(sizes[0], settings) if trained is None else shares_of(sizes, settings, trained)
    moments, phase = moments_of(shares, settings, activations, accelerator)
    collectives = predicted_collectives(
        sizes,
        settings,
        trained=trained,
        checkpointed_layers=checkpointed_layers,
        tied_embedding=tied_embedding,
    )
    trained_parameters = sum(sizes) if trained is None else sum(itertools.compress(sizes, trained))
    locked = nvme_buffer_bytes(shares.share, settings)
    return Plan(shares.parameters, trained_parameters, settings, moments, phase, collectives, locked)


def plan_of(run, accelerator="cuda", activations=None):
    """Return the Plan of a labsupport.runs.Run on "cuda" or "cpu"; the rest is as for `plan`."""
    return plan(
        run.shape,
        run.config,
        world_size=run.world_size,
        sequence_length=run.sequence_length,
        activation_checkpointing=run.activation_checkpointing,
        accelerator=accelerator,
        activations=activations,
    )


def choices_config(
    stage=0,
    precision="bf16",
    grad_accum_dtype=None,
    low_precision_states=False,
    offload_optimizer="none",
    offload_param="none",
    micro_batch_size=1,
    gradient_accumulation_steps=1,
    reduce_bucket_size=None,
    overlap_comm=None,
):
    """Return the smallest ds_config for these choices; what is left out keeps DeepSpeed's own default.

    low_precision_states: bf16 master weights and optimizer states.
    """
    zero = {"stage": stage}
    if reduce_bucket_size is not None:
        zero["reduce_bucket_size"] = reduce_bucket_size
    if overlap_comm is not None:
        zero["overlap_comm"] = overlap_comm
    for key, device in (("offload_optimizer", offload_optimizer), ("offload_param", offload_param)):
        if device != "none":
            zero[key] = {"device": device} | ({"nvme_path": "/nvme"} if device == "nvme" else {})
    config = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "zero_optimization": zero,
    }
    if precision not in ("fp32", "fp16", "bf16"):
        raise ConfigError(f"precision is {precision!r}: choose fp32, fp16 or bf16.")
    if precision != "fp32":
        config[precision] = {"enabled": True}
    if low_precision_states:
        if precision != "bf16":
            raise ConfigError(f"Low-precision states need bf16, and precision is {precision}: choose bf16.")
        config["bf16"] |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    if grad_accum_dtype is not None:
        config["data_types"] = {"grad_accum_dtype": grad_accum_dtype}
    return config
