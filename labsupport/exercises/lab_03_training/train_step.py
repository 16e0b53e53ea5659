"""Exercise 03-train-step: One micro-batch."""

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
    near,
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

# Stage, accumulation steps and micro-batches of the engines, each on both ranks, and one where every rank is alone.
RUNS = ((2, 1, 2), (0, 2, 4), (2, 2, 2), (3, 2, 2))
ALONE = (2, 1, 2)


def _train_step(answer):
    if not callable(answer):
        call(answer)
    means = [_one_engine(answer, *run) for run in RUNS]
    with world_of_one() as alone:
        _one_engine(answer, *ALONE, mpu=alone)
    said = ", ".join(f"{mean:.4f}" for mean in means[1])
    return (
        f"At stages 0, 2 and 3, and on one rank alone, weights and losses are those of plain PyTorch; the four losses "
        f"at stage 0 were {said}."
    )


def _one_engine(answer, stage, accumulation, count, mpu=None):
    """Judge the answer on one engine, and return the mean losses over the ranks."""
    import torch

    batches = batches_of_ranks(count, first=10 * stage)
    with running_engine(text_model(), sgd_config(stage, accumulation, LR), mpu) as engine:
        calls, returned = watch_calls(engine), []
        try:
            for batch in copy.deepcopy(batches[torch.distributed.get_rank()]):
                returned.append(told_loss(call(answer, engine, batch)))
        except Unusable as problem:
            explain_failure(problem, calls)
        _require_one_step_each(calls, count, stage, accumulation)
        told = gathered(returned)
        require_floats([each for of_rank in told for each in of_rank])
        require_same_update(engine, batches, accumulation, calls)
    return _judge_losses(told, train_plainly(text_model(), batches, accumulation, accumulation), accumulation)


def _require_one_step_each(calls, count, stage, accumulation):
    steps = calls.count("step")
    values = {"calls": counted(calls), "count": count, "stage": stage, "accumulation": accumulation}
    if "inner step" in calls:
        raise Mistaken("past the engine", **values)
    if steps == 0 and accumulation == 1:
        raise Mistaken("no step", **values)
    if steps < count:
        raise Mistaken("steps now and then", **values)
    if steps > count:
        raise Mistaken("a second step", **values)


def _judge_losses(told, losses, accumulation):
    """Return the means over the ranks, or raise unless each rank was told them, for each micro-batch."""
    ranks = len(losses)
    means = [sum(together) / ranks for together in zip(*losses, strict=True)]
    beliefs = {
        None: [means] * ranks,
        "own loss": losses,
        "sum over ranks": [[mean * ranks for mean in means]] * ranks,
        "loss divided": [[mean / accumulation for mean in means]] * ranks,
    }
    for name, numbers in beliefs.items():
        if all(map(all_near, told, numbers)):
            if name is None:
                return means
            raise Mistaken(name, mean=f"{means[0]:.3f}", said=f"{told[0][0]:.3f}", accumulation=accumulation, rank=0)
    for rank, mine in enumerate(told):  # one rank may be told the mean, and the other its own
        if ranks > 1 and all_near(mine, losses[rank]):
            raise Mistaken("own loss", mean=f"{means[0]:.3f}", said=f"{mine[0]:.3f}", rank=rank)
    rank, number = next(
        (rank, number)
        for rank, mine in enumerate(told)
        for number, (one, mean) in enumerate(zip(mine, means, strict=True))
        if not near(one, mean)
    )
    raise Mistaken(
        "another loss",
        said=f"{told[rank][number]:.6g}",
        mean=f"{means[number]:.6g}",
        rank=rank,
        number=number + 1,
        ranks=ranks_in_words(ranks),
    )


MISTAKES = {
    "no step": Mistake(
        "{calls}, for {count} micro-batches. `engine.backward` computes gradients and averages them, and only "
        "`engine.step` updates with them: nothing moved."
    ),
    "plain backward refused": Mistake(
        "{calls}. At stage 0 DeepSpeed refuses `loss.backward()`: it averages the gradients over the ranks in "
        "`engine.backward`, and without that each rank would keep its own.",
        "One call is right at every stage.",
    ),
    "plain backward": Mistake(
        "{calls}. At stage {stage} on {ranks} the weights moved as if each loss had been divided by {accumulation} "
        "once more. Usually that is `loss.backward()`, for which DeepSpeed divides at every "
        "output of the model that the gradient passes; `engine.backward(loss)` divides once."
    ),
    "past the engine": Mistake(
        "{calls}, and the optimizer was stepped directly. The engine counts micro-batches and moves the scheduler in "
        "its own `engine.step`, and does not know of this update."
    ),
    "a second step": Mistake(
        "{calls}: more steps than micro-batches. Each call counts as a micro-batch, so that a "
        "second one finds no gradients, or closes an accumulation window too early."
    ),
    "steps now and then": Mistake(
        "{calls}, for {count} micro-batches with {accumulation} accumulation steps. The engine "
        "counts the steps: it decides itself which of them updates, and a window in which one is left out "
        "stays open."
    ),
    "divided twice": Mistake(
        "{calls}. At stage {stage} on {ranks} the weights moved as if each loss had been divided by {accumulation} "
        "once more. `engine.backward` divides the loss; usually the loop does it too."
    ),
    "other weights": OTHER_WEIGHTS,
    "a tensor": Mistake(
        "You return a tensor. It keeps memory alive as long as somebody keeps it, and with the loss itself the "
        "whole graph: return a Python float."
    ),
    "own loss": Mistake(
        "Rank {rank} returns the loss of its own micro-batch, {said} in the first one. The loss of the batch is the "
        "mean over the ranks, {mean}: DeepSpeed averages gradients, and never the loss.",
        "An all-reduce adds up a number over the ranks.",
    ),
    "sum over ranks": Mistake(
        "You return {said} in the first micro-batch, as the sum over the ranks would be; the mean is {mean}. An "
        "all-reduce adds up and does not divide."
    ),
    "loss divided": Mistake(
        "With {accumulation} accumulation steps you return {said}, and the loss is {mean}. Usually it is what "
        "`engine.backward` returns, the loss that it has divided by the accumulation steps."
    ),
    "another loss": Mistake(
        "On {ranks}, for micro-batch {number}, your function returned {said} on rank {rank}; the mean over the ranks "
        "of the loss before the update is {mean}.",
        "`torch.distributed.get_world_size()` says how many ranks there are.",
    ),
}


EXERCISE = Exercise(
    id="03-train-step",
    title="One micro-batch",
    difficulty=2,
    minutes=8,
    target="losses and weights are those of plain PyTorch on the batches of all ranks, with 1 and with 2 accumulation "
    "steps",
    answer="train_step",
    check=_train_step,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
