"""The exercises of lab 05: save and load on every rank; those on resuming stand in exercises_resuming.py."""

import math
from pathlib import Path

import cloudpickle

from labsupport import mistakes_checkpointing as mistakes
from labsupport.checkpoint_checks import adam_config, apart, common_folder, flat_weights, kept_engines, train_steps
from labsupport.exercises.answers import call, describe, is_number
from labsupport.exercises.exercise import Exercise, Mistaken, Unusable
from labsupport.exercises.meeting import Meeting
from labsupport.exercises_resuming import CLIENT_STATE, OTHER_RANKS
from labsupport.wording import first_line

POSITION = 17  # batches read after two steps: no other number of the engine


def _save_load(answer):
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not all(map(callable, answer)):
        raise Unusable(f"The answer is {describe(answer)}: it has to be the pair (save, load) of two functions.")
    save, load = answer[0], cloudpickle.loads(cloudpickle.dumps(answer))[1]  # as in two processes: no shared globals
    meeting = Meeting()
    for stage in (2, 3):
        with common_folder() as folder, kept_engines() as make:
            straight = _saved_twice(meeting, save, make(adam_config(stage)), folder)
            resumed = make(adam_config(stage), seed=1)
            position = _position(meeting, load, resumed, f"{folder}/run")
            _judge_load(meeting, resumed, position)
            _judge_training(meeting, stage, resumed, straight)
            _judge_missing(meeting, load, resumed, f"{folder}/no-such-run")


def _saved_twice(meeting, save, engine, folder):
    """Train, save, train on and save elsewhere; return the weights at the end."""
    train_steps(engine, 0, 2)
    meeting.call(save, engine, f"{folder}/run", POSITION)
    train_steps(engine, 2, 4)
    meeting.call(save, engine, f"{folder}/later", POSITION + 6)
    if not any(path.is_file() for path in Path(folder).rglob("run*/**/*")):
        raise Unusable("Your save leaves no file in the folder.")
    return flat_weights(engine)


def _position(meeting, load, engine, folder):
    try:
        return meeting.call(load, engine, folder)
    except Unusable as problem:
        if engine.global_steps not in (0, 2):
            raise Mistaken("counter", steps=engine.global_steps) from problem
        if isinstance(problem.error, KeyError):
            raise Mistaken("position lost", happened=f"raises {first_line(problem.error)}") from problem
        raise


def _judge_load(meeting, engine, position):
    usable = is_number(position)
    facts = meeting.facts([engine.global_steps, position if usable else describe(position)])
    for rank, (steps, given) in enumerate(facts):
        if steps == 0:
            raise Mistaken("engine not restored", rank=rank)
        if steps != 2:
            raise Mistaken("counter", steps=steps)
        if given != POSITION:
            raise Mistaken("position lost", happened=f"returns {given}")


def _judge_training(meeting, stage, resumed, straight):
    train_steps(resumed, 2, 4)
    if any(not apart < 1e-6 for apart in meeting.facts(apart(flat_weights(resumed), straight))):
        raise Mistaken("other training", stage=stage)


def _judge_missing(meeting, load, engine, folder):
    try:
        happened = f"it returned {describe(call(load, engine, folder))}"
    except Unusable as problem:
        right = isinstance(problem.error, FileNotFoundError)
        happened = None if right else f"it raised {first_line(problem.error)}"
    for told in meeting.facts(happened):
        if told is not None:
            raise Mistaken("missing folder", happened=told)


SAVE_LOAD = Exercise(
    id="05-save-load",
    title="A resume that goes on where the run stopped",
    difficulty=3,
    minutes=10,
    target="on two ranks, at stages 2 and 3, the resumed run ends with the weights of the uninterrupted one",
    answer="save_and_load",
    check=_save_load,
    ranks=2,
    seconds=30,
    mistakes=mistakes.SAVE_LOAD,
)


