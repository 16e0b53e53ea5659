"""The exercises of lab 03: write one step and one epoch; those on accumulation stand in exercises_accumulation.py."""

import copy

from labsupport.exercises_accumulation import ACCUMULATE, BF16_ACCUMULATION, CLIPPING_EXERCISE, FOUR_PATTERNS
from labsupport.judging import Exercise, Mistake, Mistaken, Unusable, call
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


def _step(*statements):
    """Return the source of a wrong train_step: what it does after the forward pass; it returns the mean at last."""
    end = (*REDUCED, "return mean.item() / torch.distributed.get_world_size()")
    lines = ("loss = engine(**batch).loss", *statements, *(() if "return" in statements[-1] else end))
    return "\n    ".join(("import torch\n\ndef train_step(engine, batch):", *lines))


REDUCED = ("mean = loss.detach().clone()", "torch.distributed.all_reduce(mean)")
RIGHT_CALLS = ("engine.backward(loss)", "engine.step()")
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
    mistakes={
        "no step": Mistake(
            "The weights never move: `engine.backward` computes gradients and averages them, and only `engine.step` "
            "updates with them.",
            (_step("engine.backward(loss)"),),
        ),
        "plain backward": Mistake(
            "At stage 0 DeepSpeed refuses `loss.backward()`: it averages the gradients over the ranks in "
            "`engine.backward`, and without that each rank would keep its own.",
            (_step("loss.backward()", "engine.step()"),),
            "One call is right at every stage.",
        ),
        "past the engine": Mistake(
            "You step the optimizer yourself. The engine counts micro-batches and moves the scheduler in its own "
            "`engine.step`, and does not know of this update.",
            (
                _step("engine.backward(loss)", "engine.optimizer.step()"),
                _step("loss.backward()", "engine.optimizer.step()", "engine.optimizer.zero_grad()"),
            ),
        ),
        "a second step": Mistake(
            "You call `engine.step` more than once for a micro-batch. Each call counts as a micro-batch, so that a "
            "second one finds no gradients, or closes an accumulation window too early.",
            (_step(*RIGHT_CALLS, "engine.step()"),),
        ),
        "steps now and then": Mistake(
            "With 2 accumulation steps you called `engine.step` after {steps} of {count} micro-batches. The engine "
            "counts these calls: it decides itself which of them updates, and a window in which one is left out "
            "stays open.",
            (_step("engine.backward(loss)", "if engine.is_gradient_accumulation_boundary(): engine.step()"),),
        ),
        "divided twice": Mistake(
            "With {accumulation} accumulation steps the weights move too little: `engine.backward` divides the loss "
            "by the accumulation steps, and you do it once more.",
            (_step("engine.backward(loss / engine.gradient_accumulation_steps())", "engine.step()"),),
        ),
        "a tensor": Mistake(
            "You return a tensor. It keeps memory alive as long as somebody keeps it, and with the loss itself the "
            "whole graph: return a Python float.",
            (
                _step(*RIGHT_CALLS, *REDUCED, "return mean / torch.distributed.get_world_size()"),
                _step(*RIGHT_CALLS, "return loss"),
            ),
        ),
        "own loss": Mistake(
            "Each rank returns the loss of its own micro-batch, {said} in the first one. The loss of the batch is the "
            "mean over the ranks, {mean}: DeepSpeed averages gradients, and never the loss.",
            (
                _step(*RIGHT_CALLS, "return loss.item()"),
                _step(*RIGHT_CALLS, *REDUCED, "return loss.item()"),
            ),
            "An all-reduce adds up a number over the ranks.",
        ),
        "sum over ranks": Mistake(
            "You return the sum over the ranks, {said} in the first micro-batch; the mean is {mean}. An all-reduce "
            "adds up and does not divide.",
            (_step(*RIGHT_CALLS, *REDUCED, "return mean.item()"),),
        ),
        "loss divided": Mistake(
            "With 2 accumulation steps you return {said}, half of the loss {mean}. `engine.backward` returns the loss "
            "that it has divided by the accumulation steps.",
            (_step("loss = engine.backward(loss)", "engine.step()"),),
        ),
    },
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


def _epoch(body, end, head=""):
    """Return the source of a wrong train_epoch, of which only the loop and the end differ."""
    return f"import torch\n\ndef train_epoch(engine, loader):\n{head}    losses = []\n{body}\n{end}"


