"""The planner: what a rank will hold, in bytes, before anything is run. Needs no torch.

    python -m labsupport.memory --parameters 7.5e9 --stage 3 --world-size 64 --gpu H200
    python -m labsupport.memory --model 1.3b --config ds_config.json --world-size 8

`model_state_bytes` is the ZeRO paper's formula; `plan` says what DeepSpeed 0.19.8 really holds, by the same
roles and places as labsupport.ledger measures. Paper: Rajbhandari et al., "ZeRO: Memory Optimizations Toward
Training Trillion Parameter Models", SC 2020, arXiv 1910.02054.
"""

from typing import NamedTuple

from labsupport import model_states as held
from labsupport.activations import ATTENTIONS, NOTHING, activation_bytes
from labsupport.cards import card
from labsupport.communication import predicted_collectives, times_ddp, total_wire_bytes
from labsupport.config_checks import require_count, require_positive_integer, require_stage
from labsupport.errors import ConfigError
from labsupport.models import Preset, preset_named
from labsupport.settings import Settings, read_settings

PARAMETER_BYTES = 2  # a bf16 or fp16 parameter
GRADIENT_BYTES = 2
OPTIMIZER_BYTES = 12  # Adam: fp32 master weight 4, momentum 4, variance 4: the paper's K
MOMENTS = ("after initialisation", "after backward", "at rest", "peak")
DEVICES = {"cuda": "GPU", "cpu": "host"}


def model_state_bytes(parameters, stage, world_size):
    """Return the bytes of parameters, gradients and optimizer states on one rank, mixed precision, Adam.

    parameters: how many the model has (the paper's Psi); world_size: data-parallel ranks (N_d).
    Stage 0: 16 Psi; stage 1: 4 Psi + 12 Psi / N; stage 2: 2 Psi + 14 Psi / N; stage 3: 16 Psi / N (paper,
    figure 1). Exact arithmetic on model states alone: no activations, buckets or fragmentation.
    Raises ConfigError for a stage outside 0 to 3, and for counts that are not finite or below one.
    """
    return sum(model_state_parts(parameters, stage, world_size).values())


def model_state_parts(parameters, stage, world_size):
    """Return the same bytes by role: {"parameters", "gradients", "optimizer states"}, the masters in the last."""
    require_stage(stage)
    require_count("parameters", parameters)
    require_count("world_size", world_size)
    whole = {"parameters": PARAMETER_BYTES, "gradients": GRADIENT_BYTES, "optimizer states": OPTIMIZER_BYTES}
    partitioned_from = {"optimizer states": 1, "gradients": 2, "parameters": 3}
    return {
        role: parameters * each / (world_size if stage >= partitioned_from[role] else 1) for role, each in whole.items()
    }


class Plan(NamedTuple):
    """A prediction for rank 0: moments is {moment: {place: {role: bytes}}}, for MOMENTS, all of them predicted."""

    parameters: int
    settings: Settings
    moments: dict
    peak_phase: str  # "forward", "backward" or "step"
    collectives: dict  # {collective: message bytes} of one optimizer step, as labsupport.communication has them

    @property
    def sent_bytes(self):
        """The bytes that one rank sends in one optimizer step."""
        return total_wire_bytes(self.collectives, self.settings.world_size)

    @property
    def times_ddp(self):
        """The same as a multiple of what plain data parallelism sends; 0 on one rank."""
        return times_ddp(self.collectives, self.parameters, self.settings)

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
    accelerator="cuda",
    **choices,
):
    """Predict what rank 0 holds when DeepSpeed 0.19.8 trains `model` with `config`; return a Plan.

    model: a preset's name, a labsupport.models.Preset, or a number of parameters, which has no activations
    and no small tensors. config: a ds_config dict; or leave it out and name what matters, as keywords of
    `choices_config`. sequence_length: tokens, by default the model's longest. accelerator: "cuda" (fused
    optimizer, NCCL) or "cpu" (PyTorch's Adam, gloo). Raises ConfigError for what DeepSpeed would refuse or
    ignore, for sizes that are not positive and finite, and for an unknown model, attention or accelerator.
    """
    if config is not None and choices:
        raise ConfigError(f"plan got a config and {', '.join(choices)}: put everything into the config.")
    for name, value, known in (("attention", attention, ATTENTIONS), ("accelerator", accelerator, tuple(DEVICES))):
        if value not in known:
            raise ConfigError(f"{name} is {value!r}: choose {' or '.join(map(repr, known))}.")
    shape = preset_named(model) if isinstance(model, str) else model if isinstance(model, Preset) else None
    if shape is None:
        require_count("parameters", model)
    settings = read_settings(config if config is not None else choices_config(**choices), world_size)
    activations = NOTHING
    if shape is not None:
        tokens = shape.longest_sequence if sequence_length is None else sequence_length
        require_positive_integer("sequence_length", tokens)
        if tokens > shape.longest_sequence:
            raise ConfigError(
                f"sequence_length is {tokens}: this model reads at most {shape.longest_sequence} tokens; give fewer, "
                "or a Preset with a longer longest_sequence."
            )
        activations = activation_bytes(
            shape,
            settings.micro_batch_size,
            tokens,
            settings.parameter_bytes,
            attention,
            activation_checkpointing,
            settings.reduce_bucket_size,
        )
    shares = held.shares_of(shape.tensor_sizes, settings) if shape else held.shares_of_number(int(model), settings)
    moments, phase = _moments(shares, settings, activations, accelerator)
    collectives = predicted_collectives(
        shape.tensor_sizes if shape else [shares.parameters],
        settings,
        checkpointed_layers=shape.layers if shape and activation_checkpointing else 0,
        tied_embedding=shape is not None and shape.architecture == "gpt2",
    )
    return Plan(shares.parameters, settings, moments, phase, collectives)


