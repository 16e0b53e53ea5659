"""Exercise 03-train-epoch: A whole loader."""

import copy

from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_03_training.engines import (
    LR,
    OTHER_WEIGHTS,
    all_near,
    batches_of_ranks,
    counted,
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
from labsupport.exercises.meeting import world_of_one
from labsupport.wording import ranks_in_words

ACCUMULATION = 2
# Micro-batches of two epochs; the second one closes the window that the first one leaves open.
EPOCHS, SHORT_EPOCHS = (5, 3), (3, 1)


def _train_epoch(answer):
    if not callable(answer):
        call(answer)
    first, second = _two_epochs(answer, 2, EPOCHS)
    _two_epochs(answer, 0, EPOCHS)
    _two_epochs(answer, 3, SHORT_EPOCHS)
    with world_of_one() as alone:
        _two_epochs(answer, 2, SHORT_EPOCHS, alone)
    return (
        f"At stages 0, 2 and 3, and on one rank alone, weights and means are those of plain PyTorch; at stage 2 the "
        f"epochs' means were {first:.4f} and {second:.4f}."
    )


def _two_epochs(answer, stage, epochs, mpu=None):
    """Judge the answer on one engine, and return the mean losses of both epochs."""
    told, batches = [], batches_of_ranks(0)
    with running_engine(text_model(), sgd_config(stage, ACCUMULATION, LR), mpu) as engine:
        calls = watch_calls(engine)
        for count in epochs:
            epoch = batches_of_ranks(count, first=20 * stage + len(batches[0]))
            batches = [before + new for before, new in zip(batches, epoch, strict=True)]
            calls.clear()
            told.append(_one_epoch(answer, engine, epoch, calls))
            _require_every_batch(calls, count, stage)
        told = [list(of_epoch) for of_epoch in zip(*gathered(told), strict=True)]
        require_floats([each for of_epoch in told for each in of_epoch])
        require_same_update(engine, batches, ACCUMULATION, calls)
    losses = train_plainly(text_model(), batches, ACCUMULATION, ACCUMULATION)
    return (
        _judge_epoch(told[0], [of_rank[: epochs[0]] for of_rank in losses]),
        _judge_epoch(told[1], [of_rank[epochs[0] :] for of_rank in losses]),
    )


def _one_epoch(answer, engine, epoch, calls):
    import torch

    loader = torch.utils.data.DataLoader(copy.deepcopy(epoch[torch.distributed.get_rank()]), batch_size=None)
    try:
        return told_loss(call(answer, engine, loader))
    except Unusable as problem:
        if calls.count("step") > len(loader):
            raise Mistaken("a step too many", calls=counted(calls), count=len(loader)) from problem
        explain_failure(problem, calls)


def _require_every_batch(calls, count, stage):
    steps, backwards = calls.count("step"), calls.count("backward") or calls.count("step")
    values = {"calls": counted(calls), "count": count, "stage": stage}
    if "inner step" in calls:
        raise Mistaken("past the engine", **values)
    if steps == 0:
        raise Mistaken("no step", **values)
    if steps == backwards == 1 < count:
        raise Mistaken("stops early", **values)
    if steps == backwards < count:
        raise Mistaken("batches left out", **values)
    if steps < count:
        raise Mistaken("steps now and then", **values)
    if steps > count:
        raise Mistaken("a step too many", **values)


def _judge_epoch(told, losses):
    """Return the mean over batches and ranks of one epoch, or raise unless every rank was told it."""
    ranks, count = len(losses), len(losses[0])
    means = [sum(of_rank) / count for of_rank in losses]
    mean = sum(means) / ranks
    beliefs = {
        None: [mean] * ranks,
        "own mean": means,
        "last loss": [of_rank[-1] for of_rank in losses],
        "last loss, averaged": [sum(of_rank[-1] for of_rank in losses) / ranks] * ranks,
        "sum of losses": [mean * count] * ranks,
        "own sum": [each * count for each in means],
        "sum over ranks": [mean * ranks] * ranks,
    } | ({"loss divided": [mean / ACCUMULATION] * ranks} if ranks > 1 else {})
    same_message = {"last loss, averaged": "last loss", "own sum": "sum of losses"}
    for name, numbers in beliefs.items():
        if all_near(told, numbers):
            if name is None:
                return mean
            raise Mistaken(same_message.get(name, name), said=f"{told[0]:.3f}", mean=f"{mean:.3f}", count=count)
    said = " and ".join(f"{each:.4g}" for each in told)
    raise Mistaken("another mean", said=said, ranks=ranks_in_words(ranks), count=count, mean=f"{mean:.4g}")


MISTAKES = {
    "no step": Mistake(
        "{calls}, for {count} micro-batches, so nothing was updated. `engine.step` belongs after every "
        "`engine.backward`."
    ),
    "past the engine": Mistake(
        "{calls}, and the optimizer was stepped directly. The engine counts micro-batches in its own `engine.step`, "
        "and does not know of this update."
    ),
    "stops early": Mistake(
        "{calls}, for {count} micro-batches: the others were not trained on. Usually a `return` stands inside the loop."
    ),
    "batches left out": Mistake(
        "{calls}, for {count} micro-batches. Train on each of them once, also on those that do not fill an "
        "accumulation window: the window stays open, and the next call closes it."
    ),
    "steps now and then": Mistake(
        "{calls}, for {count} micro-batches. The engine counts the steps and "
        "updates on every second one, so that it sees windows which are longer than yours.",
        "How many `step` calls belong to one `backward`?",
    ),
    "a step too many": Mistake(
        "{calls}, for {count} micro-batches. For the engine each step is a micro-batch; one without gradients of its "
        "own fails, or updates with what is there. Usually the extra ones are meant to close the last window.",
        "The unfinished window goes on with the next call.",
    ),
    "plain backward refused": Mistake(
        "{calls}. At stage 0 DeepSpeed refuses `loss.backward()`: call `engine.backward(loss)`, at every stage."
    ),
    "a second step": Mistake("{calls}, and DeepSpeed failed: between two steps there has to be a backward pass."),
    "plain backward": Mistake(
        "{calls}. At stage {stage} on {ranks} the weights moved as if each loss had been divided by {accumulation} "
        "once more. Usually that is `loss.backward()`, for which DeepSpeed divides by the accumulation steps at every "
        "output of the model that the gradient passes: here at the loss and at the logits. `engine.backward(loss)` "
        "divides once."
    ),
    "divided twice": Mistake(
        "{calls}. At stage {stage} on {ranks} the weights moved as if each loss had been divided by {accumulation} "
        "once more. `engine.backward` divides by the accumulation steps; usually the loop does it too."
    ),
    "other weights": OTHER_WEIGHTS,
    "another mean": Mistake(
        "On {ranks} your function returned {said} for an epoch of {count} micro-batches a rank; the mean over batches "
        "and ranks is {mean}."
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
        "You return {said}, as the sum over the ranks would be; the mean is {mean}. An all-reduce adds up and does not "
        "divide."
    ),
    "loss divided": Mistake(
        "You return {said}, half of the mean loss {mean}. Usually it is what `engine.backward` returns, the loss that "
        "it has divided by the 2 accumulation steps, or the mean was divided by the ranks twice."
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
