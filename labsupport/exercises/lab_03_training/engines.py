"""What the checks of lab 03 train with: watched engines, batches for two ranks, and plain torch beside them."""

import contextlib
import copy
import sys
from typing import NamedTuple

from labsupport.exercises.answers import describe, is_number
from labsupport.exercises.exercise import Mistake, Mistaken, Unusable
from labsupport.wording import ranks_in_words

LR = 0.5  # of the plain SGD that the checks of the loops train with


def sgd_config(stage, accumulation=1, lr=1.0, **more):
    """Return a config for SGD without clipping, so that plain torch computes the same."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "SGD", "params": {"lr": lr}},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero_block(stage),
    } | more


def zero_block(stage):
    names = ("stage3_prefetch_bucket_size",) if stage == 3 else ("allgather_bucket_size",)
    return {"stage": stage} | dict.fromkeys(("reduce_bucket_size", *names), 1000)


@contextlib.contextmanager
def running_engine(model, config, mpu=None):
    """Yield a DeepSpeed engine over the model, and destroy it; mpu: of a world of one, where it is to be alone."""
    import deepspeed

    named = {"model_parameters": model.parameters(), "config": copy.deepcopy(config)}
    engine, *_ = deepspeed.initialize(model=model, mpu=mpu, **named)
    try:
        yield engine
    finally:
        with contextlib.suppress(Exception):
            engine.destroy()


def watch_calls(engine):
    """Return a list that fills with what the reader calls: "backward", "step", "inner step".

    What the engine itself calls within one of these does not count.
    """
    calls, within = [], []

    def watched(name, method):
        def calling(*arguments, **named):
            if not within and not sys._getframe(1).f_globals["__name__"].startswith("deepspeed."):
                calls.append(name)
            within.append(name)
            try:
                return method(*arguments, **named)
            finally:
                within.pop()

        return calling

    engine.backward = watched("backward", engine.backward)
    engine.step = watched("step", engine.step)
    engine.optimizer.step = watched("inner step", engine.optimizer.step)
    return calls


class _Output(NamedTuple):
    loss: object
    logits: object


def text_model():
    """Return a small model that is called as the labs' models are: model(input_ids=..., labels=...).loss."""
    import torch

    class TextModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.read = torch.nn.Embedding(16, 8)
            self.score = torch.nn.Linear(8, 16)

        def forward(self, input_ids, labels):
            logits = self.score(self.read(input_ids))
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return _Output(loss, logits)

    torch.manual_seed(0)
    return TextModel()


def batches_of_ranks(count, first=0):
    """Return `count` batches for each rank of the world: a list of lists, the same on every rank."""
    import torch
    import torch.distributed as dist

    def batch(seed):
        tokens = torch.randint(0, 16, (2, 9), generator=torch.Generator().manual_seed(seed))
        return {"input_ids": tokens, "labels": tokens.clone()}

    return [[batch(100 * rank + first + number) for number in range(count)] for rank in range(dist.get_world_size())]


def train_plainly(model, batches, accumulation, divisor):
    """Train with plain torch on the batches of all ranks; return the losses, one list for each rank.

    divisor: what each loss is divided by before its backward pass.
    """
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    losses = [[] for _ in batches]
    for number, together in enumerate(zip(*batches, strict=True), 1):
        for rank, batch in enumerate(together):
            loss = model(**batch).loss
            (loss / divisor / len(batches)).backward()
            losses[rank].append(loss.item())
        if number % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def flat_weights(module):
    import deepspeed
    import torch

    parameters = list(module.parameters())
    with deepspeed.zero.GatheredParameters([each for each in parameters if hasattr(each, "ds_id")]):
        return torch.cat([each.detach().flatten() for each in parameters])


def same_weights(module, other):
    return bool((flat_weights(module) - flat_weights(other)).abs().max() < 1e-4)


def gathered(value):
    """Return the value of every rank, a list that is the same on all of them."""
    import torch

    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def told_loss(value):
    """Return a returned loss in a form that travels between ranks: a float, or what it is instead."""
    import torch

    if isinstance(value, torch.Tensor):
        return "a tensor"
    return float(value) if is_number(value) else describe(value)


def require_floats(told):
    for each in told:
        if each == "a tensor":
            raise Mistaken("a tensor")
        if isinstance(each, str):
            raise Unusable(f"Your function returned {each}: return the loss as a float.")


def near(one, other):
    return abs(one - other) <= 1e-4 * max(1, abs(other))


def all_near(some, others):
    return all(near(a, b) for a, b in zip(some, others, strict=True))


def one_weight():
    """Return the lab's model: a weight that starts at 0, and whose gradient is the number that it is given."""
    import torch

    class OneWeight(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, gradient):
            return (self.weight * gradient).sum()

    return OneWeight()


def moved(engine):
    """Return how far the weight is from 0, in the direction of a positive gradient."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([engine.module.weight]):
        return 0.0 - engine.module.weight.item()


def losses_of(engine, gradients):
    """Yield one loss after another: each forward pass runs when its loss is asked for."""
    import torch

    for gradient in gradients:
        yield engine(torch.tensor([gradient]))


def explain_failure(problem, calls):
    """Raise the mistake behind an error from within DeepSpeed, or the problem itself."""
    if "Direct calls to tensor.backward()" in str(problem.error):
        raise Mistaken("plain backward refused", calls=counted(calls)) from problem
    if any(pair == ("step", "step") for pair in zip(calls, calls[1:], strict=False)):
        raise Mistaken("a second step", calls=counted(calls)) from problem
    if "inner step" in calls:
        raise Mistaken("past the engine", calls=counted(calls)) from problem
    raise problem


def require_same_update(engine, batches, accumulation, calls):
    """Raise unless the weights are those of plain torch on the batches of all ranks."""
    stage, ranks = int(engine.zero_optimization_stage()), ranks_in_words(len(batches))
    right, divided_twice = text_model(), text_model()
    train_plainly(right, batches, accumulation, accumulation)
    if all(gathered(same_weights(engine.module, right))):
        return
    train_plainly(divided_twice, batches, accumulation, accumulation**2)
    values = {"stage": stage, "ranks": ranks, "accumulation": accumulation, "calls": counted(calls)}
    if accumulation > 1 and all(gathered(same_weights(engine.module, divided_twice))):
        raise Mistaken("divided twice" if "backward" in calls else "plain backward", **values)
    raise Mistaken("other weights", **values)


def counted(calls):
    """Return how often the reader called what of the engine on this rank, in words."""
    return f"{calls.count('backward')} backward and {calls.count('step')} step calls on this rank"


OTHER_WEIGHTS = Mistake(
    "{calls}. At stage {stage} on {ranks}, with {accumulation} accumulation steps, the weights are not those of plain "
    "PyTorch on the batches of all ranks.",
    "For each micro-batch call forward, backward and step of the engine once, and nothing else of it.",
)