# A CUDA context, cuBLAS's and NCCL's own buffers: outside the allocator, so outside every plan. An allowance,
# not a prediction.
ALLOWANCE_BYTES = 2**30
MOST_GPUS = 65_536


def fits(planned, card_name):
    """Say whether a Plan's peak and 1 GiB for CUDA's and NCCL's own use fit into that card's memory.

    Raises ConfigError, with the nearest name, for an unknown card.
    """
    return planned.peak_bytes + ALLOWANCE_BYTES <= card(card_name).memory_bytes


def largest_model(card_name, model=None, **arguments):
    """Return the Plan of the largest model that fits on every such card, or None where none does.

    model: a preset or Preset, which is given as many layers as fit; without it, a bare number of parameters,
    model states and buffers alone. arguments: those of `plan`.
    """

    def candidate(size):
        if model is None:
            return size
        shape = preset_named(model) if isinstance(model, str) else model
        return shape._replace(layers=size)

    size = last_that_holds(
        lambda size: fits(plan(candidate(size), **arguments), card_name), 10_000 if model else 10**14
    )
    return plan(candidate(size), **arguments) if size else None


def smallest_world_size(card_name, model, config=None, **arguments):
    """Return the Plan with the fewest ranks that fits on such cards, or None where 65,536 do not suffice.

    The micro-batch stays as it is: give `config` train_micro_batch_size_per_gpu and no train_batch_size.
    """

    def too_small(world_size):
        return not fits(plan(model, config, world_size=world_size, **arguments), card_name)

    if too_small(MOST_GPUS):
        return None
    return plan(model, config, world_size=last_that_holds(too_small, MOST_GPUS) + 1, **arguments)


def last_that_holds(holds, most):
    """Return the largest whole number from 0 to `most` for which `holds`; it must hold up to a point and not after."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


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


def _moments(shares, s, activations, accelerator):
    """The four moments of MOMENTS, and the phase in which the peak is."""
    device, fused = DEVICES[accelerator], is_fused(s, accelerator)
    fresh, rest = (resting_bytes(shares, s, device, stepped, fused) for stepped in (False, True))
    after_backward = {"gradients": held.backward_gradient_bytes(shares, s)}
    phases = [
        (phase, extra | {"activations": getattr(activations, moment) if moment else 0})
        for phase, moment, extra in step_phases(shares, s, fused, on_gpu=device == "GPU")
    ]
    phase, extra = max(phases, key=lambda item: sum(item[1].values()))
    return {
        "after initialisation": fresh,
        "after backward": _with(_with(fresh, device, after_backward), *_accumulated(shares, s, device)),
        "at rest": rest,
        "peak": _with(rest, device, extra),
    }, phase


def is_fused(s, accelerator):
    """Whether Adam is one fused kernel: as the config's torch_adam says; where it leaves that open, on a GPU."""
    return accelerator == "cuda" if s.torch_adam is None else not s.torch_adam


