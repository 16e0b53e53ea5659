"""What the checks of the sharded optimizers share: the training that they watch, and the row that they count in."""

from labsupport.exercises.answers import describe
from labsupport.exercises.exercise import Unusable
from labsupport.exercises.lab_10_build_zero.by_deepspeed import LR

SHAPES = ((61, 37), (37,), (1001,), (3,))  # 3,298 weights: two ranks divide them, three and four do not
WEIGHTS = 3298


def adam_over(tensors):
    """The make_optimizer that the check hands over: Adam, whose states can be counted."""
    import torch

    return torch.optim.Adam(tensors, lr=LR)


def sgd_over(tensors):
    """One that shows the scale of a gradient, which Adam does not."""
    import torch

    return torch.optim.SGD(tensors, lr=1.0, momentum=0.5)


def require_step(returned):
    """Return the step function that the reader's function has to return."""
    if not callable(returned):
        raise Unusable(f"Your function returned {describe(returned)}: it has to return the function `step`.")
    return returned


def share_of(ranks):
    """Return the elements of one rank's share of the row."""
    return -(-WEIGHTS // (2 * ranks)) * 2
