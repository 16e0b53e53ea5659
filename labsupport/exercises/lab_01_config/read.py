"""Exercise 01-read: Read a config as DeepSpeed reads it."""

from labsupport.exercises.answers import describe, parsed_by_deepspeed, require_dict
from labsupport.exercises.exercise import Exercise, Mistake, Mistaken, Unusable
from labsupport.exercises.lab_01_config.parsed import precision_of


def config_to_read():
    """Return the config of exercise 01-read."""
    return {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.0003}},
        "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 12},
        "zero_optimisation": {"stage": 3},
    }


def _read(prediction):
    prediction = require_dict(prediction, "The prediction")
    values = parsed_by_deepspeed(config_to_read(), world_size=4)
    truth = {
        "stage": values.zero_optimization_stage,
        "precision": precision_of(values),
        "train_batch_size": values.train_batch_size,
        "gradient_clipping": values.gradient_clipping,
        "first_loss_scale": 2**values.float16_config.initial_scale_power,
    }
    missing = [name for name in truth if name not in prediction]
    if missing:
        raise Unusable(f"The prediction has no {missing[0]!r}: keep the keys of the cell.")
    known = {
        ("stage", 3): "stage of the misspelt block",
        ("train_batch_size", 12): "batch of one rank",
        ("first_loss_scale", 0): "loss scale of zero",
        ("first_loss_scale", 65536): "loss scale by default",
    }
    for name, value in truth.items():
        guess = prediction[name]
        if isinstance(guess, bool) or guess != value:
            if name == "gradient_clipping" and guess in (0, None) and not isinstance(guess, bool):
                raise Mistaken("no clipping")
            if isinstance(guess, int | float) and not isinstance(guess, bool) and (name, guess) in known:
                raise Mistaken(known[name, guess])
            raise Mistaken("another value", name=name, guess=describe(guess))
    return "DeepSpeed has in force on 4 ranks: " + ", ".join(f"{name} {value}" for name, value in truth.items()) + "."


MISTAKES = {
    "stage of the misspelt block": Mistake(
        "The stage in force is not 3. Read the name of that block letter by letter: it is none that DeepSpeed "
        "knows, and at the top level it passes over such names without a word."
    ),
    "batch of one rank": Mistake(
        "12 samples are what one rank contributes to an update. The train batch counts all 4 ranks."
    ),
    "no clipping": Mistake(
        "The config does not mention gradient_clipping, which does not turn it off: DeepSpeed 0.19.8 then uses its "
        "default, and that clips.",
        "The clipping experiment of this lab measured what happens with the key left out.",
    ),
    "loss scale of zero": Mistake(
        "A loss_scale of 0 is no factor: it asks for a dynamic scale, which starts at another number of the block."
    ),
    "loss scale by default": Mistake(
        "65536 is the first scale where the config does not say another. This one names initial_scale_power, an "
        "exponent of 2."
    ),
    "another value": Mistake(
        "{name} is not {guess}.",
        "Work it out from the config and the text above; effective(...) and fp16_scaling(...) ask DeepSpeed.",
    ),
}


EXERCISE = Exercise(
    id="01-read",
    title="Read a config as DeepSpeed reads it",
    difficulty=2,
    minutes=8,
    target="all five values are those that DeepSpeed has in force on 4 ranks",
    answer="prediction",
    check=_read,
    mistakes=MISTAKES,
)
