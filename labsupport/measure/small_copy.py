"""The measurement of activations: one step of a model, or of a copy with few layers, under PyTorch's profiler.

    measured_activations(model, batch, torch.bfloat16)      # labsupport.memory's Activations, in bytes

A copy with few layers is measured twice, with two and with four of them, and what a layer adds is scaled to the whole.
It trains with plain PyTorch on the processor: what DeepSpeed adds is the planner's to say.
"""

import contextlib
import copy
import itertools

import torch
from torch import nn

from labsupport.batches import call, cast, split
from labsupport.errors import ConfigError
from labsupport.losses import loss_of
from labsupport.measure import timeline
from labsupport.memory.activations import Activations

MEASURED_WHOLE = 50_000_000  # parameters up to which a model is measured as it is
FEW, MORE = 2, 4  # layers of the copies


def measured_activations(model, batch, dtype, *, loss_fn=None, reduce_bucket_size=0, linear=None, gradients=True):
    """Return the Activations of one micro-batch, measured on this process, and the layers of the copies, or 0.

    model: a module on the CPU or on the meta device, which is left as it is. batch: a micro-batch as DeepSpeedTrainer
    takes it, on the CPU; loss_fn: as there. dtype: the precision that it computes in. reduce_bucket_size: in elements.
    linear: what stands in for F.linear meanwhile. gradients: whether a weight's gradient counts while it is made and
    before it is let go; without it all that is counted grows with the batch. Raises what the model raises.
    """

    def measure(copied):
        copied = _on_cpu(copied, dtype)
        with _in_place_of_linear(linear):
            return _measured(copied, batch, dtype, loss_fn, reduce_bucket_size, gradients)

    stacks, sizes = stacks_of(model), [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    if sum(parameter.numel() for parameter in model.parameters()) <= MEASURED_WHOLE or not stacks:
        return measure(copy.deepcopy(model)), 0
    few = measure(_with_layers(model, dict.fromkeys(stacks, FEW)))
    found = few
    for name, layers in stacks.items():
        more = measure(_with_layers(model, dict.fromkeys(stacks, FEW) | {name: MORE}))
        times = (layers - FEW) / (MORE - FEW)
        found = Activations(*(round(a + times * (c - b)) for a, b, c in zip(found, few, more, strict=True)))
    # While its first layer is in the backward pass, a model of many layers holds no more than one of few; in between
    # it lets go of what the layers kept, as their gradients arrive.
    end, behind = few.backward_end, min(1.0, reduce_bucket_size / sum(sizes))
    reduction = round(end + (found.backward - end) * (1 - behind))
    return found._replace(backward_end=end, reduction=reduction), FEW


def stacks_of(model):
    """Return {name: how many} of the lists of more than four modules of one class that stand in no other such list."""
    found = {}
    for name, module in model.named_modules():
        is_stack = isinstance(module, nn.ModuleList) and len(module) > MORE and len(set(map(type, module))) == 1
        if is_stack and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = len(module)
    return found


def _with_layers(model, layers):
    """A copy of the model in which each of these lists has so many layers; the others are never copied."""
    memo = {}
    for name, count in layers.items():
        stack = model.get_submodule(name)
        memo[id(stack)] = nn.ModuleList(copy.deepcopy(layer) for layer in itertools.islice(stack, count))
    return copy.deepcopy(model, memo)


def _on_cpu(model, dtype):
    """The model in that precision; one without data gets small numbers, the same ones each time."""
    if any(parameter.is_meta for parameter in model.parameters()):
        model = model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in itertools.chain(model.parameters(), model.buffers()):
                tensor.copy_(torch.full_like(tensor, 0.01) if tensor.is_floating_point() else torch.zeros_like(tensor))
    return model.to(dtype).train()


def _measured(model, batch, dtype, loss_fn, reduce_bucket_size, gradients):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("All parameters are frozen: leave at least one to train.")

    elements = 0

    def arrived(parameter):
        nonlocal elements
        parameter.grad, elements = None, elements + parameter.numel()
        timeline.mark(f"arrived {elements}")

    def made(gradient):
        timeline.mark_tensor("gradients", gradient)

    hooks = [parameter.register_hook(made) for parameter in trained]
    hooks += [parameter.register_post_accumulate_grad_hook(arrived) for parameter in trained]

    def step():
        nonlocal elements
        elements = 0
        timeline.mark("forward")
        inputs, keywords, target = split(copy.deepcopy(batch), loss_fn is not None)
        output = call(model, model.forward, cast(inputs, dtype), cast(keywords, dtype))
        loss = loss_of(output if loss_fn is None else loss_fn(output, *target))
        del output
        timeline.mark("backward")
        loss.backward()
        timeline.mark("step")

    try:
        with timeline.silent_stderr(), timeline.profiler() as profile:
            step()
            timeline.mark("begin")
            step()
    finally:
        for hook in hooks:
            hook.remove()
    seen = timeline.timeline_of(profile, {}, "cpu")
    moments = [(phase, sum(roles.values()) - (0 if gradients else roles["gradients"])) for phase, roles in seen]
    return _activations(moments, elements, reduce_bucket_size, dtype.itemsize)


def _activations(moments, elements, reduce_bucket_size, element_bytes):
    """The Activations in [(phase, bytes held)]; "arrived 512" is a phase: so many elements have their gradient.

    elements: all that are trained. The end of the backward pass is its second half, at its worst together with the
    gradients that have arrived, which the planner adds whole.
    """
    forward = [held for phase, held in moments if phase == "forward"]
    loss = max(held for phase, held in moments if phase == "backward")  # no weight has its gradient yet
    arriving = [(int(phase.split()[1]), held) for phase, held in moments if phase.startswith("arrived")]
    late = [held + (arrived - elements) * element_bytes for arrived, held in arriving if 2 * arrived >= elements]
    end = max(0, *late) if late else 0
    full = [held for arrived, held in arriving if arrived >= reduce_bucket_size]
    return Activations(
        kept=forward[-1],
        forward=max(forward),
        loss=loss,
        backward=max((held for _, held in arriving), default=end),
        reduction=max(full, default=end),
        backward_end=end,
    )


@contextlib.contextmanager
def _in_place_of_linear(function):
    """F.linear is another function for a while, as ZeRO-3 makes it DeepSpeed's own for good."""
    original = nn.functional.linear
    nn.functional.linear = function or original
    try:
        yield
    finally:
        nn.functional.linear = original
