"""Exercise 05-client-state: Names that are already taken."""

import functools

from labsupport.exercises.answers import describe
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_05_checkpointing.engines import adam_config, common_folder, kept_engines, train_steps
from labsupport.wording import first_line

KEYS = (
    "epoch",
    "module",
    "global_steps",
    "optimizer",
    "best_loss",
    "data_sampler",
    "lr_scheduler",
    "my_state",
    "global_samples",
    "tokens_seen",
)
VALUE = 1000


def _client_state(answer):
    if isinstance(answer, str) or not isinstance(answer, set | frozenset | list | tuple):
        raise Unusable(f"The answer is {describe(answer)}: it has to be a set of keys.")
    unknown = [key for key in answer if not isinstance(key, str) or key not in KEYS]
    if unknown:
        raise Unusable(f"{describe(unknown[0])} is none of the keys: {', '.join(KEYS)}.")
    found, given = _found_for_each_key(), set(answer)
    harmed = {key for key, (how, _) in found.items() if how}
    if given == harmed:
        how = "; ".join(f"`{key}`: {found[key][0]}" for key in KEYS if key in harmed)
        return f"Of {len(KEYS)} keys, saved and loaded one by one, {len(harmed)} are not safe: {how}."
    if not given:
        raise Mistaken("all safe", key="global_steps", what=found["global_steps"][1])
    for key in KEYS:
        if key in given - harmed:
            raise Mistaken("safe after all", key=key)
    if given == {"module"}:
        raise Mistaken("only the weights", count=len(harmed) - 1)
    for how in ("the load fails", "the engine changed", "it did not come back"):
        for key in KEYS:
            if key in harmed - given and found[key][0] == how:
                raise Mistaken(how, key=key, what=found[key][1])


@functools.cache
def _found_for_each_key():
    """Save and load once with each key; return {key: (what went wrong or None, in words)}."""
    with common_folder() as folder, kept_engines() as make:
        engine = make(adam_config(2))
        train_steps(engine, 0, 2)
        engine.save_checkpoint(folder, tag="clean")
        for key in KEYS:
            engine.save_checkpoint(folder, tag=key, client_state={key: VALUE})
        engine.load_checkpoint(folder, tag="clean")
        clean = _counters(engine)
        return {key: _found(engine, folder, key, clean) for key in KEYS}


def _found(engine, folder, key, clean):
    engine.load_checkpoint(folder, tag="clean")
    try:
        _, came_back = engine.load_checkpoint(folder, tag=key)
    except Exception as error:
        return "the load fails", first_line(error)
    for name, value in _counters(engine).items():
        if value != clean[name]:
            return "the engine changed", f"`engine.{name}` was {clean[name]} and is {value}"
    if came_back.get(key) != VALUE:
        return "it did not come back", f"client_state has {came_back.get(key)!r} there after loading"
    return None, ""


def _counters(engine):
    return {name: getattr(engine, name) for name in ("global_steps", "global_samples", "skipped_steps")}


MISTAKES = {
    "all safe": Mistake(
        "Some of these keys are DeepSpeed's own. With `{key}`, for example, {what}: your dict is laid over its "
        "dict before the file is written."
    ),
    "only the weights": Mistake(
        "`module` is one of them, because the weights stand there, and {count} more of these keys have the same "
        "fate. The file holds far more than weights.",
        "Open a model file with `torch.load(..., weights_only=False)` and look at its keys.",
    ),
    "safe after all": Mistake(
        "`{key}` is safe: the engine stays as it was, and the value comes back. That a word belongs to training "
        "does not make it DeepSpeed's; what counts is whether the engine writes or reads that key."
    ),
    "the load fails": Mistake("You count `{key}` as safe, and a checkpoint with it cannot be loaded any more: {what}"),
    "the engine changed": Mistake(
        "You count `{key}` as safe, and it changes the engine: after loading, {what}. That a value comes back does "
        "not mean that nobody else has read it."
    ),
    "it did not come back": Mistake(
        "You count `{key}` as safe, and your value is lost without a word: {what}. DeepSpeed returns what it does "
        "not use itself, and it keeps this name for itself even where it has nothing to store.",
        "Save a checkpoint with this key, load it, and look for the key in what `load_checkpoint` returns.",
    ),
}


EXERCISE = Exercise(
    id="05-client-state",
    title="Names that are already taken",
    difficulty=3,
    minutes=15,
    target="exactly those keys that break the load, change the engine or do not come back",
    answer="not_safe",
    check=_client_state,
    seconds=20,
    mistakes=MISTAKES,
)
