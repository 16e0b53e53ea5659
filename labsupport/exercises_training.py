"""The exercises of lab 03: write one step and one epoch; those on accumulation stand in exercises_accumulation.py."""

import copy

from labsupport import mistakes_training as mistakes
from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.exercises_accumulation import ACCUMULATE, BF16_ACCUMULATION, CLIPPING_EXERCISE, FOUR_PATTERNS
from labsupport.training_checks import (
    LR,
    RANKS,
    all_near,
    batches_of_ranks,
    gathered,
    require_floats,
    running_engine,
    same_weights,
    sgd_config,
    text_model,
    told_loss,
    train_plainly,
    watch_calls,
)


def _explain_failure(problem, calls):
    """Raise the mistake behind an error from within DeepSpeed, or the problem itself."""
    if "Direct calls to tensor.backward()" in str(problem.error):
        raise Mistaken("plain backward") from problem
    if any(pair == ("step", "step") for pair in zip(calls, calls[1:], strict=False)):
        raise Mistaken("a second step") from problem
    if "inner step" in calls:
        raise Mistaken("past the engine") from problem
    raise problem


def _train_step(answer):
    for stage, accumulation, count in ((2, 1, 2), (0, 2, 4)):
        batches = batches_of_ranks(count)
        with running_engine(text_model(), sgd_config(stage, accumulation, LR)) as engine:
            calls, returned = watch_calls(engine), []
            try:
                for batch in copy.deepcopy(batches[engine.global_rank]):
                    returned.append(told_loss(call(answer, engine, batch)))
            except Unusable as problem:
                _explain_failure(problem, calls)
            _require_one_step_each(calls, count, accumulation)
            told = gathered(returned)
            require_floats([each for of_rank in told for each in of_rank])
            _require_same_update(engine, batches, accumulation, calls)
        _judge_losses(told, train_plainly(text_model(), batches, accumulation, accumulation), accumulation)


def _require_one_step_each(calls, count, accumulation):
    steps = calls.count("step")
    if "inner step" in calls:
        raise Mistaken("past the engine")
    if steps == 0 and accumulation == 1:
        raise Mistaken("no step")
    if steps < count:
        raise Mistaken("steps now and then", steps=steps, count=count)
    if steps > count:
        raise Mistaken("a second step")


def _require_same_update(engine, batches, accumulation, calls):
    """Raise unless the weights are those of plain torch on the batches of all ranks."""
    right, divided_twice = text_model(), text_model()
    train_plainly(right, batches, accumulation, accumulation)
    if all(gathered(same_weights(engine.module, right))):
        return
    train_plainly(divided_twice, batches, accumulation, accumulation**2)
    if all(gathered(same_weights(engine.module, divided_twice))):
        if "backward" not in calls:
            raise Mistaken("plain backward")
        raise Mistaken("divided twice", accumulation=accumulation)
    raise Unusable(
        f"With {accumulation} accumulation steps the weights are not those of plain PyTorch on the batches of both "
        "ranks: for each micro-batch call forward, backward and step of the engine once, and nothing else."
    )


def _judge_losses(told, losses, accumulation):
    """Raise unless each rank was told the mean over the ranks, for each micro-batch."""
    means = [sum(together) / RANKS for together in zip(*losses, strict=True)]
    beliefs = {
        None: [means] * RANKS,
        "own loss": losses,
        "sum over ranks": [[mean * RANKS for mean in means]] * RANKS,
        "loss divided": [[mean / accumulation for mean in means]] * RANKS,
    }
    for name, numbers in beliefs.items():
        if all(map(all_near, told, numbers)):
            if name is None:
                return
            raise Mistaken(name, mean=f"{means[0]:.3f}", said=f"{told[0][0]:.3f}")
    for of_rank, mine in zip(losses, told, strict=True):  # one rank may be told the mean, and the other its own
        if all_near(mine, of_rank):
            raise Mistaken("own loss", mean=f"{means[0]:.3f}", said=f"{mine[0]:.3f}")
    rank = next(rank for rank, mine in enumerate(told) if not all_near(mine, means))
    raise Unusable(
        f"For the first micro-batch your function returned {told[rank][0]:.4g} on rank {rank}; the mean over the ranks "
        f"of the loss, before the update, is {means[0]:.4g}."
    )


