"""Exercise 03-train-epoch: A whole loader."""

import copy

from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_03_training.engines import (
    LR,
    RANKS,
    all_near,
    batches_of_ranks,
    explain_failure,
    gathered,
    require_floats,
    require_same_update,
    running_engine,
    sgd_config,
    text_model,
    told_loss,
    train_plainly,
    watch_calls,
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
        require_same_update(engine, batches, accumulation, calls)
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
        explain_failure(problem, calls)


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


MISTAKES = {
    "no step": Mistake(
        "`engine.step` was never called, so nothing was updated. It belongs after every `engine.backward`."
    ),
    "past the engine": Mistake(
        "You step the optimizer yourself. The engine counts micro-batches in its own `engine.step`, and does not "
        "know of this update."
    ),
    "stops early": Mistake(
        "Your function ends after the first of {count} micro-batches: a `return` inside the loop leaves it."
    ),
    "last window left out": Mistake(
        "Your function leaves out {left} of {count} micro-batches, because they do not fill an accumulation "
        "window. Train on them too: the window stays open, and the next call closes it."
    ),
    "steps now and then": Mistake(
        "You called `engine.step` after {steps} of {count} micro-batches. The engine counts these calls and "
        "updates on every second one, so that it sees windows which are longer than yours.",
        "How many `step` calls belong to one `backward`?",
    ),
    "a step too many": Mistake(
        "You called `engine.step` more often than there are micro-batches, to close the last window. For the "
        "engine each call is a micro-batch; one without gradients of its own fails, or updates with what is there.",
        "The unfinished window goes on with the next call.",
    ),
    "plain backward": Mistake(
        "The weights move too little. With `loss.backward()` DeepSpeed divides by the 2 accumulation steps at "
        "every output of the model that the gradient passes: here at the loss and at the logits, so by 4. "
        "`engine.backward(loss)` divides once."
    ),
    "divided twice": Mistake(
        "The weights move too little: `engine.backward` divides the loss by the {accumulation} accumulation steps, "
        "and you do it once more."
    ),
    "a tensor": Mistake("You return a tensor: return a Python float."),
    "last loss": Mistake(
        "You return the loss of the last micro-batch, {said}. One micro-batch says little about {count}; their "
        "mean is {mean}."
    ),
    "own mean": Mistake(
        "Each rank returns the mean of its own micro-batches, {said} on rank 0. Every rank reads another part of "
        "the data, so that the mean of the epoch, {mean}, needs all of them."
    ),
    "sum of losses": Mistake(
        "You return the sum over the micro-batches, {said}. It grows with the length of the loader; the mean over "
        "batches and ranks is {mean}."
    ),
    "sum over ranks": Mistake(
        "You return the sum over the ranks, {said}; the mean is {mean}. An all-reduce adds up and does not divide."
    ),
    "loss divided": Mistake(
        "You return {said}, half of the mean loss {mean}. `engine.backward` returns the loss that it has divided "
        "by the accumulation steps."
    ),
}


EXERCISE = Exercise(
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
    mistakes=MISTAKES,
)
