"""What a batch is: moved to the device, cast to the model's precision, split into the model's inputs and a target."""

import inspect
from collections.abc import Mapping

import torch

from labsupport.errors import TrainingError
from labsupport.wording import first_line


def ahead(batches, device):
    """Yield the batches on the device, each copied there while the one before it is trained on."""
    waiting = None
    for batch in batches:
        batch = to_device(batch, device)
        if waiting is not None:
            yield waiting
        waiting = batch
    if waiting is not None:
        yield waiting


def to_device(batch, device):
    """Return the batch with all that can be moved, however deep, on the device; a mapping becomes a dict."""

    def moved(value):
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return value.to(device) if hasattr(value, "to") else value

    return _each(batch, moved)


def cast(inputs, dtype):
    """Give the model real numbers in its own precision; DeepSpeed itself casts inputs only where told to."""

    def in_precision(value):
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return _each(inputs, in_precision)


def split(batch, has_loss_fn):
    """Return (positional inputs, named inputs, target) of a batch; the target is a tuple, for a loss_fn alone.

    Raises TrainingError for what is no batch.
    """
    if isinstance(batch, Mapping | tuple | list):
        if not batch:
            raise TrainingError(f"A batch is an empty {type(batch).__name__}: look at what the loader collates.")
    elif not hasattr(batch, "to"):
        raise TrainingError(
            f"A batch is {_kind(batch)}: let the loader give a dict by the names of the model's inputs, a tuple or "
            "list by their positions, or one tensor."
        )
    if isinstance(batch, Mapping):
        named = {key: value for key, value in batch.items() if not (has_loss_fn and key == "labels")}
        return (), named, (batch["labels"],) if "labels" in batch else (batch,)
    if isinstance(batch, tuple | list):
        return (tuple(batch[:1]), {}, tuple(batch[1:])) if has_loss_fn else (tuple(batch), {}, ())
    return (batch,), {}, (batch,)


def call(function, signed, inputs, keywords):
    """Return function(*inputs, **keywords); `signed` has its real signature, which an engine hides.

    Raises TrainingError where the call fails because the batch has other inputs than it takes, or because the model
    is built as DeepSpeed does not take it.
    """
    try:
        return function(*inputs, **keywords)
    except Exception as error:
        sentence = _reason(error, signed, inputs, keywords)
        if sentence is None:
            raise
        raise TrainingError(sentence) from error


def _reason(error, signed, inputs, keywords):
    """What stands behind the error of a call; None where it is the model's own."""
    if type(error).__name__ == "Unsupported":  # torch._dynamo.exc
        return (
            f"torch.compile(fullgraph=True) does not get through the model ({first_line(error)}): leave fullgraph out; "
            "at ZeRO stage 3 DeepSpeed's hooks stand between the layers, and it never does."
        )
    if isinstance(error, AttributeError) and "_in_forward" in str(error):  # runtime/engine.py, _forward_prologue
        return (
            "The engine was made of a model within torch.compile's wrapper, which ZeRO stage 3 does not take: let "
            "initialize_deepspeed make it, or make it of the model itself and call engine.compile()."
        )
    if not isinstance(error, TypeError):
        return None
    if "vars() argument" in str(error):  # deepspeed/runtime/zero/parameter_offload.py, _post_forward_module_hook
        return (
            "A module of the model returned a number or a text, which ZeRO stage 3 does not take: let it return "
            "tensors, a tuple, a list, a dict or None."
        )
    try:
        inspect.signature(signed).bind(*inputs, **keywords)
    except TypeError as misfit:
        return (
            f"The batch does not fit {_name(signed)}: {misfit}; let the loader give its inputs by name in a dict, or "
            "by position in a tuple."
        )
    except ValueError:  # some functions written in C have no signature
        return None
    return None


def _name(function):
    return getattr(function, "__qualname__", type(function).__name__)


def _kind(value):
    return "None" if value is None else f"of type {type(value).__name__}"


def _each(batch, change):
    """Return the batch with `change` applied to each leaf; what moves itself, as a PackedSequence, is one leaf."""
    if isinstance(batch, Mapping):
        return {key: _each(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple | list) and not hasattr(batch, "to"):
        values = [_each(value, change) for value in batch]
        if hasattr(batch, "_fields"):  # a namedtuple, whose names the model may use
            return type(batch)(*values)
        return tuple(values) if isinstance(batch, tuple) else values
    return change(batch)