TRAIN_STEP = Exercise(
    id="03-train-step",
    title="One micro-batch",
    difficulty=2,
    minutes=8,
    target="losses and weights are those of plain PyTorch on the batches of both ranks, with 1 and with 2 accumulation "
    "steps",
    answer="train_step",
    check=_train_step,
    ranks=2,
    seconds=30,
    mistakes=mistakes.TRAIN_STEP,
)


def _train_epoch(answer):
    accumulation, told, batches = 2, [], [[], []]
    with running_engine(text_model(), sgd_config(2, accumulation, LR)) as engine:
        calls = watch_calls(engine)
        for count in (5, 3):  # the second epoch closes the window that the first one leaves open
            epoch = batches_of_ranks(count, first=len(batches[0]))
            batches = [before + new for before, new in zip(batches, epoch, strict=True)]
            calls.clear()
            told.append(_one_epoch(answer, engine, epoch, calls))
            _require_every_batch(calls, count, accumulation)
        told = [list(of_epoch) for of_epoch in zip(*gathered(told), strict=True)]
        require_floats([each for of_epoch in told for each in of_epoch])
        _require_same_update(engine, batches, accumulation, calls)
    losses = train_plainly(text_model(), batches, accumulation, accumulation)
    _judge_epoch(told[0], [of_rank[:5] for of_rank in losses], accumulation)
    _judge_epoch(told[1], [of_rank[5:] for of_rank in losses], accumulation)


def _one_epoch(answer, engine, epoch, calls):
    from torch.utils.data import DataLoader

    loader = DataLoader(copy.deepcopy(epoch[engine.global_rank]), batch_size=None)
    try:
        return told_loss(call(answer, engine, loader))
    except Unusable as problem:
        if calls.count("step") > len(loader):
            raise Mistaken("a step too many") from problem
        _explain_failure(problem, calls)


def _require_every_batch(calls, count, accumulation):
    steps, backwards = calls.count("step"), calls.count("backward") or calls.count("step")
    if "inner step" in calls:
        raise Mistaken("past the engine")
    if steps == 0:
        raise Mistaken("no step")
    if steps == 1 and backwards == 1:
        raise Mistaken("stops early", count=count)
    if steps == backwards == count // accumulation * accumulation < count:
        raise Mistaken("last window left out", left=count - steps, count=count)
    if steps < count:
        raise Mistaken("steps now and then", steps=steps, count=count)
    if steps > count:
        raise Mistaken("a step too many")


def _judge_epoch(told, losses, accumulation):
    """Raise unless every rank was told the mean over batches and ranks of one epoch."""
    count = len(losses[0])
    means = [sum(of_rank) / count for of_rank in losses]
    mean = sum(means) / RANKS
    beliefs = {
        None: [mean] * RANKS,
        "own mean": means,
        "last loss": [of_rank[-1] for of_rank in losses],
        "last loss, averaged": [sum(of_rank[-1] for of_rank in losses) / RANKS] * RANKS,
        "sum of losses": [mean * count] * RANKS,
        "own sum": [each * count for each in means],
        "sum over ranks": [mean * RANKS] * RANKS,
        "loss divided": [mean / accumulation] * RANKS,
    }
    same_message = {"last loss, averaged": "last loss", "own sum": "sum of losses"}
    for name, numbers in beliefs.items():
        if all_near(told, numbers):
            if name is None:
                return
            raise Mistaken(same_message.get(name, name), said=f"{told[0]:.3f}", mean=f"{mean:.3f}", count=count)
    raise Unusable(
        f"Your function returned {told[0]:.4g} on rank 0 and {told[1]:.4g} on rank 1 for an epoch of {count} "
        f"micro-batches a rank; the mean over batches and ranks is {mean:.4g}."
    )


TRAIN_EPOCH = Exercise(
    id="03-train-epoch",
    title="A whole loader",
    difficulty=2,
    minutes=8,
    target="weights and mean loss of two epochs are those of plain PyTorch, with windows of 2 that do not divide the "
    "5 micro-batches of the first",
    answer="train_epoch",
    check=_train_epoch,
    ranks=2,
    seconds=30,
    mistakes=mistakes.TRAIN_EPOCH,
)


EXERCISES = (TRAIN_STEP, TRAIN_EPOCH, ACCUMULATE, FOUR_PATTERNS, BF16_ACCUMULATION, CLIPPING_EXERCISE)
