"""Which bytes a rank holds where, and when: the terms of model_states.py, put into the moments of a step. No torch."""

from labsupport.memory import model_states as terms
from labsupport.settings import aligned, nvme_buffer_bytes

MOMENTS = ("after initialisation", "after backward", "at rest", "peak")
DEVICES = {"cuda": "GPU", "cpu": "host"}


def moments_of(shares, s, activations, accelerator):
    """The four moments of MOMENTS, and the phase in which the peak is."""
    device, fused = DEVICES[accelerator], is_fused(s, accelerator)
    fresh, rest = (resting_bytes(shares, s, device, stepped, fused) for stepped in (False, True))
    after_backward = {"gradients": terms.backward_gradient_bytes(shares, s)}
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
    rounded = aligned if states == "NVMe" else int
    adam = s.states * rounded(terms.optimizer_state_bytes(shares, s) // max(1, s.states)) + terms.step_counter_bytes(
        shares, s, fused
    )
    on_device, on_host = terms.staging_bytes(shares, s)
    # DeepSpeedCPUAdam makes its two states in ordinary memory; the masters, the gradients and the buffers are pinned.
    of_adam = "host" if states == pinned else states
    places = {place: {} for place in dict.fromkeys((device, pinned, states, of_adam))}
    for place, role, count in (
        (parameters, "parameters", terms.parameter_bytes(shares, s)),
        (gradients, "gradients", terms.resting_gradient_bytes(shares, s)),
        (states, "master weights", rounded(terms.master_bytes(shares, s))),
        (of_adam, "optimizer states", adam if stepped or at_once else 0),
        (device, "communication buckets", on_device + (terms.bucket_bytes(shares, s) if s.stage == 3 else 0)),
        (pinned, "communication buckets", on_host + nvme_buffer_bytes(shares.share, s)),
        (device, "gathered parameters", terms.persistent_bytes(shares, s, device == "GPU") if stepped else 0),
    ):
        places[place][role] = places[place].get(role, 0) + count
    return _with(places, *_accumulated(shares, s, device)) if stepped else places


def _accumulated(shares, s, device):
    pinned = "host" if device == "host" else "pinned host"
    return pinned, {"gradients": terms.accumulated_on_cpu_bytes(shares, s)}


def step_phases(shares, s, fused, on_gpu):
    """Return [(phase, moment of the activations or None, {role: bytes})]: the moments at which a step can peak.

    The bytes are those on the device beside what rests there; the activations are named as a field of
    labsupport.memory.activations.Activations and come on top. In order: the forward pass, the loss's backward pass, the
    last layer's, stage 2's first sum of gradients over the ranks, the first layer's, the last sum, the gradients put
    into one flat tensor, the optimizer's arithmetic, the gathering of the updated parameters.
    """
    window, arrived = terms.window_gradient_bytes(shares, s), terms.backward_gradient_bytes(shares, s)
    bucket = terms.bucket_bytes(shares, s) if s.stage in (1, 2) else 0
    kept_bucket = bucket if s.stage == 1 and s.accumulation_steps > 1 else 0
    persistent = terms.persistent_bytes(shares, s, on_gpu)
    gathered = max(0, terms.gathered_bytes(shares, s, on_gpu) - persistent)
    # Stages 0 and 1 collect every gradient before they reduce. Stage 2 adds those that arrive to the window's: into
    # fp32 sums in place, else from a tensor of their own.
    collected = max(window, terms.collected_gradient_bytes(shares, s))
    if s.stage == 2:
        collected = window + (0 if window and terms.accumulates_apart(s) else arrived)
    reducing = bucket + terms.reduction_bytes(shares, s)
    prefetched = terms.prefetch_bytes(shares, s)
    # Stage 3 lets go even of the small parameters while their shards change, and gathers them again afterwards.
    copied = terms.step_gradient_bytes(shares, s)
    return [
        ("forward", "forward", _roles(window, kept_bucket, gathered + prefetched)),
        ("backward", "loss", _roles(window, kept_bucket, gathered)),
        ("backward", "backward", _roles(window, bucket, gathered)),
        # The first sum makes room for all of this rank's gradients, while most activations are still there: so on the
        # last rank, whose layers come first; the others have let go of more by then.
        ("backward", "reduction", _roles(collected if s.stage == 2 else window, bucket, gathered)),
        ("backward", "backward_end", _roles(collected, bucket)),
        ("backward", None, _roles(collected + (arrived if s.stage == 1 else 0), reducing)),
        ("step", None, _roles(terms.flattened_gradient_bytes(shares, s, fused))),
        ("step", None, _roles(copied, 0, -persistent, terms.optimizer_working_bytes(shares, s, fused, on_gpu))),
        ("step", None, _roles(buckets=0 if on_gpu else terms.gloo_workspace_bytes(shares, s))),
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
