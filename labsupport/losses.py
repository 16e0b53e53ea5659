"""What a loss is: found in what a model or a loss_fn returned, and looked at before DeepSpeed is."""

from collections.abc import Mapping

import torch

from labsupport.errors import TrainingError


def loss_of(output, giver="The model"):
    """Return the loss, a tensor of one number, that is the output, its "loss" by key or attribute, or its first item.

    giver: who returned it, for the sentence. Raises TrainingError where there is none, where it is no single real
    number, and, while gradients are on, where it has none.
    """
    loss = _find(output)
    if not isinstance(loss, torch.Tensor):
        raise TrainingError(
            f'{giver} returned {_described(output)}, without a scalar loss: return it alone, as "loss" or first; '
            "a model that has no loss of its own needs the labels in the batch, or a loss_fn."
        )
    if loss.numel() != 1:
        raise TrainingError(
            f"{giver} returned a tensor of shape {list(loss.shape)} where a scalar loss is due: put the labels in the "
            "batch, give a loss_fn, or take the mean of a loss for each sample."
        )
    if not loss.is_floating_point():
        raise TrainingError(
            f"{giver} returned a loss of {loss.dtype}, which has no gradient: compute it in real numbers."
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise TrainingError(
            f"{giver} returned a loss without a gradient, because nothing that is trained leads to it: look for "
            "torch.no_grad(), detach(), a loss made anew by torch.tensor, and for layers that are frozen."
        )
    return loss


def _find(output):
    if isinstance(output, torch.Tensor):
        return output
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return output[0] if loss is None and isinstance(output, tuple | list) and output else loss


def _described(output):
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(str, output)) or 'nothing in it'}"
    return "None" if output is None else type(output).__name__