def resting_bytes(shares, s, device, stepped, fused):
    """Return {place: {role: bytes}} between two steps, before or after the first one has been made.

    device: "GPU" or "host", where the model computes; fused: whether the optimizer is one fused kernel.
    """
    pinned = "host" if device == "host" else "pinned host"
    states = {"none": device, "cpu": pinned, "nvme": "NVMe"}[s.offload_optimizer]
    parameters = device if s.offload_param == "none" else pinned
    gradients = device if s.offload_optimizer == "none" else pinned
    at_once = s.stage == 0 and s.precision != "fp32"  # there DeepSpeed makes the optimizer's states at once
    rounded = held.aligned if states == "NVMe" else int
    adam = s.states * rounded(held.optimizer_state_bytes(shares, s) // max(1, s.states)) + held.step_counter_bytes(
        shares, s, fused
    )
    on_device, on_host = held.staging_bytes(shares, s)
    # DeepSpeedCPUAdam makes its two states in ordinary memory; the masters, the gradients and the buffers are pinned.
    of_adam = "host" if states == pinned else states
    places = {place: {} for place in dict.fromkeys((device, pinned, states, of_adam))}
    for place, role, count in (
        (parameters, "parameters", held.parameter_bytes(shares, s)),
        (gradients, "gradients", held.resting_gradient_bytes(shares, s)),
        (states, "master weights", rounded(held.master_bytes(shares, s))),
        (of_adam, "optimizer states", adam if stepped or at_once else 0),
        (device, "communication buckets", on_device + (held.bucket_bytes(shares, s) if s.stage == 3 else 0)),
        (pinned, "communication buckets", on_host + held.nvme_buffer_bytes(shares, s)),
        (device, "gathered parameters", held.persistent_bytes(shares, s, device == "GPU") if stepped else 0),
    ):
        places[place][role] = places[place].get(role, 0) + count
    return _with(places, *_accumulated(shares, s, device)) if stepped else places


def _accumulated(shares, s, device):
    pinned = "host" if device == "host" else "pinned host"
    return pinned, {"gradients": held.accumulated_on_cpu_bytes(shares, s)}


def step_phases(shares, s, fused, on_gpu):
    """Return [(phase, moment of the activations or None, {role: bytes})]: the moments at which a step can peak.

    The bytes are those on the device beside what rests there; the activations are named as a field of
    labsupport.activations.Activations and come on top. In order: the forward pass, the loss's backward pass, the
    last layer's, stage 2's first sum of gradients over the ranks, the first layer's, the last sum, the gradients put
    into one flat tensor, the optimizer's arithmetic, the gathering of the updated parameters.
    """
    window, arrived = held.window_gradient_bytes(shares, s), held.backward_gradient_bytes(shares, s)
    bucket = held.bucket_bytes(shares, s) if s.stage in (1, 2) else 0
    kept_bucket = bucket if s.stage == 1 and s.accumulation_steps > 1 else 0
    persistent = held.persistent_bytes(shares, s, on_gpu)
    gathered = max(0, held.gathered_bytes(shares, s, on_gpu) - persistent)
    # Stages 0 and 1 collect every gradient before they reduce. Stage 2 adds those that arrive to the window's: into
    # fp32 sums in place, else from a tensor of their own.
    collected = max(window, held.collected_gradient_bytes(shares, s))
    if s.stage == 2:
        collected = window + (0 if window and held.accumulates_apart(s) else arrived)
    reducing = bucket + held.reduction_bytes(shares, s)
    prefetched = held.prefetch_bytes(shares, s)
    # Stage 3 lets go even of the small parameters while their shards change, and gathers them again afterwards.
    copied = held.step_gradient_bytes(shares, s)
    return [
        ("forward", "forward", _roles(window, kept_bucket, gathered + prefetched)),
        ("backward", "loss", _roles(window, kept_bucket, gathered)),
        ("backward", "backward", _roles(window, bucket, gathered)),
        # The first sum makes room for all of this rank's gradients, while most activations are still there: so on the
        # last rank, whose layers come first; the others have let go of more by then.
        ("backward", "reduction", _roles(collected if s.stage == 2 else window, bucket, gathered)),
        ("backward", "backward_end", _roles(collected, bucket)),
        ("backward", None, _roles(collected + (arrived if s.stage == 1 else 0), reducing)),
        ("step", None, _roles(held.flattened_gradient_bytes(shares, s, fused))),
        ("step", None, _roles(copied, 0, -persistent, held.optimizer_working_bytes(shares, s, fused, on_gpu))),
        ("step", None, _roles(buckets=0 if on_gpu else held.gloo_workspace_bytes(shares, s))),
    ]


def _roles(gradients=0, buckets=0, gathered=0, other=0):
    return {
        "gradients": gradients,
        "communication buckets": buckets,
        "gathered parameters": gathered,
        "other": other,
    }


def _with(places, place, extra):
    """A copy of {place: {role: bytes}} with more bytes in one place."""
    result = {name: dict(roles) for name, roles in places.items()}
    for role, count in extra.items():
        result[place][role] = result[place].get(role, 0) + count
    return result


if __name__ == "__main__":
    import sys

    from labsupport.memory_report import main

    sys.exit(main())