# The losses of the two ranks, and the best mean so far. All numbers are exact in fp32.
EPOCHS = (
    ((1.0, 3.0), math.inf),
    ((1.0, 4.0), 2.0),
    ((0.5, 1.5), 2.0),
    ((3.0, 1.0), 2.0),
    ((5.0, 7.0), 4.0),
    ((0.75, 0.25), 4.0),
)


def _save_best(answer):
    if not callable(answer):
        call(answer)
    meeting = Meeting()
    with common_folder() as folder, kept_engines() as make:
        engine = make(adam_config(2))
        train_steps(engine, 0, 1)
        really_save, calls = engine.save_checkpoint, []
        engine.save_checkpoint = lambda *given, **named: calls.append((given, named)) or True
        seen = []
        for losses, best in EPOCHS:
            calls.clear()
            returned = _plain(meeting.call(answer, engine, folder, losses[meeting.rank], best))
            seen.append([len(calls), returned])
        _judge_best(meeting.facts(seen))
        given, named = calls[-1]  # the last epoch is one to save
        really_save(*given, **named)
        meeting.facts("saved")  # rank 0 writes the file `latest` after all others have left
        loaded = engine.load_checkpoint(folder)[0]
        if None in meeting.facts(loaded):
            raise Unusable("What your function saves cannot be loaded from the folder: save into `folder` itself.")


def _plain(value):
    """A number as a float, and what is no number in words."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return float(value) if is_number(value) else describe(value)


def _judge_best(by_rank):
    """by_rank: for each rank and epoch, how often it saved and what it returned."""
    for returned in (returned for epochs in by_rank for _, returned in epochs):
        if isinstance(returned, str):
            raise Unusable(f"Your function returns {returned}: it has to be a number, the best mean so far.")
    means = [sum(losses) / 2 for losses, _ in EPOCHS]
    bests = [best for _, best in EPOCHS]
    right = [mean < best for mean, best in zip(means, bests, strict=True)]
    saved = [[saves > 0 for saves, _ in epochs] for epochs in by_rank]
    if saved[0] != saved[1]:
        alone = saved[1 - saved.index(max(saved, key=sum))].count(True) == 0
        raise Mistaken("one rank saves" if alone else "each its own", **_first_split(saved))
    for epoch, (losses, best) in enumerate(EPOCHS):
        if saved[0][epoch] != right[epoch]:
            values = {"losses": f"{losses[0]} and {losses[1]}", "best": best, "mean": means[epoch]}
            if all(saved[0]):
                raise Mistaken("always", **values)
            if saved[0] == [sum(losses) < best for losses, best in EPOCHS]:
                raise Mistaken("sum", **values)
            raise Mistaken("saves" if saved[0][epoch] else "does not save", **values)
    for epoch, (losses, best) in enumerate(EPOCHS):
        returned = [epochs[epoch][1] for epochs in by_rank]
        expected = means[epoch] if right[epoch] else best
        if returned != [expected, expected]:
            values = {"losses": f"{losses[0]} and {losses[1]}", "best": best, "given": returned[0]}
            raise Mistaken("own loss" if returned[0] != returned[1] else "another best", **values)


def _first_split(saved):
    epoch = next(number for number, (one, two) in enumerate(zip(*saved, strict=True)) if one != two)
    losses, best = EPOCHS[epoch]
    return {"losses": f"{losses[0]} and {losses[1]}", "best": best, "rank": 0 if saved[0][epoch] else 1}


SAVE_BEST = Exercise(
    id="05-save-best",
    title="Keep the best checkpoint",
    difficulty=3,
    minutes=10,
    target="both ranks save when the mean of their losses is below the best, and both return the same new best",
    answer="save_if_better",
    check=_save_best,
    ranks=2,
    seconds=30,
    mistakes=mistakes.SAVE_BEST,
)


EXERCISES = (CLIENT_STATE, SAVE_LOAD, SAVE_BEST, OTHER_RANKS)
