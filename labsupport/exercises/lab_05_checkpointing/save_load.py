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

STAGES = ((2, 1), (3, 1), (0, 9))  # and the step of the first of two saves; of step9 and step10, names sort step9 last
POSITION = 17  # batches read after two steps: no other number of the engine


def _save_load(answer):
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not all(map(callable, answer)):
        raise Unusable(f"The answer is {describe(answer)}: it has to be the pair (save, load) of two functions.")
    load = cloudpickle.loads(cloudpickle.dumps(answer))[1]  # as in two processes: no shared globals
    return check_pair(answer[0], load)


def check_pair(save, load):
    """Judge save(engine, folder, batches_read) and load(engine, folder) on engines of all ranks, at three stages."""
    meeting, distances = Meeting(), []
    for number, (stage, older) in enumerate(STAGES):
        position = POSITION + 10 * number
        with common_folder() as folder, kept_engines() as make:
            straight = _saved_thrice(meeting, save, make(adam_config(stage), seed=number), folder, position, older)
            resumed = make(adam_config(stage), seed=7)
            given = _position(meeting, load, resumed, f"{folder}/run", position, older)
            _judge_load(meeting, resumed, given, position, older)
            distances += _judge_training(meeting, stage, resumed, straight, older)
            _judge_missing(meeting, load, resumed, f"{folder}/no-such-run")
    return (
        f"At the stages 0, 2 and 3 your load took the newer of two checkpoints, and after two more steps no weight was "
        f"more than {max(distances):.1g} from that of the run that went on."
    )


def _saved_thrice(meeting, save, engine, folder, position, older):
    """Train and save twice into one folder, train on and save elsewhere; return the weights at the end."""
    train_steps(engine, 0, older)
    meeting.call(save, engine, f"{folder}/run", position - 9)
    train_steps(engine, older, older + 1)
    meeting.call(save, engine, f"{folder}/run", position)
    train_steps(engine, older + 1, older + 3)
    meeting.call(save, engine, f"{folder}/later", position + 6)
    if not any(path.is_file() for path in Path(folder).rglob("run*/**/*")):
        raise Unusable("Your save leaves no file in the folder.")
    return flat_weights(engine)


def _position(meeting, load, engine, folder, position, older):
    try:
        return meeting.call(load, engine, folder)
    except Unusable as problem:
        if engine.global_steps not in (0, older, older + 1):
            raise Mistaken("counter", made=older + 1, steps=engine.global_steps) from problem
        if isinstance(problem.error, KeyError):
            happened = f"raises {first_line(problem.error)}"
            raise Mistaken("position lost", happened=happened, position=position) from problem
        raise


def _judge_load(meeting, engine, given, position, older):
    facts = meeting.facts([engine.global_steps, given if is_number(given) else describe(given)])
    for rank, (steps, returned) in enumerate(facts):
        if steps == 0:
            raise Mistaken("engine not restored", rank=rank)
        if steps == older:
            raise Mistaken("the older one", rank=rank, given=returned, older=older, newer=older + 1)
        if steps != older + 1:
            raise Mistaken("counter", made=older + 1, steps=steps)
        if returned != position:
            raise Mistaken("position lost", happened=f"returns {returned} on rank {rank}", position=position)


def _judge_training(meeting, stage, resumed, straight, older):
    """Return how far the weights of each rank are from the uninterrupted run's, or raise where that is far."""
    train_steps(resumed, older + 1, older + 3)
    distances = meeting.facts(apart(flat_weights(resumed), straight))
    if any(not distance < 1e-6 for distance in distances):
        raise Mistaken("other training", stage=stage, apart=f"{max(distances):.2g}")
    return distances


def _judge_missing(meeting, load, engine, folder):
    try:
        happened = f"it returned {describe(call(load, engine, folder))}"
    except Unusable as problem:
        right = isinstance(problem.error, FileNotFoundError)
        happened = None if right else f"it raised {first_line(problem.error)}"
    for told in meeting.facts(happened):
        if told is not None:
            name = "missing tag" if told.startswith("it raised AssertionError") else "missing folder"
            raise Mistaken(name, happened=told)


MISTAKES = {
    "position lost": Mistake(
        "Your load {happened}, and the run had read {position} of its batches when it saved. DeepSpeed saves nothing "
        "of where you are in your data: the position has to go into the checkpoint, under a key of your own."
    ),
    "the older one": Mistake(
        "The folder holds two checkpoints, of step {older} and of step {newer}. After your load the engine of rank "
        "{rank} counts {older}, and load returned {given}: the newer one is asked for, which the file `latest` names.",
    ),
    "counter": Mistake(
        "The engine made {made} steps, and after your load it counts {steps}. Usually a key of `client_state` has the "
        "name of one of the engine's own: your dict is laid over its dict.",
        "Choose a key that is surely yours.",
    ),
    "engine not restored": Mistake(
        "After your load the engine of rank {rank} counts 0 steps. The weights alone are not the state of a run: "
        "the masters, Adam's states, the scheduler and the counters have to come back, on every rank."
    ),
    "other training": Mistake(
        "At stage {stage} a weight is {apart} from that of the uninterrupted run, two steps after your load. Usually "
        "Adam's momentum and variance or the learning-rate scheduler did not come back: they are parts of a run as "
        "well."
    ),
    "missing folder": Mistake(
        "With a folder that does not exist your load has to raise FileNotFoundError; {happened}. The engine itself "
        "raises nothing: it returns (None, None), and a script that does not look trains from random weights.",
        "Which of the two values tells that nothing was loaded?",
    ),
    "missing tag": Mistake(
        "With a folder that does not exist your load has to raise FileNotFoundError; {happened}. With a tag that is "
        "not there the engine raises an AssertionError without a word, also where the whole folder is missing.",
        "Leave `tag` out, or look for the folder first.",
    ),
    "hangs": Mistake(
        "One rank waits for the other, and it does not come. Saving and loading are collective: every rank writes its "
        "own files, and they wait for each other. Usually a rank was left out."
    ),
}


EXERCISE = Exercise(
    id="05-save-load",
    title="A resume that goes on where the run stopped",
    difficulty=3,
    minutes=10,
    target="on two ranks, at stages 0, 2 and 3, the resumed run ends with the weights of the uninterrupted one",
    answer="save_and_load",
    check=_save_load,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
