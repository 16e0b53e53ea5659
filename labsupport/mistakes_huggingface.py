"""What readers get wrong in exercises_huggingface.py: what they are told, and answers that must be told it."""

from labsupport.exercises.exercise import Mistake

AUTO = "auto"

ORDER = {
    "partitioned by hand": Mistake(
        "The parameters are partitioned, but not by transformers: no DeepSpeed config was known when the model was "
        "built. from_pretrained then loads its weights into parameters of shape (0,). Make the arguments first.",
        (
            """def build(make_arguments, load_model):
    import deepspeed

    with deepspeed.zero.Init():
        model = load_model()
    return make_arguments(), model""",
        ),
    ),
    "model first": Mistake(
        "When the model was built, no DeepSpeed config was known yet, so {whole} parameters stand whole on each of "
        "the two ranks. Nothing fails; a large model runs out of memory here.",
        (
            """def build(make_arguments, load_model):
    model = load_model()
    return make_arguments(), model""",
            """def build(make_arguments, load_model):
    model, arguments = load_model(), make_arguments()
    return arguments, model""",
        ),
    ),
    "arguments dropped": Mistake(
        "The arguments were made first, and nobody kept them: the library holds a weak reference to their config, "
        "and it was gone when the model was built. So {whole} parameters are whole.",
        (
            """def build(make_arguments, load_model):
    make_arguments()
    model = load_model()
    return None, model""",
            """def build(make_arguments, load_model):
    make_arguments()
    model = load_model()
    return make_arguments(), model""",
        ),
        "Give the arguments a name before the model is built.",
    ),
    "config forgotten": Mistake(
        "The model is partitioned, but your function returned {returned}, without the arguments. They went away "
        "when it returned, and the config that they hold with them.",
        (
            """def build(make_arguments, load_model):
    arguments = make_arguments()
    return load_model()""",
            """def build(make_arguments, load_model):
    arguments = make_arguments()
    return arguments.deepspeed, load_model()""",
        ),
    ),
    "built again": Mistake(
        "load_model was called {times} times. The first model takes its memory before the second is there; one "
        "call in the right place is enough.",
        (
            """def build(make_arguments, load_model):
    model = load_model()
    arguments = make_arguments()
    model = load_model()
    return arguments, model""",
        ),
    ),
    "swapped": Mistake(
        "Both are right, and they come back the wrong way round: the arguments first, then the model.",
        (
            """def build(make_arguments, load_model):
    arguments = make_arguments()
    return load_model(), arguments""",
        ),
    ),
}


def _config(without=(), **changes):
    """The source of a cell with the right config, without these keys, and with these changes."""
    adam = {"type": "AdamW", "params": {"lr": AUTO, "betas": AUTO, "weight_decay": AUTO}}
    adam["params"] = {key: value for key, value in adam["params"].items() if key not in without}
    whole = {
        "train_batch_size": AUTO,
        "train_micro_batch_size_per_gpu": AUTO,
        "gradient_accumulation_steps": AUTO,
        "gradient_clipping": AUTO,
        "optimizer": adam,
        "bf16": {"enabled": AUTO},
        "zero_optimization": {"stage": 2},
    }
    return f"trainer_config = { ({key: value for key, value in whole.items() if key not in without} | changes)!r}"


def _adam(**changes):
    return {"type": "AdamW", "params": {"lr": AUTO, "betas": AUTO, "weight_decay": AUTO} | changes}


AUTO_CONFIG = {
    "contradiction": Mistake(
        "With {day}'s arguments the two sources disagree, and the Trainer refuses to train: {lines}. A number "
        "that is typed in the file is right for one run at most.",
        (
            _config(optimizer=_adam(lr=2e-4)),
            _config(gradient_clipping=1.0),
            _config(train_batch_size=8),
            _config(train_batch_size=32),
            _config(train_micro_batch_size_per_gpu=4, gradient_accumulation_steps=2, train_batch_size=32),
        ),
        "Which word makes the Trainer write its own number there?",
    ),
    "never arrives": Mistake(
        "On {day} {argument} is {value}, and DeepSpeed works with {key} {found}. The Trainer fills keys that say "
        '"auto"; a key that is not in the file it does not add.',
        (
            _config(without=("gradient_clipping",)),
            _config(without=("betas",)),
            _config(without=("weight_decay",)),
            _config(optimizer={"type": "AdamW"}),
            _config(without=("train_batch_size", "gradient_accumulation_steps")),
        ),
        "Go through the table of the section row by row.",
    ),
    "accumulation left out": Mistake(
        "Without gradient_accumulation_steps in the file, accelerate puts 1 there, although the arguments say "
        "{steps}. Then the three batch sizes do not multiply, and DeepSpeed refuses.",
        (_config(without=("gradient_accumulation_steps",)),),
    ),
    "stage left open": Mistake(
        'No argument of the Trainer holds a stage, so "auto" is filled with what accelerate has: 2 by default, or '
        "what ACCELERATE_DEEPSPEED_ZERO_STAGE says. On this run that gave {stage}.",
        (_config(zero_optimization={"stage": AUTO}),),
    ),
}