EPOCH_LOOP = """    for batch in loader:
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.detach())"""
EPOCH_MEAN = """    mean = torch.stack(losses).mean()
    torch.distributed.all_reduce(mean)
    return mean.item() / torch.distributed.get_world_size()"""

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
    mistakes={
        "no step": Mistake(
            "`engine.step` was never called, so nothing was updated. It belongs after every `engine.backward`.",
            (_epoch(EPOCH_LOOP.replace("        engine.step()\n", ""), EPOCH_MEAN),),
        ),
        "past the engine": Mistake(
            "You step the optimizer yourself. The engine counts micro-batches in its own `engine.step`, and does not "
            "know of this update.",
            (_epoch(EPOCH_LOOP.replace("engine.step()", "engine.optimizer.step()"), EPOCH_MEAN),),
        ),
        "stops early": Mistake(
            "Your function ends after the first of {count} micro-batches: a `return` inside the loop leaves it.",
            (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace("    ", "        ").lstrip("\n")),),
        ),
        "last window left out": Mistake(
            "Your function leaves out {left} of {count} micro-batches, because they do not fill an accumulation "
            "window. Train on them too: the window stays open, and the next call closes it.",
            (
                _epoch(
                    EPOCH_LOOP.replace("in loader", "in itertools.islice(loader, len(loader) // 2 * 2)"),
                    EPOCH_MEAN,
                    head="    import itertools\n\n",
                ),
            ),
        ),
        "steps now and then": Mistake(
            "You called `engine.step` after {steps} of {count} micro-batches. The engine counts these calls and "
            "updates on every second one, so that it sees windows which are longer than yours.",
            (
                _epoch(
                    EPOCH_LOOP.replace("batch in loader", "number, batch in enumerate(loader, 1)").replace(
                        "engine.step()", "if number % 2 == 0:\n            engine.step()"
                    ),
                    EPOCH_MEAN,
                ),
                _epoch(EPOCH_LOOP.replace("        engine.step()\n", ""), "    engine.step()\n" + EPOCH_MEAN, head=""),
            ),
            "How many `step` calls belong to one `backward`?",
        ),
        "a step too many": Mistake(
            "You called `engine.step` more often than there are micro-batches, to close the last window. For the "
            "engine each call is a micro-batch; one without gradients of its own fails, or updates with what is there.",
            (_epoch(EPOCH_LOOP, "    engine.step()\n" + EPOCH_MEAN),),
            "The unfinished window goes on with the next call.",
        ),
        "plain backward": Mistake(
            "The weights move too little. With `loss.backward()` DeepSpeed divides by the 2 accumulation steps at "
            "every output of the model that the gradient passes: here at the loss and at the logits, so by 4. "
            "`engine.backward(loss)` divides once.",
            (_epoch(EPOCH_LOOP.replace("engine.backward(loss)", "loss.backward()"), EPOCH_MEAN),),
        ),
        "divided twice": Mistake(
            "The weights move too little: `engine.backward` divides the loss by the {accumulation} accumulation steps, "
            "and you do it once more.",
            (_epoch(EPOCH_LOOP.replace("backward(loss)", "backward(loss / 2)"), EPOCH_MEAN),),
        ),
        "a tensor": Mistake(
            "You return a tensor: return a Python float.",
            (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace(".item()", "")),),
        ),
        "last loss": Mistake(
            "You return the loss of the last micro-batch, {said}. One micro-batch says little about {count}; their "
            "mean is {mean}.",
            (
                _epoch(EPOCH_LOOP, "    return loss.item()"),
                _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("torch.stack(losses).mean()", "loss.detach()")),
            ),
        ),
        "own mean": Mistake(
            "Each rank returns the mean of its own micro-batches, {said} on rank 0. Every rank reads another part of "
            "the data, so that the mean of the epoch, {mean}, needs all of them.",
            (_epoch(EPOCH_LOOP, "    return torch.stack(losses).mean().item()"),),
        ),
        "sum of losses": Mistake(
            "You return the sum over the micro-batches, {said}. It grows with the length of the loader; the mean over "
            "batches and ranks is {mean}.",
            (
                _epoch(EPOCH_LOOP, EPOCH_MEAN.replace("mean()", "sum()")),
                _epoch(EPOCH_LOOP, "    return torch.stack(losses).sum().item()"),
            ),
        ),
        "sum over ranks": Mistake(
            "You return the sum over the ranks, {said}; the mean is {mean}. An all-reduce adds up and does not divide.",
            (_epoch(EPOCH_LOOP, EPOCH_MEAN.replace(" / torch.distributed.get_world_size()", "")),),
        ),
        "loss divided": Mistake(
            "You return {said}, half of the mean loss {mean}. `engine.backward` returns the loss that it has divided "
            "by the accumulation steps.",
            (
                _epoch(
                    EPOCH_LOOP.replace("        engine.backward(loss)", "        loss = engine.backward(loss)"),
                    EPOCH_MEAN,
                ),
            ),
        ),
    },
)


EXERCISES = (TRAIN_STEP, TRAIN_EPOCH, ACCUMULATE, FOUR_PATTERNS, BF16_ACCUMULATION, CLIPPING_EXERCISE)
