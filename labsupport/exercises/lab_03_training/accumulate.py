"""Exercise 03-accumulate: Mend the loop."""

from labsupport.exercises.answers import call
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_03_training.engines import (
    losses_of,
    moved,
    near,
    one_weight,
    running_engine,
    sgd_config,
    watch_calls,
)

GRADIENTS = (((3.0, 7.0), (5.0, 13.0)), ((1.0, 4.0), (2.0, 1.0)))  # of two windows, each for rank 0 and for rank 1


def _accumulate(answer):
    for stage in (2, 0, 1, 3):
        with running_engine(one_weight(), sgd_config(stage, accumulation=2)) as engine:
            calls, before = watch_calls(engine), 0.0
            for window in GRADIENTS:
                calls.clear()
                try:
                    call(answer, engine, losses_of(engine, window[engine.global_rank], calls))
                except Unusable as problem:
                    _explain_window(problem, calls)
                now, updates = moved(engine), engine.global_steps
                _judge_window(stage, window, now - before, calls)
                before = now
            if updates != len(GRADIENTS):
                raise Mistaken("an update each", updates=updates)


def _explain_window(problem, calls):
    if "no_sync" in str(problem.error):
        raise Mistaken("no_sync") from problem
    if calls[-2:] == ["step", "step"]:
        raise Mistaken("steps afterwards") from problem
    if "Direct calls to tensor.backward()" in str(problem.error):
        raise Mistaken("plain backward") from problem
    raise problem


def _judge_window(stage, window, moved, calls):
    """Raise unless the weight moved by the mean of the gradients of both ranks."""
    mean = sum(map(sum, window)) / 4
    if near(moved, mean):
        return
    if moved == 0:
        raise Mistaken(_why_nothing_moved([each for each in calls if each in ("backward", "step", "boundary?")]))
    if near(moved, mean / 2):
        raise Mistaken("divided twice", said=f"{moved:g}", mean=f"{mean:g}")
    if calls[:2] == ["forward", "forward"] and stage == 3:
        raise Mistaken("all forward passes first", said=f"{moved:g}", mean=f"{mean:g}")
    if "boundary" in calls and near(moved, sum(of_rank[-1] for of_rank in window) / 4):
        raise Mistaken("every backward a boundary", stage=stage)
    if near(moved, mean * 2):
        raise Mistaken("not divided", stage=stage, said=f"{moved:g}", mean=f"{mean:g}")
    raise Unusable(f"At stage {stage} the weight moved by {moved:.4g}; the mean of the gradients is {mean:g}.")


def _why_nothing_moved(calls):
    if "step" not in calls:
        return "asks the boundary" if "boundary?" in calls else "no step"
    if calls.count("backward") == 1:
        return "one backward"
    return "one step at the end" if calls[-1] == "step" else "one step at the start"


MISTAKES = {
    "one step at the end": Mistake(
        "Nothing moved. The engine counts the calls of `step`: after one call of two, the window is still open for it.",
        "Which call has to run twice?",
    ),
    "one step at the start": Mistake(
        "Nothing moved. You call `step` after the first backward pass only: the engine takes it for the first of "
        "two micro-batches, and the second is not reported to it."
    ),
    "asks the boundary": Mistake(
        "Nothing moved: `engine.step` was never called. The engine counts micro-batches in `step`, so a loop that "
        "calls it only where `is_gradient_accumulation_boundary()` is true waits for a count that it stops itself."
    ),
    "no step": Mistake("Nothing moved, because `engine.step` was not called: `backward` updates nothing."),
    "one backward": Mistake(
        "Nothing moved. One backward pass on all the losses together is one micro-batch for the engine, and the "
        "config asks for two. It would also keep every forward pass in memory, which accumulation is there to "
        "avoid."
    ),
    "steps afterwards": Mistake(
        "Calling `step` twice after the last backward pass makes the count right, and comes too late: stages 1 "
        "and 2 prepare the update in the backward pass that closes the window, and no backward pass did."
    ),
    "divided twice": Mistake(
        "The weight moved by {said}, half of the mean {mean}: `engine.backward` divides by the accumulation steps "
        "of the config, and you do it once more."
    ),
    "not divided": Mistake(
        "At stage {stage} the weight moved by {said}, the sum over the micro-batches; the mean is {mean}. With "
        "`scale_wrt_gas=False` the engine does not divide by the accumulation steps."
    ),
    "an update each": Mistake(
        "Two windows made {updates} updates: every micro-batch was declared the last of its window. With plain "
        "SGD the sum of two half updates is the same; with Adam, or with a scheduler, it is not."
    ),
    "every backward a boundary": Mistake(
        "At stage {stage} the first gradient was lost: you declared every backward pass the last of its window, "
        "and stages 1 and 2 begin a new window with empty gradients.",
        "The override has to be False for all but the last; the loop that needs no override is shorter.",
    ),
    "all forward passes first": Mistake(
        "At stage 3 the weight moved by {said} instead of {mean}: you ran both forward passes before the first "
        "backward pass, and one gradient was lost. Take one loss at a time, as the generator gives them."
    ),
    "no_sync": Mistake(
        "`no_sync` puts off the averaging of gradients, and stages 2 and 3 refuse it: they give each gradient "
        "away as soon as it is there."
    ),
    "plain backward": Mistake("At stage 0 DeepSpeed refuses `loss.backward()`: call `engine.backward(loss)`."),
}


EXERCISE = Exercise(
    id="03-accumulate",
    title="Mend the loop",
    difficulty=2,
    minutes=6,
    target="the weight moves by the mean of all gradients at stages 0, 1, 2 and 3, in one update for each window",
    answer="accumulate",
    check=_accumulate,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
