"""Exercise 03-four-patterns: Four loops, four stages."""

from functools import cache, partial

from labsupport.exercises.answers import describe, require_dict, require_number
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_03_training.engines import (
    all_near,
    losses_of,
    moved,
    one_weight,
    running_engine,
    sgd_config,
)

PATTERNS = ("step every time", "step at the end", "accumulation 1", "unmanaged")
PREDICTED = (3.0, 7.0)  # the gradients of the two micro-batches, on both ranks
ON_AVERAGE, SUM = [5.0] * 4, [10.0] * 4
# What is believed of a pattern, by the misunderstanding: the distances at stages 0 to 3.
PATTERN_BELIEFS = (
    ("step every time", "nobody divides", SUM),
    ("accumulation 1", "divided without being asked", ON_AVERAGE),
    ("accumulation 1", "added at every stage", SUM),
    ("accumulation 1", "lost at every stage", [7.0] * 4),
    ("accumulation 1", "stages exchanged", [7.0, 10.0, 10.0, 7.0]),
    ("unmanaged", "unmanaged divides twice", [2.5] * 4),
    ("unmanaged", "unmanaged does not divide", SUM),
    ("unmanaged", "unmanaged waits", [0.0] * 4),
)


def _four_patterns(answer):
    said = {pattern: _four_numbers(answer, pattern) for pattern in PATTERNS}
    measured = _measured_patterns()
    for pattern in PATTERNS:
        if all_near(said[pattern], measured[pattern]):
            continue
        for of_pattern, name, distances in PATTERN_BELIEFS:
            if of_pattern == pattern and all_near(said[pattern], distances):
                raise Mistaken(name)
        name = "window never closed" if pattern == "step at the end" else "another number"
        raise Mistaken(name, pattern=pattern, said=_written(said[pattern]))
    return (
        "Measured on two ranks, stages 0 to 3: "
        + "; ".join(f"{name} {_written(measured[name])}" for name in PATTERNS)
        + "."
    )


def _written(distances):
    return ", ".join(f"{distance:g}" for distance in distances)


def _four_numbers(answer, pattern):
    answer = require_dict(answer, "The table")
    row = answer.get(pattern)
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise Unusable(f'The row "{pattern}" is {describe(row)}: give a list of four numbers, for stages 0 to 3.')
    return [require_number(each, f'A number in the row "{pattern}"') for each in row]


@cache
def _measured_patterns():
    """Return how far the weight really moves: {pattern: distances at stages 0 to 3}, measured on live engines."""
    unmanaged = {"managed_gradient_accumulation": False}
    loops = {
        "step every time": ({"accumulation": 2}, partial(_run_loop, step_each=True)),
        "step at the end": ({"accumulation": 2}, _run_loop),
        "accumulation 1": ({"accumulation": 1}, _run_loop),
        "unmanaged": ({"accumulation": 1} | unmanaged, partial(_run_loop, divisor=2, scale_wrt_gas=False)),
    }
    return {
        pattern: [_distance(sgd_config(stage, **settings), loop) for stage in range(4)]
        for pattern, (settings, loop) in loops.items()
    }


def _run_loop(engine, losses, step_each=False, divisor=1, **named):
    for loss in losses:
        engine.backward(loss / divisor, **named)
        if step_each:
            engine.step()
    if not step_each:
        engine.step()


def _distance(config, loop):
    with running_engine(one_weight(), config) as engine:
        loop(engine, losses_of(engine, PREDICTED))
        return moved(engine)


MISTAKES = {
    "nobody divides": Mistake(
        '"step every time": your numbers are the sum. With accumulation 2 in the config, `engine.backward` divides '
        "each loss by 2."
    ),
    "window never closed": Mistake(
        '"step at the end": you say {said}, and that is not what was measured. The engine counts the calls of `step`, '
        "whatever the number of backward passes.",
        "After one call of two, is the window closed?",
    ),
    "divided without being asked": Mistake(
        '"accumulation 1": your numbers are the mean. The engine divides by the accumulation steps of the config, and '
        "they are 1 here: nobody divides by the number of your backward passes."
    ),
    "added at every stage": Mistake(
        '"accumulation 1": your numbers are the sum at every stage. Two of the stages keep gradients apart from the '
        "parameters, and begin every window with empty ones: with accumulation 1 every backward pass is a window."
    ),
    "lost at every stage": Mistake(
        '"accumulation 1": your numbers are the last gradient at every stage. Not every stage begins a window with '
        "empty gradients; the others add to what is there."
    ),
    "stages exchanged": Mistake(
        '"accumulation 1": your numbers are those of the other stages. Which stages share a class that begins each '
        "window with empty gradients, and which add to what is there?"
    ),
    "unmanaged divides twice": Mistake(
        '"unmanaged": your numbers are the sum divided by 4. With managed_gradient_accumulation false and '
        "`scale_wrt_gas=False` the engine does not divide, so that only the `loss / 2` of the loop counts."
    ),
    "unmanaged does not divide": Mistake(
        '"unmanaged": your numbers are the sum. The engine indeed does not divide, but the loop does: `loss / 2`.'
    ),
    "unmanaged waits": Mistake(
        '"unmanaged": you expect no update. With managed_gradient_accumulation false the engine counts nothing, and '
        "every `step` updates."
    ),
    "another number": Mistake(
        '"{pattern}": you say {said} for the stages 0 to 3, and that is not what was measured.',
        "Who divides, and how many windows does the engine see?",
    ),
}


EXERCISE = Exercise(
    id="03-four-patterns",
    title="Four loops, four stages",
    difficulty=3,
    minutes=8,
    target="your sixteen numbers are those that engines of two ranks give",
    answer="moved",
    check=_four_patterns,
    ranks=2,
    seconds=30,
    mistakes=MISTAKES,
)
