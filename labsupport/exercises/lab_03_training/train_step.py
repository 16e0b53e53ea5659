"""Exercise 03-train-step: One micro-batch."""

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


def _train_step(answer):
    for stage, accumulation, count in ((2, 1, 2), (0, 2, 4)):
        batches = batches_of_ranks(count)
        with running_engine(text_model(), sgd_config(stage, accumulation, LR)) as engine:
            calls, returned = watch_calls(engine), []
            try:
                for batch in copy.deepcopy(batches[engine.global_rank]):
                    returned.append(told_loss(call(answer, engine, batch)))
            except Unusable as problem:
                explain_failure(problem, calls)
            _require_one_step_each(calls, count, accumulation)
            told = gathered(returned)
            require_floats([each for of_rank in told for each in of_rank])
            require_same_update(engine, batches, accumulation, calls)
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


MISTAKES = {
    "no step": Mistake(
        "The weights never move: `engine.backward` computes gradients and averages them, and only `engine.step` "
        "updates with them."
    ),
    "plain backward": Mistake(
        "At stage 0 DeepSpeed refuses `loss.backward()`: it averages the gradients over the ranks in "
        "`engine.backward`, and without that each rank would keep its own.",
        "One call is right at every stage.",
    ),
    "past the engine": Mistake(
        "You step the optimizer yourself. The engine counts micro-batches and moves the scheduler in its own "
        "`engine.step`, and does not know of this update."
    ),
    "a second step": Mistake(
        "You call `engine.step` more than once for a micro-batch. Each call counts as a micro-batch, so that a "
        "second one finds no gradients, or closes an accumulation window too early."
    ),
    "steps now and then": Mistake(
        "With 2 accumulation steps you called `engine.step` after {steps} of {count} micro-batches. The engine "
        "counts these calls: it decides itself which of them updates, and a window in which one is left out "
        "stays open."
    ),
    "divided twice": Mistake(
        "With {accumulation} accumulation steps the weights move too little: `engine.backward` divides the loss "
        "by the accumulation steps, and you do it once more."
    ),
    "a tensor": Mistake(
        "You return a tensor. It keeps memory alive as long as somebody keeps it, and with the loss itself the "
        "whole graph: return a Python float."
    ),
    "own loss": Mistake(
        "Each rank returns the loss of its own micro-batch, {said} in the first one. The loss of the batch is the "
        "mean over the ranks, {mean}: DeepSpeed averages gradients, and never the loss.",
        "An all-reduce adds up a number over the ranks.",
    ),
    "sum over ranks": Mistake(
        "You return the sum over the ranks, {said} in the first micro-batch; the mean is {mean}. An all-reduce "
        "adds up and does not divide."
    ),
    "loss divided": Mistake(
        "With 2 accumulation steps you return {said}, half of the loss {mean}. `engine.backward` returns the loss "
        "that it has divided by the accumulation steps."
    ),
}


EXERCISE = Exercise(
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
    mistakes=MISTAKES,
)
