"""Exercise 01-batch: 96 samples an update, at most 8 at a time."""

from labsupport.doctor.known import known
from labsupport.exercises.answers import (
    BATCH_SIZES,
    first_difference,
    parsed_by_deepspeed,
    require_dict,
    require_whole_sizes,
)
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable


def _batch(config):
    config = require_dict(config, "The config")
    on_four, on_two = (_read(config, ranks) for ranks in (4, 2))
    if on_four.train_batch_size == 96 * 4:
        raise Mistaken("forgot the ranks", batch=on_four.train_batch_size)
    if on_four.train_batch_size != 96:
        raise Mistaken("another batch", batch=on_four.train_batch_size)
    _require_nothing_else(config)
    for values in (on_four, on_two):
        require_whole_sizes(values)
    passes, on_two_batch = on_four.gradient_accumulation_steps, on_two.train_batch_size
    return (
        f"DeepSpeed reads {on_four.train_micro_batch_size_per_gpu} samples a pass and {passes} passes on 4 ranks, "
        f"96 in all; on 2 ranks {on_two.train_micro_batch_size_per_gpu} a pass, {on_two_batch} in all."
    )


def _read(config, ranks):
    try:
        values = parsed_by_deepspeed(config, ranks)
    except Unusable as refused:
        if "auto" in config.values():
            raise Mistaken("auto") from refused
        if "Check batch related parameters" in str(refused):
            raise Mistaken("refused", ranks=ranks, error=refused) from refused
        raise
    if values.train_micro_batch_size_per_gpu > 8:
        alone = set(config) & {"train_micro_batch_size_per_gpu", "gradient_accumulation_steps"} == set()
        name = "only the train batch" if alone else "too large a pass"
        raise Mistaken(name, micro=values.train_micro_batch_size_per_gpu, ranks=ranks)
    return values


def _require_nothing_else(config):
    """Raise unless the config says of a run what its batch sizes say, and nothing more."""
    unknown = sorted(set(config) - set(known()["top_level"]))
    if unknown:
        raise Mistaken("more than sizes", what=f"{unknown[0]!r}, which DeepSpeed ignores at the top level")
    sizes = {name: config[name] for name in BATCH_SIZES if name in config}
    found = first_difference(parsed_by_deepspeed(config, 4), parsed_by_deepspeed(sizes, 4))
    if found:
        name, value, other = found
        raise Mistaken("more than sizes", what=f"{name}, which is {value}, and without that {other}")
    if set(config) != set(sizes):
        key = min(set(config) - set(sizes))
        raise Mistaken("more than sizes", what=f"{key}, which changes nothing that is in force")


MISTAKES = {
    "only the train batch": Mistake(
        "On {ranks} ranks one pass takes {micro} samples, and 8 is the most. Where the train batch alone is named, "
        "DeepSpeed assumes one accumulation step and works the pass out from what is left.",
        "Say how much one rank takes in one pass, or in how many passes.",
    ),
    "forgot the ranks": Mistake(
        "This gives {batch} samples an update: the micro batch and the accumulation steps are counted on every "
        "rank, and there are 4 ranks.",
        "micro batch x accumulation steps x ranks = 96.",
    ),
    "refused": Mistake(
        "With these sizes written down nothing is left to work out, and on {ranks} ranks they do not multiply. {error}",
        "Leave out a size that can follow from the others.",
    ),
    "too large a pass": Mistake("On {ranks} ranks one pass takes {micro} samples, and 8 is the most."),
    "another batch": Mistake(
        "On 4 ranks this gives {batch} samples an update, not 96.", "micro batch x accumulation steps x ranks = 96."
    ),
    "auto": Mistake(
        '"auto" is a word of the Hugging Face Trainer, which fills it in. DeepSpeed itself calculates with it.'
    ),
    "more than sizes": Mistake(
        "The sizes are right, and the config says more: {what}. The task is the batch sizes and nothing else."
    ),
}


EXERCISE = Exercise(
    id="01-batch",
    title="96 samples an update, at most 8 at a time",
    difficulty=2,
    minutes=5,
    target="96 samples an update on 4 ranks, at most 8 a pass, and the same file is accepted on 2 ranks",
    answer="batch_config",
    check=_batch,
    mistakes=MISTAKES,
)
