"""Exercise 05-save-load: A resume that goes on where the run stopped."""

from pathlib import Path

import cloudpickle

from labsupport.exercises.answers import call, describe, is_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_05_checkpointing.engines import (
    adam_config,
    apart,
    common_folder,
    flat_weights,
    kept_engines,
    train_steps,
)
from labsupport.exercises.meeting import Meeting
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


MISTAKES = {
    "position lost": Mistake(
        "Your load {happened}, and the run had read 17 batches. DeepSpeed saves nothing of where you are in "
        "your data: the position has to go into the checkpoint, under a key of your own."
    ),
    "counter": Mistake(
        "The engine made 2 steps, and after your load it believes in {steps}. `client_state` is laid over the "
        "engine's own dict, so a key of yours has replaced one of its own.",
        "Choose a key that is surely yours.",
    ),
    "engine not restored": Mistake(
        "After your load the engine of rank {rank} counts 0 steps. The weights alone are not the state of a run: "
        "the masters, Adam's states, the scheduler and the counters have to come back, on every rank."
    ),
    "other training": Mistake(
        "At stage {stage} the steps after your load do not end at the weights of the uninterrupted run. Adam's "
        "momentum and variance and the learning-rate scheduler are parts of a run as well."
    ),
    "missing folder": Mistake(
        "With a folder that does not exist your load has to raise FileNotFoundError; {happened}. The engine itself "
        "raises nothing: it returns (None, None), and a script that does not look trains from random weights.",
        "Which of the two values tells that nothing was loaded?",
    ),
    "hangs": Mistake(
        "One rank waits for the other. Saving is collective: every rank writes its own files, and they wait for "
        "each other, so no rank may be left out."
    ),
}


EXERCISE = Exercise(
    id="05-save-load",
    title="A resume that goes on where the run stopped",
    difficulty=3,
    minutes=10,
    target="on two ranks, at stages 2 and 3, the resumed run ends with the weights of the uninterrupted one",
    answer="save_and_load",
    check=_save_load,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
